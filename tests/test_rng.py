import numpy as np
import pytest
import torch
from scipy import stats

from scorelight.errors import ConfigurationError
from scorelight.rng import (
    RankSlice,
    hash_seed,
    per_example_generators,
    rademacher_like,
    rand,
    rand_like,
    randn_like,
    stratified,
)

CPU = torch.device("cpu")


def noise(seed, indices, size=5):
    return randn_like(
        torch.zeros(len(indices), size, dtype=torch.float64), per_example_generators(seed, indices)
    )


def correlation(a, b):
    return np.corrcoef(a.flatten(), b.flatten())[0, 1]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("first", [0, 2**32 - 100_000])
def test_seeds_of_200_000_examples_are_distinct_numbers_of_32_bits(first):
    starts = range(first, first + 200_000, 1000)
    half = starts if first == 0 else starts[:100]  # indices are distinct below 2^32
    seeds = [
        g.initial_seed() for start in half for g in per_example_generators(7, range(start, start + 1000))
    ]
    assert len(set(seeds)) == len(seeds) == 1000 * len(half)
    assert min(seeds) >= 0 and max(seeds) < 2**32


@pytest.mark.parametrize("seed", [0, 1, 123_456_789])
def test_the_cpu_generator_of_torch_ignores_the_high_32_bits_of_its_seed(seed):
    low = torch.randn(10, generator=torch.Generator().manual_seed(seed))
    high = torch.randn(10, generator=torch.Generator().manual_seed(seed + (5 << 32)))
    assert torch.equal(low, high)


@pytest.mark.parametrize("indices", [[3], [0, 1, 2], [9, 2, 5], [7, 6, 5, 4, 3, 2, 1, 0]])
def test_noise_of_an_example_does_not_depend_on_the_subset_or_its_order(indices):
    assert torch.equal(noise(3, indices), noise(3, range(10))[indices])


def test_indices_may_come_in_a_tensor():
    assert torch.equal(noise(3, torch.tensor([4, 2])), noise(3, [4, 2]))


@pytest.mark.parametrize("other", [1, 2, 2**31, 2**32, 2**40])
def test_other_seeds_give_uncorrelated_noise(other):
    a, b = noise(0, range(2000), 50), noise(other, range(2000), 50)
    assert abs(correlation(a, b)) < 5 / np.sqrt(a.numel())  # the correlation's standard error is 1/sqrt(n)


def test_neighbouring_examples_have_uncorrelated_noise():
    x = noise(0, range(2001), 50)
    assert abs(correlation(x[:-1], x[1:])) < 5 / np.sqrt(x[1:].numel())


def test_mix_depends_on_every_key_and_on_their_order():
    keys = [
        (),
        (0,),
        (1,),
        (0, 0),
        (0, 1),
        (1, 0),
        (2**40, 1),
        (0, 256, 1),
        (2**64 - 1,),
        (1, 2, 3),
        (3, 2, 1),
    ]
    assert len({hash_seed(*k) for k in keys}) == len(keys)
    assert hash_seed(1, 2, 3) == hash_seed(1, 2, 3)


@pytest.mark.parametrize("key", [-1, 2**64])
def test_mix_refuses_keys_that_do_not_fit(key):
    with pytest.raises(ConfigurationError, match=rf"seed {key}: .* from 0"):
        hash_seed(1, key)


def test_mixed_bits_are_fair():
    bits = [hash_seed(1, i) >> b & 1 for i in range(500) for b in range(64)]
    assert abs(np.mean(bits) - 0.5) < 5 * 0.5 / np.sqrt(len(bits))  # a fair bit has standard deviation 1/2


@pytest.mark.parametrize("per_example", [False, True])
def test_rand_is_uniform(per_example, generator):
    u = rand(5000, per_example_generators(1, range(5000)) if per_example else generator, CPU)
    assert u.dtype == torch.float64 and u.shape == (5000,)
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 6e-7  # 5 standard errors, two-sided


def test_randn_like_is_normal_with_one_generator_per_example():
    x = noise(1, range(5000), 1).flatten()
    assert stats.kstest(x.numpy(), "norm").pvalue > 6e-7  # 5 standard errors, two-sided


@pytest.mark.parametrize("source", ["none", "one", "list"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 5, 3)])
@pytest.mark.one_in(3)
def test_randn_like_has_the_shape_type_and_device_of_its_argument(source, dtype, device, shape):
    x = torch.zeros(shape, dtype=dtype, device=device)
    source = {"none": None, "one": torch.Generator(), "list": per_example_generators(0, range(4))}[source]
    z = randn_like(x, source)
    assert (z.shape, z.dtype, z.device) == (x.shape, x.dtype, x.device)


@pytest.mark.parametrize("draw", [lambda g: rand(8, g, CPU), lambda g: randn_like(torch.zeros(8, 2), g)])
def test_a_generator_is_advanced_and_the_global_one_left_alone(draw, generator):
    before = torch.get_rng_state()
    assert not torch.equal(draw(generator), draw(generator))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("draw", [lambda: rand(8, None, CPU), lambda: randn_like(torch.zeros(8, 2), None)])
def test_without_a_generator_the_global_one_is_used(draw):
    with torch.random.fork_rng():
        first, second = (torch.manual_seed(3), draw())[1], (torch.manual_seed(3), draw())[1]
    assert torch.equal(first, second)


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("draw", [lambda g: rand(4, g, CPU), lambda g: randn_like(torch.zeros(4, 2), g)])
def test_a_list_of_the_wrong_length_raises(count, draw):
    with pytest.raises(ValueError, match=r"generators for a batch of 4|zip"):
        draw(per_example_generators(0, range(count)))


@pytest.mark.parametrize("draw", [rademacher_like, rand_like])
def test_signs_and_uniform_noise_of_an_example_do_not_depend_on_the_batch_either(draw):
    x = torch.zeros(4, 2, 3)
    whole = draw(x, per_example_generators(0, range(4)))
    assert torch.equal(draw(x[:2], per_example_generators(0, [3, 1])), whole[[3, 1]])
    assert whole.shape == x.shape and len(whole.unique()) == (2 if draw is rademacher_like else 24)


def test_signs_are_fair_and_uniform_noise_is_uniform():
    x, g = torch.zeros(100, 100), torch.Generator().manual_seed(0)
    signs, uniform = rademacher_like(x, g), rand_like(x, g)
    assert signs.dtype == x.dtype and set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / 100
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("draw", [randn_like, rand_like, rademacher_like])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_shares_of_all_ranks_are_what_one_process_draws(draw, world_size):
    def draws(batch, rank, world):
        share = RankSlice(torch.Generator().manual_seed(5), rank, world)
        first = draw(torch.empty(batch, 3, 2), share)
        return (
            first,
            rand(batch, share, CPU),
            stratified(batch, share, CPU),
            draw(torch.empty(batch, 1), share),
        )

    alone = draws(12, 0, 1)
    parts = [draws(12 // world_size, rank, world_size) for rank in range(world_size)]
    for one, several in zip(alone, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(several), one)


def test_the_slices_are_those_of_the_global_batch():
    generators = [torch.Generator().manual_seed(1) for _ in range(3)]
    u = torch.cat([stratified(4, RankSlice(g, rank, 3), CPU) for rank, g in enumerate(generators)])
    assert torch.equal((12 * u).long().sort().values, torch.arange(12))
