"""Choose the options of DDP that a system needs."""

from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy

DDP = ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")


def strategy_for(config: Namespace, find_unused_parameters: bool) -> Any:
    """Return `trainer.strategy`, with DDP's search for unused parameters if the system needs it.

    Other strategies are returned as given. DDP may be given by name, as a class with
    arguments, or as "auto", for which Lightning chooses DDP with several processes.

    Args:
        config: Options of the trainer.
        find_unused_parameters: Whether some parameters of the system get no gradient in a step.
    """
    name = config.strategy
    if not find_unused_parameters:
        return name
    if isinstance(name, Namespace) and "find_unused_parameters" in name.get("init_args", {}):
        name.init_args.find_unused_parameters = True
        return name
    if name not in ("auto", *DDP):
        return name
    if name == "auto":
        probe = Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        if not isinstance(probe.strategy, DDPStrategy):  # Lightning runs one process
            return name
        name = "ddp"
    return f"{name}_find_unused_parameters_true"
