"""Each private name of Lightning does what it is used for; without it there is an error, never silence."""

import ast
import functools
import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import lightning.fabric.plugins.precision.amp as amp
import lightning.fabric.strategies.launchers.subprocess_script as subprocess_script
import lightning.pytorch.cli as lightning_cli
import lightning.pytorch.strategies.launchers.multiprocessing as multiprocessing
import pytest
import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed as dist
from torch.utils.data import DataLoader

from scorelight import ScoreModule, ToyDataModule
from scorelight.training import lightning_private
from scorelight.training.checkpointing import RollingCheckpoint
from scorelight.training.configured import ConfiguredModule
from scorelight.training.lightning_private import (
    PrivateCLI,
    accumulate_by,
    agree_on_time,
    allow_gradient_clipping,
    attached_trainer,
    child_processes,
    cluster_environment,
    count_epoch_on_resume,
    given_loader,
    instantiator_entry,
    is_accumulating,
    leave_signals_to_others,
    option_strings,
    resume_from,
    skip_sigterm_broadcast,
    starts_processes_in_python,
    stop_after_step,
    validation_due,
)


class AtBatchEnd(Callback):
    """Calls a function with the trainer after every batch and keeps what it returns."""

    def __init__(self, function):
        self.function = function
        self.results = []

    def on_train_batch_end(self, trainer, *_):
        self.results.append(self.function(trainer))


def fit(make_module, trainer, **kwargs):
    """40 examples in batches of 8: an epoch has 5 steps."""
    trainer.fit(make_module(**kwargs), ToyDataModule(num_train=40, num_val=8, batch_size=8))
    return trainer


@pytest.fixture
def trained(make_module, make_trainer):
    """A trainer and its module after one step."""
    return fit(make_module, make_trainer(max_steps=1))


def test_a_run_stops_after_the_step(make_module, make_trainer):
    def stop_at_two(trainer):
        if trainer.global_step == 2:
            stop_after_step(trainer)

    trainer = make_trainer(max_steps=5, callbacks=[AtBatchEnd(stop_at_two)])
    with pytest.raises(SIGTERMException):
        fit(make_module, trainer)
    assert trainer.global_step == 2


def test_the_broadcast_of_sigterm_is_removed(trained, tmp_path):
    loop = trained.fit_loop.epoch_loop
    assert "_broadcast_sigterm_tensor" in inspect.unwrap(type(loop).advance).__code__.co_names
    trained._signal_connector.received_sigterm = True
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        with pytest.raises(SIGTERMException):
            loop._broadcast_sigterm_tensor()
        skip_sigterm_broadcast(trained)
        loop._broadcast_sigterm_tensor()
    finally:
        dist.destroy_process_group()


def test_accumulation_is_seen(make_module, make_trainer):
    seen = AtBatchEnd(is_accumulating)
    fit(make_module, make_trainer(max_steps=2, accumulate_grad_batches=2, callbacks=[seen]))
    assert seen.results == [True, False, True, False]


def test_a_validation_that_is_due_is_seen(make_module, make_trainer):
    seen = AtBatchEnd(validation_due)
    trainer = make_trainer(max_steps=4, val_check_interval=2, check_val_every_n_epoch=None, callbacks=[seen])
    assert not validation_due(trainer)
    fit(make_module, trainer)
    assert seen.results == [False, True, False, True]


def epochs(trainer):
    progress = trainer.fit_loop.epoch_progress
    return [(c.ready, c.started, c.processed, c.completed) for c in (progress.current, progress.total)]


@pytest.mark.parametrize("counts", [True, False])
def test_a_resumed_run_counts_its_epochs_as_an_uninterrupted_one(
    make_module, make_trainer, tmp_path, monkeypatch, counts
):
    """If the case without the function fails, Lightning counts by itself and the function can go."""
    quiet = {"enable_checkpointing": True, "max_steps": 7, "limit_val_batches": 0}
    alone = fit(make_module, make_trainer(**quiet, callbacks=[RollingCheckpoint(100)]))
    fit(make_module, make_trainer(**quiet | {"max_steps": 5}, callbacks=[RollingCheckpoint(5)]))
    if not counts:
        monkeypatch.setattr("scorelight.training.checkpointing.count_epoch_on_resume", lambda trainer: None)
    resumed = make_trainer(**quiet, callbacks=[RollingCheckpoint(100)])
    data = ToyDataModule(num_train=40, num_val=8, batch_size=8)
    resumed.fit(make_module(), data, ckpt_path=tmp_path / "checkpoints/last.ckpt")
    assert resumed.global_step == alone.global_step == 7
    assert (epochs(resumed) == epochs(alone)) is counts


def test_the_environment_of_the_cluster_is_found(trained):
    assert isinstance(cluster_environment(trained), LightningEnvironment)


def test_a_module_without_a_trainer_has_none(make_module, trained):
    assert attached_trainer(make_module()) is None
    assert attached_trainer(trained.lightning_module) is trained


