"""Handwritten digits with what a caption can say of them."""

from __future__ import annotations

from typing_extensions import override

from scorelight.data.arrays import Arrays
from scorelight.data.base import ArrayDataModule
from scorelight.data.wrapped import WrappedDataModule
from scorelight.errors import ConfigurationError
from scorelight.image_text.captions import slant, stroke_width, terciles

__all__ = ["DescribedDigitsDataModule"]


class DescribedDigitsDataModule(WrappedDataModule):
    """Digits with the conditions ``label``, ``width`` and ``slant``, of which `Captions` are drawn.

    Width and slant are measured from each image; 0, 1 and 2 are the thirds of the training images of its
    digit, from thin to thick and from upright to slanted. The third of a validation image is found by the
    same bounds.

    Args:
        data: Grey images of digits with labels 0 to 9, in memory, such as `DigitsDataModule`.
        batch_size: Training examples per step and process (default: as of `data`).
        val_batch_size: Validation examples per step and process (default: as of `data`).
    """

    num_classes = 10

    def __init__(
        self, data: ArrayDataModule, batch_size: int | None = None, val_batch_size: int | None = None
    ) -> None:
        super().__init__(data, batch_size, val_batch_size)
        number = getattr(data, "num_classes", None)
        if number != 10 or len(data.shape) != 3 or data.shape[0] != 1:
            raise ConfigurationError(
                f"data: {type(data).__name__} has {number or 'no'} classes and examples of shape "
                f"{tuple(data.shape)}; grey images of the ten digits are needed, such as DigitsDataModule"
            )
        self.class_names = data.class_names

    @override
    def arrays(self) -> tuple[Arrays, Arrays]:
        train, val = self.arrays_in_memory()
        images, shown = self.scale(train.x), self.scale(val.x)
        cond, described = dict(train.cond), dict(val.cond)
        for name, measure in (("width", stroke_width), ("slant", slant)):
            cond[name], bounds = terciles(measure(images), cond["label"])
            described[name], _ = terciles(measure(shown), described["label"], bounds)
        return Arrays(train.x, cond), Arrays(val.x, described)
