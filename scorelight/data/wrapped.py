"""The base of data modules that change the conditions of another one."""

from __future__ import annotations

from abc import ABC

from torch import Tensor
from typing_extensions import override

from scorelight.data.arrays import Arrays, Examples
from scorelight.data.base import ArrayDataModule
from scorelight.errors import ConfigurationError

__all__ = ["WrappedDataModule"]


class WrappedDataModule(ArrayDataModule, ABC):
    """The examples of another data module with other conditions: a subclass writes `arrays`.

    Args:
        data: The other data module.
        batch_size: Training examples per step and process (default: as of `data`).
        val_batch_size: Validation examples per step and process (default: as of `data`).
    """

    def __init__(
        self, data: ArrayDataModule, batch_size: int | None = None, val_batch_size: int | None = None
    ) -> None:
        super().__init__(
            data.batch_size if batch_size is None else batch_size,
            data.val_batch_size if val_batch_size is None else val_batch_size,
            data.seed,
            data.flip,
        )
        self.data = data
        self.shape = data.shape
        self.num_bins = data.num_bins

    @override
    def prepare_data(self) -> None:
        self.data.prepare_data()

    @override
    def sizes(self) -> tuple[int, int]:
        return self.data.sizes()

    @override
    def scale(self, x: Tensor) -> Tensor:
        return self.data.scale(x)

    def arrays_in_memory(self) -> tuple[Arrays, Arrays]:
        """The training and the validation set of the other data module.

        Raises:
            ConfigurationError: If they are not in memory.
        """
        train, val = self.data.arrays()
        return self._in_memory(train), self._in_memory(val)

    def _in_memory(self, examples: Examples) -> Arrays:
        if not isinstance(examples, Arrays):
            raise ConfigurationError(
                f"data.data: {type(self.data).__name__} reads its examples as they are needed, and "
                f"{type(self).__name__} needs them in memory; set data.data.in_memory to true"
            )
        return examples
