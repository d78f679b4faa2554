"""What every data module promises: dictionaries as batches, counter-based randomness, and an order
that can be resumed.

Resuming must be exact, so nothing here keeps a random state. The order of an epoch is a function of
(seed, epoch), and each batch carries one integer `seed` mixed from (seed, rank, epoch, batch) from
which everything random about that batch is drawn: augmentation here, noise and dropout in
`GenerativeModule`. Skipping to batch n is then a slice.
"""

import os
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from common.errors import UserError
from datamodules.samplers import Request, ResumableBatchSampler, limit_batches


def corpus_root(root: str | None) -> Path:
    """Where corpora are kept: `data.root`, else the environment's DATA_ROOT, else `data/`."""
    return Path(root or os.environ.get("DATA_ROOT") or "data")


class BatchedDataset(Protocol):
    """A dataset that gathers a whole batch in one call, which is 60 times as fast as sample by
    sample.
    """

    def __len__(self) -> int: ...

    def __getitems__(self, request: Request) -> dict[str, Any]: ...


def identity(batch: dict[str, Any]) -> dict[str, Any]:
    """Collating is done by `__getitems__`; named, since workers pickle it."""
    return batch


class DataModule(LightningDataModule):
    """Base of all corpora. A subclass provides `data_spec`, `prepare_data` where something is to be
    made, and `split`.

    Args:
        batch_size: samples per process and training step.
        eval_batch_size: samples per process in validation and test; `batch_size` unless given.
        num_workers: loader processes; 0 is fastest for what lives in memory.
        root: where corpora are kept; DATA_ROOT or `data/` unless given.
        max_samples: a fixed random subset of that many training samples.

    Attributes:
        embedded: whether it comes with the dependencies, so that nothing has to be downloaded or
            placed.
        batch_unit: what `batch_size` counts.
        provides: Names of the values in `data_spec`, which a model receives if its `__init__` names
            them.
    """

    embedded: ClassVar[bool] = False
    provides: ClassVar[tuple[str, ...]] = ()
    batch_unit: ClassVar[str] = "samples"

    def __init__(
        self,
        batch_size: PositiveInt = 128,
        eval_batch_size: PositiveInt | None = None,
        num_workers: NonNegativeInt = 0,
        root: str | None = None,
        max_samples: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.max_samples = num_workers, max_samples
        self.root = corpus_root(root)
        self._splits: dict[str, BatchedDataset] = {}
        self._resume_epoch = self._resume_batch = 0

    @property
    def data_spec(self) -> dict[str, Any]:
        """Values about the corpus, known before any of it is read.

        They go into checkpoints, so they are plain: `int(size)`, not the parser's `PositiveInt`.
        """
        raise NotImplementedError

    def load_split(self, split: str) -> BatchedDataset:
        """Read one of "train", "val", "test"."""
        raise NotImplementedError

    def split(self, name: str) -> BatchedDataset:
        """One of "train", "val", "test", read at first use and kept."""
        if name not in self._splits:
            self._splits[name] = self.load_split(name)
        return self._splits[name]

    def loader_dataset(self, split: str) -> BatchedDataset:
        """The dataset that the loader of a split gathers its batches from."""
        return self.split(split)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples in each split."""
        return {name: len(self.split(name)) for name in ("train", "val", "test")}

    @property
    def seed(self) -> int:
        """Base seed of the run: what `seed_everything` was given last."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def loader(
        self, split: str, *, shuffle: bool = False, start: int = 0, batch_size: int | None = None
    ) -> DataLoader:
        """Batches of one split as dictionaries, not yet transformed."""
        data = self.loader_dataset(split)
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        batch_size = batch_size or (self.batch_size if shuffle else self.eval_batch_size)
        if not len(data):
            raise UserError(f"the {split} split has no samples: add some")
        if not shuffle and len(data) < world:  # a rank without any would leave the others waiting
            raise UserError(
                f"{world} processes are more than the {len(data)} samples of the {split} split: "
                "use fewer"
            )
        sampler = self.batch_sampler(
            data,
            batch_size,
            shuffle=shuffle,
            seed=self.seed,
            name=split,
            rank=rank,
            world=world,
            start=start,
        )
        return DataLoader(
            data,  # type: ignore[arg-type]  # torch types a dataset by __getitem__, but calls __getitems__ where there is one
            batch_sampler=sampler,
            collate_fn=identity,  # type: ignore[arg-type]  # gets the whole batch, since there is `__getitems__`
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            # otherwise each iterator draws its base seed from the global generator
            generator=torch.Generator(),
        )

    def batch_sampler(
        self, data: Any, batch_size: int, *, shuffle: bool, world: int, **options: Any
    ) -> Any:
        """What decides which samples a batch holds; `options` are those of
        `ResumableBatchSampler`.
        """
        if shuffle and batch_size * world > len(data):
            raise UserError(
                f"data.batch_size {batch_size} on {world} process(es) is more than the "
                f"{len(data)} training samples: lower it"
            )
        return ResumableBatchSampler(len(data), batch_size, shuffle=shuffle, world=world, **options)

    def train_dataloader(self) -> DataLoader:
        loader = self.loader("train", shuffle=True)
        sampler: Any = loader.batch_sampler
        # Set here and not by Lightning alone: workers ask for their first batches before its
        # `set_epoch` comes.
        limit = self.trainer.limit_train_batches if self.trainer else 1.0
        epochs, sampler.start = divmod(self._resume_batch, limit_batches(len(sampler), limit))
        sampler.set_epoch(self._resume_epoch + epochs)
        return loader

    def state_dict(self) -> dict[str, int]:
        """Position in the data. Lightning restores it before it builds the loaders; its own loops
        only afterwards, which is too late where a schedule asks for the number of steps.
        """
        fit: Any = self.trainer.fit_loop  # type: ignore[union-attr]
        # `processed`, not `ready`: a batch that was fetched but not trained on comes again.
        return {
            "epoch": fit.epoch_progress.current.ready - 1,
            "batch": fit.epoch_loop.batch_progress.current.processed,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resume_epoch, self._resume_batch = state_dict["epoch"], state_dict["batch"]

    def val_dataloader(self) -> DataLoader | list:
        return self.loader("val") if len(self.split("val")) else []

    def test_dataloader(self) -> DataLoader:
        return self.loader("test")

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        training = bool(self.trainer and self.trainer.training)
        return self.transform(batch, training=training)

    def transform(self, batch: dict[str, Any], *, training: bool = False) -> dict[str, Any]:
        """What is done to a batch on its device; everything random in it draws from
        `batch["seed"]`.
        """
        return batch

    def batch(self, split: str, index: list[int], *, seed: int = 0) -> dict[str, Any]:
        """The named samples of a split as a finished batch on the CPU; indices wrap around."""
        data = self.split(split)
        if not len(data):
            raise UserError(f"the {split} split has no samples: add some")
        return self.transform(data.__getitems__(Request(torch.tensor(index) % len(data), seed)))
