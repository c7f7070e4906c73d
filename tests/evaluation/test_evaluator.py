"""Evaluating a model: closed forms, batch sizes, interruptions, wrappers, data of strangers."""

import functools
import math
import shutil
import types

import pytest
import torch
from lightning.pytorch import LightningDataModule
from support.marks import slow_but
from torch.utils.data import DataLoader, TensorDataset

from scorelight import (
    DDIM,
    MLP,
    VPSDE,
    X0,
    AnalyticDenoiser,
    ClippedDenoiser,
    DenoiserWrapper,
    DigitsDataModule,
    FlowDequantization,
    GaussianMixture,
    Heun,
    Prediction,
    ToyDataModule,
    UNet,
)
from scorelight.data.access import examples_of
from scorelight.errors import ConfigurationError
from scorelight.evaluation import samples
from scorelight.evaluation.evaluator import Evaluator
from scorelight.evaluation.reference import reference_set
from scorelight.evaluation.samples import SampleSource
from scorelight.metrics import FeatureSet, FrechetDistance, KernelDistance, PixelFeatures
from scorelight.metrics.likelihood import NegativeLogLikelihood, VariationalBoundMetric
from scorelight.storage.shards import ShardStore


@pytest.fixture
def digits(make_module):
    """A small random network for digits."""
    torch.manual_seed(0)
    module = make_module(network=UNet((1, 8, 8), 8, (1, 1), 1, ()), sampler=DDIM(4, eta=1.0))
    torch.nn.init.normal_(module.ema.denoiser.network.last.weight, std=0.3)
    return module.eval()


def evaluator(module, data, folder, context, denoiser=None, sampler=None, **options):
    source = SampleSource(
        denoiser or module.denoiser_for("ema"),
        sampler or module.sampler,
        module.shape,
        module.denoiser.labels,
    )
    return Evaluator(source, data, folder, context, **options)


def frechet(module, data, folder, context, num_samples=40, **options):
    options = dict(features=PixelFeatures(), num_samples=num_samples) | options
    return evaluator(module, data, folder, context, **options).run([FrechetDistance()])


class Gaussian(ToyDataModule):
    """Points of N(mean, std²) in two dimensions; the model below knows their score."""

    exactly = GaussianMixture(torch.ones(1), torch.tensor([[1.0, -0.5]]), torch.tensor([0.25]))

    def arrays(self):
        from scorelight.data.arrays import Arrays

        x = self.exactly.sample(20_000, torch.Generator().manual_seed(1)).float()
        return Arrays(x, {}), Arrays(x[:300], {})


def test_samples_of_the_exact_model_have_the_frechet_distance_that_chance_gives(
    make_module, tmp_path, context
):
    """The means of two samples are tr Σ (1/n + 1/m) apart; the covariances add about as much again."""
    module = make_module(sampler=Heun(20))
    exact = AnalyticDenoiser(Gaussian.exactly, VPSDE())
    options = dict(denoiser=exact, batch_size=1000, seeds=range(5))
    numbers = frechet(module, Gaussian(), tmp_path, context, 1000, **options)
    chance = 2 * 0.25 * (1 / 1000 + 1 / 20_000)
    result = numbers["frechet_distance"]
    assert result.over == "seeds" and len(result.each) == 5
    assert 0 < result.value < 6 * chance
    assert result.standard_error == pytest.approx(torch.tensor(result.each).std().item() / math.sqrt(5))


def test_the_likelihood_of_the_exact_model_is_the_density(make_module, tmp_path, context):
    data, exact = Gaussian(), AnalyticDenoiser(Gaussian.exactly, VPSDE())
    metric = NegativeLogLikelihood(rtol=1e-6, atol=1e-6)
    options = dict(denoiser=exact, batch_size=7, num_examples=50)
    numbers = evaluator(make_module(), data, tmp_path, context, **options).run([metric])
    closed = -Gaussian.exactly.log_prob(data.examples("val").all().x0[:50].double()) / 2
    result = numbers["nats_per_dim"]
    assert result.value == pytest.approx(closed.mean().item(), abs=2e-3)  # the prior is N(0, I), not p_1
    assert result.standard_error == pytest.approx(closed.std().item() / math.sqrt(50), rel=0.02)
    assert result.over == "examples"


@pytest.mark.slow
def test_the_variational_bound_lies_above_the_density_and_is_the_sum_of_its_terms(
    make_module, tmp_path, context
):
    data, exact = Gaussian(), AnalyticDenoiser(Gaussian.exactly, VPSDE())
    job = evaluator(make_module(), data, tmp_path, context, denoiser=exact, seeds=range(4), num_examples=300)
    numbers = job.run([VariationalBoundMetric()])
    closed = -Gaussian.exactly.log_prob(data.examples("val").all().x0.double()).mean() / 2 / math.log(2)
    bound = numbers.pop("variational_bound")
    assert bound.value == pytest.approx(sum(term.value for term in numbers.values()))
    assert closed - 3 * bound.standard_error < bound.value < closed + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", slow_but([1, 7, 100], 100))
