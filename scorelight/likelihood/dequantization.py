"""Noise that makes densities of grey levels: uniform, or learned.

A grey level x stands for the cube x + Δu, u ∈ (−½, ½)^D, and its probability is P(x) = ∫ p(x + Δu) Δ^D du.
With u drawn from any density q(u|x) on the cube, by Jensen's inequality (Ho et al., 2019, eq. 12),

    −log P(x) ≤ E_q[−log p(x + Δu) + log q(u|x)] − D log Δ                                          (24)

and what is lost is KL(q ‖ p(u|x)): nothing if q(u|x) ∝ p(x + Δu). Uniform noise (Theis et al., 2016) loses
most where the density changes within a level. A learned q is a map of uniform noise v ∈ (0, 1)^D,

    u = T_x(v) − ½,    log q(u|x) = −log |det ∂T_x/∂v|                                              (25)

here by coupling steps: half of the dimensions, as the dark squares of a checkerboard lie, stay as they are
and say, together with x, how each of the others is bent along (0, 1) by a monotone rational-quadratic
spline; then the other half, and so on (Dinh et al., 2017; Durkan et al., 2019, eq. 4 and 5).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scorelight.errors import ConfigurationError
from scorelight.rng import Generators, rand_like
from scorelight.storage.component import Component

__all__ = ["Dequantizer", "FlowDequantization", "UniformDequantization", "rational_quadratic"]


class Dequantizer(Component, nn.Module, ABC):
    """A density q(u|x) on the cube (−½, ½)^D around grey levels, that can be drawn from.

    Args:
        shape: Shape of one example; None for any.
    """

    kind: str = "learned"
    """What a `LikelihoodProtocol` says of it: uniform or learned."""

    def __init__(self, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = None if shape is None else tuple(shape)

    @abstractmethod
    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw u, of x's shape, and log q(u|x) in nats, shape (B,); both of the noise's type.

        Args:
            x: Grey levels in units of the data, shape (B, ...).
            noise: Uniform on [0, 1), of x's shape; all the randomness there is, so that example i is a
                function of its own x and noise.
        """

    def dequantize(self, x: Tensor, spacing: float, generator: Generators = None) -> tuple[Tensor, Tensor]:
        """The values x + Δu of (24), of x's type, and log q(u|x) in nats, shape (B,), float64.

        Args:
            x: Grey levels, shape (B, ...).
            spacing: Δ, the distance of two of them.
            generator: Where the noise comes from; one per example, or one for all.
        """
        u, log_q = self(x, rand_like(x, generator))
        return x + (spacing * u).to(x.dtype), log_q.double()


class UniformDequantization(Dequantizer):
    """u ~ U(−½, ½)^D (Theis et al., 2016, sec. 3.1)."""

    kind = "uniform"

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The noise less ½, and 0."""
        return noise - 0.5, noise.new_zeros(len(noise))


class FlowDequantization(Dequantizer):
    """Equation (25) by coupling steps with small convolutional networks; at first it is uniform.

    Ho et al. (2019) bend with mixtures of logistics between a logit and its inverse; a spline stays on (0, 1)
    without them, and its density may be anything at the ends of a level, as p(u|x) may.

    Args:
        shape: Shape of one example, (C, H, W) with values of order one.
        num_steps: Coupling steps; two of them bend every dimension once.
        num_spline_bins: Pieces of each spline.
        width: Channels of the networks.
    """

    dark: Tensor

    def __init__(
        self, shape: Sequence[int], num_steps: int = 4, num_spline_bins: int = 8, width: int = 64
    ) -> None:
        super().__init__(shape)
        _check(shape, num_steps, num_spline_bins, width)
        channel, row, column = (torch.arange(n) for n in shape)
        parity = channel[:, None, None] + row[:, None] + column
        self.register_buffer("dark", parity % 2 == 0, persistent=False)
        self.networks = nn.ModuleList(_network(shape[0], num_spline_bins, width) for _ in range(num_steps))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Bend the dark and the light dimensions in turn."""
        if x.shape[1:] != self.shape:
            raise ConfigurationError(
                f"FlowDequantization: images of shape {tuple(x.shape[1:])}, but it was made for {self.shape}"
            )
        v, log_det = noise, noise.new_zeros(len(noise))
        for i, network in enumerate(self.networks):
            moves = self.dark if i % 2 == 0 else ~self.dark
            bent, log_slope = rational_quadratic(v, self._splines(network, x, v.where(~moves, 0.5)))
            v = torch.where(moves, bent, v)
            log_det = log_det + log_slope.where(moves, 0).flatten(1).sum(1)
        return v - 0.5, -log_det

    def _splines(self, network: nn.Module, x: Tensor, kept: Tensor) -> Tensor:
        """Parameters of each dimension's spline, shape (B, C, H, W, 3K + 1); network in its own type."""
        dtype = next(network.parameters()).dtype
        output: Tensor = network(torch.cat([x.to(dtype), (2 * kept - 1).to(dtype)], dim=1))
        return torch.unflatten(output, 1, (len(self.dark), -1)).movedim(2, -1).to(kept.dtype)


