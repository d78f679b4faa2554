"""Helpers of tests of whole runs: tiny configurations, and the comparison of two runs."""

import importlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

ROOT = Path(__file__).parent.parent


def tiny_config(path: Path, system: str, **data: object) -> Path:
    """Write a configuration of `system` whose epochs take seconds.

    The data are emoji of 16x16 pixels (DCGAN: 32x32), or text.
    """
    schedule = {
        "class_path": "lightning_modules.optim.schedules.ConstantThenLinear",
        "init_args": {"constant": 50, "decay": 900},
    }
    game = {
        "latent_dim": 4,
        "ema_decay": 0.9,
        "generator_schedule": schedule,
        "discriminator_schedule": schedule,
    }
    convolutional = {
        "network": "conv",
        "hidden": [8, 16],
        "latent_dim": 4,
        "schedule": "cosine",
        "test_samples": 4,
    }
    model = {
        "vae": {"class_path": "lightning_modules.vae.VAE", "init_args": convolutional},
        "autoencoder": {
            "class_path": "lightning_modules.autoencoder.Autoencoder",
            "init_args": {"hidden": [32], "latent_dim": 4, "corruption": "masking"},
        },
        "gan": {
            "class_path": "lightning_modules.gan.GAN",
            "init_args": {"hidden": [32, 64], "n_critic": 2, **game},
        },
        "dcgan": {
            "class_path": "lightning_modules.dcgan.DCGAN",
            "init_args": {
                "width": 4,
                "norm": "none",
                "spectral": True,
                "loss": "hinge",
                "augment": 0.7,
                **game,
            },
        },
        "cyclegan": {
            "class_path": "lightning_modules.cyclegan.CycleGAN",
            "init_args": {
                "width": 4,
                "blocks": 1,
                "patch": 16,
                "generator_schedule": schedule,
                "discriminator_schedule": schedule,
            },
        },
        "pix2pix": {
            "class_path": "lightning_modules.pix2pix.Pix2Pix",
            "init_args": {"width": 4, "patch": 16, "ema_decay": 0.9},
        },
        "gpt": {
            "class_path": "lightning_modules.gpt.GPT",
            "init_args": {"context": 64, "layers": 2, "heads": 2, "width": 16, "dropout": 0.1},
        },
        "rnn_lm": {
            "class_path": "lightning_modules.rnn_lm.RNNLM",
            "init_args": {"width": 32, "embedding": 8, "dropout": 0.1},
        },
        "seq2seq": {
            "class_path": "lightning_modules.seq2seq.Seq2Seq",
            "init_args": {
                "attention": "additive",
                "width": 16,
                "embedding": 16,
                "teacher_forcing": 0.8,
            },
        },
        "transformer": {
            "class_path": "lightning_modules.transformer.Transformer",
            "init_args": {
                "layers": 1,
                "width": 16,
                "hidden": 32,
                "scale": 0.1,
                "warmup_steps": 50,
                "average": 2,
                "average_every": 13,
            },
        },
    }
    model["electra"] = {
        "class_path": "lightning_modules.electra.ELECTRA",
        "init_args": {
            "context": 32,
            "layers": 1,
            "heads": 2,
            "width": 16,
            "embedding": 16,
            "warmup_steps": 20,
        },
    }
    codes = {"codebook_size": 16, "token_width": 8, "width": 8, "downsamplings": 2, "blocks": 1}
    model |= {
        "dvae": {
            "class_path": "lightning_modules.dvae.DiscreteVAE",
            "init_args": {**codes, "quantiser": "vq", "beta": 0.25},
        },
        "dalle": {
            "class_path": "lightning_modules.dalle.DALLE",
            "init_args": {
                "dvae": {**codes, "image_shape": [3, 16, 16]},
                "layers": 2,
                "heads": 2,
                "width": 16,
                "attention": "sparse",
                "prompts": ["red apple", "green apple"],
            },
        },
        "clip": {
            "class_path": "lightning_modules.clip.CLIP",
            "init_args": {"channels": 8, "layers": 1, "width": 16, "features": 8},
        },
    }
    if system not in model:  # added later: one of its recipes
        return tiny_recipe(path, system, **data)
    size = 32 if system == "dcgan" else 16
    translates = system in ("cyclegan", "pix2pix")
    if system in ("gpt", "rnn_lm"):
        corpus = "datamodules.text.corpora.PythonDocs"
        arguments = {"batching": "windows" if system == "gpt" else "streams", "batch_size": 48}
    elif system == "electra":
        corpus = "datamodules.text.corpora.PythonDocs"
        arguments = {"tokenizer": "bpe", "vocab_size": 500, "context": 32, "batch_size": 64}
    elif system in ("seq2seq", "transformer"):
        corpus = "datamodules.parallel.openmoji.EmojiTranslation"
        arguments = {"vocab_size": 600, "batch_tokens": 1024}
    elif system in ("dalle", "clip"):
        corpus = "datamodules.captions.openmoji.CaptionedEmoji"
        arguments = {
            "size": 16,
            "text_length": 24,
            "batch_size": 48,
            "bpe_dropout": 0.1,
            "group_captions": True,
        }
    else:
        corpus = (
            "datamodules.pairs.openmoji.OpenMojiPairs"
            if translates
            else "datamodules.images.openmoji.OpenMoji"
        )
        arguments = {"size": size, "batch_size": 32, "flip": True}
        arguments |= {"paired": True} if system == "pix2pix" else {}
    config = {
        "model": model[system],
        "data": {"class_path": corpus, "init_args": {**arguments, **data}},
        "trainer": {"log_every_n_steps": 4},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def tiny_recipe(path: Path, system: str, **data: object) -> Path:
    """Write the first recipe of `system` without a download, on 1,000 samples in small batches."""
    for recipe in sorted((ROOT / "configs" / system).glob("*.yaml")):
        config = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        module, _, name = config["data"]["class_path"].rpartition(".")
        if getattr(importlib.import_module(module), name).embedded:
            small = {"batch_size": 32, "max_samples": 1000}
            config["data"]["init_args"] = {**config["data"]["init_args"], **small, **data}
            config["trainer"] = {"log_every_n_steps": 4}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(config), encoding="utf-8")
            return path
    raise FileNotFoundError(f"configs/{system} has no recipe on embedded data")


