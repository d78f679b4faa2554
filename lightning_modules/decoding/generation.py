"""Sampling of token sequences, for every system that predicts the next token.

Each row has its own random generator, so that a sample depends only on its prompt and its seed.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_modules.decoding.filters import SamplingConfig

# Function that `generate` calls after each step. Its arguments are the sampled tokens and the
# probabilities (N, V) from which they were sampled.
Listener = Callable[[list[int], Tensor], None]


class DecodableModel(Protocol):
    """Interface of a system that `generate` can sample from."""

    def prefill(self, prompts: Tensor) -> tuple[Tensor, Any]:
        """Return next-token logits (N, V) after prompts (N, T), and the decoding state.

        The state is a key-value cache or a recurrent state.
        """
        ...

    def decode_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Append `tokens` (N,), one per row; return next-token logits (N, V) and the new state."""
        ...


def draw(probabilities: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Sample one token per row by inverting the cumulative distribution.

    Args:
        probabilities: Probabilities (N, V).
        generators: One random generator per row, from which one number is sampled.

    Returns:
        Tokens (N,), int64.
    """
    numbers = torch.stack([torch.rand(1, generator=generator) for generator in generators])
    cumulative = probabilities.double().cumsum(-1)
    thresholds = numbers.to(probabilities.device).double() * cumulative[:, -1:]  # (N, 1)
    tokens = torch.searchsorted(cumulative, thresholds, right=True)
    return tokens.clamp(max=cumulative.shape[-1] - 1)[:, 0]


class Guided:
    """Classifier-free guidance of a decodable model (Ho and Salimans 2021, section 3.2).

    Up to a constant, log p(x) = log p(x | none) + scale * (log p(x | condition) - log p(x | none)).

    Args:
        model: Model to guide. Its batch contains each prompt with and without its condition.
        scale: Guidance scale; 1 gives the conditional model, 0 the unconditional model.
        unconditional: Function that returns prompts (N, T) without their conditions.
    """

    def __init__(
        self, model: DecodableModel, scale: float, unconditional: Callable[[Tensor], Tensor]
    ) -> None:
        self.model, self.scale, self.unconditional = model, scale, unconditional

    def prefill(self, prompts: Tensor) -> tuple[Tensor, Any]:
        logits, state = self.model.prefill(torch.cat([prompts, self.unconditional(prompts)]))
        return self._guide(logits), state

    def decode_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = self.model.decode_step(tokens.repeat(2), state)
        return self._guide(logits), state

    def _guide(self, logits: Tensor) -> Tensor:
        conditional, unconditional = logits.chunk(2)
        return unconditional + self.scale * (conditional - unconditional)


@torch.no_grad()
def generate(
    model: DecodableModel,
    prompts: Tensor,
    seeds: list[int],
    *,
    max_new_tokens: int,
    config: SamplingConfig,
    eos: int | None = None,
    listener: Listener | None = None,
) -> list[list[int]]:
    """Sample tokens after prompts of equal length.

    Args:
        model: Model to sample from.
        prompts: Prompt tokens (N, T); T is at least 1.
        seeds: One seed per prompt. Row i depends only on `prompts[i]` and `seeds[i]`.
        max_new_tokens: Maximum number of new tokens per row.
        config: Temperature and filters of sampling.
        eos: Id of the token that ends a row, which is not returned; None if there is no such token.
        listener: Function to call after each step with the sampled tokens and the probabilities
            (N, V); None calls no function.

    Returns:
        Sampled tokens of each row, without the prompt.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    tokens = prompts
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
    logits, state = model.prefill(prompts)
    for step in range(1, max_new_tokens + 1):
        probabilities = config.probabilities(logits, tokens)
        new = draw(probabilities, generators)  # (N,)
        tokens = torch.cat([tokens, new[:, None]], 1)
        if listener is not None:
            listener(new.tolist(), probabilities)
        if eos is not None:
            ended |= new == eos
            if ended.all():
                break
        if step < max_new_tokens:
            logits, state = model.decode_step(new, state)
    return [until(row, eos) for row in tokens[:, prompts.shape[1] :].tolist()]


def until(tokens: list[int], eos: int | None) -> list[int]:
    """Return the tokens before the first `eos`, or all tokens if there is no `eos`."""
    return tokens[: tokens.index(eos)] if eos in tokens else tokens
