"""Samplers of p(x0 | y): where each is exact, and what holds for all."""

import dataclasses

import pytest
import torch
from support.processes import every_kind_of_process

from scorelight import (
    DDIM,
    VPSDE,
    AnalyticDenoiser,
    ConfigurationError,
    GaussianMixture,
    Heun,
    RectifiedFlow,
)
from scorelight.inverse import (
    DDRM,
    DPS,
    MMPS,
    TDS,
    TMPD,
    DiffPIR,
    ExactPosterior,
    Mask,
    MatrixOperator,
    Measurement,
    Operator,
    PiGDM,
    RePaint,
    Replacement,
    mixture_posterior,
)
from scorelight.inverse.base import _Conditioned
from scorelight.rng import PhiloxGenerator

D = torch.float64
class_name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize("process", every_kind_of_process(), ids=class_name)


def draws(*size, seed):
    return torch.randn(*size, dtype=D, generator=torch.Generator().manual_seed(seed))


def gaussian(covariance, mean=None):
    mean = draws(1, len(covariance), seed=2) if mean is None else mean
    return GaussianMixture(torch.ones(1), mean, covariance[None])


def correlated(dim=4):
    factor = draws(dim, dim, seed=1)
    return factor @ factor.mT / dim + 0.1 * torch.eye(dim, dtype=D)


def covariance(density, k):
    return density.eigenvectors[k] * density.eigenvalues[k] @ density.eigenvectors[k].mT


A = draws(3, 4, seed=3)
EXACT = {
    "MMPS": (correlated(), A, 0.3, lambda m: MMPS(m, num_iterations=3)),
    "MMPS, a noise for each": (correlated(), A, [0.3, 0.1, 0.6], lambda m: MMPS(m, num_iterations=3)),
    "TMPD of one measurement": (correlated(), A[:1], 0.3, TMPD),
    "PiGDM of white data": (torch.eye(4, dtype=D), A, 0.3, PiGDM),
    "PiGDM of white data, a noise for each": (torch.eye(4, dtype=D), A, [0.3, 0.1, 0.6], PiGDM),
    "PiGDM of white data of another variance": (
        0.2 * torch.eye(4, dtype=D),
        A,
        0.3,
        lambda m: PiGDM(m, variance=0.2),
    ),
}


@pytest.mark.parametrize(("covariance", "a", "noise", "make"), EXACT.values(), ids=EXACT)
@every_process
def test_the_score_of_gaussian_data_is_that_of_the_posterior(process, covariance, a, noise, make):
    density, measurement = gaussian(covariance), Measurement(MatrixOperator((4,), a), noise)
    y = draws(len(a), seed=4)
    exact = AnalyticDenoiser(mixture_posterior(density, measurement, y), process)
    guided = _Conditioned(AnalyticDenoiser(density, process), make(measurement))
    times = torch.linspace(process.t_min, process.t_max, 7, dtype=D)[1:-1]
    for level in process.grid_levels(times):
        x = level.length * draws(5, 4, seed=5)
        found = guided.predict(x, level, measurement=y.expand(5, -1))
        expected = exact.predict(x, level)
        torch.testing.assert_close(found.score, expected.score, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.x0, expected.x0, rtol=1e-6, atol=1e-6)


def test_the_true_covariance_draws_of_the_posterior_of_gaussian_data(generator):
    """10,000 samples: five standard errors of mean and covariance, and the error of 300 steps."""
    density = gaussian(correlated())
    measurement, y = Measurement(MatrixOperator((4,), A), 0.3), draws(3, seed=4)
    sampler = MMPS(measurement, DDIM(300, eta=1.0), num_iterations=3)
    model = AnalyticDenoiser(density, VPSDE())
    noise = torch.randn(10_000, 4, dtype=D, generator=generator)
    x = sampler(model, noise, generator=generator, measurement=y.expand(10_000, -1))
    exact = mixture_posterior(density, measurement, y)
    expected = covariance(exact, 0)
    deviation = expected.diagonal().sqrt()
    assert ((x.mean(0) - exact.means[0]).abs() < 0.06 * deviation).all()
    assert ((x.T.cov() - expected).abs() < 0.08 * deviation[:, None] * deviation).all()


