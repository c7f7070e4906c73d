"""The space in which samples are compared: a vector of features φ(x) per example.

A distance of samples is a distance of the distributions of φ(x). Two numbers can be compared only if φ is
exactly the same, which `FeatureExtractor.key` identifies.

The examples have their stored type: uint8 from 0 to 255 for images (`scorelight.images.to_uint8` converts
from [−1, 1]), floats for vectors.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scorelight.errors import ConfigurationError
from scorelight.metrics.statistics import check_finite
from scorelight.storage.component import Component, class_path
from scorelight.storage.identity import code_of, describe, weights_digest

__all__ = ["FeatureExtractor", "Features", "finite_features", "images_of"]


class Features(NamedTuple):
    """The features of N examples."""

    values: Tensor
    """The features, shape (N, D), float32."""
    logits: Tensor | None = None
    """Unnormalised log-probabilities of K classes, shape (N, K), float32, from extractors that classify."""


class FeatureExtractor(Component, nn.Module, ABC):
    """Features of examples, always in float32 and in evaluation mode, whatever the precision around it."""

    def forward(self, x: Tensor) -> Features:
        """Features of stored examples: uint8 images (N, C, H, W) or float vectors (N, D), on any device."""
        with torch.inference_mode(False):
            self.to(x.device, torch.float32).eval()
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False), _exact_float32():
            values, logits = self.extract(x)
        return Features(values.float(), None if logits is None else logits.float())

    @abstractmethod
    def extract(self, x: Tensor) -> Features:
        """Features of stored examples; `forward` sets device, precision, mode and gradients."""

    @property
    def key(self) -> str:
        """Identifies the features by class, code, weights and settings: ``scorelight.PixelFeatures-0123ab``.

        It depends on the weights, but not on the file that they were read from.
        """
        code = "".join(sorted({code_of(type(module)) for module in self.modules()}))
        return f"{class_path(type(self))}-{weights_digest(self, self.settings() + code)}"

    def settings(self) -> str:
        """Constructor arguments in the key, with defaults; not files and modules, whose weights are in it."""
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        settings = {k: v for k, v in (defaults | self._init_args).items() if k not in ("weights", "module")}
        return json.dumps(settings, sort_keys=True, default=describe)


def finite_features(extractor: FeatureExtractor, x: Tensor, of: str) -> Features:
    """The features of stored examples.

    Args:
        extractor: Computes them.
        x: The examples.
        of: What they are, for the message.

    Raises:
        ConfigurationError: If a feature or a logit is NaN or infinite.
    """
    features: Features = extractor(x)
    name = f"{type(extractor).__name__} of {of}"
    check_finite(features.values, name)
    if features.logits is not None:
        check_finite(features.logits, f"logits, {name},")
    return features


def images_of(x: Tensor, owner: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """The images, after a check.

    Raises:
        ConfigurationError: If x is not uint8 of shape (N, C, H, W), or not of the (C, H, W) asked for.
    """
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise ConfigurationError(
            f"{owner} expects uint8 images of shape (N, C, H, W), 0 to 255, not {x.dtype} of shape "
            f"{tuple(x.shape)}; for vectors use PixelFeatures or ModuleFeatures"
        )
    if shape and tuple(x.shape[1:]) != shape:
        wanted, given = ("x".join(map(str, s)) for s in (shape, x.shape[1:]))
        raise ConfigurationError(
            f"{owner} expects images of {wanted} (channels, height, width), and these are {given}: use "
            "InceptionFeatures, which takes any size, or PixelFeatures"
        )
    return x


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """No TF32 or bf16 inside float32 products and convolutions, whatever the global settings."""
    b: Any = torch.backends
    new = hasattr(b.cuda.matmul, "fp32_precision")  # torch 2.9, which refuses a mixture of both
    name, exact = ("fp32_precision", "ieee") if new else ("allow_tf32", False)
    switches = (
        [b.cuda.matmul, b.cudnn.conv, b.mkldnn.matmul, b.mkldnn.conv] if new else [b.cuda.matmul, b.cudnn]
    )
    before = [getattr(switch, name) for switch in switches]
    try:
        for switch in switches:
            setattr(switch, name, exact)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)
