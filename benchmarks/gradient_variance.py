"""What the choice of t is worth: the variance of the gradient of a batch, by time sampler.

    python benchmarks/gradient_variance.py     # about five minutes on one core

* likelihood: the loss with λ = g² on "two_gaussians", an MLP (ε, 33,602 weights) after 1,000 steps; the same
  network for every sampler. VE is the control: there uniform t is the importance sampler already.
* bound: L_vlb on the 8×8 digits (17 grey levels, learned variance) under tables of 1,000 levels, an MLP
  (v, 45,760 weights) after 2,500 steps of it with `LossAwareTime`, whose p_i are then frozen.

For 1,000 batches of 64 per row: the mean of the loss (in nats for the bound), which no sampler may change;
and by what factor the variance of the mean loss of a batch and that of its gradient (the trace of the
covariance over all weights) are smaller than with uniform t or level. ± one standard error. Writes
gradient_variance.json, .md and .png beside this file.
"""

import json
import math
import os
import sys
import time

import matplotlib
import torch
from common import RESULTS, commit
from support.times import FrozenTime

from scorelight import (
    MLP,
    VESDE,
    VPSDE,
    CosineVPSDE,
    DDPMProcess,
    DenoisingScoreMatching,
    DiscreteTime,
    Epsilon,
    ImportanceTime,
    LikelihoodWeighting,
    LossAwareTime,
    NetworkDenoiser,
    RectifiedFlow,
    StratifiedTime,
    SubVPSDE,
    UniformTime,
    VariationalBound,
    VPrediction,
)
from scorelight.data import DigitsDataModule
from scorelight.data.access import examples_of
from scorelight.data.toy import sample

SEED, BATCH, BATCHES = 0, 64, 1000
PROCESSES = {
    "VP": VPSDE(),
    "sub-VP": SubVPSDE(),
    "cosine": CosineVPSDE(),
    "rectified flow": RectifiedFlow(),
    "VE (control)": VESDE(),
}
LIKELIHOOD = {
    "UniformTime": UniformTime(),
    "StratifiedTime": StratifiedTime(),
    "ImportanceTime": ImportanceTime(),
    "StratifiedTime(ImportanceTime)": StratifiedTime(ImportanceTime()),
}
TABLES = {"linear": DDPMProcess(schedule="linear"), "cosine": DDPMProcess(schedule="cosine")}


def likelihood(times):
    return DenoisingScoreMatching(weighting=LikelihoodWeighting(), time_sampler=times)


def bound(times):
    return VariationalBound(num_bins=17, time_sampler=times)


def batch_of(data, generator):
    return data[torch.randint(len(data), (BATCH,), generator=generator)]


def train(denoiser, objective, data, steps):
    network, generator = denoiser.network, torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(denoiser, batch_of(data, generator), generator=generator).value.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()


def variance(rows):
    """Trace of the covariance of rows, and its standard error."""
    squared = (rows - rows.mean(0)).square_().sum(1, dtype=torch.float64) * len(rows) / (len(rows) - 1)
    return squared.mean().item(), (squared.std() / len(rows) ** 0.5).item()


def measure(objective, denoiser, data, seed):
    """Mean of the loss, variance of its mean over a batch, variance of the gradient; each with its error."""
    generator, weights = torch.Generator().manual_seed(seed), list(denoiser.parameters())
    losses, gradients = [], torch.empty(BATCHES, sum(w.numel() for w in weights))
    for row in gradients:
        loss = objective(denoiser, batch_of(data, generator), generator=generator).value.mean()
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)], out=row)
        losses.append(loss.detach())
    losses = torch.stack(losses)[:, None]
    error = (losses.std() / BATCHES**0.5).item()
    return {"mean": (losses.mean().item(), error), "loss": variance(losses), "gradient": variance(gradients)}


def factor(reference, value):
    """Ratio of two independent estimates, and its standard error."""
    ratio = reference[0] / value[0]
    return ratio, ratio * math.hypot(reference[1] / reference[0], value[1] / value[0])


