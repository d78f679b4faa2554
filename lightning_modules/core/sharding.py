"""Sharding of weights, gradients and optimizer states over processes (FSDP2)."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from common.errors import UserError
from lightning_modules.core.sharded_checkpoints import (
    SHARDS,
    load_shards,
    new_name,
    remove_shards,
    write_shards,
)
from lightning_modules.nn.transformer import CrossAttention, Residual

STEPS = ("training_step", "validation_step", "test_step")


class FullySharded(ModelParallelStrategy):
    """Strategy that shards parameters, gradients and optimizer states over the processes (FSDP2).

    The weights of a Transformer block are gathered for its forward and backward pass only (Zhao et
    al., "PyTorch FSDP", 2023). Buffers and frozen systems stay whole. Updates equal those of DDP up
    to rounding. A checkpoint is one file with whole tensors, as with every other strategy, or has
    shards. Either can be resumed with any strategy and number of processes.

    Args:
        recompute: Whether the backward pass recomputes the activations inside a block instead of
            storing them (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).
        sharded_checkpoints: Whether each process writes its part of weights and optimizer states.
            If False, the first process collects and writes them all.

    Raises:
        UserError: If the system cannot be sharded, or if its optimizer is Muon.
    """

    def __init__(self, recompute: bool = False, sharded_checkpoints: bool = False) -> None:
        super().__init__(save_distributed_checkpoint=sharded_checkpoints)
        self.recompute = recompute

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        super().setup(trainer)
        if any(getattr(one, "needs_whole_matrices", False) for one in self.optimizers):
            raise UserError(
                "--trainer.strategy fsdp2 cannot train with Muon, which needs whole matrices: use "
                "ddp, or --model.optimizer adamw"
            )

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        # Without --run_dir, each process would name the directory of the run after its own clock.
        path, name = Path(self.broadcast(str(filepath))), self.broadcast(new_name())
        write_shards(checkpoint, path, name, self.global_rank, self.world_size)
        self.barrier()
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)
            remove_shards(path, keep=name)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if SHARDS not in content:
            return super().load_checkpoint(path, weights_only)
        assert self.model is not None
        load_shards(path, content, self.model, self.optimizers)
        return content

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Return a context in which backward passes exchange no gradients.

        Lightning enters it for all but the last of the accumulated batches. Until the exchange,
        each process keeps the gradients of whole weights, 4 bytes per parameter.
        """
        module: FSDPModule = self.model  # type: ignore[assignment]
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole of a sharded tensor, and other tensors unchanged; all ranks must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class ShardedModule(LightningModule):
    """LightningModule whose weights are sharded if the strategy is `FullySharded`."""

    @property
    def is_sharded(self) -> bool:
        """Whether each process has only a part of each weight."""
        return self._trainer is not None and isinstance(self.trainer.strategy, FullySharded)

    def configure_model(self) -> None:
        """Shard each Transformer block, and the rest of the system as one more group.

        Raises:
            UserError: If the system has no Transformer blocks, or a scalar parameter.
        """
        if not self.is_sharded or isinstance(self, FSDPModule):
            return
        blocks = [part for part in self.modules() if isinstance(part, Residual)]
        scalars = any(parameter.dim() == 0 for parameter in self.parameters())
        if scalars or not blocks:
            reason = "a scalar parameter" if blocks else "no Transformer blocks"
            raise UserError(
                f"--trainer.strategy fsdp2: {type(self).__name__} has {reason}; use ddp"
            )
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        for part in self.modules():
            if isinstance(part, CrossAttention):  # `project` is called before the block's `forward`
                fully_shard(part, mesh=mesh)
                register_fsdp_forward_method(part, "project")
        for block in blocks:
            if self.trainer.strategy.recompute:  # type: ignore[attr-defined]
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
            fully_shard(block, mesh=mesh)
        own = type(self)
        fully_shard(self, mesh=mesh, reshard_after_forward=True, ignored_params=self._frozen())
        # FSDP has replaced the class by a subclass. Checkpoints and titles name the system's own.
        for name in ("__module__", "__name__", "__qualname__"):
            setattr(type(self), name, getattr(own, name))
        for name in STEPS:  # the weights outside of blocks are whole during these methods
            register_fsdp_forward_method(self, name)

    def _frozen(self) -> set[nn.Parameter]:
        """Return the parameters of frozen systems, such as DALL-E's discrete VAE."""
        found: set[nn.Parameter] = set()
        for name, part in self.named_children():
            parameters = set(part.parameters())
            # Averages are copies of trained weights, and are sharded like them.
            if name != "ema" and not any(p.requires_grad for p in parameters):
                found |= parameters
        return found

    # In an evaluation, each process has whole weights: texts need different numbers of steps, and
    # processes may have different numbers of batches, so they cannot exchange anything in a step.

    def on_validation_start(self) -> None:
        self._gather_weights()
        self._share_buffers()

    def on_validation_end(self) -> None:
        self._drop_gathered_weights()
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            self.trainer.strategy.model.require_forward_param_sync = True

    def on_test_start(self) -> None:
        self._gather_weights()

    def _share_buffers(self) -> None:
        """Give all processes the buffers of rank 0, as DDP does before each batch of training.

        Buffers that are not in checkpoints are constants.
        """
        wrapped = self.trainer.strategy.model
        if not isinstance(wrapped, DistributedDataParallel):
            return
        weights = {name for name, _ in self.named_parameters()}
        for name, value in self.state_dict().items():
            if name not in weights:
                whole = value.contiguous()
                torch.distributed.broadcast(whole, 0)
                value.copy_(whole)
        wrapped.require_forward_param_sync = False

    def _gather_weights(self) -> None:
        for part in self.modules():
            if isinstance(part, FSDPModule):
                part.set_reshard_after_forward(False, recurse=False)
                part.unshard()

    def _drop_gathered_weights(self) -> None:
        for part in self.modules():
            if isinstance(part, FSDPModule):
                part.set_reshard_after_forward(True, recurse=False)
                part.reshard()


StrategyRegistry.register("fsdp2", FullySharded, "FSDP2: shards weights, gradients and moments")
StrategyRegistry.register(
    "fsdp2_recompute", FullySharded, "FSDP2 that recomputes activations", recompute=True
)
