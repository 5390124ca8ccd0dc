"""Reports saved to a folder and loaded again, and their rates and curves."""

import json
import os
import warnings
from dataclasses import replace

import numpy as np
import pandas
import pytest
from PIL import Image
from scipy.ndimage import label
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

from spade_kit import Report, Sample, compare_layers, draw_curves, draw_result, evaluate, load_backbone
from spade_kit._files import RunFolder
from spade_kit.evaluation import evaluate as evaluation
from spade_kit.evaluation.metrics import mean_up_to


@pytest.fixture(scope="module")
def samples(demo) -> list[Sample]:
    return demo.test[::5]


@pytest.fixture(scope="module")
def report(spade, demo, samples) -> Report:
    return evaluate(spade, replace(demo, test=samples))


def stacked(report) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.stack([getattr(judged, part) for judged in report._judged]) for part in ("anomaly_map", "mask"))


# ---- a folder --------------------------------------------------------------------------------------------------------


def test_a_report_kept_in_a_folder_has_the_same_values(spade, demo, samples, report, tmp_path):
    kept = evaluate(spade, replace(demo, test=samples), folder=tmp_path)
    timeless = [column for column in report.to_frame().columns if column != "seconds"]
    for again in (kept, Report.load(tmp_path)):
        pandas.testing.assert_frame_equal(again.to_frame()[timeless], report.to_frame()[timeless])
        assert again.name == "demo"
        assert again.metric("aupro") == report.metric("aupro")
        assert again.interval("image_roc_auc") == report.interval("image_roc_auc")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["weights_sha256"] == spade.backbone.sha256
    assert run["options"] == spade.describe_options()
    assert {"spade_kit", "torch", "crop", "normals_sha256", "dataset", "report"} <= set(run)


def test_a_map_is_stored_once_and_is_the_same_bit_for_bit(spade, samples, tmp_path):
    evaluate(spade, samples, folder=tmp_path)
    kept = Report.load(tmp_path)
    for at, sample in enumerate(samples):
        with np.load(tmp_path / f"photos/{at:05d}.npz") as arrays:
            assert [values.shape for values in arrays.values() if values.dtype == np.float32] == [(56, 56)]
        np.testing.assert_array_equal(kept.judged(at).anomaly_map, spade.predict(sample).anomaly_map)


def test_maps_of_a_report_of_version_0_1_are_read(spade, samples, report, tmp_path):
    report.save(tmp_path)
    for at, sample in enumerate(samples):
        file = tmp_path / f"photos/{at:05d}.npz"
        with np.load(file) as arrays:
            mask, crop = arrays["mask"], arrays["crop"]
        row = json.dumps({"path": str(sample.path), "label": sample.label, "image_score": 1.0})
        np.savez(file, row=np.array(row), map=report.judged(at).anomaly_map, mask=mask, crop=crop)
    for kept, held in zip(stacked(Report.load(tmp_path)), stacked(report)):
        np.testing.assert_array_equal(kept, held)


def test_a_folder_that_is_being_written_is_refused(spade, samples, report, tmp_path):
    with RunFolder(tmp_path, "photos.csv", {}).claim(report.run):
        with pytest.raises(ValueError, match=r"is in use: another run is writing to it\. Wait until it ends"):
            evaluate(spade, samples, folder=tmp_path)
        with pytest.raises(ValueError, match=r"is in use: another run is writing to it\. Wait until it ends"):
            report.save(tmp_path)
    assert not list(tmp_path.glob("photos*"))
    report.save(tmp_path)


def test_raw_maps_are_where_the_script_of_mvtec_expects_them(spade, demo, samples, tmp_path):
    evaluate(spade, replace(demo, test=samples), folder=tmp_path)
    for sample in samples:
        with Image.open(tmp_path / f"maps/demo/test/{sample.label}/{sample.path.stem}.tiff") as picture:
            values = np.asarray(picture)
        assert values.dtype == np.float32
        assert values.shape == sample.image.shape[:2]
        np.testing.assert_array_equal(values, np.nan_to_num(spade.predict(sample).on_photo()))


