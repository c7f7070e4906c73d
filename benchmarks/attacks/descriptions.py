"""Files that describe objects which may not be built."""

import os
import sys
from collections import Counter
from pathlib import Path

import yaml
from support.hostile_specs import all_paths, draw, places, put, refused

from attacks.processes import RUN, TOY, log_of, log_problem, row, run
from scorelight import ConfigurationError, FlowDequantization, ScoreModule, ToyDataModule
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.storage.component import spec
from scorelight.training.dequantizer import load_dequantizer
from scorelight.training.loading import read_config

COMMANDS = {
    "sample": ["sample", "stranger.ckpt", "--num_samples=4"],
    "evaluate": ["evaluate", "stranger.ckpt", "--num_samples=4"],
    "validate": ["validate", "--config=toy/vp_epsilon", "--ckpt_path=stranger.ckpt"],
    "fit --ckpt_path": [*TOY, "--ckpt_path=stranger.ckpt"],
    "fit --config": ["fit", "--config=run/config.yaml", "--trainer.fast_dev_run=true"],
    "interpolate": ["interpolate", "stranger.ckpt"],
    "dequantize": ["dequantize", "stranger.ckpt"],
}
FREE_WORDS = {"default_root_dir", "ckpt_path", "precision", "max_time", "gradient_clip_algorithm"}
"""Settings that are strings, for which any word is a value."""


def descriptions(quick, folder, rng):
    """What is named × how it is written × where, given to Python's functions and to commands."""
    assert run(folder, TOY) == 0
    here = folder / "here"
    (here / "run/checkpoints").mkdir(parents=True)
    before = Path.cwd()
    os.chdir(here)
    sys.path.insert(0, str(here))
    try:
        yield in_python(folder, here, rng, 50 if quick else 3000)
        yield in_commands(folder, here, rng, 7 if quick else 140)
    finally:
        sys.path.remove(str(here))
        os.chdir(before)


def in_python(folder, here, rng, number):
    """Read by `load_from_checkpoint` and its siblings, with every import, process and write recorded."""
    content, paths = read_checkpoint(folder / RUN / "checkpoints/last.ckpt"), all_paths(here)
    flow = FlowDequantization((1, 8, 8))
    content["dequantizer"] = spec(flow)
    content["state_dict"] |= {f"dequantizer.{name}": value for name, value in flow.state_dict().items()}
    everywhere = [*places(content), ("dequantizer",), ("dequantizer", "class_path")]
    path, wrong, done_in_all = here / "stranger.ckpt", [], 0
    write_checkpoint(content, path)
    read_everything(path)
    for turn in range(number):
        place = rng.choice(everywhere)
        write_checkpoint(put(content, place, draw(rng, here, paths)), path)
        ended, done = refused(lambda: read_everything(path))
        done_in_all += len(done)
        if done or (not ended and not place[0].startswith("hparams")):
            wrong.append(f"{turn}, at {'.'.join(place)}: refused: {ended}, done: {done}")
    if (here / "ran").exists():
        wrong.append("a canary module ran")
    note = f"imports, calls, processes and writes outside the list: {done_in_all}"
    return row("descriptions of objects, read in Python", number, wrong, note)


def read_everything(path):
    read_config(path)
    ToyDataModule.load_from_checkpoint(path)
    ScoreModule.load_from_checkpoint(path, strict=False)
    load_dequantizer(path)


def in_commands(folder, here, rng, number):
    """Read by the commands, each in a process of its own."""
    content, paths = read_checkpoint(folder / RUN / "checkpoints/last.ckpt"), all_paths(here)
    config = yaml.safe_load((folder / RUN / "config.yaml").read_text())
    in_config = [place for place in positions(config) if place[-1] not in FREE_WORDS]
    in_checkpoint = [place for place in places(content) if not place[0].startswith("hparams")]
    wrong, counts = [], Counter()
    for turn in range(number):
        name = [*COMMANDS][turn % len(COMMANDS)]
        place = rng.choice(in_config if name == "fit --config" else in_checkpoint)
        (here / "log.txt").unlink(missing_ok=True)
        write_stranger(here, content, config, name, place, rng, paths)
        code = run(here, COMMANDS[name])
        counts[name] += 1
        if code != 2 or log_problem(log_of(here)) or (here / "ran").exists() or (here / "runs").exists():
            wrong.append(f"{turn}, {name} at {'.'.join(place)}: {code}: {log_of(here)[-300:]}")
            (here / "ran").unlink(missing_ok=True)
    return row(
        "descriptions of objects, read by commands", number, wrong, "refused before anything was written"
    )


def write_stranger(here, content, config, name, place, rng, paths):
    """The file that the command reads."""
    while True:
        value = draw(rng, here, [path for path in paths if path])
        try:
            if name == "fit --config":
                (here / "run/config.yaml").write_text(yaml.safe_dump(put(config, place, value)))
            else:
                write_checkpoint(put(content, place, value), here / "stranger.ckpt")
            return
        except (yaml.YAMLError, RecursionError, ConfigurationError):  # this value cannot be written
            continue


def positions(value, place=()):
    """Every place of a configuration."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*place, key)
            yield from positions(item, (*place, key))
