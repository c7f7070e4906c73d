import itertools
import math

import pytest
import torch
from torch import nn

from scorelight import ConfigurationError, UNet
from scorelight.networks.layers import Attention

D = torch.float64
SHAPES = pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (2, 12, 4)], ids=str)
LEVELS = pytest.mark.parametrize(
    ("multipliers", "attention_stages"), [((1,), ()), ((1,), (0,)), ((1, 2), (1,)), ((2, 1, 3), (0, 2))]
)


def unet(shape=(1, 8, 8), **options):
    return UNet(shape, **({"base_channels": 4, "num_blocks": 1} | options))


def randomised(net, seed=0):
    # zero-initialised layers hide what is behind them
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for p in net.parameters():
            nn.init.normal_(p, std=0.2)
    return net.double().eval()


def inputs(shape=(1, 8, 8), n=4, dtype=D):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=generator, dtype=dtype)
    return x, torch.linspace(-5, 3, n, dtype=dtype)


@pytest.mark.one_in(3)
@SHAPES
@LEVELS
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_the_output_is_like_the_input(shape, multipliers, attention_stages, num_blocks):
    x, noise_label = inputs(shape, dtype=torch.float32)
    net = unet(shape, multipliers=multipliers, attention_stages=attention_stages, num_blocks=num_blocks)
    out = net(x, noise_label)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)


@SHAPES
@LEVELS
def test_the_output_starts_at_exactly_zero(shape, multipliers, attention_stages):
    net = unet(shape, multipliers=multipliers, attention_stages=attention_stages)
    assert (net(*inputs(shape, dtype=torch.float32)) == 0).all()


@pytest.mark.one_in(4)
@SHAPES
@LEVELS
@pytest.mark.parametrize("num_classes", [None, 3])
def test_every_row_of_every_parameter_gets_a_gradient(shape, multipliers, attention_stages, num_classes):
    options = {"multipliers": multipliers, "attention_stages": attention_stages}
    net = randomised(unet(shape, num_classes=num_classes, **options))
    net(*inputs(shape), label=torch.tensor([0, 1, 2, 3 if num_classes else 0])).square().sum().backward()
    for name, p in net.named_parameters():
        rows = p.grad.flatten(1) if p.ndim > 1 else p.grad[None]
        assert (rows.abs().sum(1) > 0).all(), name


@LEVELS
def test_every_pixel_of_the_output_depends_on_the_input_around_it(multipliers, attention_stages):
    net = randomised(unet((1, 8, 12), multipliers=multipliers, attention_stages=attention_stages))
    x, noise_label = inputs((1, 8, 12), n=1)
    moved = x + 1e-3 * torch.randn(x.shape, dtype=D, generator=torch.Generator().manual_seed(2))
    assert ((net(x, noise_label) - net(moved, noise_label)).abs() > 0).all()


@LEVELS
def test_the_skips_carry_the_input_past_the_middle(multipliers, attention_stages):
    net = randomised(unet((1, 8, 12), multipliers=multipliers, attention_stages=attention_stages))
    net.middle[-1].register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    x, noise_label = inputs((1, 8, 12))
    assert not torch.allclose(net(x, noise_label), net(-x, noise_label))


def test_a_block_that_starts_at_zero_passes_its_input_on():
    block, x = unet((1, 8, 8), base_channels=4).down[0], torch.randn(2, 4, 8, 8, generator=torch.Generator())
    torch.testing.assert_close(block(x, torch.zeros(2, 16)), x * math.sqrt(0.5))


@pytest.mark.parametrize("num_classes", [None, 3])
def test_permuting_the_batch_permutes_the_output(num_classes):
    net, label = randomised(unet(num_classes=num_classes)), torch.tensor([2, 0, 1, 1])
    x, noise_label = inputs()
    order = torch.tensor([2, 0, 3, 1])
    out = net(x, noise_label, label)
    torch.testing.assert_close(net(x[order], noise_label[order], label[order]), out[order])


def test_the_class_changes_the_output():
    net, (x, noise_label) = randomised(unet(num_classes=3)), inputs(n=1)
    outputs = [net(x, noise_label, torch.tensor([k])) for k in range(4)]
    for one, other in itertools.combinations(outputs, 2):
        assert not torch.allclose(one, other)


def test_without_a_label_the_row_for_no_class_is_taken():
    net, (x, noise_label) = randomised(unet(num_classes=3)), inputs()
    assert torch.equal(net(x, noise_label), net(x, noise_label, torch.full((4,), 3)))


def test_an_unconditional_network_does_not_look_at_the_label():
    net, (x, noise_label) = randomised(unet()), inputs()
    assert torch.equal(net(x, noise_label), net(x, noise_label, torch.arange(4)))


def test_the_noise_level_changes_the_output():
    net, (x, noise_label) = randomised(unet()), inputs()
    assert not torch.allclose(net(x, noise_label), net(x, noise_label + 0.1))


def test_dropout_acts_in_training_only():
    net, (x, noise_label) = randomised(unet(dropout=0.5)), inputs()
    assert torch.equal(net(x, noise_label), net(x, noise_label))
    with torch.random.fork_rng():
        assert not torch.allclose(net.train()(x, noise_label), net(x, noise_label))


@LEVELS
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_attention_is_in_the_middle_and_in_every_block_of_its_levels(
    multipliers, attention_stages, num_blocks
):
    net = unet(multipliers=multipliers, attention_stages=attention_stages, num_blocks=num_blocks)
    count = sum(isinstance(module, Attention) for module in net.modules())
    assert count == 1 + (2 * num_blocks + 1) * len(attention_stages)  # one block more on the way up


