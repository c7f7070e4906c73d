"""Each mistake gives one message that names the key, what was given and what is allowed; exit code 2."""

import errno
import importlib.util
import os
import re
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from support.commands import refusal
from torch import distributed as dist

from scorelight.cli import main
from scorelight.cli.configs import config_dir
from scorelight.training.run_folder import RunConfigCallback

SMALL = ["--trainer.max_steps", "3", "--trainer.val_check_interval", "2", "--data.num_train", "600"]
SMALL += ["--samples.num_samples", "9"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(train):
    """A folder with a run of three steps on the toy."""
    return train("--config", "toy/vp_epsilon", *SMALL)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run folder; the working folder is above it."""
    shutil.copytree(trained / "runs", "runs")
    return tmp_path / "runs/toy/vp_epsilon/version_0"


IMPORTANCE = ["--model.objective.time_sampler", "ImportanceTime"]
MISTAKES = {
    "an unknown class": (
        ["--model.process", "VPSDEE"],
        ["model.process", "'VPSDEE'", "'VPSDE'", "SubVPSDE", "VESDE"],
    ),
    "an unknown class in a class": (
        ["--model.sampler.grid", "Foo"],
        ["model.sampler.grid", "'Foo'", "LogSNRGrid"],
    ),
    "an unknown optimizer": (
        ["--model.optimizer", "Adamm"],
        ["model.optimizer", "'Adamm'", "did you mean 'Adam'"],
    ),
    "an unknown network": (
        ["--model.network", "MPL"],
        ["model.network", "'MPL'", "did you mean 'MLP'", "UNet"],
    ),
    "an unknown data module": (
        ["--data", "ToyData"],
        ["data", "'ToyData'", "ToyDataModule", "DigitsDataModule"],
    ),
    "an option that is needed": (
        ["--data", "ImageDataModule"],
        ["data: ImageDataModule needs 'path'", "--data.path"],
    ),
    "a misspelt option of a class": (
        ["--model.process.beta_mx", "3"],
        ["model.process", "'beta_mx'", "beta_max"],
    ),
    "a misspelt flag": (["--model.proces", "VPSDE"], ["model.proces", "did you mean 'model.process'"]),
    "an abbreviated flag": (["--trainer.max_step", "3"], ["--trainer.max_step", "trainer.max_steps"]),
    "a word for a number": (
        ["--model.process.beta_max", "big"],
        ["model.process.beta_max", "float", "'big'"],
    ),
    "a number out of range": (
        ["--model.process.beta_max", "-3"],
        ["beta_max=-3.0", "0 < beta_min <= beta_max"],
    ),
    "an average out of range": (["--model.ema_decay", "2"], ["ema_decay=2.0", "0 <= ema_decay < 1"]),
    "too few steps": (["--model.sampler.num_steps", "1"], ["num_steps=1", "at least 2"]),
    "a learning rate below zero": (
        ["--model.optimizer.lr", "-1"],
        ["model.optimizer", "Invalid learning rate: -1.0"],
    ),
    "a choice that is none": (["--data.density", "three_moons"], ["density", "three_moons", "two_moons"]),
    "a device that is not there": (["--trainer.accelerator", "gpu"], ["No supported gpu"]),
    "a network that cannot take vectors": (["--model.network", "UNet"], ["UNet", "(2,)", "MLP"]),
    "a missing checkpoint": (["--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt does not exist"]),
    "a misspelt option of a network in a network": (
        ["--model.network", "Energy", "--model.network.network", "MLP", "--model.network.network.widht", "9"],
        ["model.network.network", "MLP", "'widht'", "did you mean 'width'"],
    ),
    "an option of a class that was not named": (
        ["--model.objective", "DenoisingScoreMatching", "--model.objective.weighting.gamma", "3"],
        ["model.objective.weighting", "which Weighting", "MinSNRWeighting"],
    ),
    "a choice of a class that is none": (
        ["--model.process", "DDPMProcess", "--model.process.schedule", "lineer"],
        ["model.process.schedule", "'lineer'", "did you mean 'linear'", "cosine"],
    ),
    "a word for a number that may be left out": (
        ["--model.objective", "VariationalBound", "--model.objective.num_bins", "many"],
        ["model.objective.num_bins", "int", "'many'"],
    ),
    "a variance that is not learned": (
        ["--model.process", "DDPMProcess", "--model.objective", "HybridObjective"],
        ["HybridObjective", "model.network.learned_variance to true"],
    ),
    "levels without a table": (
        ["--model.objective.time_sampler", "DiscreteTime"],
        ["DiscreteTime", "VPSDE is in continuous time", "num_timesteps", "DDPMProcess"],
    ),
    "a bound without levels": (
        ["--model.objective", "HybridObjective", "--model.network.learned_variance", "true"],
        ["HybridObjective", "VPSDE is in continuous time", "num_timesteps"],
    ),
    "a bound that would be none": (
        ["--model.objective", "VariationalBound", "--model.objective.time_sampler", "LogNormalTime"],
        ["time_sampler=LogNormalTime", "ImportanceTime"],
    ),
    "a continuous bound on a table": (
        ["--model.process", "DDPMProcess", "--model.objective", "VariationalBound", *IMPORTANCE],
        ["time_sampler=ImportanceTime", "1000", "DiscreteTime"],
    ),
    "a learned schedule made easy": (
        ["--model.process", "LearnedVPSDE"],
        ["LearnedVPSDE", "EpsilonPrediction", "use VariationalBound"],
    ),
    "a level that the process does not have": (
        ["--model.objective.time_sampler", "FixedTime", "--model.objective.time_sampler.sigma", "1e6"],
        ["FixedTime", "sigma=1000000.0", "goes from"],
    ),
    "a dropped condition that is not there": (
        ["--model.condition_dropout", "0.1"],
        ["condition_dropout=0.1", "model.network.num_classes"],
    ),
    "pictures every 0 steps": (["--samples.every_n_steps", "0"], ["samples.every_n_steps=0", "at least 1"]),
    "more steps than there can be": (["--model.sampler.num_steps", str(2**70)], ["num_steps", "at most"]),
    "a number that torch refuses in a constructor": (
        ["--model.process", "DDPMProcess", "--model.process.num_timesteps", str(2**70)],
        ["DDPMProcess", f"num_timesteps={2**70}"],
    ),
    "an option that torch refuses without its name": (
        ["--model.lr_scheduler", "LinearLR", "--model.lr_scheduler.start_factor", "-1"],
        ["model.lr_scheduler: LinearLR(start_factor=-1.0", "Starting multiplicative factor"],
    ),
    "a misspelt flag before others that follow from it": (
        ["--cnfig", "x.yaml", "--data.batch_sise", "8"],
        ["unknown option '--cnfig'", "did you mean 'config'"],
    ),
    "no configuration": (["--config"], ["--config: give a file", "digits/vp_epsilon"]),
    "a missing configuration": (
        ["--config", "toy/vp_epsilonn"],
        ["toy/vp_epsilonn", "did you mean 'toy/vp_epsilon'"],
    ),
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_flags(mistake, capsys, tmp_path):
    flags, words = MISTAKES[mistake]
    message = refusal(capsys, "fit", "--config", "toy/vp_epsilon", *flags)
    assert [w for w in words if w not in message] == [], message
    assert not (tmp_path / "runs").exists()


def test_an_image_size_that_the_network_cannot_take(capsys):
    flags = ["--model.network.multipliers", "[1,2,2,2,2]"]
    message = refusal(capsys, "fit", "--config", "digits/vp_epsilon", *flags)
    assert "8x8" in message and "divisible by 16" in message and "multipliers" in message


FILES = {
    "misspelt key": ("model:\n  proces: VPSDE\n", ["model.proces", "did you mean 'model.process'"]),
    "not YAML": ("model: [\n", ["wrong.yaml", "not valid YAML", "line 2"]),
    "a list": ("- a\n- b\n", ["wrong.yaml", "expected keys such as model:"]),
    "empty": ("", ["wrong.yaml", "expected keys such as model:"]),
    "wrong type": ("trainer:\n  max_steps: many\n", ["trainer.max_steps", "int", "'many'"]),
    "null for a number of Lightning's": ("trainer:\n  max_steps: null\n", ["trainer: max_steps=None", "-1"]),
    "null for a number of ours": ("samples:\n  every_n_steps:\n", ["samples: every_n_steps=None", "500"]),
    "null for options": ("seed_everything: 1\nsamples:\n", ["samples: None", "its options"]),
    "a list for options": ("checkpoint: [1, x]\n", ["checkpoint: [1, 'x']", "its options"]),
    "not text": (b"\xff\xfe\x00", ["wrong.yaml", "not valid YAML"]),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", FILES)
def test_mistakes_in_files(name, capsys, tmp_path):
    content, words = FILES[name]
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(capsys, "fit", "--config", "toy/vp_epsilon", "--config", path)
    assert [w for w in words if w not in message] == [], message


def test_a_schedule_without_a_class_is_refused(capsys, tmp_path):
    config = yaml.safe_load((config_dir() / "toy/vp_epsilon.yaml").read_text())
    config["model"]["lr_scheduler"] = {}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert "model.lr_scheduler: {}: name a class" in refusal(capsys, "fit", "--config", "config.yaml")


def test_unknown_commands_and_nothing_at_all(capsys):
    assert "did you mean 'sample'" in refusal(capsys, "smaple")
    assert main([]) == 0 and "scorelight COMMAND" in capsys.readouterr().out
    assert "required" in refusal(capsys, "fit")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_files_that_are_no_checkpoints(content, capsys, tmp_path):
    if content is None:
        torch.save({"weights": torch.zeros(3)}, tmp_path / "a.ckpt")
    else:
        (tmp_path / "a.ckpt").write_bytes(content)
    assert "a.ckpt is not a checkpoint of scorelight" in refusal(capsys, "sample", "a.ckpt")
    assert "a.ckpt is not a checkpoint of scorelight" in refusal(capsys, "fit", "--ckpt_path", "a.ckpt")


def test_mistakes_of_the_sample_command(run, capsys):
    assert "num_step'" in refusal(capsys, "sample", run, "--sampler.num_step", 3)
    assert "did you mean 'DDIM'" in refusal(capsys, "sample", run, "--sampler", "DDIMM")
    assert "num_samples: expected int, got 'x'" in refusal(capsys, "sample", run, "--num_samples", "x")
    assert "--num_samples 0" in refusal(capsys, "sample", run, "--num_samples", 0)
    assert "not class-conditional" in refusal(capsys, "sample", run, "--labels", "[1]")
    assert "error: eta=3.0: 0 <= eta <= 1" in refusal(capsys, "sample", run, "--sampler.eta", 3)
    assert "num_steps=0" in refusal(capsys, "sample", run, "--sampler.num_steps", 0)
    assert "seed -1" in refusal(capsys, "sample", run, "--seed", -1)
    assert "does not exist" in refusal(capsys, "sample", run / "nowhere")
    assert "name the run folder or checkpoint first" in refusal(capsys, "sample", "--seed", 1)


def test_divergence_is_reported_without_a_traceback(capsys):
    flags = ["--model.optimizer.lr", "1e30", "--trainer.gradient_clip_val", "null"]
    message = refusal(capsys, "fit", "--config", "toy/vp_epsilon", *SMALL, *flags, code=1)
    assert re.search(r"the loss is (nan|inf) at step \d.* with t from .*Last good checkpoint", message)


FAILURES = {
    "a full disk": (
        OSError(errno.ENOSPC, "No space left on device", "runs/x"),
        2,
        "runs/x cannot be written.*room",
    ),
    "a read-only disk": (
        OSError(errno.EROFS, "Read-only file system"),
        2,
        "a file cannot be .*default_root_dir",
    ),
    "a file of somebody else": (
        PermissionError(errno.EACCES, "Permission denied", "x"),
        2,
        "x: Permission denied",
    ),
    "no memory on a GPU": (
        torch.OutOfMemoryError("CUDA out of memory.\nmore"),
        1,
        "out of memory.*batch_size",
    ),
    "no memory": (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: x"),
        1,
        "batch_size",
    ),
    "no memory in C++": (RuntimeError("std::bad_alloc"), 1, "out of memory.*batch_size"),
    "no memory in Python": (MemoryError("std::bad_alloc"), 1, "out of memory.*batch_size"),
    "no memory of the system": (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, "out of memory"),
    "a port that is taken": (
        dist.DistNetworkError("The server socket has failed to listen: EADDRINUSE, address already in use"),
        2,
        "MASTER_PORT=.*choose another",
    ),
    "a folder that is gone": (
        FileNotFoundError(errno.ENOENT, "No such file or directory", "gone/events"),
        2,
        "gone/events: its folder does not exist",
    ),
    "a dead process": (
        RuntimeError("[gloo] Connection closed by peer"),
        1,
        "another process.*Rerun the same command to resume",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failures_of_runs_are_reported_without_a_traceback(failure, monkeypatch, capsys):
    error, code, message = FAILURES[failure]

    def fail(*_):
        raise error

    monkeypatch.setattr("scorelight.cli.fit.run", fail)
    assert re.search(message, refusal(capsys, "fit", code=code), re.DOTALL)


def test_other_errors_and_interruptions(monkeypatch):
    """What is nobody's mistake has a traceback; Ctrl-C before the training has begun has none."""
    for error in (RuntimeError("of another kind"), OSError(errno.EIO, "of another kind")):
        monkeypatch.setattr("scorelight.cli.fit.run", lambda _, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error), match="another kind"):
            main(["fit"])
    monkeypatch.setattr("scorelight.cli.fit.run", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["fit"]) == 130


