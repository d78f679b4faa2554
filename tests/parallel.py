"""Systems whose updates do not depend on how a batch is split, and a record of each rank."""

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.clip import CLIP
from lightning_modules.core.seeding import seeded_normal
from lightning_modules.dalle import DALLE
from lightning_modules.dvae import DiscreteVAE, logit_laplace_log_likelihood
from lightning_modules.gan import GAN
from lightning_modules.gpt import GPT
from lightning_modules.transformer import Transformer


class IndexNoiseGAN(GAN):
    """GAN in which sample i always has the same noise, however a batch is split.

    The estimation of batch-norm statistics generates without samples of the data.
    """

    def generate(self, batch: dict[str, Any]) -> Tensor:
        if "index" not in batch:
            return super().generate(batch)
        return self.generator(
            seeded_normal(batch["index"].tolist(), (self.latent_dim,), self.device), None
        )


class PlainGPT(GPT):
    """GPT trained by SGD: Adam would turn rounding errors of tiny gradients into full steps."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.5)


class PlainTransformer(Transformer):
    """Transformer trained by SGD, at rate 0 in the first epoch: it validates equal weights."""

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.network.parameters(), 0.5)
        return [sgd], [torch.optim.lr_scheduler.LambdaLR(sgd, lambda epoch: float(epoch > 0))]


class PlainDALLE(DALLE):
    """DALL-E trained by SGD."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.5)


class PlainCLIP(CLIP):
    """CLIP trained by SGD."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class PlainVQ(DiscreteVAE):
    """VQ-VAE trained by SGD, without noise on the pixels."""

    def log_likelihood(self, z: Tensor, image: Tensor, scale_exponent: float = 0.0) -> Tensor:
        mean, log_scale = self.network.decode(z)
        x = (image + 1) / 2
        return logit_laplace_log_likelihood(mean, log_scale, x, scale_exponent)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), 1e-5)


class Witness(Callback):
    """Record weights, noise, sample indices and the number of gradient exchanges of each rank.

    Args:
        folder: Folder of the records, one file per rank and epoch.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.exchanges: list[int] = []
        self.noise: list[Tensor] = []
        self.samples: list[list[int]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            trainer.strategy.model.register_comm_hook(self, exchange)  # type: ignore[union-attr, operator]
            average = pl_module.average_gradients

            def count(gradients: list[Tensor]) -> None:
                self.exchanges[-1] += 1
                average(gradients)

            pl_module.average_gradients = count  # type: ignore[assignment]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.exchanges.append(0)
        self.samples.append(batch["index"].tolist())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.noise.append(torch.rand(4))  # next numbers of this rank's generator

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = {name: value.clone() for name, value in pl_module.state_dict().items()}
        record = {
            "state": state,
            "noise": self.noise,
            "samples": self.samples,
            "exchanges": self.exchanges,
            "process": os.getpid(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(
            record, self.folder / f"rank{trainer.global_rank}-epoch{trainer.current_epoch}.pt"
        )


class SharedBuffers(Callback):
    """Assert that DDP exchanges buffers in training only, and that all ranks evaluate with them."""

    def on_train_batch_start(self, trainer: Trainer, *arguments: Any) -> None:
        assert trainer.strategy.model.require_forward_param_sync  # type: ignore[union-attr]

    def on_validation_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        assert not trainer.strategy.model.require_forward_param_sync  # type: ignore[union-attr]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}
        one, other = pl_module.of_all_ranks(buffers)
        assert any("running_mean" in name for name in one)
        assert all(torch.equal(value, other[name]) for name, value in one.items())


class OneExchange(Callback):
    """Assert that sharded weights get a gradient from the second of two accumulated batches only.

    A process has no shard of the averaged gradient before the processes have exchanged theirs.
    """

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        exchanged = trainer.fit_loop.epoch_loop.batch_idx % 2 == 1
        grads = [parameter.grad is not None for parameter in pl_module.parameters()]
        assert set(grads) == {exchanged}, grads


def exchange(
    witness: Witness, bucket: torch.distributed.GradBucket
) -> torch.futures.Future[Tensor]:
    """Average a gradient bucket over ranks and count the exchange."""
    witness.exchanges[-1] += 1
    future = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda result: result.value()[0] / torch.distributed.get_world_size())
