"""Lesson 03: retrieval of whole images, the two roles of K, and an exercise that names the mistake."""

from pathlib import Path

import numpy as np
import pandas
import pytest

import spade_kit
from spade_kit.datasets.synthetic import Stroke, paint
from spade_kit.lessons.material import cell_types
from spade_kit.lessons.retrieval import (
    auc_by_kind,
    check,
    check_fraction,
    check_think,
    draw_ablation,
    draw_choice,
    draw_growth,
    follow_k,
    grow_stain,
    left_out_scores,
    put_beside_paper,
    share_of_own_type,
    shoot_burst,
)


def by_hand(pooled, k):
    scores = []
    for at, one in enumerate(pooled):
        others = [other for place, other in enumerate(pooled) if place != at]
        scores.append(sum(sorted(sum((a - b) ** 2 for a, b in zip(one, other)) ** 0.5 for other in others)[:k]) / k)
    return np.array(scores)


def test_types_of_cells_are_read_from_the_table_of_the_dataset(tmp_path):
    (tmp_path / "labels.csv").write_text(
        "images/cell0001.png  1.0   mono\n\nimages/cell0002.png  0.0   poly\nimages/cell0003.png  0.3 mono\n"
    )
    samples = [spade_kit.Sample(tmp_path / "images" / f"cell000{at}.png") for at in (2, 3)]
    assert cell_types(samples).tolist() == ["poly", "mono"]


def test_the_fraction_of_neighbours_of_the_same_type_counted_by_hand():
    pooled = np.array([[0.0], [1.0], [3.0], [10.0], [11.0]])
    types = np.array(["a", "a", "b", "b", "b"])
    # nearest: 0 -> 1 (a), 1 -> 0 (a), 3 -> 1 (a), 10 -> 11 (b), 11 -> 10 (b)
    assert share_of_own_type(pooled, types, 1) == {"a": 1.0, "b": pytest.approx(2 / 3)}
    # second: 0 -> 3 (b), 1 -> 3 (b), 3 -> 0 (a), 10 -> 3 (b), 11 -> 3 (b)
    assert share_of_own_type(pooled, types, 2) == {"a": 0.5, "b": pytest.approx(4 / 6)}


def test_left_out_scores_leave_each_image_out(rng, spade, demo):
    pooled = rng.normal(size=(7, 3))
    np.testing.assert_allclose(left_out_scores(pooled, 2), by_hand(pooled, 2))
    gallery = spade_kit.extract_features(demo.train[:12])
    scores = left_out_scores(gallery.pooled.numpy(), 5)
    assert scores[3] == pytest.approx(spade.predict_left_out(3).retrieval_score, rel=1e-4)


def test_each_kind_of_defect_is_compared_with_good_parts(spade, demo):
    results = [spade.predict(sample) for sample in (*demo.test[:3], *demo.test[12:14], *demo.test[-2:])]
    table = auc_by_kind(results)
    labels = [result.label for result in results]
    assert list(table.index) == [*dict.fromkeys(label for label in labels if label != "good"), "all"]
    good = [result.retrieval_score for result in results if result.label == "good"]
    for kind in table.index:
        bad = [r.retrieval_score for r in results if r.label == kind or (kind == "all" and r.label != "good")]
        pairs = [b > g for b in bad for g in good]
        assert table.loc[kind, "paper's score"] == pytest.approx(np.mean(pairs))


def test_scores_of_a_growing_stain_are_multiples_of_the_threshold(demo):
    normals, photo = demo.train[:20], demo.train[30]
    spade = spade_kit.SPADE(k=4).fit(normals)
    table = grow_stain(spade, spade_kit.extract_features(normals), [photo], (8, 60), (226, 170))
    painted = paint(photo.image, [Stroke("stain", ((226, 170),), 60, 0.8, (110, 70, 30))])
    result = spade.predict(painted)
    left_out = [spade.predict_left_out(at) for at in range(20)]  # of 20, 1 in 20 is the largest
    assert list(table.index) == [8, 60]
    row = table.loc[60]
    assert row["share"] == pytest.approx((painted != photo.image).any(2).mean())
    assert row["map"] == pytest.approx(result.image_score / max(one.image_score for one in left_out))
    usual = max(one.retrieval_score for one in left_out)
    assert row["retrieval"] == pytest.approx(result.retrieval_score / usual, rel=1e-4)


def test_a_large_stain_stands_out_at_its_edge_and_hardly_inside(demo):
    spade = spade_kit.SPADE().fit(demo.train[:20])
    photo = paint(demo.train[30].image, [Stroke("stain", ((226, 170),), 128, 0.8, (110, 70, 30))])
    result = spade.predict(photo)
    places = result.crop.on_photo(np.indices((224, 224)).reshape(2, -1).T.astype(float))
    away = np.hypot(*(places - (226, 170)).T).reshape(224, 224)  # px from the middle of the stain
    assert 32 < away.flat[result.anomaly_map.argmax()] < 64
    assert result.anomaly_map[away < 16].max() < 0.75 * result.image_score


def test_maps_by_k_equal_those_of_k_neighbours(result, spade, scratched):
    table = follow_k(result, [1, 3])
    for k in (1, 3):
        again = spade.with_options(k=k).predict(scratched)
        assert table.loc[k, "defect"] == pytest.approx(again.anomaly_map[again.mask].mean(), rel=1e-5)
        assert table.loc[k, "normal"] == pytest.approx(again.anomaly_map[~again.mask].mean(), rel=1e-5)
    assert (table.loc[3] <= table.loc[1]).all()


