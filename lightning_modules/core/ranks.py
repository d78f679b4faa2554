"""Average tensors over the processes of a distributed run, and check that their weights agree."""

import hashlib
from typing import Any

import torch
from torch import Tensor


def average_over_ranks(tensors: list[Tensor]) -> None:
    """Replace tensors by their means over all ranks, in one message.

    All ranks must give tensors of the same shapes in the same order.
    """
    if tensors:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [a.view_as(b) for a, b in zip(parts, tensors)])


def check_ranks_agree(module: torch.nn.Module) -> None:
    """Check that every parameter and buffer is equal on all ranks, by comparing hashes.

    The check is needed because a checkpoint contains only the weights of rank 0.

    Raises:
        RuntimeError: If a tensor differs between two ranks.
    """
    mine = {}
    for name, value in module.state_dict().items():
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        mine[name] = hashlib.blake2b(data.tobytes(), digest_size=16).hexdigest()
    every: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, mine)
    for rank, theirs in enumerate(every):
        for name, digest in every[0].items():
            if theirs.get(name) != digest:
                raise RuntimeError(
                    f"{name} differs between rank 0 and rank {rank}: the ranks have diverged"
                )
