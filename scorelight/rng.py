"""Randomness as an argument.

Every random draw takes a `generator`: None (PyTorch's global one), one of PyTorch's generators, or a
`PhiloxGenerator`, which knows the examples of a batch. Its numbers are a function of (seed, stream, example,
step, draw, position) alone, computed on the device where they are needed. So example i gets the same ones
whatever the batch size, the rank, the number of processes, the device, or what was drawn for others; there is
no state to store, and a process computes those of its own examples only.

The counter of a block of four numbers is (position // 4, example, step, stream · 2²⁸ + draw), and the key is
the seed of 64 bits. For one key the blocks are a permutation of the counters: no two blocks of a seed are
equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from scorelight.errors import ConfigurationError
from scorelight.philox import normal, philox, philox_block, sign, uniform

__all__ = [
    "Generators",
    "PhiloxGenerator",
    "Stream",
    "hash_seed",
    "rademacher_like",
    "rand",
    "rand_like",
    "randn_like",
    "seed_device",
    "step_seed",
    "stratified",
]

_MASK = 0xFFFFFFFF
_DRAWS = 2**28
_CHUNK = {"cpu": 2**14}
"""Blocks computed at once: few enough for the cache of a core; on other devices 2²²."""


class Stream(IntEnum):
    """What numbers are drawn for; those of different streams are independent."""

    SAMPLES = 0
    TRAINING = 1
    VALIDATION = 2
    LIKELIHOOD = 3
    BATCH = 4
    """Numbers that the examples of a batch share."""
    NETWORK = 5
    """Seeds of PyTorch's own generators, of which layers such as dropout draw."""


