"""The networks of the papers, layer by layer: DDPM (Ho et al., 2020), DDPM++ and NCSN++ (Song et al., 2021).

An encoder of stages, each at half the resolution of the last, and a decoder in reverse order. The output of
every encoder block and of every downsampling is the skip input of a decoder block. `_StagedUNet` connects the
stages, a `_BlockFactory` makes their blocks. Layers are in the order of Song et al.'s ``all_modules``, so
that the weights of a published checkpoint can be assigned in order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.networks.base import NumClasses, ScoreNetwork
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


class _BlockFactory(ABC):
    """Makes the modules of the stages."""

    attend_every_block_up: bool
    """Whether every decoder block of a stage has attention, or the last one only."""
    heads_at_every_stage: bool = False
    """Whether every decoder stage has an output, or the last one only."""

    @abstractmethod
    def block(self, inputs: int, width: int, attend: bool) -> nn.Module:
        """A residual block, called as ``block(hidden, condition)``."""

    @abstractmethod
    def downsample(self, width: int) -> nn.Module:
        """Half the resolution, called like a block."""

    @abstractmethod
    def upsample(self, width: int) -> nn.Module:
        """Double the resolution, called like a block."""

    @abstractmethod
    def upsample_output(self) -> nn.Module:
        """Double the resolution of an output."""

    def merge_input(self, image_channels: int, width: int) -> tuple[nn.Module | None, int]:
        """The module that adds the image at half the resolution, if any; the image's channels after it."""
        return None, image_channels


