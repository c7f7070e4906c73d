"""Which micro-batches make up an optimizer step."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from scorelight.errors import ConfigurationError
from scorelight.training.lightning_private import accumulate_by

__all__ = ["MicroBatches"]


class MicroBatches:
    """Counts the micro-batches of an optimizer step: `accumulate_grad_batches` of them, whatever the epoch.

    Lightning takes a step at the end of every epoch, even if fewer micro-batches are left there than their
    mean is divided by.
    """

    def __init__(self) -> None:
        self.number = 0
        """Position of the present micro-batch in its step, from 0."""
        self.is_last = True
        """Whether the step is taken after it."""
        self.num_examples = 0
        """Examples of this process in the micro-batches of the step so far."""

    def attach(self, trainer: Trainer) -> None:
        """Let these counts decide when the trainer takes a step; the next micro-batch begins one.

        Raises:
            ConfigurationError: If a callback changes the number of micro-batches within a step.
        """
        if any(isinstance(c, GradientAccumulationScheduler) for c in trainer.callbacks):  # type: ignore[attr-defined]
            raise ConfigurationError(
                "trainer.callbacks: GradientAccumulationScheduler changes the number of micro-batches at the "
                "end of an epoch, within an optimizer step; use trainer.accumulate_grad_batches"
            )
        self.is_last = True
        accumulate_by(trainer, lambda: not self.is_last, lambda: self.number == 0)

    def begin(self, trainer: Trainer) -> None:
        """Begin a micro-batch."""
        self.number = 0 if self.is_last else self.number + 1
        self.num_examples = self.num_examples if self.number else 0
        self.is_last = self.number + 1 >= trainer.accumulate_grad_batches

    def add(self, num: int) -> int:
        """Count the examples of the present micro-batch; how many there were before it."""
        before, self.num_examples = self.num_examples, self.num_examples + num
        return before
