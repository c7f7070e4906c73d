"""Whether runs are reliable: what is tried on them, and how often the result is wrong.

    python benchmarks/reliability.py                        # an hour on two cores
    python benchmarks/reliability.py --only disk payloads   # these parts; the others stay as they were
    python benchmarks/reliability.py --quick                # a few of each; writes nothing

* kills: a run is started, killed at a random moment (SIGKILL, SIGTERM or Ctrl-C; of two processes also one
  alone), and resumed by the same command, until it ends. Everything it writes is compared with an
  uninterrupted run: checkpoints (weights, average, optimizer, schedule, data, callbacks), every logged
  number, every picture, bit for bit.
* damage: truncated and bit-flipped checkpoints, a fourth of them near the end.
* payloads: checkpoints with a pickle that would run code, given to every command that reads one.
* disk: runs on file systems that are too small or become read-only, and that resume when the cause is gone.
  Needs the right to mount one.
* ranks: the same global batches on one, two and three processes.
* configurations, command_lines, data: generated mistakes (tests/support/mutations.py) in every shipped
  configuration, in command lines and in images.

Except with several ranks, each process is forked from one that has loaded everything, so that kills hit
training and not its imports. Writes reliability.json and .md beside this file.
"""

import argparse
import builtins
import contextlib
import functools
import importlib
import json
import logging
import os
import pickle
import pkgutil
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import yaml
from common import RESULTS, commit
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support.corruption import CallWhenUnpickled, corrupted
from support.mutations import complaint, mistakes, wrong_commands, wrong_data
from support.runs import logged_scalars, run_differences

import scorelight
from scorelight.cli import main
from scorelight.cli.configs import config_dir
from scorelight.storage.checkpoint import CorruptedCheckpointError, read_checkpoint, verify, write_checkpoint

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TOY = ["fit", "--config=toy/vp_epsilon", "--trainer.max_steps=200", "--trainer.val_check_interval=40"]
TOY += ["--checkpoint.every_n_steps=20", "--samples.every_n_steps=50", "--trainer.log_every_n_steps=5"]
TOY += ["--trainer.enable_progress_bar=false"]
DIGITS = ["fit", "--config=digits/vp_epsilon", "--trainer.max_steps=40", "--trainer.val_check_interval=20"]
DIGITS += ["--checkpoint.every_n_steps=10", "--samples.every_n_steps=20", "--trainer.log_every_n_steps=5"]
DIGITS += ["--trainer.enable_progress_bar=false"]
RUN = "runs/toy/vp_epsilon/version_0"


def ranks_flags(ranks):
    """Flags for this many processes, with 240 examples of the toy in a global batch."""
    return [
        "--trainer.accelerator=cpu",
        f"--trainer.devices={ranks}",
        f"--data.batch_size={240 // ranks}",
        "--trainer.strategy=ddp",
    ]


# Processes


def import_everything():
    """Import all of scorelight before processes are forked: its modules are imported when first used."""
    for module in pkgutil.walk_packages(scorelight.__path__, "scorelight."):
        importlib.import_module(module.name)


def start_process(folder, command, fresh=False, memory=None, seconds=0):
    """The id of a process that runs the command in the folder, in its own group; its output is in log.txt.

    Args:
        folder: Created if it does not exist.
        command: Arguments of scorelight.
        fresh: Whether to start a new interpreter, which a process that starts others needs.
        memory: Bytes of address space that it may use beyond what it has.
        seconds: Time limit, exit code −14; 0 means none.
    """
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
        if fresh:
            os.execv(sys.executable, [sys.executable, "-m", "scorelight", *command])
        if memory:
            most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + memory
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        signal.alarm(seconds)
        code = main(command)
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def exit_code(pid):
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(folder, command, **options):
    """Run the command to its end; its exit code."""
    return exit_code(start_process(folder, command, **options))


