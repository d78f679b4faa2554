"""One page per system: docstring, source, recipes, results, and the notes of docs/systems/."""

import ast
from pathlib import Path

from cli.classes import classes_in
from cli.pages.links import DOCS, Links
from cli.pages.source_code import highlighted, top_level
from cli.pages.systems import FOLDER, docstring, recipe_table, result_table, title
from common.files import ROOT

RAW = "~~~~~~~~{raw} html\n%s\n~~~~~~~~\n"


def notes(system: str) -> tuple[str, str]:
    """Return the notes of a system in two parts: what precedes the first section, and the rest.

    A system without a file in docs/systems/ has no notes.
    """
    path = DOCS / "systems" / f"{system}.md"
    if not path.exists():
        return "", ""
    blocks = path.read_text(encoding="utf-8").split("\n\n", 2)  # heading, line of the source, text
    intro, mark, rest = blocks[2].partition("\n## ")
    return intro.strip(), mark.strip() + " " + rest if mark else ""


def outline(path: Path) -> str:
    """Return links to the top-level classes and functions of a file, in one paragraph."""
    links = [
        f'<a href="#L{line}"><code>{name}</code></a>' for name, line in top_level(path).items()
    ]
    return " · ".join(links)


def system_page(system: str, links: Links) -> str:
    """Return the Markdown of the page `systems/<system>.md`.

    The docstring is inserted as it is: its equations are indented, and stay plain text.
    """
    path, page = ROOT / FOLDER / f"{system}.py", Path("systems", f"{system}.md")
    base = DOCS / page
    (name, what), (intro, rest) = title(system), notes(system)
    body = docstring(system).partition("\n\n")[2]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    first_line = (tree.body[0].end_lineno or 0) + 2  # after the docstring and a blank line
    classes = [one for one, paths in classes_in(FOLDER).items() if path.stem in paths[0].split(".")]
    options = ", ".join(f"[{one}](../options/model/{one}.md)" for one in classes)
    results = result_table(system)
    code = RAW % highlighted(path, docstring(system), first_line)

    def linked(text: str) -> str:
        return links.rewrite(text, base, page)

    recipes = recipe_table(system).replace("](configs/", "](../../configs/")
    parts = [
        f"# {name}\n\n{what[:1].upper()}{what[1:]}. Source: "
        f"[`{FOLDER}/{system}.py`](#the-code). All options: {options}.",
        linked(intro),
        f"## Paper, equations and departures\n\n{body}",
        linked(rest),
        f"## Recipes\n\n{linked(recipes)}",
        f"## Results\n\n{results}" if results else "",
        f"## The code\n\n{outline(path)}\n\n{code}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
