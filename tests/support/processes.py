"""Forward processes for tests."""

import torch
from torch import Tensor, nn

from scorelight import (
    VESDE,
    VPSDE,
    CosineVPSDE,
    DDPMProcess,
    ForwardProcess,
    KarrasVESDE,
    LearnedVPSDE,
    RectifiedFlow,
    SMLDProcess,
    SubVPSDE,
)


def every_kind_of_process() -> list[ForwardProcess]:
    """One of each, the discrete ones with fifty steps."""
    torch.manual_seed(0)  # the weights of the learned one
    continuous = [VESDE(), VPSDE(), SubVPSDE(), CosineVPSDE(), KarrasVESDE(), LearnedVPSDE(), RectifiedFlow()]
    return [*continuous, DDPMProcess(50), SMLDProcess(50)]


class LearnedRate(ForwardProcess):
    """Ornstein-Uhlenbeck process with a learned rate r: α = e^(−rt), σ² = 1 − e^(−2rt)."""

    def __init__(self, rate: float = 1.5) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))

    def alpha(self, t: Tensor) -> Tensor:
        """e^(−rt)."""
        return torch.exp(-self.rate * t)

    def sigma(self, t: Tensor) -> Tensor:
        """√(1 − e^(−2rt))."""
        return torch.sqrt(-torch.expm1(-2 * self.rate * t))
