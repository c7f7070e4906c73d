"""Is the true score the minimiser of every objective, for every process and every parameterization?

    python benchmarks/certify.py                            # about half an hour on two cores
    python benchmarks/certify.py --cell VPSDE Epsilon DSM   # prints the checks of one cell; writes nothing

Each cell of the matrix is checked five times, with seeds of its own:

* *stationary* (`scorelight.certify`): the gradient of the loss at the exact score is 0 within its error, for
  Gaussian mixtures in 1, 2 and 16 dimensions and for the 8×8 digits as a finite set of points; and it is not
  0 at a score that is 5 % wrong (RMS of ε), else the cell fails as well;
* *reached*: on Gaussian data, an affine model trained from a wrong start ends at the mean and the standard
  deviations of the data, within the error of the fit.

A cell passes if all of them do; a cell whose combination is not defined must be refused with an error. The
rows "Energy" have the gradient of a scalar as their network (for 20 of the digits). A second
matrix is that of weightings × time samplers of denoising score matching, in 2 dimensions, for every process.
Writes certify.json, .md and .png beside this file; exits with 1 if a cell fails.
"""

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

import torch
from common import RESULTS, commit
from support.certification import (
    OBJECTIVES,
    PARAMETERIZATIONS,
    PROCESSES,
    cell_seed,
    data_sets,
    fit_affine_model,
    mixture,
    num_timesteps,
)
from tqdm import tqdm

import scorelight as sl
from scorelight.batch import Batch
from scorelight.certification import certify

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


def stationary(process, row, column, seed):
    """`certify` on each data set."""
    for i, (name, data, points) in enumerate(data_sets(row, column)):
        objective = OBJECTIVES[column](num_timesteps(process))
        objective.prepare(lambda points=points: Batch(points, {}))
        certificate = certify(
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
        yield {"check": f"stationary, {name}", "passed": certificate.passed, **asdict(certificate)}


def cell(names):
    """All checks of one cell, or the message with which it was refused."""
    process_name, row, column = names
    torch.set_num_threads(1)
    process = PROCESSES[process_name]()
    seed = cell_seed(*names)
    try:
        checks = [*stationary(process, row, column, seed)]
        checks.append(fit_affine_model(process, row, column, seed + 9))
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
        certificate = certify(
            objective, process, sl.Epsilon(), mixture(2), seed=cell_seed(name, *names), control_error=0.1
        )
        checks.append({"check": name, "passed": certificate.passed, **asdict(certificate)})
    return {"checks": checks}


def run_all(function, cells, workers):
    """Results in order, one process a core."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(tqdm(pool.map(function, cells), total=len(cells), desc=function.__name__))


def passed(result):
    return "refused" in result or all(check["passed"] for check in result["checks"])


def largest_error(result):
    """The largest error of ε among the stationary checks, in per cent."""
    if "refused" in result:
        return "refused"
    errors = [c["error"] for c in result["checks"] if "control" in c]
    return f"{'✓' if passed(result) else 'FAIL'} {100 * max(errors):.1f}"


def smallest_p_value(result):
    """The smallest p-value."""
    return f"{'✓' if passed(result) else 'FAIL'} {min(c['p_value'] for c in result['checks']):.1g}"


def table(rows, columns, results, cell_text=largest_error):
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for row in rows:
        name = row if isinstance(row, str) else " × ".join(row)
        key = (row,) if isinstance(row, str) else row
        lines.append(f"| {name} | " + " | ".join(cell_text(results[*key, c]) for c in columns) + " |")
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
        f"* {len(keys)} cells such as {' × '.join(keys[0])}: {message}" for message, keys in refusals.items()
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
            label = largest_error(result)
            if "refused" in result:
                colour, label = "0.85", "–"
            else:
                error = float(label.split()[1])
                colour = plt.cm.Greens(0.65 - 0.1 * min(error, 6)) if passed(result) else "red"
            axes.add_patch(plt.Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="white"))
            axes.text(j + 0.5, i + 0.5, label.lstrip("✓ "), ha="center", va="center", fontsize=7)
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
refused with an error.

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
    """Write the three files, and print the Markdown."""
    cells = [{"cell": key, **result} for part in (results, weightings) for key, result in part.items()]
    (RESULTS / "certify.json").write_text(json.dumps(rounded(facts | {"cells": cells})) + "\n")
    counts, refused = summary(results)
    text = REPORT.format(
        summary=counts,
        matrix=table(ROWS, list(OBJECTIVES), results),
        refused=refused,
        processes=len(PROCESSES),
        weighting_summary=summary(weightings)[0],
        weightings=table([w.__name__ for w in WEIGHTINGS], list(TIMES), weightings, smallest_p_value),
        minutes=facts["seconds"] / 60,
        **facts,
    )
    (RESULTS / "certify.md").write_text(text)
    picture(ROWS, list(OBJECTIVES), results, RESULTS / "certify.png")
    print(text)


def main():
    parser = argparse.ArgumentParser(description="See the docstring of this file.")
    parser.add_argument("--cell", nargs=3, metavar=("PROCESS", "PARAMETERIZATION", "OBJECTIVE"))
    if names := parser.parse_args().cell:
        result = cell(names)
        print(json.dumps(rounded(result), indent=1))
        return int(not passed(result))
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
