"""What ``scorelight fit`` trains: a generative model, a classifier, or encoders of images and captions."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml
from lightning.pytorch import Callback

from scorelight.errors import ConfigurationError, nearest
from scorelight.evaluation.classifier_report import ClassifierReport
from scorelight.evaluation.sample_grid import SampleGridCallback
from scorelight.training.classifier import ClassifierModule
from scorelight.training.image_text import ImageTextModule
from scorelight.training.module import ScoreModule
from scorelight.training.trained import TrainedModule

__all__ = ["KINDS", "Kind", "kind_of"]


class Kind(NamedTuple):
    """What depends on the kind of model that is trained."""

    module: type[TrainedModule]
    callbacks: dict[str, type[Callback]]
    """The run's own callbacks, by their keys."""
    files: str
    weights: str
    use: str
    """What to do next."""


KINDS = {
    "ScoreModule": Kind(
        ScoreModule,
        {"samples": SampleGridCallback},
        "samples/            sample grids, the last one of the last step; data.png for comparison",
        ": raw weights (denoiser.*) and their average (ema.*)",
        "Sample      {bin}scorelight sample {run} --num_samples 64 --seed 1 --out {run}/more{trust}",
    ),
    "ClassifierModule": Kind(
        ClassifierModule,
        {"accuracy": ClassifierReport},
        "accuracy.csv        accuracy and calibration by noise level",
        "",
        "Guide       {bin}scorelight sample MODEL --guidance ClassifierGuidance --guidance.classifier {run} "
        "--labels 3{trust}",
    ),
    "ImageTextModule": Kind(
        ImageTextModule,
        {"accuracy": ClassifierReport},
        "accuracy.csv        accuracy and calibration by noise level, of plain captions",
        "",
        "Guide       {bin}scorelight sample MODEL --guidance CLIPGuidance --guidance.model {run} "
        '--guidance.prompt "a thick three"{trust}',
    ),
}


def kind_of(args: list[str]) -> Kind:
    """The kind of model that a command trains: by its last --module, else by its last configuration.

    Raises:
        ConfigurationError: If there is none of that name.
    """
    name, named = "ScoreModule", None
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        value = value if equals else "".join(args[i + 1 : i + 2])
        if flag == "--module":
            named = value
        elif flag == "--config" and Path(value).is_file():
            with suppress(yaml.YAMLError, UnicodeError, OSError):  # which the parser reports
                content = yaml.safe_load(Path(value).read_text())
                name = content.get("module", name) if isinstance(content, dict) else name
    name = named or name
    if not isinstance(name, str) or name not in KINDS:
        raise ConfigurationError(f"--module {name}: {nearest(str(name), list(KINDS))}")
    return KINDS[name]
