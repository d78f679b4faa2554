"""Beam search for the most probable target sequences."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from common.errors import UserError


@dataclass(frozen=True)
class BeamSearchConfig:
    """How the likeliest text is looked for.

    Args:
        beam: texts that are followed at a time; 1 always takes the likeliest token.
        length_penalty: alpha; log-probabilities only fall with each token, so that 0 favours short
            texts.
        penalty: "wu" divides by ((5 + length) / 6)^alpha (Wu et al. 2016, Eq. 14), "plain" by
            length^alpha.
        min_length: fewest tokens.
        max_length: most tokens; 0 for twice the source and 10.

    Raises:
        UserError: if one is out of its range.
    """

    beam: int = 1
    length_penalty: float = 0.6
    penalty: Literal["wu", "plain"] = "wu"
    min_length: int = 0
    max_length: int = 0

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise UserError(f"--beam {self.beam}: give at least 1")
        if not 0 <= self.length_penalty < math.inf:
            raise UserError(f"--length_penalty {self.length_penalty}: give 0 or more")
        if self.min_length < 0 or (self.max_length and self.max_length < max(1, self.min_length)):
            raise UserError(
                f"--min_length {self.min_length} --max_length {self.max_length}: give a range of at least 1 token"
            )

    def normalised(self, score: float, length: int) -> float:
        """Log-probability of a text of `length` tokens (with its end) as it is compared with
        others.
        """
        base = (5 + length) / 6 if self.penalty == "wu" else length
        return float(score / base**self.length_penalty)

    @property
    def signature(self) -> str:
        """Part of a metric's signature."""
        return f"beam={self.beam}" + (
            f"|alpha={self.length_penalty:g}({self.penalty})" if self.beam > 1 else ""
        )


class BeamSearchModel(Protocol):
    """What a system offers that writes one text for each of N others."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits (R, V) after one more token (R,) each, and the next state."""
        ...

    def select(self, state: Any, sentences: Tensor, rows: Tensor) -> Any:
        """The state of other rows: `sentences` (M,) of those before remain, and `rows` (M * K,) of
        its rows, K for each of them.
        """
        ...


Hypothesis = tuple[float, list[int]]


@torch.no_grad()
def beam_search(
    model: BeamSearchModel,
    state: Any,
    count: int,
    most: list[int],
    search: BeamSearchConfig,
    *,
    begin: int,
    stop: int,
    device: torch.device,
) -> list[list[Hypothesis]]:
    """The likeliest texts that were found for each of N sentences.

    A sentence is done when as many texts have ended as are followed; those that have reached their
    length end there. Sentences that are done leave the batch.

    Args:
        model: what is searched.
        state: with a row for each sentence.
        count: N.
        most: most tokens for each, with the end.
        search: how.
        begin: token that all texts begin with and that is not part of them.
        stop: token that ends a text.
        device: where.

    Returns:
        For each sentence its texts without their ends, best first, with their normalised
        log-probabilities.
    """
    done: list[list[Hypothesis]] = [[] for _ in range(count)]
    names = list(range(count))  # of the sentences that are left
    scores = torch.zeros(count, 1, device=device)  # (M, K)
    history = torch.empty(count, 1, 0, dtype=torch.int64, device=device)  # (M, K, length)
    tokens = torch.full((count,), begin, device=device)
    for length in range(1, max(most) + 1):
        logits, state = model.step(tokens, state)
        logits = logits.float()
        normaliser = logits.logsumexp(-1, keepdim=True)
        if length <= search.min_length:
            logits = logits.index_fill(1, torch.tensor([stop], device=device), -math.inf)
        wide = min(2 * search.beam, logits.shape[1])
        values, words = logits.topk(wide)  # of each row, before all rows of a sentence are compared
        reached = (scores.reshape(-1, 1) + values - normaliser).view(
            len(names), -1
        )  # (M, K * wide)
        top, place = reached.topk(min(2 * search.beam, reached.shape[1]))
        parents, words = place // wide, words.view(len(names), -1).gather(1, place)  # (M, C)
        ended = words == stop
        history = torch.cat(
            [history.gather(1, parents[..., None].expand(-1, -1, length - 1)), words[..., None]], 2
        )  # (M, C, length)
        alive = top.masked_fill(ended, -math.inf)
        scores, best = alive.topk(min(search.beam, alive.shape[1]))
        best = best.sort().values  # those that go on keep their order

        for row, candidate in ended[:, : search.beam].nonzero().tolist():
            if (value := top[row, candidate].item()) > -math.inf:
                done[names[row]].append(
                    (search.normalised(value, length), history[row, candidate, :-1].tolist())
                )
        possible = (scores[:, 0] > -math.inf).tolist()
        going = [
            row
            for row, sentence in enumerate(names)
            if len(done[sentence]) < search.beam and possible[row]
        ]
        for row in [row for row in going if length == most[names[row]]]:
            for candidate in best[row].tolist():
                if (value := alive[row, candidate].item()) > -math.inf:
                    done[names[row]].append(
                        (search.normalised(value, length), history[row, candidate].tolist())
                    )
        going = [row for row in going if length < most[names[row]]]
        if not going:
            break
        left = torch.tensor(going, device=device)
        names = [names[row] for row in going]
        best = best[left]
        scores = alive[left].gather(1, best)
        kept = parents[left].gather(1, best) + left[:, None] * (
            len(tokens) // count
        )  # rows of the state
        history = history[left].gather(1, best[..., None].expand(-1, -1, length))
        tokens = words[left].gather(1, best).flatten()
        state, count = model.select(state, left, kept.flatten()), len(names)
    return [sorted(found, key=lambda one: -one[0]) for found in done]
