"""Data of two domains: paired and unpaired batches, splits, folders, archives and downloads."""

import contextlib
import hashlib
import http.server
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from datamodules.download import extract, fetch, obtain
from datamodules.images.base import InMemoryImages
from datamodules.images.files import BadImage
from datamodules.pairs import archives
from datamodules.pairs.archives import PaperArchive
from datamodules.pairs.base import PairDataModule, TwoDomains
from datamodules.pairs.folder import PairFolder
from datamodules.pairs.openmoji import OpenMojiPairs
from datamodules.samplers import Request

# Batches


def numbered_images(count: int, first: int = 0, side: int = 20) -> InMemoryImages:
    """Images whose three channels hold the image's number, the row and the column."""
    number, row, column = torch.meshgrid(
        torch.arange(count) + first, torch.arange(side), torch.arange(side), indexing="ij"
    )
    return InMemoryImages(
        torch.stack([number, row, column], 1).byte(), torch.zeros(count, dtype=torch.int64)
    )


class NumberedPairs(PairDataModule):
    """Data module of images with known pixels."""

    def load_domains(self, split: str) -> tuple[InMemoryImages, InMemoryImages, bool]:
        return (
            numbered_images(12),
            numbered_images(12 if self.paired else 7, 0 if self.paired else 100),
            self.paired,
        )


def test_both_of_a_pair_are_cut_and_mirrored_alike() -> None:
    data = NumberedPairs(size=8, load_size=20, paired=True, flip=True)
    batch = data.split("train").__getitems__(Request(torch.arange(12), 5))
    done = data.transform(batch, training=True)
    assert torch.equal(done["a"], done["b"])
    raw = ((done["a"] + 1) * 127.5).round().int()
    rows, columns = raw[:, 1, :, 0], raw[:, 2, 0]
    assert (rows.diff(dim=1) == 1).all(), "one square"
    assert set(columns.diff(dim=1).unique().tolist()) == {-1, 1}, "some are mirrored, some not"
    assert len({*zip(rows[:, 0].tolist(), columns[:, 0].tolist())}) > 6, (
        "crops differ between images"
    )
    assert raw[:, 0, 0, 0].tolist() == list(range(12))
    again = data.transform(
        data.split("train").__getitems__(Request(torch.arange(12), 5)), training=True
    )
    assert torch.equal(done["a"], again["a"]), "a function of the batch's seed"


def test_unpaired_pictures_are_cut_apart_and_meet_by_chance() -> None:
    data = NumberedPairs(size=8, load_size=20, flip=True)
    split = data.split("train")
    assert len(split) == 12
    partners = [
        split.__getitems__(Request(torch.arange(12), seed))["b"][:, 0, 0, 0].tolist()
        for seed in range(40)
    ]
    assert partners[0] != partners[1]
    assert {number for row in partners for number in row} == set(range(100, 107)), (
        "every image of the smaller domain is used"
    )
    done = data.transform(split.__getitems__(Request(torch.arange(12), 0)), training=True)
    assert not torch.equal(done["a"][:, 1:], done["b"][:, 1:])
    val = data.split("val").__getitems__(Request(torch.arange(12), 3))
    assert val["b"][:, 0, 0, 0].tolist() == [100 + i % 7 for i in range(12)], (
        "pairs are fixed in evaluation"
    )


def test_evaluation_sees_the_whole_picture() -> None:
    """Evaluation uses whole images at `size`; training previews are resized to the same size."""
    data = OpenMojiPairs(size=16, load_size=32, paired=True)
    plain = OpenMojiPairs(size=16, paired=True)
    assert torch.equal(data.batch("test", [3])["b"], plain.batch("test", [3])["b"])
    assert data.split("train").b.images.shape[2:] == (32, 32)  # type: ignore[union-attr]
    pairs = NumberedPairs(size=10, load_size=20, paired=True)
    done = pairs.transform(pairs.split("val").__getitems__(Request(torch.arange(2), 0)))
    assert done["a"].shape == (2, 3, 10, 10)
    rows = ((done["a"][0, 1, :, 5] + 1) * 127.5).tolist()
    assert rows == pytest.approx([2 * i + 0.5 for i in range(10)], abs=0.6)