def test_the_numbers_do_not_depend_on_the_batch_size(digits, tmp_path, context, batch_size):
    """Convolutions of other batch sizes may round otherwise, and a pixel fall to the next of 256 levels."""
    numbers = []
    for size in (batch_size, 40):
        options = dict(features=PixelFeatures(), num_samples=40, num_examples=12, batch_size=size)
        job = evaluator(digits, DigitsDataModule(), tmp_path / str(size), context, **options)
        results = job.run([FrechetDistance(), NegativeLogLikelihood()])
        numbers.append([results[name].value for name in ("frechet_distance", "bits_per_dim")])
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


@pytest.fixture
def drawn(monkeypatch):
    """The indices of each batch of samples that was drawn; `drawn.limit` batches are drawn before Ctrl-C."""

    class Drawn(list):
        limit = math.inf

    indices = Drawn()
    real = samples.generate

    def recording(denoiser, sampler, shape, seed, batch, *rest):
        if len(indices) == indices.limit:
            raise KeyboardInterrupt
        indices.append(list(batch))
        return real(denoiser, sampler, shape, seed, batch, *rest)

    monkeypatch.setattr(samples, "generate", recording)
    return indices


def test_an_interrupted_evaluation_resumes_and_draws_nothing_twice(digits, tmp_path, context, drawn):
    def run(folder, num_samples=40, **options):
        return frechet(
            digits, DigitsDataModule(), tmp_path / folder, context, num_samples, batch_size=10, **options
        )

    uninterrupted = run("whole")
    drawn.clear()
    drawn.limit = 2
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    drawn.limit = math.inf
    assert run("parts") == uninterrupted
    assert sorted(sum(drawn, [])) == list(range(40))  # noqa: RUF017
    run("parts", 45)
    assert drawn[4:] == [[40, 41, 42, 43, 44]], "more samples start from those that are there"
    with torch.no_grad():
        digits.ema.denoiser.network.last.bias += 1
    run("parts")
    assert sum(map(len, drawn)) == 45 + 40, "other weights have samples of their own"


def test_rows_that_two_commands_have_stored_count_once(digits, tmp_path, context, drawn):
    """As on a file system without locks, where both write to one folder in batches of other sizes."""

    def run(folder, batch_size):
        options = dict(features=PixelFeatures(), num_samples=20, num_examples=20, batch_size=batch_size)
        job = evaluator(digits, DigitsDataModule(), tmp_path / folder, context, **options)
        return job.run([FrechetDistance(), NegativeLogLikelihood(num_steps=2)])

    alone = run("one", 5)
    run("two", 7)
    drawn.clear()
    for path in (tmp_path / "two").rglob("*.npz"):
        shutil.copy(path, tmp_path / "one" / path.parent.name)
    assert len(list((tmp_path / "one").rglob("*.npz"))) > 8
    both = run("one", 3)
    assert not drawn and both["bits_per_dim"].standard_error == pytest.approx(
        alone["bits_per_dim"].standard_error, rel=1e-9
    )
    for name, result in alone.items():
        assert both[name].value == pytest.approx(result.value, rel=1e-4)


def test_a_row_that_vanishes_is_noticed_before_a_number_is_computed(digits, tmp_path, context, monkeypatch):
    write = ShardStore.write

    def losing(self, index, **rows):
        write(self, index, **rows)
        if 3 in index:
            next(self.folder.glob("*003.npz")).unlink()

    monkeypatch.setattr(ShardStore, "write", losing)
    options = dict(features=PixelFeatures(), num_samples=6, num_examples=6, batch_size=2)
    for metric in (FrechetDistance(), NegativeLogLikelihood(num_steps=2)):
        with pytest.raises(ConfigurationError, match="2 of 6 rows are missing"):
            evaluator(digits, DigitsDataModule(), tmp_path, context, **options).run([metric])


def test_samples_of_an_edited_sampler_are_drawn_anew(digits, tmp_path, context, drawn):
    """The class of one name, in one module, with other code."""

    def sampler(text):
        space = types.ModuleType("somebodys")
        exec("from scorelight import DDIM\nclass Mine(DDIM):\n    " + text, space.__dict__)
        return space.Mine(3)

    texts = ["pass", "denoise_at_last = 1", "def levels(self, process): return super().levels(process)"]
    for text in [*texts, *texts]:
        frechet(digits, DigitsDataModule(), tmp_path, context, 5, sampler=sampler(text))
    assert len(drawn) == len(texts)