def test_images_with_the_same_name_keep_separate_maps(spade, samples, tmp_path):
    twice = [Sample(samples[0].path, "a/b"), Sample(samples[0].path, "a/b"), Sample(samples[0].path)]
    evaluate(spade, twice, folder=tmp_path)
    stem = samples[0].path.stem
    found = sorted(path.relative_to(tmp_path / "maps/3 photos/test").as_posix() for path in tmp_path.rglob("*.tiff"))
    assert found == sorted([f"a_b/{stem}.tiff", f"a_b/{stem}_1.tiff", f"unknown/{stem}.tiff"])


def test_an_interrupted_evaluation_resumes(spade, samples, tmp_path, monkeypatch):
    finish, finished = evaluation._finish, []

    def interrupted(item, sample, *found):
        finished.append(sample)
        if finished.count(samples[3]) == 1 and sample == samples[3]:
            raise KeyboardInterrupt
        return finish(item, sample, *found)

    monkeypatch.setattr(evaluation, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(spade, samples, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"interrupted\. Call evaluate"):
        Report.load(tmp_path)
    finished[:] = [samples[3]]
    report = evaluate(spade, samples, folder=tmp_path)
    assert sorted(finished[1:], key=samples.index) == samples[3:]
    fresh = evaluate(spade, samples).to_frame()
    for again in (report, Report.load(tmp_path)):
        frame = again.to_frame()
        pandas.testing.assert_frame_equal(
            frame.drop(columns="seconds"), fresh.drop(columns="seconds"), check_exact=True
        )
    assert not list(tmp_path.rglob("*.writing"))


def test_changed_images_and_failed_ones_are_judged_again(spade, samples, tmp_path):
    (tmp_path / "a.png").write_bytes(samples[0].path.read_bytes())
    (tmp_path / "b.png").write_bytes(b"")
    mine = [Sample(tmp_path / "a.png", "good"), Sample(tmp_path / "b.png", "chip")]
    with pytest.warns(UserWarning, match="2 photos: 1 of 2 were not judged"):
        first = evaluate(spade, mine, folder=tmp_path / "out")
    assert Report.load(tmp_path / "out").to_frame()["reason"][1] == first.to_frame()["reason"][1]
    (tmp_path / "a.png").write_bytes(samples[-1].path.read_bytes())
    (tmp_path / "b.png").write_bytes(samples[-1].path.read_bytes())
    for name in ("a.png", "b.png"):
        os.utime(tmp_path / name, (2**31, 2**31))
    scores = evaluate(spade, mine, folder=tmp_path / "out").to_frame()["image_score"].tolist()
    assert scores == [spade.predict(samples[-1]).image_score] * 2


def test_damaged_files_are_named_or_recreated(spade, samples, tmp_path):
    report = evaluate(spade, samples, folder=tmp_path)
    scores = report.to_frame()["image_score"].tolist()
    photo, whole = tmp_path / "photos/00001.npz", (tmp_path / "photos/00001.npz").read_bytes()
    for damaged in (whole[:200], b"", b"PK" + whole[50:]):
        photo.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"00001\.npz is damaged or missing .*evaluate.*again"):
            Report.load(tmp_path).metric("aupro")
        assert evaluate(spade, samples, folder=tmp_path).to_frame()["image_score"].tolist() == scores
    photo.write_bytes((tmp_path / "photos/00000.npz").read_bytes())
    with pytest.raises(ValueError, match=r"00001\.npz is damaged or missing \(it is of .*000\..*, not of "):
        Report.load(tmp_path).metric("aupro")
    photo.unlink()
    with pytest.raises(ValueError, match=r"00001\.npz is damaged or missing"):
        Report.load(tmp_path).metric("aupro")
    evaluate(spade, samples, folder=tmp_path)
    maps = sorted((tmp_path / "maps").rglob("*.tiff"))
    content = [path.read_bytes() for path in maps]
    maps[0].unlink()
    maps[1].write_bytes(content[1][:1000])
    evaluate(spade, samples, folder=tmp_path)
    assert [path.read_bytes() for path in maps] == content
    (tmp_path / "photos.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"photos\.parquet is damaged"):
        Report.load(tmp_path)
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        evaluate(spade, samples, folder=tmp_path)


def test_results_of_another_run_are_not_mixed_in(spade, samples, tmp_path):
    evaluate(spade, samples[:2], folder=tmp_path)
    with pytest.raises(ValueError, match=r"results of another run: options was .*sigma=4.* and is now .*sigma=2"):
        evaluate(spade.with_options(sigma=2), samples[:2], folder=tmp_path)
    with pytest.raises(ValueError, match=r"another run: .*dataset was '2 photos' and is now '3 photos'"):
        evaluate(spade, samples[:3], folder=tmp_path)


def test_a_report_in_memory_can_be_saved(spade, report, tmp_path):
    report.save(tmp_path)
    again = Report.load(tmp_path)
    pandas.testing.assert_frame_equal(again.to_frame(), report.to_frame())
    assert again.summary().equals(report.summary())
    for kept, held in zip(stacked(again), stacked(report)):
        np.testing.assert_array_equal(kept, held)
    again.save(tmp_path)
    again.save(tmp_path / "copy")
    assert Report.load(tmp_path / "copy").metric("aupro") == report.metric("aupro")


def test_folders_without_a_report_raise_an_error(report, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a report in .*, but there is none"):
        Report.load(tmp_path)
    report.save(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(run | {"report": 99, "spade_kit": "9.0"}))
    with pytest.raises(
        ValueError, match=r"Expected a report of format 1, but .* holds format 99, written by spade_kit 9\.0"
    ):
        Report.load(tmp_path)


@pytest.mark.parametrize("column", ["path", "label", "image_score", "top_score", "retrieval_score"])
def test_a_table_without_a_column_is_damaged(report, tmp_path, column):
    report.save(tmp_path)
    table = pandas.read_parquet(tmp_path / "photos.parquet")
    table.drop(columns=column).to_parquet(tmp_path / "photos.parquet")
    with pytest.raises(ValueError, match=rf"photos\.parquet is damaged \(.*{column}.* not in index.*\)\. Call"):
        Report.load(tmp_path)


def test_a_column_that_somebody_added_to_a_table_is_kept(spade, demo, tmp_path):
    report = evaluate(spade, demo.test[18:21], folder=tmp_path)
    table = pandas.read_parquet(tmp_path / "photos.parquet").assign(comment="Ann")
    table.to_parquet(tmp_path / "photos.parquet")
    told = r"photos\.parquet must have the columns of a report; got also 'comment'\. Keep your notes"
    with pytest.raises(ValueError, match=told):
        evaluate(spade, demo.test[18:21], folder=tmp_path)
    with pytest.raises(ValueError, match=told):
        report.save(tmp_path)
    assert (pandas.read_parquet(tmp_path / "photos.parquet")["comment"] == "Ann").all()
    Report.load(tmp_path).save(tmp_path / "copy")
    assert (Report.load(tmp_path / "copy").to_frame()["comment"] == "Ann").all()


@pytest.mark.parametrize("key", ["dataset", "options", "backbone", "weights"])
def test_a_manifest_without_an_entry_is_told(report, tmp_path, key):
    report.save(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({name: value for name, value in run.items() if name != key}))
    with pytest.raises(ValueError, match=rf"run\.json must say {key}; it does not\. Restore it"):
        Report.load(tmp_path)


WRONG = {
    "load": (lambda report, spade, demo: Report.load(5), "folder must be the path of a folder; got 5"),
    "save": (lambda report, spade, demo: report.save(None), "folder must be the path of a folder; got None"),
    "kinds": (lambda report, spade, demo: report.metric("aupro", 5), "kinds must be a list of kinds of defects among"),
    "seed": (lambda report, spade, demo: report.interval("aupro", seed="a"), "seed must be a whole number of at"),
    "below": (lambda report, spade, demo: spade.threshold_interval(0.1, seed=-1), "seed must be .*got -1"),
    "layers": (lambda report, spade, demo: load_backbone(layers=[1]), r"layers must be a list of names.*; got \[1\]"),
    "mask": (lambda report, spade, demo: Sample("a.png", "bad", np.zeros((2, 3))), "mask_path must be the path of"),
    "threshold": (
        lambda report, spade, demo: draw_result(spade.predict(demo.test[0]), "a"),
        "A threshold must be a finite raw distance, .*; got 'a'",
    ),
    "view": (
        lambda report, spade, demo: compare_layers(spade, demo.test[0], [{"name": 5, "k": 1}, None]),
        r"The name of a view must be text; got 5\.",
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", WRONG)
def test_a_value_of_a_wrong_type_is_refused_in_a_sentence(report, spade, demo, what):
    call, said = WRONG[what]
    with pytest.raises(ValueError, match=said):
        call(report, spade, demo)


# ---- thresholds and curves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"level": 1}, {"level": 0}])
def test_invalid_arguments_of_an_interval_raise_an_error(report, wrong):
    with pytest.raises(ValueError, match=r"draws must be a whole number|level must be a fraction of all draws"):
        report.interval("image_roc_auc", **wrong)


def test_reports_are_compared_on_the_same_draws(spade, demo, samples, report):
    other = evaluate(spade.with_options(k=1, sigma=0), replace(demo, test=samples))
    frames = [one.to_frame() for one in (report, other)]
    bad = (frames[0]["label"] != "good").to_numpy()
    kinds = [np.flatnonzero(frames[0]["label"] == kind) for kind in frames[0]["label"].unique()]
    rng, gains = np.random.default_rng(0), []
    for _ in range(200):
        drawn = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        first, second = (roc_auc_score(bad[drawn], frame["image_score"][drawn]) for frame in frames)
        gains.append(first - second)
    gain, *interval = report.compare(other, "image_roc_auc")
    assert interval == pytest.approx(np.quantile(gains, [0.025, 0.975]))
    assert gain == report.metric("image_roc_auc") - other.metric("image_roc_auc")
    assert report.compare(report, "aupro") == (0, 0, 0)
    gain, low, high = report.compare(other, "aupro")
    assert 0 < low < gain < high
    with pytest.raises(ValueError, match=r"same images with the same labels, in one order; got others\. Evaluate both"):
        report.compare(evaluate(spade, samples[::-1]), "image_roc_auc")


def test_mistakes_raise_a_clear_error(spade, report, tmp_path):
    for kinds in ("scratch", []):
        with pytest.raises(ValueError, match="kinds must be a list of kinds of defects among"):
            report.metric("aupro", kinds)
    with pytest.raises(ValueError, match="points must be a whole number of at least 2"):
        report.curves(points=1)
    with pytest.raises(ValueError, match=r"index must refer to one of the rows, from 0 to 9; got 99\."):
        report.judged(99)
    with pytest.raises(ValueError, match="evaluate takes a Dataset or a list of Samples"):
        evaluate(spade, ["a.png"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Results are written to a folder"):
        report.save(tmp_path / "file")
    assert "image_roc_auc" in str(report)


def test_rates_at_a_threshold_are_counts(report):
    maps, masks = stacked(report)
    threshold = float(np.quantile(maps, 0.97))
    rates, found = report.rates(threshold), maps >= threshold
    assert rates["recall"] == found[masks].mean()
    assert rates["false_positive_rate"] == found[~masks].mean()
    assert rates["precision"] == masks[found].mean()
    overlaps = []
    for mask, marked in zip(masks, found):
        regions, count = label(mask, np.ones((3, 3)))
        overlaps += [marked[regions == region].mean() for region in range(1, count + 1)]
    assert rates["overlap"] == pytest.approx(np.mean(overlaps))
    frame = report.to_frame()
    bad, marked = frame["label"] != "good", frame["image_score"] >= frame["image_score"].median()
    of_images = report.rates(frame["image_score"].median(), of="image")
    assert of_images["recall"] == marked[bad].mean()
    assert of_images["false_positive_rate"] == marked[~bad].mean()
    assert np.isnan(report.rates(1e9)["precision"])


@pytest.mark.parametrize("whole", [False, True], ids=["all masks empty", "only good images of a set with masks"])
def test_without_a_defective_pixel_only_the_curves_of_images_remain(spade, demo, tmp_path, whole):
    Image.fromarray(np.zeros((240, 320), np.uint8)).save(tmp_path / "black.png")
    samples = [replace(sample, mask_path=tmp_path / "black.png") for sample in demo.test[::12] if not whole]
    samples = samples or [sample for sample in demo.test if sample.label == "good"][:2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about empty masks
        report = evaluate(spade, samples)
    if whole:
        with pytest.raises(ValueError, match="A curve needs good images and defects, but one of them is missing"):
            report.curves()
        return
    assert set(report.curves()["of"]) == {"image"}
    assert [trace.name[:6] for trace in draw_curves(report, 1.0, 1.0).data if trace.mode != "markers"] == ["images"] * 2


def test_points_of_curves_are_exact_and_few(report):
    curves = report.curves()
    assert curves.groupby(["curve", "of"]).size().max() <= 200
    assert set(map(tuple, curves[["curve", "of"]].drop_duplicates().to_numpy())) == {
        ("roc", "image"), ("roc", "pixel"), ("pr", "image"), ("pr", "pixel"), ("pro", "pixel"),
    }  # fmt: skip
    for row in curves[curves["of"] == "pixel"].iloc[::23].itertuples():
        if np.isinf(row.threshold):
            assert (row.x, row.y) == (0, 0)
            continue
        rates = report.rates(row.threshold)
        x, y = {"roc": ("false_positive_rate", "recall"), "pr": ("recall", "precision")}.get(
            row.curve, ("false_positive_rate", "overlap")
        )
        assert (row.x, row.y) == pytest.approx((rates[x], rates[y]))


def test_curves_of_images_are_those_of_scikit_learn(report):
    frame, curves = report.to_frame(), report.curves()
    bad = frame["label"] != "good"
    false, true, _ = roc_curve(bad, frame["image_score"], drop_intermediate=False)
    mine = curves[(curves["curve"] == "roc") & (curves["of"] == "image")]
    np.testing.assert_allclose(mine[["x", "y"]], np.transpose([false, true]))
    precision, recall, _ = precision_recall_curve(bad, frame["image_score"])
    mine = curves[(curves["curve"] == "pr") & (curves["of"] == "image")]
    np.testing.assert_allclose(mine[["x", "y"]], np.transpose([recall, precision])[-2::-1])


def test_thinned_curves_keep_their_areas(report):
    curves = report.curves()
    areas = {key: auc(part["x"], part["y"]) for key, part in curves.groupby(["curve", "of"])}
    assert areas["roc", "pixel"] == pytest.approx(report.metric("pixel_roc_auc"), abs=2e-3)
    pro = curves[curves["curve"] == "pro"]
    area = mean_up_to(0.3, pro["x"].to_numpy(), pro["y"].to_numpy())
    assert area == pytest.approx(report.metric("aupro"), abs=2e-3)
    assert report.curves(points=20).groupby(["curve", "of"]).size().max() <= 20


def test_curves_without_ground_truth_raise_an_error(spade, samples):
    unlabelled = evaluate(spade, [Sample(sample.path) for sample in samples[:2]])
    with pytest.raises(
        ValueError, match="A curve needs good images and defects, but one of them is missing in 2 photos"
    ):
        unlabelled.curves()
    unmasked = evaluate(spade, [Sample(sample.path, sample.label) for sample in samples])
    assert set(unmasked.curves()["of"]) == {"image"}
