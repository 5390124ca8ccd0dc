"""The excess: what normal images reach at each place is taken off a map, exactly and without looking at itself."""

from dataclasses import replace

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter

from spade_kit import (
    SPADE,
    choose_threshold,
    compare_layers,
    draw_hardest,
    draw_result,
    evaluate,
    load_backbone,
    paint_defect,
    review_suspects,
    sweep,
)
from spade_kit.correspondence import resize
from spade_kit.gallery.place_level import HighestValues
from spade_kit.scores import doubt_threshold, find_threshold, mean_of_top

MAPS = st.integers(2, 40).flatmap(lambda n: arrays(np.float32, (n, 2, 3), elements=st.integers(0, 9).map(float)))


@pytest.fixture(scope="module")
def small(demo):
    """Fitted on eight images at 64 px: a left-out map takes a millisecond."""
    return SPADE(load_backbone(resize=72, crop=64), k=3, sigma=2).fit(demo.train[:8])


def take_off(maps, anomaly_map):
    """The definition, by loops over pixels."""
    level = np.array([[np.percentile([m[r, c] for m in maps], 95) for c in range(64)] for r in range(64)])
    return anomaly_map - gaussian_filter(level.astype(np.float32), 0.02 * 64, mode="reflect", truncate=4)


def left_out_maps(spade):
    return [spade.predict_left_out(index).anomaly_map for index in range(len(spade))]


# ---- the percentile of the highest values ----------------------------------------------------------------------------


@given(MAPS, st.data())
def test_the_percentile_is_numpys_over_all_maps_but_some(maps, data):
    count = len(maps)
    gone = data.draw(st.sets(st.integers(0, count - 1), max_size=min(4, count - 1)))
    highest = HighestValues.of(iter(maps), count, spare=4)
    kept = np.delete(maps, sorted(gone), 0)
    expected = np.percentile(kept.astype(np.float64), 95, axis=0)
    np.testing.assert_allclose(highest.percentile(maps[at] for at in gone), expected, rtol=1e-6, atol=1e-6)


def test_few_of_many_maps_are_kept():
    maps = np.random.default_rng(0).random((200, 4, 4), np.float32)
    assert HighestValues.of(maps, 200, spare=1).values.shape == (12, 4, 4)


# ---- results ---------------------------------------------------------------------------------------------------------


def test_the_excess_is_the_map_less_the_level_of_the_left_out_maps(small, demo):
    result = small.predict(demo.test[0])
    expected = take_off(left_out_maps(small), result.anomaly_map)
    np.testing.assert_allclose(result.excess_map, expected, atol=1e-4)
    np.testing.assert_array_equal(result.judged_map, result.anomaly_map)
    judged = result.with_options(judged="excess")
    np.testing.assert_array_equal(judged.judged_map, result.excess_map)
    np.testing.assert_array_equal(judged.anomaly_map, result.anomaly_map)  # stays raw
    np.testing.assert_array_equal(judged.segmentation(1), result.excess_map >= 1)


def test_the_level_of_a_left_out_image_comes_from_the_others(small):
    maps = left_out_maps(small)
    for index in (0, 5):
        expected = take_off(maps[:index] + maps[index + 1 :], maps[index])
        np.testing.assert_allclose(small.predict_left_out(index).excess_map, expected, atol=1e-4)


def test_duplicates_of_a_left_out_image_give_no_level(small, demo):
    with pytest.warns(UserWarning, match="duplicates"):
        twice = SPADE(small.backbone, k=3, sigma=2).fit([*demo.train[:5], demo.train[0], demo.train[1], demo.train[0]])
    maps = left_out_maps(twice)
    others = [values for at, values in enumerate(maps) if at not in (0, 5, 7)]
    np.testing.assert_allclose(twice.predict_left_out(5).excess_map, take_off(others, maps[5]), atol=1e-4)


def test_a_subset_of_the_normal_images_gives_the_level_of_their_maps(small, demo):
    result = small.predict(demo.test[0]).with_normals([1, 2, 6])
    maps = [small.predict_left_out(index).anomaly_map for index in (1, 2, 6)]
    np.testing.assert_allclose(result.excess_map, take_off(maps, result.anomaly_map), atol=1e-4)


