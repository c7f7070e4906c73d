"""Encoders of the OpenCLIP collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from typing_extensions import override

from scorelight.errors import ConfigurationError, nearest
from scorelight.image_text.model import ImageText
from scorelight.processes.base import AnyLevel

__all__ = ["OpenCLIP"]


class OpenCLIP(ImageText):
    """A model of OpenCLIP (Ilharco et al., 2021; Radford et al., 2021), for `CLIPGuidance` by any caption.

    It has learned from clean images: its encoding of x_t/α is that of a noisy photograph. Guidance by it is
    useful at low noise, so give `CLIPGuidance` an interval, such as 0 to 1; a `NoisyCLIP` serves all levels.
    Images are scaled to the model's size; grey ones are shown in three equal channels.

    Needs the package open_clip_torch, which ``pip install "scorelight[openclip]"`` installs.

    Args:
        name: Architecture, such as ViT-B-32; ``open_clip.list_models()`` has all.
        pretrained: Weights: a name of OpenCLIP, such as laion2b_s34b_b79k, which are downloaded when they
            are first used, or a file.
    """

    def __init__(self, name: str, pretrained: str) -> None:
        super().__init__()
        clip = _open_clip()
        if name not in clip.list_models():
            raise ConfigurationError(f"OpenCLIP: name={name!r}: {nearest(name, clip.list_models())}")
        known = clip.pretrained.get_pretrained_cfg(name, pretrained)
        quick_gelu = bool(known.get("quick_gelu", False))
        try:
            model = clip.create_model(name, pretrained, force_quick_gelu=quick_gelu, weights_only=True)
        except Exception as error:  # of the network, the disk or the file, as OpenCLIP words them
            tags = ", ".join(clip.list_pretrained_tags_by_model(name))
            raise ConfigurationError(
                f"OpenCLIP: pretrained={pretrained!r}: these weights of {name} cannot be loaded "
                f"({_first_line(error)}); give a file, or one of: {tags or 'none is offered for it'}"
            ) from error
        self.model = model.eval()
        self.tokenizer = clip.get_tokenizer(name)
        size = model.visual.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        mean = torch.tensor(model.visual.image_mean or clip.OPENAI_DATASET_MEAN)
        std = torch.tensor(model.visual.image_std or clip.OPENAI_DATASET_STD)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    mean: Tensor
    std: Tensor

    @override
    def encode_images(self, x_t: Tensor, level: AnyLevel) -> Tensor:
        grey = ((x_t / level.alpha).to(self.mean.dtype) + 1) / 2
        colour = grey.expand(-1, 3, -1, -1) if grey.shape[1] == 1 else grey
        shown = interpolate(colour, self.size, mode="bicubic", align_corners=False, antialias=True)
        encoded: Tensor = self.model.encode_image((shown - self.mean) / self.std, normalize=True)
        scale: Tensor = self.model.logit_scale.exp()
        return encoded.to(x_t.dtype) * scale.to(x_t.dtype)

    @override
    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(captions)).to(self.mean.device)
        encoded: Tensor = self.model.encode_text(tokens, normalize=True)
        return encoded


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ConfigurationError(
            'OpenCLIP: the package open_clip_torch is not installed; pip install "scorelight[openclip]"'
        ) from error
    return open_clip


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
