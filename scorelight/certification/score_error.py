"""The error of a learned score, where the exact one is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError
from scorelight.rng import Generators, randn_like

__all__ = ["ScoreError", "score_error"]


@dataclass(frozen=True, slots=True)
class ScoreError:
    """The result of `score_error` at each time; all tensors have shape (T,), float64."""

    t: Tensor
    """The times."""
    fisher: Tensor
    """Fisher divergence E‖s_θ − s*‖², x_t ~ p_t."""
    weighted: Tensor
    """σ_t² times that, E‖ε_θ − ε*‖²: of order D for an output of zero, whatever the noise."""
    uncertainty: Tensor
    """Standard error of `weighted`."""
    num_dims: int
    """Number D of dimensions."""

    @property
    def rms(self) -> float:
        """Root mean square of σ_t (s_θ − s*) over times and dimensions."""
        return math.sqrt(self.weighted.mean().item() / self.num_dims)


@torch.no_grad()
def score_error(
    denoiser: Denoiser,
    exact: Denoiser,
    x0: Tensor,
    t: Tensor,
    *,
    generator: Generators = None,
    batch_size: int = 8192,
    **cond: Any,
) -> ScoreError:
    """Mean squared difference of two scores at each noise level (Hyvärinen, 2005, eq. 2).

    Args:
        denoiser: The learned one.
        exact: The exact one, such as `AnalyticDenoiser`, for the same process.
        x0: Examples of the data, shape (N, ...).
        t: Times, shape (T,).
        generator: Source of ε, drawn for all examples at each time in turn.
        batch_size: Examples at once; does not change the result.
        **cond: Conditions, each of shape (N, ...).

    Raises:
        ConfigurationError: If the processes differ, or there are fewer than two examples.
    """
    if len(x0) < 2:
        raise ConfigurationError(f"score_error: {len(x0)} examples: at least 2 are needed for an error")
    t = t.to(x0.device, torch.float64)
    _same_process(denoiser, exact, t)
    squares = [_squares(denoiser, exact, x0, s, randn_like(x0, generator), batch_size, cond) for s in t]
    weighted = torch.stack([s.mean() for s in squares])
    uncertainty = torch.stack([s.std() for s in squares]) / len(x0) ** 0.5
    sigma = denoiser.process.sigma(t)
    return ScoreError(t, weighted / sigma**2, weighted, uncertainty, x0[0].numel())


def _squares(
    denoiser: Denoiser,
    exact: Denoiser,
    x0: Tensor,
    t: Tensor,
    epsilon: Tensor,
    batch_size: int,
    cond: dict[str, Tensor],
) -> Tensor:
    """‖ε_θ − ε*‖² of each example at one time, shape (N,), float64."""
    squares = []
    for index in torch.split(torch.arange(len(x0), device=x0.device), batch_size):
        times = t.expand(len(index))
        x_t = denoiser.process.perturb(x0[index], epsilon[index], times)
        part = {name: value[index] for name, value in cond.items()}
        error = denoiser(x_t, times, **part).epsilon.double() - exact(x_t, times, **part).epsilon.double()
        squares.append(error.flatten(1).square().sum(1))
    return torch.cat(squares)


def _same_process(denoiser: Denoiser, exact: Denoiser, t: Tensor) -> None:
    ours, theirs = (torch.stack([d.process.alpha(t), d.process.sigma(t)]) for d in (denoiser, exact))
    if not torch.allclose(ours, theirs, rtol=1e-6, atol=0):
        raise ConfigurationError(
            f"score_error: the scores belong to two processes, {type(denoiser.process).__name__} and "
            f"{type(exact.process).__name__} with other α or σ: give both denoisers the same process"
        )
