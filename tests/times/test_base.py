"""Every time sampler under every process: in range, monotone, unbiased if it says so, reproducible."""

import math
import re

import numpy as np
import pytest
import torch

from scorelight import (
    VESDE,
    VPSDE,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    DiscreteTime,
    EpsilonPrediction,
    FixedTime,
    ImportanceTime,
    KarrasVESDE,
    LearnedVPSDE,
    LogitNormalTime,
    LogNormalTime,
    LossAwareTime,
    RectifiedFlow,
    SMLDProcess,
    StratifiedTime,
    SubVPSDE,
    TimeGrid,
    TimeSampler,
    UniformTime,
)
from scorelight.rng import PhiloxGenerator
from scorelight.times.base import resolve_num_timesteps, timestep_index, timestep_times

D = torch.float64
CPU = torch.device("cpu")
SMOOTH = [
    VPSDE(),
    VPSDE(t_min=1e-5, t_max=0.7),
    SubVPSDE(),
    VESDE(),
    VESDE(t_min=0.1, t_max=0.9),
    CosineVPSDE(),
    KarrasVESDE(),
    RectifiedFlow(),
    LearnedVPSDE(8),
]
TABLES = [DDPMProcess(20, "cosine"), DDPMProcess(1000), DDPMProcess(betas=[0.1, 0.9, 0.3]), SMLDProcess(15)]


def informed(num_timesteps=None):
    """A loss-aware sampler that has seen its fill of random losses."""

    def make(process):
        sampler = LossAwareTime(num_timesteps, history=3)
        t = timestep_times(process, sampler.num_timesteps_of(process), CPU).repeat(3)
        sampler.observe(process, t, torch.rand(len(t), generator=torch.Generator().manual_seed(1)))
        return sampler

    return make


SAMPLERS = {
    "uniform": lambda process: UniformTime(),
    "stratified": lambda process: StratifiedTime(),
    "log-normal": lambda process: LogNormalTime(),
    "log-normal far out": lambda process: LogNormalTime(-3.0, 3.0),
    "logit-normal": lambda process: LogitNormalTime(),
    "logit-normal far out": lambda process: LogitNormalTime(2.0, 3.0),
    "fixed time": lambda process: FixedTime(t=0.4),
    "fixed sigma": lambda process: FixedTime(sigma=0.7),
    "importance": lambda process: ImportanceTime(),
    "stratified importance": lambda process: StratifiedTime(ImportanceTime()),
    "7 levels": lambda process: DiscreteTime(7),
    "7 levels, loss-aware": informed(7),
    "7 levels, loss-aware, stratified": lambda process: StratifiedTime(informed(7)(process)),
}
ON_TABLES = {"levels": lambda process: DiscreteTime(), "levels, loss-aware": informed()}
CASES = [(p, make) for p in SMOOTH + TABLES for make in SAMPLERS.items()]
CASES += [(p, make) for p in TABLES for make in ON_TABLES.items()]
every_case = pytest.mark.parametrize(
    ("process", "make"),
    [
        pytest.param(p, make, id=f"{type(p).__name__}{list(p._init_args.values())}-{name}")
        for p, (name, make) in CASES
    ],
)


def quantiles(process, make, u):
    with torch.no_grad():
        return make(process).quantile(process, u)


@every_case
@pytest.mark.one_in(5)
def test_quantiles_are_increasing_times_from_t_min_to_t_max_with_positive_weights(process, make):
    u = torch.cat([torch.linspace(0, 1, 200, dtype=D)[:-1], torch.tensor([1 - 2**-53], dtype=D)])
    t, weight = quantiles(process, make, u)
    assert t.shape == weight.shape == u.shape and t.dtype == weight.dtype == D
    assert process.t_min <= t.min() and t.max() <= process.t_max
    assert (t.diff() >= 0).all()
    assert weight.isfinite().all() and (weight > 0).all()


@every_case
@pytest.mark.one_in(5)
def test_random_times_lie_between_t_min_and_t_max_and_those_of_a_generator_each_ignore_the_batch(
    process, make, generator
):
    sampler = make(process)
    with torch.no_grad():
        t, _ = sampler(process, 100, generator=generator, device=CPU)
        assert t.shape == (100,) and process.t_min <= t.min() and t.max() <= process.t_max
        whole = sampler(process, 8, generator=PhiloxGenerator(0, range(8)), device=CPU)
        for indices in ([5], [6, 1, 3]):
            part = sampler(process, len(indices), generator=PhiloxGenerator(0, indices), device=CPU)
            for mine, theirs in zip(part, whole, strict=True):
                torch.testing.assert_close(mine, theirs[indices], rtol=1e-12, atol=0)


AVERAGED = [torch.ones_like, lambda s: s, lambda s: torch.cos(7 * s), torch.exp, lambda s: 1 / (0.2 + s)]


