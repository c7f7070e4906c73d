"""Networks for tests: random weights, recorded inputs."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scorelight import MLP, ForwardProcess, NetworkDenoiser, Parameterization

Module = TypeVar("Module", bound=nn.Module)


def randomized(network: Module, std: float, seed: int = 0) -> Module:
    """The network with normal weights: zero-initialised layers hide what is behind them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=std)
    return network


def random_mlp(
    shape: Sequence[int],
    width: int = 16,
    depth: int = 1,
    *,
    std: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> MLP:
    """An MLP of a seed, its last layer normal with this standard deviation instead of zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = MLP(shape, width, depth, **options)
        nn.init.normal_(network.last.weight, std=std)
    return network.to(dtype)


def random_denoiser(
    shape: Sequence[int], process: ForwardProcess, parameterization: Parameterization, std: float = 0.2
) -> NetworkDenoiser:
    """A denoiser around a small MLP whose weights are all normal."""
    network, generator = MLP(shape, width=16, depth=1), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return NetworkDenoiser(network, process, parameterization)


class RecordingNetwork(nn.Module):
    """Outputs 0, and keeps the input, noise label and conditions of its last call."""

    x: Tensor
    noise_label: Tensor
    cond: dict[str, Any]

    def forward(self, x: Tensor, noise_label: Tensor, **cond: Any) -> Tensor:
        """Record, and output 0."""
        self.x, self.noise_label, self.cond = x, noise_label, cond
        return torch.zeros_like(x)


class TanhNetwork(nn.Module):
    """tanh(x + scale · noise label): smooth, nonlinear and without weights."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, noise_label: Tensor) -> Tensor:
        """tanh(x + scale · noise label) for x of shape (B, D)."""
        return torch.tanh(x + self.scale * noise_label[:, None])
