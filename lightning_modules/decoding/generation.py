"""Sampling texts token by token, for every system over tokens.

Each row has a generator of its own: a sample depends on its seed, not on the rest of the batch.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_modules.decoding.filters import SamplingConfig


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


class DecodableModel(Protocol):
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
        self, model: DecodableModel, scale: float, without: Callable[[list[int]], list[int]]
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
    model: DecodableModel,
    prompts: list[list[int]],
    seeds: list[int],
    *,
    max_new_tokens: int,
    choice: SamplingConfig,
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
