"""``scorelight advise``: noise levels or a short training that suit a data set, as YAML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from lightning.pytorch import LightningDataModule
from torch import Tensor
from tqdm import tqdm

from scorelight.cli.common import run_command, written
from scorelight.cli.configs import resolve_configs
from scorelight.cli.short_run import BATCH, short_run
from scorelight.data.access import examples_of
from scorelight.errors import ConfigurationError
from scorelight.processes.noise_levels import (
    NCSN_RATIO,
    NoiseLevelSchedule,
    largest_distance,
    level_ratio,
    suggest_schedule,
    variance_ratio,
)

__all__ = ["NoiseLevelReport", "advise", "run_advise"]

_NO_DATA_PROSE = ("required: data", "class_path 'lightning.LightningDataModule'")
_NO_DATA = "which data? --data DigitsDataModule, or --config digits/vp_epsilon for those of a configuration"


def run_advise(args: list[str]) -> None:
    """Parse with the data of the configurations as the default."""
    try:
        run_command(
            advise,
            [*_data_sections(args)],
            as_positional=False,
            config_help="Configuration, shipped or your own, to take the data from.",
        )
    except ConfigurationError as error:
        if any(prose in str(error.__cause__) for prose in _NO_DATA_PROSE):
            raise ConfigurationError(_NO_DATA) from error
        raise


def _data_sections(args: list[str]) -> Iterator[str]:
    """The arguments, with each configuration reduced to its data."""
    for arg in resolve_configs(args):
        flag, _, path = arg.partition("=")
        if flag != "--config":
            yield arg
        elif data := yaml.safe_load(Path(path).read_text()).get("data"):
            yield f"--config={yaml.safe_dump({'data': data})}"


def advise(
    data: LightningDataModule,
    process: Literal["SMLDProcess", "VESDE"] = "SMLDProcess",
    sigma_min: float = 0.01,
    langevin_steps: int = 5,
    max_examples: int | None = None,
    minutes: float | None = None,
    out: str | None = None,
) -> None:
    """Noise levels that suit a data set, by the techniques of NCSNv2, as YAML to paste.

    The source is Song & Ermon (2020), Improved Techniques for Training Score-Based Generative Models. With
    --minutes: a configuration of a model that this machine can train in that time, instead.

    Args:
        data: Data module whose training set to measure.
        process: A table of noise levels, or its limit in continuous time.
        sigma_min: Smallest noise level, in units of the data.
        langevin_steps: Steps of Langevin dynamics per noise level.
        max_examples: Use at most that many: a lower bound of sigma_max, in less time (it grows with N²).
        minutes: Duration of a short training of images: networks are timed, and the widest is taken that
            sees enough images.
        out: New file to write the YAML to.
    """
    _check(sigma_min, langevin_steps, max_examples, minutes, out)
    data.prepare_data()
    x = examples_of(data, "train", max_examples).spread(max_examples).x0
    if minutes is not None:
        _advise_minutes(data, x, minutes, out)
        return
    advice = _measure(type(data).__name__, x, sigma_min, langevin_steps)
    text = _yaml(advice, process)
    print(_report(advice), text, sep="\n", end="")
    _write(text, out, f"--config MODEL --config {out}")


def _advise_minutes(data: LightningDataModule, x: Tensor, minutes: float, out: str | None) -> None:
    """Print a configuration for a short training."""
    name, shape = type(data).__name__, tuple(x.shape[1:])
    sigma_data = _short(x.float().std(correction=0).item())
    advice = short_run(shape, getattr(data, "num_classes", None), sigma_data, minutes)
    print(f"{name}: {len(x):,} training examples of shape {shape}, standard deviation {sigma_data:.4g}\n")
    print(advice.report(), advice.yaml(), sep="\n", end="")
    if not getattr(data, "num_classes", None):
        print(
            "\nThe data have no classes. ClusteredDataModule divides them into clusters, which a small "
            "network learns sooner."
        )
    batch = f" --data.batch_size {BATCH}" if hasattr(data, "batch_size") else ""
    _write(advice.yaml(), out, f"--config {out} --data {name}{batch}")


def _write(text: str, out: str | None, options: str) -> None:
    if out:
        with written(Path(out)):
            Path(out).write_text(text)
        print(f"\nWritten to {out}. To train with it: scorelight fit {options}")


def _check(
    sigma_min: float, langevin_steps: int, max_examples: int | None, minutes: float | None, out: str | None
) -> None:
    """Report mistakes before the minutes that large data take."""
    if not 0 < sigma_min < math.inf:
        raise ConfigurationError(f"--sigma_min {sigma_min}: must be positive")
    if langevin_steps < 1:
        raise ConfigurationError(f"--langevin_steps {langevin_steps}: must be at least 1")
    if max_examples is not None and max_examples < 2:
        raise ConfigurationError(f"--max_examples {max_examples}: must be at least 2")
    if minutes is not None and not 0 < minutes < math.inf:
        raise ConfigurationError(f"--minutes {minutes}: must be positive")
    if out and Path(out).exists():
        raise ConfigurationError(f"--out {out}: exists already; name a new file")


class NoiseLevelReport(NamedTuple):
    """The measurements and what follows from them."""

    name: str
    num: int
    shape: tuple[int, ...]
    ends: tuple[float, float]
    sigma_data: float
    distance: float
    schedule: NoiseLevelSchedule
    langevin_steps: int


def _measure(name: str, x: Tensor, sigma_min: float, langevin_steps: int) -> NoiseLevelReport:
    distance = largest_distance(x, _with_bar)
    if not sigma_min < distance:
        raise ConfigurationError(
            f"--sigma_min {sigma_min}: must be below {distance:.4g}, the largest distance of two examples"
        )
    x = x if x.is_floating_point() else x.float()
    schedule = suggest_schedule(sigma_min, _short(distance), x[0].numel(), langevin_steps)
    ends = x.min().item(), x.max().item()
    sigma_data = _short(x.std(correction=0).item())
    return NoiseLevelReport(
        name, len(x), tuple(x.shape[1:]), ends, sigma_data, distance, schedule, langevin_steps
    )


def _with_bar(blocks: list[Any]) -> Iterable[Any]:
    """A progress bar, on a terminal and for more than a second or so."""
    hidden = True if len(blocks) < 10 else None  # None: where there is no terminal
    bar: Iterable[Any] = tqdm(blocks, desc="largest distance", leave=False, disable=hidden)
    return bar


def _short(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


_REPORT = """\
{name}: {num:,} training examples of shape {shape}, values from {low:.4g} to {high:.4g}

  sigma_data  {sigma_data:<9.4g} standard deviation of the data
  sigma_max   {sigma_max:<9.4g} largest distance between two examples (Technique 1)
  sigma_min   {sigma_min:<9.4g} as given
  num_timesteps  {num_timesteps:<9} each {ratio:.4g} times the one below ({rule})
  epsilon     {step:<9.3g} Langevin step: {steps} leave {variance:.3g} times a level's variance (Technique 4)

