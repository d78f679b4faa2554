"""Write the Markdown sources of the documentation site, from which Sphinx builds the HTML."""

import re
import shutil
from pathlib import Path

from cli.pages.links import DOCS, Links, page_of
from cli.pages.option_pages import option_pages
from cli.pages.source_code import highlighted
from cli.pages.system_pages import RAW, system_page
from cli.pages.systems import system_names
from common.files import ROOT

ORPHAN = "---\norphan: true\n---\n\n"
# Sections of the navigation and the folders of their pages; "" holds the pages beside the index.
SECTIONS = {
    "Systems": "systems",
    "Concepts": "concepts",
    "How to": "howto",
    "Reference": "",
}
OPTIONS = {"model": "Options of systems", "data": "Options of data"}


def pages(links: Links) -> dict[str, str]:
    """Return the Markdown of all pages except those of source files, keyed by path.

    Raises:
        UserError: If a link leads to no file or definition.
    """
    found = {f"systems/{name}.md": system_page(name, links) for name in system_names()}
    for path in sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")]):
        page = page_of(path)
        if path.name.startswith("README") or page.as_posix() in found:
            continue
        found[page.as_posix()] = links.rewrite(path.read_text(encoding="utf-8"), path, page)
    found |= option_pages()
    for key, title in OPTIONS.items():
        names = [name.removesuffix(".md") for name in found if name.startswith(f"options/{key}/")]
        found[f"options-{key}.md"] = f"# {title}\n\n{toctree(names, 'maxdepth: 1')}"
    found["index.md"] += navigation(found)
    return found


def navigation(found: dict[str, str]) -> str:
    """Return the navigation of the site; pages that the index links come in the same order."""
    order = re.findall(r"\]\(([\w/]+)\.md\)", found["index.md"])
    text = ""
    for section, folder in SECTIONS.items():
        names = [
            path.removesuffix(".md")
            for path in found
            if Path(path).parent == Path(folder) and path != "index.md"
        ]
        if folder == "systems":
            names = [f"systems/{name}" for name in system_names()]
        else:
            names.sort(key=lambda n: order.index(n) if n in order else len(order))
        text += "\n" + toctree(names, "hidden:", f"caption: {section}")
    return text


def toctree(names: list[str], *options: str) -> str:
    """Return a table of contents in MyST."""
    lines = [*(f":{option}" for option in options), "", *names]
    return "```{toctree}\n" + "\n".join(lines) + "\n```\n"


def source_page(path: Path) -> str:
    """Return the Markdown of the page of a source file."""
    name = path.relative_to(ROOT).as_posix()
    return f"{ORPHAN}# {name}\n\n{RAW % highlighted(path)}"


def write_site(folder: Path) -> int:
    """Write the sources of the site to an emptied folder; return the number of pages.

    Args:
        folder: Folder of the Markdown files, from which Sphinx builds the site.

    Raises:
        UserError: If a link leads to no file or definition.
    """
    links = Links()
    found = pages(links)
    found |= {page_of(path).as_posix(): source_page(path) for path in links.sources}
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in found.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for file in links.files:
        copy = folder / file.relative_to(DOCS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return len(found)
