"""The log-density of data under a model.

Along the probability flow (20) of z = x_t/√(α² + σ²), from θ₀ at t_min to θ₁ at t_max,

    log p(z at θ₀) = log p(z at θ₁) + ∫ tr ∂v̂/∂z dθ                                                  (21)

(Chen et al., 2018; Song et al., 2021, eq. 39), integrated in τ = log tan θ: of a network's x̂0 and ε̂ the trace
may grow as 1/sin θ and 1/cos θ, and dθ = sin θ cos θ dτ compensates both. The trace is exact, by D backward
passes, or vᵀ(∂v̂/∂z)v for random v that stay the same along the flow (Hutchinson, 1990; Grathwohl et al.,
2019); one evaluation of the network gives it together with v̂. The result of (21) is the density at t_min, of
noisy data. There are three estimates of the density of clean data, with σ̄ = σ/α at t_min and p_σ̄ the density
of x0 + σ̄ ε:

    smoothed    log p_σ̄(x0) = log p_{t_min}(α x0) + D log α        exact, for samples x_{t_min}/α
    corrected   log p_σ̄(x0) − ½σ̄² [tr ∇²log p_σ̄ + ‖∇log p_σ̄‖²](x0)   an estimate of log p(x0)          (22)
    bound       log p_{t_min}(x_t) + log p(x0|x_t) − log q(x_t|x0)  below log p(x0), in the mean over ε  (23)

The bracket of (22) is ∂log p_σ̄/∂(½σ̄²), by the heat equation: for a density that is smooth on the scale σ̄ the
error of `corrected` is of order σ̄⁴, that of `smoothed` σ̄². In (23), p is the model that in a last step draws
x0 from N(x̂0, σ̄² I) (Song, Durkan et al., 2021), and −log q the entropy that is easily forgotten (Kim et
al., 2022). `smoothed` and `bound` belong to densities that integrate to one, so that in the mean over the
data neither can exceed the true density's; `corrected`, the closest, can.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scorelight.batch import select_conditions
from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError, nearest
from scorelight.likelihood.bounds import negative_log_likelihood
from scorelight.numerics.adams import adams
from scorelight.numerics.autodiff import input_gradients, quadratic_forms, unit_vectors
from scorelight.processes.base import NoiseLevel
from scorelight.rng import Generators, rademacher_like, randn_like

__all__ = [
    "Divergence",
    "LogDensity",
    "LogLikelihood",
    "Probe",
    "Truncation",
    "check_density",
    "log_likelihood",
]

Divergence = Literal["exact", "hutchinson"]
Probe = Literal["rademacher", "gaussian"]
Truncation = Literal["corrected", "smoothed", "bound"]
LogDensity = Callable[[Tensor], Tensor]
"""Log-density in nats, shape (B,), of x of shape (B, ...)."""

EXACT_UP_TO = 32
"""Dimensions up to which the trace is exact unless asked otherwise."""


@dataclass(frozen=True, slots=True)
class LogLikelihood:
    """The result of `log_likelihood`, all of shape (B,)."""

    log_prob: Tensor
    """Nats, float64."""
    standard_error: Tensor
    """Of `log_prob` over the probes: 0 with the exact trace, NaN with a single probe."""
    num_evaluations: Tensor
    """Evaluations of the network."""


@torch.no_grad()
def log_likelihood(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    divergence: Divergence | None = None,
    num_probes: int = 8,
    probe: Probe = "rademacher",
    truncation: Truncation = "corrected",
    prior: LogDensity | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    num_steps: int | None = None,
    chunk_size: int = 64,
    generator: Generators = None,
    **cond: Any,
) -> LogLikelihood:
    """Log-density of x0 in nats under the probability flow of the model, equations (21) to (23).

    It is the density of the model's samples, which start from N(0, σ² I) at t_max or from the `prior`. The
    data have another density there, N(0, σ² I) blurred by α x0, which is known for analytic data only: they
    differ by about α x0/σ nats per dimension (0.02 for σ_max = 50 and data of order one). There is no
    communication between processes: ranks may call it different numbers of times. Not differentiable.

    Args:
        denoiser: The model; it carries the process, which may be a table.
        x0: Clean data of any shape (B, ...).
        divergence: ``exact``, D backward passes per evaluation, or ``hutchinson``, `num_probes` of them;
            by default exact up to 32 dimensions.
        num_probes: Directions v per example, kept over the flow; the standard error needs two.
        probe: Distribution of v; signs vary less than normal ones.
        truncation: How the density of clean data follows from that at t_min, see this module's docstring.
        prior: Log-density at t_max (default: the process's `prior_log_prob`).
        rtol: Relative tolerance of a step, of z and of log p per dimension.
        atol: Absolute tolerance of a step, likewise.
        num_steps: Equal steps of log σ/α, one evaluation each and one more, instead of the tolerances: the
            cost is known, the error is not. Cheaper for networks whose output is rough in the noise level.
        chunk_size: Directions of one backward pass; bounds memory.
        generator: Source of the probes and of the noise of `bound`; a `PhiloxGenerator` makes
            example i independent of its batch.
        **cond: Conditions for the network; rows of tensors belong to the examples.
    """
    check_density(x0)
    _check_names(divergence, probe, truncation)
    model = _Model(denoiser, _probes(x0, divergence, num_probes, probe, generator), chunk_size, cond, len(x0))
    clean, _ = denoiser.process.end_levels()
    epsilon = randn_like(x0, generator) if truncation == "bound" else torch.zeros_like(x0)
    x = clean.alpha * x0 + clean.sigma * epsilon
    log_prob, num_evaluations = _log_prob_at_t_min(model, x, prior, rtol, atol, num_steps)
    if truncation == "bound":
        log_prob = log_prob + _decoded(denoiser, x0, epsilon, x, clean, cond)[:, None]
    else:
        log_prob = log_prob + x0[0].numel() * math.log(clean.alpha)
    if truncation == "corrected":
        log_prob = log_prob - _smoothing(model, x / clean.length, clean)
    error = standard_error(log_prob, exact=model.probes is None)
    return LogLikelihood(log_prob.mean(1), error, num_evaluations + int(truncation != "smoothed"))


@dataclass(frozen=True, slots=True)
class _Model:
    """v̂ and its trace for some examples of a batch: one evaluation of the network a call."""

    denoiser: Denoiser
    probes: Tensor | None
    chunk_size: int
    cond: dict[str, Any]
    batch_size: int

    def __call__(self, theta: Tensor, z: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """v̂, of z's shape, and tr ∂v̂/∂z, (n, 1) in float64, or the estimates of K probes, (n, K)."""
        cond = select_conditions(self.cond, index, self.batch_size)
        with input_gradients(z, theta, *cond.values()) as ((z, theta, *values), _):
            level = self.denoiser.process.at_angle(theta, like=z)
            cond = dict(zip(cond, values, strict=True))
            v = self.denoiser.predict(level.length * z, level, **cond).angular_velocity
            trace = self._trace(v, z, index)
        return v.detach(), trace.double()

    def _trace(self, v: Tensor, z: Tensor, index: Tensor) -> Tensor:
        if self.probes is None:
            axes = unit_vectors(z, self.chunk_size)
            return torch.stack([quadratic_forms(v, z, part).sum(0) for part in axes]).sum(0)[:, None]
        parts = torch.split(self.probes[:, index], self.chunk_size)
        return torch.cat([quadratic_forms(v, z, part) for part in parts]).mT

    def rates(self, tau: Tensor, state: tuple[Tensor, ...], index: Tensor) -> tuple[Tensor, ...]:
        """The derivatives with respect to τ of z and of the integral of (21) per dimension."""
        theta = tau.exp().atan()
        v, trace = self(theta, state[0], index)
        rate = theta.sin() * theta.cos()
        return v * rate.to(v.dtype).reshape(-1, *(1,) * (v.ndim - 1)), rate[:, None] * trace / v[0].numel()


def _log_prob_at_t_min(
    model: _Model, x: Tensor, prior: LogDensity | None, rtol: float, atol: float, num_steps: int | None
) -> tuple[Tensor, Tensor]:
    """Log p_{t_min}(x) of (21) for each probe, shape (B, K), and the evaluations, shape (B,)."""
    process, probes, size = model.denoiser.process, model.probes, x[0].numel()
    clean, noisy = process.end_levels()
    zero = x.new_zeros(len(x), 1 if probes is None else len(probes), dtype=torch.float64)
    first, last = (math.log(math.tan(level.angle)) for level in (clean, noisy))
    solution = adams(
        model.rates, (x / clean.length, zero), first, last, rtol=rtol, atol=atol, num_steps=num_steps
    )
    z, integral = solution.state
    terminal = (prior or process.prior_log_prob)(noisy.length * z).double()
    log_prob = terminal[:, None] + size * (integral + math.log(noisy.length / clean.length))
    return log_prob, solution.num_evaluations


def _smoothing(model: _Model, z: Tensor, clean: NoiseLevel[float]) -> Tensor:
    """½σ̄² [tr ∇²log p_σ̄ + ‖∇log p_σ̄‖²] of (22) for each probe, by ε̂ = sin θ z + cos θ v̂ = −σ̄ ∇log p_σ̄."""
    theta = torch.full((len(z),), clean.angle, dtype=torch.float64, device=z.device)
    v, trace = model(theta, z, torch.arange(len(z), device=z.device))
    sine, cosine = math.sin(clean.angle), math.cos(clean.angle)
    squared = (sine * z + cosine * v).double().square().flatten(1).sum(1, keepdim=True)
    return 0.5 * (squared - sine * (sine * z[0].numel() + cosine * trace))


def _decoded(
    denoiser: Denoiser, x0: Tensor, epsilon: Tensor, x: Tensor, level: NoiseLevel[float], cond: dict[str, Any]
) -> Tensor:
    """Log p(x0|x_t) − log q(x_t|x0) of (23), shape (B,)."""
    mean = denoiser.predict(x, level, **cond).x0.double()
    variance = torch.full_like(mean, -level.log_snr)
    log_normal = -0.5 * (epsilon.double() ** 2 + math.log(2 * math.pi)) - math.log(level.sigma)
    return -negative_log_likelihood(mean, variance, x0, None) - log_normal.flatten(1).sum(1)


def _probes(
    x0: Tensor, divergence: Divergence | None, num_probes: int, probe: Probe, generator: Generators
) -> Tensor | None:
    """Directions of shape (K, B, ...), or None for the exact trace."""
    if num_probes < 1:
        raise ConfigurationError(f"num_probes={num_probes}: must be at least 1")
    if divergence == "exact" or (divergence is None and x0[0].numel() <= EXACT_UP_TO):
        return None
    draw = rademacher_like if probe == "rademacher" else randn_like
    return torch.stack([draw(x0, generator) for _ in range(num_probes)])


def standard_error(estimates: Tensor, exact: bool) -> Tensor:
    """Of the mean of estimates of shape (B, K): shape (B,)."""
    if exact or estimates.shape[1] < 2:
        return torch.full_like(estimates[:, 0], 0.0 if exact else torch.nan)
    return estimates.std(1) / math.sqrt(estimates.shape[1])


def check_density(x0: Tensor) -> None:
    """Raise if the data are integers, which have no density."""
    if not x0.is_floating_point():
        raise ConfigurationError(
            f"log_likelihood: x0 is of type {x0.dtype}, and integers have no density; use bits_per_dim"
        )


def _check_names(divergence: Divergence | None, probe: Probe, truncation: Truncation) -> None:
    for name, value, choices in (
        ("divergence", divergence, get_args(Divergence)),
        ("probe", probe, get_args(Probe)),
        ("truncation", truncation, get_args(Truncation)),
    ):
        if value is not None and value not in choices:
            raise ConfigurationError(f"{name}={value!r}; {nearest(value, choices)}")
