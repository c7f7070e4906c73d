import pytest
import torch

from scorelight import DigitsDataModule, ToyDataModule
from scorelight.data import Arrays, EightBitDataModule
from scorelight.data.access import examples_of
from scorelight.images import to_uint8


class Some(EightBitDataModule):
    """Every value of a byte, 16 in each of 16 images."""

    shape = (1, 4, 4)

    def arrays(self):
        x = torch.arange(256, dtype=torch.uint8).reshape(16, 1, 4, 4)
        label = torch.arange(16)
        return Arrays(x, {"label": label}), Arrays(x[:5], {"label": label[:5]})


def test_bytes_become_equally_spaced_levels_and_pictures_turn_them_back():
    data = Some()
    data.setup("fit")
    x = data.on_after_batch_transfer(data.train.all(), 0).x0
    levels = torch.linspace(-1, 1, data.num_bins, dtype=torch.float64)
    torch.testing.assert_close(x.flatten().double(), levels, rtol=0, atol=2**-23)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert torch.equal(to_uint8(x), data.train.x)


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_whole_split_is_given_in_order_as_stored_and_never_mirrored(name):
    data = Some(flip=True)
    batches = list(data.eval_loader(name, batch_size=3))
    stored = getattr(data, name)
    assert torch.equal(torch.cat([b.x0 for b in batches]), stored.x)
    assert torch.equal(torch.cat([b.cond["label"] for b in batches]), stored.cond["label"])
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(len(stored)))
    assert {len(b.x0) for b in batches[:-1]} == {3}


def test_sizes_are_those_of_the_splits():
    data = DigitsDataModule(val_fraction=0.25)
    train, val = data.sizes()
    assert train + val == 1797
    assert (train, val) == (len(data.train), len(data.val))


def test_validation_is_the_validation_split_and_never_mirrored():
    data = Some(flip=True)
    data.setup("validate")
    assert torch.equal(torch.cat([b.x0 for b in data.val_dataloader()]), data.val.x)


def test_the_training_set_is_all_that_training_can_see():
    data = Some(flip=True)
    seen = {tuple(x) for x in examples_of(data, "train").augmented().x0.flatten(1).tolist()}
    loader, given = data.train_dataloader(), set()
    for _ in range(40):
        given |= {tuple(x) for b in loader for x in data.scale(b.x0).flatten(1).tolist()}
    assert given == seen and len(seen) == 32
    assert torch.equal(examples_of(data, "train").augmented().cond["label"], torch.arange(16).repeat(2))
    assert len(examples_of(Some(), "train").augmented().x0) == 16


def test_fingerprints_name_the_data_the_split_and_the_content():
    digits = DigitsDataModule()
    assert digits.fingerprint().startswith("digits-train-") and len(digits.fingerprint()) == 13 + 16
    assert digits.fingerprint() == DigitsDataModule(batch_size=3).fingerprint()
    prints = [DigitsDataModule(seed=seed).fingerprint(s) for seed in (0, 1) for s in ("train", "val")]
    toys = [ToyDataModule(density).fingerprint() for density in ("two_moons", "swiss_roll")]
    assert len({*prints, *toys}) == 6
