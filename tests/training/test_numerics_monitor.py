"""Numerical problems are reported with step and remedy, and stop the run before they spoil the weights."""

import functools
import warnings

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision

from scorelight import (
    VESDE,
    ConfigurationError,
    EpsilonPrediction,
    Loss,
    ToyDataModule,
    TrainingDivergedError,
)
from scorelight.data import ArrayDataModule, Arrays
from scorelight.training.numerics_monitor import NumericsMonitor

SGD = functools.partial(torch.optim.SGD, lr=1.0)
STILL = functools.partial(torch.optim.SGD, lr=0.0)


class Turning(EpsilonPrediction):
    """Another loss from the given step on."""

    def __init__(self, step, factor=1.0, rough=False):
        super().__init__()
        self.left, self.factor, self.rough = step, factor, rough

    def forward(self, denoiser, x0, **kwargs):
        value, t = super().forward(denoiser, x0, **kwargs)
        self.left -= 1
        if self.left >= 0:
            return Loss(value, t)
        # sqrt(0 value) is 0, and so is one factor of its derivative; the other is infinite
        return Loss(self.factor * value + ((0 * value).sqrt() if self.rough else 0), t)


class Weights(Callback):
    """The weights before each step."""

    def __init__(self):
        self.seen, self.norms = [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.seen.append(torch.cat([p.detach().flatten() for p in module.denoiser.parameters()]))

    def on_train_batch_end(self, trainer, *_):
        norm = trainer.callback_metrics.get("train/gradient_norm")
        self.norms.append(None if norm is None else float(norm))


def train(make_trainer, module, data=None, max_steps=6, **changes):
    weights = Weights()
    quiet = {"limit_val_batches": 0} | changes
    trainer = make_trainer(max_steps=max_steps, callbacks=[weights, NumericsMonitor()], **quiet)
    trainer.fit(module, data or ToyDataModule(num_train=64, num_val=8, batch_size=16))
    return weights


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_the_norm_is_that_of_the_gradient_before_clipping(make_module, make_trainer):
    free = train(make_trainer, make_module(optimizer=SGD), max_steps=3)
    torch.manual_seed(0)
    steps = [(b - a).norm().item() for a, b in zip(free.seen, free.seen[1:], strict=False)]
    assert free.norms[:2] == pytest.approx(steps, rel=1e-4)
    clipped = train(make_trainer, make_module(optimizer=SGD), max_steps=3, gradient_clip_val=0.01)
    assert (clipped.seen[1] - clipped.seen[0]).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert clipped.norms[0] == pytest.approx(free.norms[0])


@pytest.mark.parametrize(
    ("type_", "scaler"), [("bf16-mixed", None), ("16-mixed", torch.amp.GradScaler("cpu", init_scale=1024.0))]
)
@pytest.mark.parametrize("fused", [False, True])
def test_norm_and_clipping_are_those_of_unscaled_gradients(make_module, make_trainer, fused, type_, scaler):
    full = train(make_trainer, make_module(optimizer=SGD), max_steps=2)
    torch.manual_seed(0)
    mixed = MixedPrecision(type_, "cpu", scaler)
    optimizer = functools.partial(SGD, fused=fused)
    found = train(
        make_trainer, make_module(optimizer=optimizer), max_steps=2, gradient_clip_val=0.01, plugins=[mixed]
    )
    assert found.norms[0] == pytest.approx(full.norms[0], rel=0.02)  # bfloat16 has 8 bits
    assert found.norms[0] > 0.02  # it was clipped
    assert (found.seen[1] - found.seen[0]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_steps_that_a_gradient_scaler_leaves_out_do_not_stop_the_run(make_module, make_trainer):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    mixed = MixedPrecision("16-mixed", "cpu", scaler)
    found = train(make_trainer, make_module(optimizer=SGD), max_steps=2, plugins=[mixed])
    assert torch.equal(found.seen[0], found.seen[1]) and scaler.get_scale() < 2.0**127
    assert found.norms == [None, None]


def test_the_norm_of_accumulated_gradients_is_that_of_their_mean(make_module, make_trainer):
    found = train(make_trainer, make_module(optimizer=SGD), max_steps=2, accumulate_grad_batches=2)
    step = (found.seen[2] - found.seen[0]).norm().item()
    assert found.norms[1] == pytest.approx(step, rel=1e-4)


def test_a_gradient_that_is_nan_stops_the_run_and_leaves_the_weights(make_module, make_trainer):
    module = make_module(objective=Turning(3, rough=True))
    with pytest.raises(TrainingDivergedError, match=r"the gradient is nan at step 3.*not taken.*Try a lower"):
        train(make_trainer, module)
    assert all(p.isfinite().all() for p in module.parameters())


def test_a_gradient_that_explodes_is_reported_once(make_module, make_trainer):
    module = make_module(objective=Turning(101, factor=1e5), optimizer=STILL)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        train(make_trainer, module, max_steps=104)
    warned = [str(w.message) for w in warned if "gradient's norm" in str(w.message)]
    assert len(warned) == 1 and "at step 101" in warned[0] and "1000 times the usual" in warned[0]


class Images(ArrayDataModule):
    shape = (1, 4, 4)

    def __init__(self, value):
        super().__init__(batch_size=4)
        self.value = value

    def arrays(self):
        x = torch.full((8, 1, 4, 4), self.value)
        return Arrays(x, {}), Arrays(x, {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(255.0, r"images run from 255 to 255.*x / 127.5"), (torch.nan, "NaN or infinite: nan")],
)
def test_images_out_of_range_are_refused_before_a_step(make_module, make_trainer, value, expected):
    from scorelight import UNet

    network = UNet((1, 4, 4), base_channels=8, multipliers=[1], num_blocks=1, attention_stages=[])
    module = make_module(network=network)
    before = [p.clone() for p in module.parameters()]
    with pytest.raises(ConfigurationError, match=expected):
        train(make_trainer, module, Images(value))
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize(("sigma_max", "warned"), [(0.5, 1), (50.0, 0)])
def test_noise_that_does_not_cover_the_data_is_told(make_module, make_trainer, sigma_max, warned):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(make_trainer, make_module(process=VESDE(sigma_max=sigma_max)))
    seen = [str(w.message) for w in seen if "model.process" in str(w.message)]
    assert len(seen) == warned and all("scorelight advise" in words for words in seen)


def test_the_factor_is_above_one():
    with pytest.raises(ConfigurationError, match="factor=1"):
        NumericsMonitor(factor=1)
