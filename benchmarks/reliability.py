"""Whether runs can be trusted: kills and resumes compared bit for bit, damaged files, several processes.

    python benchmarks/reliability.py            # about two hours on one core
    python benchmarks/reliability.py --quick    # some minutes: a few of each

* kills: a run is started, killed at a random moment (SIGKILL, SIGTERM or Ctrl-C), and started again by the
  same command, until it ends. Everything it leaves is compared with an uninterrupted run: checkpoints
  (weights, average, optimizer, schedule, data, callbacks), every logged number, every picture, bit for bit.
* two processes: the same under DDP (gloo); the kill hits one process or both.
* damage: truncated and bit-flipped checkpoints, a fourth of them near the end; pickles that run code.
* disk: a run on a file system of 1 MB that fills up, and one that is read-only (where mounting is allowed).

Each process is forked from one that has loaded everything, so that kills hit training and not its imports.
Writes reliability.json and .md beside this file.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scorelight.checkpoint_io import read_checkpoint
from scorelight.cli import main

HERE = Path(__file__).parent
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
QUIET = ["--trainer.enable_progress_bar=false"]
TOY = ["fit", "--config=toy/vp_epsilon", "--trainer.max_steps=200", "--trainer.val_check_interval=40"]
TOY += [
    "--checkpoint.every_n_steps=20",
    "--samples.every_n_steps=50",
    "--trainer.log_every_n_steps=5",
    *QUIET,
]


# Runs


def start(folder, command):
    """A process of its own group that runs the command in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
        code = main(command)
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid):
    """Its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid, signum, whole_group=True):
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if whole_group else os.kill)(pid, signum)


def interrupted(folder, command, kills, seconds, rng):
    """Start and kill at random moments until so many kills have hit a run; exit codes by signal."""
    codes = {}
    while kills > 0:
        signum, pid = rng.choice(SIGNALS), start(folder, command)
        time.sleep(rng.uniform(0, seconds))
        kill(pid, signum)
        code = ended(pid)
        codes.setdefault(signal.Signals(signum).name, []).append(code)
        if code == 0:  # it was faster
            break
        kills -= 1
    return codes


# What two runs leave


def differences(a, b):
    """What is not the same in two run folders."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        one, two = (read_checkpoint(run / "checkpoints" / name) for run in (a, b))
        found += [f"{name}{where}" for where in unequal(one, two) if not where.endswith("/current_score")]
    one, two = scalars(a), scalars(b)
    found += [f"logged {name}" for name in one.keys() | two.keys() if one.get(name) != two.get(name)]
    one, two = ({p.name: p.read_bytes() for p in (run / "samples").iterdir()} for run in (a, b))
    return found + [f"picture {name}" for name in one.keys() | two.keys() if one.get(name) != two.get(name)]


def unequal(a, b, where=""):
    """Paths of the leaves that differ."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        return [x for k in a.keys() | b.keys() for x in unequal(a.get(k), b.get(k), f"{where}/{k}")]
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        return [x for i, (v, w) in enumerate(zip(a, b, strict=True)) for x in unequal(v, w, f"{where}/{i}")]
    return [] if type(a) is type(b) and (a is b or a == b) else [where]


def scalars(run):
    """{name: {step: value}}."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {name: {p.step: p.value for p in events.Scalars(name)} for name in events.Tags()["scalars"]}
