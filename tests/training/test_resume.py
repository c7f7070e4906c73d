"""The same command resumes an interrupted run, which ends as an uninterrupted one does, bit for bit.

Kills at random moments are in benchmarks/reliability.py; here they come at chosen ones.
"""

import os
import shutil
import signal

import numpy as np
import pytest
import yaml
from lightning.pytorch import Callback
from PIL import Image
from support.marks import slow_but
from support.runs import logged_scalars, unequal_leaves

from scorelight.cli import main
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.training.lightning_private import is_accumulating

COMMAND = [
    "fit",
    "--config",
    "toy/vp_epsilon",
    "--trainer.default_root_dir",
    "runs",
    "--trainer.max_steps",
    "30",
]
COMMAND += [
    "--trainer.val_check_interval",
    "8",
    "--checkpoint.every_n_steps",
    "5",
    "--samples.every_n_steps",
    "7",
]
COMMAND += [
    "--trainer.log_every_n_steps",
    "2",
    "--data.num_train",
    "600",
    "--data.batch_size",
    "64",
    "--data.num_val",
    "100",
]
COMMAND += ["--samples.num_samples", "2", "--trainer.accumulate_grad_batches", "2"]
COMMAND += ["--model.network.width", "16", "--trainer.enable_progress_bar", "false"]

IMAGES = ["fit", "--config=digits/ddpm_hybrid", "--trainer.default_root_dir=runs", "--trainer.max_steps=14"]
IMAGES += ["--trainer.val_check_interval=5", "--checkpoint.every_n_steps=4", "--samples.every_n_steps=7"]
IMAGES += ["--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--samples.num_samples=2"]
IMAGES += ["--data=ImageDataModule", "--data.path=../images", "--data.batch_size=8", "--data.flip=true"]
IMAGES += ["--data.in_memory=false", "--data.num_workers=2", "--model.condition_dropout=0.2"]
IMAGES += ["--model.network.base_channels=8", "--model.network.num_blocks=1", "--model.network.num_classes=2"]
IMAGES += [
    "--model.process.num_timesteps=8",
    "--model.sampler.num_steps=4",
    "--model.objective=VariationalBound",
]
IMAGES += ["--model.objective.num_bins=17", "--model.objective.time_sampler=LossAwareTime"]
IMAGES += ["--model.objective.time_sampler.history=2", "--model.dequantize=true"]


class Killed(BaseException):
    """Stands for SIGKILL: scorelight saves and cleans up nothing on the way out."""


def at(monkeypatch, hook, step, action):
    """Do something in a hook of one callback when the step has been taken."""
    from scorelight.evaluation.sample_grid import SampleGridCallback

    before = getattr(SampleGridCallback, hook, None) or getattr(Callback, hook)

    def then(self, trainer, *rest):
        before(self, trainer, *rest)
        if trainer.global_step == step and not is_accumulating(trainer):
            action()

    monkeypatch.setattr(SampleGridCallback, hook, then)


def die():
    raise Killed


def what_is_left(run):
    """Weights and all other state, every logged number, every sample grid."""
    states = {}
    for name in ("last.ckpt", "best.ckpt"):
        states[name] = read_checkpoint(run / "checkpoints" / name)
        for key, state in states[name]["callbacks"].items():
            if key.startswith("ModelCheckpoint"):
                state.pop("current_score")  # Lightning forgets it
    return states, logged_scalars(run), {p.name: p.read_bytes() for p in (run / "samples").iterdir()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What the command writes without an interruption."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("alone"))
        assert main(COMMAND) == 0
    return what_is_left(folder / "runs/version_0")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


MOMENTS = {
    "before the first checkpoint": ("on_train_batch_end", 3),
    "just after a checkpoint": ("on_train_batch_end", 11),
    "at the step of one": ("on_train_batch_end", 10),
    "in a validation": ("on_validation_start", 12),
    "behind a validation": ("on_validation_end", 24),
    "at the last step": ("on_train_batch_end", 30),
    "at the end": ("on_train_end", 30),
}


@pytest.mark.parametrize("moment", slow_but(MOMENTS, "just after a checkpoint", "in a validation"))
@pytest.mark.one_in(2)
def test_killed_and_started_again_it_ends_as_if_it_had_not_been(alone, tmp_path, moment):
    hook, step = MOMENTS[moment]
    with pytest.MonkeyPatch.context() as patch:
        at(patch, hook, step, die)
        with pytest.raises(Killed):
            main(COMMAND)
    assert main(COMMAND) == 0
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["version_0"]
    assert unequal_leaves(what_is_left(tmp_path / "runs/version_0"), alone) == []


@pytest.mark.slow
def test_with_threads_that_decode_flips_dropout_and_times_by_their_losses(tmp_path, monkeypatch):
    """Of a model that dequantises, drops conditions and units, and learns where the loss is."""
    for i in range(40):
        place = tmp_path / "images" / ("one", "two")[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)).save(place)
    left = []
    for name, steps in {"alone": (), "killed": (3, 10, 13)}.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for step in steps:
            with pytest.MonkeyPatch.context() as patch:
                at(patch, "on_train_batch_end", step, die)
                with pytest.raises(Killed):
                    main(IMAGES)
        assert main(IMAGES) == 0
        left.append(what_is_left(tmp_path / name / "runs/version_0"))
    assert unequal_leaves(*left) == []
    times = left[0][0]["last.ckpt"]["state_dict"]["objective.time_sampler._extra_state"]
    assert (times["seen"] >= 2).all(), "the times were drawn by the losses"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.one_in(2)
