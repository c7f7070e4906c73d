"""What is refused since memory cannot hold it."""

import pytest

from scorelight import ConfigurationError, ToyDataModule
from scorelight.storage import memory
from scorelight.storage.memory import (
    LARGEST_FILE,
    available_memory,
    check_file_size,
    check_memory,
    peak_memory,
    total_memory,
)


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


def test_what_is_used_now_is_not_available(tmp_path, monkeypatch):
    """A control group counts copies of files, which the system drops when it needs their memory."""
    for name, content in (("max", "5000"), ("current", "3000"), ("stat", "anon 1\ninactive_file 2000\n")):
        (tmp_path / name).write_text(content)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   3 kB\n")
    for name, file in (("_CONTROL_GROUP", "max"), ("_USED", "current"), ("_USES", "stat")):
        monkeypatch.setattr(memory, name, tmp_path / file)
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "meminfo")
    assert available_memory() == 3 * 1024
    (tmp_path / "current").write_text("6000")
    assert available_memory() == 1000
    (tmp_path / "max").write_text("max")
    assert available_memory() == 3 * 1024
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "nowhere")
    assert available_memory() is None


def test_the_peak_grows_with_what_is_used():
    before = peak_memory()
    block = bytearray(before + 2**27)
    assert peak_memory() >= before + 2**26 and len(block)
