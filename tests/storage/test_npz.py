"""Archives: any damage is one error."""

import io
import random
import zipfile

import numpy as np
import pytest
from support.corruption import corrupted, fail_when_unpickled

from scorelight import ConfigurationError
from scorelight.storage.npz import DamagedArchiveError, read_npz, write_npz


def test_all_or_named_arrays_are_read(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, {"x": np.arange(3), "name": np.str_("a"), "y": np.eye(2)})
    assert set(read_npz(path)) == {"x", "name", "y"} and str(read_npz(path)["name"]) == "a"
    assert set(read_npz(path, ["x"], ["y", "z"])) == {"x", "y"}
    with pytest.raises(DamagedArchiveError, match=r"a\.npz.*z"):
        read_npz(path, ["z"])


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_an_error_or_changes_nothing(tmp_path, compressed):
    path, arrays = tmp_path / "a.npz", {"x": np.arange(300.0), "y": np.arange(50)}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    content, rng, refused = path.read_bytes(), random.Random(0), 0
    for turn in range(200):
        path.write_bytes(corrupted(content, turn, rng))
        try:
            found = read_npz(path, ["x", "y"])
        except DamagedArchiveError as error:
            assert "a.npz" in str(error)
            refused += 1
        else:
            assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert refused > 150


@pytest.mark.parametrize("content", [b"", b"words", b"PK\x03\x04 nothing", b"\x93NUMPY\x01\x00v\x00{"])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DamagedArchiveError):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(DamagedArchiveError, match="No such file"):
        read_npz(tmp_path / "b.npz")


def test_nothing_is_unpickled_and_no_size_is_believed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([fail_when_unpickled()], dtype=object))
    with pytest.raises(DamagedArchiveError):
        read_npz(path)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DamagedArchiveError):
        read_npz(path)


def test_an_archive_that_does_not_fit_into_memory_is_not_decompressed(tmp_path, monkeypatch):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(1_000_000))
    monkeypatch.setattr("scorelight.storage.memory.total_memory", lambda: 1000)
    monkeypatch.setattr("numpy.lib.npyio.NpzFile.__getitem__", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ConfigurationError, match=r"bomb\.npz: .*memory"):
        read_npz(path)


def test_an_array_that_is_smaller_than_its_header_says_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(path := tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + bytes(100))
    with pytest.raises(DamagedArchiveError, match=r"1,000,000,000,000 bytes, and 100 are there"):
        read_npz(path)
