"""The lessons as pages: notebooks become Markdown for Sphinx, pictures become files, and saved widgets live pages."""

from __future__ import annotations

import base64
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from markdown_it import MarkdownIt
from plotly.graph_objects import Figure
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from spade_kit.widgets._shared.export import frame_page

DOCS = Path(__file__).parent
PAGES = DOCS / "_made" / "pages"  # what stands beside Sphinx's pages as it is
_ROOT = DOCS.parent
_WIDGET = "application/vnd.jupyter.widget-view+json"
_CURVES = "application/vnd.plotly.v1+json"
_STATE = "application/vnd.jupyter.widget-state+json"
_PREDICT = "**Predict before you run:**"
_CAPTION = re.compile(r"\*([^*\s][^*]*)\*(?:\n\n|\Z)")  # a first paragraph in italics
_LESSON = re.compile(r"\]\((?:\.\./)*(?:notebooks/)?(\w+)\.ipynb(#[\w-]+)?\)")
_NOTES = re.compile(r"\]\((?:\.\./)*notebooks/(\w+)\.md(#[\w-]+)?\)")
_RESULTS = re.compile(r"\]\((?:\.\./)*benchmarks/results/(\w+)\.md\)")
_ELSEWHERE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:README|(?:spade_kit|tests|benchmarks|data)/)[^)]+\)")
_INTERVAL = re.compile(r"(?<= \[)([\d.]+), (?=[\d.]+\] )")
_SHOW_ALL = '<button class="show-all" type="button" hidden>Show all answers and outputs</button>'
# a framed page tells its height, and takes the theme of the page around it
_FRAMED = """<script>
const { documentElement: page } = document;
new ResizeObserver(() => parent.postMessage({ height: page.getBoundingClientRect().height }, "*")).observe(page);
addEventListener("message", ({ data }) => { page.style.colorScheme = data.theme; });
</script>
"""


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda app: write_course())
    app.connect("source-read", lambda app, name, source: source.__setitem__(0, relink(source[0])))


def write_course() -> None:
    """Write each notebook and each text beside them into course/, and the measurements into results/, in Markdown."""
    shutil.rmtree(PAGES / "course", ignore_errors=True)
    for path in (DOCS / "course").glob("*.md"):
        if path.stem != "index" and not [*(_ROOT / "notebooks").glob(f"{path.stem}.*")]:  # of a lesson that was renamed
            path.unlink()
    for folder, texts in (("course", "notebooks/*.md"), ("results", "benchmarks/results/*.md")):
        (DOCS / folder).mkdir(exist_ok=True)
        for path in _ROOT.glob(texts):
            write(DOCS / folder / path.name, path.read_text(encoding="utf-8"))
    for path in sorted((_ROOT / "notebooks").glob("*.ipynb")):
        write(DOCS / "course" / f"{path.stem}.md", describe_lesson(nbformat.read(path, 4), path.stem))


def relink(text: str) -> str:
    """Point links to notebooks and measurements to their pages, drop links to what has none; intervals stay whole."""
    text = _INTERVAL.sub("\\1,\N{NO-BREAK SPACE}", text)
    text = _LESSON.sub(r"](/course/\1.md\2)", text)
    text = _NOTES.sub(r"](/course/\1.md\2)", text)
    text = _RESULTS.sub(r"](/results/\1.md)", text)
    return _ELSEWHERE.sub(r"\1", text).replace("](images/", "](/../notebooks/images/")


def describe_lesson(lesson: Any, stem: str) -> str:
    """A lesson in Markdown. What answers a prediction is folded, and a button opens all."""
    models = lesson.metadata.get("widgets", {}).get(_STATE, {}).get("state", {})
    parts = [raw(_SHOW_ALL)]
    nothing = nbformat.v4.new_raw_cell()
    for before, cell, after in zip([nothing, *lesson.cells], lesson.cells, [*lesson.cells[1:], nothing]):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        code = f"``````python\n{cell.source}\n``````"
        printed = escape("".join(output.get("text", "") for output in cell.outputs))
        drawn = [_show(output, cell, models, stem) for output in cell.outputs if "data" in output]
        shown = "\n".join([f"<pre class='printed'>{printed}</pre>" if printed else "", *drawn]).strip()
        caption = _CAPTION.match(after.source)
        if caption and re.search("<img|<iframe", shown):
            after.source = after.source[caption.end() :]
            shown = f"<figure>{shown}<figcaption>{MarkdownIt().renderInline(caption[1])}</figcaption></figure>"
        if "solution" in cell.metadata.get("tags", []):
            parts += [raw("<details><summary>Solution</summary>"), code, raw(f"{shown}</details>")]
        elif shown and _PREDICT in before.source:
            parts += [code, raw(f"<details class='predicted'><summary>Show the output</summary>{shown}</details>")]
        else:
            parts += [code, raw(shown)]
    first, *rest = parts[1:]
    title, _, opening = first.partition("\n")
    if stem[:2].isdigit():
        title = f"# {stem[:2]} · {title.removeprefix('# ')}"
    return "\n\n".join([title, parts[0], opening, *rest]) + "\n"


