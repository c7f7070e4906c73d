"""SDEdit: its law for Gaussian data, and the two ends of its start."""

import pytest
import torch
from support.processes import every_kind_of_process

from scorelight import DDIM, VPSDE, AnalyticDenoiser, ConfigurationError, GaussianMixture, Heun
from scorelight.inverse import Grayscale, Identity, Measurement, SDEdit

D = torch.float64


def model(process, variance=0.25):
    density = GaussianMixture(torch.ones(1), torch.zeros(1, 2, dtype=D), torch.tensor([variance]))
    return AnalyticDenoiser(density, process)


@pytest.mark.parametrize("process", every_kind_of_process(), ids=lambda p: type(p).__name__)
def test_gaussian_data_are_scaled_as_the_probability_flow_scales_them(process, generator):
    """x0 = v^½ x_t/(α² v + σ²)^½: 4,000 samples, errors of mean and deviation are about 1.5 %."""
    sketch, variance = torch.tensor([1.0, -2.0], dtype=D), 0.25
    method = SDEdit(Measurement(Identity((2,))), Heun(200, denoise=False), 0.6)
    noise = torch.randn(4000, 2, dtype=D, generator=generator)
    x = method(model(process), noise, measurement=sketch.expand(4000, 2))
    first, last = method.levels(process)[0], method.levels(process)[-1]
    scale = [(level.alpha**2 * variance + level.sigma**2) ** 0.5 for level in (first, last)]
    shrink = scale[1] / scale[0]
    assert ((x.mean(0) - shrink * first.alpha * sketch).abs() < 0.06 * shrink * first.sigma + 0.02).all()
    torch.testing.assert_close(x.std(0), torch.full((2,), shrink * first.sigma, dtype=D), rtol=0.06, atol=0)


def test_little_noise_keeps_the_image_and_all_of_it_forgets_it(generator):
    sketch = torch.tensor([1.0, -2.0], dtype=D)
    noise = torch.randn(2000, 2, dtype=D, generator=generator)
    measurement = Measurement(Identity((2,)))

    def edited(start):
        method = SDEdit(measurement, DDIM(200), start)
        return method(model(VPSDE()), noise, measurement=sketch.expand(2000, 2))

    assert (edited(0.02).mean(0) - sketch).abs().max() < 0.05
    assert edited(1.0).mean(0).abs().max() < 0.05


def test_it_is_a_function_of_what_is_measured(generator):
    density = GaussianMixture(torch.ones(1), torch.zeros(1, 3, 4, 4), torch.tensor([0.25]))
    denoiser, method = AnalyticDenoiser(density, VPSDE()), SDEdit(Measurement(Grayscale((3, 4, 4))), DDIM(20))
    grey = torch.full((1, 1, 4, 4), 0.5, dtype=D)
    noise = torch.randn(1, 3, 4, 4, dtype=D, generator=generator)
    once, again = (method(denoiser, noise, measurement=grey) for _ in range(2))
    assert torch.equal(once, again) and once.isfinite().all()


@pytest.mark.parametrize(
    ("start", "message"), [(0.0, "start=0.0"), (1.5, "start=1.5"), (0.001, "has no step there")]
)
def test_a_start_out_of_range_is_refused(start, message):
    with pytest.raises(ConfigurationError, match=message):
        SDEdit(Measurement(Identity((2,))), DDIM(10), start).levels(VPSDE())
