"""Advice after an evaluation: each remark speaks with the right figure where it must, and is silent elsewhere."""

import pickle
from dataclasses import replace
from math import ceil

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spade_kit import SPADE, Report, Sample, evaluate, load_backbone
from spade_kit.evaluation import evaluate as evaluation
from spade_kit.evaluation.advice import advise
from spade_kit.evaluation.map_store import Judged
from spade_kit.features.crops import Crop

CROP = Crop((512, 512), (256, 256), (16, 16), (224, 224))  # an image pixel is half a pixel of the crop
MANY = {"normals": 59, "threshold": 10.0, "doubt": "", "outside": 0}  # nothing to be said of such a fit


def judge(mask=None, crop=CROP) -> Judged:
    return Judged(np.zeros((56, 56), np.float32), 0, mask, crop)  # cells of 4 x 4 px


def bar(width: int, row: int = 50) -> np.ndarray:
    mask = np.zeros((224, 224), bool)
    mask[row : row + width, 20:180] = True
    return mask


def advised(*judged, facts=MANY, score=5.0, label="scratch", squash=1.0) -> list[str]:
    """Advice on images of one score and label."""
    rows = pandas.DataFrame(
        {"path": [f"parts/{at:03}.png" for at in range(len(judged))], "label": label, "image_score": score,
         "squash": squash}
    )  # fmt: skip
    return advise(rows, list(judged).__getitem__, facts)


def test_where_nothing_is_to_be_said_there_is_no_advice():
    assert advised(judge(bar(12)), judge()) == []


# ---- one image owns the threshold ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_threshold_that_rests_on_one_image_comes_first(demo):
    """Of 19 scores the threshold at 5 % is the highest, and without one of them the highest of the others."""
    stained = demo.train[5].image.copy()
    stained[100:200, 100:200] = np.random.default_rng(0).integers(0, 256, (100, 100, 3))
    spade = SPADE(k=5).fit([*demo.train[:18], stained])
    scores = spade.suspects()["score"]
    assert scores.index[0] == 18
    first, *_ = evaluate(spade, demo.test[:3]).advice()
    told = f"without {spade.gallery.name(18)} it would be {scores.iloc[1]:.3g} instead of {scores.iloc[0]:.3g}"
    assert first == f"The threshold rests on one image: {told}. Check that this image is normal."


def test_a_threshold_that_rests_on_many_is_not_spoken_of(spade, demo):
    assert not [remark for remark in evaluate(spade, demo.test[:3]).advice() if "rests on one" in remark]


# ---- outside the crop ------------------------------------------------------------------------------------------------


