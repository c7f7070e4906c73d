"""Objectives: what is minimised."""

from scorelight.objectives.base import Loss, Objective, Weighting
from scorelight.objectives.denoising import DenoisingScoreMatching, EpsilonPrediction
from scorelight.objectives.explicit import ExplicitScoreMatching
from scorelight.objectives.implicit import ImplicitScoreMatching, SlicedScoreMatching
from scorelight.objectives.variational import HybridObjective, VariationalBound
from scorelight.objectives.weightings import (
    EDMWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    SigmaSquaredWeighting,
    SigmoidWeighting,
    UniformWeighting,
)

__all__ = [
    "DenoisingScoreMatching",
    "EDMWeighting",
    "EpsilonPrediction",
    "ExplicitScoreMatching",
    "HybridObjective",
    "ImplicitScoreMatching",
    "LikelihoodWeighting",
    "Loss",
    "MinSNRWeighting",
    "Objective",
    "SigmaSquaredWeighting",
    "SigmoidWeighting",
    "SlicedScoreMatching",
    "UniformWeighting",
    "VariationalBound",
    "Weighting",
]
