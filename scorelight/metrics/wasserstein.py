"""The sliced Wasserstein distance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scorelight.errors import ConfigurationError
from scorelight.metrics.base import SampleQualityMetric
from scorelight.metrics.rows import Rows, blocks
from scorelight.metrics.statistics import FeatureSet, check_points, double, pair_device

__all__ = ["SlicedWasserstein", "sliced_wasserstein"]

_ENTRIES = 2**22
"""Projections in memory at once: 32 MB."""
_ROWS = 2048


class SlicedWasserstein(SampleQualityMetric):
    """Root mean square of the Wasserstein distances of the sets on random lines; for vector data.

    SW₂² = E_θ W₂²(θᵀx, θᵀy), θ uniform on the sphere (Bonneel et al., 2015, definition 1). Two finite sets
    from one distribution have a distance above 0, of order N^−½: compare it with the distance of two sets of
    real examples.

    Args:
        num_projections: Number of lines.
        seed: Seed of the lines.
    """

    needs_features = True

    def __init__(self, num_projections: int = 128, seed: int = 0) -> None:
        if num_projections < 1:
            raise ConfigurationError(f"SlicedWasserstein: num_projections={num_projections}: at least 1")
        self.num_projections = num_projections
        self.seed = seed

    def __call__(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        """``sliced_wasserstein``, in the units of the features."""
        rows = real.rows("SlicedWasserstein"), fake.rows("SlicedWasserstein")
        return {"sliced_wasserstein": sliced_wasserstein(*rows, self.num_projections, self.seed)}


def sliced_wasserstein(real: Rows, fake: Rows, num_projections: int = 128, seed: int = 0) -> float:
    """SW₂ of two sets of points, exact on each line, for sets of any sizes.

    In memory are projections on some lines at a time, of 32 MB, or of one line. Time is of order
    (N + M) (D + log(N + M)) for each line.

    Args:
        real: Shape (N, D).
        fake: Shape (M, D).
        num_projections: Number of lines.
        seed: Seed of the lines.
    """
    check_points(real, fake)
    generator, device = torch.Generator().manual_seed(seed), pair_device(fake)
    normal = torch.randn(num_projections, real.shape[1], dtype=torch.float64, generator=generator)
    i, j, weight = _coupling(len(real), len(fake), device)
    squares: list[Tensor] = []
    at_once = max(_ENTRIES // max(len(real), len(fake)), 1)
    for lines in torch.split(normalize(normal, dim=1).to(device), at_once):
        for x, y in zip(_projected(real, lines), _projected(fake, lines), strict=True):
            squares.append((x.sort().values[i] - y.sort().values[j]).square() @ weight)
    return torch.stack(squares).mean().sqrt().item()


def _projected(rows: Rows, lines: Tensor) -> Tensor:
    """Projections of all points on some lines, shape (L, N)."""
    return torch.cat([lines @ double(part.to(lines.device)).T for part in blocks(rows, _ROWS)], dim=1)


def _coupling(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The optimal coupling of n and m sorted points by quantiles: indices of both, and the mass.

    Both quantile functions are constant between the levels i/n and j/m, here in integer units of 1/(n m).
    """
    steps = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n])
    ends = torch.unique(steps)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    weight = (ends - starts).double() / (n * m)
    return (starts // m).to(device), (starts // n).to(device), weight.to(device)
