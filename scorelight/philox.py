"""Philox4x32-10, a random number generator that is a function of a counter and a key (Salmon et al., 2011).

A block of four words of 32 bits is computed from a counter of four words and a key of two, by ten rounds of

    (c0, c1, c2, c3) ← (hi(M1 c2) ⊕ c1 ⊕ k0, lo(M1 c2), hi(M0 c0) ⊕ c3 ⊕ k1, lo(M0 c0)),
    (k0, k1) ← (k0 + W0, k1 + W1)   mod 2³².

Nothing is stored between draws, and any block can be computed by itself, on any device: integer operations
give the same bits everywhere. Words are held in int64, since PyTorch multiplies no unsigned integers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["normal", "philox", "philox_block", "sign", "uniform"]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


@torch.no_grad()
def philox(counter: Sequence[Tensor | int], key: tuple[int, int]) -> Tensor:
    """The blocks at the counters.

    Args:
        counter: The words c0 to c3, each a number or a tensor of int64, from 0 to 2³² − 1; at least one is
            a tensor, and its device is that of the result.
        key: The words k0 and k1.

    Returns:
        The words of each block, shape (2, 2, *shape), int64: [[w0, w2], [w1, w3]]. The tensors are
        broadcast to the shape.
    """
    tensors = (word for word in counter if isinstance(word, Tensor))
    like, *_ = torch.broadcast_tensors(*tensors)  # type: ignore[no-untyped-call]
    even, high, odd, product = ((b, *b.unbind()) for b in like.new_empty(4, 2, *like.shape))
    for row, word in zip((even[1], odd[2], even[2], odd[1]), counter, strict=True):
        row.copy_(word) if isinstance(word, Tensor) else row.fill_(word)
    mask, bits, multipliers, *keys = _constants(key, like.device, like.dim())
    for round_key in keys:
        torch.mul(even[0], multipliers, out=product[0])  # modulo 2⁶⁴: all bits of an unsigned product
        torch.bitwise_right_shift(product[0], bits, out=high[0])
        torch.bitwise_xor(high[2], odd[2], out=even[1])
        torch.bitwise_xor(high[1], odd[1], out=even[2])
        even[0].bitwise_xor_(round_key).bitwise_and_(mask)
        odd, product = product, odd  # (c3, c1), with bits above the 32nd that are masked later
    return torch.stack([even[0], odd[0].flip(0).bitwise_and_(mask)])


def philox_block(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """The words w0 to w3 of one block, computed on the host, without a tensor."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1 = product1 >> 32 ^ c1 ^ k0, product1 & _MASK
        c2, c3 = product0 >> 32 ^ c3 ^ k1, product0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniform(words: Tensor, dtype: torch.dtype) -> Tensor:
    """(w + ½)/2³², uniform in (0, 1), of the words' shape; in single precision the largest round to 1."""
    return words.to(dtype).add_(0.5).mul_(2.0**-32)


def sign(words: Tensor, dtype: torch.dtype) -> Tensor:
    """+1 or −1 by the highest bit, of the words' shape."""
    return (1 - 2 * (words >> 31)).to(dtype)


def normal(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers, of the words' shape (Box & Muller, 1958).

    With uniform numbers u of (w0, w2) and v of (w1, w3) they are sqrt(−2 ln u) cos 2πv and sqrt(−2 ln u)
    sin 2πv. The largest is sqrt(66 ln 2) = 6.76, which is exceeded once in 7 · 10¹⁰ draws.

    Args:
        words: Shape (2, 2, ...), see `philox`.
        dtype: Single or double precision.
    """
    u, v = uniform(words, dtype)
    radius, angle = u.log_().mul_(-2).sqrt_(), v.mul_(2 * torch.pi)
    return torch.stack([angle.cos(), angle.sin_()]).mul_(radius)


@functools.lru_cache(maxsize=256)
def _constants(key: tuple[int, int], device: torch.device, dims: int) -> tuple[Tensor, ...]:
    """The mask, the number of bits, the multipliers and the keys of the rounds: tensors, which cost less."""
    keys = [[(k + r * w) & _MASK for k, w in zip(key, _WEYL, strict=True)] for r in range(10)]
    pairs = torch.tensor([_MULTIPLIERS, *keys], device=device).view(-1, 2, *[1] * dims).unbind()
    return torch.tensor(_MASK), torch.tensor(32), *pairs