class Erratic(AnalyticDenoiser):
    """Its derivative is far from the truth, as that of a trained network is at high noise."""

    def predict(self, x_t, level, **cond):
        pred = super().predict(x_t, level, **cond)
        wrong = level.sigma / level.alpha * (x_t.flip(1) - x_t.flip(1).detach())
        return dataclasses.replace(pred, output=pred.output + wrong)


@pytest.mark.parametrize(
    "make", [MMPS, PiGDM, TMPD, lambda m: MMPS(m, num_iterations=5)], ids=["MMPS", "PiGDM", "TMPD", "MMPS, 5"]
)
@pytest.mark.parametrize("noise", [0.3, [0.3, 0.1, 0.6]])
@every_process
def test_no_step_goes_beyond_the_measurement(process, make, noise):
    measurement = Measurement(MatrixOperator((4,), A), noise)
    guided = _Conditioned(Erratic(gaussian(correlated()), process), make(measurement))
    y, weight = draws(5, 3, seed=4), 1 / measurement.noise
    times = torch.linspace(process.t_min, process.t_max, 7, dtype=D)[1:-1]
    for level in process.grid_levels(times):
        x = level.length * draws(5, 4, seed=5)
        before = guided.denoiser.predict(x, level).x0
        after = guided.predict(x, level, measurement=y).x0
        step = ((after - before) @ A.mT * weight).norm(dim=1)
        assert (step <= (1 + 1e-9) * ((y - before @ A.mT) * weight).norm(dim=1)).all()


