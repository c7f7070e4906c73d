"""Samples that are functions of (seed, i) alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from scorelight.denoisers.base import Denoiser
from scorelight.rng import PhiloxGenerator, randn_like
from scorelight.samplers.base import Sampler

__all__ = ["device_of", "generate"]


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    sampler: Sampler,
    shape: Sequence[int],
    seed: int,
    indices: Sequence[int],
    cond: Mapping[str, Any] | None = None,
    *,
    noise: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the states of the sampler, each of shape (len(indices), *shape); the last are the samples.

    Sample i is a function of (seed, i): the same for any batch size and any number of processes.

    Args:
        denoiser: The model, on the device where samples are drawn; guided or wrapped otherwise.
        sampler: How to sample.
        shape: Shape of one example.
        seed: Seed of all samples, from 0 to 2⁶⁴ − 1.
        indices: Which samples to draw.
        cond: Conditions for the network; tensors of shape (len(indices), ...).
        noise: Unit noise to start from instead of that of (seed, i), such as the encoding of an example.
    """
    generator = PhiloxGenerator(seed, indices)
    if noise is None:
        noise = randn_like(torch.empty(len(indices), *shape, device=device_of(denoiser)), generator)
    yield from sampler.sample_path(denoiser, noise, generator=generator, **(cond or {}))


def device_of(denoiser: Denoiser) -> torch.device:
    """The device of the denoiser's weights; the CPU for one without weights."""
    weights = chain(denoiser.parameters(), denoiser.buffers())
    return next((w.device for w in weights), torch.device("cpu"))
