"""Techniques 1, 2 and 4 of NCSNv2: against SciPy, simulations, and the settings that the paper used."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar
from scipy.spatial.distance import pdist
from scipy.stats import chi, norm

from scorelight import SMLDProcess
from scorelight.errors import ConfigurationError
from scorelight.processes.noise_levels import (
    NCSN_RATIO,
    count_noise_levels,
    langevin_step,
    largest_distance,
    level_ratio,
    overlap,
    suggest_schedule,
    variance_ratio,
)

PUBLISHED = {  # D, sigma_max, levels from there to 0.01, T, epsilon
    "CIFAR-10 32": (3 * 32**2, 50, 232, 5, 6.2e-6),
    "CelebA 64": (3 * 64**2, 90, 500, 5, 3.3e-6),
    "LSUN church 96": (3 * 96**2, 140, 788, 4, 4.9e-6),
    "LSUN bedroom, tower 128": (3 * 128**2, 190, 1086, 3, 1.8e-6),
    "FFHQ 256": (3 * 256**2, 348, 2311, 3, 0.9e-6),
}


@pytest.fixture(params=PUBLISHED)
def published(request):
    dim, sigma_max, levels, steps, epsilon = PUBLISHED[request.param]
    ratio = (sigma_max / 0.01) ** (1 / (levels - 1))
    return request.param, dim, sigma_max, levels, ratio, steps, epsilon


@pytest.mark.parametrize("block_size", [1, 7, 2048])
@pytest.mark.parametrize("shape", [(2, 1), (50, 2), (120, 5), (61, 1, 4, 4), (64, 200)])
def test_the_largest_distance_is_that_of_all_pairs(shape, block_size, generator):
    x = torch.randn(shape, generator=generator) ** 3
    assert largest_distance(x, block_size=block_size) == pytest.approx(pdist(x.flatten(1)).max(), rel=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_distance_need_not_be_that_of_the_largest_norms(seed):
    """Clusters in a few directions: the examples of largest norm lie close to each other."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 1.5, (4, 1)) * np.eye(4)[:, :3] + rng.uniform(0, 3) * np.eye(3)[0]
    x = np.repeat(x, 15, axis=0) + 0.1 * rng.standard_normal((60, 3))
    assert largest_distance(torch.from_numpy(x), block_size=4) == pytest.approx(pdist(x).max(), rel=1e-6)


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 1e4), (torch.float64, 1e9)])
def test_a_common_offset_costs_no_accuracy(dtype, offset, generator):
    x = torch.randn(200, 30, generator=generator, dtype=dtype) + offset
    exact = pdist(x.double() - offset).max()
    assert largest_distance(x) == pytest.approx(exact, rel=1e-6)


def test_bytes_do_not_wrap():
    x = torch.tensor([[0, 3], [255, 0], [7, 7]], dtype=torch.uint8)
    assert largest_distance(x) == pytest.approx(math.hypot(255, 3))


def test_equal_examples_have_no_distance():
    assert largest_distance(torch.full((5, 2), 0.1)) == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_no_numbers_are_refused(bad):
    x = torch.zeros(10, 3)
    x[4, 1] = bad
    with pytest.raises(ConfigurationError, match="NaN, infinite"):
        largest_distance(x)


def test_one_example_has_no_distance():
    with pytest.raises(ConfigurationError, match="has 1 examples: at least 2"):
        largest_distance(torch.zeros(1, 3))


def test_progress_goes_once_round_every_pair_of_blocks(generator):
    seen = []
    x = torch.randn(10, 2, generator=generator)
    largest_distance(x, lambda blocks: (seen.append(b) or b for b in blocks), block_size=3)
    pairs = [tuple(sorted((int(i), int(j)))) for a, b in seen for i in a for j in b]
    assert len(seen) == 4 * 5 // 2 and set(pairs) == {(i, j) for i in range(10) for j in range(i, 10)}


def left_side(ratio, dim):
    shift = np.sqrt(2 * dim) * (ratio - 1)
    return norm.cdf(shift + 3 * ratio) - norm.cdf(shift - 3 * ratio)


@pytest.mark.parametrize("dim", [5, 6, 8, 13, 64, 784, 3072, 12288, 49152, 196608, 10**7])
def test_the_ratio_of_levels_solves_technique_2_and_nothing_else_does(dim):
    found = brentq(lambda ratio: left_side(ratio, dim) - 0.5, 1, 40, xtol=1e-14)
    assert level_ratio(dim) == pytest.approx(found, rel=1e-10)
    above = left_side(np.linspace(1, 3 * level_ratio(dim), 20_000), dim) > 0.5
    assert np.count_nonzero(np.diff(above)) == 1


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_with_few_dimensions_all_levels_overlap(dim):
    assert level_ratio(dim) == math.inf
    assert left_side(np.geomspace(1, 1e6, 1000), dim).min() > 0.99


@pytest.mark.parametrize("dim", [64, 784, 3072])
@pytest.mark.parametrize("factor", [0.5, 1, 1.5])
def test_the_overlap_is_the_probability_of_the_next_levels_shell(dim, factor):
    """Of which Proposition 2 is the limit for large D; the norm is exactly that of the chi distribution."""
    ratio = 1 + factor * (level_ratio(dim) - 1)
    centre, width = ratio * math.sqrt(dim), 3 * ratio / math.sqrt(2)
    exact = chi(dim).cdf(centre + width) - chi(dim).cdf(centre - width)
    assert overlap(dim, ratio) == pytest.approx(exact, abs=0.4 / math.sqrt(dim))


