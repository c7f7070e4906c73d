from types import SimpleNamespace

import pytest
import torch

from scorelight import rng
from scorelight.objectives import EpsilonPrediction
from scorelight.rng import randn_like, stratified
from scorelight.training.randomness import module_generator

CPU = torch.device("cpu")


def module(rank=0, world_size=1, accumulate=1, step=7):
    """What `module_generator` asks of a module in training."""
    trainer = SimpleNamespace(world_size=world_size, accumulate_grad_batches=accumulate)
    return SimpleNamespace(trainer=trainer, global_rank=rank, global_step=step)


@pytest.fixture
def computed(monkeypatch):
    """The number of blocks of four numbers that are computed as tensors."""
    count = []
    original = rng.philox

    def counting(counter, key):
        count.append(original(counter, key)[0, 0].numel())
        return original(counter, key)

    monkeypatch.setattr(rng, "philox", counting)
    return count


@pytest.mark.parametrize("world_size", [1, 2, 64, 1024])
def test_a_process_computes_the_noise_of_its_own_examples_only(world_size, computed):
    x = torch.empty(16, 3, 8, 8)
    generator = module_generator(module(world_size - 1, world_size), 0, 0, 16, CPU)
    randn_like(x, generator), stratified(16, generator, CPU)
    assert sum(computed) == x.numel() // 4  # the one number of all examples is computed by the host


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (4, 1), (1, 4), (2, 2)])
def test_processes_and_micro_batches_share_the_noise_of_one_large_batch(world_size, accumulate):
    size = 24 // world_size // accumulate
    whole = randn_like(torch.empty(24, 5), module_generator(module(), 3, 0, 24, CPU))
    times = stratified(24, module_generator(module(), 3, 0, 24, CPU), CPU)
    for rank in range(world_size):
        for k in range(accumulate):
            trained = module(rank, world_size, accumulate)
            generator = module_generator(trained, 3, k * size, size, CPU)
            places = torch.arange(24)[rank::world_size][k * size : (k + 1) * size]
            assert torch.equal(randn_like(torch.empty(size, 5), generator), whole[places])
            generator = module_generator(trained, 3, k * size, size, CPU)
            assert torch.equal(stratified(size, generator, CPU), times[places])


def test_batches_of_different_sizes_share_no_noise():
    sizes = {0: (5, 3), 1: (4, 2), 2: (1, 6)}  # of two micro-batches on each of three ranks
    noise = []
    for rank, (first, second) in sizes.items():
        for start, num in ((0, first), (first, second)):
            generator = module_generator(module(rank, 3, 2), 0, start, num, CPU)
            noise.append(randn_like(torch.empty(num, 2), generator))
    assert len(torch.cat(noise).unique(dim=0)) == 21


def times(make_module, make_trainer, batch_size, accumulate, batches):
    """The times of each step of a run without shuffling, in the order of the examples."""
    seen, objective = [], EpsilonPrediction()
    objective.register_forward_hook(lambda _, args, loss: seen.append(loss.t))
    data = torch.arange(batch_size * batches * 2.0).reshape(-1, 2) / 100
    loader = torch.utils.data.DataLoader(data, batch_size)
    trained, steps = make_module(objective=objective, seed=1), batches // accumulate
    trainer = make_trainer(max_steps=steps, accumulate_grad_batches=accumulate, limit_val_batches=0)
    trainer.fit(trained, loader, loader)
    return torch.cat(seen).reshape(steps, -1)


def test_accumulated_batches_are_trained_at_the_times_of_large_ones(make_module, make_trainer):
    large = times(make_module, make_trainer, 12, 1, 3)
    small = times(make_module, make_trainer, 4, 3, 9)
    assert torch.equal(large, small)
