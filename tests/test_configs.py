import pytest
import torch
import yaml

from scorelight.cli import main
from scorelight.cli.configs import config_dir

CONFIGS = sorted(str(p.relative_to(config_dir()).with_suffix("")) for p in config_dir().rglob("*.yaml"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_configuration_trains(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", name, "--trainer.fast_dev_run", "true"]) == 0


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
