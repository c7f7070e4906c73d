"""Measurements that are no linear functions of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.inverse.operators import Operator

__all__ = ["JPEG", "FourierMagnitude"]


class FourierMagnitude(Operator):
    """|F x|, the absolute values of the Fourier transform: its inverse problem is phase retrieval.

    The transform is orthonormal, of the image with a margin of zeros: without one, the magnitude does not
    determine the phase. x and its reflection at the centre have the same magnitude.

    Args:
        shape: Shape of an image, (C, H, W).
        margin: Zeros on each side, as a share of the side.
    """

    def __init__(self, shape: Sequence[int], margin: float = 0.5) -> None:
        super().__init__(shape)
        if len(self.shape) != 3:
            raise ConfigurationError(f"FourierMagnitude: images are needed, and the shape is {self.shape}")
        if not 0 <= margin < math.inf:
            raise ConfigurationError(f"FourierMagnitude: margin={margin}: from 0 on, and finite")
        self.margin = [round(margin * side) for side in self.shape[1:]]

    @override
    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.margin
        wide = pad(x, (columns, columns, rows, rows))
        spectrum: Tensor = torch.fft.rfft2(wide.to(torch.promote_types(x.dtype, torch.float32)), norm="ortho")
        return spectrum.abs().to(x)

    @override
    def picture(self, y: Tensor) -> Tensor:
        """Log y, from its smallest to its largest value in [−1, 1], low frequencies in the middle."""
        shown = torch.fft.fftshift(y.clamp(min=1e-3).log(), dim=-2)
        low, high = shown.amin((1, 2, 3), keepdim=True), shown.amax((1, 2, 3), keepdim=True)
        scaled: Tensor = (shown - low) / (high - low).clamp(min=1e-12)
        return 2 * scaled - 1


class JPEG(Operator):
    """The rounded coefficients of JPEG, in blocks of 8×8 pixels, without the halving of colours.

    y are the coefficients after rounding, in the units of the image: a step q of the table is q/127.5, and
    gradients pass the rounding unchanged. Tables and their scaling by the quality are those of libjpeg;
    colours are those of JFIF.

    Args:
        shape: Shape of an image, (1 or 3, H, W), sides divisible by 8.
        quality: 1 to 100.
    """

    table: Tensor
    transform: Tensor
    colours: Tensor

    def __init__(self, shape: Sequence[int], quality: int = 10) -> None:
        super().__init__(shape)
        if len(self.shape) != 3 or self.shape[0] not in (1, 3) or any(side % 8 for side in self.shape[1:]):
            raise ConfigurationError(
                "JPEG: images of one or three channels and of sides divisible by 8 are needed, not "
                f"{self.shape}"
            )
        if not 1 <= quality <= 100:
            raise ConfigurationError(f"JPEG: quality={quality}: from 1 to 100")
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        tables = [_LUMINANCE, _CHROMINANCE, _CHROMINANCE][: self.shape[0]]
        scaled = torch.tensor(tables).mul(scale).add(50).div(100, rounding_mode="floor").clamp(1, 255)
        self.register_buffer("table", scaled.double()[:, None, :, None, :])
        k = torch.arange(8, dtype=torch.float64)
        cosines = torch.cos(math.pi / 8 * k[:, None] * (k + 0.5)) / 2
        cosines[0] /= math.sqrt(2)
        self.register_buffer("transform", cosines)
        luminance = torch.tensor(_JFIF, dtype=torch.float64)
        self.register_buffer(
            "colours", luminance if self.shape[0] == 3 else torch.eye(1, dtype=torch.float64)
        )

    @override
    def forward(self, x: Tensor) -> Tensor:
        levels = 127.5 * torch.einsum("cd,bdhw->bchw", self.colours.to(x), x) + self._offset.to(x)
        transform, table = self.transform.to(x), self.table.to(x)
        exact = torch.einsum("ui,bcminj,vj->bcmunv", transform, self._blocks(levels), transform) / table
        rounded = exact + (exact.round() - exact).detach()
        return (rounded * table).reshape(x.shape) / 127.5

    @override
    def picture(self, y: Tensor) -> Tensor:
        """The decoded image."""
        transform = self.transform.to(y)
        blocks = torch.einsum("ui,bcmunv,vj->bcminj", transform, self._blocks(127.5 * y), transform)
        levels = blocks.reshape(y.shape) - self._offset.to(y)
        return torch.einsum("cd,bdhw->bchw", torch.linalg.inv(self.colours).to(y), levels) / 127.5

    @property
    def _offset(self) -> Tensor:
        """JPEG's levels are 127.5 (x + 1) − 128 for the luminance, and centred for colours."""
        return torch.tensor([-0.5, 0.0, 0.0][: self.shape[0]], dtype=torch.float64)[:, None, None]

    def _blocks(self, x: Tensor) -> Tensor:
        """Shape (B, C, H/8, 8, W/8, 8)."""
        b, c, h, w = x.shape
        return x.reshape(b, c, h // 8, 8, w // 8, 8)


_JFIF = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
"""ITU-T T.871, sec. 7."""
_LUMINANCE = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
_CHROMINANCE = [
    [17, 18, 24, 47, 99, 99, 99, 99],
    [18, 21, 26, 66, 99, 99, 99, 99],
    [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99],
    *[[99] * 8] * 4,
]
"""ITU-T T.81, tables K.1 and K.2."""
