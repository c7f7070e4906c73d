import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from scorelight import rng
from scorelight.errors import ConfigurationError
from scorelight.rng import (
    PhiloxGenerator,
    Stream,
    hash_seed,
    rademacher_like,
    rand,
    rand_like,
    randn_like,
    step_seed,
    stratified,
)

CPU = torch.device("cpu")


def noise(seed, indices, size=5):
    return randn_like(torch.zeros(len(indices), size, dtype=torch.float64), PhiloxGenerator(seed, indices))


def correlation(a, b):
    return np.corrcoef(a.flatten(), b.flatten())[0, 1]


@pytest.mark.parametrize("indices", [[3], [0, 1, 2], [9, 2, 5], [7, 6, 5, 4, 3, 2, 1, 0]])
def test_noise_of_an_example_does_not_depend_on_the_subset_or_its_order(indices):
    assert torch.equal(noise(3, indices), noise(3, range(10))[indices])


def test_indices_may_come_in_a_tensor():
    assert torch.equal(noise(3, torch.tensor([4, 2])), noise(3, [4, 2]))


@pytest.mark.parametrize("other", [1, 2, 2**31, 2**32, 2**40, 2**64 - 1])
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


def test_the_seeds_of_steps_depend_on_every_number_and_are_fair():
    keys = [*itertools.product((0, 1, 2**64 - 1), (0, 1, 2**32 - 1), (0, 1), (0, 1, 2**32 - 1))]
    assert len({step_seed(*key) for key in keys}) == len(keys)
    bits = [step_seed(1, i, 0, 0) >> b & 1 for i in range(500) for b in range(64)]
    assert abs(np.mean(bits) - 0.5) < 5 * 0.5 / np.sqrt(len(bits))  # a fair bit has standard deviation 1/2


@pytest.mark.parametrize("per_example", [False, True])
def test_rand_is_uniform(per_example, generator):
    u = rand(5000, PhiloxGenerator(1, range(5000)) if per_example else generator, CPU)
    assert u.dtype == torch.float64 and u.shape == (5000,)
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 6e-7  # 5 standard errors, two-sided


def test_randn_like_is_normal_of_examples():
    x = noise(1, range(5000), 1).flatten()
    assert stats.kstest(x.numpy(), "norm").pvalue > 6e-7  # 5 standard errors, two-sided


@pytest.mark.parametrize("source", ["none", "torch", "philox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 5, 3)])
@pytest.mark.one_in(3)
def test_randn_like_has_the_shape_type_and_device_of_its_argument(source, dtype, device, shape):
    x = torch.zeros(shape, dtype=dtype, device=device)
    source = {"none": None, "torch": torch.Generator(), "philox": PhiloxGenerator(0, range(4))}[source]
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
def test_numbers_of_fewer_or_more_examples_than_the_batch_has_raise(count, draw):
    with pytest.raises(ValueError, match=rf"random numbers of {count} examples for a batch of 4"):
        draw(PhiloxGenerator(0, range(count)))


@pytest.mark.parametrize("draw", [rademacher_like, rand_like])
def test_signs_and_uniform_noise_of_an_example_do_not_depend_on_the_batch_either(draw):
    x = torch.zeros(4, 2, 3)
    whole = draw(x, PhiloxGenerator(0, range(4)))
    assert torch.equal(draw(x[:2], PhiloxGenerator(0, [3, 1])), whole[[3, 1]])
    assert whole.shape == x.shape and len(whole.unique()) == (2 if draw is rademacher_like else 24)


def test_signs_are_fair_and_uniform_noise_is_uniform():
    x, g = torch.zeros(100, 100), torch.Generator().manual_seed(0)
    signs, uniform = rademacher_like(x, g), rand_like(x, g)
    assert signs.dtype == x.dtype and set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / 100
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3


DRAWS = {
    "normal": lambda x, g: randn_like(x, g),
    "uniform": lambda x, g: rand_like(x, g),
    "signs": lambda x, g: rademacher_like(x, g),
    "times": lambda x, g: rand(len(x), g, CPU),
    "stratified": lambda x, g: stratified(len(x), g, CPU),
}


def step(places, total=12):
    return PhiloxGenerator(5, places, Stream.TRAINING, step=3, batch_size=total)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_ranks_draw_for_their_examples_what_one_process_draws_for_all(draw, world_size):
    def draws(places):
        generator, x = step(places), torch.empty(len(places), 3, 2)
        return [draw(x, generator) for _ in range(3)]

    alone = draws(torch.arange(12))
    for rank in range(world_size):
        places = torch.arange(rank, 12, world_size)
        for mine, one in zip(draws(places), alone, strict=True):
            assert torch.equal(mine, one[places])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_draw_is_the_same_whatever_was_drawn_before_it(draw):
    x = torch.empty(12, 3, 2)
    sizes, one = PhiloxGenerator(1, range(12)), PhiloxGenerator(1, range(12))
    randn_like(torch.empty(12, 7), sizes), rand(12, one, CPU)
    assert torch.equal(draw(x, sizes), draw(x, one))  # the second draw of both


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9])
def test_the_first_positions_of_an_example_do_not_depend_on_its_size(size):
    whole = randn_like(torch.empty(3, 9), PhiloxGenerator(1, range(3)))
    assert torch.equal(randn_like(torch.empty(3, size), PhiloxGenerator(1, range(3))), whole[:, :size])


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 65, 100])
def test_numbers_do_not_depend_on_how_many_are_computed_at_once(chunk, monkeypatch):
    x = torch.empty(20, 3, 11)
    whole = randn_like(x, PhiloxGenerator(1, range(20)))
    monkeypatch.setitem(rng._CHUNK, "cpu", chunk)
    assert torch.equal(randn_like(x, PhiloxGenerator(1, range(20))), whole)


