"""Stop a run when a loss is not finite, before a checkpoint with NaN weights is saved."""

from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm

from common.errors import UserError
from common.run import Run
from lightning_modules.core.adversarial import AdversarialModule
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


def remedy(trainer: Trainer, module: GenerativeModule) -> str:
    """Return the part of the error message that says what to do."""
    option = "--trainer.gradient_clip_val"
    if isinstance(module, AdversarialModule):
        option = "--model.generator_clip and --model.discriminator_clip"
    lower = f"lower the learning rate or set {option}"
    if Run(trainer.default_root_dir).checkpoint("last").is_file():
        return f"last.ckpt keeps the last good state: {lower}"
    return f"no checkpoint was saved before: {lower}, and start again"


def check_finite(trainer: Trainer, module: GenerativeModule) -> None:
    """Raise an error if a weight is not finite.

    Called before each save of a checkpoint, because a run cannot recover from NaN weights.

    Raises:
        NonFinite: If a weight is not finite.
    """
    if not get_total_norm(list(module.parameters())).isfinite():
        name = first_non_finite(module, {})
        raise NonFinite(
            f"step {trainer.global_step}: {name} is not finite; {remedy(trainer, module)}"
        )


class NonFiniteGuard(Callback):
    """Stops the run if a loss is not finite.

    After an update with a gradient that is not finite, the weights and the next loss are not
    finite. On the CPU, losses are checked after every step of the trainer. On an accelerator, they
    are checked together at the end of each logging interval, because each check waits for the
    device.
    """

    update_periods: ClassVar[list[int]] = []  # may act after several updates

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        recent, step = pl_module.recent_losses, trainer.global_step
        own = not recent or recent[-1][0] < step  # the system has its own `training_step`
        if own and isinstance(outputs, dict) and "loss" in outputs:
            pl_module.record_loss(outputs["loss"], batch)
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if not recent or (recent[0][1].device.type != "cpu" and step % interval):
            return
        finite = torch.stack([loss for _, loss, _ in recent]).isfinite()
        if not finite.all():
            step, _, index = recent[int(finite.int().argmin())]
            if not torch.equal(index, batch["index"]):  # the batch of a further update
                batch = trainer.datamodule.batch("train", index.tolist())  # type: ignore[attr-defined]
            name = first_non_finite(pl_module, batch)
            rows = ", ".join(map(str, index.tolist()[:16])) + (", ..." if len(index) > 16 else "")
            raise NonFinite(
                f"step {step}: {name} is not finite (samples {rows}); {remedy(trainer, pl_module)}"
            )
        recent.clear()
