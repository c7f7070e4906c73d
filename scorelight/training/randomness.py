"""The randomness of a module in training."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from scorelight.likelihood.dequantization import UniformDequantization
from scorelight.rng import Generators, RankSlice, step_generator

__all__ = ["dequantize", "module_generator"]


def module_generator(module: LightningModule, seed: int, batch_idx: int, device: torch.device) -> RankSlice:
    """The randomness of the training step that a module is at; see `step_generator`."""
    world_size = module.trainer.world_size
    return step_generator(seed, module.global_step, batch_idx, module.global_rank, world_size, device)


def dequantize(trainer: Trainer, x0: Tensor, generator: Generators) -> Tensor:
    """The data with their grey levels spread by uniform noise: the data module states their number."""
    spacing = 2 / (trainer.datamodule.num_bins - 1)  # type: ignore[attr-defined]
    return UniformDequantization().dequantize(x0, spacing, generator)[0]
