"""Classifiers of noisy examples."""

from scorelight.classifiers.base import BayesClassifier, Classifier

__all__ = ["BayesClassifier", "Classifier"]
