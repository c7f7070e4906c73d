"""Averages over the steps of a training with the profile t^γ: Karras et al. (2024), EDM2, sec. 3 and app. C.

At step T the average weighs step t <= T by p(t) = (γ + 1) t^γ/T^(γ + 1). Its standard deviation by T is

    σ_rel = √((γ + 1)/((γ + 2)² (γ + 3))),

and it is tracked by θ̄ ← d θ̄ + (1 − d) θ with d = (1 − 1/t)^(γ + 1) at step t. Stored averages of a few γ and
T span the averages of all others nearly: their profiles have inner products in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Profile", "coefficients", "decay", "exponent"]


class Profile(NamedTuple):
    """What an average weighs."""

    sigma_rel: float
    """Standard deviation of the profile by its length, 0 < σ_rel < 0.288."""
    step: int
    """T, the last step that it has seen."""


def exponent(sigma_rel: float) -> float:
    """γ of a σ_rel: the largest root of (γ + 2)² (γ + 3) = (γ + 1)/σ_rel².

    Raises:
        ValueError: If σ_rel is not between 0 and √(1/12), that of the uniform profile.
    """
    if not 0 < sigma_rel < math.sqrt(1 / 12):
        raise ValueError(f"sigma_rel={sigma_rel}: between 0 and {math.sqrt(1 / 12):.3f}")
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real.max())


def decay(sigma_rel: float, step: int) -> float:
    """D at a step, counted from 1: the first one takes the weights as they are."""
    return float((1 - 1 / step) ** (exponent(sigma_rel) + 1))


def coefficients(stored: Sequence[Profile], wanted: Profile) -> list[float]:
    """Coefficients, of sum 1, of the stored averages whose sum is nearest to another one (app. C.2).

    They minimise ∫ (Σ_i c_i p_i − p)² dt with Σ_i c_i = 1, which EDM2 does not ask for: without it, profiles
    that are much wider than the stored ones lose the weight of the first steps.
    """
    n = len(stored)
    system, right = np.ones((n + 1, n + 1)), np.ones(n + 1)
    system[n, n] = 0
    for i, a in enumerate(stored):
        right[i] = _inner(a, wanted)
        for j, b in enumerate(stored):
            system[i, j] = _inner(a, b)
    found: list[float] = np.linalg.lstsq(system, right, rcond=1e-14)[0][:n].tolist()
    return found


def _inner(a: Profile, b: Profile) -> float:
    """∫ p_a p_b dt = (x + 1)(y + 1)/(x + y + 1) m^(x + y + 1)/(s^(x + 1) t^(y + 1)), m = min(s, t).

    The exponents are x and y, the lengths s and t.
    """
    (x, y), (s, t) = (exponent(a.sigma_rel), exponent(b.sigma_rel)), (a.step, b.step)
    m = min(s, t)
    log = (x + 1) * math.log(m / s) + (y + 1) * math.log(m / t) - math.log(m)
    return (x + 1) * (y + 1) / (x + y + 1) * math.exp(log)