def test_pairs_of_unequal_counts_are_refused() -> None:
    with pytest.raises(UserError, match=r"equal numbers of images .*\(got 3 in a and 4 in b\)"):
        TwoDomains(numbered_images(3), numbered_images(4), paired=True, shuffle=True)


def test_load_size_below_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.load_size 8 is below data.size 16"):
        OpenMojiPairs(size=16, load_size=8)


def test_swap_exchanges_the_domains() -> None:
    one, other = (
        OpenMojiPairs(size=16, paired=True, swap=swap).split("val") for swap in (False, True)
    )
    assert torch.equal(one.a.images, other.b.images)  # type: ignore[union-attr]
    assert torch.equal(one.b.images, other.a.images)  # type: ignore[union-attr]


# OpenMoji


def test_line_drawings_belong_to_their_colours() -> None:
    """Drawings are grey, and at most 5 % have ink where the colour image is white (letters)."""
    data = OpenMojiPairs(size=32, paired=True)
    for split in ("train", "val", "test"):
        pairs = data.split(split)
        line, colour = pairs.a.images, pairs.b.images  # type: ignore[union-attr]
        assert pairs.paired
        assert len(line) == len(colour)
        ink, white = line.amax(1) < 100, colour.amin(1) > 250
        assert (ink & white).any(2).any(1).float().mean() < 0.05
        assert torch.equal(line.amax(1), line.amin(1))
    assert 1600 < len(data.split("train")) < 1800


@pytest.mark.parametrize("side", ["a", "b"])
def test_no_drawing_and_no_colours_are_in_two_splits(side: str) -> None:
    """Splits share no pixels at 32 pixels; before, 14 of 224 test drawings were in training."""
    data = OpenMojiPairs(size=32, paired=True)
    parts = {split: data.split(split) for split in ("train", "val", "test")}
    pixels = {
        split: {image.numpy().tobytes() for image in getattr(part, side).images}
        for split, part in parts.items()
    }
    assert not pixels["train"] & pixels["val"]
    assert not pixels["train"] & pixels["test"]
    assert not pixels["val"] & pixels["test"]
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 1705,
        "val": 240,
        "test": 213,
    }


def test_unpaired_domains_share_no_drawing() -> None:
    """No training drawing equals the drawing of a colour image in the other domain."""
    halves, whole = (
        OpenMojiPairs(size=32).split("train"),
        OpenMojiPairs(size=32, paired=True).split("train"),
    )
    drawings, colours = (
        [image.numpy().tobytes() for image in images.images] for images in (whole.a, whole.b)
    )  # type: ignore[union-attr]
    coloured = {image.numpy().tobytes() for image in halves.b.images}  # type: ignore[union-attr]
    drawn = {image.numpy().tobytes() for image in halves.a.images}  # type: ignore[union-attr]
    assert not drawn & {drawing for drawing, colour in zip(drawings, colours) if colour in coloured}
    assert not coloured & {colour for drawing, colour in zip(drawings, colours) if drawing in drawn}


def test_unpaired_domains_share_no_glyph() -> None:
    """Drawings and colour images in training have different names; held-out images are pairs."""
    data = OpenMojiPairs(size=32)
    train = data.split("train")
    assert not train.paired
    assert 700 < len(train.a) < 1000
    assert 700 < len(train.b) < 1000
    whole = OpenMojiPairs(size=32, paired=True).split("train")
    assert not set(train.a.names) & set(train.b.names) - {""}  # type: ignore[union-attr, arg-type]
    assert len(train.a) + len(train.b) == len(whole)
    assert data.split("val").paired
    assert data.split("test").paired


