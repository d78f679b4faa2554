"""Image files of users: pixel formats, sizes, splits, links, and the report of unused files."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli.evaluation.images import folder_images
from cli.image_inputs import image_batches
from cli.sampling.translate_images import output_name
from common.errors import UserError
from datamodules.captions.folder import CaptionedFolder
from datamodules.images.files import FileImages
from datamodules.images.finding import find_images, image_suffixes
from datamodules.images.folder import ImageFolder
from datamodules.images.reading import ANIMATED, BadImage, ImageReader, open_image
from datamodules.images.strips import ImageStrips
from datamodules.pairs.folder import PairFolder
from datamodules.samplers import Request


def picture(path: Path, colour: Any = 0, size: tuple[int, int] = (20, 20), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def pictures(home: Path, *folders: str, count: int = 4) -> Path:
    for folder in folders:
        for number in range(count):
            picture(home / folder / f"{number}.png", number)
    return home


# Pixel formats


def write_png16(path: Path, levels: np.ndarray, colour_type: int, extra: bytes = b"") -> None:
    """Write a PNG with 16 bits per channel (H, W, C); Pillow writes only grey ones."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + extra + end)


def save(path: Path, mode: str, colour: Any, **options: Any) -> None:
    Image.new(mode, (20, 20), colour).save(path, **options)


def test_unusual_images_have_the_right_colours(tmp_path: Path) -> None:
    """Palettes, alpha, CMYK, 16 bits, and formats beside JPEG and PNG."""
    write_png16(tmp_path / "rgb16.png", np.full((20, 20, 3), (32768, 65535, 0)), 2)
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 200, 10, 60])
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "see-through.png", transparency=1)
    save(tmp_path / "half.png", "LA", (0, 128))
    save(tmp_path / "alpha.webp", "RGBA", (255, 0, 0, 0), lossless=True)
    save(tmp_path / "bilevel.png", "1", 1)
    save(tmp_path / "still.gif", "RGB", (200, 10, 60))
    save(tmp_path / "cyan.tif", "CMYK", (255, 0, 0, 0))
    save(tmp_path / "magenta.tif", "CMYK", (0, 255, 0, 0))
    save(tmp_path / "black.jpg", "CMYK", (0, 0, 0, 255))
    save(tmp_path / "yellow.jpg", "CMYK", (0, 0, 255, 0), quality=100)
    save(tmp_path / "a.jfif", "RGB", (10, 20, 30), quality=100)
    save(tmp_path / "a.JPE", "RGB", (10, 20, 30), quality=100)
    save(tmp_path / "a.ppm", "RGB", (10, 20, 30))
    save(tmp_path / "a.PGM", "L", 40)
    save(tmp_path / "a.avif", "RGB", (10, 20, 30), quality=100)
    expected = {
        "rgb16.png": (128, 255, 0),
        "palette.png": (200, 10, 60),
        "see-through.png": (255, 255, 255),
        "half.png": (127, 127, 127),
        "alpha.webp": (255, 255, 255),
        "bilevel.png": (255, 255, 255),
        "still.gif": (200, 10, 60),
        "cyan.tif": (0, 255, 255),
        "magenta.tif": (255, 0, 255),
        "black.jpg": (0, 0, 0),
        "yellow.jpg": (255, 255, 0),
        "a.jfif": (10, 20, 30),
        "a.JPE": (10, 20, 30),
        "a.ppm": (10, 20, 30),
        "a.PGM": (40, 40, 40),
        "a.avif": (10, 20, 30),
    }
    assert [path.name for path in find_images(tmp_path).images] == sorted(expected)
    for name, colour in expected.items():
        pixels, remarks = ImageReader(16, 3).read(tmp_path / name)
        assert pixels.dtype == torch.uint8
        assert (pixels.float() - torch.tensor(colour)[:, None, None]).abs().max() <= 2, name
        assert ImageReader(16, 1).read(tmp_path / name)[0].shape == (1, 16, 16)
        assert remarks == []


