"""What a training and an evaluation depend on."""

import pytest

from scorelight.cli.resolution import CommandInputs
from scorelight.errors import ConfigurationError
from scorelight.storage import source

FIT = ["--config=digits/quick", "--seed_everything=1"]


@pytest.fixture
def inputs():
    return CommandInputs()


@pytest.fixture
def edited(monkeypatch):
    content = source._content

    def edit(module):
        added = lambda found: content(found) + b"\nedited = 1\n" * (found.__name__ == module)  # noqa: E731
        monkeypatch.setattr(source, "_content", added)

    return edit


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.default_root_dir=elsewhere"],
        ["--trainer.logger=false"],
        ["--trainer.enable_progress_bar=false"],
        ["--model.process=VPSDE"],  # as it is by default
        ["--data.batch_size=64"],
    ],
)
def test_folders_logs_and_defaults_change_nothing(flags, inputs):
    assert inputs.fit([*FIT, *flags]) == inputs.fit(FIT)


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed_everything=2"],
        ["--model.process.beta_max=19"],
        ["--trainer.max_steps=7"],
        ["--data.batch_size=32"],
        ["--data.val_fraction=0.1"],
    ],
)
def test_settings_change_something(flags, inputs):
    assert inputs.fit([*FIT, *flags]) != inputs.fit(FIT)


@pytest.mark.parametrize(
    ("module", "trains", "evaluates"),
    [
        ("scorelight.networks.unet", True, False),
        ("scorelight.training.module", True, False),
        ("scorelight.training.learning_rate", True, False),
        ("scorelight.samplers.multistep", False, False),
        ("scorelight.metrics.frechet", False, True),
        ("scorelight.metrics.kernel", False, False),
        ("scorelight.evaluation.evaluator", False, True),
    ],
)
def test_the_code_of_used_classes_counts(module, trains, evaluates, inputs, edited):
    metrics = ["--metrics=[FrechetDistance]"]
    fit = inputs.fit(FIT)
    evaluate = inputs.evaluate(metrics, fit)
    edited(module)
    assert (inputs.fit(FIT)["code"] != fit["code"]) == trains
    assert (inputs.evaluate(metrics, fit)["code"] != evaluate["code"]) == evaluates


def test_an_evaluation_has_the_sampler_of_the_training_with_its_own_options(inputs):
    fit = inputs.fit(FIT)
    found = inputs.evaluate(["--sampler.num_steps=7"], fit)["configuration"]["sampler"]
    assert found["class_path"] == "scorelight.DDIM"
    assert (found["init_args"]["num_steps"], found["init_args"]["eta"]) == (7, 1.0)
    other = inputs.evaluate(["--sampler=Heun"], fit)["configuration"]["sampler"]
    assert other["class_path"] == "scorelight.Heun"
    assert inputs.evaluate(["--batch_size=7", "--out=x"], fit) == inputs.evaluate([], fit)


def test_files_count_by_their_content_and_data_wherever_it_lies(inputs, tmp_path, monkeypatch):
    import torch
    from sklearn.datasets import load_digits
    from torchvision.utils import save_image

    monkeypatch.chdir(tmp_path)
    images = torch.tensor(load_digits().images[:20], dtype=torch.float32)[:, None] / 16
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            save_image(image, tmp_path / folder / f"{i:02}.png")
    save_image(1 - images[0], tmp_path / "three" / "00.png")

    def fit(folder):
        flags = ["--data=ImageDataModule", f"--data.path={folder}", "--data.batch_size=4"]
        return inputs.fit(["--config=digits/quick", *flags])

    assert fit("one") == fit(tmp_path / "two")
    assert fit("one") != fit("three")


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--model.proces=VPSDE"], "model.proces"), (["--trainer.max_step=3"], "max_steps")],
)
def test_mistakes_are_reported_before_anything_runs(flags, message, inputs):
    with pytest.raises(ConfigurationError) as error:
        inputs.fit([*FIT, *flags])
    assert message in str(error.value)


def test_mistakes_of_evaluations_are_reported_too(inputs):
    with pytest.raises(ConfigurationError, match="num_sample"):
        inputs.evaluate(["--num_sample=3"], inputs.fit(FIT))
