"""Archives of arrays: names, sizes that are checked before anything is decompressed, and labels."""

import io
import zipfile

import numpy as np
import pytest

from scorelight import ConfigurationError
from scorelight.data import npz
from scorelight.data.npz import npz_labels, npz_shape, read_npz

IMAGES, LABELS = np.zeros((4, 6, 8, 3), np.uint8), np.array([2, 0, 1, 1])


def header(shape, dtype="|u1"):
    """The first bytes of an array."""
    np.lib.format.write_array_header_1_0(
        buffer := io.BytesIO(), {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def written(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("images", ["images", "arr_0"])
@pytest.mark.parametrize("labels", ["labels", "arr_1"])
def test_either_name_of_the_images_goes_with_either_name_of_the_labels(images, labels, tmp_path):
    np.savez(path := tmp_path / "a.npz", **{images: IMAGES, labels: LABELS})
    assert read_npz(path).cond["label"].tolist() == npz_labels(path).tolist() == [2, 0, 1, 1]
    assert npz_shape(path) == (4, 3, 6, 8)


@pytest.mark.parametrize("read", [read_npz, npz_labels])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"label": LABELS}, "label has one number for each image; if they are labels, name it labels"),
        ({"y": LABELS.astype(float)}, "y has one number for each image"),
        ({"labels": LABELS, "arr_1": LABELS}, "holds both labels and arr_1"),
        ({"arr_0": IMAGES}, "holds both images and arr_0"),
    ],
)
def test_arrays_that_could_be_meant_are_not_passed_over(more, message, read, tmp_path):
    np.savez(path := tmp_path / "a.npz", images=IMAGES, **more)
    with pytest.raises(ConfigurationError, match=message):
        read(path)


def test_other_arrays_are_passed_over(tmp_path):
    np.savez(path := tmp_path / "a.npz", images=IMAGES, labels=LABELS, seed=np.int64(3), extra=np.zeros(4))
    assert len(read_npz(path)) == 4


@pytest.mark.parametrize(
    "member",
    [
        {"images": header((10**12, 8, 8, 3)) + bytes(64)},
        {"images": header((4, 6, 8, 3)) + bytes(4 * 6 * 8 * 3 - 1)},
        {"images": header((4, 6, 8, 3)) + bytes(4 * 6 * 8 * 3 + 1)},
        {"images": header((4, 6, 8, 3)) + bytes(4 * 6 * 8 * 3), "labels": header((10**13,), "<i8")},
    ],
)
def test_a_shape_that_is_not_that_of_the_content_is_refused(member, tmp_path):
    path = written(tmp_path / "a.npz", member)
    with pytest.raises(
        ConfigurationError, match=r"a\.npz: cannot be read: .* of shape .* takes .* bytes, and"
    ):
        read_npz(path)


@pytest.mark.parametrize("key", ["images", "labels"])
def test_what_would_not_fit_into_memory_is_not_decompressed(key, tmp_path, monkeypatch):
    arrays = {"images": np.zeros((1000, 8, 8, 3), np.uint8)}
    arrays |= {"labels": np.zeros(1000, int)} if key == "labels" else {}
    np.savez_compressed(path := tmp_path / "a.npz", **arrays)
    total = 2 * arrays["images"].nbytes if key == "images" else arrays["labels"].nbytes
    monkeypatch.setattr("scorelight.storage.memory.total_memory", lambda: total)
    npz_labels(path) if key == "labels" else read_npz(path)
    monkeypatch.setattr("scorelight.storage.memory.total_memory", lambda: total - 1)
    monkeypatch.setattr(npz.np.lib.format, "read_array", None)  # what would decompress
    with pytest.raises(ConfigurationError, match=r"a\.npz: cannot be loaded: takes .* GiB of memory"):
        npz_labels(path) if key == "labels" else read_npz(path)


def test_labels_that_are_not_one_for_each_image_are_not_decompressed(tmp_path, monkeypatch):
    arrays = {"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.zeros(10_000_000, int)}
    np.savez_compressed(path := tmp_path / "a.npz", **arrays)
    monkeypatch.setattr(npz.np.lib.format, "read_array", None)  # what would decompress
    with pytest.raises(
        ConfigurationError, match=r"a\.npz: labels have shape \(10000000,\).* 4 whole numbers"
    ):
        read_npz(path)
