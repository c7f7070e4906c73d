from itertools import chain, islice

import pytest
import torch

from scorelight.data import ArrayDataModule, Arrays, EvalLoader, SeedDataModule, TrainLoader
from scorelight.errors import ConfigurationError


def arrays(size):
    return Arrays(torch.arange(size)[:, None], {"label": torch.arange(size) % 3})


def stream(loader, batches):
    """The first batches of the endless stream, over as many passes as it takes."""

    def endless():
        while True:
            yield from loader

    return [b.indices.tolist() for b in islice(endless(), batches)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world_size):
    whole = stream(TrainLoader(arrays(20), 6, seed=0, rank=0, world_size=1), 10)
    ranks = [TrainLoader(arrays(20), 6 // world_size, 0, r, world_size) for r in range(world_size)]
    parts = zip(*(stream(loader, 10) for loader in ranks), strict=True)
    assert [sorted(chain(*p)) for p in parts] == [sorted(b) for b in whole]


def test_the_stream_is_whole_epochs_in_new_orders_and_drops_nothing():
    flat = [*chain(*stream(TrainLoader(arrays(20), 6, 0, 0, 1), 10))]
    epochs = [flat[i : i + 20] for i in (0, 20, 40)]
    assert all(sorted(e) == list(range(20)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3


def test_the_order_is_that_of_the_seed():
    a, b, c = (stream(TrainLoader(arrays(20), 6, seed, 0, 1), 4) for seed in (0, 0, 1))
    assert a == b != c


@pytest.mark.parametrize("stop", [1, 3, 4, 8])
def test_a_loader_goes_on_where_its_state_was_taken(stop):
    first = TrainLoader(arrays(20), 6, 0, 0, 1)
    begun = stream(first, stop)
    second = TrainLoader(arrays(20), 6, 0, 0, 1)
    second.load_state_dict(first.state_dict())
    assert begun + stream(second, 10 - stop) == stream(TrainLoader(arrays(20), 6, 0, 0, 1), 10)


def test_a_pass_has_the_length_it_says_and_a_resumed_one_the_rest():
    loader = TrainLoader(arrays(20), 6, 0, 0, 1)
    assert len(list(loader)) == len(loader) == 3
    next(iter(loader))
    assert len(list(loader)) == 2


def test_a_batch_larger_than_the_data_runs_over_into_the_next_epoch():
    (batch,) = stream(TrainLoader(arrays(5), 12, 0, 0, 1), 1)
    assert sorted(batch[:5]) == sorted(batch[5:10]) == list(range(5))


@pytest.mark.parametrize(
    ("size", "batch_size", "world_size"), [(13, 4, 2), (13, 4, 3), (1, 4, 2), (12, 3, 1)]
)
def test_evaluation_sees_every_example_once(size, batch_size, world_size):
    loaders = [EvalLoader(arrays(size), batch_size, r, world_size) for r in range(world_size)]
    seen = [b.indices.tolist() for loader in loaders for b in loader]
    assert sorted(chain(*seen)) == list(range(size))
    assert [len(list(loader)) for loader in loaders] == [len(loader) for loader in loaders]


def test_a_batch_keeps_examples_labels_and_indices_together():
    for batch in TrainLoader(arrays(20), 6, 0, 0, 1):
        assert torch.equal(batch.x0[:, 0], batch.indices)
        assert torch.equal(batch.cond["label"], batch.indices % 3)


def pictures(size):
    """Images of which each tells its number and whether it is mirrored."""
    x = torch.zeros(size, 1, 1, 2, dtype=torch.long)
    x[..., 0] = torch.arange(1, size + 1)[:, None, None]
    return Arrays(x, {})


def flips(loader, batches):
    """(example, mirrored) in the order given."""

    def endless():
        while True:
            yield from loader

    found = []
    for batch in islice(endless(), batches):
        left, right = batch.x0[:, 0, 0].unbind(-1)
        assert torch.equal(left + right, batch.indices + 1) and not (left * right).any()
        found.append([*zip(batch.indices.tolist(), (right > 0).tolist(), strict=True)])
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_images_are_mirrored_alike_for_any_number_of_ranks(world_size):
    whole = flips(TrainLoader(pictures(20), 6, 0, 0, 1, flip=True), 10)
    ranks = [
        TrainLoader(pictures(20), 6 // world_size, 0, r, world_size, flip=True) for r in range(world_size)
    ]
    parts = zip(*(flips(loader, 10) for loader in ranks), strict=True)
    assert [[*chain(*zip(*p, strict=True))] for p in parts] == whole


@pytest.mark.parametrize("stop", [1, 3, 4, 8])
def test_flips_go_on_where_the_state_was_taken(stop):
    first = TrainLoader(pictures(20), 6, 0, 0, 1, flip=True)
    begun = flips(first, stop)
    second = TrainLoader(pictures(20), 6, 0, 0, 1, flip=True)
    second.load_state_dict(first.state_dict())
    assert begun + flips(second, 10 - stop) == flips(TrainLoader(pictures(20), 6, 0, 0, 1, flip=True), 10)


def test_flips_are_fair_new_in_each_epoch_and_leave_the_order_alone():
    """2,000 examples: a share of heads, and of coins that change, within 5 standard errors of a half."""
    size = 2000
    loader = TrainLoader(pictures(size), size, 0, 0, 1, flip=True)
    first, second = (dict(epoch) for epoch in flips(loader, 2))
    changed = sum(first[i] != second[i] for i in range(size))
    assert all(abs(n - size / 2) < 5 * size**0.5 / 2 for n in (sum(first.values()), changed))
    plain = stream(TrainLoader(pictures(size), size, 0, 0, 1), 2)
    assert stream(TrainLoader(pictures(size), size, 0, 0, 1, flip=True), 2) == plain


def test_mirroring_does_not_touch_what_is_stored():
    stored = pictures(20)
    flips(TrainLoader(stored, 6, 0, 0, 1, flip=True), 10)
    assert torch.equal(stored.x, pictures(20).x)


def test_a_batch_of_several_epochs_is_mirrored_by_the_coins_of_each():
    epochs = [dict(e) for e in flips(TrainLoader(pictures(5), 5, 0, 0, 1, flip=True), 3)]
    (batch,) = flips(TrainLoader(pictures(5), 15, 0, 0, 1, flip=True), 1)
    assert [dict(batch[i : i + 5]) for i in (0, 5, 10)] == epochs


def test_seeds_are_shared_out_without_padding_and_labels_taken_in_turn():
    data = SeedDataModule(num_samples=7, seed=5, batch_size=3, labels=[4, 2])
    batches = list(data.predict_dataloader())
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(7))
    assert torch.cat([b.cond["label"] for b in batches]).tolist() == [4, 2, 4, 2, 4, 2, 4]
    assert {b.seed for b in batches} == {5}


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"val_batch_size": 0}])
def test_wrong_batch_sizes_are_refused(wrong):
    class Some(ArrayDataModule):
        shape = (1,)

        def arrays(self):
            return arrays(4), arrays(4)

    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Some(**wrong)
