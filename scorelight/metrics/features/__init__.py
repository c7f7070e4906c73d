"""Feature extractors: the spaces in which samples are compared."""

from scorelight.metrics.features.base import FeatureExtractor, Features
from scorelight.metrics.features.digits import DigitsFeatures, MNISTFeatures
from scorelight.metrics.features.inception import InceptionFeatures
from scorelight.metrics.features.module import ModuleFeatures
from scorelight.metrics.features.pixels import PixelFeatures

__all__ = [
    "DigitsFeatures",
    "FeatureExtractor",
    "Features",
    "InceptionFeatures",
    "MNISTFeatures",
    "ModuleFeatures",
    "PixelFeatures",
]
