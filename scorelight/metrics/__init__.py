"""How good samples are. `SampleQuality`, which needs torchmetrics, is in `scorelight.metrics.quality`."""

from scorelight.metrics.base import SampleMetric
from scorelight.metrics.features import FeatureExtractor, Features, ModuleFeatures, PixelFeatures
from scorelight.metrics.frechet import FrechetDistance, frechet_distance
from scorelight.metrics.inception import InceptionFeatures
from scorelight.metrics.statistics import FeatureSet, Moments

__all__ = [
    "FeatureExtractor",
    "FeatureSet",
    "Features",
    "FrechetDistance",
    "InceptionFeatures",
    "ModuleFeatures",
    "Moments",
    "PixelFeatures",
    "SampleMetric",
    "frechet_distance",
]
