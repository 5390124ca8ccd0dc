"""What `SPADE.judge` accepts: which normal images, and the result of the same image under other options."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spade_kit import SPADE


@pytest.fixture(scope="module")
def photo(demo):
    return next(sample.image for sample in demo.test if sample.label != "good")


@given(st.lists(st.integers(0, 11), min_size=1, max_size=8))
def test_normal_images_are_given_in_any_form(spade, photo, chosen):
    """As a list in any order, an array of any integers, or a mask."""
    expected = spade.predict(photo).with_normals(chosen)
    mask = np.isin(np.arange(12), chosen)
    for among in (chosen, tuple(chosen), np.array(chosen, np.uint8), mask, mask.tolist()):
        result = spade.judge(photo, among=among)
        assert result.among.tolist() == sorted(set(chosen))
        np.testing.assert_array_equal(result.anomaly_map, expected.anomaly_map)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", [
    *([], [12], [-1], [0.5], [0, 1.0], ["a"], [None], [[0], [1]], [[0], [1, 2]], 3, "ab", [True, False], {}),
    *(range(12, 13), np.array([0.0]), np.zeros(12, bool), np.ones(11, bool), np.array([[0]])),
    np.array([2**63], np.uint64),
])  # fmt: skip
def test_anything_else_is_refused_in_a_sentence(spade, photo, wrong):
    with pytest.raises(ValueError, match="among must hold at least one index of a training image, from 0 to 11"):
        spade.judge(photo, among=wrong)


@pytest.mark.usefixtures("unchecked")
def test_a_set_of_training_images_is_taken(spade, photo):
    for some in ({4, 0, 2}, frozenset([4, 0, 2]), {0: "a", 2: "b", 4: "c"}.keys()):
        assert spade.judge(photo, among=some).among.tolist() == [0, 2, 4]


@pytest.mark.usefixtures("unchecked")
def test_one_training_image_may_be_given_without_a_list(spade, photo):
    result = spade.predict(photo)
    np.testing.assert_array_equal(result.with_normals(3).anomaly_map, result.with_normals([3]).anomaly_map)


@pytest.mark.usefixtures("unchecked")
def test_a_result_of_something_else_changes_no_answer(spade, demo, photo):
    """Of another image, another gallery, other normal images or other options; or no result at all."""
    other, few = demo.test[0].image, SPADE(k=2).fit(demo.train[12:16])
    ensemble = spade.with_options(combine="ensemble", kappa=3)
    given = [
        spade.predict(other),
        few.predict(photo),
        ensemble.predict(photo),
        spade.predict(photo).with_normals([5]),
    ]
    for judge in (spade, spade.with_options(k=1), few):
        expected = judge.judge(photo)
        for before in [*given, "x", 3, None]:
            result = judge.judge(photo, before=before)
            np.testing.assert_array_equal(result.anomaly_map, expected.anomaly_map)
            np.testing.assert_array_equal(result.neighbours.index, expected.neighbours.index)


def test_the_result_of_the_same_image_is_reused(spade, photo):
    before = spade.predict(photo)
    assert spade.judge(photo, before=before).correspondence is before.correspondence
