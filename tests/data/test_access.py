"""The examples of any data module, ours or a stranger's, as the model sees them."""

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from scorelight import ConfigurationError, DigitsDataModule
from scorelight.batch import Batch
from scorelight.data.access import examples_of

X = torch.arange(11 * 3).reshape(11, 1, 3, 1).expand(11, 1, 3, 2).float()
LABEL = torch.arange(11)


class Foreign(LightningDataModule):
    """Shuffled, cut, in tuples; a hook scales what the model sees."""

    setups = 0

    def setup(self, stage):
        self.setups += 1
        self.data = TensorDataset(X, LABEL)

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=4, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return [(X[:2], LABEL[:2]), (X[2:3], LABEL[2:3])]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, label = batch
        return x / 2, {"label": label}


def test_every_example_of_a_strangers_loader_is_there_once_and_in_order():
    examples = examples_of(Foreign(), "train")
    x0, cond, _ = examples.all()
    assert len(examples) == 11 and examples.shape == (1, 3, 2)
    assert torch.equal(x0, X / 2) and torch.equal(cond["label"], LABEL)


def test_a_loader_that_is_no_dataloader_is_passed_through_once():
    x0, cond, _ = examples_of(Foreign(), "val").all()
    assert torch.equal(x0, X[:3] / 2) and torch.equal(cond["label"], LABEL[:3])


def test_the_fingerprint_changes_with_the_content_and_the_split_only():
    class Changed(Foreign):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0], {"label": batch[1]}

    first, again = (examples_of(Foreign(), "train").fingerprint() for _ in range(2))
    assert first == again and first.startswith("foreign-train-")
    others = [examples_of(Foreign(), "val").fingerprint(), examples_of(Changed(), "train").fingerprint()]
    assert len({first.rpartition("-")[2], *(o.rpartition("-")[2] for o in others)}) == 3


def test_our_own_examples_are_scaled_and_in_the_order_of_the_set():
    data = DigitsDataModule()
    examples = examples_of(data, "val")
    stored = data.examples("val").all()
    assert torch.equal(examples.all().x0, data.scale(stored.x0)) and examples.num_bins == 17
    first = examples.first(5)
    assert torch.equal(first.x0, data.scale(stored.x0[:5]))
    assert torch.equal(first.cond["label"], stored.cond["label"][:5])
    index = [torch.tensor([7, 3]), torch.tensor([1])]
    batches = list(examples.batches(index))
    assert torch.equal(torch.cat([b.x0 for b in batches]), data.scale(stored.x0[[7, 3, 1]]))
    assert [b.indices.tolist() for b in batches] == [[7, 3], [1]]


@pytest.mark.parametrize(("num", "kept"), [(1, [0]), (4, [0, 3, 6, 9]), (11, range(11)), (99, range(11))])
def test_a_number_of_examples_is_spread_evenly(num, kept):
    assert examples_of(Foreign(), "train").spread(num).cond["label"].tolist() == list(kept)


def test_mirror_images_are_there_where_training_mirrors():
    class Mirrored(Foreign):
        flip = True

    x0, cond, _ = examples_of(Mirrored(), "train").augmented()
    assert torch.equal(x0, torch.cat([X, X.flip(-1)]) / 2)
    assert torch.equal(cond["label"], torch.cat([LABEL, LABEL]))
    assert len(examples_of(Foreign(), "train").augmented().x0) == 11


def test_a_module_that_a_trainer_has_set_up_is_not_set_up_again(make_trainer):
    data = Foreign()
    examples_of(data, "train")
    assert data.setups == 1
    data.trainer = make_trainer()
    examples_of(data, "train")
    assert data.setups == 1


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield X[0]


class Tensors(Foreign):
    """Bare tensors, and `Batch`es with indices."""

    def train_dataloader(self):
        return DataLoader(X, batch_size=4)

    def val_dataloader(self):
        return [Batch(X[:2], {"y": X[:2, 0, 0]}, torch.arange(2))]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


def test_other_kinds_of_batches_are_understood():
    assert torch.equal(examples_of(Tensors(), "train").all().x0, X)
    assert torch.equal(examples_of(Tensors(), "val").all().cond["y"], X[:2, 0, 0])


class WithoutLoader(LightningDataModule):
    pass


class Streaming(Tensors):
    def train_dataloader(self):
        return DataLoader(Endless(), batch_size=4)

    def val_dataloader(self):
        return iter([X])


class Empty(Tensors):
    def train_dataloader(self):
        return []


@pytest.mark.parametrize(
    ("data", "split", "named"),
    [
        (WithoutLoader(), "train", ["WithoutLoader", "train_dataloader", "define it"]),
        (WithoutLoader(), "val", ["WithoutLoader", "val_dataloader"]),
        (Streaming(), "train", ["Streaming.train_dataloader", "__len__"]),
        (Streaming(), "val", ["Streaming.val_dataloader", "__len__"]),
        (Empty(), "train", ["Empty.train_dataloader", "no batch"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, LightningDataModule) else None,
)
def test_what_is_missing_is_named(data, split, named):
    with pytest.raises(ConfigurationError) as error:
        examples_of(data, split)
    assert all(word in str(error.value) for word in named), error.value


def test_an_endless_stream_is_cut_where_a_number_of_examples_is_enough():
    assert len(examples_of(Streaming(), "train", limit=10)) == 10
