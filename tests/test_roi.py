"""Where to look: outside a roi nothing is scored, and everything else stays as it was."""

import json
import types
from dataclasses import replace
from functools import partial

import numpy as np
import pandas
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Outline
from PIL import Image
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, roc_auc_score

from spade_kit import (
    SPADE,
    choose_threshold,
    compare_layers,
    draw_hardest,
    draw_result,
    evaluate,
    explore,
    load_backbone,
    paint_defect,
    review_suspects,
)
from spade_kit._work import crew
from spade_kit.datasets.roi import Roi, pack_mask, unpack_mask
from spade_kit.evaluation.bootstrap import BINNED, PixelCounts
from spade_kit.evaluation.metrics import aupro, pixel_average_precision, pixel_roc_auc
from spade_kit.evaluation.report import OF_PIXELS, Report
from spade_kit.features.crops import Crop
from spade_kit.gallery import checkpoint
from spade_kit.scores import choose_map, score_image, take_inside

pytestmark = pytest.mark.filterwarnings("ignore:The threshold rests on one image")
HEIGHT, WIDTH = 90, 106
CORNERS = [(20, 30), (20, 75), (60, 90), (70, 30)]
MAPS = st.tuples(st.integers(1, 7), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, shape, elements=st.integers(0, 9).map(float)),
        arrays(np.float32, shape, elements=st.integers(0, 9).map(float)),
        arrays(bool, shape),
    )
)


def noise(height=HEIGHT, width=WIDTH, seed=0):
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


def bright(photo):
    """A roi that differs from image to image."""
    return photo.mean(2) > 110


def as_mask(corners=CORNERS, size=(HEIGHT, WIDTH)):
    return Roi.of(corners, size).mask


@pytest.fixture(scope="module")
def photos():
    return [noise(seed=seed) for seed in range(7)]


@pytest.fixture
def fit(tiny, photos):
    """Fit the seven images under options, with a roi."""

    def make(roi=CORNERS, **options):
        return SPADE(tiny, **options).fit(photos, roi=roi)

    return make


# ---- scores ----------------------------------------------------------------------------------------------------------


@given(MAPS, st.sampled_from(["max", "top", "excess"]), st.sampled_from(["map", "excess"]))
def test_only_pixels_inside_are_scored_and_judged(drawn, score, judged):
    anomaly_map, level, roi = drawn
    assume(roi.any())
    inside = np.sort((anomaly_map - level if score == "excess" else anomaly_map)[roi])[::-1]
    count = 1 if score == "max" else max(1, int(0.01 * roi.sum()))
    assert score_image(anomaly_map, level, score, roi) == pytest.approx(inside[:count].mean(), rel=1e-6)
    found = choose_map(anomaly_map, level, judged, roi)
    np.testing.assert_array_equal(np.isnan(found), ~roi)
    np.testing.assert_array_equal(found[roi], (anomaly_map - level if judged == "excess" else anomaly_map)[roi])
    np.testing.assert_array_equal(take_inside(found), found[roi])


def test_a_roi_of_everything_changes_no_bit(tiny, photos, fit):
    for options in ({}, {"score": "top"}, {"score": "excess", "judged": "excess"}):
        plain = SPADE(tiny, **options).fit(photos)
        for roi in (np.ones((HEIGHT, WIDTH), bool), [(-9, -9), (-9, 300), (300, 300), (300, -9)]):
            spade = fit(roi, **options)
            for mine, its in ((spade.predict(noise(seed=9)), plain.predict(noise(seed=9))),
                              (spade.predict_left_out(2), plain.predict_left_out(2))):  # fmt: skip
                assert mine.roi is None
                assert mine.image_score == its.image_score
                np.testing.assert_array_equal(mine.judged_map, its.judged_map)
            assert spade.threshold() == plain.threshold()
            assert spade.threshold(0.2, of="image") == plain.threshold(0.2, of="image")
            assert spade.normal_level == plain.normal_level


