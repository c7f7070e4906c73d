"""Generated mistakes: one message that names the key or what was given, exit code 2, no traceback.

Thousands of them, with those that may ask for more memory than there is, are in benchmarks/reliability.py.
"""

import importlib.util

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from support.mutations import KINDS, complaint, mistakes, wrong_commands, wrong_data

from scorelight.cli import main
from scorelight.cli.configs import config_dir

CONFIG = yaml.safe_load((config_dir() / "toy/vp_epsilon.yaml").read_text())
DRY = ["--trainer.fast_dev_run", "true", "--trainer.enable_progress_bar", "false"]


def generated(number, **strategies):
    """Run a test on so many generated examples, the same each time."""

    def decorate(test):
        limits = settings(
            max_examples=number,
            deadline=None,
            database=None,
            suppress_health_check=tuple(HealthCheck),
        )
        return seed(0)(limits(given(**strategies)(test)))

    return decorate


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def check(capsys, mistake, args):
    try:
        code = main(args)
    except SystemExit as left:
        code = left.code
    stderr = capsys.readouterr().err
    assert not (why := complaint(mistake, code, stderr)), f"{why}: {mistake}: {code}: {stderr}"


FEW, MANY = 4, 40


def in_a_configuration(mistake, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(mistake.what))
    check(capsys, mistake, ["fit", "--config", "config.yaml", *DRY])


@generated(FEW, mistake=mistakes(CONFIG, KINDS[:-3]))
def test_a_mistake_in_a_configuration_gives_one_message(mistake, tmp_path, capsys):
    in_a_configuration(mistake, tmp_path, capsys)


@pytest.mark.slow
@generated(MANY, mistake=mistakes(CONFIG, KINDS[:-3]))
def test_many_mistakes_in_a_configuration_give_one_message_each(mistake, tmp_path, capsys):
    in_a_configuration(mistake, tmp_path, capsys)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a small configuration, and a run of two steps of it."""
    folder = tmp_path_factory.mktemp("run")
    small = yaml.safe_load((config_dir() / "toy/vp_epsilon.yaml").read_text())
    small["trainer"] = {
        "max_steps": 2,
        "enable_progress_bar": False,
        "default_root_dir": str(folder / "runs"),
    }
    small["data"]["init_args"]["num_train"] = 200
    (folder / "small.yaml").write_text(yaml.safe_dump(small))
    assert main(["fit", "--config", str(folder / "small.yaml")]) == 0
    return folder


COMMANDS = {
    "fit": "--config {run}/small.yaml --data.batch_size 8 --model.process VPSDE --model.ema_decay 0.9",
    "sample": "{run}/runs --num_samples 3 --seed 1 --batch_size 2 --out o --weights ema",
    "evaluate": "{run}/runs --num_samples 9 --metrics SlicedWasserstein --seeds 0 --out o",
    "statistics": "--data ToyDataModule --features PixelFeatures --out o.npz",
    "advise": "--data ToyDataModule --max_examples 50",
}


def on_the_command_line(data, command, run, capsys):
    args = [command, *COMMANDS[command].format(run=run).split()]
    mistake = data.draw(wrong_commands(args))
    check(capsys, mistake, mistake.what)


@generated(FEW, data=st.data(), command=st.sampled_from([*COMMANDS]))
def test_a_mistake_on_the_command_line_gives_one_message(data, command, run, capsys):
    on_the_command_line(data, command, run, capsys)


@pytest.mark.slow
@generated(MANY, data=st.data(), command=st.sampled_from([*COMMANDS]))
def test_many_mistakes_on_the_command_line_give_one_message_each(data, command, run, capsys):
    on_the_command_line(data, command, run, capsys)


def in_the_data(data, tmp_path, capsys):
    mistake = data.draw(wrong_data(tmp_path))
    small = ["--model.network.base_channels", "8", "--model.network.num_blocks", "1"]
    images = ["--data", "ImageDataModule", "--data.path", str(mistake.what)]
    check(capsys, mistake, ["fit", "--config", "digits/vp_epsilon", *images, *small, *DRY])


@generated(FEW, data=st.data())
def test_data_that_cannot_be_used_give_one_message(data, tmp_path, capsys):
    in_the_data(data, tmp_path, capsys)


@pytest.mark.slow
@generated(MANY, data=st.data())
def test_many_data_that_cannot_be_used_give_one_message_each(data, tmp_path, capsys):
    in_the_data(data, tmp_path, capsys)


@pytest.mark.parametrize(
    "flags",
    [["--trainer.callbacks=RichModelSummary"], ['--trainer.callbacks=[{"class_path": "RichModelSummary"}]']],
)
def test_a_callback_whose_package_is_missing_is_one_message(tmp_path, monkeypatch, capsys, flags):
    if importlib.util.find_spec("rich"):
        pytest.skip("rich is installed")
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config=toy/vp_epsilon", "--trainer.fast_dev_run=1", *flags]) == 2
    message = capsys.readouterr().err
    assert "rich" in message and message.count("scorelight: error:") == 1
