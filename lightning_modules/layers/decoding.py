"""From a model's next-token logits to text, for every system over tokens: drawing one, and looking
for the likeliest one.

A filter takes logits (N, V) and returns them with what may not be chosen at -inf. Each row has a
generator of its own: what is drawn for a seed does not depend on what is drawn beside it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from console import UserError


def repetition_penalty(logits: Tensor, history: list[list[int]], penalty: float) -> Tensor:
    """Divide positive logits of tokens that occurred by `penalty`, and multiply negative ones
    (Keskar et al. 2019, section 4.1).
    """
    logits = logits.clone()
    for row, seen in enumerate(history):
        index = torch.tensor(sorted(set(seen)), device=logits.device)
        chosen = logits[row, index]
        logits[row, index] = torch.where(chosen > 0, chosen / penalty, chosen * penalty)
    return logits


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens (Fan et al. 2018)."""
    if k >= logits.shape[-1]:
        return logits
    least = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens whose probabilities reach p together ("nucleus", Holtzman et al.
    2020).
    """
    ordered, place = logits.sort(descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(
        -1
    )  # probability of all likelier tokens
    ordered = ordered.masked_fill(before >= p, -math.inf)
    return torch.empty_like(logits).scatter_(-1, place, ordered)


def min_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens that are at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -math.inf)


@dataclass(frozen=True)
class Choice:
    """How a token is chosen.

    Args:
        temperature: logits are divided by it; 0 always takes the likeliest.
        top_k: see `top_k_filter`; 0 for all.
        top_p: see `top_p_filter`; 1 for all.
        min_p: see `min_p_filter`; 0 for all.
        repetition_penalty: see there; 1 for none.

    Raises:
        UserError: if one is out of its range, or a filter is asked for where the likeliest is taken
            anyway.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        wrong = {
            f"--temperature {self.temperature}: give 0 or more": not 0
            <= self.temperature
            < math.inf,
            f"--top_k {self.top_k}: give 0 (all) or more": self.top_k < 0,
            f"--top_p {self.top_p}: give more than 0 and at most 1": not 0 < self.top_p <= 1,
            f"--min_p {self.min_p}: give at least 0 and less than 1": not 0 <= self.min_p < 1,
            f"--repetition_penalty {self.repetition_penalty}: give more than 0": self.repetition_penalty
            <= 0,
            "--temperature 0 takes the likeliest token and leaves --top_k, --top_p, --min_p no choice: leave them out": (
                self.temperature == 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)
            ),
        }
        for message, broken in wrong.items():
            if broken:
                raise UserError(message)

    def probabilities(self, logits: Tensor, history: list[list[int]]) -> Tensor:
        """(N, V) by which a token is drawn, from logits (N, V)."""
        logits = logits.float()
        if self.repetition_penalty != 1:
            logits = repetition_penalty(logits, history, self.repetition_penalty)
        if self.temperature == 0:
            return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        if self.top_k:
            logits = top_k_filter(logits, self.top_k)
        if self.top_p < 1:
            logits = top_p_filter(logits, self.top_p)
        if self.min_p:
            logits = min_p_filter(logits, self.min_p)
        return logits.softmax(-1)


def draw(probabilities: Tensor, generators: list[torch.Generator]) -> Tensor:
    """int64 (N,): one token per row, by inverting the distribution function with one number of the
    row's generator.
    """
    numbers = torch.stack([torch.rand(1, generator=generator) for generator in generators]).to(
        probabilities.device
    )  # (N, 1)
    reached = probabilities.double().cumsum(-1)
    return torch.searchsorted(reached, numbers.double() * reached[:, -1:], right=True).clamp(
        max=reached.shape[-1] - 1
    )[:, 0]


Listener = Callable[
    [list[int], Tensor], None
]  # is called with each step's tokens and the probabilities (N, V) they were drawn by


class Decodable(Protocol):
    """What a system over tokens offers to be decoded."""

    def begin(self, prompts: list[list[int]]) -> tuple[Tensor, Any]:
        """Logits (N, V) of what follows each prompt, and the state after it (a cache, a recurrent
        state).
        """
        ...

    def advance(self, tokens: list[int], state: Any) -> tuple[Tensor, Any]:
        """Logits (N, V) after one more token each, and the next state."""
        ...


class Guided:
    """Classifier-free guidance (Ho and Salimans 2021, section 3.2): each prompt is followed beside
    the same without its condition.

    log p = log p(x | none) + scale * (log p(x | condition) - log p(x | none)), up to a constant.

    Args:
        model: what is decoded; its batch is twice as large.
        scale: 1 is the model itself, 0 the one without conditions.
        without: a prompt without its condition.
    """

    def __init__(
        self, model: Decodable, scale: float, without: Callable[[list[int]], list[int]]
    ) -> None:
        self.model, self.scale, self.without = model, scale, without

    def begin(self, prompts: list[list[int]]) -> tuple[Tensor, Any]:
        logits, state = self.model.begin([*prompts, *map(self.without, prompts)])
        return self._guide(logits), state

    def advance(self, tokens: list[int], state: Any) -> tuple[Tensor, Any]:
        logits, state = self.model.advance(tokens * 2, state)
        return self._guide(logits), state

    def _guide(self, logits: Tensor) -> Tensor:
        given, none = logits.chunk(2)
        return none + self.scale * (given - none)


@torch.no_grad()
def generate(
    model: Decodable,
    prompts: list[list[int]],
    seeds: list[int],
    *,
    max_new_tokens: int,
    choice: Choice,
    stop: int | None = None,
    listen: Listener | None = None,
) -> list[list[int]]:
    """Continue prompts of any lengths side by side.

    Args:
        model: what is decoded.
        prompts: ids, at least one each.
        seeds: one per prompt; row i depends on `prompts[i]` and `seeds[i]` alone.
        max_new_tokens: at most that many.
        choice: how each is chosen.
        stop: a token that ends its row and does not belong to it.
        listen: sees every step.

    Returns:
        What follows each prompt.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    history, made = [list(prompt) for prompt in prompts], [[] for _ in prompts]  # type: list[list[int]], list[list[int]]
    running = [True] * len(prompts)
    logits, state = model.begin(prompts)
    for number in range(max_new_tokens):
        probabilities = choice.probabilities(logits, history)
        tokens = draw(probabilities, generators).tolist()
        if listen is not None:
            listen(tokens, probabilities)
        for row, token in enumerate(tokens):
            running[row] = running[row] and token != stop
            history[row].append(token)
            if running[row]:
                made[row].append(token)
        if not any(running):
            break
        if number + 1 < max_new_tokens:
            logits, state = model.advance(tokens, state)
    return made


@dataclass(frozen=True)
class Search:
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


class Searchable(Protocol):
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
    model: Searchable,
    state: Any,
    count: int,
    most: list[int],
    search: Search,
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
