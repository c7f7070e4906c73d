"""States of a sampler that must be finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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
    step, good, survived = 0, None, None
    for step, state in enumerate(_explained(states, denoiser, owner, remedy), 1):  # noqa: B007
        finite = state.detach().flatten(1).abs().amax(1).isfinite()  # a tenth of the time of isfinite().all()
        good = finite if good is None else good & finite
        survived = good.long() if survived is None else survived + good
        yield state
    if good is None or survived is None or good.all():
        return
    first = int(survived.min()) + 1
    raise SamplingError(
        f"{owner}: {int((~good).sum())} of {len(good)} samples drawn at once are NaN or infinite, the first "
        f"from step {first} of {step} on, t = {times[min(first, len(times)) - 1]:.3g}. "
        f"{_remedy(denoiser, remedy)}"
    )


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