@pytest.mark.parametrize(
    ("ends", "ratio", "expected"),
    [
        ((1, 100), 10, 3),
        ((1, 101), 10, 4),
        ((1, 99), 10, 3),
        ((0.01, 1), NCSN_RATIO, 10),
        ((1, 1.001), 10, 2),
        ((1, 2), math.inf, 2),
    ],
)
def test_the_number_of_levels_is_the_smallest_with_steps_of_at_most_the_ratio(ends, ratio, expected):
    assert count_noise_levels(*ends, ratio) == expected


@pytest.mark.parametrize("dim", [2, 28, 29, 64, 3072])
@pytest.mark.parametrize("ends", [(0.01, 50.0), (1e-5, 0.3)])
def test_a_schedule_is_the_table_of_the_process_with_its_numbers(dim, ends):
    schedule = suggest_schedule(*ends, dim)
    ratios = (
        SMLDProcess(schedule.num_timesteps, schedule.sigma_min, schedule.sigma_max).log_sigma.diff().exp()
    )
    assert ratios.numpy() == pytest.approx(schedule.ratio, rel=1e-10)
    widest = level_ratio(dim) if dim >= 29 else NCSN_RATIO
    assert schedule.ratio <= widest < (ends[1] / ends[0]) ** (1 / (schedule.num_timesteps - 2))
    assert schedule.langevin_step == langevin_step(ends[0], schedule.ratio, 5)


@pytest.mark.parametrize("num_steps", [1, 3, 10])
@pytest.mark.parametrize("step", [0.01, 0.3, 1.7])
def test_the_variance_ratio_is_that_of_langevin_dynamics(num_steps, step):
    ratio, sigma = 1.3, 0.2
    alpha, variance = step * sigma**2, (ratio * sigma) ** 2
    for _ in range(num_steps):
        variance = (1 - alpha / sigma**2) ** 2 * variance + 2 * alpha
    assert variance_ratio(step, ratio, num_steps) == pytest.approx(variance / sigma**2, rel=1e-12)


def test_the_variance_ratio_is_that_of_samples(generator):
    """Within five standard errors √(2/N) of a variance."""
    ratio, sigma, sigma_min, num_steps, num = 1.5, 0.4, 0.05, 4, 200_000
    epsilon = langevin_step(sigma_min, ratio, num_steps)
    alpha = epsilon * sigma**2 / sigma_min**2
    density = torch.distributions.Normal(0.0, sigma)
    x = ratio * sigma * torch.randn(num, generator=generator)
    for _ in range(num_steps):
        (score,) = torch.autograd.grad(density.log_prob(x.requires_grad_()).sum(), x)
        x = x.detach() + alpha * score + math.sqrt(2 * alpha) * torch.randn(num, generator=generator)
    found = x.var().item() / sigma**2
    expected = variance_ratio(epsilon / sigma_min**2, ratio, num_steps)
    assert found == pytest.approx(expected, rel=5 * math.sqrt(2 / num))


@pytest.mark.parametrize("num_steps", [1, 2, 5, 100])
@pytest.mark.parametrize("ratio", [1.0045, 1.04, NCSN_RATIO, 20.0])
def test_the_step_makes_the_variance_ratio_as_close_to_one_as_it_gets(ratio, num_steps):
    e = langevin_step(0.01, ratio, num_steps) / 0.01**2
    everywhere = np.linspace(0, 2, 20_001)[1:-1]
    all_of_them = variance_ratio(everywhere, ratio, num_steps)
    assert 1 < variance_ratio(e, ratio, num_steps) <= all_of_them.min()
    best = minimize_scalar(
        variance_ratio, bounds=(0, 1), args=(ratio, num_steps), method="bounded", options={"xatol": 1e-10}
    )
    assert e == pytest.approx(best.x, rel=1e-4)


def test_the_paper_has_5_to_6_percent_more_levels_than_its_formula(published):
    """Its "≈ 0.5" was the same 0.567 in all five rows; 0.5 gives fewer levels."""
    _, dim, sigma_max, levels, ratio, _, _ = published
    assert overlap(dim, ratio) == pytest.approx(0.567, abs=0.001)
    assert 0.943 < count_noise_levels(0.01, sigma_max, level_ratio(dim)) / levels < 0.949


def test_with_the_levels_of_the_paper_the_steps_are_its_own(published):
    """To the digits printed; but that of LSUN church is 2.1 times the best one."""
    name, _, _, _, ratio, steps, epsilon = published
    if name == "LSUN church 96":
        assert epsilon / langevin_step(0.01, ratio, steps) == pytest.approx(2.1, abs=0.05)
    else:
        assert langevin_step(0.01, ratio, steps) == pytest.approx(epsilon, abs=0.05e-6)


def test_the_steps_of_the_paper_are_hardly_worse_than_ours(published):
    _, _, _, _, ratio, steps, epsilon = published
    best = variance_ratio(langevin_step(0.01, ratio, steps) / 0.01**2, ratio, steps)
    assert best <= variance_ratio(epsilon / 0.01**2, ratio, steps) < 1.0025 * best


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: level_ratio(0), "dim=0"),
        (lambda: count_noise_levels(2.0, 1.0, 1.1), "sigma_min=2.0, sigma_max=1.0"),
        (lambda: count_noise_levels(0.0, 1.0, 1.1), "sigma_min=0.0"),
        (lambda: count_noise_levels(0.1, math.inf, 1.1), "sigma_max=inf"),
        (lambda: count_noise_levels(0.1, 1.0, 1.0), "ratio=1.0"),
        (lambda: langevin_step(0.1, 1.1, 0), "langevin_steps=0"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ConfigurationError, match=words):
        call()
