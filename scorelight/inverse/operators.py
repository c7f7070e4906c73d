"""Operators A of measurements y = A(x0) + σ_y n, and the linear ones, whose singular values are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.processes.base import Scalar
from scorelight.storage.component import Component

__all__ = ["LinearOperator", "MatrixOperator", "Operator", "SpectralFunction", "is_measured"]

SpectralFunction = Callable[[Tensor], Tensor]
"""A function of singular values s ≥ 0, for each of them."""
_SMALLEST = 1e-6


def is_measured(s: Tensor) -> Tensor:
    """Which singular values do not count as 0: those above 10⁻⁶ of the largest."""
    return s > _SMALLEST * s.max()


class Operator(Component, nn.Module, ABC):
    """A function of clean data x0, differentiable by PyTorch.

    A subclass takes the shape of an example as its first argument and its options after it, so that
    ``--operator CLASS`` names it.

    Args:
        shape: Shape of an example.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A(x), shape (B, *measured), of x of shape (B, *shape)."""

    def picture(self, y: Tensor) -> Tensor:
        """What can be shown of y as an image: y itself, of shape (B, C, H, W)."""
        return y


class LinearOperator(Operator, ABC):
    """A matrix A = U diag(s) Vᵀ that is applied without being stored.

    Methods for inverse problems need A, Aᵀ and functions of AᵀA alone: (AAᵀ + λI)⁻¹ and the pseudo-inverse
    are Aᵀ followed or preceded by such a function.
    """

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, shape (B, *shape)."""

    @abstractmethod
    def coordinates(self, x: Tensor) -> Tensor:
        """Vᵀ x, shape (B, ...)."""

    @abstractmethod
    def from_coordinates(self, c: Tensor) -> Tensor:
        """V c, shape (B, *shape)."""

    @property
    @abstractmethod
    def coordinate_values(self) -> Tensor:
        """S of each coordinate, 0 for what A does not measure; broadcastable to the coordinates."""

    @property
    def singular_values(self) -> Tensor:
        """S, one for each dimension of x, zeros included; shape (D,), in no order."""
        return self.coordinate_values.flatten()

    def values_like(self, c: Tensor) -> Tensor:
        """S of each coordinate, on the device and in the real type of coordinates c."""
        return self.coordinate_values.to(c.device, c.dtype.to_real())

    def spectral(self, x: Tensor, function: SpectralFunction) -> Tensor:
        """V f(s) Vᵀ x, shape (B, *shape)."""
        c = self.coordinates(x)
        return self.from_coordinates(c * function(self.values_like(c))).to(x.dtype)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y = V s⁻² Vᵀ Aᵀ y, where s is not 0: the shortest x of those for which A x is nearest to y."""
        return self.solve(self.adjoint(y), 1.0, 0.0)

    def measured_part(self, x: Tensor) -> Tensor:
        """A⁺A x: the projection of x on what A measures."""
        return self.spectral(x, lambda s: is_measured(s).to(s))

    def solve(self, x: Tensor, scale: Scalar, shift: Scalar) -> Tensor:
        """V (a s² + b)⁻¹ Vᵀ x, and 0 where s is 0.

        Of x = Aᵀ r it is Aᵀ (a AAᵀ + b I)⁻¹ r, also for b = 0.

        Args:
            x: Shape (B, *shape).
            scale: a ≥ 0, a number or broadcastable to x.
            shift: b ≥ 0, likewise.
        """

        def inverse(s: Tensor) -> Tensor:
            known = is_measured(s)
            return torch.where(known, 1 / (scale * torch.where(known, s, 1) ** 2 + shift), 0.0)

        return self.spectral(x, inverse)

    def matrix(self) -> Tensor:
        """A as a matrix of shape (M, D), float64: its columns are the measurements of unit vectors."""
        units = torch.eye(prod(self.shape), dtype=torch.float64).reshape(-1, *self.shape)
        columns: Tensor = self(units)
        return columns.flatten(1).mT

    @override
    def picture(self, y: Tensor) -> Tensor:
        """Y itself if it is an image, else A⁺ y."""
        is_image = y.ndim == 4 and y.shape[1] in (1, 3)
        return y if is_image else self.pseudo_inverse(y)


class MatrixOperator(LinearOperator):
    """A given matrix, applied to examples as vectors.

    Args:
        shape: Shape of an example, of D numbers.
        matrix: Shape (M, D).
    """

    values: Tensor
    right: Tensor
    rows: Tensor

    def __init__(self, shape: Sequence[int], matrix: Tensor | Sequence[Any]) -> None:
        super().__init__(shape)
        a = torch.as_tensor(matrix, dtype=torch.float64)
        if a.ndim != 2 or a.shape[1] != prod(self.shape):
            raise ConfigurationError(
                f"MatrixOperator: matrix of shape {tuple(a.shape)}: (M, {prod(self.shape)}) is needed for "
                f"examples of shape {self.shape}"
            )
        _, values, right = torch.linalg.svd(a, full_matrices=True)
        self.register_buffer("rows", a)
        self.register_buffer("values", torch.cat([values, values.new_zeros(len(right) - len(values))]))
        self.register_buffer("right", right)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.rows.to(x).mT

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.rows.to(y)).reshape(-1, *self.shape)

    @override
    def coordinates(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.right.to(x).mT

    @override
    def from_coordinates(self, c: Tensor) -> Tensor:
        return (c @ self.right.to(c)).reshape(-1, *self.shape)

    @property
    @override
    def coordinate_values(self) -> Tensor:
        return self.values
