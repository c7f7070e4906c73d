"""A wrapper of the denoiser is named in YAML, as a flag and in a checkpoint, also one of the user's own."""

import json
import shutil

import numpy as np
import pytest
import torch

from scorelight.cli import main

TINY = "--trainer.max_steps 2 --trainer.val_check_interval 2 --model.network.base_channels 8"
TINY += " --model.sampler.num_steps 3 --samples.num_samples 4"

MINE = '''
from scorelight import X0, DenoiserWrapper, Prediction


class Constant(DenoiserWrapper):
    """x0 is one number, whatever the denoiser predicts."""

    def __init__(self, denoiser, value: float = 0.25):
        super().__init__(denoiser)
        self.value = value

    def predict(self, x_t, level, **cond):
        return Prediction(x_t, level, 0 * x_t + self.value, X0())
'''


@pytest.fixture(scope="module")
def trained(train):
    """Runs on digits, of two steps: without guidance, and with one that is named in a configuration."""
    root = train("--config", "digits/vp_epsilon", *TINY.split())
    (root / "clip.yaml").write_text(
        "model: {guidance: {class_path: ClippedDenoiser, init_args: {high: 0.25}}}\n"
        "trainer: {default_root_dir: runs/clipped}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        flags = ["--config", "digits/vp_epsilon", "--config", "clip.yaml", *TINY.split()]
        assert main(["fit", *flags]) == 0
    return root


@pytest.fixture
def _here(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SCORELIGHT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(trained / "runs", "runs")


def brightest(run, *flags):
    assert main(["sample", run, "--num_samples", "4", *flags]) == 0
    with np.load("samples/samples.npz") as file:
        return int(file["images"].max())


def byte(value):
    return round((value + 1) * 127.5)


@pytest.mark.usefixtures("_here")
def test_the_guidance_of_the_checkpoint_is_the_default_and_flags_change_it(capsys):
    assert brightest("runs/clipped") == byte(0.25)
    assert "seed 0, ClippedDenoiser:" in capsys.readouterr().out
    assert brightest("runs/clipped", "--guidance.high", "0.5") == byte(0.5)
    assert brightest("runs/clipped", "--guidance", "null") == 255
    assert brightest("runs/digits/vp_epsilon") == 255
    flags = ["--guidance", "ClippedDenoiser", "--guidance.high", "0"]
    assert brightest("runs/digits/vp_epsilon", *flags) == byte(0)
    checkpoint = torch.load("runs/clipped/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["guidance"]["class_path"] == "scorelight.ClippedDenoiser"
    assert checkpoint["hyper_parameters"]["guidance"]["init_args"]["high"] == 0.25


@pytest.mark.usefixtures("_here")
def test_a_wrapper_of_ones_own_is_named_by_its_path(tmp_path):
    (tmp_path / "my_guidance.py").write_text(MINE)
    assert brightest("runs/digits/vp_epsilon", "--guidance", "my_guidance.Constant") == byte(0.25)
    flags = ["--guidance", "my_guidance.Constant", "--guidance.value", "-0.5"]
    assert brightest("runs/digits/vp_epsilon", *flags) == byte(-0.5)


@pytest.mark.usefixtures("_here")
def test_evaluation_reports_the_guidance_and_keeps_its_samples_apart(tmp_path):
    for flags in ([], ["--guidance", "ClippedDenoiser"], ["--guidance", "ClippedDenoiser"]):
        command = ["evaluate", "runs/digits/vp_epsilon", "--num_samples", "5", "--out", "results"]
        assert main([*command, "--metrics", "FrechetDistance", *flags]) == 0
    assert len(list((tmp_path / "results").glob("samples-*/"))) == 2
    protocols = [json.loads(p.read_text())["protocol"] for p in (tmp_path / "results").glob("*.json")]
    named = [p["guidance"]["class_path"] for p in protocols if "guidance" in p]
    assert named == ["scorelight.ClippedDenoiser"] and len(protocols) == 2


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--guidance", "ClipedDenoiser"], ["ClipedDenoiser", "did you mean 'ClippedDenoiser'"]),
        (["--guidance", "ClippedDenoiser", "--guidance.hihg", "1"], ["hihg", "did you mean 'high'"]),
        (["--guidance", "ClippedDenoiser", "--guidance.high", "-2"], ["high=-2", "low < high"]),
        (
            ["--guidance", "ClippedDenoiser", "--guidance.high", "x"],
            ["guidance.high: expected float, got 'x'\n"],
        ),
        (["--guidance", "VPSDE"], ["VPSDE", "allowed: ", "ClippedDenoiser"]),
    ],
)
def test_mistakes(flags, named, capsys):
    assert main(["sample", "runs/digits/vp_epsilon", *flags]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in named) and "Traceback" not in error, error


@pytest.mark.usefixtures("_here")
def test_guidance_without_condition_dropout_is_refused_before_anything_runs(capsys):
    assert main(["sample", "runs/digits/vp_epsilon", "--guidance", "ClassifierFreeGuidance"]) == 2
    assert "needs the model's prediction without its condition" in capsys.readouterr().err
    flags = ["--model.guidance", "ClassifierFreeGuidance", "--trainer.default_root_dir", "refused"]
    assert main(["fit", "--config", "digits/vp_epsilon", *TINY.split(), *flags]) == 2
    assert "condition_dropout=0" in capsys.readouterr().err
