"""Captioned images: emoji, folders and tables, and invalid captions."""

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.errors import UserError
from datamodules.captions.base import CaptionedImages
from datamodules.captions.encoding import encode_caption
from datamodules.captions.folder import CaptionedFolder
from datamodules.captions.openmoji import CaptionedEmoji
from datamodules.samplers import Request
from datamodules.splits import split_of
from datamodules.tokenizers.bpe import BPETokenizer


@pytest.fixture(scope="module")
def emoji() -> CaptionedEmoji:
    data = CaptionedEmoji(size=16, text_length=24, group_captions=True, bpe_dropout=0.1)
    data.prepare_data()
    return data


def texts(data: CaptionedImages, tokens: torch.Tensor) -> list[str]:
    return [data.tokenizer.decode(row) for row in tokens.tolist()]


def test_held_out_names_combine_known_words(emoji: CaptionedEmoji) -> None:
    train, test = (emoji.split(split).captions for split in ("train", "test"))  # type: ignore[attr-defined]
    assert len(test) == 192
    assert {word for name in test for word in name.split()} <= {
        word for name in train for word in name.split()
    }
    assert "red square" in test
    assert "red square" not in train


def test_tones_that_no_image_shows_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Names with two skin tones are left out if the image shows yellow skin instead."""
    data = CaptionedEmoji(size=16, text_length=24)
    assert data.sizes == {"train": 3554 - 40, "val": 207, "test": 192}
    assert (
        capsys.readouterr().err
        == "train: left out 40 emoji whose images do not show the skin tones of their names\n"
    )
    names = [name for split in ("train", "val", "test") for name in data.split(split).captions]  # type: ignore[attr-defined]
    assert {
        name for name in names if "people with bunny ears" in name and name.count("skin tone") == 2
    } == set()
    assert {"people with bunny ears", "people wrestling", "people wrestling dark skin tone"} <= set(
        names
    )
    assert "people holding hands light skin tone dark skin tone" in names, "these tones are shown"


def test_loaders_can_leave_the_images_out() -> None:
    both = CaptionedEmoji(size=16, text_length=24, bpe_dropout=0.1)
    captions = CaptionedEmoji(size=16, text_length=24, bpe_dropout=0.1, captions_only=True)
    batch, without = (next(iter(data.loader("train", shuffle=True))) for data in (both, captions))
    assert set(batch) - set(without) == {"image", "label"}
    assert without["tokens"].equal(batch["tokens"])
    assert captions.on_after_batch_transfer(without, 0) is without, (
        "there are no images to transform"
    )
    index = batch["index"].tolist()
    assert captions.batch("train", index)["image"].equal(both.batch("train", index)["image"])


def test_captions_say_what_the_picture_is(emoji: CaptionedEmoji) -> None:
    """Captions are names in evaluation; training sometimes adds the group, with BPE dropout."""
    batch = emoji.batch("test", [0, 5, 9])
    assert texts(emoji, batch["tokens"]) == [emoji.split("test").captions[i] for i in (0, 5, 9)]  # type: ignore[attr-defined]
    assert batch["image"].shape == (3, 3, 16, 16)
    names = emoji.split("train").captions  # type: ignore[attr-defined]
    number = names.index("green apple")
    seen = [
        texts(emoji, emoji.batch("train", [number], seed=seed)["tokens"])[0] for seed in range(40)
    ]
    assert set(seen) == {"green apple", "green apple, food & drink"}
    cuts = {
        tuple(emoji.batch("train", [number], seed=seed)["tokens"][0].tolist()) for seed in range(40)
    }
    assert len(cuts) > 2, "BPE dropout skips merges at random"
    again = emoji.batch("train", [number], seed=7)["tokens"]
    assert torch.equal(again, emoji.batch("train", [number], seed=7)["tokens"]), (
        "reproducible by the batch's seed"
    )


def test_names_in_other_languages() -> None:
    data = CaptionedEmoji(size=16, language="de", text_length=40)
    assert "grüner apfel" in data.split("train").captions  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"data.language xx: .* give one of"):
        CaptionedEmoji(language="xx")


def test_dropping_no_merge_is_plain_encoding() -> None:
    """BPE dropout (Provilkov et al., Algorithm 1): plain ids at rate 0, single bytes at rate 1."""
    corpus = ["red apple", "green apple", "red heart", "a blue heart"] * 5
    tokenizer = BPETokenizer.train(corpus, 60, ["<pad>"], whole_alphabet=False)
    numbers = random.Random(0)
    for text in corpus[:4]:
        assert tokenizer.encode_dropout(text, 0.0, numbers) == tokenizer.encode(text).tolist()
        assert len(tokenizer.encode_dropout(text, 1.0, numbers)) == len(text)
        assert tokenizer.decode(tokenizer.encode_dropout(text, 0.5, numbers)) == text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of 40 images, each with two captions; every split gets some."""
    for number in range(40):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(
            f"A Picture  of {number}\na square\n", encoding="utf-8"
        )
    return tmp_path


