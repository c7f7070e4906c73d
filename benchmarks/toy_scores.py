"""Does training find the exact score? Every process and objective, on a mixture with a closed form.

    python benchmarks/toy_scores.py                     # about ten minutes on two cores
    python benchmarks/toy_scores.py --only vp_epsilon   # prints these rows; writes nothing

For each shipped configuration on the mixture of two Gaussians: train as shipped, then compare the averaged
denoiser with the exact one, and the samples with the exact density. Writes toy_scores.json, .md and .png
beside this file.

* error of the score: RMS of σ_t (s_θ − ∇log p_t) over x_t ~ p_t and dimensions, over 9 equally spaced t;
  0 is exact, and an output of zero scores about 1;
* log p of samples: mean exact log-density of 4,096 samples, against that of the data itself; ± its
  standard error.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from common import RESULTS, commit
from torchvision.utils import make_grid

from scorelight import AnalyticDenoiser, ScoreModule, score_error
from scorelight.cli import main
from scorelight.data.toy import mixture
from scorelight.images import grid, save

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs" / "toy"
NAMES = sorted(p.stem for p in CONFIGS.glob("*.yaml") if "density: two_gaussians" in p.read_text())


def error_of_the_score(denoiser, density):
    """RMS of σ_t (s_θ − ∇log p_t) over times, examples and dimensions."""
    process, generator = denoiser.process, torch.Generator().manual_seed(1)
    t = torch.linspace(process.t_min, process.t_max, 9)
    x0 = density.sample(8192, generator)
    return score_error(denoiser, AnalyticDenoiser(density, process), x0, t, generator=generator).rms


def mean_and_error(values):
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def measure(name):
    torch.set_num_threads(1)
    density, start = mixture("two_gaussians"), time.perf_counter()
    assert main(["fit", "--config", f"toy/{name}", "--trainer.enable_progress_bar", "false"]) == 0
    seconds = time.perf_counter() - start
    module = ScoreModule.load_from_checkpoint(f"runs/toy/{name}/version_0/checkpoints/last.ckpt")
    *_, x = module.sample(0, range(4096))
    log_p, error = mean_and_error(density.log_prob(x))
    row = {
        "config": f"toy/{name}",
        "score_error": error_of_the_score(module.denoiser_for("ema"), density),
        "log_p": log_p,
        "log_p_se": error,
    }
    return row | {"sampler_steps": module.sampler.num_steps, "seconds": round(seconds)}, grid(x)


def report(rows, data):
    lines = [
        "| configuration | error of the score | log p of samples (nats) | training |",
        "| --- | --- | --- | --- |",
        *(
            f"| `{r['config']}` | {r['score_error']:.3f} | {r['log_p']:.3f} ± {r['log_p_se']:.3f} "
            f"| {r['seconds']} s |"
            for r in rows
        ),
        f"| the data itself | 0 | {data[0]:.3f} ± {data[1]:.3f} | |",
    ]
    return "\n".join(lines) + "\n"


def measure_all(names):
    """Rows and sample grids of the configurations, one process a core."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            return zip(*pool.map(measure, names), strict=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, help="print these rows, and write nothing")
    only = parser.parse_args().only
    measured = commit()
    density = mixture("two_gaussians")
    data = mean_and_error(density.log_prob(density.sample(100_000, torch.Generator().manual_seed(2))))
    rows, grids = measure_all(only or NAMES)
    result = {
        "commit": measured,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "seed": 0,
        "rows": rows,
    }
    if not only:
        (RESULTS / "toy_scores.json").write_text(json.dumps(result | {"data_log_p": data}, indent=1) + "\n")
        (RESULTS / "toy_scores.md").write_text(report(rows, data))
        save(make_grid(torch.stack(grids), nrow=5, padding=4), RESULTS / "toy_scores.png")
    print(report(rows, data))
