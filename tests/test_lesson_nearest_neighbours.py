"""Lesson 01: distances by hand, distances in many dimensions, and an exercise that names the mistake."""

import numpy as np
import pandas
import pytest

from spade_kit.lessons.nearest_neighbours import (
    as_pixels,
    as_pooled,
    check,
    check_k,
    check_think,
    contrast,
    describe_thrice,
    draw_contrast,
    draw_landscape,
    draw_thrice,
    make_bolts,
    mean_distance,
    separate,
    shift,
    shuffle,
)


def by_hand(query, normals, k):
    distances = sorted(sum((a - b) ** 2 for a, b in zip(query, normal)) ** 0.5 for normal in normals)
    return sum(distances[:k]) / k


@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_score_is_the_mean_of_the_k_smallest_distances(k, rng):
    queries, normals = rng.normal(size=(4, 5)), rng.normal(size=(7, 5))
    expected = [by_hand(query, normals, k) for query in queries]
    np.testing.assert_allclose(mean_distance(queries, normals, k), expected)


def test_the_mean_of_all_bolts_is_the_most_anomalous_and_in_kilograms_the_hollow_one_is_normal():
    normals, rare, judged = make_bolts()
    assert normals.shape == (60, 2)
    assert rare.shape == (4, 2)
    bolts = np.stack(list(judged.values()))
    assert list(judged)[mean_distance(bolts, normals).argmax()] == "mean of all"
    in_kg = np.array([1, 0.001])
    assert list(judged)[mean_distance(bolts * in_kg, normals * in_kg).argmin()] == "hollow"
    np.testing.assert_allclose(judged["mean of all"], normals.mean(0))


def test_k_must_lie_between_the_number_of_mistakes_and_the_smallest_group():
    normals, rare, judged = make_bolts()
    slipped = np.vstack([normals, rare, [[40.1, 9.1]]])
    pair = np.stack([judged["hollow"], [50.3, 20.2]])
    hollow, fifth = np.stack([mean_distance(pair, slipped, k) for k in (1, 3, 10)], axis=1)
    assert (hollow > 3).tolist() == [False, True, True]
    assert (fifth > 3).tolist() == [False, False, True]


def test_contrast_of_points_on_a_line():
    # nearest and farthest: 0: 1, 7; 1: 1, 6; 3: 2, 4; 7: 4, 7; the median of 7, 6, 2, 7/4 is 4
    assert contrast(np.array([[0.0], [1.0], [3.0], [7.0]])) == pytest.approx(4)


def test_shuffling_keeps_every_column_and_removes_correlations(rng):
    points = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 300))  # two degrees of freedom, 300 numbers
    shuffled = shuffle(points)
    np.testing.assert_array_equal(np.sort(shuffled, axis=0), np.sort(points, axis=0))
    assert contrast(points) > 5
    assert contrast(shuffled) < 1.5


def test_a_shifted_image_is_moved_to_the_right(rng):
    photo = rng.integers(0, 256, (5, 9, 3)).astype(np.uint8)
    np.testing.assert_array_equal(shift(photo, 3)[:, 3:], photo[:, :-3])


def test_pixels_are_those_of_the_evaluated_crop(demo, spade):
    photo = demo.test[0]
    np.testing.assert_array_equal(as_pixels([photo])[0].reshape(224, 224, 3), spade.predict(photo).image)


def test_the_three_descriptions_equal_each_one_computed_alone(demo, spade):
    photos = {"good": demo.test[0].image, "shifted": shift(demo.test[0].image, 3)}
    table = describe_thrice(spade, demo.train[:12], photos)
    assert list(table.index) == ["good", "shifted"]
    normals = as_pixels(demo.train[:12])
    for name, photo in photos.items():
        result = spade.predict(photo)
        assert table.loc[name, "patches"] == pytest.approx(result.image_score)
        assert table.loc[name, "pooled vector"] == pytest.approx(result.neighbours.distance.min())
        assert table.loc[name, "pixels"] == pytest.approx(np.linalg.norm(normals - result.image.ravel(), axis=1).min())


def test_images_are_separated_by_the_distance_to_the_nearest(demo):
    good, bad = demo.train[6:9], [sample for sample in demo.test if sample.label == "wrong_colour"][-2:]

    def mean_colour(photos):
        return np.stack([photo.image.mean((0, 1)) for photo in photos])

    normals = mean_colour(demo.train[:6])
    scores = [[by_hand(colour, normals, 1) for colour in mean_colour(photos)] for photos in (good, bad)]
    pairs = [there > here for here in scores[0] for there in scores[1]]
    assert separate(demo.train[:6], [*good, *bad], mean_colour) == pytest.approx(np.mean(pairs))


def test_retrieval_compares_pooled_vectors(demo, spade):
    photo = demo.test[0]
    near = mean_distance(as_pooled([photo]), as_pooled(demo.train[:12]))
    assert near[0] == pytest.approx(spade.predict(photo).neighbours.distance[0], rel=1e-4)


