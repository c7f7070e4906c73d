import math
from itertools import pairwise

import pytest
import torch

from scorelight import (
    VESDE,
    VPSDE,
    ConfigurationError,
    CosineVPSDE,
    DDPMProcess,
    DiscreteGrid,
    ForwardProcess,
    KarrasGrid,
    KarrasVESDE,
    LogSNRGrid,
    MixedGrid,
    NearestLevels,
    QuadraticGrid,
    RectifiedFlow,
    SMLDProcess,
    SubVPSDE,
    TrailingGrid,
    UniformGrid,
)

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), VPSDE(t_min=1e-5, t_max=0.7), VESDE(t_min=0.1, t_max=0.9)]
PROCESSES += [CosineVPSDE(), RectifiedFlow(), KarrasVESDE(), DDPMProcess(), SMLDProcess()]
GRIDS = [UniformGrid(), LogSNRGrid(), QuadraticGrid(), KarrasGrid(), KarrasGrid(rho=1.0), MixedGrid()]
GRIDS += [MixedGrid(log_snr_share=0.9), DiscreteGrid("linspace", num_timesteps=2000)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{type(p).__name__}{p.t_max}")
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=lambda g: type(g).__name__)


@every_process
@every_grid
@pytest.mark.parametrize("num", [2, 3, 50, 1001])
@pytest.mark.one_in(20)
def test_grids_run_from_t_max_down_to_t_min_exactly(process, grid, num):
    times = grid(process, num)
    assert times.shape == (num,) and times.dtype == D
    assert (times[0].item(), times[-1].item()) == (process.t_max, process.t_min)
    assert (times.diff() < 0).all()


def assert_equal_steps(values):
    steps = values.diff()
    assert (steps - steps.mean()).abs().max() < 1e-8


@pytest.mark.one_in(3)
@every_process
@pytest.mark.parametrize("num", [3, 50, 1001])
def test_uniform_grid_has_equal_steps_in_time(process, num):
    assert_equal_steps(UniformGrid()(process, num))


@pytest.mark.one_in(3)
@every_process
@pytest.mark.parametrize("num", [3, 50, 1001])
def test_log_snr_grid_has_equal_steps_in_log_snr(process, num):
    assert_equal_steps(process.at(LogSNRGrid()(process, num)).log_snr)


@pytest.mark.one_in(3)
@every_process
@pytest.mark.parametrize("num", [3, 50, 1001])
def test_quadratic_grid_has_equal_steps_in_the_root_of_time(process, num):
    assert_equal_steps(QuadraticGrid()(process, num).sqrt())


@every_process
@pytest.mark.parametrize("rho", [1.0, 7.0, 20.0])
@pytest.mark.parametrize("num", [3, 50, 1001])
@pytest.mark.one_in(4)
def test_karras_grid_has_equal_steps_in_the_root_of_sigma_over_alpha(process, rho, num):
    level = process.at(KarrasGrid(rho)(process, num))
    root = (level.sigma / level.alpha) ** (1 / rho)
    assert_equal_steps(root / root[0])


def test_karras_grid_has_the_noise_levels_of_karras_et_al_equation_5():
    i, n = torch.arange(18, dtype=D), 18
    expected = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    process = KarrasVESDE(rho=3.0)
    torch.testing.assert_close(process.sigma(KarrasGrid()(process, n)), expected, rtol=1e-10, atol=0)


@every_process
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("num", [3, 50, 1001])
@pytest.mark.one_in(12)
def test_mixed_grid_has_equal_steps_in_the_mean_of_log_snr_and_the_root_of_the_angle(process, share, num):
    times = MixedGrid(share)(process, num)
    level = process.at(times)
    log_snr, root = level.log_snr, torch.atan2(level.sigma, level.alpha).sqrt()
    parts = [(v - v[0]) / (v[-1] - v[0]) for v in (log_snr, root)]
    assert_equal_steps(share * parts[0] + (1 - share) * parts[1])


@every_process
def test_mixed_grid_of_log_snr_alone_is_its_grid(process):
    torch.testing.assert_close(MixedGrid(1.0)(process, 50), LogSNRGrid()(process, 50), rtol=1e-8, atol=1e-9)


@every_process
@every_grid
@pytest.mark.one_in(4)
def test_a_trailing_grid_is_one_of_a_time_more_without_the_last(process, grid):
    times = TrailingGrid(grid)(process, 20)
    assert torch.equal(times, grid(process, 21)[:20])
    assert times[0] == process.t_max and times[-1] > process.t_min


def test_a_trailing_grid_of_uniform_times_is_nearly_that_of_the_levels():
    """From T down by T/n: Lin et al. (2024), table 2; to the denoising step at t_min instead of 0."""
    trailing, levels = TrailingGrid(UniformGrid()), DiscreteGrid("trailing")
    process = DDPMProcess()
    torch.testing.assert_close(trailing(process, 10), levels(process, 10), rtol=0, atol=1e-3)
    assert torch.equal(TrailingGrid()(process, 10), TrailingGrid(QuadraticGrid())(process, 10))


def levels(grid, num, process=None):
    process = process or DDPMProcess()
    return (grid(process, num) * process.num_timesteps).tolist()


