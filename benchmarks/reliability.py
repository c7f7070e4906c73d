"""Whether runs can be trusted: what is tried on them, and how often something was not as it should be.

    python benchmarks/reliability.py                        # an hour on two cores
    python benchmarks/reliability.py --only disk payloads   # these parts; the others stay as they were
    python benchmarks/reliability.py --quick                # a few of each; writes nothing

* kills: a run is started, killed at a random moment (SIGKILL, SIGTERM or Ctrl-C; of two processes also one
  alone), and started again by the same command, until it ends. Everything it leaves is compared with an
  uninterrupted run: checkpoints (weights, average, optimizer, schedule, data, callbacks), every logged
  number, every picture, bit for bit.
* damage: truncated and bit-flipped checkpoints, a fourth of them near the end.
* payloads: checkpoints with a pickle that would run code, given to every command that reads one.
* disk: runs on file systems that are too small or become read-only, and go on when that has passed. Needs
  the right to mount one.
* ranks: the same global batches on one, two and three processes.
* configurations, command_lines, data: generated mistakes (tests/mutations.py) in every shipped configuration,
  in command lines and in images.

But for several ranks each process is forked from one that has loaded everything, so that kills hit training
and not its imports. Writes reliability.json and .md beside this file.
"""

import argparse
import builtins
import contextlib
import functools
import json
import logging
import os
import pickle
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

import torch
import yaml
from common import commit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scorelight.cli import main
from scorelight.cli.configs import config_dir
from scorelight.storage.checkpoint import CorruptedCheckpointError, read_checkpoint, verify, write_checkpoint

HERE = Path(__file__).parent
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TOY = ["fit", "--config=toy/vp_epsilon", "--trainer.max_steps=200", "--trainer.val_check_interval=40"]
TOY += ["--checkpoint.every_n_steps=20", "--samples.every_n_steps=50", "--trainer.log_every_n_steps=5"]
TOY += ["--trainer.enable_progress_bar=false"]
DIGITS = ["fit", "--config=digits/vp_epsilon", "--trainer.max_steps=40", "--trainer.val_check_interval=20"]
DIGITS += ["--checkpoint.every_n_steps=10", "--samples.every_n_steps=20", "--trainer.log_every_n_steps=5"]
DIGITS += ["--trainer.enable_progress_bar=false"]
RUN = "runs/toy/vp_epsilon/version_0"


def several(ranks):
    """Flags for so many processes with 240 examples of the toy in a global batch."""
    return [
        "--trainer.accelerator=cpu",
        f"--trainer.devices={ranks}",
        f"--data.batch_size={240 // ranks}",
        "--trainer.strategy=ddp",
    ]


# Processes


def start(folder, command, fresh=False, memory=None, seconds=0):
    """A process, leader of its own group, that runs the command in the folder; its output is in log.txt.

    Args:
        folder: Made if it is not there.
        command: Arguments of scorelight.
        fresh: Whether to load everything anew, as a process that is to start others must.
        memory: Bytes of address space that it may use beyond what it has.
        seconds: When to give up, exit code −14; 0 is never.
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


def ended(pid):
    """Its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def deserted(group, seconds=60):
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


def said(folder):
    return (folder / "log.txt").read_text(errors="replace")


def unhappy(log):
    """What a user would complain of in the output of a run that could not go on."""
    if "Traceback" in log:
        return "a traceback"
    return "" if log.count("scorelight: error:") == 1 else "not one message"


# What two runs leave


def differences(a, b):
    """What is not the same in two run folders."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        one, two = (read_checkpoint(run / "checkpoints" / name) for run in (a, b))
        # Lightning's ModelCheckpoint forgets that number on a resume
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


def fingerprint(folder):
    """Every file of a folder but logs of the trial, and when and how it was last written."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "log.txt")
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def row(what, cases, wrong, notes=""):
    print(
        f"{what}: {cases} cases, {len(wrong)} not as they should be. {notes}",
        *wrong[:5],
        sep="\n  ",
        flush=True,
    )
    return {"what": what, "cases": cases, "wrong": wrong, "notes": notes}


# Kills


def kills(quick, folder, rng):
    numbers = (6, 1, 1) if quick else (100, 20, 10)
    yield killed("toy, killed", TOY, numbers[0], rng, folder / "toy")
    yield killed("digits, killed", DIGITS, numbers[1], rng, folder / "digits")
    yield killed(
        "toy on two processes, killed", [*TOY, *several(2)], numbers[2], rng, folder / "two", fresh=True
    )


