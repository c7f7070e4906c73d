"""Every run has a folder of its own, whatever its logger and however many start at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment, Logger, rank_zero_experiment

from scorelight import SampleGridCallback, ToyDataModule
from scorelight.cli import main
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.training.checkpointing import RollingCheckpoint
from scorelight.training.run_folder import RunFolderCallback

COMMAND = ["fit", "--config=toy/vp_epsilon", "--trainer.default_root_dir=runs", "--trainer.max_steps=3"]
COMMAND += [
    "--trainer.val_check_interval=2",
    "--trainer.enable_progress_bar=false",
    "--samples.num_samples=2",
]
COMMAND += ["--data.num_train=64", "--data.batch_size=16", "--data.num_val=8", "--model.network.width=8"]
WRITTEN = {"config.yaml", "finished", "checkpoints", "samples", ".lock"}


class SharedLogger(Logger):
    """Has one folder for all runs and no version, as WandbLogger before its run begins."""

    def __init__(self, save_dir="runs", version=None):
        super().__init__()
        self._save_dir, self._version, self.numbers = save_dir, version, []

    @property
    def name(self):
        return "project"

    @property
    def version(self):
        return self._version

    @property
    def save_dir(self):
        return self._save_dir

    @property
    @rank_zero_experiment
    def experiment(self):
        return DummyExperiment()

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.numbers.append(step)


LOGGERS = {
    "none": False,
    "the default": True,
    "one folder for all": {"class_path": f"{__name__}.SharedLogger"},
    "a folder elsewhere": {"class_path": f"{__name__}.SharedLogger", "init_args": {"save_dir": "elsewhere"}},
    "no folder": {"class_path": f"{__name__}.SharedLogger", "init_args": {"save_dir": None}},
    "an identifier": {"class_path": f"{__name__}.SharedLogger", "init_args": {"version": "a1b2"}},
    "CSV": {"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}},
    "TensorBoard": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs", "name": "tb"}},
    "two": [{"class_path": "CSVLogger", "init_args": {"save_dir": "runs"}}, f"{__name__}.SharedLogger"],
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[SharedLogger.__module__])


def run(logger, *flags):
    Path("logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger}}))
    assert main([*COMMAND, "--config=logger.yaml", *flags]) == 0


def seed_of(folder):
    return read_checkpoint(folder / "checkpoints/last.ckpt")["hyper_parameters"]["seed"]


@pytest.mark.parametrize("logger", LOGGERS)
@pytest.mark.one_in(4)
def test_three_runs_have_three_folders_with_all_that_they_write(tmp_path, logger):
    for seed in range(3):
        run(LOGGERS[logger], f"--seed_everything={seed}")
    folders = sorted((tmp_path / "runs").glob("version_*"))
    assert [f.name for f in folders] == ["version_0", "version_1", "version_2"]
    for seed, folder in enumerate(folders):
        assert seed_of(folder) == seed
        assert {p.name for p in folder.iterdir()} >= WRITTEN
        assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
        assert (folder / "samples/step=0000003.png").exists()
    others = [p for p in tmp_path.rglob("*.ckpt") if p.parents[1] not in folders]
    assert others == []


@pytest.mark.parametrize("logger", ["none", "one folder for all", "CSV"])
@pytest.mark.one_in(3)
def test_an_interrupted_run_is_resumed_under_every_logger(tmp_path, logger):
    run(LOGGERS[logger])
    for name in ("finished", "samples/step=0000003.png"):
        (tmp_path / "runs/version_0" / name).unlink()
    before = read_checkpoint(tmp_path / "runs/version_0/checkpoints/last.ckpt")
    run(LOGGERS[logger])
    assert [f.name for f in (tmp_path / "runs").glob("version_*")] == ["version_0"]
    assert (tmp_path / "runs/version_0/finished").exists()
    after = read_checkpoint(tmp_path / "runs/version_0/checkpoints/last.ckpt")
    assert before["global_step"] == after["global_step"] == 3


def test_a_run_that_continues_from_a_checkpoint_that_is_in_use_gets_a_folder_of_its_own(tmp_path):
    """A sweep that starts several runs from one checkpoint at once."""
    run(True)
    first = RunFolderCallback(tmp_path / "runs", ckpt_path="runs/version_0/checkpoints/last.ckpt")
    assert first._take().folder.name == "version_0"
    run(True, "--ckpt_path=runs/version_0", "--trainer.max_steps=5")
    assert read_checkpoint(tmp_path / "runs/version_0/checkpoints/last.ckpt")["global_step"] == 3
    assert read_checkpoint(tmp_path / "runs/version_1/checkpoints/last.ckpt")["global_step"] == 5


def test_an_identical_command_does_not_resume_a_live_run(tmp_path):
    config = "a: 1\n"
    first = RunFolderCallback(tmp_path, config)
    folder = first._take().folder
    (folder / "config.yaml").write_text(config)
    second = RunFolderCallback(tmp_path, config)
    assert second._take().folder.name == "version_1"
    first._unlock()
    third = RunFolderCallback(tmp_path, config)._take()
    assert (third.folder.name, third.resumed) == ("version_0", True)


@pytest.mark.parametrize("logger", [SharedLogger, CSVLogger, TensorBoardLogger, None])
def test_in_python_too(make_module, make_trainer, tmp_path, logger):
    for seed in range(2):
        trainer = make_trainer(
            max_steps=2,
            limit_val_batches=0,
            enable_checkpointing=True,
            logger=logger(tmp_path) if logger else False,
            default_root_dir=tmp_path / f"root{seed}",
            callbacks=[RollingCheckpoint(), SampleGridCallback(num_samples=1)],
        )
        trainer.fit(make_module(seed=seed), ToyDataModule(num_train=16, num_val=8, batch_size=8))
    found = sorted(tmp_path.rglob("last.ckpt"))
    assert [seed_of(p.parents[1]) for p in found] == [0, 1]
    assert all((p.parents[1] / "samples").is_dir() for p in found)


def test_validation_and_trial_runs_take_no_folder(make_module, make_trainer, tmp_path):
    data = ToyDataModule(num_train=16, num_val=8, batch_size=8)
    parts = {"enable_checkpointing": True, "callbacks": [RollingCheckpoint(), SampleGridCallback()]}
    make_trainer(logger=SharedLogger(tmp_path), **parts).validate(make_module(), data, verbose=False)
    assert not list(tmp_path.iterdir())
    assert main([*COMMAND, "--trainer.fast_dev_run=true"]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_fork_find_unused_parameters_true"]
)
def test_processes_forked_in_python_are_refused(tmp_path, capsys, strategy):
    flags = [f"--trainer.strategy={strategy}", "--trainer.devices=2", "--trainer.accelerator=cpu"]
    assert main([*COMMAND, *flags]) == 2
    assert f"trainer.strategy={strategy}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_of_commands_started_at_once(tmp_path):
    """Each seed twice: no run is refused, none shares a folder, all weights are those of the run alone."""
    seeds = [0, 1, 2, 0, 1, 2]
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "scorelight", *COMMAND, f"--seed_everything={seed}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for seed in seeds
    ]
    errors = [command.communicate(timeout=300)[1] for command in commands]
    assert [command.returncode for command in commands] == [0] * 6, errors
    folders = sorted((tmp_path / "runs").iterdir())
    assert [f.name for f in folders] == [f"version_{n}" for n in range(6)]
    assert sorted(map(seed_of, folders)) == sorted(seeds)