def seconds_until_gone(group, seconds=60):
    """Seconds until no process of the group is left, None if some still are."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return time.perf_counter() - begin
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return None


def log_of(folder):
    return (folder / "log.txt").read_text(errors="replace")


def log_problem(log):
    """What a user would complain of in the output of a run that had to stop."""
    if "Traceback" in log:
        return "a traceback"
    return "" if log.count("scorelight: error:") == 1 else "not one message"


def fingerprint(folder):
    """Size and time of the last change of every file of a folder except the trial's log."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "log.txt")
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def row(what, cases, wrong, notes=""):
    print(
        f"{what}: {cases} cases, {len(wrong)} wrong. {notes}",
        *wrong[:5],
        sep="\n  ",
        flush=True,
    )
    return {"what": what, "cases": cases, "wrong": wrong, "notes": notes}


# Kills


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


# Files


def corruption(quick, folder, rng):
    """Checkpoints truncated or with a bit flipped; a tenth of them are given to a command."""
    number = 20 if quick else 100
    assert run(folder / "run", TOY) == 0
    path = folder / "run" / RUN / "checkpoints/last.ckpt"
    content, wrong, turns = path.read_bytes(), [], range(number)
    for turn in turns:
        path.write_bytes(corrupted(content, turn, rng))
        with contextlib.suppress(CorruptedCheckpointError):
            read_checkpoint(path)
            wrong.append(f"corrupted file {turn} was loaded")
        if turn % 10 == 0:  # the command line, too
            code, log = run(folder / "run", ["sample", RUN, "--num_samples=4"]), log_of(folder / "run")
            if code != 0 or "last.ckpt is not a checkpoint of scorelight, or is corrupted" not in log:
                wrong.append(f"corrupted file {turn}: {code}: {log[-300:]}")
    yield row("checkpoints truncated or with a bit flipped", number, wrong, "the previous one was used")


GADGETS = {
    "os.system": lambda: CallWhenUnpickled(os.system, "touch ran"),
    "exec": lambda: CallWhenUnpickled(builtins.exec, "open('ran', 'w').close()"),
    "eval": lambda: CallWhenUnpickled(builtins.eval, "open('ran', 'w').close()"),
    "Path.touch": lambda: CallWhenUnpickled(Path.touch, Path("ran")),
    "subprocess": lambda: CallWhenUnpickled(subprocess.check_call, ["touch", "ran"]),
    "partial": lambda: CallWhenUnpickled(functools.partial, os.system, "touch ran"),
}
READERS = {
    "sample": ["sample", RUN, "--num_samples=4"],
    "evaluate": ["evaluate", RUN, "--num_samples=4"],
    "validate": ["validate", "--config=toy/vp_epsilon", f"--ckpt_path={RUN}"],
    "fit --ckpt_path": [*TOY, f"--ckpt_path={RUN}"],
    "fit, resuming": TOY,
}


def write_payload(path, way, gadget):
    """Put a payload into a checkpoint: as torch saves, as plain pickle, or with a valid checksum."""
    content = read_checkpoint(path)
    content["hyper_parameters" if way == "checksum" else "state_dict"]["bad"] = GADGETS[gadget]()
    if way == "checksum":  # which shows that the file is what was written, not that it is harmless
        write_checkpoint(content, path)
    elif way == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))


def payloads(quick, folder, rng):
    assert run(folder / "run", TOY) == 0
    (folder / "run" / RUN / "finished").unlink()
    for name in ("previous", "best"):
        (folder / "run" / RUN / f"checkpoints/{name}.ckpt").unlink()
    path = folder / "run" / RUN / "checkpoints/last.ckpt"
    content, wrong, cases = path.read_bytes(), [], 0
    for way in ("torch", "pickle", "checksum"):
        for gadget in [*GADGETS][: 1 if quick else None]:
            for reader, command in READERS.items():
                path.write_bytes(content)
                write_payload(path, way, gadget)
                (folder / "run/log.txt").unlink()
                code, cases = run(folder / "run", command), cases + 1
                ran, log = (folder / "run/ran").exists(), log_of(folder / "run")
                if ran or code != 2 or log_problem(log):
                    wrong.append(f"{way}, {gadget}, {reader}: {code}, ran: {ran}: {log[-300:]}")
    yield row("checkpoints with a payload", cases, wrong, "refused by name before anything ran")


