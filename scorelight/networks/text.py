"""Encoders of text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scorelight.errors import ConfigurationError

__all__ = ["TextEncoder"]


class TextEncoder(nn.Module):
    """A transformer over the words of a caption, then the mean over them.

    Args:
        num_words: Number of known words; word 0 stands for none.
        length: Words of a caption at most.
        num_features: Size of the output, a multiple of `num_heads`.
        depth: Layers (Vaswani et al., 2017), normalised before attention.
        num_heads: Attention heads.
    """

    def __init__(
        self, num_words: int, length: int, num_features: int = 64, depth: int = 2, num_heads: int = 4
    ) -> None:
        super().__init__()
        if depth < 1 or num_heads < 1 or num_features % num_heads:
            raise ConfigurationError(
                f"TextEncoder: num_features={num_features}, depth={depth}, num_heads={num_heads}: at least "
                "one layer, and features that the heads divide"
            )
        self.word = nn.Embedding(num_words + 1, num_features, padding_idx=0)
        self.place = nn.Parameter(0.02 * torch.randn(length, num_features))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                num_features, num_heads, 4 * num_features, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(num_features)

    def forward(self, tokens: Tensor) -> Tensor:
        """From numbers of words (N, length), int64, at least one in a row, to features (N, num_features)."""
        nothing = tokens == 0
        hidden = self.word(tokens) + self.place
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=nothing)
        hidden = self.norm(hidden).masked_fill(nothing[..., None], 0)
        mean: Tensor = hidden.sum(1) / (~nothing).sum(1, keepdim=True)
        return mean
