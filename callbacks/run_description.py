"""What a run is, as the plain values that Weights & Biases and TensorBoard filter runs by."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Trainer

from callbacks.run_files import origin
from common.files import ROOT
from common.run import Run
from datamodules.samplers import accumulated_batches
from lightning_modules.core.adversarial import AdversarialModule
from lightning_modules.core.module import GenerativeModule, plain

# Entries of an optimizer's parameter groups that are no settings, or have no value to compare.
NO_SETTINGS = ("params", "betas", "initial_lr", "lr", "foreach", "fused", "capturable")


def describe_run(
    config: Mapping[str, Any], trainer: Trainer, module: GenerativeModule
) -> dict[str, Any]:
    """Return the resolved configuration and environment of a run, as nested plain values.

    The first keys are short names for what runs are filtered by, such as `system`, `batch_size`,
    `optimizer` and `machine`. After these come the sections of the configuration, such as `model`
    and `trainer`. The section `model` includes the values that the data module provides.

    Args:
        config: Configuration that is saved as `config.yaml`.
        trainer: Trainer of the run, with the optimizers built.
        module: System that is trained.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    sections = {name: without_init_args(value) for name, value in config.items()}
    sections["model"] = {**sections["model"], **module.hparams}
    about = {
        "system": type(module).__name__,
        "data_module": type(data).__name__,
        "recipe": recipe(Run(trainer.default_root_dir).read().get("sources", [])),
        "run_dir": str(trainer.default_root_dir),
        "seed": sections.pop("seed_everything", None),
        "batch_size": data.batch_size,
        "global_batch_size": data.batch_size
        * trainer.world_size
        * accumulated_batches(trainer, module),
        "precision": trainer.precision,
        "accelerator": type(trainer.accelerator).__name__.removesuffix("Accelerator").lower(),
        "devices": trainer.num_devices,
        "nodes": trainer.num_nodes,
        "world_size": trainer.world_size,
        "strategy": type(trainer.strategy).__name__,
        "optimizer": optimizer_settings(trainer, module),
        "parameters": parameter_counts(module),
        "machine": machine(),
        "split_sizes": {split: len(data.split(split)) for split in ("train", "val")},
        **origin(),
        **first_command(trainer),
        **sections,
    }
    found: dict[str, Any] = plain(about)  # W&B would store numbers of restricted types as text
    return found


def first_command(trainer: Trainer) -> dict[str, str]:
    """Return the command line that started a run, keyed "command"; empty for a run without files.

    The command line of a resumed run would otherwise take the place of the first one.
    """
    path = Path(trainer.default_root_dir) / "run.yaml"
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8") as file:
        return {"command": next(yaml.safe_load_all(file))["command"]}


def without_init_args(value: Any) -> Any:
    """Return a configuration with the arguments of each class at the level of its `class_path`."""
    if isinstance(value, dict):
        inner = value.get("init_args") or {}
        own = {name: part for name, part in value.items() if name != "init_args"}
        return {name: without_init_args(part) for name, part in {**own, **inner}.items()}
    return [without_init_args(part) for part in value] if isinstance(value, list) else value


def recipe(sources: list[str]) -> str:
    """Return the names of configuration files, such as "vae/openmoji", joined by "+"."""
    names = []
    for source in map(Path, sources):
        inside = source.is_relative_to(ROOT / "configs")
        path = source.relative_to(ROOT / "configs") if inside else Path(source.name)
        names.append(path.with_suffix("").as_posix())
    return "+".join(names)


def optimizer_settings(trainer: Trainer, module: GenerativeModule) -> dict[str, Any]:
    """Return class and settings of the optimizer; of two, keyed "generator" and "discriminator".

    `lr` is the learning rate without its schedule. A setting that differs between parameter groups
    is a list.
    """
    found = []
    for optimizer in trainer.optimizers:
        settings: dict[str, Any] = {"class": type(optimizer).__name__}
        groups = [group_settings(group) for group in optimizer.param_groups]
        for name in dict.fromkeys(name for group in groups for name in group):
            values = list(dict.fromkeys(group[name] for group in groups if name in group))
            settings[name] = values[0] if len(values) == 1 else values
        found.append(settings)
    if len(found) == 1:
        return found[0]
    if isinstance(module, AdversarialModule):
        return dict(zip(("generator", "discriminator"), found))
    return {str(number): settings for number, settings in enumerate(found)}


def group_settings(group: dict[str, Any]) -> dict[str, Any]:
    """Return the numeric settings of a parameter group: `lr`, `beta1`, `beta2` and others."""
    settings = {"lr": group.get("initial_lr", group["lr"])}
    settings |= {f"beta{number}": beta for number, beta in enumerate(group.get("betas", ()), 1)}
    settings |= {
        name: value
        for name, value in group.items()
        if name not in NO_SETTINGS and isinstance(value, int | float)
    }
    return {
        name: value.item() if isinstance(value, torch.Tensor) else value
        for name, value in settings.items()
    }


def parameter_counts(module: GenerativeModule) -> dict[str, int]:
    """Return the number of all and of all trainable parameters, and of each network by its name."""
    counts = {
        "total": sum(one.numel() for one in module.parameters()),
        "trainable": sum(one.numel() for one in module.parameters() if one.requires_grad),
    }
    for name, network in module.named_children():
        if count := sum(one.numel() for one in network.parameters()):
            counts[name] = count
    return counts


def machine() -> dict[str, Any]:
    """Return the names and numbers of the processors of this computer."""
    cpu = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        cpu = named[0] if named else cpu
    except OSError:  # not Linux
        pass
    try:
        cores = len(os.sched_getaffinity(0))  # available to this process
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    found: dict[str, Any] = {"system": platform.system(), "cpu": cpu, "cores": cores}
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "gpus": torch.cuda.device_count()}
    return found