# Disks


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


# Numbers of processes


def ranks(quick, folder, rng):
    """Losses, weights and average on two and three processes, as relative differences from those on one."""
    command, results = [*TOY, "--trainer.max_steps=50", "--trainer.log_every_n_steps=1"], {}
    for number in (1, 2, 3):
        here = folder / str(number)
        assert run(here, [*command, *ranks_flags(number)], fresh=True) == 0, log_of(here)
        weights = read_checkpoint(here / RUN / "checkpoints/last.ckpt")["state_dict"]
        flat = torch.cat(
            [v.flatten().double() for v in weights.values() if torch.is_tensor(v) and v.is_floating_point()]
        )
        losses = torch.tensor([*logged_scalars(here / RUN)["train/loss"].values()], dtype=torch.float64)
        results[number] = losses, flat, len([*(here / RUN).glob("events*")])
    wrong, notes = [], []
    for number in (2, 3):
        losses, weights = (
            ((a - b).abs() / b.abs().mean()).max().item()
            for a, b in zip(results[number][:2], results[1][:2], strict=True)
        )
        notes.append(f"{number}: losses {losses:.0e}, weights {weights:.0e}")
        if max(losses, weights) > 1e-4 or len(results[number][0]) != 50 or results[number][2] != 1:
            wrong.append(f"{number} processes: {notes[-1]}, {results[number][2]} logs")
    yield row(
        "two and three processes against one",
        2,
        wrong,
        f"largest relative difference in 50 steps: {'; '.join(notes)}",
    )


# Mistakes


