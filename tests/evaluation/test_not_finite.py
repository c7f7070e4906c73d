"""Samples, features, likelihoods and statistics that are NaN or infinite: errors, not black images."""

import math

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from support.denoisers import ZeroDenoiser

from scorelight import (
    DDIM,
    VPSDE,
    ConfigurationError,
    DigitsDataModule,
    FeatureExtractor,
    NegativeLogLikelihood,
    PixelFeatures,
    SampleGridCallback,
    SampleQualityMetric,
    Sampler,
    SampleWriter,
    SeedDataModule,
    ToyDataModule,
)
from scorelight.data.arrays import Arrays
from scorelight.errors import SamplingError, SolverError
from scorelight.evaluation.archive import write_archive
from scorelight.evaluation.callbacks import FIDCallback, NLLCallback
from scorelight.evaluation.evaluator import Evaluator
from scorelight.evaluation.reference import reference_set
from scorelight.evaluation.samples import SampleSource, quantize
from scorelight.images import grid, to_uint8
from scorelight.metrics import Features, FeatureSet, FrechetDistance
from scorelight.metrics.base import LikelihoodMetric, numbers_of
from scorelight.storage.shards import ShardStore
from scorelight.training.checkpointing import RollingCheckpoint


class Diverging(Sampler):
    """A sampler of somebody's own whose third step divides by 0 for the second example."""

    def trajectory(self, predict, x, levels, noise):
        for step in range(1, len(levels)):
            x = x.clone()
            x[1::7] = x[1::7] / (step != 3)
            yield x


def evaluator(module, folder, context, sampler=None, **options):
    source = SampleSource(module.denoiser_for("ema"), sampler or module.sampler, module.shape)
    return Evaluator(source, DigitsDataModule(), folder, context, num_samples=10, **options)


def test_an_evaluation_stops_and_stores_nothing(digits, tmp_path, context):
    job = evaluator(digits, tmp_path, context, Diverging(5), features=PixelFeatures(), batch_size=4)
    with pytest.raises(SamplingError, match=r"Diverging: 1 of 4 .*step 3 of 5.*Try"):
        job.run([FrechetDistance()])
    assert not list(tmp_path.rglob("*.npz")) or not list(tmp_path.glob("samples-*/*.npz"))


def test_what_a_trainer_draws_stops_and_writes_no_picture(make_module, make_trainer, tmp_path):
    trainer = make_trainer(callbacks=[SampleWriter(tmp_path / "out")])
    with pytest.raises(SamplingError, match="Diverging"):
        trainer.predict(make_module(sampler=Diverging(5)), SeedDataModule(7, 2, 3), return_predictions=False)
    assert not list((tmp_path / "out").glob("samples.*"))
    retry = make_trainer(callbacks=[SampleWriter(tmp_path / "out")])
    retry.predict(make_module(), SeedDataModule(7, 2, 3), return_predictions=False)
    assert (tmp_path / "out/samples.png").exists(), "the folder was given back"


class Log(Callback):
    """The loss of each step."""

    def __init__(self):
        self.losses = {}

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.losses[trainer.global_step] = outputs["loss"].item()


@pytest.mark.parametrize(
    "drawing",
    [
        lambda: SampleGridCallback(every_n_steps=4, num_samples=2),
        lambda: FIDCallback(PixelFeatures(), num_samples=4, every_n_validations=2),
    ],
    ids=["picture", "distance"],
)
def test_training_stops_with_a_checkpoint_of_the_step_from_which_it_resumes_bit_for_bit(
    make_module, make_trainer, tmp_path, drawing
):
    """Steps between the last checkpoint and the picture are not lost."""

    def fit(folder, sampler, ckpt_path=None):
        torch.manual_seed(0)
        module = make_module(sampler=sampler, seed=0)
        log = Log()
        trainer = make_trainer(
            max_steps=7,
            val_check_interval=2,
            check_val_every_n_epoch=None,
            default_root_dir=tmp_path / folder,
            enable_checkpointing=True,
            logger=True,
            callbacks=[drawing(), log, RollingCheckpoint(every_n_steps=3)],
        )
        trainer.fit(module, ToyDataModule(num_train=40, num_val=8, batch_size=8), ckpt_path=ckpt_path)
        return module, log.losses

    whole, losses = fit("whole", DDIM(4))
    with pytest.raises(SamplingError, match="Diverging"):
        fit("stopped", Diverging(5))
    (last,) = (tmp_path / "stopped").rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 4
    resumed, later = fit("resumed", DDIM(4), last)
    assert later == {step: loss for step, loss in losses.items() if step > 4}
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_an_archive_of_nan_is_not_written(tmp_path, shape):
    """Whatever drew it, such as a sampler of somebody's own that is a path of its own."""
    store = ShardStore(tmp_path / "parts")
    store.write(torch.arange(3), x=torch.full((3, *shape), math.nan))
    with pytest.raises(ConfigurationError, match="3 of 3 examples"):
        write_archive(store, 3, tmp_path, 0)
    assert not list(tmp_path.glob("samples.*"))


def test_pictures_and_grey_levels_of_nan_are_refused(tmp_path):
    for shape in ((3, 1, 4, 4), (3, 2)):
        for value in (math.nan, math.inf, -math.inf):
            x = torch.zeros(shape)
            x[1].view(-1)[0] = value
            with pytest.raises(ConfigurationError, match="1 of 3 examples have values that are NaN or inf"):
                grid(x)
    image = torch.full((2, 1, 4, 4), math.nan)
    for rounding in (to_uint8, quantize):
        with pytest.raises(ConfigurationError, match="2 of 2"):
            rounding(image)


