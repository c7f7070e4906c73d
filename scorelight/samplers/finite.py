"""States of a sampler that must be finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from scorelight.denoisers.base import Denoiser
from scorelight.errors import SamplingError, SolverError

__all__ = ["finite_states"]


def finite_states(
    states: Iterable[Tensor], times: Sequence[float], denoiser: Denoiser, owner: str, remedy: str
) -> Iterator[Tensor]:
    """Yield the states of a sampler, and raise after the last one if an example was not finite in any.

    What is NaN or infinite stays so, or becomes a number that means nothing, such as a white image after
    clipping. The device is asked once, at the end: to ask at every step would be to wait for it.

    Args:
        states: Each of shape (B, ...).
        times: Time of each state; the last one is that of all that follow.
        denoiser: What the states are computed with; its weights are looked at after a failure.
        owner: Name of the sampler, for the message.
        remedy: What to change in the sampler, for the message.

    Raises:
        SamplingError: If a state is not finite; it states how many examples are not, and from which step on.
    """
    record, step = _Record(), 0
    for step, state in enumerate(_explained(states, denoiser, owner, remedy), 1):  # noqa: B007
        record.add(state)
        yield state
    steps = record.finite_steps()
    if steps is None or (bad := steps < step).sum() == 0:
        return
    first = int(steps.min()) + 1
    raise SamplingError(
        f"{owner}: {int(bad.sum())} of {len(bad)} samples drawn at once are NaN or infinite, the first "
        f"from step {first} of {step} on, t = {times[min(first, len(times)) - 1]:.3g}. "
        f"{_remedy(denoiser, remedy)}"
    )


class _Record:
    """Up to which state each example was finite, in one pass over each state."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._good: Tensor | None = None
        self._steps: Tensor | None = None

    def add(self, state: Tensor) -> None:
        """Record a state of shape (B, ...): a sum is finite if its terms are, and below 10³⁸."""
        x = state.detach().flatten(1)
        self._sums.append(x.sum(1, dtype=torch.promote_types(x.dtype, torch.float32)))
        if len(self._sums) == 1000:
            self.finite_steps()

    def finite_steps(self) -> Tensor | None:
        """Number of states in a row, from the first, in which each example was finite, shape (B,)."""
        if self._sums:
            finite = torch.stack(self._sums).isfinite()
            self._sums = []
            if self._good is not None:
                finite = finite & self._good
            in_a_row = finite.long().cumprod(0)
            self._good = in_a_row[-1].bool()
            self._steps = in_a_row.sum(0) + (0 if self._steps is None else self._steps)
        return self._steps


def _explained(states: Iterable[Tensor], denoiser: Denoiser, owner: str, remedy: str) -> Iterator[Tensor]:
    """The states; an error of an integrator gets the step of the sampler and the remedy."""
    step, remaining = 1, iter(states)
    while True:
        try:
            state = next(remaining, None)
        except SolverError as error:
            raise SamplingError(f"{owner}, step {step}: {error}. {_remedy(denoiser, remedy)}") from error
        if state is None:
            return
        yield state
        step += 1


def _remedy(denoiser: Denoiser, of_the_sampler: str) -> str:
    """What to try, by whether the weights are finite."""
    if not all(weight.isfinite().all() for weight in denoiser.state_dict().values()):
        return (
            "The weights of the network are not finite: take a checkpoint from before its training diverged, "
            "such as previous.ckpt"
        )
    return (
        f"Try {of_the_sampler}, or a process with a larger t_min or a smaller beta_max or sigma_max, or "
        "more training"
    )
