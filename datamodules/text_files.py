"""Text and table files as streams; an error names the file and the byte or line."""

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

SHARD_BYTES = 2**20  # bytes that are read at a time


def read_shards(path: Path) -> Iterator[str]:
    """A file in UTF-8, a piece at a time.

    Raises:
        UserError: naming the file and the byte, if it is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    place = 0
    with open(path, "rb") as file:
        while block := file.read(SHARD_BYTES):
            try:
                yield decoder.decode(block)
            except UnicodeDecodeError as error:
                where = place + error.start
                raise UserError(
                    f"{path}: is not UTF-8 (byte {where:,}); convert it, such as with iconv -f "
                    "latin1 -t utf-8"
                ) from error
            place += len(block)
        if decoder.getstate()[0]:
            raise UserError(
                f"{path}: ends in the middle of a character (byte {place:,}); it was cut short: "
                "get it again"
            )


def read_lines(path: Path) -> Iterator[str]:
    r"""Lines of a file as editors count them: Unicode knows more ends of lines than "\n", which may
    stand within a sentence.
    """
    rest = ""
    for text in read_shards(path):
        *lines, rest = (rest + text).split("\n")
        yield from lines
    if rest:
        yield rest


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a .csv.

    Raises:
        UserError: if it is not in UTF-8, has no row, or lacks a column.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is not a table in UTF-8 ({error}); save it as one") from error
    if not rows or not rows[0].keys() >= set(columns):
        raise UserError(f"{path}: needs the columns {' and '.join(columns)}, and at least one row")
    return rows
