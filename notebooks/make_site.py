"""Write the lessons as pages that work offline: ``python notebooks/make_site.py notebooks site``.

Each widget becomes a separate page with its state from the saved notebook, and formulas become MathML. The pages load
nothing from the network.
"""

from __future__ import annotations

import argparse
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import markdown2html_mistune
from plotly.graph_objects import Figure
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from spade_kit.widgets._shared.export import frame_page

_WIDGET = "application/vnd.jupyter.widget-view+json"
_CURVES = "application/vnd.plotly.v1+json"
_STATE = "application/vnd.jupyter.widget-state+json"
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$([^$\n]+?)\$(?![\w$])", re.DOTALL)
_FETCHED = re.compile(r'<(?:script|link)\b[^>]*(?:src|href)="https?:[^>]*>(?:</script>)?')
_MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL)
_MERMAID = re.compile(r'<script type="module">(?:(?!</script>).)*mermaid.*?</script>', re.DOTALL)
_HEIGHTS = {"Explorer": 1120, "Comparison": 760, "Painting": 760, "Chooser": 720, "Review": 760}  # of the frame, px
# a framed page posts its height, and the surrounding page resizes the frame to it
_TELLS_HEIGHT = """<script>
const { documentElement: page } = document;
new ResizeObserver(() => parent.postMessage(page.getBoundingClientRect().height, "*")).observe(page);
</script>
"""
_GIVES_HEIGHT = """<script>
addEventListener("message", ({ source, data }) => {
  const frame = [...document.querySelectorAll("iframe")].find((one) => one.contentWindow === source);
  if (frame && data > 100) frame.style.height = `${data + 2}px`;
});
</script>
"""
_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,">
<style>
body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.6 system-ui, sans-serif; }}
:root {{ color-scheme: light dark; }}
</style>
</head><body><main>{body}</main></body></html>
"""


def write_site(notebooks: Path, site: Path) -> list[Path]:
    """Write one page per lesson and per widget, the glossary and an index; return the paths of the lesson pages."""
    site.mkdir(parents=True, exist_ok=True)
    pages = [_write_lesson(path, site) for path in sorted(notebooks.glob("*.ipynb"))]
    glossary = (notebooks / "glossary.md").read_text(encoding="utf-8")
    _write_text(site / "glossary.html", "Glossary", glossary)
    titles = (_find_title(path) for path in sorted(notebooks.glob("*.ipynb")))
    lines = [f"{page.stem[:2]}. [{title}]({page.name})  " for page, title in zip(pages, titles)]
    _write_text(
        site / "index.html", "The course", "\n".join(["# The course", "", *lines, "", "[Glossary](glossary.md)"])
    )
    if (notebooks / "images").is_dir():
        shutil.copytree(notebooks / "images", site / "images", dirs_exist_ok=True)
    return pages


def _find_title(path: Path) -> str:
    return nbformat.read(path, 4).cells[0].source.splitlines()[0].removeprefix("# ")


def _write_text(path: Path, title: str, text: str) -> None:
    path.write_text(_INDEX.format(title=title, body=markdown2html_mistune(_relink(text))), encoding="utf-8")


def _relink(text: str) -> str:
    """Point links between lessons to their pages, and drop links to code, which has no page."""
    text = re.sub(r"\]\(([\w/]+)\.(?:ipynb|md)(#[\w-]+)?\)", r"](\1.html\2)", text)
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", text)


def _write_lesson(path: Path, site: Path) -> Path:
    lesson = nbformat.read(path, 4)
    models = lesson.metadata.pop("widgets", {}).get(_STATE, {}).get("state", {})
    cells = []
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            cell.source = _FORMULA.sub(_write_formula, _relink(cell.source))
        else:
            cell.outputs = [_frame(output, cell, models, path.stem, site) for output in cell.outputs]
        cells += _fold(cell) if "solution" in cell.metadata.get("tags", []) else [cell]
    lesson.cells = cells
    html, _ = HTMLExporter(template_name="lab").from_notebook_node(lesson, {"metadata": {"name": _find_title(path)}})
    for fetching in (_MATHJAX, _MERMAID, _FETCHED):
        html = fetching.sub("", html)
    html = html.replace("</body>", f"{_GIVES_HEIGHT}</body>").replace(
        "<head>", '<head><link rel="icon" href="data:,">', 1
    )
    page = site / f"{path.stem}.html"
    page.write_text(html, encoding="utf-8")
    return page


def _write_formula(found: re.Match) -> str:
    block, inline = found.groups()
    return convert(block or inline, display="block" if block else "inline")


def _fold(cell: Any) -> list[Any]:
    """The solution as a folded section, with its output."""
    printed = "".join(output.get("text", "") for output in cell.outputs)
    shown = f"<pre><code>{escape(cell.source)}</code></pre>\n<pre>{escape(printed)}</pre>"
    return [nbformat.v4.new_markdown_cell(f"<details><summary>Solution</summary>\n\n{shown}\n\n</details>")]


def _frame(output: Any, cell: Any, models: dict[str, Any], stem: str, site: Path) -> Any:
    """Put a widget on a separate page and show it in a frame, and describe a picture; leave other outputs unchanged."""
    data = output.get("data", {})
    if _CURVES in data:
        return nbformat.v4.new_output("display_data", {"text/html": _draw_curves(data[_CURVES], site)})
    model = models.get(data.get(_WIDGET, {}).get("model_id", ""))
    if model is None and "image/png" in data:  # nbconvert leaves out what a picture shows
        source, alt = f"data:image/png;base64,{data['image/png'].strip()}", escape(cell.metadata["alt"], quote=True)
        return nbformat.v4.new_output("display_data", {"text/html": f'<img src="{source}" alt="{alt}">'})
    if model is None:
        return output
    state = _read_state(model)
    name = f"{stem}-{cell.execution_count}.html"
    (site / name).write_text(_make_widget(state), encoding="utf-8")
    title, kind = escape(cell.metadata.get("alt", "A widget"), quote=True), state["_anywidget_id"].rsplit(".", 1)[-1]
    style = f"width: 100%; height: {_HEIGHTS[kind]}px; border: 0"
    html = f'<iframe src="{name}" title="{title}" style="{style}" loading="lazy"></iframe>'
    return nbformat.v4.new_output("display_data", {"text/html": html})


def _draw_curves(figure: dict[str, Any], site: Path) -> str:
    """A Plotly figure; the Plotly script is stored once, beside the pages."""
    program = site / "plotly.min.js"
    if not program.exists():
        program.write_text(get_plotlyjs(), encoding="utf-8")
    return to_html(Figure(figure), include_plotlyjs=program.name, full_html=False)


def _read_state(model: dict[str, Any]) -> dict[str, Any]:
    """A widget's traits, with binary buffers inserted as `base64` mappings."""
    state = model["state"]
    for buffer in model.get("buffers", []):
        *path, last = buffer["path"]
        place = state
        for step in path:
            place = place[step]
        place[last] = {"base64": buffer["data"].replace("\n", "")}
    return state


def _make_widget(state: dict[str, Any]) -> str:
    traits = {name: value for name, value in state.items() if name[0] != "_"}
    photos, thumbs = {}, {}
    if "matches" in traits:  # an explorer can switch images; here it has only one
        names = ("photo", "neighbours", "matches", "layers_alone", "probe")
        photos = {traits["index"]: {name: traits[name] for name in names}}
        thumbs = {traits["index"]: traits["photo"]["jpeg"]}
    if "suspects" in traits and not traits.get(
        "thumbs"
    ):  # a review is sent its thumbnails; here the crops of its photo and of the others stand in
        crops = dict(zip(traits["neighbours"]["images"], traits["neighbours"]["jpegs"]))
        traits["thumbs"] = crops | {traits["index"]: traits["photo"]["jpeg"]}
    data = {"state": traits, "photos": photos, "thumbs": thumbs, "normals": {}}
    style = f"{state['_css']}\n.spade-kit > header {{ display: none; }}"  # the course says what is shown
    return frame_page(state["_esm"], style, "A widget", data).replace("</body>", f"{_TELLS_HEIGHT}</body>")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", type=Path)
    parser.add_argument("site", type=Path)
    given = parser.parse_args()
    for written in write_site(given.notebooks, given.site):
        print(written)
