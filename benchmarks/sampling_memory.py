"""Peak memory of `sample` and `evaluate` by the number of samples, and what overlaps while samples are drawn.

    python benchmarks/sampling_memory.py                    # about 20 minutes on one core
    python benchmarks/sampling_memory.py --only overlap     # these parts; the others stay as they were
    python benchmarks/sampling_memory.py --quick            # 1,000 samples, no overlap; writes nothing

The model is a small random network for images of 3x32x32, since memory does not depend on what it draws: an
MLP with two steps of DDIM. The real examples are 50,000 random images in an .npz, which the data module keeps
in memory, 154 MB. Features are 2,048 random projections with 1,008 logits, as large as Inception's, or 64.
Peak memory is the largest resident set of the process, which the system counts, libraries included.

The overlap is that of a sampler that sleeps instead of computing, as the host does while a device computes,
with a writer that sleeps, too: drawing and writing alone, and both.

Writes sampling_memory.json and .md beside this file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import HERE, RESULTS, commit

NUMBERS = (2_000, 10_000, 50_000)
NUM_REAL = 50_000
WIDE, NARROW = "sizes.Wide", "sizes.Narrow"
KERNEL = "{class_path: KernelDistance, init_args: {num_subsets: 5}}"
LINES = "{class_path: SlicedWasserstein, init_args: {num_projections: 16}}"
COMMANDS = {
    "sample": (NUMBERS, "", ""),
    "Fréchet, kernel and sliced Wasserstein distance, inception score; 2,048 features": (
        NUMBERS,
        WIDE,
        f"FrechetDistance, InceptionScore, {KERNEL}, {LINES}",
    ),
    "precision and recall; 2,048 features": (NUMBERS[:2], WIDE, "PrecisionRecall"),
    "precision and recall; 64 features": (NUMBERS, NARROW, "PrecisionRecall"),
    "maximum mean discrepancy; 64 features": (NUMBERS[:2], NARROW, "MaximumMeanDiscrepancy"),
}
"""Numbers of samples, features and metrics."""
MODULE = '''
import time
import torch
from scorelight import FeatureExtractor, Sampler
from scorelight.metrics import Features


class _Projections(FeatureExtractor):
    size = (0, 0)

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(3072, self.size[0], generator=generator) / 3072**0.5)
        self.register_buffer("classes", torch.randn(self.size[0], self.size[1], generator=generator))

    def extract(self, x):
        values = (x.flatten(1) / 127.5 - 1) @ self.weight
        return Features(values, values @ self.classes)


class Wide(_Projections):
    size = (2048, 1008)


class Narrow(_Projections):
    size = (64, 10)


started = []


class Sleeping(Sampler):
    """A device that takes `seconds` for a batch."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(num_steps=2)
        self.seconds = seconds

    def trajectory(self, predict, x, levels, noise):
        started.append(time.perf_counter())
        for _ in levels[1:]:
            time.sleep(self.seconds / (len(levels) - 1))
            yield x
