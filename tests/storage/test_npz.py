"""Archives: any damage is one error."""

import io
import random
import zipfile

import numpy as np
import pytest
from support.corruption import corrupted, fail_when_unpickled

from scorelight import ConfigurationError
from scorelight.storage.npz import Blocks, DamagedArchiveError, names_in, read_npz, stored_at, write_npz


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


def in_blocks(array, size):
    parts = (array[start : start + size] for start in range(0, len(array), size))
    return Blocks(array.shape, array.dtype, parts)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_an_archive_is_byte_for_byte_that_of_numpy(tmp_path, size):
    x = np.arange(50 * 6, dtype=np.uint8).reshape(50, 2, 3)
    arrays = {"seed": np.int64(3), "images": x.transpose(0, 2, 1), "y": np.ones(50, np.float32)}
    np.savez(tmp_path / "theirs.npz", **arrays)
    write_npz(tmp_path / "ours.npz", arrays)
    write_npz(tmp_path / "blocks.npz", arrays | {"images": in_blocks(arrays["images"], size)})
    theirs = (tmp_path / "theirs.npz").read_bytes()
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "blocks.npz").read_bytes() == theirs


@pytest.mark.parametrize("changes", [dict(shape=(51, 3)), dict(shape=(50, 4)), dict(dtype=np.dtype("f8"))])
def test_blocks_that_are_not_the_array_leave_the_old_file(tmp_path, changes):
    write_npz(tmp_path / "a.npz", {"x": np.zeros(1)})
    before = (tmp_path / "a.npz").read_bytes()
    wrong = in_blocks(np.zeros((50, 3), np.float32), 10)._replace(**changes)
    with pytest.raises(ValueError, match=r"rows for an array|a block of"):
        write_npz(tmp_path / "a.npz", {"x": wrong})
    assert (tmp_path / "a.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_where_an_array_is_stored(tmp_path):
    x = np.arange(12.0).reshape(4, 3)
    np.savez(path := tmp_path / "a.npz", first=np.zeros(5), x=x, turned=np.asfortranarray(x))
    header, start = stored_at(path, "x")
    assert header == ((4, 3), np.dtype("f8"))
    assert np.array_equal(np.frombuffer(path.read_bytes(), "f8", 12, start).reshape(4, 3), x)
    assert stored_at(path, "turned") is None
    assert names_in(path, ["x", "y", "first"]) == ["x", "first"]
    with pytest.raises(DamagedArchiveError, match=r"a\.npz"):
        stored_at(path, "y")
    np.savez_compressed(path, x=x)
    assert stored_at(path, "x") is None
    np.savez(path, x=x)
    content = bytearray(path.read_bytes())
    content[start - 1000 if start > 1000 else len(content) // 2] ^= 64
    path.write_bytes(content)
    with pytest.raises(DamagedArchiveError, match=r"a\.npz"):
        stored_at(path, "x")
