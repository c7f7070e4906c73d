"""Training of classifiers of noisy examples."""

import math
from functools import partial

import pytest
import torch
from torch.optim import Adam

from scorelight import (
    VPSDE,
    BayesClassifier,
    ClassifierModule,
    ConfigurationError,
    LearnedVPSDE,
    LearningRateSchedule,
    MLPEncoder,
    NetworkClassifier,
    ScoreModule,
    StratifiedTime,
    ToyDataModule,
    accuracy_by_level,
)
from scorelight.data.access import examples_of
from scorelight.training.loading import load_classifier, load_module


def toy(**options):
    return ToyDataModule(
        "eight_gaussians", **({"num_train": 2000, "num_val": 500, "classes": True} | options)
    )


def module(width=16, **options):
    torch.manual_seed(0)
    return ClassifierModule(MLPEncoder((2,), width), VPSDE(), **({"num_classes": 8, "seed": 0} | options))


def test_a_network_that_knows_nothing_has_the_loss_log_c(make_trainer):
    made = module()
    torch.nn.init.zeros_(made.classifier.head.weight)
    torch.nn.init.zeros_(made.classifier.head.bias)
    (numbers,) = make_trainer().validate(made, toy(), verbose=False)
    assert numbers["val/loss"] == pytest.approx(math.log(8), rel=1e-5)
    assert numbers["val/accuracy"] == pytest.approx(1 / 8, abs=4 * math.sqrt(7 / 64 / 500))


def test_a_checkpoint_is_built_again_and_is_of_its_own_kind(tmp_path, make_trainer):
    trainer = make_trainer(max_steps=2)
    trainer.fit(made := module(), toy())
    trainer.save_checkpoint(path := tmp_path / "a.ckpt")
    again = load_classifier(path)
    assert isinstance(again, NetworkClassifier) and not again.training
    for (name, mine), theirs in zip(
        made.classifier.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name
    with pytest.raises(ConfigurationError, match="holds a classifier; a generative model is needed here"):
        load_module(path)
    with pytest.raises(ConfigurationError, match="holds a classifier"):
        ScoreModule.load_from_checkpoint(path)


def test_a_generative_model_is_no_classifier(tmp_path, make_module, make_trainer):
    trainer = make_trainer(max_steps=1)
    trainer.fit(make_module(), toy(classes=False))
    trainer.save_checkpoint(path := tmp_path / "a.ckpt")
    with pytest.raises(ConfigurationError, match="holds a generative model; a classifier is needed here"):
        load_classifier(path)


def test_a_resumed_training_ends_with_the_same_weights(tmp_path, make_trainer):
    make = lambda: module(time_sampler=StratifiedTime())  # noqa: E731
    make_trainer(max_steps=12).fit(whole := make(), toy(batch_size=300))
    (first := make_trainer(max_steps=5)).fit(make(), toy(batch_size=300))
    first.save_checkpoint(path := tmp_path / "a.ckpt")
    make_trainer(max_steps=12).fit(resumed := make(), toy(batch_size=300), ckpt_path=path)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: module(num_classes=1), "model.num_classes=1: at least 2 classes"),
        (lambda: module(num_classes="data"), "model.num_classes=data: at least 2"),
        (lambda: ClassifierModule(MLPEncoder((2,)), LearnedVPSDE(), 2), "LearnedVPSDE is learned"),
    ],
)
def test_what_cannot_be_trained_is_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: toy(classes=False), "model.num_classes=8: ToyDataModule has no labels"),
        (
            lambda: ToyDataModule("two_gaussians", 100, 10, classes=True),
            "number of classes of ToyDataModule is 2",
        ),
    ],
)
def test_data_of_other_classes_are_refused_before_the_first_step(make_trainer, data, message):
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(max_steps=1).fit(module(), data())


@pytest.mark.slow
def test_a_trained_classifier_is_within_three_points_of_the_exact_one_at_every_level(make_trainer):
    data = ToyDataModule("eight_gaussians", 50_000, 5000, classes=True)
    made = module(128, optimizer=partial(Adam, lr=2e-3, fused=True), time_sampler=StratifiedTime())
    make_trainer(max_steps=1500, callbacks=[LearningRateSchedule()], log_every_n_steps=500).fit(made, data)
    process, batch = made.process, examples_of(data, "val").all()
    times = process.time_of_log_snr(torch.linspace(8, -8, 9, dtype=torch.float64))
    rows = [
        accuracy_by_level(c, batch.x0, batch.cond["label"], process.grid_levels(times))
        for c in (made.classifier.eval(), BayesClassifier(data.exact, process))
    ]
    for mine, exact in zip(*rows, strict=True):
        assert mine.accuracy > exact.accuracy - 0.03, f"σ/α = {mine.noise:.3g}"
        assert mine.nats > exact.nats - 0.02  # on 5,000 examples with the same noise
