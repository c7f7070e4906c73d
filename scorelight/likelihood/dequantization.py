"""Dequantisation: noise that turns probabilities of grey levels into densities, uniform or learned.

A grey level x stands for the cube x + Δu, u ∈ (−½, ½)^D, and its probability is P(x) = ∫ p(x + Δu) Δ^D du.
With u drawn from any density q(u|x) on the cube, by Jensen's inequality (Ho et al., 2019, eq. 12),

    −log P(x) ≤ E_q[−log p(x + Δu) + log q(u|x)] − D log Δ                                          (24)

and the gap is KL(q ‖ p(u|x)): 0 if q(u|x) ∝ p(x + Δu). For uniform noise (Theis et al., 2016) it is largest
where the density changes within a level. A learned q is a map of uniform noise v ∈ (0, 1)^D,

    u = T_x(v) − ½,    log q(u|x) = −log |det ∂T_x/∂v|                                              (25)

here by coupling steps: half of the dimensions, in the pattern of a checkerboard, are unchanged, and a network
of them and of x gives a monotone rational-quadratic spline of (0, 1) for each of the others; then the other
half, and so on (Dinh et al., 2017; Durkan et al., 2019, eq. 4 and 5).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.rng import Generators, rand_like
from scorelight.storage.component import Component

__all__ = ["Dequantizer", "FlowDequantization", "UniformDequantization", "rational_quadratic"]


class Dequantizer(Component, nn.Module, ABC):
    """A density q(u|x) on the cube (−½, ½)^D around grey levels that can be sampled.

    Args:
        shape: Shape of one example; None for any.
    """

    kind: str = "learned"
    """Its name in a `LikelihoodProtocol`: uniform or learned."""

    def __init__(self, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = None if shape is None else tuple(shape)

    @abstractmethod
    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw u, of x's shape, and log q(u|x) in nats, shape (B,); both of the noise's type.

        Args:
            x: Grey levels in units of the data, shape (B, ...).
            noise: Uniform on [0, 1), of x's shape; the only randomness, so that example i is a function of
                its own x and noise.
        """

    def dequantize(self, x: Tensor, spacing: float, generator: Generators = None) -> tuple[Tensor, Tensor]:
        """The values x + Δu of (24), of x's type, and log q(u|x) in nats, shape (B,), float64.

        Args:
            x: Grey levels, shape (B, ...).
            spacing: Δ, the distance of two adjacent levels.
            generator: Source of the noise, see `rng`.
        """
        u, log_q = self(x, rand_like(x, generator))
        return x + (spacing * u).to(x.dtype), log_q.double()


class UniformDequantization(Dequantizer):
    """u ~ U(−½, ½)^D (Theis et al., 2016, sec. 3.1)."""

    kind = "uniform"

    @override
    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise - 0.5, noise.new_zeros(len(noise))


class FlowDequantization(Dequantizer):
    """Equation (25) by coupling steps with small convolutional networks; untrained, it is uniform.

    Ho et al. (2019) use mixtures of logistics between a logit and its inverse. A spline needs neither to stay
    on (0, 1), and its density at the ends of a level is as free as p(u|x).

    Args:
        shape: Shape of one example, (C, H, W) with values of order one.
        num_steps: Coupling steps; two of them transform every dimension once.
        num_spline_bins: Bins of each spline.
        width: Channels of the networks.
    """

    mask: Tensor

    def __init__(
        self, shape: Sequence[int], num_steps: int = 4, num_spline_bins: int = 8, width: int = 64
    ) -> None:
        super().__init__(shape)
        _check(shape, num_steps, num_spline_bins, width)
        channel, row, column = (torch.arange(n) for n in shape)
        parity = channel[:, None, None] + row[:, None] + column
        self.register_buffer("mask", parity % 2 == 0, persistent=False)
        self.networks = nn.ModuleList(_network(shape[0], num_spline_bins, width) for _ in range(num_steps))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Transform the two halves of the dimensions in turn."""
        if x.shape[1:] != self.shape:
            raise ConfigurationError(
                f"FlowDequantization: images of shape {tuple(x.shape[1:])}, but it was made for {self.shape}"
            )
        v, log_det = noise, noise.new_zeros(len(noise))
        for i, network in enumerate(self.networks):
            changed = self.mask if i % 2 == 0 else ~self.mask
            output, log_slope = rational_quadratic(v, self._splines(network, x, v.where(~changed, 0.5)))
            v = torch.where(changed, output, v)
            log_det = log_det + log_slope.where(changed, 0).flatten(1).sum(1)
        return v - 0.5, -log_det

    def _splines(self, network: nn.Module, x: Tensor, kept: Tensor) -> Tensor:
        """Parameters of each dimension's spline, shape (B, C, H, W, 3K + 1); network in its own type."""
        dtype = next(network.parameters()).dtype
        output: Tensor = network(torch.cat([x.to(dtype), (2 * kept - 1).to(dtype)], dim=1))
        return torch.unflatten(output, 1, (len(self.mask), -1)).movedim(2, -1).to(kept.dtype)