Techniques: Song & Ermon (2020), Improved Techniques for Training Score-Based Generative Models.
Units: those of the data. Images in [-1, 1] have twice the scale of [0, 1], for which sigma_min 0.01 is
usual: in [-1, 1] the same noise is 0.02.
"""


def _report(advice: NoiseLevelReport) -> str:
    s, dim = advice.schedule, math.prod(advice.shape)
    widest = level_ratio(dim)
    rule = f"Technique 2: at most {widest:.4g} in {dim} dimensions"
    if widest > NCSN_RATIO:
        rule = f"at most NCSN's {NCSN_RATIO:.4g}: Technique 2 is for 29 dimensions and more"
    report: str = _REPORT.format(
        name=advice.name,
        num=advice.num,
        shape=advice.shape,
        low=advice.ends[0],
        high=advice.ends[1],
        sigma_data=advice.sigma_data,
        rule=rule,
        step=s.langevin_step,
        steps=advice.langevin_steps,
        variance=variance_ratio(s.langevin_step / s.sigma_min**2, s.ratio, advice.langevin_steps),
        **s._asdict(),
    )
    return report


_COMMENTS = """\
# Noise levels for {name}, by scorelight advise.
# Technique 3, a score that is the output over sigma, is Epsilon; EDM scales the input as well.
# Technique 4: {num_timesteps} levels, on each {steps} Langevin steps of epsilon (sigma/sigma_min)^2,
# epsilon = {langevin_step:.3g}.
"""


def _yaml(advice: NoiseLevelReport, process: str) -> str:
    """The keys to paste; values that belong to no key are in comments."""
    s = advice.schedule
    levels = {"num_timesteps": s.num_timesteps} if process == "SMLDProcess" else {}
    ends = {"sigma_min": s.sigma_min, "sigma_max": s.sigma_max}
    parts = {
        "process": {"class_path": process, "init_args": levels | ends},
        "parameterization": {"class_path": "EDM", "init_args": {"sigma_data": advice.sigma_data}},
    }
    comments = _COMMENTS.format(name=advice.name, steps=advice.langevin_steps, **s._asdict())
    text: str = comments + yaml.safe_dump({"model": parts}, sort_keys=False)
    return text
