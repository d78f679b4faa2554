"""Reading of UTF-8 text files and .csv tables; error messages name the file."""

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

SHARD_BYTES = 2**20  # bytes read at a time


def read_shards(path: Path) -> Iterator[str]:
    """Yield the text of a UTF-8 file in parts of about `SHARD_BYTES` bytes.

    Raises:
        UserError: If the file is not valid UTF-8; the message gives the position of the error.
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
                    f"{path}: is not UTF-8 (byte {where:,}); convert it, for example with "
                    "iconv -f latin1 -t utf-8"
                ) from error
            place += len(block)
        if decoder.getstate()[0]:
            raise UserError(
                f"{path}: ends in the middle of a character (byte {place:,}); the file was cut "
                "short: get it again"
            )


def read_lines(path: Path) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 file; only "\n" ends a line.

    Other line separators of Unicode, such as U+2028, may occur within a sentence.
    """
    rest = ""
    for text in read_shards(path):
        *lines, rest = (rest + text).split("\n")
        yield from lines
    if rest:
        yield rest


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the rows of a .csv file with a header, as dictionaries keyed by column name.

    Raises:
        UserError: If the file is not a .csv in UTF-8, has no rows, or lacks one of `columns`.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is not a .csv in UTF-8 ({error}); save it as one") from error
    if not rows or not rows[0].keys() >= set(columns):
        raise UserError(f"{path}: needs the columns {' and '.join(columns)}, and at least one row")
    return rows
