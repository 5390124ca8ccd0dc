"""The report of a run: one self-contained page, to open in a browser, to print and to hand on."""

from __future__ import annotations

import hashlib
import os
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from io import BytesIO
from itertools import starmap
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator
from PIL import Image

from spade_kit._arguments import hold_warnings, warn
from spade_kit._files import as_text, write_whole
from spade_kit._work import side_by_side
from spade_kit.datasets.decoding import FORMATS
from spade_kit.datasets.images import read_image, read_opened
from spade_kit.datasets.samples import Sample
from spade_kit.evaluation.bootstrap import clopper_pearson
from spade_kit.features.pyramid import in_batches
from spade_kit.result import Result

PAGE = "report.html"
NOT_JUDGED = "not judged"
ALARMS = ("anomalous", "found", "false alarm")  # verdicts at or above the threshold
_LOST = (OSError, ValueError, MemoryError)  # raised for an image that was replaced or removed
_ROOM_OF_LARGE, _ROOM_OF_SMALL, _ROOM_OF_ROWS = 1_500_000, 2_100_000, 300_000  # bytes; the rest is less than 100 kB
_LARGE, _SMALL = 12, 1000  # the most anomalous images, as large pictures and as thumbnails
_SIDE, _THUMB = 448, 128  # px of their long sides
_HEAVY, _LIGHT = 30_000, 12_000  # bytes that a picture should have at most
_COLOURS, _SCALE = colormaps["cividis"], 2  # those of the figures: the scale ends at this multiple of the normal level
_REGIONS, _NUMBERED = 5, 20  # in the table, and in the picture
_BEYOND = "Scores beyond the axis are in the last bar."
_ALT = {"photo": "the image", "heat": "its anomaly map", "normal": "the normal image that explains the peak"}
_NORMALS, _BINS, _WIDTH, _PANEL, _END = 1000, 60, 660, 66, 4  # of the histogram, up to this multiple of the threshold


def write_page(
    folder: Path,
    spade: Any,
    frame: pandas.DataFrame,
    photos: Sequence[Path | Sample],
    run: Mapping[str, Any],
    table: str,
    remarks: Iterable[str],
) -> None:
    """Write ``report.html``; if that fails, warn, since the results themselves are complete.

    Parameters
    ----------
    frame
        A row per image: ``path``, ``verdict``, ``image_score``, ``reason``; if known, ``row`` and ``col`` of its peak,
        and its ``kind``, by which the histogram is split.
    run
        The run manifest, with what was judged, ``input`` or ``dataset``, and the ``rate`` and ``threshold`` of images,
        ``pixel_rate`` and ``pixel_threshold``.
    table
        The name of the file that holds all rows.
    remarks
        Sentences for the top of the page.
    """
    known = {"date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")} | dict(run)
    known |= {"fit": as_text(spade.folder.resolve())} if spade.folder else {}
    try:
        with hold_warnings():  # they were issued when the images were judged
            page = _compose(spade, frame.assign(photo=pandas.Series([*photos], dtype=object)), known, table, remarks)
            write_whole(folder / PAGE, page.encode(errors="backslashreplace"))
    except Exception as problem:
        warn(f"There is no new {PAGE}: {problem}")


