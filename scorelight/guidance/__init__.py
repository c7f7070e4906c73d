"""Guidance: denoisers around denoisers, which change what is sampled."""

from scorelight.guidance.autoguidance import Autoguidance
from scorelight.guidance.classifier import ClassifierGuidance
from scorelight.guidance.classifier_free import ClassifierFreeGuidance
from scorelight.guidance.exact import ExactGuidance

__all__ = ["Autoguidance", "ClassifierFreeGuidance", "ClassifierGuidance", "ExactGuidance"]
