"""Evaluation of a model: list what is missing → generate → store → read → features → metrics."""

from scorelight.evaluation.callbacks import FIDCallback, NLLCallback
from scorelight.evaluation.context import DistributedContext
from scorelight.evaluation.evaluator import Evaluator
from scorelight.evaluation.sample_grid import SampleGridCallback, SampleWriter
from scorelight.evaluation.samples import SampleSource

__all__ = [
    "DistributedContext",
    "Evaluator",
    "FIDCallback",
    "NLLCallback",
    "SampleGridCallback",
    "SampleSource",
    "SampleWriter",
]
