"""Is the minimiser of an objective the true score? A statistical test with a known answer.

For data whose score is known, take the exact ε* plus fields φ_k with coefficients θ_k,

    ε_θ(x_t, t) = ε*(x_t, t) + Σ_k θ_k φ_k(c_in x_t, t)                     (14)

stated in the units of a parameterization, as the network of a `NetworkDenoiser`. The true score is the
minimiser only if the gradient of the loss in θ is 0 at θ = 0. It is taken example by example: with mean ḡ
and covariance S over n of them, and the Hessian H of the mean loss,

    T² = n ḡᵀ S⁻¹ ḡ ~ χ²_K,      θ̂ = −H⁻¹ ḡ,      cov θ̂ = H⁻¹ S H⁻¹/n      (15)

where θ̂ is the minimiser itself for the losses here, which are quadratic in the output. The fields are a
constant, the input and its hyperbolic tangent, each at low, middle and high noise. They are gradients of
potentials, so that an energy-based model can be perturbed in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorelight.batch import Batch
from scorelight.denoisers.analytic import AnalyticDenoiser, EmpiricalDenoiser, GaussianMixture
from scorelight.denoisers.base import DelegatingDenoiser, Denoiser, Prediction
from scorelight.denoisers.network import NetworkDenoiser
from scorelight.networks import Energy, ScoreNetwork
from scorelight.objectives.base import Objective
from scorelight.parameterizations import Parameterization, Score
from scorelight.processes.base import AnyLevel, ForwardProcess, NoiseLevel
from scorelight.times import UniformTime
from scorelight.times.base import log_snr_ends

__all__ = ["Certificate", "certify", "known_denoiser", "known_energy"]

_NUM_FIELDS = 9


@dataclass(frozen=True, slots=True)
class Certificate:
    """The result of `certify`: whether the minimiser differs from the true score by more than chance."""

    error: float
    """RMS of ε_θ̂ − ε* over p_t, t and dimensions: the estimated error of the minimiser."""
    resolution: float
    """The root mean square of `error` by chance alone, for an exact objective."""
    p_value: float
    """Probability of a T² at least as large, for an exact objective."""
    control: float
    """The p-value at a score with a known error: close to 0 if the test has the power to detect it."""
    num_examples: int
    """Number n of examples."""

    @property
    def passed(self) -> bool:
        """Whether the gradient is 0 within its error at the true score, and not at the perturbed one."""
        return self.p_value > 1e-6 > self.control


def certify(
    objective: Objective,
    process: ForwardProcess,
    parameterization: Parameterization,
    data: GaussianMixture | Tensor,
    *,
    energy: bool = False,
    learned_variance: bool = False,
    control_error: float = 0.05,
    num_examples: int = 2048,
    max_examples: int = 262_144,
    batch_size: int = 1024,
    seed: int = 0,
) -> Certificate:
    """Test by (15) whether the true score of the data is the minimiser of an objective.

    Args:
        objective: The objective.
        process: The forward process.
        parameterization: What the network outputs.
        data: A density, or a finite set of points of shape (N, ...), whose distribution is then the data's.
        energy: Whether the network is the gradient of a scalar, `Energy`; for a density and `Score`.
        learned_variance: Whether the network outputs a variance too, as `HybridObjective` needs.
        control_error: RMS of ε_θ − ε* of a perturbed score, which the test must reject.
        num_examples: Number of examples at first; more are drawn until the test rejects the perturbed score.
        max_examples: Largest number of examples.
        batch_size: Examples at once; bounds the memory.
        seed: Seed of data, times and noise.

    Raises:
        ConfigurationError: If the objective is not defined for the process.
    """
    objective.check(process)
    model = _Model(data, process, parameterization, energy, learned_variance)
    if isinstance(data, Tensor):
        objective.prepare(lambda: Batch(data.double(), {}))
    generator = torch.Generator().manual_seed(seed)
    gram = model.gram(8192, generator)
    perturbation = torch.full((_NUM_FIELDS,), control_error, dtype=torch.float64) / gram.sum().sqrt()
    batches: list[tuple[Tensor, Tensor, Tensor]] = []
    while True:
        batches.append(model.gradients(objective, batch_size, perturbation, generator))
        if batch_size * len(batches) < num_examples:
            continue
        certificate = _certificate(gram, *(list(column) for column in zip(*batches, strict=True)))
        if certificate.control < 1e-9 or certificate.num_examples >= max_examples:
            return certificate


def _certificate(
    gram: Tensor, exact: list[Tensor], perturbed: list[Tensor], hessians: list[Tensor]
) -> Certificate:
    """Equation (15) for gradients of shape (n, K), Hessians of shape (K, K) summed over examples."""
    gradient, n = torch.cat(exact), sum(map(len, exact))
    hessian = torch.stack(hessians).sum(0) / n
    unit = hessian.diagonal().clamp(min=1e-300) ** -0.5  # the fields have very different weights
    inverse = unit[:, None] * torch.linalg.pinv(unit[:, None] * hessian * unit, rtol=1e-10) * unit
    step = -inverse @ gradient.mean(0)
    spread = inverse @ gradient.T.cov() @ inverse / n
    rounding = 1e-9 * hessian.diagonal()  # of a gradient that is exactly 0
    return Certificate(
        error=(step @ gram @ step).sqrt().item(),
        resolution=(gram @ spread).trace().sqrt().item(),
        p_value=_p_value(gradient, rounding),
        control=_p_value(torch.cat(perturbed), rounding),
        num_examples=n,
    )


def _p_value(gradient: Tensor, rounding: Tensor) -> float:
    """Probability that χ² exceeds T² of gradients of shape (n, K), over the directions with any variance."""
    n, mean = len(gradient), gradient.mean(0)
    covariance = gradient.T.cov() + torch.diag(n * rounding**2)
    unit = covariance.diagonal().clamp(min=1e-300) ** -0.5
    variance, directions = torch.linalg.eigh(unit[:, None] * covariance * unit)
    varies = variance > 1e-10
    t2 = n * ((unit * mean) @ directions[:, varies]).square() @ (1 / variance[varies])
    p_value: Tensor = torch.special.gammaincc(varies.sum().double() / 2, t2 / 2)
    return p_value.item()


class _Model:
    """The family (14): data, and a denoiser with their exact score and a θ for each example."""

    def __init__(
        self,
        data: GaussianMixture | Tensor,
        process: ForwardProcess,
        parameterization: Parameterization,
        energy: bool,
        learned_variance: bool,
    ) -> None:
        self.data = data
        self.process = process
        self.parameterization = parameterization
        self.ends = log_snr_ends(process, torch.device("cpu")).detach()
        self.exact: Denoiser
        if isinstance(data, Tensor):
            self.exact, shape = EmpiricalDenoiser(data.double(), process), data.shape[1:]
        else:
            self.exact, shape = AnalyticDenoiser(data, process), data.shape
        self.denoiser = (
            known_energy(shape, process, self._log_prob)
            if energy
            else known_denoiser(shape, process, parameterization, self._epsilon, learned_variance)
        )

    def sample_data(self, num: int, generator: torch.Generator) -> Tensor:
        """Examples of the data."""
        if isinstance(self.data, Tensor):
            return self.data.double()[torch.randint(len(self.data), (num,), generator=generator)]
        return self.data.sample(num, generator)

    def gram(self, num: int, generator: torch.Generator) -> Tensor:
        """Mean over p_t, t and dimensions of φ_k φ_l, shape (K, K)."""
        x0 = self.sample_data(num, generator)
        t, _ = UniformTime()(self.process, num, generator=generator, device=x0.device)
        x_t = self.process.perturb(x0, torch.randn(x0.shape, generator=generator, dtype=x0.dtype), t)
        fields = self._fields(x_t, self.process.at(t, like=x0)).detach()
        return torch.einsum("bkd,bld->kl", fields, fields) / x0.numel()

    def gradients(
        self, objective: Objective, num: int, perturbation: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of `num` examples at θ = 0 and, for the same draws, at θ = perturbation; Hessian at 0."""
        x0, draws = self.sample_data(num, generator), generator.get_state()
        perturbed, _ = self.derivatives(objective, x0, perturbation, generator)
        exact, hessian = self.derivatives(objective, x0, 0 * perturbation, generator.set_state(draws))
        return exact, perturbed, hessian

    def derivatives(
        self, objective: Objective, x0: Tensor, theta: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Gradient of each example's loss, shape (B, K), and the Hessian of their sum, at the same θ."""
        self.theta = theta.expand(len(x0), -1).clone().requires_grad_()
        loss = objective(self.denoiser, x0, generator=generator).value.sum()
        (gradient,) = torch.autograd.grad(loss, self.theta, create_graph=True)
        rows = [torch.autograd.grad(g.sum(), self.theta, retain_graph=True)[0] for g in gradient.unbind(1)]
        return gradient.detach(), torch.stack(rows).sum(1)

    def _epsilon(self, x_t: Tensor, level: NoiseLevel[Tensor]) -> Tensor:
        """Equation (14)."""
        tilt = torch.einsum("bk,bkd->bd", self.theta, self._fields(x_t, level))
        return self.exact.predict(x_t, level).epsilon + tilt.reshape(x_t.shape)

    def _log_prob(self, x_t: Tensor, level: NoiseLevel[Tensor]) -> Tensor:
        """A log-density of which (14) is −σ times the gradient."""
        assert isinstance(self.data, GaussianMixture)
        tilt = (self.theta * self._potentials(x_t, level)).sum(1) / level.sigma.flatten()
        return self.data.log_prob(x_t, level.alpha, level.sigma) - tilt

    def _fields(self, x_t: Tensor, level: NoiseLevel[Tensor]) -> Tensor:
        """Fields φ_k, shape (B, K, D)."""
        x = (x_t * self.parameterization.input_scale(level)).flatten(1)
        shapes = torch.stack([torch.ones_like(x), x, torch.tanh(2 * x)], dim=1)
        return (self._windows(level)[:, :, None, None] * shapes[:, None]).flatten(1, 2)

    def _potentials(self, x_t: Tensor, level: NoiseLevel[Tensor]) -> Tensor:
        """What the fields are the gradients of in x_t, shape (B, K)."""
        scale = torch.as_tensor(self.parameterization.input_scale(level))
        x = (x_t * scale).flatten(1)
        shapes = torch.stack([x, 0.5 * x**2, 0.5 * torch.log(torch.cosh(2 * x))], dim=1).sum(2)
        return (self._windows(level)[:, :, None] * shapes[:, None]).flatten(1) / scale.reshape(-1, 1)

    def _windows(self, level: NoiseLevel[Tensor]) -> Tensor:
        """Smooth windows on low, middle and high noise, shape (B, 3)."""
        share = (level.log_snr.reshape(-1, 1) - self.ends[0]) / (self.ends[1] - self.ends[0])
        centres = torch.tensor([1 / 6, 1 / 2, 5 / 6], dtype=torch.float64)
        return torch.exp(-0.5 * ((share - centres) * 6) ** 2)


Answer = Callable[[Tensor, NoiseLevel[Tensor]], Tensor]


def known_denoiser(
    shape: Sequence[int],
    process: ForwardProcess,
    parameterization: Parameterization,
    epsilon: Answer,
    learned_variance: bool = False,
) -> Denoiser:
    """A network denoiser whose network computes ε̂(x_t, level), in the units of the parameterization.

    Args:
        shape: Shape of one example.
        process: The forward process.
        parameterization: What the network outputs.
        epsilon: ε̂ of x_t, shape (B, *shape), and its level; of x_t's shape.
        learned_variance: Whether to output an arbitrary variance too.
    """

    def output(x_t: Tensor, level: NoiseLevel[Tensor]) -> Tensor:
        known = epsilon(x_t, level)
        a, b = parameterization.coefficients(level)
        y = a * (x_t - level.sigma * known) / level.alpha + b * known
        return torch.cat([y, torch.tanh(x_t)], dim=1) if learned_variance else y

    network = _Function(shape, lambda x, level: output(x / parameterization.input_scale(level), level))
    return _KnownDenoiser(NetworkDenoiser(network, process, parameterization), network)


def known_energy(shape: Sequence[int], process: ForwardProcess, log_prob: Answer) -> Denoiser:
    """A network denoiser whose network is an `Energy` that computes log p̂_t.

    Args:
        shape: Shape of one example.
        process: The forward process.
        log_prob: log p̂_t of x_t, shape (B, *shape), and its level; of shape (B,).
    """
    parameterization = Score()

    def energy(x: Tensor, level: NoiseLevel[Tensor]) -> Tensor:
        scale = parameterization.input_scale(level)
        return -log_prob(x / scale, level) * torch.as_tensor(scale).flatten()

    function = _Function(shape, energy)
    network = Energy(shape, lambda inner: function)
    return _KnownDenoiser(NetworkDenoiser(network, process, parameterization), function)


class _Function(ScoreNetwork):
    """A network given as a function of its input and of the noise level, which `_KnownDenoiser` sets."""

    level: NoiseLevel[Tensor]

    def __init__(self, shape: Sequence[int], function: Answer) -> None:
        super().__init__(shape)
        self.function = function

    def forward(self, x: Tensor, noise_label: Tensor, label: Tensor | None = None) -> Tensor:
        return self.function(x, self.level)


class _KnownDenoiser(DelegatingDenoiser):
    """A network denoiser that passes the noise level itself to its network, beside the noise label."""

    def __init__(self, denoiser: NetworkDenoiser, function: _Function) -> None:
        super().__init__(denoiser)
        self.function = function

    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        self.function.level = level.map(torch.as_tensor)
        return self.denoiser.predict(x_t, level, **cond)
