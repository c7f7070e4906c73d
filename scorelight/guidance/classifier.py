"""Classifier guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from scorelight.classifiers.base import Classifier
from scorelight.denoisers.base import Denoiser, Prediction
from scorelight.errors import ConfigurationError
from scorelight.guidance.base import Interval
from scorelight.guidance.gradient import GradientGuidance
from scorelight.processes.base import AnyLevel
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_classifier

__all__ = ["ClassifierGuidance"]


class ClassifierGuidance(GradientGuidance):
    """∇log p_t(x_t) ← ∇log p_t(x_t) + s ∇log p(c | x_t) (Dhariwal & Nichol, 2021, eq. 14).

    The gradient is taken at x_t, through the classifier alone. With the exact classifier and s = 1 every
    sampler draws of p(x | c), for every process. For s ≠ 1 no diffusion has this score; see
    `ClassifierFreeGuidance` for what is drawn then, and `ExactGuidance` for p(x) p(c | x)^s itself.

    The class is the condition ``label`` of each example. One without a class is drawn without guidance.

    Args:
        denoiser: The model.
        classifier: p(c | x_t); or the run folder or checkpoint of one, see `ClassifierModule`.
        scale: s.
        interval: Guide between these values of σ/α only.
        conditional: Whether the model is given the class, too; else it predicts without it.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: str | Path | Classifier,
        scale: float = 1.0,
        interval: Interval | None = None,
        conditional: bool = False,
    ) -> None:
        super().__init__(denoiser, scale, interval, conditional)
        if not isinstance(classifier, Classifier):
            classifier = load_classifier(find_checkpoint(classifier))
        if (denoiser.num_classes or classifier.num_classes) != classifier.num_classes:
            raise ConfigurationError(
                f"ClassifierGuidance: the classifier knows {classifier.num_classes} classes, the model "
                f"{denoiser.num_classes}; take a classifier that was trained on the same data"
            )
        self.num_classes = classifier.num_classes
        self.classifier = classifier.requires_grad_(False).eval()

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        if cond.get("label") is None:
            raise ConfigurationError(
                "ClassifierGuidance: which class? Give --labels, or a label for each example"
            )
        return super().predict(x_t, level, **cond)

    @override
    def log_likelihood(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Tensor:
        return self.classifier.log_prob_of(x_t, level, cond["label"])
