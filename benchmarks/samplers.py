"""What a sampler makes of its network evaluations: ours and those of diffusers, k-diffusion and azula.

    make bench-setup                                           # benchmarks/.venv with the three libraries
    benchmarks/.venv/bin/python benchmarks/samplers.py         # some minutes on one core
    benchmarks/.venv/bin/python benchmarks/samplers.py --check # that every solver converges to the reference

* error: distance of each sample from the end of the probability flow from the same noise, by RK4 with 1,500
  steps in log σ; median and root mean square over 1,000 samples. DDPM's table of 1,000 levels (linear), data
  of 8 Gaussians: on the unit circle, standard deviation 0.1 (2-D), and at random centres, 0.2 (16-D). All in
  float64. The last evaluation is the posterior mean at the lowest level that is used, here E[x0 | x] at level
  1 for the reference; grids that stop above it are charged for that. NFE are counted at the network, the
  denoising step included, and never more than stated. Settings of theirs, and how they were chosen: peers.py.
* overhead: of a run of 50 evaluations with a network that takes 4 µs, on 16 × 784 numbers in float32: what
  the grid costs before the first, and the rest divided by 50, network included; the fastest of 60 runs, in
  turn. Ours calls the network through `NetworkDenoiser`, theirs through as little as the library allows.
* check: in 2-D, from 50 to 500 evaluations, the median must fall as it does for a method of first order
  or a better one. Left out are diffusers' "leading" grids, which then do not start at level 1000.

Writes samplers.json, .md and .png beside this file.
"""

import functools
import importlib.metadata
import json
import math
import os
import sys
import time

import matplotlib
import torch
from common import RESULTS, commit
from peers import PEERS, double_precision

from scorelight import (
    DDIM,
    AnalyticDenoiser,
    CountingDenoiser,
    DDPMProcess,
    DPMSolverPP,
    EDMSampler,
    Epsilon,
    ExponentialAdams,
    GaussianMixture,
    Heun,
    LogSNRGrid,
    MixedGrid,
    NetworkDenoiser,
    NoiseLevel,
    QuadraticGrid,
    TrailingGrid,
    UniformGrid,
    UniPC,
)

D, SEED, SAMPLES = torch.float64, 0, 1000
NFES = (5, 10, 20, 50, 100)
PROCESS = DDPMProcess()


def adams(prediction, order, grid, **options):
    """`ExponentialAdams` without its defaults for trained networks."""
    return lambda n: ExponentialAdams(n, grid, order=order, prediction=prediction, **options)


