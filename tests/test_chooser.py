"""Choosing a threshold without a browser: counts, page data and errors."""

import asyncio
import math
import re
from concurrent.futures import ThreadPoolExecutor as Apart  # a browser's event loop may run in this thread
from dataclasses import replace
from io import BytesIO
from itertools import combinations
from threading import Thread

import numpy as np
import pytest
from browsing import read_saved
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from spade_kit import SPADE, choose_threshold
from spade_kit.evaluation.metrics import f1_threshold
from spade_kit.evaluation.threshold_study import collect

OF = ("image", "pixel")


@pytest.fixture(scope="module")
def few(demo):
    """A dataset of every fourth test photo, three good ones and nine defects."""
    return replace(demo, test=demo.test[::4])


@pytest.fixture(scope="module")
def judged(spade, left_out, few):
    """The results to count: normal images (leave-one-out) and test images."""
    return left_out, [spade.predict(sample) for sample in few.test]


@pytest.fixture(scope="module")
def finished(spade, few):
    chooser = choose_threshold(spade, few)
    chooser.finish()
    yield chooser
    chooser.close()


@pytest.fixture
def chooser(finished):
    finished.confidence, finished.of, finished.rule = None, "image", "0.05"
    finished.problem = ""
    return finished


def scores_of(results) -> np.ndarray:
    return np.array([result.anomaly_map.max() for result in results])


def truth_of(few) -> np.ndarray:
    return np.array([sample.label != "good" for sample in few.test])


def count_by_hand(of, threshold, judged, few):
    """Count images by their maxima and labels, and pixels one by one with masks."""
    normals, tested = judged
    if of == "image":
        flagged, scores, truth = scores_of(normals) >= threshold, scores_of(tested), truth_of(few)
    else:
        flagged = np.stack([result.anomaly_map for result in normals]) >= threshold
        scores, truth = (np.stack([getattr(result, name) for result in tested]) for name in ("anomaly_map", "mask"))
    found = scores >= threshold
    return {
        "normals": flagged.size,
        "reached": flagged.sum(),
        "found": (found & truth).sum(),
        "missed": (~found & truth).sum(),
        "alarms": (found & ~truth).sum(),
        "passed": (~found & ~truth).sum(),
        "unknown_above": 0,
        "unknown_below": 0,
    }


# ---- counts and rates at a threshold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("of", OF)
def test_counts_at_a_threshold_equal_manual_counts(chooser, judged, few, of):
    chooser.of = of
    study = collect(
        of,
        *([result.anomaly_map for result in some] for some in judged),
        [sample.label for sample in few.test],
        [result.mask for result in judged[1]],
    )
    for threshold in (0, 30.5, 66.32299804, 75, float(scores_of(judged[1]).max()), 300):
        chooser.threshold = threshold
        expected = count_by_hand(of, threshold, judged, few)
        assert {name: getattr(chooser.judgement, name) for name in expected} == expected
        assert chooser.judgement == study.at(threshold)
        assert chooser.sentence == study.at(threshold).sentence == chooser.told["sentence"]
        assert chooser.told["remarks"] == list(study.at(threshold).remarks)
        assert (chooser.told["of"], chooser.told["threshold"]) == (of, threshold)


def test_the_interval_of_photos_equals_scipys(chooser, judged):
    for threshold in (0, 70, 74, 100):
        chooser.threshold = threshold
        reached = int((scores_of(judged[0]) >= threshold).sum())
        interval = binomtest(reached, 12).proportion_ci(0.95, "exact")
        assert (chooser.judgement.low, chooser.judgement.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("of", "rule"), [("image", "0.2"), ("image", "0.1"), ("pixel", "0.05"), ("pixel", "0.01"), ("pixel", "0.001")]
)
def test_under_a_rule_the_threshold_is_spades_own(chooser, spade, of, rule):
    chooser.of = of
    chooser.rule = rule
    assert chooser.threshold == spade.threshold(float(rule), of=of)
    assert chooser.judgement.rate <= float(rule) + 1 / chooser.judgement.normals


