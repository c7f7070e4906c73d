"""Whatever a reader raises for a corrupted file becomes one message; bugs keep their traceback."""

import io
import json
import lzma
import random
import struct
import tokenize
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from PIL.Image import DecompressionBombError
from support.corruption import corrupted

from scorelight import ConfigurationError, ImageDataModule, MNISTDataModule
from scorelight.data.reading import reading

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)


def encoded(form, pixels, **options):
    Image.fromarray(pixels[:, :, 0]).save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def put(content, place, new):
    """The content with other bytes from a place on."""
    return content[:place] + new + content[place + len(new) :]


def zipped(files, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def array(shape):
    """An .npz with this in the header of its array, which need not be a shape."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
    return zipped({"images.npy": magic + header + bytes(64)})


def compressed(method):
    """A file in a zip with other bytes near its start."""
    return put(zipped({"a.bmp": BMP}, method), 50, b"\xff" * 30)


def labelled(text):
    """A zip of two images with this as its ``dataset.json``."""
    return zipped(LISTED | {"dataset.json": text})


PNG, BMP, TIFF = (encoded(form, PIXELS[0]) for form in ("PNG", "BMP", "TIFF"))
STORED = zipped({"a.bmp": BMP})
LISTED = {"a.png": PNG, "b.png": PNG}
HEADER = b"\x14\0\0\0\0\0"  # of a file in a zip: version, flags, compression
CASES = {
    "a truncated image": ("a.png", PNG[:-30], OSError),
    "no image": ("a.png", b"no image" * 9, ValueError),
    "a wrong length in a PNG": ("a.png", put(PNG, 36, b"\0"), SyntaxError),
    "a wrong type in a TIFF": ("a.tif", put(TIFF, 72, b"\5"), TypeError),
    "billions of pixels": ("a.bmp", put(BMP, 18, struct.pack("<2i", 2**17, 2**16)), DecompressionBombError),
    "a zip without its end": ("a.zip", STORED[:-9], zipfile.BadZipFile),
    "another byte in a zip": ("a.zip", put(STORED, 300, b"\x7f\1"), zipfile.BadZipFile),
    "encryption in a zip": ("a.zip", STORED.replace(HEADER, b"\x14\0\1\0\0\0"), RuntimeError),
    "an unknown compression": ("a.zip", STORED.replace(HEADER, b"\x14\0\0\0c\0"), NotImplementedError),
    "DEFLATE": ("a.zip", compressed(zipfile.ZIP_DEFLATED), zlib.error),
    "LZMA": ("a.zip", compressed(zipfile.ZIP_LZMA), lzma.LZMAError),
    "bzip2": ("a.zip", compressed(zipfile.ZIP_BZIP2), OSError),
    "labels that are no pairs": ("a.zip", labelled('{"labels": [1, 2]}'), TypeError),
    "JSON nested too deeply": ("a.zip", labelled("[" * 100_000), RecursionError),
    "no JSON": ("a.zip", labelled("{"), json.JSONDecodeError),
    "JSON that is no text": ("a.zip", labelled(b'{"labels": "\xff"}'), UnicodeDecodeError),
    "a shape too large": ("a.npz", array((2**70, 8, 8, 1)), ValueError),
    "a header without its end": ("a.npz", array("[[["), tokenize.TokenError),
    "an array without its end": ("a.npz", array((99, 8, 8, 1)), ValueError),
}


def load(path):
    data = ImageDataModule(path, batch_size=4, in_memory=True, num_workers=1)
    data.setup("fit")


@pytest.mark.parametrize("case", CASES)
def test_what_readers_raise_for_a_corrupted_file_is_one_message(case, tmp_path):
    name, content, error = CASES[case]
    (folder := tmp_path / "images").mkdir()
    (folder / f"0{name}").write_bytes(content)
    (folder / "1.png").write_bytes(PNG)
    archive = name.endswith((".zip", ".npz"))
    with pytest.raises(ConfigurationError, match=r"cannot be read: .+; ") as refused:
        load(folder / f"0{name}" if archive else folder)
    assert type(refused.value.__cause__) is error


@pytest.mark.parametrize(
    ("byte", "value", "error"), [(2, 2, AssertionError), (6, 2, RuntimeError), (2, 9, TypeError)]
)
def test_a_corrupted_header_of_mnist_is_one_message(byte, value, error, tmp_path, monkeypatch):
    monkeypatch.setattr(MNISTDataModule, "_sizes", (6, 4))
    monkeypatch.setattr(MNISTDataModule, "_corrupted", lambda self: iter(()))  # the check of sizes
    (raw := tmp_path / "MNIST/raw").mkdir(parents=True)
    for name, num in (("train", 6), ("t10k", 4)):
        for kind, sizes in (("images-idx3", (num, 28, 28)), ("labels-idx1", (num,))):
            content = struct.pack(f">{1 + len(sizes)}i", 0x0800 + len(sizes), *sizes) + bytes(np.prod(sizes))
            (raw / f"{name}-{kind}-ubyte").write_bytes(content)
    MNISTDataModule(tmp_path, download=False).setup("fit")
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(put(path.read_bytes(), byte, bytes([value])))
    with pytest.raises(ConfigurationError, match="cannot be read: ") as refused:
        MNISTDataModule(tmp_path, download=False).setup("fit")
    assert type(refused.value.__cause__) is error


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some corruption
@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "zip", "npz"])
def test_random_corruption_is_a_message_or_is_not_noticed(form, tmp_path):
    rng = random.Random(form)
    if form == "npz":
        np.savez(buffer := io.BytesIO(), images=PIXELS, labels=np.arange(12))
        content = buffer.getvalue()
    else:
        content = zipped(LISTED) if form == "zip" else encoded(form, PIXELS[:4].reshape(16, 16, 1))
    (folder := tmp_path / "images").mkdir()
    path = folder / {"JPEG": "0.jpg", "zip": "0.zip", "npz": "0.npz"}.get(form, f"0.{form.lower()}")
    (folder / "1.png").write_bytes(PNG)
    refused = 0
    for turn in range(60):
        path.write_bytes(corrupted(content, turn, rng))
        with suppress(ConfigurationError):
            load(path if form in ("zip", "npz") else folder)
            refused -= 1
        refused += 1
    assert refused > 20


@pytest.mark.parametrize("error", [AttributeError, NameError, MemoryError, KeyboardInterrupt])
def test_a_bug_is_no_corrupted_file(error):
    with pytest.raises(error), reading("a.png", "replace it"):
        raise error("of our own")


def test_a_message_of_ours_stays_as_it_is():
    with pytest.raises(ConfigurationError, match=r"^a label is -1$"), reading("a.json", "replace it"):
        raise ConfigurationError("a label is -1")
