"""The page's own code, and a page that stands alone: one file that asks nobody for anything."""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterable
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parents[1] / "static"
STYLE = STATIC / "style.css"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([a-z_]+\.js)";\n', re.MULTILINE)


def join_modules(name: str) -> str:
    """An ES module with all that it imports, each once, as one text: a widget is handed over as a single module."""
    joined: dict[str, str] = {}

    def add(name: str) -> None:
        if name not in joined:
            text = (STATIC / name).read_text(encoding="utf-8")
            joined[name] = ""  # its place comes after what it imports
            for other in _IMPORT.findall(text):
                add(other)
            del joined[name]
            joined[name] = re.sub(r"^export (?!default)", "", _IMPORT.sub("", text), flags=re.MULTILINE)

    add(name)
    return "\n".join(joined.values())


def load_module(name: str) -> str | Path:
    """A widget's module, joined, as anywidget takes it.

    With ``ANYWIDGET_HMR=1``, for those who write pages, a file instead: it is joined again whenever a part of it is
    saved, and anywidget shows it anew in all open notebooks.
    """
    if os.environ.get("ANYWIDGET_HMR") != "1" or find_spec("watchfiles") is None:
        return join_modules(name)
    from watchfiles import watch

    file = Path(tempfile.mkdtemp(prefix="spade_kit-")) / name
    file.write_text(join_modules(name), encoding="utf-8")

    def follow() -> None:
        for _ in watch(STATIC):
            file.write_text(join_modules(name), encoding="utf-8")

    threading.Thread(target=follow, daemon=True).start()
    return file


def frame_page(code: str, style: str, title: str, data: dict[str, Any]) -> str:
    """A widget's code, its style and what `SavedModel` holds, as one page that works offline.

    ``data`` are the widget's traits as ``state``; as ``photos``, by index, those that change with the photo, and as
    ``thumbs`` small pictures of these; as ``normals`` crops of normal images, by number: JPEGs all.
    """
    code = join_modules("saved.js") + code.replace("export default", "const widget =")
    saved = json.dumps(_without_bytes(data)).replace("</", "<\\/")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
body {{ margin: 0; padding: 12px; color-scheme: light dark; }}
{style}
</style>
</head>
<body>
<main id="widget"></main>
<script type="module">
{code}
widget.render({{ model: new SavedModel({saved}), el: document.getElementById("widget") }});
</script>
</body>
</html>
"""


def fit_crops(crops: Iterable[tuple[int, bytes]], room: int) -> dict[int, bytes]:
    """Of numbered crops, those wanted most first, as many as there is room for, in bytes."""
    kept: dict[int, bytes] = {}
    for number, crop in crops:
        if number not in kept and len(crop) < room:
            kept[number] = crop
            room -= len(crop)
    return kept


def _without_bytes(value: Any) -> Any:
    """Bytes as base64, for JSON."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {str(key): _without_bytes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_bytes(item) for item in value]
    return value
