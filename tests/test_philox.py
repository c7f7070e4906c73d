"""Philox4x32-10 against its publication, and the quality of what is drawn with it.

Statistical tests have fixed seeds. Each gives a p-value, and all of them together are held to 1e-6: a good
generator fails one of n tests at 1e-6/n by chance once in a million choices of the seed.
"""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from scorelight.philox import normal, philox, philox_block, sign, uniform
from scorelight.rng import PhiloxGenerator, Stream, rand, randn_like

LEVEL = 1e-6
CPU = torch.device("cpu")


def words(counter, key):
    """The words w0 to w3 at one counter."""
    (w0, w2), (w1, w3) = philox([torch.tensor([c]) for c in counter], key)[..., 0].tolist()
    return w0, w1, w2, w3


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_the_publication(counter, key, expected):
    # Salmon et al. (2011): the vectors distributed with their Random123
    assert words(counter, key) == expected
    assert philox_block(counter, key) == expected


def test_words_of_tensors_and_of_integers_are_the_same_at_random_counters():
    numbers = np.random.default_rng(0).integers(0, 2**32, (500, 6))
    for *counter, k0, k1 in numbers.tolist():
        assert words(counter, (k0, k1)) == philox_block(tuple(counter), (k0, k1))


def test_a_batch_of_counters_gives_the_words_of_each():
    examples = torch.tensor([5, 0, 2**32 - 1])
    blocks = philox((examples, 7, 2**32 - 1, 9), (1, 2))
    for i, c in enumerate(examples.tolist()):
        (w0, w2), (w1, w3) = blocks[..., i].tolist()
        assert (w0, w1, w2, w3) == philox_block((c, 7, 2**32 - 1, 9), (1, 2))


def test_no_two_of_two_million_blocks_are_equal():
    # true for every key, since the rounds are invertible: no two examples share a block
    examples = torch.arange(2**20) * 4096  # spread over all 2^32
    blocks = torch.cat([philox((0, examples, 0, last), (3, 0)) for last in (0, 1)], -1).flatten(0, 1)
    assert len(np.unique(blocks.numpy().T.copy(), axis=0)) == 2**21


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_words_give_finite_numbers(dtype):
    ends = torch.tensor(list(itertools.product([0, 2**32 - 1], repeat=2))).T  # all pairs (u, v)
    block = ends[:, None, :].expand(2, 2, 4)
    z, u = normal(block, dtype), uniform(block, dtype)
    assert z.dtype == u.dtype == dtype and z.isfinite().all()
    assert z.abs().max() == pytest.approx(np.sqrt(66 * np.log(2)), rel=1e-6)
    assert u.min() == 2.0**-33 and u.max() <= 1 and (dtype == torch.float32 or u.max() < 1)