def test_the_best_f1_is_the_best_that_any_score_gives(chooser, judged, few):
    chooser.rule = "f1"
    scores, truth = scores_of(judged[1]), truth_of(few)
    assert chooser.threshold == pytest.approx(f1_threshold(scores, truth), rel=1e-6)
    best = max(f1_score(truth, scores >= score) for score in scores)
    assert f1_score(truth, scores >= chooser.threshold) == best
    recall, precision = chooser.judgement.recall, chooser.judgement.precision
    assert 2 * precision * recall / (precision + recall) == pytest.approx(best)


def test_the_best_f1_of_pixels_is_over_all_masks(chooser, judged):
    chooser.of = "pixel"
    chooser.rule = "f1"
    maps, masks = (np.stack([getattr(result, name) for result in judged[1]]) for name in ("anomaly_map", "mask"))
    assert chooser.threshold == pytest.approx(f1_threshold(maps.ravel(), masks.ravel()), rel=1e-6)


def test_setting_the_threshold_makes_the_rule_hand(chooser):
    seen = []
    note = lambda change: seen.append((change["name"], change["new"]))  # noqa: E731
    chooser.observe(note, ["rule", "threshold"])
    chooser.threshold = 71
    chooser.unobserve(note, ["rule", "threshold"])
    assert (chooser.rule, chooser.threshold, float(chooser)) == ("hand", 71.0, 71.0)
    assert sorted(seen) == [("rule", "hand"), ("threshold", 71.0)]
    assert repr(chooser) == f"Chooser({chooser.sentence})"
    assert chooser.sentence.startswith("Threshold 71 for whole images: 7 of 12 normal images")


def test_switching_between_photos_and_pixels_sets_the_usual_rule(chooser, spade):
    chooser.threshold = 71
    chooser.of = "pixel"
    assert (chooser.rule, chooser.threshold) == ("0.01", spade.threshold(0.01))
    chooser.threshold = 20
    chooser.of = "image"
    with pytest.warns(UserWarning, match="needs at least 19 normal scores; got 12"):
        highest = spade.threshold(0.05, of="image")
    assert (chooser.rule, chooser.threshold) == ("0.05", highest)


def test_too_few_normal_photos_for_a_rate_give_only_a_remark(chooser, judged):
    """Any warning would fail this test."""
    chooser.rule = "0.01"
    assert chooser.threshold == scores_of(judged[0]).max()
    assert chooser.told["remarks"][0].startswith("12 normal images are too few")
    offered = [rule for rule, _ in chooser.study["rules"]]
    assert offered == ["0.2", "0.1", "f1", "hand"]  # 12 images cannot support a rate of 1 in 20


def test_a_page_may_set_the_threshold_the_rule_and_the_unit(chooser, spade):
    chooser.set_state({"threshold": 70.5, "rule": "hand"})
    assert (chooser.threshold, chooser.rule) == (70.5, "hand")
    chooser.set_state({"of": "pixel"})
    assert (chooser.threshold, chooser.rule) == (spade.threshold(0.01), "0.01")
    chooser.set_state({"rule": "0.05"})
    assert (chooser.threshold, chooser.told["threshold"]) == (spade.threshold(0.05),) * 2


# ---- confidence ------------------------------------------------------------------------------------------------------


def test_with_a_confidence_the_threshold_is_spades_own_and_the_sentence_gives_the_bound(chooser, spade):
    chooser.rule = "0.2"
    usual = chooser.threshold
    chooser.confidence = 0.9
    assert (chooser.rule, chooser.confidence) == ("0.2", 0.9)
    assert chooser.threshold == spade.threshold(0.2, of="image", confidence=0.9) > usual
    assert "With 90 % confidence (one-sided), at most 20 % of new normal images from the same" in chooser.sentence
    assert (chooser.judgement.fpr, chooser.judgement.confidence) == (0.2, 0.9)
    assert chooser.told["sentence"] == chooser.sentence
    assert chooser.draw().get_supxlabel().replace("\n", "").startswith(chooser.sentence)
    chooser.rule = "0.3"
    assert chooser.threshold == spade.threshold(0.3, of="image", confidence=0.9)
    chooser.confidence = None
    assert chooser.threshold == spade.threshold(0.3, of="image")
    assert "confidence (one-sided)" not in chooser.sentence


