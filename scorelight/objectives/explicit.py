"""Explicit score matching: regression on the exact score of the perturbed training set.

    L = E_{t, x_t}[ w(t) λ(t) mean_d (y_j(x_t) − y_j*(x_t))² ]              (7b)

with y_j* the exact posterior mean, not a single draw, if the distribution of the data is the set of training
points: p_t is then the kernel density Σ_n N(x_t; α x_n, σ² I)/N (Vincent, 2011, eq. 7). The minimiser and, up
to a constant, the loss are those of (7a); its only variance is due to x_t and t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scorelight.batch import Batch
from scorelight.conditions import check_label_type
from scorelight.denoisers.analytic import posterior_mean
from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError
from scorelight.objectives.base import NoisyBatch, Objective, Weighting, mean_over_dims
from scorelight.objectives.weightings import SigmaSquaredWeighting
from scorelight.parameterizations import Parameterization
from scorelight.rng import Generators
from scorelight.times import TimeSampler

__all__ = ["ExplicitScoreMatching"]


class ExplicitScoreMatching(Objective):
    """Equation (7b). The bank of training points is read from the data module at the start of training.

    With a ``label`` the density is that of the points of the same class; a label without a point, such as the
    one for "no class", stands for all points. Every step compares every example with every point of the bank.

    Args:
        space: Space of the residual, whatever the network outputs (default: the weighting's).
        weighting: λ of each noise level (default `SigmaSquaredWeighting`).
        time_sampler: Distribution of t (default `UniformTime`).
        chunk_size: Points of the bank that are processed together; bounds the memory.
    """

    def __init__(
        self,
        space: Parameterization | None = None,
        weighting: Weighting | None = None,
        time_sampler: TimeSampler | None = None,
        chunk_size: int = 4096,
    ) -> None:
        super().__init__(time_sampler)
        if chunk_size < 1:
            raise ConfigurationError(f"chunk_size={chunk_size}: must be at least 1")
        self.weighting = weighting or SigmaSquaredWeighting()
        self.space = space or self.weighting.space
        self.chunk_size = chunk_size
        self.bank: Batch | None = None

    def prepare(self, training_set: Callable[[], Batch]) -> None:
        """Store the training set as the bank."""
        self.bank = training_set()

    def loss(
        self, denoiser: Denoiser, noisy: NoisyBatch, *, generator: Generators = None, **cond: Any
    ) -> Tensor:
        """λ mean_d (y_j(x_t) − y_j*(x_t))²."""
        mean = self._posterior_mean(noisy, cond)
        epsilon = (noisy.x_t - noisy.level.alpha * mean) / noisy.level.sigma
        pred = denoiser.predict(noisy.x_t, noisy.level, **cond)
        return mean_over_dims(self.weighting(noisy.level) * pred.residual(mean, epsilon, self.space) ** 2)

    @torch.no_grad()
    def _posterior_mean(self, noisy: NoisyBatch, cond: dict[str, Tensor]) -> Tensor:
        """E[x0 | x_t] over the bank, of the same class where there are classes."""
        if self.bank is None:
            raise ConfigurationError(
                "ExplicitScoreMatching has no bank: train with a data module, "
                "or call prepare(lambda: scorelight.batch.Batch(x0, {}))"
            )
        if unknown := set(cond) - {"label"}:
            raise ConfigurationError(
                f"ExplicitScoreMatching: the exact score given {sorted(unknown)[0]!r} is not known, "
                "only that given a label"
            )
        if cond and "label" not in self.bank.cond:
            raise ConfigurationError("ExplicitScoreMatching: the batch has labels, the training set none")
        for batch, label in ((noisy.x0, cond.get("label")), (self.bank.x0, self.bank.cond.get("label"))):
            if cond and label is not None:
                check_label_type(label, len(batch), "label")
        self.bank = _on(noisy.x_t.device, self.bank)
        labels = (cond["label"], self.bank.cond["label"]) if cond else None
        level = noisy.level
        return posterior_mean(self.bank.x0, noisy.x_t, level.alpha, level.sigma, labels, self.chunk_size)


def _on(device: torch.device, bank: Batch) -> Batch:
    return Batch(bank.x0.to(device), {name: value.to(device) for name, value in bank.cond.items()})
