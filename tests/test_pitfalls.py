"""What went wrong elsewhere, each held to be impossible here."""

import functools

import mpmath
import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader, TensorDataset

import scorelight as sl
from scorelight.cli import main

D = torch.float64
PROCESSES = [
    sl.VPSDE(),
    sl.SubVPSDE(),
    sl.VESDE(),
    sl.CosineVPSDE(),
    sl.KarrasVESDE(),
    sl.RectifiedFlow(),
    sl.DDPMProcess(),
    sl.SMLDProcess(),
    sl.LearnedVPSDE(8).requires_grad_(False),
]
TABLES = [sl.DDPMProcess(50), sl.SMLDProcess(50), sl.DDPMProcess(keep=[1, 10, 100, 500, 1000])]
name = lambda value: type(value).__name__  # noqa: E731
every_process = pytest.mark.parametrize("process", PROCESSES, ids=name)
every_table = pytest.mark.parametrize("process", TABLES, ids=lambda p: f"{name(p)}{p.num_timesteps}")


class Recorder(sl.Denoiser):
    """An answer of zero that writes down at which levels it was asked."""

    def __init__(self, process):
        super().__init__()
        self.process, self.levels = process, []

    def predict(self, x_t, level, **cond):
        self.levels.append(level)
        return sl.Prediction(x_t, level, torch.zeros_like(x_t), sl.Epsilon())


@pytest.mark.parametrize("process", [sl.VESDE(), sl.KarrasVESDE(), sl.SMLDProcess()], ids=name)
def test_the_variance_of_a_ve_process_is_that_of_its_sde(process):
    """Song et al. say σ(t)² where the SDE from clean data has σ(t)² − σ_min²; ours starts with σ_min."""
    ends = torch.linspace(
        process.t_min, process.t_max, 4001 if process.num_timesteps is None else 1000, dtype=D
    )
    middle, width = (ends[1:] + ends[:-1]) / 2, ends.diff()
    grown = torch.cumsum(process.at(middle).g2 * width, 0)
    sigma = process.sigma(ends)
    torch.testing.assert_close(sigma[0] ** 2 + grown, sigma[1:] ** 2, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("process", [sl.VPSDE(t_min=1e-5), sl.SubVPSDE(t_min=1e-5)], ids=name)
@pytest.mark.parametrize("t", [1e-5, 1e-4, 1e-3])
def test_sigma_near_zero_keeps_its_digits_in_single_precision(process, t):
    """1 − exp(−B) in float32 is up to 2.8 % wrong."""
    exact, t = mpmath.mpf(t), torch.tensor([t], dtype=D)
    minus_b = -(exact * mpmath.mpf("0.1") + exact**2 * mpmath.mpf("19.9") / 2)
    expected = -mpmath.expm1(minus_b)
    if isinstance(process, sl.VPSDE):
        expected = mpmath.sqrt(expected)
    found = process.at(t, like=torch.zeros(1, 1)).sigma.item()
    assert found == pytest.approx(float(expected), rel=1e-7)


@every_process
def test_training_bound_and_sampling_have_the_same_smallest_time(process):
    smallest = process.grid_levels(torch.tensor([process.t_min], dtype=D))[0].sigma
    trained, _ = sl.UniformTime().quantile(process, torch.zeros(1, dtype=D))
    assert trained.item() == process.t_min
    for grid in (sl.UniformGrid(), sl.LogSNRGrid()):
        denoiser = Recorder(process)
        sl.DDIM(5, grid)(denoiser, torch.zeros(1, 2))
        assert denoiser.levels[-1].sigma == pytest.approx(smallest, rel=1e-12)
    denoiser = Recorder(process)
    objective = sl.VariationalBound(None if process.num_timesteps else 10)
    lowest = objective.times(process).quantile(process, torch.zeros(1, dtype=D))[0]
    assert lowest.item() == pytest.approx(process.t_min, rel=1e-12)
    if process.num_timesteps is None:
        sl.VariationalBound()(denoiser, torch.zeros(3, 2, dtype=D))
        assert torch.allclose(denoiser.levels[-1].sigma, torch.tensor(smallest, dtype=D), rtol=1e-12)


@every_table
def test_a_model_on_levels_is_sampled_at_them_and_not_in_between(process):
    """Uniform steps, as many as levels, ask the network at the levels it was trained on and nowhere else."""
    denoiser = Recorder(process)
    sl.DDIM(process.num_timesteps, sl.UniformGrid())(denoiser, torch.zeros(1, 2))
    asked = [level.time * process.num_timesteps for level in denoiser.levels]
    assert asked == pytest.approx([*range(process.num_timesteps, 0, -1)], abs=1e-9)


@every_table
def test_the_label_and_the_noise_are_of_the_same_level(process, generator):
    """Song's discrete VP gives the network t(N − 1) and the noise its floor: here both are of one level."""
    labels = []

    class Network(torch.nn.Module):
        def forward(self, x, noise_label):
            labels.append(noise_label)
            return torch.zeros_like(x)

    denoiser = sl.NetworkDenoiser(Network(), process, sl.Epsilon())
    x0 = torch.zeros(200, 1, dtype=D)  # the loss is ε² and x_t is σ ε
    loss = sl.DenoisingScoreMatching(time_sampler=sl.DiscreteTime())(denoiser, x0, generator=generator)
    level = process.at(loss.t)
    torch.testing.assert_close(labels[0], torch.log(level.sigma / level.alpha), rtol=1e-9, atol=1e-9)
    index = loss.t * process.num_timesteps
    assert (index - index.round()).abs().max() < 1e-9 and len(index.round().unique()) > 3


@every_process
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, D])
def test_a_table_in_double_precision_does_not_turn_the_network_to_it(process, dtype):
    network = sl.MLP((2,), width=8, depth=1).to(dtype)
    denoiser = sl.NetworkDenoiser(network, process, sl.Score())
    pred = denoiser(torch.randn(3, 2), torch.full((3,), process.t_max))
    assert pred.score.dtype == pred.x0.dtype == torch.float32
    assert {p.dtype for p in network.parameters()} == {dtype}


