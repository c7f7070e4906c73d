"""Times on levels: every level of a table, no other, and as often as the losses say."""

import copy
import io
import math
import subprocess
import sys
from collections import deque

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from scorelight import (
    DDIM,
    MLP,
    VPSDE,
    ConfigurationError,
    DDPMProcess,
    DiscreteTime,
    Epsilon,
    EpsilonPrediction,
    HybridObjective,
    LossAwareTime,
    NetworkDenoiser,
    ScoreModule,
    SMLDProcess,
    StratifiedTime,
    ToyDataModule,
    VariationalBound,
)
from scorelight.rng import PhiloxGenerator
from scorelight.times.base import timestep_times

D = torch.float64
CPU = torch.device("cpu")
COUNTS = [2, 3, 7, 10, 100, 999, 1000, 1001, 2000, 4000]


def betas(num, schedule):
    """Written out by hand."""
    if schedule == "linear":
        return [(1e-4 + i / (num - 1) * (0.02 - 1e-4)) * 1000 / num for i in range(num)]
    bar = [math.cos((i / num + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(num + 1)]
    return [min(1 - bar[i + 1] / bar[i], 0.999) for i in range(num)]


def labels(num, schedule):
    """log(σ/α) of each level, from the table alone."""
    if schedule == "geometric":
        return [math.log(0.01) + i / (num - 1) * math.log(5000) for i in range(num)]
    bar = np.cumsum(np.log1p(-np.array(betas(num, schedule), dtype=np.longdouble)))
    return [0.5 * math.log(-math.expm1(b)) - 0.5 * b for b in map(float, bar)]


TABLES = [(DDPMProcess(n, "cosine"), n, "cosine") for n in COUNTS]
TABLES += [(DDPMProcess(n), n, "linear") for n in COUNTS if n > 20]
TABLES += [(SMLDProcess(n), n, "geometric") for n in COUNTS]
every_table = pytest.mark.parametrize(
    ("process", "num", "schedule"), TABLES, ids=lambda v: str(v).split("(")[0]
)


class Recorder(torch.nn.Module):
    def forward(self, x, noise_label, **cond):
        self.label = noise_label
        return torch.zeros_like(x)


@every_table
def test_every_level_of_a_table_is_hit_equally_often_and_no_time_between_two(process, num, schedule):
    sampler = DiscreteTime()
    assert sampler.num_timesteps_of(process) == num
    t, weight = sampler.quantile(process, (torch.arange(3 * num, dtype=D) + 0.5) / (3 * num))
    torch.testing.assert_close(
        t, (torch.arange(1, num + 1, dtype=D) / num).repeat_interleave(3), rtol=1e-15, atol=0
    )
    assert (weight == 1).all()
    smallest, largest = sampler.quantile(process, torch.tensor([0.0, 1 - 2**-53], dtype=D))[0].tolist()
    assert (smallest, largest) == (1 / num, 1.0)


@every_table
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (D, 2e-12)], ids=["single", "double"]
)
@pytest.mark.one_in(3)
def test_the_network_is_told_the_log_of_sigma_over_alpha_of_the_table(
    process, num, schedule, dtype, tolerance, generator
):
    denoiser = NetworkDenoiser(Recorder(), process, Epsilon())
    objective = EpsilonPrediction(StratifiedTime(DiscreteTime()))  # a batch of N hits every level once
    loss = objective(denoiser, torch.zeros(num, 2, dtype=dtype), generator=generator)
    assert torch.equal((loss.t * num).round().sort().values, torch.arange(1, num + 1, dtype=D))
    found, expected = (
        denoiser.network.label.sort().values.double(),
        torch.tensor(labels(num, schedule), dtype=D),
    )
    assert denoiser.network.label.dtype == dtype
    assert ((found - expected).abs() <= tolerance * (1 + expected.abs())).all()


def test_random_levels_are_equally_frequent(generator):
    t, _ = DiscreteTime()(DDPMProcess(20, "cosine"), 4000, generator=generator, device=CPU)
    assert stats.chisquare((20 * t).round().long().bincount(minlength=21)[1:]).pvalue > 6e-7


def test_levels_of_a_continuum_are_equally_spaced_from_end_to_end():
    t, _ = DiscreteTime(5).quantile(VPSDE(t_min=0.2), (torch.arange(5, dtype=D) + 0.5) / 5)
    torch.testing.assert_close(t, torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0], dtype=D))


# losses decide