def _compose(spade: Any, frame: pandas.DataFrame, run: dict[str, Any], table: str, remarks: Iterable[str]) -> str:
    page, card = Path(__file__).with_name(PAGE).read_text(encoding="utf-8").split("<!-- card -->\n")
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    rows = [*frame.sort_values("image_score", ascending=False, kind="stable").itertuples()]
    judged, lost = ([row for row in rows if (row.verdict != NOT_JUDGED) is wanted] for wanted in (True, False))
    told = [*_summarise(judged, lost, run["threshold"]), *filter(None, remarks)]
    drawn = _draw_large(spade, judged[:_LARGE], run["pixel_threshold"], Template(card), told)
    large, left = _fill(drawn, _ROOM_OF_LARGE)
    small, left = _fill(_draw_small(judged[:_SMALL], _ROOM_OF_SMALL + left, told), _ROOM_OF_SMALL + left)
    rest = lost + judged[len(small) :]
    lines, _ = _fill(map(_write_row, rest), _ROOM_OF_ROWS + left)
    counts = {"all": len(rows)} | Counter(row.verdict for row in rows)
    groups, threshold = _group_scores(spade, frame), run["threshold"]
    reached, known = int((groups["normal"] >= threshold).sum()), len(groups["normal"])
    low, high = (f"{100 * end.item():.2g}" for end in clopper_pearson(np.array([reached]), known))
    more = f"{len(rest) - len(lines)} more images are only in the table, {table}." if len(rest) > len(lines) else ""
    return Template(page).substitute(
        {key: f"{value:.4g}" if isinstance(value, float) else escape(str(value)) for key, value in run.items()},
        title=escape(run.get("input") or run["dataset"]),
        hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        colours=", ".join("rgb({} {} {})".format(*_COLOURS(at, bytes=True)[:3]) for at in np.linspace(0, 1, 9)),
        headline=f"Anomalous: {sum(row.verdict in ALARMS for row in judged)} of {len(judged)} images",
        percent=f"{100 * run['rate']:.2g}",
        **{"reached": reached, "known": known, "low": low, "high": high},
        shown=f"{len(large)} of {len(judged)}",
        pixel_percent=f"{100 * run['pixel_rate']:.2g}",
        less=", less what normal images reach at its place" * (spade.options.judged == "excess"),
        remarks="\n".join(f"<p>{escape(remark)}</p>" for remark in told),
        histogram=_draw_histogram(groups, threshold),
        beyond=_BEYOND if max(map(max, groups.values())) > _END * threshold > 0 else "",
        large="\n".join(large),
        filters="\n".join(starmap(_offer, counts.items())),
        small="\n".join(small),
        lines="\n".join(lines),
        rest="" if lines else "hidden",
        more=more or f"The table is {table}.",
        run=pandas.Series(run).astype(str).to_frame().to_html(header=False, border=0),
    )


def _fill(parts: Iterable[str], room: int) -> tuple[list[str], int]:
    """The first parts that fit into so many bytes, and the bytes that are left."""
    kept = []
    for part in parts:
        size = len(part.encode(errors="backslashreplace")) + 1
        if size > room:
            break
        kept.append(part)
        room -= size
    return kept, room


# ---- words -----------------------------------------------------------------------------------------------------------


def _summarise(judged: Sequence[Any], lost: Sequence[Any], threshold: float) -> Iterator[str]:
    if judged:
        worst = judged[0]
        times = f", {worst.image_score / threshold:.3g} times the threshold" if threshold > 0 else ""
        peak = f" Its peak is at row {worst.row:.0f}, column {worst.col:.0f}." if hasattr(worst, "row") else ""
        yield f"The most anomalous is {worst.path}: its image score is {worst.image_score:.4g}{times}.{peak}"
    if lost:
        yield f"Not judged: {len(lost)}; reasons are in the list of images. The first: {lost[0].reason}"


def _say(verdict: str) -> str:
    return "below the threshold" if verdict == "normal" else verdict  # a reader may take "normal" for a promise


def _offer(kind: str, count: int) -> str:
    told = f'value="{kind}"{" checked" * (kind == "all")}> {_say(kind)} <span class="count">{count}</span>'
    return f'<label><input type="radio" name="kind" {told}</label>'


def _caption(row: Any) -> str:
    tone = "tag alarm" if row.verdict in (*ALARMS, "missed") else "tag"
    name = f'<span class="name">{escape(row.path)}</span>'
    return f'{name} <b>{row.image_score:.4g}</b> <span class="{tone}">{_say(row.verdict)}</span>'


def _write_row(row: Any) -> str:
    lost = row.verdict == NOT_JUDGED
    cells = ("", f"{row.verdict}: {row.reason}") if lost else (f"{row.image_score:.4g}", _say(row.verdict))
    told = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr data-kind="{row.verdict}"><td class="name">{escape(row.path)}</td>{told}</tr>'


# ---- the histogram ---------------------------------------------------------------------------------------------------


