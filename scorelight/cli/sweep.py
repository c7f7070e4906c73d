"""``scorelight sweep``: the same noises under several values of one option, in one picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from scorelight.cli.common import check_positive, launch, load_source, run_on_checkpoint, written
from scorelight.denoisers.base import MakeWrapper
from scorelight.denoisers.counting import CountingDenoiser
from scorelight.errors import ConfigurationError
from scorelight.evaluation.samples import samples_bar
from scorelight.images import grid, save, titled
from scorelight.samplers.base import Sampler
from scorelight.storage.runs import find_checkpoint
from scorelight.training.module import Weights

__all__ = ["run_sweep", "sweep"]


class _Column(NamedTuple):
    """Samples under one value of the option."""

    samples: Tensor
    evaluations: float
    """Of the network, for each sample."""
    out: Path


def run_sweep(args: list[str]) -> None:
    """Parse once for each value, with the option as one more flag, and draw a column of the picture each."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--option")
    parser.add_argument("--values")
    given, rest = parser.parse_known_args(args)
    if {"-h", "--help"} & set(args):
        run_on_checkpoint(sweep, args, [])
        return
    values = _listed(given.values)
    if not given.option or not values:
        raise ConfigurationError(
            "scorelight sweep RUN --option OPTION --values VALUE ...: name an option of `sample`, such as "
            "guidance.scale, and its values"
        )
    option = given.option.removeprefix("--")
    columns: list[_Column] = []
    for value in values:
        flags = [f"--option={option}", f"--values={json.dumps(values)}", f"--{option}={_as_word(value)}"]
        columns.append(run_on_checkpoint(sweep, [*rest, *flags], ["sampler", "guidance"]))
    shapes = {tuple(column.samples.shape) for column in columns}
    if len(shapes) > 1:
        raise ConfigurationError(f"--option {option}: must not change the number of samples")
    out = columns[0].out
    with written(out):
        save(_picture([column.samples for column in columns], [str(value) for value in values]), out)
    print(f"{option} from left to right, the same noise in each row: {out}")
    for value, column in zip(values, columns, strict=True):
        print(f"  {value}: {column.evaluations:.4g} network evaluations for each sample")


def sweep(
    checkpoint: str,
    option: str = "",
    values: list[Any] | None = None,
    num_samples: int = 8,
    seed: int = 0,
    out: str = "sweep.png",
    sampler: Sampler | None = None,
    guidance: MakeWrapper | None = None,
    weights: Weights = "ema",
    labels: list[int | str] | None = None,
    accelerator: str = "auto",
) -> _Column:
    """Draw the same noises under several values of one option, such as the scale of a guidance.

    Rows are samples, columns are values: --guidance ClassifierFreeGuidance --option guidance.scale
    --values 1 2 4. Vectors are shown as one histogram for each value, of 64 points for each sample.

    Args:
        checkpoint: Run folder, or a .ckpt file.
        option: Option to vary, named as its flag: guidance.scale, sampler.num_steps, weights, ...
        values: Its values.
        num_samples: Rows.
        seed: Seed of the samples; sample i is a function of (seed, i) and the option.
        out: Picture to write.
        sampler: How to sample (default: as in the checkpoint).
        guidance: Wraps the denoiser, such as ClassifierFreeGuidance (default: as in the checkpoint).
        weights: Averaged or raw weights.
        labels: Classes to draw, taken in turn, by their numbers or names (default: all of them, for a
            class-conditional model).
        accelerator: Lightning's accelerator: auto, cpu, gpu, ...
    """
    check_positive(num_samples=num_samples)
    source = load_source(find_checkpoint(checkpoint), weights, sampler, guidance, labels)
    context = launch(accelerator, 1)
    counting = CountingDenoiser(source.denoiser.to(context.device))
    source = source._replace(denoiser=counting)
    number = num_samples * (64 if len(source.shape) == 1 else 1)
    drawn = []
    with samples_bar("sampling", number, hidden=False) as bar, torch.no_grad():
        for index in torch.arange(number).split(64):  # type: ignore[no-untyped-call]
            drawn.append(source.draw(seed, index, bar)[0].cpu())
    return _Column(torch.cat(drawn), counting.num_evaluations / len(drawn), Path(out))


def _listed(values: str | None) -> list[Any]:
    """The values as numbers, strings, ...; one value is a list of its own."""
    found = yaml.safe_load(values) if values else []
    return found if isinstance(found, list) else [found]


def _as_word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _picture(columns: list[Tensor], titles: list[str]) -> Tensor:
    """Samples of each value below its title."""
    if columns[0].ndim == 2:
        return torch.cat([titled(grid(x), [title]) for x, title in zip(columns, titles, strict=True)], dim=2)
    return titled(grid(torch.stack(columns, 1).flatten(0, 1), len(columns)), titles)
