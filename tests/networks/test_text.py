import pytest
import torch

from scorelight import ConfigurationError
from scorelight.networks.text import TextEncoder


def encoder(**options):
    torch.manual_seed(0)
    return TextEncoder(9, 5, **({"num_features": 8, "num_heads": 2} | options)).double()


CAPTIONS = torch.tensor([[1, 2, 0, 0, 0], [2, 1, 0, 0, 0], [3, 4, 5, 6, 7], [9, 0, 0, 0, 0]])


@pytest.mark.parametrize("mode", [True, False])
def test_a_caption_is_encoded_by_itself_and_by_the_order_of_its_words(mode):
    net = encoder().train(mode)
    with torch.no_grad():
        found = net(CAPTIONS)
        alone = torch.cat([net(row[None]) for row in CAPTIONS])
    assert found.shape == (4, 8)
    torch.testing.assert_close(alone, found, rtol=1e-9, atol=1e-9)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_what_fills_up_a_caption_does_not_count():
    net = encoder()
    before = net(CAPTIONS[:1])
    with torch.no_grad():
        net.place[2:] += 1.0
        net.word.weight[0] += 1.0
    torch.testing.assert_close(net(CAPTIONS[:1]), before)


def test_every_weight_gets_a_gradient():
    net = encoder()
    net(CAPTIONS).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("options", [{"num_features": 7}, {"depth": 0}, {"num_heads": 0}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(ConfigurationError, match="TextEncoder: num_features"):
        encoder(**options)
