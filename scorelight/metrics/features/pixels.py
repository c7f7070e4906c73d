"""The examples themselves as features."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from scorelight.metrics.features.base import FeatureExtractor, Features, images_of

__all__ = ["PixelFeatures"]


class PixelFeatures(FeatureExtractor):
    """The pixels themselves, scaled to [−1, 1], or the unchanged coordinates of vectors."""

    @override
    def extract(self, x: Tensor) -> Features:
        values = x if x.is_floating_point() else images_of(x, type(self).__name__).float() / 127.5 - 1
        return Features(values.flatten(1))
