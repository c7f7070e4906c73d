"""Operators: exact adjoints, singular values and pseudo-inverses, and what each of them does to an image."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, conv2d, pad
from torchvision.transforms.functional import resize

from scorelight import ConfigurationError
from scorelight.inverse import (
    Convolution,
    Downsample,
    GaussianBlur,
    Grayscale,
    Identity,
    Mask,
    MatrixOperator,
    MotionBlur,
    SeparableOperator,
)

D = torch.float64
KERNEL = torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.0, -0.1], [0.05, 0.4, 0.05]], dtype=D)


def matrix(*size):
    return torch.randn(*size, dtype=D, generator=torch.Generator().manual_seed(1))


OPERATORS = {
    "matrix": MatrixOperator((5,), matrix(3, 5)),
    "tall matrix": MatrixOperator((2, 2), matrix(6, 4)),
    "singular matrix": MatrixOperator((4,), matrix(3, 2) @ matrix(2, 4)),
    "box": Mask((2, 6, 8), box=(1, 2, 4, 7)),
    "random": Mask((1, 6, 8), random=0.7, seed=3),
    "half": Mask((3, 6, 8), half="right"),
    "identity": Identity((2, 3)),
    "grayscale": Grayscale((3, 4, 5)),
    "small": Downsample((2, 6, 8), 2),
    "bicubic": Downsample((1, 12, 8), 4, "bicubic"),
    "separable": SeparableOperator((3, 4, 5), [matrix(2, 3), None, matrix(7, 5)]),
    "convolution": Convolution((2, 5, 6), KERNEL),
    "blur": GaussianBlur((1, 9, 8), 0.8),
    "motion": MotionBlur((1, 9, 11), 5.0, 30.0),
}
every_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def draws(operator, generator, num=3):
    x = torch.randn(num, *operator.shape, dtype=D, generator=generator)
    return x, torch.randn(operator(x).shape, dtype=D, generator=generator)


@every_operator
def test_the_adjoint_is_exact(operator, generator):
    x, y = draws(operator, generator)
    left, right = (operator(x) * y).sum(), (x * operator.adjoint(y)).sum()
    assert left.item() == pytest.approx(right.item(), rel=1e-10, abs=1e-10)


@every_operator
def test_functions_of_the_singular_values_are_those_of_the_matrix(operator, generator):
    x, y = draws(operator, generator)
    a = operator.matrix()
    torch.testing.assert_close(operator(x).flatten(1), x.flatten(1) @ a.mT, rtol=1e-10, atol=1e-10)
    found = operator.singular_values.sort(descending=True).values
    expected = torch.linalg.svdvals(a)
    torch.testing.assert_close(found[: len(expected)], expected[: len(found)], rtol=1e-7, atol=1e-7)
    assert len(found) == math.prod(operator.shape) and (found[len(expected) :] == 0).all()
    same = operator.spectral(x, lambda s: s**2)
    torch.testing.assert_close(same, operator.adjoint(operator(x)), rtol=1e-10, atol=1e-10)
    solved = operator.spectral(operator.adjoint(y), lambda s: 1 / (s**2 + 0.3))
    identity = torch.eye(len(a), dtype=D)
    expected = torch.linalg.solve(a @ a.mT + 0.3 * identity, y.flatten(1).mT).mT @ a
    torch.testing.assert_close(solved.flatten(1), expected, rtol=1e-9, atol=1e-9)


@every_operator
def test_the_pseudo_inverse_is_that_of_the_matrix(operator, generator):
    x, y = draws(operator, generator)
    inverse = torch.linalg.pinv(operator.matrix(), rtol=1e-6)
    torch.testing.assert_close(operator.pseudo_inverse(y).flatten(1), y.flatten(1) @ inverse.mT)
    part = operator.measured_part(x)
    torch.testing.assert_close(part, operator.pseudo_inverse(operator(x)))
    torch.testing.assert_close(operator(part), operator(x))


@every_operator
def test_single_precision_and_inference_mode_do(operator, generator):
    x, y = draws(operator, generator)
    with torch.inference_mode():
        for function, value in ((operator, x), (operator.adjoint, y), (operator.measured_part, x)):
            found = function(value.float())
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), function(value), rtol=1e-4, atol=1e-4)


def test_a_mask_has_the_known_pixels(tmp_path):
    x = torch.arange(12.0, dtype=D).reshape(1, 1, 3, 4)
    assert Mask((1, 3, 4), box=(0, 1, 2, 4))(x).tolist() == [[[0, 4, 8, 9, 10, 11]]]
    assert Mask((1, 3, 4), half="bottom")(x).tolist() == [[[0, 1, 2, 3]]]
    assert Mask((1, 3, 4), half="left")(x).tolist() == [[[2, 3, 6, 7, 10, 11]]]
    assert Mask((1, 3, 4), random=0.25)(x).shape == (1, 1, 9)
    picture = np.zeros((3, 4), np.uint8)
    picture[0, 1], picture[2, 2], picture[1, 1] = 255, 128, 127
    Image.fromarray(picture).save(tmp_path / "mask.png")
    assert Mask((1, 3, 4), file=tmp_path / "mask.png")(x).tolist() == [[[1, 10]]]


def test_a_random_mask_is_a_function_of_its_seed():
    first, again, other = (Mask((1, 8, 8), random=0.5, seed=s).known for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_smaller_image_is_what_torchvision_makes(generator):
    x = torch.randn(2, 3, 12, 8, dtype=D, generator=generator)
    torch.testing.assert_close(Downsample((3, 12, 8), 4)(x), avg_pool2d(x, 4))
    expected = resize(x, [6, 4], interpolation=3, antialias=True)  # bicubic
    torch.testing.assert_close(Downsample((3, 12, 8), 2, "bicubic")(x), expected)


def test_a_convolution_wraps_around(generator):
    x = torch.randn(2, 2, 5, 6, dtype=D, generator=generator)
    flipped = KERNEL.flip(0, 1).expand(2, 1, 3, 3)  # conv2d is a correlation
    expected = conv2d(pad(x, (1, 1, 1, 1), mode="circular"), flipped, groups=2)
    torch.testing.assert_close(Convolution((2, 5, 6), KERNEL)(x), expected)


def test_blurs_keep_the_mean_and_have_their_width():
    point = torch.zeros(1, 1, 31, 31, dtype=D)
    point[..., 15, 15] = 1
    at = torch.arange(31, dtype=D) - 15
    blurred = GaussianBlur((1, 31, 31), 2.0)(point)[0, 0]
    assert blurred.sum().item() == pytest.approx(1)
    assert (blurred.sum(0) * at**2).sum().item() == pytest.approx(4.0, rel=0.03)  # cut off at 3
    for angle in (0.0, 90.0, 45.0):
        moved = MotionBlur((1, 31, 31), 9.0, angle)(point)[0, 0]
        radians = math.radians(angle)
        along = math.cos(radians) * at - math.sin(radians) * at[:, None]  # rows go down
        across = math.sin(radians) * at + math.cos(radians) * at[:, None]
        assert (moved * along**2).sum().item() == pytest.approx(81 / 12, rel=0.1)
        assert (moved * across**2).sum().item() < 0.3


def test_what_is_shown_is_an_image(generator):
    for name in ("half", "small", "bicubic", "blur"):
        x, _ = draws(OPERATORS[name], generator)
        picture = OPERATORS[name].picture(OPERATORS[name](x))
        assert picture.ndim == 4
    assert torch.equal(Mask((1, 2, 2), half="left").picture(torch.ones(1, 1, 2))[0, 0, :, 0], torch.zeros(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask((1, 8, 8)), "Mask: 0 of box, random, half and file are given"),
        (lambda: Mask((1, 8, 8), box=(0, 0, 4, 4), random=0.5), "Mask: 2 of box, random"),
        (lambda: Mask((1, 8, 8), box=(0, 0, 9, 4)), r"box=\[0, 0, 9, 4\].*inside 8 by 8"),
        (lambda: Mask((1, 8, 8), box=(0, 0, 8, 8)), "no pixel is known"),
        (lambda: Mask((1, 8, 8), random=0.001), "all pixels are known"),
        (lambda: Mask((1, 8, 8), random=1.5), "random=1.5"),
        (lambda: Mask((1, 8, 8), half="middle"), "half='middle'"),
        (lambda: Mask((1, 8, 8), file="nothing.png"), "file=nothing.png: cannot be read"),
        (lambda: Mask((8,), random=0.5), "images are needed"),
        (lambda: Grayscale((1, 8, 8)), "colour images are needed"),
        (lambda: Downsample((1, 8, 8), 3), "factor=3: a divisor of 8 and 8"),
        (lambda: Downsample((1, 8, 8), 1), "factor=1"),
        (lambda: Downsample((1, 8, 8), 2, "sinc"), "kind='sinc'"),
        (lambda: GaussianBlur((1, 8, 8), 0.0), "std=0.0"),
        (lambda: GaussianBlur((1, 8, 8), 2.0), "13 by 13 pixels"),
        (lambda: MotionBlur((1, 8, 8), -1.0), "length=-1.0"),
        (lambda: MatrixOperator((4,), [[1.0, 2.0]]), r"\(M, 4\) is needed"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_picture_of_another_size_is_refused(tmp_path):
    Image.new("L", (5, 8)).save(tmp_path / "mask.png")
    with pytest.raises(ConfigurationError, match="has 8 by 5 pixels, the images 8 by 8"):
        Mask((1, 8, 8), file=tmp_path / "mask.png")
