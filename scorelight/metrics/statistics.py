"""Statistics of the features of a set of examples, accumulated over batches and processes.

For two disjoint sets with numbers n, means m and scatters S = Σ (φ − m)(φ − m)ᵀ
(Chan, Golub & LeVeque, 1979):

    n = n₁ + n₂,   m = m₁ + δ n₂/n,   S = S₁ + S₂ + δδᵀ n₁n₂/n,   δ = m₂ − m₁         (30)

No difference of large sums is taken, so features far from 0 lose no precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.storage.npz import read_npz, write_npz

__all__ = ["FeatureSet", "Moments", "check_finite", "double", "pair", "points"]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Count, mean and scatter of features, in float64."""

    count: int
    mean: Tensor
    """Shape (D,)."""
    scatter: Tensor
    """Sum of (φ − mean)(φ − mean)ᵀ, shape (D, D)."""

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Moments of features of shape (N, D), N ≥ 1."""
        x = double(values)
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together, by (30)."""
        count, delta = self.count + other.count, other.mean - self.mean
        scatter = (
            self.scatter + other.scatter + torch.outer(delta, delta) * (self.count * other.count / count)
        )
        return Moments(count, self.mean + delta * (other.count / count), scatter)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """Statistics of the features of a set of examples."""

    count: int
    """Number of examples; 0 if a file does not state it."""
    mean: Tensor
    """Shape (D,), float64."""
    cov: Tensor
    """Unbiased covariance, shape (D, D), float64."""
    features: Tensor | None = None
    """The features themselves, shape (N, D), if a metric needs them."""
    logits: Tensor | None = None
    """Class scores, shape (N, K), if a metric needs them."""
    key: str = ""
    """`FeatureExtractor.key`; empty if a file does not state it."""

    def __post_init__(self) -> None:
        """Refuse what is not finite: every distance would be wrong, some without showing it."""
        for name in ("features", "logits", "mean", "cov"):
            if (value := getattr(self, name)) is not None:
                check_finite(value, name)

    @classmethod
    def of(cls, features: Tensor, logits: Tensor | None = None, key: str = "") -> Self:
        """Statistics of features of shape (N, D)."""
        return cls.from_moments(Moments.of(features), features, logits, key)

    @classmethod
    def from_moments(
        cls, moments: Moments, features: Tensor | None = None, logits: Tensor | None = None, key: str = ""
    ) -> Self:
        """Statistics from moments.

        Raises:
            ConfigurationError: If there are fewer than two examples, which have no covariance.
        """
        if moments.count < 2:
            raise ConfigurationError(f"{moments.count} example: at least 2 are needed for a covariance")
        cov = moments.scatter / (moments.count - 1)
        return cls(moments.count, moments.mean, cov, features, logits, key)

    def bank(self, owner: str) -> Tensor:
        """The features themselves.

        Raises:
            ConfigurationError: If only their moments were stored.
        """
        return _present(self.features, "features", owner)

    def class_scores(self, owner: str) -> Tensor:
        """The logits.

        Raises:
            ConfigurationError: If there are none.
        """
        return _present(self.logits, "logits", owner)

    def arrays(self) -> dict[str, np.ndarray[Any, Any] | np.generic]:
        """What `save` writes, by name."""
        arrays = {"mu": self.mean, "sigma": self.cov, "features": self.features, "logits": self.logits}
        present = {k: v.detach().cpu().numpy() for k, v in arrays.items() if v is not None}
        return {"n": np.int64(self.count), "key": np.str_(self.key), **present}

    def save(self, path: str | Path) -> None:
        """Write an .npz atomically, with the ``mu`` and ``sigma`` that pytorch-fid reads, and more."""
        write_npz(Path(path), self.arrays())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an .npz of ours, or one of pytorch-fid or EDM (``mu`` and ``sigma`` only).

        Raises:
            ConfigurationError: If it is not such a file.
        """
        try:
            return cls._from_arrays(read_npz(Path(path), ("mu", "sigma"), ("n", "key", "features", "logits")))
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{path}: not statistics of features, an .npz with mu of shape (D,) and sigma (D, D): {error}"
            ) from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray[Any, Any]]) -> Self:
        mean, cov = (torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma"))
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
            raise ValueError(f"mu has shape {tuple(mean.shape)} and sigma {tuple(cov.shape)}")
        features, logits = (
            torch.from_numpy(arrays[n]) if n in arrays else None for n in ("features", "logits")
        )
        if features is not None and (features.ndim != 2 or features.shape[1] != len(mean)):
            raise ValueError(f"mu has shape {tuple(mean.shape)} and features {tuple(features.shape)}")
        check_finite(mean, "mu")
        _check_covariance(cov)
        return cls(int(arrays.get("n", 0)), mean, cov, features, logits, str(arrays.get("key", "")))


def double(x: Tensor) -> Tensor:
    """In float64, on the CPU if the device does not support it, as Apple's does not."""
    return (x.cpu() if x.device.type == "mps" else x).detach().double()


def check_finite(values: Tensor, what: str) -> None:
    """Refuse features that are NaN or infinite.

    Args:
        values: Any shape; rows are counted.
        what: What they are, for the message.

    Raises:
        ConfigurationError: If there are some.
    """
    if not values.isfinite().all():
        bad = ~values.isfinite().reshape(len(values), -1).all(1)
        raise ConfigurationError(
            f"{int(bad.sum())} of {len(values)} rows of the {what} are NaN or infinite, and have no distance "
            "to others; find out where they come from"
        )


def _check_covariance(cov: Tensor) -> None:
    """Refuse a matrix that is not a covariance, but for the rounding of float32."""
    check_finite(cov, "sigma")
    if not len(cov):
        raise ValueError("sigma is empty")
    tolerance = 1e-4 * cov.abs().max().item() + 1e-12
    if (cov - cov.T).abs().max() > tolerance:
        raise ValueError("sigma is not symmetric")
    if torch.linalg.cholesky_ex(cov + tolerance * torch.eye(len(cov), dtype=cov.dtype)).info:
        raise ValueError("sigma has a negative variance in some direction")


def points(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """`pair` of features, shape (N, D) and (M, D), that must be finite.

    Raises:
        ConfigurationError: If some are not.
    """
    check_finite(real, "features of real examples")
    check_finite(fake, "features of samples")
    return pair(real, fake)


def pair(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 on one device: statistics of real examples may be read from a file."""
    fake = double(fake)
    return real.to(fake.device).detach().double(), fake


def _present(value: Tensor | None, name: str, owner: str) -> Tensor:
    if value is None:
        raise ConfigurationError(
            f"{owner} needs the {name} of every example, and this set has none: compute it again with "
            f"{owner} among the metrics" + (", by an extractor that classifies" if name == "logits" else "")
        )
    return value