def test_of_many_images_two_hundred_give_the_level(small, demo, monkeypatch):
    monkeypatch.setattr("spade_kit.gallery.calibration._LEVEL_SAMPLED", 3)
    many = small.with_gallery(small.gallery)
    maps = left_out_maps(small)
    sampled = [maps[at] for at in (0, 4, 7)]  # 3.5 rounds to the even number
    result = many.predict(demo.test[0])
    np.testing.assert_allclose(result.excess_map, take_off(sampled, result.anomaly_map), atol=1e-4)
    np.testing.assert_allclose(many.predict_left_out(3).excess_map, take_off(sampled, maps[3]), atol=1e-4)
    np.testing.assert_allclose(many.predict_left_out(4).excess_map, take_off(sampled[::2], maps[4]), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"score": "max"}, lambda result: result.anomaly_map.max()),
        ({"score": "top"}, lambda result: np.sort(result.anomaly_map, axis=None)[-40:].mean()),  # of 4,096 pixels
        ({"score": "excess"}, lambda result: np.sort(result.excess_map, axis=None)[-40:].mean()),
        ({"score": "excess", "sigma": 1}, lambda result: np.sort(result.excess_map, axis=None)[-40:].mean()),
        ({"score": "max", "judged": "excess"}, lambda result: result.anomaly_map.max()),
    ],
)
def test_the_score_of_an_image_is_that_of_the_option(small, demo, options, expected):
    result = small.with_options(**options).predict(demo.test[0])
    assert result.image_score == pytest.approx(expected(result), rel=1e-5)
    assert small.predict(demo.test[0]).with_options(**options).image_score == result.image_score


def test_the_highest_hundredth_is_rounded_down():
    assert mean_of_top(np.arange(199.0).reshape(1, -1)) == 198
    assert mean_of_top(np.arange(200.0).reshape(1, -1)) == 198.5
    assert mean_of_top(np.array([[3.0]])) == 3


# ---- thresholds, suspects, evaluations -------------------------------------------------------------------------------


def test_thresholds_follow_the_score_and_the_judged_map(small):
    spade = small.with_options(score="excess", judged="excess")
    results = [spade.predict_left_out(index) for index in range(len(spade))]
    scores = np.array([result.image_score for result in results])
    assert spade.threshold(0.3, of="image") == pytest.approx(find_threshold(scores, 0.3))
    pixels = np.concatenate([result.excess_map.ravel() for result in results])
    assert spade.threshold(0.01) == pytest.approx(find_threshold(pixels, 0.01), rel=1e-5)
    assert spade.calibration.level(spade.options) == pytest.approx(np.percentile(pixels, 99), rel=1e-5)
    assert spade.normal_level == small.normal_level  # of the raw maps
    suspects = spade.suspects()
    np.testing.assert_allclose(suspects["score"], np.sort(scores)[::-1], rtol=1e-6)
    first = results[suspects.index[0]].excess_map
    assert first[suspects["row"].iloc[0], suspects["col"].iloc[0]] == first.max()


def test_images_of_a_group_give_no_level_for_each_other(small):
    spade, groups = small.with_options(judged="excess"), [0, 0, 1, 1, 2, 2, 3, 3]
    maps = list(small.calibration.maps(small.options, groups=groups))
    excess = [
        take_off([other for at, other in enumerate(maps) if groups[at] != groups[index]], maps[index])
        for index in range(8)
    ]
    expected = find_threshold(np.concatenate([values.ravel() for values in excess]), 0.01)
    assert spade.threshold(0.01, groups=groups) == pytest.approx(expected, rel=1e-4)


def test_an_evaluation_measures_the_judged_map_and_keeps_the_raw_one(small, demo, tmp_path):
    spade = small.with_options(score="excess", judged="excess")
    tests = [*demo.test[:2], demo.test[-1], demo.train[3]]
    report = evaluate(spade, tests, folder=tmp_path)
    for row, sample in enumerate(tests):
        result = spade.judge(sample)
        np.testing.assert_allclose(report.judged(row).judged_map, result.excess_map, rtol=1e-6)
        np.testing.assert_array_equal(report.judged(row).anomaly_map, result.anomaly_map)
        assert report.to_frame()["image_score"][row] == pytest.approx(result.image_score)


