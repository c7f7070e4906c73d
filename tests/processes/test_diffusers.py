"""Tables, q(x_t | x0), reverse steps and respacing against diffusers, an independent implementation.

diffusers keeps its tables in float32. Here its own code builds them in float64, and agrees to 1e-10; to 1e-9
where it subtracts from 1 what is nearly 1.
"""

import warnings
from unittest import mock

import numpy as np
import pytest
import torch

from scorelight import (
    X0,
    AncestralSampler,
    DDPMProcess,
    DiscreteTime,
    Epsilon,
    NetworkDenoiser,
    Prediction,
    UniformGrid,
    VariationalBound,
    VPrediction,
)
from scorelight.objectives.base import NoisyBatch

D = torch.float64
OWN = np.linspace(0.001, 0.5, 40).tolist()
SCHEDULES = {
    "linear": (dict(), dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)),
    "scaled_linear": (
        dict(schedule="scaled_linear"),
        dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    ),
    "cosine": (dict(schedule="cosine"), dict(beta_schedule="squaredcos_cap_v2")),
    "cosine of 50": (
        dict(num_timesteps=50, schedule="cosine"),
        dict(beta_schedule="squaredcos_cap_v2", num_train_timesteps=50),
    ),
    "linear of 100": (
        dict(num_timesteps=100),
        dict(beta_schedule="linear", beta_start=1e-3, beta_end=0.2, num_train_timesteps=100),
    ),
    "own": (dict(betas=OWN), dict(trained_betas=OWN, num_train_timesteps=40)),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)
SPACES = {"epsilon": Epsilon(), "sample": X0(), "v_prediction": VPrediction()}
every_space = pytest.mark.parametrize("space", SPACES)


