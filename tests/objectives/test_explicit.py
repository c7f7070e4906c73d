import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from scorelight import (
    EDM,
    MLP,
    VESDE,
    VPSDE,
    X0,
    ConfigurationError,
    Denoiser,
    DenoisingScoreMatching,
    DigitsDataModule,
    EDMWeighting,
    EmpiricalDenoiser,
    Epsilon,
    ExplicitScoreMatching,
    FixedTime,
    ImportanceTime,
    LikelihoodWeighting,
    MinSNRWeighting,
    NetworkDenoiser,
    Prediction,
    Score,
    ScoreModule,
    SubVPSDE,
    ToyDataModule,
    VPrediction,
)
from scorelight.batch import Batch
from scorelight.denoisers.analytic import posterior_mean
from scorelight.rng import PhiloxGenerator, Stream

D = torch.float64
N = 20_000
BANK = torch.randn(30, 2, generator=torch.Generator().manual_seed(5), dtype=D)
LABELS = torch.arange(30) % 3
PROCESSES = [VPSDE(t_min=0.05), SubVPSDE(t_min=0.05), VESDE(sigma_min=0.05, sigma_max=5.0)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
TARGETS = [
    {},
    {"space": Epsilon()},
    {"space": VPrediction(), "time_sampler": FixedTime(0.3)},
    {"weighting": MinSNRWeighting()},
    {"weighting": EDMWeighting(1.0)},
    {"weighting": LikelihoodWeighting(), "time_sampler": ImportanceTime()},
    {"space": EDM(1.0)},
]
every_target = pytest.mark.parametrize(
    "target", TARGETS, ids=lambda t: "-".join(type(v).__name__ for v in t.values()) or "default"
)


class Off(Denoiser):
    # the exact epsilon plus an affine function of x_t, and of what is handed over for each example;
    # stated in the units of any space

    def __init__(self, process, offset=0.0, slope=0.0, each=0.0, space=None):
        super().__init__()
        self.exact, self.process = EmpiricalDenoiser(BANK, process), process
        self.offset, self.slope, self.each = offset, slope, each
        self.space = space or Epsilon()

    def predict(self, x_t, level, label=None):
        labels = None if label is None else (label, LABELS)
        mean = posterior_mean(BANK, x_t, level.alpha, level.sigma, labels)
        epsilon = (x_t - level.alpha * mean) / level.sigma
        pred = Prediction(x_t, level, epsilon + self.offset + self.slope * x_t + self.each, Epsilon())
        a, b = self.space.coefficients(level)
        return Prediction(x_t, level, a * pred.x0 + b * pred.epsilon, self.space)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def examples(n=N):
    index = torch.randint(len(BANK), (n,), generator=seeded(3))
    return BANK[index], LABELS[index]


def explicit(bank=BANK, cond=None, **target):
    objective = ExplicitScoreMatching(**target)
    objective.prepare(lambda: Batch(bank, cond or {}))
    return objective


def is_zero_on_average(values):
    return abs(values.mean()) < 5 * values.std() / math.sqrt(len(values))


@every_process
@every_target
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.one_in(5)
def test_explicit_is_denoising_score_matching_but_for_a_constant(process, target, classes):
    x0, label = examples()
    cond = {"label": label} if classes else {}
    one, other = Off(process, 0.3, -0.1), Off(process, -0.5, 0.2)
    losses = [
        objective(denoiser, x0, generator=seeded(), **cond).value
        for objective in (explicit(cond={"label": LABELS}, **target), DenoisingScoreMatching(**target))
        for denoiser in (one, other)
    ]
    gap, noise = losses[0] - losses[1], (losses[0] - losses[1]) - (losses[2] - losses[3])
    assert 5 * noise.std() / math.sqrt(N) < 0.2 * gap.mean().abs()  # it would show if they differed
    assert is_zero_on_average(noise)


@every_process
@every_target
def test_the_loss_of_a_change_of_the_exact_denoiser_is_its_mean_square(process, target):
    # no noise is left: the excess of denoising score matching is only so on average
    x0, _ = examples(50)
    loss = explicit(**target)(Off(process, 0.3), x0, generator=seeded())
    reference = DenoisingScoreMatching(**target)
    level = process.at(loss.t, like=x0)
    ratio = reference.space.determinant(level) / Epsilon().determinant(level)
    _, weight = reference.time_sampler.eval()(process, 50, generator=seeded(), device=x0.device)
    expected = weight * (reference.weighting(level) * ratio**2 * 0.3**2).flatten()
    torch.testing.assert_close(loss.value, expected, rtol=1e-9, atol=0)


@every_process
@pytest.mark.parametrize("space", [Score(), X0(), VPrediction(), EDM(0.5)], ids=lambda s: type(s).__name__)
def test_the_loss_does_not_depend_on_what_the_network_outputs(process, space):
    x0, _ = examples(50)
    direct, restated = (
        explicit()(Off(process, 0.3, 0.5, space=s), x0, generator=seeded()).value for s in (None, space)
    )
    torch.testing.assert_close(restated, direct, rtol=1e-8, atol=1e-12)


@every_process
@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("shape", [(2,), (3, 5), (1, 4, 6)], ids=str)
def test_the_loss_of_the_exact_denoiser_is_exactly_zero(process, dtype, shape):
    bank = torch.randn(30, *shape, generator=seeded(), dtype=dtype)
    loss = explicit(bank, chunk_size=7)(EmpiricalDenoiser(bank, process, 7), bank[:9], generator=seeded())
    assert loss.value.shape == loss.t.shape == (9,) and loss.value.dtype == dtype
    assert torch.equal(loss.value, torch.zeros(9, dtype=dtype))


@pytest.mark.parametrize("chunk_size", [1, 7, 30, 4096])
def test_the_chunk_size_does_not_matter(chunk_size):
    x0, label = examples(50)
    ask = lambda **chunk: explicit(cond={"label": LABELS}, **chunk)(  # noqa: E731
        Off(VPSDE(), 0.3, 0.5), x0, generator=seeded(), label=label
    )
    torch.testing.assert_close(ask(chunk_size=chunk_size).value, ask().value, rtol=1e-9, atol=1e-12)


@every_process
def test_the_target_is_the_exact_score_given_the_class_and_without_one_that_of_all_points(process):
    x0, label = examples(60)
    label[::2] = 3  # no class
    objective, denoiser = explicit(cond={"label": LABELS}, space=Score()), Off(process)
    loss = objective(denoiser, x0, generator=seeded(), label=label).value
    assert torch.equal(loss, torch.zeros_like(loss))
    ignorant = objective(EmpiricalDenoiser(BANK, process), x0, generator=seeded(), label=label).value
    assert (ignorant[::2] == 0).all() and ignorant[1::2].mean() > 1e-3


@every_process
def test_what_denoising_score_matching_adds_to_the_gradient_is_noise(process):
    # Var(DSM) = Var(ESM) + E[Var(DSM | x_t)], for the derivative of each example's loss in its output
    x0, _ = examples()
    gradients, losses = [], []
    for objective in (explicit(), DenoisingScoreMatching()):
        each = torch.zeros(N, 2, dtype=D, requires_grad=True)
        loss = objective(Off(process, 0.3, -0.1, each), x0, generator=seeded()).value
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss.sum(), each)[0][:, 0])
    exact, noisy = gradients
    noise = noisy - exact
    assert is_zero_on_average(noise) and is_zero_on_average(noise * exact)
    assert noise.var() > exact.var() > 0
    assert losses[0].var() < losses[1].var() / 2