def test_transparent_pixels_have_the_background(tmp_path: Path) -> None:
    save(tmp_path / "a.png", "RGBA", (0, 0, 255, 0))
    save(tmp_path / "half.png", "RGBA", (0, 0, 255, 51))
    image, _ = open_image(tmp_path / "a.png", 3, "#102030")
    assert image.getpixel((3, 3)) == (16, 32, 48)
    image, _ = open_image(tmp_path / "half.png", 3, "white")
    assert image.getpixel((3, 3)) == (204, 204, 255)


def test_ramps_of_many_grey_levels_keep_their_shape(tmp_path: Path) -> None:
    """16 bits, 12 bits in 16, floats, and ranges that tags of TIFF state."""
    ramp = np.linspace(0, 1, 256)[None].repeat(4, 0)
    levels = np.rint(ramp * 65535)
    Image.fromarray(levels.astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(levels.astype(np.uint16)).save(tmp_path / "16.tif")
    (tmp_path / "16.pgm").write_bytes(b"P5 256 4 65535\n" + levels.astype(">u2").tobytes())
    twelve = np.rint(ramp * 4095)
    (tmp_path / "12.pgm").write_bytes(b"P5 256 4 4095\n" + twelve.astype(">u2").tobytes())
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray((ramp * 500 - 100).astype(np.float32)).save(
        tmp_path / "stated.tif", tiffinfo={340: -100.0, 341: 400.0}
    )
    (tmp_path / "a.pfm").write_bytes(b"Pf\n256 4\n-1.0\n" + ramp.astype("<f4").tobytes())
    for path in sorted(tmp_path.iterdir()):
        image, _ = open_image(path, 1)
        assert np.abs(np.asarray(image).astype(int) - np.arange(256)).max() <= 1, path.name
    exact, _ = open_image(tmp_path / "16.png", 1)
    assert np.array_equal(np.asarray(exact)[0], np.arange(256))


def test_a_transparent_grey_level_of_16_bits(tmp_path: Path) -> None:
    content = struct.pack(">H", 300)
    extra = struct.pack(">I", 2) + b"tRNS" + content
    extra += struct.pack(">I", zlib.crc32(b"tRNS" + content))
    levels = np.array([[[300], [301]]]).repeat(2, 0)
    write_png16(tmp_path / "a.png", levels, 0, extra)
    assert np.asarray(open_image(tmp_path / "a.png", 1)[0]).tolist() == [[255, 1]] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.5, -0.1])
def test_floats_outside_of_their_range_are_refused(value: float, tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadImage, match="outside of the range from 0 to 1; convert it to 8 bits"):
        open_image(tmp_path / "a.tif", 3)


def test_orientation_and_first_frame(tmp_path: Path) -> None:
    """EXIF orientation 6 turns an image by 90 degrees; of an animation, frame 0 is read."""
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    turned, _ = open_image(tmp_path / "turned.jpg", 1)
    assert turned.size == (20, 40)
    pixels = np.asarray(turned)
    assert pixels[:15].min() > 250  # the upper half
    assert pixels[25:].max() < 5

    for suffix in ("gif", "webp", "png", "tif"):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        first, remarks = open_image(path, 3)
        colour = first.getpixel((4, 4))
        assert colour[0] > 200  # type: ignore[index]
        assert colour[1] < 50  # type: ignore[index]
        assert remarks == [ANIMATED]


# Sizes


def wide(path: Path, width: int = 60, height: int = 20) -> Path:
    """Write an image whose grey level is the column."""
    columns = np.arange(width, dtype=np.uint8)[None].repeat(height, 0)
    Image.fromarray(columns).save(path)
    return path


