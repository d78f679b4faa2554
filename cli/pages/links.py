"""Links of documentation pages: from files of the repository to pages of the site."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from cli.pages.source_code import line_of
from cli.pages.systems import FOLDER, system_names
from common.errors import UserError
from common.files import ROOT

DOCS = ROOT / "docs"
# Code is left as it is. A link's text may contain brackets.
LINK = re.compile(
    r"(?P<code>^(?P<fence>```+|~~~+).*?^(?P=fence)$|`(?:[^`\n]|\n(?!\n))*`)"
    r"|(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)",
    re.MULTILINE | re.DOTALL,
)


def page_of(path: Path) -> Path:
    """Return the page of the site, as a path of a Markdown file, that shows a file.

    A system has a page in `systems/`. Other files in `docs/` keep their places, Markdown files in
    the root become pages at the top, and all other files are shown in `source/`.
    """
    inside = path.relative_to(ROOT)
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS)
    if inside.parent == Path(FOLDER) and path.stem in system_names():
        return Path("systems", f"{path.stem}.md")
    if inside.suffix == ".md" and len(inside.parts) == 1:
        return Path(f"{inside.stem.lower()}.md")
    return Path("source", f"{inside.as_posix()}.md")


class Links:
    """Rewrite links, and remember the files for which the site needs source pages or copies.

    Attributes:
        sources: Linked source files that need a page.
        files: Linked images and other files in `docs/` that need a copy.
    """

    def __init__(self) -> None:
        self.sources: set[Path] = set()
        self.files: set[Path] = set()

    def rewrite(self, text: str, file: Path, page: Path) -> str:
        """Return Markdown whose links lead to pages of the site.

        Args:
            text: Markdown of the file.
            file: File to which its links are relative.
            page: Path of the page in the site.

        Raises:
            UserError: If a linked file or definition does not exist.
        """
        return LINK.sub(self._replacement(file, page), text)

    def _replacement(self, file: Path, page: Path) -> Callable[[re.Match[str]], str]:
        def replace(match: re.Match[str]) -> str:
            if match["code"] or re.match(r"[a-z]+:|#", match["target"]):
                return match[0]
            name, _, anchor = match["target"].partition("#")
            path = Path(os.path.normpath(file.parent / name))
            if not path.is_file():
                raise UserError(
                    f"{file.relative_to(ROOT)}: the link to {match['target']} leads to no file; "
                    "correct it"
                )
            target = page_of(path)
            if path.suffix not in (".py", ".yaml", ".md") and path.is_relative_to(DOCS):
                self.files.add(path)
            elif target.parts[0] == "source":
                self.sources.add(path)
            place = os.path.relpath(target, page.parent)
            if path.suffix == ".md" or (not anchor and target.suffix != ".md"):
                return f"{match['image']}[{match['text']}]({place}{'#' * bool(anchor)}{anchor})"
            if not anchor:
                return f"[{match['text']}]({place})"
            line = line_of(path, anchor.replace("%20", " "))
            url = place.removesuffix(".md") + f".html#L{line}"
            return f'<a href="{url}">{match["text"]}, line {line}</a>'

        return replace