@pytest.mark.parametrize("allowed", [True, False])
def test_gradients_of_fused_optimizers_are_clipped_under_bf16(
    make_module, make_trainer, monkeypatch, allowed
):
    if not allowed:
        unchanged = "scorelight.training.optimizer_override.allow_gradient_clipping"
        monkeypatch.setattr(unchanged, lambda optimizer: optimizer)
    adam = functools.partial(torch.optim.Adam, lr=1e-2, fused=True)
    trainer = make_trainer(max_steps=2, precision="bf16-mixed", gradient_clip_val=1.0)
    if allowed:
        assert fit(make_module, trainer, optimizer=adam).global_step == 2
    else:
        with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
            fit(make_module, trainer, optimizer=adam)


def test_a_checkpoint_names_the_function_that_builds_its_module_for_lightning_alone(
    trained, tmp_path, monkeypatch
):
    trained.save_checkpoint(tmp_path / "a.ckpt")
    build, built = lightning_cli.instantiate_module, []
    monkeypatch.setattr(
        lightning_cli, "instantiate_module", lambda *args: built.append(args[0]) or build(*args)
    )
    super(ConfiguredModule, ScoreModule).load_from_checkpoint(tmp_path / "a.ckpt")
    assert built == [ScoreModule]
    ScoreModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert built == [ScoreModule], "ours builds what it has checked by itself"


class Tool(PrivateCLI):
    """A command line that parses and stops there."""

    def instantiate_classes(self):
        pass

    @staticmethod
    def subcommands():
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"}}

    def _run_subcommand(self, subcommand):
        pass


def tool(*args, cls=Tool):
    args = ["fit", "--data=scorelight.ToyDataModule", *args]
    return cls(ToyModule, LightningDataModule, subclass_mode_data=True, seed_everything_default=0, args=args)


