"""`sweep` over many settings, compared with evaluating each setting alone."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas
import pytest
import torch
from sklearn.metrics import average_precision_score
from tqdm import tqdm

from spade_kit import SPADE, draw_sweep, evaluate, load_backbone, match_pixels, sweep
from spade_kit._files import RunFolder
from spade_kit.evaluation import sweep as sweeping
from spade_kit.scores import make_map


@pytest.fixture(scope="module")
def small(demo):
    return replace(demo, train=demo.train[:6], test=demo.test[::6])


def evaluated(small, train=None, backbone="efficientnet_lite0", **options):
    return evaluate(SPADE(backbone, **options).fit(train or small.train), small)


def test_progress_is_shown_only_by_the_bar(small, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    monkeypatch.setattr("spade_kit.evaluation.sweep.track", partial(tqdm, ascii=True, mininterval=0, disable=False))
    sweep(small, {"radius": [0, 1]})
    told = capsys.readouterr()
    assert told.out == ""
    assert "efficientnet_lite0, crop 224 of 256 px: settings x images: 100%" in told.err
    assert "16/16" in told.err


@pytest.mark.slow
def test_every_setting_equals_a_separate_evaluation(small):
    frame = sweep(small, {"k": [1, 4], "sigma": [0, 4], "weights": [None, {"layer3": 0.1}], "kappa": [1, 2]})
    assert len(frame) == 16
    for row in frame.iloc[::3].itertuples():
        report = evaluated(small, k=row.k, sigma=row.sigma, weights=row.weights, kappa=row.kappa)
        for name in ("image_roc_auc", "retrieval_roc_auc", "pixel_roc_auc", "aupro"):
            assert getattr(row, name) == pytest.approx(report.metric(name), abs=1e-6)
    assert frame["seconds"].notna().sum() == 4


def test_duplicate_values_count_once(small):
    frame = sweep(small, {"k": [1, 1, 4], "sigma": [4, 4.0]}, metrics=["aupro"])
    assert len(frame) == 2
    assert frame["aupro"][0] == pytest.approx(evaluated(small, k=1).metric("aupro"), abs=1e-6)


@pytest.mark.slow
def test_radius_and_ensemble_equal_separate_evaluations(small):
    frame = sweep(small, {"combine": ["concat", "ensemble"], "radius": [0, None]}, metrics=["pixel_average_precision"])
    assert list(frame.columns) == ["combine", "radius", "pixel_average_precision", "seconds"]
    for row in frame.itertuples():
        expected = evaluated(small, combine=row.combine, radius=row.radius).metric("pixel_average_precision")
        assert row.pixel_average_precision == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [("layer2",), ("layer2", "layer3"), ("layer1", "layer3"), None])
def test_layers_are_used_as_if_there_were_no_others(small, layers):
    """Compared with the single stages on pyramids without the other layers."""
    spade = SPADE().fit(small.train)
    expected = []
    for sample in small.test:
        result = spade.predict(sample)
        gallery = spade.gallery
        normals = [gallery.pyramid(int(index)) for index in result.neighbours.index]
        chosen = layers or gallery.layers
        joined = replace(
            normals[0],
            levels=[torch.cat(levels) for levels in zip(*(normal.levels for normal in normals))],
            pooled=gallery.pooled[result.neighbours.index],
        )
        found = match_pixels(result.query.only(chosen), joined.only(chosen))
        expected.append(make_map(found.distance, (224, 224), 4).max())
    frame = sweep(small, {"layers": [layers]}, metrics=["image_average_precision"])
    bad = np.array([sample.label != "good" for sample in small.test])

    assert frame["image_average_precision"][0] == pytest.approx(average_precision_score(bad, expected), abs=1e-6)


@pytest.mark.slow
def test_fewer_normals_are_drawn_several_times_as_nested_subsets(small):
    frame = sweep(small, {"normals": [1, 3, None]}, draws=2, seed=5)
    assert frame[["normals", "draw"]].to_numpy().tolist() == [[1, 0], [1, 1], [3, 0], [3, 1], [None, 0]]
    order = np.random.default_rng([5, 1]).permutation(6)
    for count, row in ((1, 1), (3, 3)):
        report = evaluated(small, train=[small.train[at] for at in order[:count]])
        assert frame["aupro"][row] == pytest.approx(report.metric("aupro"), abs=1e-6)
    assert frame["aupro"][4] == pytest.approx(evaluated(small).metric("aupro"), abs=1e-6)


def test_fitted_photos_are_judged_against_the_others(small):
    mixed = replace(small, test=[*small.train[:3], *small.test[:4]])
    frame = sweep(mixed, {"k": [3]}, metrics=["image_roc_auc", "pixel_roc_auc"])
    report = evaluate(SPADE(k=3).fit(small.train), mixed)
    for name in ("image_roc_auc", "pixel_roc_auc"):
        assert frame[name][0] == pytest.approx(report.metric(name), abs=1e-6)


def test_each_crop_and_backbone_is_loaded(small):
    network = load_backbone(resize=128, crop=96)
    frame = sweep(small, {"backbone": [network, "efficientnet_lite0"], "k": [2]})
    assert frame["backbone"].tolist() == [network, "efficientnet_lite0"]
    assert frame["aupro"][0] == pytest.approx(evaluated(small, backbone=network, k=2).metric("aupro"))
    crops = sweep(small, {"crop": [112, None]}, metrics=["image_roc_auc"])
    assert crops["crop"].tolist() == [112, None]
    mine = evaluated(small, backbone=load_backbone(resize=128, crop=112))
    assert crops["image_roc_auc"][0] == mine.metric("image_roc_auc")


def test_intervals_are_those_of_the_report(small):
    frame = sweep(small, {"k": [3]}, metrics=["image_roc_auc", "aupro"], intervals=True)
    report = evaluated(small, k=3)
    for name in ("image_roc_auc", "aupro"):
        assert tuple(frame.loc[0, [f"{name}_low", f"{name}_high"]]) == report.interval(name)


def test_without_masks_pixels_have_no_metric(small):
    unmasked = replace(small, test=[replace(sample, mask_path=None, masked=False) for sample in small.test])
    frame = sweep(unmasked, {"k": [2]})
    assert frame["aupro"].isna().all()
    assert frame["image_roc_auc"].notna().all()


def test_mistakes_raise_a_clear_error(small):
    for over, said in [
        ({}, "sweep needs options with lists of values"),
        ({"kk": [1]}, r"An option must be one of .*; got 'kk'\. Did you mean 'k'"),
        ({"k": 5}, "sweep takes a list of values for k; got 5"),
        ({"weights": "equal"}, "sweep takes a list of values for weights; got 'equal'"),
        ({"normals": [0]}, "normals must be a whole number of at least 1; got 0"),
        ({"k": [None]}, "k must be a whole number of at least 1; got None"),
        ({"k": []}, "at least one value for each option; got none for k"),
        ({"layers": [("layer9",)]}, r"A layer must be one of .*; got 'layer9'"),
        ({"layers": ["layer2"]}, "layers must be a list of names among layer1, layer2, layer3; got 'layer2'"),
        (
            {"backbone": [load_backbone()], "crop": [224]},
            "With crop among the options, backbones are loaded once per crop",
        ),
    ]:
        with pytest.raises(ValueError, match=said):
            sweep(small, over)
    with pytest.raises(ValueError, match="A metric must be one of"):
        sweep(small, {"k": [1]}, metrics=["auproo"])
    with pytest.raises(ValueError, match="sweep needs a Dataset with images to fit and images to judge"):
        sweep(replace(small, test=[]), {"k": [1]})


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_one_option_is_a_line_or_dots(small):
    frame = sweep(small, {"k": [1, 2, 4]}, metrics=["aupro", "image_roc_auc"])
    left, right = draw_sweep(frame).axes
    assert [left.get_title(), right.get_title()] == ["image ROC AUC", "AUPRO, false-positive rate up to 0.3"]
    assert [left.get_ylabel(), right.get_ylabel()] == ["image ROC AUC", "AUPRO"]
    line = right.lines[0]
    np.testing.assert_allclose(line.get_ydata(), frame["aupro"])
    assert line.get_linestyle() == "-"
    assert [label.get_text() for label in right.get_xticklabels()] == ["1", "2", "4"]
    (panel,) = draw_sweep(sweep(small, {"layers": [("layer1",), None]}), metrics=["aupro"]).axes
    assert panel.lines[0].get_linestyle() == "None"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["layer1", "all"]


def test_bars_reach_over_draws(small):
    frame = sweep(small, {"normals": [2, None]}, metrics=["aupro"], draws=3)
    (panel,) = draw_sweep(frame).axes
    values = frame["aupro"][:3]
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [values.mean(), frame["aupro"][3]])
    (segments,) = (bars.get_segments() for bars in panel.collections)
    np.testing.assert_allclose(segments[0][:, 1], [values.min(), values.max()])


def test_two_options_are_a_heat_map_and_three_are_lines(small):
    frame = sweep(small, {"k": [1, 2, 4], "radius": [0, None]}, metrics=["aupro"])
    (panel,) = draw_sweep(frame).axes
    table = frame.assign(radius=frame["radius"].map(str)).pivot(index="k", columns="radius", values="aupro")
    np.testing.assert_allclose(panel.images[0].get_array(), table[["0", "None"]])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "everywhere"]
    frame = sweep(small, {"k": [1, 2, 4], "radius": [0, None], "sigma": [0, 4]}, metrics=["aupro"])
    figure = draw_sweep(frame)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "0, 0", "0, 4", "everywhere, 0", "everywhere, 4",
    ]  # fmt: skip
    for wrong in (frame[["aupro"]], frame[:0], None):
        with pytest.raises(ValueError, match="draw_sweep takes a table from sweep; got "):
            draw_sweep(wrong)
    with pytest.raises(ValueError, match="draw_sweep needs a metric, but all are NaN"):
        draw_sweep(frame.assign(aupro=np.nan))


# ---- a folder --------------------------------------------------------------------------------------------------------


@pytest.fixture
def over(tiny) -> dict:
    """24 settings of a small network: two draws of two normals and all of them, each with two weights, K and sigmas."""
    return {"backbone": [tiny], "normals": [2, None], "weights": [None, "equal"], "k": [1, 3], "sigma": [0, 4]}


def assert_same_but_seconds(found, expected):
    pandas.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True)


def rows_of(folder) -> list[str]:
    return (folder / "sweep.csv").read_text().splitlines()[1:]


def test_a_sweep_in_a_folder_is_the_same_and_a_second_call_measures_nothing(small, over, tmp_path, monkeypatch):
    over, wanted = (
        over | {"normals": [2, 3], "weights": [None]},
        {"metrics": ["image_roc_auc"], "intervals": True, "draws": 1},
    )
    expected = sweep(small, over, **wanted)
    first = sweep(small, over, **wanted, folder=tmp_path)
    assert_same_but_seconds(first, expected)
    assert len(rows_of(tmp_path)) == len(expected) == 8
    monkeypatch.setattr(sweeping, "_Galleries", None)
    pandas.testing.assert_frame_equal(sweep(small, over, **wanted, folder=tmp_path), first, check_exact=True)


@pytest.mark.parametrize("kept", [0, 1, 8, 23])
def test_an_interrupted_sweep_measures_only_what_is_missing(small, over, tmp_path, monkeypatch, kept):
    wanted = {"metrics": ["image_roc_auc"], "draws": 2}
    expected = sweep(small, over, **wanted)
    measure, searches, write = sweeping._measure_step, [], RunFolder._append

    def write_some(run, row):
        if len(rows_of(run.folder)) == kept:
            raise KeyboardInterrupt
        write(run, row)

    monkeypatch.setattr(RunFolder, "_append", write_some)
    with pytest.raises(KeyboardInterrupt):
        sweep(small, over, **wanted, folder=tmp_path)
    assert len(rows_of(tmp_path)) == kept
    monkeypatch.setattr(RunFolder, "_append", write)
    monkeypatch.setattr(sweeping, "_measure_step", lambda *given: searches.append(given[-2]) or measure(*given))
    assert_same_but_seconds(sweep(small, over, **wanted, folder=tmp_path), expected)
    assert len(searches) == 6 - kept // 4  # four settings need one search
    assert len(rows_of(tmp_path)) == 24


def test_a_folder_of_another_sweep_is_refused(small, tiny, tmp_path):
    over = {"backbone": [tiny], "k": [1, 3], "sigma": [4]}
    sweep(small, over, metrics=["aupro"], folder=tmp_path)
    fewer, turned = replace(small, test=small.test[:-1]), replace(small, train=small.train[::-1])
    unlabelled = replace(small, test=[replace(one, label=None) for one in small.test])
    for change, told in [
        ({"over": over | {"k": [1, 2]}}, r"results of another run: over was .*'3'.* and is now .*'2'.*\. Use another"),
        ({"metrics": ["image_roc_auc"]}, r"metrics was .* and is now"),
        ({"seed": 1}, r"seed was 0 and is now 1"),
        ({"intervals": True}, r"intervals was False and is now True"),
        ({"dataset": fewer}, r"dataset_sha256 was"),
        ({"dataset": turned}, r"dataset_sha256 was"),
        ({"dataset": unlabelled}, r"dataset_sha256 was"),
        ({"over": over | {"backbone": [replace(tiny, crop=32)]}}, r"backbones was"),
    ]:
        with pytest.raises(ValueError, match=told):
            sweep(**{"dataset": small, "over": over, "metrics": ["aupro"], "folder": tmp_path} | change)
    (tmp_path / "sweep.csv").write_text("mine\n")
    with pytest.raises(ValueError, match=r"sweep\.csv must have the columns setting, .*; got also 'mine'"):
        sweep(small, over, metrics=["aupro"], folder=tmp_path)


def test_the_bar_names_the_latest_row(small, tiny, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    monkeypatch.setattr("spade_kit.evaluation.sweep.track", partial(tqdm, ascii=True, mininterval=0, disable=False))
    frame = sweep(small, {"backbone": [tiny], "radius": [0, 1]}, metrics=["aupro"])
    told = f"radius=1, k=50, sigma=4.0, score=max, judged=map: aupro {frame['aupro'][1]:.3f}"
    assert told in capsys.readouterr().err


# ---- where to look ---------------------------------------------------------------------------------------------------

RIGHT = [(0, 160), (0, 319), (319, 319), (319, 160)]


def right_half(photo):
    return np.indices(photo.shape[:2])[1] >= 160


@pytest.mark.filterwarnings("ignore:4 defects of demo lie outside the evaluated crop or roi")
@pytest.mark.parametrize("roi", [RIGHT, right_half], ids=["polygon", "function"])
def test_a_sweep_looks_where_it_is_told_to(small, tiny, roi):
    frame = sweep(small, {"backbone": [tiny], "k": [2, 5]}, roi=roi)
    for k, found in zip((2, 5), frame["aupro"]):
        report = evaluate(SPADE(tiny, k=k).fit(small.train, roi=roi), small)
        assert found == pytest.approx(report.metric("aupro"))
        assert found != pytest.approx(evaluate(SPADE(tiny, k=k).fit(small.train), small).metric("aupro"))


def test_a_folder_holds_the_sweep_of_one_roi(small, tiny, tmp_path, monkeypatch):
    first = sweep(small, {"backbone": [tiny]}, roi=RIGHT, folder=tmp_path)
    monkeypatch.setattr(sweeping, "_Galleries", None)  # nothing is measured again
    assert_same_but_seconds(sweep(small, {"backbone": [tiny]}, roi=np.array(RIGHT), folder=tmp_path), first)
    for other in (None, [(0, 161), *RIGHT[1:]]):
        with pytest.raises(ValueError, match="roi"):
            sweep(small, {"backbone": [tiny]}, roi=other, folder=tmp_path)
    with pytest.raises(ValueError, match=r"must be a mask or a polygon, .* got a function\. Leave folder out"):
        sweep(small, {"backbone": [tiny]}, roi=right_half, folder=tmp_path / "new")


@pytest.mark.slow
def test_workers_look_where_they_are_told_to(small):
    alone = sweep(small, {"k": [2], "sigma": [2, 4]}, roi=right_half)
    assert_same_but_seconds(sweep(small, {"k": [2], "sigma": [2, 4]}, roi=right_half, jobs=2), alone)