def differences(one: object, other: object, name: str = "") -> list[str]:
    """Names of all leaves in which two nested structures are not bitwise equal."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
        return [] if same else [name]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{name} keys {one.keys() ^ other.keys()}"]
        return [
            found for key in one for found in differences(one[key], other[key], f"{name}.{key}")
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            found
            for i, pair in enumerate(zip(one, other))
            for found in differences(*pair, f"{name}[{i}]")
        ]
    return [] if one == other else [name]


def run_differences(one: Path, other: Path) -> list[str]:
    """Differences between two run directories: final checkpoints and metric tables."""
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (one, other)]
    keys = (
        "global_step",
        "epoch",
        "state_dict",
        "optimizer_states",
        "lr_schedulers",
        "log_interval",
        "hyper_parameters",
        "callbacks",
    )
    found = [
        name
        for key in (*keys, "pools", "recurrent_states")
        for name in differences(states[0].get(key), states[1].get(key), key)
    ]
    tables = [name for name in ("metrics.csv", "health.csv") if (one / name).exists()]
    return found + [
        name for name in tables if (one / name).read_bytes() != (other / name).read_bytes()
    ]


class TerminateAt(Callback):
    """Send SIGTERM to this process after an update, as a job scheduler would.

    Args:
        step: Number of updates at which the run stops.
        rank: Process that receives the signal; None for all.
    """

    def __init__(self, step: int, rank: int | None = None) -> None:
        self.step, self.rank, self.update_periods = step, rank, [step]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: object
    ) -> None:
        if self.rank not in (None, trainer.global_rank):
            return
        if trainer.global_step == self.step and not trainer.fit_loop._should_accumulate():
            os.kill(os.getpid(), signal.SIGTERM)


class RecordSamples(Callback):
    """Append the epoch and the sample indices of each training batch to a file, as JSON lines.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps([trainer.current_epoch, batch["index"].tolist()]) + "\n")


class RecordMemory(Callback):
    """Record the resident memory of this process.

    Args:
        every_n_train_steps: Number of updates between two records.
    """

    def __init__(self, every_n_train_steps: int) -> None:
        self.every_n_train_steps, self.update_periods = every_n_train_steps, [every_n_train_steps]
        self.bytes: dict[int, int] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: object
    ) -> None:
        if trainer.global_step % self.every_n_train_steps == 0:
            pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
            self.bytes[trainer.global_step] = int(pages) * os.sysconf("SC_PAGE_SIZE")
