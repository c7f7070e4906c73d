"""The matrix of process × parameterization × objective, and what is tested in each of its cells.

`benchmarks/certify.py` runs all of it; `tests/certification` runs a part.
"""

import zlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import Tensor

import scorelight as sl
from scorelight.batch import Batch
from scorelight.certification.certify import known_denoiser, known_energy

D = torch.float64

PROCESSES = {
    "VPSDE": sl.VPSDE,
    "SubVPSDE": sl.SubVPSDE,
    "VESDE": sl.VESDE,
    "CosineVPSDE": sl.CosineVPSDE,
    "KarrasVESDE": sl.KarrasVESDE,
    "RectifiedFlow": sl.RectifiedFlow,
    "DDPMProcess": sl.DDPMProcess,
    "SMLDProcess": sl.SMLDProcess,
    "LearnedVPSDE": partial(sl.LearnedVPSDE, width=32),
}
PARAMETERIZATIONS = {
    "Epsilon": sl.Epsilon,
    "Score": sl.Score,
    "X0": sl.X0,
    "VPrediction": sl.VPrediction,
    "Velocity": sl.Velocity,
    "EDM": sl.EDM,
    "Energy": sl.Score,
}
"""The row "Energy" has the gradient of a scalar as its network."""
OBJECTIVES: dict[str, Callable[[int], sl.Objective]] = {
    "DSM": lambda n: sl.DenoisingScoreMatching(),
    "DSM levels": lambda n: sl.DenoisingScoreMatching(time_sampler=sl.DiscreteTime(n)),
    "DSM g²": lambda n: sl.DenoisingScoreMatching(
        weighting=sl.LikelihoodWeighting(), time_sampler=sl.ImportanceTime()
    ),
    "EDM loss": lambda n: sl.DenoisingScoreMatching(
        weighting=sl.EDMWeighting(), time_sampler=sl.LogNormalTime()
    ),
    "L_simple": lambda n: sl.EpsilonPrediction(),
    "ESM": lambda n: sl.ExplicitScoreMatching(),
    "ISM": lambda n: sl.ImplicitScoreMatching(chunk_size=16),
    "SSM": lambda n: sl.SlicedScoreMatching(variance_reduction=False),
    "SSM-VR": lambda n: sl.SlicedScoreMatching(),
    "bound": lambda n: sl.VariationalBound(time_sampler=sl.ImportanceTime()),
    "L_vlb": lambda n: sl.VariationalBound(n),
    "hybrid": lambda n: sl.HybridObjective(num_timesteps=n),
}
"""Objectives as functions of the number of timesteps."""


def num_timesteps(process: sl.ForwardProcess) -> int:
    """Timesteps of the discrete objectives: all of a table, 10 of a continuous process."""
    return process.num_timesteps or 10


def cell_seed(*names: str) -> int:
    """The seed of a cell: the CRC-32 of its name."""
    return zlib.crc32(" ".join(names).encode())


def mixture(dim: int) -> sl.GaussianMixture:
    """Three Gaussians with covariances of any orientation."""
    generator = torch.Generator().manual_seed(dim)
    means = torch.randn(3, dim, generator=generator, dtype=D)
    roots = torch.randn(3, dim, dim, generator=generator, dtype=D)
    covariances = 0.15 * roots @ roots.mT / dim + 0.05 * torch.eye(dim, dtype=D)
    return sl.GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, covariances)


def digits() -> Tensor:
    """The 8×8 digits, shape (1797, 1, 8, 8), in [−1, 1]."""
    return torch.from_numpy(load_digits().images)[:, None] / 8 - 1


def data_sets(row: str, column: str) -> Iterator[tuple[str, sl.GaussianMixture | Tensor, Tensor]]:
    """Name, data and finite set of points (for ExplicitScoreMatching) of each data set.

    For ExplicitScoreMatching the data are always a finite set of points; for an energy its density is a
    mixture of components of variance 0.
    """
    for name in ("1-D", "2-D", "16-D", "digits"):
        density = None if name == "digits" else mixture(int(name[:-2]))
        points = digits() if density is None else density.sample(1797, torch.Generator().manual_seed(0))
        points = points[::90] if row == "Energy" else points
        if density is not None and column != "ESM":
            yield name, density, points
        elif row == "Energy":
            yield name, sl.GaussianMixture(torch.ones(len(points)), points, torch.zeros(len(points))), points
        else:
            yield name, points, points


MEAN, STD = torch.tensor([0.5, -0.3], dtype=D), torch.tensor([0.8, 0.4], dtype=D)


