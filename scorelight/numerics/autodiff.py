"""Derivatives with respect to a network's input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["input_gradients", "outside_inference", "quadratic_forms", "unit_vectors"]


@contextmanager
def input_gradients(x: Tensor, *others: Any) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """A block in which outputs can be differentiated in x, in any mode of autograd around it.

    Yields (x, *others) to use in the block, x with a gradient, and whether gradients were enabled outside:
    only then must a derivative be differentiable itself. Under `torch.inference_mode` tensors are copied,
    since inference tensors have no gradients; attention runs in its plain form, the only one that can be
    differentiated twice.
    """
    training = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x = outside_inference(x)
        x = x if x.requires_grad else x.detach().requires_grad_()
        yield (x, *map(outside_inference, others)), training


def outside_inference(value: Any) -> Any:
    """The value, copied if it is a tensor made under `torch.inference_mode`, which has no gradients."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def quadratic_forms(y: Tensor, x: Tensor, v: Tensor, create_graph: bool = False) -> Tensor:
    """vᵀ (∂y/∂x) v of each example for v of shape (n, B, ...), shape (n, B); the graph of y is kept.

    Args:
        y: A function of x of x's shape, example by example.
        x: Shape (B, ...).
        v: Directions, of which all are in one backward pass.
        create_graph: Whether the result must be differentiable.
    """
    one = len(v) == 1
    (rows,) = torch.autograd.grad(
        y, x, v[0] if one else v, create_graph=create_graph, retain_graph=True, is_grads_batched=not one
    )
    return (v * rows).flatten(2).sum(2)


def unit_vectors(like: Tensor, chunk_size: int) -> Iterator[Tensor]:
    """The axes of the examples' space, `chunk_size` of them at a time, each shape (n, B, ...)."""
    size = like[0].numel()
    for axes in torch.split(torch.eye(size, dtype=like.dtype, device=like.device), chunk_size):
        yield axes.reshape(-1, 1, *like.shape[1:]).expand(-1, len(like), *like.shape[1:])
