"""Tests of data modules: batches, order, randomness, and the splits of OpenMoji."""

import csv
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from lightning_fabric.utilities.data import _set_sampler_epoch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from common.errors import UserError
from datamodules.base import DataModule
from datamodules.captions.base import CaptionedImageDataset
from datamodules.captions.openmoji import CaptionedEmoji
from datamodules.images.base import ImageDataModule, InMemoryImages, blurred
from datamodules.images.celeba import CelebA
from datamodules.images.emoji import GROUPS, composition_key, picture_key
from datamodules.images.files import FileImages
from datamodules.images.folder import ImageFolder
from datamodules.images.openmoji import COLOURS, OpenMoji, line_drawing
from datamodules.images.ring import Ring
from datamodules.images.torchvision import TorchvisionImages
from datamodules.pairs.openmoji import OpenMojiPairs
from datamodules.parallel.openmoji import EmojiTranslation
from datamodules.samplers import Part, Request, ResumableBatchSampler, mix_seed
from datamodules.splits import split_of
from datamodules.text.corpora import EmojiNames, PythonDocs
from tests.tracked import relative


def requests(sampler: ResumableBatchSampler) -> list[tuple[list[int], int]]:
    return [(request.index.tolist(), request.seed) for request in sampler]


def sampler(**options: object) -> ResumableBatchSampler:
    return ResumableBatchSampler(
        **{"size": 103, "batch_size": 10, "shuffle": True, "seed": 1, "name": "train", **options}
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "option", "value", "range_"),
    [
        ("images.openmoji.OpenMoji", "batch_size", "0", "v>0"),
        ("images.openmoji.OpenMoji", "num_workers", "-1", "v>=0"),
        ("images.openmoji.OpenMoji", "size", "4", "v>=8 and v<=512"),
        ("images.openmoji.OpenMoji", "blur", "2.5", "v>=0 and v<=2"),
        ("text.corpora.PythonDocs", "context", "0", "v>0"),
        ("text.corpora.PythonDocs", "val_share", "1.0", "v>0 and v<1"),
        ("parallel.files.PairTable", "val_share", "0.0", "v>0 and v<1"),
        ("parallel.openmoji.EmojiTranslation", "batch_tokens", "0", "v>0"),
        ("captions.openmoji.CaptionedEmoji", "bpe_dropout", "1.1", "v>=0 and v<=1"),
        ("captions.openmoji.CaptionedEmoji", "text_length", "0", "v>0"),
    ],
)
def test_parser_refuses_values_out_of_range(
    data: str, option: str, value: str, range_: str
) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DataModule, "data")
    with pytest.raises(ArgumentError) as caught:
        parser.parse_args([f"--data=datamodules.{data}", f"--data.{option}={value}"])
    assert f"{value} does not conform to restriction {range_}" in str(caught.value)
    assert option in str(caught.value)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("images.openmoji.OpenMoji", {"size": 16}),
        ("images.ring.Ring", {"modes": 5}),
        ("images.torchvision.TorchvisionImages", {"pad": 2}),
        ("pairs.openmoji.OpenMojiPairs", {"size": 16, "load_size": 20}),
        ("captions.openmoji.CaptionedEmoji", {"size": 16, "text_length": 24, "vocab_size": 500}),
        ("text.corpora.PythonDocs", {"tokenizer": "word", "vocab_size": 500}),
        ("parallel.openmoji.EmojiTranslation", {"vocab_size": 500}),
    ],
)
def test_data_spec_of_parsed_options_can_be_loaded_safely(
    data: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """`torch.load(weights_only=True)` refuses integers of the parser's restricted types."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DataModule, "data")
    words = [f"--data.{name}={value}" for name, value in options.items()]
    built = parser.instantiate_classes(parser.parse_args([f"--data=datamodules.{data}", *words]))
    torch.save(built.data.data_spec, tmp_path / "spec")
    assert torch.load(tmp_path / "spec", weights_only=True) == built.data.data_spec


def test_mask_is_flipped_with_its_image() -> None:
    image = torch.randint(256, (64, 1, 4, 6), dtype=torch.uint8)
    mask = (image > 127).float()
    data = ImageDataModule(flip=True)
    batch = {"image": image, "mask": mask, "seed": 3}
    flipped = data.transform(batch, training=True)
    assert not torch.equal(flipped["mask"], mask)
    assert torch.equal(flipped["mask"], (flipped["image"] > 0).float())
    assert torch.equal(batch["mask"], mask), "the given batch is not changed"
    assert torch.equal(data.transform(batch)["mask"], mask), "no flips in evaluation"


def test_shift_moves_the_image_and_its_mask_and_repeats_the_border() -> None:
    image = torch.randint(256, (500, 1, 5, 6), dtype=torch.uint8)
    mask = (image > 127).float()
    data = ImageDataModule(shift=2)
    batch = {"image": image, "mask": mask, "seed": 3}
    moved = data.transform(batch, training=True)
    assert torch.equal(moved["mask"], (moved["image"] > 0).float())
    padded = F.pad(data.transform(batch)["image"], (2, 2, 2, 2), mode="replicate")
    windows = padded.unfold(2, 5, 1).unfold(3, 6, 1)  # (N, 1, 5, 5, 5, 6)
    equal = (windows == moved["image"][:, :, None, None]).flatten(4).all(-1)[:, 0]
    assert equal.any(2).any(1).all(), "each image is shifted by at most 2 pixels"
    assert equal.any(0).all(), "every offset occurs"
    assert torch.equal(data.transform(batch)["mask"], mask), "no shifts in evaluation"


def test_each_image_is_blurred_by_its_own_gaussian() -> None:
    image, sigma = torch.rand(8, 3, 12, 10), torch.linspace(0.25, 2, 8)
    padded = F.pad(image, (4, 4, 4, 4), mode="replicate")
    for row, own, blurry in zip(padded, sigma.tolist(), blurred(image, sigma)):
        expected = gaussian_blur(row, [9, 9], [own, own])[:, 4:-4, 4:-4]
        torch.testing.assert_close(blurry, expected)
    torch.testing.assert_close(blurred(image, torch.full((8,), 1e-3)), image)

    levels = torch.randint(256, (500, 1, 16, 16), dtype=torch.uint8)
    batch, data = {"image": levels, "seed": 3}, ImageDataModule(blur=1.5)
    plain = data.transform(batch)["image"]
    kept = data.transform(batch, training=True)["image"].std((1, 2, 3)) / plain.std((1, 2, 3))
    assert kept.min() < 0.25, "the largest blur"
    assert kept.min() > 0.15, "1 / (2 sigma sqrt(pi)) = 0.19 for sigma = 1.5"
    assert kept.max() > 0.99, "some images are almost sharp"
    white = {"image": torch.full_like(levels, 255), "seed": 3}
    white = ImageDataModule(blur=1.5, binarize=True).transform(white, training=True)
    assert white["image"].eq(1).all()
    assert torch.equal(plain, ImageDataModule().transform(batch)["image"]), "not in evaluation"


PROVIDERS: list[DataModule] = [
    CaptionedEmoji(size=16),
    EmojiNames(batching="records"),
    EmojiTranslation(),
    OpenMoji(size=16),
    OpenMojiPairs(size=16),
    PythonDocs(batching="records", context=2048),
    Ring(),
    TorchvisionImages(),
]


@pytest.mark.parametrize("data", PROVIDERS, ids=lambda data: type(data).__name__)
def test_data_spec_has_the_values_that_the_class_provides(data: DataModule) -> None:
    assert sorted(data.data_spec) == sorted(data.provides)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    first, second = sampler(), sampler()
    assert requests(first) == requests(second)
    assert requests(first) == requests(second), "iterating again gives the same order"
    second.set_epoch(1)
    assert requests(first) != requests(second)
    assert requests(first) != requests(sampler(seed=2))


@pytest.mark.parametrize("data", [EmojiTranslation(), Ring()])
def test_all_validations_have_the_same_batches_and_seeds(data: DataModule) -> None:
    """Lightning sets the number of the validation as the epoch of the sampler."""
    loader = data.loader("val")
    passes = []
    for epoch in range(2):
        _set_sampler_epoch(loader, epoch)
        passes.append(requests(loader.batch_sampler))
    assert passes[0] == passes[1]


def test_a_sampler_that_starts_later_continues_the_same_epoch() -> None:
    whole = requests(sampler())
    later = sampler()
    later.used = [Part(10, 1, 4)]
    assert requests(later) == whole[4:]
    assert requests(later) == whole, "only the first epoch is shortened"


def test_every_sample_is_seen_once() -> None:
    seen = [i for index, _ in requests(sampler(shuffle=False, name="val")) for i in index]
    assert seen == list(range(103))
    trained = [i for index, _ in requests(sampler()) for i in index]
    assert len(trained) == len(set(trained)) == 100, "the incomplete last batch is dropped"


@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_the_global_batch_of_one_process(shuffle: bool) -> None:
    one = requests(sampler(batch_size=20, shuffle=shuffle))
    two = [requests(sampler(shuffle=shuffle, rank=rank, world=2)) for rank in (0, 1)]
    for whole, left, right in zip(one, *two):
        assert sorted(left[0] + right[0]) == sorted(whole[0])
        assert left[1] != right[1], "the noise differs between ranks"


def test_seeds_never_collide() -> None:
    seeds = {
        mix_seed(0, split, rank, epoch, batch)
        for split in ("a", "b")
        for rank in range(3)
        for epoch in range(9)
        for batch in range(99)
    }
    assert len(seeds) == 2 * 3 * 9 * 99
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_pictures_are_scaled_and_randomness_comes_from_the_batch_seed() -> None:
    data = OpenMoji(size=16, flip=True, binarize=True)
    raw = InMemoryImages(
        torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    )
    before = torch.get_rng_state()
    one, again, other = (
        data.transform(raw.__getitems__(Request(torch.arange(8), seed)), training=True)
        for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one["image"], again["image"])
    assert not torch.equal(one["image"], other["image"])
    assert set(one["image"].unique().tolist()) == {-1.0, 1.0}
    plain = OpenMoji(size=16).transform(
        raw.__getitems__(Request(torch.arange(8), 1)), training=True
    )["image"]
    torch.testing.assert_close(plain, raw.images.float() / 127.5 - 1)
    assert raw.images.dtype == torch.uint8, "the stored images are not changed"


def test_dynamic_binarisation_has_the_grey_value_as_its_mean() -> None:
    data = OpenMoji(size=16, binarize=True)
    grey = torch.full((1, 3, 16, 16), 51, dtype=torch.uint8).repeat(200, 1, 1, 1)
    image = data.transform({"image": grey, "seed": 3})["image"]
    assert abs(((image + 1) / 2).mean() - 0.2) < 0.01


def test_workers_bring_the_same_batches() -> None:
    alone, helped = (OpenMoji(size=16, batch_size=256, num_workers=workers) for workers in (0, 2))
    for one, two in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert one["seed"] == two["seed"]
        assert torch.equal(one["image"], two["image"])


# OpenMoji


@pytest.fixture(scope="module")
def emoji() -> OpenMoji:
    return OpenMoji(size=64)


def test_family_keys() -> None:
    assert picture_key("1F469-1F3FB-200D-1F680") == picture_key("1F468-200D-1F680") == "1F9D1-1F680"
    assert picture_key("1F3FB") == "1F3FB", "a skin tone alone is its own family"
    assert composition_key("1F469-1F3FB-200D-1F680") == "1F469-200D-1F680"
    shares = [split_of(str(number)) for number in range(5000)]
    assert 0.78 < shares.count("train") / 5000 < 0.82


def test_picture_split_separates_families_and_identical_pictures(emoji: OpenMoji) -> None:
    assert len(emoji.codes) == 4495
    assert 2200 < len(set(emoji.families.values())) < 2300
    place: dict[str, str] = {}
    for code, family in emoji.families.items():
        assert place.setdefault(family, emoji.code_splits[code]) == emoji.code_splits[code]


def images_of(recipe: Path) -> dict[str, list[tuple[str, torch.Tensor]]]:
    """Images of each split of a recipe's data, by domain, at the size used in evaluation."""
    data_config = yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]
    module, name = data_config["class_path"].rsplit(".", 1)
    options: dict[str, Any] = dict(data_config.get("init_args", {}))
    if name == "OpenMojiPairs":
        options |= {"paired": True, "load_size": None}
    data = getattr(importlib.import_module(module), name)(**options)
    found = {}
    for split in ("train", "val", "test"):
        part = data.split(split)
        sides = (
            {"a": part.a, "b": part.b}
            if name == "OpenMojiPairs"
            else {"": part.images if isinstance(part, CaptionedImageDataset) else part}
        )
        found[split] = [(side, images.images) for side, images in sides.items()]
    return found