def test_the_page_offers_confidences_with_what_they_lack(chooser):
    chooser.rule = "0.2"
    assert chooser.told["confidences"] == [
        ("", "none"),
        (0.9, "90 %"),
        (0.95, "95 %: needs 2 more normal photos"),
        (0.99, "99 %: needs 9 more normal photos"),
    ]
    chooser.confidence = 0.925
    assert chooser.told["confidences"][2] == (0.925, "92.5 %")
    chooser.confidence, chooser.rule = None, "0.206"
    assert chooser.told["confidences"][2] == (0.95, "95 %: needs 1 more normal photo")
    for rule in ("f1", "hand"):
        chooser.rule = rule
        assert chooser.told["confidences"] == []
    chooser.of = "pixel"
    assert chooser.told["confidences"] == []


@pytest.mark.parametrize("change", [{"rule": "hand"}, {"rule": "f1"}, {"threshold": 70.0}, {"of": "pixel"}])
@pytest.mark.parametrize("by_page", [False, True])
def test_other_rules_and_pixels_end_the_confidence(chooser, change, by_page):
    chooser.set_state({"rule": "0.2"})
    chooser.set_state({"confidence": 0.9})
    assert (chooser.confidence, chooser.problem) == (0.9, "")
    if by_page:
        chooser.set_state(change)
    else:
        [(name, value)] = change.items()
        setattr(chooser, name, value)
    assert (chooser.confidence, chooser.problem) == (None, "")
    assert "confidence (one-sided)" not in chooser.sentence


def test_while_images_are_pending_nothing_is_claimed(spade, few, judged):
    chooser = choose_threshold(spade, few)
    assert chooser.judgement.photos == 6
    chooser.rule = "0.2"
    chooser.confidence = 0.9
    assert (chooser.confidence, chooser.threshold) == (0.9, scores_of(judged[0])[:6].max())
    assert "confidence (one-sided)" not in chooser.sentence
    for at in chooser._to_judge():  # the threshold still belongs to the images judged before
        chooser._take(chooser._judge(at))
    if chooser.threshold < spade.threshold(0.2, of="image", confidence=0.9):
        assert "confidence (one-sided)" not in chooser.sentence
    chooser.finish()
    assert chooser.threshold == spade.threshold(0.2, of="image", confidence=0.9)
    assert "With 90 % confidence (one-sided)" in chooser.sentence


def test_duplicates_count_once_for_a_confidence(demo):
    with pytest.warns(UserWarning, match="4 of 12 fitted images are duplicates"):
        spade = SPADE().fit([*demo.train[:8], *[demo.train[0]] * 4])
    chooser = choose_threshold(spade)
    chooser.finish()
    chooser.rule = "0.2"
    assert chooser.told["confidences"][1] == (0.9, "90 %: needs 3 more normal photos")
    chooser.rule = "0.3"
    chooser.confidence = 0.9
    assert chooser.threshold == spade.threshold(0.3, of="image", confidence=0.9)


def test_too_few_normal_photos_for_a_confidence_are_an_error_that_changes_nothing(chooser):
    chooser.rule = "0.2"
    before = chooser.rule, chooser.confidence, chooser.threshold, chooser.told
    with pytest.raises(ValueError, match=r"of 0\.2 with 95 % confidence needs at least 14 different normal images"):
        chooser.confidence = 0.95
    assert (chooser.rule, chooser.confidence, chooser.threshold, chooser.told) == before
    chooser.set_state({"confidence": 0.95})
    assert "got 12. Fit more, allow a rate of 0.221 or more, or leave confidence out." in chooser.problem
    assert (chooser.rule, chooser.confidence, chooser.threshold, chooser.told) == before
    chooser.confidence = 0.9
    with pytest.raises(ValueError, match="needs at least 22 different normal images"):
        chooser.rule = "0.1"
    assert (chooser.rule, chooser.confidence) == ("0.2", 0.9)


def test_a_confidence_needs_a_rate_of_images(chooser):
    chooser.rule = "hand"
    with pytest.raises(ValueError, match="confidence needs a false-alarm rate as the rule; got rule='hand'"):
        chooser.confidence = 0.9
    chooser.of = "pixel"
    with pytest.raises(ValueError, match="confidence must be None for pixels"):
        chooser.confidence = 0.9
    assert chooser.confidence is None


