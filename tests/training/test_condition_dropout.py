"""Training examples that lose their conditions: how many, to what, and that nothing else changes."""

import math

import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader, TensorDataset

from scorelight import (
    MLP,
    ConfigurationError,
    DDPMProcess,
    DenoisingScoreMatching,
    DigitsDataModule,
    EpsilonPrediction,
    ExplicitScoreMatching,
    HybridObjective,
    ImplicitScoreMatching,
    Objective,
    SlicedScoreMatching,
    UNet,
    UniformTime,
    VariationalBound,
)
from scorelight.batch import Batch
from scorelight.conditions import NO_CLASS, drop_conditions
from scorelight.rng import PhiloxGenerator, Stream, rand

CLASSES, B = 10, 400
OBJECTIVES = [
    EpsilonPrediction,
    DenoisingScoreMatching,
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    SlicedScoreMatching,
    VariationalBound,
    HybridObjective,
]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
every_rate = pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])


class Recorder(MLP):
    """Keeps what it is asked, and what it is for."""

    def forward(self, x, noise_label, label=None):
        self.asked.append(label if label is None else label.clone())
        return super().forward(x, noise_label, label)


def everyone():
    """Every objective class that there is, tests' own left out."""
    found = [Objective]
    for cls in found:
        found += cls.__subclasses__()
    return {c for c in found[1:] if c.__module__.startswith("scorelight.")}


def points(num=B, num_classes=CLASSES):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(num, 2, generator=generator).clamp(-1, 1)
    return x0, torch.randint(num_classes, (num,), generator=generator)


def loader():
    return DataLoader(TensorDataset(*points()), B)


def one_step(make_module, make_trainer, objective, rate, **changes):
    """One training step on one batch of labelled points; what the objective and the network were given."""
    made, given = objective(), []
    made.prepare(lambda: Batch(points()[0], {"label": points()[1]}))
    made.register_forward_pre_hook(
        lambda _, args, cond: given.append(
            (args[1].clone(), {k: v.clone() for k, v in cond.items() if k != "generator"})
        ),
        with_kwargs=True,
    )
    torch.manual_seed(0)
    network = Recorder((2,), 8, 1, num_classes=CLASSES, learned_variance=objective is HybridObjective)
    network.asked = []
    parts = dict(network=network, process=DDPMProcess(), objective=made, condition_dropout=rate, seed=3)
    module = make_module(**(parts | changes))
    make_trainer(max_steps=1, limit_val_batches=0).fit(module, loader(), loader())
    ((x0, cond),) = given
    return x0, cond, network.asked


def test_every_objective_is_in_this_list():
    assert everyone() == set(OBJECTIVES)


@pytest.mark.one_in(3)
@every_objective
@every_rate
def test_the_share_of_the_labels_that_are_dropped_becomes_no_class_and_the_batch_stays(
    objective, rate, make_module, make_trainer
):
    """To 5 standard errors of B coins."""
    x0, cond, asked = one_step(make_module, make_trainer, objective, rate)
    original, label = points()
    assert torch.equal(x0, original) and cond.keys() == {"label"}
    dropped = cond["label"] == NO_CLASS
    assert torch.equal(cond["label"][~dropped], label[~dropped])
    assert abs(dropped.double().mean() - rate) <= 5 * math.sqrt(rate * (1 - rate) / B)
    rows = cond["label"].where(~dropped, CLASSES)
    assert asked and all(torch.equal(given, rows) for given in asked)


def test_examples_are_dropped_independently_of_their_place_and_their_class(make_module, make_trainer):
    _, cond, _ = one_step(make_module, make_trainer, EpsilonPrediction, 0.5)
    dropped, label = (cond["label"] == NO_CLASS).double(), points()[1]
    for group in (label < 5, label >= 5, torch.arange(B) < 200, torch.arange(B) % 2 == 0):
        assert abs(dropped[group].mean() - 0.5) < 5 * 0.5 / math.sqrt(group.sum())
    runs = (dropped[1:] != dropped[:-1]).double().mean()
    assert abs(runs - 0.5) < 5 * 0.5 / math.sqrt(B - 1)


def test_each_step_drops_others_and_a_run_of_the_same_seed_the_same(make_module, make_trainer):
    def run():
        made, seen = EpsilonPrediction(), []
        made.register_forward_pre_hook(
            lambda _, args, cond: seen.append(cond["label"] == NO_CLASS), with_kwargs=True
        )
        network = MLP((2,), 8, 1, num_classes=CLASSES)
        module = make_module(network=network, objective=made, condition_dropout=0.5, seed=3)
        make_trainer(max_steps=3, limit_val_batches=0).fit(module, loader(), loader())
        return seen

    first, second = run(), run()
    assert len(first) == 3 and not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.one_in(4)