def test_a_domain_is_image_data() -> None:
    data = OpenMojiPairs(size=16, load_size=32)
    line, colour = data.domain("a"), data.domain("b")
    assert line.data_spec["image_shape"] == [3, 16, 16]
    assert line.data_spec["num_classes"] > 5
    batch = colour.batch("val", [0, 3])
    assert batch["image"].shape == (2, 3, 16, 16)
    assert torch.equal(batch["image"], data.batch("val", [0, 3])["b"])
    assert line.fingerprint("val") != colour.fingerprint("val")


# Folders


def picture(
    path: Path, side: tuple[int, int] = (24, 24), mode: str = "RGB", colour: int = 0
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*side, 3), colour, np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def domains(home: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            picture(home / name / f"{number}.png", colour=4 * number)
    return home


def test_two_collections_of_unequal_counts(tmp_path: Path) -> None:
    data = PairFolder(
        str(domains(tmp_path, {"trainA": 5, "trainB": 3, "testA": 2, "testB": 4})),
        size=16,
        load_size=32,
    )
    assert data.sizes == {"train": 5, "val": 4, "test": 4}
    assert (len(data.split("train").a), len(data.split("train").b)) == (5, 3)
    assert not data.split("test").paired
    assert data.batch("train", [0, 4])["b"].shape == (2, 3, 16, 16)


def test_pairs_by_name(tmp_path: Path) -> None:
    home = domains(tmp_path, {"trainA": 3, "trainB": 3, "testA": 2, "testB": 2})
    (home / "trainB/1.png").rename(home / "trainB/1.webp")  # another extension, same name
    data = PairFolder(str(home), size=16, paired=True)
    batch = data.batch("train", [0, 1, 2])
    assert batch["paired"]
    assert torch.equal(batch["a"], batch["b"])
    picture(home / "trainA/0.jpg")
    with pytest.raises(
        UserError,
        match=r"trainA/0.jpg: there is another image of this name|trainA/0.png: there is another",
    ):
        PairFolder(str(home), size=16, paired=True)
    assert PairFolder(str(home), size=16).sizes["train"] == 4, "unpaired: both files count"
    (home / "trainA/0.jpg").unlink()
    (home / "trainB/2.png").unlink()
    with pytest.raises(
        UserError,
        match=r"trainA/2.png: has no partner of the same name .* \(files without a partner: 1\)",
    ):
        PairFolder(str(home), size=16, paired=True)


def test_two_folders_are_split_by_name(tmp_path: Path) -> None:
    domains(tmp_path, {"x": 60, "y": 60})
    data = PairFolder(
        folder_a=str(tmp_path / "x"), folder_b=str(tmp_path / "y"), size=16, paired=True
    )
    assert sum(data.sizes.values()) == 60
    assert data.sizes["train"] > 35
    for split in ("train", "val", "test"):
        assert [path.name for path in data.files[split][0]] == [
            path.name for path in data.files[split][1]
        ]


def test_side_by_side(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(3):
            both = np.concatenate(
                [np.full((24, 24, 3), 100, np.uint8), np.full((24, 24, 3), 200, np.uint8)], 1
            )
            (tmp_path / split).mkdir(exist_ok=True)
            Image.fromarray(both).save(tmp_path / split / f"{number}.png")
    data = PairFolder(str(tmp_path), size=16, paired=True)
    assert data.split("train").a.images.unique().tolist() == [100]  # type: ignore[union-attr]
    assert data.split("train").b.images.unique().tolist() == [200]  # type: ignore[union-attr]
    assert data.domain("a").fingerprint("train") != data.domain("b").fingerprint("train")
    unpaired = PairFolder(str(tmp_path), size=16)
    assert not unpaired.split("train").paired
    assert unpaired.split("test").paired, "evaluation data is paired"
    picture(tmp_path / "train/odd.png", (24, 47))
    with pytest.raises(BadImage, match="47 pixels wide"):
        PairFolder(str(tmp_path), size=16, paired=True).split("train")


@pytest.mark.parametrize("in_memory", [True, False])
def test_bad_files_stop_or_are_counted(
    in_memory: bool, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrupt files are bad; grey and small images are used."""
    if not in_memory:
        monkeypatch.setattr("datamodules.images.files.IN_MEMORY_BYTES", 0)
    home = domains(tmp_path, {"trainA": 4, "trainB": 4, "testA": 1, "testB": 1})
    picture(home / "trainA/0.png", (24, 24), "L", 200)
    picture(home / "trainB/0.png", (16, 16))
    picture(home / "trainA/1.png", (24, 12))
    options: dict[str, Any] = {"size": 16, "load_size": 40}
    batch = PairFolder(str(home), **options).batch("train", [0, 1])
    assert batch["a"].shape == (2, 3, 16, 16)
    assert (batch["a"][:, 0] == batch["a"][:, 2]).all()

    (home / "trainB/2.png").write_bytes(b"broken")
    data = PairFolder(str(home), **options)
    with pytest.raises(BadImage, match=r"trainB/2.png: cannot be read as an image"):
        data.batch("train", [2])
    capsys.readouterr()
    data = PairFolder(str(home), skip_bad=True, paired=True, **options)
    assert data.sizes["train"] == 3, "both files of a pair are left out"
    batch = data.batch("train", [0, 1, 2])
    assert [round((value + 1) * 127.5) for value in batch["b"][:, 0, 0, 0].tolist()] == [0, 4, 12]
    assert capsys.readouterr().err.splitlines()[:4] == [
        f"{home}: 10 files found, 10 used",
        f"{home}: no val images; the test images are used instead",
        "train a: 4 images found, 3 used (1 enlarged); 1 with an unusable partner (2.png)",
        "train b: 4 images found, 3 used; 1 unusable (2.png)",
    ]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "there is no such folder"),
        (
            {"trainA": 1, "testA": 1},
            "its train split has no images of b; lay them out as trainA trainB",
        ),
        (
            {"trainA": 1, "trainB": 2, "testA": 1},
            "its test split has no images of b; lay them out",
        ),
        ({"elsewhere": 3}, "has no training images; lay them out"),
    ],
)
def test_folders_without_two_domains_are_refused(
    counts: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        PairFolder(str(domains(tmp_path / "home", counts)))
    with pytest.raises(UserError, match=r"give --data.folder DIR"):
        PairFolder()
    with pytest.raises(UserError, match=r"belong together: give both"):
        PairFolder(str(tmp_path), folder_a=str(tmp_path))


# Archives


def zipped(path: Path, entries: dict[str, bytes], modes: dict[str, int] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return path


def tarred(path: Path, entries: dict[str, bytes], kinds: dict[str, bytes] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(content), (kinds or {}).get(name, tarfile.REGTYPE)
            if entry.type != tarfile.REGTYPE:
                entry.linkname, entry.size = "/etc/passwd", 0
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("write", [zipped, tarred], ids=["zip", "tar"])
def test_archives_are_unpacked_whole(write: Callable[..., Path], tmp_path: Path) -> None:
    archive = write(
        tmp_path / "x.archive", {"facades/train/1.txt": b"one", "facades/test/2.txt": b"two"}
    )
    extract(archive, tmp_path / "out/facades")
    assert (tmp_path / "out/facades/train/1.txt").read_bytes() == b"one"
    assert (tmp_path / "out/facades/test/2.txt").read_bytes() == b"two"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["facades"], (
        "no temporary folder is left"
    )


HOSTILE: dict[str, tuple[Callable[..., Path], tuple[Any, ...], str]] = {
    "zip absolute": (
        zipped,
        ({"ok": b"", "/tmp/evil": b"x"},),
        "outside of the target folder: use",
    ),
    "zip dots": (zipped, ({"ok": b"", "a/../../evil": b"x"},), "outside of the target folder: use"),
    "zip backslash": (zipped, ({"..\\evil": b"x"},), "outside of the target folder: use"),
    "zip drive": (zipped, ({"C:/evil": b"x"},), "outside of the target folder: use"),
    "zip link": (
        zipped,
        ({"link": b"/etc/passwd"}, {"link": stat.S_IFLNK | 0o777}),
        "a link or a device: use",
    ),
    "zip bomb": (zipped, ({"bomb": bytes(3_000_000)},), "more than 1,000,000 bytes"),
    "zip many": (zipped, ({str(number): b"" for number in range(200)},), "or 100 files: use"),
    "zip twice": (zipped, ({"a": b"1", "./a": b"2"},), "is damaged or not an archive"),
    "tar absolute": (tarred, ({"/tmp/evil": b"x"},), "outside of the target folder: use"),
    "tar dots": (tarred, ({"../evil": b"x"},), "outside of the target folder: use"),
    "tar symlink": (
        tarred,
        ({"link": b""}, {"link": tarfile.SYMTYPE}),
        "a link or a device: use",
    ),
    "tar hardlink": (
        tarred,
        ({"link": b""}, {"link": tarfile.LNKTYPE}),
        "a link or a device: use",
    ),
    "tar device": (
        tarred,
        ({"device": b""}, {"device": tarfile.CHRTYPE}),
        "a link or a device: use",
    ),
    "tar bomb": (tarred, ({"bomb": bytes(3_000_000)},), "more than 1,000,000 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(name: str, tmp_path: Path) -> None:
    write, arguments, message = HOSTILE[name]
    (tmp_path / "home").mkdir()
    archive = write(tmp_path / "home/x.archive", *arguments)
    with pytest.raises(UserError, match=message):
        extract(archive, tmp_path / "home/out", limit=1_000_000, members=100)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["x.archive"]
    assert not Path("/tmp/evil").exists()


def test_flipped_bits_of_a_tar_are_noticed(tmp_path: Path) -> None:
    """The checksum at the end of a gzip file detects a flipped bit."""
    archive = tarred(tmp_path / "x.tar.gz", {"a": b"content"})
    content = bytearray(archive.read_bytes())
    content[-6] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="is damaged or not an archive"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [400, 1200])
@pytest.mark.parametrize("write", [zipped, tarred], ids=["zip", "tar"])
def test_damaged_archives_are_refused(write: Callable[..., Path], cut: int, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(2000)
    archive = write(tmp_path / "x.archive", {"a": content})
    archive.write_bytes(archive.read_bytes()[:-cut])
    with pytest.raises(UserError, match="is damaged or not an archive"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Downloads from a local server


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; the first response may be cut short.

    Attributes:
        content: Bytes to serve, by path.
        cut: Number of bytes after which the next response ends; None for all bytes.
        ranges: Range headers of the requests so far.
        announce: Whether responses have a Content-Length.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges: list[str | None] = []
        self.announce = True

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        content = self.server.content.get(self.path)
        if content is None:
            self.send_error(404)
            return
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        if self.server.announce:
            self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        cut, self.server.cut = self.server.cut, None
        with contextlib.suppress(ConnectionError):  # the client closed the connection
            self.wfile.write(content[first : None if cut is None else first + cut])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()


def test_a_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    content = np.random.default_rng(1).bytes(3_000_000)
    server.content["/x.bin"], server.cut = content, 1_000_000
    target = tmp_path / "deep/x.bin"
    with pytest.raises(
        UserError, match=r"ended after 1,000,000 of 3,000,000 bytes.*place the file at"
    ):
        fetch([server.address("/x.bin")], target)
    assert not target.exists()
    fetch([server.address("/x.bin")], target)
    assert target.read_bytes() == content
    assert server.ranges == [None, "bytes=1000000-"]
    assert (tmp_path / "deep/x.bin.sha256").read_text(encoding="utf-8").strip() == hashlib.sha256(
        content
    ).hexdigest()
    server.content.clear()
    fetch([server.address("/x.bin")], target)  # the file exists: no request


def test_of_several_processes_one_downloads(server: Server, tmp_path: Path) -> None:
    content = np.random.default_rng(1).bytes(3_000_000)
    server.content["/x.bin"] = content
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch([server.address("/x.bin")], tmp_path / "x.bin"), range(4)))
    assert (tmp_path / "x.bin").read_bytes() == content
    assert server.ranges == [None]


def test_the_second_address_helps(server: Server, tmp_path: Path) -> None:
    server.content["/there"] = b"content"
    fetch([server.address("/gone"), server.address("/there")], tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"
    with pytest.raises(UserError, match=r"/gone: HTTP Error 404.*/lost: HTTP Error 404"):
        fetch([server.address("/gone"), server.address("/lost")], tmp_path / "y")


def test_another_content_is_refused(server: Server, tmp_path: Path) -> None:
    """Downloads are checked against a given SHA-256, or the one recorded at the first download."""
    server.content["/x"] = b"first"
    with pytest.raises(UserError, match="its SHA-256 is"):
        fetch([server.address("/x")], tmp_path / "x", checksum="0" * 64)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}
    fetch([server.address("/x")], tmp_path / "x")
    (tmp_path / "x").unlink()
    server.content["/x"] = b"second"
    with pytest.raises(UserError, match="the file has changed or is damaged"):
        fetch([server.address("/x")], tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("announce", [True, False])
def test_too_large_a_download_is_refused(announce: bool, server: Server, tmp_path: Path) -> None:
    server.content["/x"], server.announce = bytes(5_000_000), announce
    with pytest.raises(UserError, match=r"more than the 2,000,000 (bytes )?allowed"):
        fetch([server.address("/x")], tmp_path / "x", limit=2_000_000)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".lock"}


def test_what_turns_out_to_be_no_archive_can_be_replaced(server: Server, tmp_path: Path) -> None:
    server.content["/x.zip"] = b"<html>try later</html>"
    with pytest.raises(UserError, match="remove it and download it again"):
        obtain([server.address("/x.zip")], tmp_path / "x.zip", tmp_path / "x")
    (tmp_path / "x.zip").unlink()
    server.content["/x.zip"] = zipped(tmp_path / "made.zip", {"x/file": b"content"}).read_bytes()
    obtain([server.address("/x.zip")], tmp_path / "x.zip", tmp_path / "x")
    assert (tmp_path / "x/file").read_bytes() == b"content"


def test_an_archive_of_the_papers_by_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named archive is downloaded and unpacked once, and gives the expected splits."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(buffer, "PNG")
    names = [
        f"horse2zebra/{part}{domain}/{i}.png"
        for part in ("train", "test")
        for domain in "AB"
        for i in range(2)
    ]
    server.content["/horse2zebra.zip"] = zipped(
        tmp_path / "made.zip", dict.fromkeys(names, buffer.getvalue())
    ).read_bytes()
    monkeypatch.setitem(archives.ADDRESSES, "cyclegan", [server.address("/{}.zip")])
    data = PaperArchive(
        "cyclegan", "horse2zebra", size=16, load_size=20, root=str(tmp_path / "data")
    )
    data.prepare_data()
    data.prepare_data()
    assert len(server.ranges) == 1
    assert data.sizes == {"train": 2, "val": 2, "test": 2}
    assert (tmp_path / "data/cyclegan/horse2zebra/trainA/0.png").exists()
    with pytest.raises(
        UserError,
        match=r"data.dataset facade: pix2pix has no such data set; give one of facades, maps",
    ):
        PaperArchive("pix2pix", "facade")
