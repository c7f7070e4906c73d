"""Guidance: denoisers around denoisers, which change what is sampled."""

from scorelight.guidance.autoguidance import Autoguidance
from scorelight.guidance.class_likelihood import ClassLikelihood
from scorelight.guidance.classifier import ClassifierGuidance
from scorelight.guidance.classifier_free import ClassifierFreeGuidance
from scorelight.guidance.clip import CLIPGuidance

__all__ = [
    "Autoguidance",
    "CLIPGuidance",
    "ClassLikelihood",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
]
