"""How good samples are. `SampleQuality`, which needs torchmetrics, is in `scorelight.metrics.quality`."""

from scorelight.metrics.base import Metric, SampleMetric
from scorelight.metrics.classifiers import DigitsFeatures, MNISTFeatures
from scorelight.metrics.features import FeatureExtractor, Features, ModuleFeatures, PixelFeatures
from scorelight.metrics.frechet import FrechetDistance, frechet_distance
from scorelight.metrics.inception import InceptionFeatures
from scorelight.metrics.inception_score import InceptionScore, inception_score
from scorelight.metrics.kernel import KernelDistance, kernel_distance
from scorelight.metrics.mmd import MaximumMeanDiscrepancy, maximum_mean_discrepancy, median_distance
from scorelight.metrics.precision_recall import PrecisionRecall, precision_recall
from scorelight.metrics.score_error import ScoreError, score_error
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
    "MNISTFeatures",
    "MaximumMeanDiscrepancy",
    "Metric",
    "ModuleFeatures",
    "Moments",
    "PixelFeatures",
    "PrecisionRecall",
    "SampleMetric",
    "ScoreError",
    "SlicedWasserstein",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "maximum_mean_discrepancy",
    "median_distance",
    "precision_recall",
    "score_error",
    "sliced_wasserstein",
]