def test_signals_end_the_step_save_it_and_set_the_exit_code(alone, tmp_path, monkeypatch, signum):
    with monkeypatch.context() as patch:
        at(patch, "on_train_batch_end", 11, lambda: os.kill(os.getpid(), signum))
        with pytest.raises(SystemExit) as left:
            main(COMMAND)
    assert left.value.code == 128 + signum
    assert read_checkpoint(tmp_path / "runs/version_0/checkpoints/last.ckpt")["global_step"] == 11
    assert main(COMMAND) == 0
    assert unequal_leaves(what_is_left(tmp_path / "runs/version_0"), alone) == []


def test_a_second_signal_stops_at_once_and_the_last_checkpoint_stays(alone, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at(patch, "on_train_batch_end", 11, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
        with pytest.raises(SystemExit):
            main(COMMAND)
    assert read_checkpoint(tmp_path / "runs/version_0/checkpoints/last.ckpt")["global_step"] == 10
    assert main(COMMAND) == 0
    assert unequal_leaves(what_is_left(tmp_path / "runs/version_0"), alone) == []


def test_a_corrupted_checkpoint_is_named_and_the_one_before_is_used(alone, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        at(patch, "on_train_batch_end", 13, die)
        with pytest.raises(Killed):
            main(COMMAND)
    last = tmp_path / "runs/version_0/checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert main(COMMAND) == 0
    message = capsys.readouterr().err
    assert (
        "last.ckpt is not a checkpoint of scorelight, or is corrupted" in message
        and "previous.ckpt" in message
    )
    assert unequal_leaves(what_is_left(tmp_path / "runs/version_0"), alone) == []


@pytest.mark.slow
def test_another_configuration_and_a_finished_run_start_anew(tmp_path):
    short = [*COMMAND, "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
    assert main(short) == 0
    assert main(short) == 0  # that one was finished
    with pytest.MonkeyPatch.context() as patch:
        at(patch, "on_train_batch_end", 1, die)
        with pytest.raises(Killed):
            main(short)
    assert main([*short, "--model.ema_decay", "0.5"]) == 0
    assert main([*short, "--resume", "false"]) == 0
    names = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert names == [f"version_{n}" for n in range(5)]
    unfinished = [n for n in names if not (tmp_path / "runs" / n / "finished").exists()]
    assert unfinished == ["version_2"]
    assert main(short) == 0
    assert (tmp_path / "runs/version_2/finished").exists()


def test_a_folder_without_a_configuration_is_used_if_a_run_was_killed_in_it(tmp_path):
    short = [*COMMAND, "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
    for name in ("version_0", "version_1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    for name in (".lock", ".config.yaml.77.tmp", "events.out.tfevents.1.a.0"):
        (tmp_path / "runs/version_1" / name).touch()
    assert main(short) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["version_0", "version_1"]
    assert (tmp_path / "runs/version_1/finished").exists() and not any(
        (tmp_path / "runs/version_0").iterdir()
    )


@pytest.mark.slow
def test_a_run_that_a_process_has_locked_is_left_alone(tmp_path):
    patch = pytest.MonkeyPatch()

    def again():
        patch.undo()
        pid = os.fork()
        if not pid:
            os._exit(main(COMMAND))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    at(patch, "on_train_batch_end", 11, again)
    assert main(COMMAND) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["version_0", "version_1"]


def test_the_saved_configuration_is_the_one_that_was_given(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        at(patch, "on_train_batch_end", 11, die)
        with pytest.raises(Killed):
            main(COMMAND)
    first = (tmp_path / "runs/version_0/config.yaml").read_text()
    assert main(COMMAND) == 0
    assert (tmp_path / "runs/version_0/config.yaml").read_text() == first
    assert yaml.safe_load(first)["ckpt_path"] is None


@pytest.mark.parametrize("what", ["removed", "moved", "replaced"])
@pytest.mark.one_in(3)
def test_a_run_stops_with_a_message_if_its_folder_is(tmp_path, capsys, what):
    """And writes nothing to another folder at the path."""
    run = tmp_path / "runs/version_0"

    def vanish():
        if what == "removed":
            shutil.rmtree(run)
        else:
            run.rename(tmp_path / "elsewhere")
        if what == "replaced":
            run.mkdir()

    with pytest.MonkeyPatch.context() as patch:
        at(patch, "on_train_batch_end", 11, vanish)
        assert main(COMMAND) == 2
    error = capsys.readouterr().err
    assert error.count("scorelight: error:") == 1 and "removed or moved during the run" in error
    assert "Traceback" not in error
    assert not [p for p in run.rglob("*") if not p.name.startswith("events.out")], (
        "TensorBoard opens its file"
    )
