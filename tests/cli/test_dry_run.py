"""`fit --dry_run` counts, refuses what `fit` refuses, and leaves nothing behind."""

import re

import pytest
import torch
import yaml
from support.commands import refusal

from scorelight.cli import main
from scorelight.cli.configs import config_dir, shipped_configs

CONFIGS = sorted(
    name
    for name, p in shipped_configs().items()
    if not p.read_text().partition("\n")[2].startswith("module: ")  # only generative models have a cost
)
PUBLISHED = {
    "cifar10/ddpm": "35,746,307",
    "cifar10/ddpmpp_vp": "61,804,419",
    "cifar10/ncsnpp_ve": "62,758,787",
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _not_timed(monkeypatch):
    """The step of a large network takes seconds."""
    monkeypatch.setattr("scorelight.cli.dry_run._CHEAP", {"cpu": 0})


def dry_run(capsys, *args):
    """The lines of the report as {name: value}; nothing is written."""
    assert main(["fit", *args, "--dry_run"]) == 0
    text = capsys.readouterr().out
    return dict(re.findall(r"^  (\S.*?)  +(\S.*)$", text, flags=re.M)) | {"text": text}


@pytest.mark.usefixtures("_not_timed")
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.one_in(15)
def test_every_shipped_configuration_is_counted_and_nothing_is_written(name, capsys, tmp_path):
    """Those of MNIST and CIFAR-10 without their data."""
    rows = dry_run(capsys, "--config", name)
    config = yaml.safe_load((config_dir() / f"{name}.yaml").read_text())
    steps = config["trainer"].get("max_steps")  # or a limit in time
    assert rows["steps"] == ("not known" if steps is None else f"{steps:,}")
    assert f"of all processes {config['data']['init_args']['batch_size']:,}" in rows["examples"]
    assert PUBLISHED.get(name, "") in rows["parameters"]
    assert [*tmp_path.iterdir()] == []


@pytest.mark.usefixtures("_not_timed")
def test_more_processes_share_a_step_and_send_the_gradient(capsys):
    args = ["--config", "toy/ddpm_bound", "--trainer.accelerator", "cpu"]
    one = dry_run(capsys, *args)
    many = dry_run(capsys, *args, "--trainer.devices", "8", "--trainer.num_nodes", "128")
    assert "Step of each of 1,024 processes" in many["text"]
    assert (one["gradient sent"], one["further collectives"]) == ("nothing", "0")
    assert many["gradient sent"] == "1.46 MB in about 1 collective"  # 2 · 1023/1024 · 182,274 · 4 B
    assert many["further collectives"] == "2"  # whether to stop, and the losses
    assert one["computed"] == many["computed"] == "269 MFLOP"  # 256 examples of 1,051,136


def test_the_time_is_that_of_the_measured_speed(capsys):
    rows = dry_run(
        capsys, "--config", "toy/vp_epsilon", "--trainer.devices", "2", "--trainer.accelerator", "cpu"
    )
    speed = re.search(r"Time at ([\d.,]+) GFLOP/s, measured here \(cpu, 256 examples\)", rows["text"])
    assert float(speed[1].replace(",", "")) >= 0
    assert rows["computing of a step"].endswith("s")
    assert "assumed: 10 GB/s" in rows["sending the gradient, while it computes"]


def number(text):
    value, prefix = re.match(r"([\d.]+) (M|k)?B", text).groups()
    return float(value) * {"M": 1e6, "k": 1e3, None: 1}[prefix]


@pytest.mark.usefixtures("_not_timed")
@pytest.mark.parametrize(
    "name", ["toy/vp_epsilon", pytest.param("digits/vp_epsilon_conditional", marks=pytest.mark.slow)]
)
def test_the_checkpoint_is_as_large_as_the_file_of_a_run(name, capsys, tmp_path):
    args = ["--config", name, "--trainer.max_steps", "1", "--samples.num_samples", "1"]
    rows = dry_run(capsys, *args)
    assert main(["fit", *args]) == 0
    (path,) = tmp_path.rglob("last.ckpt")
    counted, tensors = (
        number(rows["a checkpoint"]),
        int(re.search(r"in ([\d,]+)", rows["a checkpoint"])[1].replace(",", "")),
    )
    stored = torch.load(path, weights_only=True)
    moments = [v for s in stored["optimizer_states"][0]["state"].values() for v in s.values()]
    weights = [v for v in stored["state_dict"].values() if torch.is_tensor(v)]
    exact = sum(v.nbytes for v in weights + moments)
    assert counted == pytest.approx(exact, rel=5e-3)
    assert tensors == len(weights) + len(moments)
    assert exact < path.stat().st_size < exact + 500 * tensors + 100_000


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.process", "VPSDEE"], ["model.process", "'VPSDEE'"]),
        (["--trainer.precision", "bf16-true"], ["trainer.precision=bf16-true", "bf16-mixed"]),
        (["--model.optimizer.lr", "-1"], ["model.optimizer", "lr"]),
        (["--trainer.accumulate_grad_batches", "0"], ["accumulate_grad_batches=0"]),
        (["--model.dequantize", "true"], ["model.dequantize=true", "num_bins"]),
    ],
)
def test_what_fit_refuses_is_refused(args, words, capsys, tmp_path):
    stderr = refusal(capsys, "fit", "--config", "toy/vp_epsilon", *args, "--dry_run")
    assert all(word in stderr for word in words)
    assert [*tmp_path.iterdir()] == []


def test_a_validation_has_no_dry_run(capsys):
    assert "--dry_run" in refusal(capsys, "validate", "--config", "toy/vp_epsilon", "--dry_run")


def test_it_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "--dry_run" in capsys.readouterr().out
