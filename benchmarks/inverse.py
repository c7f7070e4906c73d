"""How far methods for inverse problems are from the posterior, where the posterior is known.

    python benchmarks/inverse.py                     # continues where it was interrupted
    python benchmarks/inverse.py --only "two"        # some of it; one process a core may run side by side

All draw of p(x0 | y), y = A x0 + σ_y n, by the exact denoiser of p(x0) and the same process, VPSDE; ours
also under other processes, in a table of their own.

* gaussian: 4 correlated dimensions, 2 measured. The Wasserstein distance W₂ of the method's law to the
  posterior, relative to the posterior's own standard deviation. A method that is affine in its noise has a
  Gaussian law, whose mean and covariance follow from one run for each number that it draws: no sampling
  error. Of the others 20,000 samples are drawn, and W₂ is that of their mean and covariance.
* two modes: weight of a mode, and the sliced Wasserstein distance of 4,000 samples to 4,000 exact ones,
  divided by that of two exact sets; mean of five runs.
* 25 modes: the problem of the particle papers (Cardoso et al., 2024): means (8i, 8j, 8i, ...), i, j = −2..2,
  in 8 dimensions, unit covariances; weights, singular values of A and σ_y are random. Sliced Wasserstein
  distance of 1,000 samples, divided as above, for ten instances each of 1, 2 and 4 measurements.
* ranks: 400 measurements of draws x* of p(x0); the rank of x*'s first coordinate (with 25 modes: of a random
  projection) among 19 samples each is uniform for the posterior. χ² test of 20 cells, and the share of x*
  between the second and the second-largest sample, 0.8 for the posterior.
* digits: `digits/quick` without classes, with patches of 2×2 pixels (a third of the time), three minutes of
  training. Of 64 of its own samples the means of 4×4 pixels are measured, σ_y = 0.1. The posterior is the
  model's own, by `ExactPosterior` with 500 iterations: two sets of 19 samples for each measurement. Of each
  method as many: their sliced Wasserstein distance to the first set over that of the two sets, the distance
  of the means in units of the posterior's deviation, the ratio of the deviations, and ranks of a random
  projection as above.

The results are inverse.json with a row for each piece of work, .npz with the samples of the reference, and
the .md that is made of them.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import itertools
import math
import statistics
import time
from typing import NamedTuple

import torch
from common import RESULTS, Pieces, commit, digits_denoiser
from inverse_peers import AZULA, DEEPINV, PROCESS, STEPS, D
from scipy import stats

from scorelight import (
    DDIM,
    AnalyticDenoiser,
    CountingDenoiser,
    ExponentialAdams,
    GaussianMixture,
    KarrasVESDE,
    RectifiedFlow,
    SubVPSDE,
)
from scorelight.cli.tuning import keep_freed_memory
from scorelight.denoisers.base import DelegatingDenoiser
from scorelight.errors import ConfigurationError, SamplingError
from scorelight.inverse import (
    DDRM,
    DPS,
    MMPS,
    TDS,
    TMPD,
    DiffPIR,
    Downsample,
    ExactPosterior,
    MatrixOperator,
    Measurement,
    PiGDM,
    RePaint,
    Replacement,
    mixture_posterior,
)
from scorelight.metrics.wasserstein import sliced_wasserstein
from scorelight.rng import PhiloxGenerator, randn_like

FILE = RESULTS / "inverse.json"
PIECES = Pieces(
    FILE, versions={name: importlib.metadata.version(name) for name in ("torch", "azula", "deepinv")}
)
OTHERS = {"VE": KarrasVESDE(), "sub-VP": SubVPSDE(), "flow": RectifiedFlow()}
MEASURED, INSTANCES = (1, 2, 4), 10


# Methods


def ours(make):
    """Samples of ours: of (denoiser, measurement, measurements of shape (B, ...), seed)."""

    def draw(denoiser, measurement, y, seed):
        generator = PhiloxGenerator(seed, range(len(y)))
        noise = randn_like(torch.empty(len(y), *measurement.operator.shape, dtype=D), generator)
        return make(measurement)(denoiser, noise, generator=generator, measurement=y)

    return draw


def stepping():
    return DDIM(STEPS, eta=1.0)


OURS = {
    "Replacement": lambda m: Replacement(m, STEPS),
    "RePaint": lambda m: RePaint(m, STEPS),
    "DPS": lambda m: DPS(m, STEPS),
    "DPS, step 0.1": lambda m: DPS(m, STEPS, step=0.1),
    "PiGDM": lambda m: PiGDM(m, stepping()),
    "TMPD": lambda m: TMPD(m, stepping()),
    "MMPS, 1 iteration": lambda m: MMPS(m, stepping()),
    "MMPS, 5 iterations": lambda m: MMPS(m, stepping(), 5),
    "DiffPIR": lambda m: DiffPIR(m, STEPS),
    "DDRM": lambda m: DDRM(m, STEPS),
    "TDS, 16 particles": lambda m: TDS(m, STEPS),
    "ExactPosterior": ExactPosterior,
    "ExactPosterior, 400 iterations": lambda m: ExactPosterior(m, num_iterations=400, warmup=200),
}
AFFINE = ("Replacement", "RePaint", "PiGDM", "TMPD", "MMPS, 5 iterations", "DiffPIR", "DDRM")
WAYS = (
    {name: ours(make) for name, make in OURS.items()}
    | {f"azula {name}": way for name, way in AZULA.items()}
    | {f"deepinv {name}": way for name, way in DEEPINV.items()}
)


# Problems


class Problem(NamedTuple):
    density: GaussianMixture
    measurement: Measurement
    y: torch.Tensor
    """One measurement, shape (d_y,)."""

    def denoiser(self, process=PROCESS):
        return AnalyticDenoiser(self.density, process)

    def posterior(self):
        return mixture_posterior(self.density, self.measurement, self.y)


def seeded(*seed):
    return torch.Generator().manual_seed(sum(s * 1000**i for i, s in enumerate(seed)))


def gaussian_problem():
    g = seeded(1)
    factor = torch.randn(4, 4, dtype=D, generator=g)
    covariance = factor @ factor.mT / 4 + 0.1 * torch.eye(4, dtype=D)
    density = GaussianMixture(torch.ones(1), torch.randn(1, 4, dtype=D, generator=g), covariance[None])
    matrix = torch.randn(2, 4, dtype=D, generator=g)
    measurement = Measurement(MatrixOperator((4,), matrix), 0.3)
    return Problem(density, measurement, measurement.observe(density.sample(1, g), g)[0])


def two_modes():
    means = torch.tensor([[1.5, 0.5], [-1.5, -0.5]], dtype=D)
    density = GaussianMixture(torch.tensor([0.3, 0.7]), means, torch.tensor([0.0625, 0.0625]))
    measurement = Measurement(MatrixOperator((2,), torch.tensor([[0.5, 1.0]], dtype=D)), 1.0)
    return Problem(density, measurement, torch.tensor([0.5], dtype=D))


def many_modes(num_measured, instance, dim=8):
    """Weights are squared normal numbers, singular values are uniform, and σ_y is below the largest."""
    g = seeded(25, num_measured, instance)
    pairs = torch.tensor(list(itertools.product(range(-2, 3), repeat=2)), dtype=D)
    weights = torch.randn(25, dtype=D, generator=g).square()
    density = GaussianMixture(weights / weights.sum(), 8 * pairs.repeat(1, dim // 2), torch.ones(25, dtype=D))
    u, _, v = torch.linalg.svd(torch.randn(num_measured, dim, dtype=D, generator=g), full_matrices=False)
    s = torch.rand(num_measured, dtype=D, generator=g).sort(descending=True).values
    sigma = torch.rand((), dtype=D, generator=g) * s[0]
    measurement = Measurement(MatrixOperator((dim,), (u * s) @ v), sigma.item())
    return Problem(density, measurement, measurement.observe(density.sample(1, g), g)[0])


# Measures


def moments_distance(mean, covariance, posterior):
    """W₂ of two Gaussians (Dowson & Landau, 1982, eq. 16), relative to the posterior's deviation."""
    basis = posterior.eigenvectors[0]
    exact = basis * posterior.eigenvalues[0] @ basis.mT
    values, vectors = torch.linalg.eigh(exact)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    cross = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum()
    square = (mean - posterior.means[0]).square().sum() + covariance.trace() + exact.trace() - 2 * cross
    return (square.clamp(min=0) / exact.trace()).sqrt().item()


