"""Training under Lightning."""

from scorelight.training.classifier import ClassifierModule
from scorelight.training.image_text import ImageTextModule
from scorelight.training.learning_rate import LearningRateSchedule
from scorelight.training.muon import MuonWithAdam
from scorelight.training.power_ema import PowerEMA

__all__ = ["ClassifierModule", "ImageTextModule", "LearningRateSchedule", "MuonWithAdam", "PowerEMA"]
