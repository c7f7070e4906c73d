"""What is counted without computing agrees with what is computed."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scorelight import (
    MLP,
    EpsilonPrediction,
    SlicedScoreMatching,
    UNet,
)
from scorelight.networks.base import ScoreNetwork
from scorelight.times import LossAwareTime
from scorelight.training.step_cost import count_step, measured_flops_per_second


def test_the_flop_of_an_mlp_are_two_for_each_weight(make_module):
    module = make_module(network=MLP((2,), width=16, depth=2))
    weights = sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
    averaged = weights // 2
    assert count_step(module).network_flops == 2 * averaged


def counted_by_torch(module, shape):
    """FLOP of an example, of a batch of four on the CPU: of the loss, and of loss and gradient."""
    x0 = torch.randn(4, *shape)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = module.objective(module.denoiser, x0).value.mean()
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    return forward / 4, (forward + counter.get_total_flops()) / 4


def test_loss_and_gradient_of_a_unet_are_those_that_torch_counts_while_it_computes(make_module):
    module = make_module(network=UNet((1, 8, 8), base_channels=8, multipliers=(1, 2), attention_stages=()))
    counted = count_step(module)
    assert (counted.loss_flops, counted.step_flops) == counted_by_torch(module, (1, 8, 8))
    assert counted.loss_flops == counted.network_flops
    assert counted.step_flops == pytest.approx(3 * counted.loss_flops, rel=0.02)


class TwoLayers(ScoreNetwork):
    """Of the width of its hidden layer alone depends what is kept for the backward pass."""

    def __init__(self, width, ask=False):
        super().__init__((2,))
        self.layers = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))
        self.ask = ask

    def forward(self, x, noise_label, label=None):
        if self.ask:
            x.sum().item()
        return self.layers(x)


def test_a_hidden_layer_is_kept_once(make_module):
    """By the tanh, whose derivative is that of its output, and by the layer after it."""
    narrow, wide = (count_step(make_module(network=TwoLayers(w))).activation_bytes for w in (8, 24))
    assert wide - narrow == 16 * 4


def test_a_network_that_asks_for_numbers_is_counted_as_well(make_module):
    plain, asking = (count_step(make_module(network=TwoLayers(8, ask))) for ask in (False, True))
    assert asking == plain


def test_random_numbers_are_those_of_time_noise_and_objective(make_module):
    assert count_step(make_module()).random_numbers == 1 + 2
    assert count_step(make_module(objective=SlicedScoreMatching())).random_numbers == 1 + 2 + 2


@pytest.mark.parametrize(
    ("optimizer", "copies", "more"),
    [
        (functools.partial(torch.optim.Adam, lr=1e-3), 2, 4),
        (functools.partial(torch.optim.SGD, lr=1e-3), 0, 0),
        (functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9), 1, 0),
    ],
)
def test_the_optimizer_stores_its_moments(make_module, optimizer, copies, more):
    """And Adam the number of steps for each tensor."""
    counted = count_step(make_module(optimizer=optimizer))
    assert counted.parameter_bytes == 4 * counted.parameters
    assert counted.optimizer_bytes == copies * counted.parameter_bytes + more * counted.tensors


def test_gathering_losses_is_known(make_module):
    objective = EpsilonPrediction(LossAwareTime(num_timesteps=10))
    assert count_step(make_module(objective=objective)).gathers_losses
    assert not count_step(make_module()).gathers_losses


def test_a_class_conditional_network_is_counted_on_meta_tensors(make_module, monkeypatch):
    module = make_module(network=MLP((2,), 16, 1, num_classes=3))
    copied = []
    monkeypatch.setattr(
        nn.Module, "to", lambda self, device: copied.append(device) or self.to_empty(device=device)
    )
    assert count_step(module).network_flops > 0
    assert {device.type for device in copied} == {"meta"}


def test_the_module_stays_as_it_is(make_module):
    module = make_module()
    before = {name: value.clone() for name, value in module.state_dict().items() if name.endswith("weight")}
    cost = count_step(module)
    assert measured_flops_per_second(module, cost, 4, torch.device("cpu"), repeats=1) > 0
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    assert all(p.grad is None for p in module.parameters())