def law(make, problem, process):
    """Mean and covariance of a method that is affine in its noise, and the largest error of that assumption.

    Of the runs of a batch, one has no noise at all, one has noise in all places, and each of the others has a
    1 in one place.
    """
    dim = problem.density.means.shape[1]
    counted = [1]

    def count(like):
        counted[0] += 1
        return torch.zeros_like(like)

    denoiser, method = problem.denoiser(process), make(problem.measurement)
    start = torch.zeros(1, dim, dtype=D)
    method(denoiser, start, noise_source=count, measurement=problem.y[None])
    total = counted[0] * dim
    everywhere = torch.randn(counted[0], dim, dtype=D, generator=seeded(3))
    inputs = torch.cat([torch.zeros(1, total, dtype=D), everywhere.view(1, total), torch.eye(total, dtype=D)])
    parts = iter(inputs.view(-1, counted[0], dim).unbind(1))
    ends = method(
        denoiser,
        next(parts),
        noise_source=lambda like: next(parts),
        measurement=problem.y.expand(len(inputs), -1),
    )
    mean, columns = ends[0], ends[2:] - ends[0]
    error = (ends[1] - mean - inputs[1] @ columns).abs().max().item()
    return mean, columns.mT @ columns, error


def gaussian(name, process=PROCESS):
    problem = gaussian_problem()
    posterior = problem.posterior()
    if name in AFFINE:
        mean, covariance, error = law(OURS[name], problem, process)
        if error < 1e-6:
            return {"distance": moments_distance(mean, covariance, posterior), "affine": True}
    x = WAYS[name](problem.denoiser(process), problem.measurement, problem.y.expand(20_000, -1), 0)
    return {"distance": moments_distance(x.mean(0), x.T.cov(), posterior), "affine": False}


