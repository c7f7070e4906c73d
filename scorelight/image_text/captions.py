"""Captions of handwritten digits: "a handwritten three", "an image of a thick slanted 7".

What a caption says beside the digit is measured from the image: the width of the stroke, and its slant. The
thinnest third of the images of a digit are "thin" and the thickest third "thick"; the most upright third are
"upright" and the most slanted third "slanted"; of the others nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scorelight.errors import ConfigurationError, nearest
from scorelight.rng import Generators, rand

__all__ = ["DIGIT_CAPTIONS", "Captions", "slant", "stroke_width", "terciles"]

_OPENINGS = ("a", "the", "a handwritten", "a picture of a", "an image of a", "a drawing of a", "")
_DIGITS = (
    ("zero", "0", "nought"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
)
DIGIT_CAPTIONS = tuple(f"a {words[0]}" for words in _DIGITS)
"""A caption of each digit, which says nothing else."""
_WIDTHS = (("thin", "fine"), (), ("thick", "bold"))
_SLANTS = (("upright", "straight"), (), ("slanted", "italic"))
_SAID = 0.5
"""Probability that a caption says what is to be said of width or slant."""


class Captions:
    """Words, and random captions of them.

    A caption is an opening, perhaps a word on the width, perhaps one on the slant, and the digit. Each is
    drawn of synonyms with equal probability; width and slant are said with probability ½ each, in either
    order. Row i of `words` is word i + 1; 0 fills up what is shorter than the longest caption.
    """

    def __init__(self) -> None:
        said = [*_OPENINGS, *(word for words in (*_DIGITS, *_WIDTHS, *_SLANTS) for word in words)]
        self.words: list[str] = sorted({word for text in said for word in text.split()})
        self.length = 3 + max(len(opening.split()) for opening in _OPENINGS)

    def draw(self, cond: Mapping[str, Tensor], generator: Generators = None) -> list[str]:
        """A random caption of each example.

        Args:
            cond: ``label`` 0 to 9, ``width`` and ``slant`` 0 to 2, see `terciles`; each of shape (B,).
            generator: Source of the choices; a `PhiloxGenerator` makes the caption of example i its own.
        """
        label = cond["label"]
        u = torch.stack([rand(len(label), generator, label.device) for _ in range(7)], 1).tolist()
        rows = zip(label.tolist(), cond["width"].tolist(), cond["slant"].tolist(), u, strict=True)
        return [_caption(*row) for row in rows]

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Numbers of the words, shape (len(captions), length), int64.

        Raises:
            ConfigurationError: If a word is unknown, a caption has no words, or more than the longest drawn.
        """
        number = {word: i for i, word in enumerate(self.words, 1)}
        tokens = torch.zeros(len(captions), self.length, dtype=torch.int64)
        for row, caption in zip(tokens, captions, strict=True):
            words = re.findall(r"[^\s,.!]+", caption.lower())
            if not 1 <= len(words) <= self.length:
                raise ConfigurationError(
                    f"caption {caption!r}: has {len(words)} words; 1 to {self.length} are needed"
                )
            for i, word in enumerate(words):
                if word not in number:
                    raise ConfigurationError(f"caption {caption!r}: {word!r}: {nearest(word, self.words)}")
                row[i] = number[word]
        return tokens


def _caption(label: int, width: int, slanted: int, u: Sequence[float]) -> str:
    said = [_one_of(_WIDTHS[width], u[0]) * (u[1] < _SAID), _one_of(_SLANTS[slanted], u[2]) * (u[3] < _SAID)]
    adjectives = said if u[4] < 0.5 else said[::-1]
    parts = [_one_of(_OPENINGS, u[5]), *adjectives, _one_of(_DIGITS[label], u[6])]
    return " ".join(part for part in parts if part)


def _one_of(words: Sequence[str], u: float) -> str:
    return words[int(u * len(words))] if words else ""


def stroke_width(x: Tensor) -> Tensor:
    """Mean width of bright strokes in pixels, shape (N,): 2 A/P of their area and perimeter.

    The area is the sum of the grey levels from 0 to 1, and the perimeter the sum of their gradient's norm.

    Args:
        x: Images in [−1, 1], shape (N, 1, H, W).
    """
    grey = torch.nn.functional.pad((x[:, 0].double() + 1) / 2, (1, 1, 1, 1))
    across = grey[:, :-1, 1:] - grey[:, :-1, :-1]
    down = grey[:, 1:, :-1] - grey[:, :-1, :-1]
    perimeter = (across.square() + down.square()).sqrt().sum((1, 2))
    return 2 * grey.sum((1, 2)) / perimeter.clamp(min=1e-12)


def slant(x: Tensor) -> Tensor:
    """Shear of bright strokes to the right, in pixels a line, shape (N,): −cov(row, column)/var(row).

    Args:
        x: Images in [−1, 1], shape (N, 1, H, W).
    """
    grey = (x[:, 0].double() + 1) / 2
    share = grey / grey.sum((1, 2), keepdim=True).clamp(min=1e-12)
    row = torch.arange(x.shape[2], dtype=share.dtype, device=x.device)[:, None]
    column = torch.arange(x.shape[3], dtype=share.dtype, device=x.device)
    row, column = (v - (share * v).sum((1, 2), keepdim=True) for v in (row, column))
    return -(share * row * column).sum((1, 2)) / (share * row.square()).sum((1, 2)).clamp(min=1e-12)


def terciles(values: Tensor, label: Tensor, bounds: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """In which third of the values of its class each value is, 0 to 2, and the bounds of the thirds.

    Args:
        values: Shape (N,).
        label: Class of each, 0 to C − 1, shape (N,).
        bounds: Bounds that were found on other examples, shape (C, 2) (default: those of these values).

    Returns:
        Thirds of shape (N,), int64, and bounds of shape (C, 2).
    """
    if bounds is None:
        thirds = torch.tensor([1 / 3, 2 / 3], dtype=values.dtype, device=values.device)
        num = int(label.max()) + 1
        bounds = torch.stack([values[label == c].quantile(thirds) for c in range(num)])
    return (values[:, None] > bounds[label]).sum(1), bounds