# ---- image lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["nothing", "a dataset of normals alone"])
def test_without_test_photos_only_normal_ones_are_counted(spade, demo, given):
    photos = {"nothing": None, "a dataset of normals alone": replace(demo, test=[])}[given]
    chooser = choose_threshold(spade, photos)
    chooser.finish()
    assert (chooser.about["normals"], chooser.about["tested"]) == (12, 0)
    assert [name for _, name, *_ in chooser.photos] == [f"normal {index}" for index in range(11, -1, -1)]
    assert "test" not in chooser.sentence
    assert chooser.told["remarks"][-1].startswith("There are no test images")
    assert "f1" not in dict(chooser.study["rules"])


def test_photos_without_labels_are_counted_as_unknown(spade, few):
    chooser = choose_threshold(spade, [sample.path for sample in few.test[:5]])
    chooser.finish()
    scores = scores_of([spade.predict(sample) for sample in few.test[:5]])
    chooser.threshold = np.sort(scores)[2]
    judgement = chooser.judgement
    assert (judgement.unknown_above, judgement.unknown_below) == (3, 2)
    assert judgement.recall is None
    assert judgement.precision is None
    assert "No test image has a label" in chooser.told["remarks"][-1]
    assert "f1" not in dict(chooser.study["rules"])
    assert sum(chooser.study["counts"]["unknown"]) == 5


def test_a_fitted_test_photo_is_judged_against_the_others(spade, demo, judged):
    chooser = choose_threshold(spade, [demo.train[2]])
    chooser.finish()
    assert chooser.photos[-1] == [0, "good/002", "good", pytest.approx(scores_of(judged[0])[2])]


def test_an_unreadable_photo_is_counted_and_named_and_the_others_go_on(spade, few, tmp_path, judged):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    said = r"Images that cannot be judged: 1\. First error: Cannot read .*broken\.png as an image"
    with pytest.warns(UserWarning, match=said):
        chooser = choose_threshold(spade, [few.test[0], tmp_path / "broken.png", few.test[2]])
    chooser.finish()
    assert re.match(said, chooser.told["images"][0])
    scores = scores_of(judged[1])
    assert chooser.photos[-3:] == [
        [0, "chip/000", "chip", pytest.approx(scores[0])],
        [1, "broken", None, None],
        [2, "good/002", "good", pytest.approx(scores[2])],
    ]
    assert chooser.study["waiting"] == 0
    chooser.threshold = 1
    judgement = chooser.judgement
    assert (judgement.found, judgement.alarms, judgement.unknown_above + judgement.unknown_below) == (1, 1, 0)


def test_one_normal_photo_gives_no_rate(demo, few):
    spade = SPADE(k=1).fit(demo.train[:1])
    chooser = choose_threshold(spade, few.test[:3])
    chooser.finish()
    highest = scores_of([spade.predict(sample) for sample in few.test[:3]]).max()
    assert (chooser.rule, chooser.judgement.photos) == ("hand", 0)
    assert chooser.threshold == pytest.approx(highest / 2)
    assert (chooser.judgement.low, chooser.judgement.high) == (0, 1)
    assert "No normal images were judged" in chooser.told["remarks"][0]
    chooser.of = "pixel"
    assert chooser.threshold == pytest.approx(highest / 2)
    assert [rule for rule, _ in chooser.study["rules"]] == ["f1", "hand"]
    with pytest.raises(ValueError, match="Leave-one-out needs at least one other normal image; there is none"):
        choose_threshold(spade)


def test_later_changes_to_the_fit_have_no_effect(spade, judged):
    mine = spade.with_options()
    chooser = choose_threshold(mine)
    mine.remove(range(6))
    chooser.rule = "0.1"
    assert chooser.threshold == spade.threshold(0.1, of="image")
    assert chooser.judgement.photos == 12


# ---- while images are pending ----------------------------------------------------------------------------------------


