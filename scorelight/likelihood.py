"""How likely data are under a model: log-density and bits per dimension.

Along the probability flow (20) of z = x_t/√(α² + σ²), from θ₀ at t_min to θ₁ at t_max,

    log p(z at θ₀) = log p(z at θ₁) + ∫ tr ∂v̂/∂z dθ                                                  (21)

(Chen et al., 2018; Song et al., 2021, eq. 39), integrated in τ = log tan θ: of a network's x̂0 and ε̂ the trace
may grow as 1/sin θ and 1/cos θ, and dθ = sin θ cos θ dτ makes up for both. The trace is exact, by D passes
backward, or vᵀ(∂v̂/∂z)v for random v that are kept over the flow (Hutchinson, 1990; Grathwohl et al., 2019);
one evaluation of the network gives it together with v̂. What (21) leads to is the density at t_min, of noisy
data. There are three ways on to that of clean data, with σ̄ = σ/α at t_min and p_σ̄ the density of x0 + σ̄ ε:

    smoothed    log p_σ̄(x0) = log p_{t_min}(α x0) + D log α        exact, for samples x_{t_min}/α
    corrected   log p_σ̄(x0) − ½σ̄² [tr ∇²log p_σ̄ + ‖∇log p_σ̄‖²](x0)   an estimate of log p(x0)          (22)
    bound       log p_{t_min}(x_t) + log p(x0|x_t) − log q(x_t|x0)  below log p(x0), in the mean over ε  (23)

The bracket of (22) is ∂log p_σ̄/∂(½σ̄²), by the heat equation: the error left is of order σ̄⁴, where that of
`smoothed` is σ̄², for a density that is smooth on the scale σ̄. In (23), p is the model that goes on to draw
x0 from N(x̂0, σ̄² I) (Song, Durkan et al., 2021), and −log q the entropy that is easily forgotten (Kim et
al., 2022). `smoothed` and `bound` belong to densities that integrate to one, so that in the mean over the
data neither can exceed what the data allow; `corrected`, the closest, can.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scorelight.autodiff import input_gradients, quadratic_forms, unit_vectors
from scorelight.bounds import negative_log_likelihood
from scorelight.denoiser import Denoiser
from scorelight.dequantization import Dequantizer, UniformDequantization
from scorelight.errors import ConfigurationError, nearest
from scorelight.integrate import State, adams
from scorelight.probability_flow import angle, angular_velocity, ends, length, level_at, select
from scorelight.processes.base import NoiseLevel
from scorelight.seeding import Generators, rademacher_like, randn_like

__all__ = [
    "BitsPerDim",
    "LogLikelihood",
    "Protocol",
    "bits_per_dim",
    "grey_levels",
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
    """What `log_likelihood` found, all of shape (B,)."""

    log_prob: Tensor
    """Nats, float64."""
    standard_error: Tensor
    """Of `log_prob` over the probes: 0 with the exact trace, NaN where one probe cannot tell."""
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

    It is the density of what the model samples: from N(0, σ² I) at t_max unless a `prior` says otherwise.
    The data themselves have another density there, N(0, σ² I) blurred by α x0, which is known for none but
    analytic ones: of the order of α x0/σ nats per dimension lie between the two (0.02 for σ_max = 50 and data
    of order one). No process group is spoken to: a rank may call it as often as it likes. Not
    differentiable.

    Args:
        denoiser: The model; it carries the process, which may be a table.
        x0: Clean data of any shape (B, ...).
        divergence: ``exact``, D passes backward per evaluation, or ``hutchinson``, `num_probes` of them;
            by default exact up to 32 dimensions.
        num_probes: Directions v per example, kept over the flow; the standard error needs two.
        probe: Distribution of v; signs vary less than normal ones.
        truncation: What is made of the density at t_min, see the top of this module.
        prior: Log-density at t_max (default: the process's `prior_log_prob`).
        rtol: Relative tolerance of a step, of z and of log p per dimension.
        atol: Absolute tolerance of a step, likewise.
        num_steps: Equal steps of log σ/α, an evaluation each and one more, instead of the tolerances: the
            cost is known, the error is not. Cheaper for networks whose output is rough in the noise level.
        chunk_size: Directions taken backward together; bounds memory.
        generator: Where probes and the noise of `bound` come from; one per example makes example i
            independent of its batch.
        **cond: Conditions for the network, rows of tensors going with the examples.
    """
    _check_density(x0)
    _check_named(
        divergence=(divergence, Divergence), probe=(probe, Probe), truncation=(truncation, Truncation)
    )
    size = x0[0].numel()
    probes = _probes(x0, divergence, num_probes, probe, generator)
    model = _Model(denoiser, probes, chunk_size, cond, len(x0))
    clean, noisy = ends(denoiser.process)
    epsilon = randn_like(x0, generator) if truncation == "bound" else torch.zeros_like(x0)
    x = clean.alpha * x0 + clean.sigma * epsilon
    zero = x0.new_zeros(len(x0), 1 if probes is None else len(probes), dtype=torch.float64)
    start = (x / length(clean), zero)
    way = (math.log(math.tan(angle(level))) for level in (clean, noisy))
    solution = adams(model.rates, start, *way, rtol=rtol, atol=atol, num_steps=num_steps)
    z, integral = solution.state
    terminal = (prior or denoiser.process.prior_log_prob)(length(noisy) * z).double()
    log_prob = terminal[:, None] + size * (integral + math.log(length(noisy) / length(clean)))
    more = int(truncation != "smoothed")
    if truncation == "bound":
        log_prob = log_prob + _decoded(denoiser, x0, epsilon, x, clean, cond)[:, None]
    else:
        log_prob = log_prob + size * math.log(clean.alpha)
    if truncation == "corrected":
        log_prob = log_prob - _smoothing(model, start[0], clean)
    error = _standard_error(log_prob, exact=probes is None)
    return LogLikelihood(log_prob.mean(1), error, solution.num_evaluations + more)


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
        cond = select(self.cond, index, self.batch_size)
        with input_gradients(z, theta, *cond.values()) as ((z, theta, *values), _):
            level = level_at(self.denoiser.process, theta, z)
            cond = dict(zip(cond, values, strict=True))
            v = angular_velocity(self.denoiser.predict(length(level) * z, level, **cond))
            trace = self._trace(v, z, index)
        return v.detach(), trace.double()

    def _trace(self, v: Tensor, z: Tensor, index: Tensor) -> Tensor:
        if self.probes is None:
            axes = unit_vectors(z, self.chunk_size)
            return torch.stack([quadratic_forms(v, z, part).sum(0) for part in axes]).sum(0)[:, None]
        parts = torch.split(self.probes[:, index], self.chunk_size)
        return torch.cat([quadratic_forms(v, z, part) for part in parts]).mT

    def rates(self, tau: Tensor, state: State, index: Tensor) -> State:
        """The derivatives with respect to τ of z and of the integral of (21) per dimension."""
        theta = tau.exp().atan()
        v, trace = self(theta, state[0], index)
        rate = theta.sin() * theta.cos()
        return v * rate.to(v.dtype).reshape(-1, *(1,) * (v.ndim - 1)), rate[:, None] * trace / v[0].numel()


