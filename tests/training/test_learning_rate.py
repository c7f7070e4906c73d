"""The learning rate follows the share of the run that is over, whether steps or time limit it."""

import json
import math
import os
import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from torch.utils.data import DataLoader

from scorelight import ConfigurationError, LearningRateSchedule
from scorelight.cli import main
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.training.lightning_private import agree_on_time

RATE = 0.5
FIT = ["fit", "--config=toy/vp_epsilon", "--trainer.default_root_dir=runs", "--data.num_train=64"]
FIT += ["--data.num_val=8", "--data.batch_size=16", "--model.network.width=8", "--samples.num_samples=2"]
FIT += ["--trainer.enable_progress_bar=false", "--trainer.callbacks=LearningRateSchedule"]


class Line(LightningModule):
    """One weight, and the rates at which its optimizer steps."""

    def __init__(self, rate=RATE, scheduler=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.rate, self.scheduler, self.rates = rate, scheduler, []

    def training_step(self, batch):
        return (self.weight * batch).sum()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.rate)
        if not self.scheduler:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer)]

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        self.rates.append(optimizer.param_groups[0]["lr"])


class Clock:
    """Stands for the `time` of Lightning's timer: seconds pass when they are asked to."""

    now = 1000.0

    def monotonic(self):
        return self.now

    def advance(self):
        self.now += 3


class Tick(Callback):
    """Every step takes three seconds."""

    def __init__(self, clock):
        self.clock = clock

    def on_train_batch_start(self, *_):
        self.clock.advance()


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", made)
    return made


def fit(module, folder, callbacks, ckpt_path=None, **limits):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_epochs=-1,
        callbacks=callbacks,
        **limits,
    )
    trainer.fit(module, DataLoader(torch.ones(4, 1)), ckpt_path=ckpt_path)
    return trainer


def cosine(u):
    return RATE * (1 + math.cos(math.pi * u)) / 2


def test_a_run_of_steps_decays_over_its_steps(tmp_path):
    module = Line()
    fit(module, tmp_path, [LearningRateSchedule()], max_steps=10)
    assert module.rates == pytest.approx([cosine((n + 0.5) / 10) for n in range(10)])


@pytest.mark.parametrize(
    ("decay", "curve"),
    [
        ("constant", lambda u: 1.0),
        ("linear", lambda u: 1 - u),
        ("cosine", lambda u: math.cos(math.pi * u / 2) ** 2),
        ("sqrt", lambda u: 1 - u**0.5),
    ],
)
def test_the_factor_rises_in_the_warmup_and_decays_from_a_share_of_the_run(decay, curve):
    schedule = LearningRateSchedule(0.2, decay, decay_from=0.6)
    rising = [schedule.factor(p) for p in (0.0, 0.05, 0.1, 0.2)]
    assert rising == pytest.approx([0, 0.25, 0.5, 1])
    assert schedule.factor(0.6) == pytest.approx(1)
    for u in (0.25, 0.5, 1.0):
        assert schedule.factor(0.6 + 0.4 * u) == pytest.approx(curve(u))


def test_the_factor_is_the_product_where_warmup_and_decay_overlap():
    assert LearningRateSchedule(0.5, "linear").factor(0.25) == pytest.approx(0.5 * 0.75)


def test_a_run_of_time_decays_over_its_time(tmp_path, clock):
    module = Line()
    fit(module, tmp_path, [Tick(clock), LearningRateSchedule()], max_time=timedelta(seconds=30))
    assert module.rates == pytest.approx([cosine(3 * (n + 1) / 30) for n in range(10)])


def test_the_limit_that_is_nearer_counts(tmp_path, clock):
    module = Line()
    callbacks = [Tick(clock), LearningRateSchedule(decay="linear")]
    fit(module, tmp_path, callbacks, max_time=timedelta(seconds=60), max_steps=5)
    assert module.rates == pytest.approx([RATE * (1 - (n + 0.5) / 5) for n in range(5)])


def test_a_resumed_run_of_time_continues_at_its_share(tmp_path, clock):
    whole, first, second = Line(), Line(), Line()
    limit = timedelta(seconds=30)
    fit(whole, tmp_path, [Tick(clock), LearningRateSchedule()], max_time=limit)
    stop = Stop(4)
    trainer = fit(first, tmp_path, [Tick(clock), LearningRateSchedule(), stop], max_time=limit)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    clock.now += 1e6  # the computer was switched off
    fit(second, tmp_path, [Tick(clock), LearningRateSchedule()], tmp_path / "half.ckpt", max_time=limit)
    assert first.rates + second.rates == pytest.approx(whole.rates)


