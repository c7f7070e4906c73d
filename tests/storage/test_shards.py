"""Rows in files: order, interruptions, damage."""

import numpy as np
import pytest
import torch

from scorelight.errors import ConfigurationError
from scorelight.storage.shards import ShardStore


@pytest.fixture
def parts(tmp_path):
    """Rows 0 to 9 in three files, written in no order: x[i] = 10 i."""
    parts = ShardStore(tmp_path / "parts")
    for index in ([4, 1, 7], [9, 0], [2, 3, 5, 6, 8]):
        index = torch.tensor(index)
        parts.write(index, x=10.0 * index, label=index % 2)
    return parts


def test_rows_come_back_in_the_order_of_their_indices(parts):
    whole = parts.merged(10)
    assert whole["x"].tolist() == [10.0 * i for i in range(10)] and whole["label"].tolist() == [0, 1] * 5
    some = parts.merged(4, ["x"])
    assert set(some) == {"index", "x"} and some["x"].tolist() == [0, 10, 20, 30]


def test_what_is_missing_is_known(parts):
    assert parts.missing(10).tolist() == [] and parts.missing(12).tolist() == [10, 11]
    next(p for p in parts.files() if p.name.startswith("000000001")).unlink()
    assert parts.missing(6).tolist() == [1, 4] and ShardStore(parts.folder / "no").missing(2).tolist() == [
        0,
        1,
    ]


@pytest.mark.parametrize("damage", ["cut off", "a flipped bit", "empty"])
def test_a_damaged_file_is_named_and_counts_as_never_written(parts, damage):
    path = parts.files()[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes({"cut off": content[:-50], "a flipped bit": content, "empty": b""}[damage])
    indices = {0: [0, 9], 1: [1, 4, 7], 2: [2, 3, 5, 6, 8]}[1]
    with pytest.warns(UserWarning, match=path.name):
        assert parts.missing(10).tolist() == indices
    assert not path.exists()


def test_a_write_that_fails_leaves_no_rows(parts, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="no space"):
        parts.write(torch.tensor([10]), x=torch.zeros(1))
    assert parts.missing(11).tolist() == [10]


def test_a_row_that_two_files_have_counts_once(parts):
    """As two commands with other batch sizes write them, where the file system has no locks."""
    parts.write(torch.tensor([0, 1, 2, 3]), x=torch.full((4,), -1.0), label=torch.zeros(4, dtype=torch.long))
    rows = parts.merged(10)
    assert rows["index"].tolist() == list(range(10)) and len(rows["x"]) == 10
    found = torch.cat([parts.read(part, ["x"])["index"] for part in parts.parts(10)])
    assert sorted(found.tolist()) == list(range(10))


def test_a_row_that_is_missing_is_an_error_before_anything_is_computed(parts):
    next(p for p in parts.files() if p.name.startswith("000000001")).unlink()
    for read in (parts.merged, parts.parts):
        with pytest.raises(ConfigurationError, match=r"parts: 3 of 10 rows are missing.*Rerun"):
            read(10)
    with pytest.raises(ConfigurationError, match="1 of 1 rows"):
        ShardStore(parts.folder / "no").merged(1)


@pytest.mark.parametrize("damage", ["cut off", "a flipped bit", "empty"])
def test_a_file_that_is_damaged_after_it_was_counted_is_named(parts, damage):
    path = parts.files()[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes({"cut off": content[:-50], "a flipped bit": content, "empty": b""}[damage])
    with pytest.raises(ConfigurationError, match=path.name):
        parts.merged(10)
    assert path.exists()


def test_damage_in_any_array_counts(parts):
    """Not in the indices alone, which are read first."""
    path = parts.files()[0]
    content, value = bytearray(path.read_bytes()), np.float32(90.0).tobytes()
    assert content.count(value) == 1
    content[content.index(value)] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=path.name):
        assert parts.missing(10).tolist() == [0, 9]


@pytest.mark.parametrize(
    "arrays",
    [
        dict(index=np.arange(3), x=np.zeros(3)),
        dict(index=np.arange(3), x=np.zeros(3), key="other"),
        dict(images=np.zeros(3)),
    ],
)
def test_files_of_others_are_left_alone_and_do_not_count(tmp_path, arrays):
    store = ShardStore(tmp_path / "parts", "mine")
    store.write(torch.tensor([0]), x=torch.ones(1))
    foreign = tmp_path / "parts" / "foreign.npz"
    np.savez(foreign, **arrays)
    with pytest.warns(UserWarning, match=r"foreign\.npz: holds no rows of this command"):
        assert store.missing(3).tolist() == [1, 2]
    with pytest.warns(UserWarning, match="left alone"):
        assert store.merged(1)["x"].tolist() == [1]
    assert foreign.exists()


@pytest.mark.parametrize("index", [[0, 0], [0.0, 1.0], [-1, 0], [[0, 1]], [0, 1, 2], ["a", "b"]], ids=str)
def test_indices_that_cannot_be_are_damage(tmp_path, index):
    store = ShardStore(tmp_path, "mine")
    np.savez(tmp_path / "0-1.npz", key="mine", index=index, x=np.zeros(2))
    with pytest.warns(UserWarning, match=r"0-1\.npz is corrupted"):
        assert store.missing(2).tolist() == [0, 1]


def test_rows_of_another_width_are_named(parts):
    parts.write(torch.tensor([10]), x=torch.zeros(1, 5), label=torch.zeros(1))
    with pytest.raises(ConfigurationError, match=r"000000010-000000010\.npz: has rows of"):
        parts.merged(11)


def test_a_folder_has_one_owner(parts):
    other = ShardStore(parts.folder)
    taken = pytest.raises(ConfigurationError, match="parts: another process is writing there")
    with parts.owned(), taken, other.owned():
        pytest.fail("it had two")
    with other.owned():
        pass


@pytest.mark.parametrize(("ranks", "size"), [(1, 4), (3, 2), (2, 5)])
def test_rows_in_order_with_few_in_memory(tmp_path, ranks, size):
    """Of files as W ranks write them, each its indices r, r + W, ... in batches of B: 2 W B rows at most."""
    store = ShardStore(tmp_path / "parts")
    for rank in range(ranks):
        for index in torch.arange(37)[rank::ranks].split(size):
            store.write(index, x=10.0 * index)
    found = list(store.blocks(37, ["x"]))
    assert torch.cat([block["index"] for block in found]).tolist() == list(range(37))
    assert torch.cat([block["x"] for block in found]).tolist() == [10.0 * i for i in range(37)]
    assert len(found) > 3 and max(len(block["x"]) for block in found) <= 2 * ranks * size
    assert torch.cat([block["index"] for block in store.blocks(11)]).tolist() == list(range(11))


def test_parts_of_an_incomplete_store(parts):
    next(p for p in parts.files() if p.name.startswith("000000001")).unlink()
    assert sum(len(part.rows) for part in parts.parts(10, complete=False)) == 7
