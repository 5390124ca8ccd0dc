"""Views of the same images: single or combined layers, other options, other backbones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from spade_kit._arguments import check_index, choose
from spade_kit.correspondence import Correspondence, match_level
from spade_kit.evaluation.metrics import aupro
from spade_kit.features.pyramid import Pyramid
from spade_kit.options import OPTIONS, Options
from spade_kit.result import Match, Result, match_at
from spade_kit.retrieval import Neighbours
from spade_kit.scores import choose_map, make_map
from spade_kit.spade import SPADE

ALL = "all layers"
_OPTIONS = tuple(name for name in OPTIONS if name not in ("score", "judged"))  # a view shows the map itself
Wanted: TypeAlias = "str | Sequence[str] | Mapping[str, Any] | SPADE | None"


@dataclass(frozen=True, eq=False)
class View:
    """A fitted SPADE with some options; with ``layer``, only that layer is searched.

    Attributes
    ----------
    base
        Index of the fitted SPADE that it uses; all views of one base share an image's features.
    """

    name: str
    base: int
    spade: SPADE
    layer: str | None = None

    def judge(self, query: Pyramid, among: Int[np.ndarray, "m"], size: tuple[int, int]) -> Seen:
        """Judge an image against some of the training images."""
        gallery, options = self.spade.gallery, self.spade.options
        if self.layer is None:
            layers, (neighbours, found) = tuple(query.layers), gallery.search(query, options, among)
        else:
            layers, neighbours = (self.layer,), gallery.retrieve(query, options, among)
            level = list(query.layers).index(self.layer)
            found = match_level(query, gallery.pixels, neighbours.index, level, options)
        return Seen(make_map(found.distance, size, options.sigma), neighbours, found, layers)

    def judge_left_out(self, index: int) -> Float[np.ndarray, "H W"]:
        """The leave-one-out map of a training image, judged against the others; NaN outside its roi."""
        gallery, crop = self.spade.gallery, self.spade.gallery.normals[index].crop
        seen = self.judge(gallery.pyramid(index), gallery.others(index), crop.size)
        return choose_map(seen.anomaly_map, None, "map", crop.roi)


@dataclass(frozen=True, eq=False)
class Seen:
    """The map of an image under a view, with the match of every cell of the view's grid."""

    anomaly_map: Float[np.ndarray, "H W"]
    neighbours: Neighbours
    found: Correspondence
    layers: tuple[str, ...]

    def match(self, row: int, col: int) -> Match:
        """The normal pixel that explains the pixel at (row, col) of the map."""
        return match_at(row, col, self.anomaly_map.shape, self.found, self.neighbours, self.layers)


def read_view(wanted: Any, bases: list[SPADE]) -> dict[str, Any]:
    """Convert a view's specification to a mapping: ``base``, ``layers`` (None for all), changed options, any ``name``.

    A SPADE that is not yet in ``bases`` is appended to it.
    """
    if isinstance(wanted, SPADE):
        wanted = {"base": wanted}
    elif isinstance(wanted, str) or wanted is None:
        wanted = {"layers": None if wanted in (None, ALL) else [wanted]}
    elif not isinstance(wanted, Iterable):
        raise ValueError(f"A view must be a layer, a list of layers, a mapping or a fitted SPADE; got {wanted!r}.")
    elif not isinstance(wanted, Mapping):
        wanted = {"layers": list(wanted)}
    for name in wanted:
        choose("A key of a view", name, ("name", "base", "layers", *_OPTIONS))
    base = _find_base(wanted.get("base", 0), bases)
    layers, backbone = wanted.get("layers"), bases[base].backbone
    known = list(backbone.layers)
    if layers is not None:
        layers = [backbone.find_layer(layer) for layer in ([layers] if isinstance(layers, str) else layers)]
        layers = None if set(layers) == set(known) and len(known) > 1 else sorted(set(layers), key=known.index)
        if layers == []:
            raise ValueError(f"A view needs at least one layer of {', '.join(backbone.labels.values())}; got none.")
    return {**wanted, "base": base, "layers": layers}


