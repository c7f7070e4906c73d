"""``scorelight sample``: batch sizes, precision and what is written meanwhile."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import refusal

from scorelight import DDIM, MLP
from scorelight.cli import main
from scorelight.evaluation.samples import SampleSource
from scorelight.networks.base import ScoreNetwork
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.storage.runs import find_checkpoint
from scorelight.storage.shards import ShardStore

pytestmark = pytest.mark.usefixtures("copied_run")
RUN = "runs/digits/vp_epsilon"


def train_further():
    """Give the last layer, which starts at 0, weights as if it were trained."""
    path = find_checkpoint(RUN)
    checkpoint = read_checkpoint(path)
    weight = checkpoint["state_dict"]["ema.denoiser.network.last.weight"]
    torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))
    write_checkpoint(checkpoint, path)


def sample(out, *flags):
    assert main(["sample", RUN, "--out", out, *map(str, flags)]) == 0
    with np.load(f"{out}/samples.npz") as file:
        return file["images"].astype(int)


def test_the_size_of_batches_is_found_and_does_not_change_the_samples(capsys):
    found = sample("auto", "--num_samples", 150, "--batch_size", "auto")
    assert "batches of " in capsys.readouterr().out
    assert abs(found - sample("fixed", "--num_samples", 150)).max() <= 1  # rounding may fall either way


def test_memory_that_runs_out_makes_batches_smaller_or_is_one_message(monkeypatch, capsys):
    """As on a GPU that holds 20 samples."""
    draw = SampleSource.draw

    def limited(self, seed, index, progress=None):
        if len(index) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. ")
        return draw(self, seed, index, progress)

    expected = sample("whole", "--num_samples", 70)
    monkeypatch.setattr(SampleSource, "draw", limited)
    found = sample("halves", "--num_samples", 70, "--batch_size", "auto")
    assert abs(found - expected).max() <= 1
    message = refusal(capsys, "sample", RUN, "--num_samples", 70, "--out", "refused")
    assert "batch_size=64: out of memory: CUDA out of memory; use a smaller one, or auto" in message


def test_a_batch_is_written_while_the_next_is_drawn(monkeypatch):
    """The first write waits until the second batch is drawn: without overlap it would wait in vain."""
    draw, write, drawn, waited = SampleSource.draw, ShardStore.write, threading.Event(), []

    def signalling(self, seed, index, progress=None):
        if index[0] == 4:
            drawn.set()
        return draw(self, seed, index, progress)

    def waiting(self, index, **rows):
        waited.append(drawn.wait(60))
        write(self, index, **rows)

    monkeypatch.setattr(SampleSource, "draw", signalling)
    monkeypatch.setattr(ShardStore, "write", waiting)
    assert len(sample("out", "--num_samples", 12, "--batch_size", 4)) == 12
    assert waited == [True] * 3


def test_a_disk_that_is_full_stops_the_command_and_leaves_no_archive(monkeypatch, capsys, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardStore, "write", full)
    message = refusal(capsys, "sample", RUN, "--num_samples", 20, "--batch_size", 2)
    assert "--out samples: cannot be written" in message and "No space left" in message
    assert not list(tmp_path.glob("samples/samples.*"))


def test_samples_in_bf16_are_close_and_the_report_says_so(capsys):
    train_further()
    exact = sample("exact", "--num_samples", 6)
    assert "bf16" not in capsys.readouterr().out
    rounded = sample("rounded", "--num_samples", 6, "--precision", "bf16-mixed")
    assert ", bf16-mixed:" in capsys.readouterr().out
    others = sample("others", "--num_samples", 6, "--seed", 1)
    assert 0 < abs(rounded - exact).mean() < 0.1 * abs(others - exact).mean()


def test_the_network_is_compiled_if_asked_to(monkeypatch, capsys):
    compiled = []
    monkeypatch.setattr(ScoreNetwork, "compile", lambda self: compiled.append(type(self).__name__))
    exact = sample("exact", "--num_samples", 3)
    assert compiled == []
    assert np.array_equal(sample("compiled", "--num_samples", 3, "--compile", "true"), exact)
    assert compiled == ["UNet"] and ", compiled:" in capsys.readouterr().out


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--batch_size", "many"], "batch_size"),
        (["--precision", "bf16"], "bf16-mixed"),
        (["--precision", "16-mixed"], "bf16-mixed"),
        (["--num_nodes", "0"], "--num_nodes 0: must be at least 1"),
        (["--compile", "maybe"], "compile"),
    ],
)
def test_mistakes(flags, words, capsys):
    assert words in refusal(capsys, "sample", RUN, *flags)


PEAK = """
import resource, sys
from scorelight.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_memory_does_not_depend_on_the_number_of_samples(make_module):
    """Of 3x32x32; 10,000 of them take 123 MB in float32, and 31 MB as they are stored."""
    module = make_module(network=MLP((3, 32, 32), 8, 1), sampler=DDIM(2), seed=0)
    settings = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict()}
    write_checkpoint(settings, Path("images.ckpt"))
    peaks = []
    for num in (500, 10_000):
        sizes = ["--num_samples", str(num), "--batch_size", "250", "--accelerator", "cpu"]
        command = ["sample", "images.ckpt", *sizes, "--out", str(num)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *command], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 25
    with np.load("10000/samples.npz") as file:
        assert file["images"].shape == (10_000, 32, 32, 3)