def killed(what, command, number, rng, folder, fresh=False):
    """A run that is left alone, against runs that are killed, so many kills in all."""
    begin = time.perf_counter()
    assert ended(start(folder / "alone", command, fresh)) == 0, said(folder / "alone")[-2000:]
    whole, hits, codes, wrong, runs, waited = time.perf_counter() - begin, 0, Counter(), [], 0, 0.0
    moments = (0.4 * whole, whole) if fresh else (0, whole / 3)
    while hits < number:
        here, enough = folder / f"killed{runs}", min(hits + 8, number)
        while hits < enough:
            pid = start(here, command, fresh)
            time.sleep(rng.uniform(*moments))
            victim = strike(pid, rng, fresh)
            code = ended(pid)
            if any((here / "runs").rglob("finished")):  # it was faster
                break
            hits, codes = hits + 1, codes + Counter([(victim, code)])
            if (rest := deserted(pid)) is None:
                wrong.append(f"run {runs}: after {victim} a process was left")
            waited = max(waited, rest or 0)
        if not any((here / "runs").rglob("finished")) and (code := ended(start(here, command, fresh))) != 0:
            wrong.append(f"run {runs} ended with {code}: {said(here)[-500:]}")
        if "Traceback" in said(here):
            wrong.append(f"run {runs}: a traceback")
        (one,), (two,) = ((at / "runs").rglob("version_*") for at in (folder / "alone", here))
        wrong += [f"run {runs}: {what}" for what in differences(one, two)]
        runs += 1
        print(what, f"{hits} kills, {runs} runs, {len(wrong)} differences", flush=True)
    notes = f"{runs} runs; exit codes: "
    notes += ", ".join(f"{victim} {code} ({n})" for (victim, code), n in sorted(codes.items()))
    return row(what, hits, wrong, notes + (f"; the others were gone {waited:.0f} s later" if fresh else ""))


def strike(pid, rng, several):
    """Send a signal to a whole run, or kill one process of several; what was done."""
    whom = rng.choice(("all", "rank 0", "rank 1")) if several else "all"
    signum = rng.choice(SIGNALS) if whom == "all" else signal.SIGKILL
    with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):
        if whom == "all":
            os.killpg(pid, signum)
        else:
            ranks = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
            os.kill(ranks[int(whom[-1])], signum)
    return signal.Signals(signum).name + ("" if whom == "all" else f" to {whom}")


# Files


def damaged(whole, turn, rng):
    """A file cut off, or with a bit flipped: every other time in its last 200 bytes."""
    changed = bytearray(whole)
    if turn % 2:
        del changed[rng.randrange(len(whole)) :]
    else:
        place = rng.randrange(len(whole)) if turn % 4 else len(whole) - 1 - rng.randrange(200)
        changed[place] ^= 1 << rng.randrange(8)
    return changed


def damage(quick, folder, rng):
    """Checkpoints cut off or with a bit flipped; a tenth of them are given to a command."""
    number = 20 if quick else 100
    assert ended(start(folder / "run", TOY)) == 0
    path = folder / "run" / RUN / "checkpoints/last.ckpt"
    whole, wrong, turns = path.read_bytes(), [], range(number)
    for turn in turns:
        path.write_bytes(damaged(whole, turn, rng))
        with contextlib.suppress(CorruptedCheckpointError):
            read_checkpoint(path)
            wrong.append(f"damaged file {turn} was loaded")
        if turn % 10 == 0:  # the whole command
            code = ended(start(folder / "run", ["sample", RUN, "--num_samples=4"]))
            log = said(folder / "run")
            if code != 0 or "last.ckpt is not a checkpoint of scorelight, or is damaged" not in log:
                wrong.append(f"damaged file {turn}: {code}: {log[-300:]}")
    yield row("checkpoints cut off or with a bit flipped", number, wrong, "the one before was used")