def scheduler(**config):
    """diffusers' DDPMScheduler with float64 in place of float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import DDPMScheduler
    with mock.patch.object(torch, "float32", torch.float64):
        made = DDPMScheduler(**(dict(num_train_timesteps=1000, clip_sample=False) | config))
    made.one = made.one.double()
    assert made.betas.dtype == made.alphas_cumprod.dtype == D
    return made


def pair(schedule, **config):
    ours, theirs = SCHEDULES[schedule]
    return DDPMProcess(**ours), scheduler(**theirs, **config)


def their_step(theirs, output, i, x, noise):
    """x_{i−1} of their step from level i, with the given noise in place of a random one."""
    with mock.patch(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda shape, **_: noise.expand(shape)
    ):
        return theirs.step(output, i - 1, x).prev_sample


def our_step(process, output, space, pair_of_times, x, noise, variance="small"):
    levels = process.grid_levels(torch.tensor(pair_of_times, dtype=D))
    predict = lambda x, level: Prediction(x, level, output, space)  # noqa: E731
    (state,) = AncestralSampler(variance=variance).trajectory(predict, x, levels, lambda like: noise)
    return state


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


@every_schedule
def test_every_beta_and_every_product_is_theirs(schedule):
    ours, theirs = pair(schedule)
    n = ours.num_timesteps
    np.testing.assert_allclose(ours.betas, theirs.betas, rtol=1e-10)
    alpha_bar = ours.alpha(torch.arange(1, n + 1, dtype=D) / n) ** 2
    np.testing.assert_allclose(alpha_bar, theirs.alphas_cumprod, rtol=1e-10)


@every_schedule
def test_noise_is_added_as_they_do(schedule):
    ours, theirs = pair(schedule)
    n = ours.num_timesteps
    x0, epsilon, i = randn(n, 2, 3), randn(n, 2, 3, seed=1), torch.arange(1, n + 1)
    # one term at a time too: their sum can be small by cancellation
    for data, noise in ((x0, 0 * epsilon), (0 * x0, epsilon), (x0, epsilon)):
        torch.testing.assert_close(
            ours.perturb(data, noise, i.double() / n),
            theirs.add_noise(data, noise, i - 1),
            rtol=1e-9,
            atol=1e-12,
        )


@every_schedule
@every_space
def test_the_posterior_mean_is_theirs_for_every_level_and_output(schedule, space):
    """Their last step, to level 0, is x̂0 itself: ours is `denoise`."""
    ours, theirs = pair(schedule, prediction_type=space)
    n, x, output = ours.num_timesteps, randn(4, 3), randn(4, 3, seed=1)
    for i in sorted({2, 3, 10, n // 2, n - 1, n}):
        expected = their_step(theirs, output, i, x, torch.zeros(()))
        found = our_step(ours, output, SPACES[space], [i / n, (i - 1) / n], x, 0.0)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9 * output.abs().max().item())
    last = ours.grid_levels(torch.tensor([1 / n], dtype=D))[0]
    expected = their_step(theirs, output, 1, x, torch.zeros(()))
    torch.testing.assert_close(Prediction(x, last, output, SPACES[space]).x0, expected, rtol=1e-8, atol=1e-10)


@every_schedule
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_posterior_variance_is_theirs(schedule, variance):
    """What unit noise adds to a step; theirs from `step`, and from the formula it uses."""
    ours, theirs = pair(schedule, variance_type=f"fixed_{variance}")
    n, zero = ours.num_timesteps, torch.zeros(2, 3, dtype=D)
    for i in sorted({2, 3, 10, n // 2, n - 1, n}):
        expected = their_step(theirs, zero, i, zero, torch.ones((), dtype=D))
        found = our_step(ours, zero, Epsilon(), [i / n, (i - 1) / n], zero, 1.0, variance)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
        assert found[0, 0].item() ** 2 == pytest.approx(theirs._get_variance(i - 1).item(), rel=1e-9)


@every_schedule
def test_the_learned_variance_is_their_learned_range(schedule):
    """Read off the bound: for x̂0 = x0 a term is ½ Σ [ρ − 1 − log ρ], ρ the share of c² in the variance."""
    ours, theirs = pair(schedule, variance_type="learned_range")
    n = ours.num_timesteps
    v, x0 = 2 * torch.rand(n, 1, generator=torch.Generator().manual_seed(2), dtype=D) - 1, randn(n, 1)
    level = ours.at(torch.arange(1, n + 1, dtype=D) / n, like=x0)
    noisy = NoisyBatch(x0, 0 * x0, level.alpha * x0, level, level.time.flatten(), torch.ones(n))
    bound = VariationalBound(time_sampler=DiscreteTime())
    found = bound.term(ours, Prediction(noisy.x_t, level, x0, X0(), (v + 1) / 2), noisy) / n
    log_large = torch.stack([theirs._get_variance(i, variance_type="fixed_large_log") for i in range(1, n)])
    log_small = torch.stack([theirs._get_variance(i, variance_type="fixed_small").log() for i in range(1, n)])
    log_learned = torch.stack(
        [
            theirs._get_variance(i, variance_type="learned_range", predicted_variance=v[i, 0])
            for i in range(1, n)
        ]
    )
    assert ((log_learned >= log_small - 1e-12) & (log_learned <= log_large + 1e-12)).all()
    log_rho = log_small - log_learned
    expected = 0.5 * (torch.expm1(log_rho) - log_rho)
    torch.testing.assert_close(found[1:], expected, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize(
    ("spacing", "num", "offset"),
    [("leading", 50, 0), ("leading", 7, 1), ("trailing", 50, 0), ("trailing", 7, 0), ("linspace", 25, 0)],
)
@pytest.mark.one_in(4)
def test_a_table_of_kept_levels_takes_the_steps_of_their_spacings(schedule, spacing, num, offset):
    """Every β'_i, mean and variance of theirs between two timesteps is that of a process with `keep`."""
    whole, theirs = pair(schedule, timestep_spacing=spacing, steps_offset=offset)
    theirs.set_timesteps(num)
    keep = (theirs.timesteps.flip(0) + 1).tolist()
    few = DDPMProcess(**SCHEDULES[schedule][0], keep=keep)
    assert few.num_timesteps == num and few.t_min == 1 / num
    betas = [theirs._get_variance(i - 1, variance_type="fixed_large").item() for i in keep]
    np.testing.assert_allclose(few.betas, betas, rtol=1e-9)
    tilde = [theirs._get_variance(i - 1, variance_type="fixed_small").item() for i in keep[1:]]
    x, output = randn(4, 3), randn(4, 3, seed=1)
    for i, variance in zip(range(2, num + 1), tilde, strict=True):
        mean = our_step(few, output, Epsilon(), [i / num, (i - 1) / num], x, 0.0)
        expected = their_step(theirs, output, keep[i - 1], x, torch.zeros(()))
        torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-8)
        std = our_step(few, output, Epsilon(), [i / num, (i - 1) / num], x, 1.0) - mean
        torch.testing.assert_close(std, torch.full_like(std, variance**0.5), rtol=1e-6, atol=1e-9)
    # the levels of the whole table are those of the few
    kept = whole.alpha(torch.tensor(keep, dtype=D) / 1000)
    torch.testing.assert_close(few.alpha(torch.arange(1, num + 1, dtype=D) / num), kept, rtol=1e-12, atol=0)


class Net(torch.nn.Module):
    def forward(self, x, noise_label):
        return torch.tanh(x + noise_label[:, None])


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_whole_run_of_the_sampler_is_theirs(variance):
    """50 trailing steps with the same noise, but for the last, to x̂0.

    With fixed_large theirs adds noise to the sample there, since the timestep is not 0.
    """
    _, theirs = pair("scaled_linear", variance_type=f"fixed_{variance}", timestep_spacing="trailing")
    theirs.set_timesteps(50)
    process = DDPMProcess(schedule="scaled_linear", keep=(theirs.timesteps.flip(0) + 1).tolist())
    denoiser, start = NetworkDenoiser(Net(), process, Epsilon()), randn(5, 3)
    sampler = AncestralSampler(50, variance=variance)
    found = sampler(denoiser, start, generator=torch.Generator().manual_seed(1))

    levels, source = process.grid_levels(UniformGrid()(process, 50)), torch.Generator().manual_seed(1)
    x = levels[0].sigma * start
    for i, (level, t) in enumerate(zip(levels, theirs.timesteps.tolist(), strict=True)):
        noise = torch.randn(x.shape, generator=source, dtype=D) if i < 49 else torch.zeros_like(x)
        x = their_step(theirs, denoiser.predict(x, level).epsilon, t + 1, x, noise)
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)