ANGLE, MIXED = MixedGrid(0.0), MixedGrid(0.25)
OURS = {
    "DDIM": DDIM,
    "Heun": lambda n: Heun((n + 1) // 2),
    "EDMSampler": lambda n: EDMSampler((n + 1) // 2),
    "DPMSolverPP 2": DPMSolverPP,
    "DPMSolverPP 3": lambda n: DPMSolverPP(n, order=3),
    "UniPC 2": UniPC,
    "UniPC 3": lambda n: UniPC(n, order=3),
    "UniPC 2, trailing √t": lambda n: UniPC(n, TrailingGrid(QuadraticGrid())),
    "ExponentialAdams": ExponentialAdams,
    "ExponentialAdams x0 2, trailing √θ": adams("x0", 2, TrailingGrid(ANGLE)),
    "ExponentialAdams x0 3, trailing √t": adams("x0", 3, TrailingGrid(QuadraticGrid())),
    "ExponentialAdams x0 2, trailing √t, corrector": adams(
        "x0", 2, TrailingGrid(QuadraticGrid()), corrector=True
    ),
    "ExponentialAdams x0 4, trailing t, corrector": adams(
        "x0", 4, TrailingGrid(UniformGrid()), corrector=True
    ),
    "ExponentialAdams v 4, trailing √t": adams("v", 4, TrailingGrid(QuadraticGrid())),
    "ExponentialAdams ε 2, mixed": adams("epsilon", 2, MIXED),
    "ExponentialAdams ε 3, mixed": adams("epsilon", 3, MIXED),
    "ExponentialAdams ε 4, √t": adams("epsilon", 4, QuadraticGrid()),
    "ExponentialAdams v 1, √θ": adams("v", 1, ANGLE),
    "ExponentialAdams v 1, trailing √θ": adams("v", 1, TrailingGrid(ANGLE)),
    "ExponentialAdams v 3, trailing mixed 0.35": adams("v", 3, TrailingGrid(MixedGrid(0.35))),
    "ExponentialAdams v 4, trailing mixed 0.2": adams("v", 4, TrailingGrid(MixedGrid(0.2))),
    "ExponentialAdams v 2, trailing √θ": adams("v", 2, TrailingGrid(ANGLE)),
    "ExponentialAdams v 2, trailing mixed": adams("v", 2, TrailingGrid(MIXED)),
    "ExponentialAdams v 4, trailing mixed": adams("v", 4, TrailingGrid(MIXED)),
    "ExponentialAdams v 3, √θ": adams("v", 3, ANGLE),
    "ExponentialAdams v 4, √θ": adams("v", 4, ANGLE),
    "ExponentialAdams v 4, mixed": adams("v", 4, MIXED),
    "ExponentialAdams v 4, √t": adams("v", 4, QuadraticGrid()),
    "ExponentialAdams v 4, log-SNR": adams("v", 4, LogSNRGrid()),
}
DEFAULT = "ExponentialAdams"
LIBRARIES = ("scorelight", *PEERS)
TIMED = {
    "scorelight": ("DDIM", "DPMSolverPP 2", "UniPC 2", "ExponentialAdams", "EDMSampler"),
    "diffusers": ("DDIM", "Euler karras", "DPM-Solver++ 2M", "UniPC 2", "DEIS 2 exponential"),
    "k-diffusion": ("euler exponential", "heun karras", "dpmpp_2m karras", "lms karras"),
    "azula": ("DDIM VE", "Heun VE", "vAB 2 rectified", "zEAB 3 VE", "xEAB 3 VE"),
}


def densities():
    angle = torch.arange(8, dtype=D) * math.pi / 4
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    centres = torch.randn(8, 16, dtype=D, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(8, dtype=D)
    return {
        "2-D": GaussianMixture(ones, circle, 0.1**2 * ones),
        "16-D": GaussianMixture(ones, centres, 0.2**2 * ones),
    }


def reference(density, noise, steps=1500):
    """The end of dx̄/dlog σ̄ = σ̄ ε̂ with x̄ = x/α, σ̄ = σ/α, by RK4; then the posterior mean."""
    first, last = PROCESS.grid_levels(torch.tensor([PROCESS.t_max, PROCESS.t_min], dtype=D))
    ends = math.log(first.sigma / first.alpha), math.log(last.sigma / last.alpha)
    sigmas = torch.linspace(*ends, 2 * steps + 1, dtype=D).exp().tolist()
    h = (ends[1] - ends[0]) / steps

    def slope(x, sigma):
        return -(sigma**2) * density.score(x, 1.0, sigma)

    x = first.sigma / first.alpha * noise
    for start, middle, end in zip(sigmas[:-1:2], sigmas[1::2], sigmas[2::2], strict=True):
        k1 = slope(x, start)
        k2 = slope(x + h / 2 * k1, middle)
        k3 = slope(x + h / 2 * k2, middle)
        k4 = slope(x + h * k3, end)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return AnalyticDenoiser(density, PROCESS).predict(last.alpha * x, last).x0


class Exact:
    """ε̂ of a denoiser at a level given by σ/α, evaluations counted."""

    def __init__(self, denoiser):
        self.denoiser, self.num_evaluations = denoiser, 0

    def __call__(self, x, sigma):
        self.num_evaluations += 1
        alpha = 1 / math.sqrt(1 + float(sigma) ** 2)
        level = NoiseLevel(math.nan, alpha, float(sigma) * alpha, math.nan, math.nan)
        return self.denoiser.predict(x, level).epsilon


def ours(make, denoiser, noise, nfe):
    counted = CountingDenoiser(denoiser)
    return make(nfe)(counted, noise), counted.num_evaluations


def theirs(setting, denoiser, noise, nfe):
    exact = Exact(denoiser)
    with double_precision():
        return setting.sample(setting.set_up(nfe), exact, noise), exact.num_evaluations


SOLVERS = {("scorelight", name): functools.partial(ours, make) for name, make in OURS.items()} | {
    (library, name): functools.partial(theirs, setting)
    for library, settings in PEERS.items()
    for name, setting in settings.items()
}


def errors(problem, nfes, solvers=SOLVERS, num_samples=SAMPLES):
    """Rows of the error of every solver at every number of evaluations."""
    density = densities()[problem]
    denoiser = AnalyticDenoiser(density, PROCESS)
    noise = torch.randn(num_samples, *density.shape, dtype=D, generator=torch.Generator().manual_seed(SEED))
    exact = reference(density, noise)
    rows = []
    for (library, name), solve in solvers.items():
        for nfe in nfes:
            x, evaluations = solve(denoiser, noise, nfe)
            assert x.dtype == D and evaluations <= nfe, (library, name, nfe, evaluations)
            distance = (x - exact).norm(dim=1)
            row = {"problem": problem, "library": library, "sampler": name, "nfe": nfe}
            row["evaluations"] = evaluations
            row |= {"median": distance.median().item(), "rms": distance.square().mean().sqrt().item()}
            rows.append(row)
        print(problem, library, name, *(f"{row['median']:.1e}" for row in rows[-len(nfes) :]), flush=True)
    return rows


def check(nfes=(50, 100, 200, 500)):
    """That with ten times the evaluations every solver comes at least five times closer, or to 1e-8."""
    solvers = {key: solve for key, solve in SOLVERS.items() if "leading" not in key[1]}
    for solver, (first, *_, last) in table(errors("2-D", nfes, solvers, 200), "2-D", "median").items():
        print(*solver, f"order {math.log(first / last, nfes[-1] / nfes[0]):.1f}")
        assert last < max(1e-8, first / 5), solver


class Trivial(torch.nn.Module):
    def forward(self, x, noise_label):
        return 0.5 * x


def timed_jobs(nfe):
    """{(library, sampler): (set-up, complete run)} with a network that costs next to nothing."""
    noise = torch.randn(16, 784, generator=torch.Generator().manual_seed(SEED))
    network = Trivial()
    denoiser = NetworkDenoiser(network, PROCESS, Epsilon())

    def levels(sampler):
        return PROCESS.grid_levels(sampler.grid(PROCESS, sampler.num_steps))

    def sample_with(setting):
        return setting.sample(setting.set_up(nfe), network, noise)

    jobs = {}
    for name in TIMED["scorelight"]:
        sampler = OURS[name](nfe)
        parts = functools.partial(levels, sampler), functools.partial(sampler, denoiser, noise)
        jobs["scorelight", name] = parts
    for library, settings in PEERS.items():
        for name in TIMED[library]:
            set_up = functools.partial(settings[name].set_up, nfe)
            jobs[library, name] = set_up, functools.partial(sample_with, settings[name])
    return jobs


def overhead(num_runs=60, nfe=50):
    """Milliseconds before the first evaluation and microseconds per evaluation: the fastest of the runs."""
    jobs = timed_jobs(nfe)
    best = {key: [math.inf, math.inf] for key in jobs}
    with torch.inference_mode():
        for _ in range(num_runs):
            for key, parts in jobs.items():
                for i, part in enumerate(parts):
                    start = time.perf_counter()
                    part()
                    best[key][i] = min(best[key][i], time.perf_counter() - start)
    return [
        {"library": k[0], "sampler": k[1], "set_up_ms": 1e3 * a, "us": 1e6 * (b - a) / nfe}
        for k, (a, b) in best.items()
    ]


def table(rows, problem, measure):
    """{(library, sampler): [error at each NFE]}."""
    errors_of = {}
    for row in rows:
        if row["problem"] == problem:
            errors_of.setdefault((row["library"], row["sampler"]), []).append(row[measure])
    return errors_of


def best_of(errors_of, libraries):
    """(error, solver) at each NFE."""
    mine = {solver: values for solver, values in errors_of.items() if solver[0] in libraries}
    return [min(zip(column, mine, strict=True)) for column in zip(*mine.values(), strict=True)]


def summary(rows):
    """One line per problem, measure and NFE: the best of ours and the best of theirs."""
    titles = "problem", "measure", "NFE", "best of ours", "", "best of theirs", "", "theirs / ours"
    lines = ["| " + " | ".join(titles) + f" | theirs / `{DEFAULT}()` |", "| --- " * 9 + "|"]
    wins = 0
    for problem in densities():
        for measure in ("median", "rms"):
            errors_of = table(rows, problem, measure)
            columns = (
                best_of(errors_of, ["scorelight"]),
                best_of(errors_of, PEERS),
                errors_of["scorelight", DEFAULT],
            )
            for nfe, (mine, (_, name)), (theirs, peer), usual in zip(NFES, *columns, strict=True):
                cells = [problem, measure, nfe, f"{mine:.1e}", name, f"{theirs:.1e}", " ".join(peer)]
                cells += [f"{theirs / mine:.2f}", f"{theirs / usual:.2f}"]
                lines.append("| " + " | ".join(map(str, cells)) + " |")
                wins += mine < theirs
    return [
        *lines,
        "",
        f"The best of ours is closer than the best of theirs in {wins} of {len(lines) - 2} lines.",
    ]


def full_tables(rows):
    """Every setting, the best of its library at each NFE in bold."""
    lines = []
    for problem in densities():
        for measure in ("median", "rms"):
            errors_of = table(rows, problem, measure)
            lines += ["", f"## {problem}, {measure} error at NFE"]
            for library in LIBRARIES:
                best = [value for value, _ in best_of(errors_of, [library])]
                lines += ["", f"| {library} | " + " | ".join(map(str, NFES)) + " |"]
                lines.append("| --- |" + " --- |" * len(NFES))
                for (owner, name), values in errors_of.items():
                    if owner == library:
                        cells = (
                            f"**{v:.1e}**" if v == b else f"{v:.1e}"
                            for v, b in zip(values, best, strict=True)
                        )
                        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def report(rows, times):
    lines = ["# Error and overhead of samplers", ""]
    for library in LIBRARIES:
        num = sum(owner == library for owner, _ in SOLVERS)
        lines.append(f"* {library} {importlib.metadata.version(library)}: {num} settings")
    lines += [
        "",
        "The best of them is chosen at each number of evaluations, for all libraries alike. They are the",
        "usual ones, and the best of many combinations tried: 1,162 of theirs and some 500 of ours.",
        "",
    ]
    lines += [*summary(rows), "", "## Overhead", ""]
    lines += ["| | | set-up, ms per run | µs per evaluation |", "| --- | --- | --- | --- |"]
    for row in times:
        lines.append(f"| {row['library']} | {row['sampler']} | {row['set_up_ms']:.1f} | {row['us']:.0f} |")
    return "\n".join([*lines, *full_tables(rows)]) + "\n"


def picture(rows, path):
    matplotlib.use("Agg")
    from matplotlib import pyplot

    styles = {"scorelight": "#0072B2", "diffusers": "#D55E00", "k-diffusion": "#009E73", "azula": "#CC79A7"}
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 8), layout="constrained")
    for column, problem in enumerate(densities()):
        for axis, measure in zip(axes[:, column], ("median", "rms"), strict=True):
            errors_of = table(rows, problem, measure)
            for (library, color), marker in zip(styles.items(), "os^D", strict=True):
                envelope = [value for value, _ in best_of(errors_of, [library])]
                style = {
                    "color": color,
                    "marker": marker,
                    "ms": 5,
                    "lw": 2 if library == "scorelight" else 1.4,
                }
                axis.loglog(NFES, envelope, label=f"{library}, best of its settings", **style)
            usual = errors_of["scorelight", DEFAULT]
            axis.loglog(
                NFES, usual, "--", color=styles["scorelight"], label=f"scorelight, {DEFAULT}()", lw=1.4
            )
            axis.set(title=f"{problem}, {measure}", xlabel="network evaluations", ylabel="error")
            axis.set_xticks(NFES, map(str, NFES))
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main():
    begin = time.perf_counter()
    measured = commit()
    rows = [row for problem in densities() for row in errors(problem, NFES)]
    times = overhead()
    result = {
        "commit": measured,
        "python": sys.version.split()[0],
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy", *PEERS)},
        "seed": SEED,
        "samples": SAMPLES,
        "seconds": round(time.perf_counter() - begin),
        "errors": rows,
        "overhead": times,
    }
    (RESULTS / "samplers.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report(rows, times)
    (RESULTS / "samplers.md").write_text(text)
    picture(rows, RESULTS / "samplers.png")
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    check() if "--check" in sys.argv[1:] else main()
