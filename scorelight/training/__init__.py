"""Training under Lightning."""

from scorelight.training.learning_rate import LearningRateSchedule
from scorelight.training.muon import MuonWithAdam

__all__ = ["LearningRateSchedule", "MuonWithAdam"]
