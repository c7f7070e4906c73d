"""Features of examples that processes hold among them, against those of all examples at once."""

import json
import subprocess
import sys

import pytest
import torch
from support.contexts import one_process

from scorelight import ConfigurationError, FeatureSet, FrechetDistance, InceptionScore, KernelDistance
from scorelight.evaluation import feature_rows
from scorelight.evaluation.feature_rows import FeatureRows
from scorelight.evaluation.quality import feature_set
from scorelight.metrics import FeatureExtractor, Features


class Linear(FeatureExtractor):
    """Features that classify: the vector, and its first two coordinates as logits."""

    def extract(self, x):
        return Features(x, x[:, :2])


@pytest.fixture
def x(generator):
    return torch.randn(53, 4, generator=generator)


def found(x, metrics, pieces, num=None, **options):
    rows = FeatureRows(Linear(), metrics, num or len(x), **options)
    return feature_set(((index, x[index]) for index in pieces), rows, one_process())


@pytest.mark.parametrize("at_once", [256, 5])
def test_rows_are_those_of_their_indices(x, monkeypatch, at_once, tmp_path):
    monkeypatch.setattr(feature_rows, "_AT_ONCE", at_once)
    pieces = torch.randperm(53).split(11)
    both = found(x, [KernelDistance(), InceptionScore()], pieces, folder=tmp_path)
    expected = FeatureSet.of(x, x[:, :2])
    assert torch.equal(both.bank("a test"), x) and torch.equal(both.class_scores("a test")[:], x[:, :2])
    assert both.count == 53 and both.key == Linear().key
    torch.testing.assert_close(both.mean, expected.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(both.cov, expected.cov, rtol=1e-12, atol=1e-14)


def test_what_no_metric_needs_is_not_stored(x):
    moments = found(x, [FrechetDistance()], [torch.arange(53)])
    assert moments.features is None and moments.logits is None
    scores = found(x, [InceptionScore()], [torch.arange(53)])
    assert scores.features is None and len(scores.logits) == 53


def test_examples_that_are_missing_or_not_finite_are_errors(x):
    with pytest.raises(ConfigurationError, match="53 of 60 samples"):
        found(x, [FrechetDistance()], [torch.arange(53)], num=60)
    x[7, 1] = torch.inf
    with pytest.raises(ConfigurationError, match="1 of 53 rows of the Linear of samples are NaN"):
        found(x, [FrechetDistance()], [torch.arange(53)])


SCRIPT = """
import json, sys, torch
torch.set_num_threads(1)
from torch import distributed, multiprocessing
from scorelight import *
from scorelight.evaluation import feature_rows
from scorelight.evaluation.context import DistributedContext
from scorelight.metrics.base import numbers_of

feature_rows._PIECE = 4

class Gloo:
    def barrier(self):
        distributed.barrier()
    def broadcast(self, value):
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

def run(rank, world, idle, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous{world}-{idle}",
                                   rank=rank, world_size=world)
    context = DistributedContext(rank, world, torch.device("cpu"), Gloo())
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(53, 3, generator=generator), 0.8 * torch.randn(41, 3, generator=generator) + 0.3
    metrics = [FrechetDistance(), KernelDistance(5, 20), PrecisionRecall(), SlicedWasserstein(16)]
    sets = []
    for x in (real, fake):
        rows = feature_rows.FeatureRows(PixelFeatures(), metrics, len(x))
        mine = context.share(torch.arange(len(x)))
        if idle:  # the last one has none
            mine = torch.arange(rank, len(x), world - 1) if rank < world - 1 else mine[:0]
        for index in mine.split(3) if len(mine) else ():
            rows.add(index, rows.extract(x[index]))
        sets.append(rows.gathered(context))
    assert all((s.features is not None) == (rank == 0) for s in sets)
    found = context.broadcast(lambda: numbers_of(metrics, *sets))
    moments = [s.mean.sum().item() + s.cov.sum().item() for s in sets]
    with open(f"{folder}/{world}-{idle}-{rank}.json", "w") as file:
        json.dump([found, moments], file)

if __name__ == "__main__":
    folder = sys.argv[1]
    for world, idle in ((2, False), (3, False), (3, True)):
        multiprocessing.start_processes(run, (world, idle, folder), nprocs=world, start_method="fork")
"""


@pytest.mark.slow
def test_several_processes_find_what_one_finds(tmp_path, generator):
    from scorelight import PrecisionRecall, SlicedWasserstein
    from scorelight.metrics.base import numbers_of

    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    real = FeatureSet.of(torch.randn(53, 3, generator=generator))
    fake = FeatureSet.of(0.8 * torch.randn(41, 3, generator=generator) + 0.3)
    metrics = [FrechetDistance(), KernelDistance(5, 20), PrecisionRecall(), SlicedWasserstein(16)]
    expected = numbers_of(metrics, real, fake)
    moments = [s.mean.sum().item() + s.cov.sum().item() for s in (real, fake)]
    files = list(tmp_path.glob("*.json"))
    assert len(files) == 2 + 3 + 3
    for file in files:
        numbers, sums = json.loads(file.read_text())
        assert numbers == pytest.approx(expected, rel=1e-9) and sums == pytest.approx(moments, rel=1e-9)