def test_a_sweep_over_score_and_judged_equals_evaluations(small, demo):
    parts = replace(demo, train=demo.train[:6], test=demo.test[::6])
    over = {"crop": [64], "score": ["max", "excess"], "judged": ["map", "excess"], "normals": [4]}
    table = sweep(parts, over, metrics=["image_roc_auc", "aupro"], draws=1)
    chosen = np.sort(np.random.default_rng([0, 0]).permutation(6)[:4])
    fitted = SPADE(load_backbone(resize=73, crop=64)).fit([parts.train[at] for at in chosen])
    assert len(table) == 4
    for row in table.itertuples():
        report = evaluate(fitted.with_options(score=row.score, judged=row.judged), parts)
        assert report.metric("image_roc_auc") == pytest.approx(row.image_roc_auc, abs=1e-6)
        assert report.metric("aupro") == pytest.approx(row.aupro, abs=1e-4)


def test_a_folder_is_judged_by_the_excess(small, demo, tmp_path):
    (tmp_path / "in").mkdir()
    for at in range(3):
        (tmp_path / f"in/{at}.png").write_bytes(demo.test[-1 - at].path.read_bytes())
    spade = small.with_options(score="excess", judged="excess")
    table = spade.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.2)
    for row in table.itertuples():
        result = spade.predict(tmp_path / "in" / row.path)
        assert row.image_score == pytest.approx(result.image_score, rel=1e-5)
        excess = result.crop.put_back(result.excess_map)
        assert excess[row.row, row.col] == np.nanmax(excess)


# ---- too few images --------------------------------------------------------------------------------------------------


def test_one_normal_image_gives_no_excess(small, demo):
    spade = SPADE(small.backbone, k=1, score="excess", judged="excess")
    with pytest.warns(UserWarning, match="excess needs at least two different normal images; got one. The highest 1 %"):
        spade.fit(demo.train[:1])
    result = spade.predict(demo.test[0])
    assert result.image_score == mean_of_top(result.anomaly_map)
    np.testing.assert_array_equal(result.judged_map, result.anomaly_map)
    with pytest.raises(ValueError, match="needs at least two different normal images; got one"):
        _ = result.excess_map
    with pytest.warns(UserWarning, match="excess needs at least two"):
        spade.with_options(score="max").with_options(judged="excess")
    with pytest.warns(UserWarning, match="excess needs at least two"):
        SPADE(small.backbone, k=1, score="excess").fit(demo.train[:2]).remove(0)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_normal_images_give_an_excess(small, demo, count):
    spade = SPADE(small.backbone, k=2, sigma=2).fit(demo.train[:count])
    result = spade.predict(demo.test[0])
    np.testing.assert_allclose(result.excess_map, take_off(left_out_maps(spade), result.anomaly_map), atol=1e-4)
    assert np.isfinite(spade.with_options(score="excess").predict_left_out(1).image_score)


def test_a_doubt_compares_an_excess_with_the_reference_level():
    scores = [np.array([value], np.float32) for value in (-2, -1, 0, 1)]  # without the last, 0 instead of 1
    assert doubt_threshold(scores, range(4), 0.2, str, scale=10) == ""
    assert "without 3 it would be 0 instead of 1" in doubt_threshold(scores, range(4), 0.2, str, scale=5)
    below = [values - 5 for values in scores]
    assert "without 3 it would be -5 instead of -4" in doubt_threshold(below, range(4), 0.2, str, scale=5)


@pytest.mark.parametrize("name", ["score", "judged"])
def test_other_values_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must be one of .*'excess'; got 'exess'\. Did you mean 'excess'"):
        SPADE(**{name: "exess"})


# ---- widgets and figures ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(small):
    return small.with_options(score="excess", judged="excess")


@pytest.fixture
def chooser(judge, demo):
    chooser = choose_threshold(judge, replace(demo, test=demo.test[::6]))
    chooser.finish()
    yield chooser
    chooser.close()


