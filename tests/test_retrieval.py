"""Stage 2: the nearest images against float64 and scikit-learn; ties, zeros and counts."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from spade_kit import SPADE, Pyramid, nearest_images
from spade_kit.retrieval import find_nearest, find_nearest_of_many


def make_pyramid(vectors) -> Pyramid:
    """Only the pooled vectors matter here."""
    vectors = torch.tensor(np.asarray(vectors), dtype=torch.float32)
    return Pyramid([torch.zeros(len(vectors), 1, 1, 1)], ["layer1"], vectors)


def test_the_nearest_are_those_of_a_loop_in_float64(rng):
    query, gallery = (rng.normal(size=(n, 13)).astype(np.float32) for n in (4, 23))
    near = nearest_images(make_pyramid(query), make_pyramid(gallery), k=7)
    assert near.index.shape == near.distance.shape == (4, 7)
    assert len(near) == 7
    for row, asked in enumerate(query.astype(np.float64)):
        distance = [float(np.sqrt(((asked - held) ** 2).sum())) for held in gallery.astype(np.float64)]
        by_hand = sorted(range(23), key=lambda image: distance[image])[:7]
        np.testing.assert_array_equal(near.index[row], by_hand)
        np.testing.assert_allclose(near.distance[row], [distance[image] for image in by_hand], rtol=1e-6)


@pytest.mark.parametrize("offset", [0, 300])
def test_the_nearest_are_those_of_scikit_learn(rng, offset):
    """Also far from the origin, where a matrix product in float32 would lose the small differences."""
    query, gallery = (offset + rng.normal(size=(n, 320)) for n in (9, 31))
    near = nearest_images(make_pyramid(query), make_pyramid(gallery), k=5)
    exact = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(gallery)
    distance, index = exact.kneighbors(query)
    np.testing.assert_array_equal(near.index, index)
    np.testing.assert_allclose(near.distance, distance, rtol=1e-5)


def test_a_hand_worked_case():
    """A 3-4-5 triangle, its double, and the query itself."""
    near = nearest_images(make_pyramid([[1, 1]]), make_pyramid([[7, 9], [4, 5], [1, 1], [1, 3]]), k=4)
    np.testing.assert_array_equal(near.index, [[2, 3, 1, 0]])
    np.testing.assert_array_equal(near.distance, [[0, 2, 5, 10]])


def test_ties_go_to_the_first_in_the_gallery():
    """More than sixteen elements, where an unstable sort starts to shuffle."""
    gallery = np.zeros((60, 2))
    gallery[::3] = [3, 4]
    near = nearest_images(make_pyramid([[0, 0], [3, 4]]), make_pyramid(gallery), k=60)
    away, zero = np.arange(0, 60, 3), np.flatnonzero(np.arange(60) % 3)
    np.testing.assert_array_equal(near.index, [[*zero, *away], [*away, *zero]])
    np.testing.assert_array_equal(near.distance[0], [0] * 40 + [5] * 20)


@pytest.mark.parametrize("size", [1e-3, 1, 1e4])
def test_an_image_of_the_gallery_is_at_distance_0_from_itself(rng, size):
    gallery = make_pyramid(size * (5 + rng.normal(size=(40, 320))))
    near = nearest_images(gallery, gallery, k=2)
    np.testing.assert_array_equal(near.index[:, 0], np.arange(40))
    np.testing.assert_array_equal(near.distance[:, 0], 0)
    assert (near.distance[:, 1] > size).all()


def test_the_order_of_the_gallery_changes_nothing_but_the_indices(rng):
    query, gallery = make_pyramid(rng.normal(size=(3, 8))), make_pyramid(rng.normal(size=(20, 8)))
    order = rng.permutation(20)
    near, again = nearest_images(query, gallery, k=6), nearest_images(query, gallery.select(order), k=6)
    np.testing.assert_array_equal(near.index, order[again.index])
    np.testing.assert_array_equal(near.distance, again.distance)


def test_fewer_neighbours_are_the_first_of_more(rng):
    query, gallery = make_pyramid(rng.normal(size=(3, 8))), make_pyramid(rng.normal(size=(20, 8)))
    few, many = nearest_images(query, gallery, k=4), nearest_images(query, gallery, k=11)
    np.testing.assert_array_equal(few.index, many.index[:, :4])
    assert (np.diff(many.distance) >= 0).all()


def test_the_default_is_50_and_is_reduced_silently(rng):
    query, gallery = make_pyramid(rng.normal(size=(2, 8))), make_pyramid(rng.normal(size=(60, 8)))
    assert len(nearest_images(query, gallery)) == 50
    assert len(nearest_images(query, gallery.select(range(9)))) == 9  # a warning would be an error here


@pytest.mark.parametrize("k", [10, 50])
def test_an_explicit_k_is_reduced_with_one_warning(rng, k):
    gallery = make_pyramid(rng.normal(size=(9, 8)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        near = nearest_images(gallery, gallery, k=k)
    assert len(near) == 9
    assert [(note.category, str(note.message)) for note in said] == [
        (UserWarning, f"k={k} exceeds the number of gallery images (9); using 9.")
    ]


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_each_mistake_raises_a_clear_error(rng):
    gallery = make_pyramid(rng.normal(size=(9, 8)))
    for k in (0, -1, 1.5, 2.0, True, "5"):
        with pytest.raises(ValueError, match=f"k must be a whole number of at least 1; got {k!r}."):
            nearest_images(gallery, gallery, k=k)
    with pytest.raises(ValueError, match="must have the same length; got 7 and 8"):
        nearest_images(make_pyramid(rng.normal(size=(2, 7))), gallery)


def test_by_default_fifty_are_found_or_as_many_as_there_are(rng):
    many, few = (make_pyramid(rng.normal(size=(count, 8))) for count in (60, 9))
    for k in ({}, {"k": None}):
        assert nearest_images(few, many, **k).index.shape == (9, 50)
        assert nearest_images(many, few, **k).index.shape == (60, 9)  # silently


def test_an_empty_gallery_raises_an_error():
    with pytest.raises(ValueError, match="at least one gallery image; got none"):
        nearest_images(make_pyramid([[1.0]]), make_pyramid([[1.0]]).select([]))


@pytest.mark.parametrize("at", ["query", "gallery"])
def test_pooled_vectors_must_be_finite(at):
    pooled = {"query": torch.zeros(1, 2), "gallery": torch.zeros(3, 2)}
    pooled[at][0, 1] = torch.nan
    pyramids = {name: Pyramid([torch.zeros(len(x), 1, 2, 2)], ["layer1"], x) for name, x in pooled.items()}
    with pytest.raises(ValueError, match=rf"The pooled vectors of the {at} must be finite; got NaN or infinity"):
        nearest_images(**pyramids)


@given(st.data())
def test_among_many_a_product_finds_what_differences_find(data):
    """Also where many distances are equal or nearly so, far from the origin."""
    numbers = np.random.default_rng(data.draw(st.integers(0, 99)))
    n, d = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 40))
    steps, scale, offset = (data.draw(st.sampled_from(some)) for some in ([1, 3, 1000], [1e-3, 1, 1e3], [0, 1, 1e4]))
    rows = torch.from_numpy((scale * (numbers.integers(0, steps, (n + 1, d)) + offset)).astype(np.float32))
    query, gallery = rows[:1], rows[1:]
    k = data.draw(st.integers(1, n))
    lengths = (gallery.double() ** 2).sum(1).float().numpy()
    found, expected = find_nearest_of_many(query, gallery, lengths, k), find_nearest(query, gallery, k)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.distance, expected.distance)


@pytest.mark.parametrize("options", [{}, {"weights": "equal", "combine": "ensemble"}])
def test_a_gallery_of_many_images_gives_the_same_answers(demo, scratched, monkeypatch, options):
    few = SPADE(k=4, **options).fit(demo.train[:9])
    expected = few.judge(scratched), few.judge(demo.train[3])
    monkeypatch.setattr("spade_kit.gallery.gallery._MANY", 5)
    many = few.with_gallery(replace(few.gallery))  # without what is cached
    for photo, before in zip((scratched, demo.train[3]), expected):
        after = many.judge(photo)
        np.testing.assert_array_equal(after.neighbours.index, before.neighbours.index)
        np.testing.assert_array_equal(after.neighbours.distance, before.neighbours.distance)
        np.testing.assert_array_equal(after.anomaly_map, before.anomaly_map)
