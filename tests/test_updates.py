"""Several updates per step of the Trainer give the same bits as one update per step."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LambdaCallback, Timer
from torch import Tensor

from callbacks.checkpoint import RunCheckpoint
from callbacks.non_finite_guard import NonFinite, NonFiniteGuard
from callbacks.previews import Previews
from cli.training import TrainCLI
from datamodules.images.openmoji import OpenMoji
from lightning_modules.core.updates import MAX_UPDATES
from lightning_modules.vae import VAE
from tests.runs import run_differences, tiny_config

# Steps end at multiples of 10 (rows), 12 (checkpoints), 14 batches (validation) and 33 batches.
INTERVALS = [
    "--trainer.max_steps=36",
    "--trainer.limit_train_batches=33",
    "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=10",
    "--trainer.val_check_interval=14",
    "--checkpoint.every_n_train_steps=12",
    "--previews.every_n_train_steps=20",
]


def fit(config: Path, run: Path, updates: int, options: Sequence[str] = INTERVALS) -> TrainCLI:
    """Train with at most `updates` updates per step."""
    words = ["fit", "--config", str(config), "--run_dir", str(run), *options]
    return TrainCLI([*words, f"--updates_per_step={updates}"])


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("vae", ["--trainer.gradient_clip_val=100"]),
        ("gan", ["--model.accumulate=2"]),
        ("rnn_lm", ["--trainer.accumulate_grad_batches=3", "--trainer.precision=bf16-mixed"]),
    ],
)
def test_the_number_of_updates_per_step_changes_no_bit(
    system: str, options: list[str], tmp_path: Path
) -> None:
    """Runs with 1 and 7 updates per step are equal, also if the second one is interrupted."""
    config = tiny_config(tmp_path / "config.yaml", system, batch_size=8)
    options = [*INTERVALS, *options]
    fit(config, tmp_path / "one", 1, options)
    run = tmp_path / "resumed"
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step=25"]
    with pytest.raises(SystemExit):
        fit(config, run, 7, [*options, *stop])
    fit(config, run, 4, ["--ckpt_path=last"])
    assert run_differences(tmp_path / "one", run) == []


class StepLengths(Callback):
    """Records the number of updates after each step."""

    update_periods = [7]

    def __init__(self) -> None:
        self.updates: list[int] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        self.updates.append(trainer.global_step)


class Hooked(Callback):
    """Has a batch hook and declares no `update_periods`."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        """Do nothing."""


class OwnStep(VAE):
    """System that overrides `training_step`."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.loss(batch)["loss"]


class OwnBadStep(VAE):
    """System whose own `training_step` returns NaN."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.loss(batch)["loss"] * torch.nan


def step_ends(
    model: VAE, tmp_path: Path, *callbacks: Callback, updates_per_step: int | None = 8
) -> list[int]:
    """Train for 30 updates and return the last update of each step."""
    lengths = StepLengths()
    model.updates_per_step = updates_per_step
    trainer = Trainer(
        accelerator="cpu",
        max_steps=30,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        log_every_n_steps=20,
        limit_val_batches=0,
        callbacks=[lengths, *callbacks],
    )
    trainer.fit(model, datamodule=OpenMoji(size=16, batch_size=8, max_samples=200))  # 25 batches
    return lengths.updates


def vae(kind: type[VAE] = VAE) -> VAE:
    return kind(image_shape=[3, 16, 16], hidden=[8], latent_dim=2)


def test_last_ckpt_is_saved_between_updates_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints have no gradients, so a validation within an update postpones the save."""
    saved, save = [], RunCheckpoint._save

    def record(self: RunCheckpoint, trainer: Trainer, module: Any, name: str) -> None:
        saved.append((name, trainer.fit_loop._should_accumulate(), trainer.fit_loop.batch_idx + 1))
        save(self, trainer, module, name)

    monkeypatch.setattr(RunCheckpoint, "_save", record)
    config = tiny_config(tmp_path / "config.yaml", "rnn_lm", batch_size=8)
    options = ["--trainer.accumulate_grad_batches=3", "--trainer.max_steps=11"]
    fit(config, tmp_path / "run", 7, [*INTERVALS, *options])
    last = [(within, batch) for name, within, batch in saved if name == "last"]
    assert not any(within for within, _ in last)
    assert {15, 30} <= {batch for _, batch in last}  # the updates of the batches 14 and 28
    assert any(within for name, within, _ in saved if name == "best")


class GradientNorms(Callback):
    """Records the norm of the gradient that callbacks see before each update."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        norm = torch.nn.utils.get_total_norm(p.grad for p in module.parameters())
        self.norms.append(norm.item())


def test_callbacks_see_the_gradient_of_the_joined_batch(tmp_path: Path) -> None:
    """They see the norm that is logged, which is that of the mean over all tokens of an update."""
    config = tiny_config(tmp_path / "config.yaml", "rnn_lm", batch_size=8)
    options = ["--trainer.accumulate_grad_batches=3", "--trainer.log_every_n_steps=1"]
    options += ["--trainer.max_steps=4", "--trainer.limit_val_batches=0"]
    options += ["--trainer.callbacks+=tests.test_updates.GradientNorms"]
    cli = fit(config, tmp_path / "run", 1, options)
    (callback,) = (c for c in cli.trainer.callbacks if isinstance(c, GradientNorms))  # type: ignore[attr-defined]
    rows = csv.DictReader((tmp_path / "run/metrics.csv").open(encoding="utf-8"))
    logged = [float(row["train/grad_norm"]) for row in rows if row["train/grad_norm"]]
    assert callback.norms == pytest.approx(logged, rel=1e-5)


def test_a_step_ends_where_something_happens(tmp_path: Path) -> None:
    """At multiples of 7 (callback) and 20 (rows), at the end of an epoch (25) and after 8."""
    assert step_ends(vae(), tmp_path, Timer(duration={"hours": 1})) == [7, 14, 20, 21, 25, 28, 30]


def test_periods_of_callbacks() -> None:
    assert Previews(every_n_train_steps=9).update_periods == [9]
    assert RunCheckpoint(None, keep_every_n_train_steps=4).update_periods == [4]


@pytest.mark.parametrize(
    ("kind", "callbacks", "reason"),
    [
        (
            VAE,
            [Hooked()],
            "Hooked overrides on_train_batch_start and does not declare `update_periods`",
        ),
        (
            VAE,
            [LambdaCallback(on_train_batch_end=lambda *arguments: None)],
            "LambdaCallback overrides on_train_batch_end and does not declare `update_periods`",
        ),
        (OwnStep, [], "OwnStep overrides training_step"),
    ],
)
def test_a_step_has_one_update_where_a_hook_needs_it(
    kind: type[VAE],
    callbacks: list[Callback],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert step_ends(vae(kind), tmp_path, *callbacks) == list(range(1, 31))
    note = f"note: each step of the trainer makes one update, because {reason}"
    assert capsys.readouterr().err.count(f"{note}. --updates_per_step 8 is not used. ") == 1


def test_the_loss_of_an_own_training_step_is_checked(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match="step 1: "):
        step_ends(vae(OwnBadStep), tmp_path, NonFiniteGuard())


def test_the_number_is_chosen_from_the_duration_of_an_update(tmp_path: Path) -> None:
    """The first logging interval has steps of one update; then a step takes about 0.2 s."""
    model = vae()
    assert step_ends(model, tmp_path, updates_per_step=None)[:20] == [*range(1, 21)]
    assert 1 < model._chosen <= MAX_UPDATES
