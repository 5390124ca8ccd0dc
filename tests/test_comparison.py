"""Views side by side without a browser: results, page data and errors."""

import re
from dataclasses import replace
from io import BytesIO
from threading import Thread

import numpy as np
import pytest
from browsing import read_saved
from conftest import TinyNet
from matplotlib.figure import Figure
from PIL import Image

from spade_kit import SPADE, Sample, compare_layers, load_backbone
from spade_kit.evaluation.metrics import aupro
from spade_kit.widgets._shared.export import join_modules

LAYERS = ("layer1", "layer2", "layer3")
NAMES = [*LAYERS, "all layers"]
SCRATCH, GOOD = 24, 6  # the first of each among the demo's test images


@pytest.fixture
def comparison(spade, demo):
    """A comparison of a scratch under the default views."""
    comparison = compare_layers(spade, demo)
    comparison.index = SCRATCH
    yield comparison
    comparison.close()


def load_tiny(**size):
    return load_backbone(TinyNet(), layers=("early", "middle", "late"), pooled="late", **size)


@pytest.fixture(scope="module")
def quick_spade(demo):
    """For tests that do not depend on the quality of the maps."""
    return SPADE(load_tiny(resize=72, crop=64), k=2).fit(demo.train[:4])


@pytest.fixture
def quick(quick_spade, demo):
    comparison = compare_layers(quick_spade, demo)
    yield comparison
    comparison.close()


def maps_of(result):
    """The maps of the default views, from the result."""
    return [*result.layer_alone.values(), result.anomaly_map]


