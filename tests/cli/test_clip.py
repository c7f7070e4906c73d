"""Encoders of images and captions are trained by the commands of every model, and guide another one."""

import csv
import json

import pytest

from scorelight.cli import main

RUN, MODEL = "runs/digits/clip/version_0", "runs/digits/vp_epsilon/version_0"


@pytest.fixture(scope="module")
def trained(train):
    """The encoders and a generative model of digits, of two steps."""
    short = "--trainer.max_steps 2 --trainer.val_check_interval 2"
    root = train("--config", "digits/clip", *short.split(), "--model.network.base_channels", "4")
    small = f"{short} --model.network.base_channels 8 --model.sampler.num_steps 3 --samples.num_samples 4"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["fit", "--config", "digits/vp_epsilon", *small.split()]) == 0
    return root


@pytest.fixture
def _here(trained, monkeypatch):
    monkeypatch.chdir(trained)


@pytest.mark.usefixtures("_here")
def test_a_prompt_guides_a_model_without_classes(capsys):
    guided = ["--guidance", "CLIPGuidance", "--guidance.model", RUN, "--num_samples", "2"]
    assert main(["sample", MODEL, *guided, "--guidance.prompt", "a thick slanted three"]) == 0
    prompts = ["--option", "guidance.prompt", "--values", "a thin 3", "seven"]
    assert main(["sweep", MODEL, *guided, *prompts]) == 0
    assert "a thin 3: 3 network evaluations" in capsys.readouterr().out


@pytest.mark.usefixtures("_here")
def test_the_folder_of_a_run_has_the_accuracy_of_plain_captions_at_each_level():
    with open(f"{RUN}/accuracy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)


@pytest.mark.usefixtures("_here")
def test_encoders_are_named_by_their_class(open_clip_weights, capsys):
    options = {"name": "ViT-tiny-for-tests", "pretrained": open_clip_weights}
    encoders = json.dumps({"class_path": "OpenCLIP", "init_args": options})
    guided = ["--guidance", "CLIPGuidance", "--guidance.model", encoders, "--guidance.prompt", "a cat"]
    assert main(["sample", MODEL, *guided, "--num_samples", "2"]) == 0, capsys.readouterr().err


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--guidance.model", RUN], "CLIPGuidance needs 'prompt': --guidance.prompt VALUE"),
        (["--guidance.model", RUN, "--guidance.prompt", "a thik 3"], "'thik': did you mean 'thick'?"),
        (
            ["--guidance.model", MODEL, "--guidance.prompt", "a 3"],
            "holds a generative model; a pair of",
        ),
    ],
)
def test_mistakes_get_one_message(flags, message, capsys):
    assert main(["sample", MODEL, "--guidance", "CLIPGuidance", *flags]) == 2
    assert message in capsys.readouterr().err
