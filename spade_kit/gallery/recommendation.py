"""What `SPADE.recommended` sets: what is the same for all images, and what follows from the normal ones."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, TypeAlias

from spade_kit._arguments import check_count
from spade_kit.features.backbones import SIDES, Backbone, Device, is_transformer, load_backbone
from spade_kit.gallery.calibration import Calibration
from spade_kit.gallery.placement import FAR, NEAR
from spade_kit.options import Options

SIZE = 320  # px of the short side
AVERAGE = 3
UNDECIDED = ("radius", "score", "judged")  # options that a fit chooses
RAD: dict[str, Any] = {"radius": 1, "combine": "ensemble", "squared": True, "score": "top"}  # for vision transformers
RAD_CROP = 448  # px, of 512
_RAD_K = 150
_RAD_MAP = 256  # px: side of the map that RAD smooths with a sigma of 1
_PUBLISHED = "arXiv:2601.22763"
_ALIKE = 2 / 3  # of the pixels match near their own place where parts lie alike
_EASIER = 0.9  # hurdle below which the excess is worth it
_EVEN = 0.2  # relief of a level that is about the same everywhere
_FEW = 5  # normal images: with fewer, what is normal where is unknown
ADVICE = (
    f"If at least {100 * _ALIKE:.0f} % of the pixels match near their own place, parts lie alike: use a radius of "
    f"{100 * NEAR:.0f} % of the short side, otherwise {100 * FAR:.0f} %. Below {_EASIER} times the rise, score by the "
    f"excess; if the level also varies by less than {100 * _EVEN:.0f} %, judge by it, too."
)

Row: TypeAlias = "tuple[str, Any, str, str]"  # option, value, why, the figure that it rests on


def sigma_at(size: int) -> float:
    """The sigma for a short side of ``size`` px."""
    return round(2.5 * size / SIZE, 2)


def sigma_of_rad(crop: int) -> float:
    """The sigma for a crop of ``crop`` px."""
    return round(crop / _RAD_MAP, 2)


def recommend(
    backbone: str | Backbone, size: int | None, device: Device
) -> tuple[Backbone, dict[str, Any], frozenset[str]]:
    """The network and the options of `SPADE.recommended`, and what is undecided: options, and "resize" if not given."""
    if is_transformer(backbone):
        crop = RAD_CROP if size is None else check_count("size", size, *SIDES)
        network = load_backbone(backbone, resize=round(crop * 8 / 7), crop=crop, unit=True, device=device)
        if not network.unit:
            raise ValueError(
                "The recommended settings of a vision transformer need vectors of length 1; got a backbone with "
                "unit=False. Use load_backbone(..., unit=True), or pass its name."
            )
        options, undecided = RAD | {"sigma": sigma_of_rad(network.crop or network.resize)}, {"k"}
    else:
        size = SIZE if size is None else check_count("size", size, *SIDES)
        network = load_backbone(backbone, resize=size, crop=None, average=AVERAGE, device=device)
        options, undecided = {"weights": "equal", "sigma": sigma_at(size)}, {*UNDECIDED}
    return network, options, frozenset(undecided if isinstance(backbone, Backbone) else undecided | {"resize"})


def choose(calibration: Calibration, options: Options, undecided: Container[str]) -> list[Row]:
    """The undecided options that a fit chooses, from its normal images alone."""
    if "k" in undecided:
        normals = len(calibration.gallery)
        return [("k", min(_RAD_K, normals), f"as RAD publishes it, {_RAD_K}, or all", f"{normals} normal images")]
    count = len(calibration.gallery.places)
    if count < _FEW:
        few = f"fewer than {_FEW} different normal images", f"{count}"
        return [row for row in (("score", "top", *few), ("judged", "map", *few)) if row[0] in undecided]
    radius = _choose_radius(calibration, options)
    if "radius" in undecided:
        options = options.replace(radius=radius[1])
    return [row for row in (radius, *_choose_score(calibration, options)) if row[0] in undecided]


def _choose_radius(calibration: Calibration, options: Options) -> Row:
    found = calibration.alike(options)
    near, alike = (NEAR, "parts lie alike") if found >= _ALIKE else (FAR, "parts do not lie alike")
    radius = max(1, round(near * min(calibration.gallery.shapes[0][1:])))
    return "radius", radius, f"{alike}: look within {100 * near:.0f} % of the short side", f"alike {found:.2f}"


def _choose_score(calibration: Calibration, options: Options) -> list[Row]:
    found = calibration.placement(options)
    assert found is not None  # there are several images
    easier, even = found.hurdle < _EASIER, found.relief < _EVEN
    hurdle, relief = f"hurdle {found.hurdle:.2f}", f"relief {found.relief:.2f}"
    why_scored = f"by the excess, defects are {'easier' if easier else 'not easier'} to tell from normal images"
    why_judged = "the excess does not make defects easier to see"
    if easier:
        why_judged = "about the same is normal everywhere" if even else "taking off an uneven level would blur outlines"
    return [
        ("score", "excess" if easier else "top", why_scored, hurdle),
        ("judged", "excess" if easier and even else "map", why_judged, f"{hurdle}, {relief}"),
    ]


def describe_fixed(backbone: Backbone, undecided: Container[str]) -> list[Row]:
    """The settings that are the same for all images, without those that a given backbone has of its own."""
    own = () if "resize" in undecided else ("resize", "crop", "average", "unit")
    size, crop = backbone.resize, backbone.crop
    rows: list[Row] = [
        ("crop", None, "a defect may lie anywhere, and squashing hides thin ones", "whole image, own aspect"),
        ("resize", size, "small defects need pixels", "short side in px"),
        ("average", AVERAGE, "a cell with its surroundings is told apart more easily", f"{AVERAGE} x {AVERAGE} cells"),
        ("weights", "equal", "layers with large values would outvote the others", "variance of each layer"),
        ("sigma", sigma_at(size), "as fine as the detail of the map", f"2.5 px at {SIZE} px"),
    ]
    if "k" in undecided:
        options = {"resize": size, "crop": crop, "unit": True, **RAD, "sigma": sigma_of_rad(crop or size)}
        rows = [(option, value, "as RAD publishes it", _PUBLISHED) for option, value in options.items()]
    return [row for row in rows if row[0] not in own]