def test_defects_outside_the_crop_are_counted(spade, tmp_path):
    for name, place in (("corner", 0), ("middle", 150)):
        mask = np.zeros((320, 320), np.uint8)
        mask[place : place + 8, place : place + 8] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
        Image.fromarray(np.full((320, 320, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
    samples = [Sample(tmp_path / f"{name}.png", "hole", tmp_path / f"{name}_mask.png") for name in ("corner", "middle")]
    with pytest.warns(UserWarning, match="1 defects of .* lie outside the evaluated crop"):
        report = evaluate(spade, samples)
    told = "1 of 2 defects lie outside the evaluated crop or roi, where nothing is judged. Use load_backbone(..., crop="
    assert [remark for remark in report.advice() if remark.startswith(told)]
    assert not [remark for remark in evaluate(spade, samples[1:]).advice() if "outside" in remark]


def test_defects_outside_the_roi_are_counted(demo):
    defects = [sample for sample in demo.test if sample.label == "scratch"]
    rows = [np.flatnonzero(sample.mask.any(1)) for sample in defects]
    limit = int(np.median([lines.max() for lines in rows]))  # px from the top
    above = sum(lines.max() < limit for lines in rows)
    assert 0 < above < len(defects)
    spade = SPADE(k=3).fit(demo.train[:4], roi=[(limit, -9), (limit, 999), (999, 999), (999, -9)])
    with pytest.warns(UserWarning, match=f"{above} defects of .* lie outside the evaluated crop or roi"):
        report = evaluate(spade, defects)
    told = f"{above} of {len(defects)} defects lie outside the evaluated crop or roi"
    assert [remark for remark in report.advice() if remark.startswith(told)]


# ---- squashed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_images_that_were_squashed_are_told_by_how_much(whole):
    crop = Crop((300, 600), (224, 224), (0, 0), (224, 224)) if whole else CROP
    (told,) = advised(judge(crop=crop), judge(crop=crop), label="good", squash=[1.0, 2.0])
    assert "1 of 2 images were squashed" in told
    assert "001.png by 2 : 1" in told
    assert told.endswith("Fit images of another shape separately." if whole else "to keep the aspect ratio.")


def test_images_that_were_hardly_squashed_are_not_spoken_of():
    assert advised(judge(), judge(), label="good", squash=[1.0, 1.2]) == []


# ---- narrower than a cell --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 7), min_size=3, max_size=3))
def test_missed_defects_narrower_than_a_cell_are_counted_and_measured(widths):
    told = advised(*(judge(bar(width)) for width in widths))
    thin = [width for width in widths if width < 4]
    if not thin:
        assert told == []
        return
    start = f"{len(thin)} of 3 missed defects are narrower than a cell of the grid: the narrowest is "
    size = 32 * ceil(256 * 4 / min(thin) / 32)  # as long as a cell has 4 px, the image must grow
    cure = f"Use SPADE.recommended(size={size})." if size <= 512 else "take images at a higher resolution."
    assert told[0].startswith(f"{start}{2 * min(thin)} px wide in the image, a cell 8 px.")
    assert told[0].endswith(cure)


def test_the_widest_defect_of_an_image_counts_where_it_is_widest():
    assert advised(judge(bar(1) | bar(9, 100))) == []
    assert "the narrowest is 4 px" in advised(judge(bar(1) | bar(2, 100)))[0]


def test_a_narrow_defect_at_the_edge_of_the_crop_is_narrow():
    assert "the narrowest is 4 px" in advised(judge(bar(2, 222)))[0]
    assert "the narrowest is 4 px" in advised(judge(bar(2, 222).T))[0]


@pytest.mark.parametrize(
    "given", [{"score": 10.0}, {"label": "good"}, {"label": None}, {"facts": {"normals": 59}}, {"facts": {}}]
)
def test_only_missed_defects_are_measured(given):
    assert advised(judge(bar(1)), **given) == []


def test_defects_without_a_visible_mask_are_not_measured():
    assert advised(judge(), judge(np.zeros((224, 224), bool)), None) == []


# ---- too few normal images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normals", "told"),
    [
        (1, ["1 different normal image was fitted: the lowest false-alarm rate is 50 %."]),
        (18, ["18 different normal images were fitted: the lowest false-alarm rate is 5.3 %. For 5 % fit 19, and 59"]),
        (19, ["19 different normal images were fitted: a false-alarm rate of 5 % holds on average. Fit 59 to hold"]),
        (58, ["58 different normal images were fitted: a false-alarm rate of 5 % holds on average. Fit 59 to hold"]),
        (59, []),
    ],
)  # fmt: skip
def test_the_number_of_normal_images_that_a_rate_needs_is_told(normals, told):
    """0.95^59 < 0.05 <= 0.95^58, and the highest of n scores is reached by 1 of n + 1."""
    assert (0.95**59 <= 0.05 < 0.95**58, 1 / 20) == (True, 0.05)
    found = advised(judge(), facts=MANY | {"normals": normals})
    assert [remark[: len(start)] for remark, start in zip(found, told, strict=True)] == told


def test_duplicates_count_once(demo):
    with pytest.warns(UserWarning, match="1 of 3 fitted images are duplicates"):
        spade = SPADE(k=2).fit([*demo.train[:2], demo.train[0]])
    assert evaluate(spade, demo.test[:1]).advice()[-1].startswith("2 different normal images")
    alone = evaluate(SPADE().fit(demo.train[:1]), demo.test[:1]).advice()
    assert [remark[:24] for remark in alone] == ["1 different normal image"]


# ---- kept ------------------------------------------------------------------------------------------------------------


def test_a_report_that_is_loaded_gives_the_same_advice(spade, demo, tmp_path):
    dataset = replace(demo, test=demo.test[::4])
    report = evaluate(spade, dataset)
    report.save(tmp_path / "saved")
    advice = report.advice()
    assert 1 <= len(advice) <= 5
    evaluate(spade, dataset, tmp_path / "kept")
    for folder in ("saved", "kept"):
        assert Report.load(tmp_path / folder).advice() == advice
    copied = pickle.loads(pickle.dumps(report))
    assert copied.advice() == advice


def test_of_a_large_fit_the_normal_images_are_judged_on_request(spade, demo, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_EXAMINED", 11)
    report = evaluate(spade, demo.test[:2], tmp_path)
    assert "normals" not in Report.load(tmp_path).facts
    assert Report.load(tmp_path).advice() == []
    assert report.advice()
    report.save(tmp_path)
    assert Report.load(tmp_path).advice() == report.advice()


def test_a_folder_of_an_earlier_version_has_less_to_say(spade, demo, tmp_path):
    report = evaluate(spade, demo.test[:2], tmp_path)
    table = report.to_frame().drop(columns="squash")
    table.attrs = {}
    table.to_parquet(tmp_path / "photos.parquet")
    assert Report.load(tmp_path).advice() == []


def test_advice_changes_no_result(spade, demo):
    report = evaluate(spade, demo.test[:2])
    before = report.to_frame(), report.summary()
    report.advice()
    pandas.testing.assert_frame_equal(report.to_frame(), before[0])
    pandas.testing.assert_frame_equal(report.summary(), before[1])


def test_whole_images_are_advised_on(demo):
    network = load_backbone(resize=64, crop=None)
    report = evaluate(SPADE(network, k=2).fit(demo.train[:3]), demo.test[:2])
    assert not [remark for remark in report.advice() if "squashed" in remark]
