"""Source of a system that a user adds, `lightning_modules/toy_mean.py`, for several tests."""

TOY = '''"""Toy: the mean image."""
from typing import Any
import torch
from torch import Tensor
from lightning_modules.core.modes import sampling
from lightning_modules.core.module import GenerativeModule
class ToyMean(GenerativeModule):
    def __init__(self, image_shape: list[int], learning_rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.mean = torch.nn.Parameter(torch.zeros(image_shape))
    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"loss": (batch["image"] - self.mean).square().mean()}
    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch)["loss"])
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams.learning_rate)
    @sampling
    def sample(self, seeds: list[int], *, shade: float = 0.0) -> Tensor:
        return self.mean.detach().expand(len(seeds), -1, -1, -1) + shade
    @sampling
    def preview(self, batch: dict) -> dict:
        return {"samples": self.sample([0])}
'''
