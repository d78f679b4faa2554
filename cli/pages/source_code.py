"""Highlighted source files for the documentation, with an anchor per line and linked equations."""

import ast
import html
import re
from functools import cache
from pathlib import Path

from common.errors import UserError
from common.files import ROOT

EQUATIONS = "paper-equations-and-departures"  # anchor of the section with a system's docstring


def top_level(path: Path) -> dict[str, int]:
    """Return the line of each top-level class and function of a Python file, keyed by name."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {n.name: n.lineno for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef)}


@cache
def definitions(path: Path) -> dict[str, int]:
    """Return the line of each class, function and method of a Python file, keyed by name.

    A method has two names, such as "VAE.loss" and "loss"; the second is the first one in the file.
    """
    found = top_level(path)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(node, ast.ClassDef) and isinstance(inner, ast.FunctionDef):
                found[f"{node.name}.{inner.name}"] = inner.lineno
                found.setdefault(inner.name, inner.lineno)
    return found


def line_of(path: Path, name: str) -> int:
    """Return the line of a definition, or of the first line that contains a text such as "KL =".

    Raises:
        UserError: If the file has neither.
    """
    if path.suffix == ".py" and name in definitions(path):
        return definitions(path)[name]
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if name in line:
            return number
    raise UserError(f"{path.relative_to(ROOT)} has no {name}; correct the link in docs/")


def equations(docstring: str) -> dict[str, str]:
    """Return the numbered equations of a docstring, keyed by number."""
    found: dict[str, str] = {}
    above: list[str] = []  # lines of an equation whose number is in its last line
    for line in docstring.splitlines():
        numbered = re.fullmatch(r" {4}(.*?)\s+\((\d+)\)", line)
        if numbered:
            found[numbered[2]] = "\n".join(one.rstrip() for one in [*above, numbered[1]])
        above = [*above, line[4:]] if line.startswith("    ") and not numbered else []
    return found


def with_equations(code: str, known: dict[str, str]) -> str:
    """Add the equation as a tooltip to each `Eq. N` in a comment or docstring of highlighted code.

    Equations of another paper, written as "et al. 2017, Eq. 3", are left as they are.

    Args:
        code: HTML of highlighted code.
        known: Result of `equations`.
    """

    def annotated(match: re.Match[str]) -> str:
        if match[1] not in known:
            return match[0]
        text = html.escape(known[match[1]]).replace("\n", "&#10;")
        return f'<a class="equation" href="#{EQUATIONS}" title="{text}">{match[0]}</a>'

    return re.sub(
        r'(?<=class="c1">)[^<]*|(?<=class="sd">)[^<]*',
        lambda comment: re.sub(r"(?<!\d, )Eq\. (\d+)\b", annotated, comment[0]),
        code,
    )


def highlighted(path: Path, docstring: str = "", first_line: int = 1) -> str:
    """Return a source file as HTML; line n has the anchor `Ln`.

    Args:
        path: Text file.
        docstring: Docstring with the equations that comments refer to.
        first_line: First line that is shown.
    """
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_for_filename
    from pygments.lexers.special import TextLexer
    from pygments.util import ClassNotFound

    text = "\n".join(path.read_text(encoding="utf-8").splitlines()[first_line - 1 :])
    formatter = HtmlFormatter(
        linenos="inline",
        linenostart=first_line,
        lineanchors="L",
        anchorlinenos=True,
        wrapcode=False,
    )
    try:
        lexer = get_lexer_for_filename(path.name, stripnl=False)
    except ClassNotFound:  # a file such as LICENSE
        lexer = TextLexer(stripnl=False)
    code = highlight(text, lexer, formatter)
    code = re.sub(r'(name|id|href)="(#?)L-(\d+)"', r'\1="\2L\3"', code)
    return with_equations(code, equations(docstring)).strip()
