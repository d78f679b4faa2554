"""Two processes compute the gradient of one process on the two batches of both, for every system.

The process alone accumulates the batch of rank 0 and that of rank 1, with the seeds that they have
there. So noise, dropout and augmentation are equal, and losses that are means over tokens must be
means over the tokens of both. CLIP compares all captions of an update, and the codebook of a VQ-VAE
is updated once per batch: tests/test_parallel.py compares them with one batch of double size.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from datamodules.samplers import BatchSampler, Request, mix_seed
from lightning_modules.core.adversarial import AdversarialModule
from lightning_modules.core.checkpoints import system_class
from tests.ranks import fork, train
from tests.runs import tiny_config

SYSTEMS = sorted(
    path.stem for path in Path("lightning_modules").glob("*.py") if path.stem not in ("__init__",)
)
ELSEWHERE = {"clip"}
# Spectral norm makes one power iteration per batch, and the VQ-VAE one update of the codebook. With
# accumulation, G's augmentation is drawn from another position of the random numbers.
CHANGED = {"dcgan": {"spectral": False, "augment": 0.0}, "dvae": {"quantiser": "gumbel"}}


class FirstGradients(Callback):
    """Save the gradients of each optimizer's first step, after clipping.

    Args:
        folder: Folder of the files, one per rank.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found: dict[str, torch.Tensor] = {}
        names = {parameter: name for name, parameter in pl_module.named_parameters()}

        def record(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            for group in optimizer.param_groups:
                for one in group["params"]:
                    if one.grad is not None:
                        self.found.setdefault(names[one], one.grad.clone())

        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(record)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.found, self.folder / f"rank{trainer.global_rank}.pt")


def batches_of_two_ranks(self: BatchSampler) -> Iterator[Request]:
    """Yield the batch of rank 0 and that of rank 1 of each global batch."""
    used, self.used = self.used, ()
    for number, samples in self.global_batches(used):
        for rank in range(2):
            seed = mix_seed(self.seed, self.name, rank, self.epoch, number)
            yield Request(samples[rank::2], seed, self.order)


def train_alone(argv: list[str]) -> int:
    """Run `python train.py` in one process, on the batches of two."""
    BatchSampler.__iter__ = batches_of_two_ranks  # type: ignore[method-assign]
    return train(argv)


@pytest.mark.parametrize("system", sorted(set(SYSTEMS) - ELSEWHERE))
def test_two_processes_have_the_gradient_of_the_joined_batch(system: str, tmp_path: Path) -> None:
    path = tiny_config(tmp_path / "config.yaml", system)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    data = config["data"]["init_args"]
    config["model"]["init_args"] |= CHANGED.get(system, {})
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    size = next(name for name in ("batch_tokens", "batch_size") if name in data)
    adversarial = issubclass(system_class(config["model"]["class_path"], path), AdversarialModule)
    accumulate = "--model.accumulate" if adversarial else "--trainer.accumulate_grad_batches"
    argv = ["fit", "--config", str(path), "--trainer.accelerator", "cpu"]
    argv += ["--trainer.limit_val_batches", "0", "--trainer.callbacks+", FirstGradients.__module__]
    argv[-1] += ".FirstGradients"
    found = []
    for name, more, start, count in (
        ("two", ["--trainer.devices", "2", f"--data.{size}", str(data[size] // 2)], train, 2),
        ("one", [accumulate, "2", "--trainer.devices", "1"], train_alone, 1),
    ):
        folder = tmp_path / name
        steps = ["--trainer.max_steps", "2", "--run_dir", str(folder / "run")]
        records = ["--trainer.callbacks.folder", str(folder)]
        fork(start, [*argv, *records, *steps, *more], count=count, log=folder / "log")
        found.append(torch.load(folder / "rank0.pt", weights_only=True))
    two, one = found
    assert two.keys() == one.keys()
    largest = max(value.abs().max().item() for value in one.values())
    assert largest > 0
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-5 * largest, rtol=1e-4, msg=name)
