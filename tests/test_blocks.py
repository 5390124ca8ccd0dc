"""Blocks of a vision transformer after the search: their names, and the angles between vectors of length 1."""

from dataclasses import replace

import browsing
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from timm.models import VisionTransformer

from spade_kit import (
    SPADE,
    Sample,
    compare_layers,
    draw_layers,
    draw_match,
    draw_sweep,
    evaluate,
    explore,
    load_backbone,
    sweep,
)
from spade_kit.result import find_angles
from spade_kit.widgets._shared.encoding import pack_alone, pack_matches

BLOCKS = ("blocks.1", "blocks.2", "blocks.4")
OPTIONS = [
    {},
    {"squared": True},
    {"weights": {"blocks.1": 0.25, "blocks.4": 3}},
    {"weights": "equal", "radius": 1},
    {"combine": "ensemble", "weights": {"blocks.2": 0.5}},
    {"combine": "ensemble", "squared": True, "radius": 1},
    {"kappa": 3, "squared": True},
]


def make_backbone(depth=5, layers=BLOCKS, unit=True):
    torch.manual_seed(3)
    network = VisionTransformer(64, 16, 3, 0, embed_dim=12, depth=depth, num_heads=2).eval()
    return load_backbone(network, layers=layers, unit=unit, resize=72, crop=64)


@pytest.fixture(scope="module")
def some(demo):
    return replace(demo, train=demo.train[:5], test=demo.test[::8])


@pytest.fixture(scope="module")
def blocks(some):
    return SPADE(make_backbone()).fit(some.train)


@pytest.fixture(scope="module")
def many(some):
    """Twelve blocks: more than there is room for side by side."""
    return SPADE(make_backbone(12, [f"blocks.{number}" for number in range(12)])).fit(some.train)


# ---- angles ----------------------------------------------------------------------------------------------------------


def angle_between(here, there):
    """From the two vectors, in float64."""
    here, there = np.asarray(here, np.float64), np.asarray(there, np.float64)
    cos = here @ there / np.linalg.norm(here) / np.linalg.norm(there)
    return np.degrees(np.arccos(np.clip(cos, -1, 1)))


