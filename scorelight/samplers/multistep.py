"""Multistep solvers: one network evaluation a step.

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

In the angle θ = arctan(σ/α) of equation (20) there is no relaxation: du = v̂ dθ with c = √(α² + σ²), and
w_j = ∫ ℓ_j(θ) dθ. x̂0 changes most at high noise and ε̂ at low noise; v̂ changes slowly at both.

Every solver of this file is (17) with these weights, for any process and any grid: the predictor
extrapolates (Adams–Bashforth); the corrector repeats the last step with the evaluation at its end, which the
next predictor needs anyway, as one more point (Adams–Moulton).

The first step has one point, the second two: as h → 0 this limits the order to 2, with a corrector to 3. But
at t_max the predictions change with e^(2λ) only, so that the limit shows only below an error of 1e-7: above,
the measured orders are the declared ones.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Literal, NamedTuple

from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import Prediction
from scorelight.errors import ConfigurationError
from scorelight.numerics.quadrature import interpolatory_weights
from scorelight.processes.base import NoiseLevel
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler
from scorelight.times import LogSNRGrid, MixedGrid, NearestLevels, TimeGrid, TrailingGrid

__all__ = ["DPMSolverPP", "ExponentialAdams", "UniPC"]


class DPMSolverPP(Sampler):
    """DPM-Solver++, multistep (Lu et al., 2022, "DPM-Solver++", algorithm 2 and app. B): (17) with c = α.

    Order 1 is DDIM (η = 0; for the SDE η = 1). Order 2 is exactly the paper's 2M and SDE-2M: for (18) it uses
    the linear polynomial at the middle of the step. Order 3 is (18) itself: the published third-order code
    has half of the quadratic term, and its measured order is 2.2. The SDE has no order 3: with one normal
    number a step, weak order 2 is the limit.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        order: Predictions interpolated, 1 to 3; fewer in the first steps.
        stochastic: Whether to solve the reverse SDE instead of the probability flow; order 1 or 2.
    """

    default_grid = LogSNRGrid()

    def __init__(
        self,
        num_steps: int = 20,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        order: Literal[1, 2, 3] = 2,
        stochastic: bool = False,
    ) -> None:
        super().__init__(num_steps, grid, denoise)
        _check_order("DPMSolverPP", order, 2 if stochastic else 3, " with stochastic=true" * stochastic)
        self.order: int = order
        self.stochastic = stochastic

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        form = _FORMS["x0"]._replace(kappa=2 if self.stochastic else 1)
        steps = _steps(form, tuple(levels), self.order, rough=True)
        return _trajectory(form, predict, x, levels, steps, noise)


class UniPC(Sampler):
    """UniPC in data prediction with B₂(h) = e^h − 1 (Zhao et al., 2023, algorithms 1 and 2): (17) with c = α.

    Predictor and corrector are exactly the paper's: its weights are (18), but for two points it uses the
    polynomial at the middle of the step. The last state is not corrected, which would need one more
    evaluation.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        order: Predictions interpolated by the predictor, 1 to 3; fewer in the first steps. The corrector
            interpolates one more.
        corrector: Whether to correct; without it this is UniP, at order 2 the same as `DPMSolverPP`.
    """

    default_grid = LogSNRGrid()

    def __init__(
        self,
        num_steps: int = 20,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        order: Literal[1, 2, 3] = 2,
        corrector: bool = True,
    ) -> None:
        super().__init__(num_steps, grid, denoise)
        _check_order("UniPC", order, 3)
        self.order: int = order
        self.corrector = corrector

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        form = _FORMS["x0"]
        steps = _steps(form, tuple(levels), self.order, self.corrector, rough=True)
        return _trajectory(form, predict, x, levels, steps, noise)


class ExponentialAdams(Sampler):
    """Adams–Bashforth predictor and Adams–Moulton corrector with exact weights for any steps.

    The corrector is SA-Solver's (Xue et al., 2023) without its noise. With ε̂ the predictor is DEIS (Zhang &
    Chen, 2023, tAB) with polynomials in λ; with v̂ the coordinates are Salimans & Ho's (2022, app. D). The
    last state is not corrected, which would need one more evaluation.

    The best prediction to interpolate depends on the model. The defaults are for trained networks: x̂0, two or
    three points. For smooth scores, such as exact ones, ``v`` with order 4 is ten times as accurate from
    about fifteen steps on; for networks and few steps it is ten times worse.

    Args:
        num_steps: Steps in all, one network evaluation each.
        grid: The times (default `MixedGrid`, up to 20 steps the `TrailingGrid` of it; on a table
            its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        order: Predictions interpolated by the predictor, 1 to 4; fewer in the first steps (default: 2 up to
            12 steps, then 3). The corrector interpolates one more.
        corrector: Whether to correct (default: from nine steps on; the steps of fewer are too long for it).
            Without it the order is at most 2.
        prediction: What is interpolated: ``x0``, ``v`` or ``epsilon``. With ``epsilon``, a last step with
            h > ½ uses the last prediction only.
    """

    def __init__(
        self,
        num_steps: int = 20,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        order: Literal[1, 2, 3, 4] | None = None,
        corrector: bool | None = None,
        prediction: Literal["x0", "v", "epsilon"] = "x0",
    ) -> None:
        default = TrailingGrid(MixedGrid()) if denoise and num_steps <= 20 else MixedGrid()
        super().__init__(num_steps, grid or NearestLevels(default), denoise)
        self.num_points: int = order if order is not None else (2 if num_steps <= 12 else 3)
        _check_order("ExponentialAdams", self.num_points, 4)
        if prediction not in _FORMS:
            raise ConfigurationError(f"ExponentialAdams: prediction={prediction!r}: x0, v or epsilon")
        self.corrector = num_steps > 8 if corrector is None else corrector
        self.order: int = self.num_points if self.corrector else min(self.num_points, 2)
        self.prediction = prediction

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        long = self.prediction == "epsilon" and _lambda(levels[-1]) - _lambda(levels[-2]) > 0.5
        form, n = _FORMS[self.prediction], self.num_points
        steps = _steps(form, tuple(levels), n, self.corrector, 1 if long else n)
        return _trajectory(form, predict, x, levels, steps, noise)


class _Form(NamedTuple):
    """How the flow is written: the coordinate of a level, c, Y and κ of (16); κ = 0 for du = Y dθ."""

    place: Callable[[NoiseLevel[float]], float]
    scale: Callable[[NoiseLevel[float]], float]
    value: Callable[[Prediction], Tensor]
    kappa: float


def _lambda(level: NoiseLevel[float]) -> float:
    """λ = log(α/σ) of a level of floats."""
    return math.log(level.alpha / level.sigma)


_FORMS = {
    "x0": _Form(_lambda, lambda level: level.alpha, lambda pred: pred.x0, 1),
    "epsilon": _Form(_lambda, lambda level: level.sigma, lambda pred: pred.epsilon, -1),
    "v": _Form(lambda level: level.angle, lambda level: level.length, lambda pred: pred.angular_velocity, 0),
}


class _Step(NamedTuple):
    """x ← scale x + Σ_j weight_j Y_j + noise z, the newest prediction Y first."""

    scale: float
    weights: Sequence[float]
    noise: float


def _trajectory(
    form: _Form,
    predict: BoundDenoiser,
    x: Tensor,
    levels: Levels,
    steps: Sequence[_Step],
    noise: NoiseSource,
) -> Iterator[Tensor]:
    values: deque[Tensor] = deque(maxlen=max(len(step.weights) for step in steps))
    for level, step in zip(levels, steps, strict=False):
        values.appendleft(form.value(predict(x, level)))
        x = x * step.scale
        for weight, value in zip(step.weights, values, strict=False):  # a last step may need fewer
            x.add_(value, alpha=weight)
        if step.noise:
            x.add_(noise(x), alpha=step.noise)
        yield x


@functools.lru_cache(256)  # one batch after the other takes the same steps
def _steps(
    form: _Form,
    levels: tuple[NoiseLevel[float], ...],
    order: int,
    corrector: bool = False,
    last_order: int | None = None,
    rough: bool = False,
) -> list[_Step]:
    """The coefficients of all steps.

    The corrector repeats the last step with one more point: it adds the difference of the weights to the
    state that the next step starts from.

    Args:
        form: How the flow is written.
        levels: The levels of the grid.
        order: Points of the predictor, if there are so many.
        corrector: Whether to correct, with one point more.
        last_order: Points of the predictor of the last step (default: `order`).
        rough: See `_weights`.
    """
    places = [form.place(level) for level in levels]
    steps: list[_Step] = []
    predicted: list[float] = []
    for i, (t, s) in enumerate(pairwise(levels)):
        points = places[i::-1]
        correction: list[float] = []
        if i and corrector:
            corrected = _rates(form, levels[i - 1], t, points[: order + 1], rough)
            correction = [a - b for a, b in zip_longest(corrected, [0, *predicted], fillvalue=0)]
        num = last_order if last_order and i == len(levels) - 2 else order
        predicted = _rates(form, t, s, points[:num], rough)
        h = places[i + 1] - places[i]
        scale = form.scale(s) / form.scale(t) * math.exp(-form.kappa * h)
        weights = [scale * a + b for a, b in zip_longest(correction, predicted, fillvalue=0)]
        std = s.sigma * math.sqrt(abs(math.expm1(-2 * (form.kappa - 1) * h))) if form.kappa > 1 else 0.0
        steps.append(_Step(scale, weights, std))
    return steps


def _rates(
    form: _Form, t: NoiseLevel[float], s: NoiseLevel[float], places: Sequence[float], rough: bool
) -> list[float]:
    """The c_s w_j of (17) for a step from t to s, with the polynomial through points at the places."""
    start, h = form.place(t), form.place(s) - form.place(t)
    weights = _weights(form.kappa * h, [(place - start) / h for place in places], rough)
    return [form.scale(s) * (form.kappa or 1) * h * weight for weight in weights]


def _weights(z: float, places: Sequence[float], rough: bool = False) -> list[float]:
    """∫₀¹ e^(−z(1−r)) ℓ_j(r) dr for points at the places.

    Times κh these are the w_j of (18) with z = κh; for κ = 0, times h.

    Args:
        z: κh.
        places: r_j = (λ_j − λ_t)/h, all different: 0 is the start of the step and 1 its end.
        rough: Whether two points use m_1 = m_0/2, the linear polynomial in the middle of the step.
    """
    moments = _moments(z, len(places))
    if rough and len(places) == 2:
        moments[1] = moments[0] / 2
    return interpolatory_weights(places, moments)


def _moments(z: float, n: int) -> list[float]:
    """m_k = ∫₀¹ e^(−z(1−r)) r^k dr for k < n: m_0 = (1 − e^−z)/z, m_k = (1 − k m_(k−1))/z.

    Upwards this multiplies rounding errors by k/z, downwards by z/k; the direction is the one that reduces
    them.
    """
    if abs(z) >= 1:
        moments = [-math.expm1(-z) / z]
        for k in range(1, n):
            moments.append((1 - k * moments[-1]) / z)
        return moments
    moments = [0.0]
    for k in range(n + 16, 0, -1):  # z^16/16! is below the rounding error
        moments.append((1 - z * moments[-1]) / k)
    return moments[: -n - 1 : -1]


def _check_order(name: str, order: int, highest: int, more: str = "") -> None:
    if not 1 <= order <= highest:
        raise ConfigurationError(f"{name}: order={order}: must be from 1 to {highest}{more}")