def test_rules_of_resizing(tmp_path: Path) -> None:
    path = wide(tmp_path / "a.png")
    crop, pad, stretch = (
        ImageReader(20, 1, resize, background="#0000ff").read(path)[0][0]
        for resize in ("crop", "pad", "stretch")
    )
    assert crop[5].tolist() == list(range(20, 40))
    assert stretch.shape == (20, 20)
    assert np.allclose(stretch[5], 3 * np.arange(20) + 1, atol=1)
    blue = 29  # grey level of blue
    assert (pad[:6] == blue).all()
    assert (pad[13:] == blue).all()
    assert np.allclose(pad[9], 3 * np.arange(20) + 1, atol=1)


def test_extreme_aspect_ratios(tmp_path: Path) -> None:
    for size in ((1, 1), (1, 3000), (3000, 1)):
        path = picture(tmp_path / f"{size}.png", 77, size)
        for resize in ("crop", "pad", "stretch"):
            pixels, remarks = ImageReader(16, 3, resize).read(path)
            assert pixels.shape == (3, 16, 16)
            assert remarks == (["enlarged"] if resize != "pad" or size == (1, 1) else [])
            assert (pixels == 77).any()


@pytest.mark.parametrize("in_memory", [True, False])
def test_random_crops(in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops are drawn from the batch's seed in training only, alike in memory and from files."""
    if not in_memory:
        monkeypatch.setattr("datamodules.images.files.IN_MEMORY_BYTES", 0)
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for number in range(8):
            image = Image.open(wide(tmp_path / split / f"{number}.png"))
            if number % 2:
                image.transpose(Image.Transpose.TRANSPOSE).save(image.filename)  # type: ignore[attr-defined]
    data = ImageFolder(str(tmp_path), size=20, channels=1, position="random")
    train = data.split("train")
    assert isinstance(train, ImageStrips if in_memory else FileImages)

    def starts(seed: int) -> list[int]:
        images = train.__getitems__(Request(torch.arange(8), seed))["image"]
        assert images.shape == (8, 1, 20, 20)
        for number, image in enumerate(images[:, 0]):
            line = image[:, 0] if number % 2 else image[0]
            assert (line.int().diff() == 1).all()
        return images.amin((1, 2, 3)).tolist()

    assert starts(3) == starts(3)
    assert starts(3) != starts(4)
    every = {start for seed in range(60) for start in starts(seed)}
    assert every == set(range(41)), "every position of 41"
    assert data.batch("val", [0, 2])["image"].add(1).mul(127.5).round().amin(
        (1, 2, 3)
    ).tolist() == [
        20,
        20,
    ]
    assert len(train.subset(torch.tensor([1, 3]))) == 2
    assert train.fingerprint() == train.subset(torch.arange(8)).fingerprint()


def test_random_crops_of_pairs_are_alike(tmp_path: Path) -> None:
    for folder in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / folder).mkdir()
        for number in range(8):
            wide(tmp_path / folder / f"{number}.png")
    options: dict[str, Any] = {"size": 16, "load_size": 20, "channels": 1, "position": "random"}
    pairs = PairFolder(str(tmp_path), paired=True, **options)
    batch = pairs.split("train").__getitems__(Request(torch.arange(8), 1))
    assert batch["a"].equal(batch["b"])
    assert len(batch["a"].amin((1, 2, 3)).unique()) > 3
    batch = (
        PairFolder(str(tmp_path), **options)
        .split("train")
        .__getitems__(Request(torch.arange(8), 1))
    )
    assert not batch["a"].equal(batch["b"])


# Splits


@pytest.mark.parametrize("names", [("Train", "Val", "TEST"), ("training", "dev", "testing")])
def test_folders_of_splits(names: tuple[str, ...], tmp_path: Path) -> None:
    """All three data modules use the same names; images beside these folders are left out."""
    home = pictures(tmp_path, *names, "other", count=3)
    for text in home.rglob("*.png"):
        text.with_suffix(".txt").write_text("a square", encoding="utf-8")
    for data in (
        ImageFolder(str(home), size=16),
        CaptionedFolder(str(home), size=16),
        PairFolder(str(home), size=8),
    ):
        assert data.sizes == {"train": 3, "val": 3, "test": 3}
    assert ImageFolder(str(home), size=16).classes == [""]
    pictures(tmp_path / "pairs", *(f"{name}{side}" for name in names for side in "Ab"), count=3)
    assert PairFolder(str(tmp_path / "pairs"), size=8).sizes == dict.fromkeys(data.sizes, 3)


