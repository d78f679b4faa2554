"""Base class of all data modules: batches are dictionaries, and a run can resume exactly.

No random state is stored. The order of the samples in an epoch is a function of the run's seed and
the epoch. A resumed run uses the samples of this order that it has not used yet, also with another
batch size or number of processes. Each batch has an integer `seed`, a hash of the run's seed, the
split, the rank, the epoch and the batch number. This seed determines all randomness of the batch
(augmentation in the data module, noise and dropout in `GenerativeModule`), except the positions of
random text windows, which follow from the order of the epoch.
"""

import os
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from common.errors import UserError
from datamodules.samplers import (
    Part,
    Request,
    ResumableBatchSampler,
    accumulated_batches,
    limit_batches,
    merge,
)


def corpus_root(root: str | None) -> Path:
    """Return the data folder: `root`, else the environment variable DATA_ROOT, else `data/`."""
    return Path(root or os.environ.get("DATA_ROOT") or "data")


class BatchedDataset(Protocol):
    """Dataset that returns a batch in one call, 60 times as fast as one sample per call."""

    def __len__(self) -> int: ...

    def __getitems__(self, request: Request) -> dict[str, Any]: ...


def identity(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the batch unchanged: `__getitems__` has already collated it.

    It is a named function, because worker processes pickle it and a lambda cannot be pickled.
    """
    return batch


class DataModule(LightningDataModule):
    """Base class of all data modules.

    A subclass implements `data_spec` and `load_split`, and `prepare_data` if the data are
    downloaded or encoded first.

    Args:
        Batches:
        batch_size: Number of samples per process and training step. Ignored in training if
            `global_batch_size` is given.
        global_batch_size: Number of samples per update, on all processes together. The batch of a
            process is this number, divided by the numbers of processes and accumulated batches.
        eval_batch_size: Number of samples per process and step in validation and test. Defaults to
            the option `batch_size`.
        num_workers: Number of loader processes. 0 loads in the main process, the fastest choice for
            data in memory.
        Files:
        root: Folder of all data. Defaults to the environment variable DATA_ROOT, else `data/`.
        max_samples: Number of training samples to use. Text corpora use the first samples; all
            other data use a fixed random subset. Defaults to all samples.

    Attributes:
        embedded: Whether the data are part of an installed package and need no download.
        licence: Source and licence of the data, for model cards; "" if unknown.
        batch_unit: Unit of `batch_size` and `global_batch_size`, "samples" or "tokens".
        provides: Names of the values in `data_spec`. Each value is passed to the model if the
            `__init__` of the model has a parameter of this name.
    """

    embedded: ClassVar[bool] = False
    licence: ClassVar[str] = ""
    provides: ClassVar[tuple[str, ...]] = ()
    batch_unit: ClassVar[str] = "samples"

    def __init__(
        self,
        batch_size: PositiveInt = 128,
        global_batch_size: PositiveInt | None = None,
        eval_batch_size: PositiveInt | None = None,
        num_workers: NonNegativeInt = 0,
        root: str | None = None,
        max_samples: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.global_batch_size = global_batch_size
        self.num_workers, self.max_samples = num_workers, max_samples
        self.root = corpus_root(root)
        self._splits: dict[str, BatchedDataset] = {}
        self._resumed: dict[str, Any] | None = None  # position to resume at
        # Parts of one epoch that were trained with other batch sizes, this epoch, and the number of
        # the first batch after these parts.
        self._used: list[Part] = []
        self._used_epoch = self._first = 0
        self._start = 0  # number of the first batch of a resumed run
        # Batch size of the training loader, and number of processes.
        self._batch = (int(self.batch_size), 1)

    @property
    def data_spec(self) -> dict[str, Any]:
        """Values that a model may take as parameters, such as `image_shape` or `vocab_size`.

        Checkpoints store these values, so their types are plain: `int(size)`, not the parser's
        `PositiveInt`.
        """
        raise NotImplementedError

    @property
    def changeable(self) -> set[str]:
        """Options that may change when a run resumes: samples and their order stay the same."""
        return {"batch_size", "eval_batch_size", "num_workers", "root"}

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trainer is not None:
            self.divide_global_batch(self.trainer, self.trainer.lightning_module)

    def divide_global_batch(self, trainer: Any, module: Any) -> None:
        """Set the batch size of a process if `global_batch_size` is given.

        Raises:
            UserError: If `global_batch_size` is not a multiple of the number of processes times the
                number of accumulated batches.
        """
        total = self.global_batch_size
        if total is None:
            return
        world, accumulated = trainer.world_size, accumulated_batches(trainer, module)
        if total % (world * accumulated):
            raise UserError(
                f"data.global_batch_size {total} is not divisible by {world} process(es) times "
                f"{accumulated} accumulated batch(es): change one of these numbers"
            )
        self.batch_size = total // (world * accumulated)

    def load_split(self, split: str) -> BatchedDataset:
        """Read the split "train", "val" or "test"."""
        raise NotImplementedError

    def split(self, name: str) -> BatchedDataset:
        """Return the split "train", "val" or "test", read at the first call and then cached."""
        if name not in self._splits:
            self._splits[name] = self.load_split(name)
        return self._splits[name]

    def loader_dataset(self, split: str) -> BatchedDataset:
        """Return the dataset from which the loader of a split gathers batches."""
        return self.split(split)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of samples in each split."""
        return {name: len(self.split(name)) for name in ("train", "val", "test")}

    @property
    def seed(self) -> int:
        """Base seed of the run, as last set by `seed_everything`."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def loader(
        self, split: str, *, shuffle: bool = False, batch_size: int | None = None
    ) -> DataLoader:
        """Return the loader of a split; `transform` is applied to its batches later, on the device.

        Raises:
            UserError: If the split has no samples, or if an evaluation split has fewer samples than
                the number of processes.
        """
        data = self.loader_dataset(split)
        data_on_device = getattr(data, "on_device", False)
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        batch_size = batch_size or (self.batch_size if shuffle else self.eval_batch_size)
        if not len(data):
            raise UserError(f"the {split} split has no samples: add some")
        if not shuffle and len(data) < world:  # the others would wait for a rank without samples
            raise UserError(
                f"the {split} split has {len(data)} samples, fewer than the {world} processes: "
                "use fewer processes"
            )
        sampler = self.batch_sampler(
            data,
            batch_size,
            shuffle=shuffle,
            seed=self.seed,
            name=split,
            rank=rank,
            world=world,
        )
        sampler.repeats = not shuffle
        return DataLoader(
            data,  # type: ignore[arg-type]  # torch calls __getitems__ instead of __getitem__
            batch_sampler=sampler,
            collate_fn=identity,  # type: ignore[arg-type]  # receives a collated batch
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available() and not data_on_device,
            # Without this argument, each iterator would use up a number of the global generator.
            generator=torch.Generator(),
        )

    def batch_sampler(
        self, data: Any, batch_size: int, *, shuffle: bool, world: int, **options: Any
    ) -> Any:
        """Return the sampler of a split's batches; `options` are passed to `ResumableBatchSampler`.

        Raises:
            UserError: If a training batch needs more samples than the split has.
        """
        if shuffle and batch_size * world > len(data):
            largest = len(data) // world
            option, most = "batch_size", largest
            if self.global_batch_size:
                option, most = "global_batch_size", largest * self.global_batch_size // batch_size
            remedy = f"use --data.{option} {most} or less" if largest else "use fewer processes"
            raise UserError(
                f"data.batch_size {batch_size} on {world} process(es) exceeds the "
                f"{len(data)} training samples: {remedy}"
            )
        return ResumableBatchSampler(len(data), batch_size, shuffle=shuffle, world=world, **options)

    def train_dataloader(self) -> DataLoader:
        """Return the loader of the training split, at the position at which the run resumes.

        Raises:
            UserError: If `trainer.limit_train_batches` leaves no batch.
        """
        loader = self.loader("train", shuffle=True)
        sampler: Any = loader.batch_sampler
        limit = self.trainer.limit_train_batches if self.trainer else 1.0
        batches = limit_batches(len(sampler), limit)
        if not batches:
            raise UserError(
                f"trainer.limit_train_batches {limit} leaves none of the {len(sampler)} training "
                "batches; raise it"
            )
        self._batch = (int(sampler.batch_size), sampler.world)
        if self.trainer:
            sampler.fixed_order = self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
            # Set the epoch now: workers request batches before Lightning calls `set_epoch`.
            sampler.set_epoch(self.trainer.current_epoch)
        if self._resumed and (
            not self.trainer or self.trainer.current_epoch <= self._resumed["epoch"]
        ):
            self._seek(sampler, batches, **self._resumed)
        return loader

    def adapt_progress(self, progress: dict[str, int]) -> None:
        """Convert Lightning's counts of an epoch's batches if the batch size has changed.

        Args:
            progress: Counts in the checkpoint that the run resumes. They are changed in place.
        """
        self.train_dataloader()
        shift = self._start - progress["processed"]
        progress.update({name: count + shift for name, count in progress.items()})

    def _seek(self, sampler: Any, batches: int, epoch: int, used: list[list[int]]) -> None:
        """Set the position of a sampler.

        Args:
            sampler: Sampler of the training split.
            batches: Number of batches of an epoch.
            epoch: Epoch of the checkpoint.
            used: Parts of this epoch that were trained, as lists.
        """
        parts = merge([Part(*part) for part in used])
        unchanged = parts and parts[-1][:2] == self._batch
        if parts and not unchanged and "batch_size" not in self.changeable:
            raise UserError(
                f"--ckpt_path resumes a run with batches of {parts[-1].batch_size} on "
                f"{parts[-1].world} process(es); this data cannot change to {self._batch[0]} on "
                f"{self._batch[1]}: use the same numbers, or start a new run with --init_from"
            )
        sampler.set_epoch(epoch)
        sampler.used = before = parts[:-1] if unchanged else parts
        first = sampler.start() if before else 0
        sampler.used = parts
        start = first + parts[-1].batches if unchanged else first
        if start >= batches:  # the epoch is complete
            sampler.set_epoch(epoch + 1)
            sampler.used = before = []
        self._used, self._used_epoch, self._first = before, epoch, first
        self._start = min(start, batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training data: the epoch, and the parts of it that were used.

        Lightning restores this state before it builds the loaders, but its own loops only later.
        That is too late for a schedule that needs the number of steps.
        """
        fit: Any = self.trainer.fit_loop  # type: ignore[union-attr]
        epoch = fit.epoch_progress.current.ready - 1
        before, first = (self._used, self._first) if epoch == self._used_epoch else ([], 0)
        # `ready` also counts a batch that was fetched but not trained on, so use `processed`.
        part = Part(*self._batch, fit.epoch_loop.batch_progress.current.processed - first)
        return {"epoch": epoch, "used": [list(one) for one in merge([*before, part])]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = state_dict
        if self.trainer:  # FSDP2 has built the loader already, for the schedules
            self.trainer.fit_loop._combined_loader = None

    def val_dataloader(self) -> DataLoader | list:
        return self.loader("val") if len(self.split("val")) else []

    def test_dataloader(self) -> DataLoader:
        return self.loader("test")

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        training = bool(self.trainer and self.trainer.training)
        return self.transform(batch, training=training)

    def transform(self, batch: dict[str, Any], *, training: bool = False) -> dict[str, Any]:
        """Transform a batch on its device; `batch["seed"]` determines all randomness."""
        return batch

    def batch(self, split: str, index: list[int], *, seed: int = 0) -> dict[str, Any]:
        """Return samples of a split as a transformed batch on the CPU.

        Indices are taken modulo the number of samples.

        Raises:
            UserError: If the split has no samples.
        """
        data = self.split(split)
        if not len(data):
            raise UserError(f"the {split} split has no samples: add some")
        return self.transform(data.__getitems__(Request(torch.tensor(index) % len(data), seed)))

    def preview(self, batch: dict[str, Any]) -> dict[str, Tensor | list[str]]:
        """Return what `train.py preview` shows of a batch.

        Args:
            batch: Transformed batch on the CPU.

        Returns:
            Named images (N, C, H, W) in [-1, 1], and N texts, such as captions or labels.
        """
        return {}