def test_a_chooser_of_images_counts_excess_scores(chooser, judge, demo):
    normals = [judge.predict_left_out(index).image_score for index in range(8)]
    tested = np.array([judge.predict(sample).image_score for sample in demo.test[::6]])
    truth = np.array([sample.label != "good" for sample in demo.test[::6]])
    chooser.threshold = float(np.median(tested))
    counts = chooser.judgement
    assert counts.reached == (np.array(normals) >= chooser.threshold).sum()
    assert (counts.found, counts.alarms) == tuple((tested[kind] >= chooser.threshold).sum() for kind in (truth, ~truth))
    assert chooser.study["start"] == min(0, *normals, *tested)
    np.testing.assert_allclose([score for at, _, _, score in chooser.photos if at >= 0], tested, rtol=1e-6)
    assert chooser.about["axis"]["image"] == "image score (excess)"
    assert chooser.draw().axes[-1].get_xlabel() == "distance (raw), score of each image"


def test_a_chooser_of_pixels_judges_the_excess(chooser, judge, demo):
    chooser.of = "pixel"
    assert chooser.threshold == pytest.approx(judge.threshold(0.01), rel=1e-6)
    chooser.threshold = -0.5
    maps = np.stack([judge.predict_left_out(index).judged_map for index in range(8)])
    assert chooser.judgement.reached == (maps >= -0.5).sum()
    assert chooser.study["start"] < maps.min() + 1e-6 < 0
    highest = judge.predict(demo.test[6]).judged_map.max()
    assert next(score for at, _, _, score in chooser.photos if at == 1) == pytest.approx(highest, rel=1e-6)
    least, _ = chooser.draw().axes[-1].get_xlim()
    assert least < -0.5


def test_a_chooser_sends_the_level_in_half_its_resolution(chooser, judge, demo):
    packed = chooser._pack_photo(0)
    level = judge.predict(demo.test[0]).place_level
    sent = np.frombuffer(packed["values"], "<u2").reshape(packed["level_size"])
    sent = packed["low"] + (packed["high"] - packed["low"]) * sent / 65535
    assert np.abs(resize(sent, level.shape) - level).max() < 0.02 * level.mean()
    assert chooser.about["excess"] == {"image": True, "pixel": True}
    plain = choose_threshold(judge.with_options(score="top", judged="map"), demo.test[:1])
    assert plain.about["excess"] == {"image": False, "pixel": False}
    assert "level_size" not in plain._pack_photo(0)


def unasked(judge):
    """The same options, with a gallery of which nothing has been asked yet."""
    return judge.with_gallery(replace(judge.gallery))


def test_a_comparison_of_the_map_itself_has_its_own_reference_level(judge, demo):
    comparison = compare_layers(judge, demo.test[:2])
    comparison.finish()
    assert comparison.about["excess"]  # the page says that it shows the map itself
    assert comparison.levels[-1]["level"] == judge.normal_level
    np.testing.assert_array_equal(comparison.maps["all layers"], judge.predict(demo.test[0]).anomaly_map)
    with pytest.raises(ValueError, match=r"A key of a view must be one of .*; got 'judged'"):
        comparison.views = ["layer1", {"judged": "excess"}]


def taken_off(widget):
    packed = widget.place_level
    values = np.frombuffer(packed["values"], "<u2") / 65535
    return packed["low"] + (packed["high"] - packed["low"]) * values


