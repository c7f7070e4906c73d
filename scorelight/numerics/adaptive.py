"""Integration of dy/dt = f(t, y) in which every example of a batch takes its own steps.

A `Method` says how an example starts and how it tries one step; `integrate` repeats that until all examples
have reached the end. An example's steps, error and result do not depend on its batch, and it leaves the batch
when it arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError, SolverError

__all__ = ["Field", "Layout", "Method", "Norm", "Rows", "Solution", "State", "integrate"]

State = Any
"""A tensor of shape (B, ...), or a tuple of such."""
Field = Callable[[Tensor, State, Tensor], State]
"""dy/dt at times (n,), states (n, ...) and the places (n,) that these examples have in the batch."""
Rows = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A `Field` of states laid out as a matrix, one row per example."""
Norm = Callable[..., Tensor]
"""The error of each example in units of its tolerance, shape (B,)."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The state at the end, and the number of evaluations of f that each example took, shape (B,)."""

    state: State
    num_evaluations: Tensor


class Method(NamedTuple):
    """An integrator: how examples set out, how each tries a step, and the evaluations of both."""

    name: str
    depart: Callable[[Rows, Norm, Tensor, float, float], Any]
    advance: Callable[[Rows, Norm, Any, float], tuple[Any, Tensor]]
    first_evaluations: int
    evaluations: int


def integrate(
    method: Method,
    field: Field,
    state: State,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Solution:
    """Let each example go its own way until all have arrived."""
    _check_tolerances(rtol, atol)
    layout = Layout.of(state)
    y = layout.pack(state)
    counts = torch.zeros(len(y), dtype=torch.long, device=y.device)
    if start == end or len(y) == 0:
        return Solution(state, counts)

    def f(t: Tensor, y: Tensor, index: Tensor) -> Tensor:
        return layout.pack(field(t, layout.unpack(y), index))

    def norm(value: Tensor, *sizes: Tensor) -> Tensor:
        with torch.no_grad():
            return layout.norm(value / (atol + rtol * torch.stack([s.abs() for s in sizes]).amax(0)))

    run, result = method.depart(f, norm, y, start, end), y
    for step in range(1, max_steps + 1):
        run, arrived = method.advance(f, norm, run, end)
        if arrived.any():
            at = run.place[arrived]
            result = result.index_copy(0, at, run.y[arrived])
            counts[at] = method.first_evaluations + method.evaluations * step
            run = take_rows(run, ~arrived)
        if len(run.place) == 0:
            return Solution(layout.unpack(result), counts)
        _check_progress(method, run, abs(end - start))
    raise SolverError(
        f"{method.name}: {len(run.place)} of {len(y)} examples are not at t={end:.6g} after "
        f"max_steps={max_steps} steps, the last of them at "
        f"t={run.t[(end - run.t).abs().argmax()].item():.6g}; use larger tolerances (rtol={rtol:.1g}, "
        f"atol={atol:.1g}) or more steps"
    )


def _check_tolerances(rtol: float, atol: float) -> None:
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise ConfigurationError(f"rtol={rtol}, atol={atol}: must not be negative, and one of them positive")


class Layout(NamedTuple):
    """How a state is laid out as a matrix with one row per example."""

    shapes: list[torch.Size]
    dtypes: list[torch.dtype]
    single: bool

    @classmethod
    def of(cls, state: State) -> Layout:
        parts = [state] if isinstance(state, Tensor) else state
        return cls([p.shape[1:] for p in parts], [p.dtype for p in parts], isinstance(state, Tensor))

    def pack(self, state: State) -> Tensor:
        parts = [state] if self.single else state
        rows = [p.reshape(len(p), s.numel()) for p, s in zip(parts, self.shapes, strict=True)]
        return torch.cat(rows, dim=1)

    def unpack(self, y: Tensor) -> State:
        columns = self._columns(y)
        parts = tuple(
            c.reshape(len(y), *shape).to(dtype)
            for c, shape, dtype in zip(columns, self.shapes, self.dtypes, strict=True)
        )
        return parts[0] if self.single else parts

    def _columns(self, y: Tensor) -> tuple[Tensor, ...]:
        return torch.split(y, [shape.numel() for shape in self.shapes], dim=1)

    def norm(self, y: Tensor) -> Tensor:
        """The largest of the parts' root mean squares, shape (B,), float64; infinite where not a number."""
        columns = self._columns(y)
        squares = torch.stack([c.double().square().mean(1) for c in columns])
        return squares.amax(0).sqrt().nan_to_num(torch.inf, torch.inf)


def take_rows(run: Any, which: Tensor) -> Any:
    """Some of the examples on their way."""
    return type(run)(*(column[which] for column in run))


def first_times(start: float, y: Tensor) -> tuple[Tensor, Tensor]:
    """Place in the batch and t of each example, before the first step."""
    t = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    return torch.arange(len(y), device=y.device), t


def next_step(run: Any, end: float) -> tuple[Tensor, Tensor]:
    """The step h that each example tries, and whether it would be its last."""
    left = end - run.t
    last = run.h.abs() >= left.abs() * (1 - 1e-9)
    return torch.where(last, left, run.h), last


def combine(row: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Σ_j row_j slopes_j."""
    weights = torch.tensor(row, dtype=slopes[0].dtype, device=slopes[0].device)
    return torch.tensordot(weights, torch.stack(slopes), dims=1)


def _check_progress(method: Method, run: Any, span: float) -> None:
    stuck = run.h.abs() < 1e-14 * span
    if stuck.any():
        raise SolverError(
            f"{method.name}: no step is small enough at t={run.t[stuck][0].item():.6g}: the derivative is "
            "infinite or not a number there, or jumps"
        )
