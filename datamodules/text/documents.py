"""Documents of record files: JSON lines, Parquet, and data sets of Hugging Face `datasets`.

All readers stream: a document is one value of a column, and one batch of rows is in memory.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from datamodules.text_files import read_lines

ROWS = 1024  # rows of a Parquet file that are read at a time
Row = dict[str, Any]


def columns_of(path: Path, wanted: list[str] | None, count: int, option: str) -> list[str]:
    """Return the names of the text columns to read from a record file.

    Args:
        path: File of records.
        wanted: Names that the user gave; None selects the text columns of the first record.
        count: Number of columns to select.
        option: Option that names the columns, such as "data.column".

    Raises:
        UserError: If the file has no records or lacks a wanted column, or if `wanted` is None and
            the number of text columns is not `count`.
    """
    first = next((row for _, row in records(path, None)), None)
    if first is None:
        raise UserError(f"{path}: has no records; add some, or remove it")
    texts = [name for name, value in first.items() if isinstance(value, str)]
    listed = ", ".join(first) or "none"
    for name in wanted or []:
        if name not in first:
            raise UserError(f"{option} {name}: {path} has the columns {listed}; give one of them")
    if wanted is None and len(texts) != count:
        raise UserError(
            f"{path}: has {len(texts)} text columns (all columns: {listed}); name the text with "
            f"{option}"
        )
    return wanted or texts


def texts_of(path: Path, columns: list[str]) -> Iterator[list[str]]:
    """Yield the values of text columns, one list per record.

    Raises:
        UserError: If a record lacks a column, or if a value is not text; the message names the
            file and the line or row.
    """
    for where, row in records(path, columns):
        for name in columns:
            value = row.get(name)
            if not isinstance(value, str):
                what = "has no column" if name not in row else f"has {one(value)} in the column"
                raise UserError(f"{where} {what} {name}; write a text")
            if "\0" in value or (not value.isascii() and not encodable(value)):
                raise UserError(
                    f"{where} has a character in the column {name} that is no text (NUL or half "
                    "of a surrogate pair); remove it"
                )
        yield [row[name] for name in columns]


def one(value: Any) -> str:
    """Return a short name of a value that is not text."""
    return "null" if value is None else f"a value of type {type(value).__name__}"


def encodable(text: str) -> bool:
    """Return whether a text can be written in UTF-8; half of a surrogate pair cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def records(path: Path, columns: list[str] | None) -> Iterator[tuple[str, Row]]:
    """Yield the place of each record, for error messages, and its values.

    Args:
        path: File of records.
        columns: Columns to read; None reads all columns.
    """
    if path.suffix.lower() == ".parquet":
        return parquet_rows(path, columns)
    if path.suffix.lower() == ".arrow":
        return arrow_rows(path, columns)
    return json_rows(path)


def json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the objects of a JSON-lines file; empty lines are allowed.

    Raises:
        UserError: If a line is not a JSON object.
    """
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}:"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{where} is not JSON ({error}); write one JSON object on each line"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a JSON object; write one JSON object on each line")
        yield where, row


def parquet_rows(path: Path, columns: list[str] | None) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a Parquet file.

    Raises:
        UserError: If `pyarrow` is missing, or if the file is not a Parquet file.
    """
    arrow = pyarrow("pyarrow.parquet")
    try:
        with arrow.parquet.ParquetFile(path) as file:
            wanted = columns and [name for name in columns if name in file.schema_arrow.names]
            batches = file.iter_batches(batch_size=ROWS, columns=wanted)
            yield from numbered_rows(path, batches)
    except (arrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: is not a readable Parquet file ({error}); get it again"
        ) from error


def arrow_rows(path: Path, columns: list[str] | None) -> Iterator[tuple[str, Row]]:
    """Yield the rows of an Arrow stream, the format of Hugging Face `datasets` on disk.

    Raises:
        UserError: If `pyarrow` is missing, or if the file is not an Arrow stream.
    """
    arrow = pyarrow("pyarrow.ipc")
    try:
        with arrow.memory_map(str(path)) as file, arrow.ipc.open_stream(file) as stream:
            wanted = [
                name for name in columns or stream.schema.names if name in stream.schema.names
            ]
            batches = (
                part.select(wanted)
                for batch in stream
                for part in (batch.slice(i, ROWS) for i in range(0, batch.num_rows, ROWS))
            )
            yield from numbered_rows(path, batches)
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: is not a readable Arrow file ({error}); save it again") from error


def numbered_rows(path: Path, batches: Any) -> Iterator[tuple[str, Row]]:
    """Yield the rows of Arrow record batches with their numbers."""
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{path} row {number:,}", row


def pyarrow(part: str) -> Any:
    """Import `pyarrow` and one of its parts.

    Raises:
        UserError: If the package is not installed.
    """
    try:
        __import__(part)
        import pyarrow
    except ImportError as error:
        raise UserError(
            "Parquet files and Hugging Face data sets need a package that is not installed: pip "
            "install pyarrow"
        ) from error
    return pyarrow