def test_partial_results_cover_normal_and_test_photos(spade, few, judged):
    chooser = choose_threshold(spade, few)
    assert chooser.study["waiting"] == 12
    known = [at for at, *_ in chooser.photos]
    assert [at for at in known if at < 0] == [-6, -5, -4, -3, -2, -1]
    assert [at for at in known if at >= 0] == [0, 1, 2, 3, 4, 5]
    assert chooser.judgement.photos == 6
    assert chooser.threshold == scores_of(judged[0])[:6].max()
    chooser.finish()
    assert (chooser.study["waiting"], len(chooser.photos), chooser.judgement.photos) == (0, 24, 12)
    assert sum(map(sum, chooser.study["counts"].values())) == 24
    assert chooser.threshold == scores_of(judged[0]).max()


def test_the_best_f1_can_be_selected_before_all_are_judged_in_any_order(spade, few, judged):
    """Folders are in alphabetical order: often all defects come before the good images."""
    chooser = choose_threshold(spade, few.test[::-1])
    assert {label for at, _, label, _ in chooser.photos if at >= 0}.isdisjoint({"good"})
    chooser.rule = "f1"
    chooser.finish()
    assert chooser.rule == "f1"
    assert chooser.threshold == pytest.approx(f1_threshold(scores_of(judged[1]), truth_of(few)), rel=1e-6)


def test_in_a_running_loop_the_rest_is_judged_in_the_background(spade, few, judged):
    async def wait() -> tuple:
        chooser = choose_threshold(spade, few.test[:3])
        waited = [chooser.study["waiting"]]
        while chooser.study["waiting"]:
            await asyncio.sleep(0.05)
        return waited, chooser.judgement, chooser.threshold

    waited, judgement, threshold = Apart(1).submit(lambda: asyncio.run(asyncio.wait_for(wait(), 30))).result()
    assert waited == [3]
    assert (judgement.photos, judgement.found + judgement.missed, judgement.alarms + judgement.passed) == (12, 2, 1)
    assert threshold == scores_of(judged[0]).max()


def test_an_error_in_the_background_is_shown_in_the_page(spade, few, monkeypatch):
    async def wait() -> str:
        chooser = choose_threshold(spade, few.test[:3])
        monkeypatch.setattr(chooser, "_judge", lambda at: 1 / 0)
        while not chooser.problem:
            await asyncio.sleep(0.05)
        return chooser.problem

    said = Apart(1).submit(lambda: asyncio.run(asyncio.wait_for(wait(), 5))).result()
    assert said == "ZeroDivisionError: division by zero"


def test_finishing_between_two_background_steps_still_updates_the_page(spade, few):
    chooser = choose_threshold(spade, few.test[:3])
    steps = chooser._background_steps()
    compute = next(steps)
    while len(chooser._judged) < 14:
        compute = steps.send(compute())
    chooser._take(compute())  # all are judged, but the page has not been updated yet
    chooser.finish()
    assert chooser.study["waiting"] == 0
    assert len(chooser.photos) == 15


def test_a_photo_judged_during_counting_is_counted_next(spade, few, monkeypatch):
    """Page messages arrive in a separate thread while the background continues."""
    chooser = choose_threshold(spade, few.test[:3])
    assert (chooser.judgement.photos, chooser.study["waiting"]) == (9, 3)
    judged = [chooser._judge(at) for at in chooser._to_judge()]
    background = Thread(target=lambda: [chooser._take(one) for one in judged])

    def collect_slowly(*given):
        study = collect(*given)
        background.start()
        background.join(0.3)
        return study

    with monkeypatch.context() as patched:
        patched.setattr("spade_kit.widgets.chooser.collect", collect_slowly)
        chooser.set_state({"of": "pixel"})
    background.join()
    assert chooser.judgement.photos == 12


def test_cells_and_the_page_may_send_changes_at_the_same_time(chooser, judged):
    page = Thread(target=lambda: [chooser.set_state({"threshold": 60 + step, "rule": "hand"}) for step in range(60)])
    page.start()
    for step in range(30):
        chooser.rule = ("0.2", "f1", "0.1")[step % 3]
    page.join()
    chooser.threshold = 70
    assert chooser.judgement.reached == (scores_of(judged[0]) >= 70).sum()
    assert chooser.problem == ""


# ---- data for the page -----------------------------------------------------------------------------------------------


