"""Draws of p(x) p(y | x)^s itself, which no guided score has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.posterior.diagnostics import effective_sample_size, split_r_hat
from scorelight.posterior.likelihood import Likelihood
from scorelight.posterior.noise_chains import noise_chains
from scorelight.processes.base import ForwardProcess
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler
from scorelight.samplers.multistep import ExponentialAdams

__all__ = ["Diagnosis", "ExactGuidance"]


class Diagnosis(NamedTuple):
    """How the chains of a set of samples went."""

    acceptance: float
    """Share of the proposals that were accepted, after the warm-up."""
    r_hat: float
    """Split R̂ of the log-likelihood, after the warm-up, of the class in which it is largest; below 1.05 if
    the chains have mixed."""
    effective_size: float
    """Independent draws that the iterations after the warm-up are worth, of the log-likelihood, per chain, of
    the class in which it is smallest."""


class _Trace(NamedTuple):
    """The chains of a batch after the warm-up: log-likelihood and acceptance, shape (iterations, B)."""

    values: Tensor
    accepted: Tensor
    targets: list[bytes]
    """The conditions of each chain: chains with the same ones have the same target."""


_MIXED = 1.05


class ExactGuidance(Sampler):
    """A Markov chain for each sample, whose law is p(x) p(y | x)^s/Z: exactly guided sampling.

    p(x) is the law of a deterministic sampler's results, x = Φ(z), and the chain moves in its noise, see
    `scorelight.posterior.noise_chains`. The states are those of the chains; the last is the sample. For
    p(x) = N(0, 2) and p(x) p(y | x) ∝ N(0, 1) the variance is 2/(1 + s), where guided scores end at
    2^(1−s) or (2 − 2^(2−2s))/(2s − 1), see `ClassifierFreeGuidance`.

    A sample costs `num_iterations` + 1 runs of the deterministic sampler, with gradients about three times
    that. Chain i is a function of (seed, i). `diagnose` tells whether the chains have mixed.

    Args:
        likelihood: p(y | x), of clean data.
        scale: s.
        flow: The deterministic sampler (default: `ExponentialAdams` of 20 steps).
        num_iterations: Iterations of a chain.
        betas: Steps β of the proposals in turn, 0 < β <= 1: 1 is independent of the present state.
        warmup: Iterations in which the likelihood rises from p(y | x)^0 to p(y | x)^s.
        use_gradient: Whether proposals with β < 1 follow the gradient of the likelihood, through the sampler.
        conditional: Whether the model is given the conditions, too; else only the likelihood is.
    """

    remedy = "more iterations, smaller betas"
    flag = "--sampler"
    """Where its options are on the command line."""

    def __init__(
        self,
        likelihood: Likelihood,
        scale: float = 1.0,
        flow: Sampler | None = None,
        num_iterations: int = 100,
        betas: Sequence[float] = (1.0, 0.5, 0.25, 0.1),
        warmup: int = 20,
        use_gradient: bool = False,
        conditional: bool = False,
    ) -> None:
        super().__init__(num_iterations, denoise=False)
        if not betas or not all(0 < beta <= 1 for beta in betas):
            raise ConfigurationError(f"ExactGuidance: betas={list(betas)}: some are needed, 0 < beta <= 1")
        if not 0 <= warmup <= num_iterations - 4:
            raise ConfigurationError(
                f"ExactGuidance: warmup={warmup}: from 0 to num_iterations - 4 = {num_iterations - 4}"
            )
        self.likelihood, self.scale = likelihood, scale
        self.flow = flow or ExponentialAdams()
        self.betas, self.warmup = tuple(betas), warmup
        self.use_gradient, self.conditional = use_gradient, conditional
        self.num_classes = likelihood.num_classes
        self._traces: list[_Trace] = []

    @override
    def levels(self, process: ForwardProcess) -> Levels:
        return self.flow.levels(process)

    @override
    def trajectory(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        """Yield x0 of the chains after each iteration."""

        def flow(z: Tensor) -> Tensor:
            cond = predict.cond if self.conditional else {}
            return self.flow(predict.denoiser, z, noise_source=self._refuse_noise, **cond)

        def log_likelihood(x0: Tensor) -> Tensor:
            return self.scale * self.likelihood.log_prob(x0, **predict.cond)

        chains = noise_chains(
            flow,
            log_likelihood,
            x / levels[0].sigma,
            noise,
            self.num_steps,
            self.betas,
            self.warmup,
            self.use_gradient,
        )
        values, accepted = [], []
        for state in chains:
            values.append(state.log_likelihood)
            accepted.append(state.accepted)
            yield state.x0
        kept = [torch.stack(parts)[self.warmup :].cpu() for parts in (values, accepted)]
        self._traces.append(_Trace(kept[0], kept[1], _targets(predict.cond, len(x))))

    def diagnose(self) -> Diagnosis:
        """The chains of all samples that this sampler has drawn. Those of the same conditions are compared.

        Raises:
            ConfigurationError: If it has drawn none.
        """
        if not self._traces:
            raise ConfigurationError("ExactGuidance: has drawn no samples")
        values = torch.cat([trace.values for trace in self._traces], 1)
        accepted = torch.cat([trace.accepted for trace in self._traces], 1)
        chains: dict[bytes, list[int]] = {}
        for i, target in enumerate(target for trace in self._traces for target in trace.targets):
            chains.setdefault(target, []).append(i)
        groups = [values[:, of_target] for of_target in chains.values()]
        sizes = [effective_sample_size(group) / group.shape[1] for group in groups]
        r_hat = max(split_r_hat(group) for group in groups)
        return Diagnosis(accepted.double().mean().item(), r_hat, min(sizes))

    @override
    def report(self) -> list[str]:
        """The diagnosis in words, and a warning if the chains have not mixed."""
        acceptance, r_hat, size = self.diagnose()
        num = self.num_steps - self.warmup
        lines = [
            f"chains: {acceptance:.0%} of the proposals accepted, split R̂ {r_hat:.3f}, {size:.3g} "
            f"independent draws in {num} iterations"
        ]
        if r_hat >= _MIXED:
            lines.append(
                f"the chains have not mixed, R̂ should be below {_MIXED}: give {self.flag}.num_iterations "
                f"{2 * self.num_steps} or more, smaller {self.flag}.betas, or {self.flag}.use_gradient true"
            )
        return lines

    def _refuse_noise(self, like: Tensor) -> Tensor:
        """The noise of the flow, which must not ask for any."""
        raise ConfigurationError(
            f"ExactGuidance: flow={type(self.flow).__name__} draws noise; take a deterministic sampler, such "
            "as DDIM, Heun or ExponentialAdams"
        )


def _targets(cond: Mapping[str, Any], num: int) -> list[bytes]:
    """What the conditions of each of `num` examples are, as bytes."""
    each = [value for value in cond.values() if isinstance(value, Tensor) and value.shape[:1] == (num,)]
    return [b"".join(value[i].cpu().numpy().tobytes() for value in each) for i in range(num)]
