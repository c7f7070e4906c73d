import math

import pytest
import torch

from scorelight import (
    EDM,
    MLP,
    VESDE,
    VPSDE,
    X0,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    Epsilon,
    KarrasVESDE,
    LearnedVPSDE,
    NetworkDenoiser,
    NoiseLevel,
    PosteriorMean,
    Prediction,
    RectifiedFlow,
    Score,
    SMLDProcess,
    SubVPSDE,
    Velocity,
    VPrediction,
)

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE()]
OTHERS = [
    CosineVPSDE(),
    KarrasVESDE(),
    RectifiedFlow(),
    DDPMProcess(),
    SMLDProcess(),
    LearnedVPSDE(8).requires_grad_(False),
]
SPACES = [Epsilon(), Score(), X0(), VPrediction(), Velocity(), EDM(0.5), EDM(2.0)]
name = lambda value: type(value).__name__ + str(getattr(value, "sigma_data", ""))  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)
every_known_process = pytest.mark.parametrize("process", PROCESSES + OTHERS, ids=name)
every_space = pytest.mark.parametrize("space", SPACES, ids=name)
every_other = pytest.mark.parametrize("other", SPACES, ids=name)


def times(process):
    ends = torch.tensor([process.t_min, process.t_max], dtype=D)
    return torch.cat([ends, torch.linspace(process.t_min, process.t_max, 39, dtype=D)[1:-1]])


def drawn(process, generator):
    x0, epsilon = torch.randn(2, 39, 3, 2, 4, dtype=D, generator=generator)
    level = process.at(times(process), like=x0)
    return x0, epsilon, level, level.alpha * x0 + level.sigma * epsilon


def close(actual, expected):
    # scores reach 1/sigma = 1e4 and velocities sigma' = 400: relative to the largest entry of each level
    scale = expected.flatten(1).abs().amax(1).reshape(-1, 1, 1, 1)
    return ((actual - expected).abs() < 1e-9 * scale).all()


@every_process
@every_space
def test_an_exact_output_gives_back_everything_it_was_made_of(process, space, generator):
    x0, epsilon, level, x_t = drawn(process, generator)
    a, b = space.coefficients(level)
    pred = Prediction(x_t, level, a * x0 + b * epsilon, space)
    assert close(pred.x0, x0)
    assert close(pred.epsilon, epsilon)
    assert close(pred.score, -epsilon / level.sigma)
    assert close(pred.velocity, level.dalpha * x0 + level.dsigma * epsilon)


@every_process
@pytest.mark.parametrize(
    ("space", "quantity"),
    [(Epsilon(), "epsilon"), (Score(), "score"), (X0(), "x0"), (Velocity(), "velocity")],
    ids=name,
)
def test_an_output_is_the_quantity_it_is_named_after(process, space, quantity, generator):
    output, _, level, x_t = drawn(process, generator)
    assert close(getattr(Prediction(x_t, level, output, space), quantity), output)


@every_process
def test_v_prediction_is_alpha_epsilon_minus_sigma_x0(process, generator):
    output, _, level, x_t = drawn(process, generator)
    pred = Prediction(x_t, level, output, VPrediction())
    assert close(level.alpha * pred.epsilon - level.sigma * pred.x0, output)


@every_process
@every_space
def test_any_output_gives_x0_and_epsilon_that_add_up_to_x_t(process, space, generator):
    output, _, level, x_t = drawn(process, generator)
    pred = Prediction(x_t, level, output, space)
    parts = level.alpha * pred.x0, level.sigma * pred.epsilon
    size = parts[0].abs() + parts[1].abs() + x_t.abs()  # rounding is relative to the terms of the sum
    assert ((parts[0] + parts[1] - x_t).abs() < 1e-12 * size).all()


@every_process
@every_space
@every_other
@pytest.mark.one_in(4)
def test_a_residual_moved_to_another_space_is_the_difference_taken_there(process, space, other, generator):
    x0, epsilon, level, x_t = drawn(process, generator)
    output = torch.randn(x_t.shape, dtype=D, generator=generator)
    pred = Prediction(x_t, level, output, space)
    a, b = other.coefficients(level)
    directly = (a * pred.x0 + b * pred.epsilon) - (a * x0 + b * epsilon)
    assert close(pred.residual(x0, epsilon, other), directly)


