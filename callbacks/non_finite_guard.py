"""Stop a run when a gradient is not finite, before a checkpoint with NaN weights is saved."""

from collections import deque
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from common.errors import UserError
from common.run import Run
from lightning_modules.core.module import GenerativeModule


class NonFinite(UserError):
    """Error for NaN or infinity in training; the message names the step and the tensor."""


def first_non_finite(module: torch.nn.Module, batch: dict[str, Any]) -> str:
    """Return the name of the first tensor that contains a NaN or an infinity, or "the loss".

    Searches the batch, the gradients, the weights and the buffers, in this order.
    """
    named: list[tuple[str, Any]] = [(f"batch[{key!r}]", value) for key, value in batch.items()]
    named += [
        (f"the gradient of {name}", parameter.grad) for name, parameter in module.named_parameters()
    ]
    named += [*module.named_parameters(), *module.named_buffers()]
    for name, value in named:
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            return name
    return "the loss"


def remedy(trainer: Trainer) -> str:
    """Return the part of the error message that says what to do."""
    lower = "lower the learning rate or set --trainer.gradient_clip_val"
    if Run(trainer.default_root_dir).checkpoint("last").is_file():
        return f"last.ckpt keeps the last good state: {lower}"
    return f"no checkpoint was saved before: {lower}, and start again"


def check_finite(trainer: Trainer, module: GenerativeModule) -> None:
    """Raise an error if the last gradient norm is not finite.

    Called before each save of a checkpoint, because a run cannot recover from NaN weights, and
    because `NonFiniteGuard` checks only at the end of a logging interval on an accelerator.

    Raises:
        NonFinite: If the norm is not finite. The message does not name the samples.
    """
    norm = module.grad_norm
    if norm is not None and not norm.isfinite():
        name = first_non_finite(module, {})
        raise NonFinite(f"step {trainer.global_step}: {name} is not finite; {remedy(trainer)}")


class NonFiniteGuard(Callback):
    """Stops the run if the gradient norm is not finite, which means that a gradient is not finite.

    On the CPU, the norm is checked after every update. On an accelerator, the norms are checked
    together at the end of each logging interval, because each check waits for the device.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[int, Tensor, Any]] = deque()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        norm = pl_module.grad_norm
        if norm is None:
            return
        self._recent.append((trainer.global_step, norm, batch["index"]))
        if norm.device.type != "cpu" and trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]  # set by a connector
            return
        for step, value, index in self._recent:
            if not value.isfinite():
                name = first_non_finite(pl_module, batch)
                rows = ", ".join(map(str, index.tolist()[:16]))
                raise NonFinite(
                    f"step {step}: {name} is not finite "
                    f"(samples {rows}{', ...' if len(index) > 16 else ''}); {remedy(trainer)}"
                )
        self._recent.clear()