def test_a_burst_changes_the_image_only_a_little(demo):
    photo = demo.train[0].image
    burst = shoot_burst(photo, 3, seed=1)
    assert [shot.shape for shot in burst] == [photo.shape] * 3
    np.testing.assert_array_equal(burst[1], shoot_burst(photo, 3, seed=1)[1])
    assert not np.array_equal(burst[0], burst[1])
    assert max(abs(shot.mean() / photo.mean() - 1) for shot in burst) < 0.05


def test_figures_show_what_was_measured():
    by_k = pandas.DataFrame(
        {"k": [1, 5], "retrieval_roc_auc": [0.7, 0.8], "image_roc_auc": [0.6, 0.9], "aupro": [0.5, 0.6]}, dtype=object
    )
    figure = draw_ablation({"one": by_k, "other": by_k.drop(columns="aupro")})
    assert [panel.get_title() for panel in figure.axes] == ["one", "other"]
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[0.7, 0.8], [0.6, 0.9], [0.5, 0.6]]
    assert len(figure.axes[1].lines) == 2
    assert len(figure.legends[0].get_texts()) == 3

    random = pandas.DataFrame({"normals": [1, 1, 5], "draw": [0, 1, 0], "aupro": [0.2, 0.4, 0.5]})
    random["normals"] = random["normals"].astype(object)
    nearest, mean, each = draw_choice(by_k, random).axes[0].lines
    assert list(nearest.get_xdata()) == [1, 5]
    np.testing.assert_allclose(np.asarray(mean.get_ydata(), float), [0.3, 0.5])
    assert len(each.get_ydata()) == 3

    growth = pandas.DataFrame({"share": [0.001, 0.01], "retrieval": [0.9, 1.1], "map": [1.2, 1.8]})
    above, below, line = draw_growth(growth).axes[0].lines
    assert list(above.get_ydata()) == [1.2, 1.8]
    assert list(below.get_ydata()) == [0.9, 1.1]
    assert set(line.get_ydata()) == {1}


def distances(pooled):
    return np.sort(np.sqrt(((pooled[:, None] - pooled[None]) ** 2).sum(2)), axis=1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda pooled, k: ..., "Not answered yet"),
        (by_hand, "Right. "),
        (lambda p, k: distances(p)[:, :k].mean(1), "Not yet. Each image finds itself"),
        (lambda p, k: distances(p)[:, : k + 1].mean(1), "That is a mean over 4"),
        (lambda p, k: distances(p)[:, -k:].mean(1), "Those are the k farthest"),
        (lambda p, k: distances(p)[:, 1:].mean(1), "That is the mean over all 11 others"),
        (lambda p, k: (distances(p)[:, 1 : k + 1] ** 2).mean(1), "Those are squared distances"),
        (lambda p, k: distances(p)[:, 1 : k + 1].sum(1), "That is the sum of the 3 distances"),
        (lambda p, k: distances(p)[:, k], "That is the distance to neighbour 3 alone"),
        (lambda p, k: distances(p)[:, 1], "That is the distance to the nearest other alone"),
        (lambda p, k: distances(p)[:, 1 : k + 1].mean(), "The answer must hold 12 scores"),
        (lambda p, k: np.ones(len(p)), "With k = 3 image 0 must score"),
        (lambda p, k: distances(p)[:, 1:4].mean(1), "the mean of the nearest 3 others, but k is 5"),
        (lambda p, k: distances(p)[:, 1:k].mean(1), "That is a mean over 2: the image itself"),
        (lambda p, k: [row[row > 0][:k].mean() for row in distances(p)], "only an image itself is left out"),
        (lambda p, k: p @ p, "Your code raises ValueError"),
        (lambda p, k: Path("nowhere"), "an answer of another form; got"),
    ],
)
def test_the_exercise_names_the_mistake(capsys, answer, said):
    check(answer)
    assert said in capsys.readouterr().out


def test_published_figures_are_those_of_the_benchmark():
    lines = (Path(__file__).parents[1] / "benchmarks" / "results" / "paper.md").read_text(encoding="utf-8").splitlines()
    rows = [
        [part.strip() for part in line.split("|")[1:-1]] for line in lines if line.startswith("| mean of 15 classes")
    ]
    by_k = pandas.DataFrame({"k": [1, 5, 50], "retrieval_roc_auc": 0.704, "pixel_roc_auc": 0.95}, dtype=object)
    table = put_beside_paper(by_k)
    assert table["measured, demo"].to_numpy().tolist() == [["0.70", "0.95"]] * 3
    (own, others) = rows
    assert table["published, MVTec AD"].to_numpy().tolist() == [["-", "-"], others[1:], own[1:]]
    assert "K = 5" in others[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (38 / 50, "Right. "),
        (39 / 50, "not among its own neighbours"),
        (38 / 94, "among all other cells"),
        (39 / 95, "among all cells"),
        (0.6, "That was measured"),
        (1, "There are not 50 others"),
        (12 / 50, "of the other kind"),
        (76, "in percent"),
        (0.5, "Count the others of its kind"),
    ],
)
def test_the_warm_up_names_the_mistake(capsys, answer, said):
    check_fraction(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([..., ...], "Not answered yet"),
        ([20 / 49, 10], "Right. "),
        ([0.41, 10], "Right. "),
        ([20, 10], "divide by 49"),
        ([20 / 49, 20 / 49], "A maximum is not divided"),
        ([10 / 49, 10], "Two cells change"),
        ([200**0.5 / 49, 10], "in the same direction"),
        ([10, 10], "divide by all 49"),
        ([20 / 49, 20], "not the sum of two"),
        ([1, 1], "the sum of the changes, divided by 49"),
    ],
)
def test_the_question_at_the_end_names_the_mistake(capsys, answer, said):
    check_think(answer)
    assert said in capsys.readouterr().out
