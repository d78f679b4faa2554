"""Muon: momentum whose direction is made orthogonal, for matrices; AdamW for all else (Jordan et
al. 2024).

A matrix' momentum M = U S V' is replaced by U V': every direction moves alike, instead of a few
that dominate. The Newton-Schulz iteration does that by products alone. PyTorch's own runs it in
bfloat16, which is slow where there is no hardware for it; here it keeps the parameters' kind of
numbers. Queries, keys and values are one matrix here, as are both halves of a gated layer, and made
orthogonal together, where Jordan's runs take them apart.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values to about 1


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """U V' of a matrix U S V' (..., R, C), up to singular values between .7 and 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for groups with `orthogonal: True`, AdamW for the others; each group has a step size of
    its own.

    Args:
        params: groups; those of Muon hold matrices.
        lr: step size where a group has none.
        momentum: of Muon, with Nesterov's look ahead.
        betas: of Adam.
        weight_decay: decoupled, times the step size.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "betas": betas,
            "weight_decay": weight_decay,
            "orthogonal": False,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    (self._orthogonal if group["orthogonal"] else self._adam)(group, p, p.grad)
        return loss

    def _orthogonal(self, group: dict[str, Any], p: Tensor, gradient: Tensor) -> None:
        """A step of equal size in all directions, of rms .2 like Adam's (Liu et al. 2025, section
        2.2).
        """
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        direction = orthogonalise(gradient.lerp(state["momentum"], group["momentum"]))
        p.add_(direction, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)

    def _adam(self, group: dict[str, Any], p: Tensor, gradient: Tensor) -> None:
        """Loshchilov and Hutter 2019, Algorithm 2."""
        first, second = group["betas"]
        state = self.state[p]
        if not state:
            state.update(step=torch.zeros(()), mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state["step"] += 1
        step = float(state["step"])
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        scale = (state["square"] / (1 - second**step)).sqrt_().add_(1e-8)
        p.addcdiv_(state["mean"], scale, value=-group["lr"] / (1 - first**step))


def muon_or_adamw(
    kind: str,
    network: torch.nn.Module,
    blocks: torch.nn.Module,
    learning_rate: float,
    embedding_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """AdamW for all of a network ("adamw"), or Muon for its blocks' matrices and AdamW for the rest
    ("muon").

    Args:
        kind: which.
        network: all.
        blocks: a part of it.
        learning_rate: of AdamW, or of Muon.
        embedding_rate: of AdamW beside Muon.
        betas: of AdamW.
        weight_decay: of matrices, not of gains and biases.
    """
    own = [p for p in network.parameters() if p.requires_grad]
    inner = {p for p in blocks.parameters() if p.dim() >= 2}
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in own if p in inner],
            "weight_decay": weight_decay,
            "lr": learning_rate,
        },
        {
            "params": [p for p in own if p.dim() >= 2 and p not in inner],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in own if p.dim() < 2], "weight_decay": 0.0},
    ]
    if kind == "adamw":
        return torch.optim.AdamW(groups, learning_rate, betas=betas, fused=True)
    groups[0]["orthogonal"] = True
    return Muon(groups, embedding_rate, betas=betas)
