"""Integration of dy/dt = f(t, y) in which every example of a batch takes its own steps.

A `Method` starts the examples and tries a step of each; `integrate` repeats the step until every example has
reached the end. The steps, the error and the result of an example do not depend on its batch. An example
leaves the batch when it arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError, SolverError

__all__ = ["Field", "Layout", "Method", "Norm", "Rows", "Run", "Solution", "State", "integrate"]

State = TypeVar("State", Tensor, tuple[Tensor, ...])
"""A tensor of shape (B, ...), or a tuple of such tensors."""
Field = Callable[[Tensor, State, Tensor], State]
"""dy/dt at times (n,), states (n, ...) and the positions (n,) of these examples in the batch."""
Rows = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A `Field` of states laid out as a matrix, one row per example."""


class Norm(Protocol):
    """The error of each example in units of its tolerance."""

    def __call__(self, error: Tensor, *states: Tensor) -> Tensor:
        """From an error and states that set its relative tolerance, all (n, D), to (n,), float64."""


@dataclass(frozen=True, slots=True)
class Solution(Generic[State]):
    """The state at the end, and the number of evaluations of f that each example took, shape (B,)."""

    state: State
    num_evaluations: Tensor


@dataclass(slots=True)
class Run:
    """The examples that have not arrived yet, one row each."""

    place: Tensor
    """Position in the batch."""
    t: Tensor
    h: Tensor
    """The next step."""
    y: Tensor
    rejected: Tensor
    """Whether the last step was rejected."""

    def select(self, rows: Tensor) -> Self:
        """The given rows alone."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


AnyRun = TypeVar("AnyRun", bound=Run)


class Method(NamedTuple, Generic[AnyRun]):
    """An integrator: how it starts, how it tries a step, and the evaluations that each of the two costs."""

    name: str
    start: Callable[[Rows, Norm, Tensor, float, float], AnyRun]
    advance: Callable[[Rows, Norm, AnyRun, float], tuple[AnyRun, Tensor]]
    """The examples after a step, and which of them have arrived."""
    first_evaluations: int
    evaluations: int


def integrate(
    method: Method[AnyRun],
    field: Field[State],
    state: State,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Solution[State]:
    """Advance the examples until all of them have reached the end."""
    _check_tolerances(rtol, atol)
    layout = Layout.of(state)
    y = layout.pack(state)
    counts = torch.zeros(len(y), dtype=torch.long, device=y.device)
    if start == end or len(y) == 0:
        return Solution(state, counts)
    f, norm = layout.rows(field), layout.tolerance(rtol, atol)
    run, result = method.start(f, norm, y, start, end), y
    for step in range(1, max_steps + 1):
        run, arrived = method.advance(f, norm, run, end)
        if arrived.any():
            at = run.place[arrived]
            result = result.index_copy(0, at, run.y[arrived])
            counts[at] = method.first_evaluations + method.evaluations * step
            run = run.select(~arrived)
        if len(run.place) == 0:
            return Solution(layout.unpack(result), counts)
        _check_progress(method.name, run, len(y), abs(end - start))
    raise _step_limit_error(method.name, run, len(y), end, max_steps, f"rtol={rtol:.1g}, atol={atol:.1g}")


def _step_limit_error(
    name: str, run: Run, num: int, end: float, max_steps: int, tolerances: str
) -> SolverError:
    last = run.t[(end - run.t).abs().argmax()].item()
    return SolverError(
        f"{name}: {len(run.place)} of {num} examples are not at t={end:.6g} after max_steps={max_steps} "
        f"steps, the last of them at t={last:.6g}; use larger tolerances ({tolerances}) or more steps"
    )


def _check_tolerances(rtol: float, atol: float) -> None:
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise ConfigurationError(f"rtol={rtol}, atol={atol}: must not be negative, and one of them positive")


@dataclass(frozen=True, slots=True)
class Layout(Generic[State]):
    """How a state is laid out as a matrix with one row per example."""

    shapes: list[torch.Size]
    dtypes: list[torch.dtype]
    split: Callable[[State], tuple[Tensor, ...]]
    join: Callable[[tuple[Tensor, ...]], State]

    @classmethod
    def of(cls, state: State) -> Layout[State]:
        """The layout of a state."""
        if isinstance(state, Tensor):
            return Layout([state.shape[1:]], [state.dtype], lambda tensor: (tensor,), lambda parts: parts[0])
        return Layout([p.shape[1:] for p in state], [p.dtype for p in state], tuple, tuple)

    def pack(self, state: State) -> Tensor:
        """The state as a matrix, shape (B, D), in its widest type."""
        parts = zip(self.split(state), self.shapes, strict=True)
        return torch.cat([part.reshape(len(part), shape.numel()) for part, shape in parts], dim=1)

    def unpack(self, y: Tensor) -> State:
        """The state of a matrix, in its shapes and types."""
        columns = zip(self._columns(y), self.shapes, self.dtypes, strict=True)
        return self.join(tuple(c.reshape(len(y), *shape).to(dtype) for c, shape, dtype in columns))

    def _columns(self, y: Tensor) -> tuple[Tensor, ...]:
        return torch.split(y, [shape.numel() for shape in self.shapes], dim=1)

    def rows(self, field: Field[State]) -> Rows:
        """The field of packed states."""
        return lambda t, y, index: self.pack(field(t, self.unpack(y), index))

    def tolerance(self, rtol: float, atol: float) -> Norm:
        """The norm of an error in units of atol + rtol |y|."""

        def norm(error: Tensor, *states: Tensor) -> Tensor:
            with torch.no_grad():
                return self.norm(error / (atol + rtol * torch.stack([s.abs() for s in states]).amax(0)))

        return norm

    def norm(self, y: Tensor) -> Tensor:
        """The largest of the parts' root mean squares, shape (B,), float64; infinite where not a number."""
        squares = torch.stack([c.double().square().mean(1) for c in self._columns(y)])
        return squares.amax(0).sqrt().nan_to_num(torch.inf, torch.inf)


def first_times(start: float, y: Tensor) -> tuple[Tensor, Tensor]:
    """Position in the batch and t of each example, before the first step."""
    t = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
    return torch.arange(len(y), device=y.device), t


def next_step(run: Run, end: float) -> tuple[Tensor, Tensor]:
    """The step h that each example tries, and whether it would be its last."""
    left = end - run.t
    last = run.h.abs() >= left.abs() * (1 - 1e-9)
    return torch.where(last, left, run.h), last


def combine(row: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Σ_j row_j slopes_j."""
    weights = torch.tensor(row, dtype=slopes[0].dtype, device=slopes[0].device)
    combined: Tensor = torch.tensordot(weights, torch.stack(slopes), dims=1)
    return combined


def _check_progress(name: str, run: Run, num: int, span: float) -> None:
    stuck = run.h.abs() < 1e-14 * span
    if stuck.any():
        raise SolverError(
            f"{name}: no step is small enough for {int(stuck.sum())} of {num} examples, the first at "
            f"t={run.t[stuck][0].item():.6g}: the derivative is infinite or not a number there, or jumps"
        )
