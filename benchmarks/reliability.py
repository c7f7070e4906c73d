"""Whether runs can be trusted: kills and resumes compared bit for bit, damaged files.

    python benchmarks/reliability.py            # some twenty minutes on one core
    python benchmarks/reliability.py --quick    # two minutes: a few of each

* kills: a run is started, killed at a random moment (SIGKILL, SIGTERM or Ctrl-C), and started again by the
  same command, until it ends. Everything it leaves is compared with an uninterrupted run: checkpoints
  (weights, average, optimizer, schedule, data, callbacks), every logged number, every picture, bit for bit.
* damage: truncated and bit-flipped checkpoints, a fourth of them near the end.

Each process is forked from one that has loaded everything, so that kills hit training and not its imports.
Writes reliability.json and .md beside this file.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from common import commit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scorelight.checkpoint_io import DamagedCheckpointError, read_checkpoint, write_checkpoint
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

DIGITS = ["fit", "--config=digits/vp_epsilon", "--trainer.max_steps=40", "--trainer.val_check_interval=20"]
DIGITS += ["--checkpoint.every_n_steps=10", "--samples.every_n_steps=20", "--trainer.log_every_n_steps=5"]
DIGITS += ["--trainer.enable_progress_bar=false"]


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


# What is tried


def kills(name, command, number, rng, folder):
    """A run that is left alone, against runs that are killed, so many kills in all."""
    begin = time.perf_counter()
    assert ended(start(folder / "alone", command)) == 0, (folder / "alone/log.txt").read_text()[-2000:]
    seconds, hits, codes, wrong, runs = time.perf_counter() - begin, 0, {}, [], 0
    while hits < number:
        here = folder / f"killed{runs}"
        for signum, found in interrupted(here, command, min(8, number - hits), seconds / 3, rng).items():
            codes.setdefault(signum, []).extend(found)
        hits = sum(code != 0 for found in codes.values() for code in found)
        if (code := ended(start(here, command))) != 0:
            wrong.append(f"run {runs} ended with {code}: {(here / 'log.txt').read_text()[-500:]}")
        (one,), (two,) = ((at / "runs").rglob("version_*") for at in (folder / "alone", here))
        wrong += [f"run {runs}: {what}" for what in differences(one, two)]
        runs += 1
        print(name, f"{hits} kills, {runs} runs, {len(wrong)} differences", flush=True)
    tally = {signum: {str(c): found.count(c) for c in set(found)} for signum, found in codes.items()}
    return {"runs": runs, "kills": hits, "exit codes": tally, "differences": wrong}


def damaged(whole, turn, rng):
    """A file cut off, or with a bit flipped: every other time in its last 200 bytes."""
    changed = bytearray(whole)
    if turn % 2:
        del changed[rng.randrange(len(whole)) :]
    else:
        place = rng.randrange(len(whole)) if turn % 4 else len(whole) - 1 - rng.randrange(200)
        changed[place] ^= 1 << rng.randrange(8)
    return changed


def damage(number, rng, folder):
    """Checkpoints cut off or with a bit flipped: how many are loaded."""
    content = {"state_dict": {f"w{i}": torch.randn(40, 40) for i in range(20)}, "global_step": 7}
    write_checkpoint(content, path := folder / "a.ckpt")
    whole, loaded = path.read_bytes(), 0
    for turn in range(number):
        path.write_bytes(damaged(whole, turn, rng))
        with contextlib.suppress(DamagedCheckpointError):
            read_checkpoint(path)
            loaded += 1
    return {"files": number, "loaded": loaded}


def report(results):
    lines = [
        "| kills | runs | kills | exit codes (how often) | differences |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in results["kills"].items():
        codes = "; ".join(
            f"{signum}: {', '.join(f'{code} ({n})' for code, n in sorted(tally.items()))}"
            for signum, tally in sorted(found["exit codes"].items())
        )
        lines.append(
            f"| {name} | {found['runs']} | {found['kills']} | {codes} | {len(found['differences'])} |"
        )
    found = results["damage"]
    lines += ["", f"Damaged checkpoints: {found['files']}, loaded: {found['loaded']}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few of each; prints, and writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, begin = random.Random(0), time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        jobs = {"toy": (TOY, 6 if options.quick else 100), "digits": (DIGITS, 1 if options.quick else 20)}
        results = {
            "kills": {n: kills(n, c, number, rng, folder / n) for n, (c, number) in jobs.items()},
            "damage": damage(100, rng, folder),
        }
    text = report(results)
    print(text)
    if not options.quick:
        seconds = round(time.perf_counter() - begin)
        summary = {"commit": commit(), "seed": 0, "seconds": seconds, "torch": torch.__version__, **results}
        (HERE / "reliability.json").write_text(json.dumps(summary, indent=1) + "\n")
        (HERE / "reliability.md").write_text(text)
    sys.exit(
        any(found["differences"] for found in results["kills"].values()) or results["damage"]["loaded"] > 0
    )
