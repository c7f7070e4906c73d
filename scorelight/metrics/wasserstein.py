"""The sliced Wasserstein distance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scorelight.errors import ConfigurationError
from scorelight.metrics.base import SampleQualityMetric
from scorelight.metrics.statistics import FeatureSet, points

__all__ = ["SlicedWasserstein", "sliced_wasserstein"]


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
        banks = real.bank("SlicedWasserstein"), fake.bank("SlicedWasserstein")
        return {"sliced_wasserstein": sliced_wasserstein(*banks, self.num_projections, self.seed)}


def sliced_wasserstein(real: Tensor, fake: Tensor, num_projections: int = 128, seed: int = 0) -> float:
    """SW₂ of two sets of points, exact on each line, for sets of any sizes.

    Args:
        real: Shape (N, D).
        fake: Shape (M, D).
        num_projections: Number of lines.
        seed: Seed of the lines.
    """
    x, y = points(real, fake)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(num_projections, x.shape[1], dtype=torch.float64, generator=generator)
    i, j, weight = _coupling(len(x), len(y), x.device)
    squares = [
        (((x @ theta).sort().values[i] - (y @ theta).sort().values[j]).square() @ weight)
        for theta in normalize(normal, dim=1).to(x.device)
    ]
    return torch.stack(squares).mean().sqrt().item()


def _coupling(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The optimal coupling of n and m sorted points by quantiles: indices of both, and the mass.

    Both quantile functions are constant between the levels i/n and j/m, here in integer units of 1/(n m).
    """
    steps = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n])
    ends = torch.unique(steps)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    weight = (ends - starts).double() / (n * m)
    return (starts // m).to(device), (starts // n).to(device), weight.to(device)