def _smoothing(model: _Model, z: Tensor, clean: NoiseLevel) -> Tensor:
    """½σ̄² [tr ∇²log p_σ̄ + ‖∇log p_σ̄‖²] of (22) for each probe, by ε̂ = sin θ z + cos θ v̂ = −σ̄ ∇log p_σ̄."""
    theta = torch.full((len(z),), angle(clean), dtype=torch.float64, device=z.device)
    v, trace = model(theta, z, torch.arange(len(z), device=z.device))
    sine, cosine = math.sin(angle(clean)), math.cos(angle(clean))
    squared = (sine * z + cosine * v).double().square().flatten(1).sum(1, keepdim=True)
    return 0.5 * (squared - sine * (sine * z[0].numel() + cosine * trace))


def _decoded(
    denoiser: Denoiser, x0: Tensor, epsilon: Tensor, x: Tensor, level: NoiseLevel, cond: dict[str, Any]
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


def _standard_error(estimates: Tensor, exact: bool) -> Tensor:
    """Of the mean of estimates of shape (B, K): shape (B,)."""
    if exact or estimates.shape[1] < 2:
        return torch.full_like(estimates[:, 0], 0.0 if exact else torch.nan)
    return estimates.std(1) / math.sqrt(estimates.shape[1])


def _check_density(x0: Tensor) -> None:
    if not x0.is_floating_point():
        raise ConfigurationError(
            f"log_likelihood: x0 is of type {x0.dtype}, and integers have no density; use bits_per_dim"
        )


def _check_named(**given: tuple[str | None, Any]) -> None:
    for name, (value, choices) in given.items():
        if value is not None and value not in get_args(choices):
            raise ConfigurationError(f"{name}={value!r}; {nearest(value, get_args(choices))}")


@dataclass(frozen=True, slots=True)
class Protocol:
    """How `bits_per_dim` comes by its number: all that must be said with it.

    Args:
        num_levels: Grey levels of the data, equally spaced; None for data that are not quantised, whose
            density is then given in nats per dimension.
        data_range: Where the first and the last grey level lie. Each stands for the interval of one spacing
            around it; score_sde's (U + 255 x)/256, scaled to [−1, 1], is (−255/256, 255/256).
        repeats: Dequantisations, probes and noises drawn for each example, averaged.
        truncation: See `log_likelihood`; with `corrected` the bits are an estimate, and no bound.
        divergence: See `log_likelihood`.
        num_probes: See `log_likelihood`.
        probe: See `log_likelihood`.
        rtol: See `log_likelihood`. 3·10⁻⁴ costs some 50 evaluations and 0.003 bits/dim on trained MNIST.
        atol: See `log_likelihood`.
        num_steps: See `log_likelihood`. 40 cost 41 evaluations and up to 0.006 bits/dim on trained MNIST.
        dequantization: ``uniform``, ``learned``, or ``none`` for data that are not quantised; `bits_per_dim`
            fills it in from what it was given, and refuses a protocol that says something else.
    """

    num_levels: int | None = 256
    data_range: tuple[float, float] = (-1.0, 1.0)
    repeats: int = 1
    truncation: Truncation = "smoothed"
    divergence: Divergence | None = None
    num_probes: int = 1
    probe: Probe = "rademacher"
    rtol: float = 3e-4
    atol: float = 3e-4
    num_steps: int | None = None
    dequantization: str | None = None

    def __post_init__(self) -> None:
        if self.num_levels is not None and self.num_levels < 2:
            raise ConfigurationError(f"num_levels={self.num_levels}: at least 2 are needed")
        for name in ("repeats", "num_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigurationError(f"{name}={value}: must be at least 1")
        if not self.data_range[0] < self.data_range[1]:
            raise ConfigurationError(f"data_range={self.data_range}: must increase")

    @property
    def unit(self) -> str:
        """Bits/dim of a probability, nats/dim of a density."""
        return "nats/dim" if self.num_levels is None else "bits/dim"

    @property
    def width(self) -> float:
        """Distance between two grey levels in the units of the data."""
        low, high = self.data_range
        return math.nan if self.num_levels is None else (high - low) / (self.num_levels - 1)


_PASSED_ON = ("truncation", "divergence", "num_probes", "probe", "rtol", "atol", "num_steps")


@dataclass(frozen=True, slots=True)
class BitsPerDim:
    """What `bits_per_dim` found; `value`, `standard_error` and `num_evaluations` are of shape (B,)."""

    value: Tensor
    """In `protocol.unit`, smaller is better."""
    standard_error: Tensor
    """Of `value` over the repeats; NaN where a single one cannot tell."""
    num_evaluations: Tensor
    protocol: Protocol

    @property
    def mean(self) -> float:
        """Average over the examples."""
        return self.value.mean().item()

    @property
    def standard_error_of_mean(self) -> float:
        """Of `mean`, as an estimate for the distribution the examples are drawn from."""
        return self.value.std().item() / math.sqrt(len(self.value)) if len(self.value) > 1 else math.nan


@torch.no_grad()
def bits_per_dim(
    denoiser: Denoiser,
    x: Tensor,
    protocol: Protocol | None = None,
    *,
    dequantizer: Dequantizer | None = None,
    prior: LogDensity | None = None,
    generator: Generators = None,
    **cond: Any,
) -> BitsPerDim:
    """Bits per dimension that the model needs for quantised data: (24), an upper bound, over D log 2.

    Args:
        denoiser: The model, of data in `protocol.data_range`.
        x: Grey levels, shape (B, ...): integers from 0, or floats that lie on the levels.
        protocol: How (default: 256 levels from −1 to 1).
        dequantizer: Where within its level a value is put (default: anywhere, `UniformDequantization`).
        prior: See `log_likelihood`.
        generator: Where dequantisation, probes and noise come from; one per example, or one for all.
        **cond: Conditions for the network.

    Raises:
        ConfigurationError: If x is not on the grey levels: it was dequantised already, or has other levels.
    """
    protocol = _stated(protocol or Protocol(), dequantizer)
    centres, spread = grey_levels(x, protocol)
    options = {name: getattr(protocol, name) for name in _PASSED_ON}
    found, nats = [], []
    for _ in range(protocol.repeats):
        noisy, log_q = centres, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if spread:
            noisy, log_q = (dequantizer or UniformDequantization()).draw(centres, spread, generator)
        found.append(log_likelihood(denoiser, noisy, prior=prior, generator=generator, **options, **cond))
        nats.append((log_q - found[-1].log_prob) / x[0].numel())
    unit, offset = (math.log(2), math.log2(spread)) if spread else (1.0, 0.0)
    value = torch.stack(nats, 1) / unit - offset
    known = protocol.num_levels is None and protocol.repeats == 1
    error = found[0].standard_error / x[0].numel() if known else _standard_error(value, False)
    count = torch.stack([f.num_evaluations for f in found]).sum(0)
    return BitsPerDim(value.mean(1), error, count, protocol)


def _stated(protocol: Protocol, dequantizer: Dequantizer | None) -> Protocol:
    """The protocol with the dequantisation in it."""
    if protocol.num_levels is None and dequantizer:
        raise ConfigurationError(
            f"dequantizer={type(dequantizer).__name__}: with Protocol(num_levels=None) the data are not "
            "quantised, and there is nothing to dequantise; give their num_levels, or no dequantizer"
        )
    kind = dequantizer.kind if dequantizer else "none" if protocol.num_levels is None else "uniform"
    if protocol.dequantization not in (None, kind):
        raise ConfigurationError(
            f"Protocol(dequantization={protocol.dequantization!r}): but by what bits_per_dim was given it is "
            f"{kind!r}; pass dequantizer=load_dequantizer(FILE) for 'learned', nothing for 'uniform'"
        )
    return replace(protocol, dequantization=kind)


def grey_levels(x: Tensor, protocol: Protocol) -> tuple[Tensor, float]:
    """The data as floats and the distance of their levels, 0 for data that are not quantised.

    Raises:
        ConfigurationError: If x is not on the grey levels.
    """
    if protocol.num_levels is None:
        _check_density(x)
        return x, 0.0
    low, last = protocol.data_range[0], protocol.num_levels - 1
    level = (x.double() - low) / protocol.width if x.is_floating_point() else x.double()
    off = (level - level.round()).abs().max().item()
    if not off < 1e-3 or level.min() < -0.5 or level.max() > last + 0.5:
        raise ConfigurationError(
            f"the data x are not on {protocol.num_levels} grey levels from {low:g} to "
            f"{protocol.data_range[1]:g}, or integers from 0 to {last}: they run from {x.min().item():g} to "
            f"{x.max().item():g}, up to {off:.2g} of a level beside them. Give the data as they are before "
            "dequantisation and their number of levels, or Protocol(num_levels=None) for the density of "
            "data that are not quantised, in nats per dimension"
        )
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return (low + protocol.width * level.round()).to(dtype), protocol.width
