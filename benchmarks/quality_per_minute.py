"""What a user without a GPU gets after some minutes: distances of ours and of other libraries.

    python benchmarks/quality_per_minute.py            # continues where it was interrupted
    python benchmarks/quality_per_minute.py --only "mnist final azula" --pieces 1   # several side by side

MNIST in five and ten minutes (six CPU hours), and digits in one, in one thread. The clock is the CPU time of
the training, since other programs on the machine do not count then. Every model draws 1,000 samples with at
most 50 evaluations of its network, for each of two seeds; the Fréchet distance of `MNISTFeatures` or
`DigitsFeatures` to the training set has noise of a few per cent and, with 1,000 samples, a bias upwards that
is the same for all.

* Ours are configurations as they are shipped, trained by `scorelight fit`, whose trainer is given the CPU
  time for its clock. What is done before the first step does not count: for the unconditional ones the search
  of clusters among the unlabelled images, some CPU seconds. Their samples are of the clusters in turn, as
  those of the conditional ones are of the classes.
* The others train as their own examples do (quality_peers.py), in two sizes, at two learning rates. The best
  of the four is found first, in less time, by the distance of other samples to the test set; it is then
  trained for as long as ours.
* Our configurations were searched for, with their own protocol: quality_search.py and quality_search.jsonl.

The results are quality_per_minute.json with a row for each piece of work, .npz with the first samples of each
model, and the .md and .png that are made of both. A piece that is in the .json is not repeated.
"""

import argparse
import importlib.metadata
import itertools
import tempfile
import time
from dataclasses import dataclass
from unittest import mock

import matplotlib
import torch
import yaml
from common import RESULTS, Pieces, commit
from quality_models import NUM_SAMPLES, ROOT, SEARCH_SEED, distance, draw, examples
from quality_peers import BATCH, EVALUATIONS, PEERS
from torch import nn

from scorelight.cli import main
from scorelight.cli.configs import shipped_configs
from scorelight.cli.tuning import keep_freed_memory
from scorelight.images import to_uint8
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_module

FILE = RESULTS / "quality_per_minute.json"
PACKAGES = ("torch", "lightning", "azula", "smalldiffusion", "diffusers", "denoising-diffusion-pytorch")
PIECES = Pieces(
    FILE,
    versions={name: importlib.metadata.version(name) for name in PACKAGES},
)
SEEDS, SHOWN = (0, 1), 40
TITLES = {"mnist": "MNIST", "digits": "digits", "cifar10": "CIFAR-10"}


@dataclass(frozen=True)
class Comparison:
    """On one data set."""

    data: str
    features: str
    minutes: tuple[int, ...]
    ours: dict[str, str]  # configurations, and how they differ
    peers: tuple[str, ...] = ()
    search_minutes: int = 0  # of each size and learning rate of the others


COMPARISONS = [
    Comparison(
        "mnist",
        "`MNISTFeatures`",
        (5, 10),
        {"mnist/quick_unconditional": "unconditional", "mnist/quick": "conditional"},
        tuple(PEERS),
        3,
    ),
    Comparison(
        "digits",
        "`DigitsFeatures`",
        (1,),
        {"digits/quick": "conditional", "digits/vp_epsilon": "unconditional, made for three minutes"},
    ),
    Comparison(
        "cifar10",
        "`CIFAR10Features` of quality_features.py",
        (60,),
        {"cifar10/quick_unconditional": "unconditional", "cifar10/quick": "conditional"},
        ("azula",),
        10,
    ),
]


class CPUClock:
    """Stands for the module `time` in Lightning's timer."""

    monotonic = staticmethod(time.process_time)