@every_process
@every_space
def test_levels_of_floats_and_of_tensors_agree(process, space, generator):
    output, _, level, x_t = drawn(process, generator)
    batched = Prediction(x_t, level, output, space)
    for i, single in enumerate(process.grid_levels(times(process))):
        pred = Prediction(x_t[i], single, output[i], space)
        for quantity in ("x0", "epsilon", "score", "velocity"):
            torch.testing.assert_close(
                getattr(pred, quantity), getattr(batched, quantity)[i], rtol=1e-9, atol=0
            )


@every_process
@every_space
def test_every_parameterization_is_usable_at_every_time(process, space):
    delta = torch.as_tensor(space.determinant(process.at(times(process))))
    assert (delta.sign() == delta.sign()[0]).all()
    assert (delta != 0).all()


@every_process
def test_the_determinant_of_v_prediction_is_the_total_variance(process):
    level = process.at(times(process))
    torch.testing.assert_close(VPrediction().determinant(level), level.alpha**2 + level.sigma**2)


@every_process
def test_the_determinant_of_velocity_is_half_g_squared_over_the_noise_to_signal_ratio(process):
    level = process.at(times(process))
    torch.testing.assert_close(Velocity().determinant(level), level.alpha * level.g2 / (2 * level.sigma))


@pytest.mark.parametrize("sigma_data", [0.25, 0.5, 1.0, 3.0])
def test_edm_has_the_skip_and_output_scales_of_karras_table_1(sigma_data):
    sigma = torch.logspace(-3, 2, 50, dtype=D)
    one, zero = torch.ones_like(sigma), torch.zeros_like(sigma)
    level = NoiseLevel(sigma, one, sigma, zero, one)
    n2 = sigma**2 + sigma_data**2
    c_skip = Prediction(one, level, zero, EDM(sigma_data)).x0
    c_out = Prediction(zero, level, one, EDM(sigma_data)).x0
    torch.testing.assert_close(c_skip, sigma_data**2 / n2)
    torch.testing.assert_close(c_out, sigma * sigma_data / n2.sqrt())


@every_process
@pytest.mark.parametrize("sigma_data", [0.25, 1.0, 3.0])
def test_edm_output_has_unit_variance_and_no_correlation_with_the_input(process, sigma_data):
    # x0 ~ N(0, s^2) and epsilon ~ N(0, 1) are independent: second moments are sums of products
    level = process.at(times(process))
    a, b = EDM(sigma_data).coefficients(level)
    variance = a**2 * sigma_data**2 + b**2
    covariance = a * level.alpha * sigma_data**2 + b * level.sigma
    torch.testing.assert_close(variance, torch.ones_like(variance))
    assert (covariance.abs() < 1e-14 * level.sigma.clamp(min=1)).all()


def test_edm_is_minus_v_prediction_for_variance_preserving_processes_and_unit_data():
    level = VPSDE().at(times(VPSDE()))
    for edm, v in zip(EDM(1.0).coefficients(level), VPrediction().coefficients(level), strict=True):
        torch.testing.assert_close(edm, -v)


@every_known_process
@every_space
@pytest.mark.one_in(3)
def test_the_input_scale_gives_unit_variance_to_data_of_the_assumed_spread(process, space):
    """Var x_t = α² s² + σ² for independent x0 of variance s² and ε of variance 1."""
    level = process.at(times(process))
    variance = level.alpha**2 * space.sigma_data**2 + level.sigma**2
    torch.testing.assert_close(space.input_scale(level) ** 2 * variance, torch.ones_like(variance))
    for floats, scale in zip(process.grid_levels(times(process)), space.input_scale(level), strict=True):
        assert type(space.input_scale(floats)) is float
        assert space.input_scale(floats) == pytest.approx(scale.item(), rel=1e-14)


