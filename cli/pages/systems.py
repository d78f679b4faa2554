"""What the pages say about a system, read from its source file, its recipes and its results."""

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from cli.recipes import purpose, recipes
from cli.reproduction import RESULTS, registry
from common.files import ROOT

FOLDER = "lightning_modules"
EMBEDDED = ("openmoji", "python_docs", "emoji_names")  # recipes that download nothing


def system_names() -> list[str]:
    """Return the names of all systems with recipes, in the order of docs/recipes.md."""
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    order = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    found = {path.parent.name for path in recipes()}
    return sorted(found, key=lambda name: (order.index(name) if name in order else 99, name))


@cache
def docstring(system: str) -> str:
    """Return the docstring of the file of a system."""
    tree = ast.parse((ROOT / FOLDER / f"{system}.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or system


def title(system: str) -> tuple[str, str]:
    """Return the name of a system and what it is, from the first line of its docstring."""
    line = " ".join(docstring(system).partition("\n\n")[0].split())
    name, _, what = line.rstrip(".").partition(": ")
    return name, what


def paper(system: str) -> str:
    """Return the first paper that the docstring cites, such as "Kingma and Welling 2014"."""
    body = " ".join(docstring(system).partition("\n\n")[2].split())
    cited = re.match(r'(?:[^:,"]+: )?(?P<authors>[^"]+?),? "[^"]+".*?\b(?P<year>\d{4})\b', body)
    if cited is None:
        cited = re.match(r"(?:[^:,]+: )?(?P<authors>[^,]+), .*?\b(?P<year>\d{4})\b", body)
    if cited is None:
        return ""
    authors = re.split(r", | and ", cited["authors"])
    short = f"{authors[0].removesuffix(' et al.')} et al." if "et al." in cited["authors"] else ""
    short = short or (" and ".join(authors) if len(authors) < 3 else f"{authors[0]} et al.")
    return f"{short} {cited['year']}"


def recipes_of(system: str) -> list[Path]:
    """Return the recipes of a system; one that downloads nothing comes first, if there is one."""
    paths = [path for path in recipes() if path.parent.name == system]
    return sorted(paths, key=lambda p: EMBEDDED.index(p.stem) if p.stem in EMBEDDED else 9)


def results_of(system: str) -> list[dict[str, Any]]:
    """Return the results of a system: entries of `configs/_reproduce/`, with the measured values.

    Withdrawn results, which have no file in `results/`, are left out.
    """
    rows = []
    for name, entry in registry().items():
        path = RESULTS / f"{name}.json"
        if path.exists() and Path(entry["config"]).parent.name == system:
            rows.append({**entry, **json.loads(path.read_text(encoding="utf-8"))})
    return rows


def first_command(system: str) -> str:
    """Return the command to start with: the one that the first recipe's purpose names, or `fit`."""
    first = recipes_of(system)[0]
    named = re.search(r"`(make \w+)`", purpose(first))
    path = first.relative_to(ROOT).as_posix()
    return named[1] if named else f"python train.py fit --config {path}"


def compared(system: str) -> str:
    """Return the values of a system that have a published one, such as "nll ↓ 88.00 (86.76)".

    Several values are preceded by the names of their recipes.
    """
    rows = {row["id"]: row for row in results_of(system) if "function" not in row}
    cells = {}
    for name, row in rows.items():
        if row.get("published") is not None and f"{name}-published" not in rows:
            metric = row["signature"].partition("[")[0].partition("_")[0]
            arrow = {"lower": "↓", "higher": "↑"}[row["better"]]
            value = f"{metric} {arrow} {row['value']:#.4g} ({row['published']:g})"
            cells[Path(row["config"]).stem] = value
    if len(cells) > 1:
        return "; ".join(f"{recipe}: {value}" for recipe, value in sorted(cells.items()))
    return "".join(cells.values()) or "–"


def table(commands: str = "First command", ours: str = "Ours (published)") -> str:
    """Return the table of systems in README.md: paper, file, first command and results.

    Args:
        commands: Heading of the column of commands.
        ours: Heading of the column of results.
    """
    rows = [f"| System | Paper | {commands} | {ours} |", "|---|---|---|---|"]
    for system in system_names():
        rows.append(
            f"| [{title(system)[0]}]({FOLDER}/{system}.py) | {paper(system)} "
            f"| `{first_command(system)}` | {compared(system)} |"
        )
    return "\n".join(rows)


def recipe_table(system: str) -> str:
    """Return a table of the recipes of a system and their purposes, with paths from the root."""
    rows = ["| Recipe | Purpose |", "|---|---|"]
    for path in recipes_of(system):
        text = purpose(path).replace("|", "\\|")
        rows.append(f"| [{path.stem}]({path.relative_to(ROOT).as_posix()}) | {text} |")
    return "\n".join(rows)


def result_table(system: str) -> str:
    """Return a table of the results of a system; "" if there are none."""
    rows = []
    for row in results_of(system):
        spread = f" ± {row['std']:.2g}" if row["std"] is not None else ""
        cells = (
            *(f"`{row['id']}`", f"{row['value']:.5g}{spread}", row.get("published") or "–"),
            *(row["better"], row["protocol"], f"`{row['signature']}`", row.get("source") or "–"),
        )
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    head = "| id | ours | published | better | protocol | signature | source |\n" + "|---" * 7 + "|"
    return "\n".join([head, *rows]) if rows else ""
