"""Classifier guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.classifiers.base import Classifier
from scorelight.denoisers.base import Denoiser, DenoiserWrapper, Prediction
from scorelight.errors import ConfigurationError
from scorelight.guidance.base import Interval, add_score, check_scale, is_constant, scale_at
from scorelight.processes.base import AnyLevel
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_classifier

__all__ = ["ClassifierGuidance"]


class ClassifierGuidance(DenoiserWrapper):
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
        super().__init__(denoiser)
        check_scale("ClassifierGuidance", scale, interval)
        if not isinstance(classifier, Classifier):
            classifier = load_classifier(find_checkpoint(classifier))
        if (denoiser.num_classes or classifier.num_classes) != classifier.num_classes:
            raise ConfigurationError(
                f"ClassifierGuidance: the classifier knows {classifier.num_classes} classes, the model "
                f"{denoiser.num_classes}; take a classifier that was trained on the same data"
            )
        self.num_classes = classifier.num_classes
        self.classifier = classifier.requires_grad_(False).eval()
        self.scale, self.interval, self.conditional = scale, interval, conditional

    @override
    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        label = cond.get("label")
        if label is None:
            raise ConfigurationError(
                "ClassifierGuidance: which class? Give --labels, or a label for each example"
            )
        ask = self.denoiser.predict if self.conditional else self.denoiser.unconditional
        pred = ask(x_t, level, **cond)
        scale = scale_at(level, self.scale, self.interval, outside=0.0)
        if is_constant(scale, 0):
            return pred
        return add_score(pred, self._gradient(x_t, level, label), scale)

    def _gradient(self, x_t: Tensor, level: AnyLevel, label: Any) -> Tensor:
        """∇log p(c | x_t) by x_t."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.detach().clone().requires_grad_()
            log_prob = self.classifier.log_prob_of(x, level, label)
            (gradient,) = torch.autograd.grad(log_prob.sum(), x)
        return gradient