def embedded_recipes() -> Iterator[Path]:
    classes = (
        "images.ring.Ring",
        "images.openmoji.OpenMoji",
        "pairs.openmoji.OpenMojiPairs",
        "captions.openmoji.CaptionedEmoji",
    )
    for path in sorted((Path(__file__).parent.parent / "configs").glob("[!_]*/*.yaml")):
        if (
            yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["class_path"].removeprefix(
                "datamodules."
            )
            in classes
        ):
            yield path


@pytest.mark.parametrize("recipe", embedded_recipes(), ids=relative)
def test_no_image_is_in_two_splits(recipe: Path) -> None:
    found = images_of(recipe)
    pixels = {
        split: {
            (side, image.numpy().tobytes()) for side, images in found[split] for image in images
        }
        for split in found
    }
    assert pixels["val"]
    assert pixels["test"]
    assert not pixels["train"] & pixels["val"]
    assert not pixels["train"] & pixels["test"]
    assert not pixels["val"] & pixels["test"]


@pytest.mark.parametrize("split_by", ["picture", "composition"])
def test_no_drawing_alone_is_in_two_splits(split_by: Any) -> None:
    """With `layers` line, the splits have no line drawing in common."""
    data = OpenMoji(32, "line", split_by=split_by)
    pixels = [
        {image.numpy().tobytes() for image in data.split(split).images}
        for split in ("train", "val", "test")
    ]  # type: ignore[attr-defined]
    assert all(pixels)
    assert len(set.union(*pixels)) == sum(map(len, pixels))


