"""Pictures of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import atomic_write

__all__ = ["check_drawable", "grid", "save", "titled", "to_uint8"]


_LINE = 16
"""Height of a line of text in pixels."""


def to_uint8(x: Tensor) -> Tensor:
    """[−1, 1] to 0..255: clipped, then rounded to the nearest integer.

    Raises:
        ConfigurationError: If a value is NaN or infinite, which has no grey level.
    """
    check_drawable(x)
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def grid(x: Tensor, num_columns: int | None = None) -> Tensor:
    """One uint8 picture, shape (3 or 1, H, W), of examples of shape (N, ...).

    Images are tiled; small images are enlarged pixel by pixel. Vectors become the histogram of their
    first two coordinates, dark where it is high.

    Raises:
        ConfigurationError: If a value is NaN or infinite.
    """
    if x.ndim == 2:
        return _histogram(x)
    images = x if x.ndim == 4 else x.flatten(1, -2)[:, None]
    images = images if images.shape[1] in (1, 3) else images[:, :1]
    enlarge = max(math.ceil(48 / images.shape[-1]), 1)
    images = to_uint8(images).repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
    columns = num_columns or math.ceil(math.sqrt(len(images)))
    picture: Tensor = make_grid(images, nrow=columns, padding=2, pad_value=128)
    return picture.cpu()


def save(picture: Tensor, path: Path) -> None:
    """Write a uint8 picture, shape (3 or 1, H, W), atomically as PNG."""
    with atomic_write(path) as file:
        to_pil_image(picture).save(file, "PNG")


def titled(picture: Tensor, titles: Sequence[str]) -> Tensor:
    """The picture with text above it, a title in the middle of each of its equal columns.

    Args:
        picture: uint8, shape (3 or 1, H, W).
        titles: One for each column; what is wider than the column goes on in the next line.
    """
    width = picture.shape[2] / len(titles)
    measure = ImageDraw.Draw(Image.new("L", (1, 1))).textlength
    lines = [_lines(title, width, measure) for title in titles]
    band = Image.new("L", (picture.shape[2], _LINE * max(map(len, lines))), 255)
    draw = ImageDraw.Draw(band)
    for i, title in enumerate(lines):
        for j, line in enumerate(title):
            left = i * width + (width - measure(line)) / 2
            draw.text((left, j * _LINE + 2), line, fill=0)
    return torch.cat([pil_to_tensor(band).expand(len(picture), -1, -1), picture], dim=1)


def _lines(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """The text in lines that are not wider, broken between words or, if one is too wide, inside it."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if measure(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] * bool(lines[-1])
        for letter in word:
            if lines[-1] and measure(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def check_drawable(x: Tensor) -> None:
    """Refuse what cannot be drawn, shape (N, ...).

    Raises:
        ConfigurationError: If a value is NaN or infinite.
    """
    good = x.flatten(1).isfinite().all(1) if x.ndim > 1 else x.isfinite()
    if not good.all():
        raise ConfigurationError(
            f"{int((~good).sum())} of {len(x)} examples have values that are NaN or infinite, and cannot be "
            "drawn or rounded to grey levels; find out where they come from"
        )


def _histogram(x: Tensor, bins: int = 128) -> Tensor:
    points = x[:, :2].detach().cpu().double()
    if points.shape[1] == 1:
        points = torch.cat([points, torch.zeros_like(points)], dim=1)
    check_drawable(points)
    reach = max(1.2 * points.abs().quantile(0.998).item(), 1e-3) if len(points) else 1.0
    counts, _ = torch.histogramdd(points, bins, range=[-reach, reach, -reach, reach])
    shade = (counts / counts.max().clamp(min=1)).sqrt().T.flip(0)
    picture = (255 * (1 - shade)).round().to(torch.uint8)
    enlarged = picture.repeat_interleave(3, 0).repeat_interleave(3, 1)
    return torch.nn.functional.pad(enlarged, (2, 2, 2, 2), value=128)[None]
