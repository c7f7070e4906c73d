"""The base of denoisers and of their wrappers."""

import pytest
import torch
from support.denoisers import RecordingDenoiser
from support.densities import mixture

from scorelight import VPSDE, AnalyticDenoiser, Denoiser, DenoiserWrapper
from scorelight.denoisers.analytic import EmpiricalDenoiser
from scorelight.denoisers.base import wrap

D = torch.float64


def test_a_denoiser_without_predict_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Denoiser()


def at_level(x_t):
    return VPSDE().at(torch.full((len(x_t),), 0.3, dtype=D), like=x_t)


@pytest.mark.parametrize("kind", [AnalyticDenoiser, EmpiricalDenoiser])
def test_the_unconditional_prediction_of_an_exact_denoiser_ignores_conditions(kind, generator):
    density = mixture(2)
    denoiser = kind(density if kind is AnalyticDenoiser else density.sample(20, generator), VPSDE())
    x_t = torch.randn(4, 2, dtype=D, generator=generator)
    without = denoiser.unconditional(x_t, at_level(x_t), label=torch.arange(4))
    assert torch.equal(without.epsilon, denoiser.predict(x_t, at_level(x_t)).epsilon)


def test_a_denoiser_drops_all_conditions_by_default():
    recording = RecordingDenoiser(AnalyticDenoiser(mixture(2), VPSDE()))
    Denoiser.unconditional(recording, x_t := torch.zeros(3, 2), at_level(x_t), label=torch.arange(3))
    assert recording.conditions == [{}]


class DoubledScore(DenoiserWrapper):
    """Twice the ε̂ of another denoiser."""

    def __init__(self, denoiser, scale=2.0):
        super().__init__(denoiser)
        self.scale = scale

    def predict(self, x_t, level, **cond):
        pred = self.denoiser.predict(x_t, level, **cond)
        return type(pred)(x_t, level, self.scale * pred.output, pred.parameterization)


class Labelled(AnalyticDenoiser):
    """Different with a label and without."""

    def predict(self, x_t, level, **cond):
        pred = super().predict(x_t, level)
        return type(pred)(x_t, level, pred.output + len(cond), pred.parameterization)


def test_a_wrapper_has_the_process_and_the_unconditional_prediction_of_the_other(generator):
    inner = Labelled(mixture(2), VPSDE())
    wrapper, x_t = DoubledScore(inner), torch.randn(4, 2, dtype=D, generator=generator)
    level, label = at_level(x_t), torch.arange(4)
    assert wrapper.process is inner.process
    exact = AnalyticDenoiser(inner.density, VPSDE()).predict(x_t, level).output
    assert torch.equal(wrapper.predict(x_t, level, label=label).output, 2 * (exact + 1))
    assert torch.equal(wrapper.unconditional(x_t, level, label=label).output, exact)


def test_wrap_puts_the_guidance_around_the_denoiser_if_there_is_one():
    inner = AnalyticDenoiser(mixture(2), VPSDE())
    assert wrap(inner, None) is inner
    guided = wrap(inner, lambda denoiser: DoubledScore(denoiser, scale=3.0))
    assert guided.denoiser is inner and guided.scale == 3.0
