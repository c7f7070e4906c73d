"""Classifiers of noisy examples."""

from scorelight.classifiers.accuracy import LevelAccuracy, accuracy_by_level
from scorelight.classifiers.base import BayesClassifier, Classifier
from scorelight.classifiers.network import NetworkClassifier

__all__ = ["BayesClassifier", "Classifier", "LevelAccuracy", "NetworkClassifier", "accuracy_by_level"]
