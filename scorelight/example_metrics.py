"""Numbers of real examples: how likely a model finds each of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from scorelight.bounds import variational_bound
from scorelight.denoiser import Denoiser
from scorelight.dequantization import Dequantizer
from scorelight.likelihood import Protocol, bits_per_dim
from scorelight.metrics.base import Metric
from scorelight.seeding import Generators

__all__ = ["ExampleMetric", "NegativeLogLikelihood", "VariationalBoundMetric"]


class ExampleMetric(Metric):
    """A number for each real example: how likely a model finds it."""

    @abstractmethod
    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        num_levels: int | None,
        *,
        generator: Generators = None,
        dequantizer: Dequantizer | None = None,
        **cond: Any,
    ) -> dict[str, Tensor]:
        """Names and numbers of shape (B,).

        Args:
            denoiser: The model.
            x0: Clean data as the model sees them, shape (B, ...).
            num_levels: Grey levels of the data; None if they are not quantised.
            generator: Where the noise comes from; one per example makes example i reproducible.
            dequantizer: Learned noise within a grey level, instead of uniform.
            **cond: Conditions for the network.
        """


class NegativeLogLikelihood(ExampleMetric):
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
        Protocol(None, **self.options)

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        num_levels: int | None,
        *,
        generator: Generators = None,
        dequantizer: Dequantizer | None = None,
        **cond: Any,
    ) -> dict[str, Tensor]:
        """Bits or nats per dimension, and the evaluations that they took."""
        protocol = Protocol(num_levels, **self.options)
        found = bits_per_dim(denoiser, x0, protocol, dequantizer=dequantizer, generator=generator, **cond)
        name = "bits_per_dim" if num_levels else "nats_per_dim"
        return {name: found.value, "likelihood_evaluations": found.num_evaluations.double()}


class VariationalBoundMetric(ExampleMetric):
    """The variational bound on −log p(x0), in bits per dimension; see `variational_bound`.

    Args:
        num_slices: Slices of continuous time, one evaluation each; a table has its own levels.
    """

    def __init__(self, num_slices: int = 100) -> None:
        self.num_slices = num_slices

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        num_levels: int | None,
        *,
        generator: Generators = None,
        dequantizer: Dequantizer | None = None,
        **cond: Any,
    ) -> dict[str, Tensor]:
        """The bound and its three terms."""
        found = variational_bound(
            denoiser, x0, bins=num_levels, num_slices=self.num_slices, generator=generator, **cond
        )
        bits = found.bits_per_dim / found.nats
        terms = {"prior": found.prior, "steps": found.steps.sum(1), "decoder": found.decoder}
        named = {f"variational_bound_{name}": bits * term for name, term in terms.items()}
        return {"variational_bound": found.bits_per_dim, **named}
