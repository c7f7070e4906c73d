"""One picture of the same noises under several values of an option."""

import numpy as np
import pytest
import torch
from PIL import Image

from scorelight.cli import main
from scorelight.images import grid, titled

RUN = "runs/digits/vp_epsilon_conditional/version_0"
TITLE = 16


@pytest.fixture(scope="module")
def trained(train):
    """A class-conditional model of digits, of two steps."""
    small = "--trainer.max_steps 2 --trainer.val_check_interval 2 --model.network.base_channels 8"
    small += " --model.sampler.num_steps 3 --samples.num_samples 4 --model.condition_dropout 0.1"
    return train("--config", "digits/vp_epsilon_conditional", *small.split())


@pytest.fixture
def _here(trained, monkeypatch):
    monkeypatch.chdir(trained)


def sweep(*args):
    assert main(["sweep", RUN, "--num_samples", "3", *args]) == 0
    return np.asarray(Image.open("sweep.png"))


def samples(*args):
    """The picture of `sample` with one column."""
    assert main(["sample", RUN, "--num_samples", "3", *args]) == 0
    with np.load("samples/samples.npz") as file:
        x = torch.from_numpy(file["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return grid(x, 1).permute(1, 2, 0).numpy()


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("option", "values", "flags"),
    [
        ("guidance.scale", ["1", "4"], "--guidance ClassifierFreeGuidance --labels 3 seven"),
        ("sampler.num_steps", ["2", "4"], ""),
        ("sampler", ["DDIM", "Heun"], ""),
        ("weights", ["ema", "raw"], "--seed 5"),
        ("labels", ["3", "seven"], ""),
    ],
)
def test_a_column_is_what_sample_draws_with_this_value(option, values, flags):
    picture = sweep("--option", option, "--values", *values, *flags.split())
    for i, value in enumerate(values):
        column = samples(*flags.split(), f"--{option}", value)
        width = column.shape[1] - 2  # neighbours share a border
        found = picture[TITLE:, i * width : i * width + column.shape[1]]
        np.testing.assert_array_equal(found, column)


@pytest.mark.usefixtures("_here")
def test_evaluations_are_stated_for_each_value(capsys):
    flags = ["--guidance", "ClassifierFreeGuidance", "--option", "guidance.scale", "--values", "1", "2"]
    sweep(*flags)
    out = capsys.readouterr().out
    assert "guidance.scale from left to right" in out
    assert "  1: 3 network evaluations" in out and "  2: 6 network evaluations" in out


def test_vectors_are_shown_as_a_histogram_for_each_value(train, monkeypatch):
    root = train(
        "--config", "toy/vp_epsilon", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"
    )
    monkeypatch.chdir(root)
    flags = ["--option", "sampler.num_steps", "--values", "2", "3", "--num_samples", "1"]
    assert main(["sweep", "runs/toy/vp_epsilon/version_0", *flags]) == 0
    height, width, _ = np.asarray(Image.open("sweep.png").convert("RGB")).shape
    assert width == 2 * (height - TITLE)


@pytest.mark.parametrize("channels", [1, 3])
def test_titles_are_above_their_columns_and_change_nothing_below(channels):
    picture = torch.randint(256, (channels, 20, 120), dtype=torch.uint8)
    both, second = titled(picture, ["1.5", "another one"]), titled(picture, ["", "another one"])
    assert both.shape == (channels, 20 + TITLE, 120) and torch.equal(both[:, TITLE:], picture)
    assert (both[:, :TITLE, :60] < 128).any() and (second[:, :TITLE, :60] == 255).all()
    assert torch.equal(both[:, :TITLE, 60:], second[:, :TITLE, 60:])


@pytest.mark.parametrize("title", ["a thick slanted three", "antidisestablishmentarianism"])
def test_a_wide_title_goes_on_in_the_next_line(title):
    picture = torch.zeros(1, 20, 120, dtype=torch.uint8)
    dark = (titled(picture, [title, "1"])[:, :-20] < 128).any(0)
    assert dark.shape[0] % TITLE == 0 and dark.shape[0] > TITLE
    assert all(line.any() for line in dark[:, :60].split(TITLE))
    assert not dark[TITLE:, 60:].any()


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("", "name an option of `sample`, such as guidance.scale, and its values"),
        ("--option sampler.num_steps", "name an option of `sample`"),
        (
            "--option sampler.num_step --values 2 3",
            "DDIM has no option 'num_step'; did you mean",
        ),
        (
            "--option guidance.scale --values 2",
            "which DenoiserWrapper? Its options come after its",
        ),
        ("--option num_samples --values 2 3", "--option num_samples: must not change the number of samples"),
        ("--option guidance.scale --values 2 x --guidance ClassifierFreeGuidance", "expected float, got 'x'"),
        ("--option sampler.num_steps --values 2 0", "num_steps=0"),
    ],
)
def test_mistakes_get_one_message(args, message, capsys):
    assert main(["sweep", RUN, *args.split()]) == 2
    assert message in capsys.readouterr().err
