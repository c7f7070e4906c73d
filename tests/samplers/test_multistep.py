import functools

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from support.marks import slow

from scorelight import (
    DDIM,
    MLP,
    VESDE,
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    CosineVPSDE,
    DPMSolverPP,
    EDMSampler,
    Epsilon,
    ExponentialAdams,
    GaussianMixture,
    Heun,
    KarrasGrid,
    KarrasVESDE,
    LogSNRGrid,
    MixedGrid,
    NetworkDenoiser,
    QuadraticGrid,
    RectifiedFlow,
    SubVPSDE,
    UniformGrid,
    UniPC,
)
from scorelight.rng import PhiloxGenerator
from scorelight.samplers.multistep import _moments, _weights

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), CosineVPSDE(), RectifiedFlow()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, 0.3], [-0.5, -0.6]]), torch.tensor([0.5, 0.3])
)
SIZES = [0.0, 1e-300, 1e-12, 1e-3, 0.3, 0.999, 1.0, 3.0, 12.0, 80.0]
sizes = pytest.mark.parametrize("z", SIZES + [-z for z in SIZES])
PLACES = {
    "one": [0.0],
    "two": [0.0, -1.0],
    "equal steps": [0.0, -1.0, -2.0, -3.0],
    "corrector": [1.0, 0.0, -1.0, -2.0, -3.0],
    "long after short": [1.0, 0.0, -1e-3, -3e-3, -4e-3],
    "short after long": [1.0, 0.0, -1e4, -3e4, -3.5e4],
    "uneven": [1.0, 0.0, -0.3, -2.5, -2.9],
}


NETWORK = MLP((2,), width=16, depth=2).double()
VIEWS = {
    "exact": lambda process: AnalyticDenoiser(MIXTURE, process),
    "one network": lambda process: NetworkDenoiser(NETWORK, process, Epsilon()),
}


def noise(n=8, d=2):
    return torch.randn(n, d, dtype=D, generator=torch.Generator().manual_seed(0))


def exact_moments(z, n):
    """∫₀¹ e^(−z(1−r)) r^k dr as a confluent hypergeometric function, in the precision set."""
    return [mpmath.exp(-z) / (k + 1) * mpmath.hyp1f1(k + 1, k + 2, z) for k in range(n)]


def exact_weights(z, places):
    """∫₀¹ e^(−z(1−r)) ℓ_j(r) dr, the Lagrange polynomials multiplied out with 80 digits."""
    with mpmath.workdps(80):
        r, n, found = [mpmath.mpf(p) for p in places], len(places), []
        moments = exact_moments(mpmath.mpf(z), n)
        for j in range(n):
            basis = [mpmath.mpf(1)]
            for i in set(range(n)) - {j}:
                shifted, scaled = [mpmath.mpf(0), *basis], [-r[i] * c for c in basis] + [mpmath.mpf(0)]
                basis = [(a + b) / (r[j] - r[i]) for a, b in zip(shifted, scaled, strict=True)]
            found.append(float(mpmath.fdot(basis, moments)))
        return found


@sizes
def test_moments_are_those_of_mpmath(z):
    with mpmath.workdps(50):
        exact = [float(m) for m in exact_moments(mpmath.mpf(z), 5)]
    np.testing.assert_allclose(_moments(z, 5), exact, rtol=1e-13, atol=1e-305)


@pytest.mark.parametrize("z", [0.3, 3.0, -3.0])
def test_moments_are_the_integrals_that_they_are_said_to_be(z):
    for k, moment in enumerate(_moments(z, 5)):
        assert quad(lambda r, k=k: np.exp(-z * (1 - r)) * r**k, 0, 1)[0] == pytest.approx(moment, rel=1e-12)


@sizes
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.one_in(16)
def test_weights_are_the_integrals_of_the_lagrange_polynomials(z, places):
    exact = exact_weights(z, places)
    np.testing.assert_allclose(_weights(z, places), exact, rtol=1e-11, atol=1e-13 * max(map(abs, exact)))