class BrokenFeatures(FeatureExtractor):
    """A network of somebody's own that divides by the brightness."""

    def extract(self, x):
        values = x.flatten(1).float()
        return Features(values / values.sum(1, keepdim=True))


def test_features_that_are_nan_are_named(digits, context):
    black = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    from scorelight.metrics.quality import SampleQuality

    quality = SampleQuality(BrokenFeatures(), [FrechetDistance()])
    with pytest.raises(ConfigurationError, match="2 of 2 rows of the BrokenFeatures of samples are NaN"):
        quality.update(black)
    with pytest.raises(ConfigurationError, match="BrokenFeatures of real examples"):
        quality.update(black, real=True)


class BrokenMetric(SampleQualityMetric):
    def __call__(self, real, fake):
        return {"broken": math.nan}


class BrokenLikelihood(LikelihoodMetric):
    def __call__(self, denoiser, x0, num_bins, *, generator=None, dequantizer=None, **cond):
        return {"bits": torch.arange(len(x0)).double().log()}


def test_numbers_that_are_nan_are_named(digits, tmp_path, context, make_trainer):
    real = FeatureSet.of(torch.randn(9, 2))
    with pytest.raises(SolverError, match="BrokenMetric: broken is nan"):
        numbers_of([BrokenMetric()], real, real)
    with pytest.raises(SolverError, match="BrokenMetric: broken is nan"):
        evaluator(digits, tmp_path, context, features=PixelFeatures()).run([BrokenMetric()])
    with pytest.raises(SolverError, match=r"BrokenLikelihood: bits is NaN or infinite for 1 of 5.*\(0\)"):
        evaluator(digits, tmp_path, context, num_examples=5).run([BrokenLikelihood()])
    assert not list(tmp_path.glob("examples-*/*.npz"))
    with pytest.raises(SolverError, match="BrokenLikelihood"):
        make_trainer(callbacks=[NLLCallback(BrokenLikelihood(), 5)]).validate(digits, DigitsDataModule())


def test_a_likelihood_of_a_network_of_nan_is_an_error(digits, tmp_path, context):
    for weight in digits.ema.denoiser.parameters():
        torch.nn.init.constant_(weight, math.nan)
    for metric in (NegativeLogLikelihood(), NegativeLogLikelihood(num_steps=3)):
        with pytest.raises(SolverError, match=r"not a number|NaN or infinite for 4 of 4"):
            evaluator(digits, tmp_path, context, num_examples=4).run([metric])


class NoisyData(ToyDataModule):
    """Real examples with a NaN."""

    def arrays(self):
        train, val = super().arrays()
        x0 = train.all().x0.clone()
        x0[3, 1] = math.nan
        return Arrays(x0, {}), val


def test_real_examples_that_are_nan_are_refused(context):
    data = NoisyData(num_train=40, num_val=8)
    with pytest.raises(ConfigurationError, match="1 of 40 rows of the PixelFeatures of real examples"):
        reference_set(PixelFeatures(), data, "train", [FrechetDistance()], context)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mu=np.array([0.0, math.nan])), "mu"),
        (dict(sigma=np.array([[1.0, math.inf], [math.inf, 1.0]])), "sigma"),
        (dict(sigma=np.array([[1.0, 0.5], [0.0, 1.0]])), "sigma is not symmetric"),
        (dict(sigma=-np.eye(2)), "negative variance"),
        (dict(sigma=np.array([[1.0, 2.0], [2.0, 1.0]])), "negative variance"),
        (dict(mu=np.zeros(0), sigma=np.zeros((0, 0))), "empty"),
        (dict(mu=np.array(["a", "b"])), "not statistics"),
        (dict(features=np.zeros((5, 3))), "features"),
        (dict(features=np.array([[0.0, math.nan]])), "features"),
    ],
    ids=str,
)
def test_a_file_of_impossible_statistics_is_refused(tmp_path, context, changes, message):
    np.savez(tmp_path / "a.npz", **(dict(mu=np.zeros(2), sigma=np.eye(2)) | changes))
    with pytest.raises(ConfigurationError, match=rf"a\.npz.*{message}"):
        reference_set(PixelFeatures(), None, "train", [FrechetDistance()], context, str(tmp_path / "a.npz"))


@pytest.mark.parametrize("rank", [1, 3])
def test_singular_covariances_and_rounding_to_float32_are_no_mistake(tmp_path, rank):
    x = torch.randn(rank + 1, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cov = (x.T.cov() * 1e6).float().numpy()
    np.savez(tmp_path / "a.npz", mu=np.zeros(20), sigma=cov)
    assert FeatureSet.load(tmp_path / "a.npz").cov.shape == (20, 20)
    np.savez(tmp_path / "b.npz", mu=np.zeros(20), sigma=np.zeros((20, 20)))
    assert not FeatureSet.load(tmp_path / "b.npz").cov.any()


def test_a_zero_denoiser_is_finite_throughout(tmp_path):
    """The check itself changes nothing."""
    assert DDIM(5)(ZeroDenoiser(VPSDE()), torch.ones(2, 3)).isfinite().all()
