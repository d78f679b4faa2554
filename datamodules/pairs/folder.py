"""Data module of your own images of two domains, a and b, in one of three layouts.

- One folder with sub-folders `trainA`, `trainB`, `testA`, `testB`, and optionally `valA` and
  `valB`.
- One folder with sub-folders `train`, `test`, and optionally `val`. Each file shows two images side
  by side, a on the left and b on the right.
- Two folders, one per domain. Images are split by their sub-folders `train`, `val` and `test`, or
  else by a SHA-256 of their names: 80 % training, 10 % validation, 10 % test. The contents of files
  are not compared, so copies of an image may fall into different splits.

Splits may also be named `training`, `valid`, `validation`, `dev` and `testing`, in any case. If
either the validation or the test split is missing, the other is used for both, and a line says so.
CycleGAN and pix2pix select no checkpoint by a score on these images, unless `fid.count` is set. In
the first and third layout, the two images of a pair have the same file name, apart from the
extension.
"""

import re
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveInt

from common.errors import UserError
from datamodules.images.file_options import ImageFileOptions
from datamodules.images.files import (
    FileImages,
    Images,
    choose_samples,
    fits_into_memory,
    read_files,
)
from datamodules.images.finding import (
    BESIDE,
    ImageSearch,
    assign_splits,
    find_images,
    refuse_nested_splits,
    sub_folders,
)
from datamodules.pairs.base import PairDataModule
from datamodules.splits import SPLITS, split_named
from datamodules.usage_report import note

LAYOUT = "lay them out as trainA trainB testA testB, or side by side in train and test"
DOMAIN_FOLDER = re.compile(r"(.+?)[ _-]?([ab])", re.IGNORECASE)
NO_PARTNER = "with an unusable partner"

Layout = Literal["domains", "side by side"]
Names = dict[str, Path]  # image files, keyed by the path below the folder of their split


def stem(name: str) -> str:
    """Return the relative path of a file without its extension."""
    return PurePosixPath(name).with_suffix("").as_posix()


def domain_folders(root: Path) -> dict[tuple[str, str], Path]:
    """Return the sub-folders such as trainA and validation_b, keyed by split and domain.

    Raises:
        UserError: If two folders stand for the same split and domain.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(sub_folders(root)):
        match = DOMAIN_FOLDER.fullmatch(path.name)
        split = split_named(match[1]) if match else None
        if match is None or split is None:
            continue
        key = (split, match[2].lower())
        if key in found:
            raise UserError(
                f"{found[key]} and {path} are both domain {key[1]} of the {split} split; rename or "
                "remove one"
            )
        found[key] = path
    return found


def files_by_domain(
    search: ImageSearch, folders: dict[tuple[str, str], Path]
) -> dict[str, tuple[Names, Names]]:
    """Return the files of both domains in each split of the layout trainA, trainB, ..."""
    found: dict[tuple[str, str], Names] = {
        (split, domain): {} for split in SPLITS for domain in "ab"
    }
    key_of = {folder.name: key for key, folder in folders.items()}
    beside = []
    for path in search.images:
        first, *rest = path.relative_to(search.root).parts
        if first in key_of and rest:
            refuse_nested_splits(search.root, PurePosixPath(first, *rest[:-1]), key_of[first][0])
            found[key_of[first]]["/".join(rest)] = path
        else:
            beside.append(path)
    search.leave_out(BESIDE, beside)
    return {split: (found[split, "a"], found[split, "b"]) for split in SPLITS}


def files_by_split(search: ImageSearch) -> dict[str, Names]:
    """Return the files of each split of one domain, or of side-by-side images."""
    found, folders = assign_splits(search, key=stem)
    return {
        split: {
            path.relative_to(folders.get(split, search.root)).as_posix(): path for path in paths
        }
        for split, paths in found.items()
    }


class PairFolder(ImageFileOptions, PairDataModule):
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
            file. A pair is skipped if one of its images is unusable.
        **kwargs: Arguments of `ImageFileOptions` and `PairDataModule`.

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
        """Layout: "side by side" (two images per file) or "domains" (one folder per domain).

        Raises:
            UserError: If one folder has folders of both layouts.
        """
        root = self.folders[0]
        whole = [path for path in sub_folders(root) if split_named(path.name)]
        if len(self.folders) == 2 or not whole:
            return "domains"
        apart = list(domain_folders(root).values())
        for folder in whole:
            apart += [path for path in sub_folders(folder) if path.name.lower() in ("a", "b")]
        if apart:
            raise UserError(f"{whole[0]} and {apart[0]} are folders of two layouts; {LAYOUT}")
        return "side by side"

    @cached_property
    def files(self) -> dict[str, tuple[list[Path], list[Path]]]:
        """Files of domain a and of domain b in each split."""
        searches = [find_images(folder) for folder in self.folders]
        if self.layout == "side by side":
            by_split = {
                split: (names, names) for split, names in files_by_split(searches[0]).items()
            }
        elif len(searches) == 1:
            by_split = files_by_domain(searches[0], domain_folders(self.folders[0]))
        else:
            domains = [files_by_split(search) for search in searches]
            by_split = {split: (domains[0][split], domains[1][split]) for split in SPLITS}
        found = {split: self._ordered(split, *names) for split, names in by_split.items()}
        for search in searches:
            search.report(str(search.root))
        for missing, other in (("val", "test"), ("test", "val")):
            if not any(found[missing]) and any(found[other]):
                found[missing] = found[other]
                note(f"{self.folders[0]}: no {missing} images; the {other} images are used instead")
        return found

    def _ordered(self, split: str, a: Names, b: Names) -> tuple[list[Path], list[Path]]:
        """Return the files of both domains; if `paired`, file i of a belongs to file i of b."""
        if bool(a) != bool(b):
            raise UserError(
                f"{self.folders[0]}: its {split} split has no images of {'b' if a else 'a'}; "
                f"{LAYOUT}"
            )
        if self.paired:
            a, b = partners(a, b)
        return list(a.values()), list(b.values())

    def load_domains(self, split: str) -> tuple[Images, Images, bool]:
        """Load both domains of a split. In evaluation, side-by-side images are always pairs."""
        aside = self.layout == "side by side"
        paired = self.paired or (aside and split != "train")
        side = self.load_size if split == "train" else self.size
        chosen = [
            choose_samples(
                FileImages(
                    paths,
                    torch.zeros(len(paths), dtype=torch.int64),
                    self.reader(
                        split,
                        side,
                        self.channels,
                        half=half if aside else None,
                        min_size=self.size,
                    ),
                ),
                self.max_samples if split == "train" else None,
            )
            for half, paths in enumerate(self.files[split])
        ]
        in_memory = all(fits_into_memory(files) for files, _ in chosen)
        read = [read_files(files, self.skip_bad, in_memory) for files, _ in chosen]
        domains = [one.data for one in read]
        both = torch.isin(read[0].kept, read[1].kept), torch.isin(read[1].kept, read[0].kept)
        for number, (files, left_out) in enumerate(chosen):
            if paired:  # keep a pair only if both of its images are usable
                alone = read[number].kept[~both[number]]
                left_out[NO_PARTNER] = [files.paths[i] for i in alone.tolist()]
                domains[number] = domains[number].subset(both[number].nonzero()[:, 0])
            read[number].data = domains[number]
            read[number].report(f"{split} {'ab'[number]}", left_out)
        return domains[0], domains[1], paired


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
