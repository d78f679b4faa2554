"""Rewrite the table of systems in README.md from the systems and recipes: `make readme`."""

import ast
import re

from cli.recipes import purpose, recipes
from common.files import ROOT

BEGIN, END = "<!-- systems: written by `make readme` -->", "<!-- end of systems -->"


def systems_table() -> str:
    """Table with one row per system that has a recipe: title of its file, recipes and purposes."""
    rows = ["| System | What it is | Recipes |", "|---|---|---|"]
    by_system: dict[str, list[str]] = {}
    for path in recipes():
        place = path.relative_to(ROOT).as_posix()
        by_system.setdefault(path.parent.name, []).append(
            f"[{path.stem}]({place}): {purpose(path)}"
        )
    for system, lines in by_system.items():
        file = f"lightning_modules/{system}.py"
        docstring = ast.get_docstring(ast.parse((ROOT / file).read_text())) or system
        title = " ".join(docstring.partition("\n\n")[0].split())
        name, _, what = title.rstrip(".").partition(": ")
        rows.append(f"| [{name}]({file}) | {what} | {'<br>'.join(lines)} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """Replace the table of systems in the text of README.md."""
    return re.sub(
        f"{re.escape(BEGIN)}.*{re.escape(END)}",
        lambda _: f"{BEGIN}\n{systems_table()}\n{END}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text()))