def test_with_a_generator_each_the_loss_of_an_example_does_not_depend_on_the_batch():
    x0, label = examples(8)
    objective, denoiser = explicit(cond={"label": LABELS}), Off(VPSDE(), 0.3, 0.5)
    whole = objective(denoiser, x0, generator=PhiloxGenerator(0, range(8)), label=label)
    for indices in ([5], [6, 1, 3]):
        part = objective(denoiser, x0[indices], generator=PhiloxGenerator(0, indices), label=label[indices])
        assert torch.equal(part.t, whole.t[indices])
        torch.testing.assert_close(part.value, whole.value[indices], rtol=1e-12, atol=0)


def test_the_gradient_reaches_the_network_and_not_the_bank():
    net = MLP((2,), width=8, depth=1)
    nn.init.normal_(net.last.weight)
    bank = BANK.float().requires_grad_()
    objective = explicit(bank)
    objective(
        NetworkDenoiser(net, VPSDE(), Epsilon()), bank.detach()[:5], generator=seeded()
    ).value.sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in net.parameters())
    assert bank.grad is None


def test_without_a_bank_the_message_says_how_to_get_one():
    with pytest.raises(ConfigurationError, match=r"no bank: train with a data module, or call prepare"):
        ExplicitScoreMatching()(Off(VPSDE()), BANK)


