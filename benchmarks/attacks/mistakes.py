"""Generated mistakes in configurations, command lines and data."""

import signal
import zlib
from collections import Counter

import numpy as np
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support.mutations import complaint, mistakes, wrong_commands, wrong_data

from attacks.processes import DIGITS, fingerprint, log_of, row, run
from scorelight.cli.configs import config_dir

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
