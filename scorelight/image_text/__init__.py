"""Images and what is said of them."""

from scorelight.image_text.captions import Captions, slant, stroke_width, terciles

__all__ = ["Captions", "slant", "stroke_width", "terciles"]