def match_alone(result, layer, row, col):
    """(normal, row, col, distance) of a layer searched alone, at a pixel of the 224 px map."""
    found = result.match_alone[layer]
    cells = found.distance.shape[0]
    side, cell = 224 // cells, (row * cells // 224, col * cells // 224)
    normal = result.neighbours.index[found.image[0][cell]]
    middle = [int(place[0][cell] * side + side // 2) for place in (found.row, found.col)]
    return int(normal), *middle, float(found.distance[cell])


def decode(pack, name, kind):
    return np.frombuffer(pack[name], kind).reshape(pack["grid"])


# ---- the current view ------------------------------------------------------------------------------------------------


def test_default_views_are_each_layer_alone_and_all_together(comparison, result):
    assert list(comparison.maps) == NAMES
    for seen, expected in zip(comparison.maps.values(), maps_of(result)):
        np.testing.assert_array_equal(seen, expected)
    assert repr(comparison) == "Comparison(scratch/000: layer1; layer2; layer3; all layers)"


def test_a_shifted_copy_matches_its_origin_under_every_view(rng):
    """In images of 64 x 96 pixels, so that swapped rows and columns would be noticed."""
    normals = list(rng.integers(0, 256, (4, 64, 96, 3), np.uint8))
    spade = SPADE(load_tiny(resize=64, crop=None), k=4).fit(normals)
    comparison = compare_layers(spade, np.roll(normals[2], 16, axis=1))
    comparison.probe = (33, 61)
    said = comparison.readout()
    # the centres of cells of 4, 8 and 16 pixels, each 16 pixels to the left of the probe's own
    assert said[["normal", "row", "col"]].values.tolist() == [[2, 34, 46], [2, 36, 44], [2, 40, 40], [2, 34, 46]]
    assert said["distance"].tolist() == [0, 0, 0, 0]
    assert {seen.shape for seen in comparison.maps.values()} == {(64, 96)}
    comparison.probe = (33, 17)  # at the wrap-around: no normal image has this seam
    assert (comparison.readout()["distance"] > 0).all()


def test_the_probe_starts_at_the_maximum_of_all_layers_and_stays_once_it_is_set(comparison, spade, demo, result):
    assert result.anomaly_map[comparison.probe] == result.image_score
    assert not comparison.pinned
    comparison.index = 30
    other = spade.predict(demo.test[30])
    assert other.anomaly_map[comparison.probe] == other.image_score
    comparison.probe = (10, 20)
    assert comparison.pinned
    comparison.index = 31
    assert comparison.probe == (10, 20)


def test_the_readout_is_the_match_of_each_view_at_the_probe(comparison, result, left_out):
    comparison.finish()
    levels = [np.percentile(np.stack(maps), 99) for maps in zip(*map(maps_of, left_out))]
    scores = [aupro(seen[None], result.mask[None]) for seen in maps_of(result)]
    for place in [(100, 61), (3, 219)]:
        comparison.probe = place
        said = comparison.readout()
        together = result.match(*place)
        found = [match_alone(result, layer, *place) for layer in LAYERS]
        found.append((together.image, together.row, together.col, together.distance))
        assert said.index.tolist() == NAMES
        assert said[["normal", "row", "col"]].values.tolist() == [list(match[:3]) for match in found]
        assert said["distance"].tolist() == [round(match[3], 3) for match in found]
        here = [float(seen[place]) for seen in maps_of(result)]
        assert said["map"].tolist() == [round(value, 3) for value in here]
        assert said["of normal"].tolist() == [round(value / level, 2) for value, level in zip(here, levels)]
        assert said["aupro"].tolist() == pytest.approx(scores, abs=6e-5)


def test_the_reference_level_is_estimated_at_once_and_exact_when_all_are_judged(comparison, left_out):
    exact = [np.percentile(np.stack(maps), 99) for maps in zip(*map(maps_of, left_out))]
    assert [known["stale"] for known in comparison.levels] == [True] * 4
    assert [known["level"] for known in comparison.levels] == pytest.approx(exact, rel=0.1)
    comparison.finish()
    assert comparison.levels == [{"level": pytest.approx(level, rel=1e-6), "stale": False} for level in exact]
    comparison.views = [*comparison.views, {"kappa": 3}]
    assert [known["stale"] for known in comparison.levels] == [False] * 4 + [True]


def test_reference_levels_equal_those_of_the_fit(comparison, spade):
    comparison.views = [None, {"k": 3, "weights": "equal"}]
    comparison.finish()
    levels = [spade.normal_level, spade.with_options(k=3, weights="equal").normal_level]
    assert [known["level"] for known in comparison.levels] == pytest.approx(levels, rel=1e-6)


def test_one_normal_photo_is_enough_to_look(demo, scratched):
    single = SPADE(k=1).fit(demo.train[:1])
    comparison = compare_layers(single, scratched)
    for seen, expected in zip(comparison.maps.values(), maps_of(single.predict(scratched))):
        np.testing.assert_array_equal(seen, expected)
    comparison.finish()
    ends = [2 * known["level"] for known in comparison.levels]  # no reference level: the map's own maximum
    assert ends == pytest.approx([float(seen.max()) for seen in comparison.maps.values()])
    assert comparison.readout()["of normal"].max() <= 2
    assert not any(known["stale"] for known in comparison.levels)  # no work is pending


# ---- ranking ---------------------------------------------------------------------------------------------------------


def test_views_are_ranked_by_aupro_on_the_mask_and_over_all_photos_of_the_kind(quick, quick_spade, demo):
    quick.index = SCRATCH
    results = [quick_spade.predict(sample) for sample in demo.test if sample.label == "scratch"]
    masks = np.stack([one.mask for one in results])
    here = [aupro(seen[None], masks[:1]) for seen in maps_of(results[0])]
    told = {"photo": pytest.approx(here, abs=6e-5), "kind": "scratch", "photos": 6}
    assert quick.ranking == told | {"over": None}
    quick.finish()
    over = [aupro(np.stack(maps), masks) for maps in zip(*map(maps_of, results))]
    assert quick.ranking == told | {"over": pytest.approx(over, abs=6e-5)}
    assert len(set(quick.ranking["photo"] + quick.ranking["over"])) > 4
    quick.index = SCRATCH + 1  # the same defect type: already computed
    assert quick.ranking["over"] == pytest.approx(over, abs=6e-5)
    quick.index = 0
    assert (quick.ranking["kind"], quick.ranking["over"]) == ("chip", None)


def test_good_photos_and_photos_without_masks_are_not_ranked(quick, quick_spade, demo):
    quick.index = GOOD
    quick.finish()
    assert quick.ranking == {"photo": None, "kind": "good", "photos": 0, "over": None}
    assert quick.readout()["aupro"].isna().all()
    unknown = compare_layers(quick_spade, [demo.test[SCRATCH].path, demo.test[0].path])
    unknown.finish()
    assert unknown.ranking == {"photo": None, "kind": None, "photos": 0, "over": None}


def test_an_unreadable_photo_of_the_defect_type_is_skipped_in_the_ranking(quick_spade, demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    scratches = demo.test[SCRATCH : SCRATCH + 2]
    broken = replace(scratches[0], path=tmp_path / "broken.png")
    comparison = compare_layers(quick_spade, [scratches[0], broken, scratches[1]])
    comparison.finish()
    results = [quick_spade.predict(sample) for sample in scratches]
    masks = np.stack([one.mask for one in results])
    over = [aupro(np.stack(maps), masks) for maps in zip(*map(maps_of, results))]
    assert comparison.ranking["over"] == pytest.approx(over, abs=6e-5)


# ---- views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "name", "options"),
    [
        (None, "all layers", {}),
        ("all layers", "all layers", {}),
        (("layer3", "layer1"), "layer1 + layer3", {"weights": {"layer2": 0}}),
        ({"k": 2, "kappa": 3}, "all layers, K=2, kappa 3", {"k": 2, "kappa": 3}),
        ({"layers": ["layer1", "layer2"], "radius": 4}, "layer1 + layer2, radius 4", {"weights": {"layer3": 0}}),
        ({"weights": "equal", "name": "fair"}, "fair", {"weights": "equal"}),
        ({"combine": "ensemble", "sigma": 1}, "all layers, ensemble, sigma 1", {"combine": "ensemble", "sigma": 1}),
    ],
    ids=str,
)
def test_a_view_can_be_specified_in_every_form(comparison, spade, scratched, wanted, name, options):
    if isinstance(wanted, dict) and "radius" in wanted:
        options = options | {"radius": wanted["radius"]}
    comparison.views = ["layer2", wanted]
    assert list(comparison.maps) == [seen["name"] for seen in comparison.seen] == ["layer2", name]
    expected = spade.with_options(**options).predict(scratched).anomaly_map
    np.testing.assert_array_equal(comparison.maps[name], expected)


def test_views_are_mappings_that_can_be_set_again(comparison, spade, demo):
    wanted = ["layer2", ("layer1", "layer2"), {"k": 3, "name": "few"}, None]
    comparison.views = wanted
    told = comparison.views
    assert told == [
        {"base": 0, "layers": ["layer2"], "name": "layer2"},
        {"base": 0, "layers": ["layer1", "layer2"], "name": "layer1 + layer2"},
        {"base": 0, "layers": None, "k": 3, "name": "few"},
        {"base": 0, "layers": None, "name": "all layers"},
    ]
    comparison.views = told[::-1]
    assert list(comparison.maps) == ["all layers", "few", "layer1 + layer2", "layer2"]
    assert compare_layers(spade, demo, wanted).views == told


def test_the_fit_itself_can_be_a_view(quick, quick_spade, demo):
    assert list(compare_layers(quick_spade, demo, ["layer1", quick_spade]).maps) == ["layer1", "all layers"]
    quick.views = ["layer1", quick_spade]
    assert list(quick.maps) == ["layer1", "all layers"]


@pytest.fixture(scope="module")
def other(demo):
    """Fitted on other normal images, starting with the demo's number 20."""
    return SPADE(k=2).fit(demo.train[20:23])


@pytest.mark.parametrize("when", ["at once", "later"])
def test_another_fit_is_a_view_with_its_own_normals(spade, demo, scratched, other, when, monkeypatch):
    comparison = compare_layers(spade, scratched, ["layer1", other if when == "at once" else None])
    comparison.views = [{"layers": "layer1", "name": "one"}, other]
    expected = other.predict(scratched)
    np.testing.assert_array_equal(comparison.maps["all layers, fit 2"], expected.anomaly_map)
    comparison.probe = (100, 61)
    match = expected.match(100, 61)
    said = comparison.readout().loc["all layers, fit 2"]
    assert said[["normal", "row", "col"]].tolist() == [match.image, match.row, match.col]
    comparison.finish()
    assert comparison.levels[1]["level"] == pytest.approx(other.normal_level, rel=1e-6)
    # the page requests crops of both by separate numbers
    numbers = [dict(seen["normals"])[match.image] for seen in comparison.seen if match.image in dict(seen["normals"])]
    sent = []
    monkeypatch.setattr(comparison, "send", lambda content, buffers=(): sent.append((content, buffers)))
    comparison._on_message(None, {"kind": "normals", "images": numbers}, [])
    ((content, crops),) = sent
    assert content == {"kind": "normals", "images": numbers}
    shown = np.asarray(Image.open(BytesIO(crops[-1])))
    np.testing.assert_array_equal(shown, other.normal_image(match.image))


def test_normal_photos_that_two_fits_share_are_sent_once(spade, demo, scratched):
    other = SPADE(k=2).fit([demo.train[20], demo.train[3]])
    comparison = compare_layers(spade, scratched, [{"k": 12}, {"base": other, "name": "other"}])
    ours, others = (dict(seen["normals"]) for seen in comparison.seen)
    assert others[1] == ours[3]
    assert sorted(comparison.neighbours["images"]) == sorted({*ours.values(), *others.values()})
    assert len(comparison.neighbours["images"]) == 13
    assert comparison._normal(others[1]).jpeg == spade.gallery.normals[3].jpeg
    assert comparison._normal(others[0]).jpeg == other.gallery.normals[0].jpeg


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_page_gets_the_list_of_fits(spade, scratched, other, when):
    comparison = compare_layers(spade, scratched, [None, other] if when == "at once" else None)
    comparison.views = [None, other]
    assert comparison.about["bases"] == ["efficientnet_lite0, 12 normal photos", "efficientnet_lite0, 3 normal photos"]
    assert comparison.about["layers"] == [list(LAYERS)] * 2


def test_another_backbone_with_the_same_crop_is_a_view(spade, demo, scratched):
    net = SPADE(load_tiny(resize=256, crop=224), k=2).fit(demo.train[:2])
    comparison = compare_layers(spade, scratched, ["layer3", net])
    assert list(comparison.maps) == ["layer3, efficientnet_lite0", "all layers, TinyNet"]
    np.testing.assert_array_equal(comparison.maps["all layers, TinyNet"], net.predict(scratched).anomaly_map)


def test_another_backbone_with_another_crop_is_rejected_and_changes_nothing(spade, demo, other, quick_spade):
    sentence = (
        r"same part of an image, but efficientnet_lite0 uses 224 x 224 px of 256 x 256 and TinyNet 64 x 64 px of "
        r"72 x 72\. Load both backbones with the same resize= and crop=\."
    )
    with pytest.raises(ValueError, match=sentence):
        compare_layers(spade, demo, ["layer1", quick_spade])
    comparison = compare_layers(spade, demo)
    with pytest.raises(ValueError, match=sentence):
        comparison.views = ["layer1", quick_spade]
    assert list(comparison.maps) == NAMES
    comparison.index = SCRATCH
    comparison.views = ["layer1", "layer2"]
    assert list(comparison.maps) == ["layer1", "layer2"]  # not "layer1, efficientnet_lite0"
    comparison.views = [None, other]
    np.testing.assert_array_equal(comparison.maps["all layers, fit 2"], other.predict(demo.test[SCRATCH]).anomaly_map)


def test_later_changes_to_a_fit_have_no_effect(demo, scratched, quick_spade):
    changing = SPADE(quick_spade.backbone, k=2).fit(demo.train[:3])
    comparison = compare_layers(changing, [scratched, demo.test[0]])
    later = SPADE(quick_spade.backbone, k=2).fit(demo.train[5:8])
    comparison.views = [None, later]
    expected = [fit.predict(demo.test[0]).anomaly_map for fit in (changing, later)]
    changing.remove(0)
    later.remove(0)
    comparison.index = 1
    for seen, before in zip(comparison.maps.values(), expected):
        np.testing.assert_array_equal(seen, before)


# ---- photos ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["dataset", "samples", "paths", "path", "array", "image", "sample"])
def test_photos_are_accepted_in_every_form(quick_spade, demo, form):
    sample = demo.test[SCRATCH]
    given, names, at = {
        "dataset": (demo, 48, SCRATCH),
        "samples": (demo.test[SCRATCH - 1 : SCRATCH + 2], 3, 1),
        "paths": ([demo.test[0].path, str(sample.path)], 2, 1),
        "path": (sample.path, 1, 0),
        "array": (sample.image, 1, 0),
        "image": (Image.fromarray(sample.image), 1, 0),
        "sample": (sample, 1, 0),
    }[form]
    comparison = compare_layers(quick_spade, given)
    comparison.index = at
    np.testing.assert_array_equal(comparison.maps["all layers"], quick_spade.predict(sample).anomaly_map)
    called, label = comparison.about["photos"][at]
    known = form in ("dataset", "samples", "sample")
    expected = "scratch/000" if known else "000" if "path" in form else "photo 0"
    assert len(comparison.about["photos"]) == names
    assert (called, label) == (expected, "scratch" if known else None)


def test_normals_are_each_judged_against_the_others(quick_spade, demo):
    alone = compare_layers(quick_spade, replace(demo, test=[]))
    given = compare_layers(quick_spade, [demo.test[0], demo.train[2].path])
    alone.index, given.index = 2, 1
    for comparison in (alone, given):
        for seen, expected in zip(comparison.maps.values(), maps_of(quick_spade.predict_left_out(2))):
            np.testing.assert_array_equal(seen, expected)


def test_an_unreadable_photo_is_named_when_it_is_set_and_the_others_go_on(quick_spade, demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    comparison = compare_layers(quick_spade, [demo.test[0].path, tmp_path / "broken.png", demo.test[20].path])
    with pytest.raises(ValueError, match=r"Cannot read .*broken\.png as an image"):
        comparison.index = 1
    assert comparison.index == comparison.photo["index"] == 0
    comparison.set_state({"index": 1})
    assert re.search(r"Cannot read .*broken\.png as an image", comparison.problem)
    assert comparison.index == comparison.photo["index"] == 0
    comparison.set_state({"index": 2})
    assert (comparison.problem, comparison.photo["index"]) == ("", 2)
    expected = quick_spade.predict(demo.test[20]).anomaly_map
    np.testing.assert_array_equal(comparison.maps["all layers"], expected)


# ---- data for the page, figures and previews -------------------------------------------------------------------------


def test_a_page_gets_every_match_of_every_view(comparison, result, spade):
    found = [*result.match_alone.values(), result.correspondence]
    for pack, one, name in zip(comparison.seen, found, NAMES):
        assert (pack["index"], pack["name"], pack["sigma"]) == (SCRATCH, name, 4)
        assert [image for image, _ in pack["normals"]] == result.neighbours.index.tolist()
        np.testing.assert_array_equal(decode(pack, "distance", "<f4"), one.distance)
        np.testing.assert_array_equal(decode(pack, "image", "<u2"), one.image[0])
        np.testing.assert_array_equal(decode(pack, "place", "<u4"), one.row[0] * pack["grid"][1] + one.col[0])
    pictures = dict(zip(comparison.neighbours["images"], comparison.neighbours["jpegs"]))
    assert set(pictures) == {number for pack in comparison.seen for _, number in pack["normals"]}
    for image, number in comparison.seen[0]["normals"]:
        small = np.asarray(Image.open(BytesIO(pictures[number]))).astype(float)
        assert np.abs(small.mean((0, 1)) - spade.normal_image(image).mean((0, 1))).max() < 2
    assert comparison.photo["size"] == [224, 224]
    mask = np.unpackbits(np.frombuffer(comparison.photo["mask"], np.uint8)).reshape(224, 224)
    np.testing.assert_array_equal(mask, result.mask)
    comparison.index = GOOD
    assert comparison.photo["mask"] is None


def test_traits_can_be_observed(quick):
    seen = []
    quick.observe(lambda change: seen.append((change["name"], change["new"])), ["scale", "difference", "index"])
    quick.scale = "one"
    quick.difference = (2, 0)
    quick.index = 3
    assert seen == [("scale", "one"), ("difference", [2, 0]), ("index", 3)]


def test_a_difference_is_reset_with_its_views(quick):
    quick.difference = (0, 3)
    quick.views = [*quick.views[:3], {"k": 1}]
    assert quick.difference == [0, 3]
    quick.views = quick.views[:3]
    assert quick.difference is None
    quick.difference = (2, 1)
    quick.set_state({"views": quick.views[:2]})
    assert (quick.difference, quick.problem) == (None, "")


@pytest.mark.parametrize("scale", ["own", "one"])
def test_a_figure_shows_the_maps_on_the_scale_that_was_set(quick, quick_spade, demo, scale):
    quick.index, quick.scale, quick.probe = SCRATCH, scale, (50, 31)
    quick.finish()
    result = quick_spade.predict(demo.test[SCRATCH])
    figure = quick.draw()
    assert isinstance(figure, Figure)
    photo, *panels = figure.axes
    np.testing.assert_array_equal(photo.images[0].get_array(), result.image)
    levels = [known["level"] for known in quick.levels]
    assert len(panels) == 4
    for panel, name, seen, level in zip(panels, NAMES, maps_of(result), levels):
        end = 2 * (level if scale == "own" else max(levels))
        np.testing.assert_allclose(panel.images[0].get_array(), seen / end, rtol=1e-6)
        assert panel.images[0].get_clim() == (0, 1)
        score = float(panel.get_title().removeprefix(f"{name}: AUPRO "))
        assert score == pytest.approx(aupro(seen[None], result.mask[None]), abs=6e-4)
    for panel in figure.axes:
        assert [(*line.get_xdata(), *line.get_ydata()) for line in panel.lines] == [(31, 50)] * 2
    told = {
        "own": "colour scale of each view: 0 to 2 x its 99th percentile of normal pixels",
        "one": f"one colour scale: 0 to {2 * max(levels):.1f} (raw distance)",
    }
    assert figure.get_supxlabel() == f"{told[scale]}; 79 % of the image judged"


@pytest.mark.parametrize("scale", ["own", "one"])
def test_a_figure_shows_the_selected_difference_in_place_of_its_first_view(quick, quick_spade, demo, scale):
    quick.index, quick.scale, quick.difference = SCRATCH, scale, (2, 1)
    quick.finish()
    figure = quick.draw()
    _, *views, panel, last = figure.axes
    levels = [known["level"] for known in quick.levels]
    units = [level if scale == "own" else max(levels) for level in levels]
    maps = maps_of(quick_spade.predict(demo.test[SCRATCH]))
    np.testing.assert_allclose(panel.images[0].get_array(), maps[2] / units[2] - maps[1] / units[1], atol=1e-5)
    assert panel.images[0].get_clim() == (-1, 1)
    assert panel.get_title().replace("\n", " ") == f"{NAMES[2]} (orange) - {NAMES[1]} (violet)"
    for other, name in zip((*views, last), (*NAMES[:2], NAMES[3])):
        assert other.images[0].get_clim() == (0, 1)
        assert other.get_title().startswith(f"{name}: AUPRO ")
    told = {"own": "±1 x these percentiles", "one": f"±{max(levels):.1f}"}[scale]
    assert f"; of the difference: {told}; " in figure.get_supxlabel()


def test_a_figure_of_a_good_photo_has_only_view_names(quick):
    quick.index = GOOD
    assert [panel.get_title() for panel in quick.draw().axes] == ["good/000", *NAMES]


def test_the_static_preview_is_deterministic(comparison):
    data, _ = comparison._repr_mimebundle_()
    again, _ = comparison._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert data["text/plain"] == again["text/plain"] == repr(comparison)
    assert data["image/png"] == again["image/png"]
    picture = Image.open(BytesIO(data["image/png"]))
    comparison.index = GOOD
    assert comparison._repr_mimebundle_()[0]["image/png"] != data["image/png"]
    assert picture.format == "PNG"
    assert 800 < picture.width <= 832 + 2 * 16  # a margin of 0.2 inches


def test_a_saved_page_is_small_and_self_contained(comparison, tmp_path):
    comparison.finish()
    comparison.save_html(tmp_path / "page.html")
    text = read_saved(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 1_000_000
    assert not re.findall(r"https?://(?!www\.w3\.org/)[^\s\"']*", text)
    assert "<title>scratch/000, compared</title>" in text


def test_the_pages_code_is_one_module_without_imports():
    text = join_modules("saved.js") + join_modules("comparison.js")
    assert not re.findall(r"^(import .*|export (?!default).*)$", text, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names)) > 20


# ---- errors ----------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("views", ["layer1"], "views must contain 2 to 8 views; got 1."),
    ("views", [{"k": 1, "name": f"{place}"} for place in range(9)], "views must contain 2 to 8 views; got 9."),
    ("views", ["layer1", None, "layer1"], "must have distinct names; got 'layer1' twice. Change one, or set name=."),
    ("views", [{"k": 1, "name": "few"}, {"k": 2, "name": "few"}], "Views must have distinct names; got 'few' twice"),
    ("views", ["layer1", "layer9"], "A layer must be one of 'layer1', 'layer2', 'layer3'; got 'layer9'"),
    ("views", ["layer1", {"kapa": 2}], "Did you mean 'kappa'"),
    ("views", ["layer1", {"k": 0}], "k must be a whole number of at least 1; got 0"),
    ("views", ["layer1", {"layers": "layer2", "weights": "equal"}], "weights applies to several layers"),
    ("views", "layer1", "views must be a list, such as ['layer1', 'layer2']; got 'layer1'."),
    ("views", {"k": 3}, "views must be a list, such as ['layer1', 'layer2']; got {'k': 3}."),
    ("views", 5, "views must be a list, such as ['layer1', 'layer2']; got 5."),
    ("views", ["layer1", 5], "A view must be a layer, a list of layers, a mapping or a fitted SPADE; got 5"),
    ("views", ["layer1", {"base": 1}], "base must refer to one of the fitted SPADEs, from 0 to 0; got 1"),
    ("difference", [1, 1], "difference must be two different views; got 1 twice"),
    ("difference", [0, 4], "difference must refer to one of the views, from 0 to 3; got 4"),
    ("difference", [0], "difference must be two views, such as (0, 1), or None; got [0]."),
    ("index", 48, "index must refer to one of the images, from 0 to 47; got 48"),
    ("index", -1, "index must be a whole number of at least 0; got -1"),
    ("scale", "two", "scale must be one of 'own', 'one'; got 'two'"),
    ("probe", [0, 64], "0 <= row < 64 and 0 <= col < 64; got (0, 64)."),
    ("probe", 5, "probe must be a pixel (row, col) of the map; got 5."),
    ("probe", [1, 2, 3], "probe must be a pixel (row, col) of the map; got [1, 2, 3]."),
]


def state(comparison):
    names = (*comparison.MOVABLE, "photo", "neighbours", "seen", "levels", "ranking", "about")
    return {name: getattr(comparison, name) for name in names}


@pytest.mark.parametrize(("name", "value", "sentence"), MISTAKES)
def test_an_invalid_value_raises_an_error_and_changes_nothing(quick, name, value, sentence):
    quick.difference = (0, 3)
    before = state(quick)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        setattr(quick, name, value)
    assert state(quick) == before
    quick.index = 1
    assert list(quick.maps) == NAMES


@pytest.mark.parametrize(("name", "value", "sentence"), MISTAKES)
def test_an_error_from_the_page_is_shown_there_and_rolled_back(quick, name, value, sentence):
    quick.difference = (0, 3)
    before = state(quick)
    quick.set_state({"scale": "one", "pinned": not quick.pinned} | {name: value})
    assert sentence in quick.problem
    assert state(quick) == before
    quick.set_state({"scale": "one"})
    assert (quick.scale, quick.problem) == ("one", "")


def test_an_unfitted_spade_is_rejected(quick, quick_spade):
    with pytest.raises(ValueError, match=r"This SPADE has no normal images yet.*Call spade\.fit"):
        quick.views = ["layer1", SPADE(quick_spade.backbone)]
    assert list(quick.maps) == NAMES


def test_a_fit_passed_along_with_an_error_is_not_kept(quick, quick_spade, demo):
    with pytest.raises(ValueError, match="got 'layer9'"):
        quick.views = [SPADE(quick_spade.backbone, k=1).fit(demo.train[4:6]), "layer9"]
    quick.views = ["layer1", {"k": 1}]
    assert list(quick.maps) == ["layer1", "all layers, K=1"]  # not "layer1, fit 1"


def test_an_unknown_message_is_an_error(quick):
    quick._on_message(None, {"kind": "normals", "images": [99]}, [])
    assert quick.problem == "index must refer to one of the training images, from 0 to 3; got 99."
    quick._on_message(None, {"kind": "normal"}, [])
    assert "Did you mean 'normals'?" in quick.problem
    quick._on_message(None, {"kind": "normals"}, [])  # a bug of the page, not a user error
    assert quick.problem == "KeyError: 'images'"


def test_a_sample_whose_mask_lies_outside_the_crop_is_not_ranked(quick_spade, demo, tmp_path):
    mask = np.zeros((320, 320), np.uint8)
    mask[:4, :4] = 255
    Image.fromarray(mask).save(tmp_path / "corner.png")
    corner = Sample(demo.test[SCRATCH].path, "scratch", tmp_path / "corner.png", masked=True)
    with pytest.warns(UserWarning, match=r"The defect of 000\.jpg is not visible on the evaluated crop"):
        comparison = compare_layers(quick_spade, corner)
    assert comparison.ranking["photo"] is None
    assert comparison.readout()["aupro"].isna().all()


def test_cells_and_the_page_may_send_changes_at_the_same_time(quick, restless):
    """Page messages arrive in a separate thread."""
    wanted = [[*quick.views[:2], {"k": 1 + step % 2, "kappa": 1 + step // 2}] for step in range(30)]
    page = Thread(target=lambda: [quick.set_state({"views": views}) for views in wanted])
    page.start()
    while page.is_alive():
        quick.finish()
        assert len(quick.readout()) in (3, 4)
    page.join()
    quick.finish()
    assert quick.problem == ""
    assert list(quick.maps) == ["layer1", "layer2", "all layers, K=2, kappa 15"]
    assert len(quick.levels) == 3
    assert not any(known["stale"] for known in quick.levels)
