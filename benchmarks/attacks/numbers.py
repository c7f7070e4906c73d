"""Wrong numbers that do not show: samples that are not finite, caches, two commands at once."""

import json
import math
import os
import random
import shutil
import signal
import sys
import time
import types
import warnings

import numpy as np
import torch
from support.corruption import corrupted

import scorelight
from attacks.processes import RUN, TOY, exit_code, log_of, log_problem, row, run, start_process
from scorelight import (
    VPSDE,
    X0,
    Denoiser,
    DigitsDataModule,
    FeatureExtractor,
    PixelFeatures,
    Prediction,
    Sampler,
)
from scorelight.errors import SamplingError
from scorelight.evaluation.context import DistributedContext
from scorelight.evaluation.reference import cache_dir, reference_set
from scorelight.metrics import Features, FrechetDistance
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint

SAMPLERS = sorted(
    name
    for name, kind in vars(scorelight.samplers).items()
    if isinstance(kind, type) and issubclass(kind, Sampler) and kind is not Sampler
)
EVALUATE = ["--metrics=NegativeLogLikelihood,FrechetDistance", "--num_samples=300", "--num_images=80"]


def numbers(quick, folder, rng):
    """All rows."""
    os.environ["SCORELIGHT_CACHE"] = str(folder / "cache")
    assert run(folder / "run", [*TOY, "--model.sampler.num_steps=8"]) == 0
    yield steps_and_counts(20 if quick else 500, rng)
    yield commands(folder, SAMPLERS[:2] if quick else SAMPLERS)
    yield caches(8 if quick else 100, folder, rng)
    yield names(4 if quick else 50)
    yield concurrent_evaluations(1 if quick else 15, folder, rng)
    yield concurrent_samples(1 if quick else 15, folder, rng)
    yield dequantizers(4 if quick else 40, folder, rng)


class Broken(Denoiser):
    """Predicts x0 = 0, from some evaluation on not for some examples."""

    def __init__(self, value, bad, after):
        super().__init__()
        self.process, self.value, self.bad, self.left = VPSDE(), value, bad, after

    def predict(self, x_t, level, **cond):
        x0 = torch.zeros_like(x_t)
        if self.left <= 0:
            x0[self.bad] = self.value
        self.left -= 1
        return Prediction(x_t, level, x0, X0())


def steps_and_counts(number, rng):
    """Examples that become NaN or infinite at a step: the message has both numbers."""
    wrong, one_a_step = [], ("DDIM", "Euler", "AncestralSampler", "ReverseDiffusion", "EulerMaruyama")
    for turn in range(number):
        name, value = rng.choice(one_a_step), rng.choice((math.nan, math.inf, -math.inf))
        size, num_steps = rng.randint(1, 9), rng.randint(2, 30)
        bad = rng.sample(range(size), rng.randint(1, size))
        step = rng.randint(1, num_steps)
        expected = (
            f"{name}: {len(bad)} of {size} samples drawn at once are NaN or infinite, the first from step "
        )
        try:
            getattr(scorelight, name)(num_steps)(Broken(value, bad, step - 1), torch.randn(size, 3))
            wrong.append(f"{turn}: {expected}{step}: was not noticed")
        except SamplingError as error:
            if not str(error).startswith(f"{expected}{step} of {num_steps} on, t = "):
                wrong.append(f"{turn}: {expected}{step}: {error}")
    return row("examples that become NaN or infinite at a step", number, wrong, "count and step are named")


def commands(folder, samplers):
    """Networks that are NaN, infinite or huge, under every sampler, in every command that draws."""
    path, wrong, cases = folder / "run" / RUN / "checkpoints/last.ckpt", [], 0
    content = path.read_bytes()
    for value in (math.nan, math.inf, 3e38):
        checkpoint = read_checkpoint(path)
        for name, weight in checkpoint["state_dict"].items():
            if name.startswith("ema.denoiser.network") and weight.is_floating_point():
                weight.fill_(value)
        write_checkpoint(checkpoint, path)
        for name in samplers:
            flags = [f"--sampler={name}", "--sampler.num_steps=12", "--out=out"]
            for command in (["sample", RUN, "--num_samples=5"], ["evaluate", RUN, *EVALUATE[1:2]]):
                metric = ["--metrics=FrechetDistance"] * (command[0] == "evaluate")
                (folder / "run/log.txt").unlink()
                code, cases = run(folder / "run", [*command, *flags, *metric]), cases + 1
                log, left = log_of(folder / "run"), [*(folder / "run/out").rglob("*.[pj][ns]*")]
                if code != 1 or log_problem(log) or left or name not in log or " step " not in log:
                    wrong.append(f"{value}, {name}, {command[0]}: {code}, {left}: {log[-300:]}")
                shutil.rmtree(folder / "run/out", ignore_errors=True)
        path.write_bytes(content)
    return row("networks that are not finite × samplers × commands", cases, wrong, "exit code 1, no picture")


