"""Lesson 09: metrics by hand, what they hide, and an exercise that explains mistakes."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import f1_score

from spade_kit import metrics
from spade_kit.lessons import metrics as lesson

THIRD = 1 / 3


def label_by_hand(mask):
    """Regions by flooding, corners included."""
    regions, count = np.zeros(mask.shape, int), 0
    for start in np.argwhere(mask):
        if regions[tuple(start)]:
            continue
        count += 1
        waiting = [tuple(start)]
        while waiting:
            row, col = waiting.pop()
            inside = 0 <= row < mask.shape[0] and 0 <= col < mask.shape[1]
            if inside and mask[row, col] and not regions[row, col]:
                regions[row, col] = count
                waiting += [(row + down, col + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return regions


def some_maps(seed=0, count=3):
    rng = np.random.default_rng(seed)
    maps, masks = rng.random((count, 9, 14)), np.zeros((count, 9, 14), bool)
    for image, mask in enumerate(masks):
        mask[1:3, image : image + 4] = mask[6, 9 + image] = True
    return maps + 0.3 * masks, masks


def test_a_warmer_lamp_has_more_red_and_less_blue():
    photo = np.array([[[100, 100, 100], [250, 7, 0]]], np.uint8)
    assert lesson.warm_up(photo).tolist() == [[[115, 100, 85], [255, 7, 0]]]
    assert lesson.warm_up(photo, 0).tolist() == photo.tolist()
    assert lesson.warm_up(photo).dtype == np.uint8


def test_a_small_case_by_hand():
    small_map, mask = lesson.make_small_map()
    table = lesson.overlap_by_hand(small_map, mask)
    assert table.index.tolist() == list("9876543210")
    assert table["fpr"].tolist() == pytest.approx([0, 0, 0, 0.05, 0.1, 0.15, 0.25, 0.5, 0.85, 1])
    assert table["region 1"].tolist() == [0] * 5 + [1] * 5
    assert table["region 2"].tolist() == pytest.approx([THIRD, 2 * THIRD] + [1] * 8)
    assert table["PRO"].tolist() == pytest.approx([THIRD / 2, THIRD, 0.5, 0.5, 0.5] + [1] * 5)
    assert table["recall"].tolist() == [0.25, 0.5, 0.75, 0.75, 0.75] + [1] * 5
    area = lesson.area_up_to(0.3, table["fpr"], table["PRO"])
    assert area == pytest.approx(0.1 * 0.5 + 0.05 * 0.75 + 0.15)
    assert area / 0.3 == pytest.approx(metrics.aupro(small_map[None], mask[None]))
    assert metrics.pixel_roc_auc(small_map[None], mask[None]) == pytest.approx(0.96875)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [0.05, 0.3, 0.77, 1])
def test_aupro_by_hand_equals_that_of_the_package(seed, limit):
    maps, masks = some_maps(seed, count=1)
    table = lesson.overlap_by_hand(maps[0].round(1), masks[0])  # rounded: many are equal
    by_hand = lesson.area_up_to(limit, table["fpr"], table["PRO"]) / limit
    assert by_hand == pytest.approx(metrics.aupro(maps.round(1), masks, limit))


def test_regions_touch_at_corners():
    mask = np.random.default_rng(0).random((20, 31)) < 0.25
    np.testing.assert_array_equal(lesson.number_regions(mask), label_by_hand(mask))
    assert lesson.number_regions(np.eye(3, dtype=bool)).max() == 1


@pytest.mark.parametrize("steps", [5, 100])
def test_evenly_spaced_thresholds_match_a_plain_loop(steps):
    maps, masks = some_maps()
    x, y = [], []
    for threshold in np.linspace(maps.max(), maps.min(), steps):
        found = maps >= threshold
        parts = [found[image][label_by_hand(masks[image]) == region].mean() for image in range(3) for region in (1, 2)]
        if (fpr := found[~masks].mean()) < 0.3:
            x.append(fpr)
            y.append(np.mean(parts))
    area = sum((right - left) * (low + high) / 2 for left, right, low, high in zip(x, x[1:], y, y[1:]))
    assert lesson.aupro_at_even_thresholds(maps, masks, steps) == pytest.approx(area / 0.3)


def test_more_evenly_spaced_thresholds_come_nearer_to_the_area():
    maps, masks = some_maps()
    maps[0, 0, 0] = 30  # one odd pixel stretches the range
    right = metrics.aupro(maps, masks)
    assert lesson.aupro_at_even_thresholds(maps, masks, 100) < right - 0.1
    assert lesson.aupro_at_even_thresholds(maps, masks, 100_000) == pytest.approx(right, abs=0.01)


def test_f1_is_scikit_learns():
    rng = np.random.default_rng(0)
    bad = rng.random(30) < 0.4
    scores = rng.normal(size=30) + bad
    for threshold in (*scores[:4], -9):
        assert lesson.f1_at(threshold, scores, bad) == pytest.approx(f1_score(bad, scores >= threshold))
    assert lesson.f1_at(99, scores, bad) == 0


def test_f1_is_higher_on_the_half_that_chose_the_threshold():
    kinds = ["good"] * 10 + ["chip"] * 8 + ["stain"] * 6
    scores = np.random.default_rng(1).normal(size=24)  # pure noise
    chosen, other = lesson.f1_on_halves(scores, kinds, draws=50)
    assert chosen > other + 0.05
    assert lesson.f1_on_halves(np.array([kind != "good" for kind in kinds], float), kinds, draws=5) == (1, 1)


def test_halves_hold_half_of_each_kind(monkeypatch):
    seen = []
    monkeypatch.setattr(lesson, "f1_threshold", lambda scores, bad: seen.append((len(bad), bad.sum())) or 0.0)
    lesson.f1_on_halves(np.arange(9.0), ["good"] * 4 + ["chip"] * 3 + ["stain"] * 2, draws=3)
    assert seen == [(4, 2)] * 3


def test_a_stretched_map_reaches_from_0_to_1():
    assert lesson.stretch(np.array([[2.0, 3.0, 6.0]])).tolist() == [[0, 0.25, 1]]


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_numbers_stand_in_their_cells_and_outlines_around_regions():
    small_map, mask = lesson.make_small_map()
    (panel,) = lesson.draw_small_map(small_map, mask).axes
    written = {text.get_position(): text.get_text() for text in panel.texts}
    assert all(written[col, row] == f"{value:g}" for (row, col), value in np.ndenumerate(small_map))
    # three sides of (1, 1) and of (1, 2), four of (2, 3), which touches only at a corner, and of (0, 5)
    assert len(panel.lines) == 3 + 3 + 4 + 4


def test_the_small_curve_has_one_point_per_threshold():
    table = lesson.overlap_by_hand(*lesson.make_small_map())
    (panel,) = lesson.draw_small_curve(table).axes
    assert panel.lines[0].get_xydata()[1:].tolist() == table[["fpr", "PRO"]].to_numpy().tolist()
    assert [text.get_text() for text in panel.texts] == table.index.tolist()


def test_maps_are_drawn_raw_on_one_scale_and_stretched_on_their_own(spade, demo):
    results = [spade.predict(sample) for sample in demo.test[:2]]
    figure = lesson.draw_stretched(results)
    assert isinstance(figure, Figure)
    images = [panel.images[0] for panel in figure.axes[:6]]
    for raw, own, result in zip(images[2:4], images[4:], results):
        np.testing.assert_array_equal(raw.get_array(), result.anomaly_map)
        assert raw.get_clim() == (0, pytest.approx(2 * spade.normal_level))
        assert (own.get_array().min(), own.get_array().max(), own.get_clim()) == (0, 1, (0, 1))


# ---- the exercise ----------------------------------------------------------------------------------------------------


def parts_of(found, regions, first=1):
    return [found[regions == number].mean() for number in range(first, regions.max() + 1)]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda m, r, t: ..., "Not answered yet"),
        (lambda m, r, t: np.mean(parts_of(m >= t, r)), "Right. "),
        (lambda m, r, t: (m >= t)[r > 0].mean(), "Not yet. That is the recall"),
        (lambda m, r, t: np.mean(parts_of(m > t, r)), "use >=, not >."),
        (lambda m, r, t: np.mean(parts_of(m >= t, r, first=0)), "numbered 0, are not a region"),
        (lambda m, r, t: sum(parts_of(m >= t, r)), "That is the sum over the regions"),
        (lambda m, r, t: np.mean(parts_of(m >= t, r)[:-1]), "The last region is missing"),
        (lambda m, r, t: sum(parts_of(m >= t, r)) / len(np.unique(r)), "but there are 3 regions"),
        (lambda m, r, t: (m >= t)[r > 0].sum() / r.max(), "the mean number of pixels found"),
        (lambda m, r, t: (m >= t)[r > 0].mean() / r.max(), "not by the number of all defect pixels"),
        (lambda m, r, t: np.mean(parts_of(m < t, r)), "That is the fraction missed"),
        (lambda m, r, t: (m >= t)[r == 0].mean(), "That is the false-positive rate"),
        (lambda m, r, t: (m >= t).mean(), "the fraction of all pixels that are marked"),
        (lambda m, r, t: max(parts_of(m >= t, r)), "the region found best"),
        (lambda m, r, t: min(parts_of(m >= t, r)), "the region found worst"),
        (lambda m, r, t: 100 * np.mean(parts_of(m >= t, r)), "in percent"),
        (lambda m, r, t: parts_of(m >= t, r), "0.78, 0.50, 0.00: return their mean"),
        (lambda m, r, t: m >= t, "one number; got an array of shape (8, 12)"),
        (lambda m, r, t: np.mean([part > 0 for part in parts_of(m >= t, r)]), "as soon as one of its pixels is"),
        (lambda m, r, t: (r > 0)[m >= t].mean(), "That is the precision"),
        (lambda m, r, t: ((m >= t) & (r > 0)).sum() / ((m >= t) | (r > 0)).sum(), "intersection over union"),
        (lambda m, r, t: 0.123, "The fractions found are "),
        (lambda m, r, t: "0.5 or so", "an answer of another form; got '0.5 or so'"),
        (lambda m, r, t: print(), "The function returned nothing"),
        (lambda m, r, t: m[t], "Your code raises IndexError"),
    ],
)
def test_the_exercise_says_what_is_wrong(capsys, answer, said):
    lesson.check(answer)
    assert said in capsys.readouterr().out


def test_typical_mistakes_in_the_exercise_give_different_numbers():
    seen = []
    mistakes = {"recall": lambda m, r, t: (m >= t)[r > 0].mean(), "above": lambda m, r, t: np.mean(parts_of(m > t, r))}
    for mistake in (*mistakes.values(), lambda m, r, t: np.mean(parts_of(m >= t, r))):
        lesson.check(lambda m, r, t, mistake=mistake: seen.append(mistake(m, r, t)) or 0.0)
    assert len({round(value, 6) for value in seen}) == 3
    assert min(seen) > 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([..., ...], "Not answered yet"),
        ([np.mean([80 / 100, 0 / 4]), (80 + 0) / (100 + 4)], "Right. "),
        ([0.4, 0.77], "Right. "),
        ([0.77, 0.4], "swapped"),
        ([0.4, 0.4], "Recall counts pixels"),
        ([0.77, 0.77], "PRO gives both regions the same weight"),
        ([0.4, 0.8], "not of 100"),
        ([40, 77], "divide by 100"),
        ([1, 1], "got [1, 1]"),
    ],
)
def test_the_warm_up_says_what_is_wrong(capsys, answer, said):
    lesson.check_regions(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([..., 1], "Not answered yet"),
        ([0.8 * 250 / (0.8 * 250 + 0.02 * 50_000), 0.8 * 250 / 50_000], "Right. "),
        ([0.976, 0.004], "count pixels"),
        ([0.2, 0.004], "200 of all 1,200"),
        ([0.167, 0.02], "as many normal pixels"),
        ([0.167, 200], "not a number of pixels"),
        ([0.167, 0.005], "Only 80 %"),
        ([0.17, 0.004], "Right. "),
        ([0.004, 0.17], "swapped"),
        ([16.7, 0.4], "divide by 100"),
        ([0.5, 0.5], "Count the pixels"),
    ],
)
def test_the_question_says_what_is_wrong(capsys, answer, said):
    lesson.check_think(answer)
    assert said in capsys.readouterr().out
