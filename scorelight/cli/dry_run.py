"""``scorelight fit --dry_run``: the cost of a run, counted and printed; nothing is trained or written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from scorelight.data.access import examples_of
from scorelight.evaluation.run_cost import Link, RunCost, plan_run
from scorelight.training.module import ScoreModule
from scorelight.training.step_cost import StepCost, count_step, measured_flops_per_second

__all__ = ["cost_of_run", "duration", "report", "scaled"]

_CHEAP = {"cpu": 1e11}
"""FLOP of a step that is measured; on other devices 1e13."""


def cost_of_run(module: ScoreModule, trainer: Trainer, data: LightningDataModule) -> RunCost:
    """Check the run as `Trainer.fit` does before its processes start, and count what it costs.

    A data module that states its `sizes` need not be read.

    Raises:
        ConfigurationError: If the run would be refused.
    """
    _attach(module, trainer, data)
    module.configure_callbacks()
    module.objective.prepare(lambda: examples_of(data, "train").augmented())
    return RunCost(count_step(module), plan_run(module, trainer, data))


def _attach(module: ScoreModule, trainer: Any, data: LightningDataModule) -> None:
    """Let the module's checks see the trainer and the data."""
    trainer.state.fn, trainer.datamodule = TrainerFn.FITTING, data
    module.trainer = data.trainer = trainer


def report(cost: RunCost, module: ScoreModule, device: torch.device) -> str:
    """The table, with the time of a step as measured on the device, if that is cheap."""
    limit = _CHEAP.get(device.type, 1e13)
    lines = [*_model(cost.model), "", *_step(cost), "", *_memory(cost), "", *_run(cost), ""]
    if cost.model.step_flops > limit:
        return "\n".join([*lines, "Time: not measured, a step of one example would take too long"])
    batch_size = max(min(int(limit / cost.model.step_flops), cost.plan.batch_size), 1)
    speed = measured_flops_per_second(module, cost.model, batch_size, device)
    return "\n".join([*lines, *_time(cost, speed, f"{device.type}, {batch_size} examples")])


def _model(m: StepCost) -> Iterable[str]:
    yield "Model"
    yield from _rows(
        ("parameters", f"{m.parameters:,} in {m.tensors} tensors"),
        ("network, one example", _flop(m.network_flops)),
        ("loss, one example", _flop(m.loss_flops)),
        ("loss and gradient, one example", _flop(m.step_flops)),
    )


def _step(c: RunCost) -> Iterable[str]:
    yield f"Step of each of {c.plan.processes:,} processes"
    yield from _rows(
        ("examples", f"{c.plan.accumulate} x {c.plan.batch_size}, of all processes {_examples(c):,}"),
        ("computed", _flop(c.step_flops)),
        ("moved to and from memory", f"{_bytes(c.moved_bytes)} at least"),
        ("data read", _bytes(c.read_bytes)),
        ("random numbers", f"{c.random_numbers:,}"),
        (
            "gradient sent",
            f"{_bytes(c.sent_bytes)} in about {c.gradient_collectives} "
            f"collective{'s' * (c.gradient_collectives > 1)}"
            if c.plan.processes > 1
            else "nothing",
        ),
        ("further collectives", f"{c.other_collectives}"),
    )


def _memory(c: RunCost) -> Iterable[str]:
    m = c.model
    yield "Memory of each process"
    yield from _rows(
        ("parameters and gradient", _bytes(2 * m.parameter_bytes)),
        ("optimizer", _bytes(m.optimizer_bytes)),
        ("average of the weights", _bytes(m.averaged_bytes)),
        ("activations of a micro-batch", _bytes(c.plan.batch_size * m.activation_bytes)),
        ("together", _bytes(c.memory_bytes)),
    )


def _run(c: RunCost) -> Iterable[str]:
    p = c.plan
    yield "Run, first process"
    yield from _rows(
        ("steps", _number(p.num_steps)),
        ("validations", _number(p.num_validations)),
        ("training, validation examples", f"{_number(p.train_examples)}, {_number(p.val_examples)}"),
        *((f"computed in {what}", _flop(flop)) for what, flop in c.run_flops().items()),
        *(
            (f"{d.name}, {d.times:,} times", f"{d.samples:,} samples of {evaluations:,} evaluations")
            for d, evaluations in p.drawings
        ),
        ("a checkpoint", f"{_bytes(c.model.checkpoint_bytes)} in {c.model.checkpoint_tensors:,} tensors"),
        ("checkpoints, and one more if it is the best", _number(c.num_checkpoints)),
    )


def _time(c: RunCost, speed: float, where: str) -> Iterable[str]:
    link = Link()
    step, run = c.step_flops / speed, sum(flop or 0 for flop in c.run_flops().values()) / speed
    yield f"Time at {speed / 1e9:,.0f} GFLOP/s, measured here ({where}), for each process"
    yield from _rows(
        ("computing of a step", duration(step)),
        ("computing of the run", duration(run)),
    )
    if c.plan.processes > 1:
        seconds = duration(c.reduction_seconds(link))
        assumed = f"assumed: {link.bytes_per_second / 1e9:g} GB/s, {1e6 * link.latency:g} us a message"
        yield from _rows(("sending the gradient, while it computes", f"{seconds} ({assumed})"))


def _examples(c: RunCost) -> int:
    return c.examples * c.plan.processes


def _rows(*rows: tuple[str, str]) -> Iterable[str]:
    return (f"  {name:<40} {value}" for name, value in rows)


def _number(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _flop(value: float | None) -> str:
    return "not known" if value is None else scaled(value, "FLOP")


def _bytes(value: float) -> str:
    return scaled(value, "B")


def scaled(value: float, unit: str) -> str:
    """Three digits and a decimal prefix: 65,072,005,120 as 65.1 GFLOP."""
    power = min(max(math.floor(math.log10(value) / 3), 0), 7) if value else 0
    return f"{value / 1000**power:.3g} {' kMGTPEZ'[power].strip()}{unit}"


def duration(value: float) -> str:
    """Three digits in the unit that fits: 90 as 1.5 minutes."""
    units = (("days", 86400), ("hours", 3600), ("minutes", 60), ("s", 1))
    name, size = next((u for u in units if value >= u[1]), ("ms", 1e-3))
    return f"{value / size:.3g} {name}"