@pytest.mark.parametrize("options", OPTIONS)
def test_the_angles_of_a_match_are_those_between_its_vectors(blocks, some, options):
    """Without weights, squares and means over layers; in an ensemble each layer has its own match."""
    spade = blocks.with_options(**options)
    result = spade.predict(some.test[1])
    ensemble = options.get("combine") == "ensemble"
    for row, col in [(5, 60), (33, 17)]:
        at, match = (row // 16, col // 16), result.match(row, col)
        assert list(match.angles) == ["layer1", "layer2", "layer3"]
        for level, (layer, angle) in enumerate(match.angles.items()):
            found = result.match_alone[layer] if ensemble else result.correspondence
            image, there = found.image[0][at], (found.row[0][at], found.col[0][at])
            normal = spade.gallery.pyramid(int(result.neighbours.index[image])).levels[level][0, :, there[0], there[1]]
            assert angle == pytest.approx(
                angle_between(result.query.levels[level][0, :, at[0], at[1]], normal), abs=0.1
            )


def test_a_single_layer_has_the_chord_of_its_angle_as_distance(some):
    spade = SPADE(make_backbone(layers=["blocks.4"])).fit(some.train)
    for squared in (False, True):
        match = spade.with_options(squared=squared).predict(some.test[1]).match(20, 40)
        chord = 2 * np.sin(np.radians(match.angles["layer1"]) / 2)
        assert match.distance == pytest.approx(chord**2 if squared else chord, rel=1e-4)


def test_squared_distances_add_up_over_layers_and_an_ensemble_takes_their_mean(blocks, some):
    cos = {}
    for combine in ("concat", "ensemble"):
        match = blocks.with_options(squared=True, combine=combine).predict(some.test[1]).match(20, 40)
        cos[combine] = np.cos(np.radians(list(match.angles.values())))
        whole = (2 - 2 * cos[combine]).sum()
        assert match.distance == pytest.approx(whole if combine == "concat" else whole / 3, rel=1e-4)
    assert (cos["ensemble"] >= cos["concat"] - 1e-5).all()  # each layer finds what is nearest to it


@given(arrays(np.float64, (2, 3, 6), elements=st.floats(-9, 9)), arrays(np.float64, 3, elements=st.floats(1e-3, 1e3)))
def test_angles_follow_from_squared_distances_and_weights(vectors, weights):
    vectors[..., 0] += 20  # none is 0
    here, there = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    squared = weights * ((here - there) ** 2).sum(-1)
    expected = [angle_between(*pair) for pair in zip(here, there)]
    np.testing.assert_allclose(find_angles(squared, weights), expected, atol=1e-4)
    unknown = find_angles(np.stack([squared, squared], 1), np.where([True, False, True], weights, 0))
    assert np.isnan(unknown).tolist() == [[False] * 2, [True] * 2, [False] * 2]


def test_opposite_vectors_are_at_180_degrees_despite_rounding():
    assert find_angles(np.array([4.0001, 0, 2]), np.ones(3)) == pytest.approx([180, 0, 90])


def test_a_muted_layer_and_vectors_of_other_lengths_have_no_angle(blocks, some, result):
    muted = blocks.with_options(weights={"blocks.2": 0}).predict(some.test[1])
    assert list(muted.match(3, 3).angles) == ["layer1", "layer3"]
    assert result.match(3, 3).angles == {}


@pytest.mark.parametrize("options", [*OPTIONS, {"weights": {"blocks.2": 0}}])
def test_the_page_gets_the_same_angles(blocks, some, options):
    result = blocks.with_options(**options).predict(some.test[1])
    pack = pack_matches(result)
    last = np.frombuffer(pack["count"], "<u2").cumsum() - 1  # the breakpoint of all neighbours
    angles = np.frombuffer(pack["angles"], "<u2").reshape(3, -1)[:, last].reshape(3, 4, 4)
    alone = pack_alone(result, np.ones(3))
    for row, col in [(1, 3), (2, 0)]:
        match = result.match(16 * row, 16 * col)
        for level, layer in enumerate(result.query.layers):
            sent = angles[level, row, col]
            assert (
                sent / 100 == pytest.approx(match.angles[layer], abs=0.03) if layer in match.angles else sent == 65535
            )
            found, own = result.match_alone[layer], np.frombuffer(alone[layer]["angles"], "<u2").reshape(4, 4)
            assert own[row, col] / 100 == pytest.approx(
                find_angles(found.layer_distance, np.ones(1))[0, row, col], abs=0.01
            )


def test_a_page_of_other_vectors_gets_no_angles(result):
    assert pack_matches(result)["angles"] is None
    assert {one["angles"] for one in pack_alone(result, np.ones(3)).values()} == {None}


# ---- names -----------------------------------------------------------------------------------------------------------


def test_layers_of_a_transformer_are_labelled_by_their_blocks(blocks, spade):
    assert blocks.backbone.labels == {"layer1": "blocks.1", "layer2": "blocks.2", "layer3": "blocks.4"}
    assert spade.backbone.labels == {name: name for name in ("layer1", "layer2", "layer3")}
    assert blocks.with_options(weights={"blocks.2": 0.5}).weights == {"layer2": 0.5}
    assert "weights blocks.2 x 0.5" in repr(blocks.with_options(weights={"layer2": 0.5}))
    with pytest.raises(ValueError, match=r"A layer must be one of 'blocks\.1', .*; got 'blocks\.3'\. Did you mean"):
        blocks.with_options(weights={"blocks.3": 1})


def test_the_explorer_tells_blocks_and_angles(blocks, some):
    explorer = explore(blocks, some)
    explorer.probe = (20, 40)
    explorer.weights = {"blocks.2": 0.5}
    row, match = explorer.readout().loc["probe"], explorer.result.match(20, 40)
    for block, layer in zip(BLOCKS, match.layers):
        assert row[block] == pytest.approx(match.layers[layer], abs=1e-3)
        assert row[f"angle at {block}"] == pytest.approx(match.angles[layer], abs=0.1)
    assert explorer.weights == {"layer2": 0.5}
    assert "weights blocks.2 x 0.5" in repr(explorer)
    assert (explorer.about["labels"], explorer.about["unit"]) == (list(BLOCKS), True)


def test_views_are_named_by_blocks(blocks, some):
    comparison = compare_layers(
        blocks, some, ["blocks.4", "layer1", ("blocks.1", "blocks.4"), {"weights": {"blocks.2": 3}}]
    )
    assert list(comparison.maps) == ["blocks.4", "blocks.1", "blocks.1 + blocks.4", "all layers, weights blocks.2 x 3"]
    comparison.views = [{"layers": ["blocks.1", "blocks.2"], "weights": {"blocks.2": 3}, "name": "two"}, None]
    expected = blocks.with_options(weights={"layer2": 3, "layer3": 0}).predict(some.test[0]).anomaly_map
    np.testing.assert_allclose(comparison.maps["two"], expected, rtol=1e-5)


def test_of_more_than_seven_blocks_seven_are_compared(many, some):
    names = list(compare_layers(many, some).maps)
    assert names == [*(f"blocks.{number}" for number in (0, 2, 4, 6, 7, 9, 11)), "all layers"]


def test_a_sweep_over_blocks_draws_and_equals_a_network_with_that_block(blocks, some):
    frame = sweep(
        some, {"backbone": [blocks.backbone], "layers": [*((block,) for block in BLOCKS), None]}, metrics=["aupro"]
    )
    panel = draw_sweep(frame).axes[0]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == [*BLOCKS, "all"]
    alone = evaluate(SPADE(make_backbone(layers=["blocks.2"])).fit(some.train), some)
    assert frame["aupro"][1] == pytest.approx(alone.metric("aupro"), abs=1e-6)


def test_backbones_of_one_name_are_drawn_apart(some):
    """They differ in their blocks only."""
    backbones = [make_backbone(layers=layers) for layers in (BLOCKS, BLOCKS[1:])]
    panel = draw_sweep(sweep(some, {"backbone": backbones}, metrics=["image_roc_auc"])).axes[0]
    ticks = [tick.get_text().split() for tick in panel.get_xticklabels()]
    assert [tick[-3:] for tick in ticks] == [["blocks.2", "+", "blocks.4"]] * 2
    assert ("blocks.1" in ticks[0], "blocks.1" in ticks[1]) == (True, False)


def test_reports_and_figures_name_blocks(blocks, many, some):
    report = evaluate(blocks, some)
    assert [name for name in report.to_frame() if name.startswith("share_")] == [f"share_{block}" for block in BLOCKS]
    result = blocks.predict(some.test[1])
    bars = draw_match(result, 20, 40).axes[-1]
    match = result.match(20, 40)
    assert [tick.get_text() for tick in bars.get_yticklabels()] == list(BLOCKS)
    assert [text.get_text() for text in bars.texts] == [
        f" {part:.2f} ({match.angles[layer]:.0f}°)" for layer, part in match.layers.items()
    ]
    titles = [panel.get_title().replace("\n", " ") for panel in draw_layers(many.predict(some.test[1])).axes]
    numbers = [*range(6), *range(6, 12)]
    assert [title for title in titles if "share" in title] == [f"blocks.{at}: share of the map" for at in numbers]
    assert [title for title in titles if "alone" in title] == [f"blocks.{at} alone" for at in numbers]


def test_titles_of_narrow_panels_do_not_touch(many, some):
    figure = draw_layers(many.predict(some.test[1]))
    figure.draw_without_rendering()
    boxes = [panel.title.get_window_extent() for panel in figure.axes if panel.get_title()]
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])


