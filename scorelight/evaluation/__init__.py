"""Evaluation of a model: list what is missing → generate → store → read → features → metrics."""

from scorelight.evaluation.callbacks import FIDCallback, NLLCallback
from scorelight.evaluation.classifier_report import ClassifierReport
from scorelight.evaluation.context import DistributedContext
from scorelight.evaluation.evaluator import Evaluator
from scorelight.evaluation.sample_grid import SampleGridCallback, SampleWriter
from scorelight.evaluation.samples import SampleSource

__all__ = [
    "ClassifierReport",
    "DistributedContext",
    "Evaluator",
    "FIDCallback",
    "NLLCallback",
    "SampleGridCallback",
    "SampleSource",
    "SampleWriter",
]
