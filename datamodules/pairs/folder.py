"""Data module of your own images of two domains, a and b, in one of three layouts.

- One folder with sub-folders `trainA`, `trainB`, `testA`, `testB`, and optionally `valA` and
  `valB`.
- One folder with sub-folders `train`, `test`, and optionally `val`. Each file shows two images side
  by side, a on the left and b on the right.
- Two folders, one per domain. Images are split by a SHA-256 of their names: 80 % training, 10 %
  validation, 10 % test. The contents of files are not compared, so copies of an image may fall into
  different splits.

If either the validation or the test split is missing, the other is used for both. This does not
favour any checkpoint, because none is selected by a score on these images. In the first and third
layout, the two images of a pair have the same file name, apart from the extension.
"""

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from common.errors import UserError
from datamodules.images.base import InMemoryImages
from datamodules.images.files import (
    BadImage,
    FileImages,
    fits_into_memory,
    image_files,
    read_all,
    read_image,
    square,
)
from datamodules.pairs.base import Images, PairDataModule
from datamodules.splits import SPLITS, split_of, take_subset

Layout = Literal["domains", "side by side"]


class DomainFiles(FileImages):
    """Dataset of the image files of one domain, which are decoded batch by batch.

    Args:
        paths: Image files.
        size: Height and width of the decoded images in pixels.
        channels: Number of channels, 1 or 3.
        min_size: Minimum height and width of an image in pixels.
        half: Half of a side-by-side image, 0 for left or 1 for right. None uses the whole image.
    """

    def __init__(
        self, paths: list[Path], size: int, channels: int, min_size: int, half: int | None
    ) -> None:
        super().__init__(paths, torch.zeros(len(paths), dtype=torch.int64), size, channels, {})
        self.min_size, self.half = min_size, half

    def read(self, path: Path) -> Tensor:
        image = read_image(path, self.channels)
        if self.half is not None:
            middle = image.width // 2
            if image.width < 2 or image.width % 2:
                raise BadImage(
                    f"{path}: is {image.width} pixels wide, but two images side by side need "
                    "an even width; repair or remove it"
                )
            image = image.crop((self.half * middle, 0, (self.half + 1) * middle, image.height))
        return square(image, self.size, path, self.min_size)

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} half={self.half}"

    def subset(self, index: Tensor) -> "DomainFiles":
        return DomainFiles(
            [self.paths[i] for i in index.tolist()],
            self.size,
            self.channels,
            self.min_size,
            self.half,
        )


def images_in(folder: Path) -> dict[str, Path]:
    """Return the image files below a folder, keyed by relative path and sorted by it."""
    files = {path.relative_to(folder).as_posix(): path for path in image_files(folder)}
    return dict(sorted(files.items()))


def stem(name: str) -> str:
    """Return the relative path of a file without its extension."""
    return PurePosixPath(name).with_suffix("").as_posix()


