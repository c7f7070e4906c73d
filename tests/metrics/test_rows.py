"""Rows in files: what is written is read, and metrics find what they find in memory."""

import gc
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from scorelight import (
    FeatureSet,
    InceptionScore,
    KernelDistance,
    MaximumMeanDiscrepancy,
    PrecisionRecall,
    SlicedWasserstein,
)
from scorelight.metrics.rows import SelectedRows, StoredRows, blocks


@pytest.fixture
def x(generator):
    return torch.randn(50, 6, generator=generator)


def stored(x, folder=None):
    """The rows in a file, written in parts and in no order."""
    rows = StoredRows.temporary(tuple(x.shape), folder=folder)
    for index in torch.randperm(len(x)).split(7):
        rows.write(index, x[index])
    return rows


def test_rows_are_read_by_slices_and_by_positions(x):
    rows = stored(x)
    assert len(rows) == 50 and rows.shape == (50, 6)
    assert torch.equal(rows[:], x) and torch.equal(rows[7:9], x[7:9])
    index = torch.tensor([3, 3, 49, 0])
    assert torch.equal(rows[index], x[index])
    assert torch.equal(torch.cat([*blocks(rows, 8)]), x)
    assert len(rows[:0]) == 0 and rows[:0].shape == (0, 6)


def test_selected_rows_are_those_of_the_others(x):
    order = torch.randperm(50)[:20]
    for rows in (SelectedRows(x, order), SelectedRows(stored(x), order)):
        assert len(rows) == 20 and rows.shape == (20, 6)
        assert torch.equal(torch.cat([*blocks(rows, 6)]), x[order])
        assert torch.equal(rows[torch.tensor([2, 1])], x[order[[2, 1]]])


def test_the_file_has_no_name_and_ends_with_the_rows(x, tmp_path):
    files = len(os.listdir("/proc/self/fd"))
    rows = stored(x, tmp_path)
    assert not list(tmp_path.iterdir()) and len(os.listdir("/proc/self/fd")) > files
    del rows
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == files


def test_rows_in_an_archive(x, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, mu=np.zeros(3), features=x.numpy())
    rows = StoredRows.in_archive(path, "features")
    path.unlink()
    assert torch.equal(rows[:], x), "they are those of the file that was opened"
    for save, array in ((np.savez_compressed, x.numpy()), (np.savez, x.long().numpy())):
        save(path, features=array)
        assert StoredRows.in_archive(path, "features") is None


def test_a_disk_that_is_full_is_an_error(x, monkeypatch):
    rows = StoredRows.temporary((50, 6))
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: len(content) - 1)
    with pytest.raises(OSError, match="No space left"):
        rows.write(torch.arange(2), x[:2])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_statistics_are_read_without_their_rows(x, tmp_path, save):
    whole = FeatureSet.of(x, x[:, :2].contiguous(), "net-1")
    rows = {"features": x.numpy(), "logits": whole.logits.numpy()}
    save(tmp_path / "a.npz", **whole.arrays() | rows)
    found = FeatureSet.load(tmp_path / "a.npz", in_memory=False)
    assert isinstance(found.features, StoredRows) == (save is np.savez)
    assert torch.equal(found.bank("a test"), x) and torch.equal(found.class_scores("a test")[:], x[:, :2])
    assert torch.equal(found.mean, whole.mean) and torch.equal(found.cov, whole.cov)
    found.save(tmp_path / "again.npz")
    again = FeatureSet.load(tmp_path / "again.npz")
    assert torch.equal(again.features, x) and again.count == 50 and again.key == "net-1"
    assert found.moments_only().features is None and found.moments_only().count == 50


@pytest.mark.parametrize(
    "metric",
    [
        KernelDistance(5, 20),
        PrecisionRecall(),
        InceptionScore(3),
        MaximumMeanDiscrepancy(),
        SlicedWasserstein(16),
    ],
    ids=lambda metric: type(metric).__name__,
)
def test_metrics_find_in_files_what_they_find_in_memory(metric, x, generator, monkeypatch):
    """To the last bit; also when there are more rows than are read at once."""
    y = 0.8 * torch.randn(41, 6, generator=generator) + 0.3
    expected = metric(FeatureSet.of(x), FeatureSet.of(y, 3 * y))
    real, fake = (
        FeatureSet(s.count, s.mean, s.cov, stored(s.features), None if s.logits is None else stored(s.logits))
        for s in (FeatureSet.of(x), FeatureSet.of(y, 3 * y))
    )
    assert metric(real, fake) == expected
    module = __import__(type(metric).__module__, fromlist=["_"])
    for name, value in (("_ROWS", 5), ("_ENTRIES", 64)):
        monkeypatch.setattr(module, name, value, raising=False)
    assert metric(real, fake) == pytest.approx(expected, rel=1e-9)


PEAK = """
import resource, sys, torch
torch.set_num_threads(1)
from scorelight import *
from scorelight.metrics.rows import StoredRows

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def rows(num, width):
    stored = StoredRows.temporary((num, width))
    for index in torch.arange(num).split(500):
        stored.write(index, torch.randn(len(index), width) + index[:, None] / num)
    return stored

def run(metrics, num, width):
    moments = num, torch.zeros(width), torch.eye(width)
    real, fake = (FeatureSet(*moments, rows(num, width), rows(num, 10)) for _ in range(2))
    for metric in metrics:
        metric(real, fake)

many = [KernelDistance(2, 500), InceptionScore(2), SlicedWasserstein(8)]
pairs = [PrecisionRecall(), MaximumMeanDiscrepancy()]
run([*many, *pairs], 2500, 16)
before = peak()
run(many, 60_000, 256)  # 61 MB in float32 for each set
run(pairs, 9000, 16)  # 648 MB for all distances
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_memory_of_metrics_does_not_depend_on_the_number_of_examples():
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 60