'''
SLOW_WRITER = """
import sys, time
import sizes
from scorelight.cli import main
import scorelight.cli.sample as sample
from scorelight.storage.shards import ShardStore

seconds, write, archive = float(sys.argv[1]), ShardStore.write, sample.write_archive

def slow(self, *args, **rows):
    time.sleep(seconds)
    write(self, *args, **rows)

def ended(*args):
    ended.at = time.perf_counter()
    archive(*args)

ShardStore.write, sample.write_archive = slow, ended
code = main(sys.argv[2:])
print("seconds", ended.at - sizes.started[0])
sys.exit(code)
"""


def model(folder):
    """A checkpoint of a random network, and what the commands need beside it."""
    from scorelight import DDIM, MLP, VPSDE, Epsilon, EpsilonPrediction, ScoreModule
    from scorelight.storage.checkpoint import write_checkpoint

    torch.manual_seed(0)
    network = MLP((3, 32, 32), width=8, depth=1)
    module = ScoreModule(network, VPSDE(), Epsilon(), EpsilonPrediction(), DDIM(2), seed=0)
    settings = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict()}
    write_checkpoint(settings, folder / "model.ckpt")
    (folder / "sizes.py").write_text(MODULE)
    (folder / "slow_writer.py").write_text(SLOW_WRITER)
    images = np.random.default_rng(0).integers(0, 256, (NUM_REAL, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "real.npz", images=images)


def run(folder, *args):
    """Seconds and peak memory in MB of a command, and what it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SCORELIGHT_CACHE": str(folder / "cache")}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, args)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    return time.perf_counter() - start, usage.ru_maxrss / 1024, output


def sample(folder, num):
    sizes = ["--num_samples", num, "--batch_size", 250, "--accelerator", "cpu", "--out", f"samples-{num}"]
    return run(folder, "-m", "scorelight", "sample", "model.ckpt", *sizes)


def evaluate(folder, num, features, metrics):
    """The samples of one number are drawn by the first command and found by the others."""
    (folder / "metrics.yaml").write_text(f"metrics: [{metrics}]\n")
    given = ["--config", "metrics.yaml", "--data", "ImageDataModule", "--data.path", "real.npz"]
    sizes = ["--num_samples", num, "--batch_size", 250, "--accelerator", "cpu", "--out", f"evaluated-{num}"]
    return run(folder, "-m", "scorelight", "evaluate", "model.ckpt", *given, "--features", features, *sizes)


def memory(folder, numbers, save):
    rows = []
    for features in (WIDE, NARROW):  # those of the real examples are then in the cache
        evaluate(folder, 1000, features, "PrecisionRecall")
    for what, (at, features, metrics) in COMMANDS.items():
        for num in [num for num in at if num in numbers] or numbers:
            found = evaluate(folder, num, features, metrics) if metrics else sample(folder, num)
            rows.append(
                {"what": what, "samples": num, "peak_mb": round(found[1]), "seconds": round(found[0], 1)}
            )
            print(rows[-1], flush=True)
            save("memory", {"rows": rows})
    seconds, peak, _ = run(folder, "-c", "import scorelight.cli.evaluate, scorelight.cli.sample")
    rows.append({"what": "imports alone", "samples": 0, "peak_mb": round(peak), "seconds": round(seconds, 1)})
    save("memory", {"rows": rows})


def overlap(folder, save, device=0.2, writer=0.15, num_batches=20):
    rows = []
    for what, drawing, writing in (
        ("neither", 0, 0),
        ("drawing", device, 0),
        ("writing", 0, writer),
        ("both", device, writer),
    ):
        flags = ["--sampler", "sizes.Sleeping", "--sampler.seconds", drawing, "--out", "overlap"]
        sizes = ["--num_samples", 10 * num_batches, "--batch_size", 10, "--accelerator", "cpu"]
        _, _, output = run(folder, "slow_writer.py", writing, "sample", "model.ckpt", *sizes, *flags)
        rows.append({"what": what, "seconds": round(float(output.split()[-1]), 2)})
        print(rows[-1], flush=True)
    save("overlap", {"rows": rows, "device_s": device, "writer_s": writer, "batches": num_batches})


def report(parts):
    lines = ["# Memory and overlap of sampling and evaluation", "", "By `benchmarks/sampling_memory.py`.", ""]
    if "memory" in parts:
        lines += [
            "Peak resident memory, against 50,000 real examples of 3x32x32:",
            "",
            "| what | samples | peak memory, MB | seconds |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {r['what']} | {r['samples']:,} | {r['peak_mb']:,} | {r['seconds']} |"
            for r in parts["memory"]["rows"]
        ]
    if "overlap" in parts:
        o = parts["overlap"]
        lines += [
            "",
            f"Seconds from the first batch of `sample` to the last of {o['batches']}, with a sampler that "
            f"sleeps {o['device_s']} s for each and a writer that sleeps {o['writer_s']} s:",
            "",
            "| what sleeps | seconds |",
            "| --- | --- |",
            *(f"| {r['what']} | {r['seconds']} |" for r in o["rows"]),
        ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("memory", "overlap"), default=["memory", "overlap"])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    results = RESULTS / "sampling_memory.json"
    known = HERE / "sampling_memory.json"
    parts = json.loads(known.read_text())["parts"] if known.exists() and not options.quick else {}

    def save(name, part):
        parts[name] = part
        if not options.quick:
            content = {"commit": commit(), "torch": torch.__version__, "parts": parts}
            results.write_text(json.dumps(content, indent=2) + "\n")
            results.with_suffix(".md").write_text(report(parts))

    with tempfile.TemporaryDirectory() as name:
        model(folder := Path(name))
        if "overlap" in options.only and not options.quick:
            overlap(folder, save)
        if "memory" in options.only:
            memory(folder, (1000,) if options.quick else NUMBERS, save)
    print(report(parts))


if __name__ == "__main__":
    main()
