"""Random numbers that are a function of where they are used, not of what was drawn before.

Philox4x32-10 turns a 64-bit key (the seed) and a 128-bit counter (vocabulary entry, token index, row) into four
32-bit words. So the noise of one row does not depend on other rows, on the batch, or on the order of the work, and
every device computes the same bits: all arithmetic is exact in int64. Source: J. Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011. The kernels make the same words, see csrc/sampling.inl.
"""

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
"""The largest 32-bit word."""
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_NUM_ROUNDS = 10
_LARGEST_BELOW_ONE = 1.0 - 2.0**-24


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of `word * multiplier`. The 64-bit product itself would not fit a signed integer."""
    product = word * (multiplier - 2**32)
    return (product >> 32) + word, product & WORD


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10.

    Args:
        counter: four int64 tensors of 32-bit words, broadcastable to one shape.
        key: two 32-bit words.

    Returns:
        Four int64 tensors of 32-bit words, of the broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_NUM_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & WORD, (k1 + _KEY_STEPS[1]) & WORD
    return torch.broadcast_tensors(c0, c1, c2, c3)


def _gumbel(words: Tensor) -> Tensor:
    """Standard Gumbel noise from 32-bit words: -log of an exponential variable, fine-grained where it is large."""
    uniform = ((words.to(torch.float32) + 0.5) * 2.0**-32).clamp_(max=_LARGEST_BELOW_ONE)
    return -torch.log(-torch.log1p(-uniform))


def gumbel_noise(seed: tuple[int, int], rows: Tensor, token_index: int, vocab_size: int) -> Tensor:
    """Gumbel noise for every entry of the vocabulary.

    Args:
        seed: from `split_seed`.
        rows: int64 `[batch]`, the row numbers that key the noise.
        token_index: how many tokens the row has generated before this one.
        vocab_size: number of entries.

    Returns:
        float32 `[batch, vocab_size]`.
    """
    quads = torch.arange((vocab_size + 3) // 4, device=rows.device)[None, :]
    words = philox(noise_counter(quads, token_index, rows[:, None]), seed)
    return _gumbel(torch.stack(words, dim=-1).flatten(1)[:, :vocab_size])


def gumbel_noise_at(seed: tuple[int, int], rows: Tensor, token_index: int, vocab_ids: Tensor) -> Tensor:
    """The entries of `gumbel_noise` at chosen places.

    Args:
        seed: from `split_seed`.
        rows: int64 `[n]`, row numbers.
        token_index: how many tokens each row has generated before this one.
        vocab_ids: int64 `[n]`, entries of the vocabulary.

    Returns:
        float32 `[n]`.
    """
    words = torch.stack(philox(noise_counter(vocab_ids >> 2, token_index, rows), seed), dim=-1)
    return _gumbel(words.gather(-1, (vocab_ids & 3)[:, None]).squeeze(-1))


def noise_counter(quads: Tensor, token_index: int, rows: Tensor, use: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The counter for `philox`.

    Args:
        quads: int64, entries of the vocabulary divided by four.
        token_index: how many tokens the row has generated before this one.
        rows: int64, row numbers.
        use: tells apart uses of the same (seed, row, token index); 0 is the drawing of tokens.
    """
    index = torch.full((), token_index & WORD, dtype=torch.int64, device=rows.device)
    return quads, index, rows, torch.full_like(index, use)
