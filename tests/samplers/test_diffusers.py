"""Whole trajectories against diffusers' schedulers, an independent implementation, on the same times.

Their tables are built in float64; their 1000 levels are ours, and `DiscreteGrid` their spacings.
"""

import warnings
from unittest import mock

import numpy as np
import pytest
import torch

from scorelight import (
    DDIM,
    AncestralSampler,
    DDPMProcess,
    DiscreteGrid,
    DPMSolverPP,
    Epsilon,
    NetworkDenoiser,
    UniPC,
)

D = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of NumPy 2, in diffusers
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

PROCESS = DDPMProcess(schedule="scaled_linear")
spacings = pytest.mark.parametrize("spacing", ["trailing", "leading"])


class Net(torch.nn.Module):
    def forward(self, x, noise_label):
        return torch.tanh(x + 0.3 * noise_label[:, None])


DENOISER = NetworkDenoiser(Net(), PROCESS, Epsilon())


def scheduler(name, **config):
    table = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000)
    with mock.patch.object(torch, "float32", D):
        return getattr(diffusers, name)(**table, **config)


def their_states(theirs, num_steps, x, noises=None):
    """Their loop; the states after each step, given the noise of each."""
    theirs.set_timesteps(num_steps)
    if hasattr(theirs, "sigmas"):  # they round them to float32
        ratio = ((1 - theirs.alphas_cumprod) / theirs.alphas_cumprod).sqrt()
        theirs.sigmas = torch.cat([ratio[theirs.timesteps], torch.zeros(1, dtype=D)])
    draws = iter(noises if noises is not None else [None] * num_steps)
    module = type(theirs).__module__
    states = []
    for t in theirs.timesteps:
        level = PROCESS.grid_levels((t + 1)[None].double() / 1000)[0]
        draw = next(draws)
        with (
            mock.patch(f"{module}.randn_tensor", lambda *a, z=draw, **k: z, create=True),
            mock.patch.object(torch, "float32", D),  # which DPM-Solver++ casts every state to
        ):
            x = theirs.step(DENOISER.predict(x, level).epsilon, t, x).prev_sample
        states.append(x)
    return states


def our_states(sampler, start, noises=None):
    draws = iter(noises if noises is not None else [])
    return list(sampler.sample_path(DENOISER, start, noise_source=lambda like: next(draws)))


def compare(sampler, theirs, stochastic=False, states=slice(None)):
    n, source = sampler.num_steps, torch.Generator().manual_seed(0)
    start, noises = torch.randn(5, 3, dtype=D, generator=source), None
    if stochastic:
        noises = torch.randn(n, 5, 3, dtype=D, generator=source)
    first = PROCESS.grid_levels(sampler.grid(PROCESS, n))[0]
    expected = their_states(theirs, n, first.sigma * start, noises)
    found = our_states(sampler, start, noises)
    for ours, their in zip(found[states], expected[states], strict=True):
        torch.testing.assert_close(ours, their, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("spacing", ["linspace", "trailing", "leading"])
@pytest.mark.parametrize("num_steps", [2, 10, 50])
def test_the_discrete_grid_has_their_spacings(spacing, num_steps):
    theirs = scheduler("DDIMScheduler", timestep_spacing=spacing)
    theirs.set_timesteps(num_steps)
    ours = DiscreteGrid(spacing)(PROCESS, num_steps)
    np.testing.assert_allclose(ours * 1000, theirs.timesteps + 1, rtol=1e-12)


@spacings
@pytest.mark.parametrize("num_steps", [10, 50])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim(spacing, num_steps, eta):
    theirs = scheduler("DDIMScheduler", timestep_spacing=spacing, clip_sample=False)
    theirs.step = lambda *a, step=theirs.step: step(*a, eta=eta)
    compare(DDIM(num_steps, DiscreteGrid(spacing), eta=eta), theirs, stochastic=eta > 0)


@spacings
@pytest.mark.parametrize("num_steps", [10, 50])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(spacing, num_steps, variance):
    """But for the last step: with large variance theirs adds noise to the sample unless the timestep is 0."""
    theirs = scheduler(
        "DDPMScheduler", timestep_spacing=spacing, clip_sample=False, variance_type=f"fixed_{variance}"
    )
    sampler = AncestralSampler(num_steps, DiscreteGrid(spacing), variance=variance)
    compare(sampler, theirs, stochastic=True, states=slice(-1))


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [5, 20, 50])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("stochastic", [False, True], ids=["flow", "sde"])
def test_dpm_solver_pp_multistep(spacing, num_steps, order, stochastic):
    kind = "sde-dpmsolver++" if stochastic else "dpmsolver++"
    theirs = scheduler(
        "DPMSolverMultistepScheduler", timestep_spacing=spacing, algorithm_type=kind, solver_order=order
    )
    theirs.set_timesteps(num_steps)
    grid = DiscreteGrid(levels=(theirs.timesteps.flip(0) + 1).tolist())
    compare(DPMSolverPP(num_steps, grid, order=order, stochastic=stochastic), theirs, stochastic)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [5, 20, 50])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.one_in(4)
def test_unipc_bh2(spacing, num_steps, order, corrector):
    """At order 3 but for the last two steps: theirs lowers the order there."""
    theirs = scheduler(
        "UniPCMultistepScheduler",
        timestep_spacing=spacing,
        solver_order=order,
        disable_corrector=[] if corrector else list(range(num_steps)),
    )
    theirs.set_timesteps(num_steps)
    grid = DiscreteGrid(levels=(theirs.timesteps.flip(0) + 1).tolist())
    sampler = UniPC(num_steps, grid, order=order, corrector=corrector)
    compare(sampler, theirs, states=slice(-2) if order == 3 else slice(None))
