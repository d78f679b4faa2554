"""Progress of long work on stderr: a bar on a terminal, otherwise a line every 10 seconds."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from common.run import RANKS

QUIET = 2.0  # seconds without output; shorter work shows no progress
PERIOD = 10.0  # seconds between two lines
REFRESH = 0.25  # seconds between two updates of a bar

T = TypeVar("T")


def on_terminal() -> bool:
    """Return whether stderr is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def is_first_process() -> bool:
    """Return whether this is the process with rank 0, the only one that shows progress."""
    return next((int(os.environ[name]) for name in RANKS if name in os.environ), 0) == 0


def duration(seconds: float) -> str:
    """Return a duration in its largest sensible unit: "45 s", "12.3 min" or "5.1 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


class Bars:
    """Progress bars at the bottom of the terminal; text that is printed appears above them.

    Each bar has a line of values below it. All bars disappear when the last one is removed.
    """

    def __init__(self) -> None:
        self._live: Any = None
        self._progress: Any = None
        self._values: dict[Any, str] = {}

    def add(self, what: str, total: float | None) -> Any:
        """Add a bar and return its key; a total of None is unknown."""
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.text import Text

        if self._live is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(None),
                TextColumn("{task.fields[note]}", markup=False),
            )
            console = Console(stderr=True)
            self._progress = Progress(*columns, console=console, expand=True, auto_refresh=False)

            def content() -> Any:
                values = [Text(text) for text in self._values.values() if text]
                return Group(self._progress, *values)

            self._live = Live(
                get_renderable=content,
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
            )
            self._live.start()
        key = self._progress.add_task(what, total=total, note="")
        self._values[key] = ""
        return key

    def update(self, key: Any, done: float, note: str, values: str = "") -> None:
        """Draw a bar again, with a note at its right end and a line of values below it."""
        if key in self._values:
            self._progress.update(key, completed=done, note=note)
            self._values[key] = values
            self._live.refresh()

    def remove(self, key: Any) -> None:
        """Remove a bar; a bar that has been removed already is ignored."""
        if self._values.pop(key, None) is None:
            return
        self._progress.remove_task(key)
        if not self._values:
            self._live.stop()
            self._live = self._progress = None


BARS = Bars()  # of this process


class Task:
    """Progress of one piece of work with a known number of parts.

    Args:
        what: Name of the work, such as "rasterising emoji".
        total: Number of parts; infinity if it is unknown.
        quiet: Number of seconds without output, so that short work shows nothing.
    """

    def __init__(self, what: str, total: float, quiet: float = QUIET) -> None:
        self.what, self.total = what, total
        self.shows = is_first_process()
        self._begin = time.perf_counter()
        self._next = self._begin + quiet
        self._key: Any = None

    def update(self, done: int) -> None:
        """Show that `done` parts are finished, if it is time to."""
        now = time.perf_counter()
        if now < self._next or not self.shows:
            return
        known = self.total != float("inf")
        left = (now - self._begin) / done * (self.total - done) if done and known else 0
        note = f"{done:,}/{self.total:,}" if known else f"{done:,}"
        note += f"  {duration(left)} left" if left else ""
        if on_terminal():
            if self._key is None:
                self._key = BARS.add(self.what, self.total if known else None)
            BARS.update(self._key, done, note)
            self._next = now + REFRESH
        else:
            print(f"{self.what}: {note}", file=sys.stderr, flush=True)
            self._next = now + PERIOD

    def close(self) -> None:
        """Remove the bar."""
        BARS.remove(self._key)


def track(items: Sequence[T], what: str, quiet: float = QUIET) -> Iterator[T]:
    """Iterate over `items` and show the progress.

    Args:
        items: Sequence to iterate over.
        what: Name of the work, such as "rasterising emoji".
        quiet: Number of seconds without output, so that short work shows nothing.
    """
    task = Task(what, len(items), quiet)
    try:
        for done, item in enumerate(items):
            task.update(done)
            yield item
    finally:
        task.close()
