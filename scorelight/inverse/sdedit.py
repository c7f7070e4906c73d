"""Images that are changed by noising and denoising them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.inverse.base import PosteriorSampler, ThroughSampler
from scorelight.inverse.measurement import Measurement
from scorelight.processes.base import ForwardProcess
from scorelight.samplers.base import BoundDenoiser, Levels, NoiseSource, Sampler

__all__ = ["SDEdit"]


class SDEdit(ThroughSampler):
    """Noise A⁺y to a level on the way, and denoise it from there (Meng et al., 2022, algorithm 1).

    With the operator `Identity`, y is an image itself, such as a sketch that is to look real. Little noise
    keeps it, much noise draws another image. It is not a sample of p(x0 | y).

    Args:
        measurement: A; σ_y plays no part.
        sampler: Denoises (default: `DDIM` of 100 steps with η = 1).
        start: Time at which it starts, as a share of the process from 0, clean data, to 1, noise; t_0 of the
            paper, who recommend 0.3 to 0.6.
    """

    conditioned = PosteriorSampler.conditioned

    def __init__(self, measurement: Measurement, sampler: Sampler | None = None, start: float = 0.5) -> None:
        super().__init__(measurement, sampler)
        if not 0 < start <= 1:
            raise ConfigurationError(f"SDEdit: start={start}: above 0 and at most 1")
        self.start = start

    @override
    def levels(self, process: ForwardProcess) -> Levels:
        last = process.t_min + self.start * (process.t_max - process.t_min)
        levels = [level for level in super().levels(process) if float(level.time) <= last * (1 + 1e-9)]
        if len(levels) < 2:
            raise ConfigurationError(
                f"SDEdit: start={self.start}: {type(self.sampler).__name__} has no step there; give a larger "
                "start or more steps"
            )
        return levels

    @override
    def states(
        self, predict: BoundDenoiser, x: Tensor, levels: Levels, noise: NoiseSource
    ) -> Iterator[Tensor]:
        image = self.operator.pseudo_inverse(predict.cond["measurement"])
        yield from super().states(predict, levels[0].alpha * image + x, levels, noise)
