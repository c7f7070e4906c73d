"""A network in bf16 and a compiled one: close to what they replace, and with keys of their own."""

import copy

import pytest
import torch

from scorelight import DDIM, MLP, VPSDE, ClippedDenoiser, Epsilon, NetworkDenoiser
from scorelight.denoisers.execution import AutocastDenoiser, CompiledDenoiser, executed
from scorelight.storage.identity import describe


@pytest.fixture
def denoiser(generator):
    network = MLP((6,), 32, 2, num_classes=3)
    torch.nn.init.normal_(network.last.weight, std=0.3, generator=generator)
    return NetworkDenoiser(network, VPSDE(), Epsilon()).eval()


@pytest.fixture
def at(generator):
    return torch.randn(40, 6, generator=generator), torch.tensor(0.4)


def test_products_in_bf16_are_close_and_are_not_the_same(denoiser, at):
    seen = []
    denoiser.network.last.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    exact, rounded = denoiser(*at).epsilon, AutocastDenoiser(denoiser)(*at).epsilon
    assert seen == [torch.float32, torch.bfloat16] and rounded.dtype == torch.float32
    error = (rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 2**-12 < error < 2**-5
    assert torch.equal(denoiser(*at).epsilon, exact), "only within the wrapper"


def test_conditions_reach_the_network(denoiser, at, monkeypatch):
    monkeypatch.setattr(MLP, "compile", lambda self: None)
    label = torch.zeros(40, dtype=torch.long)
    for wrapped in (AutocastDenoiser(denoiser), CompiledDenoiser(denoiser)):
        level = wrapped.process.at(at[1], like=at[0])
        with_label = wrapped.predict(at[0], level, label=label).epsilon
        without = wrapped.unconditional(at[0], level, label=label).epsilon
        torch.testing.assert_close(
            with_label, denoiser.predict(at[0], level, label=label).epsilon, rtol=0.1, atol=0.1
        )
        torch.testing.assert_close(
            without, denoiser.unconditional(at[0], level, label=label).epsilon, rtol=0.1, atol=0.1
        )
        assert not torch.allclose(with_label, without, atol=1e-3)


def test_networks_are_compiled_whatever_is_around_them(denoiser, at, monkeypatch):
    compiled = []
    monkeypatch.setattr(MLP, "compile", lambda self: compiled.append(self))
    wrapped = CompiledDenoiser(ClippedDenoiser(denoiser))
    assert compiled == [denoiser.network]
    assert torch.equal(wrapped(*at).x0, ClippedDenoiser(denoiser)(*at).x0)


@pytest.mark.slow
def test_samples_of_a_compiled_network_are_those_of_the_network(denoiser, generator):
    noise = torch.randn(20, 6, generator=generator)
    with torch.no_grad():
        expected = DDIM(5)(denoiser, noise)
        found = DDIM(5)(CompiledDenoiser(copy.deepcopy(denoiser)), noise)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_each_way_of_computing_has_a_key_of_its_own(denoiser, monkeypatch):
    monkeypatch.setattr(MLP, "compile", lambda self: None)
    ways = [(precision, compiled) for precision in ("32-true", "bf16-mixed") for compiled in (False, True)]
    keys = [describe(executed(denoiser, *way)) for way in ways]
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
    assert executed(denoiser, "32-true", False) is denoiser
