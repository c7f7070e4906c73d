"""Encoders of noisy examples, for classifiers and for guidance by text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle, silu
from typing_extensions import override

from scorelight.networks.base import Encoder
from scorelight.networks.embeddings import ConditionEmbedding
from scorelight.networks.layers import ResidualBlock, channels_last, check_images, group_norm
from scorelight.networks.mlp import ResidualLayer
from scorelight.networks.unet import build_encoder, check_groups

__all__ = ["MLPEncoder", "UNetEncoder"]


class MLPEncoder(Encoder):
    """The residual layers of `MLP`; for data of any shape, flattened.

    Args:
        shape: Shape of one example.
        width: Hidden units, and features.
        depth: Residual layers.
    """

    def __init__(self, shape: Sequence[int], width: int = 128, depth: int = 3) -> None:
        super().__init__(shape, width)
        self.embed = ConditionEmbedding(width, None)
        self.first = nn.Linear(math.prod(shape), width)
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(depth))

    @override
    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        condition, hidden = self.embed(noise_label, None), self.first(x.flatten(1))
        for layer in self.layers:
            hidden = layer(hidden, condition)
        return silu(hidden)


class UNetEncoder(Encoder):
    """The encoder half of `UNet` and the block in its middle, then the mean over all pixels.

    Dhariwal & Nichol (2021, sec. 4.1) classify with the same half of their network; they pool by attention.

    Args:
        shape: (C, H, W); H and W must be divisible by patch_size 2^(stages − 1).
        base_channels: Channels of the first stage.
        multipliers: Channel multiplier of each stage, hence also their number.
        num_blocks: Residual blocks per stage.
        attention_stages: Indices of the stages with self-attention, 0 being full resolution.
        num_heads: Attention heads.
        dropout: Dropout rate inside the residual blocks, 0 to 1.
        patch_size: Side of the squares of pixels that become the channels of one pixel at the input.
        group_size: Channels that are normalised together, at least.
    """

    def __init__(
        self,
        shape: Sequence[int],
        base_channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        num_blocks: int = 2,
        attention_stages: Sequence[int] = (1,),
        num_heads: int = 1,
        dropout: float = 0.0,
        patch_size: int = 1,
        group_size: int = 4,
    ) -> None:
        check_images("UNetEncoder", shape, multipliers, num_blocks, attention_stages, patch_size)
        widths = [base_channels * m for m in multipliers]
        check_groups("UNetEncoder", num_heads, group_size, widths)
        super().__init__(shape, widths[-1])
        self.patch_size, size = patch_size, 4 * base_channels
        heads = [num_heads * (stage in attention_stages) for stage in range(len(widths))]
        block = partial(ResidualBlock, size=size, dropout=dropout, adaptive=True, group_size=group_size)
        self.embed = ConditionEmbedding(size, None)
        self.first = nn.Conv2d(shape[0] * patch_size**2, base_channels, 3, padding=1)
        self.down, _ = build_encoder(block, widths, heads, num_blocks, base_channels)
        self.middle = block(widths[-1], widths[-1], num_heads=num_heads)
        self.last_norm = group_norm(widths[-1], group_size)

    @override
    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        condition = silu(self.embed(noise_label, None))
        hidden = channels_last(self.first(pixel_unshuffle(x, self.patch_size)))
        for block in [*self.down, self.middle]:
            hidden = block(hidden, condition)
        return silu(self.last_norm(hidden)).mean((2, 3))
