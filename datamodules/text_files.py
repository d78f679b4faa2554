"""Reading of UTF-8 text files and .csv tables; error messages name the file."""

import codecs
import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError

SHARD_BYTES = 2**20  # bytes read at a time
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_shards(path: Path) -> Iterator[str]:
    """Yield the text of a UTF-8 file in parts of about `SHARD_BYTES` bytes.

    A file whose name ends in `.gz` is decompressed.

    Raises:
        UserError: If the file is not valid UTF-8, has a NUL byte, or is damaged; the message gives
            the position of the error.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    place = 0
    with open_bytes(path) as file:
        while block := read_block(path, file):
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                where = place + error.start - len(decoder.getstate()[0])
                raise UserError(
                    f"{path}: is not UTF-8 (byte {where:,}); convert it, for example with "
                    f"iconv -f {'utf-16' if block.startswith(UTF16) else 'latin1'} -t utf-8"
                ) from error
            if "\0" in text:
                raise UserError(
                    f"{path}: has a NUL byte (byte {place + block.index(0):,}), so it is not UTF-8 "
                    "text; convert it, for example with iconv -f utf-16le -t utf-8, or remove it"
                )
            yield text
            place += len(block)
        if decoder.getstate()[0]:
            raise UserError(
                f"{path}: ends in the middle of a character (byte {place:,}); the file was cut "
                "short: get it again"
            )


def open_bytes(path: Path) -> Any:
    """Open a file for reading bytes; a `.gz` file gives its decompressed bytes."""
    return gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")


def read_block(path: Path, file: Any) -> bytes:
    """Read at most `SHARD_BYTES` bytes of an open file.

    Raises:
        UserError: If a compressed file is damaged.
    """
    try:
        block: bytes = file.read(SHARD_BYTES)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: is damaged ({error}); compress the text again") from error
    return block


def read_lines(path: Path) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 file; only "\n" ends a line.

    Other line separators of Unicode, such as U+2028, may occur within a sentence.
    """
    return split_lines(read_shards(path))


def split_lines(texts: Iterable[str]) -> Iterator[str]:
    r"""Yield the lines, without "\n", of a text that is given in shards."""
    rest: list[str] = []  # shards of an unfinished line, joined once: a line may be long
    for text in texts:
        first, *lines = text.split("\n")
        rest.append(first)
        if lines:
            yield "".join(rest)
            *lines, last = lines
            yield from lines
            rest = [last]
    if last := "".join(rest):
        yield last


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the rows of a .csv file with a header, as dictionaries keyed by column name.

    Fields are separated by commas. A field with a comma or a quote stands in double quotes, and no
    field contains a line break. Only the end of the file may have empty lines, so row i is line
    i + 2.

    Raises:
        UserError: If the file is not a .csv in UTF-8, has no rows, lacks one of `columns`, or has
            a line that does not match its header; the message names the line.
    """
    lines = table_lines(path)
    header = table_row(path, 1, lines[0])
    listed = ", ".join(header)
    for column in header:
        if header.count(column) > 1:
            raise UserError(f"{path}: line 1 has the column {column!r} twice; rename or remove one")
    missing = [column for column in columns if column not in header]
    if missing or len(lines) == 1:
        raise UserError(
            f"{path}: needs the columns {' and '.join(columns)}, and at least one row"
            + (f"; line 1 has {listed}" if missing else "")
        )
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not line:
            raise UserError(f"{path}: line {number} is empty; remove it")
        row = table_row(path, number, line)
        if len(row) != len(header):
            fault = (
                f"more fields than the header ({listed}); put a text with a comma in double quotes"
                if len(row) > len(header)
                else f"only {len(row)} of the fields {listed}; complete the line"
            )
            raise UserError(f"{path}: line {number} has {fault}")
        rows.append(dict(zip(header, row)))
    return rows


def table_lines(path: Path) -> list[str]:
    r"""Return the lines of a .csv file, which end in "\n", "\r\n" or "\r".

    Raises:
        UserError: If the file is empty, not UTF-8, or has a NUL byte; the message names the line.
    """
    raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    lines = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n").split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: line {number} is not UTF-8 ({error.reason}, byte {error.start} of the "
                "line); save the table in UTF-8"
            ) from error
        if b"\0" in line:
            raise UserError(f"{path}: line {number} has a NUL byte; save the table in UTF-8")
    if lines == [b""]:
        raise UserError(f"{path}: is empty; write a header and rows")
    return [line.decode("utf-8") for line in lines]


def table_row(path: Path, number: int, line: str) -> list[str]:
    """Return the fields of one line of a .csv file.

    Raises:
        UserError: If a quoted field does not end on the line, or text follows its closing quote.
    """
    try:
        (row,) = csv.reader([line], strict=True)
    except csv.Error as error:
        raise UserError(
            f"{path}: line {number} has a wrong quote ({error}); close each quoted text on its "
            'line, and write a quote within it as ""'
        ) from error
    return row
