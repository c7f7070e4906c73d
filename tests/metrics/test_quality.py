"""Samples that come in batch by batch, on one process and on several."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from scorelight import (
    ConfigurationError,
    DigitsFeatures,
    FeatureSet,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    MaximumMeanDiscrepancy,
    ModuleFeatures,
    PixelFeatures,
    PrecisionRecall,
    SampleQuality,
    SlicedWasserstein,
)
from scorelight.metrics import frechet_distance


def points(generator, real=53, fake=41):
    x = torch.randn(real, 3, generator=generator)
    return x, 0.8 * torch.randn(fake, 3, generator=generator) + 0.3


def every_metric():
    return [
        FrechetDistance(),
        KernelDistance(5, 20),
        PrecisionRecall(),
        SlicedWasserstein(16),
        MaximumMeanDiscrepancy(),
    ]


def fill(quality, real, fake):
    quality.update(real, torch.arange(len(real)), real=True)
    quality.update(fake, torch.arange(len(fake)))
    return quality


def test_numbers_are_those_of_the_functions(generator):
    real, fake = points(generator)
    found = fill(SampleQuality(PixelFeatures(), every_metric()), real, fake).compute()
    expected = {}
    for metric in every_metric():
        expected |= metric(FeatureSet.of(real), FeatureSet.of(fake))
    assert {k: v.item() for k, v in found.items()} == expected
    assert all(v.dtype == torch.float64 for v in found.values())


@pytest.mark.parametrize("size", [1, 7, 100])
def test_batches_and_their_order_do_not_matter(size, generator):
    real, fake = points(generator)
    expected = fill(SampleQuality(PixelFeatures(), every_metric()), real, fake).compute()
    quality = SampleQuality(PixelFeatures(), every_metric())
    for x, is_real in ((real, True), (fake, False)):
        for index in torch.randperm(len(x), generator=generator).split(size):
            quality.update(x[index], index, real=is_real)
    for name, value in quality.compute().items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-9), name


def test_equals_torchmetrics(generator):
    class Flat(nn.Module):
        num_features = 12

        def forward(self, x):
            return x.flatten(1).float() / 255

    x, y = torch.randint(256, (2, 40, 3, 2, 2), dtype=torch.uint8, generator=generator)
    theirs = FrechetInceptionDistance(Flat(), antialias=False).set_dtype(torch.float64)
    theirs.update(x, real=True)
    theirs.update(y // 2, real=False)
    quality = SampleQuality(ModuleFeatures(nn.Flatten), [FrechetDistance()])
    ours = fill(quality, x, y // 2).compute()["frechet_distance"]
    assert ours.item() == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_features_are_kept_only_if_a_metric_needs_them(generator):
    x = torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8, generator=generator)
    for metrics, features, logits in (
        ([FrechetDistance()], False, False),
        ([FrechetDistance(), PrecisionRecall()], True, False),
        ([InceptionScore(2)], False, True),
    ):
        found = fill(SampleQuality(DigitsFeatures(), metrics), x, x).feature_set()
        assert (found.features is not None, found.logits is not None) == (features, logits)
        assert found.key == DigitsFeatures().key and found.count == 9


def test_given_statistics_stay_and_nothing_else_does(generator):
    real, fake = points(generator)
    key = PixelFeatures().key
    quality = SampleQuality(PixelFeatures(), [FrechetDistance()], FeatureSet.of(real, key=key))
    for x in (fake, fake[:20] + 1):
        quality.update(x)
        a, b = FeatureSet.of(real), FeatureSet.of(x)
        expected = frechet_distance(a.mean, a.cov, b.mean, b.cov)
        assert quality.compute()["frechet_distance"].item() == pytest.approx(expected, rel=1e-12)
        quality.reset()
    with pytest.raises(ConfigurationError, match="give one of both"):
        quality.update(real, real=True)


def test_the_extractor_is_no_part_of_the_state():
    features = DigitsFeatures()
    quality = SampleQuality(features, [FrechetDistance()])
    assert quality.features is features
    assert not quality.state_dict() and not list(quality.parameters())
    owner = nn.Module()
    owner.quality = quality
    owner.half()
    assert not owner.state_dict() and next(features.parameters()).dtype == torch.float32


def test_works_inside_and_outside_of_inference_mode(generator):
    real, fake = points(generator)
    quality = SampleQuality(PixelFeatures(), every_metric())
    with torch.inference_mode():
        quality.update(real, real=True)
        quality.update(fake[:20])
    quality.update(fake[20:])
    quality.compute()
    quality.reset()
    fill(quality, real, fake).compute()


def test_statistics_of_other_features_are_an_error(generator):
    real, _ = points(generator)
    with pytest.raises(ConfigurationError, match=r"were made by other-1, not by scorelight.PixelFeatures-"):
        SampleQuality(PixelFeatures(), [FrechetDistance()], FeatureSet.of(real, key="other-1"))
    moments = FeatureSet.of(real)
    moments = FeatureSet(0, moments.mean, moments.cov)  # as pytorch-fid's files are
    quality = SampleQuality(PixelFeatures(), [PrecisionRecall()], moments)
    quality.update(real)
    with pytest.raises(ConfigurationError, match="PrecisionRecall needs the features of every example"):
        quality.compute()


def test_what_cannot_be_judged_is_an_error(generator):
    real, fake = points(generator)
    quality = SampleQuality(PixelFeatures(), [FrechetDistance()])
    quality.update(real, real=True)
    quality.update(fake[:0])
    with pytest.raises(ConfigurationError, match="no fake examples"):
        quality.compute()
    quality.update(fake, torch.arange(len(fake)))
    quality.update(fake[:2], torch.arange(2))
    with pytest.raises(ConfigurationError, match=r"2 fake examples came in twice.*use_distributed_sampler"):
        quality.compute()
    quality.update(fake)
    with pytest.raises(ConfigurationError, match="43 of 84 fake examples came with their index"):
        quality.compute()
    with pytest.raises(ConfigurationError, match="frechet_distance is computed twice"):
        fill(SampleQuality(PixelFeatures(), [FrechetDistance(), FrechetDistance()]), real, fake).compute()


SCRIPT = """
import json, sys, torch
torch.set_num_threads(1)
from torch import distributed, multiprocessing
from scorelight import *

