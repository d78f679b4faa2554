"""Dataset of records (independent examples of a corpus), and a sampler of similar lengths."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.samplers import PlannedBatchSampler, Request
from datamodules.text.storage import batch_of, padded


class Records:
    """Dataset of records: independent examples of a corpus, each between `<bos>` and `<eos>`.

    The records of a batch are padded to the longest record.

    Args:
        ids: Token ids of all records, concatenated (L,).
        starts: Start index of each record in `ids`, and end of the last record, int64 (R + 1,).
        pad_id: Id of the padding token.
    """

    def __init__(self, ids: np.ndarray, starts: np.ndarray, pad_id: int) -> None:
        self.ids, self.starts, self.pad_id = ids, starts, pad_id

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitems__(self, request: Request) -> dict[str, Any]:
        tokens, lengths = padded(self.ids, self.starts, request.index.numpy(), self.pad_id)
        return batch_of(tokens, lengths - 1, request, first=True)


class LengthBatchSampler(PlannedBatchSampler):
    """Batch sampler of training batches of records (examples of a corpus) with similar lengths.

    Each epoch leaves out a random remainder of less than a batch. The other records are sorted by
    length; records of equal length are in random order. They are cut into batches of nearly equal
    numbers of tokens, and the batches are shuffled. In batches of about 64 captions, padding is
    then 1 % of the ids instead of 49 %.

    Batches with equal numbers of records would change the objective, because the loss is the mean
    over the tokens of a batch: a token of a short record would have several times the weight of a
    token of a long record.

    Args:
        lengths: Number of tokens of each record, int64 (N,).
        batch_size: Number of records per rank and batch, averaged over an epoch. Each batch has at
            least one record per rank.
        **options: Arguments of `BatchSampler`.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, **options: Any) -> None:
        super().__init__(len(lengths), batch_size, **options)
        self.lengths = torch.from_numpy(lengths)

    def __len__(self) -> int:
        return self.size // (self.batch_size * self.world)

    def plan(self, samples: Tensor, batch_size: int, world: int) -> list[Tensor]:
        generator = self.generator()
        count = len(samples) // (batch_size * world)
        if not count:
            return []
        chosen = samples[
            torch.randperm(len(samples), generator=generator)[: count * batch_size * world]
        ]
        chosen = chosen[self.lengths[chosen].argsort(stable=True)]
        tokens = self.lengths[chosen].cumsum(0)
        batch = torch.arange(1, count + 1)
        ends = torch.searchsorted(tokens, tokens[-1] * batch // count) + 1
        # Each batch has at least one record for each rank.
        ends = (ends - batch * world).cummax(0).values + batch * world
        ends = torch.minimum(ends, len(chosen) - (count - batch) * world)
        parts = chosen.tensor_split(ends[:-1])
        return [parts[i] for i in torch.randperm(count, generator=generator).tolist()]
