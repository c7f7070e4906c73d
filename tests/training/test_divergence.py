"""Steps that are not finite: which are left out, what is reported, and when."""

import functools
import math

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD, Adagrad, Adam, AdamW

from scorelight.data import ToyDataModule
from scorelight.errors import TrainingDivergedError
from scorelight.objectives import EpsilonPrediction
from scorelight.objectives.base import Loss
from scorelight.training.checkpointing import RollingCheckpoint
from scorelight.training.muon import MuonWithAdam

BAD = 4
FUSED = functools.partial(Adam, fused=True)


SPOILT = {
    "the loss is nan": lambda value: value * math.nan,
    "the loss is inf": lambda value: value * math.inf,
    "the loss is -inf": lambda value: value - math.inf,  # its gradient is finite
    "one loss is nan": lambda value: torch.where(torch.arange(len(value)) == 3, math.nan, value),
    "the gradient is nan": lambda value: value + (0 * value).sqrt(),
}


class Bad(EpsilonPrediction):
    """A loss that is not as it should be at one step, and is again afterwards."""

    def __init__(self, what, step=BAD):
        super().__init__()
        self.what, self.step, self.calls = what, step, 0

    def forward(self, denoiser, x0, **kwargs):
        value, t = super().forward(denoiser, x0, **kwargs)
        self.calls += 1
        return Loss(SPOILT[self.what](value) if self.calls == self.step + 1 else value, t)


class Watch(Callback):
    """All that the optimizer may change, before each step; and what was saved."""

    def __init__(self):
        self.states, self.saved = [], []

    def state(self, module):
        optimizer = module.optimizers().optimizer.state_dict()["state"]
        tensors = [*module.denoiser.parameters(), *(v for s in optimizer.values() for v in s.values())]
        return [torch.as_tensor(v).detach().clone() for v in tensors if v is not None]

    def on_train_batch_start(self, trainer, module, *_):
        self.states.append(self.state(module))

    def on_exception(self, trainer, module, exception):
        self.states.append(self.state(module))


def diverge(make_module, make_trainer, what="the loss is nan", optimizer=FUSED, **options):
    watch = Watch()
    module = make_module(objective=Bad(what), optimizer=optimizer)
    defaults = {"max_steps": 12, "limit_val_batches": 0, "callbacks": [watch], "log_every_n_steps": 100}
    options = defaults | options
    with pytest.raises(TrainingDivergedError) as stopped:
        make_trainer(**options).fit(module, ToyDataModule(num_train=64, num_val=8, batch_size=16))
    return str(stopped.value), watch, module


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("kind", [Adam, AdamW, functools.partial(SGD, momentum=0.9), Adagrad])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.one_in(2)
def test_the_weights_and_the_optimizer_stay_as_before_the_step(make_module, make_trainer, what, kind, fused):
    optimizer = functools.partial(kind, lr=1e-2, fused=fused)
    message, watch, module = diverge(make_module, make_trainer, what, optimizer)
    assert f"{what.replace('one loss', 'the loss')} at step {BAD}" in message
    assert "this step was not taken" in message
    *_, before, after = watch.states[: BAD + 1] + watch.states[-1:]
    assert len(before) == len(after) > 0
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other) and one.isfinite().all()
    assert not all(torch.equal(a, b) for a, b in zip(watch.states[BAD - 1], before, strict=True))
    assert all(p.isfinite().all() for p in module.ema.denoiser.parameters())


def test_muon_leaves_the_step_out_without_asking_the_host(make_module, make_trainer):
    message, watch, module = diverge(make_module, make_trainer, optimizer=MuonWithAdam, log_every_n_steps=100)
    assert "nor any after it" in message and len(watch.states) == 13
    for one, other in zip(watch.states[BAD], watch.states[-1], strict=True):
        assert torch.equal(one, other) and one.isfinite().all()
    assert all(p.isfinite().all() for p in module.ema.denoiser.parameters())


@pytest.mark.parametrize(("every", "steps_begun"), [(1, 5), (2, 6), (5, 5), (7, 7), (12, 12), (100, 12)])
def test_it_is_reported_at_the_next_step_that_is_logged_or_at_the_end(
    make_module, make_trainer, every, steps_begun
):
    message, watch, _ = diverge(make_module, make_trainer, log_every_n_steps=every)
    assert len(watch.states) == steps_begun + 1
    assert ("nor any after it" in message) == (steps_begun > BAD + 1)


def test_an_optimizer_that_cannot_skip_is_stopped_at_once(make_module, make_trainer):
    _, watch, _ = diverge(
        make_module,
        make_trainer,
        optimizer=functools.partial(Adam, fused=False),
    )
    assert len(watch.states) == BAD + 2


@pytest.mark.parametrize(("every", "last"), [(1, 4), (2, 4), (3, 3)])
def test_no_checkpoint_is_written_after_it(make_module, make_trainer, tmp_path, every, last):
    message, *_ = diverge(
        make_module,
        make_trainer,
        enable_checkpointing=True,
        callbacks=[RollingCheckpoint(every_n_steps=every), Watch()],
    )
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == last
    assert f"Last good checkpoint: {path}." in message


def test_a_validation_comes_after_the_check(make_module, make_trainer):
    _, watch, _ = diverge(
        make_module,
        make_trainer,
        limit_val_batches=1,
        val_check_interval=6,
        check_val_every_n_epoch=None,
    )
    assert len(watch.states) == 7


def test_accumulated_micro_batches_are_left_out_together(make_module, make_trainer):
    message, *_ = diverge(
        make_module,
        make_trainer,
        "one loss is nan",
        accumulate_grad_batches=2,
    )
    assert (
        "the loss is nan at step 2, for 1 of 16 examples" in message
    )  # micro-batch 4 is the first of step 2


def test_a_run_after_one_that_diverged_trains(make_module, make_trainer):
    _, _, module = diverge(make_module, make_trainer, "the loss is nan", functools.partial(Adam, fused=True))
    before = [p.detach().clone() for p in module.denoiser.parameters()]
    make_trainer(max_steps=3, limit_val_batches=0).fit(
        module, ToyDataModule(num_train=64, num_val=8, batch_size=16)
    )
    changed = [not torch.equal(a, b) for a, b in zip(before, module.denoiser.parameters(), strict=True)]
    assert any(changed)


def test_a_finite_loss_and_its_gradient_are_unchanged_to_the_bit(make_module, make_trainer):
    def weights(guarded):
        torch.manual_seed(0)
        module = make_module(optimizer=functools.partial(SGD, lr=0.1))
        if not guarded:
            module.guard.loss = lambda module, value, mean, t=None: mean
            module.on_train_start = lambda: module.micro_batches.attach(module.trainer)
        make_trainer(max_steps=6, limit_val_batches=0).fit(
            module, ToyDataModule(num_train=64, num_val=8, batch_size=16)
        )
        return [p.detach().clone() for p in module.denoiser.parameters()]

    for one, other in zip(weights(True), weights(False), strict=True):
        assert torch.equal(one, other)