class Alone:
    """What a Fabric of one process does."""

    def barrier(self):
        pass

    def broadcast(self, value):
        return value


def real(features, data):
    context = DistributedContext(0, 1, torch.device("cpu"), Alone())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return reference_set(features, data, "train", [FrechetDistance()], context)


def caches(number, folder, rng):
    """Statistics that are damaged, exchanged or renamed in the cache."""
    asked = [(PixelFeatures(), DigitsDataModule(seed=seed)) for seed in (0, 1)]
    right, wrong = [real(*what) for what in asked], []
    paths = sorted((cache_dir() / "features").glob("digits-*.npz"))
    contents = [path.read_bytes() for path in paths]
    assert len(paths) == 2
    for turn in range(number):
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        if turn % 4 == 3:
            paths[0].write_bytes(contents[1])
        else:
            paths[turn % 2].write_bytes(corrupted(contents[turn % 2], turn // 2, rng))
        for what, expected in zip(asked, right, strict=True):
            found = real(*what)
            if not (torch.equal(found.mean, expected.mean) and torch.equal(found.cov, expected.cov)):
                wrong.append(f"{turn}: other statistics")
    return row("statistics in the cache, damaged or exchanged", number, wrong, "computed again")


FEATURES = """
class {name}(FeatureExtractor):
    def extract(self, x):
        return Features(x.flatten(1).float() * {factor})
"""


def names(number):
    """Feature classes of one name, in several modules or edited: each has its own statistics."""
    wrong, data = [], DigitsDataModule()
    pixels = data.examples("train").all().x0.flatten(1).double().mean(0)
    for turn in range(number):
        space = types.ModuleType(f"module_{turn % 3}")
        space.__dict__.update(FeatureExtractor=FeatureExtractor, Features=Features)
        sys.modules[space.__name__] = space
        exec(FEATURES.format(name="Mine", factor=turn + 1), space.__dict__)
        mean = real(space.Mine(), data).mean
        scale = (mean.norm() / pixels.norm()).item() / (turn + 1) / (255 / 16)
        if not 0.9 < scale < 1.1:
            wrong.append(f"{turn}: statistics of another class, {scale}")
    return row("feature classes of one name", number, wrong, "each has its own statistics")


def concurrent_evaluations(number, folder, rng):
    """Two or three evaluations of one run at once, of which some are killed; then one that ends."""
    alone = results(folder, ["--out=alone"], [])
    wrong, kills = [], 0
    for turn in range(number):
        out, sizes = f"--out=both{turn}", [rng.randint(5, 70) for _ in range(rng.randint(2, 3))]
        places = [folder / "run" for _ in sizes]
        running = [
            start_process(place, ["evaluate", RUN, *EVALUATE, out, f"--batch_size={size}"])
            for place, size in zip(places, sizes, strict=True)
        ]
        time.sleep(rng.uniform(0, 3))
        victims = rng.sample(running, rng.randint(0, len(running) - 1))
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        kills += len(victims)
        codes = {pid: exit_code(pid) for pid in running}
        if any(code not in (0, -9) for code in codes.values()):
            wrong.append(f"{turn}: {codes}: {log_of(folder / 'run')[-300:]}")
        found = results(folder, [out], [f"--batch_size={rng.randint(5, 70)}"])
        wrong += [f"{turn}: {problem}" for problem in differences(found, alone)]
        wrong += [f"{turn}: {problem}" for problem in rows_stored(folder / "run" / out.partition("=")[2])]
    notes = f"{kills} of them killed; every row stored once, numbers as alone"
    return row("evaluations of one run at once, in batches of other sizes", number, wrong, notes)


def results(folder, out, more):
    code = run(folder / "run", ["evaluate", RUN, *EVALUATE, *out, *more])
    assert code == 0, log_of(folder / "run")[-2000:]
    (path,) = (folder / "run" / out[0].partition("=")[2]).glob("results-*.json")
    return json.loads(path.read_text())["results"]


def differences(found, alone):
    """Numbers that differ by more than rounding in batches of other sizes."""
    for name, result in alone.items():
        for part in ("value", "standard_error"):
            one, other = result[part], found[name][part]
            if one is not None and abs(one - other) > 2e-3 * abs(one) + 1e-6:
                yield f"{name}: {part} {other}, alone {one}"


def rows_stored(folder):
    """What is wrong with the rows: each index must be there once."""
    for kind, num in (("samples", 300), ("examples", 80)):
        for store in (path for path in folder.glob(f"{kind}-*") if path.is_dir()):
            index = np.concatenate([np.load(path)["index"] for path in store.glob("*.npz")])
            if sorted(index) != list(range(num)):
                yield f"{store.name}: {len(index)} rows of {num}"


def concurrent_samples(number, folder, rng):
    """Two commands that draw into one folder: one is refused, the other's archive is complete and its own."""
    wrong = []
    for turn in range(number):
        seeds = rng.sample(range(1000), 2)
        flags = ["--num_samples=2000", f"--out=drawn{turn}"]
        (folder / "run/log.txt").unlink(missing_ok=True)
        running = []
        for seed in seeds:
            command = ["sample", RUN, *flags, f"--seed={seed}", f"--batch_size={rng.randint(3, 40)}"]
            running.append(start_process(folder / "run", command))
            time.sleep(rng.uniform(0, 0.3))
        killed = rng.random() < 0.3 and running[0]
        if killed:
            os.kill(killed, signal.SIGKILL)
        codes = [exit_code(pid) for pid in running]
        log = log_of(folder / "run")
        if 0 not in codes and not killed:
            wrong.append(f"{turn}: {codes}: {log[-300:]}")
        if any(code not in (0, 2, -9) for code in codes) or "Traceback" in log:
            wrong.append(f"{turn}: {codes}: {log[-300:]}")
        if 0 in codes:
            with np.load(folder / f"run/drawn{turn}/samples.npz") as file:
                found, seed = file["samples"], int(file["seed"])
            alone = ["sample", RUN, "--num_samples=2000", f"--seed={seed}", "--out=drawn_alone"]
            assert run(folder / "run", alone) == 0
            with np.load(folder / "run/drawn_alone/samples.npz") as file:
                same = found.shape == file["samples"].shape and np.abs(found - file["samples"]).max() < 1e-3
            if not same:
                wrong.append(f"{turn}: {len(found)} rows, or those of another command")
    return row("commands that draw into one folder", number, wrong, "one refused, or one after the other")


def dequantizers(number, folder, rng):
    """Dequantizer files truncated or with a bit flipped, given to the commands that read them."""
    digits = ["fit", "--config=digits/vp_epsilon", "--trainer.max_steps=2", "--model.network.base_channels=8"]
    here = folder / "digits"
    assert run(here, [*digits, "--trainer.val_check_interval=2", "--samples.num_samples=4"]) == 0
    command = ["dequantize", "runs/digits/vp_epsilon", "--num_images=2", "--out=q.ckpt"]
    assert run(here, [*command, "--max_steps=2", "--dequantizer.width=8"]) == 0, log_of(here)[-1000:]
    content, wrong = (here / "q.ckpt").read_bytes(), []
    evaluate = ["evaluate", "runs/digits/vp_epsilon", "--metrics=NegativeLogLikelihood", "--num_images=2"]
    for turn in range(number):
        bad = corrupted(content, turn // 2, random.Random(rng.random()))
        (here / "q.ckpt").write_bytes(bad)
        (here / "log.txt").unlink(missing_ok=True)
        resume = [*command, "--max_steps=4", "--resume=true"]
        code = run(here, resume if turn % 2 else [*evaluate, "--dequantizer=q.ckpt"])
        log, kept = log_of(here), (here / "q.ckpt").read_bytes() == bad
        if code != 2 or log_problem(log) or "q.ckpt" not in log or not kept:
            wrong.append(f"{turn}: {code}: {log[-300:]}")
    return row("dequantizer files truncated or with a bit flipped", number, wrong, "refused by name")
