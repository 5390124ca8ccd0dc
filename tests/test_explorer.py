"""The explorer without a browser: results, page data and errors."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from threading import Barrier, BrokenBarrierError, Thread

import numpy as np
import pytest
from PIL import Image

import spade_kit
from spade_kit import SPADE, choose_threshold, compare_layers, explore, map_images, paint_defect, review_suspects
from spade_kit.scores import share_out
from spade_kit.widgets._shared.export import STATIC, join_modules


@pytest.fixture
def explorer(spade, demo):
    explorer = explore(spade, demo)
    yield explorer
    explorer.close()


# ---- the current view ------------------------------------------------------------------------------------------------


def test_any_settings_give_the_result_of_predict(explorer, spade, demo):
    explorer.index, explorer.k, explorer.kappa, explorer.radius, explorer.sigma = 26, 4, 2, 5, 1.5
    explorer.weights = {"layer2": 0.5}
    expected = spade.with_options(k=4, kappa=2, radius=5, sigma=1.5, weights={"layer2": 0.5}).predict(demo.test[26])
    np.testing.assert_array_equal(explorer.result.anomaly_map, expected.anomaly_map)
    assert explorer.matches["index"] == 26
    assert repr(explorer).startswith("Explorer(scratch/002; K=4, kappa=2, radius 5, concat, weights layer2 x 0.5")


def test_the_probe_starts_where_the_map_is_highest(explorer):
    assert explorer.result.anomaly_map[explorer.probe] == explorer.result.image_score
    explorer.index = 5
    assert explorer.result.anomaly_map[explorer.probe] == explorer.result.image_score
    explorer.probe = (10, 20)
    assert explorer.pinned
    explorer.index = 6
    assert explorer.probe == (10, 20)


def test_the_readout_is_the_match_at_the_probe(explorer):
    explorer.probe = (100, 61)
    match, said = explorer.result.match(100, 61), explorer.readout().loc["probe"]
    assert said[["row", "col", "normal", "neighbour"]].tolist() == [100, 61, match.image, match.neighbour + 1]
    assert said[["normal row", "normal col"]].tolist() == [match.row, match.col]
    assert said["distance"] == round(match.distance, 3)
    assert said["map"] == round(float(explorer.result.anomaly_map[100, 61]), 3)
    assert said[["layer1", "layer2", "layer3"]].tolist() == [round(part, 3) for part in match.layers.values()]


def test_the_readout_of_two_images_is_the_match_of_each(spade, demo):
    explorer = explore(spade, demo.test[:2])
    explorer.probe, explorer.beside = (100, 60), 1
    distances = [round(spade.predict(sample).match(100, 60).distance, 3) for sample in demo.test[:2]]
    assert explorer.readout()["distance"].to_dict() == dict(zip(("probe", "beside"), distances))
    assert explorer.other["photo"]["index"] == explorer.other["matches"]["index"] == 1
    explorer.kappa = 2
    assert explorer.other["matches"]["options"]["kappa"] == 2
    assert explorer.copy().other["photo"]["index"] == 1
    explorer.beside = None
    assert explorer.other == {}
    assert len(explorer.readout()) == 1


def test_changes_can_be_observed(explorer):
    seen = []
    explorer.observe(lambda change: seen.append((change["name"], change["new"])), ["k", "threshold"])
    explorer.k = 2
    explorer.threshold = 30.0
    assert ("k", 2) in seen
    assert seen[-1] == ("threshold", 30.0)
    assert explorer.threshold_rule == "hand"


@pytest.mark.parametrize("judged", ["map", "excess"])
@pytest.mark.parametrize("fitted", [True, False])
def test_the_python_code_reproduces_a_view_with_a_roi(spade, demo, judged, fitted):
    explorer = explore(spade.with_options(judged=judged, score="excess"), None if fitted else demo)
    explorer.roi = [(60, 60.4), (60, 250), (250, 200)]
    assert explorer.roi == [(60, 60), (60, 250), (250, 200)]
    names = {"spade": spade.with_options(judged=judged, score="excess"), "parts": demo, "dataset": demo}
    exec(explorer.code(), names)
    result = names["result"]
    np.testing.assert_array_equal(result.judged_map, explorer.result.judged_map)
    assert result.image_score == explorer.result.image_score
    assert 0 < result.roi.mean() < 0.5
    explorer.roi = None
    assert explorer.result.roi is None
    assert "roi" not in explorer.code()


def test_the_python_code_reproduces_the_view(explorer, spade, demo):
    explorer.index, explorer.k, explorer.sigma = 9, 3, 2
    explorer.without = [int(explorer.result.neighbours.index[0])]
    names = {"spade": spade, "dataset": demo, "spade_kit": spade_kit}
    exec(explorer.code(), names)
    np.testing.assert_array_equal(names["result"].anomaly_map, explorer.result.anomaly_map)
    explorer.only = 4
    exec(explorer.code(), names)
    np.testing.assert_array_equal(names["result"].anomaly_map, explorer.result.anomaly_map)
    explorer.index = 10
    assert explorer.only is None


@pytest.mark.parametrize(
    ("photos", "line"),
    [
        ("dataset", "# dataset as in spade_kit.explore(spade, dataset)"),
        ("photos", "# photos as in spade_kit.explore(spade, photos)"),
        (None, "result = spade.predict_left_out(0)"),
    ],
)
def test_the_python_code_explains_its_names(spade, demo, tmp_path, photos, line):
    explorer = explore(spade, {"dataset": demo, "photos": demo.test[:2]}.get(photos))
    assert explorer.code().splitlines()[:3] == ["import spade_kit", "# spade as in spade_kit.explore(spade, ...)", line]
    Image.fromarray(demo.test[0].image).save(tmp_path / "mine.png")
    explorer.show(tmp_path / "mine.png")
    names = {"spade": spade}
    exec(explorer.code(), names)
    np.testing.assert_array_equal(names["result"].anomaly_map, explorer.result.anomaly_map)


def preview_of(explorer):
    """The picture of a notebook where no widget runs."""
    return np.asarray(Image.open(BytesIO(explorer._repr_mimebundle_()[0]["image/png"])))


def test_the_python_code_and_the_figure_show_two_images(spade, demo):
    tall = demo.test[9].image[:, 20:300]
    explorer = explore(spade.with_options(sigma=2), [demo.test[2], demo.test[26], tall])
    explorer.index, explorer.without, explorer.probe = 0, [3], (100, 61)
    for beside in (1, 2):
        explorer.beside = beside
        names = {"spade": explorer.spade, "photos": explorer.images.given_ones, "spade_kit": spade_kit}
        exec(explorer.code(), names)
        expected = explorer.readout()
        for name, index, at in (("result", 0, "probe"), ("beside", beside, "beside")):
            plain = spade.with_options(sigma=2).predict(explorer.images.photo(index)[0])
            among = [image for image in plain.among if image != 3]
            np.testing.assert_array_equal(names[name].anomaly_map, plain.with_normals(among).anomaly_map)
            row, col = expected.loc[at, ["row", "col"]].astype(int)
            assert f"draw_explanation({name}, {row}, {col}, threshold=" in explorer.code()
        assert explorer._title_and_stem()[0].endswith(f" beside {explorer.images.name(beside)}")  # of the PNG
        parts = explorer.draw().subfigs
        shown = [parts[at].axes[0].images[0].get_array() for at in (0, 2)]
        for pixels, name in zip(shown, ("result", "beside")):
            np.testing.assert_array_equal(pixels, names[name].image)
        ringed = [parts[at].axes[0].lines[0].get_xydata().tolist() for at in (1, 3)]
        assert ringed == [[[col, row]] for row, col in expected[["row", "col"]].to_numpy()]
        both = preview_of(explorer)
        explorer.beside = None
        alone = preview_of(explorer)
        np.testing.assert_array_equal(both[: len(alone), : alone.shape[1]], alone)
        assert len(both) > 2 * len(alone)
        assert both[len(alone) + 20 :].std() > 20
    explorer.beside = None
    assert "beside" not in explorer.code()
    assert len(explorer.draw().subfigs) == 2


def test_a_figure_names_the_normal_images_it_was_compared_with(explorer):
    small_print = lambda: explorer.draw().subfigs[1].get_supxlabel()  # noqa: E731
    assert "; K=5, " in small_print()
    explorer.only = 4
    assert "; compared with normal image 4 only; K=1, " in small_print()
    assert explorer.draw().subfigs[0].axes[2].get_title() == "no threshold: one normal image"
    explorer.only, explorer.without = None, (2, 4)
    assert "; judged against 10 of 12 normal images; K=5, " in small_print()


# ---- image lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["nothing", "a dataset of normals alone"])
def test_normals_alone_are_each_judged_against_the_others(spade, demo, given):
    explorer = explore(spade, None if given == "nothing" else replace(demo, test=[]))
    assert len(explorer.photos) == len(spade) == 12
    explorer.index = 3
    np.testing.assert_array_equal(explorer.result.anomaly_map, spade.predict_left_out(3).anomaly_map)
    names = {"spade": spade, "spade_kit": spade_kit}
    exec(explorer.code(), names)
    np.testing.assert_array_equal(names["result"].anomaly_map, explorer.result.anomaly_map)
    assert explorer.photos[3] == ["good/003", "good"]


def test_a_photo_that_was_fitted_is_judged_against_the_others(spade, demo):
    explorer = explore(spade, [demo.train[2].path, demo.test[0].path])
    np.testing.assert_array_equal(explorer.result.anomaly_map, spade.predict_left_out(2).anomaly_map)
    assert explorer.photo["normal"] is not None
    explorer.index = 1
    assert explorer.photo["normal"] is None


def test_a_custom_photo_is_appended_to_the_list(explorer, spade, demo):
    photo = demo.test[30].image
    explorer.show(photo)
    assert explorer.index == 48
    assert explorer.photos[48] == ["photo 48", None]
    np.testing.assert_allclose(explorer.result.anomaly_map, spade.predict(photo).anomaly_map, rtol=1e-5)


def test_an_unreadable_photo_is_named_and_the_others_go_on(spade, demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    explorer = explore(spade, [demo.test[0].path, tmp_path / "broken.png", demo.test[20].path])
    with pytest.raises(ValueError, match=r"Cannot read .*broken\.png as an image"):
        explorer.index = 1
    assert explorer.index == 0
    explorer.finish()
    scores = [spade.predict(demo.test[index]).image_score for index in (0, 20)]
    assert [score for score, _ in explorer.scores] == [pytest.approx(scores[0]), None, pytest.approx(scores[1])]
    assert all(fresh for _, fresh in explorer.scores)


def test_a_broken_photo_at_the_beginning_is_named_and_the_next_one_is_shown(spade, demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.warns(
        UserWarning, match=r"Images skipped because they cannot be judged: 1\. First error: .*broken\.png"
    ):
        explorer = explore(spade, [tmp_path / "broken.png", demo.test[0].path])
    assert explorer.index == 1
    with pytest.raises(ValueError, match=r"Cannot read .*broken\.png as an image"):
        explore(spade, [tmp_path / "broken.png"])


def test_one_normal_photo_is_enough_to_look(demo):
    explorer = explore(SPADE(k=1).fit(demo.train[:1]), demo)
    assert explorer.normals == {}
    assert explorer.threshold_rule == "hand"
    assert explorer.threshold == pytest.approx(explorer.result.image_score / 2)


# ---- reference level and thresholds ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_normal_statistics_are_stale_until_they_are_recomputed(explorer, spade):
    explorer.finish()
    assert not explorer.normals["stale"]
    assert explorer.normals["level"] == spade.normal_level
    assert explorer.threshold == spade.threshold(0.01)
    explorer.k = 8  # not computed for this SPADE before
    assert explorer.normals["stale"]
    explorer.finish()
    assert not explorer.normals["stale"]
    assert explorer.normals["level"] == spade.with_options(k=8).normal_level
    scores = [spade.with_options(k=8).predict_left_out(index).image_score for index in range(12)]
    np.testing.assert_allclose(explorer.normals["scores"], sorted(scores), rtol=1e-6)


def test_a_change_of_weights_updates_the_scale_at_once(explorer):
    before = explorer.normals["level"]
    explorer.weights = "equal"
    assert explorer.normals["level"] < before / 10


def test_thresholds_are_those_of_left_out_normals(explorer, spade, left_out):
    explorer.finish()
    for rule, expected in (("pixel 0.05", spade.threshold(0.05)), ("image 0.2", spade.threshold(0.2, of="image"))):
        explorer.threshold_rule = rule
        assert explorer.threshold == pytest.approx(expected, rel=1e-6)
    assert explorer.image_threshold == max(result.image_score for result in left_out)
    explorer.image_threshold_rule = "image 0.2"
    assert explorer.image_threshold == pytest.approx(spade.threshold(0.2, of="image"), rel=1e-6)
    explorer.image_threshold = 31
    explorer.threshold_rule = "pixel 0.05"
    assert (explorer.image_threshold, explorer.image_threshold_rule) == (31, "hand")
    explorer.score = "top"  # 31 is no threshold for another score
    explorer.finish()
    highest = max(spade.with_options(score="top").predict_left_out(index).image_score for index in range(12))
    assert explorer.image_threshold == pytest.approx(highest, rel=1e-6)
    curve = explorer.normals["curve"]
    maps = np.stack([result.anomaly_map for result in left_out])
    for at, marked in list(enumerate(curve["marked"]))[::51]:
        assert marked == pytest.approx((maps >= at / 255 * curve["end"]).mean(), abs=2e-5)


def test_images_are_judged_by_the_threshold_of_predict_folder(demo, tmp_path):
    spade = SPADE(k=2).fit(demo.train[:40])  # at 5 % the second highest score, at 1 % the highest
    explorer = explore(spade, demo.test[:1])
    explorer.finish()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(demo.test[0].path.read_bytes())
    frame = spade.predict_folder(tmp_path / "in", tmp_path / "out", maps=False, report=False)
    assert explorer.image_threshold == pytest.approx(frame["threshold"][0], rel=1e-6)
    assert explorer.image_threshold < explorer.normals["scores"][-1]


def test_long_work_says_what_it_is_and_how_far(explorer):
    told = []
    explorer.observe(lambda change: told.append(change["new"]), "waiting")
    explorer.kappa, explorer.judged, explorer.alone, explorer.ratio = 2, "excess", True, True
    explorer._on_ask()
    explorer.finish()
    ended = {one[: one.index(":")] for one in told if re.search(r": ([\d,]+) of \1( |$)", one)}
    assert ended == {
        *("normal photos judged", "photos judged", "reference levels of the layers, normal photo"),
        *("where normal photos match", "ratios of distances"),
    }
    assert told[-1] == ""


def test_judged_images_are_counted_among_all(explorer, demo):
    explorer.finish()
    told = []
    explorer.observe(lambda change: told.append(change["new"]), "waiting")
    explorer.show(demo.train[20].path)  # all others are judged
    explorer.finish()
    assert [one for one in told if one.startswith("photos judged")] == [
        f"photos judged: {len(explorer.photos)} of {len(explorer.photos)}"
    ]


def test_the_page_gets_the_ratio_map_of_what_it_shows(explorer):
    explorer.ratio, explorer.k = True, 3
    assert explorer.ratios == {}  # in the background
    explorer.finish()
    expected = explorer.result.ratio_map
    assert explorer.ratios["k"] == 3
    np.testing.assert_array_equal(decode(explorer.ratios, "distance", "<f4").reshape(explorer.ratios["grid"]), expected)


def test_no_text_of_the_page_is_an_ellipsis():
    """Long work says what it is and how far."""
    names = ["explorer", "near_places", "map_page", "strip", "readout", "regions", "retrieved", "polygon", "zoom"]
    assert not [name for name in names if "…" in (STATIC / f"{name}.js").read_text()]


@pytest.mark.parametrize("alone", [False, True])
def test_each_layer_has_its_own_reference_level(explorer, left_out, alone):
    weights = {"layer2": 0.25}
    explorer.alone, explorer.weights = alone, weights
    explorer.finish()
    results = [left_out[image].with_options(weights=weights) for image in explorer.spade.calibration.few]
    for level, layer in zip(explorer.layer_levels["levels"], ("layer1", "layer2", "layer3")):
        maps = [(result.layer_alone if alone else result.layer_maps)[layer] for result in results]
        root = weights.get(layer, 1) ** 0.5 if alone else 1
        assert level == pytest.approx(root * np.percentile(np.stack(maps), 99), rel=1e-5)


def find_best_f1(spade, demo, name):
    """The threshold of the best F1 over the pixels of one kind of map of all test images."""
    results = [spade.predict(sample) for sample in demo.test]
    maps, masks = (np.stack([getattr(result, kind) for result in results]) for kind in (name, "mask"))
    return spade_kit.metrics.f1_threshold(maps.ravel(), masks.ravel())


@pytest.mark.slow
def test_best_f1_from_python_is_available_at_once(explorer, spade, demo):
    explorer.threshold_rule = "f1"
    assert explorer.threshold == pytest.approx(find_best_f1(spade, demo, "anomaly_map"), rel=1e-6)


# ---- the excess ------------------------------------------------------------------------------------------------------


@pytest.fixture
def excess(explorer):
    """An explorer of the excess; all that normal images are needed for is computed."""
    explorer.judged = explorer.score = "excess"
    explorer.finish()
    return explorer


def test_the_excess_can_be_judged_and_scored(excess, spade, demo):
    judge = spade.with_options(score="excess", judged="excess")
    result = judge.predict(demo.test[0])
    np.testing.assert_array_equal(excess.result.judged_map, result.judged_map)
    assert excess.result.image_score == result.image_score
    assert excess.normals["level"] == result.judged_level
    assert excess.threshold == judge.threshold(0.01)
    for at in (0, 30):
        assert excess.scores[at] == [pytest.approx(judge.predict(demo.test[at]).image_score, rel=1e-5), True]
    normals = sorted(judge.predict_left_out(index).image_score for index in range(12))
    np.testing.assert_allclose(excess.normals["scores"], normals, rtol=1e-5)
    excess.probe = (100, 61)
    assert excess.readout()["excess"].item() == round(float(result.excess_map[100, 61]), 3)
    names = {"spade": spade, "dataset": demo, "spade_kit": spade_kit}
    exec(excess.code(), names)
    np.testing.assert_array_equal(names["result"].judged_map, result.judged_map)


def test_the_probe_starts_where_the_excess_is_highest(excess, spade, demo):
    for index in (30, 3):
        excess.index = index
        expected = spade.predict(demo.test[index]).excess_map
        assert expected[excess.probe] == expected.max()


def test_the_pages_place_level_is_that_of_the_shown_photo(spade, demo):
    explorer = explore(spade, [demo.test[0].path, demo.train[2].path])
    assert explorer.place_level == {}  # computed in the background, even if only the map is judged
    explorer.finish()
    for index, result in enumerate((spade.predict(demo.test[0]), spade.predict_left_out(2))):
        explorer.index = index
        pack = explorer.place_level
        level = pack["low"] + (pack["high"] - pack["low"]) / 65535 * decode(pack, "values", "<u2")
        assert (pack["index"], pack["k"], pack["sigma"]) == (index, 5, 4)
        np.testing.assert_allclose(level.reshape(224, 224), result.place_level, atol=1e-3)


def test_a_fitted_excess_is_shown_without_waiting_for_the_normal_images(demo):
    spade = SPADE(k=3, score="excess", judged="excess").fit(demo.train[:7])
    explorer = explore(spade, demo)
    assert explorer.normals == {"stale": True}
    assert explorer.place_level == {}
    assert explorer.about["start"]["judged"] == explorer.judged == "excess"
    plain = explore(spade.with_options(score="max", judged="map"), demo)
    assert explorer._preview()[:4] == plain._preview()[:4] == b"\x89PNG"
    assert explorer.result.anomaly_map[explorer.probe] == explorer.result.anomaly_map.max()
    explorer.finish()
    result = spade.predict(demo.test[0])
    assert result.judged_map[explorer.probe] == result.judged_map.max()
    assert explorer.threshold == spade.threshold()
    explorer.sigma = 2  # the old statistics stay, marked as stale
    assert explorer.normals["stale"]
    assert explorer.normals["level"] == result.judged_level
    assert explorer.place_level["sigma"] == 4
    explorer.finish()
    assert explorer.normals["level"] == spade.with_options(sigma=2).predict(demo.test[0]).judged_level
    assert explorer.place_level["sigma"] == 2


def test_a_switch_between_map_and_excess_brings_its_threshold(explorer, spade):
    explorer.finish()
    thresholds = {judged: spade.with_options(judged=judged).threshold(0.01) for judged in ("map", "excess")}
    assert explorer.normals["other"]["threshold"] == thresholds["excess"]
    explorer.threshold = 20.0
    explorer.judged = "excess"
    assert (explorer.threshold_rule, explorer.threshold) == ("pixel 0.01", thresholds["excess"])
    assert not explorer.normals["stale"]
    assert explorer.normals["other"]["threshold"] == thresholds["map"]
    assert all(fresh for _, fresh in explorer.scores)  # they do not depend on the judged map
    explorer.set_state({"judged": "map"})
    assert explorer.threshold == thresholds["map"]


def test_the_rates_of_an_excess_start_below_0(excess, spade):
    curve = excess.normals["curve"]
    judge = spade.with_options(judged="excess")
    maps = np.stack([judge.predict_left_out(index).judged_map for index in range(12)])
    assert curve["start"] == maps.min() < 0
    for at in (0, 100, 255):
        threshold = curve["start"] + at / 255 * (curve["end"] - curve["start"])
        assert curve["marked"][at] == pytest.approx((maps >= threshold).mean(), abs=2e-5)


def test_a_threshold_of_scores_is_none_of_another_map(excess):
    excess.threshold_rule = "image 0.2"
    assert f"threshold={excess.threshold:.6g})" in excess.code()
    excess.judged = "map"
    assert "threshold=" not in excess.code()


def test_a_threshold_of_an_excess_may_be_below_0(excess):
    excess.threshold = -1.5
    assert excess.threshold == -1.5


@pytest.mark.slow
def test_best_f1_of_the_excess(excess, spade, demo):
    excess.threshold_rule = "f1"
    assert excess.threshold == pytest.approx(find_best_f1(spade, demo, "excess_map"), rel=1e-5)


def test_what_place_explains_is_told_once_it_is_asked_for(explorer, spade):
    explorer.finish()
    assert explorer.placed == {"asked": False, "text": ""}  # opening does not wait for it
    explorer.set_state({"sigma": 3.0})
    explorer._on_message(None, {"kind": "ask"}, [])
    assert explorer.placed == {"asked": True, "text": ""}
    explorer.finish()
    expected = spade.with_options(sigma=3).placement
    assert explorer.placed == {"asked": True, "text": str(expected)}
    assert explorer.placement == expected
    explorer.sigma = 3.5
    assert explorer.placed == {"asked": False, "text": ""}  # of other options nothing is known
    explorer.sigma = 3
    assert explorer.placed["text"] == str(expected)


def test_what_a_fit_has_asked_about_place_is_told_at_once(demo):
    fitted = SPADE.recommended(size=160).fit(demo.train[:6])
    explorer = explore(fitted, demo.test[:1])
    assert explorer.k == 6  # instead of 50
    assert explorer.placed == {"asked": False, "text": str(fitted.placement)}
    explorer.close()


def test_one_normal_photo_tells_nothing_about_place(demo):
    explorer = explore(SPADE().fit(demo.train[:1]), demo.test[:1])
    assert explorer.placement is None
    assert explorer.placed["text"] == ""
    explorer.close()


def test_with_one_normal_photo_there_is_no_excess(demo):
    explorer = explore(SPADE(k=1).fit(demo.train[:1]), demo)
    with pytest.warns(UserWarning, match="The excess needs at least two different normal images"):
        explorer.judged = "excess"
    explorer.finish()
    assert (explorer.normals, explorer.place_level) == ({}, {})
    np.testing.assert_array_equal(explorer.result.judged_map, explorer.result.anomaly_map)
    assert "excess" not in explorer.readout()


def test_a_corrected_gallery_has_its_own_excess(excess, demo):
    excess.remove(3)
    excess.finish()
    names = {"spade": excess.spade, "dataset": demo, "spade_kit": spade_kit}
    expected = names["spade"].with_options(judged="excess").predict(demo.test[0])
    np.testing.assert_array_equal(excess.result.judged_map, expected.judged_map)
    assert excess.normals["level"] == expected.judged_level


# ---- data for the page -----------------------------------------------------------------------------------------------


def decode(pack, name, kind):
    return np.frombuffer(pack[name], kind)


def test_a_page_can_follow_every_k(explorer, spade, demo):
    pack = explorer.matches
    count = decode(pack, "count", "<u2")
    ends, k = count.cumsum(), decode(pack, "k", "<u2")
    reaches = spade.with_options(k=12).predict(demo.test[0])
    parts = decode(pack, "parts", "<u2").reshape(3, -1) / 65535
    assert pack["k_range"] == [1, 12]
    for few in (1, 5, 12):
        found = reaches.with_k(few).correspondence
        last = [at[k[at] <= few][-1] for at in np.split(np.arange(len(k)), ends[:-1])]
        distance = decode(pack, "distance", "<f4")[last]
        np.testing.assert_allclose(distance, found.distance.ravel(), rtol=1e-6)
        np.testing.assert_allclose(distance * parts[:, last], share_out(found).reshape(3, -1), atol=1e-3)
        np.testing.assert_array_equal(decode(pack, "place", "<u4")[last], (found.row * 56 + found.col)[0].ravel())
        np.testing.assert_array_equal(decode(pack, "image", "<u2")[last], found.image[0].ravel())


@pytest.mark.parametrize("options", [{"kappa": 6}, {"combine": "ensemble"}], ids=str)
def test_with_too_many_breakpoints_the_page_requests_each_k(explorer, options):
    (name, value), *_ = options.items()
    setattr(explorer, name, value)
    assert explorer.matches["k_range"] == [5, 5]
    explorer.k = 3
    assert explorer.matches["k_range"] == [3, 3]


def test_the_static_preview_is_deterministic(explorer):
    data, _ = explorer._repr_mimebundle_()
    again, _ = explorer._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert (data["image/png"], data["text/plain"]) == (again["image/png"], again["text/plain"])
    picture = Image.open(BytesIO(data["image/png"]))
    assert picture.size == (916, 300)


def test_the_pages_code_is_one_module_without_imports():
    text = join_modules("saved.js") + join_modules("explorer.js")
    assert not re.findall(r"^(import .*|export (?!default).*)$", text, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names)) > 20


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("index", 48, "index must refer to one of the images, from 0 to 47; got 48."),
        ("k", 0, "k must be a whole number of at least 1"),
        ("kappa", 1.5, "kappa must be a whole number"),
        ("radius", -1, "radius must be a whole number of at least 0"),
        ("weights", {"layer9": 1}, "A layer must be one of 'layer1', 'layer2', 'layer3'; got 'layer9'."),
        ("weights", {"layer1": 0, "layer2": 0, "layer3": 0}, "At least one layer must have a weight above 0"),
        ("combine", "concatenate", "Did you mean 'concat'"),
        ("sigma", -1, "sigma must be a number of map pixels from 0"),
        ("threshold", float("nan"), "threshold must be a finite raw distance; got nan"),
        ("threshold_rule", "pixel", "as in 'pixel 0.01'; got 'pixel'"),
        ("threshold_rule", "photo 0.1", "A threshold rule must be one of"),
        ("beside", 48, "beside must"),
        ("image_threshold_rule", "pixel 0.1", "A threshold rule must be one of 'hand', 'image'"),
        ("probe", (0, 224), r"0 <= row < 224 and 0 <= col < 224; got \(0, 224\)"),
        ("without", [12], "must refer to one of the training images, from 0 to 11; got 12"),
        ("without", range(12), "without must leave at least one normal image; got all 12"),
        ("without", "layer1", "without must be a whole number of at least 0; got 'l'"),
        ("only", -1, "only must be a whole number of at least 0"),
        ("only", "layer1", "only must be a whole number of at least 0; got 'layer1'"),
        ("score", "mean", "score must be one of 'max', 'top', 'excess'; got 'mean'"),
        ("judged", "maps", "Did you mean 'map'"),
        ("roi", "all", r"roi must be the corners of a polygon, a list of \(row, col\), or None; got 'all'"),
        ("roi", [(1, 2), (3, 4)], r"of at least three corners \(row, col\)"),
        ("roi", [(0, 0), (0, 9), (9, 9)], "roi must mark some of the evaluated crop"),
        ("opacity", 2, "opacity must be a number from 0 to 1; got 2."),
    ],
)
def test_an_invalid_value_raises_an_error_and_changes_nothing(explorer, name, value, sentence):
    before, options = getattr(explorer, name), explorer.matches["options"]
    with pytest.raises(ValueError, match=sentence):
        setattr(explorer, name, value)
    assert getattr(explorer, name) == before
    assert explorer.matches["options"] == options


def test_an_error_from_the_page_is_shown_there(explorer):
    explorer.set_state({"kappa": 0, "k": 2})
    assert explorer.problem == "kappa must be a whole number from 1 to 300; got 0."
    explorer._on_message(explorer, {"kind": "distances", "row": 3, "col": 4, "image": 0}, [])  # asked on hover
    assert explorer.problem == "kappa must be a whole number from 1 to 300; got 0."
    assert (explorer.kappa, explorer.k) == (1, 5)
    explorer.set_state({"kappa": 2})
    assert (explorer.kappa, explorer.problem) == (2, "")


def test_best_f1_needs_masks(spade, demo):
    explorer = explore(spade, [sample.path for sample in demo.test[:3]])
    with pytest.raises(ValueError, match="needs images with masks; these have none"):
        explorer.threshold_rule = "f1"


def test_excluding_all_training_images_is_an_error(explorer):
    with pytest.raises(ValueError, match="without must leave at least one normal image"):
        explorer.without = range(12)
    assert explorer.without == ()


def test_a_fitted_image_needs_another_one_to_be_compared_with(spade):
    explorer = explore(spade)
    with pytest.raises(ValueError, match="An image needs at least one of the 11 training images that it was judged"):
        explorer.without = [index for index in range(12) if index != explorer.photo["normal"]]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("number", [5, 99, True, -1])
def test_a_number_is_no_image(explorer, spade, number):
    said = "An image must be a Sample, a path, .*; got a value of type (int|bool)"
    with pytest.raises(ValueError, match=said):
        explorer.show(number)
    assert len(explorer.photos) == 48
    with pytest.raises(ValueError, match=said):
        explore(spade, [number])


def test_an_empty_list_shows_no_other_images(spade):
    with pytest.raises(ValueError, match=r"The list of images is empty\. Pass an image, or no list to see the fitted"):
        explore(spade, [])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", [
    explore, choose_threshold, map_images, review_suspects, lambda spade: compare_layers(spade, "x"),
    lambda spade: paint_defect(spade, "x"),
])  # fmt: skip
@pytest.mark.parametrize("wrong", [None, "efficientnet_lite0", []])
def test_a_widget_needs_a_fitted_spade(make, wrong):
    with pytest.raises(ValueError, match="A widget needs a fitted SPADE; got a value of type"):
        make(wrong)


def test_a_typing_error_in_an_attribute_raises_an_error(explorer, spade, demo, tmp_path):
    others = [choose_threshold(spade, demo.test[:1]), compare_layers(spade, demo.test[0]), review_suspects(spade)]
    names = {explorer: {"kapa": "kappa", "sigmaa": "sigma"}, others[0]: {"ruel": "rule"}}
    names |= {others[1]: {"view": "views"}, others[2]: {"index1": "index"}}
    for widget, pairs in names.items():
        for name, close in pairs.items():
            with pytest.raises(AttributeError, match=rf"has no attribute {name!r}\. Did you mean '{close}"):
                setattr(widget, name, 3)
            assert not hasattr(widget, name)
    explorer._mine, explorer.kappa, explorer.layout.width = 1, 2, "90%"
    assert explorer.kappa == 2


def test_the_images_of_a_page_are_one_or_more_indexes(explorer, tmp_path):
    with pytest.raises(ValueError, match="photos must hold the index of at least one image; got none"):
        explorer.save_html(tmp_path / "page.html", photos=[])
    with pytest.raises(ValueError, match="photos must refer to one of the images, from 0 to"):
        explorer.save_html(tmp_path / "page.html", photos=5000)
    explorer.save_html(tmp_path / "page.html", photos=5)
    assert (tmp_path / "page.html").is_file()


def test_cells_and_the_page_may_send_changes_at_the_same_time(explorer, spade, demo):
    """Page messages arrive in a separate thread."""
    moves = [{"probe": [step, 5], "pinned": step % 2 == 0, "k": 1 + step % 5} for step in range(60)]
    page = Thread(target=lambda: [explorer.set_state(move) for move in moves])
    page.start()
    for step in range(30):
        explorer.index = step % 7
        assert explorer.matches["index"] == step % 7
    page.join()
    assert explorer.index == 29 % 7
    assert explorer.k == 5
    assert explorer.problem == ""
    expected = spade.predict(demo.test[29 % 7])
    np.testing.assert_array_equal(explorer.result.anomaly_map, expected.anomaly_map)


def test_a_cell_waits_until_a_message_of_the_page_is_applied(explorer):
    """Until then traitlets holds back all notifications, and the cell's change would be taken for one of the page."""

    def set_in_a_cell():
        explorer.threshold = 9.0
        seen.append(explorer.threshold_rule)

    class Slow:
        def __index__(self):  # while the message is applied
            if cell.ident is None:  # not started yet
                cell.start()
                cell.join(0.3)
            return 3

    seen, cell = [], Thread(target=set_in_a_cell)
    explorer.set_state({"k": Slow()})
    cell.join()
    assert seen == ["hand"]
    assert (explorer.k, explorer.threshold, explorer.threshold_rule, explorer.problem) == (3, 9.0, "hand", "")


