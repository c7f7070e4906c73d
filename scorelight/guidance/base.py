"""What guidances share: the noise levels at which they act, and the step away from a worse prediction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scorelight.denoisers.base import Prediction
from scorelight.errors import ConfigurationError
from scorelight.processes.base import AnyLevel, Scalar

__all__ = ["Interval", "check_scale", "extrapolate", "is_constant", "scale_at"]

Interval = tuple[float, float]
"""Bounds of σ/α, both included."""


def check_scale(owner: str, scale: float, interval: Interval | None) -> None:
    """Refuse a scale that is not finite, and an interval without a level.

    Raises:
        ConfigurationError: If one of them is wrong.
    """
    if not math.isfinite(scale):
        raise ConfigurationError(f"{owner}: scale={scale}: a finite number is needed")
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise ConfigurationError(
            f"{owner}: interval={list(interval)}: bounds of σ/α are needed, 0 <= low < high"
        )


def scale_at(level: AnyLevel, scale: float, interval: Interval | None, outside: float = 1.0) -> Scalar:
    """The scale inside the interval of σ/α, and another one outside (Kynkäänniemi et al., 2024, eq. 3)."""
    if interval is None:
        return scale
    low, high = interval
    inside = (level.sigma >= low * level.alpha) & (level.sigma <= high * level.alpha)
    return torch.where(inside, scale, outside) if isinstance(inside, Tensor) else scale if inside else outside


def is_constant(scale: Scalar, value: float) -> bool:
    """Whether the scale is one number for all examples, and is this one."""
    return not isinstance(scale, Tensor) and scale == value


def extrapolate(away: Prediction, towards: Prediction, scale: Scalar) -> Prediction:
    """D_away + s (D_towards − D_away), in the units of `towards`.

    x̂0, ε̂, the score and the velocity of a prediction are affine in the network's output, with coefficients of
    the level alone. So this one combination of outputs is that of all of them.
    """
    space = towards.parameterization
    output = away.output
    if away.parameterization is not space:
        output = away.combine(*space.coefficients(towards.level))
    scale = scale.to(output) if isinstance(scale, Tensor) else scale
    guided = output + scale * (towards.output - output)
    return Prediction(towards.x_t, towards.level, guided, space, towards.variance_fraction)