def fit_for(config, minutes, seed, folder, *flags):
    """Train a configuration as it is shipped for some minutes of CPU time; the checkpoint."""
    settings = yaml.safe_load(shipped_configs()[config].read_text())
    wrapped = "data" in settings["data"].get("init_args", {})
    root = {"data.data.root" if wrapped else "data.root": ROOT}
    options = ({} if config.startswith("digits") else root) | {
        "seed_everything": seed,
        "trainer.max_time": f"00:00:{minutes:02}:00",
        "trainer.default_root_dir": folder,
        "trainer.max_steps": -1,
        "trainer.limit_val_batches": 0,
        "trainer.enable_progress_bar": "false",
        "trainer.logger": "false",
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    with mock.patch("lightning.pytorch.callbacks.timer.time", CPUClock):
        assert main(["fit", "--config", config, *given, *flags]) == 0
    return find_checkpoint(folder)


def ours(data, config, minutes, seed, sample_seed):
    with tempfile.TemporaryDirectory() as folder:
        path = fit_for(config, minutes, seed, folder, f"--samples.every_n_steps={10**9}")
        module, steps = load_module(path), torch.load(path, weights_only=True)["global_step"]
    labels = torch.arange(NUM_SAMPLES) % module.num_classes if module.num_classes else None
    samples = draw(module.denoiser_for("ema"), module.sampler, module.shape, sample_seed, labels, NUM_SAMPLES)
    notes = dict(steps=steps, parameters=sum(p.numel() for p in module.denoiser.parameters()))
    return samples, notes


class Average:
    """The exponential moving average of a peer's weights, with ours' warm-up; none with decay 0."""

    def __init__(self, peer):
        self.weights = [p.detach().clone() for p in peer.parameters()]
        self.decay, self.updates = peer.decay, 0

    def update(self, peer):
        rate = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self.weights, [p.detach() for p in peer.parameters()], rate)

    @torch.no_grad()
    def copy_to(self, peer):
        for p, mean in zip(peer.parameters(), self.weights, strict=True):
            p.copy_(mean)


