"""Two-dimensional densities with a known answer."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from scorelight.data.arrays import Arrays
from scorelight.data.base import ArrayDataModule
from scorelight.denoisers.analytic import GaussianMixture
from scorelight.errors import ConfigurationError, nearest
from scorelight.rng import hash_seed
from scorelight.storage.memory import check_memory

__all__ = ["Density", "ToyDataModule", "mixture", "sample"]

_BYTES = 32
"""Memory that a point takes while it is drawn, in float64 and in float32."""

Density = Literal["eight_gaussians", "two_gaussians", "swiss_roll", "checkerboard", "two_moons"]


def mixture(density: Density, classes: bool = False) -> GaussianMixture | None:
    """The density in closed form, for those that are Gaussian mixtures; with `classes`, one per component.

    ``eight_gaussians``: centres on the unit circle, standard deviation 0.1. ``two_gaussians``: equal
    weights, centres (−1.5, 1.5) and (1, 1), standard deviation 0.3.
    """
    if density == "eight_gaussians":
        angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
        means, std = torch.stack([angle.cos(), angle.sin()], dim=1), 0.1
    elif density == "two_gaussians":
        means, std = torch.tensor([[-1.5, 1.5], [1.0, 1.0]]), 0.3
    else:
        return None
    labels = torch.arange(len(means)) if classes else None
    return GaussianMixture(torch.ones(len(means)), means, torch.full((len(means),), std**2), labels)


def sample(density: Density, num: int, seed: int) -> Tensor:
    """`num` points, shape (num, 2), float32, a function of the seed."""
    known = mixture(density)
    if known is not None:
        return known.sample(num, torch.Generator().manual_seed(hash_seed(seed))).float()
    if density == "checkerboard":
        return torch.from_numpy(_checkerboard(num, seed)).float()
    from sklearn.datasets import make_moons, make_swiss_roll

    state = hash_seed(seed) & 0xFFFFFFFF
    if density == "swiss_roll":
        points = make_swiss_roll(num, noise=0.5, random_state=state)[0][:, [0, 2]] / 10
    else:
        points = (make_moons(num, noise=0.1, random_state=state)[0] - [0.5, 0.25]) * 1.5
    return torch.from_numpy(points).float()


def _checkerboard(num: int, seed: int) -> np.ndarray:
    """Uniform on the eight dark squares of a 4×4 board on [−2, 2]², density 1/8 there."""
    rng = np.random.default_rng(hash_seed(seed))
    row = rng.integers(0, 4, num)
    column = 2 * rng.integers(0, 2, num) + row % 2
    return np.stack([column, row], axis=1) + rng.random((num, 2)) - 2


class ToyDataModule(ArrayDataModule):
    """Points in the plane. `exact` is the `GaussianMixture` that they come from, None where there is none.

    Args:
        density: Which density.
        num_train: Training points.
        num_val: Validation points, 0 for none.
        batch_size: Training examples per step and process.
        val_batch_size: Validation examples per step and process.
        seed: Seed of the points; the order of training is that of `seed_everything` as well.
        classes: Whether each point has a class, the component of the mixture that it comes from.
    """

    shape = (2,)
    num_classes: int | None = None

    def __init__(
        self,
        density: Density = "two_gaussians",
        num_train: int = 50_000,
        num_val: int = 5_000,
        batch_size: int = 256,
        val_batch_size: int = 1024,
        seed: int = 0,
        classes: bool = False,
    ) -> None:
        super().__init__(batch_size, val_batch_size, seed)
        if density not in get_args(Density):
            raise ConfigurationError(f"data.density={density!r}; {nearest(density, get_args(Density))}")
        for name, value, least in (("num_train", num_train, 1), ("num_val", num_val, 0)):
            if value < least:
                raise ConfigurationError(f"data.{name}={value}: must be at least {least}")
        check_memory("data", _BYTES * (num_train + num_val), "set data.num_train and data.num_val lower")
        self.density = density
        self.num_train = num_train
        self.num_val = num_val
        self.classes = classes
        self.exact = mixture(density, classes)
        if classes:
            if self.exact is None:
                raise ConfigurationError(f"data.classes=true: {density} is no mixture; use eight_gaussians")
            self.num_classes = self.exact.num_classes

    def arrays(self) -> tuple[Arrays, Arrays]:
        """Draw both sets at once; they share no point."""
        points = sample(self.density, self.num_train + self.num_val, self.seed)
        cond = {"label": self._classes_of(points)} if self.classes else {}
        return (
            Arrays(points[: self.num_train], {k: v[: self.num_train] for k, v in cond.items()}),
            Arrays(points[self.num_train :], {k: v[self.num_train :] for k, v in cond.items()}),
        )

    def _classes_of(self, points: Tensor) -> Tensor:
        """A class of each point, drawn of p(c | x): with the points, this is the joint distribution."""
        assert self.exact is not None
        shares = self.exact.log_class_prob(points.double()).exp()
        generator = torch.Generator().manual_seed(hash_seed(self.seed, 1))
        return torch.multinomial(shares, 1, generator=generator)[:, 0]
