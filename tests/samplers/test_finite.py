"""Samples that are NaN or infinite are an error, which says how many, since when, and what to try."""

import math

import pytest
import torch
from support.denoisers import ZeroDenoiser

import scorelight
from scorelight import (
    DDIM,
    MLP,
    RK45,
    VPSDE,
    AncestralSampler,
    AnnealedCorrector,
    Denoiser,
    Epsilon,
    NetworkDenoiser,
    Prediction,
    PredictorCorrector,
    Sampler,
    Score,
    decode,
    encode,
)
from scorelight.errors import SamplingError, SolverError
from scorelight.samplers.generate import generate

SAMPLERS = sorted(
    name
    for name in scorelight.samplers.__all__
    if isinstance(kind := getattr(scorelight, name, None), type) and issubclass(kind, Sampler)
    if kind is not Sampler
)


class Broken(Denoiser):
    """Predicts x0 = 0, and NaN or infinity for some examples from some evaluation on."""

    def __init__(self, value=math.nan, bad=slice(None), after=0):
        super().__init__()
        self.process = VPSDE()
        self.value, self.bad, self.left = value, bad, after

    def predict(self, x_t, level, **cond):
        x0 = torch.zeros_like(x_t)
        if self.left <= 0:
            x0[self.bad] = self.value
        self.left -= 1
        return Prediction(x_t, level, x0, scorelight.X0())


@pytest.fixture
def broken_network():
    """Full of NaN, as after training that diverged."""
    network = MLP((2,), 8, 1)
    for weight in network.parameters():
        torch.nn.init.constant_(weight, math.nan)
    return NetworkDenoiser(network, VPSDE(), Epsilon())


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_network_of_nan_stops_every_sampler_at_the_first_step(name, broken_network):
    sampler = getattr(scorelight, name)(num_steps=30)
    with torch.no_grad(), pytest.raises(SolverError) as error:
        sampler(broken_network, torch.randn(3, 2))
    message = str(error.value)
    assert name in message and "step 1" in message and "3 of 3" in message
    assert "weights of the network are not finite" in message and "previous.ckpt" in message


def test_how_many_since_which_step_and_at_which_time():
    sampler, bad = DDIM(10), torch.tensor([1, 4])
    with pytest.raises(SolverError) as error:
        sampler(Broken(bad=bad, after=6), torch.randn(5, 2))
    time = float(sampler.levels(VPSDE())[7].time)
    assert str(error.value).startswith(
        "DDIM: 2 of 5 samples drawn at once are NaN or infinite, "
        f"the first from step 7 of 10 on, t = {time:.3g}."
    )
    assert "Try more steps" in str(error.value)


def test_the_last_step_counts_and_has_the_time_t_min():
    with pytest.raises(SolverError, match=r"step 10 of 10 on, t = 0\.001"):
        DDIM(10)(Broken(after=9), torch.randn(5, 2))


class Clipping(Sampler):
    """Its second state is infinite, and all others are clipped."""

    def trajectory(self, predict, x, levels, noise):
        for step in range(1, len(levels)):
            x = x / 0 if step == 2 else x.clamp(-1, 1)
            yield x


def test_an_infinity_that_clipping_hides_is_found():
    """Clipped to 1 it would be a white image."""
    with pytest.raises(SamplingError, match=r"Clipping: 5 of 5 samples.*step 2 of 4 on"):
        Clipping(4, denoise=False)(ZeroDenoiser(VPSDE()), torch.full((5, 2), 1.0))


def test_noise_that_float32_cannot_scale_back_is_found():
    process = VPSDE(beta_max=1000)
    denoiser = NetworkDenoiser(MLP((2,), 8, 1), process, Score())
    torch.nn.init.normal_(denoiser.network.last.weight)
    with torch.no_grad(), pytest.raises(SolverError, match=r"AncestralSampler.*smaller beta_max"):
        AncestralSampler(20)(denoiser, torch.randn(4, 2))


def test_a_corrector_whose_step_is_infinite_names_the_one_to_take():
    noise = torch.zeros(3, 2)
    with pytest.raises(SolverError, match=r"PredictorCorrector: 3 of 3.*step 1 of 20.*AnnealedCorrector"):
        PredictorCorrector(20)(ZeroDenoiser(VPSDE()), noise)
    assert (
        PredictorCorrector(20, corrector=AnnealedCorrector())(ZeroDenoiser(VPSDE()), noise).isfinite().all()
    )


def test_the_way_back_to_noise_is_checked_too(broken_network):
    x0 = torch.randn(3, 2)
    for way_back in (DDIM(5).encode, lambda d, x: encode(d, x), lambda d, x: decode(d, x)):
        with torch.no_grad(), pytest.raises(SolverError, match=r"DDIM: 3 of 3|RK45, step 1: .* 3 of 3"):
            way_back(broken_network, x0)


def test_what_is_drawn_by_seed_and_index_is_checked(broken_network):
    with pytest.raises(SolverError, match="2 of 2"):
        [*generate(broken_network, DDIM(4), (2,), 0, [0, 1])]


def test_states_before_the_end_are_given_and_finite_samples_are_untouched():
    states = DDIM(6).sample_path(Broken(after=3), torch.randn(2, 2))
    assert [next(states).isfinite().all().item() for _ in range(6)] == [True] * 3 + [False] * 3
    with pytest.raises(SolverError):
        next(states)
    assert DDIM(6)(Broken(after=99), torch.randn(0, 2)).shape == (0, 2)
    assert RK45()(ZeroDenoiser(VPSDE()), torch.randn(2, 2)).isfinite().all()