def test_composition_split_holds_out_no_word() -> None:
    data = OpenMoji(split_by="composition", named=True)
    words = {
        split: {word for name in data.split(split).names for word in name.split()}
        for split in ("train", "val", "test")
    }
    assert words["val"] | words["test"] <= words["train"]
    assert len(data.names) == 3953


def test_a_composition_whose_image_was_trained_on_is_not_held_out() -> None:
    """Without this rule, 58 of 250 and 30 of 237 held-out names had an image of the training split.

    An example is "man firefighter".
    """
    data = OpenMoji(split_by="composition", named=True)
    assert {split: len(data.rows(split)) for split in ("train", "val", "test")} == {
        "train": 3554,
        "val": 207,
        "test": 192,
    }
    split = {name: data.code_splits[code] for code, name in data.names.items()}
    assert split["firefighter"] == split["man firefighter"] == "train"
    assert split["red square"] == "test", "a name with an image of its own stays held out"
    whole = OpenMoji(split_by="composition")
    assert {split: len(whole.rows(split)) for split in ("train", "val", "test")} == {
        "train": 3981,
        "val": 269,
        "test": 245,
    }


def test_neutral_leaves_out_tones_and_flags(emoji: OpenMoji) -> None:
    data = OpenMoji(neutral=True)
    names = [name for split in ("train", "val", "test") for name in data.split(split).names]
    assert 2100 < len(names) < 2200
    assert not any("skin tone" in name for name in names if name)
    assert GROUPS.index("Flags") not in data.split("train").labels