def run(rank, world, size, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous{world}-{size}",
                                   rank=rank, world_size=world)
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(53, 3, generator=generator), 0.8 * torch.randn(41, 3, generator=generator) + 0.3
    metrics = [FrechetDistance(), KernelDistance(5, 20), PrecisionRecall(), SlicedWasserstein(16),
               MaximumMeanDiscrepancy()]
    quality = SampleQuality(PixelFeatures(), metrics)
    def fill(few):
        for x, is_real in ((real, True), (fake, False)):
            num = world - 1 if few else len(x)  # the last rank has none
            for index in torch.split(torch.arange(rank, len(x) if not few else num, world), size):
                quality.update(x[index], index, real=is_real)
            if few and rank == 0:  # and the first nearly all
                rest = torch.arange(num, len(x))
                quality.update(x[rest], rest, real=is_real)
    found = []
    for few in (False, True):
        fill(few)
        first = quality.compute()
        half = quality.feature_set()
        assert half.count == 41 and len(half.features) == 41
        found.append({k: v.item() for k, v in first.items()})
        quality.reset()
    with open(f"{folder}/{world}-{size}-{rank}.json", "w") as file:
        json.dump(found, file)

if __name__ == "__main__":
    folder = sys.argv[1]
    for world in (2, 3):
        for size in (1, 100):
            multiprocessing.start_processes(run, (world, size, folder), nprocs=world, start_method="fork")
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two and of three processes has found, with all at work and with the last one idle."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(folder / "script.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.slow
def test_several_processes_find_what_one_finds(ranks, generator):
    one = fill(SampleQuality(PixelFeatures(), every_metric()), *points(generator)).compute()
    expected = {name: value.item() for name, value in one.items()}
    assert len(ranks) == 2 * (2 + 3)
    for found in ranks.values():
        for numbers in found:
            assert numbers == pytest.approx(expected, rel=1e-9)


def test_statistics_of_real_examples_can_be_saved_and_used_again(tmp_path, generator):
    real, fake = points(generator)
    first = fill(SampleQuality(PixelFeatures(), every_metric()), real, fake)
    first.feature_set(real=True).save(tmp_path / "real.npz")
    again = SampleQuality(PixelFeatures(), every_metric(), FeatureSet.load(tmp_path / "real.npz"))
    again.update(fake)
    for name, value in again.compute().items():
        np.testing.assert_allclose(value, first.compute()[name], rtol=1e-12)
