"""Which sampler suits a model that trained for minutes: Fréchet distances at 50 evaluations.

    python benchmarks/quality_search.py 600 'lr=5e-3' --keep models
    python benchmarks/quality_samplers.py models/*.pt        # one line of quality_samplers.jsonl each

The samples are those of the search (seed 1234) and are compared with the test set.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from common import HERE
from quality_models import (
    NUM_SAMPLES,
    SEARCH_SEED,
    Recipe,
    build,
    distance,
    draw,
    examples,
    labels_of_samples,
)

from scorelight import (
    DDIM,
    ClippedDenoiser,
    EDMSampler,
    ExponentialAdams,
    KarrasGrid,
    LogSNRGrid,
    MixedGrid,
    QuadraticGrid,
    TrailingGrid,
    UniformGrid,
)
from scorelight.cli.tuning import keep_freed_memory

JOURNAL = HERE / "quality_samplers.jsonl"
SAMPLERS = {
    "DDIM eta=1, 50": DDIM(50, eta=1.0),
    "DDIM eta=0.7, 50": DDIM(50, eta=0.7),
    "DDIM eta=0, 50": DDIM(50),
    "ExponentialAdams, 25": ExponentialAdams(25),
    "DDIM eta=1, 50, uniform": DDIM(50, UniformGrid(), eta=1.0),
    "DDIM eta=1, 50, quadratic": DDIM(50, QuadraticGrid(), eta=1.0),
    "DDIM eta=1, 50, log SNR": DDIM(50, LogSNRGrid(), eta=1.0),
    "DDIM eta=1, 50, Karras": DDIM(50, KarrasGrid(), eta=1.0),
    "DDIM eta=1, 50, mixed 0.4": DDIM(50, MixedGrid(0.4), eta=1.0),
    "DDIM eta=1, 50, trailing": DDIM(50, TrailingGrid(), eta=1.0),
    "EDM churn 10, 25": EDMSampler(25, s_churn=10.0),
    "EDM churn 40, 25": EDMSampler(25, s_churn=40.0),
}


def load(path):
    stored = torch.load(path)
    recipe = Recipe(**{f.name: stored["recipe"][f.name] for f in dataclasses.fields(Recipe)})
    denoiser, _ = build(recipe)
    denoiser.load_state_dict(stored["state"])
    return recipe, denoiser.eval()


def known():
    return [json.loads(line) for line in JOURNAL.read_text().splitlines()] if JOURNAL.exists() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", nargs="+", help="files of quality_search.py --keep")
    parser.add_argument("--only", default="", help="samplers whose name contains this")
    parser.add_argument("--clip", action="store_true", help="with ClippedDenoiser")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    for path in arguments.weights:
        recipe, denoiser = load(path)
        denoiser = ClippedDenoiser(denoiser) if arguments.clip else denoiser
        shape, labels = (
            examples(recipe.data, "val")[0].shape[1:],
            labels_of_samples(recipe, NUM_SAMPLES),
        )
        for name, sampler in SAMPLERS.items():
            name += ", clipped" * arguments.clip
            row = {"model": Path(path).stem, "sampler": name}
            if arguments.only in name and not any(row.items() <= other.items() for other in known()):
                samples = draw(denoiser, sampler, shape, SEARCH_SEED, labels)
                row["distance"] = round(distance(recipe.data, samples, "val"), 2)
                with JOURNAL.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
