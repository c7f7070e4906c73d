"""MNIST and CIFAR-10: made-up files of the published form; the real ones where they are to be found.

They are looked for in SCORELIGHT_DATA, in ``data`` and in ``../shared/data``.
"""

import os
import struct
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from scorelight import CIFAR10DataModule, ConfigurationError, MNISTDataModule

ROOT = Path(__file__).parents[2]
PLACES = [os.environ.get("SCORELIGHT_DATA", ROOT / "data"), ROOT / "data", ROOT.parent / "shared" / "data"]


def place(file):
    """The folder that holds the real data, else skip."""
    found = [root for root in map(Path, PLACES) if (root / file).exists()]
    return found[0] if found else pytest.skip(f"no {file}; set SCORELIGHT_DATA")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Nothing is downloaded here: whoever tries fails."""

    def refuse(*args, **kwargs):
        raise urllib.request.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def pixels(num, size):
    """Images of which no two neighbours are alike."""
    values = np.arange(num, dtype=np.uint32)[:, None] * 2654435761 >> np.arange(8, dtype=np.uint32)
    return np.resize(values.astype(np.uint8), (num, size))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """MNIST's four files with pixels of our own."""
    root = tmp_path_factory.mktemp("mnist")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, num in (("train", 60_000), ("t10k", 10_000)):
        images, labels = pixels(num, 784), (np.arange(num) % 10).astype(np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 2051, num, 28, 28) + images.tobytes()
        )
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, num) + labels.tobytes())
    return root


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """CIFAR-10's two archives, with one grey level for each image and channel."""
    root = tmp_path_factory.mktemp("cifar")
    for name, num in (("train", 50_000), ("test", 10_000)):
        images = np.broadcast_to(pixels(num, 3)[:, None, None], (num, 32, 32, 3))
        np.savez(root / f"cifar10_{name}.npz", images=images, labels=np.arange(num) % 10)
    return root


def loaded(data):
    data.prepare_data()
    data.setup("fit")
    return data


def test_sizes_are_those_published_and_those_of_the_files(tmp_path, monkeypatch, mnist):
    assert CIFAR10DataModule(tmp_path).sizes() == (50_000, 10_000)
    assert MNISTDataModule(tmp_path).sizes() == (60_000, 10_000)
    data = MNISTDataModule(mnist)
    assert data.sizes() == (len(data.examples("train")), len(data.examples("val")))


def test_mnist_is_read_as_it_was_written(mnist):
    data = loaded(MNISTDataModule(mnist))
    for arrays, num in ((data.train, 60_000), (data.val, 10_000)):
        assert arrays.x.dtype == torch.uint8 and arrays.x.shape == (num, *data.shape)
        assert np.array_equal(arrays.x.flatten(1), pixels(num, 784))
        assert torch.equal(arrays.cond["label"], torch.arange(num) % 10)


@pytest.mark.one_in(2)
def test_cifar_is_read_as_it_was_written(cifar):
    data = loaded(CIFAR10DataModule(cifar))
    for arrays, num in ((data.train, 50_000), (data.val, 10_000)):
        assert arrays.x.dtype == torch.uint8 and arrays.x.shape == (num, *data.shape)
        assert np.array_equal(arrays.x[:, :, 3, 5], pixels(num, 3))
        assert torch.equal(arrays.cond["label"], torch.arange(num) % 10)


def test_cifar_is_mirrored_unless_told_otherwise_and_mnist_never():
    assert CIFAR10DataModule().flip and not CIFAR10DataModule(flip=False).flip
    assert not MNISTDataModule().flip


