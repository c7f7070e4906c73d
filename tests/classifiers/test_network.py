"""A classifier of noisy examples from a network."""

import pytest
import torch
from support.densities import classes
from support.networks import randomized

from scorelight import VESDE, VPSDE, ClassifierGuidance, MLPEncoder, NetworkClassifier, RectifiedFlow
from scorelight.denoisers.analytic import AnalyticDenoiser

D = torch.float64
PROCESSES = [VPSDE(), VESDE(), RectifiedFlow()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)


def classifier(process, num_classes=3):
    return randomized(NetworkClassifier(MLPEncoder((2,), 16, 2), num_classes, process), 0.4).double().eval()


@every_process
def test_probabilities_sum_to_one_for_levels_of_floats_and_of_tensors(process, generator):
    model, x = classifier(process), torch.randn(4, 2, dtype=D, generator=generator)
    times = torch.linspace(process.t_min, process.t_max, 4, dtype=D)
    together = model.log_prob(x, process.at(times, like=x))
    torch.testing.assert_close(together.exp().sum(1), torch.ones(4, dtype=D))
    for i, level in enumerate(process.grid_levels(times)):
        torch.testing.assert_close(model.log_prob(x[i : i + 1], level), together[i : i + 1])


def test_it_gives_the_same_probabilities_in_every_process_at_equal_noise(generator):
    x = torch.randn(4, 2, dtype=D, generator=generator)
    ve, vp = VESDE(), VPSDE()
    level = vp.grid_levels(torch.tensor([0.3], dtype=D))[0]
    noise = torch.tensor([-2 * torch.tensor(level.sigma / level.alpha, dtype=D).log()], dtype=D)
    same = ve.grid_levels(ve.time_of_log_snr(noise))[0]
    model = classifier(vp)
    found = model.log_prob(x, level)
    torch.testing.assert_close(
        model.log_prob(x / level.alpha * same.alpha, same), found, rtol=1e-8, atol=1e-8
    )


@every_process
def test_the_gradient_of_the_guidance_is_that_of_finite_differences(process, generator):
    model, density = classifier(process, 2), classes()
    guided = ClassifierGuidance(AnalyticDenoiser(density, process), model, scale=1.7)
    x, label = torch.randn(5, 2, dtype=D, generator=generator), torch.tensor([0, 1, 1, 0, 1])
    level = process.grid_levels(torch.tensor([0.4], dtype=D))[0]
    added = guided.predict(x, level, label=label).score - guided.denoiser.unconditional(x, level).score
    h = 1e-5
    for d in range(2):
        step = h * torch.eye(2, dtype=D)[d]
        up, down = (model.log_prob_of(y, level, label) for y in (x + step, x - step))
        torch.testing.assert_close(added[:, d], 1.7 * (up - down) / (2 * h), rtol=1e-6, atol=1e-8)