@pytest.mark.parametrize("options", [{}, {"score": "top"}, {"score": "excess"}, {"judged": "excess"}])
@pytest.mark.parametrize("roi", [CORNERS, bright], ids=["polygon", "function"])
def test_thresholds_come_from_left_out_images_within_their_own_roi(fit, roi, options):
    spade, fpr = fit(roi, **options), 0.2
    results = [spade.predict_left_out(index) for index in range(len(spade))]
    scores, pixels = [], []
    for result in results:
        assert not np.isnan(result.anomaly_map).any()
        values = result.excess_map if options.get("score") == "excess" else result.anomaly_map
        own = np.sort(values[result.roi])
        scores.append(own[-1] if "score" not in options else own[-max(1, len(own) // 100) :].mean())
        assert result.image_score == pytest.approx(scores[-1], rel=1e-6)
        pixels.append((result.excess_map if "judged" in options else result.anomaly_map)[result.roi])
    every = np.sort(np.concatenate(pixels))
    rank = int(np.ceil(round((len(every) + 1) * (1 - fpr), 9)))
    assert spade.threshold(fpr) == pytest.approx(every[rank - 1], rel=1e-6)
    assert spade.threshold(fpr, of="image") == pytest.approx(np.sort(scores)[6], rel=1e-6)  # ceil(8 * 0.8) = 7
    low, high = spade.threshold_interval(fpr, draws=20)
    assert every[0] <= low <= high <= every[-1]
    suspects = spade.suspects()
    worst = int(np.argmax(scores))
    assert suspects.index[0] == worst
    highest = np.where(results[worst].roi, results[worst].judged_map, -np.inf)
    assert (suspects["row"][worst], suspects["col"][worst]) == np.unravel_index(highest.argmax(), highest.shape)
    maps = [result.anomaly_map[result.roi] for result in results]
    assert spade.normal_level == pytest.approx(np.percentile(np.concatenate(maps), 99), rel=1e-6)


@pytest.mark.parametrize("judged", ["map", "excess"])
def test_segmentations_and_regions_lie_inside(fit, judged):
    spade = fit(judged=judged)
    result = spade.predict(noise(seed=9))
    raw = result.excess_map if judged == "excess" else result.anomaly_map
    threshold = float(np.median(raw))
    assert not np.isnan(raw).any()
    np.testing.assert_array_equal(result.segmentation(threshold), (raw >= threshold) & result.roi)
    assert ((raw >= threshold) & ~result.roi).any()
    regions = result.regions(threshold)
    assert result.roi[regions["row"], regions["col"]].all()
    assert regions["peak"].max() == raw[result.roi].max()
    pixels = np.prod(result.crop.photo) / np.prod(result.crop.scaled)
    assert regions["area"].sum() == pytest.approx(result.segmentation(threshold).sum() * pixels)


def test_a_defect_outside_changes_neither_score_nor_segmentation(fit):
    spade = fit([(20, 75), (20, 100), (70, 100), (70, 75)], sigma=1)
    image = noise(seed=9)
    spoilt = image.copy()
    spoilt[10:80:5, 6:15] = (255, 0, 0)  # farther from the roi than the network and the filter look
    before, after = spade.predict(image), spade.predict(spoilt)
    assert after.anomaly_map.max() > before.anomaly_map.max()
    threshold = float(np.median(before.anomaly_map))
    assert after.image_score == pytest.approx(before.image_score, rel=1e-5)
    np.testing.assert_allclose(after.judged_map, before.judged_map, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(after.segmentation(threshold), before.segmentation(threshold))


def test_results_under_other_options_keep_the_roi(fit):
    result = fit(k=7).predict(noise(seed=9))
    others = [result.with_k(3), result.with_options(sigma=1), result.with_normals([0, 1, 2])]
    for other in (*others, result.with_options(score="excess", judged="excess", kappa=2)):
        np.testing.assert_array_equal(other.roi, result.roi)
        np.testing.assert_array_equal(np.isnan(other.judged_map), ~result.roi)
    assert others[0].image_score == others[0].anomaly_map[result.roi].max()


# ---- what a roi may be -----------------------------------------------------------------------------------------------


def test_a_mask_a_file_a_polygon_and_a_function_are_alike(fit, tmp_path):
    mask = as_mask()
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "roi.png")
    given = [
        *(mask, mask.astype(np.uint8), tmp_path / "roi.png", str(tmp_path / "roi.png")),
        *(Image.open(tmp_path / "roi.png"), np.array(CORNERS), lambda photo: mask, Roi.of(CORNERS, mask.shape)),
    ]
    first = fit()
    wanted, threshold = first.predict(noise(seed=9)), first.threshold()
    np.testing.assert_array_equal(wanted.roi, wanted.crop.cut_mask(mask))
    for roi in given:
        spade = fit(roi)
        result = spade.predict(noise(seed=9))
        np.testing.assert_array_equal(result.roi, wanted.roi)
        assert (result.image_score, spade.threshold()) == (wanted.image_score, threshold)
    assert fit(mask).gallery.roi_mark[5:] == first.gallery.roi_mark[8:]


@given(st.lists(st.tuples(st.integers(-5, 45), st.integers(-5, 55)), min_size=3, max_size=6))
def test_a_polygon_holds_the_pixels_whose_centres_it_contains(corners):
    mask = as_mask(corners, (40, 50))
    outline = Outline([*corners, corners[0]], closed=True)
    places = np.argwhere(np.ones((40, 50)))
    edges = [np.array(pair, float) for pair in zip(corners, [*corners[1:], corners[0]])]

    def reach(start, end):
        way = end - start
        part = np.clip(((places - start) @ way) / max(way @ way, 1e-9), 0, 1)
        return np.hypot(*(places - start - part[:, None] * way).T)

    away = np.min([reach(*edge) for edge in edges], 0) > 1
    found = mask[tuple(places[away].T)]
    crossed = len({*corners}) != len(corners) or not _is_simple(edges)
    if not crossed:  # where a polygon crosses itself, what is inside is a matter of rule
        np.testing.assert_array_equal(found, outline.contains_points(places[away]))
    hull = (places >= np.min(corners, 0) - 1).all(1) & (places <= np.max(corners, 0) + 1).all(1)
    assert not mask[tuple(places[~hull].T)].any()


def _is_simple(edges):
    def turn(a, b, c):
        (x, y), (u, v) = b - a, c - a
        return np.sign(x * v - y * u)

    for one, (a, b) in enumerate(edges):
        for c, d in edges[one + 1 :]:
            shared = any((p == q).all() for p in (a, b) for q in (c, d))
            if not shared and turn(a, b, c) * turn(a, b, d) <= 0 and turn(c, d, a) * turn(c, d, b) <= 0:
                return False
    return True


@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_a_mask_survives_as_text(mask):
    np.testing.assert_array_equal(unpack_mask(pack_mask(mask), mask.shape), mask)


def test_an_image_may_have_a_roi_of_its_own(fit, photos):
    spade = fit()
    left = np.zeros((HEIGHT, WIDTH), bool)
    left[:, :40] = True
    result = spade.predict(noise(seed=9), roi=left)
    np.testing.assert_array_equal(result.roi, result.crop.cut_mask(left))
    assert result.image_score == result.anomaly_map[result.roi].max()
    np.testing.assert_array_equal(result.anomaly_map, spade.predict(noise(seed=9)).anomaly_map)
    whole = SPADE(spade.backbone).fit(photos)
    polygon = whole.predict(noise(70, 80), roi=[(20, 20), (20, 60), (50, 60)])  # of the size of this image
    np.testing.assert_array_equal(polygon.roi, polygon.crop.cut_mask(as_mask([(20, 20), (20, 60), (50, 60)], (70, 80))))
    assert spade.judge(spade.read(noise(seed=9), roi=left)).image_score == result.image_score


def test_a_function_is_called_for_images_of_any_size(tiny):
    images = [noise(80 + 9 * at, 95 + 6 * at, seed=at) for at in range(4)]
    spade = SPADE(tiny).fit(images, roi=bright)
    for image, normal in zip(images, spade.gallery.normals):
        np.testing.assert_array_equal(normal.crop.roi, normal.crop.cut_mask(bright(image)))
    assert spade.predict(noise(64, 64, seed=9)).roi.any()
    assert len(spade.add(noise(77, 85, seed=8))) == 5
    assert spade.gallery.normals[-1].crop.roi is not None


def test_whole_images_have_a_roi_too(tiny):
    network = load_backbone(tiny.module.network, layers=tiny.sources, pooled="late", resize=64, crop=None)
    spade = SPADE(network).fit([noise(96, 128, seed) for seed in range(4)], roi=CORNERS)
    result = spade.predict(noise(96, 128, 9))
    assert result.roi.shape == spade.gallery.cropping.size == (64, 96)
    np.testing.assert_array_equal(result.roi, result.crop.cut_mask(as_mask(size=(96, 128))))
    assert result.crop.judged == pytest.approx(result.roi.mean())
    assert f"{100 * result.roi.mean():.0f} % of the image judged" in result.crop.describe()


@given(st.integers(33, 130), st.integers(33, 130), st.integers(0, 2**32))
def test_a_map_on_the_image_is_nan_outside(height, width, seed):
    rng = np.random.default_rng(seed)
    place = Crop((height, width), (72, 72), (4, 4), (64, 64))
    mask = rng.random((height, width)) < 0.5
    crop = place.within(mask)
    assume(crop.roi is not None)
    values = rng.random((64, 64)).astype(np.float32)
    whole, found = place.put_back(values), crop.put_back(values)
    rows, cols = (
        (np.arange(crop.photo[axis]) + 0.5) * crop.scaled[axis] / crop.photo[axis] - 0.5 - crop.offset[axis]
        for axis in (0, 1)
    )
    tied = np.logical_or.outer(*(abs(at % 1 - 0.5) < 1e-6 for at in (rows, cols)))  # between two places of the crop
    rows, cols = (np.rint(at).astype(int).clip(0, 63) for at in (rows, cols))
    expected = np.where(crop.roi[np.ix_(rows, cols)], whole, np.nan)
    np.testing.assert_array_equal(found[~tied], expected[~tied])


# ---- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mask", "polygon", "function"])
def test_a_saved_fit_has_its_roi(fit, tmp_path, kind):
    roi = {"mask": as_mask(), "polygon": CORNERS, "function": bright}[kind]
    spade = fit(roi)
    spade.save(tmp_path)
    assert json.loads((tmp_path / "spade.json").read_text())["format"] == 3
    again = SPADE.load(tmp_path, spade.backbone, **({"roi": bright} if kind == "function" else {}))
    assert again.roi == spade.roi
    assert again.gallery.roi_mark == spade.gallery.roi_mark
    assert f"roi {kind} " in repr(again)
    assert again.threshold() == spade.threshold()
    mine, its = again.predict(noise(seed=9)), spade.predict(noise(seed=9))
    np.testing.assert_array_equal(mine.judged_map, its.judged_map)
    again.save(tmp_path / "twice")
    twice = SPADE.load(tmp_path / "twice", spade.backbone)
    assert twice.threshold(0.1) == spade.threshold(0.1)


def test_a_function_is_asked_for_again(fit, tmp_path):
    spade = fit(bright)
    spade.save(tmp_path)
    again = SPADE.load(tmp_path, spade.backbone)
    assert again.threshold(0.2, of="image") == spade.threshold(0.2, of="image")
    assert again.predict_left_out(1).image_score == spade.predict_left_out(1).image_score
    for judge in (again.predict, again.add, again.judge):
        with pytest.raises(
            ValueError, match=r"fitted with a function as roi, .* not saved\. Pass it again: SPADE\.load"
        ):
            judge(noise(seed=9))
    assert again.predict(noise(seed=9), roi=CORNERS).roi.any()


def test_a_function_is_for_fits_that_had_one(fit, tmp_path):
    for roi, held in ((None, "none"), (CORNERS, "a polygon, which was saved")):
        spade = fit(roi)
        spade.save(tmp_path)
        with pytest.raises(ValueError, match=rf"roi must be a function, if one .* this fit is {held}\. Leave it out"):
            SPADE.load(tmp_path, spade.backbone, roi=bright)
    spade = fit(bright)
    spade.save(tmp_path)
    with pytest.raises(ValueError, match=r"roi must be a function.*got \[\(20, 30\)"):
        SPADE.load(tmp_path, spade.backbone, roi=CORNERS)


def test_versions_that_know_no_roi_refuse_such_a_fit(fit, tmp_path, monkeypatch):
    plain, spade = fit(None), fit()
    plain.save(tmp_path / "plain")
    spade.save(tmp_path / "roi")
    assert json.loads((tmp_path / "plain" / "spade.json").read_text())["format"] == 2
    monkeypatch.setattr(checkpoint, "_READ", (1, 2))
    assert SPADE.load(tmp_path / "plain", plain.backbone).roi is None
    with pytest.raises(ValueError, match=r"format of .* must be a number from 1 to 2; got 3, written by spade_kit"):
        SPADE.load(tmp_path / "roi", spade.backbone)


@pytest.mark.parametrize(
    "change",
    [
        {"size": [HEIGHT, -1]},
        {"size": [HEIGHT]},
        {"packed": "", "corners": [[1, 2], [3, 4]]},
        {"packed": "", "corners": "corners"},
        {"packed": "~~~"},
        {"packed": "abc"},
        {"packed": ""},
        {"packed": 3},
        {"packed": [1], "corners": [[1, 2], [3, 4], [1, 4]]},
        {"packed": "", "corners": [[1, 2], [3, 4], [1, 4]], "size": [2**16, 2**16]},
    ],
)
def test_a_damaged_roi_is_refused(fit, tmp_path, change):
    spade = fit(as_mask())
    spade.save(tmp_path)
    manifest = json.loads((tmp_path / "spade.json").read_text())
    manifest["roi"] |= change
    (tmp_path / "spade.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="its settings have another checksum"):
        SPADE.load(tmp_path, spade.backbone)
    del manifest["checksum"]
    (tmp_path / "spade.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"is damaged or incomplete"):
        SPADE.load(tmp_path, spade.backbone)


def test_a_fit_into_a_folder_has_the_same_roi(tiny, photos, fit, tmp_path):
    for roi in (CORNERS, bright):
        spade = SPADE(tiny).fit(photos, folder=tmp_path, roi=roi)
        assert spade.roi == fit(roi).roi
        assert spade.gallery.roi_mark == fit(roi).gallery.roi_mark
        assert spade.predict(noise(seed=9)).image_score == pytest.approx(fit(roi).predict(noise(seed=9)).image_score)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("roi", "said"),
    [
        ([(1, 2), (3, 4)], r"a polygon of at least three corners \(row, col\).*; got \[\(1, 2\), \(3, 4\)\]"),
        ([(1, 2), (3, 4), (5, np.nan)], r"each a finite number of pixels; got \[\(1, 2\), .*nan"),
        ([(1, 2), (3, 4), (5, np.inf)], r"each a finite number of pixels"),
        ([(1, 2), (3, 4), (5, 1e9)], r"each a finite number of pixels"),
        ([(1, 2), (3, 4), (5,)], r"roi must be a mask"),
        ([], r"roi must be a mask"),
        (3, r"roi must be a mask \(a path, a PIL image, or a bool or uint8 array\), a function .*; got 3\. Pass"),
        (np.ones((HEIGHT, WIDTH)), r"roi must be a mask .*; got an array of shape \(90, 106\)"),
        (np.ones((HEIGHT, WIDTH, 3), bool), r"roi must be a mask .*; got an array of shape \(90, 106, 3\)"),
        (np.ones((50, 60), bool), r"size of its image, 90 x 106 px; got a mask for 50 x 60 px\. Use a function"),
        (np.zeros((HEIGHT, WIDTH), bool), r"roi must mark some of the evaluated crop, rows 5 to 84 and columns 6 to 99 "
         r"of the image; got 0 pixels, none of them there\. Mark more, or use load_backbone\(\.\.\., crop=None\)"),
        ([(0, 0), (0, 3), (3, 3), (3, 0)], r"rows 5 to 84 and .*; got 16 pixels, none of them there"),
        ([(-9, -9), (-9, -3), (-3, -3)], r"got 0 pixels, none of them there"),
        (lambda photo: photo > 9, r"must return a bool or uint8 array of its image's size, \(90, 106\); got shape "
         r"\(90, 106, 3\) and type bool\. Compare"),
        (lambda photo: photo.mean(2), r"got shape \(90, 106\) and type float64"),
        (lambda photo: (photo > 9).any(2).T, r"got shape \(106, 90\) and type bool"),
        (lambda photo: None, r"got shape \(\) and type object"),
        (lambda photo: np.zeros(photo.shape[:2], bool), r"got 0 pixels, none of them there"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_sentence(fit, tiny, photos, roi, said):
    with pytest.raises(ValueError, match=said):
        fit(roi)
    with pytest.raises(ValueError, match=said):
        SPADE(tiny).fit(photos).predict(noise(seed=9), roi=roi)


def test_a_missing_mask_is_named(fit, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"roi\.png"):
        fit(tmp_path / "roi.png")


def test_images_of_another_size_are_left_out_and_named(tiny, photos, tmp_path):
    Image.fromarray(noise(70, 80)).save(tmp_path / "other.png")
    with pytest.warns(
        UserWarning, match=r"Skipped 1 of 8 images\. other\.png: roi must have the size of its image, 70"
    ):
        spade = SPADE(tiny).fit([*photos, tmp_path / "other.png"], roi=CORNERS)
    assert len(spade) == 7
    with pytest.raises(
        ValueError, match=r"roi must have the size of its image, 70 x 80 px; got a polygon for 90 x 106"
    ):
        spade.predict(tmp_path / "other.png")


# ---- folders and evaluations -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    with crew(2) as client:
        yield client


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(5):
        Image.fromarray(noise(seed=20 + seed)).save(folder / f"{seed}.png")
    Image.fromarray(noise(80, 90)).save(folder / "other.png")
    return folder


@pytest.mark.parametrize("judged", ["map", "excess"])
def test_folders_are_judged_inside(fit, folder, tmp_path, judged):
    spade = fit(judged=judged)
    table = spade.predict_folder(folder, tmp_path / "out", 0.2)
    assert table["verdict"].tolist()[-1] == "not judged"
    assert "other.png: roi must have the size of its image" in table["reason"].tolist()[-1]
    for row in table.iloc[:-1].itertuples():
        result = spade.predict(folder / row.path)
        assert row.image_score == pytest.approx(result.anomaly_map[result.roi].max(), rel=1e-4)
        assert row.judged == pytest.approx(result.crop.judged, abs=1e-4)
        whole = replace(result.crop, roi=None)
        inside = ~np.isnan(result.on_photo())
        assert 0 < inside.mean() < 0.4
        assert inside[row.row, row.col]
        raw = np.array(Image.open(tmp_path / "out" / "maps" / f"{row.path[:-4]}.tiff"))
        np.testing.assert_allclose(raw, np.where(inside, whole.put_back(result.anomaly_map), 0), rtol=1e-3)
        values = whole.put_back(result.excess_map if judged == "excess" else result.anomaly_map)
        found = np.array(Image.open(tmp_path / "out" / "segmentations" / f"{row.path[:-4]}.png")) > 0
        np.testing.assert_array_equal(found, inside & (values >= spade.threshold()))
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    for row in table.iloc[:-1].itertuples():
        assert f"at row {row.row}, column {row.col} of the" in " ".join(page.split())


def test_a_folder_of_results_belongs_to_one_roi(fit, folder, tmp_path):
    fit().predict_folder(folder, tmp_path / "out", 0.2)
    for other in (None, as_mask([(20, 30), (20, 75), (60, 90)])):
        with pytest.raises(ValueError, match=r"holds results of another run: .*options was '.*roi polygon \w{12}'"):
            fit(other).predict_folder(folder, tmp_path / "out", 0.2)
    fit(None).predict_folder(folder, tmp_path / "plain", 0.2)
    with pytest.raises(ValueError, match=r"holds results of another run: .*is now '.*roi polygon \w{12}'"):
        fit().predict_folder(folder, tmp_path / "plain", 0.2)


def test_workers_get_the_roi(demo, client, folder, tmp_path):
    (folder / "other.png").unlink()
    limit = 110
    backbone = load_backbone("resnet18", pretrained=False, resize=72, crop=64)
    photos = [folder / f"{seed}.png" for seed in range(5)]
    spade = SPADE(backbone).fit(photos, roi=lambda photo: photo.mean(2) > limit, folder=tmp_path / "fit", client=client)
    expected = SPADE(backbone).fit(photos, roi=bright)
    assert spade.gallery.roi_mark == expected.gallery.roi_mark
    tables = [one.predict_folder(folder, tmp_path / str(at), 0.2, client=client if at else None) for at, one in
              enumerate((expected, spade))]  # fmt: skip
    np.testing.assert_allclose(tables[1]["image_score"], tables[0]["image_score"], rtol=1e-4)
    assert tables[1]["judged"].tolist() == tables[0]["judged"].tolist()


def slow_aupro(maps, masks, rois, limit):
    """Region by region and threshold by threshold, over the pixels inside."""
    regions = [(at, found == one) for at, mask in enumerate(masks & rois)
               for found, count in [label(mask, np.ones((3, 3)))] for one in range(1, count + 1)]  # fmt: skip
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps[rois])[::-1]:
        found = (maps >= threshold) & rois
        false = (found & ~masks).sum() / (rois & ~masks).sum()
        points.append((false, np.mean([(found[at] & region).sum() / region.sum() for at, region in regions])))
    x, y = np.array(points).T
    ends = np.append(x[x <= limit], limit), np.append(y[x <= limit], np.interp(limit, x, y))
    return np.sum(np.diff(ends[0]) * (ends[1][1:] + ends[1][:-1]) / 2) / limit


@given(st.integers(0, 2**32))
def test_pixel_metrics_leave_the_outside_out(seed):
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 30, (3, 9, 7)).astype(np.float32)
    masks, rois = rng.random((2, 3, 9, 7)) < [[[[0.2]]], [[[0.6]]]]
    bad = masks[rois]
    assume(bad.any() and not bad.all())
    maps[masks] += 10
    spoilt = np.where(rois, maps, np.nan)
    for limit in (0.05, 0.3):
        assert aupro(spoilt, masks, limit, rois) == pytest.approx(slow_aupro(maps, masks, rois, limit), abs=1e-9)
    assert pixel_roc_auc(spoilt, masks, rois) == pytest.approx(roc_auc_score(bad, maps[rois]), abs=1e-9)
    assert pixel_average_precision(spoilt, masks, rois) == pytest.approx(average_precision_score(bad, maps[rois]))
    counts = PixelCounts.of(spoilt, masks & rois, rois)  # each value is a bin of its own
    assert counts.normal.sum() + counts.defect.sum() == rois.sum()
    for name in BINNED:
        assert BINNED[name](counts, np.ones(3, int)) == pytest.approx(OF_PIXELS[name](maps, masks, rois=rois), abs=1e-6)


def test_evaluations_leave_the_outside_out(demo, tmp_path):
    some = [sample for sample in demo.test if sample.label in ("good", "scratch", "stain")][::4]
    corners = [(30, 30), (30, 200), (290, 290), (290, 30)]
    spade = SPADE(k=5, score="top").fit(demo.train[:6], roi=corners)
    report, stored = evaluate(spade, some), evaluate(spade, some, folder=tmp_path)
    results = [spade.predict(sample) for sample in some]
    maps, masks, rois = (np.stack([getattr(one, name) for one in results]) for name in ("anomaly_map", "mask", "roi"))
    assert (masks & ~rois).any()
    for one in (report, stored, Report.load(tmp_path)):
        assert "roi polygon" in one.options
        assert one.metric("aupro") == pytest.approx(aupro(maps, masks, 0.3, rois), abs=1e-3)
        assert one.metric("pixel_roc_auc") == pytest.approx(roc_auc_score(masks[rois], maps[rois]), abs=1e-4)
        low, high = one.interval("aupro", draws=20)
        assert low <= one.metric("aupro") <= high
        threshold = float(np.median(maps))
        rates = one.rates(threshold)
        assert rates["recall"] == pytest.approx((maps >= threshold)[masks & rois].mean(), abs=1e-3)
        assert rates["false_positive_rate"] == pytest.approx((maps >= threshold)[rois & ~masks].mean(), abs=1e-3)
        frame, scores = one.to_frame(), [result.image_score for result in results]
        for name in ("image_score", "top_score"):
            np.testing.assert_allclose(frame[name], scores, rtol=1e-4)
        pro = one.curves().query("curve == 'pro'")
        assert pro[["x", "y"]].iloc[-1].tolist() == pytest.approx([1, 1])
    draw_hardest(report, 2)
    raw = np.array(Image.open(next((tmp_path / "maps").rglob("*.tiff"))))
    assert (raw > 0).mean() == pytest.approx(results[0].crop.judged, abs=0.01)


# ---- figures and widgets ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def framed(demo):
    """A fit of six images of the demo that is judged on its left half, and an image with a scratch."""
    spade = SPADE(k=3).fit(demo.train[:6], roi=[(40, 40), (40, 170), (280, 170), (280, 40)])
    return spade, [next(sample for sample in demo.test if sample.label == "scratch"), demo.test[-1]]


def test_a_figure_shows_the_border_of_the_roi(framed):
    spade, photos = framed
    result = spade.predict(photos[0])
    figure = draw_result(result, regions=True)
    heat, outline = figure.axes[1:3]
    np.testing.assert_array_equal(np.ma.getmaskarray(heat.images[0].get_array()), ~result.roi)
    assert [text.get_text() for text in outline.get_legend().get_texts()][:2] == ["detected", "roi"]
    plain = draw_result(spade.predict(photos[0], roi=np.ones((320, 320), bool)))
    assert "roi" not in [text.get_text() for text in plain.axes[2].get_legend().get_texts()]


@pytest.mark.parametrize("judged", ["map", "excess"])
def test_the_explorer_stays_inside(framed, judged, tmp_path):
    spade, photos = framed
    widget = explore(spade.with_options(judged=judged), photos)
    widget.finish()
    result = spade.with_options(judged=judged).predict(photos[0])
    assert result.roi[widget.probe]
    assert widget.photo["roi"] == np.packbits(result.roi).tobytes()
    assert widget.threshold == pytest.approx(widget.spade.with_options(judged=judged).threshold(), rel=1e-5)
    assert widget.scores[0][0] == pytest.approx(result.image_score, rel=1e-5)
    row, col = np.argwhere(~result.roi)[0]
    widget.probe = (int(row), int(col))
    assert np.isfinite(widget.readout().drop(columns=["normal", "neighbour"]).to_numpy(float)).all()
    widget.draw()
    widget.save_html(tmp_path / "page.html")
    assert widget._repr_mimebundle_()


def test_the_chooser_counts_what_lies_inside(framed):
    spade, photos = framed
    for of in ("image", "pixel"):
        widget = choose_threshold(spade, photos, of=of)
        widget.finish()
        widget.rule = "0.2"
        assert float(widget) == pytest.approx(spade.threshold(0.2, of=of), rel=1e-5)
    inside = sum(spade.predict_left_out(index).roi.sum() for index in range(len(spade)))
    assert widget.judgement.normals == inside
    widget.rule = "f1"
    assert widget.judgement.sentence


def test_views_are_ranked_and_scaled_inside(framed):
    spade, photos = framed
    widget = compare_layers(spade, photos, views=["layer1", None])
    widget.finish()
    result = spade.predict(photos[0])
    assert (result.mask & result.roi).any()
    expected = aupro(result.anomaly_map[None], result.mask[None], rois=result.roi[None])
    assert widget.readout()["aupro"].iloc[-1] == pytest.approx(expected, abs=1e-3)
    assert widget.levels[-1]["level"] == pytest.approx(spade.normal_level, rel=1e-4)
    widget.draw()


def test_reviews_and_paintings_stay_inside(framed):
    spade, photos = framed
    review = review_suspects(spade)
    review.finish()
    assert review.photo["score"] == pytest.approx(spade.suspects()["score"].iloc[0], rel=1e-5)
    assert review.photo["roi"] == np.packbits(review.result.roi).tobytes()
    review.draw()
    painting = paint_defect(spade, photos[0])
    painting.finish()
    assert painting.result.roi[painting.probe]
    before = painting.result.image_score
    painting.stroke("brush", [(100, 205), (120, 205)], size=9, colour="red")  # far outside
    assert painting.result.roi is not None
    assert painting.result.image_score == pytest.approx(before, rel=0.2)


def test_another_function_than_the_one_that_was_fitted_is_refused(tiny, photos, tmp_path):
    for at, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / f"{at}.png")
    files = sorted(tmp_path.glob("*.png"))
    SPADE(tiny).fit(files, roi=bright).save(tmp_path / "fit")
    assert SPADE.load(tmp_path / "fit", tiny, roi=bright).roi.function is bright
    with pytest.raises(
        ValueError, match=r"the function that was given to fit; got one that marks other pixels of .*0\.png"
    ):
        SPADE.load(tmp_path / "fit", tiny, roi=lambda photo: photo.mean(2) > 90)
    for file in files:
        file.unlink()
    SPADE.load(tmp_path / "fit", tiny, roi=bright)  # there is nothing to compare with


class Brighter:
    def __init__(self, level):
        self.level = level

    def __call__(self, photo):
        return photo.mean(2) > self.level


def brighter(level, photo):
    return photo.mean(2) > level


def make_brighter(level):
    return lambda photo: photo.mean(2) > level


def calls_itself(photo):
    return photo.mean(2) > 80 if photo.ndim else calls_itself(photo)


@pytest.mark.parametrize("make", [make_brighter, Brighter, lambda level: partial(brighter, level)])
def test_functions_are_told_apart_by_their_code_and_what_they_refer_to(make):
    assert Roi(function=make(80)).code == Roi(function=make(80)).code != Roi(function=make(90)).code
    assert Roi(function=calls_itself).code == Roi(function=calls_itself).code != Roi(function=bright).code
    assert Roi.of(CORNERS, (90, 106)).code == ""


def with_default(level):
    def look(photo, *, above=level):
        return photo.mean(2) > above

    return look


def with_module(level):
    tools = types.ModuleType("tools")
    exec(f"level = {level}\ndef look(photo): return photo.mean(2) > level", tools.__dict__)
    return eval("lambda photo: tools.look(photo)", {"tools": tools})


def with_class(level):
    class Tools:
        above = level

    return eval("lambda photo: photo.mean(2) > Tools.above", {"Tools": Tools})


def with_slots(level):
    class Look:
        __slots__ = ("level",)

        def __call__(self, photo):
            return photo.mean(2) > self.level

    look = Look()
    look.level = level
    return look


def with_network(level):
    network = torch.nn.Linear(3, 1)
    with torch.no_grad():
        network.weight.fill_(1 / 3)
        network.bias.fill_(-level)
    return lambda photo: network(torch.from_numpy(photo).float())[..., 0].detach().numpy() > 0


@pytest.mark.parametrize("make", [with_default, with_module, with_class, with_slots, with_network])
def test_functions_are_told_apart_by_what_they_mark_where_the_code_does_not_show_it(make):
    assert Roi(function=make(80)).code == Roi(function=make(80)).code != Roi(function=make(82)).code


@pytest.mark.parametrize("look", [lambda photo: photo[:, :, 7], lambda photo: None, lambda photo: [photo, "no mask"]])
def test_a_function_that_marks_nothing_in_other_images_has_one_code(look):
    assert Roi(function=look).code == Roi(function=look).code != ""


def test_a_run_of_another_function_is_another_run(tiny, photos, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(seed=9)).save(tmp_path / "in/0.png")
    SPADE(tiny).fit(photos, roi=make_brighter(80)).save(tmp_path / "fit")  # of arrays: there is nothing to compare with
    first = SPADE.load(tmp_path / "fit", tiny, roi=make_brighter(80)).predict_folder(tmp_path / "in", tmp_path / "out")
    again = SPADE.load(tmp_path / "fit", tiny, roi=make_brighter(80)).predict_folder(tmp_path / "in", tmp_path / "out")
    pandas.testing.assert_frame_equal(first, again)
    other = SPADE.load(tmp_path / "fit", tiny, roi=make_brighter(120))
    with pytest.raises(ValueError, match="holds results of another run: roi_code was"):
        other.predict_folder(tmp_path / "in", tmp_path / "out")


def test_an_image_given_as_roi_by_mistake_is_remarked_on(tiny, photos, tmp_path):
    Image.fromarray(photos[0]).save(tmp_path / "photo.png")
    with pytest.warns(
        UserWarning, match=r"roi should be a mask; .*photo\.png has many colours, like an image, and 89 %"
    ):
        SPADE(tiny).fit(photos, roi=tmp_path / "photo.png")


# ---- what normal images say about place ------------------------------------------------------------------------------


@pytest.mark.parametrize("roi", [CORNERS, bright], ids=["polygon", "function"])
def test_place_is_examined_inside_the_roi_of_every_normal_image(fit, roi):
    """Whatever lies outside does not count: the same figures follow from maps without it."""
    spade = fit(roi, sigma=2)
    results = [spade.with_options(judged="excess").predict_left_out(index) for index in range(len(spade))]
    inside = np.logical_and.reduce([result.roi for result in results])
    assert 0 < inside.sum() < inside.size
    step = max(1, inside.shape[1] // 80)
    sampled = inside[::step, ::step]
    raw = np.array([result.anomaly_map[::step, ::step][sampled] for result in results], float)
    left = [((values - np.delete(raw, at, 0).mean(0)) ** 2).sum() for at, values in enumerate(raw)]
    assert spade.placement.share == pytest.approx(1 - sum(left) / ((raw - raw.mean()) ** 2).sum(), rel=1e-4)
    level = spade.predict(noise(seed=9)).place_level
    assert spade.placement.relief == pytest.approx(level[inside].std() / level[inside].mean(), rel=1e-5)
    tops = [np.sort(result.anomaly_map[inside])[-max(1, inside.sum() // 100) :].mean() for result in results]
    excess = [np.sort(result.excess_map[inside])[-max(1, inside.sum() // 100) :].mean() for result in results]
    parts = raw.mean(0) - np.percentile(raw.mean(0), 1)
    parts = np.maximum(parts, 0)
    rises = []
    for values, found in ((tops, raw), (excess, [result.excess_map[::step, ::step][sampled] for result in results])):
        rises.append(np.quantile(values, 0.9) - np.average(np.mean(found, 0), weights=parts))
    assert spade.placement.hurdle == pytest.approx(rises[1] / rises[0], rel=1e-3)


def test_matches_outside_a_roi_do_not_count_as_near(tiny, fit):
    spade = fit([(0, 0), (0, 40), (89, 40), (89, 0)])
    h, w = spade.gallery.shapes[0][1:]
    near, far = (max(1, round(part * min(h, w))) for part in (0.05, 0.15))
    mask = spade.gallery.common_roi
    cells = np.array([[block.any() for block in np.array_split(rows, w, axis=1)] for rows in np.array_split(mask, h)])
    assert 0 < cells.sum() < cells.size
    close = []
    for index in range(len(spade)):
        found = spade.with_options(radius=far).predict_left_out(index).correspondence
        rows, cols = np.indices((h, w))
        close.append(np.maximum(abs(found.row[0] - rows), abs(found.col[0] - cols))[cells] <= near)
    assert spade.placement.alike == pytest.approx(np.mean(close))


def test_rois_without_a_common_place_leave_the_whole_crop_to_be_examined(tiny, photos):
    turns = iter(range(99))

    def half(photo):
        return (np.arange(photo.shape[1]) < 50) == (next(turns) % 2 == 0) * np.ones((photo.shape[0], 1), bool)

    assert SPADE(tiny).fit(photos, roi=half).placement == SPADE(tiny).fit(photos).placement
