"""From a noisy x_t to everything that can be asked about it.

A `Denoiser` answers ``pred = denoiser(x_t, t)``; ``pred.x0 .epsilon .score .velocity`` follow from
whatever the network outputs. Samplers, objectives and likelihoods see nothing else. Guidance is a
denoiser around a denoiser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scorelight.parameterizations import Parameterization
from scorelight.processes.base import ForwardProcess, NoiseLevel, Scalar

__all__ = ["CountedDenoiser", "Denoiser", "NetworkDenoiser", "Prediction"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """An estimate of (x0, ε) given x_t, both of x_t's shape: they satisfy x_t = α x0 + σ ε exactly."""

    x_t: Tensor
    level: NoiseLevel
    output: Tensor
    """What the network said, in the units of `parameterization`."""
    parameterization: Parameterization
    variance_fraction: Tensor | None = None
    """Where the network also learns the variance of a reverse step: Σ = Σ_small^(1−f) Σ_large^f for this f
    of x_t's shape, 0 to 1 but not clipped (Nichol & Dhariwal, 2021, eq. 15, f = (v + 1)/2)."""

    @property
    def x0(self) -> Tensor:
        """Posterior mean E[x0 | x_t] = (b x_t − σ y)/Δ."""
        _, b = self.parameterization.coefficients(self.level)
        delta = self.parameterization.determinant(self.level)
        return (b / delta) * self.x_t - (self.level.sigma / delta) * self.output

    @property
    def epsilon(self) -> Tensor:
        """E[ε | x_t] = (α y − a x_t)/Δ."""
        a, _ = self.parameterization.coefficients(self.level)
        delta = self.parameterization.determinant(self.level)
        return (self.level.alpha / delta) * self.output - (a / delta) * self.x_t

    @property
    def score(self) -> Tensor:
        """∇log p_t(x_t) = −E[ε | x_t]/σ (Vincent, 2011)."""
        return -self.epsilon / self.level.sigma

    @property
    def velocity(self) -> Tensor:
        """dx/dt of the probability flow, α' x0 + σ' ε."""
        return self.level.dalpha * self.x0 + self.level.dsigma * self.epsilon

    def residual(self, x0: Tensor, epsilon: Tensor, space: Parameterization) -> Tensor:
        """Error of the prediction against (x0, ε), measured in another space by Δ_space/Δ_output.

        The difference is taken in the network's own units, where it is of order one.
        """
        a, b = self.parameterization.coefficients(self.level)
        scale = space.determinant(self.level) / self.parameterization.determinant(self.level)
        return scale * (self.output - (a * x0 + b * epsilon))


class Denoiser(nn.Module, ABC):
    """Answers `Prediction`s for its `process`."""

    process: ForwardProcess

    def forward(self, x_t: Tensor, t: Tensor, **cond: Any) -> Prediction:
        """Predict from x_t of shape (B, ...) at times t of shape (B,) or ()."""
        return self.predict(x_t, self.process.level(t, like=x_t), **cond)

    @abstractmethod
    def predict(self, x_t: Tensor, level: NoiseLevel, **cond: Any) -> Prediction:
        """Predict from x_t of shape (B, ...) at a level of floats or of broadcastable tensors."""


class NetworkDenoiser(Denoiser):
    """A network that sees (c_in x_t, log(σ/α)) and outputs what the parameterization says.

    c_in = (σ² + α² s²)^−½ gives the input unit variance: 1 for VP with s = 1, Karras et al.'s c_in for
    VE. The noise label −½ log SNR means the same for every process; for VE it is Song's log σ.

    Args:
        network: Called as ``network(x, noise_label, **cond)``, noise_label of shape (B,); returns like x, or
            twice as much along dimension 1: the second half is then v of `Prediction.variance_fraction`.
        process: The forward process.
        parameterization: What the network outputs.
    """

    def __init__(
        self, network: nn.Module, process: ForwardProcess, parameterization: Parameterization
    ) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.parameterization = parameterization

    def predict(self, x_t: Tensor, level: NoiseLevel, **cond: Any) -> Prediction:
        """One evaluation of the network, in the network's type; the result in x_t's."""
        n2 = level.sigma**2 + (level.alpha * self.parameterization.sigma_data) ** 2
        dtype = next((p.dtype for p in self.network.parameters()), x_t.dtype)
        label = _label(-0.5 * level.log_snr, x_t).to(dtype)
        output = self.network((x_t / n2**0.5).to(dtype), label, **cond).to(x_t.dtype)
        if output.shape[1] == x_t.shape[1]:
            return Prediction(x_t, level, output, self.parameterization)
        output, v = output.chunk(2, dim=1)
        return Prediction(x_t, level, output, self.parameterization, (v + 1) / 2)


class CountedDenoiser(Denoiser):
    """Another denoiser that counts how often it is evaluated: the cost of a sampler, measured.

    Around a guided denoiser it counts the calls of the sampler, inside it those of the network.

    Args:
        denoiser: The denoiser that answers.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.process = denoiser.process
        self.num_evaluations = 0

    def predict(self, x_t: Tensor, level: NoiseLevel, **cond: Any) -> Prediction:
        """One evaluation more, of the whole batch."""
        self.num_evaluations += 1
        return self.denoiser.predict(x_t, level, **cond)


def _label(value: Scalar, x_t: Tensor) -> Tensor:
    """The label of each example, shape (B,)."""
    if isinstance(value, Tensor):
        return value.reshape(-1).expand(len(x_t))
    return torch.full((len(x_t),), value, dtype=x_t.dtype, device=x_t.device)