def test_noise_in_other_types_is_the_same_to_rounding():
    x = torch.empty(50, 40, dtype=torch.float64)
    exact = randn_like(x, PhiloxGenerator(1, range(50)))
    for dtype, error in ((torch.float32, 1e-6), (torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-10)):
        other = randn_like(x.to(dtype), PhiloxGenerator(1, range(50)))
        assert other.dtype == dtype
        # the largest error is where ln u is 2^-25, and its root, the radius, is known to 3.5e-4
        torch.testing.assert_close(other.double(), exact, rtol=error, atol=4e-4)
        assert (other - exact).square().mean().sqrt() < error


def test_the_slices_are_those_of_the_step_s_batch():
    u = torch.cat([stratified(4, step(torch.arange(rank, 12, 3)), CPU) for rank in range(3)])
    assert torch.equal((12 * u).long().sort().values, torch.arange(12))


def test_without_a_batch_the_slices_are_drawn_independently():
    u = stratified(2000, PhiloxGenerator(0, range(2000)), CPU)
    assert torch.equal(u, rand(2000, PhiloxGenerator(0, range(2000)), CPU))
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("seed", "examples", "step", "message"),
    [
        (-1, [0], 0, "seed -1: seeds are integers from 0"),
        (2**64, [0], 0, "seed 18446744073709551616"),
        (0, [0, 2**32], 0, "examples 0 to 4294967296"),
        (0, [-1], 0, "examples -1 to"),
        (0, [0], 2**32, "step 4294967296"),
    ],
)
def test_what_does_not_fit_the_counter_is_refused(seed, examples, step, message):
    with pytest.raises(ConfigurationError, match=message):
        PhiloxGenerator(seed, examples, step=step)


def test_more_draws_than_the_counter_holds_are_refused():
    generator = PhiloxGenerator(0, [0])
    generator.num_draws = 2**28 - 1
    rand(1, generator, CPU)
    with pytest.raises(ConfigurationError, match="more than 2\\*\\*28 draws"):
        rand(1, generator, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_draws_the_same_numbers():
    gpu, x = torch.device("cuda"), torch.empty(100, 3, 32, 32)
    for draw in (rand_like, rademacher_like):
        here, there = (draw(x.to(d), PhiloxGenerator(1, range(100))).cpu() for d in (CPU, gpu))
        assert torch.equal(here, there)
    here, there = (randn_like(x.to(d), PhiloxGenerator(1, range(100))).cpu() for d in (CPU, gpu))
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)
