"""Several updates per step of the Trainer give the same bits as one update per step."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.training import TrainCLI
from tests.runs import run_differences, tiny_config

# An epoch has 33 batches. Steps end at multiples of 10 (log), 14 (validation) and 9 (checkpoint).
INTERVALS = [
    "--trainer.max_steps=40",
    "--trainer.limit_train_batches=33",
    "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=10",
    "--trainer.val_check_interval=14",
    "--checkpoint.every_n_train_steps=9",
    "--previews.every_n_train_steps=20",
]


def fit(config: Path, run: Path, updates: int, options: Sequence[str] = INTERVALS) -> TrainCLI:
    """Train with `updates` per step."""
    words = ["fit", "--config", str(config), "--run_dir", str(run), *options]
    return TrainCLI([*words, f"--updates_per_step={updates}"])


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("vae", ["--trainer.gradient_clip_val=100"]),
        ("vae", ["--trainer.accumulate_grad_batches=2", "--trainer.precision=bf16-mixed"]),
        ("gan", []),
        ("dcgan", ["--model.accumulate=2"]),
        ("transformer", []),
        ("rnn_lm", ["--trainer.accumulate_grad_batches=3"]),
    ],
)
def test_the_number_of_updates_per_step_changes_no_bit(
    system: str, options: list[str], tmp_path: Path
) -> None:
    """Runs with 1 and 7 updates per step, the second one also interrupted, are equal."""
    small = {} if system in ("transformer", "rnn_lm") else {"batch_size": 8}
    config = tiny_config(tmp_path / "config.yaml", system, **small)
    options = [*INTERVALS, *options]
    fit(config, tmp_path / "one", 1, options)
    fit(config, tmp_path / "seven", 7, options)
    assert run_differences(tmp_path / "one", tmp_path / "seven") == []
    run = tmp_path / "resumed"
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step=25"]
    with pytest.raises(SystemExit):
        fit(config, run, 7, [*options, *stop])
    fit(config, run, 4, ["--ckpt_path=last"])
    assert run_differences(tmp_path / "one", run) == []
