"""Exponential multistep solvers: one network evaluation a step.

With λ = log(α/σ) the probability flow and a family of reverse SDEs relax towards what the network predicts
(Lu et al., 2022, prop. 3.1; "DPM-Solver++", prop. 4.1; Xue et al., 2023, "SA-Solver"):

    u = x/c,   du = κ (Y − u) dλ + √(2 (κ − 1)) e^−λ dw                      (16)

    c = α,   Y = x̂0,   κ = 1     probability flow, data prediction
    c = σ,   Y = ε̂,    κ = −1    probability flow, noise prediction (the noise term is absent)
    c = α,   Y = x̂0,   κ = 2     reverse SDE (3), data prediction

Over a step from t to s, h = λ_s − λ_t, the linear part is solved exactly and Y is replaced by the polynomial
through the last k predictions Y_j at λ_j:

    x_s = c_s [e^(−κh) x_t/c_t + Σ_j w_j Y_j] + σ_s √(1 − e^(−2(κ−1)h)) z    (17)
    w_j = ∫ κ e^(κ(λ − λ_s)) ℓ_j(λ) dλ,   ℓ_j the Lagrange polynomials        (18)

Every solver of this file is (17) with the weights (18), for any process and any grid: the predictor
extrapolates (Adams–Bashforth); the corrector redoes the last step with the evaluation at its end, which the
next predictor needs anyway, as one more point (Adams–Moulton).

The first step has one point to go by, the second two: as h → 0 that leaves order 2, with a corrector 3. But
at t_max the predictions change with e^(2λ) only, and it is not seen before the error is below 1e-7: until
then the orders declared are those measured.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.processes.base import NoiseLevel
from scorelight.samplers.base import Levels, Noise, Predict, Sampler
from scorelight.times import LogSNRGrid, MixedGrid, NearestLevels, TimeGrid

__all__ = ["DPMSolverPP", "ExponentialAdams", "UniPC"]


class DPMSolverPP(Sampler):
    """DPM-Solver++, multistep (Lu et al., 2022, "DPM-Solver++", algorithm 2 and app. B): (17) with c = α.

    Order 1 is DDIM (η = 0; for the SDE η = 1). Order 2 is the paper's 2M and SDE-2M to the digit: for (18) it
    takes the linear polynomial at the middle of the step. Order 3 is (18) itself: the published third-order
    code has half of the quadratic term, and measures 2.2. For the SDE it is refused: one normal number a step
    cannot carry more than weak order 2.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: Where the times lie (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        order: Predictions interpolated, 1 to 3; fewer in the first steps.
        stochastic: Whether to solve the reverse SDE instead of the probability flow; order 1 or 2.
    """

    def __init__(
        self,
        num_steps: int = 20,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        order: Literal[1, 2, 3] = 2,
        stochastic: bool = False,
    ) -> None:
        super().__init__(num_steps, grid or NearestLevels(LogSNRGrid()), denoise)
        _check_order("DPMSolverPP", order, 2 if stochastic else 3, " with stochastic=true" * stochastic)
        self.order: int = order
        self.stochastic = stochastic

    def trajectory(self, predict: Predict, x: Tensor, levels: Levels, noise: Noise) -> Iterator[Tensor]:
        """One evaluation a step."""
        kappa = 2 if self.stochastic else 1
        points: deque[_Point] = deque(maxlen=self.order)
        for t, s in pairwise(levels):
            points.appendleft((_lambda(t), predict(x, t).x0))
            x = _step(x, t, s, points, kappa, rough=True)
            if self.stochastic:
                x = x + noise(x) * (s.sigma * math.sqrt(-math.expm1(2 * (_lambda(t) - _lambda(s)))))
            yield x


class UniPC(Sampler):
    """UniPC in data prediction with B₂(h) = e^h − 1 (Zhao et al., 2023, algorithms 1 and 2): (17) with c = α.

    Predictor and corrector are the paper's to the digit: its weights are (18), but where two points are
    interpolated it takes the polynomial at the middle of the step. The last state is not corrected, as that
    would take an evaluation more.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: Where the times lie (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        order: Predictions interpolated by the predictor, 1 to 3; fewer in the first steps. The corrector
            interpolates one more.
        corrector: Whether to correct; without it this is UniP, at order 2 the same as `DPMSolverPP`.
    """

    def __init__(
        self,
        num_steps: int = 20,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        order: Literal[1, 2, 3] = 2,
        corrector: bool = True,
    ) -> None:
        super().__init__(num_steps, grid or NearestLevels(LogSNRGrid()), denoise)
        _check_order("UniPC", order, 3)
        self.order: int = order
        self.corrector = corrector

    def trajectory(self, predict: Predict, x: Tensor, levels: Levels, noise: Noise) -> Iterator[Tensor]:
        """One evaluation a step."""
        n = self.order
        return _predict_and_correct(predict, x, levels, n, n, self.corrector, kappa=1, rough=True)


class ExponentialAdams(Sampler):
    """Exponential Adams–Bashforth predictor and Adams–Moulton corrector: (17) with (18), exact for any steps.

    The predictor is DEIS (Zhang & Chen, 2023, tAB) with polynomials in λ instead of t; the corrector is that
    of SA-Solver (Xue et al., 2023) without its noise. The last state is not corrected, as that would take an
    evaluation more; so where the last step is long, h > ½, it is of first order.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: Where the times lie (default `MixedGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        order: Predictions interpolated by the predictor, 1 to 4; fewer in the first steps. The corrector
            interpolates one more.
        corrector: Whether to correct; without it the start leaves order 2.
        data_prediction: Whether to interpolate x̂0 (c = α) instead of ε̂ (c = σ); with `TrailingGrid`, better
            for six steps or fewer.
    """

    def __init__(
        self,
        num_steps: int = 20,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        order: Literal[1, 2, 3, 4] = 3,
        corrector: bool = True,
        data_prediction: bool = False,
    ) -> None:
        super().__init__(num_steps, grid or NearestLevels(MixedGrid()), denoise)
        _check_order("ExponentialAdams", order, 4)
        self.order: int = order if corrector else min(order, 2)
        self.num_points = order
        self.corrector = corrector
        self.data_prediction = data_prediction

    def trajectory(self, predict: Predict, x: Tensor, levels: Levels, noise: Noise) -> Iterator[Tensor]:
        """One evaluation a step."""
        n, kappa = self.num_points, 1 if self.data_prediction else -1
        last = n if _lambda(levels[-1]) - _lambda(levels[-2]) <= 0.5 else 1
        return _predict_and_correct(predict, x, levels, n, last, self.corrector, kappa)


_Point = tuple[float, Tensor]
"""Where on the λ axis a prediction Y was made, and Y."""


def _predict_and_correct(
    predict: Predict,
    x: Tensor,
    levels: Levels,
    order: int,
    last_order: int,
    corrector: bool,
    kappa: int,
    rough: bool = False,
) -> Iterator[Tensor]:
    """One evaluation a step: it ends the step before, by the corrector, and starts the next."""
    points: deque[_Point] = deque(maxlen=order + 1)
    before, last = x, len(levels) - 2
    for i, (t, s) in enumerate(pairwise(levels)):
        pred = predict(x, t)
        points.appendleft((_lambda(t), pred.epsilon if kappa < 0 else pred.x0))
        if i and corrector:
            x = _step(before, levels[i - 1], t, points, kappa, rough)
        before = x
        x = _step(x, t, s, list(points)[: last_order if i == last else order], kappa, rough)
        yield x


def _step(
    x: Tensor, t: NoiseLevel, s: NoiseLevel, points: Sequence[_Point], kappa: int, rough: bool
) -> Tensor:
    """(17) without the noise, from x at t to s, with the polynomial through the points."""
    start, h = _lambda(t), _lambda(s) - _lambda(t)
    c_t, c_s = (t.sigma, s.sigma) if kappa < 0 else (t.alpha, s.alpha)
    weights = _weights(kappa * h, [(at - start) / h for at, _ in points], rough)
    x = x * (c_s / c_t * math.exp(-kappa * h))
    for weight, (_, value) in zip(weights, points, strict=True):
        x = torch.add(x, value, alpha=c_s * weight)
    return x


def _weights(z: float, places: Sequence[float], rough: bool = False) -> list[float]:
    """w_j of (18) for a step of length 1, z = κh, and points at the places: Σ_j w_j r_j^k = m_k for k < n.

    The system is solved as by Björck & Pereyra (1970), algorithm 2, without cancellation for ordered places.

    Args:
        z: κh.
        places: r_j = (λ_j − λ_t)/h, all different: 0 is the start of the step and 1 its end.
        rough: Whether two points use m_1 = m_0/2, the linear polynomial in the middle of the step.
    """
    n = len(places)
    w = _moments(z, n)
    if rough and n == 2:
        w[1] = w[0] / 2
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            w[i] -= places[k] * w[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            w[i] /= places[i] - places[i - k - 1]
        for i in range(k, n - 1):
            w[i] -= w[i + 1]
    return w


def _moments(z: float, n: int) -> list[float]:
    """m_k = ∫₀¹ z e^(−z(1−r)) r^k dr for k < n: m_0 = 1 − e^−z, m_k = 1 − k m_(k−1)/z.

    Upwards this multiplies rounding errors by k/z, downwards by z/k; they shrink in the direction taken.
    """
    if abs(z) >= 1:
        moments = [-math.expm1(-z)]
        for k in range(1, n):
            moments.append(1 - k / z * moments[-1])
        return moments
    moments = [0.0]
    for k in range(n + 16, 0, -1):  # z^16/16! is below the rounding error
        moments.append(z / k * (1 - moments[-1]))
    return moments[: -n - 1 : -1]


def _lambda(level: NoiseLevel) -> float:
    """λ = log(α/σ) of a level of floats."""
    return math.log(level.alpha / level.sigma)


def _check_order(name: str, order: int, highest: int, more: str = "") -> None:
    if not 1 <= order <= highest:
        raise ConfigurationError(f"{name}: order={order}: must be from 1 to {highest}{more}")
