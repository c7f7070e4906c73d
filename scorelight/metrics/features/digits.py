"""Features of small digits, for which Inception is not suited: two classifiers with their weights.

``benchmarks/digit_features.py`` trains them; the metadata of the weights states how, and their accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from torch import Tensor, nn
from typing_extensions import override

from scorelight.metrics.features.base import FeatureExtractor, Features, images_of

__all__ = ["Classifier", "DigitsFeatures", "MNISTFeatures", "weights_of"]


class Classifier(nn.Module):
    """A small convolutional classifier of grey images with ten classes.

    Args:
        size: Height and width of the images.
        widths: Channels of each convolution.
        pools: Which of them halve the image, rounding up.
        dim: Number of features.
    """

    def __init__(self, size: int, widths: Sequence[int], pools: Sequence[bool], dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width, pool in zip(widths, pools, strict=True):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if pool else []
            size, channels = (size + 1) // 2 if pool else size, width
        layers += [nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels * size**2, dim), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Features:
        """Features (N, D) and logits (N, 10) of images (N, 1, H, W), 0 to 255."""
        values = self.trunk(x.float() / 127.5 - 1)
        return Features(values, self.head(values))

    @classmethod
    def of_digits(cls) -> Self:
        """For the 8×8 digits of scikit-learn."""
        return cls(8, (32, 48), (False, True), 64)

    @classmethod
    def of_mnist(cls) -> Self:
        """For the 28×28 digits of MNIST."""
        return cls(28, (24, 48, 64), (True, True, True), 96)


class DigitsFeatures(FeatureExtractor):
    """64 features and ten logits of 8×8 digits, by a classifier of the training images of `DigitsDataModule`.

    Pixels are 0 to 255, as from `scorelight.images.to_uint8`, and not 0 to 16 as in the data set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = _trained(Classifier.of_digits(), "digits")

    @override
    def extract(self, x: Tensor) -> Features:
        features: Features = self.network(images_of(x, "DigitsFeatures", (1, 8, 8)))
        return features


class MNISTFeatures(FeatureExtractor):
    """96 features and ten logits of 28×28 digits, by a classifier of MNIST's training images."""

    def __init__(self) -> None:
        super().__init__()
        self.network = _trained(Classifier.of_mnist(), "mnist")

    @override
    def extract(self, x: Tensor) -> Features:
        features: Features = self.network(images_of(x, "MNISTFeatures", (1, 28, 28)))
        return features


def weights_of(name: str) -> Path:
    """The file of shipped weights."""
    return Path(__file__).parent / "weights" / f"{name}.safetensors"


def _trained(network: Classifier, name: str) -> Classifier:
    from safetensors.torch import load_file

    network.load_state_dict(load_file(weights_of(name)))
    return network
