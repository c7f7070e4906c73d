"""The examples themselves as features."""

from __future__ import annotations

from torch import Tensor

from scorelight.metrics.features.base import FeatureExtractor, Features, images_of

__all__ = ["PixelFeatures"]


class PixelFeatures(FeatureExtractor):
    """The pixels themselves, scaled to [−1, 1], or the coordinates of vectors as they are."""

    def extract(self, x: Tensor) -> Features:
        """Shape (N, C·H·W) or (N, D)."""
        values = x if x.is_floating_point() else images_of(x, type(self).__name__).float() / 127.5 - 1
        return Features(values.flatten(1))
