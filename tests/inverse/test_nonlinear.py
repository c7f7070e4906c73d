"""Measurements that are not linear: beside numpy and Pillow, and in a sampler."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from scorelight import VPSDE, AnalyticDenoiser, ConfigurationError, GaussianMixture
from scorelight.inverse import DPS, JPEG, ExactPosterior, FourierMagnitude, Measurement

D = torch.float64


def smooth(channels, generator):
    """An image of some waves, in [−1, 1], of whole grey levels."""
    at = torch.arange(32, dtype=D) / 32
    phase = 6.28 * torch.rand(channels, 2, dtype=D, generator=generator)[..., None]
    waves = torch.sin(9 * at + phase[:, :1])[:, 0, :, None] * torch.cos(14 * at + phase[:, 1:])[:, 0, None, :]
    return ((0.9 * waves[None] + 1) * 127.5).round() / 127.5 - 1


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_the_magnitude_is_that_of_numpy(margin, generator):
    x = torch.randn(2, 1, 6, 8, dtype=D, generator=generator)
    wide = np.pad(x.numpy(), [(0, 0), (0, 0), *[(round(margin * n),) * 2 for n in (6, 8)]])
    expected = np.abs(np.fft.rfft2(wide, norm="ortho"))
    operator = FourierMagnitude((1, 6, 8), margin)
    np.testing.assert_allclose(operator(x).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(operator(x.flip(-1, -2)).numpy(), expected, atol=1e-12)
    picture = operator.picture(operator(x))
    assert picture.amin() >= -1 and picture.amax() <= 1


@pytest.mark.parametrize("quality", [5, 30, 75, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_is_that_of_pillow(channels, quality, generator):
    """Within two grey levels, three in colour: Pillow rounds in between, which moves a few coefficients."""
    x = smooth(channels, generator)
    levels = ((x[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels.squeeze()).save(file, "JPEG", quality=quality, subsampling=0)
    with Image.open(file) as image:
        expected = torch.from_numpy(np.array(image, np.float64).reshape(32, 32, channels)).permute(2, 0, 1)
    operator = JPEG((channels, 32, 32), quality)
    found = ((operator.picture(operator(x))[0].clamp(-1, 1) + 1) * 127.5).round()
    blocks = (found - expected).abs().reshape(channels, 4, 8, 4, 8).amax((0, 2, 4))
    assert (blocks <= (2 if channels == 1 else 3)).double().mean() >= 0.75


def test_gradients_pass_the_rounding(generator):
    operator = JPEG((1, 8, 8), 20)
    x = smooth(1, generator)[..., :8, :8].requires_grad_()
    weight = torch.randn(1, 1, 8, 8, dtype=D, generator=generator)
    (gradient,) = torch.autograd.grad((operator(x) * weight).sum(), x)
    transform = operator.transform
    torch.testing.assert_close(gradient[0, 0], transform.mT @ weight[0, 0] @ transform)


@pytest.mark.parametrize(
    "make",
    [lambda m: DPS(m, 30), lambda m: ExactPosterior(m, num_iterations=30, warmup=20)],
    ids=["DPS", "ExactPosterior"],
)
@pytest.mark.parametrize(
    "operator", [FourierMagnitude((1, 8, 8)), JPEG((1, 8, 8), 20)], ids=["magnitude", "JPEG"]
)
def test_methods_for_any_function_take_them(make, operator, generator):
    mean = 0.5 * torch.randn(2, 1, 8, 8, dtype=D, generator=generator)
    density = GaussianMixture(torch.ones(2), mean, torch.tensor([0.01, 0.01]))
    measurement = Measurement(operator, 0.1)
    y = measurement.observe(density.sample(3, generator), generator)
    noise = torch.randn(3, 1, 8, 8, dtype=D, generator=generator)
    model = AnalyticDenoiser(density, VPSDE())
    x = make(measurement)(model, noise, generator=generator, measurement=y)
    far = measurement.log_prob(density.sample(3, generator), measurement=y)
    assert measurement.log_prob(x, measurement=y).mean() > far.mean() - 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FourierMagnitude((8,)), "images are needed"),
        (lambda: FourierMagnitude((1, 8, 8), -0.5), "margin=-0.5"),
        (lambda: JPEG((1, 8, 9)), "sides divisible by 8"),
        (lambda: JPEG((2, 8, 8)), "one or three channels"),
        (lambda: JPEG((1, 8, 8), 0), "quality=0: from 1 to 100"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
