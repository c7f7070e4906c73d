"""Blur: convolutions with periodic boundaries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.inverse.operators import LinearOperator

__all__ = ["Convolution", "GaussianBlur", "MotionBlur"]


class Convolution(LinearOperator):
    """The convolution of each channel with a kernel; what leaves an image on one side enters on the other.

    The Fourier transform diagonalises it: s are the absolute values of the transform of the kernel.

    Args:
        shape: Shape of an image, (C, H, W).
        kernel: Shape (h, w), odd sizes, not larger than the image; its middle is the pixel itself.
    """

    transfer: Tensor

    def __init__(self, shape: Sequence[int], kernel: Tensor) -> None:
        super().__init__(shape)
        name = type(self).__name__
        if len(self.shape) != 3:
            raise ConfigurationError(f"{name}: images are needed, and the shape is {self.shape}")
        h, w = kernel.shape
        if h % 2 == 0 or w % 2 == 0 or h > self.shape[1] or w > self.shape[2]:
            raise ConfigurationError(
                f"{name}: a kernel of {h} by {w} pixels: odd sizes, and at most those of the image, "
                f"{self.shape[1]} by {self.shape[2]}, are needed"
            )
        padded = torch.zeros(self.shape[1:], dtype=torch.float64)
        padded[:h, :w] = kernel.double()
        centred = padded.roll((-(h // 2), -(w // 2)), (0, 1))
        self.register_buffer("transfer", torch.view_as_real(torch.fft.rfft2(centred)))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._multiplied(x, self._factor)

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return self._multiplied(y, self._factor.conj())

    @override
    def coordinates(self, x: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfft2(x.to(torch.promote_types(x.dtype, torch.float32)))
        return spectrum

    @override
    def from_coordinates(self, c: Tensor) -> Tensor:
        x: Tensor = torch.fft.irfft2(c, s=self.shape[1:])
        return x

    @property
    @override
    def coordinate_values(self) -> Tensor:
        return self._factor.abs()

    @property
    @override
    def singular_values(self) -> Tensor:
        kernel = torch.fft.irfft2(self._factor, s=self.shape[1:])
        of_channel: Tensor = torch.fft.fft2(kernel).abs().flatten()
        return of_channel.repeat(self.shape[0])

    @property
    def _factor(self) -> Tensor:
        return torch.view_as_complex(self.transfer)

    def _multiplied(self, x: Tensor, factor: Tensor) -> Tensor:
        c = self.coordinates(x)
        return self.from_coordinates(c * factor.to(c)).to(x.dtype)


class GaussianBlur(Convolution):
    """Blur by a Gaussian, cut off at three standard deviations.

    Args:
        shape: Shape of an image, (C, H, W).
        std: Standard deviation in pixels.
    """

    def __init__(self, shape: Sequence[int], std: float = 1.0) -> None:
        if not 0 < std < math.inf:
            raise ConfigurationError(f"GaussianBlur: std={std}: must be positive")
        radius = math.ceil(3 * std)
        at = torch.arange(-radius, radius + 1, dtype=torch.float64)
        weight = (-0.5 * (at / std) ** 2).exp()
        kernel = weight[:, None] * weight
        super().__init__(shape, kernel / kernel.sum())


class MotionBlur(Convolution):
    """Blur along a line, of a camera that moves while the shutter is open.

    Args:
        shape: Shape of an image, (C, H, W).
        length: Length of the line in pixels.
        angle: Its angle in degrees, from the horizontal, counter-clockwise.
    """

    def __init__(self, shape: Sequence[int], length: float = 7.0, angle: float = 0.0) -> None:
        if not 0 < length < math.inf or not math.isfinite(angle):
            raise ConfigurationError(
                f"MotionBlur: length={length}, angle={angle}: a positive length and a finite angle"
            )
        radius = math.ceil(length / 2)
        points = torch.linspace(-length / 2, length / 2, 64 * radius + 1, dtype=torch.float64)
        radians = math.radians(angle)
        rows, columns = radius - points * math.sin(radians), radius + points * math.cos(radians)
        kernel = torch.zeros(2 * radius + 1, 2 * radius + 1, dtype=torch.float64)
        top, left = rows.floor().long(), columns.floor().long()
        for down in (0, 1):
            for right in (0, 1):  # bilinear weights
                weight = (1 - (rows - top - down).abs()) * (1 - (columns - left - right).abs())
                at = ((top + down).clamp(max=2 * radius), (left + right).clamp(max=2 * radius))
                kernel.index_put_(at, weight, accumulate=True)
        super().__init__(shape, kernel / kernel.sum())
