import copy
import functools
import subprocess
import sys

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from scorelight import (
    DDIM,
    EDM,
    MLP,
    VPSDE,
    ConfigurationError,
    DigitsDataModule,
    EpsilonPrediction,
    Heun,
    NetworkDenoiser,
    Objective,
    Prediction,
    Sampler,
    ScoreModule,
    SubVPSDE,
    ToyDataModule,
    TrainingDivergedError,
    UniformGrid,
)
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.training.checkpointing import RollingCheckpoint
from scorelight.training.trained import TrainedModule


def toy(**changes):
    return ToyDataModule(**(dict(num_train=60, num_val=13, batch_size=8, val_batch_size=5) | changes))


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


def fit(module, trainer, ckpt_path=None, **data):
    seed_everything(1, verbose=False)
    trainer.fit(module, toy(**data), ckpt_path=ckpt_path)
    return module


def test_a_resumed_run_is_bit_identical(make_module, make_trainer, tmp_path):
    schedule = functools.partial(torch.optim.lr_scheduler.LinearLR, total_iters=9)
    network = MLP((2,), width=16, depth=1)

    def make():
        return make_module(network=copy.deepcopy(network), lr_scheduler=schedule, seed=1)

    whole = make_trainer(max_steps=18, val_check_interval=3, check_val_every_n_epoch=None)
    module = fit(make(), whole)
    part = make_trainer(max_steps=10)  # in the middle of the second pass of 7 batches
    fit(make(), part)
    part.save_checkpoint(tmp_path / "part.ckpt", weights_only=False)
    rest = make_trainer(max_steps=18)
    resumed = fit(make(), rest, tmp_path / "part.ckpt")

    assert rest.global_step == whole.global_step == 18
    assert same(module.state_dict(), resumed.state_dict())
    for a, b in zip(whole.optimizers[0].state.values(), rest.optimizers[0].state.values(), strict=True):
        assert same(a, b)