def test_metrics_of_other_options_and_other_dequantizers_have_other_protocols(digits, tmp_path, context):
    def protocol(metric, **options):
        options = dict(features=PixelFeatures(), num_samples=12, num_examples=2) | options
        job = evaluator(digits, DigitsDataModule(), tmp_path, context, **options)
        job.run([metric])
        return job.protocol

    kernels = [protocol(KernelDistance(2, size)) for size in (5, 6)]
    assert kernels[0] != kernels[1]
    flows = [FlowDequantization((1, 8, 8), num_steps=2, width=4) for _ in range(2)]
    torch.nn.init.normal_(next(flows[1].parameters()))
    bits = NegativeLogLikelihood(num_steps=2)
    noises = [protocol(bits, dequantizer=flow)["dequantization"] for flow in flows]
    assert noises[0] != noises[1] and all(
        noise.startswith("learned, FlowDequantization-") for noise in noises
    )
    assert protocol(bits)["dequantization"] == "uniform"


@pytest.mark.parametrize("seeds", [[], [0, 0], [1, 2, 1]])
def test_no_seed_counts_twice(digits, tmp_path, context, seeds):
    with pytest.raises(ConfigurationError, match="each of them once"):
        evaluator(digits, DigitsDataModule(), tmp_path, context, seeds=seeds)


def test_other_samplers_and_seeds_have_samples_of_their_own(digits, tmp_path, context):
    numbers = {
        frechet(digits, DigitsDataModule(), tmp_path, context, seeds=[seed], sampler=sampler)[
            "frechet_distance"
        ].value
        for seed in (0, 1)
        for sampler in (None, DDIM(4), DDIM(5))
    }
    assert len(numbers) == 6 and len(list(tmp_path.glob("samples-*.png"))) == 6


def test_the_evaluations_of_a_sample_are_counted(digits, tmp_path, context):
    options = dict(features=PixelFeatures(), num_samples=5, sampler=DDIM(5))
    job = evaluator(digits, DigitsDataModule(), tmp_path, context, **options)
    job.run([FrechetDistance()])
    assert job.protocol["evaluations per sample"] == 5


class Shifted(DenoiserWrapper):
    """A wrapper of somebody else's, with an option."""

    def __init__(self, denoiser, by=0.5):
        super().__init__(denoiser)
        self.by = by

    def predict(self, x_t, level, **cond):
        pred = self.denoiser.predict(x_t, level, **cond)
        return Prediction(x_t, level, pred.x0 + self.by, X0())


def test_samples_and_likelihoods_under_another_wrapper_are_never_those_of_the_bare_model(
    digits, tmp_path, context, drawn
):
    bare = digits.denoiser_for("ema")
    wrappers = {
        "none": bare,
        "clipped": ClippedDenoiser(bare),
        "clipped, other option": ClippedDenoiser(bare, high=0.5),
        "shifted": Shifted(bare),
        "shifted, other option": Shifted(bare, 0.25),
        "shifted and clipped": ClippedDenoiser(Shifted(bare)),
        "clipped and shifted": Shifted(ClippedDenoiser(bare)),
    }
    metrics = [FrechetDistance(), NegativeLogLikelihood(num_steps=2)]

    def run(denoiser):
        options = dict(features=PixelFeatures(), num_samples=5, num_examples=2, denoiser=denoiser)
        return evaluator(digits, DigitsDataModule(), tmp_path, context, **options).run(metrics)

    first = {name: run(denoiser) for name, denoiser in wrappers.items()}
    assert len(drawn) == len(wrappers)
    assert len(list(tmp_path.glob("samples-*/"))) == len(list(tmp_path.glob("examples-*/"))) == len(wrappers)
    assert {name: run(denoiser) for name, denoiser in wrappers.items()} == first
    assert len(drawn) == len(wrappers), "each of them finds its own samples again"
    assert len({result["frechet_distance"].value for result in first.values()}) == len(wrappers)


def test_a_module_with_guidance_samples_and_is_evaluated_under_it(make_module, tmp_path, context):
    clip = functools.partial(ClippedDenoiser, high=0.1)
    module = make_module(guidance=clip)
    *_, x = module.sample(0, range(50))
    assert x.max() == pytest.approx(0.1, abs=1e-6)
    assert module.hparams["guidance"] == {
        "class_path": "scorelight.ClippedDenoiser",
        "init_args": {"high": 0.1},
    }
    assert isinstance(module.denoiser_for("raw"), ClippedDenoiser)
    assert module.denoiser_for("raw").denoiser is module.denoiser
    assert module.denoiser_for("ema").denoiser is module.ema.denoiser


