"""Is the true score the minimiser of every objective, for every process and every parameterization?

    python benchmarks/certify.py            # about half an hour on two cores

Each cell of the matrix is checked five times, with seeds of its own:

* *stationary* (`scorelight.certification.certify`): the gradient of the loss at the exact score is 0 within its
  error, for Gaussian mixtures in 1, 2 and 16 dimensions and for the 8×8 digits as a finite set of points; and
  it is not 0 at a score that is 5 % wrong (RMS of ε), else the cell fails as well;
* *reached*: on Gaussian data, an affine model trained from a wrong start ends at the mean and the standard
  deviations of the data, within the error of the fit.

A cell passes if all of them do; a cell whose combination is not defined must be refused with an error. The
rows "Energy" have the gradient of a scalar as their network (for 20 of the digits). A second
matrix is that of weightings × time samplers of denoising score matching, in 2 dimensions, for every process.
Writes certify.json, .md and .png beside this file; exits with 1 if a cell fails.
"""

import json
import multiprocessing
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from common import commit
from sklearn.datasets import load_digits
from tqdm import tqdm

import scorelight as sl
from scorelight.batch import Batch
from scorelight.certification.certify import certify, known_denoiser, known_energy

HERE = Path(__file__).parent
D = torch.float64

PROCESSES = {
    "VPSDE": sl.VPSDE,
    "SubVPSDE": sl.SubVPSDE,
    "VESDE": sl.VESDE,
    "CosineVPSDE": sl.CosineVPSDE,
    "KarrasVESDE": sl.KarrasVESDE,
    "RectifiedFlow": sl.RectifiedFlow,
    "DDPMProcess": sl.DDPMProcess,
    "SMLDProcess": sl.SMLDProcess,
    "LearnedVPSDE": partial(sl.LearnedVPSDE, width=32),
}
PARAMETERIZATIONS = {
    "Epsilon": sl.Epsilon,
    "Score": sl.Score,
    "X0": sl.X0,
    "VPrediction": sl.VPrediction,
    "Velocity": sl.Velocity,
    "EDM": sl.EDM,
    "Energy": sl.Score,
}
OBJECTIVES = {
    "DSM": lambda n: sl.DenoisingScoreMatching(),
    "DSM levels": lambda n: sl.DenoisingScoreMatching(time_sampler=sl.DiscreteTime(n)),
    "DSM g²": lambda n: sl.DenoisingScoreMatching(
        weighting=sl.LikelihoodWeighting(), time_sampler=sl.ImportanceTime()
    ),
    "EDM loss": lambda n: sl.DenoisingScoreMatching(
        weighting=sl.EDMWeighting(), time_sampler=sl.LogNormalTime()
    ),
    "L_simple": lambda n: sl.EpsilonPrediction(),
    "ESM": lambda n: sl.ExplicitScoreMatching(),
    "ISM": lambda n: sl.ImplicitScoreMatching(chunk_size=16),
    "SSM": lambda n: sl.SlicedScoreMatching(variance_reduction=False),
    "SSM-VR": lambda n: sl.SlicedScoreMatching(),
    "bound": lambda n: sl.VariationalBound(time_sampler=sl.ImportanceTime()),
    "L_vlb": lambda n: sl.VariationalBound(n),
    "hybrid": lambda n: sl.HybridObjective(num_timesteps=n),
}
WEIGHTINGS = [
    sl.UniformWeighting,
    sl.SigmaSquaredWeighting,
    sl.LikelihoodWeighting,
    sl.MinSNRWeighting,
    sl.EDMWeighting,
    sl.SigmoidWeighting,
]
TIMES = {
    "UniformTime": lambda n: sl.UniformTime(),
    "StratifiedTime": lambda n: sl.StratifiedTime(),
    "LogNormalTime": lambda n: sl.LogNormalTime(),
    "LogitNormalTime": lambda n: sl.LogitNormalTime(),
    "FixedTime": lambda n: sl.FixedTime(sigma=0.5),
    "ImportanceTime": lambda n: sl.ImportanceTime(),
    "DiscreteTime": lambda n: sl.DiscreteTime(n),
    "LossAwareTime": lambda n: sl.LossAwareTime(n),
}

ROWS = [(process, row) for process in PROCESSES for row in PARAMETERIZATIONS]


def num_timesteps(process):
    """Levels of the objectives on levels: all of a table, 10 of a continuum."""
    return process.num_timesteps or 10


