"""``scorelight table --dry_run``: what the pieces of a table would cost, measured in some seconds each."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from scorelight.cli.configs import resolve_configs
from scorelight.cli.dry_run import cost_of_run
from scorelight.cli.fit import RunCLI, command_line
from scorelight.cli.lists import join_words
from scorelight.denoisers.base import MakeWrapper
from scorelight.errors import ConfigurationError
from scorelight.evaluation.run_cost import Draws, RunCost, evaluations_per_sample
from scorelight.metrics.base import LikelihoodMetric, Metric
from scorelight.samplers.base import Sampler
from scorelight.storage.specs import build, described
from scorelight.tables.pieces import Piece, Plan
from scorelight.tables.store import PieceFolder
from scorelight.training.module import ScoreModule
from scorelight.training.step_cost import measured_flops_per_second

__all__ = ["PieceCost", "estimate_costs", "total_hours"]

_CHEAP = 2e11
"""FLOP of a step that is done to measure its time; of others a part of the batch is measured."""
_STEPS, _SECONDS = 30, 5.0
"""Steps and seconds of a training that is measured."""
_LIKELIHOOD = 60
"""Evaluations of an example's likelihood, forward and backward; an adaptive solver makes about as many."""
_BACKWARD = 3.0
"""Time of the network forward and backward over that forward."""


class PieceCost(NamedTuple):
    """What a piece costs."""

    flops: float
    seconds: float


class _Measured(NamedTuple):
    """A training that was begun to measure it."""

    module: ScoreModule
    cost: RunCost
    flops_per_second: float
    """Of training steps as they are."""
    device: torch.device


def estimate_costs(plan: Plan, store: Path, threads: int) -> dict[str, PieceCost]:
    """The cost of each piece that is not done, by its key.

    Pieces that differ in their seed only are measured once; if one of them is done, its time is that of the
    others. A process needs some seconds to start, for a training and for the evaluations that follow it.

    Args:
        plan: The pieces.
        store: Folder of what is computed.
        threads: CPU threads of each piece.

    Raises:
        ConfigurationError: If a configuration is wrong, or its model is not a generative one.
    """
    torch.set_num_threads(threads)
    start, known, measured = _start_seconds(), dict[str, PieceCost](), dict[str, _Measured]()
    found: dict[str, PieceCost] = {}
    taken, started, left = {}, set(), []
    for piece in plan.pieces:
        if result := PieceFolder.of(store, piece).result():
            taken[_without_seed(piece)] = float(result["provenance"]["seconds"])
        else:
            left.append(piece)
    for piece in tqdm(left, desc="measuring", unit="piece", leave=False, disable=None):
        kind = _without_seed(piece)
        if kind not in known:
            training = piece.needs or piece
            trained = _without_seed(training)
            if trained not in measured:
                measured[trained] = _measure(training)
            cost = (_evaluation if piece.needs else _training)(piece, measured[trained])
            known[kind] = cost._replace(seconds=taken.get(kind, cost.seconds))
        process = piece.kind, (piece.needs or piece).key
        flops, seconds = known[kind]
        found[piece.key] = PieceCost(flops, seconds + (0.0 if process in started else start))
        started.add(process)
    return found


def _without_seed(piece: Piece) -> str:
    """The piece, whatever its seed."""
    args = [arg for arg in piece.args if not arg.startswith(("--seed_everything=", "--seeds="))]
    return " ".join([piece.kind, *args, *([_without_seed(piece.needs)] if piece.needs else [])])


def _start_seconds() -> float:
    """Time that a process needs before it does anything."""
    begin = time.perf_counter()
    command = "import scorelight.cli.fit, scorelight.cli.evaluate, scorelight.cli.plugins"
    subprocess.run([sys.executable, "-c", command], check=True)
    return time.perf_counter() - begin


def _training(piece: Piece, measured: _Measured) -> PieceCost:
    flops = sum(value or 0.0 for value in measured.cost.run_flops().values())
    if measured.cost.plan.num_steps is None:
        raise ConfigurationError(f"{' '.join(piece.args)}: has no number of steps; set trainer.max_steps")
    return PieceCost(flops, flops / measured.flops_per_second)


