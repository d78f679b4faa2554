"""Check options of Lightning's Trainer and of optimizers that would fail or be ignored later."""

import inspect
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import Namespace
from jsonargparse.typing import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)
from pytorch_lightning import Callback, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from callbacks.attention_maps import AttentionMaps
from callbacks.fid import FID
from callbacks.gradient_histograms import GradientHistograms
from callbacks.previews import Previews
from cli.class_options import class_parameters
from cli.classes import init_parameters
from cli.options import number
from common.errors import UserError
from lightning_modules.core.module import GenerativeModule
from lightning_modules.core.sharding import FullySharded

# Options that a run replaces, and what to do instead.
REPLACED = {
    "default_root_dir": "give --run_dir, the directory for the run's files",
    "use_distributed_sampler": "leave it out: the data module divides the data between processes",
    "barebones": "leave it out: a run without checkpoints and logs cannot be resumed",
    "num_sanity_val_steps": "leave it out; --trainer.fast_dev_run 1 tries training and validation",
}

Limit = restricted_number_type("Limit", int, (">=", -1))  # -1: no limit
# Ranges that Lightning does not check, or reports too late.
RANGES: dict[str, Callable[[str], float]] = {
    **{"max_steps": Limit, "max_epochs": Limit, "min_steps": Limit, "min_epochs": Limit},
    **{"log_every_n_steps": PositiveInt, "check_val_every_n_epoch": PositiveInt},
    **{"accumulate_grad_batches": PositiveInt, "num_nodes": PositiveInt},
    **{"gradient_clip_val": NonNegativeFloat, "overfit_batches": NonNegativeFloat},
    **{f"limit_{name}_batches": NonNegativeFloat for name in ("train", "val", "test")},
    "val_check_interval": PositiveFloat,
    "reload_dataloaders_every_n_epochs": NonNegativeInt,
}
DEFAULTS = inspect.signature(Trainer).parameters


def check_trainer_options(options: Namespace, system: type[GenerativeModule]) -> None:
    """Check the options of the Trainer before it is built.

    Args:
        options: Options of the Trainer.
        system: Class of the model.

    Raises:
        UserError: If the run or the system does not support an option.
    """
    for name, kind in RANGES.items():
        if isinstance(options[name], int | float):  # val_check_interval may be a time
            try:
                number(kind)(str(options[name]))
            except ArgumentTypeError as error:
                raise UserError(f"--trainer.{name} {error}") from error
    for name, advice in REPLACED.items():
        if options[name]:
            raise UserError(f"--trainer.{name} cannot be set; {advice}")
    for name, advice in system.replaced_trainer_options.items():
        if options[name] and options[name] != DEFAULTS[name].default:
            raise UserError(
                f"--trainer.{name} {options[name]}: {system.__name__} does not support this "
                f"option; {advice}"
            )


def supported_accelerator(accelerator: Any) -> Any:
    """Return the accelerator to use: "cpu" instead of "auto" where this would choose MPS.

    Metrics and samplers need float64, which MPS (the GPU of Apple silicon) lacks.

    Raises:
        UserError: If the accelerator is "mps", or "gpu" where this would be MPS.
    """
    found = torch.backends.mps.is_available()
    if accelerator == "mps" or (accelerator == "gpu" and found):
        raise UserError(
            f"--trainer.accelerator {accelerator}: the GPU of Apple silicon is not supported, as "
            "it has no float64; use cpu"
        )
    return "cpu" if accelerator == "auto" and found else accelerator


def remove_rank_zero_callbacks(trainer: Trainer) -> None:
    """Remove callbacks that run the model on rank 0 only, if weights are sharded.

    Raises:
        UserError: If weights are sharded, and FID or histograms of gradients are to be computed.
    """
    if not isinstance(trainer.strategy, FullySharded):
        return
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for kind, option in ((FID, "fid.count"), (GradientHistograms, "gradient_histograms")):
        if any(isinstance(callback, kind) for callback in callbacks):
            raise UserError(
                f"--{option} is not supported with --trainer.strategy fsdp2: leave it out"
            )
    kept = [one for one in callbacks if not isinstance(one, Previews | AttentionMaps)]
    trainer.callbacks = kept  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        print(
            "note: no previews and attention maps are drawn, because --trainer.strategy fsdp2 "
            "shards the weights; sample from the checkpoints",
            file=sys.stderr,
        )


def check_optimizers(model: GenerativeModule) -> None:
    """Build each optimizer and its schedule for one parameter, to find wrong arguments early.

    Raises:
        UserError: If an optimizer or a schedule rejects an argument, or if a schedule of an
            adversarial system needs a metric.
    """
    kinds = class_parameters(init_parameters(type(model)))
    names = [name for name, base in kinds.items() if issubclass(base, Optimizer)]
    for name, (make, schedule) in zip(names, model.optimizer_factories):
        try:
            optimizer = make([torch.nn.Parameter(torch.zeros(1))])
            made = None if schedule is None else schedule(optimizer)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"--model.{name} cannot be used: {error}; correct its arguments"
            ) from error
        if isinstance(made, ReduceLROnPlateau) and not model.automatic_optimization:
            raise UserError(
                f"the schedules of {type(model).__name__} act at each update, without a metric: "
                "give another one than ReduceLROnPlateau"
            )
