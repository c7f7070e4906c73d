"""Files of strangers: nothing outside the list of `scorelight.storage.trust` is imported or called.

Thousands more are in benchmarks/reliability.py.
"""

import random
import sys

import pytest
import yaml
from support.hostile_specs import all_paths, draw, places, put, recording, refused

import scorelight
from scorelight import ConfigurationError, FlowDequantization, ScoreModule
from scorelight.cli import main
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.storage.component import spec
from scorelight.training.dequantizer import load_dequantizer
from scorelight.training.loading import read_config


@pytest.fixture(autouse=True)
def _own_list(monkeypatch):
    monkeypatch.setattr("scorelight.storage.trust._trusted", set())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder, with every module imported that reading it needs."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        flags = [
            "--trainer.max_steps=2",
            "--trainer.limit_val_batches=1",
            "--trainer.enable_progress_bar=false",
        ]
        small = ["--data.num_train=60", "--data.num_val=10", "--samples.num_samples=2", *flags]
        assert main(["fit", "--config=toy/vp_epsilon", "--trainer.default_root_dir=.", *small]) == 0
        assert main(["sample", ".", "--num_samples=2"]) == 0
    return folder / "version_0"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the canary modules in it, from which modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("canary")]:
        del sys.modules[name]


def everything(path):
    """All that a checkpoint can be asked for."""
    read_config(path)
    scorelight.ToyDataModule.load_from_checkpoint(path)
    ScoreModule.load_from_checkpoint(path)


@pytest.mark.parametrize("number", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_a_checkpoint_builds_nothing_else(run, here, number):
    content, paths = read_checkpoint(run / "checkpoints/last.ckpt"), all_paths(here)
    rng = random.Random(number)
    everything(run / "checkpoints/last.ckpt")
    everywhere = list(places(content))
    for turn in range(number):
        place, value = rng.choice(everywhere), draw(rng, here, paths)
        write_checkpoint(put(content, place, value), here / "stranger.ckpt")
        ended, done = refused(lambda: everything(here / "stranger.ckpt"))
        assert done == [], (turn, place, done)
        assert ended or place[0].startswith("hparams"), (turn, place)
    assert not (here / "ran").exists()


COMMANDS = [
    ["sample", "stranger.ckpt"],
    ["evaluate", "stranger.ckpt"],
    ["validate", "--config=toy/vp_epsilon", "--ckpt_path=stranger.ckpt"],
    ["fit", "--config=toy/vp_epsilon", "--ckpt_path=stranger.ckpt", "--trainer.fast_dev_run=1"],
    ["interpolate", "stranger.ckpt"],
    ["dequantize", "stranger.ckpt"],
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_command_builds_nothing_else(run, here, capsys, command, number=8):
    content, rng, paths = read_checkpoint(run / "checkpoints/last.ckpt"), random.Random(2), all_paths(here)
    everywhere = [place for place in places(content) if not place[0].startswith("hparams")]
    for turn in range(number):
        place, value = rng.choice(everywhere), draw(rng, here, paths)
        write_checkpoint(put(content, place, value), here / "stranger.ckpt")
        with recording() as done:
            code = main(command)
        message = capsys.readouterr().err
        assert code == 2 and message.count("scorelight: error:") == 1, (turn, place, message)
        assert [event for event in done if event.startswith(("import canary", "exec", "os.", "sub"))] == []
    assert not (here / "ran").exists()


def positions(value, place=()):
    """Every place of a configuration."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*place, key)
            yield from positions(item, (*place, key))


def test_the_configuration_of_a_run_folder_builds_nothing_else(run, here, capsys, number=15):
    config, rng, paths = yaml.safe_load((run / "config.yaml").read_text()), random.Random(3), all_paths(here)
    words = {"default_root_dir", "ckpt_path", "precision", "max_time", "gradient_clip_algorithm"}
    everywhere = [place for place in positions(config) if place[-1] not in words]
    (here / "checkpoints").mkdir()
    for turn in range(number):
        place, value = rng.choice(everywhere), draw(rng, here, [p for p in paths if p])
        try:
            (here / "config.yaml").write_text(yaml.safe_dump(put(config, place, value)))
        except (yaml.YAMLError, RecursionError):  # cannot be written
            continue
        with recording() as done:
            code = main(["fit", "--config=config.yaml", "--trainer.fast_dev_run=1"])
        message = capsys.readouterr().err
        assert code == 2 and message.count("scorelight: error:") == 1, (turn, place, value, message)
        assert [event for event in done if event.startswith(("import canary", "exec", "os.", "sub"))] == []
    assert not (here / "ran").exists()


def test_a_dequantizer_builds_nothing_else(here, number=100):
    content = {"dequantizer": spec(FlowDequantization((1, 8, 8))), "state_dict": {}}
    rng, paths = random.Random(4), all_paths(here)
    with pytest.raises(ConfigurationError, match=r"do not fit.*\n.*Missing key"):
        write_checkpoint(content, here / "own.ckpt")
        load_dequantizer(here / "own.ckpt")
    everywhere = [("dequantizer",), ("dequantizer", "class_path")]
    everywhere += [("dequantizer", "init_args", name) for name in ("shape", "hidden", "unknown")]
    for turn in range(number):
        place = rng.choice(everywhere)
        write_checkpoint(put(content, place, draw(rng, here, paths)), here / "stranger.ckpt")
        assert refused(lambda: load_dequantizer(here / "stranger.ckpt")) == (True, []), (turn, place)
    assert not (here / "ran").exists()


def test_what_is_trusted_does_not_lend_its_trust(here):
    """A trusted package may be imported; what it has imported from elsewhere is not the package's."""
    all_paths(here)
    scorelight.trust("canary0")
    for name, wanted in (("Path", "pathlib"), ("f", "not a class")):
        content = {"dequantizer": {"class_path": f"canary0.{name}"}, "state_dict": {}}
        write_checkpoint(content, here / "stranger.ckpt")
        with pytest.raises(ConfigurationError, match=wanted):
            load_dequantizer(here / "stranger.ckpt")
    assert (here / "ran").exists(), "it was imported"
    assert "canary1" not in sys.modules
