"""A classifier whose probabilities come from a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from scorelight.classifiers.base import Classifier
from scorelight.networks.base import Encoder, per_example
from scorelight.processes.base import AnyLevel, ForwardProcess

__all__ = ["NetworkClassifier", "encode"]


class NetworkClassifier(Classifier):
    """p(c | x_t) = softmax_c(W φ(x_t, σ/α) + b), with the features φ of an encoder.

    x_t and the noise level reach the encoder in a form that is the same for every process; see `encode`. So
    a classifier serves models of every process whose levels σ/α it has seen in training.

    Args:
        encoder: φ.
        num_classes: C.
        process: The process that it was trained with.
    """

    def __init__(self, encoder: Encoder, num_classes: int, process: ForwardProcess) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.num_features, num_classes)
        self.num_classes = num_classes
        self.process = process

    @override
    def log_prob(self, x_t: Tensor, level: AnyLevel) -> Tensor:
        logits: Tensor = self.head(encode(self.encoder, x_t, level))
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return logits.to(dtype).log_softmax(1).to(x_t.dtype)


def encode(encoder: Encoder, x_t: Tensor, level: AnyLevel) -> Tensor:
    """The features of x_t/√(α² + σ²) at log(σ/α), shape (B, num_features), in the encoder's type.

    Args:
        encoder: The encoder.
        x_t: Noisy data, shape (B, ...).
        level: A level of floats or of broadcastable tensors.
    """
    dtype = next(encoder.parameters(), x_t).dtype
    label = per_example(-0.5 * level.log_snr, x_t).to(dtype)
    features: Tensor = encoder((x_t / level.length).to(dtype), label)
    return features
