"""The cost model of a run: what is computed, moved, sent, stored and read, for any number of processes.

With W processes, B examples per process and micro-batch, k micro-batches per step, P bytes of parameters and
m P bytes of the optimizer's state, a step costs each process

    k B F                              FLOP; F are those of one example's loss and gradient     (1)
    2 (W − 1)/W P                      bytes sent, and as many received: ring all-reduce         (2)
    2 k B A + (4 k + 10) P + 2 m P     bytes read from memory or written to it, at least         (3)

A are the activations of an example, written once and read once. The other passes of (3) are over memory of
the size of the parameters. Forward and backward read the parameters and write the gradient, from the second
micro-batch on they read it, too (4k − 1); the all-reduce reads and writes it (2); clipping reads it twice and
writes it (3); the optimizer reads it, reads and writes the parameters (3) and its states (2m); the average
reads the parameters, and reads and writes itself (3). What a kernel reads twice comes on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer

from scorelight.denoisers.analytic import AnalyticDenoiser, GaussianMixture
from scorelight.denoisers.base import wrap
from scorelight.denoisers.counting import CountingDenoiser
from scorelight.samplers.base import Sampler
from scorelight.training.checkpointing import RollingCheckpoint
from scorelight.training.module import ScoreModule
from scorelight.training.step_cost import StepCost

__all__ = ["Drawing", "Draws", "Link", "RunCost", "RunPlan", "evaluations_per_sample", "plan_run"]

_FIRST_BUCKET, _BUCKET = 2**20, 25 * 2**20
"""Bytes of the gradient that DDP reduces in one collective."""


class Drawing(NamedTuple):
    """Samples that a callback draws during training."""

    name: str
    samples: int
    """Each time."""
    sampler: Sampler
    times: int
    divided: bool
    """Whether the processes share the work, or the first one does it and the others wait."""


@runtime_checkable
class Draws(Protocol):
    """A callback that draws samples, and says how many."""

    def drawing(self, module: ScoreModule, num_steps: int, num_validations: int) -> Drawing:
        """What it draws in a run of so many steps and validations."""


class Link(NamedTuple):
    """The network between processes: assumed, not measured."""

    bytes_per_second: float = 1e10
    """In and out of a process, at the same time."""
    latency: float = 2e-5
    """Seconds for a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """How often a run does what. Sizes that are not known are None."""

    processes: int
    batch_size: int
    """Examples per process and micro-batch."""
    accumulate: int = 1
    num_steps: int | None = None
    num_validations: int | None = None
    train_examples: int | None = None
    val_examples: int | None = None
    example_bytes: int
    """Of an example as it is stored."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints."""
    drawings: tuple[tuple[Drawing, int], ...] = ()
    """What callbacks draw, with the network evaluations of a sample."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """The costs of a run, for the process that does most: the first.

    Args:
        model: Counts of the model.
        plan: Counts of the run.
    """

    model: StepCost
    plan: RunPlan

    # A step

    @property
    def examples(self) -> int:
        """Examples of a step, on this process."""
        return self.plan.batch_size * self.plan.accumulate

    @property
    def step_flops(self) -> int:
        """Equation (1)."""
        return self.examples * self.model.step_flops

    @property
    def sent_bytes(self) -> float:
        """Equation (2)."""
        world = self.plan.processes
        return 2 * (world - 1) / world * self.model.parameter_bytes

    @property
    def moved_bytes(self) -> int:
        """Equation (3)."""
        m = self.model
        passes = (4 * self.plan.accumulate + 10) * m.parameter_bytes + 2 * m.optimizer_bytes
        return 2 * self.examples * m.activation_bytes + passes

    @property
    def memory_bytes(self) -> int:
        """Parameters, gradient, optimizer, average, and the activations of a micro-batch."""
        m = self.model
        activations = self.plan.batch_size * m.activation_bytes
        return 2 * m.parameter_bytes + m.optimizer_bytes + m.averaged_bytes + activations

    @property
    def gradient_collectives(self) -> int:
        """Collectives of the gradient: DDP's first bucket has 1 MiB, the others 25 MiB, up to a tensor."""
        if self.plan.processes == 1:
            return 0
        return 1 + max(math.ceil((self.model.parameter_bytes - _FIRST_BUCKET) / _BUCKET), 0)

    @property
    def other_collectives(self) -> int:
        """Collectives of a step that is not logged: whether to stop; the losses, if they are gathered."""
        return (1 + self.model.gathers_losses) * (self.plan.processes > 1)

    @property
    def random_numbers(self) -> int:
        """Numbers that this process draws in a step: those of its own examples."""
        return self.examples * self.model.random_numbers

    @property
    def read_bytes(self) -> int:
        """Data that this process reads in a step."""
        return self.examples * self.plan.example_bytes

    def reduction_seconds(self, link: Link) -> float:
        """Time to reduce the gradient, if nothing else uses the link.

        For each bucket 2 ⌈log₂ W⌉ messages one after the other, as in the trees of NCCL (Sanders et al.,
        2009), which send as many bytes as a ring, (2).
        """
        hops = 2 * math.ceil(math.log2(self.plan.processes)) * self.gradient_collectives
        return hops * link.latency + self.sent_bytes / link.bytes_per_second

    # A run

    @property
    def num_checkpoints(self) -> int | None:
        """Checkpoints written at every n-th step and the last; ``best.ckpt`` is not among them."""
        every, steps = self.plan.checkpoint_every, self.plan.num_steps
        if every is None or steps is None:
            return None
        return math.ceil(steps / every)

    def run_flops(self) -> dict[str, float | None]:
        """FLOP of the first process by purpose, None where a number is not known."""
        plan, steps, validations = self.plan, self.plan.num_steps, self.plan.num_validations
        known = validations is not None and plan.val_examples is not None
        share = math.ceil((plan.val_examples or 0) / plan.processes)
        return {
            "training": None if steps is None else steps * self.step_flops,
            "validation": (validations or 0) * share * self.model.loss_flops if known else None,
            **{d.name: self.drawing_flops(d, evaluations) for d, evaluations in plan.drawings},
        }

    def drawing_flops(self, drawing: Drawing, evaluations: int) -> float:
        """FLOP of what a callback draws, on the first process."""
        share = drawing.samples / (self.plan.processes if drawing.divided else 1)
        return drawing.times * math.ceil(share) * evaluations * self.model.network_flops