def mixture(dim):
    """Three Gaussians with covariances of any orientation."""
    generator = torch.Generator().manual_seed(dim)
    means = torch.randn(3, dim, generator=generator, dtype=D)
    roots = torch.randn(3, dim, dim, generator=generator, dtype=D)
    covariances = 0.15 * roots @ roots.mT / dim + 0.05 * torch.eye(dim, dtype=D)
    return sl.GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, covariances)


def digits():
    return torch.from_numpy(load_digits().images)[:, None] / 8 - 1


def data_sets(row, column):
    """Name, data and finite set of points (for ExplicitScoreMatching) of each data set.

    For ExplicitScoreMatching the data are always a finite set of points; for an energy its density is a
    mixture of components of variance 0.
    """
    for name in ("1-D", "2-D", "16-D", "digits"):
        density = None if name == "digits" else mixture(int(name[:-2]))
        points = digits() if name == "digits" else density.sample(1797, torch.Generator().manual_seed(0))
        points = points[::90] if row == "Energy" else points
        if name != "digits" and column != "ESM":
            yield name, density, points
        elif row == "Energy":
            yield name, sl.GaussianMixture(torch.ones(len(points)), points, torch.zeros(len(points))), points
        else:
            yield name, points, points


def stationary(process, row, column, seed):
    """`certify` on each data set."""
    for i, (name, data, points) in enumerate(data_sets(row, column)):
        objective = OBJECTIVES[column](num_timesteps(process))
        objective.prepare(lambda points=points: Batch(points, {}))
        found = certify(
            objective,
            process,
            PARAMETERIZATIONS[row](),
            data,
            energy=row == "Energy",
            learned_variance=column == "hybrid",
            num_examples=1024 if name == "digits" else 16_384,
            batch_size=256 if name == "digits" else 2048,
            seed=seed + i,
        )
        yield {"check": f"stationary, {name}", "passed": found.passed, **asdict(found)}


MEAN, STD = torch.tensor([0.5, -0.3], dtype=D), torch.tensor([0.8, 0.4], dtype=D)


class Gaussian:
    """The affine ε̂ = σ (x_t − α m)/(α² s² + σ²), with θ = (m, log s) in two dimensions for each example."""

    def parts(self, level):
        mean, std = self.theta[:, :2], self.theta[:, 2:].exp()
        return mean, level.alpha**2 * std**2 + level.sigma**2

    def epsilon(self, x_t, level):
        mean, variance = self.parts(level)
        return level.sigma * (x_t - level.alpha * mean) / variance

    def log_prob(self, x_t, level):
        mean, variance = self.parts(level)
        return -0.5 * ((x_t - level.alpha * mean) ** 2 / variance + variance.log()).sum(1)


def gaussian_points(num, generator):
    """Points of mean MEAN and covariance diag(STD²), to all digits."""
    x = torch.randn(num, 2, generator=generator, dtype=D)
    x = x - x.mean(0)
    return MEAN + STD * (x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov(correction=0))).T)


def newton(derivatives, theta):
    """Follow the gradient, which need not be that of the loss's value, to where it is 0 and H is positive.

    Steps −|H|⁻¹ ḡ, no longer than ½, with |H| of the absolute eigenvalues: they lead away from saddles.
    """
    for _ in range(100):
        gradient, hessian = derivatives(theta)
        curvature, axes = torch.linalg.eigh(hessian)
        step = -axes @ ((axes.T @ gradient.mean(0)) / curvature.abs())
        theta = theta + step * min(1, 0.5 / step.norm().item())
        if step.norm() < 1e-9:
            break
    return theta, gradient, hessian