DRY = ["--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
THIN = ["--model.network.base_channels=8", "--model.network.num_blocks=1"]
COMMANDS = {
    "fit": "--config toy/vp_epsilon --data.batch_size 8 --model.process VPSDE --trainer.fast_dev_run 1",
    "sample": "runs --num_samples 3 --seed 1 --batch_size 2 --out o --weights ema",
    "evaluate": "runs --num_samples 9 --metrics FrechetDistance --features PixelFeatures --seeds 0 --out o",
    "interpolate": "runs --num_pairs 2 --num_columns 4 --out o.png --sampler DDIM --sampler.num_steps 4",
    "statistics": "--data ToyDataModule --features PixelFeatures --out o.npz",
    "advise": "--data ToyDataModule --max_examples 50",
}


def configurations(quick, folder, rng):
    """Mistakes in each shipped configuration; images and networks of the large ones are made small."""
    parts = []
    for path in sorted(config_dir().rglob("*.yaml")):
        name = str(path.relative_to(config_dir()).with_suffix(""))
        if quick and name not in ("toy/vp_epsilon", "cifar10/ddpm"):
            continue
        config = small(yaml.safe_load(path.read_text()), folder)
        number = 5 if quick else 40 if name.startswith("toy") else 20
        strategy = mistakes(config).map(lambda m: (m, ["fit", "--config=config.yaml", *DRY]))
        parts.append(generated(name, strategy, folder, number))
    wrong = [f"{part['what']}: {problem}" for part in parts for problem in part["wrong"]]
    total = Counter()
    for part in parts:
        total += Counter(part["tally"])
    cases = sum(part["cases"] for part in parts)
    yield row(f"mistakes in {len(parts)} shipped configurations", cases, wrong, tally_text(total))


def small(config, folder):
    """A configuration with a few images of noise instead of published ones, and a thin network for them."""
    kind = config["data"]["class_path"]
    sizes = {"MNISTDataModule": (12, 28, 28, 1), "CIFAR10DataModule": (12, 32, 32, 3)}
    if kind in sizes:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{kind}.npz"
        np.savez(
            path,
            images=np.random.default_rng(0).integers(0, 256, sizes[kind], dtype=np.uint8),
            labels=np.arange(12) % 10,
        )
        config["data"] = {"class_path": "ImageDataModule", "init_args": {"path": str(path), "batch_size": 2}}
        config["model"]["network"]["init_args"]["base_channels"] = 8
        config["model"]["sampler"]["init_args"]["num_steps"] = 4
    return config


def command_lines(quick, folder, rng):
    """Mistakes in commands that are given a run of images."""
    yield generated("mistakes in command lines", wrong_lines(), folder, 10 if quick else 300, with_run=True)


def data(quick, folder, rng):
    """Images that cannot be used."""
    yield generated("data that cannot be used", data_of(folder / "images"), folder, 10 if quick else 200)


def wrong_lines():
    lines = [[command, *args.split()] for command, args in COMMANDS.items()]
    return st.sampled_from(lines).flatmap(wrong_commands).map(lambda m: (m, m.what))


def data_of(folder):
    folder.mkdir(parents=True)
    command = ["fit", "--config=digits/vp_epsilon", "--data=ImageDataModule", *THIN, *DRY]
    return wrong_data(folder).map(lambda m: (m, [*command, f"--data.path={m.what}"]))


def generated(what, strategy, folder, number, with_run=False):
    """Give that many mistakes to the command line, each to its own process with 4 GB and a minute."""
    here, wrong, tally = folder / "here", [], Counter()
    if with_run:
        assert run(here, [*DIGITS, "--trainer.default_root_dir=runs", *THIN]) == 0, log_of(here)

    @seed(zlib.crc32(what.encode()))
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(strategy)
    def case(drawn):
        code, problem = make_mistake(here, *drawn)
        tally[code] += 1
        if problem:
            wrong.append(f"{problem}: {drawn[0]}: exit code {code}: {log_of(here).strip()[-300:]}")

    case()
    notes = tally_text(tally)
    return row(what, sum(tally.values()), wrong, notes) | {"tally": tally}


def make_mistake(here, mistake, args):
    """Run a command with a mistake; its exit code, and what is wrong with how the mistake was met."""
    here.mkdir(parents=True, exist_ok=True)
    if "--config=config.yaml" in args:
        (here / "config.yaml").write_text(yaml.safe_dump(mistake.what))
    before = fingerprint(here)
    (here / "log.txt").unlink(missing_ok=True)
    code, log = run(here, args, memory=4 << 30, seconds=60), log_of(here)
    problem = "" if code == -signal.SIGALRM else complaint(mistake, code, log)
    if not problem and code == 2 and fingerprint(here) != before:
        problem = "something was written"
    return code, problem


def tally_text(tally):
    names = {
        0: "no mistake after all",
        1: "failed in training, with a message",
        2: "refused",
        -14: "stopped after a minute",
    }
    return ", ".join(
        f"{n} {names.get(code, f'exit code {code}')}" for code, n in sorted(tally.items(), reverse=True)
    )


# All of it

PARTS = {
    "kills": kills,
    "damage": corruption,
    "payloads": payloads,
    "disk": disk,
    "ranks": ranks,
    "configurations": configurations,
    "command_lines": command_lines,
    "data": data,
}


def report(parts):
    lines = ["| what was tried | how often | wrong | |", "| --- | --- | --- | --- |"]
    for part in parts.values():
        lines += [
            f"| {r['what']} | {r['cases']:,} | {len(r['wrong'])} | {r['notes']} |" for r in part["rows"]
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], help="the parts to run")
    parser.add_argument("--quick", action="store_true", help="a few of each; prints, and writes nothing")
    options = parser.parse_args()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # "out of order event.step" after a resume
    torch.set_num_threads(1)
    import_everything()
    file, results = RESULTS / "reliability.json", {}
    for name in options.only:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            rows = [*PARTS[name](options.quick, Path(place), random.Random(0))]
        seconds = round(time.perf_counter() - begin)
        about = {"commit": commit(), "seed": 0, "seconds": seconds, "torch": torch.__version__}
        results[name] = about | {"rows": rows}
        if not options.quick:
            kept = json.loads(file.read_text()) if file.exists() else {}
            parts = {part: (kept | results)[part] for part in PARTS if part in kept | results}
            file.write_text(json.dumps(parts, indent=1) + "\n")
            file.with_suffix(".md").write_text(report(parts))
    print(report(results))
    sys.exit(any(r["wrong"] for part in results.values() for r in part["rows"]))
