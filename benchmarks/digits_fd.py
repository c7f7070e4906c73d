"""Fréchet distance of digits by number of network evaluations, for every sampler.

    python benchmarks/digits_fd.py                               # about fifteen minutes on one core
    python benchmarks/digits_fd.py --run runs/digits/vp_epsilon  # of a model that is trained already

Trains `digits/vp_epsilon` as shipped and draws 500 samples of its averaged weights for each sampler and
number of evaluations, from the same unit noise, each sampler with its own defaults unless stated otherwise.

* FD: ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) of the 64 pixels in [−1, 1], samples against the training
  images, in float64. Samples are clamped and rounded to the 17 grey levels that the images have.
* NFE: evaluations of the network, the denoising step included; counted.
* floor: the same of 500 draws from the Gaussian with the moments of the training images, mean of 20: no
  sampler can be distinguished from a perfect one below it. ± over them is the error of every figure.

Not shown: `LangevinDynamics`, which stays at one level of noise.

Writes digits_fd.json, .md and .png beside this file.
"""

import json
import os
import sys
import time

import matplotlib
import torch
from common import CONFIG, RESULTS, commit, digits_denoiser, run_flag
from tqdm import tqdm

from scorelight import (
    DDIM,
    RK45,
    AncestralSampler,
    AnnealedCorrector,
    AnnealedLangevin,
    CountingDenoiser,
    DPMSolverPP,
    EDMSampler,
    Euler,
    EulerMaruyama,
    ExponentialAdams,
    Heun,
    LangevinCorrector,
    LogSNRGrid,
    PredictorCorrector,
    Restart,
    ReverseDiffusion,
    UniPC,
)
from scorelight.data import DigitsDataModule
from scorelight.data.access import examples_of
from scorelight.metrics import frechet_distance
from scorelight.processes.noise_levels import langevin_step

SAMPLES, SEED = 500, 0
NFES = (5, 10, 20, 50, 100)


