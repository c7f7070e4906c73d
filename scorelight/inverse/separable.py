"""Operators that act on channels, rows and columns one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.inverse.operators import LinearOperator

__all__ = ["Downsample", "Grayscale", "Identity", "SeparableOperator"]


class SeparableOperator(LinearOperator):
    """A = A_1 ⊗ A_2 ⊗ ...: a matrix for each dimension of an example.

    Its singular values are the products of those of the matrices, and V is the product of their V.

    Args:
        shape: Shape of an example.
        matrices: One for each dimension, shape (m, n) for a size n; None leaves a dimension as it is.
    """

    def __init__(self, shape: Sequence[int], matrices: Sequence[Tensor | None]) -> None:
        super().__init__(shape)
        values = torch.ones((), dtype=torch.float64)
        self.dims = [dim for dim, matrix in enumerate(matrices, 1) if matrix is not None]
        for dim, (size, matrix) in enumerate(zip(self.shape, matrices, strict=True), 1):
            of_dim = torch.ones(size, dtype=torch.float64)
            if matrix is not None:
                matrix = matrix.double()
                _, found, right = torch.linalg.svd(matrix, full_matrices=True)
                of_dim = torch.cat([found, found.new_zeros(size - len(found))])
                self.register_buffer(f"matrix_{dim}", matrix)
                self.register_buffer(f"right_{dim}", right)
            values = values[..., None] * of_dim
        self.register_buffer("values", values)

    values: Tensor

    @override
    def forward(self, x: Tensor) -> Tensor:
        for dim in self.dims:
            x = _along(x, dim, self.get_buffer(f"matrix_{dim}"))
        return x

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        for dim in self.dims:
            y = _along(y, dim, self.get_buffer(f"matrix_{dim}").mT)
        return y

    @override
    def coordinates(self, x: Tensor) -> Tensor:
        for dim in self.dims:
            x = _along(x, dim, self.get_buffer(f"right_{dim}"))
        return x

    @override
    def from_coordinates(self, c: Tensor) -> Tensor:
        for dim in self.dims:
            c = _along(c, dim, self.get_buffer(f"right_{dim}").mT)
        return c

    @property
    @override
    def coordinate_values(self) -> Tensor:
        return self.values


def _along(x: Tensor, dim: int, matrix: Tensor) -> Tensor:
    """The matrix applied along one dimension."""
    return (x.movedim(dim, -1) @ matrix.to(x).mT).movedim(-1, dim)


class Identity(SeparableOperator):
    """All of an image: its inverse problem is denoising.

    Args:
        shape: Shape of an example.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape, [None] * len(shape))


class Grayscale(SeparableOperator):
    """The mean of the three colours: its inverse problem is colourisation.

    Args:
        shape: Shape of an image, (3, H, W).
    """

    def __init__(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] != 3:
            raise ConfigurationError(f"Grayscale: colour images are needed, and the shape is {tuple(shape)}")
        super().__init__(shape, [torch.full((1, 3), 1 / 3, dtype=torch.float64), None, None])


class Downsample(SeparableOperator):
    """A smaller image: its inverse problem is super-resolution.

    Args:
        shape: Shape of an image, (C, H, W).
        factor: How many times smaller, a divisor of both sides.
        kind: ``box`` is the mean of each block; ``bicubic`` is the filter of Keys (1981) with a = −½, widened
            by the factor against aliasing, as Pillow and PyTorch resize.
    """

    def __init__(
        self, shape: Sequence[int], factor: int = 2, kind: Literal["box", "bicubic"] = "box"
    ) -> None:
        if len(shape) != 3:
            raise ConfigurationError(f"Downsample: images are needed, and the shape is {tuple(shape)}")
        if factor < 2 or any(side % factor for side in shape[1:]):
            raise ConfigurationError(
                f"Downsample: factor={factor}: a divisor of {shape[1]} and {shape[2]}, from 2 on, is needed"
            )
        if kind not in ("box", "bicubic"):
            raise ConfigurationError(f"Downsample: kind={kind!r}: box or bicubic")
        super().__init__(shape, [None, *(_smaller(side, factor, kind) for side in shape[1:])])


def _smaller(size: int, factor: int, kind: Literal["box", "bicubic"]) -> Tensor:
    """The matrix that resizes one dimension, shape (size/factor, size)."""
    units = torch.eye(size, dtype=torch.float64)[None, None]
    to = (size // factor, size)
    if kind == "box":
        return interpolate(units, to, mode="area")[0, 0]
    return interpolate(units, to, mode="bicubic", antialias=True, align_corners=False)[0, 0]
