"""What guidance draws: closed forms, a classifier beside the exact one, and quality by accuracy on MNIST.

    python benchmarks/guidance.py                  # continues where it was interrupted; about four CPU hours
    python benchmarks/guidance.py --only closed    # some of it; one process a core may run side by side

* closed: p(x | c) = N(0, 1), p(x) = N(0, 2) under VE. The variance that classifier-free guidance ends at, by
  the probability flow and by the reverse SDE, and that of `ExactGuidance`, beside the closed forms.
* classifier: `toy/classifier` as shipped; its accuracy at each noise level beside Bayes'.
* model, weaker, classifier, clip: `mnist/quick` in ten CPU minutes and in two, `mnist/classifier` and
  `mnist/clip`, for two seeds each.
* curve: 2,000 images of the ten classes in turn for each way of guidance and each scale. Accuracy is the
  share that a network recognises which takes no part in the guidance: a convolutional one, trained here on
  clean images. Fréchet distance, precision and recall are of `MNISTFeatures`, to the training set. Ways are
  compared at equal accuracy, by linear interpolation between scales: a scale means another thing for each.
* average: the Fréchet distance of averages of the weights with other σ_rel, from one training.

The results are guidance.json with a row for each piece of work, guidance.npz with samples, and the .md and
.png that are made of both. Trained models are kept in the folder runs/guidance.
"""

import argparse
import csv
import functools
import itertools
import statistics
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
from common import RESULTS, Pieces, commit
from quality_models import distance, examples, features_of
from quality_per_minute import fit_for
from support.denoisers import GaussianPair
from torch import nn
from torch.nn import functional

from scorelight import (
    DDIM,
    VESDE,
    AncestralSampler,
    Autoguidance,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    CLIPGuidance,
    CountingDenoiser,
    ExactGuidance,
    ExponentialAdams,
    FeatureSet,
    Heun,
    Likelihood,
    LogSNRGrid,
    PrecisionRecall,
    QuadraticGrid,
)
from scorelight.cli import main
from scorelight.cli.tuning import keep_freed_memory
from scorelight.image_text.captions import DIGIT_CAPTIONS
from scorelight.images import to_uint8
from scorelight.samplers import generate
from scorelight.samplers.base import final_state
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_module
from scorelight.training.power_ema import PowerEMA, reconstruct

FILE = RESULTS / "guidance.json"
PIECES = Pieces(FILE, torch=torch.__version__)
RUNS = Path("runs/guidance")
SEEDS, NUM, BATCH, SHOWN = (0, 1), 2000, 100, 20
D = torch.float64
GAMMAS, SHOWN_GAMMA = (1.5, 2.0, 3.0, 5.0), 3.0
INTERVAL = (0.3, 3.0)
SIGMA_RELS = (0.02, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)
SAMPLER = DDIM(25, QuadraticGrid(), eta=1.0)
ACCURACIES = (0.98, 0.985, 0.99, 0.995)


# Closed forms


class ClassRatio(Likelihood):
    """log p(x | c)/p(x) = −x²/4, up to a constant."""

    def log_prob(self, x0, **cond):
        return -x0.flatten(1).square().sum(1) / 4


CLOSED = {
    "flow": lambda s: 2 ** (1 - s),
    "sde": lambda s: (2 - 2 ** (2 - 2 * s)) / (2 * s - 1),
    "exact": lambda s: 2 / (1 + s),
}
CLOSED_TITLES = {
    "flow": "classifier-free, probability flow",
    "sde": "classifier-free, reverse SDE",
    "exact": "`ExactGuidance`",
}


def closed(gamma):
    """Variances: of the flow, which is linear; of 100,000 draws of the SDE; of 40,000 exact draws."""
    process = VESDE(sigma_min=1e-3, sigma_max=1e4)
    guided = ClassifierFreeGuidance(GaussianPair(process), gamma)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100_000, 1, dtype=D, generator=generator)
    end = Heun(500, LogSNRGrid())(guided, torch.ones(1, 1, dtype=D)).item()
    sde = AncestralSampler(1500, LogSNRGrid())(guided, noise, generator=generator)
    exact = ExactGuidance(
        ClassRatio(), gamma, ExponentialAdams(30, prediction="v", order=4), 24, (1.0, 0.6), 4
    )
    unguided = GaussianPair(VESDE(sigma_min=1e-3, sigma_max=100.0)).of_all
    x = exact(unguided, noise[:40_000], generator=generator)
    draws = torch.cat([end * noise[:20_000], sde[:20_000], x[:20_000]], 1).T.half().numpy()
    found = dict(flow=end**2, sde=sde.var().item(), exact=x.var().item(), r_hat=exact.diagnose().r_hat)
    return found, draws if gamma == SHOWN_GAMMA else None


