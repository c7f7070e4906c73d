"""Time grids and time samplers with prescribed values."""

import torch
from torch import Tensor

from scorelight import ForwardProcess, TimeGrid, TimeSampler
from scorelight.rng import Generators


class PrescribedGrid(TimeGrid):
    """A grid of the given times."""

    def __init__(self, *times: float) -> None:
        self.times = times

    def __call__(self, process: ForwardProcess, num_times: int) -> Tensor:
        """The times, whose number must be the one asked for."""
        assert num_times == len(self.times)
        return torch.tensor(self.times, dtype=torch.float64)


class FrozenTime(TimeSampler):
    """Draws as another time sampler does, and learns nothing from the losses."""

    def __init__(self, times: TimeSampler) -> None:
        super().__init__()
        self.times = times

    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the other sampler."""
        return self.times.quantile(process, u)

    def num_timesteps_of(self, process: ForwardProcess) -> int | None:
        """That of the other sampler."""
        return self.times.num_timesteps_of(process)


class PrescribedTime(FrozenTime):
    """Times and weights of another time sampler at the given u instead of random ones."""

    def __init__(self, times: TimeSampler, u: Tensor) -> None:
        super().__init__(times)
        self.u = u

    def forward(
        self, process: ForwardProcess, num: int, *, generator: Generators, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The quantiles at the given u."""
        return self.quantile(process, self.u)