@every_known_process
@every_space
@pytest.mark.one_in(3)
def test_the_noise_label_is_the_log_of_the_noise_to_signal_ratio(process, space):
    level, t = process.at(times(process)), times(process)
    expected = process.sigma(t).log() - process.alpha(t).log()
    torch.testing.assert_close(space.noise_label(level), expected, rtol=1e-12, atol=1e-12)
    for floats, label in zip(process.grid_levels(t), space.noise_label(level), strict=True):
        assert type(space.noise_label(floats)) is float
        assert space.noise_label(floats) == pytest.approx(label.item(), rel=1e-13, abs=1e-13)


def test_the_input_scale_is_1_for_vp_and_that_of_karras_for_ve():
    vp, ve = (process.at(times(process)) for process in (VPSDE(), VESDE()))
    torch.testing.assert_close(Epsilon().input_scale(vp), torch.ones_like(vp.sigma))
    torch.testing.assert_close(EDM(0.5).input_scale(ve), 1 / (ve.sigma**2 + 0.25).sqrt())
    torch.testing.assert_close(EDM(0.5).noise_label(ve), ve.sigma.log())


@every_space
def test_predictions_keep_the_type_of_the_data(space, generator):
    x_t, output = torch.randn(2, 4, 3, generator=generator)
    pred = Prediction(x_t, VPSDE().at(torch.rand(4, generator=generator), like=x_t), output, space)
    assert {getattr(pred, n).dtype for n in ("x0", "epsilon", "score", "velocity")} == {torch.float32}


@pytest.mark.parametrize("sigma_data", [0.0, -1.0, math.nan])
def test_data_without_spread_raises(sigma_data):
    with pytest.raises(ConfigurationError, match="sigma_data"):
        EDM(sigma_data)


TABLES = {
    "linear": DDPMProcess(),
    "cosine": DDPMProcess(schedule="cosine"),
    "few": DDPMProcess(10, "cosine"),
    "respaced": DDPMProcess(keep=[1, 4, 9, 400, 1000]),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_posterior_mean_is_equation_7_of_ddpm(table, generator):
    n = table.num_timesteps
    level = table.at(torch.arange(1, n + 1, dtype=D) / n, like=torch.empty(n, 2, dtype=D))
    x0, epsilon = torch.randn(2, n, 2, dtype=D, generator=generator)
    beta = table.betas[:, None]
    total = (1 - beta).cumprod(0)
    before = torch.cat([torch.ones(1, 1, dtype=D), total[:-1]])
    x_t = total.sqrt() * x0 + (1 - total).sqrt() * epsilon
    mean = (before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - total)
    space = PosteriorMean(n)
    a, b = space.coefficients(level)
    torch.testing.assert_close(a * x0 + b * epsilon, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(space.determinant(level), level.alpha * b - level.sigma * a, rtol=1e-6, atol=0)
    pred = Prediction(x_t, level, mean, space)
    torch.testing.assert_close(pred.x0, x0, rtol=1e-6, atol=1e-6)
    singles = table.grid_levels(level.time[:, 0])
    each = torch.tensor([space.coefficients(single) for single in singles], dtype=D)
    torch.testing.assert_close(each, torch.cat([a, b], dim=1), rtol=1e-12, atol=1e-14)


def test_the_posterior_mean_is_exact_enough_in_single_precision(generator):
    table = TABLES["linear"]
    x0, epsilon = torch.randn(2, 1000, 4, generator=generator)
    level = table.at(torch.arange(1, 1001, dtype=D) / 1000, like=x0)
    a, b = PosteriorMean().coefficients(level)
    x_t = level.alpha * x0 + level.sigma * epsilon
    error = Prediction(x_t, level, a * x0 + b * epsilon, PosteriorMean()).epsilon - epsilon
    assert error.abs().max() < 0.01  # of the rounding of x_t, times σ/σ²_{t|s}


@pytest.mark.parametrize("process", [VESDE(), SubVPSDE(), RectifiedFlow(), SMLDProcess()], ids=name)
def test_the_posterior_mean_is_refused_for_other_processes(process):
    network = MLP((2,), width=4, depth=1)
    with pytest.raises(ConfigurationError, match="PosteriorMean: is for variance-preserving"):
        NetworkDenoiser(network, process, PosteriorMean())


def test_the_posterior_mean_needs_a_step():
    with pytest.raises(ConfigurationError, match="num_timesteps=0"):
        PosteriorMean(0)