def test_discrete_grids_are_the_sub_sequences_of_the_papers():
    assert levels(DiscreteGrid("trailing"), 10) == pytest.approx([1000 - 100 * i for i in range(10)])
    assert levels(DiscreteGrid("linspace"), 4) == pytest.approx([1000, 667, 334, 1])
    for num in (7, 10, 20, 50, 100):
        # Song, Meng & Ermon (2021), app. D.2, counting from 0: ⌊ci⌋ and ⌊ci²⌋, the latter up to 0.8 N
        linear = [1000 // num * i for i in range(num)]
        assert levels(DiscreteGrid("leading"), num) == pytest.approx([i + 1 for i in reversed(linear)])
    quadratic = [math.floor((i * math.sqrt(800) / 9) ** 2 + 1e-9) for i in range(10)]
    assert levels(DiscreteGrid("quadratic"), 10) == pytest.approx([i + 1 for i in reversed(quadratic)])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("spacing", ["linspace", "trailing", "leading", "quadratic"])
@pytest.mark.parametrize("num", [1, 2, 3, 50, 77, 500, 799])
def test_discrete_grids_are_different_levels_of_the_table(spacing, num):
    found = levels(DiscreteGrid(spacing), num)
    assert len(found) == num
    assert found == pytest.approx([round(v) for v in found])
    assert all(a - b > 0.5 for a, b in pairwise(found))
    assert round(found[-1]) >= 1 and round(found[0]) <= 1000


def test_a_discrete_grid_of_all_levels_is_the_table():
    for spacing in ("linspace", "trailing", "leading"):
        torch.testing.assert_close(
            DiscreteGrid(spacing)(SMLDProcess(), SMLDProcess().num_timesteps),
            UniformGrid()(SMLDProcess(), SMLDProcess().num_timesteps),
            rtol=1e-12,
            atol=0,
        )


def test_discrete_grids_take_levels_of_ones_own():
    assert levels(DiscreteGrid(levels=[1, 50, 999]), 3) == pytest.approx([999, 50, 1])


@pytest.mark.parametrize("process", [DDPMProcess(), DDPMProcess(60, "cosine"), SMLDProcess(24)], ids=repr)
@pytest.mark.parametrize("grid", GRIDS[:-1], ids=lambda g: type(g).__name__)
@pytest.mark.parametrize("num", [2, 5, 24])
@pytest.mark.one_in(3)
def test_the_nearest_levels_of_a_grid_are_different_levels_from_the_last_to_the_first(process, grid, num):
    found = levels(NearestLevels(grid), num, process)[::-1]
    assert (found[0], found[-1]) == pytest.approx((1, process.num_timesteps))
    assert all(a < b - 0.5 for a, b in pairwise(found))
    wanted = levels(grid, num, process)[::-1]
    for level, time in zip(found, wanted, strict=True):  # the nearest, unless that was taken
        assert abs(level - time) < 0.5 + 1e-9 or any(abs(abs(level - other) - 1) < 1e-9 for other in found)


def test_as_many_times_as_levels_are_all_of_them():
    assert levels(NearestLevels(LogSNRGrid()), 60, DDPMProcess(60, "cosine")) == pytest.approx(
        range(60, 0, -1)
    )


def test_equal_levels_are_moved_apart_and_never_past_the_last():
    process = SMLDProcess(6, 0.01, 1.0)  # six levels a factor 10^0.4 apart
    assert levels(NearestLevels(KarrasGrid(rho=1.0)), 4, process) == pytest.approx([6, 5, 4, 1])
    assert levels(NearestLevels(UniformGrid()), 6, process) == pytest.approx([6, 5, 4, 3, 2, 1])


def test_in_continuous_time_the_nearest_levels_are_the_grid():
    assert torch.equal(NearestLevels(MixedGrid())(VESDE(), 7), MixedGrid()(VESDE(), 7))


def test_more_times_than_levels_lie_between_them():
    assert torch.equal(NearestLevels(LogSNRGrid())(SMLDProcess(24), 25), LogSNRGrid()(SMLDProcess(24), 25))


def test_in_continuous_time_the_levels_are_equally_spaced():
    process = VPSDE()
    torch.testing.assert_close(
        DiscreteGrid("linspace", num_timesteps=100)(process, 100),
        UniformGrid()(process, 100),
        rtol=1e-12,
        atol=0,
    )
    with pytest.raises(ConfigurationError, match="give DiscreteGrid num_timesteps"):
        DiscreteGrid()(process, 10)


@pytest.mark.parametrize(
    ("given", "num"),
    [([1, 2], 3), ([2, 1], 2), ([0, 5], 2), ([5, 1001], 2), ([5, 5], 2)],
)
def test_wrong_levels_raise(given, num):
    with pytest.raises(ConfigurationError, match=f"{num} increasing levels from 1 to 1000 are needed"):
        DiscreteGrid(levels=given)(DDPMProcess(), num)


def test_more_times_than_levels_raise():
    with pytest.raises(ConfigurationError, match="1001 increasing levels"):
        DiscreteGrid()(DDPMProcess(), 1001)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KarrasGrid(0.0), "rho=0.0"),
        (lambda: MixedGrid(1.5), "log_snr_share=1.5"),
        (lambda: DiscreteGrid("even"), "spacing='even'"),
    ],
)
def test_wrong_settings_raise(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_the_log_snr_of_ve_is_linear_in_time_so_that_both_grids_agree():
    torch.testing.assert_close(LogSNRGrid()(VESDE(), 50), UniformGrid()(VESDE(), 50), rtol=0, atol=1e-12)


class Learned(ForwardProcess):
    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(1.5, dtype=D))

    def alpha(self, t):
        return torch.exp(-self.rate * t)

    def sigma(self, t):
        return torch.sqrt(-torch.expm1(-2 * self.rate * t))


@every_grid
def test_grids_of_a_learned_schedule_carry_no_gradient(grid):
    times = grid(Learned(), 5)
    assert not times.requires_grad
    assert (times.diff() < 0).all()
