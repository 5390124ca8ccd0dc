"""Accuracy of the method, with the default and recommended settings, on the demo and on real images."""

import numpy as np
import pytest

from spade_kit import SPADE, evaluate, load_dataset
from spade_kit.evaluation.metrics import aupro, pixel_roc_auc, roc_auc

pytestmark = pytest.mark.slow


def judge_all(spade, dataset):
    results = [spade.predict(sample) for sample in dataset.test]
    maps, masks = np.stack([result.anomaly_map for result in results]), np.stack([result.mask for result in results])
    scores = np.array([result.image_score for result in results])
    return results, maps, masks, scores, np.array([sample.label != "good" for sample in dataset.test])


@pytest.fixture(scope="module")
def demo_results(demo):
    return judge_all(SPADE().fit(demo.train), demo)


def test_the_demo_is_neither_easy_nor_hopeless(demo_results):
    _, maps, masks, scores, bad = demo_results
    assert 0.93 < pixel_roc_auc(maps, masks) < 0.99
    assert 0.8 < roc_auc(scores, bad) < 1


def test_different_layers_find_different_defects_of_the_demo(demo_results, demo):
    """AUPRO of each layer searched alone, per kind of defect and together with the good parts."""
    results, _, masks, _, _ = demo_results
    kinds = np.array([sample.label for sample in demo.test])
    best = {}
    for kind in ("wrong_colour", "misplaced"):
        of_kind = np.flatnonzero((kinds == kind) | (kinds == "good"))
        scored = {
            layer: aupro(np.stack([results[i].layer_alone[layer] for i in of_kind]), masks[of_kind])
            for layer in ("layer1", "layer2", "layer3")
        }
        ranked = sorted(scored, key=scored.get)
        assert scored[ranked[-1]] > scored[ranked[-2]] + 0.03
        best[kind] = ranked[-1]
    assert best == {"wrong_colour": "layer1", "misplaced": "layer3"}


def test_a_radius_finds_a_misplaced_piece(demo_results, demo):
    results, *_ = demo_results
    near = results[0].spade.with_options(radius=4)
    kinds = np.array([sample.label for sample in demo.test])
    some = np.flatnonzero((kinds == "misplaced") | (kinds == "good"))
    masks = np.stack([results[i].mask for i in some])
    everywhere = aupro(np.stack([results[i].anomaly_map for i in some]), masks)
    close_by = aupro(np.stack([near.predict(demo.test[i]).anomaly_map for i in some]), masks)
    assert close_by > everywhere + 0.1


@pytest.fixture(scope="module")
def toothbrush(real_images):
    dataset = load_dataset(real_images / "toothbrush")
    return SPADE().fit(dataset.train), dataset


def test_the_defaults_reach_the_measured_accuracy_on_real_images(toothbrush):
    _, maps, masks, scores, bad = judge_all(*toothbrush)
    assert pixel_roc_auc(maps, masks) >= 0.985
    assert roc_auc(scores, bad) >= 0.98
    assert aupro(maps, masks) >= 0.91


def test_equal_weights_reach_the_measured_accuracy_on_real_images(toothbrush):
    spade, dataset = toothbrush
    _, maps, masks, scores, bad = judge_all(spade.with_options(weights="equal"), dataset)
    assert pixel_roc_auc(maps, masks) >= 0.985
    assert roc_auc(scores, bad) >= 0.98


def test_the_recommended_settings_do_better_on_the_demo(demo):
    report = evaluate(SPADE.recommended().fit(demo.train), demo)
    kinds = sorted({sample.label for sample in demo.test} - {"good", "misplaced"})
    assert report.metric("aupro", kinds) >= 0.94
    assert report.metric("image_roc_auc", kinds) >= 0.99
    assert report.metric("image_roc_auc", ["misplaced"]) >= 0.95  # without setting a radius


@pytest.mark.parametrize(("name", "least", "of_images"), [("toothbrush", 0.935, 0.99), ("transistor", 0.86, 0.8)])
def test_the_recommended_settings_reach_the_measured_accuracy(real_images, name, least, of_images):
    dataset = load_dataset(real_images / name)
    report = evaluate(SPADE.recommended().fit(dataset.train), dataset)
    assert report.metric("aupro") >= least
    assert report.metric("image_roc_auc") >= of_images


def test_the_recommended_settings_judge_tall_images_whole(real_images):
    bottles = real_images.parent / "mvtec_loco/juice_bottle"
    if not bottles.is_dir():
        pytest.skip("mvtec_loco/juice_bottle must lie beside the folder in SPADE_KIT_MVTEC to test tall images")
    dataset = load_dataset(bottles)
    spade = SPADE.recommended().fit(dataset.train)
    assert spade.gallery.normals[0].crop.size == (640, 320)
    assert evaluate(spade, dataset).metric("image_roc_auc") >= 0.94
