"""Metrics of real examples: how likely each of them is under a model."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from scorelight.denoisers.base import Denoiser
from scorelight.likelihood.bits_per_dim import LikelihoodProtocol, bits_per_dim
from scorelight.likelihood.bounds import check_bound, variational_bound
from scorelight.likelihood.dequantization import Dequantizer
from scorelight.metrics.base import LikelihoodMetric
from scorelight.rng import Generators

__all__ = ["NegativeLogLikelihood", "VariationalBoundMetric"]


class NegativeLogLikelihood(LikelihoodMetric):
    """−log p(x0) along the probability flow: bits/dim of quantised data, else nats/dim; see `bits_per_dim`.

    Args:
        repeats: Dequantisations and probes of each example, averaged.
        num_probes: Directions of the trace's estimate.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        num_steps: Equal steps instead of the tolerances.
    """

    def __init__(
        self,
        repeats: int = 1,
        num_probes: int = 1,
        rtol: float = 3e-4,
        atol: float = 3e-4,
        num_steps: int | None = None,
    ) -> None:
        self.options: dict[str, Any] = dict(
            repeats=repeats, num_probes=num_probes, rtol=rtol, atol=atol, num_steps=num_steps
        )
        LikelihoodProtocol(None, **self.options)

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        num_bins: int | None,
        *,
        generator: Generators = None,
        dequantizer: Dequantizer | None = None,
        **cond: Any,
    ) -> dict[str, Tensor]:
        """Bits or nats per dimension, and the evaluations that they took."""
        protocol = LikelihoodProtocol(num_bins, **self.options)
        result = bits_per_dim(denoiser, x0, protocol, dequantizer=dequantizer, generator=generator, **cond)
        name = "bits_per_dim" if num_bins else "nats_per_dim"
        return {name: result.value, "likelihood_evaluations": result.num_evaluations.double()}


class VariationalBoundMetric(LikelihoodMetric):
    """The variational bound on −log p(x0), in bits per dimension; see `variational_bound`.

    Args:
        num_slices: Slices of continuous time, one evaluation each; a table has its own levels.
        variance: Variance of a step on a table unless the network learns it, see `VariationalBound`.
    """

    def __init__(self, num_slices: int = 100, variance: Literal["small", "large"] = "small") -> None:
        check_bound(variance, None)
        self.num_slices = num_slices
        self.variance = variance

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        num_bins: int | None,
        *,
        generator: Generators = None,
        dequantizer: Dequantizer | None = None,
        **cond: Any,
    ) -> dict[str, Tensor]:
        """The bound and its three terms."""
        result = variational_bound(
            denoiser,
            x0,
            variance=self.variance,
            num_bins=num_bins,
            num_slices=self.num_slices,
            generator=generator,
            **cond,
        )
        bits = result.bits_per_dim / result.nats
        terms = {"prior": result.prior, "steps": result.steps.sum(1), "decoder": result.decoder}
        named = {f"variational_bound_{name}": bits * term for name, term in terms.items()}
        return {"variational_bound": result.bits_per_dim, **named}
