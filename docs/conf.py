"""Sphinx: the pages of docs/ and what they link to, built offline by ``make docs``.

The source folder is the project's, so that links between pages are the same here and in the
repository; one to a notebook leads to its executed copy, where there is one. Equations become
MathML, which needs no script and is read aloud.
"""

import os
import re
import sys
from pathlib import Path

import latex2mathml.converter
from docutils import nodes
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "whisper-spectral"
root_doc = "docs/index"
EXECUTED = {
    name: copies[0]
    for name in sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
    if (copies := sorted(ROOT.glob(f"build/*/notebooks/{name}"), reverse=True))
}
"""The copies that `make figures` executed, by name; Whisper's before the ladder's."""
include_patterns = ["*.md", "docs/*", "data/README.md", "figures/**.md"]
include_patterns += [str(path.relative_to(ROOT)) for path in EXECUTED.values()]
exclude_patterns = ["docs/conf.py", "docs/explorer.html", "figures/summary.md"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"
nb_render_image_options = {"alt": "what the cell above draws; the text says what it shows"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "description"
suppress_warnings = [
    "myst.xref_missing",  # links to folders and to code; a test checks that they lead somewhere
    "mystnb.mime_type_priority",
    "toc.not_included",  # tables of figures/ are reached from the pages that speak of them
]
html_theme = "furo"
html_title = "How Whisper hallucinates"
html_static_path, html_css_files = ["pages.css"], ["pages.css"]
html_show_sourcelink = False
html_copy_source = False


def _mathml(translator: object, node: nodes.math | nodes.math_block) -> None:
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    converted = latex2mathml.converter.convert(node.astext(), display=display)
    if display == "block":  # which a narrow page scrolls, by keys too
        converted = f'<div class="equation" tabindex="0">{converted}</div>'
    translator.body.append(converted)  # type: ignore[attr-defined]
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Equations as MathML, links as they are from each page, and what `_finished` adds."""
    app.add_html_math_renderer("mathml", (_mathml, None), (_mathml, None))
    app.config.html_math_renderer = "mathml"
    app.connect("source-read", _linked)
    app.connect("include-read", _linked_where_included)
    app.connect("build-finished", _finished)
    app.connect("autodoc-process-docstring", _escaped)


def _linked(app: Sphinx, page: str, source: list[str]) -> None:
    path = ROOT / app.env.doc2path(page, base=False)
    folder = ROOT / "notebooks" if path in EXECUTED.values() else path.parent
    source[0] = _relative(source[0], folder, path.parent)


def _linked_where_included(app: Sphinx, path: Path, page: str, source: list[str]) -> None:
    source[0] = _relative(source[0], ROOT / path.parent, (ROOT / page).parent)


def _relative(text: str, before: Path, after: Path) -> str:
    """The links of a text that lay in one folder, as they are from another."""

    def moved(link: re.Match[str]) -> str:
        target = (before / link[1]).resolve()
        if target.parent == ROOT / "notebooks":
            target = EXECUTED.get(target.name, target)
        return f"]({os.path.relpath(target, after)}"

    return re.sub(r"\]\(([\w./-]+)(?=[)#])", moved, text)


def _escaped(
    app: Sphinx, what: str, name: str, of: object, options: object, lines: list[str]
) -> None:
    """Bars, stars and last underscores of a docstring are meant as they are, but in equations."""
    in_equation = False
    for i, line in enumerate(lines):
        in_equation = line.lstrip().startswith(".. math::") or (in_equation and line[:1] in " ")
        if not in_equation:
            parts = re.split(r"(``[^`]*``)", line)
            parts[::2] = [re.sub(r"([|*]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
            lines[i] = "".join(parts)


ACCESSIBLE = {  # what the theme leaves out, for screen readers and keys
    '<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
    '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '<div class="output text_html">': '<div tabindex="0" class="output text_html">',
    "<th></th>": "<td></td>",
    '<div id="search-results"></div>': '<h1>Search</h1>\n<div id="search-results"></div>',
}


def _finished(app: Sphinx, error: Exception | None) -> None:
    """Pages that all can read, and a front page under the name that servers look for."""
    if error is not None:
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for without, with_it in ACCESSIBLE.items():
            text = text.replace(without, with_it)
        path.write_text(text, encoding="utf-8")
    page = '<meta http-equiv="refresh" content="0; url=docs/index.html">'
    (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")
