"""Statistics of the features of a set of examples, accumulated over batches and processes.

For two disjoint sets with numbers n, means m and scatters S = Σ (φ − m)(φ − m)ᵀ
(Chan, Golub & LeVeque, 1979):

    n = n₁ + n₂,   m = m₁ + δ n₂/n,   S = S₁ + S₂ + δδᵀ n₁n₂/n,   δ = m₂ − m₁         (30)

No difference of large sums is taken, so features far from 0 lose no precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.metrics.rows import Rows, StoredRows, blocks
from scorelight.storage.npz import Blocks, names_in, read_npz, write_npz

__all__ = ["FeatureSet", "Moments", "check_finite", "check_points", "double", "pair", "pair_device"]

_ROWS = 2048
"""Rows in memory at once."""


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

    def to(self, device: torch.device) -> Moments:
        """The same on a device."""
        return Moments(self.count, self.mean.to(device), self.scatter.to(device))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together, by (30)."""
        count, delta = self.count + other.count, other.mean - self.mean
        scatter = torch.addr(
            self.scatter + other.scatter, delta, delta, alpha=self.count * other.count / count
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
    features: Tensor | StoredRows | None = None
    """The features themselves, shape (N, D), if a metric needs them."""
    logits: Tensor | StoredRows | None = None
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
        cls,
        moments: Moments,
        features: Tensor | StoredRows | None = None,
        logits: Tensor | StoredRows | None = None,
        key: str = "",
    ) -> Self:
        """Statistics from moments.

        Raises:
            ConfigurationError: If there are fewer than two examples, which have no covariance.
        """
        if moments.count < 2:
            raise ConfigurationError(f"{moments.count} example: at least 2 are needed for a covariance")
        cov = moments.scatter / (moments.count - 1)
        return cls(moments.count, moments.mean, cov, features, logits, key)

    def moments_only(self) -> Self:
        """The same without features and logits."""
        return replace(self, features=None, logits=None)

    def bank(self, owner: str) -> Tensor:
        """The features themselves, all in memory.

        Raises:
            ConfigurationError: If only their moments were stored.
        """
        return self.rows(owner)[:]

    def rows(self, owner: str) -> Rows:
        """The features themselves, to be read some at a time.

        Raises:
            ConfigurationError: If only their moments were stored.
        """
        return _present(self.features, "features", owner)

    def class_scores(self, owner: str) -> Rows:
        """The logits, to be read some at a time.

        Raises:
            ConfigurationError: If there are none.
        """
        return _present(self.logits, "logits", owner)

    def arrays(self) -> dict[str, np.ndarray[Any, Any] | np.generic | Blocks]:
        """What `save` writes, by name."""
        moments = {"mu": self.mean, "sigma": self.cov}
        rows = {"features": self.features, "logits": self.logits}
        return {
            "n": np.int64(self.count),
            "key": np.str_(self.key),
            **{name: value.detach().cpu().numpy() for name, value in moments.items()},
            **{name: _as_blocks(value) for name, value in rows.items() if value is not None},
        }

    def save(self, path: str | Path) -> None:
        """Write an .npz atomically, with the ``mu`` and ``sigma`` that pytorch-fid reads, and more."""
        write_npz(Path(path), self.arrays())

    @classmethod
    def load(cls, path: str | Path, in_memory: bool = True) -> Self:
        """Read an .npz of ours, or one of pytorch-fid or EDM (``mu`` and ``sigma`` only).

        Args:
            path: The file.
            in_memory: Whether to read features and logits now, or when they are asked for.

        Raises:
            ConfigurationError: If it is not such a file.
        """
        found: dict[str, Tensor | StoredRows] = {}
        try:
            rest = read_npz(Path(path), ("mu", "sigma"), ("n", "key", *(_BANKS if in_memory else ())))
            for name in () if in_memory else names_in(Path(path), _BANKS):
                rows = StoredRows.in_archive(Path(path), name)
                found[name] = rows or torch.from_numpy(read_npz(Path(path), (name,))[name])
            found |= {name: torch.from_numpy(rest[name]) for name in _BANKS if name in rest}
            return cls._from_arrays(rest, found.get("features"), found.get("logits"))
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{path}: not statistics of features, an .npz with mu of shape (D,) and sigma (D, D): {error}"
            ) from error

    @classmethod
    def _from_arrays(
        cls,
        arrays: dict[str, np.ndarray[Any, Any]],
        features: Tensor | StoredRows | None,
        logits: Tensor | StoredRows | None,
    ) -> Self:
        mean, cov = (torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma"))
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
            raise ValueError(f"mu has shape {tuple(mean.shape)} and sigma {tuple(cov.shape)}")
        if features is not None and (len(features.shape) != 2 or features.shape[1] != len(mean)):
            raise ValueError(f"mu has shape {tuple(mean.shape)} and features {tuple(features.shape)}")
        check_finite(mean, "mu")
        _check_covariance(cov)
        return cls(int(arrays.get("n", 0)), mean, cov, features, logits, str(arrays.get("key", "")))


def double(x: Tensor) -> Tensor:
    """In float64, on the CPU if the device does not support it, as Apple's does not."""
    return (x.cpu() if x.device.type == "mps" else x).detach().double()


def check_finite(values: Rows, what: str) -> None:
    """Refuse features that are NaN or infinite.

    Args:
        values: Any shape; rows are counted.
        what: What they are, for the message.

    Raises:
        ConfigurationError: If there are some.
    """
    if bad := sum(_num_not_finite(part) for part in blocks(values, _ROWS)):
        raise ConfigurationError(
            f"{bad} of {len(values)} rows of the {what} are NaN or infinite, and have no distance "
            "to others; find out where they come from"
        )


def _num_not_finite(values: Tensor) -> int:
    return int((~values.isfinite().reshape(len(values), -1).all(1)).sum())


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


def check_points(real: Rows, fake: Rows) -> None:
    """Refuse features, shape (N, D) and (M, D), that are not finite.

    Raises:
        ConfigurationError: If some are not.
    """
    check_finite(real, "features of real examples")
    check_finite(fake, "features of samples")


def pair_device(fake: Rows) -> torch.device:
    """Where distances to samples are computed: where their features are, if it has float64."""
    device = fake[:1].device
    return torch.device("cpu") if device.type == "mps" else device


def pair(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 on one device: statistics of real examples may be read from a file."""
    fake = double(fake)
    return real.to(fake.device).detach().double(), fake


_BANKS = ("features", "logits")


def _as_blocks(rows: Tensor | StoredRows) -> Blocks:
    """Rows to write some at a time."""
    numpy = (part.detach().cpu().numpy() for part in blocks(rows, _ROWS))
    return Blocks(tuple(rows.shape), rows[:0].cpu().numpy().dtype, numpy)


def _present(value: Rows | None, name: str, owner: str) -> Rows:
    if value is None:
        raise ConfigurationError(
            f"{owner} needs the {name} of every example, and this set has none: compute it again with "
            f"{owner} among the metrics" + (", by an extractor that classifies" if name == "logits" else "")
        )
    return value
