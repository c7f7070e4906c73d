"""Accuracy and calibration by noise level."""

import math

import pytest
import torch
from support.densities import classes

from scorelight import VPSDE, BayesClassifier, Classifier, accuracy_by_level

D = torch.float64


def labelled(num):
    """Points of two classes, the class drawn of p(c | x)."""
    generator, density = torch.Generator().manual_seed(0), classes()
    x = density.sample(num, generator)
    return x, torch.multinomial(density.log_class_prob(x).exp(), 1, generator=generator)[:, 0]


def levels(process, *times):
    return process.grid_levels(torch.tensor(times, dtype=D))


class Constant(Classifier):
    """The same probabilities for every example."""

    def __init__(self, *shares):
        super().__init__()
        self.process, self.num_classes = VPSDE(), len(shares)
        self.log_shares = torch.tensor(shares, dtype=D).log()

    def log_prob(self, x_t, level):
        return self.log_shares.expand(len(x_t), -1)


def test_the_exact_classifier_is_calibrated_at_every_level():
    process, (x0, label) = VPSDE(), labelled(20_000)
    model, at = BayesClassifier(classes(), process), levels(process, 0.01, 0.2, 0.6)
    for row in accuracy_by_level(model, x0, label, at):
        error = math.sqrt(row.confidence * (1 - row.confidence) / len(x0))  # at most, one standard error
        assert abs(row.accuracy - row.confidence) < 4 * error + 1e-4
        assert row.calibration_error < 15 * error
        assert row.nats < math.log(2)


def test_the_numbers_of_a_classifier_that_knows_nothing_have_closed_forms():
    label = torch.tensor([0] * 30 + [1] * 70)
    (row,) = accuracy_by_level(Constant(0.9, 0.1), torch.zeros(100, 2, dtype=D), label, levels(VPSDE(), 0.5))
    assert (row.accuracy, row.confidence) == pytest.approx((0.3, 0.9))
    assert row.calibration_error == pytest.approx(0.6)
    assert row.nats == pytest.approx(-0.3 * math.log(0.9) - 0.7 * math.log(0.1))
    assert row.noise == pytest.approx(levels(VPSDE(), 0.5)[0].sigma / levels(VPSDE(), 0.5)[0].alpha)


def test_the_bins_of_the_calibration_error_do_not_cancel():
    class Split(Constant):
        def log_prob(self, x_t, level):
            return torch.where(x_t[:, :1] > 0, torch.tensor([0.99, 0.01]), torch.tensor([0.51, 0.49])).log()

    x0 = torch.cat([torch.full((50, 2), 9.0, dtype=D), torch.full((50, 2), -9.0, dtype=D)])
    label = torch.tensor([0] * 25 + [1] * 25 + [0] * 50)  # half right where it is sure, and the reverse
    (row,) = accuracy_by_level(Split(0.5, 0.5), x0, label, levels(VPSDE(), 1e-3))
    assert row.accuracy == pytest.approx(row.confidence)
    assert row.calibration_error == pytest.approx(0.49, abs=1e-6)


def test_the_size_of_batches_does_not_change_the_result():
    process, (x0, label) = VPSDE(), labelled(101)
    model = BayesClassifier(classes(), process)
    at = levels(process, 0.1, 0.4)
    assert accuracy_by_level(model, x0, label, at, batch_size=7) == accuracy_by_level(model, x0, label, at)
