"""Resumable downloads, and extraction of archives that cannot write outside the target folder."""

import gzip
import hashlib
import os
import shutil
import stat
import sys
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from filelock import FileLock

from common.errors import UserError
from datamodules.cache import sha256

GIB = 2**30
CHUNK = 2**20
TIMEOUT = 30.0  # seconds without a response
BROKEN = (  # exceptions of the standard library for damaged archives
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error),
    *(EOFError, FileExistsError, RuntimeError, NotImplementedError),
)


def fetch(
    addresses: list[str], path: Path, *, checksum: str | None = None, limit: int = 20 * GIB
) -> None:
    """Download a file; an interrupted download resumes from its partial file `<path>.*.part`.

    The complete file is renamed to `path`. If `path` already exists, nothing is downloaded.

    Args:
        addresses: URLs of the file, tried in the given order.
        path: Destination file.
        checksum: Expected SHA-256. If None, the SHA-256 of the first download is recorded in
            `<path>.sha256`, and later downloads must match the record.
        limit: Maximum size of the file in bytes.

    Raises:
        UserError: If every address fails, the file is too large, or the checksum differs.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # only one process downloads
        if not path.exists():
            _download(addresses, path, checksum, limit)


def _download(addresses: list[str], path: Path, checksum: str | None, limit: int) -> None:
    """Download from the first address that works, and verify the checksum."""
    reasons = []
    for address in addresses:
        # Each address has its own partial file, because the files of two mirrors may differ.
        part = path.with_name(
            f"{path.name}.{hashlib.sha256(address.encode()).hexdigest()[:8]}.part"
        )
        print(f"downloading {address}", file=sys.stderr)
        try:
            _continue(address, part, limit)
            break
        except (OSError, HTTPException) as error:
            reasons.append(f"{address}: {error}")
    else:
        raise UserError(
            f"{path.name} could not be downloaded ({'; '.join(reasons)}): try again, or place the "
            f"file at {path}"
        )
    record = path.with_name(f"{path.name}.sha256")
    expected = checksum or (record.read_text(encoding="utf-8").strip() if record.exists() else None)
    found = sha256(part)
    if expected is not None and found != expected:
        part.unlink()
        raise UserError(
            f"{path.name}: its SHA-256 is {found}, not {expected}: the file has changed or "
            f"is damaged; place a good copy at {path}"
        )
    if checksum is None:
        record.write_text(f"{found}\n", encoding="utf-8")
    os.replace(part, path)


def _continue(address: str, part: Path, limit: int) -> None:
    """Download the missing bytes of the partial file `part` and append them to it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # no bytes are left: `part` is complete
            return
        raise
    with answer:
        have = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        whole = have + int(length) if length else None
        if whole is not None and whole > limit:
            raise UserError(
                f"{address}: has {whole:,} bytes, more than the {limit:,} allowed; "
                "download it yourself"
            )
        with open(part, "ab" if have else "wb") as file:
            while block := answer.read(CHUNK):
                have += len(block)
                if have > limit:
                    part.unlink()
                    raise UserError(
                        f"{address}: sends more than the {limit:,} bytes allowed; "
                        "download it yourself"
                    )
                file.write(block)
    if whole is not None and have < whole:
        raise OSError(f"the download ended after {have:,} of {whole:,} bytes")


class Member(NamedTuple):
    """File or folder in an archive: relative path, size in bytes, content (None for a folder)."""

    name: PurePosixPath
    size: int
    content: IO[bytes] | None


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(
                    f"{path}: {entry.filename} is a link or a device: use another archive"
                )
            content = None if entry.is_dir() else archive.open(entry)
            yield Member(_inside(entry.filename, path), entry.file_size, content)


def _tar_members(path: Path) -> Iterator[Member]:
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            if not (entry.isfile() or entry.isdir()):
                raise UserError(f"{path}: {entry.name} is a link or a device: use another archive")
            yield Member(
                _inside(entry.name, path),
                entry.size,
                archive.extractfile(entry) if entry.isfile() else None,
            )
        while stream.read(CHUNK):  # read to the end, where gzip verifies its checksum
            pass


def _inside(name: str, archive: Path) -> PurePosixPath:
    """Return the path of an archive member; raise `UserError` if it leads out of the target."""
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or ":" in name:
        raise UserError(
            f"{archive}: {name} would be written outside of the target folder: use another archive"
        )
    return place


def extract(
    archive: Path, folder: Path, *, limit: int = 20 * GIB, members: int = 1_000_000
) -> None:
    """Extract a .zip or .tar.gz file to `folder`, which appears only when it is complete.

    If the archive consists of a single top-level folder, the content of that folder is extracted.

    Args:
        archive: Path of the .zip or .tar.gz file.
        folder: Destination folder; must not exist.
        limit: Maximum total size of the extracted files in bytes.
        members: Maximum number of files and folders in the archive.

    Raises:
        UserError: If the archive is damaged or exceeds `limit` or `members`, or if a member is a
            link or a device, or if the path of a member is absolute or contains `..`. All extracted
            files are then removed.
    """
    temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        total = 0
        for count, member in enumerate(
            _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive), 1
        ):
            total += member.size
            if total > limit or count > members:
                raise UserError(
                    f"{archive}: would unpack to more than {limit:,} bytes or {members:,} files: "
                    "use another archive"
                )
            target = temporary / member.name
            if member.content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as file:  # fails if two members have the same name
                shutil.copyfileobj(member.content, file, CHUNK)
        entries = list(temporary.iterdir())
        only = entries[0] if len(entries) == 1 and entries[0].is_dir() else temporary
        os.replace(only, folder)
    except BROKEN as error:
        raise UserError(
            f"{archive}: is damaged or not an archive ({error}); remove it and download it again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def obtain(addresses: list[str], archive: Path, folder: Path) -> None:
    """Download an archive, unless it exists already, and extract it into `folder`.

    Raises:
        UserError: If the download or the extraction fails.
    """
    fetch(addresses, archive)
    with FileLock(f"{archive}.lock"):
        if folder.exists():
            return
        try:
            extract(archive, folder)
        except UserError:
            # Remove the recorded checksum, because the next download may be another file.
            archive.with_name(f"{archive.name}.sha256").unlink(missing_ok=True)
            raise
