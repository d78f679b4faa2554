"""Lines about a corpus on stderr: how many files were used, and why others were not."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only

EXAMPLES = 3  # number of file names per reason
_printed: set[str] | None = None  # lines printed inside of `each_line_once`


@contextmanager
def each_line_once() -> Iterator[None]:
    """Print equal lines only once in a `with` block, where several objects read the same corpus."""
    global _printed
    _printed = set()
    try:
        yield
    finally:
        _printed = None


@rank_zero_only
def note(line: str) -> None:
    """Print a line on stderr, on rank 0 only."""
    if _printed is None or line not in _printed:
        print(line, file=sys.stderr, flush=True)
    if _printed is not None:
        _printed.add(line)


def report_usage(
    name: str,
    found: int,
    used: int,
    left_out: Mapping[str, Sequence[Path]],
    kind: str = "files",
    remarks: Mapping[str, int] | None = None,
) -> None:
    """Print one line on stderr, such as `photos: 12 images found, 11 used; 1 broken (a.png)`.

    Args:
        name: Corpus or split that the line is about.
        found: Number of files that were found.
        used: Number of files that are used.
        left_out: Files that are not used, keyed by the reason.
        kind: Plural noun for the files, such as "images".
        remarks: Numbers of used files that were changed, such as {"enlarged": 3}.
    """
    parts = []
    for reason, paths in left_out.items():
        if paths:
            names = ", ".join(path.name for path in paths[:EXAMPLES])
            more = ", ..." if len(paths) > EXAMPLES else ""
            parts.append(f"{len(paths):,} {reason} ({names}{more})")
    rest = f"; {', '.join(parts)}" if parts else ""
    noted = ", ".join(f"{count:,} {remark}" for remark, count in (remarks or {}).items() if count)
    notes = f" ({noted})" if noted else ""
    line = f"{name}: {found:,} {kind} found, {used:,} used{notes}{rest}"
    note(line)