class PhiloxGenerator:
    """Random numbers of the examples of a batch, independent of its composition.

    Draws are numbered in the order in which they are made: a second draw gives other numbers, and a new
    generator with the same arguments gives the same ones again.

    Args:
        seed: From 0 to 2⁶⁴ − 1.
        examples: Index of each example of the batch, from 0 to 2³² − 1. Those of a tensor are not checked,
            since it may lie on a device that would have to be waited for.
        stream: What the numbers are for.
        step: Step of the training, from 0 to 2³² − 1.
        batch_size: Number of examples that a step has on all processes together, for `stratified`; without
            it, examples are independent.

    Raises:
        ConfigurationError: If a number is out of range.
    """

    def __init__(
        self,
        seed: int,
        examples: Tensor | Sequence[int],
        stream: Stream = Stream.SAMPLES,
        step: int = 0,
        batch_size: int | None = None,
    ) -> None:
        _check_seed(seed)
        self.seed = seed
        low, high = (
            (0, 0) if isinstance(examples, Tensor) else (min(examples, default=0), max(examples, default=0))
        )
        if not (0 <= low <= high <= _MASK and 0 <= step <= _MASK):
            raise ConfigurationError(
                f"random numbers of examples {low} to {high} at step {step}: from 0 to 2**32 - 1 are possible"
            )
        self.examples = torch.as_tensor(examples, dtype=torch.int64)
        self.stream = stream
        self.step = step
        self.batch_size = batch_size
        self.num_draws = 0

    def draw(
        self,
        shape: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        distribution: Callable[[Tensor, torch.dtype], Tensor],
    ) -> Tensor:
        """The next draw: numbers of the given shape for each example.

        Args:
            shape: Shape for one example.
            device: Where they are computed.
            dtype: Single or double precision.
            distribution: Makes numbers of words, such as `philox.normal`.

        Returns:
            Shape (len(examples), *shape).
        """
        size = math.prod(shape)
        blocks = -(-size // 4)
        self.examples = self.examples.to(device)
        numbers = torch.empty(len(self.examples), blocks, 2, 2, dtype=dtype, device=device)
        block, example = torch.arange(blocks, device=device), self.examples[:, None]
        last, key = self._draw_number(), (self.seed & _MASK, self.seed >> 32)
        chunk = _CHUNK.get(device.type, 2**22)
        rows = max(chunk // max(blocks, 1), 1)
        for i in range(0, len(numbers), rows):
            for j in range(0, blocks, chunk):
                words = philox((block[j : j + chunk], example[i : i + rows], self.step, last), key)
                part = numbers[i : i + rows, j : j + chunk]
                part.permute(3, 2, 0, 1).copy_(distribution(words, dtype))
        return numbers.view(len(numbers), 4 * blocks)[:, :size].reshape(-1, *shape).contiguous()

    def of_batch(self) -> float:
        """A uniform number that is the same for all examples of the step, on every process."""
        last = Stream.BATCH * _DRAWS + self._draw_number() % _DRAWS
        word, *_ = philox_block((0, 0, self.step, last), (self.seed & _MASK, self.seed >> 32))
        return (word + 0.5) * 2.0**-32

    def _draw_number(self) -> int:
        """Count a draw; the word of the counter that holds the stream and the number of the draw."""
        if self.num_draws >= _DRAWS:
            raise ConfigurationError("random numbers: more than 2**28 draws for an example at one step")
        self.num_draws += 1
        return self.stream * _DRAWS + self.num_draws - 1


Generators = torch.Generator | PhiloxGenerator | None


def hash_seed(*keys: int) -> int:
    """64 well-mixed bits of (seed, step, rank, ...), each from 0 to 2⁶⁴−1; by numpy's `SeedSequence`.

    `SeedSequence` gives the same bits for (1,), (1, 0) and (1, 0, 0). Hence the number of keys is the
    first word, and every key takes two.
    """
    for key in keys:
        _check_seed(key)
    words = [word for key in keys for word in (key & _MASK, key >> 32)]
    return int(np.random.SeedSequence([len(keys), *words]).generate_state(1, np.uint64)[0])


def step_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """64 bits for PyTorch's own generators at a micro-batch of a training step.

    Args:
        seed: Seed of the run, 0 to 2⁶⁴ − 1.
        step: The step, 0 to 2³² − 1, like the others.
        micro_batch: Its micro-batch.
        rank: The process.
    """
    counter = (micro_batch, rank, step, Stream.NETWORK * _DRAWS)
    low, high, *_ = philox_block(counter, (seed & _MASK, seed >> 32))
    return low | high << 32


def seed_device(seed: int, device: torch.device) -> None:
    """Seed PyTorch's own generators, those of the host and of one device.

    `torch.manual_seed` seeds all devices, and records the call stack for those that are not in use, which
    takes as long as a step of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


def rand(num: int, generator: Generators, device: torch.device) -> Tensor:
    """`num` uniform numbers in [0, 1), float64."""
    if isinstance(generator, PhiloxGenerator):
        _check_batch(generator, num)
        return generator.draw((), device, torch.float64, uniform)
    where = generator.device if generator else device
    return torch.rand(num, generator=generator, dtype=torch.float64, device=where).to(device)


def stratified(num: int, generator: Generators, device: torch.device) -> Tensor:
    """`num` uniform numbers, one from each slice of equal probability: (u + i/B) mod 1 with one u for all.

    B counts the examples of the step on all processes. A `PhiloxGenerator` without a batch size draws
    for each example by itself.
    """
    if isinstance(generator, PhiloxGenerator):
        if generator.batch_size is None:
            return rand(num, generator, device)
        _check_batch(generator, num)
        steps = generator.examples.to(device).double() / generator.batch_size
        return (generator.of_batch() + steps) % 1
    steps = torch.arange(num, dtype=torch.float64, device=device) / num
    return (rand(1, generator, device) + steps) % 1


def randn_like(x: Tensor, generator: Generators) -> Tensor:
    """Standard normal noise of x's shape, type and device; of 16 bits, rounded from 32."""
    if isinstance(generator, PhiloxGenerator):
        _check_batch(generator, len(x))
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return generator.draw(x.shape[1:], x.device, dtype, normal).to(x.dtype)
    where = generator.device if generator else x.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=where).to(x.device)


def rademacher_like(x: Tensor, generator: Generators) -> Tensor:
    """Signs, +1 or −1 with equal probability, of x's shape, type and device."""
    if isinstance(generator, PhiloxGenerator):
        _check_batch(generator, len(x))
        return generator.draw(x.shape[1:], x.device, torch.float32, sign).to(x.dtype)
    return torch.where(randn_like(x, generator) < 0, -1.0, 1.0).to(x.dtype)


def rand_like(x: Tensor, generator: Generators) -> Tensor:
    """Uniform noise in [0, 1) of x's shape and device, float64."""
    if isinstance(generator, PhiloxGenerator):
        _check_batch(generator, len(x))
        return generator.draw(x.shape[1:], x.device, torch.float64, uniform)
    return rand(x.numel(), generator, x.device).reshape(x.shape)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise ConfigurationError(f"seed {seed}: seeds are integers from 0 to 2**64 - 1")


def _check_batch(generator: PhiloxGenerator, num: int) -> None:
    if len(generator.examples) != num:
        raise ValueError(f"random numbers of {len(generator.examples)} examples for a batch of {num}")
