"""Moments against numpy's, and files."""

from functools import reduce

import numpy as np
import pytest
import torch

from scorelight import ConfigurationError, FeatureSet
from scorelight.metrics import Moments
from scorelight.metrics import statistics as module

D = torch.float64


def merged(x, size):
    return FeatureSet.from_moments(reduce(Moments.merge, map(Moments.of, torch.split(x, size))))


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_moments_of_batches_are_those_of_numpy(size, generator):
    x = torch.randn(1000, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 3
    found = merged(x, size)
    assert found.count == 1000 and found.mean.dtype == found.cov.dtype == D
    np.testing.assert_allclose(found.mean, x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.cov, np.cov(x.double().numpy(), rowvar=False), rtol=1e-10)


@pytest.mark.parametrize("size", [1, 64])
@pytest.mark.parametrize(("mean", "accuracy"), [(1e4, 1e-8), (1e8, 1e-4)])
def test_features_far_from_zero_lose_no_digits(size, mean, accuracy, generator):
    """Standard deviation 1e-2: a difference of sums of squares would keep 16 − 12 digits, or none of them."""
    deviations = (torch.randn(500, 4, dtype=D, generator=generator) * 2**10).round() * 2.0**-16
    found = merged(deviations + mean, size)  # a sum without rounding, so that the answer is known
    expected = np.cov(deviations.numpy(), rowvar=False)
    np.testing.assert_allclose(found.cov, expected, rtol=0, atol=accuracy * expected.max())


def test_order_of_merging_does_not_matter(generator):
    parts = [Moments.of(torch.randn(n, 3, dtype=D, generator=generator)) for n in (1, 5, 20)]
    one, other = reduce(Moments.merge, parts), reduce(Moments.merge, parts[::-1])
    for name in ("mean", "scatter"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-12, atol=1e-14)


def test_one_example_has_no_covariance():
    with pytest.raises(ConfigurationError, match="at least 2"):
        FeatureSet.of(torch.zeros(1, 3))


@pytest.mark.parametrize("banks", [False, True])
def test_a_file_gives_back_what_was_saved(banks, tmp_path, generator):
    x, logits = torch.randn(9, 3, generator=generator), torch.randn(9, 2, generator=generator)
    saved = FeatureSet.of(x, logits if banks else None, "net-1")
    saved = saved if banks else FeatureSet(saved.count, saved.mean, saved.cov, key=saved.key)
    saved.save(tmp_path / "new" / "stats.npz")
    found = FeatureSet.load(tmp_path / "new" / "stats.npz")
    assert (found.count, found.key) == (9, "net-1")
    for name in ("mean", "cov", "features", "logits"):
        a, b = getattr(found, name), getattr(saved, name)
        assert (a is None and b is None) or torch.equal(a, b)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["stats.npz"]


def test_files_of_pytorch_fid_and_back(tmp_path, generator):
    x = torch.randn(20, 3, dtype=D, generator=generator).numpy()
    mu, sigma = x.mean(0), np.cov(x, rowvar=False)
    np.savez(tmp_path / "theirs.npz", mu=mu, sigma=sigma)
    found = FeatureSet.load(tmp_path / "theirs.npz")
    assert (found.count, found.key, found.features) == (0, "", None)
    found.save(tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz") as ours:  # as pytorch_fid.fid_score reads them
        np.testing.assert_array_equal(ours["mu"][:], mu)
        np.testing.assert_array_equal(ours["sigma"][:], sigma)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    FeatureSet.of(torch.eye(3)).save(tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()

    def full(file, *_, **__):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(module.np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="disk full"):
        FeatureSet.of(torch.ones(3, 3)).save(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_pairs_are_on_the_device_of_the_samples():
    for device in ("cpu", "meta"):
        real, fake = module.pair(torch.ones(2, 3), torch.ones(4, 3, device=device))
        assert real.device == fake.device == torch.device(device) and real.dtype == fake.dtype == D


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("was unpickled",))


def test_what_is_no_such_file_is_an_error(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, mu=np.array([Bomb()]), sigma=np.eye(1))
    with pytest.raises(ConfigurationError, match=r"a\.npz"):
        FeatureSet.load(path)
    np.savez(path, mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(ConfigurationError, match=r"\(2, 2\)"):
        FeatureSet.load(path)
    np.savez(path, images=np.zeros(3))
    with pytest.raises(ConfigurationError, match="mu"):
        FeatureSet.load(path)
    for content in (b"", b"PK\x03\x04 nothing", b"words"):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"a\.npz"):
            FeatureSet.load(path)
    with pytest.raises(ConfigurationError, match="No such file"):
        FeatureSet.load(tmp_path / "none.npz")