@every_objective
def test_without_dropout_the_step_is_that_of_a_module_that_knows_none(objective, make_module, make_trainer):
    def weights(**given):
        torch.manual_seed(0)
        network = MLP((2,), 8, 1, num_classes=CLASSES, learned_variance=objective is HybridObjective)
        made = objective()
        made.prepare(lambda: Batch(points()[0], {"label": points()[1]}))
        module = make_module(network=network, process=DDPMProcess(), objective=made, seed=3, **given)
        make_trainer(max_steps=2, limit_val_batches=0).fit(module, loader(), loader())
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    assert torch.equal(weights(), weights(condition_dropout=0.0))
    assert not torch.equal(weights(), weights(condition_dropout=0.5))


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_without_dropout_no_random_number_is_spent_on_it(rate, make_module, make_trainer):
    """The times are the first that the seed of the step gives; with it, the second batch of them."""
    made, times = EpsilonPrediction(), []
    made.register_forward_hook(lambda module, args, loss: times.append(loss.t))
    network = MLP((2,), 8, 1, num_classes=CLASSES)
    module = make_module(network=network, objective=made, condition_dropout=rate, seed=3)
    make_trainer(max_steps=1, limit_val_batches=0).fit(module, loader(), loader())
    generator, device = PhiloxGenerator(3, range(B), Stream.TRAINING), torch.device("cpu")
    if rate:
        rand(B, generator, device)
    expected, _ = UniformTime()(module.denoiser.process, B, generator=generator, device=device)
    assert torch.equal(times[0], expected)


def test_with_everything_dropped_only_no_class_is_trained(make_module, make_trainer):
    torch.manual_seed(0)
    network = MLP((2,), 8, 1, num_classes=CLASSES)
    torch.nn.init.normal_(network.last.weight)
    before = network.embed.label.weight.detach().clone()
    module = make_module(network=network, condition_dropout=1.0)
    make_trainer(max_steps=2, limit_val_batches=0).fit(module, loader(), loader())
    after = network.embed.label.weight.detach()
    assert torch.equal(after[:CLASSES], before[:CLASSES])
    assert not torch.equal(after[CLASSES], before[CLASSES])


def test_a_dropped_label_is_the_same_to_the_network_as_none(make_module):
    denoiser = make_module(network=MLP((2,), 8, 1, num_classes=CLASSES)).denoiser
    torch.nn.init.normal_(denoiser.network.last.weight)
    x, t = torch.randn(5, 2), torch.rand(5)
    cond = drop_conditions({"label": torch.arange(5)}, torch.ones(5, dtype=torch.bool))
    assert torch.equal(denoiser(x, t, **cond).output, denoiser(x, t).output)
    assert not torch.equal(denoiser(x, t, label=torch.arange(5)).output, denoiser(x, t).output)


def test_the_average_is_validated_with_every_label_kept(make_module, make_trainer):
    made, seen = EpsilonPrediction(), []
    made.register_forward_pre_hook(lambda _, args, cond: seen.append(cond["label"]), with_kwargs=True)
    module = make_module(network=MLP((2,), 8, 1, num_classes=CLASSES), objective=made, condition_dropout=1.0)
    make_trainer().validate(module, loader(), verbose=False)
    assert torch.equal(torch.cat(seen), points()[1])


def test_other_conditions_are_dropped_to_zeros_with_the_label_and_of_any_shape():
    drop = torch.tensor([True, False, True])
    cond = {"label": torch.tensor([1, 2, 3]), "image": torch.ones(3, 2, 4, 4), "angle": torch.ones(3)}
    found = drop_conditions(cond, drop)
    assert found["label"].tolist() == [NO_CLASS, 2, NO_CLASS]
    assert found["angle"].tolist() == [0, 1, 0]
    assert found["image"].flatten(1).sum(1).tolist() == [0, 32, 0]
    assert cond["label"].tolist() == [1, 2, 3] and found["image"].dtype == torch.float32


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.one_in(9)
def test_digits_and_their_labels_train_a_u_net_under_every_objective(objective, make_module, make_trainer):
    """One step on images, of the classes and of no class at once."""
    seed_everything(0, verbose=False)
    made = objective()
    network = UNet((1, 8, 8), 8, num_blocks=1, num_classes=10, learned_variance=objective is HybridObjective)
    module = make_module(network=network, process=DDPMProcess(), objective=made, condition_dropout=0.5)
    before = network.last.weight.detach().clone()
    make_trainer(max_steps=1, limit_val_batches=1).fit(
        module, DigitsDataModule(batch_size=16, val_batch_size=4)
    )
    assert not torch.equal(network.last.weight.detach(), before)
    assert all(p.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(rate, make_module):
    with pytest.raises(ConfigurationError, match="condition_dropout"):
        make_module(network=MLP((2,), 8, 1, num_classes=CLASSES), condition_dropout=rate)


def test_a_network_without_classes_has_nothing_to_drop(make_module):
    with pytest.raises(ConfigurationError, match=r"model\.network\.num_classes"):
        make_module(condition_dropout=0.5)