class ToyModule(lightning_private.LightningModule):
    """A module of one setting."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()


def test_the_command_line_gives_parser_values_and_dump():
    cli = tool("--model.width=5", "--trainer.max_steps=7")
    assert isinstance(cli.subcommand_parser("fit"), LightningArgumentParser)
    assert {"--model.width", "--trainer.max_steps"} < option_strings(cli.subcommand_parser("fit")).keys()
    assert cli.value_of(cli.config, "trainer")["max_steps"] == 7
    assert isinstance(cli.value_of(cli.config, "model"), Namespace)
    assert "width: 5" in cli.dump("fit") and "max_steps: 7" in cli.dump("fit")


def test_a_checkpoint_does_not_override_flags(tmp_path):
    torch.save({"hyper_parameters": {"width": 11}}, tmp_path / "a.ckpt")
    flags = ["--model.width=5", f"--ckpt_path={tmp_path / 'a.ckpt'}"]
    assert tool(*flags).config["fit"]["model"]["width"] == 5

    class Plain(LightningCLI):
        subcommands = staticmethod(Tool.subcommands)
        instantiate_classes = Tool.instantiate_classes
        _run_subcommand = Tool._run_subcommand

    assert tool(*flags, cls=Plain).config["fit"]["model"]["width"] == 11, "what the override is for"


@pytest.mark.parametrize("runs", [True, False])
def test_a_subclass_decides_whether_the_method_of_the_trainer_is_called(runs):
    called = []

    class Asked(PrivateCLI):
        instantiate_classes, subcommands = Tool.instantiate_classes, staticmethod(Tool.subcommands)
        trainer = SimpleNamespace(fit=lambda **_: called.append("fit"))
        config_init, model, datamodule = {"fit": {}}, None, None

        def run_subcommand(self, subcommand):
            called.append("asked")
            if runs:
                super().run_subcommand(subcommand)

    tool(cls=Asked)
    assert called == (["asked", "fit"] if runs else ["asked"])


def loop(trainer):
    return type(trainer.fit_loop.epoch_loop)


def automatic(trainer):
    return type(trainer.fit_loop.epoch_loop.automatic_optimization)


# name: who has it, and the function that needs it; both are given the trainer
def test_the_given_loader_is_what_fit_was_given_and_no_data_module(make_module, make_trainer):
    loader, seen = DataLoader(torch.randn(16, 2), 8), []

    class Asks(Callback):
        def setup(self, trainer, pl_module, stage):
            seen.append(given_loader(trainer))

    for data in (loader, ToyDataModule(num_train=16, num_val=8, batch_size=8)):
        val = loader if data is loader else None
        make_trainer(max_steps=1, callbacks=[Asks()]).fit(make_module(), data, val)
    assert seen == [loader, None]


NAMES = {
    "_signal_connector": (lambda t: t, stop_after_step),
    "received_sigterm": (lambda t: t._signal_connector, stop_after_step),
    "_broadcast_sigterm_tensor": (loop, skip_sigterm_broadcast),
    "_should_accumulate": (loop, is_accumulating),
    "_make_zero_grad_fn": (automatic, lambda t: accumulate_by(t, bool, bool)),
    "_checkpoint_connector": (lambda t: t, lambda t: resume_from(t, Path("x.ckpt"))),
    "resume_start": (lambda t: type(t._checkpoint_connector), lambda t: resume_from(t, Path("x.ckpt"))),
    "register_signal_handlers": (lambda t: type(t._signal_connector), leave_signals_to_others),
    "_MultiProcessingLauncher": (lambda t: multiprocessing, starts_processes_in_python),
    "_ChildProcessObserver": (lambda t: subprocess_script, lambda t: child_processes()),
    "_data_fetcher": (lambda t: t.fit_loop, validation_due),
    "_should_check_val_fx": (loop, validation_due),
    "restarted_mid_epoch": (lambda t: type(t.fit_loop), count_epoch_on_resume),
    "epoch_progress": (lambda t: t.fit_loop, count_epoch_on_resume),
    "_accelerator_connector": (lambda t: t, cluster_environment),
    "cluster_environment": (lambda t: t._accelerator_connector, cluster_environment),
    "_data_source": (lambda t: t.fit_loop, given_loader),
    "is_module": (lambda t: type(t.fit_loop._data_source), given_loader),
    "_trainer": (lambda t: t.lightning_module, lambda t: attached_trainer(t.lightning_module)),
    "_optimizer_handles_unscaling": (lambda t: amp, lambda t: allow_gradient_clipping(t.optimizers[0])),
    "instantiate_module": (lambda t: lightning_cli, lambda t: instantiator_entry()),
    "_check_time_remaining": (lambda t: Timer, agree_on_time),
    "_parse_ckpt_path": (lambda t: LightningCLI, lambda t: PrivateCLI(args=[])),
    "_get": (lambda t: LightningCLI, lambda t: PrivateCLI(args=[])),
    "_parser": (lambda t: LightningCLI, lambda t: PrivateCLI(args=[])),
    "_run_subcommand": (lambda t: LightningCLI, lambda t: PrivateCLI(args=[])),
}


def check_refusal(name, function, *args):
    with pytest.raises(
        RuntimeError, match=rf"lightning 2\.\S+ .* '{name}'.* install lightning>=2\.6\.6,<2\.7"
    ):
        function(*args)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_gone_is_an_error(name, trained, monkeypatch):
    owner, function = NAMES[name]
    module = trained.lightning_module  # the stand-in loses its trainer together with the name
    monkeypatch.setattr(type(trained), "lightning_module", module)
    with monkeypatch.context() as patch:
        patch.delattr(owner(trained), name)
        check_refusal(name, function, trained)


COUNTS = {"processed", "ready", "started"}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_a_count_that_is_gone_is_an_error(name, trained, monkeypatch):
    """These have defaults in their class, so that another object stands in."""
    others = SimpleNamespace(**dict.fromkeys(COUNTS - {name}, 0))
    monkeypatch.setattr(trained.fit_loop.epoch_progress, "current", others)
    check_refusal(name, count_epoch_on_resume, trained)


@pytest.mark.parametrize("name", ["_subcommand_parsers", "_option_string_actions"])
def test_a_name_of_the_parsers_that_is_gone_is_an_error(name, monkeypatch):
    cli = tool()
    parser = cli.subcommand_parser("fit")
    monkeypatch.delattr(cli if name == "_subcommand_parsers" else parser, name)
    if name == "_subcommand_parsers":
        check_refusal(name, cli.subcommand_parser, "fit")
    else:
        check_refusal(name, option_strings, parser)


ELSEWHERE = {"_subcommand_parsers", "_option_string_actions", "_child_processes"}


def test_every_name_has_a_case():
    """The names that `_require` is given, as it is called or in the loop around it."""
    tree = ast.parse(inspect.getsource(lightning_private))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "_require"]
    names = {n.args[1].value for n in calls if isinstance(n.args[1], ast.Constant)}
    loops = [n.iter for n in ast.walk(tree) if isinstance(n, ast.For) and isinstance(n.iter, ast.Tuple)]
    names |= {e.value for names in loops for e in names.elts if isinstance(e, ast.Constant)}
    assert names == NAMES.keys() | COUNTS | ELSEWHERE


def test_a_name_of_the_observer_that_is_gone_is_an_error(monkeypatch):
    observer = subprocess_script._ChildProcessObserver(0, [], sleep_period=0)
    del observer._child_processes
    monkeypatch.setattr(threading, "enumerate", lambda: [observer])
    check_refusal("_child_processes", child_processes)


def test_processes_of_lightning_are_found_and_no_longer_watched():
    """The thread that watches them would kill this process, as one of them has ended with an error."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(3)"], stdin=subprocess.PIPE
    )
    observer = subprocess_script._ChildProcessObserver(os.getpid(), [child], sleep_period=0.1)
    observer.start()
    assert child_processes() == [child]
    child.communicate()
    observer.join(timeout=10)
    assert child.returncode == 3 and not observer.is_alive()
