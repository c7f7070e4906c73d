"""The output of any network as features."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.metrics.features.base import FeatureExtractor, Features, images_of
from scorelight.storage.identity import describe

__all__ = ["ModuleFeatures"]


class ModuleFeatures(FeatureExtractor):
    """The output of any network, named in YAML by its full class path.

    The input is (x/255 − mean)/std for images, which is in [0, 1] by default, and x for vectors.

    Args:
        module: The network, or a class or ``functools.partial`` of one that is called without arguments. Its
            output has shape (N, D) or (N, D, 1, 1).
        weights: File of its state_dict, written by `torch.save` (default: the module's current weights).
        mean: Number to subtract, one or one per channel.
        std: Number to divide by, one or one per channel.

    Raises:
        ConfigurationError: If the weights do not belong to the module.
    """

    def __init__(
        self,
        module: Callable[[], nn.Module] | nn.Module,
        weights: str | Path | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        self.module = module if isinstance(module, nn.Module) else module()
        self.mean, self.std = tuple(mean), tuple(std)
        if weights is not None:
            _load(self.module, Path(weights))

    def settings(self) -> str:
        """With the layers of the module and their attributes: a stride does not show in the weights."""
        attributes = [describe(_attributes(module)) for module in self.module.modules()]
        return f"{super().settings()}{self.module}{json.dumps(attributes, sort_keys=True)}"

    @override
    def extract(self, x: Tensor) -> Features:
        output = self.module(x if x.is_floating_point() else self._scaled(x))
        if not isinstance(output, Tensor) or output.ndim < 2 or output.numel() != output.shape[:2].numel():
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigurationError(
                f"features.module={type(self.module).__name__}: its output is {shape}; (N, D) or "
                "(N, D, 1, 1) is needed: add pooling, or name a module that ends before the last layer"
            )
        return Features(output.flatten(1))

    def _scaled(self, x: Tensor) -> Tensor:
        mean, std = (x.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (self.mean, self.std))
        return (images_of(x, "ModuleFeatures").float() / 255 - mean) / std


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Its public attributes but for modules and weights."""
    return {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "training"}


def _load(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, AttributeError, TypeError, EOFError) as error:
        raise ConfigurationError(
            f"features.weights={path}: not the state_dict of {type(module).__name__}: {error}"
        ) from error
