"""Samples that are functions of (seed, i) alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from scorelight.denoisers.base import Denoiser
from scorelight.rng import per_example_generators, randn_like
from scorelight.samplers.base import Sampler

__all__ = ["generate"]


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    sampler: Sampler,
    shape: Sequence[int],
    seed: int,
    indices: Sequence[int],
    cond: Mapping[str, Tensor] | None = None,
) -> Iterator[Tensor]:
    """Yield the states of the sampler, each of shape (len(indices), *shape); the last are the samples.

    Sample i is a function of (seed, i): the same for any batch size and any number of processes.

    Args:
        denoiser: What predicts, on the device where samples are drawn; guided, counted or wrapped otherwise.
        sampler: How to sample.
        shape: Shape of one example.
        seed: Seed of all samples, from 0 to 2⁶⁴ − 1.
        indices: Which samples to draw.
        cond: Conditions for the network, each of shape (len(indices), ...).
    """
    generators = per_example_generators(seed, indices)
    noise = randn_like(torch.empty(len(indices), *shape), generators).to(_device(denoiser))
    yield from sampler.sample_path(denoiser, noise, generator=generators, **(cond or {}))


def _device(denoiser: Denoiser) -> torch.device:
    """Where the denoiser's weights lie; the CPU for one without any."""
    weights = chain(denoiser.parameters(), denoiser.buffers())
    return next((w.device for w in weights), torch.device("cpu"))
