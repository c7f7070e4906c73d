"""Averages of the weights for every width, from one training: Karras et al. (2024), EDM2, sec. 3."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from scorelight.errors import ConfigurationError
from scorelight.numerics.power_average import Profile, coefficients, decay, exponent
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.training.lightning_private import is_accumulating
from scorelight.training.module import score_module
from scorelight.training.run_folder import check_run_folder, run_folder

__all__ = ["PowerEMA", "reconstruct", "snapshots"]

_FOLDER, _NAME = "averages", re.compile(r"(\d{9})\.ckpt")


class PowerEMA(Callback):
    """Tracks averages of the weights with the profile t^γ, and keeps snapshots of them in the run folder.

    After the training, `reconstruct`, or ``scorelight ema RUN --sigma_rel 0.1``, computes the average of any
    σ_rel from them, for those between the two that are tracked within 10⁻³.

    Snapshots are equally spaced and at most `max_snapshots`: when there are more, every other one is removed,
    and later ones are twice as far apart. A run that was killed and resumed has the same as one that was not.

    Args:
        sigma_rels: Widths σ_rel of the averages that are tracked, two for all in between.
        every_n_steps: Optimizer steps between the first snapshots.
        max_snapshots: Snapshots that are kept, besides the last one.
    """

    def __init__(
        self, sigma_rels: Sequence[float] = (0.05, 0.25), every_n_steps: int = 100, max_snapshots: int = 16
    ) -> None:
        if every_n_steps < 1 or max_snapshots < 2 or max_snapshots % 2:
            raise ConfigurationError(
                f"PowerEMA: every_n_steps={every_n_steps}, max_snapshots={max_snapshots}: at least 1, and an "
                "even number from 2 on"
            )
        for sigma_rel in sigma_rels:
            try:
                exponent(sigma_rel)
            except ValueError as error:
                raise ConfigurationError(f"PowerEMA: {error}") from error
        self.sigma_rels = tuple(sigma_rels)
        self.every_n_steps = every_n_steps
        self.max_snapshots = max_snapshots
        self._averages: dict[float, dict[str, Tensor]] = {}
        self._step = 0
        self._folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the run folder."""
        folder = run_folder(trainer) if stage == "fit" else None
        self._folder = folder / _FOLDER if folder else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights or from a checkpoint; remove snapshots of later steps."""
        weights = _weights(score_module(pl_module).denoiser)
        stored, self._averages = self._averages, {}
        if self._step != trainer.global_step:
            stored, self._step = {}, 0
        for sigma_rel in self.sigma_rels:
            known = stored.get(sigma_rel, {})
            self._averages[sigma_rel] = {
                name: known.get(name, w.detach()).to(w.device, copy=True) for name, w in weights.items()
            }
        if self._folder and trainer.is_global_zero:
            for step, path in snapshots(self._folder.parent).items():
                if step > trainer.global_step:
                    path.unlink()

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Average after every optimizer step."""
        if is_accumulating(trainer) or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        current = list(_weights(score_module(pl_module).denoiser).values())
        for sigma_rel, averages in self._averages.items():
            torch._foreach_lerp_(list(averages.values()), current, 1 - decay(sigma_rel, self._step))
        if self._step % self._interval() == 0:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the averages of the last step."""
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The averages, for the checkpoint."""
        return {"step": self._step, "averages": {str(s): dict(a) for s, a in self._averages.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The averages, from the checkpoint."""
        self._step = state_dict["step"]
        self._averages = {float(s): a for s, a in state_dict["averages"].items()}

    def _interval(self) -> int:
        """Steps between snapshots, so that there are at most `max_snapshots` up to now."""
        interval = self.every_n_steps
        while self._step > interval * self.max_snapshots:
            interval *= 2
        return interval

    def _write(self, trainer: Trainer) -> None:
        """Write the averages, and remove what is between the snapshots that are kept."""
        if self._folder is None or self._step == 0:
            return
        check_run_folder(trainer)
        if not trainer.is_global_zero:
            return
        self._folder.mkdir(exist_ok=True)
        averages = {str(s): {k: v.cpu() for k, v in a.items()} for s, a in self._averages.items()}
        write_checkpoint({"step": self._step, "averages": averages}, self._folder / f"{self._step:09}.ckpt")
        for step, path in snapshots(self._folder.parent).items():
            if step % self._interval() and step != self._step:
                path.unlink()


def snapshots(run: Path) -> dict[int, Path]:
    """The snapshots of a run folder by their steps, in order."""
    found = {m.group(1): p for p in (run / _FOLDER).glob("*.ckpt") if (m := _NAME.fullmatch(p.name))}
    return {int(step): found[step] for step in sorted(found)}


def reconstruct(run: Path, sigma_rel: float) -> dict[str, Tensor]:
    """The average of the weights with another σ_rel at the last step, by the names of the network's weights.

    Raises:
        ConfigurationError: If the run has no snapshots, or σ_rel is out of range.
    """
    files = snapshots(run)
    if not files:
        raise ConfigurationError(
            f"{run}: has no snapshots of averages; train with --trainer.callbacks+ PowerEMA"
        )
    stored, weights = [], []
    for path in files.values():
        snapshot = read_checkpoint(path, mmap=True)
        for width, averages in snapshot["averages"].items():
            stored.append(Profile(float(width), snapshot["step"]))
            weights.append(averages)
    try:
        factors = coefficients(stored, Profile(sigma_rel, max(files)))
    except ValueError as error:
        raise ConfigurationError(f"--sigma_rel: {error}") from error
    return {
        name: _sum(factors, [w[name] for w in weights]).to(first.dtype) for name, first in weights[0].items()
    }


def _sum(factors: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """In float64."""
    return torch.stack([c * v.double() for c, v in zip(factors, values, strict=True)]).sum(0)


def _weights(denoiser: nn.Module) -> dict[str, Tensor]:
    """What is averaged: the parameters, by their names."""
    return dict(denoiser.named_parameters())
