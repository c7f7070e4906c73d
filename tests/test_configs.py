import pytest
import torch
import yaml

import scorelight
from scorelight.cli import main
from scorelight.cli.configs import config_dir, shipped_configs
from scorelight.evaluation import FIDCallback
from scorelight.storage.specs import build
from scorelight.training.configured import described_settings
from scorelight.training.trained import TrainedModule

CONFIGS = sorted(shipped_configs())


THIN = ["--model.network.base_channels=8", "--model.network.num_blocks=1", "--data.batch_size=4"]


def small(name):
    """Flags that make a configuration quick."""
    if name.split("/")[0] not in ("mnist", "cifar10"):
        return []
    config = yaml.safe_load((config_dir() / f"{name}.yaml").read_text())
    few_steps = ["--model.sampler.num_steps=2"] if "sampler" in config["model"] else []
    clusters = ["--data.num_clusters=4"] if "num_clusters" in config["data"].get("init_args", {}) else []
    return [*THIN, *few_steps, *clusters, "--data.val_batch_size=4"]


@pytest.fixture
def _few_samples(monkeypatch):
    """`FIDCallback` draws four samples, however many a configuration asks for."""
    setup = FIDCallback.setup

    def with_few(self, *args, **kwargs):
        self.num_samples = 4
        setup(self, *args, **kwargs)

    monkeypatch.setattr(FIDCallback, "setup", with_few)


@pytest.mark.usefixtures("in_a_folder_with_data", "_few_samples")
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.one_in(15)
def test_every_shipped_configuration_trains_and_is_built_again_from_its_checkpoint(name, monkeypatch):
    modules, setup = [], TrainedModule.setup
    monkeypatch.setattr(
        TrainedModule, "setup", lambda self, stage: modules.append(self) or setup(self, stage)
    )
    assert main(["fit", "--config", name, "--trainer.fast_dev_run", "true", *small(name)]) == 0
    stored, owner = dict(modules[0].hparams), type(modules[0])
    described = described_settings(owner, {"hyper_parameters": stored, "state_dict": {}}, "a.ckpt")
    again = owner(**{key: build(value) for key, value in described.items()})
    assert dict(again.hparams) == stored


@pytest.mark.usefixtures("in_a_folder_with_data")
@pytest.mark.parametrize("name", [name for name in CONFIGS if "cifar10/" in name and "quick" not in name])
@pytest.mark.one_in(8)
def test_the_configurations_of_paper_size_train_in_bfloat16_and_parts_of_batches(name):
    flags = [
        "--trainer.precision=bf16-mixed",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.fast_dev_run=2",
    ]
    assert main(["fit", "--config", name, *flags, *THIN]) == 0


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


@pytest.mark.one_in(5)
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
