"""`num_classes: data` on the command line, and numbers that contradict the data."""

import numpy as np
import pytest
import yaml
from support.commands import refusal

from scorelight import MLP, ConfigurationError, ImageDataModule, ScoreModule
from scorelight.cli import main

CLASSES = 7
SMALL = (
    "--model.network.base_channels=8 --model.network.num_blocks=1 --trainer.max_steps=2 --data.batch_size=4"
)
QUIET = "--trainer.enable_progress_bar=false --trainer.accelerator=cpu --trainer.val_check_interval=2"
COMMAND = ["fit", "--config=digits/vp_epsilon_conditional", *SMALL.split(), *QUIET.split()]


@pytest.fixture
def images(tmp_path, monkeypatch):
    """An .npz of 21 grey images of 8×8 pixels and seven classes; commands run beside it."""
    monkeypatch.chdir(tmp_path)

    def write(labels=None, **arrays):
        pixels = np.random.default_rng(0).integers(0, 256, (21, 8, 8), dtype=np.uint8)
        np.savez("classes7.npz", images=pixels, **({} if labels is None else {"labels": labels}), **arrays)
        return ["--data=ImageDataModule", "--data.path=classes7.npz"]

    return write


def stored(tmp_path):
    """Number of classes in the configuration and in the checkpoint of the run."""
    run = tmp_path / "runs/digits/vp_epsilon_conditional/version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    module = ScoreModule.load_from_checkpoint(run / "checkpoints/last.ckpt")
    return config["model"]["network"]["init_args"]["num_classes"], module.num_classes


@pytest.mark.slow
def test_the_number_of_classes_is_that_of_the_data_and_is_stored(images, tmp_path):
    data = images(np.arange(21) % CLASSES)
    assert main([*COMMAND, *data]) == 0
    assert stored(tmp_path) == (CLASSES, CLASSES)
    run = "runs/digits/vp_epsilon_conditional/version_0"
    assert main(["sample", run, "--num_samples=7", "--sampler.num_steps=2", "--out=out"]) == 0
    assert np.load("out/samples.npz")["labels"].tolist() == [*range(CLASSES)]


@pytest.mark.slow
def test_the_number_that_the_data_have_may_be_given(images, tmp_path):
    assert main([*COMMAND, *images(np.arange(21) % CLASSES), "--model.network.num_classes=7"]) == 0
    assert stored(tmp_path) == (CLASSES, CLASSES)


@pytest.mark.parametrize(
    ("labels", "flags", "named"),
    [
        (
            np.arange(21) % CLASSES,
            "--model.network.num_classes=10",
            ["num_classes=10", "is 7", "set num_classes"],
        ),
        (np.arange(21) % CLASSES, "--model.network.num_classes=6", ["num_classes=6", "is 7"]),
        (None, "", ["num_classes=data", "has no labels"]),
        (None, "--model.network.num_classes=3", ["num_classes=3", "has no labels"]),
        (np.arange(21) % CLASSES + 1, "", ["classes7.npz", "from 1 to 7", "no image has label 0"]),
        (np.arange(21) % CLASSES * 2, "", ["classes7.npz", "no image has label 1", "without gaps"]),
        (np.arange(21) * 10**9, "", ["classes7.npz", "a label is 20000000000", "number the classes from 0"]),
        (np.arange(21) % CLASSES, "--model.network.num_classes=many", ["'many'", "data", "int"]),
    ],
)
def test_what_contradicts_the_data_is_refused_before_anything_is_written(
    labels, flags, named, images, tmp_path, capsys
):
    stderr = refusal(capsys, *COMMAND, *images(labels), *flags.split())
    assert all(part in stderr for part in named), stderr
    assert [path.name for path in tmp_path.iterdir()] == ["classes7.npz"]


def test_an_unconditional_model_takes_data_with_labels_and_without(images):
    unconditional = [COMMAND[0], "--config=digits/vp_epsilon", *COMMAND[2:], "--trainer.fast_dev_run=true"]
    for labels in (None, np.arange(21) % CLASSES + 1):
        assert main([*unconditional, *images(labels)]) == 0


def test_in_python_the_number_is_that_of_the_data_module(images, make_module, make_trainer, tmp_path):
    images(np.arange(21) % CLASSES)
    data = ImageDataModule("classes7.npz", batch_size=4)
    assert data.num_classes == CLASSES
    with pytest.raises(ConfigurationError, match=r"num_classes='data'.*such as DATA\.num_classes"):
        MLP((1, 8, 8), num_classes="data")
    for number in (CLASSES - 1, CLASSES + 1):
        with pytest.raises(ConfigurationError, match=rf"num_classes={number}: .* is 7"):
            make_trainer(max_steps=1).fit(make_module(network=MLP((1, 8, 8), 8, 1, num_classes=number)), data)
    trainer = make_trainer(max_steps=1)
    trainer.fit(make_module(network=MLP((1, 8, 8), 8, 1, num_classes=data.num_classes)), data)
    assert trainer.global_step == 1


def test_an_inner_network_may_ask_for_the_classes_of_the_data(images, tmp_path):
    energy = ["--config=energy.yaml", *QUIET.split(), "--trainer.max_steps=2"]
    inner = {"class_path": "MLP", "init_args": {"width": 8, "depth": 1, "num_classes": "data"}}
    network = {"class_path": "Energy", "init_args": {"network": inner}}
    (tmp_path / "energy.yaml").write_text(yaml.safe_dump({"model": {"network": network}}))
    data = images(np.arange(21) % CLASSES)
    assert main(["fit", "--config=digits/vp_epsilon", *energy, *data, "--data.batch_size=4"]) == 0
    run = tmp_path / "runs/digits/vp_epsilon/version_0/checkpoints/last.ckpt"
    assert ScoreModule.load_from_checkpoint(run).num_classes == CLASSES
