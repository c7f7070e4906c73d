"""The features of a known number of examples, taken by several processes in memory that does not grow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.evaluation.context import DistributedContext
from scorelight.metrics import FeatureExtractor, Features, FeatureSet, Moments, SampleQualityMetric
from scorelight.metrics.features.base import finite_features
from scorelight.metrics.rows import StoredRows

__all__ = ["FeatureRows"]

_AT_ONCE = 256
"""Examples whose features are computed at once."""
_PIECE = 2048
"""Rows that a process sends at once."""


class FeatureRows:
    """Moments of the features of the examples 0, ..., N − 1, and the features where a metric needs them.

    Moments are accumulated in float64. Features and logits of example i are row i of a file without a name,
    which is read some rows at a time: in memory are the moments, of order D², for any number of examples.

    Args:
        features: Feature network, on the device.
        metrics: What the features are needed for.
        num: Number of examples N of all processes.
        of: What the examples are, for messages.
        folder: Where the files lie (default: the folder for temporary files, $TMPDIR).
    """

    def __init__(
        self,
        features: FeatureExtractor,
        metrics: Sequence[SampleQualityMetric],
        num: int,
        of: str = "samples",
        folder: Path | None = None,
    ) -> None:
        self.features = features
        self.num = num
        self.of = of
        self.folder = folder
        self._stored = {
            "values": any(metric.needs_features for metric in metrics),
            "logits": any(metric.needs_logits for metric in metrics),
        }
        self._rows: dict[str, StoredRows] = {}
        self._indices: list[Tensor] = []
        self._moments: Moments | None = None

    def extract(self, x: Tensor) -> Features:
        """The features of stored examples, which are not added yet.

        Raises:
            ConfigurationError: If one is NaN or infinite.
        """
        parts = [finite_features(self.features, part, self.of) for part in torch.split(x, _AT_ONCE)]
        logits = [part.logits for part in parts if part.logits is not None]
        return Features(torch.cat([part.values for part in parts]), torch.cat(logits) if logits else None)

    def add(self, index: Tensor, features: Features) -> None:
        """Add the features of the examples with these indices, each of which is added once."""
        moments = Moments.of(features.values)
        self._moments = self._moments.merge(moments) if self._moments else moments
        self._indices.append(index.cpu())
        for name, rows in (("values", features.values), ("logits", features.logits)):
            if self._stored[name] and rows is not None:
                self._file(name, rows.shape[1], rows.device).write(index, rows)

    def gathered(self, context: DistributedContext) -> FeatureSet:
        """The statistics of all processes; all of them must call it.

        The features themselves are on the first process alone, which computes the metrics.

        Raises:
            ConfigurationError: If there are fewer than two examples, or not N.
        """
        device = self._moments.mean.device if self._moments else torch.device("cpu")
        mine = self._moments and self._moments.to(torch.device("cpu"))
        moments = reduce(Moments.merge, [m for m in context.all_gather(mine) if m]).to(device)
        if moments.count != self.num:
            raise ConfigurationError(
                f"features of {moments.count} of {self.num} {self.of}: rerun the command"
            )
        if context.world_size > 1:
            self._collect(context)
        banks = self._rows if context.is_main else {}
        key = self.features.key
        return FeatureSet.from_moments(moments, banks.get("values"), banks.get("logits"), key)

    def _collect(self, context: DistributedContext) -> None:
        """Have the first process store the rows of all, some at a time."""
        mine = torch.cat([torch.empty(0, dtype=torch.long), *self._indices])
        pieces = torch.split(mine, _PIECE) if any(self._stored.values()) else ()
        for turn in range(max(context.all_gather(len(pieces)))):
            index = pieces[turn] if turn < len(pieces) else mine[:0]
            own = {name: rows[index].cpu() for name, rows in self._rows.items()}
            for rank, (there, found) in enumerate(context.all_gather((index, own))):
                for name, rows in found.items() if context.is_main and rank else ():
                    self._file(name, rows.shape[1], context.device).write(there, rows)

    def _file(self, name: str, width: int, device: torch.device) -> StoredRows:
        if name not in self._rows:
            self._rows[name] = StoredRows.temporary((self.num, width), device, self.folder)
        return self._rows[name]
