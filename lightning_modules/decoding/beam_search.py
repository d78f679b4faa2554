"""Beam search for the most probable target sequences."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from common.errors import UserError


@dataclass(frozen=True)
class BeamSearchConfig:
    """Options of beam search.

    Args:
        beam: Beam size (number of hypotheses per sentence), at least 1; 1 is greedy decoding.
        length_penalty: Exponent alpha of the length normalisation, at least 0. 0 disables the
            normalisation; short hypotheses then have an advantage.
        penalty: Type of length normalisation: "wu" divides log-probabilities by
            ((5 + length) / 6)^alpha (Wu et al. 2016, Eq. 14), "plain" by length^alpha.
        min_length: Minimum number of target tokens, not counting the end token.
        max_length: Maximum number of target tokens; 0 means twice the source length plus 10.

    Raises:
        UserError: If `max_length` is below `min_length`.
    """

    beam: int = 1
    length_penalty: float = 0.6
    penalty: Literal["wu", "plain"] = "wu"
    min_length: int = 0
    max_length: int = 0

    def __post_init__(self) -> None:
        if 0 < self.max_length < self.min_length:
            raise UserError(
                f"--min_length {self.min_length} exceeds --max_length {self.max_length}: "
                "give a larger --max_length"
            )

    def max_lengths(self, source_lengths: list[int]) -> list[int]:
        """Return the maximum number of target tokens for each source length."""
        if self.max_length:
            return [self.max_length] * len(source_lengths)
        return [max(self.min_length, 2 * length + 10) for length in source_lengths]

    def normalised(self, score: float, length: int) -> float:
        """Return the length-normalised score of a hypothesis.

        Args:
            score: Log-probability of the hypothesis.
            length: Number of tokens, including the end token.
        """
        base = (5 + length) / 6 if self.penalty == "wu" else length
        return float(score / base**self.length_penalty)

    @property
    def signature(self) -> str:
        """Beam size and length normalisation, as text for the signature of a metric.

        The signature is a string that records the settings of the metric.
        """
        return f"beam={self.beam}" + (
            f"|alpha={self.length_penalty:g}({self.penalty})" if self.beam > 1 else ""
        )


class BeamSearchModel(Protocol):
    """Interface of a system that `beam_search` can decode."""

    def decode_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Append `tokens` (R,), one per row; return next-token logits (R, V) and the new state."""
        ...

    def reorder_cache(self, state: Any, sentences: Tensor, rows: Tensor) -> Any:
        """Select rows of the decoding state.

        Args:
            state: State with K rows per sentence.
            sentences: Indices (M,) of the sentences to keep.
            rows: Indices (M * K',) of the rows to keep, K' per sentence. An index may be repeated.

        Returns:
            State with K' rows per sentence.
        """
        ...


Hypothesis = tuple[float, list[int]]


@torch.no_grad()
def beam_search(
    model: BeamSearchModel,
    state: Any,
    max_lengths: list[int],
    config: BeamSearchConfig,
    *,
    bos: int,
    eos: int,
    device: torch.device,
) -> list[list[Hypothesis]]:
    """Search for the most probable target sequences of N sentences.

    A sentence is finished when `config.beam` of its hypotheses have ended, or when it has the
    maximum length. Finished sentences are removed from the batch.

    Args:
        model: Model to decode.
        state: Initial state with one row for each sentence.
        max_lengths: Maximum number of target tokens for each of N sentences.
        config: Beam size, length normalisation and minimum length.
        bos: Id of the first token of all hypotheses, which is not returned.
        eos: Id of the token that ends a hypothesis, which is not returned.
        device: Device of the model.

    Returns:
        Hypotheses (normalised log-probability, tokens) of each sentence, best first.
    """
    finished: list[list[Hypothesis]] = [[] for _ in max_lengths]
    active = list(range(len(max_lengths)))  # indices of the M sentences in the batch
    scores = torch.zeros(len(active), 1, device=device)  # (M, K)
    history = torch.empty(len(active), 1, 0, dtype=torch.int64, device=device)  # (M, K, length)
    tokens = torch.full((len(active),), bos, device=device)  # (M * K,)
    for length in range(1, max(max_lengths) + 1):
        logits, state = model.decode_step(tokens, state)
        logits = logits.float()
        normaliser = logits.logsumexp(-1, keepdim=True)
        if length <= config.min_length:
            logits = logits.index_fill(1, torch.tensor([eos], device=device), -math.inf)
        # Find the best candidates of each row, then the best among all K rows of a sentence.
        width = min(2 * config.beam, logits.shape[1])
        values, words = logits.topk(width)
        cumulative = (scores.reshape(-1, 1) + values - normaliser).view(len(active), -1)
        top, candidates = cumulative.topk(min(2 * config.beam, cumulative.shape[1]))  # (M, C)
        parents, words = candidates // width, words.view(len(active), -1).gather(1, candidates)
        history = torch.cat([_gather(history, parents), words[..., None]], 2)  # (M, C, length)
        ended = words == eos
        alive = top.masked_fill(ended, -math.inf)
        scores, best = alive.topk(min(config.beam, alive.shape[1]))
        best = best.sort().values  # remaining hypotheses keep their order

        for row, candidate in ended[:, : config.beam].nonzero().tolist():
            if (score := top[row, candidate].item()) > -math.inf:
                hypothesis = history[row, candidate, :-1].tolist()
                finished[active[row]].append((config.normalised(score, length), hypothesis))
        possible = (scores[:, 0] > -math.inf).tolist()
        remaining = []
        for row, sentence in enumerate(active):
            if len(finished[sentence]) >= config.beam or not possible[row]:
                continue
            if length < max_lengths[sentence]:
                remaining.append(row)
                continue
            for candidate in best[row].tolist():
                if (score := alive[row, candidate].item()) > -math.inf:
                    hypothesis = history[row, candidate].tolist()
                    finished[sentence].append((config.normalised(score, length), hypothesis))
        if not remaining:
            break
        kept = torch.tensor(remaining, device=device)
        best = best[kept]
        scores = alive[kept].gather(1, best)
        rows = parents[kept].gather(1, best) + kept[:, None] * (len(tokens) // len(active))
        history = _gather(history[kept], best)
        tokens = words[kept].gather(1, best).flatten()
        state = model.reorder_cache(state, kept, rows.flatten())
        active = [active[row] for row in remaining]
    return [sorted(hypotheses, key=lambda one: -one[0]) for hypotheses in finished]


def _gather(history: Tensor, index: Tensor) -> Tensor:
    """Return the hypotheses (M, C, length) at indices (M, C) of history (M, K, length)."""
    return history.gather(1, index[..., None].expand(-1, -1, history.shape[2]))
