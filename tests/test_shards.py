"""Images in shards: the same images, splits and labels as in the folder, in an exact order."""

import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

import shard
from common.errors import UserError
from datamodules.images.folder import ImageFolder
from datamodules.images.packing import shard_folder
from datamodules.images.shards import ImageShards, shuffled_by_shard
from datamodules.samplers import Part, Request, ResumableBatchSampler
from datamodules.splits import SPLITS
from tests.runs import tiny_config
from train import main as train

CLASSES = ("cat", "hund", "猫")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 90 images of 3 classes with different sizes, and a broken file."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(90):
        path = root / CLASSES[number % 3] / f"{number}.{('jpg', 'png')[number % 2]}"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (12 + number % 3, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (root / "cat/broken.png").write_bytes(b"\x89PNG")
    return root


@pytest.fixture(scope="module")
def shards(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in shards of 8 kB."""
    out = tmp_path_factory.mktemp("shards")
    pack(folder, out)
    return out


def pack(folder: Path, out: Path) -> None:
    shard_folder(str(folder), out, 8000, skip_bad=True)


def everything(data: Any, split: str) -> dict[bytes, int]:
    """Label of each image of a split, keyed by the pixels."""
    part = data.split(split)
    batch = part.__getitems__(Request(torch.arange(len(part)), 0))
    images = [image.numpy().tobytes() for image in batch["image"]]
    assert len(set(images)) == len(images)
    return dict(zip(images, batch["label"].tolist(), strict=True))


def test_shards_hold_the_images_splits_and_labels_of_the_folder(
    folder: Path, shards: Path, tmp_path: Path
) -> None:
    one = ImageFolder(str(folder), size=8, skip_bad=True)
    other = ImageShards(str(shards), size=8, root=str(tmp_path))
    assert len(list(shards.glob("train-*.tar"))) > 3
    assert other.data_spec == one.data_spec
    assert other.class_names == one.class_names
    for split in SPLITS:
        assert everything(one, split) == everything(other, split)
    names = other.attribute_batch("猫")
    assert len(names["positive"]) + len(names["negative"]) == len(one.split("train"))


def test_the_library_webdataset_reads_the_shards(shards: Path) -> None:
    paths = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    found = list(webdataset.WebDataset(paths, shardshuffle=False).decode("rgb"))
    keys = [sample["__key__"] for sample in found]
    assert len(set(keys)) == len(keys) > 60
    assert {sample["cls"] for sample in found} == {0, 1, 2}
    first = found[0]
    assert first.get("jpg", first.get("png")).shape[2] == 3


def test_shards_of_the_library_webdataset_are_read(tmp_path: Path) -> None:
    """Shards without names of splits, as of img2dataset: a hash of the keys assigns the splits."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    with webdataset.ShardWriter(str(tmp_path / "%05d.tar"), maxcount=25, verbose=0) as writer:
        for number, image in enumerate(images):
            sample = {"__key__": f"a/{number:03d}", "png": image / 255, "txt": "caption"}
            writer.write({**sample, "json": {"width": 8}})
    data = ImageShards(str(tmp_path), size=8, root=str(tmp_path))
    found = {pixels for split in SPLITS for pixels in everything(data, split)}
    assert found == {image.transpose(2, 0, 1).tobytes() for image in images}
    assert 36 < data.sizes["train"] < 60


def test_a_second_call_writes_the_missing_shards_only(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path)
    paths = sorted(tmp_path.glob("*.tar"))
    contents = {path: path.read_bytes() for path in paths}
    paths[1].unlink()
    for path in paths[2:]:
        os.utime(path, (1, 1))
    pack(folder, tmp_path)
    assert {path: path.read_bytes() for path in sorted(tmp_path.glob("*.tar"))} == contents
    assert {path.stat().st_mtime for path in paths[2:]} == {1.0}
    assert (tmp_path / "unusable.txt").read_text(encoding="utf-8").count("broken.png") == 1


def test_the_order_reads_groups_of_shards() -> None:
    sizes = torch.tensor([3, 5, 2, 4, 1])
    order = shuffled_by_shard(sizes, 2, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(15))
    shard_of = torch.arange(5).repeat_interleave(sizes)[order].tolist()
    groups: list[set[int]] = []
    for one in shard_of:
        if not groups or (one not in groups[-1] and len(groups[-1]) == 2):
            groups.append(set())
        groups[-1].add(one)
    assert [len(group) for group in groups] == [2, 2, 1]
    assert set().union(*groups) == set(range(5))


@pytest.mark.parametrize("together", [None, 2])
def test_two_processes_and_a_resumed_run_read_every_image_once(
    together: int | None, shards: Path, tmp_path: Path
) -> None:
    """Two processes read two batches each, then one process reads the rest of the epoch."""
    data = ImageShards(str(shards), size=8, root=str(tmp_path), shuffle_shards=together)
    images = data.split("train")
    whole = sampler(data, images, 4, 1)
    expected = [index for request in whole for index in request.index.tolist()]
    ranks = [list(sampler(data, images, 2, 2, rank))[:2] for rank in (0, 1)]
    resumed = sampler(data, images, 4, 1)
    resumed.used = [Part(2, 2, 2)]
    first = [i for a, b in zip(*ranks, strict=True) for i in (*a.index.tolist(), *b.index.tolist())]
    rest = [index for request in resumed for index in request.index.tolist()]
    assert sorted(first) == sorted(expected[:8])
    assert rest == expected[8:]


def sampler(
    data: ImageShards, images: Any, batch_size: int, world: int, rank: int = 0
) -> ResumableBatchSampler:
    found: ResumableBatchSampler = data.batch_sampler(
        images, batch_size, shuffle=True, seed=0, name="train", rank=rank, world=world
    )
    return found


def test_a_run_resumes_with_the_same_bits(shards: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "config.yaml", "autoencoder")
    argv = ["fit", "--config", str(config), "--data", "ImageShards", "--data.folder", str(shards)]
    argv += ["--data.size", "8", "--data.root", str(tmp_path), "--data.num_workers", "1"]
    argv += ["--data.batch_size", "8", "--data.shuffle_shards", "2"]
    argv += ["--trainer.max_steps", "12"]
    stop = ["--trainer.callbacks+=tests.runs.TerminateAt", "--trainer.callbacks.step=5"]
    runs = [["--run_dir", str(tmp_path / name)] for name in ("whole", "stopped")]
    assert train([*argv, *runs[0]]) == 0
    assert train([*argv, *runs[1], *stop]) == 143
    assert train(["fit", *runs[1], "--ckpt_path", "last"]) == 0
    states = [
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "stopped")
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    """Write a tar file."""
    source = path.parent / "member"
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in members.items():
            source.write_bytes(content)
            file.add(source, name)
    source.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ({}, "there are no shards .* `python shard.py`"),
        ({"train-0.tar": {}, "1.tar": {}}, "1.tar: its name has no split"),
        ({"0.tar": {"a.jpg": b"", "a.png": b""}}, "0.tar: /a has two images"),
        ({"0.tar": {"a.jpg": b"", "a.cls": b"cat"}}, "/a.cls is b'cat', but must be the number"),
        ({"0.tar": {"a.jpg": b"", "a.cls": b"3"}, "classes.txt": "x"}, "labels of .* are 3 to 3"),
        ({"0.tar": {"a.jpg": b"", "a.cls": b"0", "b.jpg": b""}}, "/b has no .cls, but other"),
        ({"0.tar": "no tar"}, "0.tar: not a readable shard .* as one uncompressed"),
    ],
)
def test_bad_shards_are_refused(shards: dict[str, Any], message: str, tmp_path: Path) -> None:
    for name, content in shards.items():
        if isinstance(content, str):
            (tmp_path / name).write_text(content, encoding="utf-8")
        else:
            tar(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        ImageShards(str(tmp_path), root=str(tmp_path / "root")).split("train")


def test_shards_of_a_subfolder_have_their_own_index(shards: Path, tmp_path: Path) -> None:
    """Below `train`, the names of shards have no split, so their images are divided."""
    (tmp_path / "corpus/train").mkdir(parents=True)
    for number, one in enumerate(sorted(shards.glob("train-*.tar"))):
        shutil.copy(one, tmp_path / f"corpus/train/part-{number}.tar")
    root = str(tmp_path / "root")
    below = ImageShards(str(tmp_path / "corpus/train"), size=8, root=root).sizes
    assert below["val"] > 0
    whole = ImageShards(str(tmp_path / "corpus"), size=8, root=root).sizes
    assert whole == {"train": sum(below.values()), "val": 0, "test": 0}


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    tar(tmp_path / "train-0.tar", {"a/b.jpg": b"x" * 600})
    data = ImageShards(str(tmp_path), root=str(tmp_path / "root")).split("train")
    with pytest.raises(UserError, match=r"train-0.tar: its image a/b.jpg cannot be read; write"):
        data.__getitems__(Request(torch.tensor([0]), 0))


def test_compressed_and_truncated_shards_are_refused(shards: Path, tmp_path: Path) -> None:
    tar(tmp_path / "train-0.tar", {"a.jpg": b"x" * 5000}, "w:gz")
    with pytest.raises(UserError, match="not a readable shard"):
        ImageShards(str(tmp_path), root=str(tmp_path / "root")).split("train")
    whole = sorted(shards.glob("train-*.tar"))[0].read_bytes()
    (tmp_path / "train-0.tar").write_bytes(whole[:3000])
    with pytest.raises(UserError, match="not a readable shard"):
        ImageShards(str(tmp_path), root=str(tmp_path / "root")).split("train")


def test_joined_shards_and_splits_of_deeper_folders(shards: Path, tmp_path: Path) -> None:
    """`tarfile` would read only the first of two joined files, without an error."""
    one, other = sorted(shards.glob("train-*.tar"))[:2]
    place = tmp_path / "corpus/val/part-0.tar"
    place.parent.mkdir(parents=True)
    place.write_bytes(one.read_bytes() + other.read_bytes())
    (tmp_path / "corpus/train").mkdir()
    (tmp_path / "corpus/train/part-0.tar").write_bytes(one.read_bytes())
    with pytest.raises(UserError, match=r"val/part-0.tar: not a readable shard .*joined"):
        ImageShards(str(tmp_path), root=str(tmp_path / "root")).split("train")
    place.write_bytes(other.read_bytes())
    data = ImageShards(str(tmp_path), size=8, root=str(tmp_path / "root"))
    assert everything(data, "train").keys().isdisjoint(everything(data, "val"))


def test_shards_of_other_images_are_not_overwritten(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither after a change of the size of shards nor of a label."""
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(folder, images)
    assert shard.main([str(images), str(out)]) == 2
    assert "broken.png: cannot be read as an image" in capsys.readouterr().err
    assert shard.main([str(images), str(out), "--skip_bad"]) == 0
    (images / "cat/0.jpg").rename(images / "hund/0.jpg")
    for more in ([], ["--shard_mb", "1"]):
        assert shard.main([str(images), str(out), "--skip_bad", *more]) == 2
        assert "has shards of other images or labels" in capsys.readouterr().err
