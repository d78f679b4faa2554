"""Exponential moving average of weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn


class AveragedWeights(nn.Module):
    """Averages of the states of some submodules.

    Parameters and floating-point buffers are averaged, integer buffers are copied. Nothing is
    synchronised with the host.

    Args:
        networks: Submodules to average, by name.

    Attributes:
        networks: Copies of the submodules that hold the averages.
        updates: Number of states that were averaged, an int64 scalar.
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
        """Average one more state: `decay * average + (1 - decay) * state`.

        Args:
            networks: The submodules that are trained, by name.
            decay: Weight of the past, in [0, 1]; 0 copies the state.
        """
        averages: list[Tensor] = []
        states: list[Tensor] = []
        for name, average in self.networks.items():
            network = networks[name]
            for mine, state in zip(
                [*average.parameters(), *average.buffers()],  # shared ones occur once
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


class AveragingModule(LightningModule):
    """LightningModule that may average the weights of some of its submodules.

    Attributes:
        ema_modules: Names of the submodules whose weights are averaged, after `init_ema`.
        ema: The averages, or None.
    """

    ema_modules: ClassVar[tuple[str, ...]] = ()
    if TYPE_CHECKING:
        hparams: Any  # Lightning types it as a plain mapping

    def __init__(self) -> None:
        super().__init__()
        self.ema: AveragedWeights | None = None
        self._weights_chosen = False

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One update, then the averages: before a checkpoint of this update can be written."""
        super().optimizer_step(*args, **kwargs)
        self.update_ema(self.trainer.global_step + 1)  # counted after this hook

    def init_ema(self) -> None:
        """Begin to average the submodules in `ema_modules`; called at the end of `__init__`."""
        self.ema = AveragedWeights({name: getattr(self, name) for name in self.ema_modules})

    def ema_decay_at(self, update: int) -> float | None:
        """Weight of the past in the averages after update 1, 2, ...; None leaves them as they are.

        The default rises to `ema_decay`, so that the initial weights are soon forgotten: a constant
        decay of 0.999 gives them a weight of 0.74 after 300 updates.

        Args:
            update: Number of the update that was made.
        """
        return min(self.hparams.ema_decay, update / (9 + update))

    def update_ema(self, update: int) -> None:
        """Average the weights after update 1, 2, ..."""
        if self.ema is None or (decay := self.ema_decay_at(update)) is None:
            return
        self.ema.update({name: getattr(self, name) for name in self.ema_modules}, decay)

    @property
    def has_averaged_weights(self) -> bool:
        """Whether at least one state was averaged."""
        return self.ema is not None and bool(self.ema.updates > 0)

    @contextmanager
    def averaged_weights(self, enabled: bool = True) -> Iterator[None]:
        """Replace the submodules in `ema_modules` by their averages inside the block.

        Without averages nothing changes. Of nested blocks, the outermost one decides; `sample` and
        `preview` are such blocks.

        Args:
            enabled: Use the averages; False keeps the trained weights, also in nested blocks.
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