def trained(folder: Path) -> Path:
    """Caption file of the first training image."""
    return next(
        path
        for path in sorted(folder.glob("*.txt"))
        if split_of(path.with_suffix(".png").name) == "train"
    )


def test_folder_and_table_say_the_same(folder: Path) -> None:
    data = CaptionedFolder(str(folder), size=16, text_length=20, vocab_size=100)
    assert sum(data.sizes.values()) == 40
    number = int(data.files["train"][0].stem)
    seen = {texts(data, data.batch("train", [0], seed=seed)["tokens"])[0] for seed in range(20)}
    assert seen == {f"a picture of {number}", "a square"}, "every caption of an image is used"
    assert data.batch("train", [0])["image"][0, 0].mean().item() == pytest.approx(
        number / 127.5 - 1
    )
    rows = [
        f"{path.name},{line}"
        for path in sorted(folder.glob("*.png"))
        for line in path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    ]
    (folder / "table.csv").write_text("\n".join(["file,caption", *rows]) + "\n", encoding="utf-8")
    table = CaptionedFolder(str(folder / "table.csv"), size=16, text_length=20, vocab_size=100)
    assert table.captions == data.captions
    assert table.files == data.files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "the caption is missing; write one"),
        (" \n", "the caption is missing; write one"),
        (
            "a square of many many many words " * 5,
            r"has \d+ tokens, more than the 20 of data.text_length",
        ),
    ],
)
def test_captions_that_cannot_be_read(
    folder: Path, text: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad caption is an error that names the image or, with `skip`, is counted."""
    bad = trained(folder)
    if text is None:
        bad.unlink()
    else:
        bad.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"{bad.stem}.png: .*{message}"):
        CaptionedFolder(str(folder), size=16, text_length=20, vocab_size=100).split("train")
    data = CaptionedFolder(str(folder), size=16, text_length=20, vocab_size=100, skip=True)
    sizes = data.sizes
    assert sum(sizes.values()) == 39
    assert (
        f"train: {sizes['train'] + 1} images found, {sizes['train']} used; "
        f"1 with an unusable caption ({bad.stem}.png)\n" in capsys.readouterr().err
    )


def test_unknown_script(folder: Path) -> None:
    """Characters that no training caption has are refused in held-out captions and prompts."""
    held = next(
        path
        for path in sorted(folder.glob("*.txt"))
        if split_of(path.with_suffix(".png").name) != "train"
    )
    held.write_text("квадрат\n", encoding="utf-8")
    data = CaptionedFolder(str(folder), size=16, text_length=20, vocab_size=100)
    with pytest.raises(
        UserError,
        match=rf"{held.stem}.png: the caption 'квадрат' has 'к', 'в', 'а', 'д', 'р', 'т', which",
    ):
        data.split(split_of(held.with_suffix(".png").name))
    for prompt, message in (
        ("", "is empty"),
        ("a square\U0001f600", "which is in no training caption"),
    ):
        with pytest.raises(UserError, match=message):
            encode_caption(data.tokenizer, prompt, 20)


def test_broken_tables(folder: Path) -> None:
    table = folder / "table.csv"
    for text, message in (
        ("file;caption\n", "needs the columns file and caption"),
        ("file,caption\n,a square\n", "line 2 has no file name"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            CaptionedFolder(str(table))
    with pytest.raises(UserError, match="there is no such folder or table"):
        CaptionedFolder(str(folder / "nothing"))


def test_systems_that_read_images_are_told_of_captions_only() -> None:
    data = CaptionedEmoji(size=16, text_length=24, captions_only=True)
    batch = data.loader_dataset("val").__getitems__(Request(torch.tensor([0]), 0))
    assert "image" not in batch
    with pytest.raises(UserError, match=r"data.captions_only true.*set --data.captions_only false"):
        batch["image"]
    for option, value in (("flip", True), ("shift", 2), ("blur", 1.0)):
        with pytest.raises(UserError, match=rf"no effect \(got .*{option}={value}.*; set --data"):
            CaptionedEmoji(size=16, captions_only=True, **{option: value})
