"""The Inception score."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch

from scorelight.errors import ConfigurationError
from scorelight.metrics.base import SampleQualityMetric
from scorelight.metrics.rows import Rows, SelectedRows, blocks
from scorelight.metrics.statistics import FeatureSet, check_finite, double

__all__ = ["InceptionScore", "inception_score"]

_ROWS = 2048


class InceptionScore(SampleQualityMetric):
    """How confidently a classifier labels each sample, and how evenly the labels cover the classes.

    exp E KL(p(y|x) ‖ p(y)) (Salimans et al., 2016, section 4): from 1 to the number of classes, larger is
    better. It does not use real examples.

    Args:
        splits: Number of parts of the samples; the score is the mean over the parts.
        seed: Seed of the permutation before the split; torch-fidelity's is 2020. None keeps the order.
    """

    needs_logits = True

    def __init__(self, splits: int = 10, seed: int | None = 2020) -> None:
        if splits < 1:
            raise ConfigurationError(f"InceptionScore: splits={splits}: at least 1")
        self.splits = self.min_samples = splits
        self.seed = seed

    def __call__(self, real: FeatureSet, fake: FeatureSet) -> dict[str, float]:
        """``inception_score``, and ``inception_score_std``, its standard deviation over the parts."""
        mean, std = inception_score(fake.class_scores("InceptionScore"), self.splits, self.seed)
        return {"inception_score": mean, "inception_score_std": std}


def inception_score(logits: Rows, splits: int = 10, seed: int | None = 2020) -> tuple[float, float]:
    """The exponential of the mean of KL(p(y|x) ‖ mean p(y|x)) in each part of the samples.

    In memory are the log-probabilities of 2048 samples at a time.

    Args:
        logits: Shape (N, K).
        splits: Number of parts, equal within one sample.
        seed: Seed of the permutation before the split, if any.

    Returns:
        Mean and standard deviation over the parts.

    Raises:
        ConfigurationError: If there are fewer samples than parts, or a logit is not finite.
    """
    check_finite(logits, "logits")
    if len(logits) < splits:
        raise ConfigurationError(
            f"InceptionScore: splits={splits}, and there are only {len(logits)} samples: draw more, "
            "or set splits=1"
        )
    order = torch.arange(len(logits))
    if seed is not None:
        order = torch.from_numpy(np.random.RandomState(seed).permutation(len(logits)))
    ends = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score(SelectedRows(logits, order[a:b])) for a, b in pairwise(ends)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: Rows) -> float:
    """exp(mean Σ_y p log p − Σ_y q log q), q the mean of p: the mean divergence of p from q."""
    information, total = 0.0, torch.zeros(logits.shape[1], dtype=torch.float64)
    for part in blocks(logits, _ROWS):
        log_p = double(part).log_softmax(1)
        p = log_p.exp()
        information += (p * log_p).sum().item()
        total += p.sum(0).cpu()
    q = total / len(logits)
    return math.exp(information / len(logits) - torch.xlogy(q, q).sum().item())