@pytest.mark.parametrize("num_timesteps", [2, 7, 999, 1001, 4000])
def test_a_thousand_is_not_the_only_number_of_levels(num_timesteps):
    process = sl.DDPMProcess(betas=[0.01] * num_timesteps)
    denoiser = sl.NetworkDenoiser(sl.MLP((2,), width=8, depth=1), process, sl.Epsilon())
    loss = sl.VariationalBound()(denoiser, torch.zeros(64, 2))
    assert loss.value.isfinite().all()
    assert (loss.t.min() >= 1 / num_timesteps - 1e-12) and loss.t.max() <= 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 24), (2, 16, 4)], ids=str)
@pytest.mark.parametrize(
    "objective", [sl.EpsilonPrediction(), sl.SlicedScoreMatching(), sl.VariationalBound(9)]
)
def test_images_of_any_shape_pass_and_so_does_a_batch_of_one(shape, objective):
    network = sl.UNet(shape, base_channels=8, multipliers=[1, 2], attention_stages=[1])
    denoiser = sl.NetworkDenoiser(network, sl.VPSDE(), sl.Epsilon())
    objective(denoiser, torch.randn(1, *shape)).value.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


class MeanSquare(sl.Objective):
    """Without noise, so that a step can be predicted."""

    def loss(self, denoiser, noisy, *, generator=None, **cond):
        pred = denoiser(noisy.x0, torch.full((len(noisy.x0),), 0.5))
        return (pred.epsilon - noisy.x0).square().flatten(1).mean(1)


def test_gradients_of_micro_batches_are_averaged(make_module, make_trainer):
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    weights = []
    for batch_size, accumulate in ((8, 1), (4, 2), (2, 4)):
        seed_everything(1, verbose=False)
        sgd = functools.partial(torch.optim.SGD, lr=0.1)
        module = make_module(network=sl.MLP((2,), width=8, depth=1), objective=MeanSquare(), optimizer=sgd)
        loader = DataLoader(TensorDataset(x), batch_size=batch_size)
        make_trainer(max_steps=2, accumulate_grad_batches=accumulate).fit(module, loader, loader)
        weights.append(torch.cat([p.flatten() for p in module.denoiser.parameters()]))
    assert weights[0].abs().sum() > 0
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "typo",
    ["model:\n  objective: EpsilonPredicton\n", "trainer:\n  deterministik: true\n"],
    ids=["class", "key"],
)
def test_a_misspelt_setting_does_not_train_another_model(typo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "typo.yaml").write_text(typo)
    assert main(["fit", "--config", "toy/vp_epsilon", "--config", "typo.yaml"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