def test_normal_numbers_are_box_and_muller_s():
    block = torch.randint(2**32, (2, 2, 1000), generator=torch.Generator().manual_seed(0))
    u, v = (block.double().numpy() + 0.5) / 2**32
    expected = np.sqrt(-2 * np.log(u)) * np.stack([np.cos(2 * np.pi * v), np.sin(2 * np.pi * v)])
    np.testing.assert_allclose(normal(block, torch.float64), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(normal(block, torch.float32), expected, rtol=0, atol=3e-6)


def test_signs_are_those_of_the_highest_bit():
    block = torch.tensor([0, 2**31 - 1, 2**31, 2**32 - 1])
    assert sign(block, torch.float32).tolist() == [1, 1, -1, -1]


# the quality of the numbers

SIZE = 2**18


def drawn(num=SIZE, size=4, first=0, step=0, stream=Stream.SAMPLES, seed=0, skip=0):
    """Uniform numbers of consecutive examples, shape (num, size)."""
    generator = PhiloxGenerator(seed, torch.arange(first, first + num), stream, step)
    generator.num_draws = skip
    return generator.draw((size,), CPU, torch.float64, uniform).numpy()


def chi_square(counts):
    return stats.chisquare(counts).pvalue


def uniformity(u):
    """p-values: distribution, its lowest bits, runs up and down of neighbours."""
    flat = u.ravel()
    lowest = np.bincount((flat * 2**32).astype(np.int64) & 255, minlength=256)
    rises = (
        np.diff(flat) > 0
    )  # mean 1/2, and (n + 1)/12 is the variance of their number (Moore & Wallis, 1943)
    deviation = (rises.sum() - len(rises) / 2) / np.sqrt((len(flat) + 1) / 12)
    return [
        stats.kstest(flat, "uniform").pvalue,
        chi_square(np.bincount((flat * 1000).astype(int), minlength=1000)),
        chi_square(lowest),
        2 * stats.norm.sf(abs(deviation)),
    ]


def independence(a, b):
    """p-values: correlation, correlation of squares, all cells of a 32 × 32 table, equal 16 leading bits."""
    a, b = a.ravel(), b.ravel()
    cells = np.bincount((a * 32).astype(int) * 32 + (b * 32).astype(int), minlength=1024)
    equal = ((a * 2**8).astype(int) == (b * 2**8).astype(int)).sum()
    return [
        stats.pearsonr(a, b).pvalue,
        stats.pearsonr((a - 0.5) ** 2, (b - 0.5) ** 2).pvalue,
        chi_square(cells),
        stats.binomtest(int(equal), len(a), 2.0**-8).pvalue,
    ]


BASE = {}
OTHERS = {
    "another stream": {"stream": Stream.TRAINING},
    "the last stream": {"stream": Stream.BATCH},
    "the next step": {"step": 1},
    "a step with one bit": {"step": 2**31},
    "the next examples": {"first": 1},
    "examples far away": {"first": 2**31},
    "the next draw": {"skip": 1},
    "a draw with one bit": {"skip": 2**27},
    "the next seed": {"seed": 1},
    "a seed with one high bit": {"seed": 2**63},
}


@pytest.mark.parametrize("other", [BASE, *OTHERS.values()], ids=["the first", *OTHERS])
def test_numbers_are_uniform(other):
    pvalues = uniformity(drawn(**other))
    assert min(pvalues) > LEVEL / (4 * 11), pvalues


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_numbers_of_one_stream_step_example_draw_and_seed_say_nothing_of_those_of_another(other):
    pvalues = independence(drawn(), drawn(**other))
    assert min(pvalues) > LEVEL / (4 * 10), pvalues


@pytest.mark.parametrize("shift", [1, 2, 3, 4, 5, 31])
def test_positions_of_an_example_are_independent(shift):
    u = drawn(num=2**12, size=256)
    pvalues = independence(u[:, shift:], u[:, :-shift])
    assert min(pvalues) > LEVEL / (4 * 6), pvalues


def test_bits_are_fair_and_change_with_half_of_the_counter_s_and_the_key_s():
    # avalanche: one bit of the input flips each bit of the output with probability 1/2
    rng, num = np.random.default_rng(1), 4096
    counters, key = torch.tensor(rng.integers(0, 2**32, (4, num))), (123, 456)
    before = philox(list(counters), key)
    flips = []
    for bit in range(0, 192, 5):
        flipped = counters.clone()
        if bit < 128:
            flipped[bit // 32] ^= 1 << bit % 32
        keys = [k ^ ((1 << bit % 32) if bit // 32 == 4 + i else 0) for i, k in enumerate(key)]
        changed = before ^ philox(list(flipped), tuple(keys))
        flips += [int((changed >> b & 1).sum()) for b in range(32)]  # of 4 words of each block
    z = (np.array(flips) - 2 * num) / np.sqrt(num)
    assert np.abs(z).max() < stats.norm.isf(LEVEL / len(z) / 2)
    assert stats.kstest(z, "norm").pvalue > LEVEL


def test_normal_noise_is_normal_to_its_fourth_moment_and_in_its_tails():
    z = (
        randn_like(torch.empty(2**17, 8, dtype=torch.float64), PhiloxGenerator(5, range(2**17)))
        .numpy()
        .ravel()
    )
    n = len(z)
    moments = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}  # of N(0, 1): mean and variance of z^k
    for k, (mean, variance) in moments.items():
        assert abs((z**k).mean() - mean) < 5 * np.sqrt(variance / n), k
    pvalues = [stats.kstest(z, "norm").pvalue]
    pvalues += [
        stats.binomtest(int((side * z > x).sum()), n, stats.norm.sf(x)).pvalue
        for side in (1, -1)
        for x in (2, 3, 4)
    ]
    pvalues += [stats.pearsonr(z[:-s], z[s:]).pvalue for s in (1, 2, 3, 4)]
    pvalues += [stats.pearsonr(z[:-s] ** 2, z[s:] ** 2).pvalue for s in (1, 2)]
    assert min(pvalues) > LEVEL / len(pvalues), pvalues


def test_birthdays_of_many_examples_are_spaced_as_those_of_uniform_numbers():
    # Marsaglia's spacings: m birthdays in a year of n days repeat a spacing Poisson(m³/4n) times
    m, n, repeats = 512, 2**24, 512
    u = drawn(num=m * repeats, size=1, seed=11).reshape(repeats, m)
    spacings = np.sort(np.diff(np.sort((u * n).astype(np.int64), 1), axis=1), 1)
    collisions = int((np.diff(spacings, axis=1) == 0).sum())
    expected = repeats * m**3 / (4 * n)
    assert stats.poisson.cdf(collisions, expected) > LEVEL
    assert stats.poisson.sf(collisions - 1, expected) > LEVEL


def test_times_of_steps_fill_the_interval_evenly_over_a_run():
    u = torch.stack([rand(64, PhiloxGenerator(0, range(64), Stream.TRAINING, s), CPU) for s in range(2000)])
    assert stats.kstest(u.flatten(), "uniform").pvalue > LEVEL
    assert stats.kstest(u.mean(1).sub(0.5).mul(np.sqrt(12 * 64)), "norm").pvalue > LEVEL