def test_a_table_uses_the_folders_of_splits(tmp_path: Path) -> None:
    """A path with `..` does not move test images to training."""
    pictures(tmp_path, "Train", "Test")
    rows = [
        f"{folder}/{number}.png,a" for folder in ("Train", "Train/../Test") for number in (0, 1)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["file,caption", *rows]) + "\n", encoding="utf-8")
    data = CaptionedFolder(str(tmp_path / "t.csv"), size=16)
    assert data.sizes == {"train": 2, "val": 0, "test": 2}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("val", "test"), "there is no training data beside it"),
        (("train", "valid", "dev"), "are both the val split"),
        (("images/Train", "images/Test"), "images/Test: is named like a split, but is not"),
        (("cat/train", "cat/test"), "cat/test: is named like a split, but is not"),
        (("train/a", "train/a/validation"), "a/validation: is named like a split"),
    ],
)
def test_ambiguous_splits_are_refused(
    folders: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    home = str(pictures(tmp_path, *folders, count=20))
    other = str(pictures(tmp_path / "y", "y") / "y")
    for make in (
        lambda: ImageFolder(home, size=16),
        lambda: CaptionedFolder(home, size=16),
        lambda: PairFolder(folder_a=home, folder_b=other, size=16),
    ):
        with pytest.raises(UserError, match=message):
            make()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "trainA", "trainB"), "are folders of two layouts; lay them out"),
        (("train/A", "train/B"), "are folders of two layouts; lay them out"),
        (("trainA", "trainB", "devA", "validA"), "are both domain a of the val split"),
        (("trainA", "trainB", "trainB/test"), "trainB/test: is named like a split"),
        (("testA", "testB"), "has no training images; lay them out"),
    ],
)
def test_ambiguous_domains_are_refused(
    folders: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        PairFolder(str(pictures(tmp_path, *folders)), size=16)


def test_two_folders_with_splits(tmp_path: Path) -> None:
    pictures(tmp_path / "x", "train", "test")
    pictures(tmp_path / "y", "Training", "Test")
    data = PairFolder(
        folder_a=str(tmp_path / "x"), folder_b=str(tmp_path / "y"), size=16, paired=True
    )
    assert data.sizes == {"train": 4, "val": 4, "test": 4}
    assert {path.parent.name for path in data.files["train"][1]} == {"Training"}


def test_two_labels_of_one_file_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "train", count=2)
    (tmp_path / "Labels.CSV").write_text(
        "file,label\ntrain/0.png,x\ntrain/1.png,x\ntrain/0.png,y\n", encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"line 4 gives train/0.png the label y, .* before it x;"):
        ImageFolder(str(tmp_path))


def test_a_table_with_files_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "train", count=1)
    (tmp_path / "labels.csv").write_text(
        "file,label\ntrain/0.png,x\n/x/1.png,x\n", encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"/x/1.png is not an image in the folder; remove its row"):
        ImageFolder(str(tmp_path))


# Search and report