class Payload:
    """Unpickled, it would call something."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


GADGETS = {
    "os.system": lambda: Payload(os.system, "touch ran"),
    "exec": lambda: Payload(builtins.exec, "open('ran', 'w').close()"),
    "eval": lambda: Payload(builtins.eval, "open('ran', 'w').close()"),
    "Path.touch": lambda: Payload(Path.touch, Path("ran")),
    "subprocess": lambda: Payload(subprocess.check_call, ["touch", "ran"]),
    "partial": lambda: Payload(functools.partial, os.system, "touch ran"),
}
READERS = {
    "sample": ["sample", RUN, "--num_samples=4"],
    "evaluate": ["evaluate", RUN, "--num_samples=4"],
    "validate": ["validate", "--config=toy/vp_epsilon", f"--ckpt_path={RUN}"],
    "fit --ckpt_path": [*TOY, f"--ckpt_path={RUN}"],
    "fit, which goes on": TOY,
}


def poisoned(path, way, gadget):
    """Put a payload into a checkpoint: as torch saves, as plain pickle, or signed as ours are."""
    content = read_checkpoint(path)
    content["hyper_parameters" if way == "signed" else "state_dict"]["bad"] = GADGETS[gadget]()
    if way == "signed":  # the digest says that it is what was written, not that it is harmless
        write_checkpoint(content, path)
    elif way == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))


def payloads(quick, folder, rng):
    assert ended(start(folder / "run", TOY)) == 0
    (folder / "run" / RUN / "finished").unlink()
    for name in ("previous", "best"):
        (folder / "run" / RUN / f"checkpoints/{name}.ckpt").unlink()
    path = folder / "run" / RUN / "checkpoints/last.ckpt"
    whole, wrong, cases = path.read_bytes(), [], 0
    for way in ("torch", "pickle", "signed"):
        for gadget in [*GADGETS][: 1 if quick else None]:
            for reader, command in READERS.items():
                path.write_bytes(whole)
                poisoned(path, way, gadget)
                (folder / "run/log.txt").unlink()
                code, cases = ended(start(folder / "run", command)), cases + 1
                ran, log = (folder / "run/ran").exists(), said(folder / "run")
                if ran or code != 2 or unhappy(log):
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
    assert ended(start(folder / "alone", TOY)) == 0
    size = sum(p.stat().st_size for p in (folder / "alone/runs").rglob("*") if p.is_file()) // 1024
    try:
        with mounted(folder / "try", 64):
            pass
    except (OSError, subprocess.CalledProcessError):
        print("disk: left out, for want of the right to mount a file system")
        return
    sizes = [
        int(size * part)
        for part in ((0.5,) if quick else (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
    ]
    wrong = [
        why for i, size in enumerate(sizes) for why in too_small(folder / f"full{i}", size, folder / "alone")
    ]
    yield row("file systems that are too small", len(sizes), wrong, f"{sizes[0]} to {sizes[-1]} kB of {size}")
    turns = range(1 if quick else 5)
    wrong = [why for i in turns for why in read_only(folder / f"ro{i}", rng, folder / "alone")]
    yield row("file systems that become read-only", len(turns), wrong, "nothing was changed")


def too_small(here, kilobytes, alone):
    """Run until it is full, make room, go on."""
    with mounted(here / "runs", kilobytes):
        code, log = ended(start(here, TOY)), said(here)
        if code != 2 or unhappy(log) or "make room" not in log:
            yield f"{kilobytes} kB: {code}: {log[-500:]}"
        for path in here.rglob("*.ckpt"):
            verify(path)
        if left := [*here.rglob(".*.tmp")]:
            yield f"{kilobytes} kB: left behind: {left}"
        remount(here / "runs", "size=64m")
        yield from goes_on(here, alone)


def read_only(here, rng, alone):
    """Stop a run, take away the right to write, try, give it back, go on."""
    with mounted(here / "runs", 65536):
        while True:
            pid = start(here, TOY)
            time.sleep(rng.uniform(0.3, 1.5))
            os.kill(pid, signal.SIGTERM)
            if (code := ended(pid)) == 143:
                break
            assert code != 0, "it ended before it could be stopped"
        before = fingerprint(here)
        remount(here / "runs", "ro")
        (here / "log.txt").unlink()
        code, log = ended(start(here, TOY)), said(here)
        if code != 2 or unhappy(log) or "read-only" not in log.lower():
            yield f"{code}: {log[-500:]}"
        if ended(start(here, ["sample", RUN, "--num_samples=4"])) != 0:
            yield "a sample could not be drawn from it"
        shutil.rmtree(here / "samples")
        if fingerprint(here) != before:
            yield "something was changed"
        remount(here / "runs", "rw")
        yield from goes_on(here, alone)


def goes_on(here, alone):
    if (code := ended(start(here, TOY))) != 0:
        yield f"it did not go on: {code}: {said(here)[-500:]}"
    else:
        yield from differences(here / RUN, alone / RUN)


# Numbers of processes


def ranks(quick, folder, rng):
    """Losses, weights and average on two and three processes, as relative differences from those on one."""
    command, found = [*TOY, "--trainer.max_steps=50", "--trainer.log_every_n_steps=1"], {}
    for number in (1, 2, 3):
        here = folder / str(number)
        assert ended(start(here, [*command, *several(number)], fresh=True)) == 0, said(here)
        weights = read_checkpoint(here / RUN / "checkpoints/last.ckpt")["state_dict"]
        flat = torch.cat(
            [v.flatten().double() for v in weights.values() if torch.is_tensor(v) and v.is_floating_point()]
        )
        losses = torch.tensor([*scalars(here / RUN)["train/loss"].values()], dtype=torch.float64)
        found[number] = losses, flat, len([*(here / RUN).glob("events*")])
    wrong, notes = [], []
    for number in (2, 3):
        losses, weights = (
            ((a - b).abs() / b.abs().mean()).max().item()
            for a, b in zip(found[number][:2], found[1][:2], strict=True)
        )
        notes.append(f"{number}: losses {losses:.0e}, weights {weights:.0e}")
        if max(losses, weights) > 1e-4 or len(found[number][0]) != 50 or found[number][2] != 1:
            wrong.append(f"{number} processes: {notes[-1]}, {found[number][2]} logs")
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
    from mutations import mistakes

    parts = []
    for path in sorted(config_dir().rglob("*.yaml")):
        name = str(path.relative_to(config_dir()).with_suffix(""))
        if quick and name not in ("toy/vp_epsilon", "cifar10/ddpm"):
            continue
        config = small(yaml.safe_load(path.read_text()), folder)
        number = 5 if quick else 40 if name.startswith("toy") else 20
        strategy = mistakes(config).map(lambda m: (m, ["fit", "--config=config.yaml", *DRY]))
        parts.append(generated(name, strategy, folder, number))
    wrong = [f"{part['what']}: {why}" for part in parts for why in part["wrong"]]
    total = Counter()
    for part in parts:
        total += Counter(part["tally"])
    cases = sum(part["cases"] for part in parts)
    yield row(f"mistakes in {len(parts)} shipped configurations", cases, wrong, tallied(total))


def small(config, folder):
    """Published images are replaced by a few made up ones, and networks for them by thin ones."""
    import numpy as np

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
    from hypothesis import strategies as st
    from mutations import wrong_commands

    lines = [[command, *args.split()] for command, args in COMMANDS.items()]
    return st.sampled_from(lines).flatmap(wrong_commands).map(lambda m: (m, m.what))


def data_of(folder):
    from mutations import wrong_data

    folder.mkdir(parents=True)
    command = ["fit", "--config=digits/vp_epsilon", "--data=ImageDataModule", *THIN, *DRY]
    return wrong_data(folder).map(lambda m: (m, [*command, f"--data.path={m.what}"]))


def generated(what, strategy, folder, number, with_run=False):
    """Give so many mistakes to the command line, each to a process of its own with 4 GB and a minute."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from mutations import complaint

    here, wrong, tally = folder / "here", [], Counter()
    if with_run:
        assert ended(start(here, [*DIGITS, "--trainer.default_root_dir=runs", *THIN])) == 0, said(here)

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
        mistake, args = drawn
        here.mkdir(parents=True, exist_ok=True)
        if "--config=config.yaml" in args:
            (here / "config.yaml").write_text(yaml.safe_dump(mistake.what))
        before = fingerprint(here)
        (here / "log.txt").unlink(missing_ok=True)
        code, log = ended(start(here, args, memory=4 << 30, seconds=60)), said(here)
        tally[code] += 1
        why = "" if code == -signal.SIGALRM else complaint(mistake, code, log)
        if not why and code == 2 and fingerprint(here) != before:
            why = "something was written"
        if why:
            wrong.append(f"{why}: {mistake}: exit code {code}: {log.strip()[-300:]}")

    case()
    notes = tallied(tally)
    return row(what, sum(tally.values()), wrong, notes) | {"tally": tally}


def tallied(tally):
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

PARTS = {f.__name__: f for f in (kills, damage, payloads, disk, ranks, configurations, command_lines, data)}


def report(parts):
    lines = ["| what was tried | how often | not as it should be | |", "| --- | --- | --- | --- |"]
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
    sys.path.insert(0, str(HERE.parent / "tests"))
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # "out of order event.step" after a resume
    torch.set_num_threads(1)
    file, found = HERE / "reliability.json", {}
    for name in options.only:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as place:
            rows = [*PARTS[name](options.quick, Path(place), random.Random(0))]
        seconds = round(time.perf_counter() - begin)
        about = {"commit": commit(), "seed": 0, "seconds": seconds, "torch": torch.__version__}
        found[name] = about | {"rows": rows}
        if not options.quick:
            kept = json.loads(file.read_text()) if file.exists() else {}
            parts = {part: (kept | found)[part] for part in PARTS if part in kept | found}
            file.write_text(json.dumps(parts, indent=1) + "\n")
            file.with_suffix(".md").write_text(report(parts))
    print(report(found))
    sys.exit(any(r["wrong"] for part in found.values() for r in part["rows"]))