def test_linked_widgets_changed_by_two_threads_do_not_wait_for_each_other(spade, demo):
    together = Barrier(2)

    def tell(other):
        def follow(change):
            with suppress(BrokenBarrierError):
                together.wait(0.5)  # each thread has begun to change its widget, if both can
            other.opacity = change["new"]

        return follow

    one, two = (explore(spade, demo.test[:1]) for _ in range(2))
    one.observe(tell(two), "opacity")
    two.observe(tell(one), "opacity")
    threads = [
        Thread(target=setattr, args=(widget, "opacity", value), daemon=True)
        for widget, value in ((one, 0.2), (two, 0.8))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert one.opacity == two.opacity


@pytest.mark.slow
def test_a_page_under_development_is_reloaded(tmp_path):
    """With ANYWIDGET_HMR=1 a widget's module is a file that is rebuilt when a part changes."""
    script = """
import shutil, sys, time
from pathlib import Path
from spade_kit.widgets._shared import export
static = Path(sys.argv[1])
shutil.copytree(export.STATIC, static)
export.STATIC = static
page = export.load_module("explorer.js")
before = page.read_text()
time.sleep(1)
(static / "page.js").write_text((static / "page.js").read_text() + "// saved again")
for _ in range(100):
    if "saved again" in page.read_text():
        break
    time.sleep(0.1)
print("saved again" in page.read_text() and before == export.join_modules("explorer.js").replace("// saved again", ""))
"""
    environment = os.environ | {"ANYWIDGET_HMR": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "static"], env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == "True", run.stderr
