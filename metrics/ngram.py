"""The n-gram model of Witten and Bell: what counting alone knows of a text."""

import numpy as np

from common.errors import UserError


def context_keys(ids: np.ndarray, length: int, vocab_size: int) -> np.ndarray:
    """int64 (L,): the `length` ids before each position as one number; -1 where there are fewer."""
    keys = np.zeros(len(ids), np.int64)
    for back in range(length, 0, -1):
        keys[back:] = keys[back:] * vocab_size + ids[:-back]
    keys[:length] = -1
    return keys


def lookup(keys: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values of `known`, which is sorted, at each of `keys`; 0 for those that are not in it."""
    position = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[position] == keys, values[position], 0)


def witten_bell(train: np.ndarray, text: np.ndarray, order: int, vocab_size: int) -> float:
    """Mean of -log p in nats over every token of a text but the first.

    p_k(x | h) = (c(h, x) + T(h) p_{k-1}(x | h')) / (c(h) + T(h)), where T(h) is the number of
    different tokens that followed h, and h' lacks the oldest token of h; p_0 is uniform (Witten and
    Bell 1991, method C, interpolated). The text is one stream: contexts cross window borders.

    Args:
        train: ids that are counted.
        text: ids that are predicted.
        order: n; contexts of n - 1 tokens.
        vocab_size: V; V^n has to fit into 63 bits.
    """
    if vocab_size**order >= 2**63:
        raise UserError(
            f"an n-gram of order {order} over {vocab_size} tokens has more kinds than 63 bits "
            "hold: lower the order"
        )
    train, text = train.astype(np.int64), text.astype(np.int64)
    probability = np.full(len(text), 1 / vocab_size)
    for length in range(order):
        before = context_keys(train, length, vocab_size)
        pairs, pair_counts = np.unique(
            (before * vocab_size + train)[before >= 0], return_counts=True
        )
        contexts, first, followers = np.unique(
            pairs // vocab_size, return_index=True, return_counts=True
        )
        totals = np.add.reduceat(pair_counts, first)
        given = context_keys(text, length, vocab_size)
        seen, kinds = lookup(given, contexts, totals), lookup(given, contexts, followers)
        together = lookup(np.where(given >= 0, given * vocab_size + text, -1), pairs, pair_counts)
        mixed = (together + kinds * probability) / np.maximum(seen + kinds, 1)
        probability = np.where(seen > 0, mixed, probability)
    return float(-np.log(probability[1:]).mean())
