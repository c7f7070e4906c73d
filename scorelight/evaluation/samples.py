"""Samples as they are stored and evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from torch import Tensor
from tqdm import tqdm

from scorelight.denoisers.base import Denoiser
from scorelight.evaluation.context import DistributedContext
from scorelight.images import to_uint8
from scorelight.samplers.base import Sampler, final_state
from scorelight.samplers.generate import device_of, generate
from scorelight.storage.shards import ShardStore

__all__ = ["SampleSource", "counted", "cycle_labels", "emptied", "quantize", "samples_bar"]


def quantize(x: Tensor) -> Tensor:
    """Samples as they are evaluated: images of [−1, 1] rounded to 8 bits, anything else in float32.

    What is rounded already stays as it is.

    Raises:
        ConfigurationError: If an image is NaN or infinite.
    """
    if x.dtype == torch.uint8:
        return x
    return to_uint8(x) if x.ndim == 4 else x.float()


def cycle_labels(indices: Tensor, labels: Sequence[int] | None) -> dict[str, Tensor]:
    """Conditions of samples: sample i is of class labels[i mod n]; none without labels."""
    return {"label": torch.tensor(labels)[indices.cpu() % len(labels)]} if labels else {}


class SampleSource(NamedTuple):
    """All that samples depend on but for their seed and index.

    The denoiser is on the device where samples are drawn, under its guidance if there is one.
    """

    denoiser: Denoiser
    sampler: Sampler
    shape: Sequence[int]
    labels: Sequence[int] | None = None
    """Classes to draw, taken in turn."""
    needs_labels: bool = False
    """Whether the network was never trained without a class."""

    def draw(self, seed: int, index: Tensor, progress: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples at the given indices, shape (B, ...), and their conditions.

        Args:
            seed: Seed of the samples.
            index: Their indices, shape (B,).
            progress: A tqdm bar over samples, moved at every step of the sampler.
        """
        cond = cycle_labels(index, self.labels)
        here = {name: value.to(device_of(self.denoiser)) for name, value in cond.items()}
        states = generate(self.denoiser, self.sampler, self.shape, seed, index.tolist(), here)
        if progress is not None:
            states = counted(states, progress, len(index) / self.sampler.num_steps)
        return final_state(states), cond


def counted(states: Iterator[Tensor], progress: Any, step: float) -> Iterator[Tensor]:
    """The states; the bar is moved at each of them."""
    for state in states:
        progress.update(min(step, progress.total - progress.n))
        yield state


def samples_bar(desc: str, total: int, hidden: bool) -> Any:
    """A progress bar over samples that moves by parts of them."""
    shown = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} [{elapsed}<{remaining}, {rate_fmt}]"
    return tqdm(desc=desc, total=total, mininterval=0.5, disable=hidden, unit="sample", bar_format=shown)


@contextmanager
def emptied(store: ShardStore, context: DistributedContext) -> Iterator[None]:
    """A block in which one command, with all its processes, has a store for itself, which is empty at first.

    Raises:
        ConfigurationError: On all processes, if another command is writing there, or if a process does not
            see the folder.
    """
    store.key = context.broadcast(lambda: uuid4().hex)
    with ExitStack() as owned:

        def take() -> None:
            if context.is_main:
                owned.enter_context(store.owned())
                store.clear()  # what an interrupted command has left

        context.agree(take)
        context.check_shared(store.folder.parent)
        yield