def test_threads_do_not_repeat_what_the_main_thread_reports(monkeypatch, capsys):
    """TensorBoard's thread meets the full disk as well as the main one."""

    def in_a_thread(_):
        for error in (OSError(errno.ENOSPC, "No space left on device"), ValueError("of ours")):
            thread = threading.Thread(target=lambda error=error: (_ for _ in ()).throw(error))
            thread.start()
            thread.join()

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr("scorelight.cli.fit.run", in_a_thread)
    assert main(["fit"]) == 0
    stderr = capsys.readouterr().err
    assert "No space left" not in stderr and "ValueError: of ours" in stderr
    assert main(["fit", "--traceback"]) == 0
    assert "No space left" in capsys.readouterr().err


def test_the_configuration_is_written_atomically(tmp_path, monkeypatch):
    parser = SimpleNamespace(dump=lambda config, skip_none: "seed_everything: 0\n")
    callback = RunConfigCallback(parser, config={})
    trainer = SimpleNamespace(log_dir=str(tmp_path / "run"), is_global_zero=True, fast_dev_run=False)
    trainer.callbacks = trainer.loggers = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            callback.setup(trainer, None, "fit")
    assert not list((tmp_path / "run").iterdir())
    callback.setup(trainer, None, "fit")
    assert {p.name: p.read_text() for p in (tmp_path / "run").iterdir()} == {
        "config.yaml": "seed_everything: 0\n"
    }