def reached(process, row, column, seed):
    """Fit `Gaussian` to data of mean MEAN and standard deviation STD, from (m + 1, 2 s).

    The draws of times and noise stay the same throughout; the minimiser then has the covariance H⁻¹ S H⁻¹/n.
    More of them are drawn until that is small.
    """
    generator = torch.Generator().manual_seed(seed)
    points = gaussian_points(256, generator)
    objective = OBJECTIVES[column](num_timesteps(process))
    objective.prepare(lambda: Batch(points, {}))
    model = Gaussian()
    if row == "Energy":
        denoiser = known_energy((2,), process, model.log_prob)
    else:
        denoiser = known_denoiser((2,), process, PARAMETERIZATIONS[row](), model.epsilon, column == "hybrid")
    draws = generator.get_state()
    truth, theta = torch.cat([MEAN, STD.log()]), torch.cat([MEAN + 1, (2 * STD).log()])
    for repeats in (64, 256, 1024):
        data = points.repeat(repeats, 1)

        def derivatives(theta, data=data):
            """Gradient of each example's loss, and the Hessian of their mean."""
            model.theta = theta.expand(len(data), 4).clone().requires_grad_()
            loss = objective(denoiser, data, generator=generator.set_state(draws)).value.sum()
            (gradient,) = torch.autograd.grad(loss, model.theta, create_graph=True)
            rows = [
                torch.autograd.grad(g.sum(), model.theta, retain_graph=True)[0] for g in gradient.unbind(1)
            ]
            return gradient.detach(), torch.stack(rows).mean(1)

        theta, gradient, hessian = newton(derivatives, theta)
        inverse = torch.linalg.inv(hessian)
        spread = inverse @ gradient.T.cov() @ inverse / len(data) + 1e-18 * torch.eye(4, dtype=D)
        resolution = spread.diagonal().sqrt().max().item()
        if resolution < 0.05:
            break
    off = theta - truth
    t2 = off @ torch.linalg.solve(spread, off)
    p = torch.special.gammaincc(t2.new_tensor(2.0), t2 / 2).item()
    yield {
        "check": "reached",
        "passed": p > 1e-6 and resolution < 0.1 and bool((torch.linalg.eigvalsh(hessian) > 0).all()),
        "error": off.abs().max().item(),
        "resolution": resolution,
        "p_value": p,
        "num_examples": len(data),
    }


def seed_of(*names):
    return zlib.crc32(" ".join(names).encode())


def cell(names):
    """All checks of one cell, or the message with which it was refused."""
    process_name, row, column = names
    torch.set_num_threads(1)
    process = PROCESSES[process_name]()
    seed = seed_of(*names)
    try:
        checks = [*stationary(process, row, column, seed), *reached(process, row, column, seed + 9)]
    except sl.ConfigurationError as error:
        return {"refused": str(error)}
    return {"checks": checks}


def weighting_cell(names):
    """`certify` of a weighting with a time sampler, for every process."""
    weighting, times = names
    torch.set_num_threads(1)
    checks = []
    for name, make in PROCESSES.items():
        process = make().requires_grad_(False)
        objective = sl.DenoisingScoreMatching(
            weighting=getattr(sl, weighting)(), time_sampler=TIMES[times](num_timesteps(process))
        )
        found = certify(
            objective, process, sl.Epsilon(), mixture(2), seed=seed_of(name, *names), control_error=0.1
        )
        checks.append({"check": name, "passed": found.passed, **asdict(found)})
    return {"checks": checks}