@pytest.mark.parametrize("degree", range(5))
def test_a_polynomial_of_lambda_is_integrated_exactly(degree):
    """(18) for Y = λ^k gives what (16) says: u' = κ (Y − u), solved here by undetermined coefficients."""
    kappa, times = 1.7, [0.9, 0.3, 0.1, -0.4, -1.0]  # the step is from 0.3 to 0.9
    h, places = 0.6, [(v - 0.3) / 0.6 for v in times]
    weights = [kappa * h * w for w in _weights(kappa * h, places)]
    found = sum(w * v**degree for w, v in zip(weights, times, strict=True))
    particular = np.polynomial.Polynomial([0.0] * degree + [1.0])
    solution, term = particular, particular
    for k in range(1, degree + 1):  # u = Y − Y'/κ + Y''/κ² − ...
        term = term.deriv()
        solution = solution + (-1 / kappa) ** k * term
    assert found == pytest.approx(solution(0.9) - np.exp(-kappa * h) * solution(0.3), rel=1e-12)


def test_the_rough_rule_takes_the_linear_polynomial_in_the_middle_of_the_step():
    z, places = 0.7, [0.0, -1.3]
    slope = 0.5 / 1.3
    mass = -np.expm1(-z) / z
    assert _weights(z, places, rough=True) == pytest.approx([mass * (1 + slope), -mass * slope], rel=1e-14)


@every_process
@pytest.mark.parametrize("grid", [UniformGrid(), MixedGrid()], ids=lambda g: type(g).__name__)
@pytest.mark.parametrize("num_steps", [2, 20])
@pytest.mark.parametrize(
    "make",
    [
        DPMSolverPP,
        functools.partial(UniPC, corrector=False),
        functools.partial(ExponentialAdams, corrector=False),
        functools.partial(ExponentialAdams, corrector=False, prediction="epsilon"),
    ],
    ids=["DPMSolverPP", "UniP", "ExponentialAdams", "of epsilon"],
)
@pytest.mark.one_in(4)
def test_at_order_1_every_predictor_is_ddim(process, grid, num_steps, make):
    denoiser = AnalyticDenoiser(MIXTURE, process)
    found = make(num_steps, grid, order=1)(denoiser, noise())
    torch.testing.assert_close(found, DDIM(num_steps, grid)(denoiser, noise()), rtol=1e-9, atol=1e-9)


@every_process
@pytest.mark.parametrize("num_steps", [2, 20])
def test_the_sde_at_order_1_is_ddim_with_full_noise(process, num_steps):
    denoiser = AnalyticDenoiser(MIXTURE, process)
    found, expected = (
        sampler(denoiser, noise(), generator=PhiloxGenerator(0, range(8)))
        for sampler in (
            DPMSolverPP(num_steps, order=1, stochastic=True),
            DDIM(num_steps, LogSNRGrid(), eta=1.0),
        )
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@every_process
def test_the_predictor_of_unipc_at_order_2_is_dpm_solver_pp_2m(process):
    denoiser = AnalyticDenoiser(MIXTURE, process)
    found, expected = (
        sampler(denoiser, noise())
        for sampler in (UniPC(15, order=2, corrector=False), DPMSolverPP(15, order=2))
    )
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "make",
    [
        DDIM,
        EDMSampler,
        *(functools.partial(DPMSolverPP, order=o) for o in (1, 2, 3)),
        *(functools.partial(UniPC, order=o) for o in (1, 2, 3)),
        *(functools.partial(ExponentialAdams, order=o) for o in (1, 2, 3, 4)),
        *(functools.partial(ExponentialAdams, prediction=p) for p in ("v", "epsilon")),
    ],
)
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("process", PROCESSES[:2] + PROCESSES[3:], ids=lambda p: type(p).__name__)
@pytest.mark.one_in(16)
def test_the_same_noise_gives_the_same_image_under_every_process_of_one_range_of_snr(make, view, process):
    """x/α depends on the process through σ/α alone: so should every solver, step by step."""
    ends = process.grid_levels(torch.tensor([process.t_min, process.t_max], dtype=D))
    ratios = [level.sigma / level.alpha for level in ends]
    outs = [
        make(num_steps=12, grid=LogSNRGrid())(view(twin), noise())
        for twin in (process, VESDE(*ratios), KarrasVESDE(*ratios))
    ]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=0, atol=1e-7)


@every_process
@pytest.mark.one_in(3)
def test_all_deterministic_samplers_meet(process):
    denoiser = AnalyticDenoiser(MIXTURE, process)
    samplers = [DPMSolverPP(300, order=3), UniPC(300), ExponentialAdams(300), EDMSampler(600), Heun(600)]
    first, *others = (sampler(denoiser, noise()) for sampler in samplers)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=2e-3)


