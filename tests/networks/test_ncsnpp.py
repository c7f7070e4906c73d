import itertools
import math

import pytest
import torch
from support.marks import slow_but
from torch import nn

from scorelight import ConfigurationError, DDPMUNet, NCSNpp
from scorelight.networks.embeddings import FourierEmbedding, PositionalEmbedding
from scorelight.networks.layers import Attention

D = torch.float64
DDPMPP = dict(fir=None, fourier_scale=None, progressive_input="none")
NCSNPP_256 = dict(
    multipliers=(1, 1, 2, 2, 2, 2, 2),
    num_blocks=2,
    attention_stages=(4,),
    dropout=0.0,
    progressive_input="input_skip",
    progressive_output=True,
)
VARIANTS = {
    "ddpm": (DDPMUNet, {}),
    "ddpm++": (NCSNpp, DDPMPP),
    "ncsn++": (NCSNpp, {}),
    "ncsn++ means": (NCSNpp, {"fir": None}),
    "ncsn++ skips": (NCSNpp, {"progressive_input": "input_skip", "progressive_output": True}),
    "ddpm++ skips": (NCSNpp, DDPMPP | {"progressive_input": "input_skip", "progressive_output": True}),
}
EACH = pytest.mark.parametrize("variant", VARIANTS)


def make(variant, shape=(3, 8, 12), **options):
    cls, own = VARIANTS[variant]
    small = {"base_channels": 8, "multipliers": (1, 2), "num_blocks": 1, "dropout": 0.0}
    return cls(shape, **(small | own | options))


def randomised(net, seed=0):
    # zero-initialised layers hide what is behind them
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for p in net.parameters():
            nn.init.normal_(p, std=0.1)
    return net.double().eval()


def inputs(shape=(3, 8, 12), n=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, *shape, generator=generator, dtype=D), torch.linspace(-5, 3, n, dtype=D)


# The published sizes: Ho et al.'s checkpoint, and those of score_sde_pytorch's networks


@pytest.mark.parametrize(
    ("cls", "size", "options", "parameters"),
    [
        (DDPMUNet, 32, {}, 35_746_307),
        (NCSNpp, 32, DDPMPP, 61_804_419),
        (NCSNpp, 32, {}, 62_758_787),
        (NCSNpp, 32, {"fourier_scale": None}, 62_693_251),
        (NCSNpp, 256, NCSNPP_256, 65_574_421),
    ],
)
def test_the_networks_of_the_papers_have_as_many_parameters_as_published(cls, size, options, parameters):
    with torch.device("meta"):
        net = cls((3, size, size), **options)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(
    ("cls", "options", "tensors"), [(DDPMUNet, {}, 328), (NCSNpp, DDPMPP, 564), (NCSNpp, {}, 570)]
)
def test_the_networks_of_the_papers_have_as_many_tensors_but_for_query_key_and_value(cls, options, tensors):
    with torch.device("meta"):
        net = cls((3, 32, 32), **options)
    attentions = sum(isinstance(m, Attention) for m in net.modules())
    assert len(list(net.parameters())) + 4 * attentions == tensors


@pytest.mark.parametrize("options", [DDPMPP, {}], ids=["ddpm++", "ncsn++"])
def test_deep_variants_add_four_blocks_to_each_way_of_every_level(options):
    with torch.device("meta"):
        nets = [NCSNpp((3, 32, 32), num_blocks=n, **options) for n in (4, 5, 8)]
    sizes = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert sizes[2] - sizes[0] == 4 * (sizes[1] - sizes[0])


# diffusers as an oracle


def copy_residual(block, theirs):
    pairs = [(block.norm1, theirs.norm1), (block.conv1, theirs.conv1), (block.norm2, theirs.norm2)]
    pairs += [(block.condition, theirs.time_emb_proj), (block.conv2, theirs.conv2)]
    if isinstance(block.shortcut, nn.Conv2d):
        pairs.append((block.shortcut, theirs.conv_shortcut))
    for ours, other in pairs:
        other.load_state_dict(ours.state_dict())


def copy_attention(attention, theirs):
    theirs.group_norm.load_state_dict(attention.norm.state_dict())
    weights, biases = attention.qkv.weight.flatten(1).chunk(3), attention.qkv.bias.chunk(3)
    layers = (theirs.to_q, theirs.to_k, theirs.to_v)
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    out = attention.out
    theirs.to_out[0].load_state_dict({"weight": out.weight.flatten(1), "bias": out.bias})


