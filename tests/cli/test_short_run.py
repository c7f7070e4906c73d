"""`scorelight advise --minutes`: the recipe of `mnist/quick`, as wide as the machine allows."""

import pytest
import yaml

from scorelight.cli import main, short_run
from scorelight.cli.configs import shipped_configs
from scorelight.storage.checkpoint import read_checkpoint


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def at_speed(monkeypatch, of_16_channels):
    """Networks that are slower in proportion to their channels."""
    monkeypatch.setattr(
        short_run,
        "_images_per_second",
        lambda model, *_: 16 * of_16_channels / model["network"]["init_args"]["base_channels"],
    )


def plain(value):
    """Settings with class names alone, and a class without arguments as its name."""
    if isinstance(value, dict) and "class_path" in value:
        name = value["class_path"].removeprefix("scorelight.")
        arguments = plain(value.get("init_args", {}))
        return {name: arguments} if arguments else name
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return float(value) if value == "5e-3" else value  # YAML 1.1 wants 5.0e-3


@pytest.mark.parametrize(
    ("name", "shape", "sigma_data", "minutes"),
    [("mnist/quick", (1, 28, 28), 0.6, 10), ("cifar10/quick", (3, 32, 32), 0.5, 60)],
)
def test_it_is_the_shipped_recipe(monkeypatch, name, shape, sigma_data, minutes):
    shipped = yaml.safe_load(shipped_configs()[name].read_text())
    width = shipped["model"]["network"]["init_args"]["base_channels"]
    at_speed(monkeypatch, short_run.ENOUGH / 60 / minutes * width / 16)
    made = short_run.short_run(shape, 10, sigma_data, minutes).config
    assert plain(made["model"]) == plain(shipped["model"])
    assert shipped["data"]["init_args"]["batch_size"] == short_run.BATCH
    own = ("max_steps", "default_root_dir", "val_check_interval")
    trainers = [plain(config["trainer"]) for config in (made, shipped)]
    first, second = ({k: v for k, v in trainer.items() if k not in own} for trainer in trainers)
    assert first == second


@pytest.mark.parametrize(
    ("images_per_second", "channels"), [(0.1, 16), (0.99, 16), (1.6, 24), (3.5, 48), (100.0, 128)]
)
def test_the_widest_network_is_taken_that_sees_enough_images(monkeypatch, images_per_second, channels):
    at_speed(monkeypatch, images_per_second * short_run.ENOUGH / 60)
    run = short_run.short_run((3, 32, 32), None, 0.5, 1)
    network = run.config["model"]["network"]["init_args"]
    assert network["base_channels"] == channels and "num_classes" not in network
    (line,) = [row for row in run.report().splitlines() if row.endswith("<")]
    assert line.split()[0] == str(channels)
    assert ("The narrowest network: it would see" in run.report()) == (images_per_second < 1)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((1, 8, 8), 1), ((1, 28, 28), 2), ((3, 32, 32), 2), ((3, 64, 48), 4), ((1, 17, 17), 1)],
)
def test_patches_leave_sixteen_positions_a_side_where_they_fit(shape, patch):
    network = short_run._model(shape, None, 0.5, 16)["network"]["init_args"]
    assert network["patch_size"] == patch


@pytest.mark.parametrize(
    ("minutes", "limit"),
    [(0.5, "00:00:00:30"), (10, "00:00:10:00"), (90, "00:01:30:00"), (3000, "02:02:00:00")],
)
def test_the_time_limit_is_that_of_lightning(monkeypatch, minutes, limit):
    at_speed(monkeypatch, 1.0)
    assert short_run.short_run((1, 8, 8), None, 1.0, minutes).config["trainer"]["max_time"] == limit


@pytest.mark.slow
def test_the_configuration_trains_for_as_long_as_it_says(tmp_path, capsys):
    assert main(["advise", "--data", "DigitsDataModule", "--minutes", "0.05", "--out", "short.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "images/s" in printed and "no classes" not in printed
    _, _, command = printed.rpartition("To train with it: scorelight ")
    flags = [
        "--trainer.default_root_dir=runs",
        "--samples.num_samples=2",
        "--trainer.enable_progress_bar=false",
    ]
    assert main([*command.split(), *flags]) == 0
    checkpoint = read_checkpoint(tmp_path / "runs/version_0/checkpoints/last.ckpt")
    assert checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"] >= 3
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] < 1e-4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data", "ToyDataModule", "--minutes", "1"],
            "--minutes 1: images are needed, and examples have shape",
        ),
        (["--data", "DigitsDataModule", "--minutes", "0"], "--minutes 0.0: must be positive"),
        (["--data", "DigitsDataModule", "--minutes=-1"], "--minutes -1.0: must be positive"),
    ],
)
def test_what_cannot_be_is_refused(capsys, flags, message):
    assert main(["advise", *flags]) == 2
    assert message in capsys.readouterr().err
