"""Callbacks."""

from scorelight.callbacks.judging import FIDCallback, NLLCallback
from scorelight.callbacks.run import LastCheckpoint, RunProgressBar
from scorelight.callbacks.samples import SampleGridCallback, SampleWriter
from scorelight.callbacks.stopping import StopBetweenSteps
from scorelight.callbacks.trouble import TroubleCallback

__all__ = [
    "FIDCallback",
    "LastCheckpoint",
    "NLLCallback",
    "RunProgressBar",
    "SampleGridCallback",
    "SampleWriter",
    "StopBetweenSteps",
    "TroubleCallback",
]
