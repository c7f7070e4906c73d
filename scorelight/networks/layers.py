"""Layers of the U-Nets: residual blocks, attention, and changes of resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, pad, scaled_dot_product_attention, silu

from scorelight.errors import ConfigurationError

__all__ = [
    "Attention",
    "Average",
    "FIRConv",
    "FIRDown",
    "FIRUp",
    "Nearest",
    "NearestConv",
    "ResidualBlock",
    "StridedConv",
    "channels_last",
    "check_images",
    "glorot",
    "group_norm",
    "zero",
]


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU and convolution, twice, beside a shortcut; with a change of resolution and attention.

    The noise level enters between the two, as a scale and shift (`adaptive`; Nichol & Dhariwal, 2021) or
    as a term (Ho et al., 2020). The second convolution starts at zero.

    Args:
        inputs: Input channels.
        width: Output channels.
        size: Size of the conditioning vector.
        dropout: Rate before the second convolution.
        num_heads: Heads of the self-attention after the block; 0 for none.
        resample: Changes the resolution of both branches, as in BigGAN.
        adaptive: Whether the condition gives a scale as well.
        convolve_shortcut: Whether the shortcut is a 1x1 convolution (default: where channels differ).
        weight: Weight of the residual sums: √½ keeps the variance (Song et al., 2021, app. H.1).
        group_size: Channels that are normalised together, at least.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        size: int,
        dropout: float = 0.0,
        num_heads: int = 0,
        resample: nn.Module | None = None,
        adaptive: bool = False,
        convolve_shortcut: bool | None = None,
        weight: float = math.sqrt(0.5),
        group_size: int = 4,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.adaptive = adaptive
        self.resample = resample
        self.norm1 = group_norm(inputs, group_size)
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.condition = nn.Linear(size, (1 + adaptive) * width)
        self.norm2 = group_norm(width, group_size)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(width, width, 3, padding=1))
        convolve = inputs != width if convolve_shortcut is None else convolve_shortcut
        self.shortcut = nn.Conv2d(inputs, width, 1) if convolve else nn.Identity()
        self.attention = Attention(width, num_heads, weight, group_size) if num_heads else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """From (B, inputs, H, W) and (B, size) to (B, width, H, W), with H and W resampled."""
        hidden = silu(self.norm1(x))
        if self.resample is not None:
            hidden, x = self.resample(hidden), self.resample(x)
        hidden = self._conditioned(self.conv1(hidden), self.condition(condition)[:, :, None, None])
        hidden = self.conv2(self.dropout(silu(hidden)))
        output: Tensor = self.attention(residual_sum(self.shortcut(x), hidden, self.weight))
        return output

    def _conditioned(self, hidden: Tensor, condition: Tensor) -> Tensor:
        if not self.adaptive:
            normalised: Tensor = self.norm2(hidden + condition)
            return normalised
        scale, shift = condition.chunk(2, dim=1)
        return torch.addcmul(shift, self.norm2(hidden), 1 + scale)


class Attention(nn.Module):
    """Self-attention over the pixels, residual, through `scaled_dot_product_attention`.

    Args:
        channels: Channels.
        num_heads: Heads; a divisor of the channels.
        weight: Weight of the residual sum.
        group_size: Channels that are normalised together, at least.
    """

    def __init__(
        self, channels: int, num_heads: int = 1, weight: float = math.sqrt(0.5), group_size: int = 4
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.weight = weight
        self.norm = group_norm(channels, group_size)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Like x, shape (B, C, H, W)."""
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return residual_sum(x, self.out(mixed.mT.reshape(x.shape)), self.weight)


def channels_last(x: Tensor) -> Tensor:
    """The same values, on a CPU in the memory format channels-last, in which convolutions are faster.

    The layers after it keep the format. On a GPU, group normalisation would undo it.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) if x.is_cpu else x


def residual_sum(x: Tensor, residual: Tensor, weight: float) -> Tensor:
    """Weight times the sum, in the memory of the residual: allocating new memory takes twice the time."""
    total = residual.add_(x)
    return total if weight == 1 else total.mul_(weight)


def group_norm(channels: int, size: int = 4) -> nn.GroupNorm:
    """Groups of `size` channels or more, at most 32 of them."""
    groups = next(g for g in range(min(32, max(channels // size, 1)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)


def zero(conv: nn.Conv2d) -> nn.Conv2d:
    """Set the weights to zero, so that every block starts as its shortcut."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


@torch.no_grad()
def glorot(module: nn.Module) -> None:
    """From PyTorch's initial weights, U(±√(1/fan_in)), to Ho et al.'s: Glorot's U(±√(6/(fan_in + fan_out))).

    For `nn.Module.apply`; zeros remain zero.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        outputs, inputs = module.weight.shape[:2]
        module.weight.mul_(math.sqrt(6 * inputs / (inputs + outputs)))
        if module.bias is not None:
            module.bias.zero_()


class Average(nn.Module):
    """Half the resolution: the mean of 2x2 pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C, H/2, W/2)."""
        return nn.functional.avg_pool2d(x, 2)


class Nearest(nn.Module):
    """Double the resolution: every pixel four times."""

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C, 2H, 2W)."""
        return interpolate(x, scale_factor=2.0)


