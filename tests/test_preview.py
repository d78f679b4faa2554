"""`train.py preview`: what a network will see, before any training."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import train
from cli.preview import batch_table
from tests.runs import tiny_config


def preview(system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The output of `preview` for a tiny configuration; the image is written to `tmp_path`."""
    config = tiny_config(tmp_path / f"{system}.yaml", system)
    argv = ["preview", "--run_dir", str(tmp_path), "--config", str(config), *options]
    assert train.main(argv) == 0
    return capsys.readouterr().out


def test_images_are_shown_with_their_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = preview("vae", tmp_path, capsys, "--data.max_samples", "64", "--trainer.max_steps", "3")
    assert "data: OpenMoji, 64 train, 478 val, 534 test" in out
    assert "image  float32  32x3x16x16" in out
    assert "-1 to 1" in out
    assert f"preview: {tmp_path}/preview.png" in out
    assert Image.open(tmp_path / "preview.png").width > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preview.png", "vae.yaml"]


def test_a_folder_smaller_than_a_batch_is_shown_whole_and_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training on it fails, and the message has the option to use."""
    folder = tmp_path / "my_images"
    folder.mkdir()
    for shade in range(60):
        Image.new("RGB", (16, 16), (4 * shade, 9, 9)).save(folder / f"{shade:02d}.png")
    options = ["--config", "configs/vae/folder.yaml", "--run_dir", str(tmp_path / "run")]
    options += ["--data.folder", str(folder), "--data.size", "16"]
    assert train.main(["preview", *options]) == 0
    out, err = capsys.readouterr()
    (count,) = re.findall(r"ImageFolder, (\d+) train", out)
    assert f"image  float32  {count}x3x16x16" in out
    assert err.count("my_images: 60 files found, 60 used") == 1
    assert train.main(["fit", *options, "--trainer.max_steps", "1"]) == 2
    err = capsys.readouterr().err
    assert f"use --data.batch_size {count} or less" in err
    assert err.count("my_images: 60 files found, 60 used") == 1, "the data are built twice"


def test_an_empty_tensor_of_a_batch_has_no_range() -> None:
    (line,) = batch_table({"boxes": torch.empty(0, 4)})
    assert line.split() == ["boxes", "float32", "0x4", "empty"]


def test_both_sides_of_pairs_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = preview("pix2pix", tmp_path, capsys, "--data.batch_size", "4", "--data.paired", "true")
    assert "a       float32  4x3x16x16" in out
    assert "b       float32  4x3x16x16" in out
    assert Image.open(tmp_path / "preview.png").size == (4 * 17 + 1, 2 * 17 + 1)


def test_texts_are_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = preview("gpt", tmp_path, capsys)
    assert "tokens       int64    48x65" in out
    assert "text 4: " in out
    assert not (tmp_path / "preview.png").exists()


def test_sentence_pairs_are_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = preview("seq2seq", tmp_path, capsys)
    assert "source 4: " in out
    assert "target 4: " in out
    assert "<eos>" not in out


def test_captions_stand_beside_their_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = preview("clip", tmp_path, capsys, "--data.batch_size", "3")
    assert "tokens  int64    3x24" in out
    width, height = Image.open(tmp_path / "preview.png").size
    assert width > height / 3
    assert height == 3 * 64


def test_a_preview_needs_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["preview", "--data", "Ring", "--run_dir", str(tmp_path)]
    assert train.main(argv) == 0
    assert "image  float32  128x2x1x1" in capsys.readouterr().out
    assert Image.open(tmp_path / "preview.png").size == (320, 320)
