"""Samples as they are stored and evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from scorelight.denoisers.base import Denoiser
from scorelight.evaluation.context import DistributedContext
from scorelight.images import grid, save, to_uint8
from scorelight.samplers.base import Sampler, final_state
from scorelight.samplers.generate import device_of, generate
from scorelight.storage.npz import write_npz
from scorelight.storage.shards import ShardStore

__all__ = ["SampleSource", "cycle_labels", "emptied", "quantize", "write_archive"]


def quantize(x: Tensor) -> Tensor:
    """Samples as they are evaluated: images of [−1, 1] rounded to 8 bits, anything else in float32."""
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

    def draw(
        self, seed: int, batches: Iterable[Tensor], progress: Any = None
    ) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
        """Samples at the given indices, batch by batch: indices, samples and their conditions.

        Args:
            seed: Seed of the samples.
            batches: Their indices.
            progress: A tqdm bar, moved at every step of the sampler.
        """
        for index in batches:
            cond = cycle_labels(index, self.labels)
            here = {name: value.to(device_of(self.denoiser)) for name, value in cond.items()}
            states = generate(self.denoiser, self.sampler, self.shape, seed, index.tolist(), here)
            yield index, final_state(_counted(states, progress) if progress is not None else states), cond


def _counted(states: Iterator[Tensor], progress: Any) -> Iterator[Tensor]:
    """The states; the bar is moved at each of them."""
    for state in states:
        progress.update()
        yield state


@contextmanager
def emptied(store: ShardStore, context: DistributedContext) -> Iterator[None]:
    """A block in which one command, with all its processes, has a store for itself, which is empty at first.

    Raises:
        ConfigurationError: On all processes, if another command is writing there.
    """
    store.key = context.broadcast(lambda: uuid4().hex)
    with ExitStack() as owned:

        def take() -> None:
            if context.is_main:
                owned.enter_context(store.owned())
                store.clear()  # what an interrupted command has left

        context.agree(take)
        yield


def write_archive(store: ShardStore, num: int, folder: Path, seed: int, num_shown: int = 256) -> None:
    """Write the samples of a store as ``samples.npz`` and ``samples.png``, and remove the store.

    The archive holds ``images`` (N, H, W, C), uint8, or for vectors ``samples`` (N, D), float32; ``labels``
    if there are any; and ``seed``. Row i is sample i, whichever process drew it.

    Args:
        store: The samples ``x`` and, if there are any, their conditions ``label``.
        num: Number of samples N.
        folder: Where to write.
        seed: Seed of the samples.
        num_shown: Samples in the picture at most.

    Raises:
        ConfigurationError: If a sample is missing, or is NaN or infinite; nothing is written then.
    """
    rows = store.merged(num)
    x = rows["x"]
    arrays = {"images": to_uint8(x).permute(0, 2, 3, 1)} if x.ndim == 4 else {"samples": x}
    if "label" in rows:
        arrays["labels"] = rows["label"]
    numpy_arrays = {name: value.numpy() for name, value in arrays.items()}
    picture = grid(x if x.ndim == 2 else x[:num_shown])
    write_npz(folder / "samples.npz", {"seed": np.int64(seed), **numpy_arrays})
    save(picture, folder / "samples.png")
    store.clear()