def _evaluation(piece: Piece, measured: _Measured) -> PieceCost:
    """Samples, and likelihoods with a usual number of evaluations."""
    module, config = measured.module, piece.inputs["configuration"]
    number = config["num_samples"] * len(config["seeds"] or [0])
    sampler = _built(config["sampler"], Sampler) or module.sampler
    module.guidance = _built(config["guidance"], MakeWrapper)
    metrics = _built(config["metrics"], list[Metric]) or []
    likelihoods = [metric for metric in metrics if isinstance(metric, LikelihoodMetric)]
    draws = len(likelihoods) < len(metrics) or not metrics
    evaluations = number * evaluations_per_sample(module, sampler) if draws else 0
    examples = config["num_images"] or measured.cost.plan.val_examples or 0
    gradients = len(likelihoods) * examples * _LIKELIHOOD
    network = measured.cost.model.network_flops
    seconds = _network_seconds(module, measured.device) * (evaluations + _BACKWARD * gradients)
    return PieceCost(network * (evaluations + _BACKWARD * gradients), seconds)


def _built(value: Any, hint: Any) -> Any:
    return build(described(value, hint | None, "evaluate", "the table"))


def _network_seconds(module: ScoreModule, device: torch.device, size: int = 100) -> float:
    """Time of one evaluation of the network for one example, among a batch as evaluations have."""
    denoiser = copy.deepcopy(module.denoiser).to(device).eval()
    x = torch.randn(size, *module.shape, device=device)
    level = denoiser.process.at(torch.full((size,), 0.5), like=x)
    cond = {"label": torch.zeros(size, dtype=torch.long, device=device)} if module.num_classes else {}
    seconds = []
    with torch.no_grad():
        for _ in range(4):
            begin = time.perf_counter()
            denoiser.predict(x, level, **cond).output.sum().item()  # waits for the device
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:]) / size


class _StepTimes(Callback):
    """Measures the time from step to step, and ends the training after some."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())
        if len(self.times) > _STEPS or self.times[-1] - self.times[0] > _SECONDS:
            trainer.should_stop = True

    def seconds(self) -> float:
        """The median time of a step, without the first ones."""
        between = [b - a for a, b in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(between[min(3, len(between) - 1) :])


class _MeasuringCLI(RunCLI):
    """Counts what a run costs, and does some steps of it."""

    measured: _Measured

    def run_subcommand(self, subcommand: str) -> None:
        """Measure."""
        module, trainer = self.model, self.trainer
        if not isinstance(module, ScoreModule):
            raise ConfigurationError("--dry_run: is for tables of generative models")
        self.before_fit()
        cost = cost_of_run(module, trainer, self.datamodule)
        device = trainer.strategy.root_device
        speed = self._flops_per_second(module, trainer, cost, device)
        self.measured = _Measured(module, cost, speed, device)

    def _flops_per_second(
        self, module: ScoreModule, trainer: Any, cost: RunCost, device: torch.device
    ) -> float:
        if device.type == "cpu" and cost.step_flops > _CHEAP:
            size = max(int(_CHEAP / cost.model.step_flops), 1)
            return measured_flops_per_second(module, cost.model, size, device, repeats=1)
        times = _StepTimes()
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, Draws)] + [times]
        trainer.limit_val_batches = 0
        trainer.fit(module, datamodule=self.datamodule)
        return cost.step_flops / times.seconds()


def _measure(training: Piece) -> _Measured:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        flags = [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
        words = resolve_configs(join_words([*training.args, *flags, "--trainer.logger=false"]))
        cli: Any = command_line(["fit", *words], cls=_MeasuringCLI)
        found: _Measured = cli.measured
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A block in which Lightning says nothing."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("fabric", "pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def total_hours(costs: Sequence[PieceCost], jobs: int) -> float:
    """Hours that so many processes side by side take, if none waits."""
    return math.fsum(cost.seconds for cost in costs) / 3600 / jobs
