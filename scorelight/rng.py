"""Randomness as an argument.

Every random draw takes a `generator`: None (PyTorch's global one), one generator for the batch, a
`RankSlice` of what one generator draws for the batches of all processes together, or **one generator
per example**. The last makes example i a function of (seed, i) alone, whatever the batch size, the
rank or the number of processes.

PyTorch's CPU generator keeps only the low 32 bits of its seed, so seeds that are hashed to 64 bits
collide by chance (for 50,000 images, once in three runs). `per_example_generators` therefore uses a
one-to-one map of i to 32 bits: within one run no two indices share their noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from scorelight.errors import ConfigurationError

__all__ = [
    "Generators",
    "RankSlice",
    "hash_seed",
    "per_example_generators",
    "rademacher_like",
    "rand",
    "rand_like",
    "randn_like",
    "step_generator",
    "stratified",
]


class RankSlice:
    """The part of rank r of W in what one generator draws: the same draws for any number of processes.

    Every process draws for the global batch, which costs almost nothing, and keeps its part.

    Args:
        generator: In the same state on every rank.
        rank: This process.
        world_size: Number of processes; their batches must be of one size.
    """

    def __init__(self, generator: torch.Generator, rank: int = 0, world_size: int = 1) -> None:
        self.generator = generator
        self.rank = rank
        self.world_size = world_size

    def local(self, draws: Tensor) -> Tensor:
        """This rank's part of the draws for all ranks, along the first dimension."""
        return draws.chunk(self.world_size)[self.rank]


def step_generator(
    seed: int, step: int, micro_batch: int, rank: int, world_size: int, device: torch.device
) -> RankSlice:
    """The randomness of a training step, a function of (seed, step, micro-batch, position in global batch).

    Args:
        seed: Seed of the run.
        step: Optimizer step.
        micro_batch: Batch within the step.
        rank: This process.
        world_size: Number of processes.
        device: Where the draws are made.
    """
    generator = torch.Generator(device).manual_seed(hash_seed(seed, step, micro_batch))
    return RankSlice(generator, rank, world_size)


Generators = torch.Generator | RankSlice | Sequence[torch.Generator] | None

_MASK = 0xFFFFFFFF


def hash_seed(*keys: int) -> int:
    """64 well-mixed bits of (seed, step, rank, ...), each from 0 to 2⁶⁴−1; by numpy's `SeedSequence`.

    `SeedSequence` gives the same bits for (1,), (1, 0) and (1, 0, 0). Hence the number of keys is the
    first word, and every key takes two.
    """
    if bad := [key for key in keys if not 0 <= key < 2**64]:
        raise ConfigurationError(f"seed {bad[0]}: seeds are integers from 0 to 2**64 - 1")
    words = [word for key in keys for word in (key & _MASK, key >> 32)]
    return int(np.random.SeedSequence([len(keys), *words]).generate_state(1, np.uint64)[0])


def _scramble(i: int) -> int:
    """Murmur3's 32-bit finalizer, a bijection of 0..2³²−1 (Appleby, 2011)."""
    i ^= i >> 16
    i = i * 0x85EBCA6B & _MASK
    i ^= i >> 13
    i = i * 0xC2B2AE35 & _MASK
    return i ^ i >> 16


def per_example_generators(seed: int, indices: Iterable[int]) -> list[torch.Generator]:
    """One CPU generator per index, a function of (seed, index), distinct for indices below 2³²."""
    key = hash_seed(seed) & _MASK
    return [torch.Generator().manual_seed(_scramble(_scramble(int(i) & _MASK) ^ key)) for i in indices]


def rand(num: int, generator: Generators, device: torch.device) -> Tensor:
    """`num` uniform numbers in [0, 1), float64."""
    if isinstance(generator, Sequence):
        _check(generator, num)
        return torch.cat([rand(1, g, g.device) for g in generator]).to(device)
    if isinstance(generator, RankSlice):
        return generator.local(rand(num * generator.world_size, generator.generator, device))
    where = generator.device if generator else device
    return torch.rand(num, generator=generator, dtype=torch.float64, device=where).to(device)


def stratified(num: int, generator: Generators, device: torch.device) -> Tensor:
    """`num` uniform numbers, one from each slice of equal probability: (u + i/B) mod 1 with one u for all.

    B counts the examples of all processes. With one generator per example, each draws for itself.
    """
    if isinstance(generator, Sequence):
        return rand(num, generator, device)
    if isinstance(generator, RankSlice):
        return generator.local(stratified(num * generator.world_size, generator.generator, device))
    steps = torch.arange(num, dtype=torch.float64, device=device) / num
    return (rand(1, generator, device) + steps) % 1


def randn_like(x: Tensor, generator: Generators) -> Tensor:
    """Standard normal noise of x's shape, type and device."""
    if isinstance(generator, Sequence):
        _check(generator, len(x))
        return torch.stack([_randn(x.shape[1:], g, x.dtype, g.device) for g in generator]).to(x.device)
    if isinstance(generator, RankSlice):
        all_of_them = x.new_empty(len(x) * generator.world_size, *x.shape[1:])
        return generator.local(randn_like(all_of_them, generator.generator))
    return _randn(x.shape, generator, x.dtype, generator.device if generator else x.device).to(x.device)


def rademacher_like(x: Tensor, generator: Generators) -> Tensor:
    """Signs, +1 or −1 with equal probability, of x's shape, type and device."""
    return torch.where(randn_like(x, generator) < 0, -1.0, 1.0).to(x.dtype)


def rand_like(x: Tensor, generator: Generators) -> Tensor:
    """Uniform noise in [0, 1) of x's shape and device, float64."""
    if isinstance(generator, Sequence):
        _check(generator, len(x))
        return torch.stack([rand(x[0].numel(), g, x.device).reshape(x.shape[1:]) for g in generator])
    return rand(x.numel(), generator, x.device).reshape(x.shape)


def _randn(
    shape: torch.Size, generator: torch.Generator | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=dtype, device=device)


def _check(generator: Sequence[torch.Generator], num: int) -> None:
    if len(generator) != num:
        raise ValueError(f"{len(generator)} generators for a batch of {num}")
