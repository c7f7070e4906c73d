import math

import numpy as np
import pytest
import torch
from scipy.signal import upfirdn
from torch import nn

from scorelight import ConfigurationError
from scorelight.networks.layers import FIRConv, FIRDown, FIRUp, NearestConv, StridedConv, glorot, zero

D = torch.float64
TAPS = pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 1), (1, 2, 3, 3, 2, 1)], ids=str)
SIZES = pytest.mark.parametrize("size", [(8, 8), (6, 10), (2, 4)], ids=str)


def filtered(x, taps, up, down, before, length):
    """The zero-padded definition along the last two axes, with SciPy's polyphase filter for each."""
    for axis in (-1, -2):
        full = upfirdn(np.array(taps) * up / sum(taps), x, up, 1, axis=axis)
        # upfirdn leaves out the zeros behind the last sample; those before `before` samples are cut off
        full = np.concatenate([full, np.zeros_like(full)], axis=axis)
        full = full.take(range(len(taps) - 1 - before, full.shape[axis]), axis=axis)
        x = full.take(range(0, down * length(x.shape[axis]), down), axis=axis)
    return x


@TAPS
@SIZES
def test_shrinking_is_upfirdn_along_both_axes(taps, size, generator):
    x = torch.randn(2, 3, *size, dtype=D, generator=generator)
    expected = filtered(x.numpy(), taps, 1, 2, len(taps) // 2 - 1, lambda n: n // 2)
    np.testing.assert_allclose(FIRDown(taps).double()(x).numpy(), expected, rtol=1e-6, atol=1e-7)


@TAPS
@SIZES
def test_growing_is_upfirdn_along_both_axes(taps, size, generator):
    x = torch.randn(2, 3, *size, dtype=D, generator=generator)
    expected = filtered(x.numpy(), taps, 2, 1, len(taps) // 2, lambda n: 2 * n)
    np.testing.assert_allclose(FIRUp(taps).double()(x).numpy(), expected, rtol=1e-6, atol=1e-7)


@SIZES
def test_a_convolution_behind_the_filter_is_every_other_pixel_of_one_with_the_product_of_both(
    size, generator
):
    layer = FIRConv(2, 3).double()
    x = torch.randn(2, 2, *size, dtype=D, generator=generator)
    weight = nn.functional.conv2d(
        layer.weight.flatten(0, 1)[:, None], layer.kernel.flip(0, 1)[None, None], padding=3
    ).unflatten(0, (3, 2))[:, :, 0]
    expected = nn.functional.conv2d(x, weight, layer.bias, padding=2)[:, :, ::2, ::2]
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("layer", [FIRDown(), FIRUp(), FIRConv(2, 3)], ids=lambda m: type(m).__name__)
def test_first_and_second_gradients_are_right(layer, generator):
    x = torch.randn(1, 2, 4, 6, dtype=D, generator=generator, requires_grad=True)
    layer = layer.double()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


@pytest.mark.parametrize("layer", [FIRDown(), FIRUp()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_filters_take_any_type_and_keep_the_mean_of_the_inside(layer, dtype):
    out = layer(torch.full((1, 2, 16, 16), 3.0, dtype=dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out[:, :, 3:-3, 3:-3], torch.full_like(out[:, :, 3:-3, 3:-3], 3.0))


@pytest.mark.parametrize("taps", [(1, 2, 1), (1, 2), (1, -1, -1, 1), ()], ids=str)
def test_filters_that_are_not_symmetric_of_even_length_raise(taps):
    with pytest.raises(ConfigurationError, match=r"fir=\["):
        FIRDown(taps)


def test_the_strided_convolution_pads_below_and_to_the_right(generator):
    layer, x = StridedConv(2, 3), torch.randn(1, 2, 4, 6, generator=generator)
    full = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), full[:, :, 1::2, 1::2])


def test_the_growing_convolution_sees_repeated_pixels(generator):
    layer, x = NearestConv(2), torch.randn(1, 2, 3, 4, generator=generator)
    repeated = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(repeated, layer.weight, layer.bias, padding=1))


@pytest.mark.parametrize("layer", [nn.Conv2d(16, 64, 3), nn.Linear(32, 512)], ids=lambda m: type(m).__name__)
def test_glorot_has_the_bounds_and_the_variance_of_torchs(layer):
    glorot(layer)
    expected = nn.init.xavier_uniform_(torch.empty_like(layer.weight))
    assert (layer.bias == 0).all()
    bound = math.sqrt(3) * layer.weight.std()
    torch.testing.assert_close(layer.weight.std(), expected.std(), rtol=0.05, atol=0)
    assert layer.weight.abs().max() <= 1.05 * bound
    assert glorot(zero(nn.Conv2d(2, 2, 1))) is None