def test_figures_say_what_they_show():
    normals, _, judged = make_bolts()
    figure = draw_landscape({"one": (normals, 1), "three": (normals, 3)}, judged)
    assert [panel.get_title() for panel in figure.axes[:2]] == ["one", "three"]
    assert [text.get_text() for text in figure.axes[0].texts][-1] == "mean of all: 9.4"
    assert figure.axes[1].get_xlim() == figure.axes[0].get_xlim() == (14, 56)

    (panel,) = draw_contrast({1: 90.0, 10: 3.0}, {"cells": (320, 4.0, 1.2)}).axes
    assert [line.get_label() for line in panel.lines if line.get_label()[0] != "_"] == [
        "random points", "images", "images, shuffled"]  # fmt: skip

    photos = dict.fromkeys(("as it is", "shifted", "scratched"), np.zeros((8, 8, 3), np.uint8))
    table = pandas.DataFrame({"pixels": [2.0, 3.0, 4.0], "patches": [1.0, 1.0, 3.0]}, index=list(photos))
    bars = draw_thrice(photos, table).subfigs[1].axes
    assert [[text.get_text().strip() for text in panel.texts] for panel in bars] == [
        ["", "+50%", "+100%"], ["", "+0%", "+200%"]]  # fmt: skip


def distances(query, normals):
    return np.sort(np.sqrt(((normals - query) ** 2).sum(1)))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda q, n, k: ..., "Not answered yet"),
        (by_hand, "Right. "),
        (lambda q, n, k: distances(q, n)[-k:].mean(), "Not yet. Those are the k farthest"),
        (lambda q, n, k: distances(q, n).mean(), "That is the mean over all 25"),
        (lambda q, n, k: (distances(q, n)[:k] ** 2).mean(), "Those are squared distances"),
        (lambda q, n, k: (distances(q, n)[:k] ** 2).mean() ** 0.5, "Take the square root of each"),
        (lambda q, n, k: distances(q, n)[:k].sum(), "That is the sum of the 3"),
        (lambda q, n, k: distances(q, n)[k - 1], "That is the distance to neighbour 3 alone"),
        (lambda q, n, k: distances(q, n)[0], "That is the distance to the nearest alone"),
        (lambda q, n, k: distances(q, n)[1 : k + 1].mean(), "The nearest point is missing"),
        (lambda q, n, k: distances(q, n.T[:, :, None])[:k], "A score must be one number; got an array of shape"),
        (lambda q, n, k: np.sort(np.sqrt(((n - q) ** 2).sum(0)))[:k].mean(), "sum over the dimensions"),
        (lambda q, n, k: np.sqrt(((n - q) ** 2).sum(1))[:k].mean(), "as they are stored: sort"),
        (lambda q, n, k: distances(q, n)[:3].mean(), "the mean of the nearest 3, but k is 5"),
        (lambda q, n, k: np.sort(abs(n - q).sum(1))[:k].mean(), "sums of absolute differences"),
        (lambda q, n, k: 1.0, "With k = 3 the score must be"),
        (lambda q, n, k: n @ n @ q, "Your code raises"),
    ],
)
def test_the_exercise_names_the_mistake(capsys, answer, said):
    check(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([...], "Not answered yet"),
        (..., "Not answered yet"),
        ([4, 3], "Right. "),
        ([2, 3, 4], "the two mistakes, so it looks normal"),
        ([3], "k = 4 works as well"),
        ([3, 4, 5], "With k = 5"),
        ([3, 4, 5, 6], "Beyond k = 4"),
        ([1, 2], "finds only the two mistakes"),
        ([1, 2, 3, 4], "it must be called anomalous, too"),
        ([6], "k lies above one count, up to the other"),
        (3, "an answer of another form; got 3"),
    ],
)
def test_the_choice_of_k_names_the_mistake(capsys, answer, said):
    check_k(answer)
    assert said in capsys.readouterr().out


def test_with_two_mistakes_k_is_three_or_four():
    normals, rare, judged = make_bolts()
    slipped = np.vstack([normals, rare, [[40.1, 9.1], [39.9, 8.9]]])
    pair = np.stack([judged["hollow"], [50.3, 20.2]])
    hollow, fifth = np.stack([mean_distance(pair, slipped, k) for k in range(1, 7)], axis=1)
    assert (np.flatnonzero((hollow > 1) & (fifth < 1)) + 1).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (100 * (64 / 224**2) ** 0.5, "Right. "),
        (3.57, "Right. "),
        (4, "Give two more digits"),
        (100 * 64 / 224**2, "the sums of the changes equal"),
        (800, "the distance of the scratch"),
        (100 * (64 / 224) ** 0.5, "224 x 224 pixels"),
        (100**2 * 64 / 224**2, "take the root"),
        (100, "The scratch is 800 away"),
    ],
)
def test_the_question_at_the_end_names_the_mistake(capsys, answer, said):
    check_think(answer)
    assert said in capsys.readouterr().out
