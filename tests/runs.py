"""What tests of whole runs share: a tiny configuration of each system, and the equality of two runs."""

import os
import signal
from pathlib import Path

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

ROOT = Path(__file__).parent.parent


def tiny_config(path: Path, system: str, **data: object) -> Path:
    """Write a configuration that trains `system` on a few emoji at 16 pixels in a second an epoch."""
    convolutional = {"network": "conv", "hidden": [8, 16], "latent_dim": 4, "schedule": "cosine", "test_samples": 4}
    model = {
        "vae": {"class_path": "lightning_modules.vae.VAE", "init_args": convolutional},
        "autoencoder": {
            "class_path": "lightning_modules.autoencoder.Autoencoder",
            "init_args": {"hidden": [32], "latent_dim": 4, "corruption": "masking"},
        },
    }
    config = {
        "model": model[system],
        "data": {"class_path": "datamodules.openmoji.OpenMoji", "init_args": {"size": 16, "batch_size": 32, "flip": True, **data}},
        "trainer": {"log_every_n_steps": 4},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def differences(one: object, other: object, name: str = "") -> list[str]:
    """Names of all leaves in which two nested structures are not equal to the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
        return [] if same else [name]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{name} keys {one.keys() ^ other.keys()}"]
        return [found for key in one for found in differences(one[key], other[key], f"{name}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [found for i, pair in enumerate(zip(one, other)) for found in differences(*pair, f"{name}[{i}]")]
    return [] if one == other else [name]


def run_differences(one: Path, other: Path) -> list[str]:
    """In what the final states of two run directories differ: weights, optimizers, schedules, window, metrics.csv."""
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (one, other)]
    keys = ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers", "window", "hyper_parameters", "callbacks")
    found = [name for key in keys for name in differences(states[0][key], states[1][key], key)]
    if (one / "metrics.csv").read_bytes() != (other / "metrics.csv").read_bytes():
        found.append("metrics.csv")
    return found


class TerminateAt(Callback):
    """Sends this process a SIGTERM as a step begins, as a scheduler would.

    Args:
        step: update after which it comes.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
