"""Runs that are killed and resumed."""

import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path

from support.runs import run_differences

from attacks.processes import (
    DIGITS,
    SIGNALS,
    TOY,
    exit_code,
    log_of,
    ranks_flags,
    row,
    run,
    seconds_until_gone,
    start_process,
)


def kills(quick, folder, rng):
    numbers = (6, 1, 1) if quick else (100, 20, 10)
    yield kill_and_resume("toy, killed", TOY, numbers[0], rng, folder / "toy")
    yield kill_and_resume("digits, killed", DIGITS, numbers[1], rng, folder / "digits")
    yield kill_and_resume(
        "toy on two processes, killed", [*TOY, *ranks_flags(2)], numbers[2], rng, folder / "two", fresh=True
    )


def kill_and_resume(what, command, number, rng, folder, fresh=False):
    """Compare an uninterrupted run with runs that are killed, `number` times in all."""
    begin = time.perf_counter()
    assert run(folder / "alone", command, fresh=fresh) == 0, log_of(folder / "alone")[-2000:]
    duration, counts, wrong, runs, longest = time.perf_counter() - begin, Counter(), [], 0, 0.0
    moments = (0.4 * duration, duration) if fresh else (0, duration / 3)
    while counts.total() < number:
        here = folder / f"killed{runs}"
        enough = min(counts.total() + 8, number) - counts.total()
        kills_here, waited, problems = kill_repeatedly(here, command, enough, moments, rng, fresh)
        problems += problems_after_resuming(here, command, folder / "alone", fresh)
        counts, longest = counts + kills_here, max(longest, waited)
        wrong += [f"run {runs}: {problem}" for problem in problems]
        runs += 1
        print(what, f"{counts.total()} kills, {runs} runs, {len(wrong)} differences", flush=True)
    notes = f"{runs} runs; exit codes: "
    notes += ", ".join(f"{victim} {code} ({n})" for (victim, code), n in sorted(counts.items()))
    notes += f"; the others were gone {longest:.0f} s later" if fresh else ""
    return row(what, counts.total(), wrong, notes)


def kill_repeatedly(here, command, number, moments, rng, fresh):
    """Start and kill a run, until it ends before it is killed or was killed `number` times.

    Returns:
        How often each (signal, exit code) occurred, the longest wait for processes left behind, and problems.
    """
    counts, longest, problems = Counter(), 0.0, []
    while counts.total() < number:
        pid = start_process(here, command, fresh=fresh)
        time.sleep(rng.uniform(*moments))
        victim = kill(pid, rng, fresh)
        code = exit_code(pid)
        if finished(here):
            break
        counts[victim, code] += 1
        if (waited := seconds_until_gone(pid)) is None:
            problems.append(f"after {victim} a process was left")
        longest = max(longest, waited or 0)
    return counts, longest, problems


def problems_after_resuming(here, command, alone, fresh):
    """Resume a killed run to its end; what differs from the uninterrupted one."""
    problems = []
    if not finished(here) and (code := run(here, command, fresh=fresh)) != 0:
        problems.append(f"ended with {code}: {log_of(here)[-500:]}")
    if "Traceback" in log_of(here):
        problems.append("a traceback")
    (one,), (two,) = ((folder / "runs").rglob("version_*") for folder in (alone, here))
    return problems + run_differences(one, two)


def finished(folder):
    """Whether a run below the folder has ended."""
    return any((folder / "runs").rglob("finished"))


def kill(pid, rng, several):
    """Send a signal to all processes of a run, or kill one of several; returns what was done."""
    target = rng.choice(("all", "rank 0", "rank 1")) if several else "all"
    signum = rng.choice(SIGNALS) if target == "all" else signal.SIGKILL
    with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):
        if target == "all":
            os.killpg(pid, signum)
        else:
            ranks = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
            os.kill(ranks[int(target[-1])], signum)
    return signal.Signals(signum).name + ("" if target == "all" else f" to {target}")
