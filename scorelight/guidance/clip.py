"""Guidance by a caption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from scorelight.denoisers.base import Denoiser
from scorelight.guidance.base import Interval
from scorelight.guidance.gradient import GradientGuidance
from scorelight.image_text.model import ImageText
from scorelight.processes.base import AnyLevel
from scorelight.storage.runs import find_checkpoint
from scorelight.training.loading import load_image_text

__all__ = ["CLIPGuidance"]


class CLIPGuidance(GradientGuidance):
    """∇log p_t(x_t) ← ∇log p_t(x_t) + s ∇[f(x_t) · g(c)] (Nichol et al., 2021, "GLIDE", sec. 2.4).

    The product of the encodings of the noisy image and the caption is log p(c | x_t), up to terms that do not
    change the gradient, if the encoders have learned it (`ImageText`). Then s = 1 is p(x | c), and this is
    `ClassifierGuidance` with captions for classes: what is stated there holds here.

    Args:
        denoiser: The model.
        model: The encoders; or the run folder or checkpoint of an `ImageTextModule`.
        prompt: The caption c, such as "a thick slanted three".
        scale: s.
        interval: Guide between these values of σ/α only.
        conditional: Whether the model is given the conditions, too; else it predicts without them.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        model: str | Path | ImageText,
        prompt: str,
        scale: float = 1.0,
        interval: Interval | None = None,
        conditional: bool = False,
    ) -> None:
        super().__init__(denoiser, scale, interval, conditional)
        if not isinstance(model, ImageText):
            model = load_image_text(find_checkpoint(model))
        self.model = model.requires_grad_(False).eval()
        self.prompt = prompt
        self.register_buffer("caption", model.encode_captions([prompt]), persistent=False)

    caption: Tensor

    @override
    def log_likelihood(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Tensor:
        products: Tensor = self.model.encode_images(x_t, level) @ self.caption.to(x_t).T
        return products[:, 0]
