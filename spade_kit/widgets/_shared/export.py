"""The page's JavaScript, and saved pages: self-contained files without external requests."""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
import threading
import zlib
from collections.abc import Iterable
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parents[1] / "static"
STYLE = STATIC / "style.css"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([a-z_]+\.js)";\n', re.MULTILINE)


def join_modules(name: str) -> str:
    """An ES module and all its imports, each once, as one text: anywidget takes a single module."""
    joined: dict[str, str] = {}

    def add(name: str) -> None:
        if name not in joined:
            text = (STATIC / name).read_text(encoding="utf-8")
            joined[name] = ""  # a module comes after its imports
            for other in _IMPORT.findall(text):
                add(other)
            del joined[name]
            joined[name] = re.sub(r"^export (?!default)", "", _IMPORT.sub("", text), flags=re.MULTILINE)

    add(name)
    return "\n".join(joined.values())


def load_module(name: str) -> str | Path:
    """A widget's bundled module in the form anywidget takes.

    With ``ANYWIDGET_HMR=1``, for page development, a file instead: it is bundled again whenever a module is saved,
    and anywidget reloads it in all open notebooks.
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
    """A widget's code, its style and the data of `SavedModel` as one page that works offline.

    ``data`` holds the widget's traits as ``state``, the per-image traits by index as ``photos`` with their thumbnails
    as ``thumbs``, and crops of normal images by number as ``normals``. All pictures are JPEGs.
    """
    code = join_modules("saved.js") + code.replace("export default", "const widget =")
    saved = base64.b64encode(compress(data)).decode()  # holds no <script, whatever the names
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; background: light-dark(#fff, #161616); }}
body {{ margin: 0; padding: 12px; }}
{style}
</style>
</head>
<body>
<main id="widget"></main>
<script type="module">
{code}
widget.render({{ model: await openSaved("{saved}"), el: document.getElementById("widget") }});
</script>
</body>
</html>
"""


def compress(data: Any) -> bytes:
    """The data of a saved page, or a part of it, as JSON."""
    return zlib.compress(json.dumps(data, default=_as_base64).encode(), 9)


def fit_crops(crops: Iterable[tuple[int, bytes]], room: int) -> dict[int, bytes]:
    """Keep numbered crops, given most important first, as long as they fit into ``room`` bytes."""
    kept: dict[int, bytes] = {}
    for number, crop in crops:
        if number not in kept and len(crop) < room:
            kept[number] = crop
            room -= len(crop)
    return kept


def _as_base64(value: Any) -> dict[str, str]:
    """What JSON cannot hold: bytes, and nothing else."""
    assert isinstance(value, bytes), type(value)
    return {"base64": base64.b64encode(value).decode()}
