"""RK45 against SciPy and against itself: under other processes, in other batches, at other tolerances."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from support.denoisers import ConditionalGaussianDenoiser

from scorelight import (
    MLP,
    RK45,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    DenoiserWrapper,
    GaussianMixture,
    Heun,
    KarrasVESDE,
    LogSNRGrid,
    NetworkDenoiser,
    RectifiedFlow,
    SMLDProcess,
    SubVPSDE,
    Velocity,
    decode,
    encode,
    slerp,
)

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), CosineVPSDE(), RectifiedFlow(), KarrasVESDE()]
TABLES = [DDPMProcess(), DDPMProcess(40), SMLDProcess(), SMLDProcess(30)]
name = lambda p: f"{type(p).__name__}{p.num_timesteps or ''}"  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES + TABLES, ids=name)
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 0.3], [-0.5, -0.6]]), torch.tensor([0.25, 0.1])
)


class Spy(DenoiserWrapper):
    """Counts the evaluations of each example, whose place is a condition."""

    def __init__(self, denoiser, num):
        super().__init__(denoiser)
        self.num_evaluations = torch.zeros(num, dtype=torch.long)

    def predict(self, x_t, level, **cond):
        self.num_evaluations.index_add_(0, cond["place"], torch.ones_like(cond["place"]))
        return self.denoiser.predict(x_t, level)


def noise(num, seed=0):
    return torch.randn(num, 2, generator=torch.Generator().manual_seed(seed), dtype=D)


def ends(process):
    return process.grid_levels(torch.tensor([process.t_max, process.t_min], dtype=D))


@every_process
@pytest.mark.one_in(3)
def test_gaussian_data_flow_along_straight_lines_of_standardised_coordinates(process):
    mean, variance = torch.tensor([0.7, -1.2], dtype=D), torch.tensor([0.5, 0.02], dtype=D)
    denoiser = AnalyticDenoiser(GaussianMixture(torch.ones(1), mean[None], variance.diag()[None]), process)
    t, s = ends(process)
    v_t, v_s = (v.alpha**2 * variance + v.sigma**2 for v in (t, s))
    exact = s.alpha * mean + (v_s / v_t).sqrt() * (t.sigma * noise(8) - t.alpha * mean)
    found = RK45(rtol=1e-8, atol=1e-8, denoise=False)(denoiser, noise(8))
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("process", PROCESSES[:3], ids=name)
def test_it_agrees_with_scipy_in_time_itself(process):
    t, s = ends(process)
    start = t.sigma * noise(1)[0]
    denoiser = AnalyticDenoiser(MIXTURE, process)

    def velocity(t, x):
        return denoiser(torch.as_tensor(x)[None], torch.tensor(t)).velocity[0]

    exact = solve_ivp(velocity, (t.time, s.time), start, "DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    ours = RK45(rtol=1e-9, atol=1e-9, denoise=False)(denoiser, noise(1))
    assert ours[0].tolist() == pytest.approx(exact.tolist(), abs=1e-6)


def test_the_same_noise_gives_the_same_image_under_every_process_with_the_same_evaluations():
    """In (z, θ) they differ only in where they begin and end: of that, what N(0, I) forgets is left."""
    spies = [Spy(AnalyticDenoiser(MIXTURE, p), 16) for p in (*PROCESSES, DDPMProcess(), SMLDProcess())]
    samples = [RK45(rtol=1e-7, atol=1e-7)(spy, noise(16), place=torch.arange(16)) for spy in spies]
    numbers = torch.stack([spy.num_evaluations for spy in spies]).double()
    for x in samples:
        torch.testing.assert_close(x, samples[0], rtol=0, atol=0.03)
    assert (numbers.mean(1) / numbers[0].mean()).sub(1).abs().max() < 0.1


@pytest.mark.parametrize("process", [VESDE(), CosineVPSDE(), RectifiedFlow()], ids=name)
def test_heun_in_many_steps_comes_to_the_same(process):
    denoiser = AnalyticDenoiser(MIXTURE, process)
    ours, theirs = RK45(1e-6, 1e-6)(denoiser, noise(8)), Heun(num_steps=400)(denoiser, noise(8))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("process", [VESDE(), DDPMProcess(40)], ids=name)
@pytest.mark.one_in(2)
def test_the_error_falls_with_the_declared_order(process):
    denoiser = AnalyticDenoiser(MIXTURE, process)

    def run(tolerance):
        spy = Spy(denoiser, 8)
        sampler = RK45(rtol=tolerance, atol=tolerance, denoise=False)
        return sampler(spy, noise(8), place=torch.arange(8)), spy.num_evaluations.double().mean().item()

    exact, _ = run(1e-11)
    runs = [run(tolerance) for tolerance in (1e-5, 1e-7, 1e-9)]
    errors, numbers = [(x - exact).norm().item() for x, _ in runs], [n for _, n in runs]
    assert -np.polyfit(np.log(numbers), np.log(errors), 1)[0] > RK45.order - 0.1


@pytest.mark.one_in(3)
@every_process
def test_a_sample_does_not_depend_on_its_batch(process):
    denoiser, x = AnalyticDenoiser(MIXTURE, process), noise(8)
    whole = RK45()(denoiser, x)
    for indices in ([5], [6, 1, 3]):
        torch.testing.assert_close(RK45()(denoiser, x[indices]), whole[indices], rtol=1e-12, atol=1e-12)


def test_conditions_go_with_their_examples():
    """Each example has a mean of its own, a row of the condition; the standard deviation is for all."""

    mean = torch.tensor([[-3.0], [0.0], [0.5], [10.0]], dtype=D)
    x = RK45(rtol=1e-8, atol=1e-8)(
        ConditionalGaussianDenoiser(VPSDE()), torch.zeros(4, 2, dtype=D), mean=mean, std=torch.tensor(0.1)
    )
    t, s = ends(VPSDE())
    v_t, v_s = (v.alpha**2 * 0.01 + v.sigma**2 for v in (t, s))
    shift = math.sqrt(v_s / v_t) * t.alpha / s.alpha  # of the mean that the start lacks
    expected = mean * (1 - s.alpha**2 * 0.01 / v_s * shift)
    torch.testing.assert_close(x, expected.expand(4, 2), rtol=0, atol=1e-5)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("num_steps", [2, 5])
def test_states_are_those_at_the_times_of_the_grid(denoise, num_steps):
    denoiser = AnalyticDenoiser(MIXTURE, VPSDE())
    sampler = RK45(1e-9, 1e-9, num_steps, LogSNRGrid(), denoise)
    states = list(sampler.sample_path(denoiser, noise(3)))
    one = RK45(1e-9, 1e-9, 1 + denoise, denoise=denoise)(denoiser, noise(3))
    assert len(states) == num_steps
    torch.testing.assert_close(states[-1], one, rtol=0, atol=1e-6)
    if not denoise:  # half the way, in SciPy's eyes
        t, s = VPSDE().grid_levels(LogSNRGrid()(VPSDE(), num_steps + 1)[:2])
        velocity = lambda t, x: denoiser(torch.as_tensor(x)[None], torch.tensor(t)).velocity[0]  # noqa: E731
        first = solve_ivp(velocity, (t.time, s.time), t.sigma * noise(3)[0], "DOP853", rtol=1e-9, atol=1e-9)
        assert states[0][0].tolist() == pytest.approx(first.y[:, -1].tolist(), abs=1e-6)


@pytest.mark.parametrize("process", [RectifiedFlow(), DDPMProcess(40)], ids=name)
@pytest.mark.parametrize("shape", [(2,), (3, 5), (1, 4, 6)], ids=str)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_any_shape_under_inference_mode(process, shape, mode):
    denoiser = NetworkDenoiser(MLP(shape, width=8, depth=1), process, Velocity())
    with mode():
        x = RK45(rtol=1e-3, atol=1e-3)(denoiser, torch.ones(4, *shape))
    assert x.shape == (4, *shape) and x.dtype == torch.float32 and x.isfinite().all()


@pytest.mark.parametrize(("rtol", "atol"), [(-1.0, 1e-3), (1e-3, 0.0)])
def test_tolerances_are_checked_when_it_is_made(rtol, atol):
    with pytest.raises(ConfigurationError, match="rtol"):
        RK45(rtol, atol)


# encode, decode, slerp


@every_process
@pytest.mark.one_in(4)
def test_data_encoded_and_decoded_are_the_data(process):
    denoiser, x0 = AnalyticDenoiser(MIXTURE, process), MIXTURE.sample(16, torch.Generator().manual_seed(0))
    code = encode(denoiser, x0)
    assert (decode(denoiser, code) - x0).abs().max() < 1e-4
    sample = RK45(1e-6, 1e-6, denoise=False)(denoiser, code)
    assert (sample / ends(process)[1].alpha - x0).abs().max() < 1e-4


def test_codes_of_data_are_standard_normal():
    x0 = MIXTURE.sample(4000, torch.Generator().manual_seed(0))
    code = encode(AnalyticDenoiser(MIXTURE, VPSDE()), x0, rtol=1e-4, atol=1e-4)
    assert code.mean(0).abs().max() < 4 / math.sqrt(4000) + 0.01  # α(t_max) of the mean is left
    assert (code.T.cov() - torch.eye(2, dtype=D)).abs().max() < 4 * math.sqrt(2 / 4000)
    assert (code.abs() < 0.6745).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(8000))


def test_spherical_interpolation_stays_on_the_circle():
    angles = torch.tensor([0.3, 2.0], dtype=D)
    a, b = (3 * torch.stack([x.cos(), x.sin()])[None] for x in angles)
    for share in (0.0, 0.25, 0.5, 1.0):
        at = angles[0] + share * (angles[1] - angles[0])
        torch.testing.assert_close(slerp(a, b, share), 3 * torch.stack([at.cos(), at.sin()])[None])


def test_spherical_interpolation_of_the_same_direction_is_a_straight_line_and_any_shape_goes():
    a = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(a, 2 * a, 0.25), 1.25 * a)
    share = torch.tensor([0.0, 0.5, 1.0])
    b = a.flip(-1)
    out = slerp(a, b, share)
    assert torch.equal(out[0], a[0]) and out.dtype == a.dtype
    torch.testing.assert_close(out[2], b[2])
    torch.testing.assert_close(out[1].norm(), a[1].norm())
