"""Evaluation while training: what is logged, when, and of which weights."""

import csv

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from scorelight import (
    ConfigurationError,
    DigitsDataModule,
    DiscreteGrid,
    Euler,
    SMLDProcess,
    ToyDataModule,
)
from scorelight.cli import main
from scorelight.evaluation.callbacks import FIDCallback, NLLCallback
from scorelight.evaluation.context import DistributedContext
from scorelight.evaluation.feature_rows import FeatureRows
from scorelight.evaluation.quality import feature_set
from scorelight.evaluation.reference import reference_set
from scorelight.evaluation.samples import quantize
from scorelight.metrics import DigitsFeatures, FrechetDistance, KernelDistance, MNISTFeatures, PixelFeatures
from scorelight.metrics.base import numbers_of
from scorelight.metrics.likelihood import NegativeLogLikelihood
from scorelight.rng import PhiloxGenerator, Stream


class Spy(Callback):
    """What is logged after each validation."""

    def __init__(self):
        self.seen = []

    def on_validation_end(self, trainer, module):
        self.seen.append({k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


def test_samples_of_the_averaged_weights_are_evaluated_and_the_best_checkpoint_can_go_by_it(
    digits, make_trainer, tmp_path
):
    fid = FIDCallback(num_samples=30, metrics=[FrechetDistance(), KernelDistance(3, 20)], batch_size=7)
    best = ModelCheckpoint(tmp_path, monitor="val/frechet_distance", save_on_train_epoch_end=False)
    spy = Spy()
    trainer = make_trainer(
        max_steps=4, val_check_interval=2, callbacks=[fid, spy, best], enable_checkpointing=True
    )
    trainer.fit(digits, DigitsDataModule(batch_size=16))
    assert [set(s) - {"val/loss"} for s in spy.seen] == 2 * [
        {"val/frechet_distance", "val/kernel_distance", "val/kernel_distance_std"}
    ]
    *_, x = digits.sample(0, range(30))
    context = DistributedContext.from_trainer(trainer)
    real = reference_set(DigitsFeatures(), trainer.datamodule, "train", fid.metrics, context)
    rows = FeatureRows(DigitsFeatures(), fid.metrics, 30)
    fake = feature_set([(torch.arange(30), quantize(x))], rows, context)
    expected = numbers_of(fid.metrics, real, fake)
    found = spy.seen[-1]
    assert found["val/frechet_distance"] == pytest.approx(expected["frechet_distance"], rel=1e-4)
    assert found["val/kernel_distance"] == pytest.approx(expected["kernel_distance"], rel=1e-3)
    assert best.best_model_score == pytest.approx(min(s["val/frechet_distance"] for s in spy.seen))


def test_likelihoods_are_those_of_the_first_validation_examples_with_their_error(digits, make_trainer):
    spy, data = Spy(), DigitsDataModule(val_batch_size=5)
    trainer = make_trainer(callbacks=[NLLCallback(num_examples=12), spy], limit_val_batches=4)
    trainer.validate(digits, data, verbose=False)
    x0 = data.scale(data.examples("val").all().x0[:12])
    generator = PhiloxGenerator(0, range(12), Stream.LIKELIHOOD)
    values = NegativeLogLikelihood()(digits.ema.denoiser, x0, 17, generator=generator)
    bits = values["bits_per_dim"]
    assert spy.seen[0]["val/bits_per_dim"] == pytest.approx(bits.mean().item(), rel=1e-5)
    assert spy.seen[0]["val/bits_per_dim_error"] == pytest.approx(bits.std().item() / 12**0.5, rel=1e-4)


def steps(logger, name):
    """Steps at which something was logged."""
    with open(logger.experiment.metrics_file_path) as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row[name]]


@pytest.mark.parametrize(("every", "evaluated"), [(1, [0, 1, 2]), (2, [1, 2]), (9, [2])])
@pytest.mark.one_in(3)
def test_every_few_validations_and_the_last_are_evaluated(digits, make_trainer, every, evaluated, tmp_path):
    spy = Spy()
    fid = FIDCallback(PixelFeatures(), num_samples=4, every_n_validations=every)
    nll = NLLCallback(num_examples=1, every_n_validations=every)
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(max_steps=3, val_check_interval=1, callbacks=[fid, nll, spy], logger=logger)
    trainer.fit(digits, DigitsDataModule())
    assert steps(logger, "val/frechet_distance") == steps(logger, "val/bits_per_dim") == evaluated


def test_the_count_of_validations_is_in_the_checkpoint(digits, make_trainer, tmp_path):
    def fit(max_steps, **options):
        fid = FIDCallback(PixelFeatures(), num_samples=4, every_n_validations=3)
        logger = CSVLogger(tmp_path, version=max_steps)
        trainer = make_trainer(max_steps=max_steps, val_check_interval=1, callbacks=[fid], logger=logger)
        trainer.fit(digits, DigitsDataModule(), **options)
        trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
        return len(steps(logger, "val/frechet_distance"))

    assert fit(2) == 1, "the last one"
    assert fit(5, ckpt_path=tmp_path / "a.ckpt") == 2, "the third and the last one"


def test_mistakes_are_found_before_the_first_step(digits, make_module, make_trainer, monkeypatch):
    def fit(callback, module=digits, data=None):
        make_trainer(max_steps=1, callbacks=[callback]).fit(module, data or DigitsDataModule())

    monkeypatch.setattr(type(digits), "training_step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(ConfigurationError, match=r"KernelDistance: num_samples=50.*1000"):
        fit(FIDCallback(num_samples=50, metrics=[KernelDistance()]))
    with pytest.raises(ConfigurationError, match=r"reference|nothing\.npz"):
        fit(FIDCallback(num_samples=50, reference="nothing.npz"))
    with pytest.raises(ConfigurationError, match="28x28"):
        fit(FIDCallback(MNISTFeatures(), num_samples=50))
    with pytest.raises(ConfigurationError):
        table = make_module(process=SMLDProcess())
        fit(FIDCallback(num_samples=9, sampler=Euler(2000, grid=DiscreteGrid())), table, ToyDataModule())
    for wrong in (dict(num_samples=1), dict(batch_size=0), dict(every_n_validations=0)):
        with pytest.raises(ConfigurationError, match="at least"):
            FIDCallback(**wrong)
    with pytest.raises(ConfigurationError, match="num_examples"):
        NLLCallback(num_examples=0)


def test_both_are_named_in_a_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluated.yaml").write_text(
        """
        trainer:
          callbacks:
          - class_path: FIDCallback
            init_args:
              num_samples: 20
              metrics: [FrechetDistance, {class_path: PrecisionRecall, init_args: {k: 2}}]
          - class_path: NLLCallback
            init_args:
              num_examples: 2
              metric: {class_path: VariationalBoundMetric, init_args: {num_slices: 3}}
        """
    )
    small = "--model.network.base_channels 8 --trainer.max_steps 2 --trainer.val_check_interval 2"
    small += " --model.sampler.num_steps 3"
    assert main(f"fit --config digits/vp_epsilon --config evaluated.yaml {small}".split()) == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "runs/digits/vp_epsilon/version_0"))
    events.Reload()
    logged = {"frechet_distance", "precision", "recall", "variational_bound", "variational_bound_error"}
    assert {f"val/{name}" for name in logged} < set(events.Tags()["scalars"])