def over_floor(sets, posterior, pairs=10):
    """Mean sliced Wasserstein distance of sets to exact ones of their size, over that of two exact ones."""
    exact = [posterior.sample(len(sets[0]), seeded(5, i)) for i in range(2 * pairs)]
    distance = functools.partial(sliced_wasserstein, num_projections=200)
    floor = statistics.mean(distance(exact[2 * i], exact[2 * i + 1]) for i in range(pairs))
    return statistics.mean(distance(x, e) for x in sets for e in exact[:5]) / floor


def two(name, process=PROCESS, repeats=5):
    problem = two_modes()
    counting = CountingDenoiser(problem.denoiser(process))
    begin = time.process_time()
    y = problem.y.expand(4000, -1)
    sets = [WAYS[name](counting, problem.measurement, y, seed) for seed in range(repeats)]
    seconds = time.process_time() - begin
    return {
        "weight": torch.cat(sets)[:, 0].gt(0).double().mean().item(),
        "over_floor": over_floor(sets, problem.posterior()),
        "evaluations": counting.num_evaluations // repeats,
        "milliseconds": seconds / repeats / 4,
    }


def rank_test(x, truth, direction):
    """Of samples of shape (N, S, d) and N truths: the p-value of the ranks, and coverage."""
    num_draws = x.shape[1]
    rank = (x @ direction < (truth @ direction)[:, None]).sum(1)
    counts = torch.bincount(rank, minlength=num_draws + 1)
    inside = ((rank > 1) & (rank < num_draws - 1)).double().mean().item()
    return {"p": stats.chisquare(counts.numpy()).pvalue, "covered": 100 * inside}


def ranks(name, problem, direction, num=400):
    g = seeded(7)
    truth = problem.density.sample(num, g)
    y = problem.measurement.observe(truth, g).repeat_interleave(DRAWS, 0)
    x = WAYS[name](problem.denoiser(), problem.measurement, y, 1)
    return rank_test(x.view(num, DRAWS, -1), truth, direction)


def ranks_of_two(name):
    return ranks(name, two_modes(), torch.tensor([1.0, 0.0], dtype=D))


def ranks_of_many(name):
    return ranks(name, many_modes(2, 0), torch.randn(8, dtype=D, generator=seeded(8)))


