"""Handwritten digits that come with scikit-learn."""

from __future__ import annotations

import torch
from torch import Tensor

from scorelight.data.arrays import Arrays, split
from scorelight.data.base import ArrayDataModule
from scorelight.data.labels import DIGITS

__all__ = ["DigitsDataModule"]


class DigitsDataModule(ArrayDataModule):
    """1,797 handwritten digits of 8×8 pixels and 17 grey levels, with labels 0 to 9; no download.

    The test set of E. Alpaydin & C. Kaynak, "Optical recognition of handwritten digits" (UCI, 1998), as
    scikit-learn ships it. Images are scaled to [−1, 1], shape (1, 8, 8).

    Args:
        batch_size: Training examples per step and process.
        val_batch_size: Validation examples per step and process.
        val_fraction: Share of the images kept for validation.
        seed: Seed of the split; the order of training is that of `seed_everything` as well.
    """

    shape = (1, 8, 8)
    num_bins = 17
    num_classes = 10
    class_names = DIGITS

    def __init__(
        self, batch_size: int = 64, val_batch_size: int = 256, val_fraction: float = 0.2, seed: int = 0
    ) -> None:
        super().__init__(batch_size, val_batch_size, seed)
        self.val_fraction = val_fraction

    def arrays(self) -> tuple[Arrays, Arrays]:
        """Split scikit-learn's digits; pixels stay integers 0 to 16."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images).to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target).long()
        return split(Arrays(images, {"label": labels}), self.val_fraction, self.seed)

    def scale(self, x: Tensor) -> Tensor:
        """Grey levels 0 to 16 into [−1, 1]."""
        return x.float() / 8 - 1
