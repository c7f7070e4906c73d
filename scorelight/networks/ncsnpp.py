"""The networks of the papers, layer by layer: DDPM (Ho et al., 2020), DDPM++ and NCSN++ (Song et al., 2021).

They walk down levels of half the resolution each and up again. On the way down every block leaves its output
for a block on the way up, and so does every change of resolution. What a level is made of is in `_Parts`, the
walk in `_StagedUNet`. Layers lie in the order of Song et al.'s ``all_modules``: a published checkpoint can be
walked along them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from scorelight.errors import ConfigurationError
from scorelight.networks.base import ScoreNetwork
from scorelight.networks.embeddings import ConditionEmbedding, FourierEmbedding, PositionalEmbedding
from scorelight.networks.layers import (
    Average,
    FIRConv,
    FIRDown,
    FIRUp,
    Nearest,
    NearestConv,
    ResidualBlock,
    StridedConv,
    channels_last,
    check_images,
    glorot,
    group_norm,
    zero,
)

__all__ = ["DDPMUNet", "NCSNpp"]


class _Parts(ABC):
    """What the levels are made of."""

    attend_every_block_up: bool
    heads_at_every_level: bool = False

    @abstractmethod
    def block(self, inputs: int, width: int, attend: bool) -> nn.Module:
        """Called as ``block(hidden, condition)``."""

    @abstractmethod
    def shrink(self, width: int) -> nn.Module:
        """To half the resolution, called as a block is."""

    @abstractmethod
    def grow(self, width: int) -> nn.Module:
        """To double the resolution, called as a block is."""

    @abstractmethod
    def enlarge(self) -> nn.Module:
        """Double the resolution of an output."""

    def join(self, image_channels: int, width: int) -> tuple[nn.Module | None, int]:
        """What brings the image in at half the resolution, and the channels of the image then."""
        return None, image_channels


class _Down(nn.Module):
    """A level on the way down; `join` is called as ``hidden, image = join(hidden, image)``."""

    def __init__(self, blocks: Sequence[nn.Module], shrink: nn.Module | None, join: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.shrink = shrink
        self.join = join

    def forward(
        self, hidden: Tensor, image: Tensor, skips: list[Tensor], condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next level's hidden layer and image; what was on the way is appended to the skips."""
        for block in self.blocks:
            hidden = block(hidden, condition)
            skips.append(hidden)
        if self.shrink is not None:
            hidden = self.shrink(hidden, condition)
            if self.join is not None:
                hidden, image = self.join(hidden, image)
            skips.append(hidden)
        return hidden, image


