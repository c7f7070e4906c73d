"""A checkpoint is what was written, or it is refused."""

import errno
import hashlib
import pickle
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from support.corruption import corrupted

from scorelight import ConfigurationError
from scorelight.storage.checkpoint import CorruptedCheckpointError, read_checkpoint, verify, write_checkpoint

CONTENT = {"a": torch.arange(3000.0), "b": {"c": [1, "two", None]}, "empty": torch.zeros(0)}


@pytest.fixture
def path(tmp_path):
    write_checkpoint(CONTENT, path := tmp_path / "a.ckpt")
    return path


@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_written_is_read_and_torch_reads_it_too(path, mmap):
    for found in (read_checkpoint(path, mmap=mmap), torch.load(path, weights_only=True, mmap=mmap)):
        assert torch.equal(found["a"], CONTENT["a"]) and found["b"] == CONTENT["b"]
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]  # nothing temporary is left


def test_a_file_of_torch_is_read_and_its_own_checksums_are_looked_at(tmp_path):
    torch.save(CONTENT, path := tmp_path / "a.ckpt")
    assert read_checkpoint(path)["b"] == CONTENT["b"]
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("data/0"))
        place = archive.getinfo(name).header_offset + 1000
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptedCheckpointError, match="not a checkpoint of scorelight, or is corrupted"):
        read_checkpoint(path)


def test_no_bit_flips_and_no_truncation_go_unnoticed(path):
    """1,000 each, half of the flips in the last 200 bytes, where the digest and the archive's end are."""
    whole, rng = path.read_bytes(), random.Random(0)
    for turn in range(2000):
        path.write_bytes(corrupted(whole, turn, rng))
        with pytest.raises(CorruptedCheckpointError, match=r"a\.ckpt"):
            verify(path)


def test_what_else_could_be_there(tmp_path):
    for name, content in {"none": None, "empty": b"", "words": b"words" * 100}.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CorruptedCheckpointError, match=name):
            read_checkpoint(path)
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(CorruptedCheckpointError, match="holds a list, not a checkpoint"):
        read_checkpoint(tmp_path / "list")


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("way", ["torch", "pickle", "signed"])
def test_a_payload_is_refused_before_it_runs(tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.ckpt"
    bad = {"state_dict": {}, "x": Payload()}
    if way == "torch":
        torch.save(bad, path)
    elif way == "signed":  # the digest says that it is what was written, not that it is harmless
        write_checkpoint(bad, path)
    else:
        path.write_bytes(pickle.dumps(bad))
    with pytest.raises(CorruptedCheckpointError, match=r"a\.ckpt"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "make room on the disk"), (errno.EROFS, "read-only"), (errno.EIO, "check its folder")],
)
def test_when_it_cannot_be_written_what_was_there_stays(path, monkeypatch, code, remedy):
    def fail(_):
        raise OSError(code, "no")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ConfigurationError, match=rf"a\.ckpt cannot be written: no; .*{remedy}"):
        write_checkpoint({"other": 1}, path)
    assert read_checkpoint(path)["b"] == CONTENT["b"]
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("signed", [False, True])
def test_a_compressed_archive_is_refused_and_not_decompressed(path, tmp_path, monkeypatch, signed):
    """`torch.save` does not compress; an archive that does can be of any size in memory."""
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, bytes(10_000_000) if "/data/" in name else source.read(name))
    if signed:
        content = bomb.read_bytes()[:-2]
        mark = b"scorelight sha256 " + hashlib.sha256(content).hexdigest().encode()
        bomb.write_bytes(content + struct.pack("<H", len(mark)) + mark)
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("it was read"))
    monkeypatch.setattr("zipfile.ZipFile.open", lambda *_, **__: pytest.fail("it was decompressed"))
    with pytest.raises(CorruptedCheckpointError, match=r"bomb\.ckpt"):
        read_checkpoint(bomb)
