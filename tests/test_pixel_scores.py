"""Scores in pixel space during training."""

import json
from pathlib import Path

import pytest
import torch

import evaluate
from callbacks import pixel_scores
from cli.evaluation import scores as evaluation_scores
from cli.training import TrainCLI
from common.errors import UserError
from lightning_modules import load
from metrics.features import to_bytes
from metrics.parzen import nearest_neighbour_error, parzen
from tests.runs import tiny_config

OPTIONS = [
    "--trainer.max_steps=20",
    "--trainer.limit_train_batches=10",
    "--trainer.limit_val_batches=1",
    "--model.conditional=true",
    "--trainer.callbacks+=callbacks.pixel_scores.PixelScores",
]


def fit(tmp_path: Path, *options: str) -> TrainCLI:
    """Train a small conditional GAN on emoji."""
    config = tiny_config(tmp_path / "config.yaml", "gan", batch_size=8)
    return TrainCLI(
        ["fit", "--config", str(config), "--run_dir", str(tmp_path / "run"), *OPTIONS, *options]
    )


@pytest.mark.parametrize("score", ["parzen", "nn-error"])
def test_the_score_is_logged_and_selects_the_best_checkpoint(
    score: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The value of the best checkpoint equals the score of its samples, computed again.

    `evaluate.py --split val` has the same value.
    """
    monkeypatch.setattr(pixel_scores, "SIGMA_IMAGES", 100)
    monkeypatch.setattr(evaluation_scores, "PARZEN_IMAGES", 100)
    cli = fit(tmp_path, f"--trainer.callbacks.score={score}", "--trainer.callbacks.count=40")
    model = load(tmp_path / "run/checkpoints/best.ckpt")
    saved = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    generated = to_bytes(model.sample(list(range(40))))  # type: ignore[arg-type]
    split = cli.datamodule.split("val")
    if score == "parzen":
        value, _, _ = parzen(generated, split.images[:100], split.images[100:])
    else:
        label = torch.arange(40) % cli.datamodule.data_spec["num_classes"]
        value = 100 * nearest_neighbour_error(generated, label, split.images, split.labels)
    assert cli.trainer.checkpoint_callback.best[0][0] == pytest.approx(value, rel=1e-5)
    assert cli.model.signatures[f"val/{score}"].startswith(f"{score}[n_fake=40|")
    assert saved["global_step"] in (10, 20)
    capsys.readouterr()
    argv = [
        str(tmp_path / "run/checkpoints/best.ckpt"),
        "--split",
        "val",
        "--num",
        "40",
        "--weights",
        "averaged",
    ]
    assert evaluate.main([*argv, "--metrics", score.removesuffix("-error")]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["metric"] == score
    assert line["value"] == pytest.approx(value, rel=1e-5)
    assert "|n_val=" in line["signature"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "PixelScores needs more than 1,000 validation images"),
        (
            ["--trainer.callbacks.score=nn-error", "--model.conditional=false"],
            "the score nn-error needs a conditional system and data with labels",
        ),
    ],
)
def test_data_and_system_are_checked_before_training(
    options: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        fit(tmp_path, *options)
