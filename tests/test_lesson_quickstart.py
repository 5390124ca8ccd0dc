"""Lesson 00: what it says of the thread, and exercises that name the mistake."""

import numpy as np
import pytest

import spade_kit
from spade_kit.lessons import quickstart


@pytest.fixture(scope="module")
def fitted(demo):
    """As in the lesson, on all normal images."""
    return spade_kit.SPADE().fit(demo.train)


@pytest.fixture(scope="module")
def result(fitted, scratched):
    return fitted.predict(scratched)


def test_the_thread_is_explained_by_the_edge_of_the_black_ring(demo, fitted):
    thread = fitted.predict([part for part in demo.test if part.label == "thread"][1])
    row, col = divmod(int(thread.anomaly_map.argmax()), thread.anomaly_map.shape[1])
    match = thread.match(row, col)
    assert thread.mask[row, col]
    assert match.distance > 2 * fitted.normal_level
    normal = thread.normal_image(match.image)
    grey = normal[match.row - 6 : match.row + 7, match.col - 6 : match.col + 7].mean(axis=2)
    assert grey.min() < 60  # the ring
    assert grey.max() > 150  # bright metal


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda at: ..., "Not answered yet"),
        (lambda at: at(fpr=0.05).mean(), "Right. "),
        (lambda at: at(fpr=0.01).mean(), "take fpr=0.05"),
        (lambda at: at(fpr=0.05, of="image").mean(), "leave out of='image'"),
        (lambda at: at(fpr=0.05).sum(), "the number of marked pixels"),
        (lambda at: round(at(fpr=0.05).mean(), 2), "Right. "),
        (lambda at: 1.0, "Take spade.threshold(fpr=0.05)"),
        (lambda at: 100 * at(fpr=0.05).mean(), "in percent"),
        (lambda at: 1 - at(fpr=0.05).mean(), "the fraction that is not marked"),
        (lambda at: 0.5, "Take spade.threshold(fpr=0.05)"),
        (lambda at: "half", "an answer of another form; got 'half'"),
    ],
)
def test_the_warm_up_names_the_mistake(capsys, result, answer, said):
    quickstart.check_marked(answer(lambda **rate: result.segmentation(result.spade.threshold(**rate))), result)
    assert said in capsys.readouterr().out


def test_the_warm_up_notices_the_fraction_of_the_defect(capsys, result):
    marked = result.segmentation(result.spade.threshold(fpr=0.05))[result.mask]
    quickstart.check_marked(marked.mean(), result)
    assert "So much of the defect is marked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([..., ...], "Not answered yet"),
        ([502, ...], "Not answered yet"),
        ([0.01 * 224**2, 12], "Right. "),
        ([224**2, 12], "Those are all pixels"),
        ([2.24, 12], "1 % of one side"),
        ([1024, 12], "only the crop is judged"),
        ([7, 12], "Take 1 % of 224 x 224 pixels"),
        ([502, 0], "1 % of the pixels is not 1 % of the parts"),
        ([502, 0.12], "1 % of the pixels is not 1 % of the parts"),
        ([502, 1], "1 % of the pixels is not 1 % of the parts"),
        ([502, 1.0], "how many of the 12"),
        ([502, np.mean([True] * 12)], "how many of the 12"),
        ([502, 5], "got 5"),
        (502, "an answer of another form; got 502"),
    ],
)
def test_the_question_at_the_end_names_the_mistake(capsys, answer, said):
    quickstart.check_think(answer)
    assert said in capsys.readouterr().out


def test_all_good_parts_reach_the_threshold_of_pixels(demo, fitted):
    good = [part for part in demo.test if part.label == "good"]
    assert len(good) == 12
    assert np.min([fitted.predict(part).image_score for part in good]) >= fitted.threshold(fpr=0.01)
