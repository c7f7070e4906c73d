"""What the README shows is run."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from scorelight.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.S)
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.S)).replace("\\\n", "")
COMMANDS = re.findall(r"^scorelight (.*)$", SHELL, flags=re.M)
# Flags that come later win: as little of each command as shows that it works, in one process, not compiled
LESS = {
    "fit": "--trainer.fast_dev_run 2 --trainer.devices 1 --trainer.num_nodes 1 --model.compile_network false "
    "--model.network.base_channels 8 --samples.num_samples 1 --data.val_batch_size 4",
    "sample": "--num_samples 2 --sampler.num_steps 2 --devices 1 --num_nodes 1",
    "sweep": "--num_samples 2 --values 2 3",
    "evaluate": "--num_samples 1000 --sampler DDIM --sampler.num_steps 2 --num_images 2 --devices 1",
    "statistics": "--features PixelFeatures",
    "configs": "",
}


def snippet(word):
    (found,) = [s for s in PYTHON if word in s]
    return found


@pytest.mark.slow
def test_a_process_of_ones_own_in_twelve_lines_trains_samples_and_loads(tmp_path):
    """The README's class, in a module in the working folder, named by its import path."""
    code = snippet("class ")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    (tmp_path / "my_process.py").write_text(code)
    name = re.search(r"class (\w+)", code)[1]
    commands = [
        f"fit --config toy/vp_epsilon --model.process my_process.{name} --trainer.max_steps 5 "
        "--trainer.val_check_interval 5 --samples.num_samples 9",
        "sample runs/toy/vp_epsilon --num_samples 9 --out samples --trust my_process",
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "scorelight", *command.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "samples" / "samples.png").exists()
    checkpoint = torch.load(
        tmp_path / "runs/toy/vp_epsilon/version_0/checkpoints/last.ckpt", weights_only=True
    )
    assert checkpoint["hyper_parameters"]["process"]["class_path"] == f"my_process.{name}"


def test_the_process_of_the_readme_is_a_right_one():
    """Its drift and diffusion by equation (2), against finite differences of its own α and σ."""
    space = {}
    exec(snippet("class "), space)
    (cls,) = [v for k, v in space.items() if isinstance(v, type) and k not in ("Tensor", "ForwardProcess")]
    process, t, h = cls(), torch.linspace(0.1, 0.9, 9, dtype=torch.float64), 1e-6
    level = process.at(t)
    f = (process.alpha(t + h).log() - process.alpha(t - h).log()) / (2 * h)
    variance = (process.sigma(t + h) ** 2 - process.sigma(t - h) ** 2) / (2 * h)
    torch.testing.assert_close(level.f, f, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(level.g2, variance - 2 * f * level.sigma**2, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("code", [s for s in PYTHON if "class " not in s])
def test_python_snippets_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(code, {})


def test_commands_name_configurations_that_exist():
    from scorelight.cli.configs import find_config

    named = re.findall(r"--config (\S+)", README)
    assert named
    for name in named:
        if name.isupper() or "/config.yaml" in name:
            continue
        find_config(name)


@pytest.fixture(scope="module")
def trained(train):
    """A folder with a run of two steps on digits."""
    flags = "--trainer.max_steps 2 --trainer.val_check_interval 2 --model.network.base_channels 8"
    return train("--config", "digits/vp_epsilon", *flags.split())


@pytest.fixture
def after_training(trained, in_a_folder_with_data):
    """What the commands expect to be there: a run, called RUN too, and a zip of photos."""
    shutil.copytree(trained / "runs", "runs")
    Path("RUN").symlink_to("runs/digits/vp_epsilon")
    with zipfile.ZipFile("my_photos.zip", "w") as archive:
        for i in range(9):
            save_image(torch.rand(3, 32, 32), "photo.png")
            archive.write("photo.png", f"{i}.png")


@pytest.mark.one_in(5)
@pytest.mark.usefixtures("after_training")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works(command):
    args = shlex.split(command.replace("--compile true", "--compile false"), comments=True)
    assert main([*args, *LESS[args[0]].split()]) == 0
