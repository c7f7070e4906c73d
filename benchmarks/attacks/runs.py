"""What happens to a run from outside, and what a trainer can be told."""

import contextlib
import itertools
import os
import shutil
import signal
import time
from collections import Counter

from attacks.processes import (
    exit_code,
    log_of,
    log_problem,
    row,
    run,
    seconds_until_gone,
    start_process,
)
from scorelight.storage.checkpoint import read_checkpoint

TINY = ["fit", "--config=toy/vp_epsilon", "--trainer.default_root_dir=runs", "--trainer.max_steps=3"]
TINY += ["--trainer.val_check_interval=2", "--trainer.enable_progress_bar=false", "--samples.num_samples=2"]
TINY += ["--data.num_train=64", "--data.batch_size=16", "--data.num_val=8", "--model.network.width=8"]
LONG = [
    *TINY,
    "--trainer.max_steps=1000000",
    "--checkpoint.every_n_steps=20",
    "--trainer.val_check_interval=50",
]
SHARED_LOGGER = """
from lightning.pytorch.loggers.logger import DummyLogger

class SharedLogger(DummyLogger):
    save_dir = "runs"
    name = "project"
    version = None
"""
LOGGERS = {
    "the default": [],
    "none": ["--trainer.logger=false"],
    "CSV": ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=runs/csv"],
    "one folder for all": ["--trainer.logger=shared.SharedLogger"],
}


def runs(quick, folder, rng):
    yield sweep(1 if quick else 5, 4 if quick else 8, folder / "sweep")
    yield vanished(3 if quick else 30, folder / "vanished", rng)
    yield launchers(6 if quick else 200, folder / "launchers", rng)
    yield signals(1 if quick else 10, folder / "signals", rng)
    yield numbers(8 if quick else 200, folder / "numbers", rng)


def sweep(rounds, together, folder):
    """Runs that start at once: half of them differ by their seed, the others are the same commands again."""
    wrong, cases = [], 0
    for turn, (name, flags) in itertools.product(range(rounds), LOGGERS.items()):
        here = folder / f"{turn} {name}"
        here.mkdir(parents=True)
        (here / "shared.py").write_text(SHARED_LOGGER)
        seeds = [n // 2 for n in range(together)]
        started = [start_process(here, [*TINY, *flags, f"--seed_everything={seed}"]) for seed in seeds]
        codes, cases = [exit_code(pid) for pid in started], cases + together
        found = sorted((here / "runs").glob("version_*"))
        written = [read_checkpoint(f / "checkpoints/last.ckpt")["hyper_parameters"]["seed"] for f in found]
        if any(codes) or sorted(written) != seeds or not all((f / "finished").exists() for f in found):
            wrong.append(f"{name}: exit codes {codes}, seeds {written}: {log_of(here)[-500:]}")
    return row(
        "runs that start at once in one root", cases, wrong, f"{together} at once; {', '.join(LOGGERS)}"
    )


def vanished(number, folder, rng):
    """The folder of a run is removed, moved or replaced while it trains."""
    wrong, longest = [], 0.0
    for turn in range(number):
        here, what = folder / str(turn), ("removed", "moved", "replaced")[turn % 3]
        pid = start_process(here, LONG, seconds=120)
        while not (here / "runs/version_0/checkpoints/last.ckpt").exists():
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1))
        begin = time.perf_counter()
        (here / "runs/version_0").rename(here / "elsewhere")
        if what == "removed":
            shutil.rmtree(here / "elsewhere", ignore_errors=True)
        if what == "replaced":
            (here / "runs/version_0").mkdir(exist_ok=True)
        code, log = exit_code(pid), log_of(here)
        longest = max(longest, time.perf_counter() - begin)
        if code != 2 or log_problem(log):
            wrong.append(f"{what}: {code}: {log_problem(log)}: {log[-300:]}")
    return row("run folders that vanish", number, wrong, f"stopped with a message, within {longest:.0f} s")


VARIABLES = {
    "RANK": ["0", "1", "x", ""],
    "LOCAL_RANK": ["0", "1", "-1"],
    "WORLD_SIZE": ["1", "2", "many"],
    "NODE_RANK": ["0", "1", "²"],
    "MASTER_ADDR": ["127.0.0.1"],
    "MASTER_PORT": ["9", "port"],
    "TORCHELASTIC_RUN_ID": ["a"],
    "TORCHELASTIC_USE_AGENT_STORE": ["True", "False"],
    "TORCHELASTIC_RESTART_COUNT": ["0"],
    "GROUP_WORLD_SIZE": ["1", "2"],
    "SLURM_NTASKS": ["1", "4", "x"],
    "SLURM_JOB_NAME": ["fit", "bash"],
    "SLURM_JOB_ID": ["7"],
    "SLURM_NTASKS_PER_NODE": ["1", "4"],
    "SLURM_PROCID": ["0", "3"],
    "SLURM_LOCALID": ["0"],
    "SLURM_NODEID": ["0"],
}