def _group_scores(spade: Any, frame: pandas.DataFrame) -> dict[str, Float[np.ndarray, "n"]]:
    """The scores of the normal images, each judged against the others, and of the judged ones by kind."""
    normals = spade.gallery.distinct
    left_out = spade.calibration.judge(spade.options.replace(judged="map"), normals[:: -(-len(normals) // _NORMALS)])
    frame = frame.assign(kind=frame.get("kind", "judged")).dropna(subset="image_score")
    groups = {kind: part["image_score"].to_numpy() for kind, part in frame.groupby("kind")}
    return {"normal": np.array([score for _, score in left_out])} | groups


def _draw_histogram(groups: dict[str, Float[np.ndarray, "n"]], threshold: float) -> str:
    """A panel for each group over one axis, and a line at the threshold."""
    every = np.concatenate([*groups.values(), [threshold]])
    low, high = every.min(), min(every.max(), _END * threshold if threshold > 0 else np.inf)
    high = high if high > low else low + 1
    edges, foot = np.linspace(low, high, _BINS + 1), _PANEL * len(groups)

    def place(score: float) -> float:
        return round(_WIDTH * (score - low) / (high - low), 1)

    x, side = place(threshold), "end" if threshold > (low + high) / 2 else "start"
    drawn = [f'<path class="limit" d="M{x} -8V{foot}"/>']
    drawn.append(f'<text class="limit" x="{x}" y="-12" text-anchor="{side}">threshold {threshold:.4g}</text>')
    for base, (kind, scores) in zip(range(_PANEL, foot + 1, _PANEL), groups.items()):
        counts, _ = np.histogram(np.minimum(scores, high), edges)
        tall, wide = (_PANEL - 26) / counts.max(), _WIDTH / _BINS - 1
        bars = (f"M{place(x)} {base}v{-tall * count:.1f}h{wide}V{base}z" for x, count in zip(edges, counts) if count)
        drawn.append(f'<path class="{kind}" d="{"".join(bars)}"/><path class="axis" d="M0 {base}H{_WIDTH}"/>')
        drawn.append(f'<text y="{base - _PANEL + 20}">{kind} images: {len(scores)}</text>')
    for tick in MaxNLocator(5).tick_values(low, high):
        if low <= tick <= high:
            drawn.append(f'<path class="axis" d="M{place(tick)} {foot}v5"/>')
            drawn.append(f'<text class="tick" x="{place(tick)}" y="{foot + 20}">{tick:.6g}</text>')
    return f'<svg viewBox="-20 -28 {_WIDTH + 40} {foot + 52}" aria-hidden="true">{"".join(drawn)}</svg>'


# ---- pictures --------------------------------------------------------------------------------------------------------


def _embed(picture: Image.Image, side: int, limit: float, alt: str = "") -> str:
    """A picture as an element, in the best quality that makes it no larger than so many bytes."""
    picture.thumbnail((side, side))
    for quality in (80, 60, 40, 20, 5):
        stream = BytesIO()
        picture.save(stream, "WEBP", quality=quality, method=2)
        if stream.tell() <= limit:
            break
    source = f"data:image/webp;base64,{b64encode(stream.getvalue()).decode()}"
    return f'<img src="{source}" width="{picture.width}" height="{picture.height}" alt="{escape(alt)}">'


def _draw_small(rows: Sequence[Any], room: int, remarks: list[str]) -> Iterator[str]:
    """Thumbnails as elements of a list; those without a picture are remarked on."""

    def draw(row: Any) -> Iterator[str]:
        try:
            limit = min(0.72 * room / len(rows) - 300, _LIGHT)
            picture = _embed(_open_small(getattr(row.photo, "path", row.photo)), _THUMB, limit)
        except _LOST as problem:
            picture = '<span class="none">no picture</span>'
            remarks.append(f"{row.path} was judged, and cannot be shown any more: {problem}")
        yield f'<li data-kind="{row.verdict}">{picture}{_caption(row)}</li>'

    return side_by_side(draw, rows, os.cpu_count() or 1)


def _open_small(file: Path) -> Image.Image:
    """An image; a JPEG is decoded at a fraction of its size."""
    with Image.open(file, formats=FORMATS) as picture:
        if picture.format != "JPEG":
            return Image.fromarray(read_image(file))
        picture.draft(None, (_THUMB, _THUMB))
        return Image.fromarray(read_opened(picture))


def _draw_large(spade: Any, rows: Sequence[Any], threshold: float, card: Template, remarks: list[str]) -> Iterator[str]:
    """Images with their maps, regions and explanations; they are judged again, and those that changed remarked on."""

    def draw(some: Sequence[tuple[int, Any]]) -> Iterator[str]:
        ((rank, row),) = some
        try:
            result = spade.judge(row.photo)
            if not np.isclose(result.image_score, row.image_score, rtol=0.01):
                raise ValueError(f"its score is {result.image_score:.4g} now, so it has changed.")
            yield card.substitute(_describe(result, row, threshold), rank=rank, caption=_caption(row))
        except _LOST as problem:
            remarks.append(f"{row.path} was judged, and is not shown large: {problem}")

    return in_batches(draw, [*enumerate(rows, 1)], spade.backbone, spade.gallery.cropping, 1)


def _describe(result: Result, row: Any, threshold: float) -> dict[str, Any]:
    """The pictures of a result, the marks on them in pixels of the map, and its figures."""
    values, level, regions = result.judged_map, result.judged_level, result.regions(threshold)
    (height, width), peak = values.shape, divmod(int(np.nanargmax(values)), values.shape[1])
    match, roi, known = result.match(*peak), result.roi, level if level and level > 0 else None
    end = _SCALE * known if known else max(float(np.nanmax(values)), 1e-9)
    pictures = {
        "photo": result.image if roi is None else np.where(roi[..., None], result.image, result.image // 2),
        "heat": _COLOURS(values / end, bytes=True)[..., :3],
        "normal": result.normal_image(match.image),
    }
    place = (row.row, row.col) if hasattr(row, "row") else result.crop.on_photo(np.array([peak], float))[0]
    side, truth = max(height, width), result.mask if result.mask is not None and result.mask.any() else None
    return {
        **{name: _embed(Image.fromarray(pixels), _SIDE, _HEAVY, _ALT[name]) for name, pixels in pictures.items()},
        **{"width": width, "height": height, "font": round(0.06 * side), "radius": round(0.04 * side, 1)},
        **dict(zip(("y", "x", "normal_y", "normal_x"), np.add([*peak, match.row, match.col], 0.5))),
        "marks": ("" if truth is None else _outline(truth, "truth")) + _outline(values >= threshold, "found"),
        "numbers": "".join(
            f'<text x="{min(one.col + 0.055 * side, width - 0.05 * side):.0f}" y="{one.row}">{one.Index}</text>'
            for one in regions.head(_NUMBERED).itertuples()
        ),
        "legend": "; white: the labelled defect" * (truth is not None) + "; dark: outside the roi" * (roi is not None),
        "level": f"<span>normal level {known:.3g}</span>" if known else "",
        **{"end": f"{end:.3g}", "peak": f"{values[peak]:.3g}", "distance": f"{match.distance:.3g}"},
        **{"row": f"{place[0]:.0f}", "col": f"{place[1]:.0f}"},
        "source": escape(result.spade.gallery.name(match.image)),
        "table": _tabulate(regions),
    }


def _tabulate(regions: pandas.DataFrame) -> str:
    if regions.empty:
        return "<p>No pixel of it is outlined.</p>"
    shown = regions[["peak", "area", "top", "left", "bottom", "right", "at_edge"]].head(_REGIONS)
    formats = {"peak": "{:.3g}".format, "area": "{:.0f}".format, "at_edge": {True: "yes", False: "no"}.get}
    more = f"<p>The first {_REGIONS} of {len(regions)} regions.</p>" * (len(regions) > _REGIONS)
    return shown.rename_axis(None).rename_axis("region", axis=1).to_html(border=0, formatters=formats) + more


def _outline(mask: Bool[np.ndarray, "H W"], kind: str) -> str:
    """The edges between the pixels of a mask and the others, as a path."""
    mask = np.pad(mask, 1)
    across, down = mask[1:, 1:-1] != mask[:-1, 1:-1], mask[1:-1, 1:] != mask[1:-1, :-1]
    edges = [f"M{col} {row}{way}1" for way, lines in (("h", across), ("v", down)) for row, col in np.argwhere(lines)]
    return f'<path class="{kind}" d="{"".join(edges)}"/>'