class Reference:
    """Nichol & Dhariwal's sampler, loss by loss."""

    def __init__(self, num, history, share):
        self.memory, self.share = [deque(maxlen=history) for _ in range(num)], share

    def observe(self, levels, losses):
        for level, loss in zip(levels.tolist(), losses.tolist(), strict=True):
            self.memory[level].append(loss)

    def probabilities(self):
        num = len(self.memory)
        if any(len(m) < m.maxlen for m in self.memory):
            return [1 / num] * num
        root = [math.sqrt(sum(loss * loss for loss in m) / len(m)) for m in self.memory]
        return [(1 - self.share) * r / sum(root) + self.share / num for r in root]


def times_of(process, levels):
    return timestep_times(process, process.num_timesteps, CPU)[levels]


@pytest.mark.parametrize(
    ("num", "history", "share"), [(2, 1, 0.5), (3, 10, 0.001), (12, 4, 0.01), (5, 3, 1.0)]
)
def test_probabilities_are_those_of_a_loop_over_the_losses(num, history, share, generator):
    process, sampler = DDPMProcess(num, "cosine"), LossAwareTime(history=history, uniform_share=share)
    slow, informed = Reference(num, history, share), 0
    for step in range(60):
        size = [1, 2, 7, 3 * history + 2, 40][step % 5]
        levels = torch.randint(num, (size,), generator=generator)
        if step % 7 == 3:
            levels[:] = levels[0]  # one level only: more losses than are remembered
        losses = 10 ** torch.randn(size, generator=generator, dtype=D)
        sampler.observe(process, times_of(process, levels), losses)
        slow.observe(levels, losses)
        p = sampler.probabilities(num)
        torch.testing.assert_close(p, torch.tensor(slow.probabilities(), dtype=D), rtol=1e-12, atol=0)
        assert p.sum().item() == pytest.approx(1, abs=1e-12)
        kept = [
            row[:seen].sort().values.tolist() for row, seen in zip(sampler.losses, sampler.seen, strict=True)
        ]
        assert kept == [sorted(m) for m in slow.memory]
        informed += p.unique().numel() > 1
    assert informed > 20 or share == 1


def filled(process, history=2, **kwargs):
    """A sampler that has seen losses 1, 2, ..., N, each as often as it remembers."""
    sampler, num = LossAwareTime(history=history, **kwargs), process.num_timesteps
    for _ in range(history):
        sampler.observe(process, times_of(process, torch.arange(num)), torch.arange(1.0, num + 1))
    return sampler


def test_levels_are_as_frequent_as_their_probabilities_and_weighted_by_their_inverse(generator):
    process, num = DDPMProcess(8, "cosine"), 8
    sampler = filled(process, uniform_share=0.1)
    p = torch.tensor([0.9 * i / 36 + 0.1 / 8 for i in range(1, 9)], dtype=D)
    torch.testing.assert_close(sampler.probabilities(num), p)
    t, weight = sampler(process, 5000, generator=generator, device=CPU)
    level = (num * t).round().long() - 1
    assert stats.chisquare(level.bincount(minlength=num), 5000 * p).pvalue > 6e-7
    torch.testing.assert_close(weight, 1 / (num * p[level]))
    u = (torch.arange(36_000, dtype=D) + 0.5) / 36_000
    exact = (num * sampler.quantile(process, u)[0]).round().long().sub(1).bincount() / len(u)
    torch.testing.assert_close(exact.double(), p, rtol=0, atol=1 / len(u))


def test_until_every_level_has_its_fill_of_losses_all_are_equally_likely():
    process, sampler = DDPMProcess(4, "cosine"), LossAwareTime(history=3)
    others = times_of(process, torch.tensor([0, 2, 3]).repeat(5))
    sampler.observe(process, others, torch.full((15,), 9.0))
    for seen in range(3):
        assert sampler.seen.tolist() == [5, seen, 5, 5]
        t, weight = sampler.quantile(process, (torch.arange(4, dtype=D) + 0.5) / 4)
        assert torch.equal(t, timestep_times(process, 4, CPU)) and (weight == 1).all()
        sampler.observe(process, times_of(process, torch.tensor([1])), torch.ones(1))
    assert sampler.probabilities(4)[0] > 5 * sampler.probabilities(4)[1]


@pytest.mark.parametrize("loss", [0.0, math.nan])
def test_losses_that_say_nothing_leave_all_levels_equally_likely(loss):
    process, sampler = DDPMProcess(3, "cosine"), LossAwareTime(history=1)
    sampler.observe(process, times_of(process, torch.arange(3)), torch.full((3,), loss))
    assert sampler.probabilities(3).tolist() == [1 / 3] * 3