class FIRDown(nn.Module):
    """Half the resolution after a low-pass filter (Zhang, 2019; Karras et al., 2020), with zero padding.

    A convolution of each channel with the outer product of the taps. On a CPU (32x128x32x32, forward and
    backward) it is 2 times as fast as a product with a band matrix, 5 times as slices, and 13 times as a
    convolution with the channels in the batch dimension.

    Args:
        taps: The filter along an axis, symmetric and of even length; scaled to sum 1.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float] = (1, 3, 3, 1)) -> None:
        super().__init__()
        self.padding = len(taps) // 2 - 1
        self.register_buffer("kernel", _kernel(taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C, H/2, W/2)."""
        return conv2d(x, _per_channel(self.kernel, x), stride=2, padding=self.padding, groups=x.shape[1])


class FIRUp(nn.Module):
    """Double the resolution: zeros in between, then the low-pass filter, scaled to keep the mean.

    Args:
        taps: The filter along an axis, as for `FIRDown`.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float] = (1, 3, 3, 1)) -> None:
        super().__init__()
        self.padding = len(taps) // 2 - 1
        self.register_buffer("kernel", 4 * _kernel(taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C, 2H, 2W)."""
        kernel = _per_channel(self.kernel, x)
        return conv_transpose2d(x, kernel, stride=2, padding=self.padding, groups=x.shape[1])


class FIRConv(nn.Conv2d):
    """A 3x3 convolution at half the resolution, after the low-pass filter.

    Args:
        inputs: Input channels.
        width: Output channels.
        taps: The filter along an axis, as for `FIRDown`.
    """

    kernel: Tensor

    def __init__(self, inputs: int, width: int, taps: Sequence[float] = (1, 3, 3, 1)) -> None:
        super().__init__(inputs, width, 3, stride=2)
        self.margin = len(taps) // 2
        self.register_buffer("kernel", _kernel(taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, H, W) to (B, width, H/2, W/2)."""
        kernel = _per_channel(self.kernel, x)
        return super().forward(conv2d(x, kernel, padding=self.margin, groups=x.shape[1]))


def _kernel(taps: Sequence[float]) -> Tensor:
    """Outer product of the taps, of sum 1."""
    if len(taps) % 2 or list(taps) != list(taps)[::-1] or not sum(taps):
        raise ConfigurationError(
            f"fir={list(taps)}: an even number of symmetric taps is needed, as [1, 3, 3, 1]"
        )
    line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    return torch.outer(line, line)


def _per_channel(kernel: Tensor, x: Tensor) -> Tensor:
    return kernel.to(x.dtype).expand(x.shape[1], 1, *kernel.shape)


class StridedConv(nn.Conv2d):
    """Ho et al.'s 3x3 convolution at half the resolution, with padding below and to the right.

    Args:
        inputs: Input channels.
        width: Output channels.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(inputs, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, inputs, H, W) to (B, width, H/2, W/2)."""
        return super().forward(pad(x, (0, 1, 0, 1)))


class NearestConv(nn.Conv2d):
    """Ho et al.'s 3x3 convolution at double the resolution, every pixel repeated.

    Args:
        channels: Channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, H, W) to (B, C, 2H, 2W)."""
        return super().forward(interpolate(x, scale_factor=2.0))


def check_images(
    network: str,
    shape: Sequence[int],
    multipliers: Sequence[int],
    num_blocks: int,
    attention_stages: Sequence[int],
    patch_size: int = 1,
) -> None:
    """Refuse options from which a U-Net cannot be built.

    Raises:
        ConfigurationError: Naming the network and the argument.
    """
    if len(shape) != 3:
        raise ConfigurationError(
            f"{network}: shape {tuple(shape)} is not (channels, height, width); use MLP for vectors"
        )
    if not multipliers or min(multipliers) < 1:
        raise ConfigurationError(f"{network}: multipliers={list(multipliers)}: one or more, each at least 1")
    _check_divisible(network, shape, multipliers, patch_size)
    if num_blocks < 1:
        raise ConfigurationError(f"{network}: num_blocks={num_blocks}: at least 1")
    last = len(multipliers) - 1
    if bad := [stage for stage in attention_stages if not 0 <= stage <= last]:
        raise ConfigurationError(
            f"{network}: attention_stages={bad}: multipliers={list(multipliers)} has stages 0 to {last}"
        )


def _check_divisible(network: str, shape: Sequence[int], multipliers: Sequence[int], patch_size: int) -> None:
    """Refuse images whose sides cannot be halved at every stage."""
    if patch_size < 1 or shape[1] % patch_size or shape[2] % patch_size:
        raise ConfigurationError(
            f"{network}: patch_size={patch_size}: must divide height and width, {shape[1]} and {shape[2]}"
        )
    halvings = len(multipliers) - 1
    factor = patch_size * 2**halvings
    if shape[1] % factor or shape[2] % factor:
        fits = math.gcd(shape[1], shape[2]) // patch_size
        patches = f" in patches of {patch_size}" if patch_size > 1 else ""
        raise ConfigurationError(
            f"{network}: images of {shape[1]}x{shape[2]}{patches} cannot be halved {halvings} times, as "
            f"multipliers={list(multipliers)} asks: height and width must be divisible by {factor}. "
            f"Give 1 to {(fits & -fits).bit_length()} multipliers, or resize or pad the images"
        )
