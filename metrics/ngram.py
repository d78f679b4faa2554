"""Witten-Bell n-gram language model, a baseline that only counts tokens."""

import numpy as np

from common.errors import UserError


def context_keys(ids: np.ndarray, length: int, vocab_size: int) -> np.ndarray:
    """Encode the `length` ids before each position as one int64, (L,); -1 if there are fewer."""
    keys = np.zeros(len(ids), np.int64)
    for back in range(length, 0, -1):
        keys[back:] = keys[back:] * vocab_size + ids[:-back]
    keys[:length] = -1
    return keys


def lookup(keys: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Look up the value of each key in the sorted array `known`; 0 for keys that are missing."""
    position = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[position] == keys, values[position], 0)


def witten_bell(train: np.ndarray, text: np.ndarray, order: int, vocab_size: int) -> float:
    """Compute the mean negative log-likelihood of a text under an n-gram model, in nats per token.

    The first token of the text is left out. The model is the interpolated method C of Witten and
    Bell 1991:

        p_k(x | h) = (c(h, x) + T(h) p_{k-1}(x | h')) / (c(h) + T(h))

    x is a token, and its context h is the k - 1 tokens before it. c(h) and c(h, x) count the
    occurrences of h and of h followed by x in the training text. T(h) is the number of different
    tokens that follow h in the training text, h' is h without its oldest token, and p_0 is uniform.
    The text is one stream, which is not cut into context windows.

    Args:
        train: Token ids (L,) of the training text.
        text: Token ids (M,) of the text to evaluate.
        order: Order n of the model; contexts have n - 1 tokens.
        vocab_size: Vocabulary size V; V^n must be below 2^63.

    Raises:
        UserError: If `vocab_size` to the power of `order` is not below 2^63.
    """
    if vocab_size**order >= 2**63:
        raise UserError(
            f"an n-gram model of order {order} over {vocab_size} tokens needs "
            f"{vocab_size}^{order} keys, more than 63 bits can number: lower the order"
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
