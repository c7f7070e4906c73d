"""How good samples are. `SampleQuality`, which needs torchmetrics, is in `scorelight.metrics.quality`."""

from scorelight.metrics.base import LikelihoodMetric, Metric, MetricResult, SampleQualityMetric
from scorelight.metrics.features import (
    DigitsFeatures,
    FeatureExtractor,
    Features,
    InceptionFeatures,
    MNISTFeatures,
    ModuleFeatures,
    PixelFeatures,
)
from scorelight.metrics.frechet import FrechetDistance, frechet_distance
from scorelight.metrics.inception_score import InceptionScore, inception_score
from scorelight.metrics.kernel import KernelDistance, kernel_distance
from scorelight.metrics.likelihood import NegativeLogLikelihood, VariationalBoundMetric
from scorelight.metrics.mmd import MaximumMeanDiscrepancy, maximum_mean_discrepancy, median_distance
from scorelight.metrics.precision_recall import PrecisionRecall, precision_recall
from scorelight.metrics.statistics import FeatureSet, Moments
from scorelight.metrics.wasserstein import SlicedWasserstein, sliced_wasserstein

__all__ = [
    "DigitsFeatures",
    "FeatureExtractor",
    "FeatureSet",
    "Features",
    "FrechetDistance",
    "InceptionFeatures",
    "InceptionScore",
    "KernelDistance",
    "LikelihoodMetric",
    "MNISTFeatures",
    "MaximumMeanDiscrepancy",
    "Metric",
    "MetricResult",
    "ModuleFeatures",
    "Moments",
    "NegativeLogLikelihood",
    "PixelFeatures",
    "PrecisionRecall",
    "SampleQualityMetric",
    "SlicedWasserstein",
    "VariationalBoundMetric",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "maximum_mean_discrepancy",
    "median_distance",
    "precision_recall",
    "sliced_wasserstein",
]
