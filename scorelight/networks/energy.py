"""Networks whose output is the gradient of a scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from scorelight.errors import ConfigurationError
from scorelight.networks.base import NumClasses, ScoreNetwork
from scorelight.networks.mlp import MLP
from scorelight.numerics.autodiff import input_gradients

__all__ = ["Energy"]


class Energy(ScoreNetwork):
    """Energy-based model: output −∇ₓE(x) of a scalar E, hence a gradient field, as a true score is.

    With the `Score` parameterization log p_t(x_t) = −E(c_in x_t)/c_in + const; the constant, the logarithm
    of the partition function, is never needed (Song & Ermon, 2019; Salimans & Ho, 2021). E is the output of
    the inner network if that is a scalar per example; for an output ψ like x, E = −⟨x, ψ(x)⟩ (Du et al.,
    2023, sec. 4).

    Args:
        shape: Shape of one example.
        network: The inner network, made from the shape.
        num_classes: Number of classes to condition on, if any, passed to the inner network (default: the
            inner network's).
    """

    def __init__(
        self,
        shape: Sequence[int],
        network: Callable[[Sequence[int]], ScoreNetwork] = MLP,
        num_classes: NumClasses = None,
    ) -> None:
        inner = network(shape, **({"num_classes": num_classes} if num_classes else {}))
        super().__init__(shape, inner.num_classes)
        self.network: nn.Module = inner

    def energy(self, x: Tensor, noise_label: Tensor, label: Tensor | None = None) -> Tensor:
        """E(x) of each example, shape (B,)."""
        output: Tensor = self.network(x, noise_label, label)
        if output.ndim == 1:
            return output
        if output.shape != x.shape:
            raise ConfigurationError(
                f"Energy: {type(self.network).__name__} outputs {tuple(output.shape)} for x of "
                f"{tuple(x.shape)}; a scalar per example, shape ({len(x)},), or an output like x is needed, "
                "without learned_variance"
            )
        return -(x * output).flatten(1).sum(1)

    def forward(self, x: Tensor, noise_label: Tensor, label: Tensor | None = None) -> Tensor:
        """−∇E, of x's shape; by automatic differentiation, also where gradients are switched off."""
        with input_gradients(x, noise_label, label) as (inputs, training):
            energy = self.energy(*inputs)
            gradient: Tensor = torch.autograd.grad(energy.sum(), inputs[0], create_graph=training)[0]
        return -gradient