def theirs(data, name, size, rate, minutes, seed, sample_seed):
    """Samples of a peer in a size and at a learning rate."""
    torch.manual_seed(seed)
    images, _ = examples(data, "train")
    peer = PEERS[name](tuple(images.shape[1:]), **PEERS[name].sizes[size]).train()
    peak, average, steps = PEERS[name].rates[rate], Average(peer), 0
    optimizer, order = peer.optimizer(peak), torch.empty(0, dtype=torch.long)
    begin = time.process_time()
    while (used := (time.process_time() - begin) / (60 * minutes)) < 1:
        if len(order) < BATCH:
            order = torch.randperm(len(images))
        index, order = order[:BATCH], order[BATCH:]
        optimizer.param_groups[0]["lr"] = peak * peer.factor(used, steps)
        optimizer.zero_grad()
        peer.loss(images[index] / 127.5 - 1).mean().backward()
        nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        average.update(peer)
        steps += 1
    average.copy_to(peer)
    torch.manual_seed(sample_seed)
    with torch.no_grad():
        parts = [peer.eval().draw(100) for _ in range(NUM_SAMPLES // 100)]
    notes = dict(steps=steps, images=steps * BATCH, parameters=sum(p.numel() for p in peer.parameters()))
    return to_uint8(torch.cat(parts).nan_to_num()), notes


def best_of(data, name, pieces):
    """Size and rate of the peer that were the best of the search, if it is complete."""
    found = {
        (size, rate): pieces[key]["distance"]
        for size in (0, 1)
        for rate in (0, 1)
        if (key := f"{data} search {name} {size} {rate}") in pieces
    }
    return min(found, key=found.get) if len(found) == 4 else None


def work(pieces):
    """What is left to do, as key -> function, its arguments and the split to compare with; searches first."""
    jobs = {}
    for c in COMPARISONS:
        for name, size, rate in itertools.product(c.peers, (0, 1), (0, 1)):
            arguments = (c.data, name, size, rate, c.search_minutes, SEARCH_SEED, SEARCH_SEED)
            jobs[f"{c.data} search {name} {size} {rate}"] = theirs, arguments, "val"
        for minutes, seed in itertools.product(reversed(c.minutes), SEEDS):
            for config in c.ours:
                arguments = (c.data, config, minutes, seed, seed)
                jobs[f"{c.data} final {config} {minutes} {seed}"] = ours, arguments, "train"
            for name in c.peers:
                if best := best_of(c.data, name, pieces):
                    arguments = (c.data, name, *best, minutes, seed, seed)
                    jobs[f"{c.data} final {name} {minutes} {seed}"] = theirs, arguments, "train"
    return {key: job for key, job in jobs.items() if key not in pieces}


def do(job):
    function, arguments, split = job
    begin = time.process_time()
    samples, notes = function(*arguments)
    row = dict(
        distance=distance(arguments[0], samples, split),
        cpu_seconds=round(time.process_time() - begin),
        commit=commit(),
        date=time.strftime("%Y-%m-%d"),
        processor=torch.backends.cpu.get_cpu_capability(),
    )
    return row | notes, samples[:SHOWN].numpy()


# Report


def cell(pieces, data, name, minutes):
    """The distance of each seed."""
    keys = [f"{data} final {name} {minutes} {seed}" for seed in SEEDS]
    return ", ".join(f"{pieces[key]['distance']:.3g}" if key in pieces else "—" for key in keys)


def processors(pieces):
    """Which processors the seeds had."""
    found = {(key[-1], row["processor"]) for key, row in pieces.items() if " final " in key}
    return ", ".join(f"seed {seed} on {processor}" for seed, processor in sorted(found))


def report(pieces):
    lines = [
        f"Fréchet distance of {NUM_SAMPLES:,} samples to the training set, at most {EVALUATIONS} "
        f"evaluations, one of each seed; {processors(pieces)}. Models are to be compared within a seed.",
    ]
    for c in COMPARISONS:
        titles = [f"{m} CPU minute{'s' * (m > 1)}" for m in c.minutes]
        lines += [
            "",
            f"## {TITLES[c.data]}, {c.features}",
            "",
            f"| model | {' | '.join(titles)} | parameters | steps |",
            "| --- |" + " --- |" * (len(c.minutes) + 2),
        ]
        for name in [*c.ours, *c.peers]:
            label = f"`{name}`, {c.ours[name]}" if name in c.ours else name
            longest = [pieces.get(f"{c.data} final {name} {c.minutes[-1]} {seed}", {}) for seed in SEEDS]
            cells = [cell(pieces, c.data, name, m) for m in c.minutes]
            cells.append(next((row["parameters"] for row in longest if row), "—"))
            cells.append(", ".join(str(row.get("steps", "—")) for row in longest))
            lines.append("| " + " | ".join(map(str, [label, *cells])) + " |")
        lines += searches(pieces, c) if c.peers else []
    return "\n".join([*lines, ""])


def searches(pieces, comparison):
    lines = [
        "",
        f"The others after {comparison.search_minutes} CPU minutes, other samples, distance to the test set:",
        "",
        "| library | size | learning rate | distance |",
        "| --- | --- | --- | --- |",
    ]
    for name in comparison.peers:
        for (size, options), (rate, value) in itertools.product(
            enumerate(PEERS[name].sizes), enumerate(PEERS[name].rates)
        ):
            if row := pieces.get(f"{comparison.data} search {name} {size} {rate}"):
                described = ", ".join(f"{k}={v}" for k, v in options.items())
                lines.append(f"| {name} | {described} | {value:g} | {row['distance']:.3g} |")
    return lines


def picture(pieces):
    """The first samples of each model, by seed 0, after the longest time."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = PIECES.arrays()
    keys = {
        f"{c.data} final {name} {c.minutes[-1]} 0": f"{name}, {TITLES[c.data]}, {c.minutes[-1]} CPU min"
        for c in COMPARISONS
        for name in [*c.ours, *c.peers]
    }
    keys = {key: title for key, title in keys.items() if key in shown and key in pieces}
    figure, axes = pyplot.subplots(
        max(len(keys), 1), 1, figsize=(10, 1.35 * max(len(keys), 1)), squeeze=False
    )
    for (key, title), axis in zip(keys.items(), axes[:, 0], strict=False):
        images = shown[key]
        size = images.shape[-1]
        rows = images.reshape(2, SHOWN // 2, -1, size, size).transpose(0, 3, 1, 4, 2)
        axis.imshow(rows.reshape(2 * size, SHOWN // 2 * size, -1).squeeze(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(f"{title}: {pieces[key]['distance']:.3g}", loc="left", fontsize="small")
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(FILE.with_suffix(".png"), dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="pieces whose name contains this")
    parser.add_argument("--pieces", type=int, help="how many to do at most (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    pieces, done = PIECES.read(), 0
    while done != arguments.pieces:
        left = [(key, job) for key, job in work(pieces).items() if arguments.only in key]
        if not left:
            break
        key, job = left[0]
        row, samples = do(job)
        PIECES.add(key, row, samples)
        pieces = PIECES.read()
        print(key, row, flush=True)
        done += 1
    text = report(pieces)
    FILE.with_suffix(".md").write_text(text)
    picture(pieces)
    print(text)