def _network(channels: int, num_spline_bins: int, width: int) -> nn.Sequential:
    """From x and the dimensions that stay to parameters of splines; its last layer starts at zero."""
    last = nn.Conv2d(width, channels * (3 * num_spline_bins + 1), 3, padding=1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    first, middle = (nn.Conv2d(n, width, 3, padding=1) for n in (2 * channels, width))
    return nn.Sequential(first, nn.SiLU(), middle, nn.SiLU(), last)


_LEAST = 1e-3
"""Least width and height of a piece of a spline; its slopes lie between this and its inverse."""


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
    bound = -math.log(_LEAST)
    slopes = (bound * torch.tanh(slopes / bound)).exp()
    left = (v[..., None] >= knots[..., 1:-1]).sum(-1, keepdim=True)
    (a, b), (low, high), (d, e) = (
        (part.gather(-1, left).squeeze(-1), part.gather(-1, left + 1).squeeze(-1))
        for part in (knots, values, slopes)
    )
    slope, share = (high - low) / (b - a), (v - a) / (b - a)
    both = share * (1 - share)
    divisor = slope + (d + e - 2 * slope) * both
    bent = low + (high - low) * (slope * share**2 + d * both) / divisor
    rise = e * share**2 + 2 * slope * both + d * (1 - share) ** 2
    return bent, 2 * slope.log() + rise.log() - 2 * divisor.log()


def _knots(parameters: Tensor) -> Tensor:
    """0, K − 1 numbers between, and 1, increasing by at least `_LEAST`, shape (..., K + 1)."""
    k = parameters.shape[-1]
    pieces = _LEAST + (1 - k * _LEAST) * parameters.softmax(-1)
    inner = pieces.cumsum(-1)[..., :-1]
    return torch.cat([torch.zeros_like(inner[..., :1]), inner, torch.ones_like(inner[..., :1])], dim=-1)


def _check(shape: Sequence[int], num_steps: int, num_spline_bins: int, width: int) -> None:
    if len(shape) != 3:
        raise ConfigurationError(
            f"FlowDequantization: shape {tuple(shape)} is not (channels, height, width); give vectors of D "
            "dimensions as (1, 1, D), or use a Dequantizer of your own"
        )
    if num_steps < 2:
        raise ConfigurationError(f"FlowDequantization: num_steps={num_steps}: at least 2, one for each half")
    if not 2 <= num_spline_bins < 1 / _LEAST / 2:
        raise ConfigurationError(
            f"FlowDequantization: num_spline_bins={num_spline_bins}: 2 to {0.5 / _LEAST:.0f}"
        )
    if width < 1:
        raise ConfigurationError(f"FlowDequantization: width={width}: at least 1")
