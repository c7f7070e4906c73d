"""A classifier is trained, validated and resumed by the commands of every model, and guides another one."""

import csv
import re
from pathlib import Path

import pytest
import torch
import yaml

from scorelight.cli import main

TINY = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--model.network.base_channels", "4"]
RUN, MODEL = "runs/digits/classifier/version_0", "runs/digits/vp_epsilon/version_0"


@pytest.fixture(scope="module")
def trained(train):
    """A classifier and a generative model of digits, of some steps."""
    small = "--trainer.max_steps 2 --trainer.val_check_interval 2 --model.network.base_channels 8"
    small += " --model.sampler.num_steps 3 --samples.num_samples 4"
    root = train("--config", "digits/classifier", *TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["fit", "--config", "digits/vp_epsilon", *small.split()]) == 0
    return root


@pytest.fixture
def _here(trained, monkeypatch):
    monkeypatch.chdir(trained)


def error_of(capsys, *args):
    assert main(args) == 2
    return capsys.readouterr().err


@pytest.mark.usefixtures("_here")
def test_the_folder_of_a_run_has_the_accuracy_at_each_level():
    with open(f"{RUN}/accuracy.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert len(rows) == 12
    assert [row["noise"] for row in rows] == sorted((row["noise"] for row in rows), reverse=True)
    shares = ("accuracy", "confidence", "calibration_error")
    assert all(0 <= row[name] <= 1 for row in rows for name in shares)
    assert yaml.safe_load(Path(RUN, "config.yaml").read_text())["module"] == "ClassifierModule"


def test_the_exact_classifier_stands_beside_that_of_a_mixture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "--trainer.max_steps 2 --trainer.val_check_interval 2 --data.num_train 500 --data.num_val 400"
    assert main(["fit", "--config", "toy/classifier", *small.split()]) == 0
    with open("runs/toy/classifier/version_0/accuracy.csv", newline="") as file:
        clean = list(csv.DictReader(file))[-1]
    assert float(clean["bayes_accuracy"]) > 0.99  # eight Gaussians that hardly overlap
    assert float(clean["accuracy"]) < 0.9


@pytest.mark.slow
def test_a_trained_classifier_is_about_as_accurate_as_the_exact_one(tmp_path, monkeypatch):
    """2,000 points at each level: the difference of two shares on the same points has an error below 1 %."""
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "toy/classifier"]) == 0
    with open("runs/toy/classifier/version_0/accuracy.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    accuracy, exact = ([float(row[name]) for row in rows] for name in ("accuracy", "bayes_accuracy"))
    assert accuracy == pytest.approx(exact, abs=0.03)
    assert min(exact) < 0.2 and max(exact) > 0.99  # levels from noise to data


@pytest.mark.usefixtures("_here")
def test_a_run_is_continued_by_the_command_that_it_prints(capsys):
    flags = ["--config", f"{RUN}/config.yaml", "--ckpt_path", RUN, "--trainer.max_steps", "6"]
    assert main(["fit", *flags]) == 0
    folder = re.search(r"Run folder  (\S+)", capsys.readouterr().out).group(1)
    assert torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


@pytest.mark.usefixtures("_here")
def test_it_is_validated_by_its_checkpoint(capsys):
    assert main(["validate", "--config", "digits/classifier", "--ckpt_path", RUN, *TINY[4:]]) == 0
    assert "val/accuracy" in capsys.readouterr().out


@pytest.mark.usefixtures("_here")
def test_it_guides_a_model_from_its_run_folder(capsys):
    guided = ["--guidance", "ClassifierGuidance", "--guidance.classifier", RUN, "--labels", "3"]
    assert main(["sample", MODEL, "--num_samples", "2", "--out", "guided", *guided]) == 0
    missing = error_of(capsys, "sample", MODEL, *guided[:2], "--guidance.classifier", "nowhere", *guided[4:])
    assert "nowhere" in missing
    wrong = error_of(capsys, "sample", MODEL, *guided[:2], "--guidance.classifier", MODEL, *guided[4:])
    assert "holds a generative model; a classifier is needed here" in wrong


@pytest.mark.usefixtures("_here")
def test_exact_guidance_is_a_sampler_with_a_report(capsys):
    exact = ["--sampler", "ExactGuidance", "--sampler.likelihood", "ClassLikelihood"]
    exact += ["--sampler.likelihood.classifier", RUN]
    exact += ["--sampler.num_iterations", "8", "--sampler.warmup", "2"]
    exact += ["--sampler.flow", "DDIM", "--sampler.flow.num_steps", "3", "--labels", "3", "5"]
    assert main(["sample", MODEL, "--num_samples", "4", "--out", "exact", *exact]) == 0
    out = capsys.readouterr().out
    assert "of the proposals accepted, split R̂" in out and "in 6 iterations" in out
    assert "--labels 10: classes are 0 to 9" in error_of(capsys, "sample", MODEL, *exact[:-2], "10")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"module: 3", "--module 3: allowed: ClassifierModule"),
        (b"module: [a]", "--module ['a']: allowed: ClassifierModule"),
        (b"module: Scoremodule", "--module Scoremodule: did you mean 'ScoreModule'?"),
        (b"a: [1", "not valid YAML"),
        (b"\xff\xfe", "not valid YAML"),
    ],
)
def test_configurations_that_name_no_module_are_refused(content, message, tmp_path, capsys):
    (tmp_path / "a.yaml").write_bytes(content)
    assert message in error_of(capsys, "fit", "--config", str(tmp_path / "a.yaml"))


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "--module", "Clasifier"], "--module Clasifier: did you mean 'ClassifierModule'?"),
        (
            ["fit", "--config", "digits/vp_epsilon", "--module", "ClassifierModule"],
            "model.network: unknown class",
        ),
        (["fit", "--config", "digits/classifier", "--dry_run"], "--dry_run: is for a generative model"),
        (["fit", "--config", "digits/classifier", "--samples.num_samples", "4"], "--samples.num_samples"),
        (["fit", "--config", "digits/classifier", "--accuracy.num_levels", "1"], "accuracy.num_levels=1"),
        (
            ["fit", "--config", "toy/classifier", "--data.classes", "false"],
            "model.num_classes=data: ToyDataModule",
        ),
        (["fit", "--config", "toy/classifier", "--data.density", "swiss_roll"], "swiss_roll is no mixture"),
        (["sample", RUN, "--out", "x"], "holds a classifier; a generative model is needed here"),
        (["evaluate", RUN], "holds a classifier; a generative model is needed here"),
        (["fit", "--config", "digits/vp_epsilon", "--ckpt_path", RUN], "holds a classifier"),
    ],
)
def test_mistakes_get_one_message(args, message, capsys):
    error = error_of(capsys, *args)
    assert message in error and "Traceback" not in error
