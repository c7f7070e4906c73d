"""What score matching costs without a look at the noise: time by dimension, variance of loss and gradient.

    python benchmarks/score_matching_cost.py   # about three minutes on one core

Writes score_matching_cost.json, .md and .png beside this file.

* CPU time of a training step (forward and backward, batch 32, MLP of width 128, float32, one thread) of
  `ImplicitScoreMatching` and `SlicedScoreMatching`, with (VR) and without reduced variance, as a multiple of
  that of `DenoisingScoreMatching` in the same number of dimensions D. The objectives take turns, in rounds,
  each time another first; of the rounds' ratios the median and the quartiles are given. The trace takes D
  passes backward, a slice one. CPU time, since other programs on the machine do not count.
* Variance of the loss and of its gradient (sum over all weights) of an example, for an MLP that was trained
  on a mixture of four Gaussians for 500 steps: that which the direction v adds at given x_t and t, and the
  total, both as multiples of the total of `DenoisingScoreMatching`; ± is the standard error. *Gain* is how
  many times as large the variance added by v is without VR.
"""

import gc
import json
import statistics
import sys
import time
from functools import partial

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import torch
from common import RESULTS, commit

from scorelight import (
    MLP,
    VPSDE,
    DenoisingScoreMatching,
    Epsilon,
    GaussianMixture,
    ImplicitScoreMatching,
    NetworkDenoiser,
    SlicedScoreMatching,
)

SEED = 0
SIZES = [2, 8, 32, 128, 512, 1024]
ROUNDS, BUDGET = 40, 20.0  # at most so many rounds and so many seconds for each D
DIMENSIONS = [2, 8, 32]
BATCHES, BATCH = 200, 256
OBJECTIVES = {
    "DSM": DenoisingScoreMatching(),
    "SSM-VR": SlicedScoreMatching(),
    "SSM": SlicedScoreMatching(variance_reduction=False),
    "ISM": ImplicitScoreMatching(),
}


# Time


def denoiser_of(size):
    torch.manual_seed(SEED)
    network = MLP((size,))
    torch.nn.init.normal_(network.last.weight, std=0.02)
    return NetworkDenoiser(network, VPSDE(), Epsilon())


def seconds(objective, denoiser, x0):
    """Of the second of two steps: the first finds the memory as the step of another objective left it."""
    for _ in range(2):
        denoiser.zero_grad()
        start = time.process_time()
        objective(denoiser, x0).value.mean().backward()
    return time.process_time() - start


def timing(size):
    denoiser, x0 = denoiser_of(size), torch.randn(32, size)
    rounds, start = [], None
    gc.collect()
    gc.disable()
    while start is None or (len(rounds) < ROUNDS and time.process_time() - start < BUDGET) or len(rounds) < 5:
        names = list(OBJECTIVES)[len(rounds) % 4 :] + list(OBJECTIVES)[: len(rounds) % 4]
        times = {name: seconds(OBJECTIVES[name], denoiser, x0) for name in names}
        if start is None:  # the first round only warms up
            start = time.process_time()
        else:
            rounds.append(times)
    gc.enable()
    row = {
        "dimensions": size,
        "rounds": len(rounds),
        "DSM_ms": 1e3 * statistics.median(r["DSM"] for r in rounds),
    }
    for name in ("SSM-VR", "SSM", "ISM"):
        low, middle, high = statistics.quantiles((r[name] / r["DSM"] for r in rounds), n=4)
        row[name] = {"median": middle, "quartiles": [low, high]}
    return row


# Variance


def density(size):
    generator = torch.Generator().manual_seed(SEED)
    return GaussianMixture(torch.ones(4), torch.randn(4, size, generator=generator), torch.full((4,), 0.09))


def trained(mixture, size):
    denoiser, generator = denoiser_of(size), torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
    for _ in range(500):
        optimizer.zero_grad()
        x0 = mixture.sample(BATCH, generator).float()
        OBJECTIVES["DSM"](denoiser, x0, generator=generator).value.mean().backward()
        optimizer.step()
    return denoiser


def loss_and_gradient(objective, denoiser, x0, seed):
    loss = objective(denoiser, x0, generator=torch.Generator().manual_seed(seed)).value
    gradient = torch.autograd.grad(loss.mean(), list(denoiser.parameters()))
    return loss.detach().double(), torch.cat([g.flatten() for g in gradient]).double()


def mean_and_error(values):
    return [values.mean().item(), (values.std() / len(values) ** 0.5).item()]


def ratio(above, below):
    """Of two means over the same batches, with its standard error to first order."""
    value = (above.mean() / below.mean()).item()
    error = ((above - value * below).std() / len(above) ** 0.5 / below.mean()).item()
    return [value, abs(error)]