# Trained models


def toy_classifier():
    folder = RUNS / "toy"
    flags = [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
    assert main(["fit", "--config", "toy/classifier", "--resume=false", *flags]) == 0
    table = find_checkpoint(str(folder)).parents[1] / "accuracy.csv"
    rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(table.open())]
    return {"levels": rows}, None


def train(name, config, minutes, seed, *flags):
    path = fit_for(config, minutes, seed, str(RUNS / f"{name}{seed}"), "--resume=false", *flags)
    return {"steps": torch.load(path, weights_only=True)["global_step"]}, None


def train_model(seed, name="model", *flags):
    """`mnist/quick` with `PowerEMA`, and how much of the CPU time that takes."""
    spent, add = [0.0], PowerEMA.on_train_batch_end

    def timed(self, *arguments):
        begin = time.process_time()
        add(self, *arguments)
        spent[0] += time.process_time() - begin

    PowerEMA.on_train_batch_end = timed
    begin = time.process_time()
    try:
        quiet = f"--samples.every_n_steps={10**9}"
        row, _ = train(name, "mnist/quick", 10, seed, "--trainer.callbacks+=PowerEMA", quiet, *flags)
    finally:
        PowerEMA.on_train_batch_end = add
    return row | {"power_ema_share": spent[0] / (time.process_time() - begin)}, None


def run_of(name, seed):
    return find_checkpoint(str(RUNS / f"{name}{seed}"))


# Quality by accuracy


