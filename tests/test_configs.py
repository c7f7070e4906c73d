import struct

import numpy as np
import pytest
import torch
import yaml

import scorelight
from scorelight import CIFAR10DataModule
from scorelight.cli import main
from scorelight.cli.configs import config_dir

CONFIGS = sorted(str(p.relative_to(config_dir()).with_suffix("")) for p in config_dir().rglob("*.yaml"))


THIN = ["--model.network.base_channels=8", "--model.network.num_blocks=1", "--data.batch_size=4"]
SMALL = {"mnist": [*THIN, "--model.sampler.num_steps=2"], "cifar10": THIN}


@pytest.fixture
def in_a_folder_with_data(tmp_path, monkeypatch):
    """Data sets of noise below ``data``, MNIST as large as it is and CIFAR-10 small."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/MNIST/raw").mkdir(parents=True)
    for name, num in (("train", 60_000), ("t10k", 10_000)):
        for kind, sizes in (("images-idx3", (num, 28, 28)), ("labels-idx1", (num,))):
            header = struct.pack(f">{1 + len(sizes)}i", 0x0800 + len(sizes), *sizes)
            with (tmp_path / f"data/MNIST/raw/{name}-{kind}-ubyte").open("wb") as file:
                file.write(header)
                file.truncate(len(header) + np.prod(sizes))
    monkeypatch.setattr(CIFAR10DataModule, "_sizes", (8, 8))
    for name in ("train", "test"):
        images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / f"data/cifar10_{name}.npz", images=images, labels=np.arange(8))


@pytest.mark.usefixtures("in_a_folder_with_data")
@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_configuration_trains(name):
    small = SMALL.get(name.split("/")[0], [])
    assert main(["fit", "--config", name, "--trainer.fast_dev_run", "true", *small]) == 0


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ddpm", 35_746_307),
        ("ddpmpp_vp", 61_804_419),
        ("ddpmpp_subvp", 61_804_419),
        ("ncsnpp_ve", 62_758_787),
    ],
)
def test_the_networks_of_cifar10_have_the_published_size(name, parameters):
    network = yaml.safe_load((config_dir() / f"cifar10/{name}.yaml").read_text())["model"]["network"]
    with torch.device("meta"):
        net = getattr(scorelight, network["class_path"])((3, 32, 32), **network["init_args"])
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_logs_to_a_folder_of_its_own_name(name):
    config = yaml.safe_load((config_dir() / f"{name}.yaml").read_text())
    assert config["trainer"]["default_root_dir"] == f"runs/{name}"


@pytest.mark.parametrize("data", ["toy", "digits"])
@pytest.mark.parametrize("process", ["ve", "vp", "subvp"])
@pytest.mark.parametrize("parameterization", ["epsilon", "score"])
def test_the_table_of_processes_and_parameterizations_is_complete(data, process, parameterization):
    assert f"{data}/{process}_{parameterization}" in CONFIGS


def test_the_class_conditional_configuration_learns_its_label_embedding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [
        "--trainer.max_steps",
        "2",
        "--trainer.val_check_interval",
        "2",
        "--model.network.base_channels",
        "8",
    ]
    assert (
        main(["fit", "--config", "digits/vp_epsilon_conditional", *flags, "--samples.num_samples", "10"]) == 0
    )
    path = "runs/digits/vp_epsilon_conditional/version_0/checkpoints/last.ckpt"
    moments = torch.load(path, weights_only=True)["optimizer_states"][0]["state"].values()
    assert any(m["exp_avg"].shape == (11, 32) for m in moments)