class AffineModel:
    """The affine ε̂ = σ (x_t − α m)/(α² s² + σ²), with θ = (m, log s) in two dimensions for each example."""

    theta: Tensor

    def moments(self, level: sl.NoiseLevel[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean m of the data and variance of x_t."""
        mean, std = self.theta[:, :2], self.theta[:, 2:].exp()
        return mean, level.alpha**2 * std**2 + level.sigma**2

    def epsilon(self, x_t: Tensor, level: sl.NoiseLevel[Tensor]) -> Tensor:
        """ε̂ of x_t."""
        mean, variance = self.moments(level)
        return level.sigma * (x_t - level.alpha * mean) / variance

    def log_prob(self, x_t: Tensor, level: sl.NoiseLevel[Tensor]) -> Tensor:
        """log p̂_t of x_t, up to a constant."""
        mean, variance = self.moments(level)
        return -0.5 * ((x_t - level.alpha * mean) ** 2 / variance + variance.log()).sum(1)


def gaussian_points(num: int, generator: torch.Generator) -> Tensor:
    """Points whose mean is MEAN and whose covariance is diag(STD²), to all digits."""
    x = torch.randn(num, 2, generator=generator, dtype=D)
    x = x - x.mean(0)
    return MEAN + STD * (x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov(correction=0))).T)


def newton(
    derivatives: Callable[[Tensor], tuple[Tensor, Tensor]], theta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Follow the gradient, which need not be that of the loss's value, to where it is 0 and H is positive.

    Steps −|H|⁻¹ ḡ, no longer than ½, with |H| of the absolute eigenvalues: they lead away from saddles.
    """
    for _ in range(100):
        gradient, hessian = derivatives(theta)
        curvature, axes = torch.linalg.eigh(hessian)
        step = -axes @ ((axes.T @ gradient.mean(0)) / curvature.abs())
        theta = theta + step * min(1, 0.5 / step.norm().item())
        if step.norm() < 1e-9:
            break
    return theta, gradient, hessian


def fit_affine_model(process: sl.ForwardProcess, row: str, column: str, seed: int) -> dict[str, object]:
    """Fit `AffineModel` to data of mean MEAN and standard deviation STD, from (m + 1, 2 s).

    The draws of times and noise stay the same throughout; the minimiser then has the covariance H⁻¹ S H⁻¹/n.
    More of them are drawn until that is small.

    Returns:
        Whether the fit ends at MEAN and STD within its error, that error, and the p-value.
    """
    generator = torch.Generator().manual_seed(seed)
    points = gaussian_points(256, generator)
    objective = OBJECTIVES[column](num_timesteps(process))
    objective.prepare(lambda: Batch(points, {}))
    model, denoiser = affine_denoiser(process, row, column)
    draws = generator.get_state()
    truth, theta = torch.cat([MEAN, STD.log()]), torch.cat([MEAN + 1, (2 * STD).log()])
    for repeats in (64, 256, 1024):
        data = points.repeat(repeats, 1)

        def derivatives(theta: Tensor, data: Tensor = data) -> tuple[Tensor, Tensor]:
            """Gradient of each example's loss, and the Hessian of their mean."""
            model.theta = theta.expand(len(data), 4).clone().requires_grad_()
            loss = objective(denoiser, data, generator=generator.set_state(draws)).value.sum()
            (gradient,) = torch.autograd.grad(loss, model.theta, create_graph=True)
            grad = partial(torch.autograd.grad, inputs=model.theta, retain_graph=True)
            return gradient.detach(), torch.stack([grad(g.sum())[0] for g in gradient.unbind(1)]).mean(1)

        theta, gradient, hessian = newton(derivatives, theta)
        inverse = torch.linalg.inv(hessian)
        covariance = inverse @ gradient.T.cov() @ inverse / len(data) + 1e-18 * torch.eye(4, dtype=D)
        if covariance.diagonal().sqrt().max().item() < 0.05:
            break
    return _result(theta - truth, covariance, hessian, len(data))


def affine_denoiser(process: sl.ForwardProcess, row: str, column: str) -> tuple[AffineModel, sl.Denoiser]:
    """An affine model, and the denoiser that states it in a parameterization or as an energy."""
    model = AffineModel()
    if row == "Energy":
        return model, known_energy((2,), process, model.log_prob)
    parameterization, learned_variance = PARAMETERIZATIONS[row](), column == "hybrid"
    return model, known_denoiser((2,), process, parameterization, model.epsilon, learned_variance)


def _result(error: Tensor, covariance: Tensor, hessian: Tensor, num_examples: int) -> dict[str, object]:
    """Hotelling's test of the error of θ̂ at a minimum."""
    t2 = error @ torch.linalg.solve(covariance, error)
    p = torch.special.gammaincc(t2.new_tensor(2.0), t2 / 2).item()
    resolution = covariance.diagonal().sqrt().max().item()
    minimum = bool((torch.linalg.eigvalsh(hessian) > 0).all())
    return {
        "check": "reached",
        "passed": p > 1e-6 and resolution < 0.1 and minimum,
        "error": error.abs().max().item(),
        "resolution": resolution,
        "p_value": p,
        "num_examples": num_examples,
    }
