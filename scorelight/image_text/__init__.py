"""Images and what is said of them."""

from scorelight.image_text.captions import Captions, slant, stroke_width, terciles
from scorelight.image_text.model import ImageText, NoisyCLIP, ZeroShotClassifier
from scorelight.image_text.open_clip import OpenCLIP

__all__ = [
    "Captions",
    "ImageText",
    "NoisyCLIP",
    "OpenCLIP",
    "ZeroShotClassifier",
    "slant",
    "stroke_width",
    "terciles",
]
