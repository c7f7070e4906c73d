import itertools

import pytest
import torch
from torch import nn

from scorelight import MLP, ScoreNetwork
from scorelight.networks.embeddings import ConditionEmbedding, LevelEmbedding

SHAPES = pytest.mark.parametrize("shape", [(1,), (2,), (3, 5), (1, 4, 6)], ids=str)
CLASSES = pytest.mark.parametrize("num_classes", [None, 3])


def randomised(net):
    # zero-initialised layers hide what is behind them
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in net.parameters():
            nn.init.normal_(p, std=0.2)
    return net.double().eval()


def inputs(shape, n=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=generator, dtype=dtype)
    return x, torch.linspace(-5, 3, n, dtype=dtype)


@SHAPES
@CLASSES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_is_like_the_input(shape, num_classes, dtype):
    x, noise_label = inputs(shape, dtype=dtype)
    out = MLP(shape, width=8, depth=2, num_classes=num_classes).to(dtype)(x, noise_label)
    assert (out.shape, out.dtype) == (x.shape, dtype)


@SHAPES
def test_the_output_starts_at_exactly_zero(shape):
    assert (MLP(shape, width=8)(*inputs(shape, dtype=torch.float32)) == 0).all()


@SHAPES
@CLASSES
def test_every_row_of_every_parameter_gets_a_gradient(shape, num_classes):
    net = randomised(MLP(shape, width=8, depth=2, num_classes=num_classes))
    net(*inputs(shape), label=torch.tensor([0, 1, 2, 3 if num_classes else 0])).square().sum().backward()
    for name, p in net.named_parameters():
        rows = p.grad.flatten(1) if p.ndim > 1 else p.grad[None]
        assert (rows.abs().sum(1) > 0).all(), name


def test_depth_is_the_number_of_residual_layers():
    sizes = [sum(p.numel() for p in MLP((2,), width=8, depth=d).parameters()) for d in range(4)]
    assert {b - a for a, b in itertools.pairwise(sizes)} == {3 * (8 * 8 + 8)}


@CLASSES
def test_permuting_the_batch_permutes_the_output(num_classes):
    net, label = randomised(MLP((3,), width=8, num_classes=num_classes)), torch.tensor([2, 0, 1, 1])
    x, noise_label = inputs((3,))
    order = torch.tensor([2, 0, 3, 1])
    out = net(x, noise_label, label)
    torch.testing.assert_close(net(x[order], noise_label[order], label[order]), out[order])


def test_the_class_changes_the_output():
    net, (x, noise_label) = randomised(MLP((3,), width=8, num_classes=3)), inputs((3,), n=1)
    outputs = [net(x, noise_label, torch.tensor([k])) for k in range(4)]
    for one, other in itertools.combinations(outputs, 2):
        assert not torch.allclose(one, other)


def test_without_a_label_the_row_for_no_class_is_taken():
    net, (x, noise_label) = randomised(MLP((3,), width=8, num_classes=3)), inputs((3,))
    assert torch.equal(net(x, noise_label), net(x, noise_label, torch.full((4,), 3)))


def test_an_unconditional_network_does_not_look_at_the_label():
    net, (x, noise_label) = randomised(MLP((3,), width=8)), inputs((3,))
    assert torch.equal(net(x, noise_label), net(x, noise_label, torch.arange(4)))


def test_the_noise_level_changes_the_output():
    net, (x, noise_label) = randomised(MLP((3,), width=8)), inputs((3,))
    assert not torch.allclose(net(x, noise_label), net(x, noise_label + 0.1))


def test_the_output_follows_the_formula_of_the_docstring():
    net, (x, noise_label) = randomised(MLP((3,), width=8, depth=1)), inputs((3,))
    silu, layer = nn.functional.silu, net.layers[0]
    hidden = net.first(x)
    inner = layer.inner(silu(hidden)) + layer.condition(net.embed(noise_label, None))
    torch.testing.assert_close(net(x, noise_label), net.last(silu(hidden + layer.outer(silu(inner)))))


def features(noise_label, dim=64):
    embedding = LevelEmbedding(dim)
    embedding.mlp = nn.Identity()
    return embedding(noise_label)


def test_the_embedding_tells_noise_labels_apart_that_differ_by_a_tenth():
    # over the range of all schedules; far labels are never mistaken for near ones. Per unit of label the
    # features move by sqrt(mean of the squared frequencies), at least 2: by 0.2 of their unit norm for 0.1
    label = torch.arange(-90, 61, dtype=torch.float64) / 10
    z = features(label) / features(label[:1]).norm()
    distance = torch.cdist(z, z) + torch.eye(len(z)) * 10
    assert distance.min() > 0.2
    torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z), dtype=torch.float64))


def test_the_embedding_tells_them_apart_in_single_precision_too():
    label = torch.arange(-90, 61) / 10
    torch.testing.assert_close(features(label), features(label.double()).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 7, 64])
@CLASSES
def test_the_embedding_has_one_vector_per_example(dim, num_classes):
    assert ConditionEmbedding(dim, num_classes)(torch.zeros(5), None).shape == (5, dim)


def test_a_network_without_forward_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        ScoreNetwork((2,))
