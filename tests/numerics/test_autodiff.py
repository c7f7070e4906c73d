import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from scorelight.numerics.autodiff import input_gradients, quadratic_forms, unit_vectors

D = torch.float64
MODES = {"enabled": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
every_mode = pytest.mark.parametrize("mode", MODES)


def cubes(x):
    # gradient 3 x^2
    return (x**3).sum()


@every_mode
def test_outputs_can_be_differentiated_in_every_mode(mode):
    x = torch.arange(4, dtype=D)
    with MODES[mode]():
        with input_gradients(x) as ((inside,), training):
            (gradient,) = torch.autograd.grad(cubes(inside), inside, create_graph=training)
        assert training == gradient.requires_grad == (mode == "enabled")
        assert torch.is_grad_enabled() == (mode == "enabled")
        assert torch.is_inference_mode_enabled() == (mode == "inference_mode")
    torch.testing.assert_close(gradient.detach(), 3 * x**2)


@every_mode
def test_what_was_made_under_inference_mode_can_take_part(mode):
    with torch.inference_mode():
        x, scale, label = torch.ones(3, dtype=D), torch.full((3,), 2.0, dtype=D), torch.arange(3)
    embedding = torch.nn.Embedding(3, 1, dtype=D)
    with MODES[mode](), input_gradients(x, scale, label) as ((inside, scale, label), _):
        value = (cubes(inside) * scale * embedding(label)[:, 0]).sum()
        (gradient,) = torch.autograd.grad(value, inside)
    expected = 3 * (2 * embedding.weight[:, 0]).sum().expand(3)
    torch.testing.assert_close(gradient, expected.detach())


@every_mode
def test_the_derivative_can_be_differentiated_in_the_weights_in_training(mode):
    x, weight = torch.arange(3, dtype=D), torch.tensor(2.0, dtype=D, requires_grad=True)
    with MODES[mode](), input_gradients(x) as ((inside,), training):
        (gradient,) = torch.autograd.grad(weight * cubes(inside), inside, create_graph=training)
    if mode == "enabled":
        gradient.sum().backward()
        assert weight.grad == 15.0  # 3 (0 + 1 + 4)
    else:
        assert not gradient.requires_grad


def test_the_given_tensor_is_left_as_it_was():
    x = torch.ones(3)
    with input_gradients(x) as ((inside,), _):
        cubes(inside).backward()
    assert not x.requires_grad and x.grad is None and inside is not x


def test_a_tensor_within_a_graph_stays_in_it():
    # as when the score of an energy is differentiated once more
    leaf = torch.arange(3, dtype=D, requires_grad=True)
    with input_gradients(2 * leaf) as ((inside,), training):
        (gradient,) = torch.autograd.grad(cubes(inside), inside, create_graph=training)
    (second,) = torch.autograd.grad(gradient.sum(), leaf)
    torch.testing.assert_close(second, 2 * 6 * 2 * leaf.detach())


@pytest.mark.parametrize("value", [None, 3, "text", {"a": 1}])
def test_whatever_is_no_tensor_is_passed_through(value):
    with input_gradients(torch.ones(2), value) as ((_, inside), _):
        assert inside is value


def test_attention_can_be_differentiated_twice(generator):
    x = torch.randn(2, 1, 5, 4, dtype=D, generator=generator)

    def second(x):
        with input_gradients(x) as ((inside,), _):
            value = scaled_dot_product_attention(inside, inside, inside).pow(3).sum()
            (gradient,) = torch.autograd.grad(value, inside, create_graph=True)
        return gradient

    assert torch.autograd.gradcheck(second, x.requires_grad_())


def test_an_error_leaves_the_modes_as_they_were():
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="mine"), input_gradients(torch.ones(2)):
            raise RuntimeError("mine")
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("num", [1, 5])
def test_quadratic_forms_are_those_of_the_jacobian_of_each_example(num):
    x = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=D, requires_grad=True)
    f = lambda x: torch.sin(x.flatten(1).cumsum(1)).reshape(x.shape)  # noqa: E731
    v = torch.randn(num, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=D)
    found = quadratic_forms(f(x), x, v)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(f, x[i : i + 1]).reshape(4, 4)
        expected = torch.einsum("na,ab,nb->n", v[:, i].flatten(1), jacobian, v[:, i].flatten(1))
        torch.testing.assert_close(found[:, i], expected)


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_unit_vectors_are_the_axes_in_chunks(chunk_size):
    like = torch.zeros(2, 1, 2, 3)
    chunks = list(unit_vectors(like, chunk_size))
    assert max(map(len, chunks)) == min(chunk_size, 6)
    axes = torch.cat(chunks)
    assert axes.shape == (6, 2, 1, 2, 3)
    for example in (0, 1):
        assert torch.equal(axes[:, example].flatten(1), torch.eye(6))
