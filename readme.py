"""Rewrite the table of systems in README.md (`make readme`).

The texts of the table are the docstrings of the systems and the first comments of the recipes.
"""

import ast
import re
import sys

from cli.recipes import purpose, recipes
from common.errors import run
from common.files import ROOT

BEGIN, END = "<!-- systems: written by `make readme` -->", "<!-- end of systems -->"


def systems_table() -> str:
    """Return a table of all systems with recipes: title of the system, purposes of its recipes."""
    rows = ["| System | What it is | Recipes |", "|---|---|---|"]
    by_system: dict[str, list[str]] = {}
    for path in recipes():
        place = path.relative_to(ROOT).as_posix()
        by_system.setdefault(path.parent.name, []).append(
            f"[{path.stem}]({place}): {purpose(path)}"
        )
    for system, lines in by_system.items():
        file = f"lightning_modules/{system}.py"
        docstring = (
            ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or system
        )
        title = " ".join(docstring.partition("\n\n")[0].split())
        name, _, what = title.rstrip(".").partition(": ")
        rows.append(f"| [{name}]({file}) | {what} | {'<br>'.join(lines)} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """Return the text of README.md with a new table of systems."""
    return re.sub(
        f"{re.escape(BEGIN)}.*{re.escape(END)}",
        lambda _: f"{BEGIN}\n{systems_table()}\n{END}",
        text,
        flags=re.DOTALL,
    )


def program() -> None:
    """Rewrite README.md."""
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run(program))