@every_process
@pytest.mark.parametrize(
    "grid",
    [UniformGrid(), slow(QuadraticGrid()), LogSNRGrid(), slow(KarrasGrid()), slow(MixedGrid())],
    ids=lambda g: type(g).__name__,
)
@pytest.mark.parametrize("make", [DPMSolverPP, UniPC, ExponentialAdams])
@pytest.mark.one_in(4)
def test_gaussian_data_are_sampled_to_high_accuracy_on_any_grid(process, grid, make):
    """x_s = α_s m + √(v_s/v_t) (x_t − α_t m), and then the posterior mean."""
    mean, variance = torch.tensor([[0.7, -0.2]], dtype=D), 0.3
    density = GaussianMixture(torch.ones(1), mean, torch.tensor([variance]))
    t, s = process.grid_levels(torch.tensor([process.t_max, process.t_min], dtype=D))
    v_t, v_s = (v.alpha**2 * variance + v.sigma**2 for v in (t, s))
    last = s.alpha * mean + (v_s / v_t) ** 0.5 * (t.sigma * noise() - t.alpha * mean)
    exact = mean + s.alpha * variance / v_s * (last - s.alpha * mean)
    errors = [
        (make(n, grid, order=3)(AnalyticDenoiser(density, process), noise()) - exact).abs().max()
        for n in (10, 50, 300)
    ]
    assert errors[0] < 3.0  # no blow-up
    assert errors[2] < 2e-3
    assert errors[2] < errors[0]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("make", [DPMSolverPP, UniPC, ExponentialAdams])
@pytest.mark.parametrize("process", [VESDE(1e-6, 1e6), VPSDE(beta_max=300.0)], ids=str)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
def test_states_stay_finite_however_long_the_steps(make, process, num_steps):
    x = make(num_steps, denoise=False, order=3)(AnalyticDenoiser(MIXTURE, process), noise())
    assert x.isfinite().all()


@pytest.mark.parametrize(("num_steps", "long"), [(12, True), (60, False)])
def test_the_last_step_of_epsilon_is_of_first_order_where_it_is_long(num_steps, long):
    denoiser, process = AnalyticDenoiser(MIXTURE, VPSDE()), VPSDE()
    options = dict(denoise=False, corrector=False, prediction="epsilon")  # shows the states it steps from
    sampler = ExponentialAdams(num_steps, **options)
    *_, before, end = sampler.sample_path(denoiser, noise())
    t, s = process.grid_levels(MixedGrid()(process, num_steps + 1))[-2:]
    assert (s.log_snr - t.log_snr > 1) == long  # h > 1/2
    pred = denoiser.predict(before, t)
    assert torch.allclose(end, s.alpha * pred.x0 + s.sigma * pred.epsilon, rtol=1e-9) == long


@pytest.mark.parametrize(
    ("make", "order"), [(DPMSolverPP, 0), (DPMSolverPP, 4), (UniPC, 4), (ExponentialAdams, 5)]
)
def test_an_order_out_of_range_raises(make, order):
    with pytest.raises(ConfigurationError, match=f"order={order}: must be from 1 to"):
        make(order=order)


def test_the_sde_has_no_third_order():
    with pytest.raises(ConfigurationError, match=r"from 1 to 2 with stochastic=true"):
        DPMSolverPP(order=3, stochastic=True)


def test_v_of_gaussian_data_of_unit_variance_is_zero_and_any_number_of_steps_is_exact():
    """x̂0 = cos θ z and ε̂ = sin θ z: z does not move."""
    density = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    for num_steps in (1, 3):
        sampler = ExponentialAdams(num_steps, denoise=False, prediction="v")
        start, *_, end = (level.alpha**2 + level.sigma**2 for level in sampler.levels(SubVPSDE()))
        found = sampler(AnalyticDenoiser(density, SubVPSDE()), noise())
        sigma = sampler.levels(SubVPSDE())[0].sigma
        torch.testing.assert_close(found, (end / start) ** 0.5 * sigma * noise(), rtol=1e-12, atol=1e-12)


def test_few_steps_end_early_with_the_denoising_step_only():
    assert ExponentialAdams(20).levels(VPSDE())[-1].time > VPSDE().t_min
    assert ExponentialAdams(21).levels(VPSDE())[-1].time == VPSDE().t_min
    assert ExponentialAdams(5, denoise=False).levels(VPSDE())[-1].time == VPSDE().t_min


def test_an_unknown_prediction_raises():
    with pytest.raises(ConfigurationError, match="prediction='score': x0, v or epsilon"):
        ExponentialAdams(prediction="score")
