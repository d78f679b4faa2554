"""Check that all processes of a distributed run have the same weights."""

import hashlib
from typing import Any

import torch


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