def run_all(function, cells, workers):
    """Results in order, one process a core."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(tqdm(pool.map(function, cells), total=len(cells), desc=function.__name__))


def passed(result):
    return "refused" in result or all(check["passed"] for check in result["checks"])


def text(result):
    """The largest error of ε among the stationary checks, in per cent."""
    if "refused" in result:
        return "refused"
    errors = [c["error"] for c in result["checks"] if "control" in c]
    return f"{'✓' if passed(result) else 'FAIL'} {100 * max(errors):.1f}"


def least(result):
    """The smallest p-value."""
    return f"{'✓' if passed(result) else 'FAIL'} {min(c['p_value'] for c in result['checks']):.1g}"


def table(rows, columns, results, text=text):
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for row in rows:
        name = row if isinstance(row, str) else " × ".join(row)
        key = (row,) if isinstance(row, str) else row
        lines.append(f"| {name} | " + " | ".join(text(results[*key, c]) for c in columns) + " |")
    return "\n".join(lines)


def summary(results):
    """Counts, the spread of the p-values, and the refusals."""
    checks = [c for r in results.values() for c in r.get("checks", [])]
    random = [c for c in checks if c["p_value"] < 1]  # ExplicitScoreMatching is exact: p = 1
    low, smallest = sum(c["p_value"] < 0.05 for c in random), min(c["p_value"] for c in random)
    refusals = {}
    for key, result in results.items():
        if "refused" in result:
            refusals.setdefault(result["refused"], []).append(key)
    lines = [
        f"* {len(results)} cells: {sum('checks' in r and passed(r) for r in results.values())} passed, "
        f"{sum(not passed(r) for r in results.values())} failed, "
        f"{sum('refused' in r for r in results.values())} refused with an error.",
        f"* {len(checks)} checks on {sum(c['num_examples'] for c in checks):,} examples.",
        f"* Of {len(random)} p-values {100 * low / len(random):.1f} % are below 0.05; 5 % are expected if "
        f"all is right. The smallest is {smallest:.1e}, where about {1 / len(random):.0e} is expected; the "
        "limit is 1e-6.",
    ]
    refused = [
        f"* {len(keys)} cells such as {' × '.join(keys[0])}: {said}" for said, keys in refusals.items()
    ]
    return "\n".join(lines), "\n".join(refused)


def picture(rows, columns, results, path):
    """The first matrix: shades of green by the largest error, red if failed, grey if refused."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 15), layout="constrained")
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            result = results[*row, column]
            said = text(result)
            if "refused" in result:
                colour, said = "0.85", "–"
            else:
                error = float(said.split()[1])
                colour = plt.cm.Greens(0.65 - 0.1 * min(error, 6)) if passed(result) else "red"
            axes.add_patch(plt.Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="white"))
            axes.text(j + 0.5, i + 0.5, said.lstrip("✓ "), ha="center", va="center", fontsize=7)
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.set_xticks([j + 0.5 for j in range(len(columns))], columns)
    axes.set_yticks([i + 0.5 for i in range(len(rows))], [" × ".join(r) for r in rows], fontsize=7)
    axes.tick_params(length=0, top=True, labeltop=True)
    for i in range(0, len(rows), len(PARAMETERIZATIONS)):
        axes.axhline(i, color="black", linewidth=0.8)
    axes.set_title(
        "Error of the minimiser: RMS of ε, per cent, the largest of four data sets.\n"
        "Chance makes 1 to 5 of it for an exact objective. Grey: not defined, refused.",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)


def rounded(value):
    """Three digits are enough for a file."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


REPORT = """\
# The minimiser of every objective

Each cell: whether all checks passed, and the largest error of the minimiser's ε over the data sets (1, 2,
16 dimensions, digits), RMS in per cent. Chance makes about 1 to 5 of it even if the objective is exact; a
p-value tells the difference. Every check would fail at a score that is 5 % wrong. *refused*: not defined, and
said so by an error.

{summary}

{matrix}

## Refused

{refused}

## Weightings × time samplers

Of denoising score matching on a mixture in 2 dimensions: {processes} checks a cell, one for each process, in
which 10 % wrong would be noticed. The smallest of their p-values is given.

{weighting_summary}

{weightings}

`python benchmarks/certify.py`: the seed of a cell is the CRC-32 of its name. torch {torch},
commit {commit}, {minutes:.0f} minutes on two busy cores.
"""


def report(results, weightings, facts):
    """Write the three files and say what is in them."""
    cells = [{"cell": key, **result} for part in (results, weightings) for key, result in part.items()]
    (HERE / "certify.json").write_text(json.dumps(rounded(facts | {"cells": cells})) + "\n")
    counts, refused = summary(results)
    text = REPORT.format(
        summary=counts,
        matrix=table(ROWS, list(OBJECTIVES), results),
        refused=refused,
        processes=len(PROCESSES),
        weighting_summary=summary(weightings)[0],
        weightings=table([w.__name__ for w in WEIGHTINGS], list(TIMES), weightings, least),
        minutes=facts["seconds"] / 60,
        **facts,
    )
    (HERE / "certify.md").write_text(text)
    picture(ROWS, list(OBJECTIVES), results, HERE / "certify.png")
    print(text)


def main():
    start = time.time()
    measured = commit()
    workers = multiprocessing.cpu_count()
    keys = [(*row, column) for row in ROWS for column in OBJECTIVES]
    results = dict(zip(keys, run_all(cell, keys, workers), strict=True))
    pairs = [(w.__name__, t) for w in WEIGHTINGS for t in TIMES]
    weightings = dict(zip(pairs, run_all(weighting_cell, pairs, workers), strict=True))
    seconds = round(time.time() - start)
    report(
        results,
        weightings,
        {"commit": measured, "torch": torch.__version__, "seconds": seconds},
    )
    return int(not all(map(passed, [*results.values(), *weightings.values()])))


if __name__ == "__main__":
    sys.exit(main())
