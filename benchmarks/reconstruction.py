"""Images encoded into noise and decoded again: Song, Meng & Ermon (2021), sec. 5.4.

    python benchmarks/reconstruction.py                               # trains first, some five minutes
    python benchmarks/reconstruction.py --run runs/digits/vp_epsilon  # of a model that is trained already

The first 64 validation images, averaged weights of `digits/vp_epsilon`; root mean square of what comes
back less the image, pixels in [−1, 1]. Every sampler goes the same way there and back (`Sampler.encode`), in
N evaluations each way, without the denoising step.

Writes reconstruction.json, .md and .png beside this file: the first 16 images and what DDIM makes of them.
"""

import json
import os
import time

import torch
from common import CONFIG, RESULTS, commit, digits_denoiser, run_flag

from scorelight import (
    DDIM,
    CountingDenoiser,
    DPMSolverPP,
    ExponentialAdams,
    Heun,
    LogSNRGrid,
    UniPC,
)
from scorelight.data import DigitsDataModule
from scorelight.data.access import examples_of
from scorelight.images import grid, save

IMAGES, SHOWN = 64, 16
STEPS = (10, 20, 50, 100)
SAMPLERS = {
    "DDIM": DDIM,
    "Heun": lambda n, **k: Heun(n // 2, **k),
    "DPMSolverPP": DPMSolverPP,
    "UniPC": UniPC,
    "ExponentialAdams": lambda n, **k: ExponentialAdams(n, LogSNRGrid(), **k),
}

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    begin = time.perf_counter()
    denoiser = digits_denoiser(run_flag())
    x0 = examples_of(DigitsDataModule(), "val").first(IMAGES).x0
    errors, pictures = {}, [x0[:SHOWN]]
    for name, make in SAMPLERS.items():
        for steps in STEPS:
            counted, sampler = CountingDenoiser(denoiser), make(steps, denoise=False)
            with torch.inference_mode():
                back = sampler(counted, sampler.encode(counted, x0))
            assert counted.num_evaluations == 2 * steps
            errors.setdefault(name, []).append((back - x0).square().mean().sqrt().item())
            if name == "DDIM":
                pictures.append(back[:SHOWN])
    result = {
        "commit": commit(),
        "torch": torch.__version__,
        "config": CONFIG,
        "images": len(x0),
        "seconds": round(time.perf_counter() - begin),
        "steps": STEPS,
        "rms": errors,
    }
    (RESULTS / "reconstruction.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        "| evaluations each way | " + " | ".join(map(str, STEPS)) + " |",
        "| --- |" + " --- |" * len(STEPS),
    ]
    lines += [f"| {name} | " + " | ".join(f"{e:.1e}" for e in row) + " |" for name, row in errors.items()]
    (RESULTS / "reconstruction.md").write_text("\n".join(lines) + "\n")
    save(grid(torch.cat(pictures), SHOWN), RESULTS / "reconstruction.png")
    print("\n".join(lines))
