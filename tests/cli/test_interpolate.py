"""From image to image through the noise, on the command line."""

import re

import pytest
from PIL import Image
from support.marks import slow

from scorelight.cli import main

TINY = "--trainer.max_steps 2 --trainer.val_check_interval 2 --model.network.base_channels 8"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fails(capsys, *args):
    assert main(["interpolate", *args]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message and message.count("scorelight: error:") == 1
    return message


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("digits/vp_epsilon", ""),
        slow("digits/vp_epsilon_conditional", "--sampler DDIM --sampler.num_steps 100"),
    ],
)
@pytest.mark.slow
def test_images_are_encoded_and_come_back(name, sampler, capsys):
    assert main(["fit", "--config", name, *TINY.split(), "--samples.num_samples", "10"]) == 0
    capsys.readouterr()
    flags = f"--num_pairs 2 --num_columns 5 --out new/a.png {sampler}"
    assert main(["interpolate", f"runs/{name}", *flags.split()]) == 0
    message = capsys.readouterr().out
    assert not sampler or "DDIM, 99 network evaluations to encode and 100 to decode" in message
    error = float(re.search(r"reconstruction error (\S+) \(", message)[1])
    assert error < 0.01  # a flow can be followed back, whatever the network
    assert "AncestralSampler draws noise" in fails(capsys, f"runs/{name}", "--sampler", "AncestralSampler")
    with Image.open("new/a.png") as picture:
        assert picture.width / 5 == pytest.approx(picture.height / 2, rel=0.05)


def test_mistakes(capsys):
    flags = "--trainer.max_steps 2 --trainer.val_check_interval 2 --data.num_train 600"
    assert main(["fit", "--config", "toy/vp_epsilon", *flags.split()]) == 0
    capsys.readouterr()
    assert "images are needed" in fails(capsys, "runs/toy/vp_epsilon")
    assert "--num_pairs 0" in fails(capsys, "runs/toy/vp_epsilon", "--num_pairs", "0")
    assert "did you mean 'num_pairs'" in fails(capsys, "runs/toy/vp_epsilon", "--num_pairz", "3")
    assert "nowhere does not exist" in fails(capsys, "nowhere")
    assert "name the run folder" in fails(capsys)
