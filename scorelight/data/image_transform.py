"""From the content of an image file to an example."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from scorelight.errors import ConfigurationError

__all__ = ["ImageTransform", "is_grey", "may_be_transparent", "open_image", "oriented_size", "transform_for"]

_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What is opened, whatever its name. Others are not: Pillow runs Ghostscript on EPS, for one."""
_DEEP = re.compile(r"(?!BGR).*;(12|16|32)")
"""Names of Pillow for the values in a file that have more than 8 bits a channel."""
_QUARTER_TURNS = (5, 6, 7, 8)
"""Orientations of EXIF that exchange width and height."""


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """From the content of a file to an example of shape (C, H, W), uint8.

    The orientation in EXIF is applied. To a given size, the short side is resized by Pillow's antialiased
    Lanczos filter, and the long one is cropped at the centre.
    """

    channels: int
    height: int
    width: int
    resize: bool
    grayscale: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an example."""
        return self.channels, self.height, self.width

    def check(self, image: Image.Image, where: str) -> None:
        """Raise, by the header alone, if an image would not become an example.

        Raises:
            ConfigurationError: If it has 16 bits, colour that is not wanted, or another size.
        """
        if _is_deep(image):
            raise ConfigurationError(f"{where}: more than 8 bits a channel ({image.mode}); convert it to 8")
        if self.channels == 1 and not self.grayscale and not is_grey(image):
            raise ConfigurationError(
                f"{where}: has colour ({image.mode}), and the first image has not; set data.grayscale to "
                "true, or convert that one to RGB"
            )
        self._check_size(oriented_size(image), where)

    def __call__(self, image: Image.Image, where: str) -> np.ndarray:
        """The example.

        Raises:
            ConfigurationError: As `check`; or if a pixel is transparent.
        """
        self.check(image, where)
        if may_be_transparent(image) and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise ConfigurationError(f"{where}: has transparent pixels; put a background behind them")
        ImageOps.exif_transpose(image, in_place=True)
        self._check_size(image.size, where)
        image = image.convert("L" if self.channels == 1 else "RGB")
        if self.resize and image.size != (self.width, self.height):
            image = ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS)
        return np.array(image).reshape(self.height, self.width, self.channels).transpose(2, 0, 1)

    def _check_size(self, size: tuple[int, int], where: str) -> None:
        if not self.resize and size != (self.width, self.height):
            raise ConfigurationError(
                f"{where}: {size[0]}x{size[1]} pixels, and the first image has "
                f"{self.width}x{self.height}; set data.image_size"
            )


def open_image(file: IO[bytes]) -> Image.Image:
    """An image of which the header has been read; to be used in a block that is `reading`."""
    try:
        return Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:  # Pillow's own message has the address of a buffer
        raise ValueError("it is no image of a format that is read") from error


def transform_for(
    size: tuple[int, int], grey: bool, image_size: int | None, grayscale: bool
) -> ImageTransform:
    """The transform of a set whose first image has that width and height, and is grey or has colour."""
    width, height = (image_size, image_size) if image_size else size
    return ImageTransform(1 if grayscale or grey else 3, height, width, image_size is not None, grayscale)


def is_grey(image: Image.Image) -> bool:
    """Whether an image has a single channel of light."""
    return image.mode in ("1", "L", "LA", "La")


def may_be_transparent(image: Image.Image) -> bool:
    """Whether an image has an alpha channel or a transparent colour."""
    return image.has_transparency_data


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Width and height after EXIF's orientation, by the header alone.

    EXIF that follows the pixels of a PNG is not in its header: it is applied when the image is decoded.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return image.size
    width, height = image.size
    if isinstance(image, TiffImageFile):  # newer versions of Pillow have exchanged them already
        width, height = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
    turned = image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    return (height, width) if turned else (width, height)


def _is_deep(image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits in the file, which Pillow cuts to 8 where there is colour."""
    if image.mode in ("I", "F") or ";" in image.mode:
        return True
    if isinstance(image, TiffImageFile):
        return bool(np.max(image.tag_v2.get(ExifTags.Base.BitsPerSample, 8)) > 8)
    values = [str(value) for tile in getattr(image, "tile", ()) for value in np.atleast_1d(tile[3])]
    if image.format == "PPM":
        return any(value.isdigit() and int(value) > 255 for value in values)
    return any(map(_DEEP.match, values))
