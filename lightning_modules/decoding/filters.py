"""Filters of next-token logits, and the options of sampling from them.

A filter takes logits (N, V) and returns them with excluded tokens at -inf.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError


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
class SamplingConfig:
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
