"""A denoiser whose prediction comes from a network."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.conditions import class_rows, drop_conditions
from scorelight.denoisers.base import Denoiser, Prediction
from scorelight.networks.base import ScoreNetwork, per_example
from scorelight.parameterizations import Parameterization
from scorelight.processes.base import AnyLevel, ForwardProcess

__all__ = ["NetworkDenoiser"]


class NetworkDenoiser(Denoiser):
    """A network that is given (c_in x_t, noise label) and outputs what the parameterization states.

    c_in and the noise label are `Parameterization.input_scale` and `Parameterization.noise_label`.

    Args:
        network: Called as ``network(x, noise_label, **cond)``, noise_label of shape (B,). Its output has x's
            shape, or twice the size along dimension 1, where the second half is the v of
            `Prediction.variance_fraction`.
        process: The forward process.
        parameterization: What the network outputs.

    Raises:
        ConfigurationError: If the parameterization is not defined for the process.
    """

    def __init__(
        self, network: ScoreNetwork, process: ForwardProcess, parameterization: Parameterization
    ) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.num_classes = getattr(network, "num_classes", None)
        self.parameterization = parameterization
        for level in process.end_levels():
            parameterization.coefficients(level)

    def predict(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """One evaluation of the network, in the network's type; the result has x_t's type.

        Raises:
            ConfigurationError: If a label is no class of the network.
        """
        cond = self._with_rows(cond, x_t)
        dtype = next(self.network.parameters(), x_t).dtype
        label = per_example(self.parameterization.noise_label(level), x_t).to(dtype)
        scaled = x_t * self.parameterization.input_scale(level)
        output: Tensor = self.network(scaled.to(dtype), label, **cond).to(x_t.dtype)
        if output.shape[1] == x_t.shape[1]:
            return Prediction(x_t, level, output, self.parameterization)
        output, v = output.chunk(2, dim=1)
        return Prediction(x_t, level, output, self.parameterization, (v + 1) / 2)

    def unconditional(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> Prediction:
        """Predict with every condition replaced by "none"; see `drop_conditions`."""
        drop = torch.ones(len(x_t), dtype=torch.bool, device=x_t.device)
        return self.predict(x_t, level, **drop_conditions(cond, drop))

    @override
    def predict_both(self, x_t: Tensor, level: AnyLevel, **cond: Any) -> tuple[Prediction, Prediction]:
        """Both predictions, by one evaluation of twice the batch."""
        size = len(x_t)
        drop = torch.arange(2 * size, device=x_t.device) >= size
        twice = {name: _twice(_one_for_each(value, x_t), size) for name, value in cond.items()}
        levels = level.map(functools.partial(_twice, size=size))
        both = self.predict(torch.cat([x_t, x_t]), levels, **drop_conditions(twice, drop))
        fractions = both.variance_fraction
        conditional, unconditional = (
            Prediction(x_t, level, output, self.parameterization, fraction)
            for output, fraction in zip(
                both.output.chunk(2), (None, None) if fractions is None else fractions.chunk(2), strict=True
            )
        )
        return conditional, unconditional

    def _with_rows(self, cond: dict[str, Any], x_t: Tensor) -> dict[str, Any]:
        """The conditions, with the label as the network expects it."""
        if cond.get("label") is None or not self.num_classes:
            return cond
        return cond | {"label": class_rows(cond["label"], self.num_classes, x_t)}


def _one_for_each(value: Any, x_t: Tensor) -> Any:
    """A condition that is one for all examples, as one for each."""
    if value is None:
        return None
    value = torch.as_tensor(value, device=x_t.device)
    return value.expand(len(x_t)) if value.ndim == 0 else value


def _twice(value: Any, size: int) -> Any:
    """What has a row for each of `size` examples, one after the other twice; anything else as it is."""
    per_example = isinstance(value, Tensor) and value.ndim > 0 and len(value) == size
    return torch.cat([value, value]) if per_example else value
