"""The learning rate as a function of how much of the run is over, whatever limits the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from torch.optim import Optimizer

from scorelight.errors import ConfigurationError
from scorelight.training.lightning_private import AgreedTimer

__all__ = ["LearningRateSchedule", "time_limit"]

_DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 1.0,
    "linear": lambda u: 1 - u,
    "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
    "sqrt": lambda u: 1 - math.sqrt(u),
}


class LearningRateSchedule(Callback):
    """The optimizer's rate times a factor that rises in a warm-up and decays to 0 at the end of the run.

    At the share p of the run, 0 to 1, the factor is, with w = `warmup` and d = `decay_from`,

        min(p/w, 1) · f(u),   u = max(p − d, 0)/(1 − d)

    where f(u) is 1 (constant), 1 − u (linear), (1 + cos πu)/2 (cosine; Loshchilov & Hutter, 2017, eq. 5) or
    1 − √u (sqrt; Hägele et al., 2024). Step n of a run of N (``max_steps``), counted from 0, is at
    p = (n + ½)/N; with ``max_time`` p is the share of the time that is over; with both, p is the larger.

    A resumed run continues at its share, since the trainer stores for how long it has trained. The model must
    have no `lr_scheduler`.

    Args:
        warmup: Share of the run in which the rate rises, 0 to 1.
        decay: Name of f.
        decay_from: Share of the run from which on the rate decays, 0 <= decay_from < 1.
    """

    def __init__(
        self,
        warmup: float = 0.0,
        decay: Literal["constant", "linear", "cosine", "sqrt"] = "cosine",
        decay_from: float = 0.0,
    ) -> None:
        if not (0 <= warmup <= 1 and 0 <= decay_from < 1):
            raise ConfigurationError(
                f"LearningRateSchedule: warmup={warmup}, decay_from={decay_from}: shares of the run are "
                "needed, 0 <= warmup <= 1 and 0 <= decay_from < 1"
            )
        if decay not in _DECAYS:
            raise ConfigurationError(f"LearningRateSchedule: decay={decay!r}: one of {', '.join(_DECAYS)}")
        self.warmup = warmup
        self.decay = decay
        self.decay_from = decay_from
        self._peaks: list[float] = []

    def factor(self, share: float) -> float:
        """The factor at a share of the run, 0 to 1."""
        rise = min(share / self.warmup, 1.0) if self.warmup else 1.0
        return rise * _DECAYS[self.decay](max(share - self.decay_from, 0.0) / (1 - self.decay_from))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the rates of the settings, which those of a checkpoint replace after this hook.

        Raises:
            ConfigurationError: If the run has no end, or another schedule.
        """
        if trainer.lr_scheduler_configs:
            raise ConfigurationError(
                "LearningRateSchedule: model.lr_scheduler sets the learning rate as well; leave one of the "
                "two out, or set model.lr_scheduler to null"
            )
        if not list(_shares(trainer)):
            raise ConfigurationError(
                "LearningRateSchedule: the run has no end; set trainer.max_steps or trainer.max_time"
            )
        (optimizer,) = trainer.optimizers
        self._peaks = [group["lr"] for group in optimizer.param_groups]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Set the rates of the step: the same on all ranks."""
        factor = self.factor(min(max(_shares(trainer)), 1.0))
        for group, peak in zip(optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = factor * peak


def _shares(trainer: Trainer) -> Iterator[float]:
    """How much of the run is over, by each of its limits."""
    if trainer.max_steps > 0:
        yield (trainer.global_step + 0.5) / trainer.max_steps
    for timer, limit in _timers(trainer):
        share = timer.time_elapsed() / limit
        yield share if isinstance(timer, AgreedTimer) else trainer.strategy.broadcast(share)


def time_limit(trainer: Trainer) -> float | None:
    """The seconds that a run may take, ``max_time``; None without a limit."""
    return min((limit for _, limit in _timers(trainer)), default=None)


def _timers(trainer: Trainer) -> Iterator[tuple[Timer, float]]:
    """Those that end the run, and after how many seconds."""
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, Timer) and (remaining := timer.time_remaining()) is not None:
            yield timer, timer.time_elapsed() + remaining
