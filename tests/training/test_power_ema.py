"""PowerEMA: its averages, its snapshots, kills, and any other average from them."""

import pytest
import torch
from lightning.pytorch import Callback

from scorelight import ConfigurationError, PowerEMA
from scorelight.cli import main
from scorelight.data import ToyDataModule
from scorelight.numerics.power_average import decay
from scorelight.storage.checkpoint import read_checkpoint
from scorelight.training.power_ema import reconstruct, snapshots

RUN = "runs/version_0"
FIT = "fit --config toy/vp_epsilon --trainer.default_root_dir runs --data.num_train 64 --data.num_val 8"
FIT += " --data.batch_size 16 --model.network.width 8 --samples.num_samples 2 --trainer.max_steps 40"
FIT += " --trainer.val_check_interval 40 --trainer.enable_progress_bar false --checkpoint.every_n_steps 10"
FIT = [*FIT.split(), "--trainer.callbacks+=PowerEMA", "--trainer.callbacks.every_n_steps=2"]


class Track(Callback):
    """The average by its recursion, in float64, of all weights at all steps."""

    def __init__(self, sigma_rel):
        self.sigma_rel, self.mean = sigma_rel, None

    def on_train_batch_end(self, trainer, module, *_):
        d = decay(self.sigma_rel, trainer.global_step)
        weights = [p.detach().double().clone() for p in module.denoiser.parameters()]
        self.mean = (
            weights
            if self.mean is None
            else [d * m + (1 - d) * w for m, w in zip(self.mean, weights, strict=True)]
        )


@pytest.mark.parametrize("sigma_rel", [0.05, 0.07, 0.1, 0.15, 0.2, 0.25])
def test_any_average_is_that_which_is_tracked(make_module, make_trainer, tmp_path, sigma_rel):
    """Relative error below 10⁻³, from at most 17 snapshots of a training of 600 steps."""
    track = Track(sigma_rel)
    data = ToyDataModule(num_train=256, num_val=8, batch_size=32)
    trainer = make_trainer(max_steps=600, callbacks=[PowerEMA(every_n_steps=10), track], limit_val_batches=0)
    trainer.fit(make_module(), data)
    assert 8 <= len(snapshots(tmp_path)) <= 17
    found = torch.cat([w.flatten() for w in reconstruct(tmp_path, sigma_rel).values()]).double()
    expected = torch.cat([w.flatten() for w in track.mean])
    assert (found - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize(
    ("steps", "kept"), [(8, [2, 4, 6, 8]), (9, [4, 8, 9]), (16, [4, 8, 12, 16]), (17, [8, 16, 17])]
)
def test_snapshots_are_equally_spaced_and_few(make_module, make_trainer, tmp_path, steps, kept):
    power = PowerEMA(every_n_steps=2, max_snapshots=4)
    data = ToyDataModule(num_train=64, num_val=8, batch_size=32)
    make_trainer(max_steps=steps, callbacks=[power], limit_val_batches=0).fit(make_module(), data)
    assert list(snapshots(tmp_path)) == kept


def all_of(folder):
    return {step: read_checkpoint(path) for step, path in snapshots(folder).items()}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


class Killed(BaseException):
    pass


@pytest.mark.parametrize("steps", [(7,), (25,), (10, 33)])
def test_a_killed_run_has_the_snapshots_of_one_that_was_not(tmp_path, monkeypatch, steps):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    assert main(FIT) == 0
    monkeypatch.chdir(tmp_path / "killed")
    original = PowerEMA.on_train_batch_end
    for step in steps:

        def die(self, trainer, *args, step=step):
            original(self, trainer, *args)
            if trainer.global_step == step:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(PowerEMA, "on_train_batch_end", die)
            with pytest.raises(Killed):
                main(FIT)
    assert main(FIT) == 0
    whole, killed = (all_of(tmp_path / name / RUN) for name in ("whole", "killed"))
    assert len(whole) > 8 and same(whole, killed)


def test_the_command_writes_a_checkpoint_to_sample_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(FIT) == 0
    assert main(["ema", RUN, "--sigma_rel", "0.1"]) == 0
    path = f"{RUN}/checkpoints/ema-0.1.ckpt"
    assert path in capsys.readouterr().out
    found = read_checkpoint(tmp_path / path)["state_dict"]
    for name, value in reconstruct(tmp_path / RUN, 0.1).items():
        assert torch.equal(found[f"ema.denoiser.{name}"], value)
    assert main(["sample", path, "--num_samples", "8"]) == 0
    assert main(["ema", RUN, "--sigma_rel", "0.3"]) == 2
    assert "--sigma_rel: sigma_rel=0.3: between 0 and 0.289" in capsys.readouterr().err


def test_a_run_without_snapshots_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(FIT[:-2]) == 0
    assert main(["ema", RUN, "--sigma_rel", "0.1"]) == 2
    assert "has no snapshots of averages; train with --trainer.callbacks+ PowerEMA" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [{"sigma_rels": (0.4,)}, {"every_n_steps": 0}, {"max_snapshots": 3}, {"max_snapshots": 0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match="PowerEMA: "):
        PowerEMA(**options)