def copy_blocks(blocks, theirs):
    for block, resnet in zip(blocks, theirs.resnets, strict=True):
        copy_residual(block, resnet)
    attentions = [block.attention for block in blocks if isinstance(block.attention, Attention)]
    for attention, other in zip(attentions, getattr(theirs, "attentions", None) or (), strict=True):
        copy_attention(attention, other)


def copy_ends(net, theirs):
    theirs.conv_in.load_state_dict(net.first.state_dict())
    theirs.time_embedding.linear_1.load_state_dict(net.embed.level.mlp[0].state_dict())
    theirs.time_embedding.linear_2.load_state_dict(net.embed.level.mlp[2].state_dict())
    copy_blocks(net.middle, theirs.mid_block)
    theirs.conv_norm_out.load_state_dict(net.up[-1].head[0].state_dict())
    theirs.conv_out.load_state_dict(net.up[-1].head[2].state_dict())


def test_ddpm_is_the_network_of_google_ddpm_cifar10_32():
    from diffusers import UNet2DModel

    net = randomised(DDPMUNet((3, 16, 16), base_channels=32, multipliers=(1, 2, 2), num_blocks=2))
    theirs = UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_num_groups=8,  # theirs in all layers; ours are 8 for 32 channels, 16 for 64
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    ).double()
    for norm in (m for m in net.modules() if isinstance(m, nn.GroupNorm)):
        norm.num_groups = 8
    copy_ends(net, theirs)
    for level, other in zip(net.down, theirs.down_blocks, strict=True):
        copy_blocks(level.blocks, other)
        if level.downsample is not None:
            other.downsamplers[0].conv.load_state_dict(level.downsample.layer.state_dict())
    for level, other in zip(net.up, theirs.up_blocks, strict=True):
        copy_blocks(level.blocks, other)
        if level.upsample is not None:
            other.upsamplers[0].conv.load_state_dict(level.upsample.layer.state_dict())
    x, _ = inputs((3, 16, 16))
    steps = torch.tensor([0.0, 1.0, 500.0, 999.0], dtype=D)
    expected = theirs(x, steps).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(net(x, steps / 50 - 14), expected, rtol=1e-5, atol=1e-5)


def test_ncsnpp_with_skips_is_the_network_of_google_ncsnpp_celebahq_256():
    from diffusers import UNet2DModel

    net = randomised(
        NCSNpp((3, 8, 8), 128, (1, 1), 1, (1,), progressive_input="input_skip", progressive_output=True)
    )
    theirs = UNet2DModel(
        sample_size=8,
        block_out_channels=(128, 128),
        layers_per_block=1,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        time_embedding_type="fourier",
        attention_head_dim=None,
        norm_num_groups=None,
        norm_eps=1e-6,
        mid_block_scale_factor=math.sqrt(2),
    ).double()
    copy_ends(net, theirs)
    theirs.time_proj.weight.data = net.embed.level.frequencies.clone()
    down, up = net.down[0], net.up[0]
    for level, other in zip(net.down, theirs.down_blocks, strict=True):
        copy_blocks(level.blocks, other)
    copy_residual(down.downsample, theirs.down_blocks[0].resnet_down)
    theirs.down_blocks[0].skip_conv.load_state_dict(down.merge_input.conv.state_dict())
    for level, other in zip(net.up, theirs.up_blocks, strict=True):
        copy_blocks(level.blocks, other)
    copy_residual(up.upsample, theirs.up_blocks[0].resnet_up)
    theirs.up_blocks[0].skip_norm.load_state_dict(up.head[0].state_dict())
    theirs.up_blocks[0].skip_conv.load_state_dict(up.head[2].state_dict())
    x, noise_label = inputs((3, 8, 8))
    sigma = noise_label.exp()
    expected = theirs(x, sigma).sample * sigma[:, None, None, None]  # theirs divides by σ
    assert expected.std() > 0.1
    torch.testing.assert_close(net(x, noise_label), expected, rtol=1e-4, atol=1e-4)


# What any network must do


