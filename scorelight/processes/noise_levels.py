"""Noise levels for given data: the techniques of NCSNv2 (Song & Ermon, 2020).

Levels σ_min = σ_1 < ... < σ_N = σ_max are geometric with ratio γ; D is the number of values of an example.

| technique | what it sets                           | here                                |
| --------- | -------------------------------------- | ----------------------------------- |
| 1         | σ_max                                  | `largest_distance`                  |
| 2         | γ, hence N                             | `level_ratio`, `count_noise_levels` |
| 4         | the step of annealed Langevin dynamics | `langevin_step`                     |

(Technique 3, an output divided by σ, is `Epsilon` and `EDM`; Technique 5 is the average of the weights.)

Compared with the settings that the paper used, the formulas give 5.5 % fewer levels in each of its five rows,
since "≈ 0.5" in Technique 2 was 0.567 there; for its levels they give its steps, except one (LSUN church).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError

__all__ = [
    "NCSN_RATIO",
    "NoiseLevelSchedule",
    "count_noise_levels",
    "langevin_step",
    "largest_distance",
    "level_ratio",
    "overlap",
    "suggest_schedule",
    "variance_ratio",
]

NCSN_RATIO = 100 ** (1 / 9)
"""γ of Song & Ermon (2019), 10 levels from 1 to 0.01: the largest ratio with a published result."""

Blocks = list[tuple[Tensor, Tensor]]


def largest_distance(
    x: Tensor, progress: Callable[[Blocks], Iterable[tuple[Tensor, Tensor]]] = iter, block_size: int = 2048
) -> float:
    """Technique 1: σ_max = max_ij ‖x_i − x_j‖, over all pairs.

    The pair is found in single precision, its distance computed in double: the relative error is below 1e-6.
    It takes at most N² D operations, since pairs whose norms add up to less than the best distance so far are
    skipped, and the memory of one copy of x.

    Args:
        x: Examples, shape (N, ...), N at least 2.
        progress: Wraps the list of the pairs of blocks, such as ``tqdm``.
        block_size: Examples per block.

    Raises:
        ConfigurationError: If there is no pair, or a value is NaN or infinite.
    """
    if len(x) < 2:
        raise ConfigurationError(f"the data has {len(x)} examples: at least 2 are needed")
    x = x.flatten(1) if x.is_floating_point() else x.flatten(1).float()
    centred = (x - x.mean(0)).float()  # the same distances with less rounding
    norm = torch.linalg.vector_norm(centred, dim=1)
    if not norm.isfinite().all():
        raise ConfigurationError("the data has values that are NaN, infinite or beyond single precision")
    blocks = norm.argsort(descending=True).split(block_size)
    best = 0.0
    for rows, columns in progress([*combinations_with_replacement(blocks, 2)]):
        if norm[rows[0]] + norm[columns[0]] > best:
            i, j = _farthest(centred[rows], centred[columns])
            best = max(best, (x[rows[i]].double() - x[columns[j]].double()).norm().item())
    return best


def _farthest(x: Tensor, y: Tensor) -> tuple[int, int]:
    """Indices (i, j) of the largest ‖x_i‖² − 2 x_i·y_j + ‖y_j‖²."""
    squared = torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None])
    i, j = divmod(int(squared.argmax()), len(y))
    return i, j


def overlap(dim: int, ratio: float) -> float:
    """Φ(√(2D)(γ − 1) + 3γ) − Φ(√(2D)(γ − 1) − 3γ), the left side of Technique 2.

    Around a point ‖σ_i ε‖ is nearly N(√D σ_i, σ_i²/2) (Proposition 2). This is the probability that it is
    within three standard deviations of its mean at the next larger level, γσ_i.

    Args:
        dim: Number D of values of an example.
        ratio: γ > 1.
    """
    shift = math.sqrt(2 * dim) * (ratio - 1)
    return _normal_cdf(shift + 3 * ratio) - _normal_cdf(shift - 3 * ratio)


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def level_ratio(dim: int) -> float:
    """Technique 2: the ratio γ of neighbouring levels at which their `overlap` is 0.5.

    Infinite for D ≤ 4, where the overlap of any two levels is above 0.99; about √(2D)/(√(2D) − 3) otherwise.
    Useful from about D = 30: Proposition 2 does not hold for a wide ratio and few dimensions.

    Raises:
        ConfigurationError: If dim is not positive.
    """
    if dim < 1:
        raise ConfigurationError(f"dim={dim}: must be at least 1")
    slope = math.sqrt(2 * dim) - 3
    if slope <= 0:
        return math.inf
    return _root(lambda ratio: 0.5 - overlap(dim, ratio), 1.0, (slope + 4) / slope)


def count_noise_levels(sigma_min: float, sigma_max: float, ratio: float) -> int:
    """Fewest levels, at least 2, from σ_min to σ_max in steps of at most `ratio`.

    Raises:
        ConfigurationError: Unless 0 < σ_min < σ_max and ratio > 1.
    """
    if not 0 < sigma_min < sigma_max < math.inf or not ratio > 1:
        raise ConfigurationError(
            f"sigma_min={sigma_min}, sigma_max={sigma_max}, ratio={ratio}: "
            "0 < sigma_min < sigma_max and ratio > 1 are needed"
        )
    return 1 + max(math.ceil(math.log(sigma_max / sigma_min) / math.log(ratio) - 1e-9), 1)


def variance_ratio(step: float, ratio: float, num_steps: int) -> float:
    """s_T²/σ_i² of Proposition 3, equation (4): (1 − e)^{2T} (γ² − v) + v with v = 2e/(1 − (1 − e)²).

    s_T² is the variance after T steps of Langevin dynamics x + α∇log p + √(2α) z, α = e σ_i², that start from
    N(0, γ²σ_i² I), with p = N(0, σ_i² I); v is its limit.

    Args:
        step: e = ε/σ_min², 0 < e < 2.
        ratio: γ.
        num_steps: T.
    """
    v = 1 / (1 - step / 2)
    return (1 - step) ** (2 * num_steps) * (ratio**2 - v) + v


def langevin_step(sigma_min: float, ratio: float, num_steps: int) -> float:
    """Technique 4: the ε for which `variance_ratio` is closest to 1, with step sizes α_i = ε σ_i²/σ_min².

    The ratio is above 1 for every ε: it is between γ² and v > 1. It is closest to 1 at its only minimum: its
    derivative in e = ε/σ_min² is ½v² (1 − (1 − e)^{2T}) − 2T (1 − e)^{2T−1} (γ² − v), in which the first term
    grows from 0 and the second falls to 0.

    Args:
        sigma_min: Smallest level.
        ratio: γ > 1.
        num_steps: Number T of steps per level.

    Raises:
        ConfigurationError: If num_steps is not positive.
    """
    if num_steps < 1:
        raise ConfigurationError(f"langevin_steps={num_steps}: must be at least 1")

    def slope(e: float) -> float:
        v, kept = 1 / (1 - e / 2), (1 - e) ** (2 * num_steps - 1)
        return 0.5 * v**2 * (1 - kept * (1 - e)) - 2 * num_steps * kept * (ratio**2 - v)

    return sigma_min**2 * _root(slope, 0.0, 1.0)


class NoiseLevelSchedule(NamedTuple):
    """Geometric noise levels from σ_min to σ_max, and the step of Langevin dynamics for them."""

    sigma_min: float
    sigma_max: float
    num_timesteps: int
    ratio: float
    """γ = (σ_max/σ_min)^(1/(N − 1))."""
    langevin_step: float
    """ε: steps of ε σ_i²/σ_min²."""


def suggest_schedule(
    sigma_min: float, sigma_max: float, dim: int, langevin_steps: int = 5
) -> NoiseLevelSchedule:
    """Techniques 2 and 4 for levels that end exactly at σ_min and σ_max.

    The ratio is the one of Technique 2, or `NCSN_RATIO` where that is smaller (D ≤ 28), reduced so that the
    number of levels is an integer.

    Args:
        sigma_min: Smallest level.
        sigma_max: Largest level.
        dim: Number D of values of an example.
        langevin_steps: Number T of steps per level.

    Raises:
        ConfigurationError: If a value is out of range.
    """
    number = count_noise_levels(sigma_min, sigma_max, min(level_ratio(dim), NCSN_RATIO))
    ratio = (sigma_max / sigma_min) ** (1 / (number - 1))
    step = langevin_step(sigma_min, ratio, langevin_steps)
    return NoiseLevelSchedule(sigma_min, sigma_max, number, ratio, step)


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    """Bisection, to the last bit, for f(low) < 0 < f(high)."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if f(middle) < 0 else (low, middle)
    return middle
