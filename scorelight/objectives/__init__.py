"""Objectives: what is minimised."""

from scorelight.objectives.base import Loss, Objective, Weighting
from scorelight.objectives.denoising import DenoisingScoreMatching, EpsilonPrediction
from scorelight.objectives.weightings import SigmaSquaredWeighting, UniformWeighting

__all__ = [
    "DenoisingScoreMatching",
    "EpsilonPrediction",
    "Loss",
    "Objective",
    "SigmaSquaredWeighting",
    "UniformWeighting",
    "Weighting",
]