def raw(html: str) -> str:
    return f"``````{{raw}} html\n{html}\n``````" if html else ""


def _show(output: Any, cell: Any, models: dict[str, Any], stem: str) -> str:
    """An output in HTML; a picture with its description, a widget as a live page in a frame."""
    data, alt = output.get("data", {}), cell.metadata.get("alt", "")
    name = f"course/{stem}-{cell.execution_count}"
    if _CURVES in data:
        return draw_curves(Figure(data[_CURVES]))
    shown = data.get(_WIDGET, {}).get("model_id")
    if shown in models and "_esm" not in models[shown]["state"]:  # a box: what is shown in it, without its controls
        inside = enumerate(_find_outputs(shown, models))
        return "\n".join(_show(one, cell, models, f"{stem}-{place}") for place, one in inside)
    if shown in models:
        state = _read_state(models[shown])
        write(PAGES / f"{name}.html", _make_widget(state))
        return frame(f"{Path(name).name}.html", alt)
    if "image/png" in data:
        write(PAGES / f"{name}.png", base64.b64decode(data["image/png"]))
        return f'<img class="drawn" src="{Path(name).name}.png" alt="{escape(alt)}">'
    return data.get("text/html") or f"<pre class='printed'>{escape(data.get('text/plain', ''))}</pre>"


def _find_outputs(name: str, models: dict[str, Any]) -> list[Any]:
    """The outputs that a widget of ipywidgets shows, and those of the widgets in it."""
    state = models[name.removeprefix("IPY_MODEL_")]["state"]
    return [
        *state.get("outputs", []),
        *(one for child in state.get("children", []) for one in _find_outputs(child, models)),
    ]


def frame(page: str, title: str) -> str:
    """A widget's page in a frame, which the script of the site fits to its height."""
    return f'<iframe class="widget" src="{page}" title="{escape(title)}" loading="lazy"></iframe>'


def save(widget: Any, path: Path, *images: Any) -> None:
    """Save a widget as a page that can stand in a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    widget.save_html(path, *images)
    write(path, _let_frame(path.read_text(encoding="utf-8")))


def _let_frame(page: str) -> str:
    return page.replace("</body>", f"{_FRAMED}</body>")


def draw_curves(figure: Figure, course: str = "") -> str:
    """A Plotly figure; the Plotly script is stored once, in the folder of the course."""
    write(PAGES / "course" / "plotly.min.js", get_plotlyjs())
    return to_html(figure, {"responsive": True}, include_plotlyjs=f"{course}plotly.min.js", full_html=False)


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
    if "layers_alone" in traits:  # an explorer can switch images; here it has only one
        thumbs = {traits["index"]: traits["photo"]["jpeg"]}
        names = ("photo", "neighbours", "matches", "layers_alone", "probe")
        photos = {traits["index"]: {name: traits.pop(name) for name in names}}
    if "suspects" in traits and not traits.get("thumbs"):  # a review is sent its thumbnails; here crops stand in
        crops = dict(zip(traits["neighbours"]["images"], traits["neighbours"]["jpegs"]))
        traits["thumbs"] = crops | {traits["index"]: traits["photo"]["jpeg"]}
    data = {"state": traits, "photos": photos, "thumbs": thumbs, "normals": {}}
    style = f"{state['_css']}\n.spade-kit > header {{ display: none; }}"  # the lesson says what is shown
    return _let_frame(frame_page(state["_esm"], style, "A widget", data))


def write(path: Path, content: str | bytes) -> None:
    """Write a file unless it holds this already, so that Sphinx reads again only what has changed."""
    data = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
