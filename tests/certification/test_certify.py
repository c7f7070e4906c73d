"""The true score is the minimiser of every objective; and the test that says so can tell a wrong one."""

import math

import pytest
import torch
from scipy import stats
from support import certification
from support.certification import OBJECTIVES, PROCESSES
from support.certification import PARAMETERIZATIONS as ROWS
from support.marks import slow

import scorelight as sl
from scorelight.batch import Batch
from scorelight.certification.certify import certify, known_denoiser, known_energy

D = torch.float64
LEARNED = {(p, o) for p in ("LearnedVPSDE",) for o in OBJECTIVES if o not in ("bound", "L_vlb")}
TABLES = {(p, "bound") for p in ("DDPMProcess", "SMLDProcess")}


def check(process_name, row, column, **changes):
    """One cell of the benchmark on the mixture in the plane, or its points."""
    process = PROCESSES[process_name]()
    (data, points), *_ = [d[1:] for d in certification.data_sets(row, column) if d[0] == "2-D"]
    objective = OBJECTIVES[column](certification.num_timesteps(process))
    objective.prepare(lambda: Batch(points, {}))
    settings = dict(
        energy=row == "Energy",
        learned_variance=column == "hybrid",
        seed=certification.cell_seed(process_name, row, column),
        control_error=0.2,
    )
    return certify(objective, process, ROWS[row](), data, **settings | changes)


def cells():
    """Every process with every objective, the parameterizations in turn; and all of those for one process."""
    names = list(ROWS)[:-1]
    for i, process in enumerate(PROCESSES):
        for j, column in enumerate(OBJECTIVES):
            yield process, names[(i + j) % len(names)], column
    yield from (("SubVPSDE", row, column) for row in ROWS for column in OBJECTIVES)


def refused(process, row, column):
    return (process, column) in LEARNED | TABLES or (row, column) == ("Energy", "hybrid")


DEFINED = sorted({c for c in cells() if not refused(*c)})
UNDEFINED = sorted({c for c in cells() if refused(*c)})


@pytest.mark.parametrize(("process", "row", "column"), DEFINED)
@pytest.mark.one_in(28)
def test_the_true_score_is_the_minimiser(process, row, column):
    assert check(process, row, column).passed


@pytest.mark.parametrize(("process", "row", "column"), UNDEFINED)
def test_what_is_not_defined_is_refused_with_the_remedy(process, row, column):
    with pytest.raises(sl.ConfigurationError, match=r"use VariationalBound|use DiscreteTime|set .* to true"):
        check(process, row, column)


AFFINE = [
    (p, o) if p == "CosineVPSDE" else slow(p, o)
    for p in ("CosineVPSDE", "DDPMProcess")
    for o in OBJECTIVES
    if (p, o) not in TABLES
]


@pytest.mark.parametrize(("process", "column"), AFFINE)
@pytest.mark.one_in(15)
def test_an_affine_model_reaches_the_mean_and_spread_of_gaussian_data(process, column):
    result = certification.fit_affine_model(PROCESSES[process](), "X0", column, seed=1)
    assert result["passed"], result


@pytest.mark.parametrize("column", ["DSM", "ISM", "L_vlb"])
def test_an_energy_reaches_the_mean_and_spread_of_gaussian_data(column):
    result = certification.fit_affine_model(sl.VESDE(), "Energy", column, seed=2)
    assert result["passed"], result


class ShrunkTarget(sl.DenoisingScoreMatching):
    """Regression on 0.9 ε."""

    def forward(self, denoiser, x0, **kwargs):
        process = denoiser.process

        class Wrong(sl.Denoiser):
            def predict(self, x_t, level, **cond):
                pred = denoiser.predict(x_t, level, **cond)
                return sl.Prediction(x_t, level, pred.epsilon / 0.9, sl.Epsilon())

        wrong = Wrong()
        wrong.process = process
        return super().forward(wrong, x0, **kwargs)


