"""The DDPM++ U-Net (Ho et al., 2020, app. B; Song et al., 2021, app. H)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.networks.base import NumClasses, ScoreNetwork
from scorelight.networks.embeddings import ConditionEmbedding
from scorelight.networks.layers import (
    Average,
    Nearest,
    ResidualBlock,
    channels_last,
    check_images,
    group_norm,
    zero,
)

__all__ = ["UNet", "build_encoder", "check_groups"]


class UNet(ScoreNetwork):
    """Residual blocks with the noise level, self-attention, and skips between equal resolutions.

    Stage l works at (H, W)/(patch_size 2ˡ) with ``base_channels * multipliers[l]`` channels. Residual sums
    are scaled by 1/√2 and the last convolution of each block starts at zero.

    Args:
        shape: (C, H, W); H and W must be divisible by patch_size 2^(stages − 1), they need not be equal.
        base_channels: Channels of the first stage.
        multipliers: Channel multiplier of each stage, hence also their number.
        num_blocks: Residual blocks per encoder stage (one more per decoder stage).
        attention_stages: Indices of the stages with self-attention, 0 being full resolution.
        num_heads: Attention heads.
        dropout: Dropout rate inside the residual blocks, 0 to 1.
        num_classes: Number of classes to condition on, if any; ``data`` on the command line: as many as the
            data have.
        learned_variance: Whether to output the variance of the reverse step too, as C more channels.
        patch_size: Side of the squares of pixels that become the channels of one pixel at the input, and the
            reverse at the output: 2 makes every stage four times as cheap.
        group_size: Channels that are normalised together, at least. On a CPU groups of 16 are normalised two
            to three times as fast as groups of 4.
    """

    def __init__(
        self,
        shape: Sequence[int],
        base_channels: int = 64,
        multipliers: Sequence[int] = (1, 2),
        num_blocks: int = 2,
        attention_stages: Sequence[int] = (1,),
        num_heads: int = 1,
        dropout: float = 0.0,
        num_classes: NumClasses = None,
        learned_variance: bool = False,
        patch_size: int = 1,
        group_size: int = 4,
    ) -> None:
        super().__init__(shape, num_classes)
        self.learned_variance, self.patch_size = learned_variance, patch_size
        check_images("UNet", shape, multipliers, num_blocks, attention_stages, patch_size)
        size, channels = 4 * base_channels, shape[0] * patch_size**2
        widths = [base_channels * m for m in multipliers]
        check_groups("UNet", num_heads, group_size, widths)
        heads = [num_heads * (stage in attention_stages) for stage in range(len(widths))]
        block = partial(ResidualBlock, size=size, dropout=dropout, adaptive=True, group_size=group_size)
        self.embed = ConditionEmbedding(size, self.num_classes)
        self.first = nn.Conv2d(channels, base_channels, 3, padding=1)
        self.down, skips = build_encoder(block, widths, heads, num_blocks, base_channels)
        self.middle = nn.ModuleList(block(widths[-1], widths[-1], num_heads=n) for n in (num_heads, 0))
        self.up = _build_decoder(block, widths, heads, num_blocks, skips)
        self.last_norm = group_norm(widths[0], group_size)
        self.last = zero(nn.Conv2d(widths[0], channels * (1 + learned_variance), 3, padding=1))

    @override
    def forward(self, x: Tensor, noise_label: Tensor, label: Tensor | None = None) -> Tensor:
        condition = silu(self.embed(noise_label, label))
        hidden = channels_last(self.first(pixel_unshuffle(x, self.patch_size)))
        skips = [hidden]
        for block in self.down:
            hidden = block(hidden, condition)
            skips.append(hidden)
        for block in self.middle:
            hidden = block(hidden, condition)
        for block in self.up:
            if block.resample is None:
                hidden = torch.cat([hidden, skips.pop()], dim=1)
            hidden = block(hidden, condition)
        return pixel_shuffle(self.last(silu(self.last_norm(hidden))), self.patch_size)


_MakeBlock = Callable[..., ResidualBlock]


def build_encoder(
    block: _MakeBlock, widths: Sequence[int], heads: Sequence[int], num_blocks: int, channels: int
) -> tuple[nn.ModuleList, list[int]]:
    """The blocks of an encoder, and the channels of their skips."""
    blocks, skips = nn.ModuleList(), [channels]
    for stage, width in enumerate(widths):
        if stage > 0:
            blocks.append(block(skips[-1], width, resample=Average()))
            skips.append(width)
        for _ in range(num_blocks):
            blocks.append(block(skips[-1], width, num_heads=heads[stage]))
            skips.append(width)
    return blocks, skips


def _build_decoder(
    block: _MakeBlock, widths: Sequence[int], heads: Sequence[int], num_blocks: int, skips: list[int]
) -> nn.ModuleList:
    """The decoder: one block more per stage than in the encoder, each with a skip, then an upsampling."""
    blocks, channels = nn.ModuleList(), widths[-1]
    for stage, width in reversed(list(enumerate(widths))):
        if stage < len(widths) - 1:
            blocks.append(block(channels, width, resample=Nearest()))
            channels = width
        for _ in range(num_blocks + 1):
            blocks.append(block(channels + skips.pop(), width, num_heads=heads[stage]))
            channels = width
    return blocks


def check_groups(network: str, num_heads: int, group_size: int, widths: Sequence[int]) -> None:
    """Refuse heads and groups that channels cannot be split into.

    Raises:
        ConfigurationError: Naming the network and the argument.
    """
    if num_heads < 1:
        raise ConfigurationError(f"{network}: num_heads={num_heads}: at least 1")
    if bad := [width for width in widths if width % num_heads]:
        raise ConfigurationError(f"{network}: {bad[0]} channels cannot be split into num_heads={num_heads}")
    if group_size < 1:
        raise ConfigurationError(f"{network}: group_size={group_size}: at least 1")