def compare(make, samplers, denoiser, data, seed, name):
    """One row per sampler; the first is the one to be compared with."""
    results = {s: measure(make(t), denoiser, data, seed + i) for i, (s, t) in enumerate(samplers.items())}
    first = next(iter(results.values()))
    rows = []
    for sampler, value in results.items():
        rows.append({"process": name, "times": sampler} | value)
        if value is not first:
            rows[-1]["factors"] = {key: factor(first[key], value[key]) for key in ("loss", "gradient")}
        print(line(rows[-1]), flush=True)
    return rows


def of_likelihood():
    data = sample("two_gaussians", 100_000, SEED)
    for number, (name, process) in enumerate(PROCESSES.items()):
        torch.manual_seed(SEED)
        denoiser = NetworkDenoiser(MLP((2,), 64, 2), process, Epsilon())
        train(denoiser, likelihood(ImportanceTime()), data, 1000)
        yield from compare(likelihood, LIKELIHOOD, denoiser, data, 10 * (number + 1), name)


def of_bound():
    data = examples_of(DigitsDataModule(), "train").all().x0
    for number, (name, process) in enumerate(TABLES.items()):
        torch.manual_seed(SEED)
        times = LossAwareTime()
        network = MLP((1, 8, 8), 64, 2, learned_variance=True)
        denoiser = NetworkDenoiser(network, process, VPrediction())
        train(denoiser, bound(times), data, 2500)
        assert (times.seen >= times.history).all()
        samplers = {"DiscreteTime": DiscreteTime(), "LossAwareTime": FrozenTime(times)}
        samplers["StratifiedTime(LossAwareTime)"] = StratifiedTime(FrozenTime(times))
        yield from compare(bound, samplers, denoiser, data, 100 * (number + 1), f"DDPM {name}")


def line(row):
    mean, error = row["mean"]
    cells = [row["process"], f"`{row['times']}`", f"{mean:.4g} ± {error:.1g}"]
    for key in ("loss", "gradient"):
        cells.append("{:.2f} ± {:.2f}".format(*row["factors"][key]) if "factors" in row else "1")
    return "| " + " | ".join(cells) + " |"


def report(sections):
    head = ["| | t | mean of the loss | variance of the loss, factor | variance of the gradient, factor |"]
    head += ["| --- | --- | --- | --- | --- |"]
    lines = []
    for title, rows in sections.items():
        lines += [f"{title}:", "", *head, *map(line, rows), ""]
    return "\n".join(lines)


def picture(sections, path):
    """Factors by which the variance of the gradient falls, with their standard errors."""
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator

    sizes = [len({row["process"] for row in rows}) for rows in sections.values()]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), width_ratios=sizes, layout="constrained")
    for axis, (title, rows) in zip(axes, sections.items(), strict=True):
        names = list(dict.fromkeys(row["process"] for row in rows))
        samplers = list(dict.fromkeys(row["times"] for row in rows if "factors" in row))
        for i, sampler in enumerate(samplers):
            factors = [row["factors"]["gradient"] for row in rows if row["times"] == sampler]
            place = [n + (i - (len(samplers) - 1) / 2) * 0.25 for n in range(len(names))]
            value, error = zip(*factors, strict=True)
            axis.bar(place, value, 0.23, yerr=error, capsize=3, label=sampler)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set(title=title, xticks=range(len(names)), xticklabels=names, yscale="log")
        axis.set_ylabel("variance of the gradient: times smaller")
        axis.set_ylim(0.7, 2 * max(row["factors"]["gradient"][0] for row in rows if "factors" in row))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
        axis.legend(fontsize=8, loc="upper right")
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    start = time.perf_counter()
    measured = commit()
    sections = {"likelihood weighting": [*of_likelihood()], "variational bound": [*of_bound()]}
    result = {
        "commit": measured,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "seed": SEED,
        "seconds": round(time.perf_counter() - start),
        "batches": BATCHES,
        "batch_size": BATCH,
        "sections": sections,
    }
    (RESULTS / "gradient_variance.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "gradient_variance.md").write_text(report(sections))
    picture(sections, RESULTS / "gradient_variance.png")
    print(report(sections))