def test_conditions_of_which_the_exact_score_is_not_known_are_refused():
    with pytest.raises(ConfigurationError, match="given 'text' is not known"):
        explicit(cond={"label": LABELS})(Off(VPSDE()), BANK, label=LABELS, text=LABELS)


def test_labels_that_the_bank_has_not_are_refused():
    with pytest.raises(ConfigurationError, match="the batch has labels, the training set none"):
        explicit()(Off(VPSDE()), BANK, label=LABELS)


def test_a_chunk_holds_at_least_one_point():
    with pytest.raises(ConfigurationError, match="chunk_size=0"):
        ExplicitScoreMatching(chunk_size=0)


class Foreign(LightningDataModule):
    # nothing of scorelight's: pairs from a DataLoader, scaled on the device

    def __init__(self, labels=True):
        super().__init__()
        columns = [BANK.float(), LABELS] if labels else [BANK.float()]
        self.pairs = TensorDataset(*columns)

    def train_dataloader(self):
        return DataLoader(self.pairs, batch_size=7, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.pairs, batch_size=7)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] / 2, *batch[1:]]


DATA = {
    "toy": lambda: ToyDataModule(num_train=60, num_val=13, batch_size=8),
    "digits": lambda: DigitsDataModule(batch_size=16),
    "foreign with labels": Foreign,
    "foreign without": lambda: Foreign(labels=False),
}


@pytest.mark.parametrize("which", DATA)
def test_the_bank_is_the_training_set_as_the_model_sees_it(which, make_module, make_trainer):
    data, shape = DATA[which](), (1, 8, 8) if which == "digits" else (2,)
    classes = {"digits": 10, "foreign with labels": int(LABELS.max()) + 1}.get(which)
    network, rate = MLP(shape, width=16, depth=1, num_classes=classes), 0.5 if classes else 0.0
    module = make_module(network=network, objective=ExplicitScoreMatching(), condition_dropout=rate)
    trainer = make_trainer(max_steps=2)
    trainer.fit(module, data)
    bank = module.objective.bank
    if isinstance(data, Foreign):
        order = bank.x0[:, 0].argsort()
        expected = BANK[:, 0].argsort()
        assert torch.equal(bank.x0[order], BANK[expected].float() / 2)
        if which == "foreign with labels":
            assert torch.equal(bank.cond["label"][order], LABELS[expected])
    else:
        assert torch.equal(bank.x0, data.scale(data.train.x)) and bank.x0.dtype == torch.float32
        assert bank.cond.keys() == data.train.cond.keys()
        assert all(torch.equal(bank.cond[k], data.train.cond[k]) for k in bank.cond)
    assert trainer.validate(module, data, verbose=False)[0]["val/loss"] > 0


