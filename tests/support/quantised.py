"""Quantised Gaussians: P(x) of every grey level is known, and with it what dequantisation loses."""

import math

import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

from scorelight import (
    AnalyticDenoiser,
    DequantizerModule,
    FlowDequantization,
    GaussianMixture,
    LikelihoodProtocol,
)

D = torch.float64


def gaussian(mean, covariance):
    """A Gaussian image of one row, (1, 1, D)."""
    mean, covariance = torch.as_tensor(mean, dtype=D), torch.as_tensor(covariance, dtype=D)
    return GaussianMixture(torch.ones(1), mean.reshape(1, 1, 1, -1), covariance[None])


ONE = gaussian([0.2], [[0.04]])
TWO = gaussian([0.1, -0.2], [[0.06, 0.05], [0.05, 0.06]])
LEVELS, WIDTH = 5, 0.5


def levels(dim):
    axis = torch.linspace(-1, 1, LEVELS, dtype=D)
    return torch.cartesian_prod(*[axis] * dim).reshape(-1, 1, 1, dim)


def cells(dim, num):
    """Midpoints of a grid on (0, 1)^D, shape (num^D, 1, 1, D)."""
    axis = (torch.arange(num, dtype=D) + 0.5) / num
    return torch.cartesian_prod(*[axis] * dim).reshape(-1, 1, 1, dim)


def probabilities(density):
    """P(x) = ∫ p over the cube of each level, shape (L,)."""
    dim = math.prod(density.shape)
    v = WIDTH * (cells(dim, 400 if dim > 1 else 20_000) - 0.5)
    return torch.stack([density.log_prob(x + v).exp().mean() * WIDTH**dim for x in levels(dim)])


@torch.no_grad()
def gaps(dequantizer, density):
    """KL(q ‖ p(u|x)) in nats at each level, shape (L,): the bound (24) less −log P(x), by quadrature in v."""
    dim = math.prod(density.shape)
    v, found = cells(dim, 60 if dim > 1 else 2000), []
    for x in levels(dim):
        u, log_q = dequantizer(x.expand(len(v), -1, -1, -1), v)
        found.append((log_q - density.log_prob(x + WIDTH * u)).mean() - dim * math.log(WIDTH))
    return torch.stack(found) + probabilities(density).log()


def mean_gap(dequantizer, density):
    """Mean of `gaps` over the levels, weighted by P(x)."""
    weight = probabilities(density)
    return (weight * gaps(dequantizer, density)).sum().item() / weight.sum().item()


def train_flow(density, trainer, process, **options):
    """A small flow trained on grey levels that are drawn from P(x)."""
    seed_everything(0, verbose=False)
    draws = torch.Generator().manual_seed(0)
    index = torch.multinomial(probabilities(density), 4096, replacement=True, generator=draws)
    x = levels(math.prod(density.shape))[index].float()
    q = FlowDequantization(density.shape, width=32)
    module = DequantizerModule(AnalyticDenoiser(density, process), q, LikelihoodProtocol(LEVELS), **options)
    trainer.fit(module, DataLoader(x, batch_size=256, shuffle=True))
    return q