def half(make, **options):
    """Two evaluations a step."""
    return lambda nfe: make((nfe + 1) // 2, **options)


DETERMINISTIC = {
    "ExponentialAdams": ExponentialAdams,
    "ExponentialAdams, v": lambda nfe: ExponentialAdams(nfe, prediction="v"),
    "DPMSolverPP 2": DPMSolverPP,
    "DPMSolverPP 3": lambda nfe: DPMSolverPP(nfe, order=3),
    "UniPC 2": UniPC,
    "UniPC 3": lambda nfe: UniPC(nfe, order=3),
    "DDIM": DDIM,
    "Euler": Euler,
    "Heun": half(Heun),
    "EDMSampler": half(EDMSampler),
    "RK45": lambda nfe: RK45(10 ** (-nfe / 40), 10 ** (-nfe / 40)),
}
STOCHASTIC = {
    "AncestralSampler": AncestralSampler,
    "AncestralSampler, large": lambda nfe: AncestralSampler(nfe, variance="large"),
    "AncestralSampler, log-SNR": lambda nfe: AncestralSampler(nfe, LogSNRGrid()),
    "DDIM, η = 0.5": lambda nfe: DDIM(nfe, eta=0.5),
    "DPMSolverPP 2, SDE": lambda nfe: DPMSolverPP(nfe, stochastic=True),
    "EDMSampler, churn": half(EDMSampler, s_churn=10.0),
    "EulerMaruyama": EulerMaruyama,
    "EulerMaruyama, log-SNR": lambda nfe: EulerMaruyama(nfe, LogSNRGrid()),
    "ReverseDiffusion": ReverseDiffusion,
    "PredictorCorrector": half(PredictorCorrector, corrector=LangevinCorrector()),
    "PredictorCorrector, annealed": half(
        PredictorCorrector, predictor=ReverseDiffusion(), corrector=AnnealedCorrector()
    ),
    "Restart": lambda nfe: Restart(max(round(nfe / 1.6), 12)),
    "Restart, DDIM, η = 1": lambda nfe: Restart(max(round(nfe / 1.6), 12), sampler=DDIM(eta=1.0)),
}


def annealed(process):
    """Song & Ermon (2020): levels and step by their techniques, five evaluations a level."""

    def make(nfe):
        levels = max(nfe // 5, 2)
        first, last = (
            level.sigma / level.alpha for level in AnnealedLangevin(levels).levels(process)[:: levels - 1]
        )
        step = langevin_step(last, (first / last) ** (1 / (levels - 1)), 5)
        return AnnealedLangevin(levels, step=step)

    return make


def frechet(samples, images):
    x, y = (points.flatten(1).double() for points in (samples, images))
    return frechet_distance(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())


def rounded(x):
    """Grey levels as the images have them."""
    return ((x.double().clamp(-1, 1) * 8).round() / 8).flatten(1)


def floor(images, number=20):
    """Mean and standard deviation of the distance of draws from their own Gaussian."""
    generator = torch.Generator().manual_seed(SEED)
    values, vectors = torch.linalg.eigh(images.T.cov())
    root = vectors * values.clamp(min=0).sqrt()
    draws = (
        torch.randn(SAMPLES, images.shape[1], dtype=torch.float64, generator=generator) for _ in range(number)
    )
    distances = torch.tensor([frechet(images.mean(0) + z @ root.T, images) for z in draws])
    return distances.mean().item(), distances.std().item()


def jobs(process):
    for name, make in DETERMINISTIC.items():
        yield from (("deterministic", name, nfe, make) for nfe in NFES)
    for name, make in (STOCHASTIC | {"AnnealedLangevin": annealed(process)}).items():
        yield from (("stochastic", name, nfe, make) for nfe in NFES)


def measure(denoiser, images):
    noise = torch.randn(SAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(SEED))
    todo, rows = list(jobs(denoiser.process)), []
    with tqdm(total=sum(nfe for _, _, nfe, _ in todo), unit="evaluation") as bar, torch.inference_mode():
        for kind, name, nfe, make in todo:
            counted = CountingDenoiser(denoiser)
            x = make(nfe)(counted, noise, generator=torch.Generator().manual_seed(SEED + 1))
            distance = frechet(rounded(x), images) if x.isfinite().all() else float("nan")
            row = {"kind": kind, "sampler": name, "asked": nfe, "nfe": counted.num_evaluations}
            rows.append(row | {"fd": distance})
            bar.update(nfe)
            bar.set_postfix_str(f"{name} {counted.num_evaluations}: {distance:.2f}")
    return rows


def report(rows, floor, held_out):
    lines = [
        f"Fréchet distance of {SAMPLES} samples of `{CONFIG}` (averaged weights) to the training images, by "
        f"network evaluations. Floor {floor[0]:.2f} ± {floor[1]:.2f}; the validation images: {held_out:.2f}.",
        "",
        "| sampler | " + " | ".join(map(str, NFES)) + " |",
        "| --- |" + " --- |" * len(NFES),
    ]
    for name in dict.fromkeys(r["sampler"] for r in rows):
        cells = {r["asked"]: r for r in rows if r["sampler"] == name}
        texts = (
            ""
            if n not in cells
            else f"{cells[n]['fd']:.3g}"
            + (f" (at {cells[n]['nfe']})" if abs(cells[n]["nfe"] - n) > 1 else "")
            for n in NFES
        )
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def picture(rows, floor, path):
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained", sharey=True)
    for axis, kind in zip(axes, ("deterministic", "stochastic"), strict=True):
        names = list(dict.fromkeys(r["sampler"] for r in rows if r["kind"] == kind))
        for i, name in enumerate(names):
            points = [r for r in rows if r["sampler"] == name]
            style = dict(color=f"C{i % 10}", ls="-" if i < 10 else "--", lw=2.5 if i == 0 else 1.2)
            axis.loglog([r["nfe"] for r in points], [r["fd"] for r in points], "o", ms=3, label=name, **style)
        axis.axhline(floor[0], color="black", lw=0.8, ls=":", label="no distance at all")
        axis.set(title=kind, xlabel="network evaluations", ylim=(0.8 * floor[0], 60))
        axis.set_xticks(NFES, map(str, NFES))
        axis.minorticks_off()
        axis.legend(fontsize=8)
    axes[0].set_ylabel("Fréchet distance of the pixels")
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    begin = time.perf_counter()
    denoiser = digits_denoiser(run_flag())
    images, validation = (
        examples_of(DigitsDataModule(), split).all().x0.double().flatten(1) for split in ("train", "val")
    )
    rows = measure(denoiser, images)
    lowest, held_out = floor(images), frechet(validation, images)
    result = {
        "commit": commit(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "config": CONFIG,
        "seed": SEED,
        "samples": SAMPLES,
        "seconds": round(time.perf_counter() - begin),
        "floor": lowest,
        "validation images": held_out,
        "rows": rows,
    }
    (RESULTS / "digits_fd.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report(rows, lowest, held_out)
    (RESULTS / "digits_fd.md").write_text(text)
    picture(rows, lowest, RESULTS / "digits_fd.png")
    print(text)
