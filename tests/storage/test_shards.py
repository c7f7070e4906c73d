"""Rows in files: order, interruptions, damage."""

import numpy as np
import pytest
import torch

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
    whole = parts.merged()
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

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        parts.write(torch.tensor([10]), x=torch.zeros(1))
    assert parts.missing(11).tolist() == [10]
