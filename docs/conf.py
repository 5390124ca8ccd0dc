"""Sphinx's settings. ``make docs`` builds the pages into site/; they load nothing from the network."""

import os
import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ["TQDM_DISABLE"] = "1"

import spade_kit  # noqa: E402

project = "spade_kit"
author = copyright = "the spade_kit authors"
version = release = spade_kit.__version__
html_title = "spade_kit"
extensions = [
    "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_parser", "lessons", "examples", "misses"
]  # fmt: skip
exclude_patterns = ["_made"]
templates_path = ["_templates"]
default_role = "py:obj"
suppress_warnings = ["myst.header"]  # the glossary: a term is a small heading

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
autodoc_typehints_format = "short"
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 90

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_extra_path = ["_made/pages"]
(HERE / "_made/pages").mkdir(parents=True, exist_ok=True)  # filled later, and Sphinx looks for it before
html_domain_indices = html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_show_search_summary = False  # it would fetch the pages, which browsers refuse to pages opened as files
html_context = {"default_mode": "auto"}
html_math_renderer = "mathml"
html_sidebars = {name: [] for name in ("index", "explorers", "misses", "method", "measured")}
html_theme_options = {
    "navbar_align": "left",
    "navigation_with_keys": False,
    "header_links_before_dropdown": 8,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}


_PLAIN = re.compile("<(dl|dd)>")


def _write_formula(writer, node):
    """A formula as MathML, which browsers draw themselves."""
    writer.body.append(convert(node.astext(), display="inline" if isinstance(node, nodes.math) else "block"))
    raise nodes.SkipNode


def _mend_roles(app, page, template, context, doctree):
    """Take away what readers of a screen stumble over: lists of no list items, and terms without a definition."""
    body = re.sub(r' role="(?:list|doc-biblioentry)"', "", context.get("body", ""))
    context["body"] = re.sub(
        r"<dl>\n(?:<dd>.*</dd>\n)+</dl>", lambda found: _PLAIN.sub(r"<\1 role='none'>", found[0]), body
    )


def _hide_private(app, what, name, thing, options, signature, returned):
    """No signature of a class that a function makes: some of its parameters are private."""
    return ("", returned) if what == "class" and re.search(r"\b_\w+:", signature or "") else None


def setup(app):
    app.connect("autodoc-process-signature", _hide_private)
    app.connect("html-page-context", _mend_roles)
    app.add_html_math_renderer("mathml", (_write_formula, None), (_write_formula, None))