def test_line_drawing_has_lines_and_no_fill(emoji: OpenMoji) -> None:
    groups = '<g id="color"/><g id="skin-shadow"/><g id="line"><g id="hair"/></g>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg">{groups}</svg>'
    assert not COLOURS.search(line_drawing(svg))
    assert "line" in line_drawing(svg)
    lines = OpenMoji(size=64, layers="line").split("test").images.float()
    saturation = (lines.amax(1) - lines.amin(1)).mean()
    colours = emoji.split("test").images.float()
    assert saturation < 0.1 * (colours.amax(1) - colours.amin(1)).mean()
    assert (lines < 128).float().mean() > 0.02


def test_attributes_are_whole_words(emoji: OpenMoji) -> None:
    data = emoji.split("train")
    chosen = [name for name, has in zip(data.names, data.having("cat").tolist()) if has]  # type: ignore[arg-type]
    assert chosen
    assert all("cat" in name.split() for name in chosen)
    batch = emoji.attribute_batch("cat")
    assert len(batch["positive"]) == len(chosen)
    assert len(batch["negative"]) <= 1000


def test_the_cache_is_written_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = OpenMoji(size=8, root=str(tmp_path))
    monkeypatch.setattr(OpenMoji, "codes", ["1F600", "1F601"])
    first = data._rasterised(8, "color")
    assert first.shape == (2, 3, 8, 8)
    files = [path for path in (tmp_path / "openmoji").iterdir() if path.suffix != ".lock"]
    assert [path.suffix for path in files] == [".npy"], "no temporary file is left"
    stamp = files[0].stat().st_mtime_ns
    assert np.array_equal(data._rasterised(8, "color"), first)
    assert files[0].stat().st_mtime_ns == stamp


