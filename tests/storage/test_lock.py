"""A lock ends with its process, and a file system without locks is no obstacle."""

import errno
import subprocess
import sys
import threading

import filelock
import pytest

from scorelight.errors import ConfigurationError
from scorelight.storage.lock import exclusive

HOLD = """
import sys, time
from pathlib import Path
from scorelight.storage.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out" / "parts")], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_another_process_holds_is_refused_until_it_is_killed(holder, tmp_path):
    path = tmp_path / "out" / "parts"
    with pytest.raises(ConfigurationError, match="another process is writing there"), exclusive(path):
        pytest.fail("it had two")
    holder.kill()
    holder.wait()
    with exclusive(path):
        pass


def test_one_can_wait_for_the_other_process(holder, tmp_path, capsys):
    path = tmp_path / "out" / "parts"
    threading.Timer(1, holder.kill).start()
    with exclusive(path, wait=True):
        assert holder.poll() is not None or holder.wait(5) is not None
    assert "Waiting for another process that is writing to" in capsys.readouterr().err


def test_an_error_in_the_block_gives_the_lock_back(tmp_path):
    with pytest.raises(RuntimeError, match="inside"), exclusive(tmp_path / "a"):
        raise RuntimeError("inside")
    with exclusive(tmp_path / "a"):
        pass


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock here")]
)
def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.warns(UserWarning, match="its file system has no locks"), exclusive(tmp_path / "a"):
        pass


def test_other_errors_of_the_system_are_raised(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(PermissionError), exclusive(tmp_path / "a"):
        pytest.fail("entered")
