"""What a run would do agrees with what a run does."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from support.networks import randomized
from torch import distributed as dist

from scorelight import (
    DDIM,
    MLP,
    RK45,
    ClippedDenoiser,
    DPMSolverPP,
    Heun,
    NCSNpp,
    PredictorCorrector,
    ToyDataModule,
)
from scorelight.denoisers import CountingDenoiser
from scorelight.evaluation import FIDCallback
from scorelight.evaluation.run_cost import Draws, Link, RunCost, RunPlan, evaluations_per_sample, plan_run
from scorelight.evaluation.sample_grid import SampleGridCallback
from scorelight.training.checkpointing import RollingCheckpoint
from scorelight.training.step_cost import StepCost, count_step

MODEL = StepCost(
    parameters=1000,
    tensors=10,
    parameter_bytes=4000,
    optimizer_bytes=8000,
    averaged_bytes=4000,
    checkpoint_bytes=16000,
    checkpoint_tensors=40,
    network_flops=100,
    loss_flops=110,
    step_flops=330,
    activation_bytes=50,
    random_numbers=3,
    gathers_losses=False,
)
PLAN = RunPlan(processes=4, batch_size=8, example_bytes=2, num_steps=100)


def ring(arrays):
    """Sum by a ring all-reduce, in place; bytes that each process sends."""
    world = len(arrays)
    parts = [np.array_split(a, world) for a in arrays]
    sent = [0] * world
    for phase, turn in itertools.product(("add", "copy"), range(world - 1)):
        messages = []
        for rank in range(world):
            index = (rank - turn + (phase == "copy")) % world
            messages.append((index, parts[rank][index].copy()))
            sent[rank] += messages[-1][1].nbytes
        for rank, (index, message) in enumerate(messages):
            target = parts[(rank + 1) % world][index]
            target[:] = target + message if phase == "add" else message
    return sent


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_bytes_sent_are_those_of_a_ring(world):
    gradients = [np.full(1000, rank, dtype=np.float32) for rank in range(world)]
    sent = ring(gradients)
    assert all((g == sum(range(world))).all() for g in gradients)
    cost = RunCost(MODEL, dataclasses.replace(PLAN, processes=world))
    assert cost.sent_bytes == sent[0] == max(sent)
    assert cost.other_collectives == (world > 1)


def test_collectives_of_the_gradient_are_the_buckets_of_ddp():
    with torch.device("meta"):
        network = NCSNpp((3, 32, 32), num_blocks=4)
    tensors = [torch.empty_like(p, device="cpu") for p in reversed(list(network.parameters()))]
    buckets, _ = dist._compute_bucket_assignment_by_size(tensors, [2**20, 25 * 2**20])
    number = sum(p.nbytes for p in network.parameters())
    cost = RunCost(MODEL._replace(parameter_bytes=number), PLAN)
    assert abs(cost.gradient_collectives - len(buckets)) <= 1


def test_a_step_is_counted_for_all_micro_batches():
    once, thrice = (RunCost(MODEL, dataclasses.replace(PLAN, accumulate=k)) for k in (1, 3))
    assert thrice.step_flops == 3 * once.step_flops == 3 * 8 * 330
    assert thrice.random_numbers == 3 * once.random_numbers == 3 * 8 * 3
    assert thrice.read_bytes == 3 * once.read_bytes == 3 * 8 * 2
    assert thrice.sent_bytes == once.sent_bytes
    assert thrice.memory_bytes == once.memory_bytes == 2 * 4000 + 8000 + 4000 + 8 * 50
    assert once.moved_bytes == 2 * 8 * 50 + 14 * 4000 + 2 * 8000
    assert thrice.moved_bytes == 2 * 24 * 50 + 22 * 4000 + 2 * 8000


def test_time_to_reduce_is_that_of_messages_and_bytes():
    seconds = RunCost(MODEL, PLAN).reduction_seconds(Link(bytes_per_second=1000, latency=1))
    assert seconds == 2 * 2 + 6000 / 1000


@pytest.mark.parametrize(
    ("sampler", "number"), [(DDIM(7), 7), (Heun(5), 9), (DPMSolverPP(6), 6), (PredictorCorrector(5), None)]
)
def test_evaluations_are_those_of_the_network(make_module, sampler, number):
    module = make_module(network=randomized(MLP((2,), 16, 1), 0.1), sampler=sampler)
    network = CountingDenoiser(module.denoiser_for("ema"))
    with torch.no_grad():
        sampler(network, torch.randn(3, 2))
    counted = evaluations_per_sample(module, sampler)
    assert counted == network.num_evaluations
    assert number in (counted, None)


def test_evaluations_under_guidance_and_error_control_are_counted(make_module):
    assert evaluations_per_sample(make_module(guidance=ClippedDenoiser), DDIM(7)) == 7
    assert evaluations_per_sample(make_module(), RK45()) > 6


class Count(Callback):
    """Validations, pictures and checkpoints that there are."""

    def __init__(self):
        self.validations = 0

    def on_validation_start(self, *_):
        self.validations += 1


@pytest.mark.parametrize(
    "options",
    [
        dict(max_steps=12, val_check_interval=5, check_val_every_n_epoch=None),
        dict(max_steps=12, val_check_interval=5, check_val_every_n_epoch=None, accumulate_grad_batches=2),
        dict(max_steps=12, val_check_interval=2),
        dict(max_steps=12, val_check_interval=0.5),
        dict(max_steps=20, check_val_every_n_epoch=2),
        dict(max_epochs=3),
        dict(max_epochs=3, max_steps=9, limit_val_batches=0),
    ],
)
def test_steps_validations_pictures_and_checkpoints_are_those_of_the_run(
    make_module, make_trainer, monkeypatch, options
):
    """A pass over 32 examples is four batches."""
    drawn, saved = [], []
    monkeypatch.setattr(
        SampleGridCallback, "_draw", lambda self, trainer, module: drawn.append(trainer.global_step)
    )
    monkeypatch.setattr(RollingCheckpoint, "_save", lambda self, trainer: saved.append(trainer.global_step))
    pictures, rolling, count = SampleGridCallback(5, 1), RollingCheckpoint(4), Count()
    module, data = make_module(), ToyDataModule(batch_size=8, num_train=32, num_val=8)
    trainer = make_trainer(callbacks=[count, pictures, rolling], enable_checkpointing=True, **options)
    plan = plan_run(module, trainer, data)
    trainer.fit(module, data)
    assert plan.num_steps == trainer.global_step
    assert plan.num_validations == count.validations
    assert (plan.train_examples, plan.val_examples) == (32, 8)
    ((drawing, evaluations),) = plan.drawings
    assert drawing.times == len({*drawn})
    assert (drawing.samples, evaluations) == (64, 5)
    assert RunCost(MODEL, plan).num_checkpoints == len({*saved})


def test_what_is_not_known_is_none(make_module, make_trainer):
    plan = plan_run(
        make_module(), make_trainer(callbacks=[SampleGridCallback()]), ToyDataModule(num_train=32)
    )
    assert plan.num_steps is plan.num_validations is None
    assert plan.drawings == ()
    assert RunCost(MODEL, plan).run_flops() == {"training": None, "validation": None}
    assert RunCost(MODEL, plan).num_checkpoints is None


def test_flop_of_a_run_are_those_of_its_parts(make_module):
    module = make_module()
    callbacks = [SampleGridCallback(10, 2), FIDCallback(num_samples=10, every_n_validations=2)]
    assert all(isinstance(callback, Draws) for callback in callbacks)
    drawings = tuple((c.drawing(module, 100, 5), 7) for c in callbacks)
    plan = dataclasses.replace(PLAN, num_validations=5, val_examples=10, drawings=drawings)
    assert RunCost(MODEL, plan).run_flops() == {
        "training": 100 * 8 * 330,
        "validation": 5 * 3 * 110,  # 3 of 10 examples on the first of four processes
        "pictures": 10 * 2 * 64 * 7 * 100,  # on the first alone
        "FIDCallback": 3 * 3 * 7 * 100,
    }


def test_the_model_of_a_run_is_that_of_its_module(make_module):
    counted = count_step(make_module())
    assert counted.checkpoint_bytes == sum(
        (
            2 * counted.parameter_bytes,
            counted.optimizer_bytes,
            counted.averaged_bytes - counted.parameter_bytes,
        )
    )
