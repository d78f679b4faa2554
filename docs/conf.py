"""Sphinx configuration of the documentation site (`make docs`).

Sphinx with MyST and the theme furo, because the site must work without network, also when it is
opened as files: its search index is a script, and equations become MathML while the site is built,
so that no font or script is loaded. mkdocs-material, the alternative, is in maintenance only, and
its search and its math need a server or a network. The pages in `site/pages/` are written by
`python pages.py site`.
"""

from docutils.nodes import Element, SkipNode
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "Maquette"
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "Maquette"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
highlight_language = "text"
nitpicky = True


html_math_renderer = "mathml"


def inline_math(translator: HTML5Translator, node: Element) -> None:
    """Write an inline equation as MathML."""
    translator.body.append(convert(node.astext()))
    raise SkipNode


def block_math(translator: HTML5Translator, node: Element) -> None:
    """Write a displayed equation as MathML."""
    mathml = convert(node.astext(), display="block")
    translator.body.append(f'<div class="math">{mathml}</div>')
    raise SkipNode


def setup(app: Sphinx) -> None:
    """Register the writers of equations."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
