"""Rewrite the table of systems in README.md and README.ko.md (`make readme`).

The texts of the table are the docstrings of the systems, their recipes and their results.
"""

import re
import sys

from common.errors import run
from common.files import ROOT

BEGIN, END = "<!-- systems: written by `make readme` -->", "<!-- end of systems -->"
HEADINGS = {"README.md": (), "README.ko.md": ("첫 명령", "결과 (논문)")}


def with_table(text: str, *headings: str) -> str:
    """Return the text of a README with a new table of systems."""
    from cli.pages.systems import table  # imports packages of the environment

    return re.sub(
        f"{re.escape(BEGIN)}.*{re.escape(END)}",
        lambda _: f"{BEGIN}\n{table(*headings)}\n{END}",
        text,
        flags=re.DOTALL,
    )


def program() -> None:
    """Rewrite both files."""
    for name, headings in HEADINGS.items():
        path = ROOT / name
        path.write_text(with_table(path.read_text(encoding="utf-8"), *headings), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run(program))
