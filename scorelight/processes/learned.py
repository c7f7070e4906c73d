"""A variance-preserving process whose noise schedule is learned (Kingma et al., 2021, app. H).

    σ² = sigmoid(γ(t))   α² = sigmoid(−γ(t))   γ = −log SNR                                         (1)
    γ(t) = γ₀ + (γ₁ − γ₀) (γ̃(t) − γ̃(0))/(γ̃(1) − γ̃(0))                                            (2)
    γ̃(t) = l₁(t) + l₃(φ(l₂(l₁(t)))),   l₁, l₂, l₃ linear with positive weights, φ the sigmoid          (3)

The biases of l₁ and l₃ are left out: they cancel in (2), or add to the bias of l₂.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess

__all__ = ["LearnedVPSDE"]

_STEEPNESS = 10.0


def _positive(free: Tensor) -> Tensor:
    """Softplus to full precision; torch's own is the identity from 20 on."""
    return -logsigmoid(-free)


def _free(positive: Tensor) -> Tensor:
    """The inverse of `_positive`."""
    return positive + torch.log(-torch.expm1(-positive))


class LearnedVPSDE(ForwardProcess):
    """Variance-preserving process with a learned monotone log-SNR (Kingma et al., 2021, "VDM").

    Every weight and γ₁ − γ₀ is the softplus of a free parameter: γ increases whatever the optimizer does.
    It starts close to a straight line. t runs over [0, 1]; σ(0) > 0.

    Args:
        width: Number of units of l₂.
        log_snr_max: log SNR at t = 0, −γ₀, to start from.
        log_snr_min: log SNR at t = 1, −γ₁, to start from.
    """

    def __init__(self, width: int = 1024, log_snr_max: float = 13.3, log_snr_min: float = -5.0) -> None:
        super().__init__(t_min=0.0, t_max=1.0)
        if width < 1:
            raise ConfigurationError(f"width={width}: must be at least 1")
        if not -math.inf < log_snr_min < log_snr_max < math.inf:
            raise ConfigurationError(
                f"log_snr_max={log_snr_max}, log_snr_min={log_snr_min}: log_snr_min < log_snr_max is needed"
            )
        centres = (torch.arange(width) + 0.5) / width  # each unit turns on at another time
        self.gamma_0 = nn.Parameter(torch.tensor(-float(log_snr_max)))
        self.span = nn.Parameter(_free(torch.tensor(float(log_snr_max) - log_snr_min)))
        self.weight_1 = nn.Parameter(_free(torch.ones(())))
        self.weight_2 = nn.Parameter(_free(torch.full((width,), _STEEPNESS)))
        self.bias_2 = nn.Parameter(-_STEEPNESS * centres)
        self.weight_3 = nn.Parameter(_free(torch.full((width,), 1 / width)))

    def gamma(self, t: Tensor) -> Tensor:
        """γ(t) of equation (2), of the shape, type and device of t."""
        share = self._rise(t) / self._rise(t.new_ones(()))
        return self.gamma_0.to(t) + _positive(self.span.to(t)) * share

    def _rise(self, t: Tensor) -> Tensor:
        """γ̃(t) − γ̃(0) of equation (3)."""
        weight_1, weight_2, weight_3 = (
            _positive(w.to(t)) for w in (self.weight_1, self.weight_2, self.weight_3)
        )
        bias_2 = self.bias_2.to(t)
        hidden = torch.sigmoid(weight_2 * (weight_1 * t[..., None]) + bias_2) - torch.sigmoid(bias_2)
        return weight_1 * t + (weight_3 * hidden).sum(-1)

    @override
    def log_snr(self, t: Tensor) -> Tensor:
        return -self.gamma(t)

    @override
    def alpha(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(-self.gamma(t)))

    @override
    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(self.gamma(t)))
