"""Labels that do not fit the network are refused, from every kind of data, before anything is written."""

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger
from support.labelled import NUM, POINTS, Foreign, Hooked, Items, Own, Stating, items, tensors
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from scorelight import MLP, ConfigurationError, DigitsDataModule, ToyDataModule

CLASSES = 3
RIGHT = torch.arange(NUM) % CLASSES
WRONG = {
    "none": (None, "has no labels"),
    "from 1": (RIGHT + 1, "label 3 is no class"),
    "above": (torch.arange(NUM) % 5, "label 3 is no class"),
    "below zero": (RIGHT - 1, "label -1 is no class"),
    "floating-point": (RIGHT.float(), "type torch.float32"),
    "not a number": (torch.full((NUM,), torch.nan), "type torch.float32"),
    "in a column": (RIGHT[:, None], r"shape \(\d+, 1\)"),
    "true and false": (RIGHT > 0, "type torch.bool"),
}
KINDS = [tensors, items, Own, Foreign, Hooked]
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def fit(make_module, make_trainer, tmp_path):
    """Train 6 steps with a logger that writes; which files are there afterwards."""

    def run(data, num_classes=CLASSES, **changes):
        network = MLP((2,), 8, 1, num_classes=num_classes)
        trainer = make_trainer(max_steps=6, limit_val_batches=0, logger=CSVLogger(tmp_path / "logs"))
        loader = data if isinstance(data, DataLoader) else None
        trainer.fit(make_module(network=network, **changes), data, loader)
        return trainer.global_step

    return run


@every_kind
@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_right_labels_train(kind, rate, dtype, fit):
    assert fit(kind(RIGHT.to(dtype)), condition_dropout=rate) == 6


@pytest.mark.one_in(2)
@every_kind
@pytest.mark.parametrize("which", WRONG)
def test_labels_that_are_no_classes_are_refused_before_the_first_step(kind, which, fit, tmp_path):
    label, message = WRONG[which]
    if kind is Hooked and which == "true and false":
        pytest.skip("booleans minus 7 are numbers")
    with pytest.raises(ConfigurationError, match=message):
        fit(kind(label))
    early = kind in (tensors, items)  # other data are looked at when they are set up
    assert (tmp_path / "logs").exists() != early


def test_a_data_module_that_needs_no_setup_is_looked_at_before_anything_is_written(fit, tmp_path):
    class Ready(LightningDataModule):
        def train_dataloader(self):
            return tensors(RIGHT + 1)

    with pytest.raises(ConfigurationError, match="Ready: label 3 is no class"):
        fit(Ready())
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("kind", [tensors, Own, Foreign])
def test_fewer_classes_are_refused_where_all_labels_are_at_hand(kind, fit):
    with pytest.raises(
        ConfigurationError, match=r"num_classes=3: the number of classes of .* is 2; set .* to 2"
    ):
        fit(kind(RIGHT % 2))


@pytest.mark.parametrize("condition_dropout", [0.0, 0.9])
def test_a_label_in_a_later_batch_is_a_message(fit, condition_dropout):
    label = torch.zeros(NUM, dtype=torch.long)
    label[8:] = CLASSES
    with pytest.raises(ConfigurationError, match="label 3 is no class"):
        fit(items(label), condition_dropout=condition_dropout)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: Stating(None), "Stating has no labels"),
        (lambda: Stating(10, RIGHT), "the number of classes of Stating is 10"),
        (lambda: Stating(2, RIGHT), "the number of classes of Stating is 2"),
        (ToyDataModule, "ToyDataModule has no labels"),
    ],
)
def test_what_a_data_module_states_is_compared_before_anything_is_written(data, message, fit, tmp_path):
    with pytest.raises(ConfigurationError, match=message):
        fit(data())
    assert not (tmp_path / "logs").exists()


def test_a_stated_number_stands_even_if_a_class_is_rare(fit):
    assert fit(Stating(3, RIGHT % 2)) == 6


@every_kind
@pytest.mark.parametrize("which", ["none", "above", "floating-point"])
def test_a_network_without_classes_takes_any_labels(kind, which, fit):
    assert fit(kind(WRONG[which][0]), num_classes=None) == 6


def test_a_stream_is_checked_as_it_passes_and_not_before(fit):
    class Stream(IterableDataset):
        passes = 0

        def __iter__(self):
            Stream.passes += 1
            yield from zip(POINTS, RIGHT + (Stream.passes > 1), strict=True)

    with pytest.raises(ConfigurationError, match="label 3 is no class"):
        fit(DataLoader(Stream(), 8))
    assert Stream.passes == 2  # one of 5 steps


def test_looking_at_labels_changes_nothing_that_is_drawn(fit, monkeypatch):
    """The order of a shuffling loader is drawn from the global generator: alike with and without the look."""
    orders = []
    for looks in (True, False):
        seen = []
        if not looks:
            monkeypatch.setattr("scorelight.training.trained.check_stated_classes", lambda *_: None)

        def collate(pairs, seen=seen):
            seen.append([x[0].item() for x, _ in pairs])
            return default_collate(pairs)

        torch.manual_seed(0)
        fit(DataLoader(Items(RIGHT), 8, shuffle=True, collate_fn=collate))
        orders.append(seen)
    assert len(orders[0]) == len(orders[1]) + 1 and orders[0][1:] == orders[1]


def test_images_that_nobody_has_scaled_are_refused(fit):
    with pytest.raises(ConfigurationError, match=r"x0 of type torch\.uint8; give floating-point numbers"):
        fit(DataLoader(TensorDataset(POINTS.byte(), RIGHT), 8))


@pytest.mark.filterwarnings("ignore:Total length of")
@pytest.mark.parametrize("num_classes", [None, CLASSES])
def test_data_without_a_batch_are_refused(num_classes, fit):
    with pytest.raises(ConfigurationError, match="give no batch"):
        fit(DataLoader([], 8), num_classes=num_classes)


def test_validation_and_digits_are_checked_too(make_module, make_trainer):
    network = MLP((1, 8, 8), 8, 1, num_classes=9)
    with pytest.raises(ConfigurationError, match="the number of classes of DigitsDataModule is 10"):
        make_trainer().validate(make_module(network=network), DigitsDataModule(), verbose=False)
