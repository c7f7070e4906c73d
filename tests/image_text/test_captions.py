"""Captions of digits, and what is measured from the images for them."""

import math
from collections import Counter

import pytest
import torch

from scorelight import ConfigurationError, DigitsDataModule
from scorelight.data.access import examples_of
from scorelight.image_text import Captions, slant, stroke_width, terciles
from scorelight.rng import PhiloxGenerator

D = torch.float64


def bar(width, shear=0.0, size=64):
    """A vertical bar with smooth edges, sheared to the right by so many columns a line, in [−1, 1]."""
    row = torch.arange(size, dtype=D)[:, None] - (size - 1) / 2
    column = torch.arange(size, dtype=D) - (size - 1) / 2
    inside = (width / 2 + 0.5 - (column + shear * row).abs()).clamp(0, 1)
    return (2 * inside * (row.abs() < size / 3) - 1)[None, None]


@pytest.mark.parametrize("width", [2.0, 3.5, 6.0])
def test_the_width_of_a_bar_is_measured(width):
    long = 2 * 64 / 3
    expected = 2 * width * long / (2 * (width + long))  # 2 A/P, with the two short ends
    assert stroke_width(bar(width)).item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("shear", [-0.5, 0.0, 0.3])
def test_the_slant_of_a_bar_is_measured(shear):
    assert slant(bar(4.0, shear)).item() == pytest.approx(shear, abs=0.01)
    assert slant(bar(4.0, shear).flip(-1)).item() == pytest.approx(-shear, abs=0.01)


def test_an_empty_image_has_finite_numbers():
    empty = -torch.ones(1, 1, 8, 8)
    assert stroke_width(empty).isfinite().all() and slant(empty).isfinite().all()


def test_thirds_of_each_class_are_equally_large_and_ordered():
    batch = examples_of(DigitsDataModule(), "train").all()
    label, width = batch.cond["label"], stroke_width(batch.x0)
    third, bounds = terciles(width, label)
    for c in range(10):
        counts = torch.bincount(third[label == c], minlength=3)
        assert counts.max() - counts.min() <= 2
        thin, thick = (width[(label == c) & (third == i)] for i in (0, 2))
        assert thin.max() < thick.min()
    assert torch.equal(terciles(width[:50], label[:50], bounds)[0], third[:50])


def cond(n, label=3, width=2, slanted=0):
    numbers = {"label": label, "width": width, "slant": slanted}
    return {name: torch.full((n,), value) for name, value in numbers.items()}


def test_captions_say_what_is_true_with_the_stated_frequencies():
    n = 20_000
    captions = Captions().draw(cond(n), torch.Generator().manual_seed(0))
    count = Counter(word for caption in captions for word in set(caption.split()))
    error = 5 * math.sqrt(0.25 / n)  # five standard errors of a share, at most
    for words, share in [(("thick", "bold"), 0.5), (("upright", "straight"), 0.5), (("three", "3"), 1.0)]:
        for word in words:
            assert count[word] / n == pytest.approx(share / 2, abs=error)
    assert count["a"] / n == pytest.approx(5 / 7, abs=error)
    for word in ("thin", "fine", "slanted", "italic", "four", "5"):
        assert not count[word]


def test_of_the_middle_third_nothing_is_said():
    words = {word for caption in Captions().draw(cond(500, width=1, slanted=1)) for word in caption.split()}
    assert not words & {"thin", "fine", "thick", "bold", "upright", "straight", "slanted", "italic"}


def test_the_caption_of_an_example_does_not_depend_on_its_batch():
    whole = Captions().draw(cond(20), PhiloxGenerator(3, range(20)))
    assert Captions().draw(cond(2), PhiloxGenerator(3, [4, 11])) == [whole[4], whole[11]]


def test_every_caption_has_tokens_and_is_read_back():
    captions = Captions()
    drawn = captions.draw({k: torch.arange(600) % n for k, n in (("label", 10), ("width", 3), ("slant", 3))})
    tokens = captions.tokens(drawn)
    assert tokens.shape == (600, captions.length)
    for row, caption in zip(tokens.tolist(), drawn, strict=True):
        assert " ".join(captions.words[i - 1] for i in row if i) == caption
    assert torch.equal(captions.tokens(["A Thick three."]), captions.tokens(["a thick three"]))


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a thik three", "'thik': did you mean 'thick'?"),
        ("a cat", "'cat': "),
        ("", "has 0 words; 1 to 7"),
        ("a a a a a a a a", "has 8 words"),
    ],
)
def test_what_the_captions_do_not_say_is_refused(caption, message):
    with pytest.raises(ConfigurationError, match=message.replace("?", r"\?")):
        Captions().tokens([caption])
