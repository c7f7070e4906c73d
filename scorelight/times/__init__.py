"""Times: drawn at random for training (`TimeSampler`), laid out on a grid for sampling (`TimeGrid`)."""

from scorelight.times.base import TimeGrid, TimeSampler
from scorelight.times.continuous import (
    FixedTime,
    ImportanceTime,
    LogitNormalTime,
    LogNormalTime,
    StratifiedTime,
    UniformTime,
)
from scorelight.times.discrete import DiscreteTime, LossAwareTime
from scorelight.times.grids import (
    DiscreteGrid,
    KarrasGrid,
    LogSNRGrid,
    MixedGrid,
    NearestLevels,
    QuadraticGrid,
    TrailingGrid,
    UniformGrid,
)

__all__ = [
    "DiscreteGrid",
    "DiscreteTime",
    "FixedTime",
    "ImportanceTime",
    "KarrasGrid",
    "LogNormalTime",
    "LogSNRGrid",
    "LogitNormalTime",
    "LossAwareTime",
    "MixedGrid",
    "NearestLevels",
    "QuadraticGrid",
    "StratifiedTime",
    "TimeGrid",
    "TimeSampler",
    "TrailingGrid",
    "UniformGrid",
    "UniformTime",
]
