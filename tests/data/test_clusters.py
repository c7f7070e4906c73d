"""Clusters: of equal size, those of separate groups, and labels in the place of the data's own."""

import math

import pytest
import torch

from scorelight import ClusteredDataModule, ConfigurationError, DigitsDataModule
from scorelight.data.access import examples_of
from scorelight.data.clusters import assign, balanced_clusters


def groups(num, size, generator, spread=0.1):
    """Points around corners that are far apart, and the corner of each."""
    label = torch.arange(num).repeat_interleave(size)
    return 10 * torch.eye(num)[label] + spread * torch.randn(len(label), num, generator=generator), label


def test_groups_of_equal_size_are_the_clusters(generator):
    x, label = groups(4, 50, generator)
    found = assign(x, *balanced_clusters(x, 4, generator), capacity=50)
    pairs = set(zip(label.tolist(), found.tolist(), strict=True))
    assert len(pairs) == len({k for _, k in pairs}) == 4


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("num", [3, 16])
def test_clusters_of_a_density_without_groups_have_one_size(num, power, generator):
    x = torch.randn(480, 5, generator=generator) ** power  # with 3, most of it is near 0
    found = assign(x, *balanced_clusters(x, num, generator), capacity=480 // num)
    assert found.bincount(minlength=num).tolist() == [480 // num] * num


def test_the_prices_alone_make_the_sizes_almost_equal(generator):
    x = torch.randn(2000, 2, generator=generator)
    sizes = assign(x, *balanced_clusters(x, 8, generator), capacity=2000).bincount(minlength=8)
    torch.testing.assert_close(sizes.float(), torch.full((8,), 250.0), rtol=0.15, atol=0)


def test_clusters_are_closer_to_their_points_than_those_that_they_began_with(generator):
    x = torch.randn(2000, 2, generator=generator)
    start = x[torch.randperm(2000, generator=torch.Generator().manual_seed(3))[:8]]
    means, prices = balanced_clusters(x, 8, torch.Generator().manual_seed(3))
    within, before = (
        (x - m[assign(x, m, p, 250)]).square().sum(1).mean()
        for m, p in ((means, prices), (start, torch.zeros(8)))
    )
    assert within < 0.8 * before


def test_a_full_cluster_keeps_its_nearest_points():
    x, means = torch.tensor([[0.0], [0.1], [0.2], [0.9]]), torch.tensor([[0.0], [1.0]])
    assert assign(x, means, torch.zeros(2), capacity=4).tolist() == [0, 0, 0, 1]
    assert assign(x, means, torch.zeros(2), capacity=2).tolist() == [0, 0, 1, 1]


def test_the_examples_remain_and_their_labels_are_clusters():
    plain, data = DigitsDataModule(batch_size=8), ClusteredDataModule(DigitsDataModule(batch_size=8), 6)
    assert (data.shape, data.num_bins, data.num_classes, data.batch_size) == ((1, 8, 8), 17, 6, 8)
    for split in ("train", "val"):
        x, cond, _ = examples_of(data, split).all()
        assert torch.equal(x, examples_of(plain, split).all().x0)
        assert set(cond) == {"label"} and set(cond["label"].tolist()) == set(range(6))
    sizes = examples_of(data, "train").all().cond["label"].bincount().float()
    assert sizes.max() <= math.ceil(sizes.sum() / 6) < 1.02 * sizes.min()
    assert data.fingerprint() != plain.fingerprint()


def test_clusters_depend_on_the_seed_alone():
    def labels(seed):
        return examples_of(ClusteredDataModule(DigitsDataModule(), 6, seed=seed), "train").all().cond["label"]

    assert torch.equal(labels(0), labels(0))
    assert not torch.equal(labels(0), labels(1))


def test_the_sizes_of_batches_are_its_own_or_those_of_the_other_module():
    inner = DigitsDataModule(batch_size=8, val_batch_size=9)
    own = ClusteredDataModule(inner, 6, batch_size=4, val_batch_size=5)
    assert (own.batch_size, own.val_batch_size) == (4, 5)
    inherited = ClusteredDataModule(inner, 6)
    assert (inherited.batch_size, inherited.val_batch_size) == (8, 9)
    with pytest.raises(ConfigurationError, match=r"data\.batch_size=0"):
        ClusteredDataModule(inner, 6, batch_size=0)


def test_one_cluster_is_refused():
    with pytest.raises(ConfigurationError, match=r"data\.num_clusters=1: must be at least 2"):
        ClusteredDataModule(DigitsDataModule(), 1)


def test_more_clusters_than_examples_are_refused():
    data = ClusteredDataModule(DigitsDataModule(), 5000)
    with pytest.raises(
        ConfigurationError, match=r"num_clusters=5000: there are \d+ training .* fewer clusters"
    ):
        data.setup("fit")