def _find_base(wanted: int | SPADE, bases: list[SPADE]) -> int:
    if not isinstance(wanted, SPADE):
        return check_index("base", wanted, len(bases), "fitted SPADE")
    if wanted not in bases:
        wanted.gallery  # noqa: B018  raises if it is not fitted
        bases.append(wanted)
    return bases.index(wanted)


def make_view(spec: Mapping[str, Any], bases: Sequence[SPADE]) -> View:
    """Make a view from the mapping of `read_view`. Layers that are not requested get weight 0."""
    base, layers = bases[spec["base"]], spec["layers"]
    options = {name: spec[name] for name in OPTIONS if name in spec}
    name = spec.get("name") or _name(spec, bases)
    if not isinstance(name, str):
        raise ValueError(f"The name of a view must be text; got {name!r}.")
    if layers is not None and len(layers) == 1:
        for option in ("weights", "combine"):
            if options.pop(option, None) is not None:
                alone = f"this view uses {base.backbone.labels[layers[0]]} alone"
                raise ValueError(f"{option} applies to several layers, but {alone}. Leave it out.")
        return View(name, spec["base"], base.with_options(**options), layers[0])
    if layers is not None:
        weights = base.with_options(**options).weights
        if weights == "equal":
            gallery = base.gallery
            factors = gallery.factors(Options(weights="equal"), np.arange(len(gallery)))
            weights = dict(zip(gallery.layers, factors.tolist()))
        given, known = weights or {}, base.backbone.layers
        options["weights"] = {layer: given.get(layer, 1) if layer in layers else 0 for layer in known}
    return View(name, spec["base"], base.with_options(**options))


def _name(spec: Mapping[str, Any], bases: Sequence[SPADE]) -> str:
    """``layer1 + layer2, K=5``: the layers, and the options that differ from the fit."""
    backbone = bases[spec["base"]].backbone
    told = [ALL if spec["layers"] is None else " + ".join(map(backbone.find_label, spec["layers"]))]
    if len({base.backbone.name for base in bases}) > 1:
        told.append(backbone.name)
    elif len(bases) > 1:
        told.append(f"fit {spec['base'] + 1}")
    changed = {name: spec[name] for name in OPTIONS if name in spec}
    return ", ".join([*told, *([Options(**changed).rename(backbone.find_label).format(changed)] if changed else [])])


def look(bases: Sequence[Result], view: View) -> Seen:
    """Judge an image under a view, given the results of all bases for it."""
    result = bases[view.base]
    return view.judge(result.query, result.among, result.crop.size)


def check_crops(first: SPADE, here: Result, other: SPADE, there: Result) -> None:
    """Raise if two results have different crops; maps can only be compared on the same part of an image."""
    if here.crop != there.crop:
        fits = ", and fit both on the same images" if first.backbone.crop is None else ""
        raise ValueError(
            f"Views must use the same part of an image, but {first.backbone.name} uses {_describe_crop(here)} and "
            f"{other.backbone.name} {_describe_crop(there)}. Load both backbones with the same resize= and crop={fits}."
        )


def _describe_crop(result: Result) -> str:
    (height, width), (rows, cols) = result.crop.size, result.crop.scaled
    return f"{height} x {width} px of {rows} x {cols}"


def rank(maps: Sequence[Iterable[np.ndarray]], masks: Sequence[np.ndarray]) -> list[float] | None:
    """AUPRO of each view over the same images, where maps are not NaN; None if no mask contains a defect there."""
    if not masks:
        return None
    views, truth = [np.stack(list(some)) for some in maps], np.stack(masks)
    rois = ~np.isnan(views[0])
    if not truth[rois].any() or truth[rois].all():
        return None
    return [float(aupro(values, truth, rois=rois)) for values in views]
