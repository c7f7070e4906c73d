"""What is refused since memory cannot hold it."""

import pytest

from scorelight import ConfigurationError, ToyDataModule
from scorelight.storage import memory
from scorelight.storage.memory import LARGEST_FILE, check_file_size, check_memory, total_memory


def test_this_machine_has_memory():
    assert 2**28 < total_memory() < 2**50


@pytest.mark.parametrize(("content", "expected"), [("max", None), ("1048576", 2**20), ("words", None)])
def test_a_control_group_may_set_less(content, expected, tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text(content)
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path / "nowhere")
    alone = total_memory()
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path / "memory.max")
    assert total_memory() == (expected or alone)


def test_what_takes_more_than_there_is_is_refused():
    check_memory("a", total_memory(), "take less")
    with pytest.raises(ConfigurationError, match=r"a: cannot be loaded: takes .* GiB of memory.*; take less"):
        check_memory("a", total_memory() + 1, "take less")


def test_a_file_has_a_largest_size():
    check_file_size("a.png", LARGEST_FILE)
    with pytest.raises(ConfigurationError, match=r"a\.png: has 268,435,457 bytes"):
        check_file_size("a.png", LARGEST_FILE + 1)


def test_a_batch_that_memory_cannot_hold_is_refused(monkeypatch):
    data = ToyDataModule(num_train=4, num_val=4, batch_size=10**9)
    data.setup("fit")
    monkeypatch.setattr(memory, "total_memory", lambda: 2**34)
    with pytest.raises(ConfigurationError, match=r"data\.batch_size=1000000000: .*choose a smaller one"):
        data.train_dataloader()
