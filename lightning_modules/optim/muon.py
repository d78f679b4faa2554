"""Muon: orthogonalised momentum for matrices, AdamW for all other parameters (Jordan et al. 2024).

The weight of a convolution (O, I, h, w) is used as a matrix (O, I h w), and that of a transposed
convolution (I, O, h, w) as a matrix (I, O h w).

The momentum M = U S V' of a matrix is replaced by U V'. An update then has equal size in all
singular directions, instead of being dominated by a few directions. The Newton-Schulz iteration
approximates U V' with matrix products only. PyTorch's Muon runs the iteration in bfloat16, which is
slow without hardware support. This implementation uses the dtype of the parameters.

Departures from Jordan et al.:

- The weights of queries, keys and values form one matrix, which is orthogonalised as a whole. The
  weights of both halves of a gated layer are also orthogonalised as one matrix. Jordan et al.
  orthogonalise the parts separately.
- If Muon is given parameters instead of groups, it also updates embeddings and the first and the
  last layer. In the discrete VAE it updates all convolutions. Jordan et al. update embeddings and
  the first and the last layer with AdamW.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a s + b s^3 + c s^5 drives singular values s to about 1


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Approximate U V' of a matrix U S V' (R, C), with singular values between 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        polynomial = torch.addmm(square, square, square, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)  # a x + (b s + c s s) x with s = x x'
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for matrices and kernels of convolutions, AdamW for other parameters.

    Args:
        params: Parameters or parameter groups. If parameters are given, Muon updates those with at
            least two dimensions, and AdamW the others. If groups are given, Muon updates those with
            `orthogonal: True`, whose parameters must have at least two dimensions.
        lr: Learning rate of the parameters that Muon updates, and of groups without their own `lr`.
        vector_lr: Learning rate of gains and biases, which have fewer than two dimensions; unused
            if groups are given.
        momentum: Coefficient of Muon's Nesterov momentum, in [0, 1).
        betas: Decay rates of AdamW's moving averages of the gradient and of its square.
        weight_decay: Decoupled weight decay: each update first multiplies the parameters by
            1 - `lr` * `weight_decay`. If parameters are given, gains and biases are not decayed.
    """

    needs_whole_matrices = True  # `FullySharded` refuses this optimizer

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        vector_lr: float = 2e-3,
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
        params = list(params)
        if params and all(isinstance(p, Tensor) for p in params):
            params = [
                {"params": [p for p in params if p.dim() >= 2], "orthogonal": True},
                {
                    "params": [p for p in params if p.dim() < 2],
                    "lr": vector_lr,
                    "weight_decay": 0.0,
                },
            ]
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters once, and return the loss if `closure` computes it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if group["weight_decay"]:
                        p.mul_(1 - group["lr"] * group["weight_decay"])
                    (self._orthogonal if group["orthogonal"] else self._adam)(group, p, p.grad)
        return loss

    def _orthogonal(self, group: dict[str, Any], p: Tensor, gradient: Tensor) -> None:
        """Apply a Muon update, scaled to the RMS of Adam, 0.2 (Liu et al. 2025, section 2.2)."""
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        matrix = gradient.lerp(state["momentum"], group["momentum"]).flatten(1)
        with torch.autocast(p.device.type, enabled=False):
            direction = orthogonalise(matrix).view_as(p)
        p.add_(direction, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)

    def _adam(self, group: dict[str, Any], p: Tensor, gradient: Tensor) -> None:
        """Apply an AdamW update without weight decay (Loshchilov and Hutter 2019, Algorithm 2)."""
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
    """Build AdamW for a network, or Muon for the matrices of its blocks and AdamW for the rest.

    Args:
        kind: Type of the optimizer, "adamw" or "muon".
        network: Network to optimise, without its frozen parameters.
        blocks: Submodule of `network` whose matrices and kernels are updated by Muon if `kind` is
            "muon".
        learning_rate: Learning rate of all parameters if `kind` is "adamw". If it is "muon",
            learning rate of the matrices and kernels in `blocks`.
        embedding_rate: Learning rate of all other parameters if `kind` is "muon".
        betas: Decay rates of AdamW's moving averages of the gradient and of its square.
        weight_decay: Weight decay of matrices and kernels; gains and biases have none.
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
