"""Judging a checkpoint: closed forms, batch sizes, interruptions."""

import math

import pytest
import torch
from support.marks import slow_but

from scorelight import (
    DDIM,
    VPSDE,
    AnalyticDenoiser,
    DigitsDataModule,
    GaussianMixture,
    Heun,
    ToyDataModule,
    UNet,
)
from scorelight.errors import ConfigurationError
from scorelight.evaluation.evaluator import Evaluator
from scorelight.evaluation.reference import DistributedContext, reference_set
from scorelight.metrics import FeatureSet, FrechetDistance, PixelFeatures
from scorelight.metrics.likelihood import NegativeLogLikelihood, VariationalBoundMetric

ALONE = DistributedContext(0, 1, torch.device("cpu"), None)


class Link:
    """What a Fabric of one process does."""

    def barrier(self):
        pass

    def broadcast(self, value):
        return value


@pytest.fixture
def workers():
    return ALONE._replace(link=Link())


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCORELIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def digits(make_module):
    """A small random network for digits."""
    torch.manual_seed(0)
    module = make_module(network=UNet((1, 8, 8), 8, (1, 1), 1, ()), sampler=DDIM(4, eta=1.0))
    torch.nn.init.normal_(module.ema.denoiser.network.last.weight, std=0.3)
    return module.eval()


def evaluation(module, data, folder, workers, batch_size=100, identity="a"):
    return Evaluator(module, identity, data, folder, batch_size, workers)


def frechet(job, num_samples=40, seeds=(0,), **options):
    return job.judge_samples([FrechetDistance()], PixelFeatures(), num_samples, seeds, **options)


class Gaussian(ToyDataModule):
    """Points of N(mean, std²) in two dimensions; the model below knows their score."""

    exactly = GaussianMixture(torch.ones(1), torch.tensor([[1.0, -0.5]]), torch.tensor([0.25]))

    def arrays(self):
        from scorelight.data.arrays import Arrays

        x = self.exactly.sample(20_000, torch.Generator().manual_seed(1)).float()
        return Arrays(x, {}), Arrays(x[:300], {})


def test_samples_of_the_exact_model_have_the_frechet_distance_that_chance_gives(
    make_module, tmp_path, workers
):
    """The means of two samples are tr Σ (1/n + 1/m) apart; the covariances add about as much again."""
    module = make_module(sampler=Heun(20))
    module.ema.denoiser = AnalyticDenoiser(Gaussian.exactly, VPSDE())
    found = frechet(evaluation(module, Gaussian(), tmp_path, workers, 1000), 1000, range(5))
    chance = 2 * 0.25 * (1 / 1000 + 1 / 20_000)
    result = found["frechet_distance"]
    assert result.over == "seeds" and len(result.each) == 5
    assert 0 < result.value < 6 * chance
    assert result.standard_error == pytest.approx(torch.tensor(result.each).std().item() / math.sqrt(5))


def test_the_likelihood_of_the_exact_model_is_the_density(make_module, tmp_path, workers):
    module, data = make_module(), Gaussian()
    module.ema.denoiser = AnalyticDenoiser(Gaussian.exactly, VPSDE())
    metric = NegativeLogLikelihood(rtol=1e-6, atol=1e-6)
    found = evaluation(module, data, tmp_path, workers, 7).judge_examples(metric, [0], 50)
    exact = -Gaussian.exactly.log_prob(data.examples("val").everything().x0[:50].double()) / 2
    result = found["nats_per_dim"]
    assert result.value == pytest.approx(exact.mean().item(), abs=2e-3)  # the prior is N(0, I), not p_1
    assert result.standard_error == pytest.approx(exact.std().item() / math.sqrt(50), rel=0.02)
    assert result.over == "examples"


def test_the_variational_bound_lies_above_the_density_and_is_the_sum_of_its_terms(
    make_module, tmp_path, workers
):
    module, data = make_module(), Gaussian()
    module.ema.denoiser = AnalyticDenoiser(Gaussian.exactly, VPSDE())
    found = evaluation(module, data, tmp_path, workers).judge_examples(
        VariationalBoundMetric(), range(4), 300
    )
    exact = -Gaussian.exactly.log_prob(data.examples("val").everything().x0.double()).mean() / 2 / math.log(2)
    bound = found.pop("variational_bound")
    assert bound.value == pytest.approx(sum(term.value for term in found.values()))
    assert exact - 3 * bound.standard_error < bound.value < exact + 0.1


