"""Exponential moving average of weights."""

from copy import deepcopy

import torch
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