def test_files_that_are_left_out_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = pictures(tmp_path / "x", "train/cat", "train/.ipynb_checkpoints", "__MACOSX", "other")
    pictures(tmp_path, "elsewhere")
    (home / "train/dog").symlink_to(tmp_path / "elsewhere")
    (home / "train/again").symlink_to(home / "train/cat")
    (home / "train/loop").symlink_to(home)
    (home / "train/up").symlink_to(tmp_path)
    (home / "train/lost.png").symlink_to(tmp_path / "nothing.png")
    (home / "train/twice.png").symlink_to("cat/0.png")
    (home / "train/Thumbs.db").write_bytes(b"")
    (home / "train/notes.md").write_text("notes", encoding="utf-8")
    (home / "train/broken.JPG").write_bytes(b"")
    os.mkfifo(home / "train/pipe.png")
    picture(home / "train/dog" / "small.png", size=(3, 9))
    data = ImageFolder(str(home), size=16, skip_bad=True)
    assert data.classes == [""]
    assert data.sizes == {"train": 9, "val": 0, "test": 0}
    lines = capsys.readouterr().err.splitlines()
    assert lines.pop(1) == (
        f"note: data.folder {home}: broken.JPG is in no class folder, so the images have no "
        "classes; move it to use the names of folders as classes"
    )
    assert lines[:2] == [
        f"{home}: 24 files found, 10 used; 3 hidden (__MACOSX, .ipynb_checkpoints, Thumbs.db), "
        "1 not an image (notes.md), 1 not a regular file (pipe.png), "
        "2 found twice through a link (again, twice.png), 2 link to a parent folder (loop, up), "
        "1 broken link (lost.png), "
        "4 beside the folders of the splits (0.png, 1.png, 2.png, ...)",
        "train: 10 images found, 9 used (1 enlarged); 1 unusable (broken.JPG)",
    ]


@pytest.mark.parametrize("in_memory", [True, False])
def test_attributes_are_whole_words_of_class_names(
    in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:
        monkeypatch.setattr("datamodules.images.files.IN_MEMORY_BYTES", 0)
    home = pictures(tmp_path / "x", "train/Big Cat", "train/dog")
    data = ImageFolder(str(home / "train"), size=16)
    assert data.data_spec["num_classes"] == 2
    train = data.split("train")
    assert isinstance(train, FileImages) != in_memory
    cats = train.labels == data.classes.index("Big Cat")
    assert train.having("cat").equal(cats)
    assert train.having("big cat").equal(cats)


def test_max_samples_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ImageFolder(str(pictures(tmp_path, "train")), size=16, max_samples=3).split("train")
    assert "train: 4 images found, 3 used; 1 beyond max_samples (" in capsys.readouterr().err


def test_images_for_evaluation_are_found_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        picture(tmp_path / f"{number}.JFIF", number, mode="RGB")
    picture(tmp_path / "10.JFIF", size=(9, 9))
    picture(tmp_path / "grid.png")
    picture(tmp_path / ".cache/0.png")
    options: Any = type("Options", (), {"num": 11, "batch_size": 4})
    batches = list(folder_images(tmp_path, [3, 16, 16], options))
    assert sum(len(images) for images, _ in batches) == 11
    assert capsys.readouterr().err == (
        f"{tmp_path}: 14 files found, 11 used; 1 hidden (.cache), 1 grid of images (grid.png), "
        "1 beyond --num (9.JFIF)\n"
        f"{tmp_path}: 11 images found, 11 used (1 enlarged)\n"
    )


def test_images_to_translate_are_found_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results of an earlier call below the folder are not translated again."""
    pictures(tmp_path, "a", "out", ".hidden", count=2)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "b.GIF", save_all=True, append_images=frames[1:])
    batches = list(image_batches(tmp_path, 3, [], tmp_path / "out"))
    assert [path.name for paths, _ in batches for path in paths] == ["0.png", "1.png", "b.GIF"]
    assert capsys.readouterr().err == (
        f"--input {tmp_path}: 6 files found, 3 used; 1 hidden (.hidden), "
        "2 in --out (0.png, 1.png)\n"
        f"--input {tmp_path}: 3 images found, 3 used (1 first frame of an animation)\n"
    )


def test_translations_of_rare_formats_are_written_as_png() -> None:
    assert output_name(Path("x/a.JPG")) == Path("x/a.JPG")
    assert output_name(Path("x/a.gif")) == Path("x/a.gif.png")
    assert {".jfif", ".jpe", ".ppm", ".pgm"} <= image_suffixes()
    assert not {".pdf", ".mpg", ".eps", ".h5"} & image_suffixes()