def test_real_mnist_has_the_known_mean_deviation_and_counts():
    """0.1307 and 0.3081 are what everybody normalises by; the classes as LeCun's page counts them."""
    data = loaded(MNISTDataModule(place("MNIST/raw"), download=False))
    levels, counts = (
        torch.arange(256).double() / 255,
        sum(part.flatten().bincount(minlength=256) for part in data.train.x.split(1000)),
    )
    mean = (levels * counts).sum() / counts.sum()
    deviation = ((levels - mean) ** 2 * counts).sum() / counts.sum()
    assert abs(mean - 0.1307) < 1e-4 and abs(deviation.sqrt() - 0.3081) < 1e-4
    assert data.val.cond["label"].bincount().tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert data.fingerprint().startswith("mnist-train-") and data.fingerprint("val").startswith("mnist-val-")


def test_real_cifar_has_the_known_mean_and_counts():
    data = loaded(CIFAR10DataModule(place("cifar10_train.npz"), download=False))
    mean = sum(part.sum((0, 2, 3)) for part in data.train.x.split(1000)) / (255 * 50_000 * 32 * 32)
    assert (mean - torch.tensor([0.4914, 0.4822, 0.4465])).abs().max() < 1e-4
    assert data.train.cond["label"].bincount().tolist() == [5000] * 10
    assert data.val.cond["label"].bincount().tolist() == [1000] * 10


@pytest.mark.parametrize(
    ("module", "file"),
    [
        (MNISTDataModule, "MNIST/raw/train-images-idx3-ubyte"),
        (CIFAR10DataModule, "cifar-10-batches-py/data_batch_1"),
    ],
)
def test_what_is_not_there_is_named_with_the_remedy(module, file, tmp_path):
    with pytest.raises(ConfigurationError, match=rf"cannot be downloaded: .*no network.*data.root.*{file}"):
        loaded(module(tmp_path))
    with pytest.raises(ConfigurationError, match=rf"{tmp_path}/{file} does not exist; .*data.download"):
        loaded(module(tmp_path, download=False))


def changed(path, change):
    """The file's content, changed; it is put back in the end."""
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    return whole


DAMAGES = {
    "cut off": lambda b: b[: len(b) // 2],
    "empty": lambda b: b"",
    "another header": lambda b: b"\x00\x00\x00\x03" + b[4:],
    "other sizes": lambda b: b[:8] + struct.pack(">2i", 14, 56) + b[16:],
    "labels out of range": lambda b: b[:-1] + b"\xff",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_mnist_is_named(damage, mnist):
    kind = "labels-idx1" if damage == "labels out of range" else "images-idx3"
    path = mnist / "MNIST" / "raw" / f"t10k-{kind}-ubyte"
    whole = changed(path, DAMAGES[damage])
    try:
        with pytest.raises(ConfigurationError, match=f"{path.parent}.*(delete|remove)"):
            loaded(MNISTDataModule(mnist))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("damage", ["cut off", "empty"])
def test_damaged_cifar_is_named(damage, cifar):
    path = cifar / "cifar10_test.npz"
    whole = changed(path, DAMAGES[damage])
    try:
        with pytest.raises(ConfigurationError, match=f"{path}: cannot be read"):
            loaded(CIFAR10DataModule(cifar))
    finally:
        path.write_bytes(whole)


def test_half_of_cifar_is_not_cifar(cifar, tmp_path):
    for name, num in (("train", 8), ("test", 8)):
        np.savez(tmp_path / f"cifar10_{name}.npz", images=np.zeros((num, 32, 32, 3), np.uint8))
    with pytest.raises(ConfigurationError, match=r"training set.*\(8, 3, 32, 32\).*\(50000, 3, 32, 32\)"):
        loaded(CIFAR10DataModule(tmp_path))
    (tmp_path / "cifar10_test.npz").unlink()
    with pytest.raises(ConfigurationError, match=r"cifar10_test.npz does not exist"):
        loaded(CIFAR10DataModule(tmp_path, download=False))


def test_a_damaged_batch_of_cifar_is_named_and_not_unpickled(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ConfigurationError, match=r"data_batch_1 is corrupted.*delete it"):
        loaded(CIFAR10DataModule(tmp_path))
