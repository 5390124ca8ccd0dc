"""The method in one picture without a browser: arrays, thresholds, options, the figure and errors."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image
from scipy.spatial.distance import cdist

from spade_kit import SPADE, extract_features, load_backbone, match_pixels, show_stages
from spade_kit.figures.stages import paint_pyramid
from spade_kit.figures.style import as_png


@pytest.fixture(scope="module")
def thread(demo):
    return next(sample for sample in demo.test if sample.label == "thread")


@pytest.fixture
def stages(spade, thread):
    widget = show_stages(spade, thread)
    yield widget
    widget.close()


# ---- what the page gets ----------------------------------------------------------------------------------------------


def test_a_level_is_painted_by_its_first_three_principal_components(result):
    *levels, pooled = paint_pyramid(result.query)
    assert [level.shape for level in levels] == [(56, 56, 4), (28, 28, 4), (14, 14, 4)]
    for level, picture in zip(result.query.levels, levels):
        cells = level[0].flatten(1).T.double().numpy()
        centred = cells - cells.mean(0)
        parts = centred @ np.linalg.svd(centred, full_matrices=False)[2][:3].T  # each with one of two signs
        colours = (0.5 + parts / parts.std(0) / 5).clip(0, 1) * 255
        shown = picture[..., :3].reshape(-1, 3).astype(float)
        turned = np.where(((shown - 127.5) * (colours - 127.5)).sum(0) < 0, 255 - colours, colours)
        np.testing.assert_allclose(shown, turned, atol=1)
        assert (picture[..., 3] == 255).all()
    assert pooled.shape == (1, 320, 4)
    vector = result.query.pooled[0].numpy()
    light = pooled[0, :, :3].astype(float) @ [0.2126, 0.7152, 0.0722]  # of cividis it grows with the value
    assert light.argmax() == vector.argmax()
    assert light.argmin() == vector.argmin()


def test_cells_that_are_all_alike_are_grey(result):
    flat = replace(result.query, levels=[level * 0 + 1 for level in result.query.levels])
    assert all((level[..., :3] == 128).all() for level in paint_pyramid(flat)[:-1])


def test_all_normal_images_are_ranked_by_the_distance_of_their_pooled_vectors(stages, spade, thread):
    query = spade.predict(thread).query.pooled.double().numpy()
    distances = cdist(query, spade.gallery.pooled.double().numpy())[0]
    images, shown = zip(*stages.ranking["nearest"])
    assert list(images) == distances.argsort().tolist()
    np.testing.assert_allclose(shown, np.sort(distances), rtol=1e-5)
    assert stages.ranking["of"] == 12


def test_what_is_shown_is_the_result_of_spade_under_its_k_and_sigma(stages, spade, thread):
    expected = spade.predict(thread)
    np.testing.assert_allclose(stages.result.anomaly_map, expected.anomaly_map, rtol=1e-5)
    assert (stages.k, stages.sigma) == (5, 4)
    assert stages.probe == np.unravel_index(expected.anomaly_map.argmax(), (224, 224))
    stages.k, stages.sigma = 12, 1
    expected = spade.with_options(k=12, sigma=1).predict(thread)
    np.testing.assert_allclose(stages.result.anomaly_map, expected.anomaly_map, rtol=1e-5)
    assert stages.result.retrieval_score == pytest.approx(expected.retrieval_score)
    assert "K=12" in repr(stages)
    assert f"image score {expected.image_score:.2f}" in repr(stages)


def test_the_first_threshold_is_one_that_few_normal_images_reach(stages, spade, demo, left_out):
    highest = max(result.image_score for result in left_out)  # of 12, one in 13 is the least rate
    assert stages.threshold == pytest.approx(highest)
    np.testing.assert_allclose(stages.normals["scores"], sorted(result.image_score for result in left_out), rtol=1e-6)
    more = SPADE(spade.backbone, k=2).fit(demo.train[:39])
    ranked = sorted(more.predict_left_out(at).image_score for at in range(39))
    assert show_stages(more, demo.test[0]).threshold == pytest.approx(ranked[-2])  # 38 of 40: 5 % are above


def test_the_excess_and_other_scores_are_left_out_of_the_picture(spade, thread):
    stages = show_stages(spade.with_options(judged="excess", score="top"), thread)
    expected = spade.predict(thread)
    np.testing.assert_allclose(stages.result.judged_map, expected.anomaly_map, rtol=1e-5)
    assert stages.result.image_score == pytest.approx(expected.anomaly_map.max())
    assert stages.threshold == pytest.approx(show_stages(spade, thread).threshold)


def test_the_normal_image_that_explains_the_probe_is_sent_in_full(stages):
    sizes = {
        number: Image.open(BytesIO(jpeg)).size
        for number, jpeg in zip(stages.neighbours["images"], stages.neighbours["jpegs"])
    }
    assert sizes[stages.result.match(*stages.probe).image] == (224, 224)
    assert set(sizes.values()) == {(224, 224), (80, 80)}


# ---- other images and options ----------------------------------------------------------------------------------------


def test_another_image_brings_its_own_arrays(spade, demo):
    stages = show_stages(spade, demo)
    before = stages.pyramid, stages.ranking, stages.matches, stages.photo
    stages.index = 3
    assert all(new != old for new, old in zip((stages.pyramid, stages.ranking, stages.matches, stages.photo), before))
    expected = spade.predict(demo.test[3]).anomaly_map
    assert stages.probe == np.unravel_index(expected.argmax(), expected.shape)
    assert [stages.photo["index"], stages.matches["index"]] == [3, 3]


def test_a_fitted_image_is_compared_with_the_others(spade, demo, left_out):
    stages = show_stages(spade, replace(demo, test=[]))
    stages.index = 7
    np.testing.assert_allclose(stages.result.anomaly_map, left_out[7].anomaly_map, rtol=1e-5)
    assert stages.ranking["of"] == 11
    assert 7 not in dict(stages.ranking["nearest"])


def test_the_frame_is_that_of_the_crop_in_the_image(spade, demo, stages):
    assert list(stages.photo["box"]) == list(stages.result.box)
    assert list(stages.photo["photo"]) == [320, 320]
    arrays = SPADE(spade.backbone, k=2).fit([sample.image for sample in demo.train[:3]])
    kept = show_stages(arrays, replace(demo, test=[]))  # of an array only the crop is kept
    assert [list(kept.photo["photo"]), list(kept.photo["box"])] == [[224, 224], [0, 0, 224, 224]]


def test_what_the_page_cannot_follow_is_searched_again(spade, thread):
    many = show_stages(spade.with_options(kappa=5), thread)
    assert many.matches["k_range"] == [5, 5]
    many.k = 3
    assert many.matches["k_range"] == [3, 3]
    expected = spade.with_options(kappa=5, k=3).predict(thread).correspondence.distance
    np.testing.assert_allclose(np.frombuffer(many.matches["distance"], np.float32), expected.ravel(), rtol=1e-5)
    assert many.about["matching"] == ", kappa=5"


@pytest.mark.parametrize("options", [
    {}, {"kappa": 2, "radius": 6}, {"weights": "equal"}, {"weights": {"layer1": 2}, "squared": True},
    {"combine": "ensemble", "weights": "equal"},
])  # fmt: skip
def test_the_call_that_matches_pixels_has_the_options_of_the_fit(spade, demo, thread, options):
    other = spade.with_options(**options)
    stages, result = show_stages(other, thread), other.predict(thread)
    gallery = extract_features(demo.train[:12]).select(result.neighbours.index)
    names = {"match_pixels": match_pixels, "query": result.query, "gallery": gallery}
    found = eval(f"match_pixels(query, gallery{stages.about['matching']})", names)
    np.testing.assert_allclose(found.distance, result.correspondence.distance, rtol=1e-4)
    assert (stages.about["matching"] == "") == (options == {})


def test_one_normal_image_gives_no_threshold(spade, demo, thread):
    stages = show_stages(SPADE(spade.backbone, k=1).fit(demo.train[:1]), thread)
    assert stages.normals["scores"] == []
    assert stages.threshold == pytest.approx(stages.result.anomaly_map.max())
    stages.draw()


def test_networks_of_other_levels_have_stages_too(tiny, demo):
    network = tiny.module.get_submodule("network")
    one = load_backbone(network, layers=("late",), pooled="late", resize=72, crop=64)
    for backbone in (tiny, one):
        stages = show_stages(SPADE(backbone, k=2).fit(demo.train[:4]), demo.test[0])
        assert [name for name, _, _ in stages.pyramid] == [*backbone.layers, "pooled"]
        stages.draw()


def test_a_copy_is_in_the_same_state_and_independent(stages):
    stages.stage, stages.k, stages.sigma, stages.threshold, stages.probe = "map", 3, 2, 40.0, (10, 20)
    copy = stages.copy()
    assert [getattr(copy, name) for name in stages.MOVABLE] == [getattr(stages, name) for name in stages.MOVABLE]
    copy.k, copy.stage = 2, None
    assert (stages.k, stages.stage) == (3, "map")


# ---- figure, page and errors -----------------------------------------------------------------------------------------


def test_the_figure_shows_the_six_stages_in_numbers(stages, spade, thread):
    stages.k, stages.probe = 3, (60, 70)
    result = spade.with_options(k=3).predict(thread)
    match, panels = result.match(60, 70), stages.draw().axes
    titles = [panel.get_title().replace("\n", " ") for panel in panels]
    assert titles == [
        "1 image: the crop, 224 x 224 px",
        "2 pyramid: 24x56x56, 40x28x28, 112x14x14",
        "3 retrieval: the 3 nearest of 12",
        f"4 correspondence: normal {match.image}, distance {match.distance:.2f}",
        f"5 map: sigma 4, maximum {result.image_score:.2f}",
        f"6 segmentation at {stages.threshold:.2f}: anomalous",
    ]
    bars = [patch for patch in panels[2].patches if isinstance(patch, Rectangle)]
    np.testing.assert_allclose(
        [bar.get_height() for bar in bars], [distance for _, distance in stages.ranking["nearest"]]
    )
    assert [bar.get_facecolor()[3] for bar in bars] == [1] * 3 + [0] * 9
    assert (panels[2].get_xlabel(), panels[2].get_ylabel()) == (
        "normal images, nearest first",
        "distance of pooled vectors",
    )
    np.testing.assert_array_equal(panels[3].lines[0].get_xydata(), [(70, 60), (match.col + 232, match.row)])
    np.testing.assert_allclose(panels[4].images[0].get_array(), result.correspondence.distance, rtol=1e-5)
    np.testing.assert_array_equal(panels[5].images[1].get_array(), result.segmentation(stages.threshold))
    stages.threshold = 1e4
    assert stages.draw().axes[5].get_title().endswith("normal")


def test_the_preview_is_the_figure_in_few_bytes(stages):
    data, _ = stages._repr_mimebundle_()
    preview = data["image/png"]
    figure = as_png(stages.draw())
    few, all_ = (np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int) for png in (preview, figure))
    assert abs(few - all_).mean() < 3
    vivid = np.ptp(all_, axis=-1) > 120
    assert vivid.sum() > 1000
    assert abs(few - all_)[vivid].mean() < 5
    assert len(preview) < 120_000 < len(figure)
    assert data["text/plain"] == repr(stages)


@pytest.mark.slow
def test_a_saved_page_of_fifty_neighbours_takes_less_than_600_kb(demo, tmp_path):
    far = demo.test[-1]  # its nearest pixels change often with K
    show_stages(SPADE().fit(demo.train), far).save_html(tmp_path / "stages.html")
    assert 300_000 < (tmp_path / "stages.html").stat().st_size < 600_000


@pytest.mark.parametrize(("name", "value", "said"), [
    ("stage", "maps", "stage must be one of .*Did you mean 'map'"),
    ("k", 0, "k must be a whole number"),
    ("sigma", -1, "sigma must be a number of map pixels"),
    ("threshold", float("nan"), "threshold must be a finite raw distance"),
    ("probe", (0, 224), r"A map position must have 0 <= row < 224 and 0 <= col < 224; got \(0, 224\)"),
    ("index", 1, "index must"),
])  # fmt: skip
def test_wrong_values_change_nothing(stages, name, value, said):
    before = getattr(stages, name)
    with pytest.raises(ValueError, match=said):
        setattr(stages, name, value)
    assert getattr(stages, name) == before


def test_it_needs_a_fitted_spade(thread):
    with pytest.raises(ValueError, match="A widget needs a fitted SPADE; got a value of type str"):
        show_stages("spade", thread)


def test_the_page_may_ask_for_normal_images(stages, spade, monkeypatch):
    sent = []
    monkeypatch.setattr(stages, "send", lambda message, buffers=(): sent.append((message, buffers)))
    stages._on_message(None, {"kind": "normals", "images": [3, 7]}, [])
    assert not stages.problem
    ((message, buffers),) = sent
    assert message == {"kind": "normals", "images": [3, 7]}
    assert list(buffers) == [spade.gallery.normals[at].jpeg for at in (3, 7)]