def test_validation_images_of_torchvision_are_not_trained_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each training image is in exactly one of the splits train and val."""
    numbered = torch.arange(50, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28)
    corpus = SimpleNamespace(data=numbered, targets=torch.zeros(50, dtype=torch.int64))
    monkeypatch.setattr(TorchvisionImages, "_dataset", lambda data, train: corpus)
    data = TorchvisionImages(val_size=8)
    train, val = (
        {int(image[0, 0, 0]) for image in data.split(split).images} for split in ("train", "val")
    )  # type: ignore[attr-defined]
    assert not train & val
    assert train | val == set(range(50))
    assert len(val) == 8


# Folders


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (20, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_folder_labels_come_from_sub_folders_or_a_table(tmp_path: Path) -> None:
    for number in range(30):
        paint(tmp_path / ("cat" if number % 2 else "dog") / f"{number}.png", (number, 0, 0))
    data = ImageFolder(str(tmp_path), size=16)
    assert data.classes == ["cat", "dog"]
    assert sum(data.sizes.values()) == 30
    batch = data.batch("train", [0])
    assert batch["image"].shape == (1, 3, 16, 16)
    everything = {path.name: path.parent.name for path in tmp_path.rglob("*.png")}
    with open(tmp_path / "labels.csv", "w", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label"])
        writer.writerows(
            [
                [path.relative_to(tmp_path), "odd" if int(path.stem) % 2 else "even"]
                for path in tmp_path.rglob("*.png")
            ]
        )
    assert ImageFolder(str(tmp_path), size=16).classes == ["even", "odd"]
    assert len(everything) == 30


def test_folder_with_splits_and_large_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for number in range(count):
            paint(tmp_path / split / "one" / f"{number}.png", (40 * number, 0, 0))
    small = ImageFolder(str(tmp_path), size=16)
    assert small.sizes == {"train": 6, "val": 2, "test": 3}
    monkeypatch.setattr("datamodules.images.files.IN_MEMORY_BYTES", 0)
    large = ImageFolder(str(tmp_path), size=16, max_samples=4)
    assert isinstance(large.split("train"), FileImages)
    assert len(large.split("train")) == 4
    index = list(range(3))
    assert torch.equal(large.batch("test", index)["image"], small.batch("test", index)["image"])


def test_bad_files_are_skipped_only_on_request_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        paint(tmp_path / "train" / f"{number}.png", (0, 0, 0))
    (tmp_path / "train" / "broken.png").write_bytes(b"no picture")
    data = ImageFolder(str(tmp_path), size=16, skip_bad=True)
    assert len(data.split("train")) == 4
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: 5 files found, 5 used",
        "train: 5 images found, 4 used; 1 unusable (broken.png)",
    ]


def test_celeba_layout(tmp_path: Path) -> None:
    folder = tmp_path / "celeba"
    names = [f"{number:06d}.jpg" for number in range(6)]
    for name in names:
        paint(folder / "img_align_celeba" / name, (90, 90, 90), (178, 218))
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{name} {i // 2}\n" for i, name in enumerate(names)), encoding="utf-8"
    )
    rows = "".join(f"{name} {1 if i % 2 else -1} -1\n" for i, name in enumerate(names))
    (folder / "list_attr_celeba.txt").write_text("6\nSmiling Eyeglasses\n" + rows, encoding="utf-8")
    data = CelebA(size=32, root=str(tmp_path), num_workers=0)
    data.prepare_data()
    assert data.sizes == {"train": 2, "val": 2, "test": 2}
    batch = (
        next(iter(data.train_dataloader())) if data.batch_size <= 2 else data.batch("train", [0, 1])
    )
    assert batch["image"].shape == (2, 3, 32, 32)
    assert batch["label"].tolist() == [0, 1]
    assert data.attribute_batch("Smiling")["positive"].shape[0] == 1


def test_images_on_a_device_give_the_same_batches() -> None:
    """The copy on a device is used on a GPU only, so the test copies to the CPU."""
    data = OpenMoji(size=16, max_samples=40)
    images = data.split("train")
    request = Request(torch.tensor([3, 1, 3]), 7)
    batch, same = images.__getitems__(request), images.on(torch.device("cpu")).__getitems__(request)
    assert batch.keys() == same.keys()
    for name in ("image", "label", "index"):
        assert torch.equal(batch[name], same[name])
    assert batch["seed"] == same["seed"]
    assert data.loader_dataset("train") is images, "without a GPU"


def with_processes(world: int, accumulated: int, **options: Any) -> Ring:
    """Data set up for training on a number of processes."""
    data = Ring(**options)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=world, accumulate_grad_batches=accumulated, lightning_module=None
    )
    data.setup("fit")
    return data


def test_a_global_batch_is_divided_among_processes_and_accumulated_batches() -> None:
    assert with_processes(2, 4, global_batch_size=64).batch_size == 8
    assert with_processes(2, 4, batch_size=64).batch_size == 64
    with pytest.raises(UserError, match="64 is not divisible by 3 process"):
        with_processes(3, 1, global_batch_size=64)
