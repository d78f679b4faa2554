"""Run files, checkpoints and pictures."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpoint import AtomicCheckpointIO
from callbacks.non_finite_guard import first_non_finite
from callbacks.previews import spread
from callbacks.run_files import CSVLog
from common.images import grid, strips


def rows(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_csv_grows_columns_and_cuts_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = CSVLog(path)
    for step in (10, 20):
        log.log_metrics({"a": step / 3}, step)
    log.log_metrics({"b": 1.0}, 20)
    log.log_metrics({"a": 3.0}, 30)
    whole = path.read_bytes()
    with open(path, "a") as file:
        file.write("4")  # a kill in the middle of a line that would have begun with 40
    resumed = CSVLog(path, keep_until=20)
    resumed.log_metrics({"a": 3.0}, 30)
    assert path.read_bytes() == whole
    assert rows(path)[0] == "step,a,b"
    assert len(rows(path)) == 5
    CSVLog(path).log_metrics({"c": 1.0}, 5)
    assert rows(path) == ["step,c", "5,1.0"], "a new run begins a new file"


def test_a_checkpoint_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints/last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, path)
    (path.parent / "last.ckpt.tmp123").write_bytes(b"left by a kill")

    def full(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space"):
            io.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(path.parent.iterdir()) == [path], "neither ours nor older leftovers stay"


def test_grid_puts_compared_rows_below_each_other() -> None:
    top, bottom = torch.full((3, 1, 4, 4), 1.0), torch.full((3, 1, 4, 4), -1.0)
    picture = grid(torch.stack([top, bottom]))
    assert picture.shape == (3, 11, 16)
    assert picture[:, 1:5, 1:5].min() == 255
    assert picture[:, 6:10, 1:5].max() == 0
    assert strips(torch.zeros(2, 5, 3, 4, 4)).shape == (3, 11, 26)


def test_previews_show_no_picture_twice() -> None:
    assert spread(10, 32) == list(range(10))
    assert spread(100, 4) == [0, 25, 50, 75]


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    model = torch.nn.Linear(2, 1)
    assert first_non_finite(model, {"image": torch.ones(1)}) == "the loss"
    model.weight.grad = torch.tensor([[1.0, float("nan")]])
    assert first_non_finite(model, {"seed": 3}) == "the gradient of weight"
    assert first_non_finite(model, {"image": torch.tensor([float("inf")])}) == "batch['image']"
