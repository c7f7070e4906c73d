"""What a sampler makes of its network evaluations: ours and those of diffusers, on exact denoisers.

    python benchmarks/samplers.py     # about one minute on one core

* error: distance of each sample from the end of the probability flow from the same noise, by RK4 with 1,500
  steps in log σ; median and root mean square over 1,000 samples. DDPM's table of 1,000 levels (linear), data
  of 8 Gaussians: on the unit circle, standard deviation 0.1 (2-D), and at random centres, 0.2 (16-D). All in
  float64 (diffusers too). The last evaluation is the posterior mean at the lowest level that is used, here
  E[x0 | x] at level 1 for the reference; grids that stop above it are charged for that. NFE are counted, the
  denoising step included.
* overhead: of a run of 50 evaluations with a network that takes 4 µs, on 16 × 784 numbers in float32: what
  the grid costs before the first, and the rest divided by 50, network included; the fastest of 60 runs, in
  turn. Ours calls the network through `NetworkDenoiser`, for diffusers it is called directly.

Writes samplers.json, .md and .png beside this file.
"""

import functools
import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import matplotlib
import torch

from scorelight import (
    DDIM,
    AnalyticDenoiser,
    CountedDenoiser,
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

warnings.simplefilter("ignore")
import diffusers  # noqa: E402

HERE = Path(__file__).parent
D, SEED, SAMPLES = torch.float64, 0, 1000
NFES = (5, 10, 20, 50, 100)
PROCESS = DDPMProcess()
TRAILING = {
    "t": TrailingGrid(UniformGrid()),
    "√t": TrailingGrid(QuadraticGrid()),
    "mixed": TrailingGrid(MixedGrid()),
    "mixed 0.75": TrailingGrid(MixedGrid(0.75)),
}


def adams(grid=None, **options):
    return lambda n: ExponentialAdams(n, grid, **options)


OURS = {
    "DDIM": DDIM,
    "Heun": lambda n: Heun((n + 1) // 2),
    "EDMSampler": lambda n: EDMSampler((n + 1) // 2),
    "DPMSolverPP 2": DPMSolverPP,
    "DPMSolverPP 3": lambda n: DPMSolverPP(n, order=3),
    "UniPC 2": UniPC,
    "UniPC 3": lambda n: UniPC(n, order=3),
    "UniPC 2, trailing √t": lambda n: UniPC(n, TRAILING["√t"]),
    "ExponentialAdams 2": adams(order=2),
    "ExponentialAdams": ExponentialAdams,
    "ExponentialAdams 4": adams(order=4),
    "ExponentialAdams 4, √t": adams(QuadraticGrid(), order=4),
    "ExponentialAdams 4, log-SNR": adams(LogSNRGrid(), order=4),
    "ExponentialAdams, mixed 0.25": adams(MixedGrid(0.25)),
    "ExponentialAdams 2, trailing t": adams(TRAILING["t"], order=2),
    "ExponentialAdams 2, trailing mixed 0.75": adams(TRAILING["mixed 0.75"], order=2),
    "ExponentialAdams, trailing mixed, x0": adams(TRAILING["mixed"], data_prediction=True),
    "ExponentialAdams, trailing √t, x0": adams(TRAILING["√t"], data_prediction=True),
}
DPM, UNIPC, DEIS = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"
THEIRS = {
    "DDIM": ("DDIMScheduler", dict(clip_sample=False)),
    "DDIM trailing": ("DDIMScheduler", dict(clip_sample=False, timestep_spacing="trailing")),
    "Euler karras": ("EulerDiscreteScheduler", dict(use_karras_sigmas=True)),
    "Heun karras": ("HeunDiscreteScheduler", dict(use_karras_sigmas=True)),
    "DPM-Solver++ 2M": (DPM, dict()),
    "DPM-Solver++ 2M karras": (DPM, dict(use_karras_sigmas=True)),
    "DPM-Solver++ 2M lu": (DPM, dict(use_lu_lambdas=True)),
    "DPM-Solver++ 3M lu": (DPM, dict(solver_order=3, use_lu_lambdas=True)),
    "UniPC 2": (UNIPC, dict()),
    "UniPC 2 exponential": (UNIPC, dict(use_exponential_sigmas=True)),
    "UniPC 3 exponential": (UNIPC, dict(solver_order=3, use_exponential_sigmas=True)),
    "UniPC 3": (UNIPC, dict(solver_order=3)),
    "DEIS 2 exponential": (DEIS, dict(use_exponential_sigmas=True)),
    "DEIS 3 exponential": (DEIS, dict(solver_order=3, use_exponential_sigmas=True)),
}
TIMED = {
    "scorelight": ("DDIM", "DPMSolverPP 2", "UniPC 2", "ExponentialAdams", "EDMSampler"),
    "diffusers": ("DDIM", "DPM-Solver++ 2M", "UniPC 2", "DEIS 2 exponential", "Euler karras"),
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
    first, last = PROCESS.levels(torch.tensor([PROCESS.t_max, PROCESS.t_min], dtype=D))
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


def scheduler(name, options):
    kind, config = THEIRS[name]
    return getattr(diffusers, kind)(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, **config, **options
    )


def their_sample(made, num_steps, noise, epsilon):
    """Their loop; `epsilon` is called with the state and with σ/α as the scheduler has it."""
    made.set_timesteps(num_steps)
    x, sigmas = noise * made.init_noise_sigma, getattr(made, "sigmas", None)
    ratio = ((1 - made.alphas_cumprod) / made.alphas_cumprod).sqrt()
    for i, t in enumerate(made.timesteps):
        sigma = ratio[t] if sigmas is None else sigmas[i]
        x = made.step(epsilon(made.scale_model_input(x, t), sigma), t, x).prev_sample
    return x


class Exact:
    """ε̂ of a denoiser at a level given by σ/α, evaluations counted."""

    def __init__(self, denoiser):
        self.denoiser, self.num_evaluations = denoiser, 0

    def __call__(self, x, sigma):
        self.num_evaluations += 1
        alpha = 1 / math.sqrt(1 + float(sigma) ** 2)
        level = NoiseLevel(math.nan, alpha, float(sigma) * alpha, math.nan, math.nan)
        return self.denoiser.predict(x, level).epsilon


def runs(denoiser, noise):
    """(library, sampler, NFE, samples) of everything; diffusers in float64."""
    for name, make in OURS.items():
        for nfe in NFES:
            counted = CountedDenoiser(denoiser)
            yield "scorelight", name, make(nfe)(counted, noise), nfe, counted.num_evaluations
    for name in THEIRS:
        for nfe in NFES:
            exact = Exact(denoiser)
            steps = (nfe + 1) // 2 if "Heun" in name else nfe
            with mock.patch.object(torch, "float32", D):
                found = their_sample(scheduler(name, {}), steps, noise, exact)
            yield "diffusers", name, found, nfe, exact.num_evaluations


def errors():
    rows = []
    for problem, density in densities().items():
        denoiser = AnalyticDenoiser(density, PROCESS)
        noise = torch.randn(SAMPLES, *density.shape, dtype=D, generator=torch.Generator().manual_seed(SEED))
        exact = reference(density, noise)
        for library, name, found, nfe, evaluations in runs(denoiser, noise):
            assert evaluations <= nfe, (library, name, nfe, evaluations)
            distance = (found - exact).norm(dim=1)
            row = {"problem": problem, "library": library, "sampler": name, "nfe": nfe}
            row["evaluations"] = evaluations
            row |= {"median": distance.median().item(), "rms": distance.square().mean().sqrt().item()}
            rows.append(row)
            print(problem, library, name, nfe, f"{row['median']:.2e} {row['rms']:.2e}", flush=True)
    return rows


class Trivial(torch.nn.Module):
    def forward(self, x, noise_label):
        return 0.5 * x


def overhead(num_runs=60, nfe=50):
    """Milliseconds before the first evaluation and microseconds per evaluation: the fastest of the runs."""
    noise = torch.randn(16, 784, generator=torch.Generator().manual_seed(SEED))
    network = Trivial()
    denoiser = NetworkDenoiser(network, PROCESS, Epsilon())
    jobs = {}
    for name in TIMED["scorelight"]:
        ours = OURS[name](nfe)
        set_up = functools.partial(lambda s: PROCESS.levels(s.grid(PROCESS, s.num_steps)), ours)
        jobs["scorelight", name] = set_up, functools.partial(ours, denoiser, noise)
    for name in TIMED["diffusers"]:
        made = scheduler(name, {})
        run = functools.partial(their_sample, made, nfe, noise, network)
        jobs["diffusers", name] = functools.partial(made.set_timesteps, nfe), run
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


def cell(value, best):
    text = f"{value:.1e}"
    return f"**{text}**" if value == best else text


def table(rows, problem, measure):
    """{(library, sampler): [error at each NFE]}."""
    found = {}
    for row in rows:
        if row["problem"] == problem:
            found.setdefault((row["library"], row["sampler"]), []).append(row[measure])
    return found


def best_of(found, library):
    return [min(column) for column in zip(*(v for k, v in found.items() if k[0] == library), strict=True)]


def report(rows, times):
    lines = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        for measure in ("median", "rms"):
            found = table(rows, problem, measure)
            best = {library: best_of(found, library) for library in ("scorelight", "diffusers")}
            lines += [f"{problem}, {measure} error at NFE:", ""]
            lines += ["| | | " + " | ".join(map(str, NFES)) + " |", "| --- | --- |" + " --- |" * len(NFES)]
            for (library, name), values in found.items():
                cells = map(cell, values, best[library])
                lines.append(f"| {library} | {name} | " + " | ".join(cells) + " |")
            default = found["scorelight", "ExponentialAdams"]
            for name, ours in (("best of ours", best["scorelight"]), ("`ExponentialAdams()`", default)):
                ratios = [f"{t / o:.2f}" for o, t in zip(ours, best["diffusers"], strict=True)]
                lines.append(f"| best of theirs / {name} | | " + " | ".join(ratios) + " |")
            lines.append("")
    lines += ["Overhead:", "", "| | | set-up, ms per run | µs per evaluation |", "| --- | --- | --- | --- |"]
    for row in times:
        lines.append(f"| {row['library']} | {row['sampler']} | {row['set_up_ms']:.1f} | {row['us']:.0f} |")
    return "\n".join(lines) + "\n"


def picture(rows, path):
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {
        ("scorelight", "DDIM"): "C0:",
        ("scorelight", "DPMSolverPP 2"): "C0--",
        ("scorelight", "UniPC 3"): "C0-.",
        ("scorelight", "ExponentialAdams, trailing mixed, x0"): "C3-",
        ("scorelight", "ExponentialAdams"): "C0-",
        ("diffusers", "DDIM"): "C1:",
        ("diffusers", "DPM-Solver++ 2M"): "C2--",
        ("diffusers", "DPM-Solver++ 3M lu"): "C1--",
        ("diffusers", "UniPC 2"): "C2-.",
        ("diffusers", "UniPC 3 exponential"): "C1-.",
    }
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained", sharex=True)
    for column, problem in enumerate(("2-D", "16-D")):
        for axis, measure in zip(axes[:, column], ("median", "rms"), strict=True):
            for (library, name), style in shown.items():
                found = [
                    r for r in rows if (r["problem"], r["library"], r["sampler"]) == (problem, library, name)
                ]
                label = f"{library} {name}"
                axis.loglog(
                    [r["nfe"] for r in found],
                    [r[measure] for r in found],
                    style,
                    label=label,
                    marker="o",
                    ms=3,
                )
            axis.set(title=f"{problem}, {measure}", xlabel="network evaluations", ylabel="error")
            axis.set_xticks(NFES, map(str, NFES))
            axis.minorticks_off()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    begin = time.perf_counter()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE
    ).stdout.strip()
    rows, times = errors(), overhead()
    result = {
        "commit": commit,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "seed": SEED,
        "samples": SAMPLES,
        "seconds": round(time.perf_counter() - begin),
        "errors": rows,
        "overhead": times,
    }
    (HERE / "samplers.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report(rows, times)
    (HERE / "samplers.md").write_text(text)
    picture(rows, HERE / "samplers.png")
    print(text)