def test_a_painting_opens_before_the_excess_is_known(judge, demo, tmp_path):
    result = judge.predict(demo.test[0])
    painting = paint_defect(unasked(judge), demo, folder=tmp_path)
    assert painting.waiting == "computing the excess: 0 of 8 normal photos judged…"
    assert painting.waiting in repr(painting)
    assert (painting.photo["score"], painting.photo["before"], painting.place_level) == (None, None, {})
    assert painting.normals["scores"] == []
    preview = painting._preview()
    assert preview[:4] == b"\x89PNG"
    steps = painting._background_steps()
    steps.send(next(steps)())
    assert painting.waiting == "computing the excess: 1 of 8 normal photos judged…"
    painting.finish()
    assert painting.waiting == ""
    assert painting._preview() != preview
    assert painting.photo["score"] == painting.photo["before"] == result.image_score
    assert painting.normals["level"] == result.judged_level
    assert result.judged_map[painting.probe] == result.judged_map.max()
    assert np.abs(taken_off(painting) - result.place_level.ravel()).max() < 1e-4 * result.place_level.max()
    normals = [judge.predict_left_out(index).image_score for index in range(8)]
    np.testing.assert_allclose(painting.normals["scores"], sorted(normals), rtol=1e-6)
    assert painting.readout().iloc[0, 1] == (np.array(normals) >= result.image_score).sum()
    painting.stroke("brush", [(20, 20)])
    painted = judge.predict(painting.painted)
    assert painting.photo["score"] == painted.image_score
    plain = paint_defect(unasked(judge.with_options(score="max", judged="map")), demo, folder=tmp_path)
    assert (plain.waiting, plain.place_level) == ("", {})


def test_a_review_opens_before_the_excess_is_known(judge):
    review = review_suspects(unasked(judge))
    assert (review.index, review.waiting) == (0, "computing the excess: 0 of 8 normal photos judged…")
    assert review.suspects == [[index, None, False, ""] for index in range(8)]
    assert review.photo["score"] is None
    assert review._preview()[:4] == b"\x89PNG"
    review.finish()
    assert (review.index, review.waiting) == (judge.suspects().index[0], "")
    other = review_suspects(unasked(judge))
    other.index = 5
    other.finish()
    assert other.index == 5  # picked meanwhile
    hasty = review_suspects(unasked(judge))
    hasty.drop()
    assert hasty.dropped == [review.index]
    assert hasty.photo["score"] is None
    hasty.finish()
    assert hasty.photo["score"] == hasty.result.image_score


def test_a_review_ranks_normal_images_by_their_excess(judge):
    judge.suspects()
    review = review_suspects(judge)
    ranked = judge.suspects()["score"]
    assert review.waiting == ""
    assert [index for index, *_ in review.suspects] == ranked.index.tolist()
    result = judge.predict_left_out(review.index)
    assert review.photo["level"] == result.judged_level
    assert np.abs(taken_off(review) - result.place_level.ravel()).max() < 1e-4 * result.place_level.max()
    assert review.photo["score"] == pytest.approx(ranked.iloc[0], rel=1e-6)
    review.drop()
    review.finish()
    left = review.spade
    scores = sorted((left.predict_left_out(index).image_score for index in range(7)), reverse=True)
    np.testing.assert_allclose([score for _, score, _, decided in review.suspects if not decided], scores, atol=1e-3)
    assert review.photo["level"] == result.judged_level  # one scale for the whole review


def test_the_hardest_cases_show_the_judged_maps(judge, demo):
    report = evaluate(judge, replace(demo, test=demo.test[::8]))
    figure = draw_hardest(report, n=1)
    frame = report.to_frame()
    hardest = frame[frame["label"] != "good"].nsmallest(1, "image_score").index[0]
    drawn = [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]
    expected = judge.predict(demo.test[8 * hardest]).judged_map
    assert any(np.array_equal(values, expected) for values in drawn if values.shape == expected.shape)
    assert "excess judged" in report.options
    (scale,) = {
        image.get_clim() for axes in figure.axes for image in axes.images if image.get_array().shape == (64, 64)
    }
    highest = pandas.Series([judge.predict(sample).judged_map.max() for sample in demo.test[::8]])
    good = highest[frame["label"] == "good"].max()
    assert scale == (0, pytest.approx(good if good > 0 else highest.max(), rel=1e-6))


def test_an_excess_below_0_everywhere_is_drawn(judge, demo, monkeypatch):
    result = judge.predict(demo.test[30])
    monkeypatch.setattr(type(result), "judged_level", -2.0)
    figure = draw_result(result)
    assert figure.axes[1].images[0].get_clim() == (0, pytest.approx(result.excess_map.max()))
    assert result.excess_map.max() > 0