@pytest.mark.parametrize(
    "make",
    [lambda m: TDS(m, 100, num_particles=64), lambda m: ExactPosterior(m, Heun(20), 60, (1.0, 0.5), 20)],
    ids=["TDS", "ExactPosterior"],
)
@pytest.mark.parametrize("process", [VPSDE(), RectifiedFlow()], ids=class_name)
def test_particles_and_chains_draw_of_the_posterior_of_a_mixture(process, make, generator):
    """2,000 draws: the weight of a mode has a standard error of 0.011."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=D)
    density = GaussianMixture(torch.tensor([0.6, 0.4]), means, torch.tensor([0.05, 0.05]))
    measurement = Measurement(MatrixOperator((2,), torch.tensor([[0.1, 1.0]], dtype=D)), 0.5)
    y = torch.tensor([0.35], dtype=D)
    exact, sampler = mixture_posterior(density, measurement, y), make(measurement)
    noise = torch.randn(2000, 2, dtype=D, generator=generator)
    model = AnalyticDenoiser(density, process)
    x = sampler(model, noise, generator=generator, measurement=y.expand(2000, 1))
    first = x[:, 0] > 0
    assert first.double().mean().item() == pytest.approx(exact.weights[0].item(), abs=0.04)
    for k, of in enumerate((first, ~first)):
        assert (x[of].mean(0) - exact.means[k]).abs().max() < 0.03
        assert (x[of].T.cov() - covariance(exact, k)).abs().max() < 0.15 * exact.eigenvalues[k].max()


def test_chains_report_how_they_went(generator):
    model, measurement = images(VPSDE())
    sampler = ExactPosterior(measurement, DDIM(10), 20, warmup=10)
    y = measurement.observe(model.density.sample(2, generator))
    sampler(model, draws(4, *SHAPE, seed=6), generator=generator, measurement=y[[0, 0, 1, 1]])
    assert "accepted" in sampler.report()[0]
    assert "--method.num_iterations 40 or more" in sampler.report()[1]


SHAPE = (1, 4, 4)
METHODS = {
    "Replacement": lambda m: Replacement(m, 20),
    "RePaint": lambda m: RePaint(m, 20, repeats=3, jump=4),
    "DPS": lambda m: DPS(m, 20),
    "PiGDM": lambda m: PiGDM(m, DDIM(20, eta=1.0)),
    "TMPD": lambda m: TMPD(m, DDIM(20, eta=1.0)),
    "MMPS": lambda m: MMPS(m, Heun(20)),
    "DiffPIR": lambda m: DiffPIR(m, 20),
    "DDRM": lambda m: DDRM(m, 20),
    "TDS": lambda m: TDS(m, 20, num_particles=4),
    "ExactPosterior": lambda m: ExactPosterior(m, DDIM(10), 60, warmup=40, use_gradient=True),
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def images(process):
    """Two kinds of images, and a measurement of one half of five of them."""
    means = torch.stack([torch.full(SHAPE, 0.5, dtype=D), torch.linspace(-1, 1, 16, dtype=D).reshape(SHAPE)])
    density = GaussianMixture(torch.tensor([0.4, 0.6]), means, torch.tensor([0.05, 0.1]))
    return AnalyticDenoiser(density, process), Measurement(Mask(SHAPE, half="right"), 0.1)


@every_method
@every_process
def test_a_result_is_a_function_of_its_example_alone(process, make):
    model, measurement = images(process)
    method = make(measurement)
    x0 = model.density.sample(5, torch.Generator().manual_seed(0))
    y = measurement.observe(x0, PhiloxGenerator(1, range(5)))
    noise = draws(5, *SHAPE, seed=6)
    together = method(model, noise, generator=PhiloxGenerator(2, range(5)), measurement=y)
    alone = method(model, noise[3:4], generator=PhiloxGenerator(2, [3]), measurement=y[3:4])
    assert together.isfinite().all()
    torch.testing.assert_close(together[3:4], alone, rtol=1e-6, atol=1e-6)
    error = (measurement.operator(together) - y).square().mean().sqrt().item()
    assert error < 0.5  # five times the noise; the spread of the data is 0.7


@pytest.mark.parametrize("name", ["Replacement", "RePaint", "DiffPIR", "DDRM", "PiGDM", "MMPS"])
@pytest.mark.parametrize("process", [VPSDE(), RectifiedFlow()], ids=class_name)
def test_without_noise_the_measurement_is_kept(process, name, generator):
    model, _ = images(process)
    measurement = Measurement(Mask(SHAPE, half="right"))
    y = measurement.observe(model.density.sample(3, generator))
    method = METHODS[name](measurement)
    x = method(model, draws(3, *SHAPE, seed=6), generator=generator, measurement=y)
    torch.testing.assert_close(measurement.operator(x), y, rtol=0, atol=0.05)


class Absolute(Operator):
    """A function that is not linear."""

    def forward(self, x):
        return x.abs()


@pytest.mark.parametrize(
    ("make", "measurement", "message"),
    [
        (
            Replacement,
            Measurement(Absolute(SHAPE)),
            "Replacement needs a linear operator, and Absolute",
        ),
        (DDRM, Measurement(Mask(SHAPE, half="top"), [0.1] * 8), "DDRM needs the same noise for all"),
        (TMPD, Measurement(Mask(SHAPE, half="top")), "TMPD needs noise of the measurement"),
        (lambda m: MMPS(m, num_iterations=0), Measurement(Mask(SHAPE, half="top")), "num_iterations=0"),
        (lambda m: DPS(m, step=0.0), Measurement(Mask(SHAPE, half="top")), "step=0.0"),
        (lambda m: RePaint(m, repeats=0), Measurement(Mask(SHAPE, half="top")), "repeats=0"),
        (lambda m: DiffPIR(m, fresh=1.5), Measurement(Mask(SHAPE, half="top")), "fresh=1.5"),
        (lambda m: DDRM(m, eta=-1.0), Measurement(Mask(SHAPE, half="top")), "eta=-1.0"),
        (lambda m: PiGDM(m, variance=0.0), Measurement(Mask(SHAPE, half="top")), "variance=0.0"),
    ],
)
def test_what_a_method_cannot_do_is_refused(make, measurement, message):
    with pytest.raises(ConfigurationError, match=message):
        make(measurement)


@pytest.mark.parametrize("make", [DPS, MMPS])
def test_a_measurement_that_is_missing_or_does_not_fit_is_refused(make):
    model, measurement = images(VPSDE())
    method, noise = make(measurement), draws(2, *SHAPE, seed=1)
    with pytest.raises(ConfigurationError, match="which measurement"):
        method(model, noise)
    with pytest.raises(ConfigurationError, match=r"\(2, 1, 8\) is needed"):
        method(model, noise, measurement=torch.zeros(2, 1, 9))
    with pytest.raises(ConfigurationError, match=r"examples have shape \(1, 4, 5\)"):
        method(model, torch.zeros(2, 1, 4, 5), measurement=torch.zeros(2, 1, 8))