class OneSidedSlices(sl.SlicedScoreMatching):
    """Directions along the first dimension only."""

    def _direction(self, like, generator):
        v = super()._direction(like, generator)
        v[:, 1:] = 0
        return v


class HalfTrace(sl.ImplicitScoreMatching):
    """Hyvärinen's trace without its factor 2."""

    def _axes(self, like):
        return (v / math.sqrt(2) for v in super()._axes(like))


class UnitSphere(sl.SlicedScoreMatching):
    """Directions of length 1 where √D is needed."""

    def _direction(self, like, generator):
        v = super()._direction(like, generator)
        return v / v.norm(dim=1, keepdim=True)


class Inconsistent(sl.DenoisingScoreMatching):
    """Noise added to data that are 20 % too large."""

    def forward(self, denoiser, x0, **kwargs):
        return super().forward(denoiser, 1.2 * x0, **kwargs)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("wrong", [ShrunkTarget, OneSidedSlices, HalfTrace, UnitSphere, Inconsistent])
def test_an_objective_with_another_minimiser_fails(wrong):
    found = certify(wrong(), sl.VPSDE(), sl.Epsilon(), certification.mixture(2), num_examples=16_384)
    assert not found.passed and found.p_value < 1e-12
    assert found.error > 3 * found.resolution


class TimestepEpsilon(sl.Parameterization):
    """ε of a network on unscaled x_t and labels 999 t."""

    def coefficients(self, level):
        return 0.0, 1.0

    def input_scale(self, level):
        return 1.0

    def noise_label(self, level):
        return 999 * level.time


@pytest.mark.parametrize("process", ["VPSDE", "VESDE", "DDPMProcess"])
@pytest.mark.parametrize("column", ["DSM", "SSM-VR"])
def test_a_parameterization_with_its_own_input_and_labels_is_certified(process, column):
    process = PROCESSES[process]()
    objective = OBJECTIVES[column](certification.num_timesteps(process))
    certify_with = lambda space: certify(  # noqa: E731
        objective, process, space, certification.mixture(2), control_error=0.2
    )
    found = certify_with(TimestepEpsilon())
    assert found.passed
    if not isinstance(process, sl.VESDE):  # where `Epsilon` does not scale the input either
        expected = certify_with(sl.Epsilon())
        assert found.error == pytest.approx(expected.error, rel=1e-6)
        assert found.p_value == pytest.approx(expected.p_value, rel=1e-6)


def test_a_right_objective_that_sees_next_to_nothing_fails_too():
    """At little noise ε is anybody's guess: 1 % wrong is not seen in 4,096 of them, as the control tells."""
    objective = sl.EpsilonPrediction(sl.FixedTime(t=0.002))
    found = certify(
        objective, sl.VPSDE(), sl.X0(), certification.mixture(2), control_error=0.01, max_examples=4096
    )
    assert found.p_value > 1e-6 and not found.passed


@pytest.mark.slow
def test_the_p_values_of_a_right_objective_are_uniform():
    data = certification.mixture(2)
    values = [
        certify(sl.EpsilonPrediction(), sl.VPSDE(), sl.Epsilon(), data, control_error=0.2, seed=seed).p_value
        for seed in range(60)
    ]
    assert stats.kstest(values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.one_in(3)
def test_a_known_denoiser_says_what_it_knows(process, row, generator):
    process, data = PROCESSES[process](), certification.mixture(3)
    if row == "Energy":
        known = known_energy((3,), process, lambda x, level: data.log_prob(x, level.alpha, level.sigma))
    else:
        exact = sl.AnalyticDenoiser(data, process)
        known = known_denoiser((3,), process, ROWS[row](), lambda x, level: exact.predict(x, level).epsilon)
    t = torch.linspace(process.t_min, process.t_max, 7, dtype=D)
    x_t = process.perturb(data.sample(7, generator), torch.randn(7, 3, generator=generator, dtype=D), t)
    level = process.at(t, like=x_t)
    score = data.score(x_t, level.alpha, level.sigma)
    error = level.sigma * (known(x_t, t).score - score)
    assert error.abs().max() < 1e-6
