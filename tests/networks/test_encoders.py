import pytest
import torch
from support.networks import randomized

from scorelight import ConfigurationError, MLPEncoder, UNetEncoder

ENCODERS = {
    "MLPEncoder": lambda: MLPEncoder((2,), width=8, depth=2),
    "UNetEncoder": lambda: UNetEncoder((3, 8, 12), base_channels=4, num_blocks=1),
    "in patches": lambda: UNetEncoder((1, 16, 16), base_channels=8, multipliers=(1, 2, 2), patch_size=2),
}
every_encoder = pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)


def inputs(encoder, n=5):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *encoder.shape, generator=generator, dtype=torch.float64)
    return x, torch.linspace(-5, 3, n, dtype=torch.float64)


@every_encoder
def test_features_have_the_stated_number_and_depend_on_example_and_level_alone(make):
    encoder = randomized(make(), 0.2).double().eval()
    x, noise_label = inputs(encoder)
    features = encoder(x, noise_label)
    assert features.shape == (5, encoder.num_features)
    alone = torch.cat([encoder(x[i : i + 1], noise_label[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, features, rtol=1e-9, atol=1e-9)
    assert (encoder(x, noise_label + 1) - features).abs().amax(1).min() > 1e-4
    assert (encoder(x.flip(-1), noise_label) - features).abs().amax(1).min() > 1e-4


@every_encoder
def test_every_weight_gets_a_gradient(make):
    encoder = randomized(make(), 0.2).double()
    encoder(*inputs(encoder)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 3}, "UNetEncoder: patch_size=3"),
        ({"multipliers": (1, 2, 2, 2, 2)}, "UNetEncoder: images of 8x8"),
        ({"num_heads": 3}, "UNetEncoder: 32 channels cannot be split into num_heads=3"),
        ({"group_size": 0}, "UNetEncoder: group_size=0"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        UNetEncoder((1, 8, 8), **options)
