"""The schedules beyond Song et al.'s three: against 50 digits and finite differences."""

import math

import mpmath
import numpy as np
import pytest
import torch

from scorelight import (
    DDIM,
    AnalyticDenoiser,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    GaussianMixture,
    KarrasVESDE,
    RectifiedFlow,
    SMLDProcess,
)
from scorelight.storage.component import spec

D = torch.float64
mpmath.mp.dps = 50
SMOOTH = [CosineVPSDE(), CosineVPSDE(offset=0.0), KarrasVESDE(), KarrasVESDE(rho=3.0), RectifiedFlow()]
TABLES = [DDPMProcess(), DDPMProcess(200, "cosine"), DDPMProcess(schedule="scaled_linear"), SMLDProcess(50)]
every = pytest.mark.parametrize("process", SMOOTH + TABLES, ids=lambda p: type(p).__name__)


@pytest.mark.parametrize("t", [1e-8, 1e-5, 1e-3, 0.1, 0.5, 0.9946])
@pytest.mark.parametrize("offset", [0.0, 0.008])
def test_the_cosine_schedule_has_14_digits_at_every_time(t, offset):
    process, exact = CosineVPSDE(offset), mpmath.mpf(t)
    s = mpmath.mpf(offset)
    alpha = mpmath.cos(mpmath.pi / 2 * (exact + s) / (1 + s)) / mpmath.cos(mpmath.pi / 2 * s / (1 + s))
    level = process.at(torch.tensor(t, dtype=D))
    assert level.alpha.item() == pytest.approx(float(alpha), rel=1e-13)
    assert level.sigma.item() == pytest.approx(float(mpmath.sqrt(1 - alpha**2)), rel=1e-13)


def test_equal_steps_of_the_karras_process_are_their_noise_levels():
    """Karras et al. (2022), eq. 5, with N = 18."""
    i, n, rho = np.arange(18), 18, 7
    levels = (80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    found = KarrasVESDE().sigma(torch.linspace(1, 0, n, dtype=D))
    np.testing.assert_allclose(found.numpy(), levels, rtol=1e-12)


def test_the_velocity_of_rectified_flow_is_the_straight_line_from_data_to_noise():
    level = RectifiedFlow().at(torch.linspace(0.01, 0.99, 9, dtype=D))
    assert (level.dalpha == -1).all() and (level.dsigma == 1).all()


def test_a_table_of_ones_own_and_its_product():
    betas = [0.1, 0.2, 0.05]
    process = DDPMProcess(betas=betas)
    alpha_bar = process.alpha(torch.tensor([1, 2, 3], dtype=D) / 3) ** 2
    np.testing.assert_allclose(alpha_bar, np.cumprod([0.9, 0.8, 0.95]), rtol=1e-14)
    np.testing.assert_allclose(process.betas, betas, rtol=1e-13)
    assert spec(process)["init_args"] == {"betas": betas}


@pytest.mark.parametrize("keep", [range(20, 1001, 20), [1, 10, 15, 20]])
def test_respacing_keeps_the_levels_and_makes_the_betas_that_lead_from_one_to_the_next(keep):
    whole, few = DDPMProcess(), DDPMProcess(keep=list(keep))
    levels = torch.tensor(list(keep), dtype=D) / 1000
    kept = whole.alpha(levels) ** 2
    n = len(kept)
    torch.testing.assert_close(few.alpha(torch.arange(1, n + 1, dtype=D) / n) ** 2, kept, rtol=1e-13, atol=0)
    before = torch.cat([torch.ones(1, dtype=D), kept[:-1]])
    torch.testing.assert_close(few.betas, 1 - kept / before, rtol=1e-9, atol=1e-15)


def test_the_geometric_table_is_geometric_and_hits_its_ends():
    sigma = SMLDProcess(10, 0.01, 1.0).sigma(torch.arange(1, 11, dtype=D) / 10)
    np.testing.assert_allclose(sigma, np.geomspace(0.01, 1.0, 10), rtol=1e-13)


def test_a_sigma_table_of_ones_own():
    sigma = SMLDProcess(sigmas=[0.1, 0.5, 3.0]).sigma(torch.tensor([1, 2, 3], dtype=D) / 3)
    np.testing.assert_allclose(sigma, [0.1, 0.5, 3.0], rtol=1e-14)


def test_between_two_levels_the_drift_of_ddpm_is_constant_and_preserves_the_variance():
    process = DDPMProcess(betas=[0.1, 0.2, 0.05])
    level = process.at(torch.tensor([0.35, 0.5, 0.66], dtype=D))
    rate = -3 * math.log(0.8)
    torch.testing.assert_close(level.f, torch.full((3,), -rate / 2, dtype=D), rtol=1e-12, atol=0)
    torch.testing.assert_close(level.g2, torch.full((3,), rate, dtype=D), rtol=1e-12, atol=0)


@every
def test_every_process_is_ordered_finite_and_inverted_by_its_log_snr(process):
    t = torch.linspace(process.t_min, process.t_max, 301, dtype=D)
    level = process.at(t)
    for value in (level.alpha, level.sigma, level.f, level.g2):
        assert value.isfinite().all()
    assert (level.g2 > 0).all() and (level.log_snr.diff() < 0).all()
    torch.testing.assert_close(process.time_of_log_snr(level.log_snr), t, rtol=1e-9, atol=1e-10)


@every
def test_the_exact_denoiser_takes_noise_to_gaussian_data_under_every_process(process):
    """DDIM is affine on Gaussian data: two inputs tell its mean and scale; 400 steps leave a small bias."""
    density = GaussianMixture(torch.ones(1), torch.tensor([[0.7]]), torch.tensor([0.25]))
    noise = torch.tensor([[0.0], [1.0]], dtype=D)
    low, high = DDIM(400)(AnalyticDenoiser(density, process), noise).flatten().tolist()
    assert low == pytest.approx(0.7, abs=0.03)
    assert high - low == pytest.approx(0.5, rel=0.05)


WRONG = [
    (CosineVPSDE, dict(t_max=1.0)),
    (CosineVPSDE, dict(offset=-1.0)),
    (KarrasVESDE, dict(rho=0.0)),
    (KarrasVESDE, dict(sigma_min=3.0, sigma_max=2.0)),
    (RectifiedFlow, dict(t_min=0.0)),
    (RectifiedFlow, dict(t_max=1.0)),
    (DDPMProcess, dict(num_timesteps=10)),
    (DDPMProcess, dict(num_timesteps=0)),
    (DDPMProcess, dict(betas=[0.1, 1.0])),
    (DDPMProcess, dict(betas=[])),
    (DDPMProcess, dict(schedule="lineal")),
    (DDPMProcess, dict(keep=[0, 5])),
    (DDPMProcess, dict(keep=[5, 5])),
    (DDPMProcess, dict(keep=[1000])),
    (DDPMProcess, dict(betas=[0.1])),
    (DDPMProcess, dict(keep=[5, 1001])),
    (SMLDProcess, dict(num_timesteps=1)),
    (SMLDProcess, dict(sigmas=[0.2, 0.1])),
    (SMLDProcess, dict(sigmas=[-0.2, 0.1])),
]


@pytest.mark.parametrize(("make", "wrong"), WRONG, ids=lambda v: str(v)[:40])
def test_what_cannot_be_is_refused(make, wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        make(**wrong)
