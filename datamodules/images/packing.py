"""Packing of a folder of images into shards, which `ImageShards` reads."""

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import torch

from common.errors import UserError
from common.files import atomic_save
from common.progress import Task
from datamodules.images.folder import ImageFolder
from datamodules.images.reading import BadImage, open_image
from datamodules.images.shards import CLASSES
from datamodules.splits import SPLITS
from datamodules.usage_report import report_usage

PLAN = "plan.json"  # what the shards of a folder contain
UNUSABLE = "unusable.txt"  # files that were left out, one per line
LOCK = threading.Lock()  # of this list


class Shard(NamedTuple):
    """Images of one shard.

    Attributes:
        path: File of the shard.
        first: Number of its first image in the split, which becomes its key.
        images: Image files.
    """

    path: Path
    first: int
    images: list[Path]


def plan_shards(data: ImageFolder, out: Path, shard_bytes: int) -> list[Shard]:
    """Divide the images of each split into shards of about `shard_bytes` bytes.

    Images are in a random order, so that each shard has images of all classes.
    """
    shards: list[Shard] = []
    for split in SPLITS:
        order = torch.randperm(len(data.files[split]), generator=torch.Generator().manual_seed(0))
        files = [data.files[split][i] for i in order.tolist()]
        sizes = torch.tensor([path.stat().st_size for path in files], dtype=torch.int64)
        numbers = (sizes.cumsum(0) - sizes) // shard_bytes
        first = 0
        for count in numbers.unique_consecutive(return_counts=True)[1].tolist():
            number = len(shards)
            path = out / f"{split}-{number:06d}.tar"
            shards.append(Shard(path, first, files[first : first + count]))
            first += count
    return shards


def write_shard(shard: Shard, data: ImageFolder, skip_bad: bool) -> None:
    """Write a shard to a temporary file, record the images that are left out, and rename it.

    Raises:
        BadImage: If an image is unusable and `skip_bad` is False.
    """
    unusable, numbers = [], {name: str(i).encode() for i, name in enumerate(data.classes)}
    temporary = shard.path.with_suffix(".tmp")
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, path in enumerate(shard.images, shard.first):
                try:
                    content = path.read_bytes()
                    open_image(path, data.channels, content=content)
                except (BadImage, OSError):
                    if not skip_bad:
                        raise
                    unusable.append(path)
                    continue
                members = {path.suffix.lower(): content}
                if len(data.classes) > 1:
                    members[".cls"] = numbers[data.label_of[path]]
                for suffix, part in members.items():
                    info = tarfile.TarInfo(f"{number:09d}{suffix}")
                    info.size = len(part)
                    tar.addfile(info, io.BytesIO(part))
        record_unusable(shard.path.parent, unusable)  # before the shard counts as written
        os.replace(temporary, shard.path)
    finally:
        temporary.unlink(missing_ok=True)


def write_plan(shards: Sequence[Shard], data: ImageFolder, out: Path) -> None:
    """Write the plan of the shards to their folder, or compare it with the one that is there.

    Raises:
        UserError: If the folder holds shards of other images.
    """
    digest = hashlib.blake2b(digest_size=16)
    for shard in shards:
        digest.update(f"{shard.path.name} {len(shard.images)}\n".encode())
        for path in shard.images:
            name, label = path.relative_to(data.folder), data.label_of[path]
            digest.update(os.fsencode(f"{name} {path.stat().st_size} {label}\n"))
    plan = json.dumps({"shards": len(shards), "images": digest.hexdigest()})
    file = out / PLAN
    if file.is_file() and file.read_text(encoding="utf-8") != plan:
        raise UserError(
            f"{out}: has shards of other images or labels, or of another size; remove it, or give "
            "another folder"
        )
    atomic_save(file, lambda stream: stream.write(plan.encode()))
    if len(data.classes) > 1:
        (out / CLASSES).write_text("\n".join(data.classes) + "\n", encoding="utf-8")


def shard_folder(folder: str, out: Path, shard_bytes: int, skip_bad: bool) -> None:
    """Pack a folder of images into shards, several at a time, and print a report on stderr.

    Splits and classes are those of `ImageFolder`. Every image is decoded once, so that a training
    does not end at a broken file. A second call with the same arguments writes the shards that are
    missing.

    Args:
        folder: Folder of images.
        out: Folder of the shards.
        shard_bytes: Number of bytes of images in a shard.
        skip_bad: Leave out unusable files, and list them in `unusable.txt`.

    Raises:
        BadImage: If an image is unusable and `skip_bad` is False.
        UserError: If `out` has shards of other images.
    """
    data = ImageFolder(folder)
    out.mkdir(parents=True, exist_ok=True)
    shards = plan_shards(data, out, shard_bytes)
    write_plan(shards, data, out)
    missing = [shard for shard in shards if not shard.path.is_file()]
    count = sum(len(shard.images) for shard in shards)
    done = count - sum(len(shard.images) for shard in missing)
    task = Task("writing shards", count)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders release the interpreter's lock
        jobs = {pool.submit(write_shard, shard, data, skip_bad): shard for shard in missing}
        try:
            for job in as_completed(jobs):
                job.result()
                done += len(jobs[job].images)
                task.update(done)
        finally:
            pool.shutdown(cancel_futures=True)
            task.close()
    left_out = record_unusable(out, [])
    report_usage(str(out), count, count - len(left_out), {"unusable": left_out}, "images")


def record_unusable(out: Path, paths: Sequence[Path]) -> list[Path]:
    """Add paths to the list of unusable files, and return the whole list."""
    with LOCK:
        file, lines = out / UNUSABLE, sorted(map(str, paths))
        if file.is_file():
            before = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            lines = sorted({*before, *lines})
        if paths:
            text = "".join(f"{line}\n" for line in lines)
            file.write_text(text, encoding="utf-8", errors="surrogateescape")
        return [Path(line) for line in lines]
