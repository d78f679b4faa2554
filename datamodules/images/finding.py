"""Search for image files in folders, and their assignment to splits."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath

from PIL import Image

from common.errors import UserError
from datamodules.splits import SPLITS, split_named, split_of, split_paths
from datamodules.usage_report import report_usage

# Formats of still images. Pillow also reads documents, videos and scientific containers.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"),
    *("PPM", "AVIF", "JPEG2000", "QOI", "DIB", "TGA"),
)
HIDDEN = ("__macosx", "thumbs.db", "desktop.ini")  # in lower case
NO_IMAGE = "not an image"
BESIDE = "beside the folders of the splits"
TWICE = "found twice through a link"


@cache
def image_formats() -> tuple[str, ...]:
    """Return the formats of still images that the installed Pillow can read."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the formats in `image_formats`."""
    return frozenset(
        suffix for suffix, kind in Image.registered_extensions().items() if kind in image_formats()
    )


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden, or is one that an operating system adds to folders."""
    return name.startswith(".") or name.lower() in HIDDEN


@dataclass
class ImageSearch:
    """Images of a folder, and its files and folders that are left out.

    Attributes:
        root: Folder that was searched.
        images: Image files, sorted by path.
        left_out: Files and folders that are left out, keyed by the reason. The files in such a
            folder are not counted.
    """

    root: Path
    images: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def leave_out(self, reason: str, paths: Iterable[Path]) -> None:
        """Record files or folders that are not used, and remove them from `images`."""
        added = set(paths)
        if added:
            self.left_out.setdefault(reason, []).extend(sorted(added))
            self.images = [path for path in self.images if path not in added]

    def claim(self, paths: Iterable[Path]) -> None:
        """Remove files that are used as tables or captions from those that are no images."""
        used = set(paths)
        self.left_out[NO_IMAGE] = [
            path for path in self.left_out.get(NO_IMAGE, []) if path not in used
        ]

    def report(self, name: str) -> None:
        """Print the numbers of images and of files that are left out, after a name."""
        found = len(self.images) + sum(map(len, self.left_out.values()))
        report_usage(name, found, len(self.images), self.left_out)

    def example(self) -> str:
        """Return a remark that names one file that is no image; "" if there is none."""
        others = self.left_out.get(NO_IMAGE)
        return f" ({others[0].name} is not one)" if others else ""


class FolderWalk:
    """Search of a folder that follows links and finds no file twice.

    Args:
        root: Folder to search.
    """

    def __init__(self, root: Path) -> None:
        self.search = ImageSearch(root)
        self.links: list[Path] = []
        self.seen: set[str] = set()  # paths without links

    def run(self) -> ImageSearch:
        """Search the folder: first all files and folders, then the links."""
        root = self.search.root
        self.list_folder(root, os.path.realpath(root))
        for link in self.links:  # grows in this loop
            target = os.path.realpath(link)
            if not os.path.exists(target):
                self.leave_out("broken link", link)
            elif Path(os.path.realpath(link.parent)).is_relative_to(target):
                self.leave_out("link to a parent folder", link)
            else:
                self.visit(link, target, os.path.isdir(target), os.path.isfile(target))
        self.search.images.sort()
        for paths in self.search.left_out.values():
            paths.sort()
        return self.search

    def list_folder(self, folder: Path, real: str) -> None:
        """Visit all files and sub-folders of a folder, and remember its links."""
        self.seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            self.leave_out("unreadable folder", folder)
            return
        for entry in entries:
            path = folder / entry.name
            if is_hidden(entry.name):
                self.leave_out("hidden", path)
            elif entry.is_symlink():
                self.links.append(path)
            else:
                self.visit(path, f"{real}{os.sep}{entry.name}", entry.is_dir(), entry.is_file())

    def visit(self, path: Path, real: str, is_folder: bool, is_file: bool) -> None:
        """Record a file, or search a folder; `real` is its path without links."""
        if real in self.seen:
            self.leave_out(TWICE, path)
        elif is_folder:
            self.list_folder(path, real)
        elif path.suffix.lower() not in image_suffixes():
            self.leave_out(NO_IMAGE, path)
        elif not is_file:  # a pipe would block the reader
            self.leave_out("not a regular file", path)
        else:
            self.seen.add(real)
            self.search.images.append(path)

    def leave_out(self, reason: str, path: Path) -> None:
        """Record a file or folder that is not used."""
        self.search.left_out.setdefault(reason, []).append(path)


def find_images(root: Path) -> ImageSearch:
    """Search a folder and its sub-folders for images.

    Links are followed. No file is found twice: files and folders have precedence over links to
    them, and of several links to one file the first is used. So no image is in two splits, and
    links cannot form endless loops.
    """
    return FolderWalk(root).run()


def check_images(search: ImageSearch, option: str) -> None:
    """Raise a `UserError` if a search found no images."""
    if not search.images:
        common = [".bmp", ".gif", ".jpg", ".png", ".tif", ".webp"]
        known = ", ".join(one for one in common if one in image_suffixes())
        raise UserError(
            f"{option}: there are no images in it{search.example()}; add some ({known}, ...)"
        )


def sub_folders(root: Path) -> Iterator[Path]:
    """Yield the visible folders directly in a folder."""
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir() and not is_hidden(entry.name):
                yield root / entry.name


def assign_splits(
    search: ImageSearch, key: Callable[[str], str] = str
) -> tuple[dict[str, list[Path]], dict[str, Path]]:
    """Assign images to splits, by the folders of the splits or by a hash of their paths.

    Images that are beside the folders of the splits are left out.

    Args:
        search: Images of a folder.
        key: Function that maps the path of an image, relative to the folder, to the string that is
            hashed.

    Returns:
        Images of "train", "val" and "test", and the folder of each split; no folders if the images
        are split by a hash.

    Raises:
        UserError: If two folders stand for the same split, if there is validation or test data but
            no training data, or if a folder of another level is named like held-out data.
    """
    folders = split_paths(sub_folders(search.root))
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    split_of_folder: dict[Path, str | None] = {}
    for folder in {path.parent for path in search.images}:
        name = folder.relative_to(search.root)
        split_of_folder[folder] = split_named(name.parts[0]) if folders and name.parts else None
        if not folders or split_of_folder[folder]:  # else it is left out
            refuse_nested_splits(search.root, name, split_of_folder[folder])
    beside = []
    for path in search.images:
        split = split_of_folder[path.parent]
        if not folders:
            split = split_of(key(path.relative_to(search.root).as_posix()))
        if split is None:
            beside.append(path)
        else:
            found[split].append(path)
    search.leave_out(BESIDE, beside)
    return found, folders


def refuse_nested_splits(root: Path, name: PurePath, split: str | None) -> None:
    """Raise a `UserError` if training could use data that a folder names validation or test data.

    Args:
        root: Folder of all images.
        name: Folder of images, relative to `root`.
        split: Split of the images in `name`; None if they are split by a hash.
    """
    if split in ("val", "test"):
        return
    for depth, part in enumerate(name.parts):
        if split == "train" and depth == 0:
            continue
        if split_named(part) in ("val", "test"):
            raise UserError(
                f"{root.joinpath(*name.parts[: depth + 1])}: is named like a split, but is not "
                f"directly in {root}; give the folder that contains train, or rename it"
            )


def find_table(search: ImageSearch, name: str) -> Path | None:
    """Return the file of a folder that has the name `name` in any case; None if there is none.

    Raises:
        UserError: If there are two such files.
    """
    tables = sorted(
        path for path in search.root.iterdir() if path.name.lower() == name and path.is_file()
    )
    if len(tables) > 1:
        raise UserError(f"{tables[0]} and {tables[1]} are both the table {name}; remove one")
    search.claim(tables)
    return tables[0] if tables else None
