"""The randomness of a module in training."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from scorelight.likelihood.dequantization import UniformDequantization
from scorelight.rng import Generators, PhiloxGenerator, Stream

__all__ = ["dequantize", "module_generator"]


def module_generator(
    module: LightningModule, seed: int, first: int, num: int, device: torch.device
) -> PhiloxGenerator:
    """The randomness of a micro-batch, a function of (seed, step, place in the batch of the step).

    The batch of a step is that of all processes and micro-batches together. Example j of rank r of W has
    place j W + r in it, so no two have the same place, even if batches are of different sizes.

    Args:
        module: A module at a training step.
        seed: Seed of the run.
        first: Examples of this process in earlier micro-batches of the step.
        num: Examples of this micro-batch.
        device: Where the numbers are needed.
    """
    world_size, rank = module.trainer.world_size, module.global_rank
    places = torch.arange(first, first + num, device=device) * world_size + rank
    total = num * world_size * module.trainer.accumulate_grad_batches
    return PhiloxGenerator(seed, places, Stream.TRAINING, module.global_step, batch_size=total)


def dequantize(trainer: Trainer, x0: Tensor, generator: Generators) -> Tensor:
    """The data with their grey levels spread by uniform noise: the data module states their number."""
    spacing = 2 / (trainer.datamodule.num_bins - 1)  # type: ignore[attr-defined]
    return UniformDequantization().dequantize(x0, spacing, generator)[0]
