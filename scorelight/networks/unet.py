"""The DDPM++ U-Net (Ho et al., 2020, app. B; Song et al., 2021, app. H)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from scorelight.errors import ConfigurationError
from scorelight.networks.base import ConditionEmbedding, ScoreNetwork

__all__ = ["UNet"]


class UNet(ScoreNetwork):
    """Residual blocks with the noise level, self-attention, and skips between equal resolutions.

    Level l works at (H, W)/2ˡ with ``base_channels * multipliers[l]`` channels. Residual sums are
    scaled by 1/√2 and the last convolution of each block starts at zero.

    Args:
        shape: (C, H, W); H and W must be divisible by 2^(levels − 1), they need not be equal.
        base_channels: Channels of the first level.
        multipliers: Channel multiplier of each level, hence also their number.
        num_blocks: Residual blocks per level on the way down (one more on the way up).
        attention_levels: Indices of the levels with self-attention, 0 being full resolution.
        num_heads: Attention heads.
        dropout: Dropout rate inside the residual blocks, 0 to 1.
        num_classes: Number of classes to condition on, if any.
        learned_variance: Whether to output the variance of the reverse step too, as C more channels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        base_channels: int = 64,
        multipliers: Sequence[int] = (1, 2),
        num_blocks: int = 2,
        attention_levels: Sequence[int] = (1,),
        num_heads: int = 1,
        dropout: float = 0.0,
        num_classes: int | None = None,
        learned_variance: bool = False,
    ) -> None:
        super().__init__(shape, num_classes)
        self.learned_variance = learned_variance
        _check(shape, base_channels, multipliers, attention_levels, num_heads)
        if num_blocks < 1:
            raise ConfigurationError(f"UNet: num_blocks={num_blocks}: at least 1")
        size = 4 * base_channels
        self.embed = ConditionEmbedding(size, num_classes)
        self.first = nn.Conv2d(shape[0], base_channels, 3, padding=1)
        widths = [base_channels * m for m in multipliers]

        def block(level: int, inputs: int, resample: float = 1.0) -> _Block:
            heads = num_heads if level in attention_levels and resample == 1 else 0
            return _Block(inputs, widths[level], size, dropout, heads, resample)

        self.down, skips = _contract(block, widths, num_blocks, base_channels)
        deepest = widths[-1]
        self.middle = nn.ModuleList(
            _Block(deepest, deepest, size, dropout, heads, 1.0) for heads in (num_heads, 0)
        )
        self.up = _expand(block, widths, num_blocks, skips)
        self.last_norm = _norm(widths[0])
        self.last = _zero(nn.Conv2d(widths[0], shape[0] * (1 + learned_variance), 3, padding=1))

    def forward(self, x: Tensor, noise_label: Tensor, label: Tensor | None = None) -> Tensor:
        """Output like x."""
        condition = silu(self.embed(noise_label, label))
        hidden = self.first(x)
        skips = [hidden]
        for block in self.down:
            hidden = block(hidden, condition)
            skips.append(hidden)
        for block in self.middle:
            hidden = block(hidden, condition)
        for block in self.up:
            if block.resample == 1:
                hidden = torch.cat([hidden, skips.pop()], dim=1)
            hidden = block(hidden, condition)
        output: Tensor = self.last(silu(self.last_norm(hidden)))
        return output


def _contract(
    block: Callable[..., _Block], widths: list[int], num_blocks: int, channels: int
) -> tuple[nn.ModuleList, list[int]]:
    """The way down, and the channels of every skip from it."""
    blocks, skips = nn.ModuleList(), [channels]
    for level, width in enumerate(widths):
        for resample in [0.5] * (level > 0) + [1.0] * num_blocks:
            blocks.append(block(level, skips[-1], resample))
            skips.append(width)
    return blocks, skips


def _expand(
    block: Callable[..., _Block], widths: list[int], num_blocks: int, skips: list[int]
) -> nn.ModuleList:
    """The way up: one block more per level, each taking a skip, then on to the level above."""
    blocks, channels = nn.ModuleList(), widths[-1]
    for level in reversed(range(len(widths))):
        if level < len(widths) - 1:
            blocks.append(block(level, channels, 2.0))
            channels = widths[level]
        for _ in range(num_blocks + 1):
            blocks.append(block(level, channels + skips.pop()))
            channels = widths[level]
    return blocks


class _Block(nn.Module):
    """BigGAN residual block: optional resampling, the noise level as scale and shift, optional attention."""

    def __init__(
        self, inputs: int, width: int, size: int, dropout: float, num_heads: int, resample: float
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.condition = nn.Linear(size, 2 * width)
        self.norm2 = _norm(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zero(nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == width else nn.Conv2d(inputs, width, 1)
        self.attention = _Attention(width, num_heads) if num_heads else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = silu(self.norm1(x))
        if self.resample != 1:
            hidden, x = _resize(hidden, self.resample), _resize(x, self.resample)
        hidden = self.conv1(hidden)
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = silu(torch.addcmul(shift, self.norm2(hidden), 1 + scale))
        hidden = (self.shortcut(x) + self.conv2(self.dropout(hidden))) * math.sqrt(0.5)
        output: Tensor = self.attention(hidden)
        return output


class _Attention(nn.Module):
    """Self-attention over the pixels, residual, through `scaled_dot_product_attention`."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.num_heads, -1))
        query, key, value = qkv.transpose(-1, -2).unbind(1)
        mixed = scaled_dot_product_attention(query, key, value).transpose(-1, -2)
        output: Tensor = (x + self.out(mixed.reshape(x.shape))) * math.sqrt(0.5)
        return output


def _norm(channels: int) -> nn.GroupNorm:
    groups = next(g for g in range(min(32, max(channels // 4, 1)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    """Start at zero, so that every block starts as its shortcut."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _resize(x: Tensor, factor: float) -> Tensor:
    """Average pooling down, nearest neighbour up."""
    return nn.functional.avg_pool2d(x, 2) if factor < 1 else interpolate(x, scale_factor=factor)


def _check(
    shape: Sequence[int],
    base_channels: int,
    multipliers: Sequence[int],
    attention_levels: Sequence[int],
    num_heads: int,
) -> None:
    if len(shape) != 3:
        raise ConfigurationError(
            f"UNet: shape {tuple(shape)} is not (channels, height, width); use MLP for vectors"
        )
    levels = len(multipliers)
    factor = 2 ** (levels - 1)
    if levels == 0 or shape[1] % factor or shape[2] % factor:
        fits = math.gcd(shape[1], shape[2])
        most = (fits & -fits).bit_length()
        raise ConfigurationError(
            f"UNet: images of {shape[1]}x{shape[2]} cannot be halved {levels - 1} times, as multipliers="
            f"{list(multipliers)} asks: height and width must be divisible by {factor}. "
            f"Give 1 to {most} multipliers, or resize or pad the images"
        )
    if bad := [level for level in attention_levels if not 0 <= level < levels]:
        raise ConfigurationError(f"UNet: attention_levels={bad}: levels are 0 to {levels - 1}")
    if num_heads < 1:
        raise ConfigurationError(f"UNet: num_heads={num_heads}: at least 1")
    if bad := [base_channels * m for m in multipliers if base_channels * m % num_heads]:
        raise ConfigurationError(f"UNet: {bad[0]} channels cannot be split into num_heads={num_heads}")