class Stop(Callback):
    """Ends a run after some steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.steps


def test_a_resumed_run_takes_the_rate_of_its_settings(tmp_path):
    first, second = Line(), Line(rate=2 * RATE)
    trainer = fit(first, tmp_path, [LearningRateSchedule(), Stop(4)], max_steps=10)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    fit(second, tmp_path, [LearningRateSchedule()], tmp_path / "half.ckpt", max_steps=10)
    assert first.rates == pytest.approx([cosine((n + 0.5) / 10) for n in range(4)])
    assert second.rates == pytest.approx([2 * cosine((n + 0.5) / 10) for n in range(4, 10)])


def test_accumulated_micro_batches_are_one_step(tmp_path):
    module = Line()
    fit(module, tmp_path, [LearningRateSchedule()], max_steps=5, accumulate_grad_batches=2)
    assert sorted(set(module.rates), reverse=True) == pytest.approx([cosine((n + 0.5) / 5) for n in range(5)])


def test_an_agreed_timer_shows_what_was_agreed_and_asks_nobody(clock):
    timer = Timer(timedelta(seconds=30))
    trainer = SimpleNamespace(callbacks=[timer], should_stop=False)  # and no strategy
    assert agree_on_time(trainer) == [timer]
    timer.load_state_dict({"time_elapsed": {"train": 12.0}})
    timer.on_train_start(trainer, None)
    clock.now += 5
    assert (timer.time_elapsed(), timer.own_time()) == (12, 17)
    timer.agree(20.0)
    timer.agree(0.0)  # of many processes, the first answer
    assert timer.time_elapsed() == timer.state_dict()["time_elapsed"]["train"] == 20
    timer.on_train_batch_end(trainer)
    assert not trainer.should_stop
    timer.agree(30.0)
    timer.on_train_batch_end(trainer)
    assert trainer.should_stop and timer.state_key == Timer().state_key


SKEWED = """
import json, os, sys, time
from types import SimpleNamespace
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import timer
from scorelight.cli import main

rank, begin = int(os.environ.get("LOCAL_RANK", 0)), time.monotonic()
timer.time = SimpleNamespace(monotonic=lambda: (5.0 if rank else 1.0) * (time.monotonic() - begin))

class Rates(Callback):
    rates = []

    def on_train_batch_end(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_end(self, trainer, _):
        with open(f"rates{trainer.global_rank}.json", "w") as file:
            json.dump(self.rates, file)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_processes_with_different_clocks_take_the_same_steps_at_the_same_rates(tmp_path):
    (tmp_path / "skewed.py").write_text(SKEWED)
    options = ["--trainer.max_time=00:00:00:10", "--trainer.max_steps=-1", "--model.lr_scheduler=null"]
    options += ["--trainer.devices=2", "--trainer.callbacks+=skewed.Rates", "--trust=skewed"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, "."]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "skewed.py", *FIT, *options]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((tmp_path / f"rates{rank}.json").read_text()) for rank in range(2))
    assert one == other and len(one) > 10 and one[-1] < 0.01 * one[0]


def test_a_run_without_an_end_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"set trainer\.max_steps or trainer\.max_time"):
        fit(Line(), tmp_path, [LearningRateSchedule(), Timer()])


def test_a_second_schedule_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"model\.lr_scheduler.*leave one of the two out"):
        fit(Line(scheduler=True), tmp_path, [LearningRateSchedule()], max_steps=2)


@pytest.mark.parametrize(
    "options",
    [{"warmup": -0.1}, {"warmup": 1.1}, {"decay_from": 1.0}, {"decay_from": -1}, {"warmup": math.nan}],
)
def test_shares_outside_of_the_run_are_refused(options):
    with pytest.raises(ConfigurationError, match="shares of the run"):
        LearningRateSchedule(**options)


def test_an_unknown_decay_is_refused_with_those_that_there_are():
    with pytest.raises(
        ConfigurationError, match="decay='exponential': one of constant, linear, cosine, sqrt"
    ):
        LearningRateSchedule(decay="exponential")


def test_a_configuration_names_it_and_limits_the_run_by_time(tmp_path, monkeypatch, clock, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LearningRateSchedule, "on_train_batch_start", lambda *_: clock.advance())
    options = ["--trainer.max_time=00:00:00:30", "--trainer.max_steps=-1", "--model.lr_scheduler=null"]
    assert main([*FIT, *options, "--trainer.callbacks.decay=linear", "--checkpoint.every_n_steps=4"]) == 0
    checkpoint = read_checkpoint(tmp_path / "runs/version_0/checkpoints/last.ckpt")
    assert checkpoint["global_step"] == 10
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.0)
    assert "--trainer.max_time 00:00:01:00" in capsys.readouterr().out
