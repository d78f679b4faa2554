"""Sphinx configuration of the documentation site (`make docs`).

Sphinx with MyST and the theme furo, because the site must work without network, also when it is
opened as files. Its search index is a script. Equations become MathML while the site is built, so
that no script is loaded, and the font is a local file. mkdocs-material, the alternative, is in
maintenance only, and its search and its equations need a server or a network. The pages in
`site/pages/` are written by `python pages.py site`.
"""

import logging
import os
import re
from importlib.resources import files
from pathlib import Path

from docutils.nodes import Element, SkipNode
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "Maquette"
copyright = "2026, The Maquette authors. Images of emoji: OpenMoji, CC BY-SA 4.0"
smartquotes = False  # `--option` stays as it is
extensions = ["myst_nb"]  # myst-parser, and the execution of docs/howto/tour.md
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "Maquette"
html_static_path = ["_static", str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
highlight_language = "text"
nitpicky = True
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds per cell
nb_merge_streams = True
logging.getLogger("traitlets").setLevel(logging.WARNING)  # Jupyter's message at each execution
# Jupyter runs in .venv-docs. The notebook finds PyTorch and the other packages in .venv.
os.environ["PYTHONPATH"] = str(next(Path(__file__).parents[1].glob(".venv/lib/*/site-packages")))


html_math_renderer = "mathml"


def mathml(latex: str, display: str) -> str:
    """Return an equation as MathML, with a space between a function's name and its argument."""
    spaced = r"<mi>(log|min|max|arg|exp|tanh)</mi>(?=<m[a-z]*(?<!mo)>)"
    return re.sub(spaced, r'<mi>\1</mi><mspace width="0.17em"/>', convert(latex, display=display))


def inline_math(translator: HTML5Translator, node: Element) -> None:
    """Write an inline equation as MathML."""
    translator.body.append(mathml(node.astext(), "inline"))
    raise SkipNode


def block_math(translator: HTML5Translator, node: Element) -> None:
    """Write a displayed equation as MathML."""
    translator.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>')
    raise SkipNode


def setup(app: Sphinx) -> None:
    """Register the writers of equations."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
