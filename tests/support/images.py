"""Sets of images for tests, and what a data module makes of them."""

import io
import json
import zipfile

import numpy as np
import torch
from PIL import Image

from scorelight import ImageDataModule


def picture(i, size=(8, 6), mode="RGB"):
    """Noise that is a function of i; size is (width, height)."""
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(2) if mode == "L" else pixels)


def array(image):
    """Shape (C, H, W)."""
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def zipped(folder, path, labels=None, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
        if labels is not None:
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def loaded(*args, **kwargs):
    data = ImageDataModule(*args, **kwargs)
    data.prepare_data()
    data.setup("fit")
    return data


def content(data):
    """{image: label} of both splits, as bytes; None where there are no labels."""
    found = {}
    for name in ("train", "val"):
        for batch in data.eval_loader(name, 4):
            labels = batch.cond["label"].tolist() if batch.cond else [None] * len(batch.x0)
            found |= {x.numpy().tobytes(): label for x, label in zip(batch.x0, labels, strict=True)}
    return found


def expected(images, labels=None):
    labels = labels or [None] * len(images)
    return {array(x).contiguous().numpy().tobytes(): label for x, label in zip(images, labels, strict=True)}


def png_bytes(i):
    """The PNG of `picture(i)`."""
    picture(i).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()
