"""Which captions go with a noisy image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from typing_extensions import override

from scorelight.classifiers.base import Classifier
from scorelight.classifiers.network import encode
from scorelight.image_text.captions import Captions
from scorelight.networks.base import Encoder
from scorelight.networks.text import TextEncoder
from scorelight.processes.base import AnyLevel, ForwardProcess
from scorelight.storage.component import Component

__all__ = ["ImageText", "NoisyCLIP", "ZeroShotClassifier"]


class ImageText(Component, nn.Module, ABC):
    """A pair of encoders whose product f(x_t) · g(c) is log p(c | x_t)/p(c), up to a term of x_t alone.

    That is what a contrastive loss learns (van den Oord et al., 2018, sec. 2.3, with captions for their x).
    """

    @abstractmethod
    def encode_images(self, x_t: Tensor, level: AnyLevel) -> Tensor:
        """F(x_t), shape (B, D), of noisy images at a level of floats or of broadcastable tensors."""

    @abstractmethod
    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """G(c), shape (N, D).

        Raises:
            ConfigurationError: If a caption has a word that the model does not know.
        """


class NoisyCLIP(ImageText):
    """CLIP with an image encoder of noisy images (Radford et al., 2021; Nichol et al., 2021, "GLIDE").

    f = e^τ φ/‖φ‖ and g = ψ/‖ψ‖, with linear images φ and ψ of the features of an encoder of images, and of
    words; e^τ is learned.

    Args:
        encoder: Features of noisy images.
        process: The process that it was trained with; it serves models of every process.
        num_features: Size D of both encodings.
        depth: Layers of the encoder of words.
    """

    def __init__(
        self, encoder: Encoder, process: ForwardProcess, num_features: int = 64, depth: int = 2
    ) -> None:
        super().__init__()
        self.process = process
        self.captions = Captions()
        self.encoder = encoder
        self.text = TextEncoder(len(self.captions.words), self.captions.length, num_features, depth)
        self.of_image = nn.Linear(encoder.num_features, num_features, bias=False)
        self.of_text = nn.Linear(num_features, num_features, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    @override
    def encode_images(self, x_t: Tensor, level: AnyLevel) -> Tensor:
        encoded = normalize(self.of_image(encode(self.encoder, x_t, level)), dim=1)
        return encoded.to(x_t.dtype) * self.log_scale.clamp(max=_LARGEST).exp()

    @override
    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        tokens = self.captions.tokens(captions).to(self.log_scale.device)
        return normalize(self.of_text(self.text(tokens)), dim=1)


_LARGEST = 4.6
"""Of τ: CLIP clips e^τ to 100."""


class ZeroShotClassifier(Classifier):
    """p(c | x_t) = softmax_c f(x_t) · g(caption of c), of classes that are equally likely.

    The source is Radford et al. (2021), sec. 3.1.2.

    Args:
        model: The encoders.
        captions: One for each class.
        process: The process whose levels the classifier is asked for.
    """

    def __init__(self, model: ImageText, captions: Sequence[str], process: ForwardProcess) -> None:
        super().__init__()
        self.model = model
        self.captions = tuple(captions)
        self.process = process
        self.num_classes = len(self.captions)

    @override
    def log_prob(self, x_t: Tensor, level: AnyLevel) -> Tensor:
        products = self.model.encode_images(x_t, level) @ self.model.encode_captions(self.captions).to(x_t).T
        return products.log_softmax(1)
