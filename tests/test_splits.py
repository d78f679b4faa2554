"""Names of splits, and the report of used files."""

from pathlib import Path

import pytest

from common.errors import UserError
from datamodules.splits import split_named, split_paths
from datamodules.usage_report import report_usage


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("VALID", "val"),
        ("validation", "val"),
        ("dev", "val"),
        ("Test", "test"),
        ("trains", None),
        ("develop", None),
    ],
)
def test_split_names_in_any_case(name: str, split: str | None) -> None:
    assert split_named(name) == split


def test_two_paths_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train.txt", "dev.txt", "valid.txt"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"dev.txt and .*valid.txt are both the val split"):
        split_paths(tmp_path.iterdir())


def test_held_out_data_alone_is_refused(tmp_path: Path) -> None:
    """Otherwise a run would train on its test data."""
    (tmp_path / "val").mkdir()
    (tmp_path / "test.txt").touch()
    (tmp_path / "corpus.txt").touch()
    with pytest.raises(UserError, match="no training data beside it"):
        split_paths(tmp_path.iterdir())
    (tmp_path / "Training.txt").touch()
    assert set(split_paths(tmp_path.iterdir())) == {"train", "val", "test"}


def test_usage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report_usage("photos", 1200, 1198, {"broken": [Path("x/a.png"), Path("b.png")], "small": []})
    assert capsys.readouterr().err == (
        "photos: 1,200 files found, 1,198 used; 2 broken (a.png, b.png)\n"
    )
