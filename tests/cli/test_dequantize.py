"""Learned noise within grey levels, on the command line."""

import errno
import functools
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.corruption import corrupted
from support.marks import slow_but

from scorelight import LikelihoodProtocol, bits_per_dim, load_dequantizer
from scorelight.cli import main
from scorelight.data import DigitsDataModule
from scorelight.data.access import examples_of
from scorelight.rng import PhiloxGenerator, Stream
from scorelight.storage.lock import exclusive
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_module

TINY = "--trainer.max_steps 2 --trainer.val_check_interval 2 --model.network.base_channels 8"
TINY += " --model.network.num_blocks 1 --samples.num_samples 10"
ROW = r"{}\s+(\S+) ± (\S+)"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fit(capsys):
    def fitted(name="digits/vp_epsilon", flags=TINY):
        assert main(["fit", "--config", name, *flags.split()]) == 0
        capsys.readouterr()
        return f"runs/{name}"

    return fitted


def fails(capsys, *args):
    assert main(["dequantize", *args]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message and message.count("scorelight: error:") == 1
    return message


def figures(message):
    return {
        name: float(re.search(ROW.format(name), message)[1])
        for name in ("uniform", "learned", "uniform - learned")
    }


@pytest.mark.parametrize(
    "name", slow_but(["digits/vp_epsilon", "digits/vp_epsilon_conditional"], "digits/vp_epsilon")
)
def test_it_trains_compares_and_writes_what_python_reads(name, fit, capsys):
    run, flags = fit(name), "--max_steps 2 --num_images 3 --dequantizer.width 8 --out new/q.ckpt --seed 4"
    assert main(["dequantize", run, *flags.split()]) == 0
    message = capsys.readouterr().out
    found = figures(message)
    assert found["uniform"] - found["learned"] == pytest.approx(found["uniform - learned"], abs=2e-4)
    assert "num_bins 17" in message and "truncation smoothed" in message and "new/q.ckpt" in message
    checkpoint = torch.load("new/q.ckpt", weights_only=True)
    assert checkpoint["dequantizer"] == {
        "class_path": "scorelight.FlowDequantization",
        "init_args": {"shape": [1, 8, 8], "num_steps": 4, "num_spline_bins": 8, "width": 8},
    }

    data = DigitsDataModule()
    data.setup("validate")
    batch = examples_of(data, "val").first(3)
    cond = batch.cond if "conditional" in name else {}
    again = bits_per_dim(
        load_module(find_checkpoint(run)).ema.denoiser,
        batch.x0,
        LikelihoodProtocol(17),
        dequantizer=load_dequantizer("new/q.ckpt"),
        generator=PhiloxGenerator(4, range(3), Stream.LIKELIHOOD),
        **cond,
    )
    assert again.mean == pytest.approx(found["learned"], abs=1e-3)
    assert again.protocol.dequantization == "learned"


@pytest.mark.slow
def test_it_goes_on_where_it_was(fit, capsys):
    run, flags = fit(), "--max_steps 4 --num_images 2 --dequantizer.width 8"
    assert main(["dequantize", run, *flags.split()]) == 0
    whole = load_dequantizer("dequantizer.ckpt").state_dict()
    assert "exists already" in fails(capsys, run)
    flags = "--max_steps 8 --num_images 2 --resume true"
    assert main(["dequantize", run, *flags.split()]) == 0
    assert torch.load("dequantizer.ckpt", weights_only=True)["global_step"] == 8
    longer = load_dequantizer("dequantizer.ckpt").state_dict()
    assert longer.keys() == whole.keys() and not torch.equal(
        longer["networks.0.0.bias"], whole["networks.0.0.bias"]
    )


@pytest.mark.slow
def test_mistakes(fit, capsys):
    run = fit()
    for flag, value in (("max_steps", "0"), ("num_images", "0"), ("devices", "0")):
        assert f"--{flag} {value}" in fails(capsys, run, f"--{flag}", value)
    assert "num_bins=0" in fails(capsys, run, "--num_bins", "0")
    assert "not on 256 grey levels" in fails(capsys, run, "--num_bins", "256")
    assert "learning_rate=-1" in fails(capsys, run, "--learning_rate", "-1")
    assert "num_steps=1" in fails(capsys, run, "--dequantizer.num_steps", "1")
    assert "nothing to train" in fails(capsys, run, "--dequantizer", "UniformDequantization")
    assert "'Flow'" in fails(capsys, run, "--dequantizer", "Flow")
    assert "not quantised" in fails(capsys, run, "--data", "ToyDataModule")
    assert "shape (2,), but the model is for (1, 8, 8)" in fails(
        capsys, run, "--data", "ToyDataModule", "--num_bins", "9"
    )
    assert "nothing to resume from" in fails(capsys, run, "--resume", "true")
    assert "it is a folder" in fails(capsys, run, "--out", ".")
    assert "did you mean 'max_steps'" in fails(capsys, run, "--max_stepz", "3")
    assert "nowhere does not exist" in fails(capsys, "nowhere")
    assert "name the run folder" in fails(capsys)
    Path("q.ckpt").write_text("nothing")
    assert "holds no dequantizer" in fails(capsys, run, "--resume", "true", "--out", "q.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_what_is_trained_survives_an_interruption(sent, fit):
    command = [sys.executable, "-m", "scorelight", "dequantize", fit(), "--max_steps", "100000"]
    log = Path("log")
    listen = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # in the background it is ignored
    with log.open("wb") as file:
        running = subprocess.Popen(command, stdout=file, stderr=file, preexec_fn=listen)
    try:
        deadline = time.monotonic() + 120
        while b"train/bits_per_dim" not in log.read_bytes():
            assert running.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        running.send_signal(sent)
        running.wait(timeout=60)
    finally:
        running.kill()
    assert "--resume true" in log.read_text() and "Traceback" not in log.read_text()
    assert load_dequantizer("dequantizer.ckpt").shape == (1, 8, 8)


@pytest.mark.slow
def test_the_file_is_verified_like_a_checkpoint_and_has_one_writer(fit, capsys):
    run, file = fit(), Path("q.ckpt")
    flags = ["--max_steps", "2", "--num_images", "2", "--dequantizer.width", "8", "--out", "q.ckpt"]
    assert main(["dequantize", run, *flags]) == 0
    content = file.read_bytes()
    for turn in range(6):
        file.write_bytes(corrupted(content, turn, random.Random(turn)))
        assert "q.ckpt: holds no dequantizer" in fails(capsys, run, "--resume", "true", "--out", "q.ckpt")
        assert main(["evaluate", run, "--metrics", "NegativeLogLikelihood", "--dequantizer", "q.ckpt"]) == 2
        assert "q.ckpt" in capsys.readouterr().err
    file.write_bytes(content)
    with exclusive(file):
        message = fails(capsys, run, "--resume", "true", "--max_steps", "4", "--out", "q.ckpt")
    assert "q.ckpt: another process is writing there" in message and file.read_bytes() == content


@pytest.mark.slow
def test_a_write_that_fails_keeps_the_file(fit, capsys, monkeypatch):
    run = fit()
    flags = ["--num_images", "2", "--dequantizer.width", "8"]
    assert main(["dequantize", run, "--max_steps", "2", *flags]) == 0
    before = Path("dequantizer.ckpt").read_bytes()

    def full(_, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    message = fails(capsys, run, "--max_steps", "4", "--resume", "true", "--num_images", "2")
    assert "dequantizer.ckpt cannot be written: No space left on device" in message
    assert Path("dequantizer.ckpt").read_bytes() == before
