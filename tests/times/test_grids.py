import pytest
import torch

from scorelight import VESDE, VPSDE, ForwardProcess, LogSNRGrid, SubVPSDE, UniformGrid

D = torch.float64
PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), VPSDE(t_min=1e-5, t_max=0.7), VESDE(t_min=0.1, t_max=0.9)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{type(p).__name__}{p.t_max}")
every_grid = pytest.mark.parametrize("grid", [UniformGrid(), LogSNRGrid()], ids=lambda g: type(g).__name__)


@every_process
@every_grid
@pytest.mark.parametrize("num", [2, 3, 50, 1001])
def test_grids_run_from_t_max_down_to_t_min_exactly(process, grid, num):
    times = grid(process, num)
    assert times.shape == (num,) and times.dtype == D
    assert (times[0].item(), times[-1].item()) == (process.t_max, process.t_min)
    assert (times.diff() < 0).all()


def assert_equal_steps(values):
    steps = values.diff()
    assert (steps - steps.mean()).abs().max() < 1e-8


@every_process
@pytest.mark.parametrize("num", [3, 50, 1001])
def test_uniform_grid_has_equal_steps_in_time(process, num):
    assert_equal_steps(UniformGrid()(process, num))


@every_process
@pytest.mark.parametrize("num", [3, 50, 1001])
def test_log_snr_grid_has_equal_steps_in_log_snr(process, num):
    assert_equal_steps(process.evaluate(LogSNRGrid()(process, num)).log_snr)


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
