"""The search of a recipe for models that train for minutes on one CPU core; one line of a journal a run.

    python benchmarks/quality_search.py 150 'lr=4e-3' 'lr=8e-3 batch=64'   # CPU seconds, then recipes
    python benchmarks/quality_search.py --table                            # what was found

A recipe is what differs from `Recipe`'s defaults. Runs that the journal has are skipped, so that a command
that was interrupted can be given again. Recipes are compared by a Fréchet distance that is not the one of the
report: of other samples (seed 1234), to the test set and not the training set.
"""

import argparse
import ast
import dataclasses
import json
import os
import time

import torch
from common import HERE, commit
from quality_models import (
    NUM_SAMPLES,
    SAMPLER,
    SEARCH_SEED,
    Recipe,
    distance,
    draw,
    examples,
    labels_of_samples,
    save_weights,
    train,
    validation_loss,
)

from scorelight.cli.tuning import keep_freed_memory

JOURNAL = HERE / "quality_search.jsonl"


def recipe_of(text):
    """'lr=4e-3 batch=64 multipliers=(1,2)' as a recipe."""
    types = {f.name: f.type for f in dataclasses.fields(Recipe)}
    changes = dict(part.split("=", 1) for part in text.split())
    return Recipe(
        **{k: v if types[k] is str or types[k] == "str" else ast.literal_eval(v) for k, v in changes.items()}
    )


def journal():
    return [json.loads(line) for line in JOURNAL.read_text().splitlines()] if JOURNAL.exists() else []


def key(row):
    return json.dumps([row["recipe"], row["seconds"], row["seed"]], sort_keys=True)


def run(recipe, seconds, seed, folder):
    row = dict(recipe=json.loads(json.dumps(recipe.changed())), seconds=seconds, seed=seed)
    if any(key(row) == key(known) and "distance" in known for known in journal()):
        return
    denoiser, notes = train(recipe, seconds, seed)
    notes["val_loss"] = round(validation_loss(denoiser, recipe), 5)
    begin = time.process_time()
    shape = examples(recipe.data, "val")[0].shape[1:]
    labels = labels_of_samples(recipe, NUM_SAMPLES)
    samples = draw(denoiser, SAMPLER, shape, SEARCH_SEED, labels)
    row |= notes | dict(
        distance=round(distance(recipe.data, samples, "val"), 2),
        sampler=f"DDIM {SAMPLER.num_steps} quadratic",
        sampling_s=round(time.process_time() - begin, 1),
        load=round(os.getloadavg()[0], 1),
        commit=commit()[:7],
        date=time.strftime("%Y-%m-%d %H:%M"),
    )
    if folder:
        name = " ".join(f"{k}={v}" for k, v in row["recipe"].items()).replace("/", "_") or "default"
        save_weights(denoiser, recipe, f"{folder}/{seconds}s seed{seed} {name}.pt")
    with JOURNAL.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row["distance"], row["val_loss"], row["images_per_s"], seconds, row["recipe"], flush=True)


def table():
    rows = sorted(journal(), key=lambda r: (r["recipe"].get("data", ""), r["seconds"], r["distance"]))
    for r in rows:
        options = " ".join(f"{k}={v}" for k, v in r["recipe"].items())
        sampler = r.get("sampler", "DDIM 20 log SNR")
        print(
            f"{r['seconds']:5} s  {r['distance']:7.2f}  {r['images']:7} images {r['images_per_s']:6.0f}/s  "
            f"seed {r['seed']}  {sampler}  {options}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float, nargs="?")
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="folder for the weights")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if arguments.table:
        table()
    for text in arguments.recipes:
        run(recipe_of(text), arguments.seconds, arguments.seed, arguments.keep)