class Judge(nn.Module):
    """Recognises clean digits."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 25, 10),
        )  # fmt: skip

    def forward(self, images):
        return self.layers(images.float() / 127.5 - 1)


@functools.cache
def judge():
    """The network that accuracy is measured by, and its accuracy on the test set."""
    torch.manual_seed(1)
    path, net = RUNS / "judge.pt", Judge()
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        images, labels = examples("mnist", "train")
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, fused=True)
        steps = 3 * len(images) // 128
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
        for _ in range(3):
            for index in torch.randperm(len(images))[: steps // 3 * 128].view(-1, 128):
                optimizer.zero_grad()
                functional.cross_entropy(net(images[index]), labels[index]).backward()
                optimizer.step()
                schedule.step()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), path)
    return net.eval()


@torch.no_grad()
def accuracy(images, labels):
    guess = torch.cat([judge()(part).argmax(1) for part in images.split(500)])
    return (guess == labels).double().mean().item()


def guided(way, model, scale, seed, digit):
    """The model under one way of guidance; for a digit, since captions name one."""
    if way == "classifier-free":
        return ClassifierFreeGuidance(model, scale)
    if way == "interval":
        return ClassifierFreeGuidance(model, scale, INTERVAL)
    if way == "autoguidance":
        return Autoguidance(model, run_of("weaker", seed), scale)
    if way == "classifier":
        return ClassifierGuidance(model, run_of("classifier", seed), scale)
    return CLIPGuidance(model, run_of("clip", seed), DIGIT_CAPTIONS[digit], scale)


WAYS = {
    "classifier-free": (1.0, 1.25, 1.5, 2.0, 3.0, 5.0),
    "interval": (1.5, 2.0, 3.0, 5.0),
    "autoguidance": (1.25, 1.5, 2.0, 3.0),
    "classifier": (0.0, 1.0, 2.0, 4.0, 8.0),
    "clip": (1.0, 2.0, 4.0, 8.0),
}
WAY_TITLES = {
    "classifier-free": "`ClassifierFreeGuidance`",
    "interval": f"the same for σ/α from {INTERVAL[0]:g} to {INTERVAL[1]:g}",
    "autoguidance": "`Autoguidance` by two minutes of training",
    "classifier": "`ClassifierGuidance` of the unconditional model",
    "clip": "`CLIPGuidance` of the unconditional model",
}


def curve(way, scale, seed):
    """Images of the ten classes in turn, 100 at once of one class."""
    module = load_module(run_of("model", seed))
    shape, model = module.shape, module.denoiser_for("ema")
    images = torch.empty(NUM, *shape, dtype=torch.uint8)
    labels = torch.arange(NUM) % 10
    evaluations, begin = 0, time.process_time()
    for digit in range(10):
        counted = CountingDenoiser(guided(way, model, scale, seed, digit))
        for index in (labels == digit).nonzero()[:, 0].split(BATCH):
            cond = {"label": labels[index]}
            x = final_state(generate(counted, SAMPLER, shape, seed, index.tolist(), cond))
            images[index] = to_uint8(x)
            evaluations += counted.num_evaluations * len(index)
            counted.num_evaluations = 0
    row = dict(milliseconds=1000 * (time.process_time() - begin) / NUM, evaluations=evaluations / NUM)
    row |= dict(accuracy=accuracy(images, labels), distance=distance("mnist", images, "train"))
    return row | PrecisionRecall()(real_features(), features(images)), images[:SHOWN].numpy()


def features(images):
    extract = features_of("mnist")
    return FeatureSet.of(torch.cat([extract(x).values for x in images.split(500)]))


@functools.cache
def real_features():
    return features(examples("mnist", "train")[0])


def average(run, sigma_rel):
    """The distance of an average of the weights; of those of `ema_decay` for 0."""
    path = run_of(run, 0)
    module = load_module(path)
    if sigma_rel:
        for name, value in reconstruct(path.parents[1], sigma_rel).items():
            module.ema.denoiser.get_parameter(name).data.copy_(value)
    model, labels = module.denoiser_for("ema"), torch.arange(NUM) % 10
    parts = [
        final_state(generate(model, SAMPLER, module.shape, 0, index.tolist(), {"label": labels[index]}))
        for index in torch.arange(NUM).split(BATCH)
    ]
    return {"distance": distance("mnist", to_uint8(torch.cat(parts)), "train")}, None


# The work


def jobs():
    """All pieces, in an order in which each has what it needs."""
    work = {f"closed {gamma:g}": (closed, gamma) for gamma in GAMMAS}
    work["toy classifier"] = (toy_classifier,)
    for seed in SEEDS:
        work[f"train model {seed}"] = train_model, seed
        work[f"train weaker {seed}"] = train, "weaker", "mnist/quick", 2, seed
        work[f"train classifier {seed}"] = train, "classifier", "mnist/classifier", 3, seed
        work[f"train clip {seed}"] = train, "clip", "mnist/clip", 5, seed
        for way, scales in WAYS.items():
            work |= {f"curve {way} {s:g} {seed}": (curve, way, s, seed) for s in scales}
    work["train constant 0"] = train_model, 0, "constant", "--trainer.callbacks=PowerEMA"
    for run in ("model", "constant"):
        work |= {f"average {run} {s:g}": (average, run, s) for s in (0, *SIGMA_RELS)}
    return work


# Report


def mean_error(values):
    """Mean and standard error; without one for a single value."""
    values = list(values)
    if len(values) < 2:
        return values[0], float("nan")
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5


def text_of(values, digits):
    mean, error = mean_error(values)
    return f"{mean:.{digits}f}" + ("" if error != error else f" ± {error:.{digits}f}")


def report(pieces):
    return "\n".join(
        [*closed_table(pieces), *classifier_table(pieces), *curve_table(pieces), *matched_table(pieces),
         *average_table(pieces), ""]
    )  # fmt: skip


def closed_table(pieces):
    lines = [
        "## Variance of the samples for p(x | c) = N(0, 1), p(x) = N(0, 2)",
        "",
        "Measured, closed form. Standard errors: none, 0.45 %, 0.7 %. The SDE has 1,500 steps, which leave "
        "its variance 1 % too small; the flow has 500.",
        "",
        "| scale | " + " | ".join(CLOSED_TITLES.values()) + " |",
        "| --- |" + " --- |" * len(CLOSED),
    ]
    for gamma in GAMMAS:
        if row := pieces.get(f"closed {gamma:g}"):
            cells = [f"{row[k]:.4f}, {f(gamma):.4f}" for k, f in CLOSED.items()]
            lines.append(f"| {gamma:g} | " + " | ".join(cells) + " |")
    return lines


def classifier_table(pieces):
    lines = [
        "",
        "## Accuracy of `toy/classifier` by noise level, and of the exact classifier",
        "",
        "| σ/α | accuracy | Bayes | calibration error | Bayes |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in pieces.get("toy classifier", {}).get("levels", []):
        lines.append(
            f"| {row['noise']:.3g} | {row['accuracy']:.3f} | {row['bayes_accuracy']:.3f} | "
            f"{row['calibration_error']:.3f} | {row['bayes_calibration_error']:.3f} |"
        )
    return lines


def points(pieces, way, scale):
    keys = [f"curve {way} {scale:g} {seed}" for seed in SEEDS]
    return [pieces[key] for key in keys if key in pieces]


def curve_table(pieces):
    lines = [
        "",
        f"## MNIST: {NUM:,} samples, mean of two seeds ± standard error",
        "",
        "| guidance | scale | accuracy % | Fréchet distance | precision | recall | evaluations | ms/image |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way, scales in WAYS.items():
        for scale in scales:
            if not (rows := points(pieces, way, scale)):
                continue
            cells = [
                WAY_TITLES[way],
                f"{scale:g}",
                text_of([100 * r["accuracy"] for r in rows], 2),
                text_of([r["distance"] for r in rows], 2),
                text_of([r["precision"] for r in rows], 3),
                text_of([r["recall"] for r in rows], 3),
                f"{statistics.mean(r['evaluations'] for r in rows):.3g}",
                f"{statistics.mean(r['milliseconds'] for r in rows):.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def at_accuracy(pieces, way, target, seed, name):
    """A figure at the smallest scale that reaches the accuracy, between scales; None where none does."""
    rows = [pieces.get(f"curve {way} {scale:g} {seed}") for scale in WAYS[way]]
    rows = [row for row in rows if row]
    if rows and rows[0]["accuracy"] >= target:
        return rows[0][name]
    for a, b in itertools.pairwise(rows):
        if a["accuracy"] < target <= b["accuracy"]:
            share = (target - a["accuracy"]) / (b["accuracy"] - a["accuracy"])
            return a[name] + share * (b[name] - a[name])
    return None


def matched_table(pieces):
    titles = [f"{100 * a:g} %" for a in ACCURACIES]
    lines = [
        "",
        "At equal accuracy: Fréchet distance, recall. — where no scale reaches it for both seeds.",
        "",
    ]
    lines += [f"| guidance | {' | '.join(titles)} |", "| --- |" + " --- |" * len(titles)]
    for way in WAYS:
        cells = []
        for target in ACCURACIES:
            found = [
                [at_accuracy(pieces, way, target, seed, name) for seed in SEEDS]
                for name in ("distance", "recall")
            ]
            complete = all(value is not None for values in found for value in values)
            cells.append(f"{text_of(found[0], 2)}, {text_of(found[1], 3)}" if complete else "—")
        lines.append(f"| {WAY_TITLES[way]} | " + " | ".join(cells) + " |")
    return lines


AVERAGE_TITLES = {"model": "learning rate to 0, as shipped", "constant": "constant learning rate"}


def average_table(pieces):
    lines = [
        "",
        "## Fréchet distance by the average of the weights, after one training",
        "",
        "| training | `ema_decay` 0.995 | " + " | ".join(f"σ_rel {s:g}" for s in SIGMA_RELS) + " |",
        "| --- |" + " --- |" * (len(SIGMA_RELS) + 1),
    ]
    for run, title in AVERAGE_TITLES.items():
        cells = [pieces.get(f"average {run} {s:g}", {}).get("distance") for s in (0, *SIGMA_RELS)]
        lines.append(f"| {title} | " + " | ".join("—" if c is None else f"{c:.2f}" for c in cells) + " |")
    shares = [row["power_ema_share"] for row in pieces.values() if "power_ema_share" in row]
    if shares:
        lines += [
            "",
            f"`PowerEMA` takes {100 * statistics.mean(shares):.1f} % of the CPU time of a training.",
        ]
    return lines


def picture(pieces):
    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = PIECES.arrays()
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 9), layout="constrained")
    draw_densities(axes[0, 0], shown)
    draw_variances(axes[0, 1], pieces)
    draw_classifier(axes[0, 2], pieces)
    for axis, name in zip(axes[1, :2], ("distance", "recall"), strict=True):
        draw_curves(axis, pieces, name)
    draw_averages(axes[1, 2], pieces)
    figure.savefig(FILE.with_suffix(".png"), dpi=90, metadata={"Software": None})
    pyplot.close(figure)
    grids(pieces, shown, pyplot)


def draw_densities(axis, shown):
    if (key := f"closed {SHOWN_GAMMA:g}") not in shown:
        return
    x = np.linspace(-3, 3, 301)
    for i, (name, title) in enumerate(CLOSED_TITLES.items()):
        variance = CLOSED[name](SHOWN_GAMMA)
        density = np.exp(-(x**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        axis.hist(shown[key][i].astype(float), 80, (-3, 3), density=True, color=f"C{i}", alpha=0.3)
        axis.plot(x, density, color=f"C{i}", label=title.replace("`", ""))
    axis.set(xlabel="x", ylabel="density")
    axis.set_title(f"scale {SHOWN_GAMMA:g}: draws (bars) and closed forms (lines)")
    axis.legend(fontsize=8)


def draw_variances(axis, pieces):
    scales = np.linspace(1, 5, 101)
    for i, (name, f) in enumerate(CLOSED.items()):
        axis.plot(scales, [f(s) for s in scales], color=f"C{i}", label=CLOSED_TITLES[name].replace("`", ""))
        found = [(g, pieces[f"closed {g:g}"][name]) for g in GAMMAS if f"closed {g:g}" in pieces]
        axis.plot([g for g, _ in found], [v for _, v in found], "o", color=f"C{i}")
    axis.set(title="variance: measured (points), closed form (lines)", xlabel="scale", yscale="log")
    axis.legend(fontsize=8)


def draw_classifier(axis, pieces):
    rows = pieces.get("toy classifier", {}).get("levels", [])
    noise = [row["noise"] for row in rows]
    for name, style in (("accuracy", "o"), ("bayes_accuracy", "-")):
        label = "exact" if "bayes" in name else "toy/classifier"
        axis.semilogx(noise, [row[name] for row in rows], style, label=label)
    axis.set(title="classifier of noisy points", xlabel="σ/α", ylabel="accuracy")
    axis.legend(fontsize=8)


def draw_curves(axis, pieces, name):
    for i, (way, scales) in enumerate(WAYS.items()):
        rows = [points(pieces, way, scale) for scale in scales]
        found = [[mean_error([r[k] for r in row]) for row in rows if row] for k in ("accuracy", name)]
        x, y = (np.array(values).reshape(-1, 2).T for values in found)
        axis.errorbar(100 * x[0], y[0], y[1], 100 * x[1], "o-", ms=3, color=f"C{i}", label=way)
    title = "Fréchet distance" if name == "distance" else name
    axis.set(title=f"MNIST: {title} by accuracy", xlabel="accuracy %", ylabel=title)
    axis.legend(fontsize=8)


def draw_averages(axis, pieces):
    for i, (run, title) in enumerate(AVERAGE_TITLES.items()):
        rows = {
            s: pieces[f"average {run} {s:g}"]["distance"]
            for s in SIGMA_RELS
            if f"average {run} {s:g}" in pieces
        }
        axis.loglog(list(rows), list(rows.values()), "o-", color=f"C{i}", label=title)
        if base := pieces.get(f"average {run} 0"):
            axis.axhline(base["distance"], color=f"C{i}", lw=0.8, ls=":")
    axis.set(
        title="average of the weights (dotted: ema_decay 0.995)", xlabel="σ_rel", ylabel="Fréchet distance"
    )
    axis.legend(fontsize=8)


def grids(pieces, shown, pyplot):
    """Samples of each way at each scale, of seed 0 and the same noise."""
    keys = [
        (way, scale)
        for way, scales in WAYS.items()
        for scale in scales
        if f"curve {way} {scale:g} 0" in shown
    ]
    figure, axes = pyplot.subplots(max(len(keys), 1), 1, figsize=(9, 0.62 * max(len(keys), 1)), squeeze=False)
    for (way, scale), axis in zip(keys, axes[:, 0], strict=False):
        key = f"curve {way} {scale:g} 0"
        images = shown[key][:, 0]
        axis.imshow(np.concatenate(list(images), 1), cmap="gray", vmin=0, vmax=255)
        axis.set_title(f"{way}, scale {scale:g}: accuracy {pieces[key]['accuracy']:.1%}, Fréchet distance "
                       f"{pieces[key]['distance']:.2f}", loc="left", fontsize=7, pad=2)  # fmt: skip
        axis.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(FILE.with_name("guidance_samples.png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="pieces whose name contains this")
    parser.add_argument("--pieces", type=int, help="how many to do at most (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    known = PIECES.read()
    work = {key: job for key, job in jobs().items() if arguments.only in key and key not in known}
    for key, (function, *rest) in list(work.items())[: arguments.pieces]:
        row, samples = function(*rest)
        PIECES.add(key, row | {"commit": commit(), "date": time.strftime("%Y-%m-%d")}, samples)
        print(key, {k: v for k, v in row.items() if k != "levels"}, flush=True)
    text = report(PIECES.read())
    FILE.with_suffix(".md").write_text(text)
    picture(PIECES.read())
    print(text)
