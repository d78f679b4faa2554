"""Exponential moving average of weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_modules.core.sharding import ShardedModule


class AveragedWeights(nn.Module):
    """Exponential moving averages of the parameters and buffers of submodules.

    Integer buffers are copied instead of averaged. `update` does not synchronise the CPU with the
    GPU.

    Args:
        networks: Submodules to average, keyed by name.

    Attributes:
        networks: Copies of the submodules, with averaged parameters and buffers.
        updates: Number of calls of `update`, an int64 scalar.
    """

    updates: Tensor

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(
            {name: deepcopy(network).requires_grad_(False) for name, network in networks.items()}
        )
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, networks: dict[str, nn.Module], decay: float) -> None:
        """Replace each average by `decay * average + (1 - decay) * trained`.

        Args:
            networks: Trained submodules, keyed by name.
            decay: Decay of the average, in [0, 1]; 0 copies the trained values.
        """
        averages: list[Tensor] = []
        states: list[Tensor] = []
        for name, average in self.networks.items():
            network = networks[name]
            for mine, state in zip(
                [*average.parameters(), *average.buffers()],  # shared tensors occur once
                [*network.parameters(), *network.buffers()],
                strict=True,
            ):
                if mine.is_floating_point():
                    averages.append(mine)
                    states.append(state)
                else:
                    mine.copy_(state)
        torch._foreach_lerp_(averages, states, 1 - decay)
        self.updates += 1


class AveragingModule(ShardedModule):
    """LightningModule that can maintain moving averages of the weights of its submodules.

    Attributes:
        ema_modules: Names of the submodules whose weights are averaged if `init_ema` is called.
        ema: Averaged weights; None if `init_ema` was not called.
    """

    ema_modules: ClassVar[tuple[str, ...]] = ()
    if TYPE_CHECKING:
        hparams: Any  # Lightning declares a mapping without attribute access

    def __init__(self) -> None:
        super().__init__()
        self.ema: AveragedWeights | None = None
        self._weights_chosen = False

    def init_ema(self) -> None:
        """Start to average the submodules in `ema_modules`.

        Subclasses call this method at the end of `__init__`.
        """
        self.ema = AveragedWeights({name: getattr(self, name) for name in self.ema_modules})

    def ema_decay_at(self, update: int) -> float | None:
        """Return the decay of the averages after an update; None leaves the averages unchanged.

        By default, the decay rises from 0.1 to the hyper-parameter `ema_decay`. With a constant
        decay of 0.999, the initial weights would still be 74 % of the average after 300 updates.

        Args:
            update: Number of the completed update; the first is 1.
        """
        return min(self.hparams.ema_decay, update / (9 + update))

    def update_ema(self, update: int) -> None:
        """Update the averages after update number `update`; the first is 1."""
        if self.ema is None or (decay := self.ema_decay_at(update)) is None:
            return
        self.ema.update({name: getattr(self, name) for name in self.ema_modules}, decay)

    @property
    def has_averaged_weights(self) -> bool:
        """True if `init_ema` was called and the averages were updated at least once."""
        return self.ema is not None and bool(self.ema.updates > 0)

    @contextmanager
    def averaged_weights(self, enabled: bool = True) -> Iterator[None]:
        """Replace the submodules in `ema_modules` by their averages inside the `with` block.

        Without averages, nothing is replaced. In nested blocks, only the `enabled` of the outermost
        block has an effect. `sample` and `preview` open such a block themselves.

        Args:
            enabled: Whether to use the averages. False uses the trained weights, also in nested
                blocks.
        """
        if self._weights_chosen:
            yield
            return
        trained: dict[str, nn.Module] = {}
        self._weights_chosen = True
        try:
            if enabled and self.ema is not None and self.has_averaged_weights:
                trained = {name: getattr(self, name) for name in self.ema_modules}
                for name, average in self.ema.networks.items():
                    setattr(self, name, average)
            yield
        finally:
            self._weights_chosen = False
            for name, network in trained.items():
                setattr(self, name, network)