def test_validation_alone_takes_the_bank_too_and_measures_against_the_training_set(make_module, make_trainer):
    module, data = make_module(objective=ExplicitScoreMatching()), DATA["toy"]()
    (result,) = make_trainer().validate(module, data, verbose=False)
    assert torch.equal(module.objective.bank.x0, data.train.x)
    loss = module.objective(
        module.ema.denoiser, data.val.x, generator=PhiloxGenerator(module.seed, range(13), Stream.VALIDATION)
    )
    assert result["val/loss"] == pytest.approx(loss.value.mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    "label", [LABELS[:, None], LABELS.float(), LABELS > 0], ids=["column", "float", "bool"]
)
@pytest.mark.parametrize("place", ["batch", "bank"])
def test_labels_of_another_shape_or_type_are_compared_with_nothing(label, place):
    x0 = BANK.float()
    labels = {"batch": LABELS, "bank": LABELS} | {place: label}
    objective = ExplicitScoreMatching()
    objective.prepare(lambda: Batch(x0, {"label": labels["bank"]}))
    denoiser = NetworkDenoiser(MLP((2,), 8, 1), VPSDE(), Epsilon())
    with pytest.raises(ConfigurationError, match="one whole number for each example"):
        objective(denoiser, x0, label=labels["batch"])


def test_bare_loaders_have_no_bank_to_give(make_module, make_trainer):
    loader = DataLoader(TensorDataset(BANK.float()), batch_size=7)
    with pytest.raises(ConfigurationError, match="train with a data module"):
        make_trainer(max_steps=1).fit(make_module(objective=ExplicitScoreMatching()), loader, loader)


def test_a_checkpoint_holds_no_bank_and_samples_without_data(make_module, make_trainer, tmp_path):
    module, trainer = make_module(objective=ExplicitScoreMatching(chunk_size=77)), make_trainer(max_steps=2)
    trainer.fit(module, DATA["toy"]())
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path, weights_only=False)
    stored = torch.load(path, weights_only=True)
    assert not [k for k in stored["state_dict"] if not k.startswith(("denoiser.", "ema.", "val_loss."))]
    assert len(module.objective.bank.x0) == 60
    assert not [v for v in stored["state_dict"].values() if isinstance(v, torch.Tensor) and 60 in v.shape]
    loaded = ScoreModule.load_from_checkpoint(path)
    assert loaded.objective.bank is None and loaded.objective.chunk_size == 77
    for mine, theirs in zip(loaded.sample(3, range(4)), module.sample(3, range(4)), strict=True):
        assert torch.equal(mine, theirs)


LARGE = """
import json, re, torch
from pathlib import Path
from scorelight import MLP, VPSDE, Epsilon, ExplicitScoreMatching, NetworkDenoiser
from scorelight.batch import Batch
torch.set_num_threads(1)
status = Path("/proc/self/status")  # getrusage would begin with the peak of the process that starts this one
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) / 2**10
imported = peak()
bank, label = torch.randn(60_000, 1, 28, 28), torch.arange(60_000) % 10
denoiser = NetworkDenoiser(MLP((1, 28, 28), num_classes=10), VPSDE(), Epsilon())
objective = ExplicitScoreMatching()

def step(num):
    objective.prepare(lambda: Batch(bank[:num], {"label": label[:num]}))
    objective(denoiser, bank[:128], label=torch.arange(128) % 10).value.mean().backward()
    return peak()

print(json.dumps([imported, step(100), step(60_000)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="Linux says how much memory a process took"
)
def test_a_bank_of_the_size_of_mnist_needs_less_than_two_gigabytes():
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, env=env)
    imported, small, large = json.loads(done.stdout)
    assert large < 2048, (imported, small, large)
    # some chunks of 4096 points in double precision, 24.5 MiB each; the bank in double precision is 359 MiB
    assert large - small < 12 * 4096 * 784 * 8 / 2**20, (imported, small, large)
