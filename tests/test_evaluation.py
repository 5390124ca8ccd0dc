"""`evaluate` on a dataset, compared with judging the same images one by one."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from spade_kit import Sample, evaluate, metrics
from spade_kit.evaluation.bootstrap import BINNED, PixelCounts
from spade_kit.evaluation.report import OF_IMAGES, OF_PIXELS


@pytest.fixture(scope="module")
def results(spade, demo):
    return [spade.predict(sample) for sample in demo.test]


@pytest.fixture(scope="module")
def report(spade, demo):
    return evaluate(spade, demo)


def test_each_image_has_a_row(report, results, demo):
    frame = report.to_frame()
    assert frame["path"].tolist() == [str(sample.path) for sample in demo.test]
    assert frame["label"].tolist() == [sample.label for sample in demo.test]
    np.testing.assert_allclose(frame["image_score"], [result.image_score for result in results], rtol=1e-6)
    np.testing.assert_allclose(frame["retrieval_score"], [result.retrieval_score for result in results], rtol=1e-6)
    shares = frame[["share_layer1", "share_layer2", "share_layer3"]].to_numpy()
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-6)
    unsmoothed = [list(result.with_options(sigma=0).layer_maps.values()) for result in results[:3]]
    expected = [[layer[2::4, 2::4].mean() for layer in layers] for layers in unsmoothed]
    for share, parts in zip(shares, expected):
        np.testing.assert_allclose(share, np.array(parts) / np.sum(parts), atol=0.01)
    assert (frame["seconds"] > 0).all()


@pytest.mark.slow
def test_metrics_are_computed_over_all_images_together(report, results, demo):
    maps, masks = (np.stack([getattr(result, name) for result in results]) for name in ("anomaly_map", "mask"))
    bad = np.array([sample.label != "good" for sample in demo.test])
    scores = [result.image_score for result in results]
    assert report.metric("image_roc_auc") == pytest.approx(roc_auc_score(bad, scores))
    assert report.metric("image_average_precision") == pytest.approx(average_precision_score(bad, scores))
    assert report.metric("pixel_roc_auc") == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))
    assert report.metric("pixel_average_precision") == pytest.approx(
        average_precision_score(masks.ravel(), maps.ravel())
    )
    assert report.metric("aupro") == pytest.approx(metrics.aupro(maps, masks))
    assert report.metric("aupro_05") == pytest.approx(metrics.aupro(maps, masks, fpr_limit=0.05))
    chosen = [at for at, sample in enumerate(demo.test) if sample.label in ("good", "scratch")]
    assert report.metric("aupro", ["scratch"]) == pytest.approx(metrics.aupro(maps[chosen], masks[chosen]))
    assert report.metric("image_f1_max", ["scratch"]) == pytest.approx(
        metrics.f1_max(np.array(scores)[chosen], bad[chosen])
    )


@pytest.mark.slow
def test_the_summary_has_all_metrics_by_kind(report):
    summary = report.summary()
    assert summary.index.tolist() == ["all", "chip", "misplaced", "scratch", "stain", "thread", "wrong_colour"]
    assert summary.columns.tolist() == ["photos", *OF_IMAGES, *OF_PIXELS]
    assert summary.loc["all", "photos"] == 48
    assert summary.loc["stain", "photos"] == 6
    for kind in ("chip", "thread"):
        for name in ("image_roc_auc", "aupro"):
            assert summary.loc[kind, name] == report.metric(name, [kind])
    page = report._repr_html_()
    assert "demo: 48 images; K=5" in page
    assert "<table" in page


@pytest.mark.parametrize("name", OF_PIXELS)
def test_a_pixel_metric_on_bins_is_nearly_exact(report, name):
    maps, masks, *_ = report._pixels(name, None)
    binned = BINNED[name](PixelCounts.of(maps, masks), np.ones(len(maps), int))
    assert binned == pytest.approx(report.metric(name), abs=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image_roc_auc", "top_roc_auc", "pixel_roc_auc", "pixel_average_precision", "aupro"])
def test_an_interval_is_that_of_bootstrap_draws_of_images(report, name):
    """The same draws, each measured exactly on the drawn images, with duplicates."""
    kinds, draws = ["scratch", "stain"], 25
    frame = report.to_frame()
    chosen = frame[frame["label"].isin(["good", *kinds])]
    rng, values = np.random.default_rng(3), []
    for _ in range(draws):
        groups = [np.array(chosen.index[chosen["label"] == kind]) for kind in dict.fromkeys(chosen["label"])]
        at = np.concatenate([rng.choice(group, len(group)) for group in groups])
        if name in OF_IMAGES:
            metric, score = OF_IMAGES[name]
            values.append(metric(frame[score].to_numpy()[at], (frame["label"] != "good").to_numpy()[at]))
        else:
            drawn = [report._judged[i] for i in at]
            maps, masks = (np.stack([getattr(judged, part) for judged in drawn]) for part in ("anomaly_map", "mask"))
            values.append(OF_PIXELS[name](maps, masks))
    expected = np.quantile(values, [0.1, 0.9])
    np.testing.assert_allclose(report.interval(name, kinds, level=0.8, draws=draws, seed=3), expected, atol=4e-3)
    low, high = report.interval(name, kinds)
    assert low < report.metric(name, kinds) < high


def test_without_masks_the_images_are_still_judged(spade, demo):
    samples = [Sample(sample.path, sample.label) for sample in demo.test[::4]]
    report = evaluate(spade, samples)
    assert 0 <= report.metric("image_roc_auc") <= 1
    assert report.summary().loc["all", list(OF_PIXELS)].isna().all()
    assert "pixel" not in report._repr_html_()
    with pytest.raises(
        ValueError, match=r"aupro needs images with masks, but there are none in 12 photos\. Use one of"
    ):
        report.metric("aupro")


def test_an_unreadable_image_is_a_row_with_its_reason(spade, demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    samples = [*demo.test[:2], Sample(tmp_path / "broken.png", "chip"), *demo.test[6:8]]
    with pytest.warns(UserWarning, match="5 photos: 1 of 5 were not judged. See the column reason"):
        report = evaluate(spade, samples)
    frame = report.to_frame()
    assert np.isnan(frame["image_score"][2])
    assert "it is empty" in frame["reason"][2]
    assert report.metric("image_roc_auc") == evaluate(spade, samples[:2] + samples[3:]).metric("image_roc_auc")
    with pytest.raises(ValueError, match=r"None of the 1 images of 1 photos could be judged\. .*it is empty"):
        evaluate(spade, samples[2:3])


@pytest.mark.parametrize("folder", [None, "out"])
def test_defects_outside_the_crop_are_counted(spade, demo, tmp_path, folder):
    samples = list(demo.test[5:8])
    for number in range(2):
        mask = np.zeros(demo.test[0].image.shape[:2], np.uint8)
        mask[2, 2 + number] = 255
        Image.fromarray(mask).save(tmp_path / f"{number}.png")
        samples.append(Sample(demo.test[number].path, "dot", tmp_path / f"{number}.png"))
    with pytest.warns(UserWarning, match=r"2 defects of 5 photos lie outside the evaluated crop") as said:
        evaluate(spade, samples, folder and tmp_path / folder)
    assert len(said) == 1


def test_mistakes_raise_a_clear_error(spade, demo, report):
    with pytest.raises(ValueError, match="evaluate needs images to judge; got none"):
        evaluate(spade, replace(demo, test=[]))
    with pytest.raises(ValueError, match=r"A metric must be one of .*; got 'auproo'\. Did you mean 'aupro'"):
        report.metric("auproo")
    with pytest.raises(ValueError, match=r"A kind must be one of .*Did you mean 'scratch'"):
        report.metric("aupro", ["scratches"])
    with pytest.raises(ValueError, match="hold only normal ones"):
        evaluate(spade, [sample for sample in demo.test if sample.label == "good"]).metric("image_roc_auc")
