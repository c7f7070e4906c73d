"""Bits/dim with uniform and with learned noise within the grey levels: Ho et al. (2019), sec. 3.1.

    python benchmarks/dequantization.py                               # trains first, some ten minutes
    python benchmarks/dequantization.py --run runs/digits/vp_epsilon  # of a model that is trained already

* Digits: averaged weights of `digits/vp_epsilon`, all 359 validation images, 17 grey levels. The flow is
  trained for 1,000 steps on the training images, as `scorelight dequantize` does by default. Both kinds of
  noise use the same draws; ± is the standard error over the images, that of the difference image by image.
* Quantised Gaussians of one and two pixels and five grey levels, where P(x) is known: mean of
  KL(q ‖ p(u|x)) in nats, which is what the bound loses, by quadrature. The flow is trained for 250 steps on
  the exact denoiser.

Writes dequantization.json and .md beside this file.
"""

import json
import os
import tempfile
import time

import torch
from common import CONFIG, RESULTS, commit, digits_denoiser, run_flag
from lightning.pytorch import Trainer, seed_everything
from support.quantised import ONE, TWO, mean_gap, train_flow

from scorelight import (
    VPSDE,
    DequantizerModule,
    FlowDequantization,
    LikelihoodProtocol,
    UniformDequantization,
    bits_per_dim,
)
from scorelight.data import DigitsDataModule
from scorelight.data.access import examples_of
from scorelight.rng import PhiloxGenerator

IMAGES, STEPS, TOY_STEPS, SEED = 359, 1000, 250, 0


def trainer(steps, **options):
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **options,
    )


def digits():
    """Bits/dim by both kinds of noise, and their difference, with standard errors; the protocol."""
    data, denoiser = DigitsDataModule(), digits_denoiser(run_flag())
    data.prepare_data()
    x = examples_of(data, "val").first(IMAGES).x0
    assert len(x) == IMAGES
    protocol = LikelihoodProtocol(data.num_bins)
    seed_everything(SEED, verbose=False)
    flow = FlowDequantization(x.shape[1:])
    trainer(STEPS).fit(DequantizerModule(denoiser, flow, protocol), data)
    values = {}
    for name, noise in (("uniform", UniformDequantization()), ("learned", flow.requires_grad_(False).eval())):
        found = bits_per_dim(
            denoiser, x, protocol, dequantizer=noise, generator=PhiloxGenerator(SEED, range(IMAGES))
        )
        values[name] = found.value
    values["difference"] = values["uniform"] - values["learned"]
    return {
        name: {"mean": value.mean().item(), "standard_error": value.std().item() / IMAGES**0.5}
        for name, value in values.items()
    }


def gaussians():
    """Mean loss of the bound in nats, and the share of it that the learned noise removes."""
    rows = {}
    for name, density in (("1 pixel", ONE), ("2 pixels", TWO)):
        with tempfile.TemporaryDirectory() as folder:
            flow = train_flow(
                density, trainer(TOY_STEPS, default_root_dir=folder), VPSDE(), learning_rate=1e-2
            )
        uniform, learned = (mean_gap(noise, density) for noise in (UniformDequantization(), flow))
        rows[name] = {"uniform": uniform, "learned": learned, "closed_percent": 100 * (1 - learned / uniform)}
    return rows


def markdown(result):
    lines = [
        f"| `{CONFIG}`, {IMAGES} validation images, 17 grey levels | bits/dim |",
        "| --- | --- |",
        *(f"| {k} | {v['mean']:.3f} ± {v['standard_error']:.3f} |" for k, v in result["digits"].items()),
        "",
        "| quantised Gaussian | uniform, nats lost | learned | closed |",
        "| --- | --- | --- | --- |",
        *(
            f"| {k} | {v['uniform']:.4f} | {v['learned']:.4f} | {v['closed_percent']:.1f} % |"
            for k, v in result["gaussians"].items()
        ),
        "",
        f"Seed {SEED}, commit {result['commit'][:7]}, torch {result['torch']}, "
        f"{result['duration_minutes']:.1f} minutes.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    begin = time.perf_counter()
    result = {"digits": digits(), "gaussians": gaussians()}
    result |= {
        "config": CONFIG,
        "images": IMAGES,
        "grey_levels": DigitsDataModule().num_bins,
        "steps": STEPS,
        "seed": SEED,
        "commit": commit(),
        "torch": torch.__version__,
        "duration_minutes": (time.perf_counter() - begin) / 60,
    }
    (RESULTS / "dequantization.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "dequantization.md").write_text(markdown(result))
    print(markdown(result))
