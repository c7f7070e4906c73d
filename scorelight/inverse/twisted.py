"""Sequential Monte Carlo for p(x0 | y)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.inverse.base import PosteriorSampler, bounded_step
from scorelight.inverse.measurement import Measurement
from scorelight.processes.base import NoiseLevel
from scorelight.samplers.ancestral import ancestral_step
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource
from scorelight.times import LogSNRGrid, TimeGrid

__all__ = ["TDS"]


class TDS(PosteriorSampler):
    """The twisted diffusion sampler (Wu et al., 2023, algorithm 1): K particles for each example.

    A particle takes ancestral steps whose mean is moved by c² ∇log p̃(y | x_t), with c² their variance and
    p̃(y | x_t) = N(y; A(x̂0), (σ_y² + r²) I), r² = σ² v/(σ² + α² v). Weights correct for that, and particles
    are drawn again by them (systematically) where the effective number falls below K/2. The result is one of
    the particles, by the last weights, which contain p(y | x0) itself.

    For K → ∞ its law is p(x0 | y) of the ancestral sampler, for any A. The particles of one run are not
    independent: for several draws of one example, run it several times.

    Args:
        measurement: A and σ_y > 0.
        num_steps: Steps in all, one network evaluation and its gradient for each particle.
        grid: The times (default `LogSNRGrid`, on a table its `NearestLevels`).
        denoise: Whether the last step is the posterior mean at t_min.
        num_particles: K.
        variance: v, about that of the data.
    """

    needs_linear = False
    needs_noise = True
    default_grid = LogSNRGrid()

    def __init__(
        self,
        measurement: Measurement,
        num_steps: int = 100,
        grid: TimeGrid | None = None,
        denoise: bool = True,
        num_particles: int = 16,
        variance: float = 1.0,
    ) -> None:
        super().__init__(measurement, num_steps, grid, denoise)
        if num_particles < 2 or not variance > 0:
            raise ConfigurationError(
                f"TDS: num_particles={num_particles}, variance={variance}: at least 2, and positive"
            )
        self.num_particles = num_particles
        self.variance = variance

    @override
    def states(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        yield from self.trajectory(predict, x, levels, noise)

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        b, k = len(x), self.num_particles
        row = torch.arange(b, device=x.device).repeat_interleave(k)
        particles = predict.select(row, b)
        rest = noise(x[:, None].expand(b, k - 1, *x.shape[1:]))
        x = torch.cat([x[:, None], levels[0].sigma * rest], 1).flatten(0, 1)
        log_weight = x.new_zeros(b, k, dtype=torch.float64)
        before = torch.zeros_like(log_weight)
        for t, s in pairwise(levels):
            mean, deviation, push, value = self._twisted(particles, x, t, s)
            chosen, log_weight = _drawn_again(log_weight + value.view(b, k) - before, _uniform(noise, x, b))
            mean, push, before = mean[chosen], push[chosen], value[chosen].view(b, k)
            z = noise(mean.view(b, k, *mean.shape[1:])).flatten(0, 1)
            x = mean + deviation**2 * push + deviation * z
            correction = (deviation * push * (z + deviation * push / 2)).flatten(1).sum(1)
            log_weight = log_weight - correction.double().view(b, k)
            yield x.view(b, k, *x.shape[1:])[:, 0]
        x0 = particles(x, levels[-1]).x0.detach() if self.denoise else x / levels[-1].alpha
        value = self.measurement.log_prob(x0, **particles.cond).double().view(b, k)
        chosen = _one_of(log_weight + value - before, _uniform(noise, x0, b))
        yield (x0 if self.denoise else x)[chosen]

    def _twisted(
        self, predict: BoundDenoiser, x: Tensor, t: NoiseLevel[float], s: NoiseLevel[float]
    ) -> tuple[Tensor, float, Tensor, Tensor]:
        """Mean and deviation of the ancestral step, ∇log p̃(y | x_t), and log p̃(y | x_t), shape (B K,)."""
        r2 = t.sigma**2 * self.variance / (t.sigma**2 + t.alpha**2 * self.variance)
        y = predict.cond["measurement"].clone()
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            pred = predict(leaf, t)
            total = self.measurement.noise.to(x) ** 2 + r2
            error = (y - self.measurement.operator(pred.x0)).square() / total
            value = -0.5 * (error + total.log()).flatten(1).sum(1)
            (push,) = torch.autograd.grad(value.sum(), leaf)
            push = push * bounded_step(self.measurement, pred.x0.detach(), t, y, push)
        mean, deviation = ancestral_step(pred, t, s)
        return mean.detach(), deviation, push, value.detach().double()


def _drawn_again(log_weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Which particles go on, and their weights: equal ones where few had most of the weight.

    Args:
        log_weight: Shape (B, K).
        u: Numbers from 0 to 1, shape (B,).

    Returns:
        Positions among the B K particles, shape (B K,), and log weights, shape (B, K).
    """
    k = log_weight.shape[1]
    weight, own = log_weight.softmax(1), torch.arange(k, device=u.device)
    few = (1 / weight.square().sum(1) < k / 2)[:, None]
    drawn = torch.searchsorted(weight.cumsum(1), (own + u[:, None]) / k).clamp(max=k - 1)
    kept = log_weight - log_weight.logsumexp(1, keepdim=True)
    return _positions(torch.where(few, drawn, own), k), torch.where(few, 0.0, kept)


def _one_of(log_weight: Tensor, u: Tensor) -> Tensor:
    """A particle of each example by its weight: positions among all, shape (B,)."""
    k = log_weight.shape[1]
    return _positions(torch.searchsorted(log_weight.softmax(1).cumsum(1), u[:, None]).clamp(max=k - 1), k)


def _positions(particle: Tensor, k: int) -> Tensor:
    """Of particles of each example, shape (B, n), among the K of all examples, shape (B n,)."""
    first = torch.arange(len(particle), device=particle.device) * k
    return (particle + first[:, None]).flatten()


def _uniform(noise: NoiseSource, x: Tensor, num: int) -> Tensor:
    """A number from 0 to 1 for each of `num` examples, float64."""
    u: Tensor = torch.special.ndtr(noise(x.flatten()[:num]).double())
    return u