def many(name, num_measured, instance):
    problem = many_modes(num_measured, instance)
    begin = time.process_time()
    x = WAYS[name](problem.denoiser(), problem.measurement, problem.y.expand(1000, -1), instance)
    seconds = time.process_time() - begin
    return {"over_floor": over_floor([x], problem.posterior()), "seconds": seconds}


class Flat(DelegatingDenoiser):
    """A network of float32 images as a denoiser of float64 vectors."""

    def predict(self, x_t, level, **cond):
        images = x_t.float().unflatten(1, (1, 8, 8))
        pred = self.denoiser.predict(images, level, **cond)
        return dataclasses.replace(pred, x_t=x_t, output=pred.output.flatten(1).to(x_t.dtype))


CONFIG, FLAGS = (
    "digits/quick",
    (
        "--model.network.num_classes=null",
        "--model.condition_dropout=0",
        "--model.network.patch_size=2",
        "--trainer.max_time=00:00:03:00",
    ),
)
TRUTHS, DRAWS = 64, 19
REFERENCES = {"first reference": 101, "second reference": 102}


@functools.cache
def digits_problem(run):
    """The denoiser, its own samples, how they are measured, and measurements of them."""
    denoiser = Flat(digits_denoiser(run, CONFIG, FLAGS))
    measurement = Measurement(MatrixOperator((64,), Downsample((1, 8, 8), 4).matrix()), 0.1)
    with torch.no_grad():
        truth = ExponentialAdams()(denoiser, torch.randn(TRUTHS, 64, dtype=D, generator=seeded(9)))
    return denoiser, truth, measurement, measurement.observe(truth, seeded(10))


def digits_samples(way, run, seed):
    denoiser, _, measurement, y = digits_problem(run)
    with torch.no_grad():
        x = way(denoiser, measurement, y.repeat_interleave(DRAWS, 0), seed)
    return x.view(TRUTHS, DRAWS, 64)


def digits_reference(name, run):
    """Samples of the exact posterior, and how well the chains have mixed."""
    made = []

    def make(measurement):
        made.append(ExactPosterior(measurement, num_iterations=500, warmup=150))
        return made[0]

    x = digits_samples(ours(make), run, REFERENCES[name])
    acceptance, r_hat, size = made[0].sampler.diagnose()
    return {"acceptance": acceptance, "r_hat": r_hat, "effective_size": size}, x.half().numpy()


def digits(name, run):
    first, second = (torch.tensor(PIECES.arrays()[f"digits {key}"]).double() for key in REFERENCES)
    begin = time.process_time()
    x = digits_samples(WAYS[name], run, 1)
    seconds = time.process_time() - begin

    def distance(others):
        return statistics.mean(sliced_wasserstein(a, b, 200) for a, b in zip(first, others, strict=True))

    exact = torch.cat([first, second], 1)
    spread = exact.std(1).square().sum(1).sqrt()
    _, truth, _, _ = digits_problem(run)
    return {
        "over_floor": distance(x) / distance(second),
        "mean": ((x.mean(1) - exact.mean(1)).norm(dim=1) / spread).mean().item(),
        "deviation": (x.std(1).square().sum(1).sqrt() / spread).mean().item(),
        "seconds": seconds,
    } | rank_test(x, truth, torch.randn(64, dtype=D, generator=seeded(11)))


def work(run):
    """What there is to do: a function and its arguments by name."""
    jobs = {f"digits {name}": (digits_reference, name, run) for name in REFERENCES}
    for name in WAYS:
        jobs[f"gaussian {name}"] = gaussian, name
        jobs[f"two {name}"] = two, name
        jobs[f"ranks two {name}"] = ranks_of_two, name
        jobs[f"ranks many {name}"] = ranks_of_many, name
        for num_measured, instance in itertools.product(MEASURED, range(INSTANCES)):
            jobs[f"many {num_measured} {instance} {name}"] = many, name, num_measured, instance
        jobs[f"digits {name}"] = digits, name, run
    for name, (title, process) in itertools.product(OURS, OTHERS.items()):
        jobs[f"gaussian {title} {name}"] = gaussian, name, process
        jobs[f"two {title} {name}"] = two, name, process
    return jobs


