"""Images and what is said of them."""

from scorelight.image_text.captions import Captions, slant, stroke_width, terciles
from scorelight.image_text.model import ImageText, NoisyCLIP

__all__ = ["Captions", "ImageText", "NoisyCLIP", "slant", "stroke_width", "terciles"]
