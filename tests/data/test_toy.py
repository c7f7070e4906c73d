from typing import get_args

import pytest
import torch

from scorelight import ConfigurationError, ToyDataModule
from scorelight.data.toy import Density, mixture, sample


@pytest.mark.parametrize("density", get_args(Density))
def test_points_are_a_function_of_the_seed_of_order_one(density):
    a, b, c = (sample(density, 2000, seed) for seed in (0, 0, 1))
    assert a.shape == (2000, 2) and a.dtype == torch.float32
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert (a.std(0) > 0.3).all() and (a.std(0) < 1.5).all()


@pytest.mark.parametrize("density", ["eight_gaussians", "two_gaussians"])
def test_the_closed_form_is_that_of_the_points(density):
    """Mean log-density of the points against that of fresh exact samples, within 5 standard errors."""
    points, exact = sample(density, 20_000, 0).double(), mixture(density)
    other = exact.sample(20_000, torch.Generator().manual_seed(1))
    a, b = exact.log_prob(points), exact.log_prob(other)
    assert abs(a.mean() - b.mean()) < 5 * (a.var() / len(a) + b.var() / len(b)).sqrt()


def test_two_gaussians_are_where_they_are_said_to_be():
    points = sample("two_gaussians", 40_000, 0)
    left = points[points[:, 0] < -0.25]
    for side, centre in ((left, [-1.5, 1.5]), (points[points[:, 0] > -0.25], [1.0, 1.0])):
        error = 5 * 0.3 / len(side) ** 0.5
        assert (side.mean(0) - torch.tensor(centre)).abs().max() < error
    assert abs(len(left) / 40_000 - 0.5) < 5 * 0.5 / 200


def test_the_checkerboard_is_uniform_on_its_eight_squares():
    cell = (sample("checkerboard", 80_000, 0) + 2).floor().long()
    counts = torch.zeros(4, 4)
    counts.index_put_((cell[:, 0], cell[:, 1]), torch.ones(80_000), accumulate=True)
    dark = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0
    assert (counts[~dark] == 0).all()
    assert (counts[dark] - 10_000).abs().max() < 5 * (10_000 * 7 / 8) ** 0.5


def test_training_and_validation_points_differ():
    data = ToyDataModule("two_moons", num_train=500, num_val=100)
    data.setup("fit")
    assert len(data.train.x) == 500 and len(data.val.x) == 100
    assert not {*map(tuple, data.train.x.tolist())} & {*map(tuple, data.val.x.tolist())}


def test_an_unknown_density_is_named_with_those_that_there_are():
    with pytest.raises(ConfigurationError, match=r"'two_moon'.*did you mean 'two_moons'.*swiss_roll"):
        ToyDataModule("two_moon")


@pytest.mark.parametrize(
    "numbers", [{"num_train": 0}, {"num_train": -5}, {"num_val": -1}, {"num_train": 10**14}]
)
def test_numbers_of_points_that_cannot_be_are_refused(numbers):
    with pytest.raises(ConfigurationError, match=r"num_train|num_val"):
        ToyDataModule(**numbers)


def test_there_may_be_no_validation_points():
    data = ToyDataModule(num_train=8, num_val=0)
    data.setup("fit")
    assert len(data.train) == 8 and len(data.val) == 0
