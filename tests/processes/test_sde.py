import math

import mpmath
import pytest
import torch

from scorelight import VESDE, VPSDE, ConfigurationError, SubVPSDE

D = torch.float64
mpmath.mp.dps = 50
T = torch.cat([torch.logspace(-5, 0, 200, dtype=D), torch.linspace(0.01, 1, 100, dtype=D)])
TINY = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.7, 1.0]
BETAS = pytest.mark.parametrize("betas", [(0.1, 20.0), (0.5, 5.0), (1.0, 1.0)], ids=str)
SIGMAS = pytest.mark.parametrize("sigmas", [(0.01, 50.0), (0.002, 80.0), (1.0, 2.0)], ids=str)


def song_beta(t, low, high):
    return low + t * (high - low), low * t + (high - low) * t**2 / 2


def assert_coefficients(process, f, g2):
    level = process.at(T)
    torch.testing.assert_close(level.f, f, rtol=1e-12, atol=0)
    torch.testing.assert_close(level.g2, g2, rtol=1e-12, atol=0)


@BETAS
def test_vp_has_the_drift_and_diffusion_of_song_et_al(betas):
    beta, _ = song_beta(T, *betas)
    assert_coefficients(VPSDE(*betas), -beta / 2, beta)


@BETAS
def test_sub_vp_has_the_drift_and_diffusion_of_song_et_al(betas):
    beta, integral = song_beta(T, *betas)
    assert_coefficients(SubVPSDE(*betas), -beta / 2, beta * -torch.expm1(-2 * integral))


@SIGMAS
def test_ve_has_the_drift_and_diffusion_of_song_et_al(sigmas):
    low, high = sigmas
    sigma = low * (high / low) ** T
    assert_coefficients(VESDE(*sigmas), torch.zeros_like(T), sigma**2 * 2 * math.log(high / low))


def in_50_digits(process, t):
    t = mpmath.mpf(t)
    if isinstance(process, VESDE):
        low, high = mpmath.mpf(process.sigma_min), mpmath.mpf(process.sigma_max)
        return mpmath.mpf(1), low * (high / low) ** t
    low, high = mpmath.mpf(process.beta_min), mpmath.mpf(process.beta_max)
    integral = low * t + (high - low) * t**2 / 2
    variance = 1 - mpmath.exp(-integral)
    sigma = variance if isinstance(process, SubVPSDE) else mpmath.sqrt(variance)
    return mpmath.exp(-integral / 2), sigma


@pytest.mark.parametrize("t", TINY)
@pytest.mark.parametrize("process", [VPSDE(), SubVPSDE(), VESDE()], ids=lambda p: type(p).__name__)
def test_alpha_and_sigma_have_14_digits_at_every_time(process, t):
    time = torch.tensor(t, dtype=D)
    for value, exact in zip(
        (process.alpha(time), process.sigma(time)), in_50_digits(process, t), strict=True
    ):
        assert abs(mpmath.mpf(value.item()) / exact - 1) < 1e-14


@pytest.mark.parametrize("t", TINY)
def test_vp_preserves_the_variance_and_sub_vp_stays_below(t):
    vp, sub = (process.at(torch.tensor(t)) for process in (VPSDE(), SubVPSDE()))
    assert vp.alpha**2 + vp.sigma**2 == pytest.approx(1, abs=1e-15)
    assert sub.sigma.item() == pytest.approx(vp.sigma.item() ** 2, rel=1e-14)


def test_ve_runs_from_sigma_min_to_sigma_max():
    assert VESDE(0.02, 30.0).sigma(torch.tensor([0.0, 1.0], dtype=D)).tolist() == pytest.approx(
        [0.02, 30], rel=1e-14
    )


@pytest.mark.parametrize("make", [VPSDE, SubVPSDE])
@pytest.mark.parametrize("betas", [(0, 20), (-1, 20), (2, 1), (float("nan"), 1)], ids=str)
def test_betas_out_of_order_or_range_raise(make, betas):
    with pytest.raises(ConfigurationError, match="beta_min"):
        make(*betas)


@pytest.mark.parametrize("make", [VPSDE, SubVPSDE])
def test_processes_without_noise_at_zero_refuse_to_start_there(make):
    with pytest.raises(ConfigurationError, match="t_min"):
        make(t_min=0)


@pytest.mark.parametrize("sigmas", [(0, 1), (-1, 1), (2, 1), (1, 1), (float("nan"), 1)], ids=str)
def test_sigmas_out_of_order_or_range_raise(sigmas):
    with pytest.raises(ConfigurationError, match="sigma_min"):
        VESDE(*sigmas)