def launchers(number, folder, rng):
    """Variables of launchers that are left over, in a run of one process."""
    wrong, codes = [], Counter()
    for turn in range(number):
        names = rng.sample([*VARIABLES], rng.randint(1, len(VARIABLES)))
        variables = {name: rng.choice(VARIABLES[name]) for name in names}
        here = folder / str(turn)
        with environment(variables):
            code = run(here, TINY, seconds=60)
        codes[code], log = codes[code] + 1, log_of(here)
        done = (here / "runs/version_0/finished").exists()
        if not (code == 0 and done) and not (code == 2 and not log_problem(log)):
            wrong.append(f"{variables}: {code}: {log[-300:]}")
    notes = ", ".join(f"{n} {'ran' if code == 0 else 'refused'}" for code, n in sorted(codes.items()))
    return row("environment variables of launchers", number, wrong, notes)


@contextlib.contextmanager
def environment(variables):
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


COMMANDS = {
    "fit": LONG,
    "validate": ["validate", "--ckpt_path=runs/version_0", "--data.num_val=20000000"],
    "sample": ["sample", "runs/version_0", "--num_samples=1000000"],
    "evaluate": ["evaluate", "runs/version_0", "--num_samples=1000000", "--features=PixelFeatures"],
    "statistics": ["statistics", "--data=ToyDataModule", "--data.num_train=20000000"],
    "advise": ["advise", "--data=ToyDataModule", "--data.num_train=20000000"],
}
COMMANDS["statistics"] += ["--features=PixelFeatures", "--out=statistics.npz"]


def signals(rounds, folder, rng):
    """Ctrl-C and SIGTERM at random moments of every command."""
    wrong, codes, longest = [], Counter(), 0.0
    for turn, (name, command) in itertools.product(range(rounds), COMMANDS.items()):
        here = folder / f"{turn} {name}"
        if name not in ("fit", "statistics", "advise"):
            assert run(here, TINY) == 0, log_of(here)
            (here / "log.txt").unlink()
        for signum in (signal.SIGTERM, signal.SIGINT):
            pid = start_process(here, command)
            time.sleep(rng.uniform(0.3, 3))
            begin = time.perf_counter()
            os.kill(pid, signum)
            code, left = exit_code(pid), seconds_until_gone(pid)
            codes[code], longest = codes[code] + 1, max(longest, time.perf_counter() - begin)
            if code != 128 + signum or left is None or "Traceback" in log_of(here):
                wrong.append(f"{name}, {signum.name}: {code}: {log_of(here)[-300:]}")
    tally = ", ".join(f"{code} ({n})" for code, n in sorted(codes.items()))
    notes = f"exit codes: {tally}; gone within {longest:.0f} s"
    return row(f"signals to {', '.join(COMMANDS)}", sum(codes.values()), wrong, notes)


OPTIONS = ["max_steps", "min_steps", "max_epochs", "min_epochs", "val_check_interval", "log_every_n_steps"]
OPTIONS += ["limit_train_batches", "limit_val_batches", "accumulate_grad_batches", "check_val_every_n_epoch"]
OPTIONS += ["gradient_clip_val", "num_sanity_val_steps", "overfit_batches", "fast_dev_run"]
OPTIONS += ["reload_dataloaders_every_n_epochs"]
ENDLESS = ("max_steps", "min_steps", "min_epochs", "accumulate_grad_batches")
VALUES = ["-2", "-1", "0", "1", "2", "0.0", "0.3", "1.5", "-0.5", ".nan", ".inf", "100000000000", "null"]
VALUES += ["true", "'x'"]


def numbers(number, folder, rng):
    """Options of the trainer at odd values: the run ends, or is refused with one message."""
    pairs, wrong, codes = [*itertools.product(OPTIONS, VALUES)], [], Counter()
    for turn, (option, value) in enumerate(rng.sample(pairs, min(number, len(pairs)))):
        here = folder / str(turn)
        here.mkdir(parents=True)
        (here / "odd.yaml").write_text(f"trainer:\n  {option}: {value}\n")
        code = run(here, [*TINY, "--config=odd.yaml"], seconds=20)
        codes[code] += 1
        endless = code == -signal.SIGALRM and option in ENDLESS
        refused = code == 2 and not log_problem(log_of(here))
        if code and not refused and not endless:
            wrong.append(f"trainer.{option}={value}: {code}: {log_of(here)[-300:]}")
    names = {0: "ran", 2: "refused", -14: "stopped after 20 s, as they had no last step"}
    notes = ", ".join(f"{n} {names.get(code, code)}" for code, n in sorted(codes.items(), reverse=True))
    return row("options of the trainer at odd values", sum(codes.values()), wrong, notes)
