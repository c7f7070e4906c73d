"""Runs of two processes from the command line: launched in three ways, killed, stopped, restarted.

In every case the run ends as an uninterrupted one does, bit for bit.
"""

import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress

import pytest
from support.runs import run_differences

from scorelight.storage.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow
COMMAND = ["fit", "--config=toy/vp_epsilon", "--trainer.default_root_dir=runs", "--trainer.max_steps=12"]
COMMAND += ["--trainer.val_check_interval=5", "--checkpoint.every_n_steps=3", "--samples.every_n_steps=6"]
COMMAND += ["--trainer.log_every_n_steps=1", "--samples.num_samples=2", "--model.network.width=16"]
COMMAND += ["--data.num_train=200", "--data.batch_size=16", "--data.num_val=21"]
COMMAND += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
COMMAND += ["--trainer.enable_progress_bar=false", "--trainer.callbacks+=signals.Signals"]
HERE = [sys.executable, "-m"]
LIGHTNING = [*HERE, "scorelight"]
TORCHRUN = [*HERE, "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m"]
TORCHRUN += ["scorelight"]
SIGNALS = '''
"""After step 8 the process of the rank that the file names gets the signal that it names, once."""
import os
from pathlib import Path
from lightning.pytorch import Callback

class Signals(Callback):
    def on_train_batch_end(self, trainer, *_):
        file = Path("signal")
        rank, signum = map(int, file.read_text().split()) if file.exists() else (-1, 0)
        if trainer.global_step == 8 and trainer.global_rank == rank:
            file.unlink()
            os.kill(os.getpid(), signum)
'''


def start(folder, launcher=LIGHTNING, flags=(), **env):
    folder.mkdir(exist_ok=True)
    (folder / "signals.py").write_text(SIGNALS)
    env = {k: v for k, v in os.environ.items() if k != "PL_GLOBAL_SEED"} | env
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(
        [*launcher, *COMMAND, *flags], cwd=folder, env=env, start_new_session=True, **pipes
    )


def end(process, seconds=120):
    """Exit code and all output; no process may be left that holds the pipe."""
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def same(a, b):
    return run_differences(*(folder / "runs/version_0" for folder in (a, b))) == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What two processes write without an interruption."""
    code, output = end(start(folder := tmp_path_factory.mktemp("alone")))
    assert code == 0, output
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_dies_the_other_stops_and_the_command_resumes(alone, tmp_path, rank):
    (tmp_path / "signal").write_text(f"{rank} {signal.SIGKILL}")
    code, output = end(start(tmp_path), 120)
    assert code != 0 and "Traceback" not in output
    assert "another process of this run has ended" in output or "terminated with code -9" in output
    code, output = end(start(tmp_path))
    assert code == 0 and "from step 6" in output
    assert same(tmp_path, alone)


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_restarts_what_has_died(alone, tmp_path, rank):
    (tmp_path / "signal").write_text(f"{rank} {signal.SIGKILL}")
    code, output = end(start(tmp_path, TORCHRUN))
    assert code == 0 and "from step 6" in output, output
    assert same(tmp_path, alone)


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_stops_both_after_the_same_step(alone, tmp_path, rank):
    (tmp_path / "signal").write_text(f"{rank} {signal.SIGTERM}")
    code, output = end(start(tmp_path))
    assert code == 143 and "Traceback" not in output and "Rerun the same command to resume" in output
    assert read_checkpoint(tmp_path / "runs/version_0/checkpoints/last.ckpt")["global_step"] == 8
    code, output = end(start(tmp_path))
    assert code == 0 and "from step 8" in output
    assert same(tmp_path, alone)


def test_a_port_that_is_taken_gives_one_message_and_leaves_no_process(tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        process = start(tmp_path, MASTER_PORT=str(taken.getsockname()[1]))
        code, output = end(process, 100)  # of both processes
    assert code == 2 and output.count("scorelight: error:") == 1
    assert "MASTER_PORT=" in output and "another program uses this port" in output


@pytest.mark.parametrize("flags", [["--data.num_val=1"], ["--trainer.precision=16-true"]])
def test_a_mistake_that_all_processes_notice_is_reported_once(tmp_path, flags):
    code, output = end(start(tmp_path, [*LIGHTNING], flags=flags), 100)
    assert code == 2 and output.count("scorelight: error:") == 1, output
    words = "1 validation examples for 2 processes" if "num_val" in flags[0] else "weights of 16 bits"
    assert words in output


def test_slurm_is_asked_to_requeue_the_job(alone, tmp_path):
    """srun has started the processes and sends its signal; the requeued job resumes."""
    (tmp_path / "bin").mkdir()
    (asked := tmp_path / "bin/scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    asked.chmod(asked.stat().st_mode | stat.S_IEXEC)
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "fit", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    job |= {"SLURM_NODELIST": "localhost", "SLURM_NODEID": "0", "SLURM_NNODES": "1"}
    job |= {"MASTER_ADDR": "127.0.0.1", "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def run():
        ranks = [start(tmp_path, **job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in range(2)]
        return [end(rank) for rank in ranks]

    (tmp_path / "signal").write_text(f"0 {signal.SIGUSR1}")
    stopped = run()
    assert stopped[0][0] == 128 + signal.SIGUSR1 and stopped[1][0] == 143, stopped
    assert (tmp_path / "asked").read_text().split() == ["requeue", "77"]
    assert [code for code, _ in run()] == [0, 0]
    assert same(tmp_path, alone)
