"""The cache of statistics: what is asked is what one gets, whatever is in the folder."""

import random
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from support.contexts import one_process
from support.corruption import corrupted

from scorelight import DigitsDataModule, FeatureExtractor, PixelFeatures
from scorelight.evaluation import reference
from scorelight.evaluation.reference import reference_set
from scorelight.metrics import Features, FrechetDistance, KernelDistance
from scorelight.storage.npz import read_npz, write_npz


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "features"


@pytest.fixture
def computed(monkeypatch):
    """How often features were computed."""
    calls, compute = [], reference._compute
    monkeypatch.setattr(reference, "_compute", lambda *args: calls.append(1) or compute(*args))
    return calls


def real(features=None, data=None, metric=None):
    data, metrics = data or DigitsDataModule(), [metric or FrechetDistance()]
    return reference_set(features or PixelFeatures(), data, "train", metrics, one_process())


CLASS = """
class Mean(FeatureExtractor):
    def extract(self, x):
        return Features(x.flatten(1).float(){})
"""


def features_of(module, code):
    """A class of one name in a module of somebody's own."""
    space = types.ModuleType(module)
    space.__dict__.update(FeatureExtractor=FeatureExtractor, Features=Features)
    sys.modules[module] = space
    exec(CLASS.format(code), space.__dict__)
    return space.Mean()


@pytest.mark.parametrize(
    "other", [("one", " * 2"), ("two", " * 2"), ("two", "")], ids=["edited", "two modules", "the same code"]
)
def test_classes_of_one_name_have_statistics_of_their_own(folder, computed, monkeypatch, other):
    for module in ("one", "two"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    first, second = features_of("one", ""), features_of(*other)
    assert first.key != second.key
    mean = real(first).mean
    assert torch.equal(real(second).mean, mean * (2 if other[1] else 1))
    assert len(computed) == 2 and len(list(folder.iterdir())) == 2
    assert torch.equal(real(first).mean, mean) and len(computed) == 2
    for module in ("one", "two"):
        sys.modules.pop(module, None)


class Contrast(DigitsDataModule):
    """Images that are stored alike and that the model sees otherwise."""

    def __init__(self, contrast=1.0):
        super().__init__()
        self.contrast = contrast

    def scale(self, x):
        return super().scale(x) * self.contrast


def test_other_preprocessing_has_statistics_of_its_own(folder, computed):
    bright, dull = real(data=Contrast(1.0)), real(data=Contrast(0.5))
    assert len(computed) == 2 and (bright.cov.trace() / dull.cov.trace()).item() == pytest.approx(4, rel=0.05)
    assert torch.equal(real(data=Contrast(0.5)).mean, dull.mean) and len(computed) == 2


@pytest.mark.parametrize("turn", range(6))
def test_a_damaged_file_is_named_and_made_again(folder, computed, turn, recwarn):
    first = real()
    (path,) = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes(corrupted(content, turn, random.Random(turn)))
    again = real()
    assert torch.equal(again.mean, first.mean) and torch.equal(again.cov, first.cov)
    if len(computed) == 2:  # a bit that nothing depends on may be flipped
        assert f"{path} is damaged and will be computed again" in str(recwarn.pop(UserWarning).message)
    assert torch.equal(real().mean, first.mean) and len(computed) <= 2


def test_a_file_that_was_put_there_is_not_used(folder, computed):
    """Renamed, or of other features, or written by an older version, which stated no key."""
    pixels = real()
    (path,) = folder.iterdir()
    other = folder / "other.npz"
    arrays = read_npz(path)
    real(data=DigitsDataModule(seed=1))
    (second,) = (p for p in folder.iterdir() if p != path)
    computed.clear()
    shutil.copy(second, path)
    assert torch.equal(real().mean, pixels.mean) and len(computed) == 1
    write_npz(path, arrays | {"cache_key": np.str_("[]"), "mu": arrays["mu"] + 1})
    assert torch.equal(real().mean, pixels.mean) and len(computed) == 2
    write_npz(path, {k: v for k, v in arrays.items() if k != "cache_key"})
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(real().mean, pixels.mean)
    assert len(computed) == 3 and not other.exists()


def test_a_change_of_scorelight_itself_asks_for_new_statistics(folder, computed, monkeypatch):
    real()
    from scorelight.evaluation import stores

    monkeypatch.setattr(stores, "own_code", lambda: "another")
    real()
    assert len(computed) == 2


def test_features_of_each_example_are_computed_when_a_metric_needs_them(folder, computed):
    real()
    assert real(metric=KernelDistance()).features.shape == (1438, 64)
    assert real(metric=KernelDistance()).count == real().count and len(computed) == 2


def test_without_a_place_for_the_cache_statistics_are_computed_each_time(tmp_path, monkeypatch, computed):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SCORELIGHT_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        with pytest.warns(UserWarning, match="statistics of real data cannot be kept there"):
            assert real().count == 1438
    assert len(computed) == 2