def test_the_threads_of_gloo_are_stopped_before_the_exit(tmp_path, monkeypatch):
    """Otherwise they sometimes abort the process."""

    def meet(_):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)

    monkeypatch.setattr("scorelight.cli.fit.run", meet)
    assert main(["fit"]) == 0
    assert not dist.is_initialized()


def test_a_run_writes_what_its_summary_lists(run, capsys):
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {p.name for p in (run / "samples").iterdir()} == {"data.png", "step=0000003.png"}
    assert list(run.glob("events.out.tfevents.*"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["process"]["init_args"]["beta_max"] == 20.0
    assert "shape" not in config["model"]["network"]["init_args"]


def test_the_resolved_configuration_runs_again(run):
    assert main(["fit", "--config", str(run / "config.yaml")]) == 0
    again = run.parent / "version_1" / "checkpoints" / "last.ckpt"
    first, second = (
        torch.load(p, weights_only=True)["state_dict"] for p in (run / "checkpoints/last.ckpt", again)
    )
    assert all(torch.equal(first[k], second[k]) for k in first if isinstance(first[k], torch.Tensor))


def hparams(path):
    return torch.load(path, weights_only=True)["hyper_parameters"]


def test_flags_win_over_yaml_over_the_checkpoint(run, tmp_path):
    """The checkpoint has VPSDE, DDIM with 50 steps, decay 0.995 and the MLP; YAML and a flag change some."""
    (tmp_path / "some.yaml").write_text("model:\n  ema_decay: 0.5\n  sampler: Heun\n")
    flags = ["--model.ema_decay", "0.25", "--trainer.max_steps", "4", "--trainer.default_root_dir", "other"]
    assert main(["fit", "--config", "some.yaml", "--ckpt_path", str(run), *flags]) == 0
    found = hparams("other/version_0/checkpoints/last.ckpt")
    assert found["ema_decay"] == 0.25
    assert found["sampler"]["class_path"] == "scorelight.Heun"
    assert (
        found["network"]["init_args"]["width"] == 128 and found["process"]["class_path"] == "scorelight.VPSDE"
    )


def test_flags_win_in_any_place(run):
    """A configuration after a flag must not override it; the run's own has ``ckpt_path: null``."""
    flags = ["--ckpt_path", str(run), "--trainer.max_steps", "4", "--model.ema_decay", "0.125"]
    assert main(["fit", *flags, "--config", str(run / "config.yaml")]) == 0
    assert [p.name for p in run.parent.iterdir()] == ["version_0"]
    path = run / "checkpoints" / "last.ckpt"
    assert hparams(path)["ema_decay"] == 0.125
    assert torch.load(path, weights_only=True)["state_dict"]["ema._extra_state"] == 4


def test_a_resumed_run_keeps_its_folder_and_a_checkpoint_alone_is_enough(run):
    flags = ["--trainer.max_steps", "5", "--trainer.default_root_dir", "runs/toy/vp_epsilon"]
    assert main(["fit", "--ckpt_path", str(run), *flags]) == 0
    assert [p.name for p in run.parent.iterdir()] == ["version_0"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.slow
def test_the_seed_of_a_resumed_run_is_the_checkpoints_unless_given(tmp_path):
    assert main(["fit", "--config", "toy/vp_epsilon", *SMALL, "--seed_everything", "7"]) == 0
    run = "runs/toy/vp_epsilon/version_0"
    for given, expected in (([], 7), (["--seed_everything", "8"], 8)):
        flags = ["--trainer.max_steps", "4", "--trainer.default_root_dir", f"other{expected}", *given]
        assert main(["fit", "--ckpt_path", run, *flags]) == 0
        assert hparams(f"other{expected}/version_0/checkpoints/last.ckpt")["seed"] == expected


@pytest.mark.slow
def test_the_progress_bar_can_be_switched_off(capsys):
    assert main(["fit", "--config", "toy/vp_epsilon", *SMALL, "--trainer.enable_progress_bar", "false"]) == 0
    captured = capsys.readouterr()
    assert "it/s" not in captured.out + captured.err and "Run folder" in captured.out


def test_validate_repeats_the_validation_loss_and_leaves_nothing_behind(run, capsys):
    before = sorted(p for p in run.parents[2].rglob("*"))
    assert main(["validate", "--ckpt_path", str(run)]) == 0
    assert "val/loss" in capsys.readouterr().out
    assert sorted(p for p in run.parents[2].rglob("*")) == before


def test_sample_needs_no_yaml_and_takes_any_sampler(run):
    assert main(["sample", str(run), "--num_samples", "5", "--sampler.num_steps", "4", "--out", "a"]) == 0
    flags = ["--sampler", "AncestralSampler", "--sampler.num_steps", "3", "--weights", "raw"]
    assert main(["sample", str(run), "--num_samples", "5", "--out", "b", *flags]) == 0
    assert main(["sample", str(run), "--num_samples", "5", "--out", "c", *flags, "--batch_size", "2"]) == 0
    a, b, c = (np.load(f"{name}/samples.npz")["samples"] for name in "abc")
    assert a.shape == (5, 2) and not np.allclose(a, b)
    np.testing.assert_allclose(b, c, rtol=1e-5, atol=1e-6)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("flags", "report"),
    [
        (["--sampler.num_steps", "7"], "DDIM, 7 steps, 7 network evaluations"),
        (["--sampler", "Heun"], "Heun, 25 steps, 49 network evaluations"),
        (["--sampler", "ExponentialAdams"], "ExponentialAdams, 20 steps, 20 network evaluations"),
        (["--sampler", "PredictorCorrector", "--sampler.num_steps", "4"], "4 steps, 7 network evaluations"),
        # of its levels σ/α = 152, 6.2, 0.26 and 0.01 it passes three times between the last two
        (
            ["--sampler", "Restart", "--sampler.low", "1e-9", "--sampler.num_steps", "4"],
            "Restart, 4 steps, 7 ",
        ),
    ],
)
def test_sample_reports_its_cost_and_a_named_sampler_has_its_own_defaults(run, capsys, flags, report):
    assert main(["sample", str(run), "--num_samples", "9", "--out", str(run / "s"), *flags]) == 0
    assert report in capsys.readouterr().out


def test_a_solver_that_does_not_reach_the_end_is_reported_without_a_traceback(run, capsys):
    flags = ["--sampler", "RK45", "--sampler.max_steps", "1", "--out", str(run / "s")]
    message = refusal(capsys, "sample", run, *flags, code=1)
    assert "max_steps=1" in message and "larger tolerances" in message.replace("\n", " ")


def test_configs_lists_every_file_with_a_line(capsys):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(config_dir().rglob("*.yaml")))
    assert all(len(line.split("  ")[-1].strip()) > 10 for line in lines)


def test_print_config(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "toy/vp_epsilon", "--print_config"])
    assert stopped.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["process"]["class_path"] == "scorelight.VPSDE"


