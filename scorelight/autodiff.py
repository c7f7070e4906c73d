"""Derivatives with respect to a network's input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["input_gradients"]


@contextmanager
def input_gradients(x: Tensor, *others: Any) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """A block in which outputs can be differentiated in x, whatever mode it is entered in.

    Yields (x, *others) to use in the block, x with a gradient, and whether gradients were switched on
    outside: only then must a derivative be differentiable itself. Under `torch.inference_mode` tensors are
    copied, since those made there cannot take part; attention runs in its plain form, the only one that
    can be differentiated twice.
    """
    training = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x = _outside_inference(x)
        x = x if x.requires_grad else x.detach().requires_grad_()
        yield (x, *map(_outside_inference, others)), training


def _outside_inference(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