def test_real_examples_are_found_again_by_their_content_and_the_features(tmp_path, context, monkeypatch):
    data, calls = DigitsDataModule(), []
    forward = PixelFeatures.forward
    monkeypatch.setattr(PixelFeatures, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))

    def real(data, **options):
        calls.clear()
        return reference_set(PixelFeatures(), data, "train", [FrechetDistance()], context, **options)

    first = real(data)
    assert sum(calls) == first.count == 1438, "all of them"
    x = examples_of(data, "train").augmented().x0.flatten(1).double()
    x = ((x + 1) * 127.5).round() / 127.5 - 1
    torch.testing.assert_close(first.mean, x.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(first.cov, x.T.cov(), rtol=0, atol=1e-6)
    again = real(DigitsDataModule(batch_size=3))
    assert not calls and torch.equal(again.mean, first.mean)
    assert real(DigitsDataModule(seed=1)).count == 1438 and calls, "another split"
    first.save(tmp_path / "exported.npz")
    assert torch.equal(real(data, file=str(tmp_path / "exported.npz")).cov, first.cov)


def test_statistics_of_other_features_are_refused(tmp_path, context):
    FeatureSet(5, torch.zeros(64), torch.eye(64), key="scorelight.Other-123").save(tmp_path / "a.npz")
    with pytest.raises(ConfigurationError, match=r"a\.npz.*Other-123.*PixelFeatures"):
        reference_set(PixelFeatures(), None, "train", [FrechetDistance()], context, str(tmp_path / "a.npz"))


class Foreign(LightningDataModule):
    """A data module that knows nothing of scorelight."""

    def __init__(self, batch_size=7, shuffle=True):
        super().__init__()
        self.batch_size, self.shuffle = batch_size, shuffle
        self.x = torch.randn(53, 2, generator=torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.x[:40]), self.batch_size, shuffle=self.shuffle, drop_last=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.x[40:]), self.batch_size)


def test_the_data_module_of_a_stranger_is_evaluated_like_ours(make_module, tmp_path, context):
    """Every example counts once, however its loader shuffles, drops and cuts them."""
    real = reference_set(PixelFeatures(), Foreign(), "train", [FrechetDistance()], context)
    assert real.count == 40
    torch.testing.assert_close(real.mean, Foreign().x[:40].double().mean(0), rtol=0, atol=1e-6)
    exact = AnalyticDenoiser(Gaussian.exactly, VPSDE())
    options = dict(denoiser=exact, num_examples=9)
    job = evaluator(make_module(), Foreign(), tmp_path, context, **options)
    numbers = job.run([NegativeLogLikelihood(rtol=1e-6, atol=1e-6)])
    closed = -Gaussian.exactly.log_prob(Foreign().x[40:49].double()) / 2
    assert numbers["nats_per_dim"].value == pytest.approx(closed.mean().item(), abs=2e-2)
    assert "9 of 13" in job.protocol["validation examples"]


def test_what_a_data_module_lacks_is_named_before_samples_are_drawn(make_module, tmp_path, context, drawn):
    class NoValidation(Foreign):
        val_dataloader = LightningDataModule.val_dataloader

    metrics = [FrechetDistance(), NegativeLogLikelihood()]
    with pytest.raises(ConfigurationError, match=r"NoValidation.*val_dataloader"):
        evaluator(make_module(), NoValidation(), tmp_path, context, num_samples=9).run(metrics)
    assert not drawn


def test_without_validation_examples_likelihoods_are_refused(make_module, tmp_path, context, drawn):
    job = evaluator(make_module(), ToyDataModule(num_val=0), tmp_path, context)
    with pytest.raises(ConfigurationError, match="NegativeLogLikelihood: ToyDataModule has no validation"):
        job.run([FrechetDistance(), NegativeLogLikelihood()])
    assert not drawn


def test_a_model_with_classes_has_no_likelihood_of_examples_without_labels(
    make_module, tmp_path, context, drawn
):
    module = make_module(network=MLP((2,), 16, 1, num_classes=3))
    job = evaluator(module, ToyDataModule(num_val=4), tmp_path, context)
    with pytest.raises(
        ConfigurationError, match=r"NegativeLogLikelihood: .* has classes, and Toy.* no labels"
    ):
        job.run([FrechetDistance(), NegativeLogLikelihood()])
    assert not drawn


def test_without_data_a_file_is_asked_for(context):
    with pytest.raises(ConfigurationError, match="reference=FILE"):
        reference_set(PixelFeatures(), None, "train", [FrechetDistance()], context)
