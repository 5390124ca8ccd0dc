"""Figures of evaluations show the values of the report."""

from dataclasses import replace

import nbformat
import numpy as np
import plotly.io
import pytest
from nbconvert import HTMLExporter

from spade_kit import Sample, draw_curves, draw_hardest, evaluate


@pytest.fixture(scope="module")
def report(spade, demo):
    return evaluate(spade, replace(demo, test=demo.test[::4]))


def test_curves_are_those_of_the_report_in_three_decimals(report):
    figure = draw_curves(report)
    areas = [trace.name for trace in figure.data]
    metrics = ["image_roc_auc", "pixel_roc_auc", "image_average_precision", "pixel_average_precision", "aupro"]
    assert areas == [
        f"{name.split('_')[0].replace('aupro', 'pixel')}s, area {report.metric(name):.3f}" for name in metrics
    ]
    curves = report.curves()
    for trace, (curve, of) in zip(figure.data, [(c, o) for c in ("roc", "pr", "pro") for o in ("image", "pixel")]):
        points = curves[(curves["curve"] == curve) & (curves["of"] == of)]
        if curve == "pro":
            points = curves[curves["curve"] == "pro"]
        assert len(trace.x) <= 200
        assert list(trace.x) == np.round(points["x"], 3).tolist()
        assert list(trace.y) == np.round(points["y"], 3).tolist()
    assert len(figure.to_json()) < 40_000


def test_thresholds_are_marked_on_the_curves(report):
    threshold = float(np.quantile(report.judged(0).anomaly_map, 0.99))
    marks = [trace for trace in draw_curves(report, threshold=threshold).data if trace.mode == "markers"]
    rates = {name: round(rate, 3) for name, rate in report.rates(threshold).items()}
    assert [(trace.x[0], trace.y[0]) for trace in marks] == [
        (rates["false_positive_rate"], rates["recall"]),
        (rates["recall"], rates["precision"]),
        (rates["false_positive_rate"], rates["overlap"]),
    ]
    (mark, _) = (
        trace
        for trace in draw_curves(report, image_threshold=report.to_frame()["image_score"].max()).data
        if trace.mode == "markers"
    )
    assert mark.x == (0,) or mark.y == (0,)


def test_without_masks_only_images_have_curves(spade, demo):
    report = evaluate(spade, [Sample(sample.path, sample.label) for sample in demo.test[::6]])
    figure = draw_curves(report)
    assert all(trace.name.startswith("images") for trace in figure.data)
    assert [len(panel.lines) for panel in figure.draw_still().axes] == [1, 1, 0]


def test_a_page_without_plotly_shows_the_same_curves_as_a_picture(report, monkeypatch):
    figure, shown = draw_curves(report, 9.0, 20.0), []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    figure._ipython_display_()
    output = nbformat.v4.new_output("display_data", shown[0])
    assert set(output.data) == {"application/vnd.plotly.v1+json", "image/png"}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("draw_curves(report)", outputs=[output])])
    assert f"data:image/png;base64,{output.data['image/png'][:60]}" in HTMLExporter().from_notebook_node(notebook)[0]

    still = figure.draw_still()
    lines = [(at, *line.get_data(), line.get_label()) for at, panel in enumerate(still.axes) for line in panel.lines]
    assert len(lines) == len(figure.data) == 10
    for (at, x, y, name), trace in zip(lines, figure.data):
        assert (f"x{at + 1}".replace("x1", "x"), name) == (trace.xaxis, trace.name)
        np.testing.assert_array_equal([x, y], [trace.x, trace.y])
    assert [panel.get_title() for panel in still.axes] == [note.text for note in figure.layout.annotations[:3]]


def test_outside_notebooks_plotly_shows_its_own_figure(report, monkeypatch):
    shown = []
    monkeypatch.setattr(plotly.io.renderers, "default", "browser")
    monkeypatch.setattr("plotly.io.show", shown.append)
    figure = draw_curves(report)
    figure._ipython_display_()
    assert shown == [figure]


def test_the_hardest_are_low_defects_and_high_good_ones(report):
    figure = draw_hardest(report, n=2)
    frame = report.to_frame()
    bad, good = frame[frame["label"] != "good"], frame[frame["label"] == "good"]
    titles = [panel.get_title() for panel in figure.axes if panel.get_title()]
    scores = [*bad["image_score"].nsmallest(2), *good["image_score"].nlargest(2)]
    for title, score in zip([*titles[2:4], *titles[6:8]], scores):
        assert title.startswith(f"score {score:.2f}: ")
    above = (good["image_score"] >= scores[0]).sum()
    assert titles[2].endswith(f": {above} of {len(good)} good above")
    maps = [panel.images[0] for panel in figure.axes if panel.get_title().startswith("score")]
    assert len({image.get_clim() for image in maps}) == 1
    row = bad["image_score"].idxmin()
    np.testing.assert_array_equal(maps[0].get_array(), report.judged(row).anomaly_map)
    assert {panel.get_ylabel() for panel in figure.axes} >= {"misses", "false alarms"}


def test_the_hardest_of_few_images_and_of_missing_files(spade, demo, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(demo.test[0].path.read_bytes())
    report = evaluate(spade, [Sample(path, "chip")])
    path.unlink()
    figure = draw_hardest(report)
    picture = next(panel for panel in figure.axes if panel.get_title() == "chip/a").images[0].get_array()
    assert (np.asarray(picture) == 128).all()
    with pytest.raises(ValueError, match="n must be at most 8 images of a kind; got 9"):
        draw_hardest(report, n=9)
    with pytest.raises(ValueError, match="draw_hardest needs labels; no image of 1 photos has one"):
        draw_hardest(evaluate(spade, [Sample(demo.test[0].path)]))
