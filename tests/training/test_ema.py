import math

import pytest
import torch
from torch import nn

from scorelight import MLP, VPSDE, ConfigurationError, Epsilon, NetworkDenoiser
from scorelight.training.ema import ExponentialMovingAverage


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x, noise_label):
        return self.norm(self.linear(x))[:, :2]


def model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NetworkDenoiser(Net(), VPSDE(), Epsilon()).double()


def randomise(denoiser, generator):
    with torch.no_grad():
        for p in denoiser.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize("decay", [0.5, 0.999])
@pytest.mark.parametrize("updates", [1, 2, 20])
def test_the_average_follows_the_written_out_recursion(decay, updates, generator):
    denoiser = model()
    ema = ExponentialMovingAverage(denoiser, decay)
    expected = denoiser.network.linear.weight.detach().clone()
    for n in range(updates):
        randomise(denoiser, generator)
        ema.update(denoiser)
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * denoiser.network.linear.weight.detach()
    torch.testing.assert_close(ema.denoiser.network.linear.weight, expected, rtol=1e-12, atol=1e-12)
    assert ema.num_updates == updates


def test_every_parameter_is_averaged(generator):
    denoiser = model()
    ema = ExponentialMovingAverage(denoiser, 0.999)
    before = [p.clone() for p in ema.denoiser.parameters()]
    randomise(denoiser, generator)
    ema.update(denoiser)
    for old, new, mine in zip(before, denoiser.parameters(), ema.denoiser.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.1 * old + 0.9 * new)  # d_0 = 1/10


def test_without_decay_the_average_is_the_trained_model(generator):
    denoiser = model()
    ema = ExponentialMovingAverage(denoiser, 0.0)
    for _ in range(3):
        randomise(denoiser, generator)
        ema.update(denoiser)
    for mine, theirs in zip(ema.denoiser.parameters(), denoiser.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_buffers_are_copied_not_averaged():
    denoiser = model()
    ema = ExponentialMovingAverage(denoiser, 0.999)
    denoiser.train()(torch.ones(4, 2, dtype=torch.float64), torch.zeros(4))
    ema.update(denoiser)
    assert ema.denoiser.network.norm.num_batches_tracked == 1
    assert torch.equal(ema.denoiser.network.norm.running_mean, denoiser.network.norm.running_mean)


def test_the_average_starts_as_a_copy_that_shares_no_memory(generator):
    denoiser = model()
    ema = ExponentialMovingAverage(denoiser, 0.9)
    before = [p.clone() for p in denoiser.parameters()]
    randomise(denoiser, generator)
    for old, mine in zip(before, ema.denoiser.parameters(), strict=True):
        assert torch.equal(old, mine)


def test_the_average_stays_in_eval_mode_and_leaves_the_model_in_its_own():
    denoiser = model().train()
    ema = ExponentialMovingAverage(denoiser, 0.9)
    whole = nn.ModuleList([ema, denoiser]).train()
    assert whole.training and denoiser.network.training
    assert not any(m.training for m in ema.modules())


def test_the_average_takes_no_gradients_and_the_model_still_does():
    denoiser = model()
    ema = ExponentialMovingAverage(denoiser, 0.9)
    ema.update(denoiser)
    assert not any(p.requires_grad for p in ema.parameters())
    assert all(p.requires_grad for p in denoiser.parameters())


def test_the_state_survives_a_file_loaded_with_weights_only(tmp_path, generator):
    denoiser = model()
    ema = ExponentialMovingAverage(denoiser, 0.9)
    for _ in range(3):
        randomise(denoiser, generator)
        ema.update(denoiser)
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    other = ExponentialMovingAverage(model(seed=1), 0.9)
    other.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    assert other.num_updates == 3
    for mine, theirs in zip(other.parameters(), ema.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_resumed_average_goes_on_as_if_it_had_never_stopped(generator):
    denoiser = model()
    ema, resumed = (ExponentialMovingAverage(denoiser, 0.9) for _ in range(2))
    ema.update(denoiser)
    resumed.load_state_dict(ema.state_dict())
    randomise(denoiser, generator)
    ema.update(denoiser)
    resumed.update(denoiser)
    for mine, theirs in zip(resumed.parameters(), ema.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_average_predicts_like_the_model_it_was_taken_from():
    denoiser = NetworkDenoiser(MLP((2,), width=8, depth=1), VPSDE(), Epsilon())
    nn.init.ones_(denoiser.network.last.weight)
    x, t = torch.ones(3, 2), torch.linspace(0.1, 1, 3)
    assert torch.equal(ExponentialMovingAverage(denoiser, 0.9).denoiser(x, t).x0, denoiser(x, t).x0)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, math.nan])
def test_a_decay_out_of_range_raises(decay):
    with pytest.raises(ConfigurationError, match="ema_decay"):
        ExponentialMovingAverage(model(), decay)
