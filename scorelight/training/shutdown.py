"""How a signal stops a run."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from scorelight.training.agreement import StepAgreement
from scorelight.training.lightning_private import (
    AgreedTimer,
    agree_on_time,
    cluster_environment,
    is_accumulating,
    skip_sigterm_broadcast,
    stop_after_step,
    validation_due,
)

__all__ = ["GracefulShutdown", "ImmediateExit"]


class ImmediateExit(BaseException):
    """A second signal, or one during a validation: exit without saving."""


class GracefulShutdown(Callback):
    """On Ctrl-C, SIGTERM and SLURM's requeue signal: finish the step, save a checkpoint, exit.

    A validation that is due comes first. A second signal, or one during a validation, exits at once; the run
    is then resumed from the checkpoint before. Several processes all stop after the same step, see
    `StepAgreement`, and so they do at their time limit, see `AgreedTimer`.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._agreed = False
        self._agreement = StepAgreement()
        self._timers: list[AgreedTimer] = []
        self._trainer: Trainer | None = None
        self._pid = os.getpid()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have several processes agree on the time without waiting for each other."""
        if trainer.world_size > 1:
            self._timers = agree_on_time(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the signal handlers; whoever has set them restores the original ones at the end."""
        self._trainer, self.received, self._agreed, self._pid = trainer, None, False, os.getpid()
        self._agreement.start(trainer)
        skip_sigterm_broadcast(trainer)
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._handle)
        if requeue := _requeue_signal(trainer):
            signal.signal(requeue, self._handle)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Agree on stopping and the time after every optimizer step; stop now, unless a validation is due."""
        if not is_accumulating(trainer):
            seconds = max((timer.own_time() for timer in self._timers), default=0.0)
            agreed = self._agreement.exchange(trainer, self.received is not None, seconds)
            for timer in self._timers:
                timer.agree(agreed.seconds)
            self._agreed = agreed.stop
            if self._agreed and not validation_due(trainer):
                stop_after_step(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete what the processes have exchanged after the last step."""
        self._agreement.finish()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after the validation."""
        if self._agreed:
            stop_after_step(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Have SLURM requeue the job on its requeue signal; the checkpoint is written already."""
        graceful = isinstance(exception, SIGTERMException) and self.received is not None
        if graceful and self.received == _requeue_signal(trainer) and trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", _slurm_job()], check=False)

    def exit_code(self) -> int:
        """128 + the signal; 0 in processes started by Lightning, which treats other codes as failures."""
        assert self._trainer is not None
        environment = cluster_environment(self._trainer)
        if self._trainer.global_rank and isinstance(environment, LightningEnvironment):
            return 0
        return 128 + (self.received or signal.SIGTERM)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        trainer = self._trainer
        assert trainer is not None
        if os.getpid() != self._pid:  # a worker that was forked
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        is_second, self.received = self.received is not None, signum
        if is_second or trainer.validating:
            raise ImmediateExit
        rank_zero_info(
            f"\n{signal.Signals(signum).name}: stopping after this step; send it again to stop at once"
        )


def _requeue_signal(trainer: Trainer) -> int | None:
    environment = cluster_environment(trainer)
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return environment.requeue_signal
    return None


def _slurm_job() -> str:
    """SLURM's identifier of this job."""
    array = os.getenv("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
