import pytest
import torch
from sklearn.datasets import load_digits

from scorelight import ConfigurationError, DigitsDataModule


def loaded(**kwargs):
    data = DigitsDataModule(**kwargs)
    data.setup("fit")
    return data


def rows(arrays):
    return {tuple(x) for x in arrays.x.flatten(1).tolist()}


def test_images_lie_in_minus_one_to_one_and_are_sklearns_own():
    data = loaded()
    batch = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert batch.x0.shape[1:] == data.shape == (1, 8, 8)
    assert batch.x0.min() == -1 and batch.x0.max() == 1
    assert rows(data.train) | rows(data.val) == {tuple(x) for x in load_digits().data.astype(int).tolist()}


def test_the_grey_levels_are_as_many_as_it_says():
    data = loaded()
    found = data.scale(data.train.x).unique()
    torch.testing.assert_close(found, torch.linspace(-1, 1, data.num_bins), rtol=0, atol=0)


def test_labels_stay_with_their_images():
    digits, data = load_digits(), loaded()
    label_of = {tuple(x): y for x, y in zip(digits.data.astype(int).tolist(), digits.target, strict=True)}
    for x, y in zip(data.train.x.flatten(1).tolist(), data.train.cond["label"].tolist(), strict=True):
        assert label_of[tuple(x)] == y


def test_the_split_is_disjoint_whole_and_fixed_by_the_seed():
    a, b, c = loaded(seed=3), loaded(seed=3), loaded(seed=4)
    assert len(a.train.x) + len(a.val.x) == 1797 and len(a.val.x) == round(0.2 * 1797)
    assert not rows(a.train) & rows(a.val)
    assert torch.equal(a.val.x, b.val.x) and not torch.equal(a.val.x, c.val.x)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_split_needs_both_sides(fraction):
    with pytest.raises(ConfigurationError, match="val_fraction"):
        loaded(val_fraction=fraction)
