import functools
import math

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from scorelight import (
    EDM,
    MLP,
    VPSDE,
    X0,
    ConfigurationError,
    DDPMProcess,
    DenoisingScoreMatching,
    Energy,
    Epsilon,
    EpsilonPrediction,
    ExplicitScoreMatching,
    HybridObjective,
    ImplicitScoreMatching,
    NetworkDenoiser,
    Score,
    ScoreModule,
    ScoreNetwork,
    SlicedScoreMatching,
    ToyDataModule,
    UNet,
    VariationalBound,
    Velocity,
    VPrediction,
)
from scorelight.cli import main

D = torch.float64


class Scalar(ScoreNetwork):
    """One number per example."""

    def __init__(self, shape, width: int = 8, num_classes: int | None = None):
        super().__init__(shape, num_classes)
        self.first = nn.Linear(math.prod(shape) + 1, width)
        self.label = nn.Embedding((num_classes or 0) + 1, width)
        self.last = nn.Linear(width, 1, bias=False)

    def forward(self, x, noise_label, label=None):
        if label is None:
            label = torch.full((len(x),), self.num_classes or 0)
        hidden = self.first(torch.cat([x.flatten(1), noise_label[:, None]], dim=1)) + self.label(label)
        return self.last(torch.tanh(hidden)).squeeze(1)


