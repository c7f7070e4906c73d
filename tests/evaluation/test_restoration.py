"""Numbers of restored images: what they are for a posterior that is exact, and by their formulas."""

import math

import pytest
import torch

from scorelight.evaluation.restoration import Restoration
from scorelight.inverse import Downsample, Mask, Measurement
from scorelight.metrics import PixelFeatures

SHAPE = (1, 12, 12)


def noise(*size, seed):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_draws_of_the_exact_posterior_have_residual_one_and_the_stated_coverage():
    """Pixels are N(0, 1/4) and one half is measured: 400 images, 5 samples; errors are below 1 %."""
    measurement = Measurement(Mask(SHAPE, half="left"), 0.5)
    x0 = 0.5 * noise(400, *SHAPE, seed=0)
    y = measurement.observe(x0, torch.Generator().manual_seed(1))
    part = measurement.operator.adjoint(y) / 2  # of variances 1/4 and 1/4
    known = measurement.operator.known
    deviation = torch.where(known, 0.125, 0.25).sqrt()
    samples = part[:, None] + deviation * noise(400, 5, *SHAPE, seed=2)
    found = Restoration(y, samples, measurement, x0).numbers()
    assert found["coverage"].mean().item() == pytest.approx(4 / 6, abs=0.01)
    assert found["residual"].mean().item() == pytest.approx(1, abs=0.01)  # (x̂, y) has the law of (x, y)


def test_the_numbers_of_images_that_are_off_by_a_constant():
    measurement = Measurement(Downsample(SHAPE, 2))
    x0 = torch.zeros(2, *SHAPE)
    samples = torch.stack([x0 + 0.2, x0 - 0.2], 1)
    found = Restoration(measurement.observe(x0), samples, measurement, x0).numbers(PixelFeatures())
    assert found["psnr"].tolist() == pytest.approx([10 * math.log10(4 / 0.04)] * 2, rel=1e-4)
    assert found["psnr of the mean"].tolist() == pytest.approx([10 * math.log10(4e10)] * 2)
    assert found["ssim of the mean"].tolist() == pytest.approx([1.0, 1.0])
    assert found["residual"].tolist() == pytest.approx([0.2, 0.2], rel=1e-4)
    assert found["coverage"].tolist() == [1.0, 1.0]
    assert found["feature distance"].max() <= 1


def test_one_sample_has_no_coverage_and_no_deviation():
    measurement = Measurement(Mask(SHAPE, half="top"), 0.1)
    x0 = 0.5 * noise(3, *SHAPE, seed=0)
    restoration = Restoration(measurement.observe(x0), x0[:, None], measurement, x0)
    assert "coverage" not in restoration.numbers()
    several = restoration._replace(samples=x0[:, None].expand(3, 2, *SHAPE))
    assert restoration.picture().shape[2] < several.picture().shape[2]