class _Down(nn.Module):
    """A stage of the encoder; ``hidden, image = merge_input(hidden, image)`` adds the image."""

    def __init__(
        self, blocks: Sequence[nn.Module], downsample: nn.Module | None, merge_input: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.merge_input = merge_input

    def forward(
        self, hidden: Tensor, image: Tensor, skips: list[Tensor], condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next stage's hidden layer and image; the skips are appended to the list."""
        for block in self.blocks:
            hidden = block(hidden, condition)
            skips.append(hidden)
        if self.downsample is not None:
            hidden = self.downsample(hidden, condition)
            if self.merge_input is not None:
                hidden, image = self.merge_input(hidden, image)
            skips.append(hidden)
        return hidden, image


class _Up(nn.Module):
    """A stage of the decoder."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        head: nn.Module | None,
        upsample_output: nn.Module,
        upsample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.head = head
        self.upsample_output = upsample_output
        self.upsample = upsample

    def forward(
        self, hidden: Tensor, output: Tensor | None, skips: list[Tensor], condition: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The next stage's hidden layer, and the output so far; the skips are removed from the list."""
        for block in self.blocks:
            hidden = block(torch.cat([hidden, skips.pop()], dim=1), condition)
        if self.head is not None:
            new = self.head(hidden)
            output = new if output is None else new + self.upsample_output(output)
        return hidden if self.upsample is None else self.upsample(hidden, condition), output


class _StagedUNet(ScoreNetwork, ABC):
    """An encoder and a decoder of stages, with the blocks of a factory."""

    def _build(
        self,
        embed: nn.Module,
        factory: _BlockFactory,
        base_channels: int,
        multipliers: Sequence[int],
        num_blocks: int,
        attention_stages: Sequence[int],
    ) -> None:
        widths = [base_channels * m for m in multipliers]
        attend = [stage in attention_stages for stage in range(len(widths))]
        self.embed = embed
        self.first = nn.Conv2d(self.shape[0], base_channels, 3, padding=1)
        self.down, skips = _build_encoder(factory, self.shape[0], base_channels, widths, num_blocks, attend)
        deepest = widths[-1]
        self.middle = nn.ModuleList(factory.block(deepest, deepest, attends) for attends in (True, False))
        outputs = self.shape[0] * (1 + self.learned_variance)
        self.up = _build_decoder(factory, outputs, widths, num_blocks, attend, skips)
        self.apply(glorot)

    @override
    def forward(self, x: Tensor, noise_label: Tensor, label: Tensor | None = None) -> Tensor:
        condition = silu(self.embed(noise_label, label))
        hidden, image = channels_last(self.first(x)), x
        output: Tensor | None = None
        skips = [hidden]
        for stage in self.down:
            hidden, image = stage(hidden, image, skips, condition)
        for block in self.middle:
            hidden = block(hidden, condition)
        for stage in self.up:
            hidden, output = stage(hidden, output, skips, condition)
        assert output is not None
        return output


def _build_encoder(
    factory: _BlockFactory,
    image_channels: int,
    channels: int,
    widths: Sequence[int],
    num_blocks: int,
    attend: Sequence[bool],
) -> tuple[nn.ModuleList, list[int]]:
    """The encoder, and the channels of its skips."""
    stages, skips = nn.ModuleList(), [channels]
    for i, width in enumerate(widths):
        blocks = [factory.block(skips[-1], width, attend[i])]
        blocks += [factory.block(width, width, attend[i]) for _ in range(num_blocks - 1)]
        skips += [width] * num_blocks
        downsample = merge_input = None
        if i < len(widths) - 1:
            downsample = factory.downsample(width)
            merge_input, image_channels = factory.merge_input(image_channels, width)
            skips.append(width)
        stages.append(_Down(blocks, downsample, merge_input))
    return stages, skips


def _build_decoder(
    factory: _BlockFactory,
    outputs: int,
    widths: Sequence[int],
    num_blocks: int,
    attend: Sequence[bool],
    skips: list[int],
) -> nn.ModuleList:
    """The decoder: one block more per stage than in the encoder, each with a skip."""
    stages, channels = nn.ModuleList(), widths[-1]
    for i, width in reversed(list(enumerate(widths))):
        blocks = []
        for k in range(num_blocks + 1):
            last = k == num_blocks
            attends = attend[i] and (last or factory.attend_every_block_up)
            blocks.append(factory.block(channels + skips.pop(), width, attends))
            channels = width
        head = _head(width, outputs) if i == 0 or factory.heads_at_every_stage else None
        stages.append(_Up(blocks, head, factory.upsample_output(), factory.upsample(width) if i else None))
    return stages


def _head(width: int, outputs: int) -> nn.Sequential:
    last = zero(nn.Conv2d(width, outputs, 3, padding=1))
    return nn.Sequential(group_norm(width), nn.SiLU(), last)


class DDPMUNet(_StagedUNet):
    """Ho et al.'s (2020, app. B) U-Net; the defaults are theirs for CIFAR-10, of 35,746,307 parameters.

    Blocks that add the noise level, sums without weights, strided convolutions between the stages, attention
    after every block of its stages. The embedding is sinusoidal (`PositionalEmbedding`).

    Args:
        shape: (C, H, W); H and W must be divisible by 2^(stages − 1), they need not be equal.
        base_channels: Channels of the first stage.
        multipliers: Channel multiplier of each stage, hence also their number.
        num_blocks: Residual blocks per encoder stage (one more per decoder stage).
        attention_stages: Indices of the stages with self-attention, 0 being full resolution.
        dropout: Dropout rate inside the residual blocks, 0 to 1.
        num_classes: Number of classes to condition on, if any; ``data`` on the command line: as many as the
            data have.
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
        num_classes: NumClasses = None,
        learned_variance: bool = False,
    ) -> None:
        super().__init__(shape, num_classes)
        self.learned_variance = learned_variance
        check_images("DDPMUNet", shape, multipliers, num_blocks, attention_stages)
        size = 4 * base_channels
        embed = ConditionEmbedding(size, self.num_classes, PositionalEmbedding(base_channels, size))
        factory = _DDPMBlockFactory(size, dropout)
        self._build(embed, factory, base_channels, multipliers, num_blocks, attention_stages)


class _DDPMBlockFactory(_BlockFactory):
    attend_every_block_up = True

    def __init__(self, size: int, dropout: float) -> None:
        self.size = size
        self.dropout = dropout

    def block(self, inputs: int, width: int, attend: bool) -> nn.Module:
        return ResidualBlock(inputs, width, self.size, self.dropout, int(attend), weight=1.0)

    def downsample(self, width: int) -> nn.Module:
        return _Unconditional(StridedConv(width, width))

    def upsample(self, width: int) -> nn.Module:
        return _Unconditional(NearestConv(width))

    def upsample_output(self) -> nn.Module:
        return Nearest()


class _Unconditional(nn.Module):
    """A layer in the place of a block, which ignores the condition."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output


class NCSNpp(_StagedUNet):
    """Song et al.'s (2021, app. H) NCSN++ and, with other options, DDPM++.

    Blocks that add the noise level and change the resolution, sums weighted by √½, attention after every
    encoder block of its stages and after the last decoder block. The defaults are NCSN++ cont.:

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
        shape: (C, H, W); H and W must be divisible by 2^(stages − 1), they need not be equal.
        base_channels: Channels of the first stage.
        multipliers: Channel multiplier of each stage, hence also their number.
        num_blocks: Residual blocks per encoder stage (one more per decoder stage).
        attention_stages: Indices of the stages with self-attention, 0 being full resolution.
        dropout: Dropout rate inside the residual blocks, 0 to 1.
        fir: Taps of the low-pass filter that resamples; None for means and repeated pixels.
        fourier_scale: Of the `FourierEmbedding` of the noise level; None for `PositionalEmbedding`.
        progressive_input: How the image is added at every stage: as the residual branch of a running sum,
            through a 1x1 convolution, or not at all.
        progressive_output: Whether the output is a sum of images of all resolutions.
        num_classes: Number of classes to condition on, if any; ``data`` on the command line: as many as the
            data have.
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
        num_classes: NumClasses = None,
        learned_variance: bool = False,
    ) -> None:
        super().__init__(shape, num_classes)
        self.learned_variance = learned_variance
        check_images("NCSNpp", shape, multipliers, num_blocks, attention_stages)
        size = 4 * base_channels
        embedding: nn.Module = (
            PositionalEmbedding(base_channels, size)
            if fourier_scale is None
            else FourierEmbedding(base_channels, size, fourier_scale)
        )
        factory = _NCSNppBlockFactory(size, dropout, fir, progressive_input, progressive_output)
        embed = ConditionEmbedding(size, self.num_classes, embedding)
        self._build(embed, factory, base_channels, multipliers, num_blocks, attention_stages)


class _NCSNppBlockFactory(_BlockFactory):
    attend_every_block_up = False

    def __init__(
        self,
        size: int,
        dropout: float,
        fir: Sequence[int] | None,
        progressive_input: str,
        progressive_output: bool,
    ) -> None:
        if progressive_input not in _INPUT_MERGES:
            raise ConfigurationError(f"progressive_input={progressive_input!r}: {', '.join(_INPUT_MERGES)}")
        self.size = size
        self.dropout = dropout
        self.fir = fir
        self.merge_input_class = _INPUT_MERGES[progressive_input]
        self.heads_at_every_stage = progressive_output

    def block(self, inputs: int, width: int, attend: bool) -> nn.Module:
        return ResidualBlock(inputs, width, self.size, self.dropout, int(attend))

    def downsample(self, width: int) -> nn.Module:
        return self._resampling(width, Average() if self.fir is None else FIRDown(self.fir))

    def upsample(self, width: int) -> nn.Module:
        return self._resampling(width, self.upsample_output())

    def merge_input(self, image_channels: int, width: int) -> tuple[nn.Module | None, int]:
        if self.merge_input_class is None:
            return None, image_channels
        merge_input = self.merge_input_class(image_channels, width, self.fir)
        return merge_input, merge_input.image_channels

    def upsample_output(self) -> nn.Module:
        return Nearest() if self.fir is None else FIRUp(self.fir)

    def _resampling(self, width: int, resample: nn.Module) -> nn.Module:
        return ResidualBlock(width, width, self.size, self.dropout, resample=resample, convolve_shortcut=True)


class _InputResidual(nn.Module):
    """The image, convolved to half the resolution, plus the hidden layer: the new image and hidden layer."""

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
        self.downsample: nn.Module = Average() if fir is None else FIRDown(fir)
        self.conv = nn.Conv2d(image_channels, width, 1)

    def forward(self, hidden: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        image = self.downsample(image)
        return self.conv(image) + hidden, image


_INPUT_MERGES: dict[str, type[_InputResidual | _InputSkip] | None] = {
    "residual": _InputResidual,
    "input_skip": _InputSkip,
    "none": None,
}