@pytest.mark.parametrize("batch_size", slow_but([1, 7, 100], 100))
def test_the_numbers_do_not_depend_on_the_batch_size(digits, tmp_path, workers, batch_size):
    """Convolutions of other batch sizes may round otherwise, and a pixel fall to the next of 256 levels."""
    numbers = []
    for size in (batch_size, 40):
        job = evaluation(digits, DigitsDataModule(), tmp_path / str(size), workers, size)
        found = frechet(job) | job.judge_examples(NegativeLogLikelihood(), [0], 12)
        numbers.append([found[name].value for name in ("frechet_distance", "bits_per_dim")])
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


def test_an_interrupted_evaluation_goes_on_and_draws_nothing_twice(digits, tmp_path, workers, monkeypatch):
    whole = frechet(evaluation(digits, DigitsDataModule(), tmp_path / "whole", workers, 10))
    drawn, sample = [], type(digits).sample

    def stops_at_the_third(self, seed, indices, *rest):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(list(indices))
        return sample(self, seed, indices, *rest)

    def counts(self, seed, indices, *rest):
        drawn.append(list(indices))
        return sample(self, seed, indices, *rest)

    monkeypatch.setattr(type(digits), "sample", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        frechet(evaluation(digits, DigitsDataModule(), tmp_path / "parts", workers, 10))
    monkeypatch.setattr(type(digits), "sample", counts)
    job = evaluation(digits, DigitsDataModule(), tmp_path / "parts", workers, 10)
    assert frechet(job) == whole
    assert sorted(sum(drawn, [])) == list(range(40))  # noqa: RUF017
    frechet(job, 45)
    assert drawn[4:] == [[40, 41, 42, 43, 44]], "more samples start from those that are there"
    frechet(evaluation(digits, DigitsDataModule(), tmp_path / "parts", workers, identity="other weights"))
    assert sum(map(len, drawn)) == 45 + 40


def test_other_samplers_and_seeds_have_samples_of_their_own(digits, tmp_path, workers):
    job = evaluation(digits, DigitsDataModule(), tmp_path, workers)
    found = {
        frechet(job, seeds=[seed], sampler=sampler)["frechet_distance"].value
        for seed in (0, 1)
        for sampler in (None, DDIM(4), DDIM(5))
    }
    assert len(found) == 6 and len(list(tmp_path.glob("samples-*.png"))) == 6
    assert job.said["evaluations per sample"] == 5


def test_real_examples_are_found_again_by_their_content_and_the_features(tmp_path, workers, monkeypatch):
    data, calls = DigitsDataModule(), []
    forward = PixelFeatures.forward
    monkeypatch.setattr(PixelFeatures, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))

    def real(data, **options):
        calls.clear()
        return reference_set(PixelFeatures(), data, "train", [FrechetDistance()], workers, **options)

    first = real(data)
    assert sum(calls) == first.count == 1438, "all of them"
    x = data.training_set().x0.flatten(1).double()
    x = ((x + 1) * 127.5).round() / 127.5 - 1
    torch.testing.assert_close(first.mean, x.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(first.cov, x.T.cov(), rtol=0, atol=1e-6)
    again = real(DigitsDataModule(batch_size=3))
    assert not calls and torch.equal(again.mean, first.mean)
    assert real(DigitsDataModule(seed=1)).count == 1438 and calls, "another split"
    first.save(tmp_path / "exported.npz")
    assert torch.equal(real(data, file=str(tmp_path / "exported.npz")).cov, first.cov)


def test_statistics_of_other_features_are_refused(tmp_path, workers):
    FeatureSet(5, torch.zeros(64), torch.eye(64), key="scorelight.Other-123").save(tmp_path / "a.npz")
    with pytest.raises(ConfigurationError, match=r"a\.npz.*Other-123.*PixelFeatures"):
        reference_set(PixelFeatures(), None, "train", [FrechetDistance()], workers, str(tmp_path / "a.npz"))


def test_data_that_cannot_be_told_apart_are_refused(workers):
    with pytest.raises(ConfigurationError, match="ImageDataModule"):
        reference_set(PixelFeatures(), object(), "train", [FrechetDistance()], workers)