@pytest.mark.parametrize("group_size", [4, 16])
def test_every_norm_has_groups_of_the_given_size_or_is_one_of_all_channels(group_size):
    network = UNet((1, 8, 8), base_channels=8, multipliers=(1, 4), group_size=group_size)
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert {n.num_channels for n in norms} == {8, 16, 32, 64}
    assert all(n.num_channels // n.num_groups == min(group_size, n.num_channels) for n in norms)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("size", [(4, 4), (3, 5)], ids=str)
def test_attention_is_softmax_of_the_scaled_products_times_the_values(num_heads, size, generator):
    attention = randomised(Attention(8, num_heads))
    x = torch.randn(2, 8, *size, dtype=D, generator=generator)
    query, key, value = (
        attention.qkv(attention.norm(x)).flatten(2).reshape(2, 3, num_heads, -1, math.prod(size)).unbind(1)
    )
    weight = (torch.einsum("bhcq,bhck->bhqk", query, key) / math.sqrt(8 / num_heads)).softmax(-1)
    mixed = torch.einsum("bhqk,bhck->bhcq", weight, value).reshape(x.shape)
    torch.testing.assert_close(attention(x), (x + attention.out(mixed)) * math.sqrt(0.5))


def test_attention_commutes_with_any_permutation_of_the_pixels(generator):
    attention = randomised(Attention(8, 2))
    x = torch.randn(2, 8, 3, 4, dtype=D, generator=generator)
    order = torch.randperm(12, generator=generator)
    shuffle = lambda v: v.flatten(2)[:, :, order].reshape(x.shape)  # noqa: E731
    torch.testing.assert_close(attention(shuffle(x)), shuffle(attention(x)))


@pytest.mark.parametrize(
    ("shape", "multipliers", "divisor"),
    [
        ((1, 9, 8), (1, 2), 2),
        ((1, 8, 9), (1, 2), 2),
        ((3, 28, 28), (1, 1, 1, 1), 8),
        ((1, 6, 8), (1, 2, 2), 4),
    ],
)
def test_images_that_cannot_be_halved_raise_naming_size_and_divisor(shape, multipliers, divisor):
    message = rf"{shape[1]}x{shape[2]} cannot be halved .* divisible by {divisor}\b"
    with pytest.raises(ConfigurationError, match=message):
        unet(shape, multipliers=multipliers)


@pytest.mark.parametrize(("size", "most"), [((28, 28), 3), ((12, 8), 3), ((9, 9), 1), ((16, 24), 4)])
def test_the_number_of_multipliers_that_is_advised_works_and_one_more_does_not(size, most):
    with pytest.raises(ConfigurationError, match=f"1 to {most} multipliers"):
        unet((1, *size), multipliers=(1,) * (most + 1), attention_stages=())
    net = unet((1, *size), multipliers=(1,) * most, attention_stages=())
    x, noise_label = inputs((1, *size), dtype=torch.float32)
    assert net(x, noise_label).shape == x.shape


@pytest.mark.parametrize("shape", [(3, 8, 12), (2, 12, 4)], ids=str)
@pytest.mark.parametrize("options", [{}, {"learned_variance": True}, {"num_classes": 3}], ids=str)
def test_in_patches_the_network_is_that_of_images_of_patches(shape, options):
    whole = randomised(unet(shape, patch_size=2, **options))
    x, noise_label = inputs(shape)
    squares = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    inner = randomised(unet(tuple(squares.shape[1:]), **options))
    inner.load_state_dict(whole.state_dict())
    out = inner(squares, noise_label).unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)
    torch.testing.assert_close(whole(x, noise_label), out.flatten(4, 5).flatten(2, 3))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 9, 8), {"patch_size": 2}, r"patch_size=2: must divide height and width, 9 and 8"),
        ((1, 8, 8), {"patch_size": 0}, r"patch_size=0"),
        (
            (1, 28, 28),
            {"patch_size": 2, "multipliers": (1, 1, 1)},
            r"divisible by 8. Give 1 to 2 multipliers",
        ),
    ],
    ids=str,
)
def test_patches_that_do_not_fit_raise(shape, options, message):
    with pytest.raises(ConfigurationError, match=message):
        unet(shape, **options)


@pytest.mark.parametrize("shape", [(2,), (8, 8), (1, 1, 8, 8)])
def test_shapes_that_are_not_images_raise(shape):
    with pytest.raises(ConfigurationError, match="channels, height, width"):
        unet(shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_stages": (2,)}, "has stages 0 to 1"),
        ({"attention_stages": (-1,)}, "has stages 0 to 1"),
        ({"num_heads": 3}, "num_heads=3"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"group_size": 0}, "group_size=0"),
        ({"num_blocks": 0, "multipliers": (2,), "attention_stages": ()}, "num_blocks=0"),
        ({"multipliers": ()}, r"multipliers=\[\]: one or more"),
        ({"multipliers": (1, -1)}, r"multipliers=\[1, -1\]: .*at least 1"),
        ({"num_classes": -1}, "UNet: num_classes=-1: at least 1"),
        ({"num_classes": 10**9}, "UNet: num_classes=1000000000: at least 1 and at most 1,000,000"),
    ],
    ids=str,
)
def test_impossible_settings_raise(options, message):
    with pytest.raises(ConfigurationError, match=message):
        unet(**options)