def _network(channels: int, num_spline_bins: int, width: int) -> nn.Sequential:
    """From x and the unchanged dimensions to parameters of splines; its last layer starts at zero."""
    last = nn.Conv2d(width, channels * (3 * num_spline_bins + 1), 3, padding=1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    first, middle = (nn.Conv2d(n, width, 3, padding=1) for n in (2 * channels, width))
    return nn.Sequential(first, nn.SiLU(), middle, nn.SiLU(), last)


_MIN_BIN = 1e-3
"""Smallest width and height of a bin of a spline; its slopes are between this and its inverse."""


def rational_quadratic(v: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """A monotone map of [0, 1] onto itself and the logarithm of its slope (Durkan et al., 2019, eq. 4 and 5).

    Parameters of zero make it the identity.

    Args:
        v: Numbers in [0, 1], any shape.
        parameters: For each number K widths, K heights and K + 1 slopes, unconstrained, shape (..., 3K + 1).
    """
    k = parameters.shape[-1] // 3
    widths, heights, slopes = torch.split(parameters, [k, k, k + 1], dim=-1)
    knots, values = _knots(widths), _knots(heights)
    bound = -math.log(_MIN_BIN)
    slopes = (bound * torch.tanh(slopes / bound)).exp()
    left = (v[..., None] >= knots[..., 1:-1]).sum(-1, keepdim=True)
    (a, b), (low, high), (d, e) = (
        (part.gather(-1, left).squeeze(-1), part.gather(-1, left + 1).squeeze(-1))
        for part in (knots, values, slopes)
    )
    slope, share = (high - low) / (b - a), (v - a) / (b - a)
    both = share * (1 - share)
    divisor = slope + (d + e - 2 * slope) * both
    output = low + (high - low) * (slope * share**2 + d * both) / divisor
    rise = e * share**2 + 2 * slope * both + d * (1 - share) ** 2
    return output, 2 * slope.log() + rise.log() - 2 * divisor.log()


def _knots(parameters: Tensor) -> Tensor:
    """0, K − 1 numbers between, and 1, increasing by at least `_MIN_BIN`, shape (..., K + 1)."""
    k = parameters.shape[-1]
    pieces = _MIN_BIN + (1 - k * _MIN_BIN) * parameters.softmax(-1)
    inner = pieces.cumsum(-1)[..., :-1]
    return torch.cat([torch.zeros_like(inner[..., :1]), inner, torch.ones_like(inner[..., :1])], dim=-1)


def _check(shape: Sequence[int], num_steps: int, num_spline_bins: int, width: int) -> None:
    if len(shape) != 3:
        raise ConfigurationError(
            f"FlowDequantization: shape {tuple(shape)} is not (channels, height, width); give vectors of D "
            "dimensions as (1, 1, D), or use another Dequantizer"
        )
    if num_steps < 2:
        raise ConfigurationError(f"FlowDequantization: num_steps={num_steps}: at least 2, one for each half")
    if not 2 <= num_spline_bins < 1 / _MIN_BIN / 2:
        raise ConfigurationError(
            f"FlowDequantization: num_spline_bins={num_spline_bins}: 2 to {0.5 / _MIN_BIN:.0f}"
        )
    if width < 1:
        raise ConfigurationError(f"FlowDequantization: width={width}: at least 1")
