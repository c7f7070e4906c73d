"""Where results are kept, and the keys of all that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor

from scorelight.data.access import ModelExamples
from scorelight.denoisers.base import Denoiser
from scorelight.evaluation.context import DistributedContext
from scorelight.storage.background import copy_to_host, in_background
from scorelight.storage.identity import code_of, describe
from scorelight.storage.shards import ShardPart, ShardStore
from scorelight.storage.source import own_code

__all__ = ["ResultStores", "data_key", "key_text", "written_in_background"]


def key_text(*depends_on: Any) -> str:
    """All that a result depends on, and the code of scorelight, as one text."""
    return json.dumps([own_code(), *map(describe, depends_on)], sort_keys=True)


def data_key(data: LightningDataModule, examples: ModelExamples) -> list[Any]:
    """What examples are: their content as stored, and as the model sees the first of them."""
    seen = examples.first(16)
    return [examples.fingerprint(), code_of(type(data)), seen.x0, seen.cond, examples.num_bins]


@contextmanager
def written_in_background(store: ShardStore) -> Iterator[Callable[..., None]]:
    """A block with a function that takes what `ShardStore.write` takes, and lets another thread write it.

    All is written when the block ends, also by an error or a signal; see `in_background`.
    """
    with in_background() as later:

        def write(index: Tensor, **rows: Tensor) -> None:
            copies = {name: copy_to_host(value) for name, value in {"index": index, **rows}.items()}
            later(lambda: store.write(**{name: copied() for name, copied in copies.items()}))

        yield write


class ResultStores:
    """The stores of results of one model: samples of a seed, values of a metric.

    Args:
        folder: Where they are; all processes write to it.
        denoiser: The model with its wrappers.
        context: The processes that share the work.
    """

    def __init__(self, folder: Path, denoiser: Denoiser, context: DistributedContext) -> None:
        self.folder = folder
        self.denoiser = denoiser
        self.context = context

    def store(self, kind: str, *depends_on: Any) -> ShardStore:
        """The store of what depends on the denoiser, its weights and all else that is given."""
        digest = hashlib.sha256(key_text(self._model, *depends_on).encode()).hexdigest()
        return ShardStore(self.folder / f"{kind}-{digest[:12]}", digest)

    @contextmanager
    def missing(self, store: ShardStore, num: int) -> Iterator[tuple[Tensor, list[ShardPart]]]:
        """This process's part of the indices below `num` without a row in the store, and of the rows there.

        In the block no other command writes to the store: it waits, and then finds what was written here.

        Raises:
            ConfigurationError: On all processes, if one of them does not see the folder.
        """
        with store.owned(wait=True) if self.context.is_main else nullcontext():
            self.context.check_shared(self.folder)
            missing, present = self.context.broadcast(lambda: (store.missing(num), store.parts(num, False)))
            yield self.context.share(missing), present[self.context.rank :: self.context.world_size]
            self.context.barrier()

    @cached_property
    def _model(self) -> Any:
        return describe(self.denoiser)
