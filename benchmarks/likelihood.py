"""What bits per dimension cost: ours against the scheme of score_sde, on U-Nets trained on MNIST.

    python benchmarks/likelihood.py --root DATA     # about half an hour on one core, half of it training

The scheme of score_sde (Song et al., 2021; written anew from its description): the batch as one state
in NumPy, SciPy's RK45 in t with rtol = atol, and the network called twice for each evaluation, once for the
drift and once for its divergence. Ours: `log_likelihood`. Both get the same network, t_min = 1e-5, the same
dequantised test images and the same random signs for the divergence. Ours goes by tolerances, or in equal
steps of log σ/α. Two networks: `UNet`, which is given the noise level smoothly, and DDPM++ (Song et al.,
2021) with the sines and cosines of Ho et al. (2020), in which the flow is rough.

* error: of each image's bits/dim against ours at 1e-6; root mean square over the images, and in the mean.
* Not every number of steps is as good as those beside it: of 48, each is two periods of the fastest sine that
  DDPM++ has of log σ/α, and the errors add up.
* seconds: the fastest of the repeats, all schemes in turn. Counted are calls of the network with a batch: of
  the scheme with SciPy, twice the evaluations of its integrator.

Writes likelihood.json, .md and .png beside this file.
"""

import argparse
import itertools
import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import scipy
import torch
from common import RESULTS, commit
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from scipy.integrate import solve_ivp
from torchvision.datasets import MNIST

from scorelight import (
    DDIM,
    VPSDE,
    CountingDenoiser,
    Epsilon,
    EpsilonPrediction,
    NCSNpp,
    ScoreModule,
    UNet,
    log_likelihood,
)
from scorelight.data import ArrayDataModule, Arrays
from scorelight.rng import rademacher_like

SEED, IMAGES, REPEATS = 0, 8, 3
STEPS = (140, 1000)
TOLERANCES = (3e-3, 1e-3, 7e-4, 3e-4, 1e-4, 1e-5)
EQUAL_STEPS = (24, 28, 32, 34, 36, 37, 38, 40, 44, 48, 56, 64)
SCIPY = (1e-2, 1e-3, 1e-4, 1e-5)
GOAL = 0.01
LEVELS = dict(base_channels=16, multipliers=[1, 2, 2], num_blocks=1, attention_stages=[2])
NETWORKS = {
    "UNet": partial(UNet, (1, 28, 28), **LEVELS),
    "DDPM++": partial(
        NCSNpp, (1, 28, 28), **LEVELS, dropout=0.0, fir=None, fourier_scale=None, progressive_input="none"
    ),
}


class Handwriting(ArrayDataModule):
    """MNIST, [−1, 1], shape (1, 28, 28)."""

    shape = (1, 28, 28)

    def __init__(self, root: str, batch_size: int = 64) -> None:
        super().__init__(batch_size, seed=SEED)
        self.root = root

    def arrays(self):
        sets = (MNIST(self.root, train, download=True) for train in (True, False))
        return tuple(Arrays(s.data[:, None], {}) for s in sets)

    def scale(self, x):
        return x.float() / 127.5 - 1


def trained(name, root, folder, max_steps):
    """The averaged denoiser after so many steps of training, from the folder if it is there already."""
    path = Path(folder) / f"{name}-{max_steps}.ckpt"
    if not path.exists():
        seed_everything(SEED)
        module = ScoreModule(
            NETWORKS[name](),
            VPSDE(t_min=1e-5),
            Epsilon(),
            EpsilonPrediction(),
            DDIM(),
            optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
            ema_decay=0.99,
        )
        saving = ModelCheckpoint(folder, filename=path.stem, every_n_train_steps=max_steps)
        trainer = Trainer(
            max_steps=max_steps,
            default_root_dir=folder,
            logger=False,
            gradient_clip_val=1.0,
            limit_val_batches=0,
            callbacks=[saving],
        )
        trainer.fit(module, Handwriting(root))
    return ScoreModule.load_from_checkpoint(path, weights_only=True).ema.denoiser.eval()


def bits(log_prob):
    """Bits per dimension of grey levels 2/255 apart."""
    return -log_prob / (784 * math.log(2)) - math.log2(2 / 255)


def ours(denoiser, x, **steps):
    counted = CountingDenoiser(denoiser)
    result = log_likelihood(
        counted,
        x,
        num_probes=1,
        truncation="smoothed",
        generator=torch.Generator().manual_seed(SEED),
        **steps,
    )
    return bits(result.log_prob), counted.num_evaluations


def with_scipy(denoiser, x, tolerance):
    counted, process, batch = CountingDenoiser(denoiser), denoiser.process, len(x)
    signs = rademacher_like(x, torch.Generator().manual_seed(SEED))

    def drift(x, t):
        return counted(x, torch.full((batch,), t, dtype=torch.float64)).velocity

    def slope(t, y):
        x_t = torch.from_numpy(y[:-batch].reshape(x.shape)).float()
        with torch.no_grad():
            d = drift(x_t, t)
        x_t.requires_grad_()
        (gradient,) = torch.autograd.grad((drift(x_t, t) * signs).sum(), x_t)
        return np.concatenate([d.flatten().numpy(), (gradient * signs).flatten(1).sum(1).numpy()])

    start = np.concatenate([x.flatten().numpy(), np.zeros(batch)])
    ends = process.t_min, process.t_max
    end = solve_ivp(slope, ends, start, method="RK45", rtol=tolerance, atol=tolerance).y[:, -1]
    prior = process.prior_log_prob(torch.from_numpy(end[:-batch].reshape(x.shape)))
    # the density of x_t at t_min, as that of x_t/α, like `smoothed`
    first = process.grid_levels(torch.tensor([process.t_min], dtype=torch.float64))[0]
    return bits(prior + torch.from_numpy(end[-batch:]) + 784 * math.log(first.alpha)), counted.num_evaluations