def test_a_folder_of_results_knows_the_blocks(blocks, some, tmp_path):
    """Other blocks of the same network give other results."""
    few = [Sample(sample.path, sample.label) for sample in some.test[:2]]
    evaluate(blocks, few, folder=tmp_path)
    other = SPADE(make_backbone(layers=BLOCKS[1:])).fit(some.train)
    with pytest.raises(ValueError, match=r"layers was 'blocks\.1, blocks\.2, blocks\.4' and is now 'blocks\.2, blocks"):
        evaluate(other, few, folder=tmp_path)


# ---- pages -----------------------------------------------------------------------------------------------------------


def test_a_page_tells_each_block_by_name_sign_and_angle(browser, many, some, tmp_path):
    """Up to six signs are distinct; twelve tiles have four columns."""
    explorer = explore(many, some)
    explorer.probe, explorer.alone = (20, 40), True
    explorer.save_html(tmp_path / "page.html")
    match = explorer.result.match(20, 40)
    with browsing.open_offline(browser, tmp_path / "page.html") as page:
        page.locator(".spade-kit[data-shown]").wait_for()
        rows = dict(row.inner_text().split("\t") for row in page.locator(".sk-readout tbody tr").all())
        for number, (layer, angle) in enumerate(match.angles.items()):
            assert rows[f"blocks.{number}"].startswith(f"{match.layers[layer]:.3f} · ")
            assert float(rows[f"blocks.{number}"].split(" · ")[-1].rstrip("°")) == pytest.approx(angle, abs=0.6)
            alone = explorer.result.match_alone[layer]
            expected = find_angles(alone.layer_distance, np.ones(1))[0, 1, 2]
            assert float(rows[f"blocks.{number} alone"].split(" · ")[1].rstrip("°")) == pytest.approx(expected, abs=0.6)
        captions = [caption.inner_text() for caption in page.locator(".sk-layers figcaption").all()]
        assert [caption.split(" ")[0] for caption in captions] == [f"blocks.{number}" for number in range(12)]
        assert len({caption.splitlines()[-1][0] for caption in captions[:6]}) == 6
        boxes = [tile.bounding_box() for tile in page.locator(".sk-layers .sk-stage").all()]
        assert len({round(box["x"]) for box in boxes}) == 4
        assert len({round(box["y"]) for box in boxes}) == 3  # pictures of a row are aligned


@pytest.mark.parametrize("count", [4, 6])
def test_the_blocks_of_a_vision_transformer_fit_into_1000_px(browser, some, tmp_path, count):
    layers = [f"blocks.{number}" for number in range(12 - count, 12)]
    name = "vit_small_patch14_dinov2.lvd142m"
    backbone = load_backbone(name, layers=layers, pretrained=False, unit=True, resize=84, crop=70)
    explorer = explore(SPADE(backbone, k=3).fit(some.train), some)
    explorer.alone = True
    explorer.save_html(tmp_path / "page.html")
    with browsing.open_offline(browser, tmp_path / "page.html", viewport={"width": 1000, "height": 900}) as page:
        page.locator(".spade-kit[data-shown]").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 1000
        boxes = [tile.bounding_box() for tile in page.locator(".sk-layers .sk-stage").all()]
        assert len(boxes) == count
        assert min(box["width"] for box in boxes) >= 100
        assert len({round(box["y"]) for box in boxes}) <= 2
        wide = "all => all.filter(node => node.scrollWidth > node.clientWidth).map(node => node.textContent)"
        parts = page.locator(".sk-layers :is(figcaption, .sk-title, button, .sk-slider), .sk-why :is(td, th)")
        assert parts.evaluate_all(wide) == []