class _Up(nn.Module):
    """A level on the way up."""

    def __init__(
        self, blocks: Sequence[nn.Module], head: nn.Module | None, enlarge: nn.Module, grow: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.enlarge = enlarge
        self.grow = grow

    def forward(
        self, hidden: Tensor, output: Tensor | None, skips: list[Tensor], condition: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The next level's hidden layer, and the output up to here; skips are taken off the list."""
        for block in self.blocks:
            hidden = block(torch.cat([hidden, skips.pop()], dim=1), condition)
        if self.head is not None:
            here = self.head(hidden)
            output = here if output is None else here + self.enlarge(output)
        return hidden if self.grow is None else self.grow(hidden, condition), output


class _StagedUNet(ScoreNetwork, ABC):
    """The walk down the levels and up again, whatever they are made of."""

    def _build(
        self,
        embed: nn.Module,
        parts: _Parts,
        base_channels: int,
        multipliers: Sequence[int],
        num_blocks: int,
        attention_stages: Sequence[int],
    ) -> None:
        widths = [base_channels * m for m in multipliers]
        attend = [level in attention_stages for level in range(len(widths))]
        self.embed = embed
        self.first = nn.Conv2d(self.shape[0], base_channels, 3, padding=1)
        self.down, skips = _contract(parts, self.shape[0], base_channels, widths, num_blocks, attend)
        deepest = widths[-1]
        self.middle = nn.ModuleList(parts.block(deepest, deepest, attends) for attends in (True, False))
        outputs = self.shape[0] * (1 + self.learned_variance)
        self.up = _expand(parts, outputs, widths, num_blocks, attend, skips)
        self.apply(glorot)

    def forward(self, x: Tensor, noise_label: Tensor, label: Tensor | None = None) -> Tensor:
        """Output like x."""
        condition = silu(self.embed(noise_label, label))
        hidden, image, output = channels_last(self.first(x)), x, None
        skips = [hidden]
        for level in self.down:
            hidden, image = level(hidden, image, skips, condition)
        for block in self.middle:
            hidden = block(hidden, condition)
        for level in self.up:
            hidden, output = level(hidden, output, skips, condition)
        assert output is not None
        return output


def _contract(
    parts: _Parts,
    image_channels: int,
    channels: int,
    widths: Sequence[int],
    num_blocks: int,
    attend: Sequence[bool],
) -> tuple[nn.ModuleList, list[int]]:
    """The way down, and the channels of every skip from it."""
    levels, skips = nn.ModuleList(), [channels]
    for i, width in enumerate(widths):
        blocks = [parts.block(skips[-1], width, attend[i])]
        blocks += [parts.block(width, width, attend[i]) for _ in range(num_blocks - 1)]
        skips += [width] * num_blocks
        shrink = join = None
        if i < len(widths) - 1:
            shrink = parts.shrink(width)
            join, image_channels = parts.join(image_channels, width)
            skips.append(width)
        levels.append(_Down(blocks, shrink, join))
    return levels, skips


def _expand(
    parts: _Parts,
    outputs: int,
    widths: Sequence[int],
    num_blocks: int,
    attend: Sequence[bool],
    skips: list[int],
) -> nn.ModuleList:
    """The way up: one block more per level, each taking a skip."""
    levels, channels = nn.ModuleList(), widths[-1]
    for i, width in reversed(list(enumerate(widths))):
        blocks = []
        for k in range(num_blocks + 1):
            last = k == num_blocks
            attends = attend[i] and (last or parts.attend_every_block_up)
            blocks.append(parts.block(channels + skips.pop(), width, attends))
            channels = width
        head = _head(width, outputs) if i == 0 or parts.heads_at_every_level else None
        levels.append(_Up(blocks, head, parts.enlarge(), parts.grow(width) if i else None))
    return levels


def _head(width: int, outputs: int) -> nn.Sequential:
    last = zero(nn.Conv2d(width, outputs, 3, padding=1))
    return nn.Sequential(group_norm(width), nn.SiLU(), last)


class DDPMUNet(_StagedUNet):
    """Ho et al.'s (2020, app. B) U-Net; the defaults are theirs for CIFAR-10, of 35,746,307 parameters.

    Blocks that add the noise level, sums without weights, strided convolutions between the levels, attention
    behind every block of its levels. The embedding is sinusoidal (`PositionalEmbedding`).

    Args:
        shape: (C, H, W); H and W must be divisible by 2^(levels − 1), they need not be equal.
        base_channels: Channels of the first level.
        multipliers: Channel multiplier of each level, hence also their number.
        num_blocks: Residual blocks per level on the way down (one more on the way up).
        attention_stages: Indices of the levels with self-attention, 0 being full resolution.
        dropout: Dropout rate inside the residual blocks, 0 to 1.
        num_classes: Number of classes to condition on, if any.
        learned_variance: Whether to output the variance of the reverse step too, as C more channels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        base_channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        num_blocks: int = 2,
        attention_stages: Sequence[int] = (1,),
        dropout: float = 0.1,
        num_classes: int | None = None,
        learned_variance: bool = False,
    ) -> None:
        super().__init__(shape, num_classes)
        self.learned_variance = learned_variance
        check_images("DDPMUNet", shape, multipliers, num_blocks, attention_stages)
        size = 4 * base_channels
        embed = ConditionEmbedding(size, num_classes, PositionalEmbedding(base_channels, size))
        parts = _DDPMParts(size, dropout)
        self._build(embed, parts, base_channels, multipliers, num_blocks, attention_stages)


class _DDPMParts(_Parts):
    attend_every_block_up = True

    def __init__(self, size: int, dropout: float) -> None:
        self.size = size
        self.dropout = dropout

    def block(self, inputs: int, width: int, attend: bool) -> nn.Module:
        return ResidualBlock(inputs, width, self.size, self.dropout, int(attend), weight=1.0)

    def shrink(self, width: int) -> nn.Module:
        return _Unconditional(StridedConv(width, width))

    def grow(self, width: int) -> nn.Module:
        return _Unconditional(NearestConv(width))

    def enlarge(self) -> nn.Module:
        return Nearest()


class _Unconditional(nn.Module):
    """A layer in the place of a block, which the condition does not reach."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output


class NCSNpp(_StagedUNet):
    """Song et al.'s (2021, app. H) NCSN++ and, with other options, DDPM++.

    Blocks that add the noise level and change the resolution themselves, sums weighted by √½, attention
    behind every block of its levels on the way down, once on the way up. The defaults are NCSN++ cont.:

    ======================= ============================================================= ===========
    network                 options                                                        parameters
    ======================= ============================================================= ===========
    NCSN++ cont.                                                                           62,758,787
    NCSN++ cont. deep       num_blocks=8                                                  107,586,947
    DDPM++ cont.            fir=None, fourier_scale=None, progressive_input="none"         61,804,419
    DDPM++ cont. deep       the same and num_blocks=8                                     106,632,579
    NCSN++ at 256x256       multipliers=(1, 1, 2, 2, 2, 2, 2), num_blocks=2,               65,574,421
                            attention_stages=(4,), dropout=0, progressive_input="input_skip",
                            progressive_output=True
    ======================= ============================================================= ===========

    Args:
        shape: (C, H, W); H and W must be divisible by 2^(levels − 1), they need not be equal.
        base_channels: Channels of the first level.
        multipliers: Channel multiplier of each level, hence also their number.
        num_blocks: Residual blocks per level on the way down (one more on the way up).
        attention_stages: Indices of the levels with self-attention, 0 being full resolution.
        dropout: Dropout rate inside the residual blocks, 0 to 1.
        fir: Taps of the low-pass filter that resamples; None for means and repeated pixels.
        fourier_scale: Of the `FourierEmbedding` of the noise level; None for `PositionalEmbedding`.
        progressive_input: How the image comes in at every level: as the residual branch of a sum that goes on
            down, through a 1x1 convolution, or not at all.
        progressive_output: Whether the output is a sum of images of all resolutions.
        num_classes: Number of classes to condition on, if any.
        learned_variance: Whether to output the variance of the reverse step too, as C more channels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        base_channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        num_blocks: int = 4,
        attention_stages: Sequence[int] = (1,),
        dropout: float = 0.1,
        fir: Sequence[int] | None = (1, 3, 3, 1),
        fourier_scale: float | None = 16.0,
        progressive_input: Literal["residual", "input_skip", "none"] = "residual",
        progressive_output: bool = False,
        num_classes: int | None = None,
        learned_variance: bool = False,
    ) -> None:
        super().__init__(shape, num_classes)
        self.learned_variance = learned_variance
        check_images("NCSNpp", shape, multipliers, num_blocks, attention_stages)
        size = 4 * base_channels
        level: nn.Module = (
            PositionalEmbedding(base_channels, size)
            if fourier_scale is None
            else FourierEmbedding(base_channels, size, fourier_scale)
        )
        parts = _NCSNppParts(size, dropout, fir, progressive_input, progressive_output)
        embed = ConditionEmbedding(size, num_classes, level)
        self._build(embed, parts, base_channels, multipliers, num_blocks, attention_stages)


class _NCSNppParts(_Parts):
    attend_every_block_up = False

    def __init__(
        self,
        size: int,
        dropout: float,
        fir: Sequence[int] | None,
        progressive_input: str,
        progressive_output: bool,
    ) -> None:
        if progressive_input not in _JOINS:
            raise ConfigurationError(f"progressive_input={progressive_input!r}: {', '.join(_JOINS)}")
        self.size = size
        self.dropout = dropout
        self.fir = fir
        self.join_class = _JOINS[progressive_input]
        self.heads_at_every_level = progressive_output

    def block(self, inputs: int, width: int, attend: bool) -> nn.Module:
        return ResidualBlock(inputs, width, self.size, self.dropout, int(attend))

    def shrink(self, width: int) -> nn.Module:
        return self._resampling(width, Average() if self.fir is None else FIRDown(self.fir))

    def grow(self, width: int) -> nn.Module:
        return self._resampling(width, self.enlarge())

    def join(self, image_channels: int, width: int) -> tuple[nn.Module | None, int]:
        if self.join_class is None:
            return None, image_channels
        join = self.join_class(image_channels, width, self.fir)
        return join, join.image_channels

    def enlarge(self) -> nn.Module:
        return Nearest() if self.fir is None else FIRUp(self.fir)

    def _resampling(self, width: int, resample: nn.Module) -> nn.Module:
        return ResidualBlock(width, width, self.size, self.dropout, resample=resample, convolve_shortcut=True)


class _InputResidual(nn.Module):
    """The image, convolved at half the resolution, plus the hidden layer, is both from then on."""

    def __init__(self, image_channels: int, width: int, fir: Sequence[int] | None) -> None:
        super().__init__()
        self.image_channels = width
        self.conv = StridedConv(image_channels, width) if fir is None else FIRConv(image_channels, width, fir)

    def forward(self, hidden: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        joined = (self.conv(image) + hidden) * math.sqrt(0.5)
        return joined, joined


class _InputSkip(nn.Module):
    """The image at half the resolution, through a 1x1 convolution, is added to the hidden layer."""

    def __init__(self, image_channels: int, width: int, fir: Sequence[int] | None) -> None:
        super().__init__()
        self.image_channels = image_channels
        self.shrink: nn.Module = Average() if fir is None else FIRDown(fir)
        self.conv = nn.Conv2d(image_channels, width, 1)

    def forward(self, hidden: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        image = self.shrink(image)
        return self.conv(image) + hidden, image


_JOINS: dict[str, type[_InputResidual | _InputSkip] | None] = {
    "residual": _InputResidual,
    "input_skip": _InputSkip,
    "none": None,
}