def images(root):
    """Test images with uniform noise of one grey level."""
    x = MNIST(root, False, download=True).data[:IMAGES, None].float()
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(SEED)) - 0.5
    return (x + noise) / 127.5 - 1


def measure(denoiser, x):
    """A row for each scheme and setting; x of SciPy's scheme is scaled by α as ours is."""
    first = denoiser.process.grid_levels(torch.tensor([denoiser.process.t_min], dtype=torch.float64))[0]
    exact, _ = ours(denoiser, x, rtol=1e-6, atol=1e-6)
    jobs = {
        ("scorelight", f"{tol:.0e}"): partial(ours, denoiser, x, rtol=tol, atol=tol) for tol in TOLERANCES
    }
    jobs |= {("scorelight", f"{n} steps"): partial(ours, denoiser, x, num_steps=n) for n in EQUAL_STEPS}
    jobs |= {
        ("SciPy, called twice", f"{tol:.0e}"): partial(with_scipy, denoiser, first.alpha * x, tol)
        for tol in SCIPY
    }
    seconds = dict.fromkeys(jobs, math.inf)
    for _ in range(REPEATS):
        results = {}
        for key, job in jobs.items():
            start = time.perf_counter()
            results[key] = job()
            seconds[key] = min(seconds[key], time.perf_counter() - start)
            print(*key, f"{seconds[key]:.2f} s", flush=True)
    rows = []
    for (scheme, setting), (value, evaluations) in results.items():
        error = value - exact
        row = {"scheme": scheme, "setting": setting, "evaluations": evaluations}
        row |= {"seconds": seconds[scheme, setting], "bits_per_dim": value.mean().item()}
        rows.append(row | {"rms": error.square().mean().sqrt().item(), "mean": error.mean().item()})
    return rows


def fewest_steps(results):
    """The fewest equal steps, the same for all networks, that are within the goal for each of them."""
    mine = [r for rows in results.values() for r in rows if r["setting"].endswith("steps")]
    worst = {n: max(r["rms"] for r in mine if r["setting"] == f"{n} steps") for n in EQUAL_STEPS}
    return f"{min(n for n, error in worst.items() if error < GOAL)} steps"


def report(results):
    lines, setting = [], fewest_steps(results)
    for name, rows in results.items():
        lines += [f"{name} steps:", ""]
        lines += ["| scheme | tolerance or steps | evaluations | seconds | error, RMS | error, mean |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for r in rows:
            lines.append(
                f"| {r['scheme']} | {r['setting']} | {r['evaluations']} | {r['seconds']:.2f} "
                f"| {r['rms']:.1e} | {r['mean']:+.1e} |"
            )
        best = next(r for r in rows if r["setting"] == setting)
        lines += ["", f"Ours in {setting}, which are within {GOAL} bits/dim for each network, is faster:", ""]
        for r in rows:
            if r["scheme"] != "scorelight" and r["setting"] in ("1e-03", "1e-05"):
                time_ratio, ratio = r["seconds"] / best["seconds"], r["evaluations"] / best["evaluations"]
                lines.append(f"* than SciPy at {r['setting']}: {time_ratio:.1f} times; {ratio:.1f} by calls")
        lines.append("")
    return "\n".join(lines)


def picture(results, path):
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(NETWORKS), len(STEPS), figsize=(10, 8), layout="constrained", sharex=True, sharey=True
    )
    for axis, (name, rows) in zip(axes.flat, results.items(), strict=True):
        curves = {}
        for r in rows:
            kind = "equal steps" if r["setting"].endswith("steps") else "tolerances"
            curves.setdefault(f"{r['scheme']}, {kind}", []).append(r)
        for label, points in curves.items():
            axis.loglog([r["seconds"] for r in points], [r["rms"] for r in points], "o-", label=label)
            for r in points:
                axis.annotate(r["setting"].removesuffix(" steps"), (r["seconds"], r["rms"]), fontsize=7)
        axis.axhline(GOAL, color="grey", lw=0.8, ls=":")
        axis.set(
            title=f"{name} steps", xlabel=f"seconds for {IMAGES} images", ylabel="error of bits/dim, RMS"
        )
    axes[0, 0].legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default="data", help="folder of torchvision's MNIST, downloaded if absent")
    parser.add_argument("--folder", default="runs/likelihood", help="folder of the trained networks")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    begin = time.perf_counter()
    results = {}
    for name, steps in itertools.product(NETWORKS, STEPS):
        denoiser = trained(name, arguments.root, arguments.folder, steps)
        results[f"{name} trained for {steps:,}"] = measure(denoiser, images(arguments.root))
    summary = {
        "commit": commit(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "scipy": scipy.__version__,
        "seed": SEED,
        "images": IMAGES,
        "networks": LEVELS,
        "seconds": round(time.perf_counter() - begin),
        "results": results,
    }
    (RESULTS / "likelihood.json").write_text(json.dumps(summary, indent=1) + "\n")
    text = report(results)
    (RESULTS / "likelihood.md").write_text(text)
    picture(results, RESULTS / "likelihood.png")
    print(text)