NUMBERS = {
    "seed_everything": ["-1", str(2**32)],
    "trainer.val_check_interval": ["0", "-1", "0.0"],
    "trainer.log_every_n_steps": ["-1"],
    "trainer.accumulate_grad_batches": ["0", "-2"],
    "trainer.check_val_every_n_epoch": ["0", "-1"],
    "trainer.gradient_clip_val": ["-1", "-0.5"],
    "trainer.max_steps": ["-2"],
    "trainer.min_steps": ["-1"],
    "trainer.limit_val_batches": ["-1", "1.5"],
    "trainer.devices": ["0", "-3"],
    "trainer.num_nodes": ["0"],
}


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_out_of_range(key, capsys, tmp_path):
    for value in NUMBERS[key]:
        message = refusal(capsys, "fit", "--config", "toy/vp_epsilon", f"--{key}", value)
        assert (key.rpartition(".")[2] in message and value.strip("-") in message) or key == "trainer.devices"
        assert not (tmp_path / "runs").exists()


PACKAGES = {
    "WandbLogger": (["--trainer.logger", "WandbLogger"], "wandb"),
    "CometLogger": (["--trainer.logger", "CometLogger"], "comet"),
    "RichProgressBar": (["--trainer.callbacks+=RichProgressBar"], "rich"),
    "DeviceStatsMonitor": (["--trainer.callbacks+=DeviceStatsMonitor"], "psutil"),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_class_whose_package_is_missing(name, capsys):
    flags, package = PACKAGES[name]
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    message = refusal(capsys, "fit", "--config", "toy/vp_epsilon", *SMALL, *flags)
    assert "is not installed" in message and package in message


OTHERS = {
    "another width": (["--model.network.width", "16"], "network.width: 128 in the checkpoint, 16 here"),
    "another depth": (["--model.network.depth", "5"], "network.depth: 3 in the checkpoint, 5 here"),
    "other data": (["--data", "DigitsDataModule"], "shape: (2,) in the checkpoint, (1, 8, 8) here"),
    "a learned process": (
        ["--model.process", "LearnedVPSDE", "--model.objective", "VariationalBound"],
        "model.process: scorelight.VPSDE in the checkpoint, scorelight.LearnedVPSDE here",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_checkpoint_of_another_model(run, capsys, other):
    flags, difference = OTHERS[other]
    message = refusal(capsys, "fit", "--ckpt_path", run, "--trainer.max_steps", 5, *flags)
    assert "weights do not fit this model" in message and difference in message


def test_a_checkpoint_of_weights_alone(run, capsys):
    whole = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    parts = ("optimizer_states", "lr_schedulers", "loops", "callbacks")
    torch.save({k: v for k, v in whole.items() if k not in parts}, "weights.ckpt")
    message = refusal(capsys, "fit", "--ckpt_path", "weights.ckpt", "--trainer.max_steps", 5)
    assert "holds weights only" in message and "last.ckpt" in message
    assert main(["sample", "weights.ckpt", "--num_samples", "2"]) == 0


def test_a_deleted_working_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for command in ("fit", "sample", "evaluate", "advise", "statistics", "interpolate", "dequantize"):
        assert "the working folder does not exist" in refusal(capsys, command, "x")
    assert main(["configs"]) == main(["--help"]) == 0


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_root_that_is_a_file(tmp_path, capsys, name):
    (tmp_path / "file").touch()
    message = refusal(capsys, "fit", "--config", "toy/vp_epsilon", *SMALL, "--trainer.default_root_dir", name)
    assert f"{name} cannot be written" in message
