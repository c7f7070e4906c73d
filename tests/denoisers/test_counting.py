"""Evaluations are counted, and everything else is passed on."""

import torch
from support.denoisers import RecordingDenoiser
from support.densities import mixture
from support.networks import RecordingNetwork, random_mlp

from scorelight import VPSDE, AnalyticDenoiser, ClippedDenoiser, CountingDenoiser, Epsilon, NetworkDenoiser

D = torch.float64


def test_a_counting_denoiser_answers_as_the_other_and_counts(generator):
    inner = NetworkDenoiser(random_mlp((3, 2)), VPSDE(), Epsilon())
    counting = CountingDenoiser(inner)
    x_t, t = torch.randn(4, 3, 2, dtype=D, generator=generator), torch.full((4,), 0.3, dtype=D)
    assert counting.num_evaluations == 0
    for n in (1, 2, 3):
        pred, expected = counting(x_t, t), inner(x_t, t)
        assert torch.equal(pred.x0, expected.x0) and torch.equal(pred.epsilon, expected.epsilon)
        assert counting.num_evaluations == n
    assert counting.process is inner.process


def test_a_counting_denoiser_passes_conditions_on():
    recorder = RecordingNetwork()
    counting = CountingDenoiser(NetworkDenoiser(recorder, VPSDE(), Epsilon()))
    counting(torch.ones(2, 3), torch.full((2,), 0.3), label=5)
    assert recorder.cond == {"label": 5}


def test_the_unconditional_prediction_is_that_of_the_other_and_one_evaluation(generator):
    net = random_mlp((2,), num_classes=3)
    inner = NetworkDenoiser(net, VPSDE(), Epsilon())
    counting, x_t = CountingDenoiser(inner), torch.randn(4, 2, dtype=D, generator=generator)
    level, label = VPSDE().at(torch.tensor(0.3), like=x_t), torch.tensor([0, 1, 2, 0])
    without = counting.unconditional(x_t, level, label=label)
    assert torch.equal(without.output, inner.unconditional(x_t, level, label=label).output)
    assert not torch.equal(without.output, inner.predict(x_t, level, label=label).output)
    assert counting.num_evaluations == 1
    counting.predict(x_t, level, label=label)
    assert counting.num_evaluations == 2


def test_around_a_wrapper_and_inside_it_the_same_evaluations_are_counted():
    recording = RecordingDenoiser(AnalyticDenoiser(mixture(2), VPSDE()))
    inside = CountingDenoiser(recording)
    around = CountingDenoiser(ClippedDenoiser(inside))
    x_t = torch.zeros(5, 2)
    for _ in range(3):
        around(x_t, torch.tensor(0.3))
    assert around.num_evaluations == inside.num_evaluations == len(recording.levels) == 3