small = functools.partial(MLP, width=8, depth=1)
small_unet = functools.partial(UNet, base_channels=8, num_blocks=1, attention_stages=(0, 1))
KINDS = {
    "scalar": (Scalar, (3,)),
    "scalar of an image": (Scalar, (1, 2, 3)),
    "psi": (small, (3,)),
    "psi of a line": (small, (2, 3)),
    "psi of an image": (small_unet, (1, 2, 4)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def energy(kind, num_classes=None):
    network, shape = KINDS[kind]
    return randomised(Energy(shape, network, num_classes=num_classes)).double().eval()


def randomised(net, std=0.3):
    # zero-initialised layers hide what is behind them
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in net.parameters():
            nn.init.normal_(p, std=std)
    return net


def inputs(net, n=3):
    x = torch.randn(n, *net.shape, generator=torch.Generator().manual_seed(1), dtype=D)
    return x, torch.linspace(-3, 2, n, dtype=D)


def differences(function, x, h=1e-5):
    """Central differences of a function (B, ...) -> (B,) in every dimension, of x's shape."""
    flat, columns = x.flatten(1), []
    for d in range(flat.shape[1]):
        step = torch.zeros_like(flat)
        step[:, d] = h
        above, below = (function((flat + s).reshape(x.shape)).detach() for s in (step, -step))
        columns.append((above - below) / (2 * h))
    return torch.stack(columns, dim=1).reshape(x.shape)


@every_kind
def test_the_output_is_minus_the_gradient_of_the_energy(kind):
    net = energy(kind)
    x, noise_label = inputs(net)
    output = net(x, noise_label)
    assert output.shape == x.shape and output.dtype == D and output.abs().min() > 0
    expected = -differences(lambda y: net.energy(y, noise_label), x)
    torch.testing.assert_close(output.detach(), expected, rtol=1e-7, atol=1e-8)


@every_kind
def test_the_energy_is_what_the_inner_network_says_or_minus_its_product_with_x(kind):
    net = energy(kind)
    x, noise_label = inputs(net)
    inner = net.network(x, noise_label)
    expected = inner if "scalar" in kind else -(x.flatten(1) * inner.flatten(1)).sum(1)
    torch.testing.assert_close(net.energy(x, noise_label), expected)


@every_kind
def test_the_field_has_no_rotation(kind):
    net = energy(kind)
    x, noise_label = inputs(net, n=1)
    field = lambda y: net(y.reshape(x.shape), noise_label).flatten()  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(field, x.flatten())
    assert jacobian.abs().max() > 1e-3
    torch.testing.assert_close(jacobian, jacobian.mT, rtol=1e-9, atol=1e-12)


def test_the_field_of_the_inner_network_itself_has_rotation():
    net = energy("psi")
    x, noise_label = inputs(net, n=1)
    jacobian = torch.autograd.functional.jacobian(lambda y: net.network(y[None], noise_label)[0], x[0])
    assert not torch.allclose(jacobian, jacobian.mT, rtol=0.1)


@every_kind
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_output_is_the_same_where_gradients_are_switched_off(kind, mode):
    net = energy(kind, num_classes=4)
    (x, noise_label), label = inputs(net), torch.tensor([0, 2, 4])
    expected = net(x, noise_label, label)
    assert expected.requires_grad
    with mode():
        output = net(x.clone(), noise_label.clone(), label.clone())
        assert not output.requires_grad and not x.requires_grad
        torch.testing.assert_close(output + 0, expected.detach(), rtol=1e-12, atol=1e-14)


def test_the_class_reaches_the_inner_network():
    net = energy("psi", num_classes=3)
    x, noise_label = inputs(net)
    outputs = [net(x, noise_label, torch.full((3,), k)) for k in range(4)] + [net(x, noise_label)]
    assert net.network.num_classes == 3
    assert torch.equal(outputs[3], outputs[4])
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[0], outputs[3])


def test_the_classes_can_be_given_to_either_network():
    outer, inner = Energy((2,), small, num_classes=3), Energy((2,), functools.partial(small, num_classes=3))
    for net in (outer, inner):
        assert net.num_classes == net.network.num_classes == 3
    assert Energy((2,), small).num_classes is None


@pytest.mark.parametrize(
    ("network", "shape"),
    [(functools.partial(MLP, learned_variance=True), (2,)), (lambda s: Column(s), (2,))],
    ids=["learned variance", "a column"],
)
def test_an_output_that_is_neither_a_scalar_nor_like_x_is_refused(network, shape):
    with pytest.raises(ConfigurationError, match=r"Energy: \w+ outputs \(3, [14]\) for x of \(3, 2\)"):
        Energy(shape, network)(torch.randn(3, 2), torch.zeros(3))


class Column(ScoreNetwork):
    def forward(self, x, noise_label, label=None):
        return x.sum(1, keepdim=True)


@pytest.mark.parametrize("kind", ["scalar", "psi"])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("process", [VPSDE()], ids=["VPSDE"])
def test_with_the_score_parameterization_the_log_density_is_minus_the_energy_over_c_in(kind, t, process):
    # log p_t(x) = -E(c_in x) / c_in + const
    net = energy(kind)
    denoiser = NetworkDenoiser(net, process, Score())
    x, _ = inputs(net)
    level = process.at(torch.full((3,), t), like=x)
    c_in = (level.sigma**2 + level.alpha**2) ** -0.5
    noise_label = -0.5 * level.log_snr.flatten()
    log_p = lambda y: -net.energy(c_in * y, noise_label) / c_in.flatten()  # noqa: E731
    torch.testing.assert_close(
        denoiser.predict(x, level).score.detach(), differences(log_p, x), rtol=1e-7, atol=1e-8
    )


# Training

OBJECTIVES = {
    "denoising": DenoisingScoreMatching,
    "epsilon": EpsilonPrediction,
    "explicit": ExplicitScoreMatching,
    "implicit": ImplicitScoreMatching,
    "sliced": SlicedScoreMatching,
    "bound": VariationalBound,
    "bound on levels": functools.partial(VariationalBound, num_timesteps=20),
    "bound of a table": VariationalBound,
}
SPACES = [Epsilon(), Score(), X0(), VPrediction(), Velocity(), EDM(0.5)]


class Gradients(Callback):
    def on_after_backward(self, trainer, module):
        self.found = {name: p.grad for name, p in module.denoiser.named_parameters()}


def toy(**changes):
    return ToyDataModule(**(dict(num_train=60, num_val=13, batch_size=8) | changes))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("inner", [small, Scalar], ids=["psi", "scalar"])
@pytest.mark.one_in(7)
def test_every_objective_trains_an_energy_whatever_its_output_stands_for(
    objective, space, inner, make_module, make_trainer
):
    module = make_module(
        network=randomised(Energy((2,), inner)),
        parameterization=space,
        objective=OBJECTIVES[objective](),
        process=DDPMProcess(num_timesteps=50) if objective == "bound of a table" else VPSDE(t_min=0.05),
    )
    gradients = Gradients()
    trainer = make_trainer(max_steps=1, callbacks=[gradients], val_check_interval=1)
    trainer.fit(module, toy())
    for name, gradient in gradients.found.items():
        assert gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0, name
    assert trainer.callback_metrics["val/loss"].isfinite()


def test_what_needs_a_learned_variance_is_refused(make_module, make_trainer):
    parts = dict(objective=HybridObjective(), process=DDPMProcess(num_timesteps=50))
    with pytest.raises(ConfigurationError, match="the network does not learn the variance"):
        make_trainer(max_steps=1).fit(make_module(network=Energy((2,), small), **parts), toy())


@pytest.mark.slow
def test_an_energy_starts_at_zero_and_learns(make_module, make_trainer):
    module = make_module(network=Energy((2,), functools.partial(MLP, width=32, depth=1)))
    x, t = torch.randn(5, 2), torch.full((5,), 0.5)
    assert (module.denoiser(x, t).epsilon == 0).all()
    trainer = make_trainer(max_steps=150)
    trainer.fit(module, toy(num_train=2000, batch_size=128, num_val=500))
    assert trainer.validate(module, toy(num_val=500), verbose=False)[0]["val/loss"] < 0.6


@pytest.mark.parametrize("inner", [small, MLP], ids=["options", "a class"])
def test_a_checkpoint_brings_the_energy_back(inner, make_module, make_trainer, tmp_path):
    module = make_module(network=Energy((2,), inner, num_classes=3))
    trainer, points = make_trainer(max_steps=2), TensorDataset(torch.randn(60, 2), torch.arange(60) % 3)
    trainer.fit(module, DataLoader(points, 8), DataLoader(points, 8))
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    loaded = ScoreModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert type(loaded.denoiser.network.network) is MLP and loaded.num_classes == 3
    assert len(loaded.denoiser.network.network.layers) == (1 if inner is small else 3)
    label = {"label": torch.tensor([0, 1, 2])}
    for mine, theirs in zip(
        loaded.sample(3, range(3), label), module.sample(3, range(3), label), strict=True
    ):
        assert torch.equal(mine, theirs)


# The command line

SMALL = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--data.num_train", "600"]
OWN = """
from torch import nn
from scorelight import ScoreNetwork

class Bowl(ScoreNetwork):
    def __init__(self, shape, width: int = 8):
        super().__init__(shape)
        self.first, self.last = nn.Linear(shape[0], width), nn.Linear(width, 1, bias=False)

    def forward(self, x, noise_label, label=None):
        return self.last(self.first(x).tanh()).squeeze(1)
"""


def run(tmp_path, monkeypatch, *args, trust=()):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scorelight.storage.trust._trusted", set())
    assert main(["fit", "--config", "toy/vp_score", *SMALL, *args]) == 0
    path = tmp_path / "runs/toy/vp_score/version_0"
    assert main(["sample", str(path), "--num_samples", "3", "--out", "out", *trust]) == 0
    return ScoreModule.load_from_checkpoint(path / "checkpoints/last.ckpt").denoiser.network


def test_flags_make_an_energy(tmp_path, monkeypatch):
    flags = ["--model.network.network.width", "24"]
    net = run(tmp_path, monkeypatch, "--model.network", "Energy", *flags)
    assert type(net) is Energy and type(net.network) is MLP and net.network.first.out_features == 24


def test_yaml_makes_an_energy_of_an_inner_network_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "bowl.py").write_text(OWN)
    network = {"class_path": "bowl.Bowl", "init_args": {"width": 24}}
    config = {"model": {"network": {"class_path": "Energy", "init_args": {"network": network}}}}
    (tmp_path / "energy.yaml").write_text(yaml.safe_dump(config))
    net = run(tmp_path, monkeypatch, "--config", "energy.yaml", trust=["--trust", "bowl"])
    assert type(net) is Energy and type(net.network).__name__ == "Bowl"
    assert net.network.first.out_features == 24


def test_an_unknown_inner_network_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["--model.network", "Energy", "--model.network.network", "MPL"]
    assert main(["fit", "--config", "toy/vp_score", *args]) == 2
    message = capsys.readouterr().err
    assert "model.network.network" in message and "did you mean 'MLP'" in message