@EACH
@pytest.mark.parametrize("shape", [(3, 8, 12), (1, 12, 4)], ids=str)
def test_the_output_is_like_the_input(variant, shape):
    net = make(variant, shape)
    x, noise_label = (v.float() for v in inputs(shape))
    assert net(x, noise_label).shape == x.shape
    assert (net(x, noise_label) == 0).all()  # the last convolution starts at zero
    twice = make(variant, shape, learned_variance=True)(x, noise_label)
    assert twice.shape == (4, 2 * shape[0], *shape[1:])


@pytest.mark.one_in(4)
@EACH
@pytest.mark.parametrize("levels", [((1,), (0,)), ((1, 2), (1,)), ((1, 2, 2), (0, 2))], ids=str)
def test_every_parameter_gets_a_gradient_and_a_step_lowers_the_loss(variant, levels):
    multipliers, attention_stages = levels
    net = randomised(make(variant, multipliers=multipliers, attention_stages=attention_stages, num_classes=3))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = net(*inputs(), label=torch.arange(4)).square().mean()
        loss.backward()
        losses.append(loss.item())
        for name, p in net.named_parameters():
            assert p.grad.abs().sum() > 0, name
        optimizer.step()
    assert losses[1] < losses[0]


@EACH
def test_the_output_depends_on_noise_level_and_class_and_no_label_is_the_last_class(variant):
    net, (x, noise_label) = randomised(make(variant, num_classes=3)), inputs(n=1)
    outputs = [net(x, noise_label, torch.tensor([k])) for k in range(4)]
    outputs.append(net(x, noise_label + 0.1, torch.tensor([3])))
    for one, other in itertools.combinations(outputs, 2):
        assert not torch.allclose(one, other)
    assert torch.equal(net(x, noise_label), outputs[3])


@pytest.mark.parametrize("variant", slow_but(VARIANTS, "ncsn++ skips"))
@pytest.mark.slow
def test_the_network_is_compiled_as_one_graph(variant):
    net, (x, noise_label) = randomised(make(variant)), inputs()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, noise_label), net(x, noise_label))


@EACH
def test_dropout_acts_in_training_only(variant):
    net, (x, noise_label) = randomised(make(variant, dropout=0.5)), inputs()
    assert torch.equal(net(x, noise_label), net(x, noise_label))
    with torch.random.fork_rng():
        assert not torch.allclose(net.train()(x, noise_label), net(x, noise_label))


@pytest.mark.parametrize(("variant", "on_the_way_up"), [("ddpm", 3), ("ncsn++", 1)])
def test_attention_is_behind_every_block_down_and_for_song_once_up(variant, on_the_way_up):
    net = make(variant, num_blocks=2)
    count = [sum(isinstance(m, Attention) for m in part.modules()) for part in (net.down, net.middle, net.up)]
    assert count == [2, 1, on_the_way_up]


@pytest.mark.parametrize("make_embedding", [PositionalEmbedding, FourierEmbedding])
def test_embeddings_tell_close_levels_apart_over_the_whole_range(make_embedding):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        embedding = make_embedding(64, 128)
    embedding.mlp = nn.Identity()
    labels = torch.linspace(-14, 6, 2001)  # 0.01 apart
    embedded = embedding(labels)
    assert embedded.abs().max() <= 1
    distances = torch.cdist(embedded, embedded) + 10 * torch.eye(2001)
    assert distances.min() > 0.1


def test_the_fourier_frequencies_are_in_the_checkpoint_and_not_trained():
    net = make("ncsn++")
    assert "embed.level.frequencies" in net.state_dict()
    assert "embed.level.frequencies" not in dict(net.named_parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": (1, 1, 1, 1)}, "NCSNpp: images of 8x12 cannot be halved 3 times"),
        ({"attention_stages": (2,)}, "NCSNpp: attention_stages"),
        ({"num_blocks": 0}, "NCSNpp: num_blocks=0"),
        ({"progressive_input": "residul"}, "progressive_input='residul': residual, input_skip, none"),
        ({"fir": (1, 2, 1)}, "fir="),
    ],
    ids=str,
)
def test_impossible_settings_raise(options, message):
    with pytest.raises(ConfigurationError, match=message):
        make("ncsn++", **options)


def test_shapes_that_are_not_images_raise():
    with pytest.raises(ConfigurationError, match=r"DDPMUNet: shape .* height, width"):
        DDPMUNet((2,))