def test_another_number_of_levels_starts_afresh():
    sampler = filled(DDPMProcess(4, "cosine"))
    assert sampler.probabilities(5).tolist() == [1 / 5] * 5
    process = DDPMProcess(5, "cosine")
    sampler.observe(process, times_of(process, torch.tensor([4])), torch.ones(1))
    assert sampler.seen.tolist() == [0, 0, 0, 0, 1] and sampler.losses.shape == (5, 2)


def test_in_evaluation_levels_are_equally_likely_whatever_was_seen():
    sampler = filled(DDPMProcess(4, "cosine"))
    assert sampler.eval().probabilities(4).tolist() == [1 / 4] * 4
    assert sampler.train().probabilities(4)[3] > 0.39


def mlp(learned_variance=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP((2,), width=16, depth=1, learned_variance=learned_variance)
        torch.nn.init.normal_(net.last.weight, std=0.3)
    return net


@pytest.mark.parametrize(
    ("objective", "wrap"),
    [(VariationalBound, lambda s: s), (VariationalBound, StratifiedTime), (HybridObjective, lambda s: s)],
    ids=["bound", "bound in strata", "hybrid"],
)
def test_objectives_tell_their_losses_without_weights_in_training_only(objective, wrap, generator):
    """The loss that comes out is weight times the loss that was reported, but for the term of the prior."""
    process, sampler = DDPMProcess(4, "cosine"), LossAwareTime(history=64, uniform_share=0.5)
    denoiser = NetworkDenoiser(mlp(learned_variance=True), process, Epsilon())
    loss_of, x0 = objective(time_sampler=wrap(sampler)), torch.randn(64, 2, generator=generator)
    prior = 0.5 * process.at(torch.ones(1)).snr * x0.square().sum(1) if objective is VariationalBound else 0
    loss_of.eval()(denoiser, x0, generator=PhiloxGenerator(0, range(64)))
    assert len(sampler.seen) == 0
    loss_of.train()
    sampler.losses, sampler.seen = torch.ones(4, 64, dtype=D), torch.full((4,), 64)
    sampler.losses[2] = 3.0
    loss = loss_of(denoiser, x0, generator=PhiloxGenerator(0, range(64)))
    level = (4 * loss.t).round().long() - 1
    assert torch.equal(sampler.seen - 64, level.bincount(minlength=4))
    weight = 1 / (4 * (0.5 * torch.tensor([1, 1, 3, 1]) / 6 + 0.5 / 4))
    for i in range(4):
        reported = sampler.losses[i, : (level == i).sum()]
        mine = ((loss.value - prior) / weight[level])[level == i]
        torch.testing.assert_close(
            reported.float().sort().values, mine.float().sort().values, rtol=1e-4, atol=1e-5
        )


class Count(TorchDispatchMode):
    """Number of operations."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


def test_the_work_in_python_is_the_same_for_any_batch_and_any_number_of_levels(generator):
    numbers = set()
    for num, size in ((4, 10), (4, 5000), (1000, 10), (1000, 5000)):
        process, sampler = SMLDProcess(num), LossAwareTime(history=3)
        everywhere = timestep_times(process, num, CPU).repeat(3)
        sampler.observe(process, everywhere, everywhere)
        t, _ = sampler(process, size, generator=generator, device=CPU)
        with Count() as count:
            sampler.observe(process, t, t)
            sampler(process, size, generator=generator, device=CPU)
        numbers.add(count.number)
    assert len(numbers) == 1


# checkpoints


def test_the_history_is_saved_and_comes_back_bit_by_bit_and_on_its_own(generator):
    process, file = DDPMProcess(5, "cosine"), io.BytesIO()
    sampler = StratifiedTime(LossAwareTime(history=3))
    t, _ = sampler(process, 40, generator=generator, device=CPU)
    sampler.observe(process, t, torch.rand(40, generator=generator, dtype=D))
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    twin, third = StratifiedTime(LossAwareTime(history=3)), StratifiedTime(LossAwareTime(history=3))
    twin.load_state_dict(state)
    third.load_state_dict(state)
    before = copy.deepcopy(twin.state_dict())
    assert torch.equal(twin.times.losses, sampler.times.losses) and torch.equal(
        twin.times.seen, sampler.times.seen
    )
    third.observe(process, t, torch.ones(40))
    assert torch.equal(twin.times.losses, before["times._extra_state"]["losses"])
    assert torch.equal(twin.times.seen, before["times._extra_state"]["seen"])


def test_a_history_of_another_length_starts_afresh():
    sampler = LossAwareTime(history=7)
    sampler.load_state_dict(filled(DDPMProcess(4, "cosine")).state_dict())
    assert sampler.losses.shape == (0, 7)


def test_the_history_stays_in_double_precision_when_the_module_is_cast():
    sampler = filled(DDPMProcess(4, "cosine")).half()
    assert sampler.losses.dtype == D and sampler.probabilities(4).dtype == D


def test_an_interrupted_training_ends_with_the_history_of_one_that_was_not(
    make_module, make_trainer, tmp_path
):
    def run(steps, path=None):
        sampler = LossAwareTime(history=2)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = make_module(
                network=MLP((2,), width=8, depth=1),
                process=DDPMProcess(3, "cosine"),
                sampler=DDIM(num_steps=3),
                objective=VariationalBound(time_sampler=sampler),
                seed=1,
            )
        trainer = make_trainer(max_steps=steps)
        trainer.fit(module, ToyDataModule(num_train=48, num_val=4, batch_size=8), ckpt_path=path)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return sampler

    whole = run(8)
    assert whole.probabilities(3).unique().numel() == 3  # past the warm-up
    run(4)
    resumed = run(8, tmp_path / "4.ckpt")
    assert torch.equal(resumed.losses, whole.losses) and torch.equal(resumed.seen, whole.seen)
    loaded = ScoreModule.load_from_checkpoint(tmp_path / "8.ckpt").objective.time_sampler
    assert torch.equal(loaded.losses, whole.losses) and loaded.seen.sum() == 64


# several processes


SCRIPT = """
import sys, torch
from torch import distributed
from torch.multiprocessing import start_processes
from scorelight.processes import DDPMProcess
from scorelight.times import LossAwareTime
torch.set_num_threads(1)

def batches():
    generator = torch.Generator().manual_seed(0)
    for sizes in ((5, 1, 17), (0, 3, 2), (40, 4, 9), (1, 1, 1), (2, 30, 0)):
        draw = lambda n: torch.rand(2, n, generator=generator)
        yield [((4 * t).ceil().clamp(1, 4) / 4, loss) for t, loss in map(draw, sizes)]

def run(rank, world, folder):
    if world > 1:
        distributed.init_process_group("gloo", f"file://{folder}/store", world_size=world, rank=rank)
    process, sampler = DDPMProcess(4, "cosine"), LossAwareTime(history=3)
    for rows in batches():
        t, loss = rows[rank] if world > 1 else map(torch.cat, zip(*rows))
        sampler.observe(process, t, loss)
    torch.save(sampler.state_dict(), f"{folder}/{rank}of{world}.pt")
    if world > 1:
        distributed.destroy_process_group()

folder = sys.argv[1]
run(0, 1, folder)
start_processes(run, (3, folder), nprocs=3, start_method="fork")
"""


@pytest.mark.slow
def test_three_processes_with_unequal_batches_have_the_history_of_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    names = ["0of1", "0of3", "1of3", "2of3"]
    one, *others = (torch.load(tmp_path / f"{n}.pt", weights_only=True)["_extra_state"] for n in names)
    assert one["seen"].sum() == 116 and (one["seen"] > 3).all()
    for other in others:
        assert torch.equal(other["losses"], one["losses"]) and torch.equal(other["seen"], one["seen"])


# what it is for


def test_the_probabilities_lower_the_variance_of_the_bound(generator):
    """By a factor of about 5: 2 is exceeded by 5 standard errors."""
    process, num = DDPMProcess(100, "linear"), 20_000
    sampler = LossAwareTime(history=10)
    denoiser = NetworkDenoiser(mlp(), process, Epsilon())
    x0 = torch.randn(num, 2, generator=generator).sign() + 0.3 * torch.randn(num, 2, generator=generator)
    bounds = {s: VariationalBound(time_sampler=s) for s in (DiscreteTime(), sampler)}
    with torch.no_grad():
        bounds[sampler](denoiser, x0, generator=generator)  # fills the history
        assert sampler.probabilities(100).unique().numel() > 90
        (uniform, a), (aware, b) = (
            spread(o(denoiser, x0, generator=generator).value) for o in bounds.values()
        )
    assert uniform - 2 * aware > 5 * math.hypot(a, 2 * b)


def spread(loss):
    """Variance, and its standard error."""
    squared = (loss - loss.mean()).double().square()
    return squared.mean().item(), (squared.std() / math.sqrt(len(loss))).item()


# what cannot be


WRONG = [
    dict(history=0),
    dict(uniform_share=0.0),
    dict(uniform_share=1.1),
    dict(uniform_share=math.nan),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=r"history >= 1 and 0 < uniform_share <= 1 are needed"):
        LossAwareTime(**wrong)
