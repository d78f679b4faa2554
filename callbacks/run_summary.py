"""Print the run summary, at the start of a run and with `--dry_run`: layers, data, steps."""

import math
import sys
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from torch import Tensor, nn

from callbacks.preview_batch import on_device
from datamodules.samplers import accumulated_batches, limit_batches
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.run_length import planned_updates


def layer_table(model: GenerativeModule, batch: dict[str, Any], depth: int = 3) -> str:
    """Return a table of submodules: name, type, output shape, number of parameters.

    Submodules are listed up to nesting level `depth`. Parameters registered directly on the system
    have separate rows with their shapes. Output shapes are recorded in one call of `preview`; they
    are left out if weights are sharded. The last row is the number of trainable parameters, if
    there are averaged or frozen weights too.
    """
    shapes: dict[str, str] = {}
    named = {name: part for name, part in model.named_modules() if name and name.count(".") < depth}

    def remember(name: str) -> Any:
        def hook(part: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes.setdefault(name, "x".join(map(str, output.shape)))

        return hook

    handles = [part.register_forward_hook(remember(name)) for name, part in named.items()]
    try:
        if not model.is_sharded:
            model.preview(batch)
    finally:
        for handle in handles:
            handle.remove()
    rows = [("layer", "type", "output (batch size first)", "parameters")]
    for name, part in named.items():
        count = sum(parameter.numel() for parameter in part.parameters())
        if name in shapes or count:
            rows.append(
                (name, type(part).__name__, shapes.get(name, ""), f"{count:,}" if count else "")
            )
    for name, parameter in model.named_parameters(recurse=False):
        shape = "x".join(map(str, parameter.shape))
        rows.append((name, type(parameter).__name__, shape, f"{parameter.numel():,}"))
    total = sum(parameter.numel() for parameter in model.parameters())
    rows.append(("total", "", "", f"{total:,}"))
    trained = sum(part.numel() for part in model.parameters() if part.requires_grad)
    if trained < total:
        rows.append(("trainable", "", "", f"{trained:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{a:{widths[0]}}  {b:{widths[1]}}  {c:{widths[2]}}  {d:>{widths[3]}}"
        for a, b, c, d in rows
    )


def describe(model: GenerativeModule, data: Any, trainer: Trainer) -> str:
    """Return a text with the layers, data sizes, global batch size and number of steps."""
    # "test" is left out because loading it may be slow.
    sizes = {split: len(data.split(split)) for split in ("train", "val")}
    split = "val" if sizes["val"] else "train"
    table = layer_table(model, on_device(data.batch(split, [0, 1]), model.device))
    world, accumulated = trainer.world_size, accumulated_batches(trainer, model)
    batches = limit_batches(len(data.train_dataloader()), trainer.limit_train_batches)
    total = planned_updates(trainer, model, batches)
    accelerator = type(trainer.accelerator).__name__.removesuffix("Accelerator")
    return (
        f"{table}\n\n"
        f"data: {', '.join(f'{count:,} {name}' for name, count in sizes.items())}\n"
        f"global batch: {data.batch_size} {data.batch_unit} x {world} processes "
        f"x {accumulated} accumulated = {data.batch_size * world * accumulated}\n"
        f"steps: {math.ceil(batches / accumulated)} per epoch, "
        f"{'no limit' if total == math.inf else f'{total} in total'}, "
        f"precision {trainer.precision}, on {accelerator}{slow_precision(trainer)}"
    )


def slow_precision(trainer: Trainer) -> str:
    """Return a remark if the precision is bf16 on a CPU that only emulates it, else ""."""
    # Older releases of PyTorch do not tell the capabilities.
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    emulated = has.get("architecture") == "x86_64" and not (
        has.get("avx512_bf16") or has.get("amx_bf16")
    )
    on_cpu = isinstance(trainer.accelerator, CPUAccelerator)
    if on_cpu and emulated and str(trainer.precision).startswith("bf16"):
        return " without bf16 instructions: --trainer.precision 32-true is faster"
    return ""


class RunSummary(Callback):
    """Prints what a run trains when it starts, and the reason if it is stopped early.

    At the start, it prints the configuration, layers, data sizes, number of steps and directory.

    Args:
        config: Configuration as YAML text.
    """

    def __init__(self, config: str) -> None:
        self.config = config

    def on_fit_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if trainer.is_global_zero:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            print(
                f"{self.config}\n{describe(pl_module, data, trainer)}\n"
                f"run: {trainer.default_root_dir}\n",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        for callback in trainer.early_stopping_callbacks if trainer.is_global_zero else ():
            if callback.stopping_reason_message:
                print(f"stopped early: {callback.stopping_reason_message}", file=sys.stderr)
