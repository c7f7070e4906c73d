"""Run folders under processes and threads that want one at the same time."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scorelight.errors import ConfigurationError
from scorelight.storage.locked_folder import LockedFolder, numbered_folders


def test_the_folders_are_those_whose_number_is_in_digits_of_ascii(tmp_path):
    for name in (
        "version_2",
        "version_10",
        "version_²",
        "version_٣",
        "version_x",
        "version_1_old",
        "version_",
    ):
        (tmp_path / name).mkdir()
    assert [*numbered_folders(tmp_path)] == [10, 2]
    assert LockedFolder.create(tmp_path).path == tmp_path / "version_11"


def test_what_is_locked_cannot_be_taken_until_it_is_released(tmp_path):
    mine = LockedFolder.create(tmp_path / "new/root")
    assert mine.path == tmp_path / "new/root/version_0"
    assert LockedFolder.take(mine.path) is None
    mine.release()
    assert LockedFolder.take(mine.path) is not None


def test_many_threads_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(32) as threads:
        folders = [*threads.map(lambda _: LockedFolder.create(tmp_path), range(64))]
    assert sorted(f.path.name for f in folders) == sorted(f"version_{n}" for n in range(64))


def test_a_folder_that_another_process_took_first_is_left_to_it(tmp_path, monkeypatch):
    """Between `mkdir` and the lock the folder looks like one that a killed run has left."""
    make, others = Path.mkdir, []

    def make_and_lose(path, *args, **kwargs):
        make(path, *args, **kwargs)
        if kwargs:  # filelock makes the folder of a lock
            return
        if path.name == "version_0":
            others.append(LockedFolder.take(path))
        if path.name == "version_1":
            (other := LockedFolder.take(path)).release()
            (path / "finished").touch()
            others.append(other)

    monkeypatch.setattr(Path, "mkdir", make_and_lose)
    assert LockedFolder.create(tmp_path).path.name == "version_2"
    assert len(others) == 2


HOLD = """
import sys
from pathlib import Path
from scorelight.storage.locked_folder import LockedFolder
mine = LockedFolder.create(Path(sys.argv[1]))
print(mine.path.name, flush=True)
sys.stdin.read()
"""


def test_a_lock_dies_with_its_process(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    holders = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    names = [holder.stdout.readline().strip() for holder in holders]
    assert sorted(names) == [f"version_{n}" for n in range(4)]
    assert all(LockedFolder.take(tmp_path / name) is None for name in names)
    for holder in holders:
        holder.kill()
        holder.communicate()
    assert all(LockedFolder.take(tmp_path / name) for name in names)


def test_a_folder_that_is_gone_or_is_another_one_is_noticed(tmp_path):
    mine = LockedFolder.create(tmp_path)
    mine.check()
    os.rename(mine.path, tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="version_0: the run folder was removed or moved"):
        mine.check()
    other = LockedFolder.create(tmp_path)
    assert other.path == mine.path
    with pytest.raises(ConfigurationError, match="removed or moved"):
        mine.check()
    other.check()