@every_case
@pytest.mark.one_in(5)
def test_weights_restore_the_average_over_uniform_times_or_levels_if_they_claim_to(process, make):
    sampler = make(process)
    num = (
        200_000 if sampler.num_timesteps_of(process) or process in TABLES else 4000
    )  # steps need a finer rule
    t, weight = quantiles(process, make, (torch.arange(num, dtype=D) + 0.5) / num)
    if not sampler.unbiased:
        assert (weight == 1).all()
        return
    share = (t - process.t_min) / (process.t_max - process.t_min)
    if levels := sampler.num_timesteps_of(process):
        node, mass = np.linspace(0, 1, levels), np.full(levels, 1 / levels)
    else:
        node, mass = np.polynomial.legendre.leggauss(40)
        node, mass = (node + 1) / 2, mass / 2
    for h in AVERAGED:
        expected = (torch.from_numpy(mass) * h(torch.from_numpy(node))).sum().item()
        tolerance = 3e-4 if num > 4000 else 3e-6
        assert (weight * h(share)).mean().item() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("sampler", [UniformTime(), ImportanceTime(), DiscreteTime(), LossAwareTime()])
def test_what_is_unbiased_says_so_also_in_strata(sampler):
    assert sampler.unbiased and StratifiedTime(sampler).unbiased


@pytest.mark.parametrize("sampler", [LogNormalTime(), LogitNormalTime(), FixedTime(0.5)])
def test_what_is_meant_to_change_the_loss_says_so_also_in_strata(sampler):
    assert not sampler.unbiased and not StratifiedTime(sampler).unbiased


@pytest.mark.parametrize("process", SMOOTH, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "sampler",
    [DiscreteTime(), LossAwareTime(), StratifiedTime(DiscreteTime())],
    ids=lambda s: type(s).__name__,
)
def test_levels_of_a_process_in_continuous_time_must_be_counted_by_the_user(process, sampler):
    for ask in (lambda: sampler.num_timesteps_of(process), lambda: sampler.quantile(process, torch.rand(3))):
        with pytest.raises(
            ConfigurationError, match=r"Time: \w+ is in continuous time; give \w+Time num_timesteps"
        ):
            ask()


REFUSED = [
    (VPSDE(), FixedTime(t=1.01), "t=1.01: the process goes from 0.001 to 1"),
    (CosineVPSDE(), FixedTime(t=1.0), "t=1.0: the process goes from 0.001 to 0.9946"),
    (VESDE(), FixedTime(sigma=50.1), "sigma=50.1: the process goes from 0.01 to 50"),
    (SMLDProcess(15), FixedTime(sigma=0.0099), "sigma=0.0099: the process goes from 0.01 to 50"),
    (VESDE(), FixedTime(t=math.nan), "t=nan"),
    (VESDE(), LogNormalTime(50.0), "-4.61 to 3.91 on this scale, would be drawn; choose a mean in between"),
    (VPSDE(), LogNormalTime(-50.0), "choose a mean in between or a larger std"),
    (VPSDE(), LogNormalTime(math.nan), "mean=nan"),
    (VESDE(t_min=0.1, t_max=0.2), LogitNormalTime(9.0), "-2.2 to -1.39 on this scale"),
    (DDPMProcess(20, "cosine"), DiscreteTime(1), "DiscreteTime: num_timesteps=1: at least 2 are needed"),
    (VPSDE(), LossAwareTime(0), "LossAwareTime: num_timesteps=0: at least 2 are needed"),
]


@pytest.mark.parametrize(("process", "sampler", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_a_process_cannot_give_is_refused_before_training_with_a_remedy(process, sampler, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        EpsilonPrediction(sampler).check(process)


@pytest.mark.parametrize("process", TABLES, ids=lambda p: f"{type(p).__name__}{p.num_timesteps}")
def test_levels_are_numbered_from_the_data_up_and_found_again(process):
    number = resolve_num_timesteps(process, None, "me")
    times = timestep_times(process, number, CPU)
    exact = torch.arange(1, number + 1, dtype=D) / number
    torch.testing.assert_close(times, exact, rtol=1e-15, atol=0)
    assert torch.equal(timestep_index(process, number, times), torch.arange(number))
    assert torch.equal(timestep_index(process, number, times.float()), torch.arange(number))
    assert resolve_num_timesteps(process, 5, "me") == 5


def test_a_continuum_has_no_levels():
    samplers = [UniformTime(), StratifiedTime(), ImportanceTime(), LogNormalTime(), FixedTime(0.5)]
    assert not any(s.num_timesteps_of(p) for s in samplers for p in (VPSDE(), DDPMProcess()))
    assert StratifiedTime(DiscreteTime(5)).num_timesteps_of(VPSDE()) == 5


@pytest.mark.parametrize("base", [TimeSampler, TimeGrid])
def test_the_bases_are_abstract(base):
    with pytest.raises(TypeError, match="abstract"):
        base()
