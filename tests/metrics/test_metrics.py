"""The other distances against torch-fidelity, closed forms and brute force."""

import math
import sys

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

import scorelight.metrics.mmd as mmd_module
from scorelight import (
    ConfigurationError,
    FeatureSet,
    InceptionScore,
    KernelDistance,
    MaximumMeanDiscrepancy,
    PrecisionRecall,
    SampleQualityMetric,
    SlicedWasserstein,
)
from scorelight.metrics import (
    inception_score,
    kernel_distance,
    maximum_mean_discrepancy,
    median_distance,
    precision_recall,
    sliced_wasserstein,
)
from scorelight.storage.component import spec

D = torch.float64
PRC = sys.modules["scorelight.metrics.precision_recall"]


@pytest.fixture
def pair(generator):
    """Real and generated features, not equally many."""
    real = torch.randn(130, 20, dtype=D, generator=generator)
    return real, torch.randn(110, 20, dtype=D, generator=generator) * 0.9 + 0.2


def numbers(metric, real, fake, logits=None):
    return metric(FeatureSet.of(real), FeatureSet.of(fake, logits))


# Kernel distance


@pytest.mark.parametrize("size", [110, 40])
def test_kernel_distance_equals_torch_fidelity(pair, size):
    real, fake = pair
    theirs = kid_features_to_metric(fake, real, kid_subsets=7, kid_subset_size=size, verbose=False)
    ours = numbers(KernelDistance(7, size), real, fake)
    assert ours["kernel_distance"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours["kernel_distance_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-6)


def test_kernel_distance_is_unbiased(generator):
    """Of degree 1, k = xᵀy/D + 1, MMD² is ‖m₁ − m₂‖²/D: mean of 400 draws of 10, 4 standard errors."""
    shift = torch.tensor([0.3, -0.1, 0.2], dtype=D)
    found = []
    for _ in range(400):
        x, y = torch.randn(2, 10, 3, dtype=D, generator=generator)
        found.append(kernel_distance(x, y + shift, 1, 10, degree=1)[0])
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - (shift.square().sum() / 3).item()) < 4 * error


def test_kernel_distance_needs_a_subset(pair):
    with pytest.raises(
        ConfigurationError, match=r"subset_size=1000, and there are only 110.*subset_size=110"
    ):
        numbers(KernelDistance(), *pair)
    with pytest.raises(ConfigurationError, match="subset_size=1"):
        KernelDistance(subset_size=1)


# Inception score


@pytest.mark.parametrize("splits", [1, 3, 10])
@pytest.mark.parametrize("seed", [2020, None])
def test_inception_score_equals_torch_fidelity(splits, seed, generator):
    logits = 3 * torch.randn(107, 12, generator=generator)
    theirs = isc_features_to_metric(logits, splits, shuffle=seed is not None)
    ours = numbers(InceptionScore(splits, seed), logits, logits, logits)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert ours["inception_score_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-6, abs=1e-12)


def test_inception_score_from_1_to_the_number_of_classes():
    sure = 1e3 * torch.eye(10).repeat(20, 1)
    assert inception_score(sure, 1)[0] == pytest.approx(10)
    assert inception_score(0 * sure) == (pytest.approx(1), pytest.approx(0, abs=1e-12))


def test_inception_score_needs_logits_and_samples(pair):
    with pytest.raises(ConfigurationError, match="an extractor that classifies"):
        numbers(InceptionScore(), *pair)
    with pytest.raises(ConfigurationError, match=r"splits=10, and there are only 5 samples.*splits=1"):
        inception_score(torch.zeros(5, 3))
    with pytest.raises(ConfigurationError, match="splits=0"):
        InceptionScore(0)


# Precision and recall


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("entries", [10**9, 130 * 7])
def test_precision_and_recall_equal_torch_fidelity(pair, k, entries, monkeypatch):
    monkeypatch.setattr(PRC, "_ENTRIES", entries)
    real, fake = (x[:, :4] for x in pair)
    fake = fake * 1.5 + 0.5
    theirs = prc_features_to_metric(fake, real, prc_neighborhood=k, verbose=False)
    ours = dict(zip(("precision", "recall"), precision_recall(real, fake, k), strict=True))
    assert 0.1 < ours["precision"] < 0.95 > ours["recall"] > 0.1
    for name, value in ours.items():  # theirs are means in float32
        assert value == pytest.approx(theirs[name], rel=1e-6)


def test_precision_and_recall_take_as_many_real_examples_as_there_are_samples(pair):
    """Any part of them: a copy of the real ones precedes others that are far away."""
    real, fake = (x[:60, :4] for x in pair)
    assert numbers(PrecisionRecall(), real, fake) == dict(
        zip(("precision", "recall"), precision_recall(real, fake, 3), strict=True)
    )
    far = torch.cat([real, real + 1000])
    found = numbers(PrecisionRecall(), far, fake)
    assert 0 < found["recall"] < 0.75 * numbers(PrecisionRecall(), real, fake)["recall"]
    assert found != numbers(PrecisionRecall(seed=1), far, fake)


def test_precision_and_recall_by_hand():
    """Real balls: [−1, 1], [0, 2], [1, 3], [2, 18]; generated: [−¼, ¾], [¼, 1¼], [¾, 2¼], [29, 32]."""
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    fake = torch.tensor([[0.25], [0.75], [1.5], [30.0], [31.0]])
    assert precision_recall(real, fake, 1) == (3 / 5, 3 / 4)


def test_sets_far_apart_and_sets_alike(pair):
    real, fake = pair
    assert precision_recall(real, fake + 1e3) == (0, 0)
    assert precision_recall(real, real) == (1, 1)


def test_precision_needs_neighbours():
    with pytest.raises(ConfigurationError, match="k=3, and there are only 3 examples"):
        precision_recall(torch.eye(3), torch.eye(9))
    with pytest.raises(ConfigurationError, match="k=0"):
        PrecisionRecall(0)


# Sliced Wasserstein


@pytest.mark.parametrize(("n", "m"), [(6, 6), (4, 6), (1, 5), (7, 3)])
def test_wasserstein_on_a_line_for_sets_of_any_size(n, m, generator):
    """Each point as many times as makes the sets equal, then sorted point to sorted point."""
    x, y = (torch.randn(k, 1, dtype=D, generator=generator) for k in (n, m))
    common = math.lcm(n, m)
    a, b = (v.flatten().sort().values.repeat_interleave(common // len(v)) for v in (x, y))
    expected = (a - b).square().mean().sqrt().item()
    assert sliced_wasserstein(x, y) == pytest.approx(expected, rel=1e-12)


def test_sliced_wasserstein_of_a_shift(generator):
    """SW² = E_θ (θᵀδ)² = ‖δ‖²/D for a set and itself moved by δ; 4 standard errors of the lines."""
    x = torch.randn(50, 3, dtype=D, generator=generator)
    delta = torch.tensor([1.0, -2.0, 0.5], dtype=D)
    squared = sliced_wasserstein(x, x + delta, 4000) ** 2
    assert squared == pytest.approx((delta.square().sum() / 3).item(), rel=4 * math.sqrt(0.8 / 4000))
    assert sliced_wasserstein(x, x.flip(0)) < 1e-15  # products of rows can be rounded by their place


def test_sliced_wasserstein_is_a_metric_of_samples(pair):
    real, fake = pair
    assert numbers(SlicedWasserstein(16), real, fake) == {
        "sliced_wasserstein": sliced_wasserstein(real, fake, 16)
    }
    with pytest.raises(ConfigurationError, match="num_projections=0"):
        SlicedWasserstein(0)


# Maximum mean discrepancy


def test_mmd_against_every_pair(pair, monkeypatch):
    real, fake = (x[:9, :2] for x in pair)
    widths = (0.5, 2.0)

    def mean(a, b, same):
        found = [
            sum(math.exp(-((p - q).square().sum().item()) / (2 * h * h)) for h in widths) / 2
            for i, p in enumerate(a)
            for j, q in enumerate(b)
            if not (same and i == j)
        ]
        return np.mean(found)

    expected = mean(real, real, True) + mean(fake, fake, True) - 2 * mean(real, fake, False)
    monkeypatch.setattr(mmd_module, "_ENTRIES", 20)
    assert maximum_mean_discrepancy(real, fake, widths) == pytest.approx(expected, rel=1e-12)


def test_mmd_of_gaussians(generator):
    """E k = (h²/(h² + v))^(D/2) exp(−‖δ‖²/(2(h² + v))), v the sum of variances; 4 standard errors."""
    h, d, s, delta = 0.7, 2, 1.5, torch.tensor([0.4, -0.3], dtype=D)

    def mean(v, shift2):
        return (h * h / (h * h + v)) ** (d / 2) * math.exp(-shift2 / (2 * (h * h + v)))

    expected = mean(2, 0) + mean(2 * s * s, 0) - 2 * mean(1 + s * s, delta.square().sum().item())
    found = []
    for _ in range(200):
        x, y = torch.randn(2, 40, d, dtype=D, generator=generator)
        found.append(maximum_mean_discrepancy(x, s * y + delta, [h]))
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / math.sqrt(len(found))


def test_widths_come_from_the_real_examples(pair):
    real, fake = pair
    unit = np.median([np.linalg.norm(a - b) for i, a in enumerate(real.numpy()) for b in real.numpy()[:i]])
    assert median_distance(real) == pytest.approx(unit, rel=1e-2)  # torch takes the lower of two middle ones
    expected = maximum_mean_discrepancy(real, fake, [median_distance(real)])
    assert numbers(MaximumMeanDiscrepancy([1.0]), real, fake) == {"maximum_mean_discrepancy": expected}
    assert median_distance(torch.ones(5, 2)) == 1


def test_mmd_settings():
    for scales in ([], [1.0, 0.0]):
        with pytest.raises(ConfigurationError, match="scales="):
            MaximumMeanDiscrepancy(scales)
    with pytest.raises(ConfigurationError, match="at least 2"):
        maximum_mean_discrepancy(torch.ones(1, 2), torch.ones(5, 2), [1.0])


# All of them


def test_metrics_are_named_in_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--metrics", type=list[SampleQualityMetric])
    text = "metrics: [FrechetDistance, {class_path: KernelDistance, init_args: {subset_size: 9}}]"
    frechet, kernel = parser.instantiate_classes(parser.parse_string(text)).metrics
    assert spec(frechet) == {"class_path": "scorelight.FrechetDistance"}
    assert kernel.subset_size == 9 and spec(kernel)["class_path"] == "scorelight.KernelDistance"
