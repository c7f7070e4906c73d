"""Callbacks."""

from scorelight.callbacks.run import LastCheckpoint, RunProgressBar
from scorelight.callbacks.samples import SampleGridCallback, SampleWriter

__all__ = ["LastCheckpoint", "RunProgressBar", "SampleGridCallback", "SampleWriter"]
