"""What an explorer's traits may be set to, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from spade_kit._arguments import check_count, check_number, choose
from spade_kit.options import COMBINE, check_sigma
from spade_kit.scores import check_fpr

if TYPE_CHECKING:
    from spade_kit.widgets.explorer import Explorer


def check_place(value: Any, size: tuple[int, int] | None) -> tuple[int, int]:
    """(row, col) of a map, of any if its size is not known yet."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"The probe is a place (row, col) of the map, but {value!r} came.")
    row, col = (int(check_count(name, at, least=0)) for name, at in zip(("row", "col"), value))
    height, width = size or (row + 1, col + 1)
    if row >= height or col >= width:
        raise ValueError(f"The probe is a place 0 <= row < {height}, 0 <= col < {width}, but ({row}, {col}) came.")
    return row, col


def _check_rule(explorer: Explorer, value: str) -> str:
    of, _, rate = str(value).partition(" ")
    choose("A threshold rule", of, ("hand", "pixel", "image", "f1"))
    if of == "f1" and not explorer.about["masks"]:
        raise ValueError("The rule 'f1' needs photographs with masks, but these have none. Take one like 'pixel 0.01'.")
    if of in ("pixel", "image"):
        try:
            check_fpr(float(rate))
        except ValueError:
            needed = "A threshold rule names a false-alarm rate between 0 and 1, like 'pixel 0.01'"
            raise ValueError(f"{needed}, but {value!r} came.") from None
    return value


def _check_weights(explorer: Explorer, value: Any) -> Any:
    explorer.spade.with_options(weights=value)  # says what is wrong
    return dict(value) if isinstance(value, Mapping) else value


def _check_image(explorer: Explorer, value: Any) -> int:
    return int(explorer.spade.gallery.check_index(value))


CHECKS: dict[str, Callable[[Explorer, Any], Any]] = {
    "index": lambda explorer, value: explorer._album.check(value),
    "k": lambda explorer, value: min(int(check_count("k", value)), explorer._most),
    "kappa": lambda explorer, value: int(check_count("kappa", value)),
    "radius": lambda explorer, value: None if value is None else int(check_count("radius", value, least=0)),
    "weights": _check_weights,
    "combine": lambda explorer, value: choose("combine", value, COMBINE),
    "sigma": lambda explorer, value: check_sigma(value),
    "threshold": lambda explorer, value: check_number(
        "threshold", value, "a raw distance from 0 up", least=0, most=1e9
    ),
    "threshold_rule": _check_rule,
    "probe": lambda explorer, value: check_place(value, explorer.photo.get("size")),
    "without": lambda explorer, value: tuple(sorted({_check_image(explorer, image) for image in value})),
    "only": lambda explorer, value: None if value is None else _check_image(explorer, value),
    "opacity": lambda explorer, value: check_number("opacity", value, "a number from 0 to 1", least=0, most=1),
}