def evaluations_per_sample(module: ScoreModule, sampler: Sampler) -> int:
    """Network evaluations of a sampler for one sample, counted on data from N(0, 1).

    For a sampler with an error control they depend on the data and the network.
    """
    density = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    network = CountingDenoiser(AnalyticDenoiser(density, module.denoiser.process))
    with torch.no_grad():
        sampler(wrap(network, module.guidance), torch.zeros(1, 1), generator=torch.Generator().manual_seed(0))
    return network.num_evaluations


def plan_run(module: ScoreModule, trainer: Trainer, data: LightningDataModule) -> RunPlan:
    """The plan of a run that a trainer is set up for, and has not begun.

    Args:
        module: The model.
        trainer: The trainer, with the callbacks of the run.
        data: The data module. What it does not state, as scorelight's do, is taken for a batch size of 1 and
            numbers of 32 bits, or is not known.
    """
    train, val = data.sizes() if hasattr(data, "sizes") else (None, None)
    batch_size: int = getattr(data, "batch_size", 1)
    pass_batches = None if train is None else max(train // (batch_size * trainer.world_size), 1)
    steps = _num_steps(trainer, pass_batches)
    validations = None if steps is None else _num_validations(trainer, steps, pass_batches)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    drawings = [c.drawing(module, steps or 0, validations or 0) for c in callbacks if isinstance(c, Draws)]
    return RunPlan(
        processes=trainer.world_size,
        batch_size=batch_size,
        accumulate=trainer.accumulate_grad_batches,
        num_steps=steps,
        num_validations=validations,
        train_examples=train,
        val_examples=val,
        example_bytes=math.prod(module.shape) * (1 if getattr(data, "num_bins", None) else 4),
        checkpoint_every=next((c.every_n_steps for c in callbacks if isinstance(c, RollingCheckpoint)), None),
        drawings=tuple((d, evaluations_per_sample(module, d.sampler)) for d in drawings if steps),
    )


def _num_steps(trainer: Trainer, pass_batches: int | None) -> int | None:
    """Optimizer steps of the run, None if it has no end that is known."""
    ends = [trainer.max_steps] if trainer.max_steps > 0 else []
    if (trainer.max_epochs or 0) > 0 and pass_batches is not None:
        ends.append(trainer.max_epochs * pass_batches // trainer.accumulate_grad_batches)  # type: ignore[operator]
    return min(ends, default=None)


def _num_validations(trainer: Trainer, num_steps: int, pass_batches: int | None) -> int | None:
    """Validations of the run: after every so many batches, counted through the passes or within each."""
    interval, every = trainer.val_check_interval, trainer.check_val_every_n_epoch
    batches = num_steps * trainer.accumulate_grad_batches
    if not trainer.limit_val_batches:
        return 0
    if every is None and isinstance(interval, int):
        return batches // interval
    if pass_batches is None or not isinstance(interval, int | float):
        return None
    between = interval if isinstance(interval, int) else max(int(pass_batches * interval), 1)
    return (pass_batches // between) * (batches // pass_batches // (every or 1))