def variances(denoiser, mixture, objectives):
    """Per batch, unbiased: {name: (loss by v, gradient by v, loss, gradient)}, each of an example."""
    generator = torch.Generator().manual_seed(SEED + 1)
    losses, gradients = ({name: [] for name in objectives} for _ in range(2))
    for batch in range(BATCHES):
        x0 = mixture.sample(BATCH, generator).float()
        for name, objective in objectives.items():
            loss, gradient = loss_and_gradient(objective, denoiser, x0, batch)
            losses[name].append(loss)
            gradients[name].append(gradient)
    losses, gradients = ({k: torch.stack(v) for k, v in d.items()} for d in (losses, gradients))
    correction = BATCHES / (BATCHES - 1)
    return {
        name: (
            (losses[name] - losses["ISM"]).square().mean(1),
            BATCH * (gradients[name] - gradients["ISM"]).square().sum(1),
            (losses[name] - losses[name].mean()).square().mean(1),
            correction * BATCH * (gradients[name] - gradients[name].mean(0)).square().sum(1),
        )
        for name in objectives
    }


def spread(size):
    mixture = density(size)
    denoiser = trained(mixture, size)
    objectives = {name: OBJECTIVES[name] for name in ("DSM", "ISM")}
    for projection in ("rademacher", "gaussian", "sphere"):
        make = partial(SlicedScoreMatching, projection=projection)
        objectives |= {
            f"SSM-VR {projection}": make(),
            f"SSM {projection}": make(variance_reduction=False),
        }
    results = variances(denoiser, mixture, objectives)
    total = results["DSM"][2], results["DSM"][3]
    rows = []
    for name, (loss_v, gradient_v, loss, gradient) in results.items():
        row = {"dimensions": size, "objective": name}
        row |= {"loss": ratio(loss, total[0]), "gradient": ratio(gradient, total[1])}
        if name.startswith("SSM"):
            row |= {"loss_by_v": ratio(loss_v, total[0]), "gradient_by_v": ratio(gradient_v, total[1])}
        if name.startswith("SSM "):
            reduced = results[name.replace("SSM", "SSM-VR")]
            row |= {"loss_gain": ratio(loss_v, reduced[0]), "gradient_gain": ratio(gradient_v, reduced[1])}
        rows.append(row)
    return rows


# Report


def times_table(rows):
    def cell(entry):
        return f"{entry['median']:.2f} ({entry['quartiles'][0]:.2f} to {entry['quartiles'][1]:.2f})"

    return [
        "| D | DSM, ms per step | SSM-VR | SSM | ISM |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {r['dimensions']} | {r['DSM_ms']:.1f} | "
            + " | ".join(cell(r[name]) for name in ("SSM-VR", "SSM", "ISM"))
            + " |"
            for r in rows
        ),
    ]


def variance_table(rows):
    def cell(row, key):
        return f"{row[key][0]:.2f} ± {row[key][1]:.2f}" if key in row else ""

    keys = ["loss_by_v", "loss", "loss_gain", "gradient_by_v", "gradient", "gradient_gain"]
    return [
        "| D | objective | loss: by v | total | gain | gradient: by v | total | gain |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {r['dimensions']} | {r['objective']} | " + " | ".join(cell(r, k) for k in keys) + " |"
            for r in rows
        ),
    ]


def report(times, spreads):
    return "\n".join(
        [
            "CPU time of a training step as a multiple of DSM's (median of the rounds, quartiles):",
            "",
            *times_table(times),
            "",
            "Variance of an example's loss and gradient as a multiple of DSM's:",
            "",
            *variance_table(spreads),
            "",
        ]
    )


def draw(times, spreads, path):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    sizes = [r["dimensions"] for r in times]
    for name, marker in (("ISM", "s"), ("SSM", "^"), ("SSM-VR", "o")):
        left.loglog(sizes, [r[name]["median"] for r in times], marker=marker, label=name)
    left.set(xlabel="dimensions D", ylabel="CPU time per step / DSM's", title="Time")
    left.legend()
    names = [r["objective"] for r in spreads if r["dimensions"] == DIMENSIONS[-1] and "loss_by_v" in r]
    for i, size in enumerate(DIMENSIONS):
        rows = {r["objective"]: r for r in spreads if r["dimensions"] == size}
        values, errors = zip(*(rows[name]["gradient_by_v"] for name in names), strict=True)
        places = [k + 0.27 * (i - 1) for k in range(len(names))]
        right.barh(places, values, height=0.25, xerr=errors, label=f"D = {size}")
    right.set(
        yticks=range(len(names)),
        yticklabels=names,
        xscale="log",
        xlabel="variance of the gradient by v / DSM's",
    )
    right.set_title("Variance")
    right.legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    torch.set_num_threads(1)
    begin = time.perf_counter()
    measured = commit()
    times = [timing(size) for size in SIZES]
    spreads = [row for size in DIMENSIONS for row in spread(size)]
    result = {
        "commit": measured,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "seed": SEED,
        "seconds": round(time.perf_counter() - begin),
        "cpu_seconds": round(time.process_time()),
        "times": times,
        "variances": spreads,
    }
    (RESULTS / "score_matching_cost.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "score_matching_cost.md").write_text(report(times, spreads))
    draw(times, spreads, RESULTS / "score_matching_cost.png")
    print(report(times, spreads))
