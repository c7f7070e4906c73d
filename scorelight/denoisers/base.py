"""From a noisy x_t to predictions of x0, ε, the score and the velocity.

A `Denoiser` is called as ``pred = denoiser(x_t, t)``; ``pred.x0 .epsilon .score .velocity`` follow from
whatever the network outputs. Samplers, objectives and likelihoods use nothing else. A `DenoiserWrapper`, such
as guidance, is a denoiser around another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scorelight.parameterizations import Parameterization
from scorelight.processes.base import AnyLevel, ForwardProcess, Scalar
from scorelight.storage.component import Component

__all__ = ["DelegatingDenoiser", "Denoiser", "DenoiserWrapper", "MakeWrapper", "Prediction", "wrap"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """An estimate of (x0, ε) given x_t, both of x_t's shape: they satisfy x_t = α x0 + σ ε exactly."""

    x_t: Tensor
    level: AnyLevel
    output: Tensor
    """The output of the network, in the units of `parameterization`."""
    parameterization: Parameterization
    variance_fraction: Tensor | None = None
    """For a network that also learns the variance of a reverse step: f of Σ = Σ_small^(1−f) Σ_large^f, of
    x_t's shape, 0 to 1 but not clipped (Nichol & Dhariwal, 2021, eq. 15, f = (v + 1)/2)."""

    def combine(self, of_x0: Scalar, of_epsilon: Scalar) -> Tensor:
        """P x0 + q ε for the numbers p and q of the level: ((p b − q a) x_t + (q α − p σ) y)/Δ, by (5).

        What a sampler needs of both costs no more than one of them.
        """
        a, b = self.parameterization.coefficients(self.level)
        delta = self.parameterization.determinant(self.level)
        of_x_t = (of_x0 * b - of_epsilon * a) / delta
        of_output = (of_epsilon * self.level.alpha - of_x0 * self.level.sigma) / delta
        if isinstance(of_output, Tensor):
            return of_x_t * self.x_t + of_output * self.output
        return torch.add(of_x_t * self.x_t, self.output, alpha=of_output)

    @property
    def x0(self) -> Tensor:
        """Posterior mean E[x0 | x_t] = (b x_t − σ y)/Δ."""
        return self.combine(1.0, 0.0)

    @property
    def epsilon(self) -> Tensor:
        """E[ε | x_t] = (α y − a x_t)/Δ."""
        return self.combine(0.0, 1.0)

    @property
    def score(self) -> Tensor:
        """∇log p_t(x_t) = −E[ε | x_t]/σ (Vincent, 2011)."""
        return self.combine(0.0, -1 / self.level.sigma)

    @property
    def velocity(self) -> Tensor:
        """dx/dt of the probability flow, α' x0 + σ' ε."""
        return self.combine(self.level.dalpha, self.level.dsigma)

    @property
    def angular_velocity(self) -> Tensor:
        """dz/dθ of the probability flow, in the coordinates (20) of `scorelight.samplers.adaptive`."""
        length = self.level.length
        return self.combine(-self.level.sigma / length, self.level.alpha / length)

    def plus_score(self, gradient: Tensor, scale: Scalar = 1.0) -> Prediction:
        """The prediction with `scale` times a gradient added to its score.

        ε̂ changes by −σ s g and x̂0 by (σ²/α) s g, so that x_t = α x̂0 + σ ε̂ stays; by (5) the output changes by
        −(σΔ/α) s g.
        """
        level, space = self.level, self.parameterization
        factor = -level.sigma * space.determinant(level) / level.alpha * scale
        output = self.output + (factor * gradient).to(self.output)
        return replace(self, output=output)

    def residual(self, x0: Tensor, epsilon: Tensor, space: Parameterization) -> Tensor:
        """Error of the prediction against (x0, ε), measured in another space by Δ_space/Δ_output.

        The difference is taken in the network's own units, where it is of order one.
        """
        a, b = self.parameterization.coefficients(self.level)
        scale = space.determinant(self.level) / self.parameterization.determinant(self.level)
        return scale * (self.output - (a * x0 + b * epsilon))


class Denoiser(Component, nn.Module, ABC):
    """Predicts x0 and ε from x_t, for its `process`."""

    process: ForwardProcess
    num_classes: int | None = None
    """Number of classes that it can be asked for, by the condition ``label``."""

    @property
    def labels(self) -> range | None:
        """The classes, if there are any: samples are drawn of each in turn."""
        return range(self.num_classes) if self.num_classes else None

    def forward(self, x_t: Tensor, t: Tensor, **cond: Any) -> Prediction:
        """Predict from x_t of shape (B, ...) at times t of shape (B,) or ()."""
        return self.predict(x_t, self.process.at(t, like=x_t), **cond)

    @abstractmethod
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """Predict from x_t of shape (B, ...) at a level of floats or of broadcastable tensors."""

    def unconditional(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """Predict as `predict` does, with every condition dropped."""
        return self.predict(x_t, level)

    def evaluations(self, level: AnyLevel) -> int:
        """Evaluations of a network, for each example, that `predict` takes at a level."""
        return 1

    def predict_both(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> tuple[Prediction, Prediction]:
        """`predict` and `unconditional`, in one evaluation where that is possible."""
        return self.predict(x_t, level, **cond), self.unconditional(x_t, level, **cond)


class DelegatingDenoiser(Denoiser, ABC):
    """A denoiser around another one, with the same process.

    Args:
        denoiser: The denoiser that is wrapped.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.process = denoiser.process
        self.num_classes = denoiser.num_classes

    def unconditional(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """Predict with the wrapped denoiser's `unconditional`."""
        return self.denoiser.unconditional(x_t, level, **cond)

    def evaluations(self, level: AnyLevel) -> int:
        """Those of the wrapped denoiser."""
        return self.denoiser.evaluations(level)


class DenoiserWrapper(DelegatingDenoiser, ABC):
    """A denoiser around another one that changes what is sampled: the base of guidance.

    A subclass takes the wrapped denoiser as its first argument and its options after it, so that
    ``class_path`` and ``init_args`` name it in YAML: `model.guidance`, or ``--guidance CLASS`` as a flag.

    Args:
        denoiser: The denoiser that is wrapped.
    """

    needs_condition_dropout: bool = False
    """Whether it asks a conditional model for its prediction without the condition."""


MakeWrapper = Callable[[Denoiser], DenoiserWrapper]
"""Wraps a denoiser: a subclass of `DenoiserWrapper`, its options filled in."""


def wrap(denoiser: Denoiser, guidance: MakeWrapper | None) -> Denoiser:
    """The denoiser with the guidance around it, if there is one."""
    return denoiser if guidance is None else guidance(denoiser)
