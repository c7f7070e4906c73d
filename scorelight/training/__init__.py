"""Training under Lightning."""

from scorelight.training.learning_rate import LearningRateSchedule
from scorelight.training.muon import MuonWithAdam
from scorelight.training.power_ema import PowerEMA

__all__ = ["LearningRateSchedule", "MuonWithAdam", "PowerEMA"]
