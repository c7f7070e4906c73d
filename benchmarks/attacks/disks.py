"""Disks that are too small or read-only."""

import contextlib
import os
import shutil
import signal
import subprocess
import time

from support.runs import run_differences

from attacks.processes import RUN, TOY, exit_code, fingerprint, log_of, log_problem, row, run, start_process
from scorelight.storage.checkpoint import verify


@contextlib.contextmanager
def mounted(folder, kilobytes):
    """A file system of that size."""
    folder.mkdir(parents=True)
    how = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    subprocess.run(how, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def disk(quick, folder, rng):
    assert run(folder / "alone", TOY) == 0
    size = sum(p.stat().st_size for p in (folder / "alone/runs").rglob("*") if p.is_file()) // 1024
    try:
        with mounted(folder / "try", 64):
            pass
    except (OSError, subprocess.CalledProcessError):
        print("disk: skipped, since mounting a file system is not permitted")
        return
    sizes = [
        int(size * part)
        for part in ((0.5,) if quick else (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
    ]
    wrong = [
        problem
        for i, size in enumerate(sizes)
        for problem in too_small(folder / f"full{i}", size, folder / "alone")
    ]
    yield row("file systems that are too small", len(sizes), wrong, f"{sizes[0]} to {sizes[-1]} kB of {size}")
    turns = range(1 if quick else 5)
    wrong = [problem for i in turns for problem in read_only(folder / f"ro{i}", rng, folder / "alone")]
    yield row("file systems that become read-only", len(turns), wrong, "nothing was changed")


def too_small(here, kilobytes, alone):
    """Run until the disk is full, make room, and resume."""
    with mounted(here / "runs", kilobytes):
        code, log = run(here, TOY), log_of(here)
        if code != 2 or log_problem(log) or "make room" not in log:
            yield f"{kilobytes} kB: {code}: {log[-500:]}"
        for path in here.rglob("*.ckpt"):
            verify(path)
        if left := [*here.rglob(".*.tmp")]:
            yield f"{kilobytes} kB: left behind: {left}"
        remount(here / "runs", "size=64m")
        yield from resume_and_compare(here, alone)


def read_only(here, rng, alone):
    """Stop a run, make its file system read-only, try to resume and to sample, undo that, and resume."""
    with mounted(here / "runs", 65536):
        while True:
            pid = start_process(here, TOY)
            time.sleep(rng.uniform(0.3, 1.5))
            os.kill(pid, signal.SIGTERM)
            if (code := exit_code(pid)) == 143:
                break
            assert code != 0, "it ended before it could be stopped"
        before = fingerprint(here)
        remount(here / "runs", "ro")
        (here / "log.txt").unlink()
        code, log = run(here, TOY), log_of(here)
        if code != 2 or log_problem(log) or "read-only" not in log.lower():
            yield f"{code}: {log[-500:]}"
        if run(here, ["sample", RUN, "--num_samples=4"]) != 0:
            yield "a sample could not be drawn from it"
        shutil.rmtree(here / "samples")
        if fingerprint(here) != before:
            yield "something was changed"
        remount(here / "runs", "rw")
        yield from resume_and_compare(here, alone)


def resume_and_compare(here, alone):
    """Resume a run; what differs from the uninterrupted one."""
    if (code := run(here, TOY)) != 0:
        yield f"it did not resume: {code}: {log_of(here)[-500:]}"
    else:
        yield from run_differences(here / RUN, alone / RUN)
