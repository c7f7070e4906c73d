"""Inception with random weights, end to end against torch-fidelity and torchmetrics."""

import shutil
import urllib.error

import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset
from torch_fidelity import feature_extractor_inceptionv3 as inceptionv3
from torchmetrics.image.fid import FrechetInceptionDistance

from scorelight import (
    ConfigurationError,
    FrechetDistance,
    InceptionFeatures,
    InceptionScore,
    KernelDistance,
    PrecisionRecall,
    SampleQuality,
)

NAME = "weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights, as torch-fidelity names them."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # its constructor loads weights: none here
        patch.setattr(inceptionv3, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(inceptionv3.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = inceptionv3.FeatureExtractorInceptionV3("random", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


class Images(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


def images(n, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty cache of torch, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fail(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    return tmp_path / "hub" / "checkpoints" / NAME


@pytest.mark.slow
def test_all_numbers_are_those_of_torch_fidelity(weights):
    """And the Fréchet distance of 8 images in 2,048 dimensions is the exact one, which theirs is not."""
    real, fake = images(8, 3, 0), images(8, 3, 1) // 2
    metrics = [FrechetDistance(), KernelDistance(4, 6), InceptionScore(3), PrecisionRecall(3)]
    quality = SampleQuality(InceptionFeatures(weights), metrics)
    quality.update(real, real=True)
    quality.update(fake)
    ours = {name: value.item() for name, value in quality.compute().items()}
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(fake), input2=Images(real), fid=True, kid=True, isc=True, prc=True,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=weights,
        kid_subsets=4, kid_subset_size=6, isc_splits=3, prc_neighborhood=3, batch_size=8,
        cuda=False, cache=False, verbose=False, save_cpu_ram=True,
    )  # fmt: skip
    x, y = (quality.feature_set(r).features.double() for r in (True, False))
    a, b = ((v - v.mean(0)) / 7**0.5 for v in (x, y))
    exact = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum()
    exact -= 2 * torch.linalg.svdvals(a @ b.T).sum()
    assert ours["frechet_distance"] == pytest.approx(exact.item(), rel=1e-9)
    assert ours["frechet_distance"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert ours["inception_score_std"] == pytest.approx(theirs["inception_score_std"], abs=1e-9)
    rounding = 1e-6 * (x.square().sum(1).mean().item() / 2048 + 1) ** 3  # theirs is in float32
    assert ours["kernel_distance"] == pytest.approx(theirs["kernel_inception_distance_mean"], abs=rounding)
    assert ours["kernel_distance_std"] == pytest.approx(theirs["kernel_inception_distance_std"], abs=rounding)
    for name in ("precision", "recall"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6)


@pytest.mark.slow
def test_with_more_images_than_features_the_distance_is_that_of_torch_fidelity(weights):
    real, fake = images(80, 3, 0), images(80, 3, 1) // 2
    quality = SampleQuality(InceptionFeatures(weights, 64), [FrechetDistance()])
    quality.update(real, real=True)
    quality.update(fake)
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(fake), input2=Images(real), fid=True, feature_layer_fid="64",
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=weights,
        batch_size=80, cuda=False, cache=False, verbose=False, save_cpu_ram=True,
    )  # fmt: skip
    expected = theirs["frechet_inception_distance"]
    assert quality.compute()["frechet_distance"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.one_in(4)
def test_an_earlier_layer_has_a_name_of_its_own_and_no_logits(weights):
    early, last = InceptionFeatures(weights, 64), InceptionFeatures(weights)
    assert early.key != last.key
    assert early(images(1, 3, 0)).values.shape == (1, 64) and early(images(1, 3, 0)).logits is None
    with pytest.raises(ConfigurationError, match="layer=65: one of 64, 192, 768 and 2048"):
        InceptionFeatures(weights, 65)


@pytest.mark.slow
def test_features_are_those_of_torchmetrics_without_antialiasing(weights):
    theirs = FrechetInceptionDistance(antialias=False, feature_extractor_weights_path=weights).inception
    x = images(2, 3, 0)
    torch.testing.assert_close(InceptionFeatures(weights)(x).values, theirs(x), rtol=1e-5, atol=1e-7)


def test_weights_from_a_path_and_from_the_cache_of_torch(weights, alone):
    alone.parent.mkdir(parents=True)
    shutil.copy(weights, alone)
    cached, named = InceptionFeatures(), InceptionFeatures(weights)
    assert cached.key == named.key
    grey = images(1, 1, 2)
    found = cached(grey)
    assert found.values.shape == (1, 2048) and found.logits.shape == (1, 1008)
    assert torch.equal(found.values, named(grey.repeat(1, 3, 1, 1)).values)


def test_missing_weights_say_what_to_put_where(alone, capsys):
    with pytest.raises(ConfigurationError, match="no route") as error:
        InceptionFeatures()
    for part in ("https://github.com/toshas/torch-fidelity/", str(alone), "weights=PATH"):
        assert part in str(error.value)
    assert "Downloading the Inception weights (91 MB)" in capsys.readouterr().err


def test_other_files_are_an_error_and_are_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("was unpickled",))

    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    torch.save(Bomb(), tmp_path / "b.pth")
    (tmp_path / "c.pth").write_text("words")
    for name in ("a.pth", "b.pth", "c.pth", "none.pth"):
        with pytest.raises(ConfigurationError, match=rf"features.weights=.*{name}"):
            InceptionFeatures(tmp_path / name)


def test_channels(weights):
    with pytest.raises(ConfigurationError, match="1 or 3 channels, not 4"):
        InceptionFeatures(weights)(images(1, 4, 0))
