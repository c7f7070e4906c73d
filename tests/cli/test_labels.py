"""Classes are named by number or by the names that the data give them."""

import numpy as np
import pytest
import torch

from scorelight.cli import main

RUN = "runs/digits/vp_epsilon_conditional/version_0"


@pytest.fixture(scope="module")
def trained(train):
    """A class-conditional model of digits, of two steps."""
    small = "--trainer.max_steps 2 --trainer.val_check_interval 2 --model.network.base_channels 8"
    small += " --model.sampler.num_steps 3 --samples.num_samples 4"
    return train("--config", "digits/vp_epsilon_conditional", *small.split())


@pytest.fixture
def _here(trained, monkeypatch):
    monkeypatch.chdir(trained)


def labels_of(*given):
    assert main(["sample", RUN, "--num_samples", "5", "--sampler.num_steps", "2", *given]) == 0
    with np.load("samples/samples.npz") as file:
        return file["labels"].tolist()


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--labels 3", [3] * 5),
        ("--labels 3 5", [3, 5, 3, 5, 3]),
        ("--labels [3,5]", [3, 5, 3, 5, 3]),
        ("--labels seven", [7] * 5),
        ("--labels seven 0 nine", [7, 0, 9, 7, 0]),
        ("", [0, 1, 2, 3, 4]),
    ],
)
def test_classes_are_taken_in_turn(given, expected):
    assert labels_of(*given.split()) == expected


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--labels 10", "--labels 10: classes are 0 to 9"),
        ("--labels 3 -1", "--labels -1: classes are 0 to 9"),
        ("--labels sevn", "--labels sevn: did you mean 'seven'? allowed: eight, five"),
        ("--labels", "--labels: give at least one"),
    ],
)
def test_what_is_no_class_is_refused(given, message, capsys):
    assert main(["sample", RUN, *given.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("names", [None, ["a"], "zero", {"zero": 0}, [0] * 10])
def test_names_of_a_strangers_checkpoint_are_names_or_are_ignored(names, tmp_path, capsys):
    checkpoint = torch.load(f"{RUN}/checkpoints/last.ckpt", weights_only=True)
    torch.save(checkpoint | {"class_names": names}, tmp_path / "other.ckpt")
    assert main(["sample", str(tmp_path / "other.ckpt"), "--labels", "zero"]) == 2
    assert "--labels zero: the classes have no names; give 0 to 9" in capsys.readouterr().err