def test_a_page_has_the_interval_for_every_count_of_normal_photos(chooser):
    for reached in range(13):
        interval = binomtest(reached, 12).proportion_ci(0.95, "exact")
        told = [chooser.study["band"][end][reached] for end in ("low", "high")]
        np.testing.assert_allclose(told, interval, atol=1e-6)


def test_a_page_has_histograms_that_give_exact_counts_at_their_edges(chooser, judged, few):
    chooser.of = "pixel"
    study = chooser.study
    highest = float(max(scores_of(judged[0]).max(), scores_of(judged[1]).max()))
    assert study["end"] == math.nextafter(highest, math.inf)
    edges = np.linspace(0, study["end"], 257)
    for at in (0, 40, 133, 250):
        by_hand = count_by_hand("pixel", edges[at], judged, few)
        counts = {kind: sum(study["counts"][kind][at:]) for kind in ("normal", "defect", "good")}
        assert counts == {"normal": by_hand["reached"], "defect": by_hand["found"], "good": by_hand["alarms"]}
        chooser.threshold = edges[at]
        low, high = (study["band"][end][at] for end in ("low", "high"))
        assert (low, high) == pytest.approx((chooser.judgement.low, chooser.judgement.high), abs=1e-6)


def test_a_photo_is_sent_with_everything_that_segmentation_needs(chooser, judged, few, monkeypatch):
    sent = []
    monkeypatch.setattr(chooser, "send", lambda content, buffers=(): sent.append((content, list(buffers))))
    chooser._on_message(None, {"kind": "photos", "photos": [2, 0, -4, 999]}, [])
    for (content, buffers), result in zip(sent, [judged[1][2], judged[1][0], judged[0][3]], strict=True):
        packed = content | dict(zip(content["names"], buffers))
        assert (packed["kind"], packed["size"], packed["grid"], packed["sigma"]) == ("photo", [224, 224], [56, 56], 4)
        distance = np.frombuffer(packed["distance"], "<f4").reshape(56, 56)
        np.testing.assert_array_equal(distance, result.correspondence.distance)
        thumb = np.asarray(Image.open(BytesIO(packed["jpeg"])).resize((224, 224)), int)
        assert np.abs(thumb - result.image).mean() < 8
        truth = result.sample.mask if result.sample.label != "good" else None
        assert ("mask" in packed) == (truth is not None)
        if truth is not None:
            bits = np.unpackbits(np.frombuffer(packed["mask"], np.uint8))
            np.testing.assert_array_equal(bits.reshape(224, 224), result.mask)
    assert [content["at"] for content, _ in sent] == [2, 0, -4]


def test_a_figure_has_the_histograms_the_line_and_the_justification(chooser, judged):
    chooser.threshold = 72.5
    figure = chooser.draw()
    assert isinstance(figure, Figure)
    titles = ["normal: 12 images", "test: good: 3 images", "test: defects: 9 images"]
    assert [panel.get_title("left") for panel in figure.axes] == titles
    for panel in figure.axes:
        assert [line.get_xdata()[0] for line in panel.lines] == [72.5]
    assert figure.get_supxlabel().replace("\n", "") == chooser.sentence + chooser.told["images"][0]
    left, right = figure.axes[0].get_xlim()
    lowest, *_, highest = sorted(np.concatenate([scores_of(some) for some in judged]))
    assert lowest - 0.2 * (highest - lowest) < left < lowest < highest < right  # all scores, filling the axis
    chooser.threshold = lowest / 2
    assert chooser.draw().axes[0].get_xlim()[0] < lowest / 2


@pytest.mark.parametrize(("of", "told"), [("image", "images"), ("pixel", "pixels, log scale")])
def test_no_words_of_a_figure_touch(chooser, of, told):
    chooser.of = of
    figure = chooser.draw()
    assert figure.get_supylabel() == told
    words = [figure.axes[-1].xaxis.label]
    for panel in figure.axes:
        least, most = panel.get_ylim()
        marks = zip(panel.get_yticks(), panel.get_yticklabels())
        seen = [mark for value, mark in marks if least <= value <= most]
        assert 2 <= len(seen) <= 5
        words += [panel._left_title, *seen]
    figure.draw_without_rendering()
    boxes = [word.get_window_extent() for word in words]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]


