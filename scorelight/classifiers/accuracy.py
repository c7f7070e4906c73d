"""How often a classifier of noisy examples is right, and how often it says so, by noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scorelight.classifiers.base import Classifier
from scorelight.processes.base import NoiseLevel
from scorelight.rng import PhiloxGenerator, Stream, randn_like

__all__ = ["LevelAccuracy", "accuracy_by_level"]


@dataclass(frozen=True, slots=True)
class LevelAccuracy:
    """A classifier at one noise level."""

    time: float
    noise: float
    """σ/α."""
    accuracy: float
    """Share of the examples whose most probable class is theirs, 0 to 1."""
    confidence: float
    """Mean probability of the most probable class, 0 to 1."""
    calibration_error: float
    """Expected calibration error: mean |accuracy − confidence| of bins of equal width in the confidence, by
    their share of the examples, 0 to 1 (Guo et al., 2017, eq. 3)."""
    nats: float
    """Mean −log p(c | x_t)."""


@torch.no_grad()
def accuracy_by_level(
    classifier: Classifier,
    x0: Tensor,
    label: Tensor,
    levels: Sequence[NoiseLevel[float]],
    *,
    seed: int = 0,
    num_bins: int = 15,
    batch_size: int = 500,
) -> list[LevelAccuracy]:
    """Accuracy and calibration at each level, on the same examples with the same noise ε.

    Args:
        classifier: The classifier, in evaluation mode.
        x0: Clean examples, shape (N, ...), N ≥ 1.
        label: Their classes, shape (N,).
        levels: Noise levels in floats.
        seed: Seed of the noise.
        num_bins: Bins of the calibration error.
        batch_size: Examples at once; does not change the result.
    """
    return [_at(classifier, x0, label, level, seed, num_bins, batch_size) for level in levels]


def _at(
    classifier: Classifier,
    x0: Tensor,
    label: Tensor,
    level: NoiseLevel[float],
    seed: int,
    num_bins: int,
    batch_size: int,
) -> LevelAccuracy:
    rows = []
    for begin in range(0, len(x0), batch_size):
        x = x0[begin : begin + batch_size]
        index = torch.arange(begin, begin + len(x), device=x.device)
        epsilon = randn_like(x, PhiloxGenerator(seed, index, Stream.VALIDATION))
        rows.append(classifier.log_prob(level.alpha * x + level.sigma * epsilon, level))
    log_prob = torch.cat(rows).double()
    confidence, guess = log_prob.exp().max(1)
    right = (guess == label).double()
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    gap = torch.zeros(num_bins, dtype=right.dtype, device=right.device)
    error = gap.index_add(0, bins, right - confidence).abs().sum() / len(x0)
    return LevelAccuracy(
        level.time,
        level.sigma / level.alpha,
        right.mean().item(),
        confidence.mean().item(),
        error.item(),
        -log_prob.gather(1, label[:, None]).mean().item(),
    )
