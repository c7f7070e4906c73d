"""Some pixels of an image: its inverse problem is inpainting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.inverse.operators import LinearOperator

__all__ = ["Mask"]


class Mask(LinearOperator):
    """The pixels of an image that are known, y of shape (B, C, number of known pixels).

    The unknown pixels are given by exactly one of the options.

    Args:
        shape: Shape of an image, (C, H, W).
        box: The unknown box: top, left, bottom and right in pixels, the last two not included.
        random: Share of the pixels that are unknown, drawn at random, the same for all images.
        half: The unknown half.
        file: Picture of the size of the images: black, below half of white, is unknown.
        seed: Seed of `random`.
    """

    known: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        box: tuple[int, int, int, int] | None = None,
        random: float | None = None,
        half: Literal["top", "bottom", "left", "right"] | None = None,
        file: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(shape)
        if len(self.shape) != 3:
            raise ConfigurationError(f"Mask: images are needed, and the shape is {self.shape}")
        given = [v for v in (box, random, half, file) if v is not None]
        if len(given) != 1:
            raise ConfigurationError(
                f"Mask: {len(given)} of box, random, half and file are given; give one, such as box 8 8 20 20"
            )
        size = self.shape[1:]
        if box is not None:
            known = _outside(box, size)
        elif random is not None:
            known = _random(random, size, seed)
        elif file is not None:
            known = _picture(Path(file), size)
        else:
            known = _other_half(half, size)
        number = int(known.sum())
        if number in (0, known.numel()):
            raise ConfigurationError(
                f"Mask: {'all pixels are' if number else 'no pixel is'} known; leave some to be restored"
                + ("" if number else ", and some to restore them by")
            )
        self.register_buffer("known", known)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, self.known]

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(len(y), *self.shape)
        x[:, :, self.known] = y
        return x

    @override
    def coordinates(self, x: Tensor) -> Tensor:
        return x

    @override
    def from_coordinates(self, c: Tensor) -> Tensor:
        return c

    @property
    @override
    def coordinate_values(self) -> Tensor:
        return self.known.double().expand(self.shape)


def _outside(box: tuple[int, int, int, int], size: tuple[int, ...]) -> Tensor:
    top, left, bottom, right = box
    if not (0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
        raise ConfigurationError(
            f"Mask: box={list(box)}: top, left, bottom, right of a box inside {size[0]} by {size[1]} pixels"
        )
    known = torch.ones(size, dtype=torch.bool)
    known[top:bottom, left:right] = False
    return known


def _random(share: float, size: tuple[int, ...], seed: int) -> Tensor:
    if not 0 < share < 1:
        raise ConfigurationError(f"Mask: random={share}: a share of the pixels, between 0 and 1, is needed")
    number = size[0] * size[1]
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    known = torch.ones(number, dtype=torch.bool)
    known[order[: round(share * number)]] = False
    return known.reshape(size)


def _other_half(half: str | None, size: tuple[int, ...]) -> Tensor:
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1])
    unknown = {
        "top": rows < size[0] // 2,
        "bottom": rows >= size[0] // 2,
        "left": columns < size[1] // 2,
        "right": columns >= size[1] // 2,
    }
    if half not in unknown:
        raise ConfigurationError(f"Mask: half={half!r}: top, bottom, left or right")
    return ~unknown[half].expand(size)


def _picture(path: Path, size: tuple[int, ...]) -> Tensor:
    try:
        with Image.open(path) as image:
            values = torch.from_numpy(np.array(image.convert("L")))
    except OSError as error:
        raise ConfigurationError(f"Mask: file={path}: cannot be read as a picture ({error})") from error
    if values.shape != size:
        raise ConfigurationError(
            f"Mask: file={path}: has {values.shape[0]} by {values.shape[1]} pixels, the images "
            f"{size[0]} by {size[1]}"
        )
    return values >= 128
