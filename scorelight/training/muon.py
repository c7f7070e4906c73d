"""An optimizer for short trainings: orthogonal steps for matrices and filters, Adam's for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam
from typing_extensions import override

from scorelight.errors import ConfigurationError

__all__ = ["MuonWithAdam", "orthogonalize"]

_QUINTIC = 3.4445, -4.7750, 2.0315
"""Jordan et al.'s coefficients: singular values from 0 to 1 are near 1, 0.7 to 1.2, after five steps."""


class MuonWithAdam(Optimizer):
    """Momentum made orthogonal (Jordan et al., 2024, "Muon"), in the step size of Adam.

    A weight of two or more dimensions, as of linear layers and convolutions, is a matrix W of m rows
    (outputs) and n columns (inputs, and the pixels of a filter). With its gradient G:

        M ← μ M + (1 − μ) G,   U = orthogonalize(μ M + (1 − μ) G),   W ← W − η 0.2 √max(m, n) U

    All singular values of U are about 1, so that its entries have the root mean square 1/√max(m, n): those of
    a step are about 0.2 η, as Adam's are (Liu et al., 2025, "Muon is scalable", eq. 4). Other parameters take
    Adam's steps (Kingma & Ba, 2015, algorithm 1) with the same η. Everything is in the type of the weights:
    PyTorch's own Muon, for matrices only, uses bfloat16, in which most CPUs are slow.

    A step for which the attribute `found_inf` is not 0 is left out, and the host does not wait to know: as
    PyTorch's fused optimizers, for gradient scalers.

    Args:
        params: Parameters, or groups of them.
        lr: Step size η, positive or 0.
        momentum: μ, 0 <= momentum < 1.
        betas: β₁ and β₂ of Adam.
        eps: ε of Adam.

    Raises:
        ConfigurationError: If an option is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not (0 <= lr < math.inf and eps > 0):
            raise ConfigurationError(f"MuonWithAdam: lr={lr}, eps={eps}: lr >= 0 and eps > 0 are needed")
        if not all(0 <= decay < 1 for decay in (momentum, *betas)):
            raise ConfigurationError(f"MuonWithAdam: momentum={momentum}, betas={betas}: from 0 to below 1")
        # "fused" has Adam's step counts on the device of the weights, also from a checkpoint
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "fused": True})
        self._step_supports_amp_scaling = True

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step; the loss of the closure, which computes the gradients, if there is one."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            for p, gradient in pairs:
                if p.ndim >= 2:
                    self._orthogonal_step(p, gradient, group)
            if vectors := [pair for pair in pairs if pair[0].ndim < 2]:
                self._adam_step([p for p, _ in vectors], [g for _, g in vectors], group)
        return loss

    def _orthogonal_step(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[p], group["momentum"]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        if (scale := getattr(self, "grad_scale", None)) is not None:
            gradient = gradient / scale
        taken = torch.ones((), dtype=p.dtype, device=p.device)
        if (found := getattr(self, "found_inf", None)) is not None:
            taken = (found == 0).to(p.dtype)
            gradient = gradient.where(taken > 0, 0)
        state["momentum"].lerp_(gradient, (1 - momentum) * taken)
        update = orthogonalize(gradient.lerp(state["momentum"], momentum).flatten(1))
        step = 0.2 * group["lr"] * math.sqrt(max(update.shape))
        p.sub_(update.reshape(p.shape) * (step * taken))

    def _adam_step(self, weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        for p in weights:
            if not self.state[p]:
                self.state[p].update(
                    step=torch.zeros((), device=p.device),
                    mean=torch.zeros_like(p),
                    square=torch.zeros_like(p),
                )
        means, squares, steps = (
            [self.state[p][name] for p in weights] for name in ("mean", "square", "step")
        )
        beta1, beta2 = group["betas"]
        options = {"lr": group["lr"], "eps": group["eps"], "beta1": beta1, "beta2": beta2}
        adam(
            weights, gradients, means, squares, [], steps,
            amsgrad=False, weight_decay=0.0, maximize=False, fused=True, **options,
            grad_scale=getattr(self, "grad_scale", None), found_inf=getattr(self, "found_inf", None),
        )  # fmt: skip


def orthogonalize(matrix: Tensor) -> Tensor:
    """Five Newton-Schulz steps X ← a X + (b S + c S²) X, S = XXᵀ, from X = G/‖G‖.

    Every singular value becomes about 1, and the singular vectors remain: for G = UΣVᵀ the result is about
    UVᵀ. A matrix of zeros remains.

    Args:
        matrix: G, shape (m, n).

    Returns:
        Shape (m, n).
    """
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-12)
    for _ in range(5):
        s = x @ x.T
        x = torch.addmm(x, torch.addmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
