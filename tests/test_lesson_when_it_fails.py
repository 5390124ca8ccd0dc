"""Lesson 10: changed images, two other methods, and an exercise that explains mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from spade_kit import SPADE, Dataset, Sample, load_backbone
from spade_kit.evaluation.metrics import aupro, roc_auc
from spade_kit.features.pyramid import Pyramid
from spade_kit.lessons.when_it_fails import (
    check,
    check_rate,
    check_think,
    choose_mono,
    darken,
    draw_methods,
    image_auc,
    judge_dino,
    judge_maps,
    judge_results,
    padim,
    patchcore,
    shift,
    stack,
    turn,
)
from spade_kit.scores import make_map


@pytest.fixture
def photo(rng):
    return rng.integers(0, 256, (41, 60, 3), dtype=np.uint8)


def test_a_shift_moves_to_the_right_and_a_turn_around_the_middle(photo):
    np.testing.assert_array_equal(shift(photo, 7)[:, 7:], photo[:, :-7])
    np.testing.assert_array_equal(shift(photo, 7)[:, 6], photo[:, 1])  # mirrored at the border
    np.testing.assert_array_equal(shift(photo, 0), photo)
    np.testing.assert_array_equal(turn(photo, 0), photo)
    assert turn(photo, 30).shape == photo.shape
    dot = np.zeros((40, 40, 3), np.uint8)
    dot[8:12, 18:22] = 255
    row, col = np.argwhere(turn(dot, 90)[..., 0] > 128).mean(0)  # anticlockwise, from the top to the left
    assert (row, col) == (pytest.approx(19.5, abs=1), pytest.approx(9.5, abs=1))


def test_darkening_is_proportional(photo):
    np.testing.assert_allclose(darken(photo, 0.4), photo * 0.6, atol=1)
    np.testing.assert_allclose(darken(photo, -0.2), np.minimum(photo * 1.2, 255), atol=1)


def test_monocrystalline_cells_are_those_in_the_label_table(tmp_path):
    rows = [("a", 0.0, "mono"), ("b", 0.0, "poly"), ("c", 0.0, "mono"), ("d", 1.0, "mono"), ("e", 1.0, "poly")]
    (tmp_path / "labels.csv").write_text("".join(f"images/{name}.png {part} {kind}\n" for name, part, kind in rows))
    a, b, c, d, e = (Sample(Path(tmp_path, "images", f"{name}.png"), "good" if part == 0 else "defect 100 %")
                     for name, part, _ in rows)  # fmt: skip
    assert choose_mono(Dataset("cells", [a, b], [c, d, e])) == ([a], [c], [d])


def test_layers_are_stacked_on_one_grid(rng):
    levels = [
        torch.from_numpy(rng.normal(size=(2, c, s, s)).astype(np.float32)) for c, s in ((3, 56), (4, 28), (5, 14))
    ]
    stacked = stack(Pyramid(levels, ("layer1", "layer2", "layer3"), torch.zeros(2, 1)))
    assert stacked.shape == (2, 12, 28, 28)
    middle = levels[1][0, 2, 9:12, 19:22].mean()
    torch.testing.assert_close(stacked[0, 5, 10, 20], middle)


def test_padim_is_a_mahalanobis_distance_at_every_place(rng):
    normals, queries = (torch.from_numpy(rng.normal(size=(n, 6, 2, 3)).astype(np.float32)) for n in (40, 2))
    found = padim(normals, queries)
    for query, row, col in np.ndindex(2, 2, 3):
        here = normals[:, :, row, col].double().numpy()
        inverse = np.linalg.inv(np.cov(here.T) + 0.01 * np.eye(6))
        expected = mahalanobis(queries[query, :, row, col].numpy(), here.mean(0), inverse)
        assert found[query, row, col] == pytest.approx(expected, rel=1e-4)


def test_patchcore_is_the_distance_to_the_nearest_of_a_bank(rng):
    normals = torch.from_numpy(rng.normal(size=(40, 6, 4, 5)).astype(np.float32))
    found = patchcore(normals, normals[:3])
    bank = normals.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    distances = np.linalg.norm(bank[: 3 * 20, None] - bank[None], axis=-1)
    assert found.shape == (3, 4, 5)
    assert 0 < (found.ravel() < 1e-3).sum() < 60  # some of them are in the bank, most are not
    assert (found.ravel() >= distances.min(1) - 1e-3).all()


def test_methods_are_judged_by_kind(rng):
    labels = ["good", "good", "misplaced", "scratch", "scratch"]
    samples = [Sample(Path("x.png"), label) for label in labels]
    masks = [np.zeros((32, 32), bool) for _ in labels]
    for mask in masks[2:]:
        mask[8:20, 8:20] = True
    maps = [rng.random((32, 32)).astype(np.float32) for _ in labels]
    told = judge_maps(maps, samples, masks)
    smooth = np.stack([make_map(grid, (32, 32), 4) for grid in maps])
    others = [0, 1, 3, 4]
    assert told["others: AUPRO"] == aupro(smooth[others], np.stack(masks)[others])
    assert told["misplaced: image AUC"] == roc_auc(smooth[:3].max((1, 2)), np.array([False, False, True]))


def test_results_are_judged_by_their_own_maps_and_scores(spade, demo):
    chosen = [
        next(sample for sample in demo.test if sample.label == kind) for kind in ("misplaced", "scratch", "thread")
    ]
    samples = [*demo.test[:2], *[sample for sample in demo.test if sample.label == "good"][:2], *chosen]
    results = [spade.with_options(score="top", sigma=2).predict(sample) for sample in samples]
    told = judge_results(results, samples)
    some = [at for at, sample in enumerate(samples) if sample.label != "misplaced"]
    maps, masks = (np.stack([getattr(results[at], name) for at in some]) for name in ("anomaly_map", "mask"))
    assert told["others: AUPRO"] == aupro(maps, masks)
    bad = np.array([samples[at].label != "good" for at in some])
    assert told["others: image AUC"] == roc_auc(np.array([results[at].image_score for at in some]), bad)


def test_anomaly_dino_is_the_last_block_alone_among_all_normal_images(demo, monkeypatch):
    """Also as its own fit of one block; with random weights, so that only the arithmetic counts."""

    def load(name, **given):
        return load_backbone(name, **given | ({"pretrained": False} if isinstance(name, str) else {}))

    monkeypatch.setattr("spade_kit.gallery.recommendation.load_backbone", load)
    kinds = [[sample for sample in demo.test if sample.label == kind] for kind in ("good", "misplaced", "scratch")]
    parts = Dataset("some", demo.train[:4], [sample for kind in kinds for sample in kind[:2]])
    name = "vit_tiny_patch16_224"
    told = judge_dino(parts, name, size=112)
    last = load(name, resize=128, crop=112, unit=True, layers=["blocks.11"])
    alone = SPADE(last, k=4, squared=True, score="top", sigma=SPADE.recommended(name, size=112).sigma).fit(parts.train)
    expected = judge_results([alone.predict(sample) for sample in parts.test], parts.test)
    assert told["AnomalyDINO"] == pytest.approx(expected)
    assert told["RAD"].keys() == expected.keys()


def test_without_weights_a_line_says_so(demo, capsys, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("not on this machine")

    monkeypatch.setattr("spade_kit.gallery.recommendation.load_backbone", fail)
    assert judge_dino(demo) == {}
    line = "The weights of vit_small_patch14_dinov2.lvd142m are not here and cannot be downloaded"
    assert capsys.readouterr().out.splitlines() == [f"{line}, so this cell does nothing."]


def test_image_auc_separates_damage_from_good_images_and_ignores_misplaced_parts(rng):
    labels = ["good", "misplaced", "scratch", "good", "scratch"]
    grids = [np.full((7, 7), value) for value in (1.0, 9.0, 2.0, 3.0, 4.0)]
    assert image_auc(grids, [Sample(Path("x.png"), label) for label in labels]) == 0.75


def test_each_method_is_drawn_on_the_scale_of_its_good_images(spade, demo, rng):
    samples = demo.test[:3]
    result = spade.predict(samples[0])
    good = [sample for sample in demo.test if sample.label == "good"][:2]
    distances = {name: factor * rng.random((3, 28, 28)) for name, factor in (("one", 1), ("ten", 10))}
    figure = draw_methods(result, distances, [samples[0], *good])
    _, *panels = figure.axes
    assert [panel.get_title() for panel in panels] == ["one", "ten"]
    for panel, grids in zip(panels, distances.values()):
        first, *others = (make_map(grid, (224, 224), 4) for grid in grids)
        np.testing.assert_allclose(panel.images[0].get_array(), first / (2 * np.percentile(others, 99)))


def away(point, normals):
    return point - normals.mean(0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda p, n: ..., "Not answered yet"),
        (lambda p, n: mahalanobis(p, n.mean(0), np.linalg.inv(np.cov(n.T))), "Right. "),
        (lambda p, n: mahalanobis(p, n.mean(0), np.linalg.inv(np.cov(n.T))) ** 2, "squared distance"),
        (lambda p, n: np.linalg.norm(away(p, n)), "Euclidean distance"),
        (lambda p, n: mahalanobis(p, n.mean(0), np.cov(n.T)), "inverse of the covariance"),
        (lambda p, n: np.linalg.norm(away(p, n) / n.std(0)), "each axis by itself"),
        (lambda p, n: 1.0, "The distance must be "),
        (lambda p, n: np.linalg.inv(n), "Your code raises LinAlgError"),
    ],
)
def test_the_exercise_says_what_is_wrong(capsys, answer, said):
    check(answer)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (1 / (10 + 1), "Right. "),
        (0.09, "Right. "),
        (1 / 21, "say the same"),
        (1 / 20, "the new part, too"),
        (0.1, "the new part counts, too"),
        (100 / 11, "between 0 and 1"),
        (0.5, "Got 0.5."),
        ("one", "an answer of another form; got 'one'"),
    ],
)
def test_the_warm_up_says_what_is_wrong(capsys, answer, said):
    check_rate(answer)
    assert said in capsys.readouterr().out


ANYWHERE, NEAR = {"A": 9, "B": 4, "C": 6}, {"A": 12, "B": 7, "C": 10}


def nearest(distances, images):
    return min(distances[image] for image in images)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([..., 4, 4, 10], "Not answered yet"),
        ([nearest(ANYWHERE, "AC"), *[nearest(ANYWHERE, "ABC")] * 2, nearest(NEAR, "AC")], "Right. "),
        ([nearest(ANYWHERE, "ABC"), 4, 4, 10], "SPADE looks only"),
        ([6, 4, 4, nearest(NEAR, "ABC")], "RAD looks only"),
        ([6, 4, 4, nearest(ANYWHERE, "AC")], "within one cell"),
        ([6, nearest(ANYWHERE, "AC"), 4, 10], "PatchCore retrieves no images"),
        ([6, 4, nearest(ANYWHERE, "AC"), 10], "AnomalyDINO retrieves no images"),
        ([ANYWHERE["A"], 4, 4, NEAR["A"]], "not that of the first image"),
        ([1, 2, 3, 4], "got [1, 2, 3, 4]"),
        ([6, 4], "an answer of another form; got [6, 4]"),
    ],
)
def test_the_question_says_what_is_wrong(capsys, answer, said):
    check_think(answer)
    assert said in capsys.readouterr().out
