"""The probability flow (4) in coordinates in which it is the same for every process.

With tan θ = σ/α and z = x_t/√(α² + σ²), equations (1) and (4) become

    z = cos θ x0 + sin θ ε        dz/dθ = cos θ ε̂ − sin θ x̂0 = v̂                                  (20)

(Salimans & Ho, 2022, app. D, there for α² + σ² = 1). The process enters by its log-SNR alone: a table has no
jumps here, z is of order one for VE too, and z hardly moves for data of unit variance.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scorelight.denoiser import Denoiser, Prediction
from scorelight.integrate import Solution, dopri5
from scorelight.processes.base import ForwardProcess, NoiseLevel

__all__ = ["decode", "encode", "flow", "slerp"]


def angle(level: NoiseLevel) -> float:
    """θ = arctan(σ/α) of a level of floats, from 0 (data) to π/2 (noise)."""
    return math.atan2(level.sigma, level.alpha)


def length(level: NoiseLevel) -> Any:
    """√(α² + σ²), the length of x_t in units of z."""
    return (level.alpha**2 + level.sigma**2) ** 0.5


def level_at(process: ForwardProcess, theta: Tensor, like: Tensor) -> NoiseLevel:
    """The level of each example at its angle, shape (B,), broadcastable against the data."""
    with torch.no_grad():
        return process.level(process.time_of_log_snr(-2 * theta.tan().log()), like=like)


def angular_velocity(pred: Prediction) -> Tensor:
    """v̂ = dz/dθ of equation (20), of x_t's shape."""
    level = pred.level
    return (level.alpha * pred.epsilon - level.sigma * pred.x0) / length(level)


def select(cond: dict[str, Any], index: Tensor, size: int) -> dict[str, Any]:
    """The conditions of some of `size` examples: rows of each tensor that has a row for every example."""

    def rows(value: Any) -> Any:
        per_example = isinstance(value, Tensor) and value.ndim > 0 and len(value) == size
        return value[index] if per_example else value

    return {name: rows(value) for name, value in cond.items()}


def flow(
    denoiser: Denoiser,
    x: Tensor,
    start: NoiseLevel,
    end: NoiseLevel,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
    **cond: Any,
) -> Solution:
    """Carry x of shape (B, ...) along the probability flow from one level to another.

    Args:
        denoiser: The model.
        x: States at `start`.
        start: The level x is at, of floats (`ForwardProcess.levels`).
        end: The level to arrive at.
        rtol: Relative tolerance of a step, in z.
        atol: Absolute tolerance of a step, in z.
        max_steps: Steps tried, six evaluations each.
        **cond: Conditions for the network.
    """

    def field(theta: Tensor, z: Tensor, index: Tensor) -> Tensor:
        level = level_at(denoiser.process, theta, z)
        return angular_velocity(denoiser.predict(length(level) * z, level, **select(cond, index, len(x))))

    z, theta, to = x / length(start), angle(start), angle(end)
    solution = dopri5(field, z, theta, to, rtol=rtol, atol=atol, max_steps=max_steps)
    return Solution(length(end) * solution.state, solution.num_evaluations)


def encode(denoiser: Denoiser, x0: Tensor, *, rtol: float = 1e-6, atol: float = 1e-6, **cond: Any) -> Tensor:
    """Unit noise, like x0, from which the probability flow leads to x0 (Song et al., 2021, sec. 4.3).

    The flow starts from α x0 at t_min and ends at σ(t_max) times the noise.

    Args:
        denoiser: The model.
        x0: Clean data, shape (B, ...).
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
        **cond: Conditions for the network.
    """
    clean, noisy = ends(denoiser.process)
    solution = flow(denoiser, clean.alpha * x0, clean, noisy, rtol=rtol, atol=atol, **cond)
    return solution.state / noisy.sigma


def decode(
    denoiser: Denoiser, noise: Tensor, *, rtol: float = 1e-6, atol: float = 1e-6, **cond: Any
) -> Tensor:
    """The inverse of `encode`: x_{t_min}/α, like noise, without the denoising step of a sampler.

    Args:
        denoiser: The model.
        noise: Unit noise, shape (B, ...).
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
        **cond: Conditions for the network.
    """
    clean, noisy = ends(denoiser.process)
    solution = flow(denoiser, noisy.sigma * noise, noisy, clean, rtol=rtol, atol=atol, **cond)
    return solution.state / clean.alpha


def ends(process: ForwardProcess) -> list[NoiseLevel]:
    """The levels at t_min and t_max, in floats."""
    return process.levels(torch.tensor([process.t_min, process.t_max], dtype=torch.float64))


def slerp(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """Spherical interpolation, sin((1−s)φ)/sin φ a + sin(sφ)/sin φ b (Shoemake, 1985), of a's shape.

    φ is the angle between a and b, over all dimensions of an example; where they point the same way the
    limit, a straight line, is taken. Between noises the norm stays what it is for noise.

    Args:
        a: Shape (B, ...).
        b: Shape (B, ...).
        share: s, from 0 (a) to 1 (b), a float or of shape (B,).
    """
    flat_a, flat_b = a.double().flatten(1), b.double().flatten(1)
    s = torch.as_tensor(share, dtype=torch.float64, device=a.device).reshape(-1, 1)
    unit_a, unit_b = (f / f.norm(dim=1, keepdim=True) for f in (flat_a, flat_b))
    phi = 2 * torch.atan2(
        (unit_a - unit_b).norm(dim=1, keepdim=True), (unit_a + unit_b).norm(dim=1, keepdim=True)
    )
    straight = phi < 1e-7
    sine = phi.where(~straight, torch.ones_like(phi)).sin()
    weight_a = torch.where(straight, 1 - s, ((1 - s) * phi).sin() / sine)
    weight_b = torch.where(straight, s.expand_as(phi), (s * phi).sin() / sine)
    return (weight_a * flat_a + weight_b * flat_b).reshape(a.shape).to(a.dtype)