def test_a_changed_learning_rate_wins_over_the_checkpoint_and_keeps_the_moments(
    make_module, make_trainer, tmp_path
):
    trainer = make_trainer(max_steps=4)
    fit(make_module(), trainer)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    schedule = functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    adam = functools.partial(torch.optim.Adam, lr=3e-3, betas=(0.8, 0.9))
    moments = {}

    class Spy(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            if not moments:
                group = trainer.optimizers[0].param_groups[0]
                state = next(iter(trainer.optimizers[0].state.values()))
                moments.update(lr=group["lr"], betas=group["betas"], step=int(state["step"]))

    resumed = make_trainer(max_steps=6, callbacks=[Spy()])
    fit(make_module(optimizer=adam, lr_scheduler=schedule), resumed, tmp_path / "a.ckpt")
    assert moments == {"lr": pytest.approx(3e-3 * 0.5**4), "betas": (0.8, 0.9), "step": 4}
    assert resumed.optimizers[0].param_groups[0]["lr"] == pytest.approx(3e-3 * 0.5**6)


def test_another_optimizer_cannot_take_over_the_state(make_module, make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    fit(make_module(), trainer)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    with pytest.raises(ConfigurationError, match=r"SGD.*Adam"):
        sgd = functools.partial(torch.optim.SGD, lr=1.0)
        fit(make_module(optimizer=sgd), make_trainer(max_steps=2), tmp_path / "a.ckpt")


@pytest.mark.slow
def test_a_checkpoint_from_python_rebuilds_the_model_in_a_fresh_process(make_module, make_trainer, tmp_path):
    module = make_module(
        process=SubVPSDE(beta_max=9.0), parameterization=EDM(0.7), sampler=Heun(7, UniformGrid()), seed=4
    )
    trainer = make_trainer(max_steps=3)
    fit(module, trainer)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    script = f"""
import torch
from scorelight import ScoreModule
torch.load({str(tmp_path / "a.ckpt")!r}, weights_only=True)
m = ScoreModule.load_from_checkpoint({str(tmp_path / "a.ckpt")!r})
print(m.denoiser.process.beta_max, m.denoiser.parameterization.sigma_data, m.sampler.num_steps,
      type(m.sampler.grid).__name__, m.seed, m.ema.num_updates, *next(m.sample(5, [3])).flatten().tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *found, x, y = done.stdout.split()
    assert found == ["9.0", "0.7", "7", "UniformGrid", "4", "3"]
    torch.testing.assert_close(torch.tensor([[float(x), float(y)]]), next(module.sample(5, [3])))


def test_settings_of_a_checkpoint_can_be_replaced_on_loading(make_module, make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    fit(make_module(), trainer)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    loaded = ScoreModule.load_from_checkpoint(tmp_path / "a.ckpt", ema_decay=0.25, sampler=Heun(3))
    assert loaded.ema.decay == 0.25 and type(loaded.sampler) is Heun


def test_what_cannot_be_stored_is_refused_at_once(make_module):
    with pytest.raises(TypeError, match=r"functools\.partial"):
        make_module(optimizer=lambda parameters: torch.optim.Adam(parameters))


def test_raw_and_averaged_weights_lie_side_by_side(make_module, make_trainer, tmp_path):
    module, trainer = make_module(ema_decay=0.9), make_trainer(max_steps=5)
    fit(module, trainer)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    raw, averaged = stored["denoiser.network.last.weight"], stored["ema.denoiser.network.last.weight"]
    assert torch.equal(raw, module.denoiser.network.last.weight)
    assert torch.equal(averaged, module.ema.denoiser.network.last.weight)
    assert not torch.equal(raw, averaged)


def test_an_exception_during_validation_leaves_raw_and_average_in_their_places(
    make_module, make_trainer, tmp_path
):
    class Crash(Callback):
        def on_validation_batch_end(self, trainer, module, *_):
            self.raw = module.denoiser.network.last.weight.clone()
            raise RuntimeError("crash")

        def on_exception(self, trainer, module, exception):
            trainer.save_checkpoint(tmp_path / "crash.ckpt", weights_only=False)

    crash, module = Crash(), make_module(ema_decay=0.9)
    trainer = make_trainer(max_steps=9, val_check_interval=4, check_val_every_n_epoch=None, callbacks=[crash])
    with pytest.raises(RuntimeError, match="crash"):
        fit(module, trainer)
    stored = torch.load(tmp_path / "crash.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(stored["denoiser.network.last.weight"], crash.raw)
    assert not torch.equal(stored["ema.denoiser.network.last.weight"], crash.raw)


def test_the_average_is_that_of_every_optimizer_step_with_accumulation_too(make_module, make_trainer):
    history = []

    class Record(Callback):
        def on_before_zero_grad(self, trainer, module, optimizer):
            history.append(module.denoiser.network.last.weight.detach().clone())

    module = make_module(ema_decay=0.9)
    initial = module.denoiser.network.last.weight.detach().clone()
    fit(module, make_trainer(max_steps=5, accumulate_grad_batches=2, callbacks=[Record()]))
    expected = initial
    for n, weight in enumerate([*history[1:], module.denoiser.network.last.weight.detach()]):
        expected = expected.lerp(weight, 1 - min(0.9, (1 + n) / (10 + n)))
    assert module.ema.num_updates == 5
    torch.testing.assert_close(module.ema.denoiser.network.last.weight, expected)


def test_micro_batches_steps_and_seeds_have_noise_of_their_own(make_module, make_trainer):
    def times_of(seed):
        seen = []

        class Spy(Callback):
            def on_train_batch_start(self, *_):
                seen.append(torch.rand(()).item())

            def on_train_batch_end(self, *_):
                seen.append(torch.rand(()).item())

        fit(make_module(seed=seed), make_trainer(max_steps=4, accumulate_grad_batches=2, callbacks=[Spy()]))
        return seen[1::2]

    first, again, other = times_of(0), times_of(0), times_of(1)
    assert first == again
    assert len(set(first) | set(other)) == len(first) + len(other) == 16


def test_validation_loss_is_that_of_the_average_over_every_example_once(make_module, make_trainer):
    module = make_module(ema_decay=0.9)
    trainer = make_trainer(max_steps=6)
    fit(module, trainer)
    losses = [
        trainer.validate(module, toy(val_batch_size=b), verbose=False)[0]["val/loss"] for b in (1, 5, 13)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    with torch.no_grad():
        module.ema.denoiser.network.last.weight += 1.0
    assert trainer.validate(module, toy(), verbose=False)[0]["val/loss"] > losses[0] + 0.1


class Seen(EpsilonPrediction):
    """Keeps the clean data it was given."""

    def __init__(self):
        super().__init__()
        self.x0 = []

    def forward(self, denoiser, x0, **rest):
        self.x0.append(x0)
        return super().forward(denoiser, x0, **rest)


def test_dequantised_data_are_spread_uniformly_over_their_grey_levels(make_module, make_trainer):
    def seen(dequantize):
        objective = Seen()
        module = make_module(
            network=MLP((1, 8, 8), width=8, depth=1), objective=objective, dequantize=dequantize
        )
        seed_everything(1, verbose=False)
        make_trainer(max_steps=30).fit(module, data := DigitsDataModule())
        return torch.cat(objective.x0), data.num_bins, objective, module

    levels, num, *_ = seen(False)
    spread, _, objective, module = seen(True)
    u = (spread - levels) * (num - 1) / 2  # in units of the distance of two levels
    assert u.abs().max() <= 0.5 + 1e-5
    # 64 x 30 x 64 numbers: standard errors of mean and variance, times four
    assert u.mean().abs() < 4 * (1 / 12 / u.numel()) ** 0.5
    assert (u.var() - 1 / 12).abs() < 4 * (1 / 180 / u.numel()) ** 0.5
    noise = [batch.frac().sum().item() for batch in objective.x0 if len(batch) == 64]
    assert len(set(noise)) == len(noise) == 30  # other noise each step

    objective.x0.clear()
    trainer = make_trainer()
    for size in (100, 360):
        trainer.validate(module, DigitsDataModule(val_batch_size=size), verbose=False)
    several, (once,) = objective.x0[:-1], objective.x0[-1:]
    assert torch.equal(torch.cat(several), once)  # example i's noise is its own


def test_what_has_no_grey_levels_is_not_dequantised(make_module, make_trainer):
    with pytest.raises(ConfigurationError, match="dequantize=true: ToyDataModule does not state"):
        fit(make_module(dequantize=True), make_trainer(max_steps=1))


class NaNAfter(NetworkDenoiser):
    """Breaks for large t once it has been called often enough."""

    calls = 0

    def predict(self, x_t, level, **cond):
        pred = super().predict(x_t, level, **cond)
        NaNAfter.calls += 1
        broken = torch.where(level.time > 0.5, torch.nan, 1.0) if NaNAfter.calls > 3 else 1.0
        return Prediction(x_t, level, pred.output * broken, self.parameterization)


@pytest.mark.parametrize("saved", [False, True])
def test_a_loss_that_is_not_finite_stops_with_step_times_and_unspoilt_weights(
    make_module, make_trainer, tmp_path, saved
):
    module = make_module()
    module.denoiser = NaNAfter(
        module.denoiser.network, module.denoiser.process, module.denoiser.parameterization
    )
    NaNAfter.calls = 0
    callbacks = [RollingCheckpoint(every_n_steps=2)] if saved else []
    with pytest.raises(TrainingDivergedError) as stopped:
        fit(module, make_trainer(max_steps=9, enable_checkpointing=saved, callbacks=callbacks))
    message = str(stopped.value)
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert "nan at step 3" in message and f"Last good checkpoint: {path if saved else 'none yet'}." in message
    if saved:
        assert torch.load(path, weights_only=True)["global_step"] == 2
    low, high = (float(message.split(word)[1].split()[0].rstrip(";")) for word in ("t from ", " to "))
    assert 0.5 < low <= high <= 1
    assert all(p.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_sample_i_is_a_function_of_seed_and_i(make_module, batch_size):
    module = make_module(sampler=DDIM(6, eta=1.0)).eval()
    torch.nn.init.normal_(module.ema.denoiser.network.last.weight, std=0.1)
    indices = range(7)

    def draw(some, seed=4):
        *_, x = module.sample(seed, some)
        return x

    whole = draw(indices)
    torch.manual_seed(batch_size)
    pieces = torch.cat([draw(indices[i : i + batch_size]) for i in range(0, 7, batch_size)])
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(draw(indices, seed=5), whole, atol=0.1)


def test_ordinary_loaders_of_pairs_will_do(make_module, make_trainer):
    pairs = DataLoader(TensorDataset(torch.randn(12, 2), torch.arange(12) % 3), batch_size=4)
    module = make_module(network=MLP((2,), width=16, depth=1, num_classes=3))
    trainer = make_trainer(max_steps=4, log_every_n_steps=1)
    trainer.fit(module, pairs, pairs)
    assert trainer.global_step == 4 and "val/loss" in trainer.callback_metrics


class LossIsTime(Objective):
    """A loss whose value is its time."""

    def loss(self, denoiser, noisy, *, generator=None, **cond):
        return noisy.t.float() + 0 * denoiser(noisy.x0, noisy.t).x0.mean()


def test_the_loss_is_logged_for_each_quartile_of_t(make_module, make_trainer):
    trainer = make_trainer(max_steps=1, log_every_n_steps=1)
    fit(make_module(objective=LossIsTime(), process=VPSDE(t_min=0.2, t_max=0.6)), trainer, batch_size=60)
    for q in range(4):
        assert 0.2 + 0.1 * q < trainer.callback_metrics[f"train/loss_t_quartile_{q + 1}"] < 0.3 + 0.1 * q
    assert trainer.callback_metrics["train/learning_rate"] == pytest.approx(1e-2)


def test_a_sampler_of_ones_own_can_be_used(make_module):
    class Straight(Sampler):
        def trajectory(self, predict, x, levels, noise):
            yield predict(x, levels[0]).x0

    *_, x = make_module(sampler=Straight(2, denoise=False)).sample(0, range(3))
    assert x.shape == (3, 2)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_of_16_bits_are_not_trained(make_module, make_trainer, precision):
    with pytest.raises(ConfigurationError, match=rf"trainer.precision={precision}: .*use bf16-mixed"):
        make_trainer(max_steps=1, precision=precision).fit(
            make_module(), ToyDataModule(num_train=8, num_val=8)
        )


@pytest.mark.slow
def test_a_compiled_network_trains_alike_and_its_checkpoint_is_like_any_other(
    make_module, make_trainer, monkeypatch, tmp_path
):
    compiled = []

    def compile_without_a_compiler(network, **kwargs):
        compiled.append(network)
        network._compiled_call_impl = torch.compile(network._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_without_a_compiler)
    weights = []
    for compile_network in (False, True):
        torch.manual_seed(0)
        module = make_module(compile_network=compile_network)
        trainer = make_trainer(max_steps=3, limit_val_batches=0)
        trainer.fit(module, ToyDataModule(num_train=64, num_val=8, batch_size=16))
        weights.append(module.state_dict())
    assert compiled == [module.denoiser.network, module.ema.denoiser.network]
    torch.testing.assert_close(*weights)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert ScoreModule.load_from_checkpoint(tmp_path / "a.ckpt").compile_network


def test_a_checkpoint_with_more_weights_is_loaded_if_they_need_not_fit(make_module, make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.fit(make_module(), ToyDataModule(num_train=60))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = read_checkpoint(tmp_path / "a.ckpt")
    content["state_dict"]["more"] = torch.zeros(2)
    write_checkpoint(content, tmp_path / "a.ckpt")
    with pytest.raises(RuntimeError, match="more"):
        ScoreModule.load_from_checkpoint(tmp_path / "a.ckpt")
    ScoreModule.load_from_checkpoint(tmp_path / "a.ckpt", strict=False)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_as_lightning_clips_them(make_module, make_trainer, monkeypatch, algorithm):
    def weights(**options):
        seed_everything(0, verbose=False)
        module = make_module()
        fit(module, make_trainer(max_steps=3, **options))
        return list(module.denoiser.parameters())

    clip = dict(gradient_clip_val=0.01, gradient_clip_algorithm=algorithm)
    mine, unclipped = weights(**clip), weights()
    monkeypatch.delattr(TrainedModule, "configure_gradient_clipping")
    for a, b, c in zip(mine, weights(**clip), unclipped, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