def do(function, *arguments):
    """A row and perhaps an array; of a method that fails, by samples that are not finite, its message."""
    begin = time.process_time()
    try:
        found = function(*arguments)
    except (SamplingError, ConfigurationError) as error:
        found = {"error": str(error).splitlines()[0]}
    row, array = found if isinstance(found, tuple) else (found, None)
    return row | {"cpu_seconds": round(time.process_time() - begin, 1), "commit": commit()}, array


# Report


def number(row, name, digits=3):
    if row is None:
        return "—"
    if "error" in row or not math.isfinite(row[name]):
        return "fails"
    return f"{row[name]:.{digits}g}"


def many_cell(pieces, num_measured, name):
    """Median and worst of the instances."""
    rows = [pieces.get(f"many {num_measured} {i} {name}") for i in range(INSTANCES)]
    if not all(rows):
        return "—"
    found = [row.get("over_floor", math.nan) for row in rows]
    values = sorted(math.inf if math.isnan(value) else value for value in found)
    return ", ".join("∞" if math.isinf(v) else f"{v:.2g}" for v in (statistics.median(values), values[-1]))


def report(pieces):
    weight = two_modes().posterior().weights[0].item()
    titles = [
        "method",
        "Gaussian: W₂/deviation",
        "two modes: weight",
        "SW/floor",
        "rank test p",
        "covered %",
        "evaluations",
        "CPU ms a sample",
        *(f"25 modes, {m} measured: SW/floor, median, worst" for m in MEASURED),
        "rank test p",
        "digits: SW/floor",
        "error of the mean/deviation",
        "deviation/exact",
        "rank test p",
    ]
    lines = [
        "How far samples are from the posterior, by the exact denoiser; what is measured, see inverse.py. An",
        f"exact method has W₂ 0, the weight {weight:.3f} ± 0.004, distances of 1 ± 0.3 times the floor, p",
        "uniform from 0 to 1, and 80 % covered ± 2. Evaluations of the network are those of one sample; for",
        "TDS they are those of a particle.",
        "",
        "| " + " | ".join(titles) + " |",
        "| --- |" + " --- |" * (len(titles) - 1),
    ]
    for name in WAYS:
        two_row, rank_row = pieces.get(f"two {name}"), pieces.get(f"ranks two {name}")
        cells = [
            number(pieces.get(f"gaussian {name}"), "distance", 2),
            number(two_row, "weight"),
            number(two_row, "over_floor", 2),
            number(rank_row, "p", 2),
            number(rank_row, "covered", 2),
            number(two_row, "evaluations", 5),
            number(two_row, "milliseconds", 2),
            *(many_cell(pieces, m, name) for m in MEASURED),
            number(pieces.get(f"ranks many {name}"), "p", 2),
            *(
                number(pieces.get(f"digits {name}"), key, 2)
                for key in ("over_floor", "mean", "deviation", "p")
            ),
        ]
        lines.append(f"| {label(name)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *of_processes(pieces), ""])


def label(name):
    return f"`{name}`" if name in OURS else name


def of_processes(pieces):
    """The first two problems under each process."""
    titles = [f"{problem}, {process}" for problem in ("Gaussian", "two modes") for process in ("VP", *OTHERS)]
    lines = [
        "",
        "W₂/deviation of the Gaussian problem and SW/floor of the two modes, by the process:",
        "",
        f"| method | {' | '.join(titles)} |",
        "| --- |" + " --- |" * len(titles),
    ]
    for name in OURS:
        cells = []
        for problem, key in (("gaussian", "distance"), ("two", "over_floor")):
            rows = [pieces.get(f"{problem} {name}")]
            rows += [pieces.get(f"{problem} {process} {name}") for process in OTHERS]
            cells += [number(row, key, 2) for row in rows]
        lines.append(f"| {label(name)} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="pieces whose name contains this")
    parser.add_argument("--run", help="folder of the trained network of digits (default: train it)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for key, job in work(arguments.run).items():
        if arguments.only in key and key not in PIECES.read():
            row, array = do(*job)
            PIECES.add(key, row, array)
            print(key, row, flush=True)
    text = report(PIECES.read())
    FILE.with_suffix(".md").write_text(text)
    print(text)
