"""Judging in one thread while another changes the gallery or the options."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from spade_kit import SPADE, choose_threshold, explore


@pytest.fixture
def small(demo):
    return SPADE(k=3).fit(demo.train[:6])


def judge_while(change, judge, least=20):
    """What ``judge`` returned while another thread called ``change`` again and again."""
    stop = threading.Event()

    def go_on():
        while not stop.is_set():
            change()

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(go_on)
        try:
            return [judge() for _ in range(least)]
        finally:
            stop.set()
            changing.result()


@pytest.fixture
def swap(small, demo):
    """Remove and add the last three normal images."""
    more = demo.train[3:6]

    def change():
        small.remove([3, 4, 5])
        small.add(more)

    return change


def test_predictions_come_from_the_gallery_before_or_after(restless, small, swap, scratched):
    few, many = (SPADE(k=3).fit(small.gallery.normals[at].sample for at in range(n)) for n in (3, 6))
    expected = {len(spade): spade.predict(scratched).anomaly_map for spade in (few, many)}
    for result in judge_while(swap, lambda: small.predict(scratched)):
        count = len(result.spade.gallery)
        assert result.among.tolist() == list(range(count))
        np.testing.assert_allclose(result.anomaly_map, expected[count], rtol=1e-4)
        assert np.array_equal(result.with_k(1).neighbours.index, result.neighbours.index[:1])
        assert result.reconstruction.shape == result.image.shape


@pytest.mark.parametrize(
    "judge",
    [
        lambda spade, photo: spade.judge(photo),
        lambda spade, photo: spade.predict_left_out(1),
        lambda spade, photo: spade.judge(spade.read(photo)),
        lambda spade, photo: spade.threshold(0.3),
        lambda spade, photo: spade.suspects(),
        lambda spade, photo: spade.normal_level,
        lambda spade, photo: repr(spade),
        lambda spade, photo: spade.describe_run(),
    ],
    ids=["judge", "left out", "read", "threshold", "suspects", "level", "repr", "run"],
)
def test_no_question_fails_while_the_gallery_changes(restless, small, swap, scratched, judge):
    assert len(judge_while(swap, lambda: judge(small, scratched), least=8)) == 8


def test_a_fitted_image_is_judged_against_the_others_or_as_a_new_one(restless, small, swap, demo):
    for result in judge_while(swap, lambda: small.judge(demo.train[5]), least=10):
        assert result.among.tolist() in ([0, 1, 2], [0, 1, 2, 3, 4])


def test_a_result_keeps_the_options_it_was_judged_with(restless, small, scratched):
    def change():
        small.k, small.sigma = 1, 0
        small.k, small.sigma = 3, 4

    for result in judge_while(change, lambda: small.predict(scratched)):
        options = result.spade.options
        assert len(result.neighbours) == options.k
        again = result.spade.judge(result.source, result.among)
        assert np.array_equal(again.anomaly_map, result.anomaly_map)


def test_a_folder_is_judged_by_one_gallery(restless, small, swap, demo, tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    for at, sample in enumerate(demo.test[:4]):
        Image.fromarray(sample.image).save(tmp_path / f"in/{at}.png")
    (table,) = judge_while(swap, lambda: small.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.3), least=1)
    assert set(table["verdict"]) <= {"normal", "anomalous"}
    few = SPADE(k=3).fit(demo.train[:3])
    scores = [few.predict(sample).image_score for sample in demo.test[:4]]
    many = [SPADE(k=3).fit(demo.train[:6]).predict(sample).image_score for sample in demo.test[:4]]
    assert any(np.allclose(table["image_score"], expected, rtol=1e-4) for expected in (scores, many))


def test_images_added_in_two_threads_are_all_kept(restless, small, demo):
    with ThreadPoolExecutor(4) as pool:
        for added in [pool.submit(small.add, sample) for sample in demo.train[6:14]]:
            added.result()
    assert sorted(normal.sample.path for normal in small.gallery.normals) == sorted(s.path for s in demo.train[:14])


def test_widgets_keep_the_gallery_they_were_opened_with(small, demo, tmp_path):
    explorer, chooser = explore(small, demo.test[:2]), choose_threshold(small, demo.test[:2])
    before = explorer.result.anomaly_map
    small.remove([0, 1, 2])
    explorer.finish()
    chooser.finish()
    assert len(explorer.spade) == 6
    assert explorer.normals["of"] == 6
    assert np.array_equal(explorer.result.anomaly_map, before)
    assert chooser.judgement.photos == 6
    explorer.save_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000
