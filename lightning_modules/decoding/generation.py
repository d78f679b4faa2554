"""Sampling of token sequences, for every system that predicts the next token.

Each row has its own random generator: a sample depends on its prompt and its seed only.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_modules.decoding.filters import SamplingConfig

# Called after each step with the sampled tokens and their sampling probabilities (N, V).
Listener = Callable[[list[int], Tensor], None]


class DecodableModel(Protocol):
    """Interface of a system that `generate` can sample from."""

    def prefill(self, prompts: Tensor) -> tuple[Tensor, Any]:
        """Next-token logits (N, V) after prompts (N, T), and the state (cache or recurrent)."""
        ...

    def decode_step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Next-token logits (N, V) after one more token (N,) per row, and the next state."""
        ...


def draw(probabilities: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Sample one token per row by inverting the cumulative distribution.

    Args:
        probabilities: Probabilities (N, V).
        generators: One random generator per row; one number is taken from each generator.

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

    log p = log p(x | none) + scale * (log p(x | condition) - log p(x | none)), up to a constant.

    Args:
        model: Model to guide; decodes a batch of twice the size.
        scale: Guidance scale; 1 gives the conditional model, 0 the unconditional model.
        unconditional: Maps prompts (N, T) to the same prompts without their conditions.
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
    """Continue prompts of equal length.

    Args:
        model: Model to sample from.
        prompts: Prompts (N, T); T is at least 1.
        seeds: One seed per prompt; row i depends on `prompts[i]` and `seeds[i]` alone.
        max_new_tokens: Maximum number of new tokens per row.
        config: Temperature and filters.
        eos: Token that ends a row and is not returned; None if rows have no end token.
        listener: Function to call after each step (see `Listener`).

    Returns:
        New tokens of each row.
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
    """Tokens before the first `eos`, or all tokens if there is no `eos`."""
    return tokens[: tokens.index(eos)] if eos in tokens else tokens
