"""A configuration for a training of minutes, as ``scorelight advise --minutes`` prints it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import yaml
from tqdm import tqdm

from scorelight.errors import ConfigurationError
from scorelight.storage.specs import arguments_of, build
from scorelight.training.module import ScoreModule
from scorelight.training.step_cost import count_step, measured_flops_per_second

__all__ = ["BATCH", "ENOUGH", "ShortRun", "Speed", "short_run"]

_WIDTHS = (16, 24, 32, 48, 64, 96, 128)
BATCH = 64
"""Images of a step: fewer do not keep a core busy, more make the steps too few."""
ENOUGH = 100_000
"""Images that a network should see: a wider one that sees fewer is no better."""


class Speed(NamedTuple):
    """How fast a network learns."""

    channels: int
    images_per_second: float


class ShortRun(NamedTuple):
    """A configuration, and what it was chosen by."""

    minutes: float
    speeds: list[Speed]
    config: dict[str, Any]

    def report(self) -> str:
        """The measurements as a table."""
        chosen = self.config["model"]["network"]["init_args"]["base_channels"]
        rows = [
            f"  {channels:>8}  {speed:>8.0f}  {60 * self.minutes * speed:>12,.0f}"
            + "  <" * (channels == chosen)
            for channels, speed in self.speeds
        ]
        reason = f"The widest network that sees {ENOUGH:,} images."
        if (needed := ENOUGH / self.speeds[0].images_per_second / 60) > self.minutes:
            reason = f"The narrowest network: it would see {ENOUGH:,} images in {needed:.2g} minutes."
        return "\n".join([f"  channels  images/s  in {self.minutes:g} min", *rows, reason, ""])

    def yaml(self) -> str:
        """The file."""
        return _COMMENTS + str(yaml.safe_dump(self.config, sort_keys=False, default_flow_style=None))


def short_run(shape: tuple[int, ...], num_classes: int | None, sigma_data: float, minutes: float) -> ShortRun:
    """The recipe of ``mnist/quick`` for images of other data, as wide as the machine allows.

    Args:
        shape: Of an image, (C, H, W).
        num_classes: Number of classes, if the data have them.
        sigma_data: Standard deviation of the data.
        minutes: Duration of the training.

    Raises:
        ConfigurationError: If the data are not images.
    """
    if len(shape) != 3:
        raise ConfigurationError(f"--minutes {minutes:g}: images are needed, and examples have shape {shape}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    speeds: list[Speed] = []
    for channels in tqdm(_WIDTHS, desc="timing networks", leave=False, disable=None):
        model = _model(shape, num_classes, sigma_data, channels)
        speeds.append(Speed(channels, _images_per_second(model, shape, num_classes, device)))
        if 60 * minutes * speeds[-1].images_per_second < ENOUGH:
            break
    seeing_enough = [s.channels for s in speeds if 60 * minutes * s.images_per_second >= ENOUGH]
    chosen = max(seeing_enough, default=_WIDTHS[0])
    return ShortRun(minutes, speeds, _config(_model(shape, num_classes, sigma_data, chosen), minutes))


def _images_per_second(
    model: dict[str, Any], shape: tuple[int, ...], num_classes: int | None, device: torch.device
) -> float:
    """Speed of the loss and its gradient."""
    network = {"shape": list(shape)} | ({"num_classes": num_classes} if num_classes else {})
    described = model | {
        "network": {**model["network"], "init_args": model["network"]["init_args"] | network}
    }
    module = ScoreModule(**build(arguments_of(ScoreModule, described, "model", "advise")))
    cost = count_step(module)
    return measured_flops_per_second(module, cost, BATCH, device, repeats=2) / cost.step_flops


def _config(model: dict[str, Any], minutes: float) -> dict[str, Any]:
    seconds = math.ceil(60 * minutes)
    day, hour = divmod(seconds // 3600, 24)
    limit = f"{day:02}:{hour:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return {
        "trainer": {
            "max_time": limit,
            "max_steps": -1,
            "val_check_interval": 500,
            "check_val_every_n_epoch": None,
            "limit_val_batches": 8,
            "gradient_clip_val": 1.0,
            "callbacks": [_described("LearningRateSchedule")],
        },
        "samples": {"every_n_steps": 500},
        "model": model,
    }


def _model(
    shape: tuple[int, ...], num_classes: int | None, sigma_data: float, channels: int
) -> dict[str, Any]:
    """The model's section: the recipe of ``mnist/quick``, or of ``cifar10/quick`` for colour images."""
    photographs, patch = shape[0] == 3, _patch(shape)
    levels = 3 if photographs and all(side % (4 * patch) == 0 for side in shape[1:]) else 2
    network: dict[str, Any] = {
        "base_channels": channels,
        "multipliers": [1, 2, 2][:levels],
        "num_blocks": 1,
        "attention_stages": [levels - 1],
        "patch_size": patch,
        "group_size": 8,
    }
    if photographs:
        times = _described("LogNormalTime", mean=-1.2, std=1.2)
        sampler = _described("ExponentialAdams", num_steps=50)
    else:
        times = _described("LogNormalTime", mean=0.4, std=1.5)
        sampler = _described("DDIM", num_steps=50, eta=1.0, grid=_described("QuadraticGrid"))
    conditions: dict[str, Any] = {}
    if num_classes:
        network["num_classes"], conditions["condition_dropout"] = "data", 0.1
    return {
        "process": _described("VPSDE"),
        "parameterization": _described("EDM", sigma_data=sigma_data),
        "objective": _described(
            "DenoisingScoreMatching",
            weighting=_described("EDMWeighting", sigma_data=sigma_data),
            time_sampler=_described("StratifiedTime", times=times),
        ),
        "network": _described("UNet", **network),
        "sampler": sampler,
        "optimizer": _described("MuonWithAdam", lr=5e-3),
        "ema_decay": 0.995,
        **conditions,
    }


def _patch(shape: tuple[int, ...]) -> int:
    """The smallest power of 2 with which the first level has at most 16 patches a side."""
    patch = 1
    while max(shape[1:]) / patch > 16 and all(side % (4 * patch) == 0 for side in shape[1:]):
        patch *= 2
    return patch


_COMMENTS = """\
# For a training of minutes, by scorelight advise: VP SDE, EDM, U-Net in patches
# The learning rate follows max_time: with less or more time, change nothing else.
# times: shapes of drawings are learned at high noise, textures of photographs at low noise.
# base_channels: a wider network sees fewer images, which counts for more in the first minutes.
# patch_size: wide levels of few positions wait less for memory than narrow levels of many.
# MuonWithAdam: after two minutes two thirds of the distance that Adam reaches.
"""


def _described(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"scorelight.{name}"} | ({"init_args": arguments} if arguments else {})