class PairFolder(PairDataModule):
    """Your own images of two domains, in one folder or in two.

    Args:
        Corpus:
        folder: Folder with sub-folders `trainA`, `trainB`, `testA` and `testB`, or with sub-folders
            `train` and `test` of side-by-side images.
        folder_a: Folder of all images of domain a. If it is given with `folder_b`, `folder` is
            ignored.
        folder_b: Folder of all images of domain b.
        channels: Number of channels: 3 for colour, 1 for grey.
        skip_bad: Skip unusable files and print their number. If False, stop at the first unusable
            file.
            A pair is skipped if one of its images is unusable.
        **kwargs: Arguments of `PairDataModule`.

    Raises:
        UserError: If a folder is missing or empty, or if an image of a pair has no partner.
    """

    def __init__(
        self,
        folder: str | None = None,
        folder_a: str | None = None,
        folder_b: str | None = None,
        channels: Literal[1, 3] = 3,
        skip_bad: bool = False,
        size: PositiveInt = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(size=size, **kwargs)
        self.channels, self.skip_bad = channels, skip_bad
        if bool(folder_a) != bool(folder_b):
            raise UserError(
                "--data.folder_a and --data.folder_b belong together: give both, or "
                "--data.folder DIR"
            )
        if folder_a and folder_b:
            self.folders = [Path(folder_a), Path(folder_b)]
        elif folder:
            self.folders = [Path(folder)]
        else:
            raise UserError(
                "no folder of images is given: give --data.folder DIR, or --data.folder_a DIR and "
                "--data.folder_b DIR"
            )
        self.check()

    def check(self) -> None:
        """Check that the folders have training images, before a model is built."""
        for folder in self.folders:
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: there is no such folder; give one with images of two domains"
                )
        if not any(self.files["train"]):
            raise UserError(f"{self.folders[0]}: has no training images; {LAYOUT}")

    @cached_property
    def layout(self) -> Layout:
        """Layout: "side by side" (two images per file) or "domains" (one folder per domain)."""
        side_by_side = len(self.folders) == 1 and (self.folders[0] / "train").is_dir()
        return "side by side" if side_by_side else "domains"

    @cached_property
    def files(self) -> dict[str, tuple[list[Path], list[Path]]]:
        """Files of domain a and of domain b in each split."""
        found: dict[str, tuple[list[Path], list[Path]]] = {}
        for split in SPLITS:
            if self.layout == "side by side":
                a = b = images_in(self.folders[0] / split)
            elif len(self.folders) == 1:
                a, b = (images_in(self.folders[0] / f"{split}{domain}") for domain in "AB")
            else:
                everything = [images_in(folder) for folder in self.folders]
                a, b = (
                    {name: path for name, path in files.items() if split_of(stem(name)) == split}
                    for files in everything
                )
            if bool(a) != bool(b):
                raise UserError(
                    f"{self.folders[0]}: its {split} split has no images of "
                    f"{'b' if a else 'a'}; {LAYOUT}"
                )
            if self.paired:
                a, b = partners(a, b)
            found[split] = (list(a.values()), list(b.values()))
        for missing, other in (("val", "test"), ("test", "val")):
            if not any(found[missing]):
                found[missing] = found[other]
        return found

    def load_domains(self, split: str) -> tuple[Images, Images, bool]:
        """Load both domains of a split. In evaluation, side-by-side images are always pairs."""
        aside = self.layout == "side by side"
        paired = self.paired or (aside and split != "train")
        side = self.load_size if split == "train" else self.size
        a, b = (
            DomainFiles(paths, side, self.channels, self.size, half if aside else None)
            for half, paths in enumerate(self.files[split])
        )
        if split == "train":
            a, b = take_subset(a, self.max_samples), take_subset(b, self.max_samples)
        small = fits_into_memory(a) and fits_into_memory(b)
        if not small and not self.skip_bad:
            return a, b, paired
        (images_a, kept_a), (images_b, kept_b) = (
            read_all(files, f"{split} {name}", self.skip_bad, keep=small)
            for name, files in (("a", a), ("b", b))
        )
        if paired:  # keep a pair only if both of its images are usable
            both = kept_a[torch.isin(kept_a, kept_b)]
            images_a, images_b = (
                images_a[torch.isin(kept_a, both)],
                images_b[torch.isin(kept_b, both)],
            )
            kept_a = kept_b = both
        if not small:
            return a.subset(kept_a), b.subset(kept_b), paired
        return unlabelled(images_a), unlabelled(images_b), paired


def unlabelled(images: Tensor) -> InMemoryImages:
    """Return a dataset in which all images have the label 0."""
    return InMemoryImages(images, torch.zeros(len(images), dtype=torch.int64))


LAYOUT = "lay them out as trainA trainB testA testB, or side by side in train and test"


def partners(a: dict[str, Path], b: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Match the files of two domains by their names without the extension.

    Args:
        a: Files of domain a, keyed by relative path.
        b: Files of domain b, keyed by relative path.

    Returns:
        Files of a and files of b, both keyed by name without the extension, in the same order.

    Raises:
        UserError: If a file has no partner, or more than one; the message names the first such
            file.
    """
    by_stem: list[dict[str, Path]] = []
    for files in (a, b):
        by_stem.append({stem(name): path for name, path in files.items()})
        if len(by_stem[-1]) < len(files):
            twice = next(path for name, path in files.items() if by_stem[-1][stem(name)] != path)
            raise UserError(
                f"{twice}: there is another image of this name with another extension; remove "
                "one of them"
            )
    alone = sorted(by_stem[0].keys() ^ by_stem[1].keys())
    if alone:
        path = by_stem[0].get(alone[0]) or by_stem[1][alone[0]]
        raise UserError(
            f"{path}: has no partner of the same name in the other domain (files without a "
            f"partner: {len(alone)}); add the partner, or remove the file"
        )
    return dict(sorted(by_stem[0].items())), dict(sorted(by_stem[1].items()))