def test_the_static_preview_is_deterministic(chooser, spade, few):
    data, _ = chooser._repr_mimebundle_()
    again, _ = chooser._repr_mimebundle_()
    other = choose_threshold(spade, few)
    other.finish()
    third, _ = other._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    for name in ("image/png", "text/plain"):
        assert data[name] == again[name] == third[name]
    assert Image.open(BytesIO(data["image/png"])).width > 400


def test_a_saved_page_is_small_and_self_contained(chooser, tmp_path):
    chooser.save_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 2_000_000
    assert "http" not in read_saved(tmp_path / "page.html").replace("http://www.w3.org/2000/svg", "")


def test_a_saved_page_has_the_photos_next_to_the_line_on_both_sides(spade, few, monkeypatch):
    """At a high threshold the photos above it may be further away than many below."""
    monkeypatch.setattr("spade_kit.widgets.chooser._SAVED", 10)
    chooser = choose_threshold(spade, few)
    chooser.finish()
    ranked = sorted((score, at) for at, _, _, score in chooser.photos)
    chooser.threshold = ranked[20][0]
    saved = {picture["at"] for picture in chooser._saved()["pictures"]}
    assert len(saved) == 10
    assert saved >= {at for _, at in ranked[16:24]}


# ---- errors ----------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("rule", "2", "a false-alarm rate between 0 and 1, like '0.05'; got '2'"),
    ("rule", "often", "rule must be 'hand', 'f1' or a false-alarm rate between 0 and 1"),
    ("rule", "nan", "like '0.05'; got 'nan'"),
    ("of", "photo", "of must be one of 'image', 'pixel'; got 'photo'"),
    ("threshold", -1e99, "threshold must be a finite raw distance; got -1e"),
    ("threshold", "high", "threshold must be a finite raw distance; got 'high'"),
    ("confidence", 95, "confidence must be a probability between 0 and 1, like 0.95; got 95"),
    ("confidence", float("nan"), "like 0.95; got nan"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), MISTAKES)
def test_an_invalid_value_raises_an_error_and_changes_nothing(chooser, name, value, sentence):
    chooser.rule = "0.2"
    before = chooser.of, chooser.rule, chooser.threshold, chooser.told, chooser.study
    with pytest.raises(ValueError, match=sentence):
        setattr(chooser, name, value)
    assert (chooser.of, chooser.rule, chooser.threshold, chooser.told, chooser.study) == before


@pytest.mark.parametrize(("name", "value", "sentence"), MISTAKES)
def test_an_error_from_the_page_is_shown_there(chooser, name, value, sentence):
    chooser.rule = "0.2"
    before = chooser.of, chooser.rule, chooser.threshold, chooser.told
    chooser.set_state({name: value})
    assert sentence in chooser.problem
    assert (chooser.of, chooser.rule, chooser.threshold, chooser.told) == before
    chooser.set_state({"rule": "0.1"})
    assert (chooser.rule, chooser.problem) == ("0.1", "")


@pytest.mark.parametrize(("of", "what"), [("image", "labels"), ("pixel", "masks")])
def test_the_best_f1_needs_good_and_defective_examples(spade, few, of, what):
    chooser = choose_threshold(spade, [sample.path for sample in few.test[:2]], of=of)
    chooser.finish()
    before = chooser.rule, chooser.threshold, chooser.told
    with pytest.raises(ValueError, match=f"The rule 'f1' needs good and defective test images with {what}"):
        chooser.rule = "f1"
    assert (chooser.rule, chooser.threshold, chooser.told) == before
    chooser.set_state({"rule": "f1"})
    assert f"with {what}" in chooser.problem
    assert (chooser.rule, chooser.threshold, chooser.told) == before


def test_the_unit_is_checked_before_anything_is_judged(spade, few):
    with pytest.raises(ValueError, match="of must be one of 'image', 'pixel'; got 'photos'"):
        choose_threshold(spade, few, of="photos")


def test_an_unknown_message_is_an_error(chooser):
    chooser._on_message(None, {"kind": "photo"}, [])
    assert "A message must be one of" in chooser.problem
