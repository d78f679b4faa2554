"""Filters of next-token logits, and the options of sampling.

A filter returns logits (N, V) in which the logits of excluded tokens are -inf.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jsonargparse.typing import restricted_number_type
from torch import Tensor

from common.errors import UserError

# Number types that make the command line check the range of an option.
if TYPE_CHECKING:
    NucleusProbability = float
    MinimumShare = float
    FiniteNonNegative = float
else:
    FiniteNonNegative = restricted_number_type(
        "FiniteNonNegative", float, [(">=", 0), ("<", math.inf)]
    )
    NucleusProbability = restricted_number_type("NucleusProbability", float, [(">", 0), ("<=", 1)])
    MinimumShare = restricted_number_type("MinimumShare", float, [(">=", 0), ("<", 1)])


def repetition_penalty(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Lower the logits of tokens that occur in `history` (Keskar et al. 2019, section 4.1).

    Args:
        logits: Next-token logits (N, V).
        history: All tokens (N, T) so far.
        penalty: Divisor of positive logits and factor of negative logits; 1 changes nothing.
    """
    chosen = logits.gather(1, history)
    return logits.scatter(1, history, torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Exclude all tokens but the k most likely tokens (Fan et al. 2018)."""
    if k >= logits.shape[-1]:
        return logits
    threshold = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < threshold, -math.inf)


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens with total probability at least p.

    This is nucleus sampling (Holtzman et al. 2020).
    """
    ordered, index = logits.sort(descending=True)
    probabilities = ordered.softmax(-1)
    likelier = probabilities.cumsum(-1) - probabilities  # total probability of more likely tokens
    ordered = ordered.masked_fill(likelier >= p, -math.inf)
    return torch.empty_like(logits).scatter_(-1, index, ordered)


def min_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep tokens whose probability is at least p times the highest (Nguyen et al. 2024)."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -math.inf)


@dataclass(frozen=True)
class SamplingConfig:
    """Temperature and filters of next-token sampling.

    Args:
        temperature: Divisor of the logits, at least 0; 0 always selects the most likely
            token.
        top_k: Number of most likely tokens to sample from; 0 samples from all tokens.
        top_p: Total probability of the smallest set of most likely tokens to sample from (nucleus
            sampling), in (0, 1]; 1 samples from all tokens.
        min_p: Minimum probability of a token as a fraction of the highest probability, in [0, 1);
            0 samples from all tokens.
        repetition_penalty: Divisor of the positive logits and factor of the negative logits of all
            tokens so far, above 0; 1 changes nothing.

    Raises:
        UserError: If a value is out of its range, or if `temperature` 0 is combined with `top_k`,
            `top_p` or `min_p`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        ranges = {  # the command line checks them, too
            "temperature": (0 <= self.temperature < math.inf, "at least 0"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p < 1, "at least 0 and below 1"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "above 0"),
        }
        for name, (fits, meaning) in ranges.items():
            if not fits:
                raise UserError(f"--{name} must be {meaning} (got {getattr(self, name)})")
        if self.temperature == 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0):
            raise UserError(
                "--temperature 0 always takes the most likely token: "
                "leave out --top_k, --top_p and --min_p"
            )

    def probabilities(self, logits: Tensor, history: Tensor) -> Tensor:
        """Compute sampling probabilities (N, V) from logits (N, V) and all tokens (N, T) so far."""
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
