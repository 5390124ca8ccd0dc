"""Figures, checked by their artists: content, scale and labels."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

import spade_kit
from spade_kit.figures.style import RING


def images(figure):
    return [artist for axes in figure.axes for artist in axes.images]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


ALL = [
    spade_kit.draw_result,
    spade_kit.draw_neighbours,
    spade_kit.draw_layers,
    lambda result: spade_kit.draw_match(result, 100, 60),
    spade_kit.draw_reconstruction,
]


@pytest.mark.parametrize("draw", ALL)
def test_every_figure_shows_its_provenance_and_is_closed(result, draw):
    figure = draw(result)
    small_print = figure._supxlabel.get_text()
    for word in ("efficientnet_lite0", "ImageNet", "224 x 224", "K=5", "kappa=1", "sigma=4"):
        assert word in small_print
    assert plt.get_fignums() == []
    figure.canvas.draw()  # layout and text must render without errors


@pytest.mark.parametrize("draw", [*ALL, spade_kit.draw_hardest, spade_kit.draw_curves])
@pytest.mark.parametrize("wrong", [None, 5])
def test_what_is_no_result_is_refused(draw, wrong):
    with pytest.raises(
        ValueError, match=rf"Expected a Re.*, from spade.*; got a value of type {type(wrong).__name__}\."
    ):
        draw(wrong)


def test_an_untrained_backbone_is_named_in_the_figure(demo):
    judge = spade_kit.SPADE(spade_kit.load_backbone("resnet18", pretrained=False)).fit(demo.train[:2])
    assert "resnet18 (untrained)" in spade_kit.draw_result(judge.predict(demo.test[0]))._supxlabel.get_text()


def test_the_map_is_raw_and_its_scale_does_not_depend_on_the_image(spade, demo, result):
    other = spade.predict(demo.test[-1])
    heats = [images(spade_kit.draw_result(r))[1] for r in (result, other)]
    np.testing.assert_array_equal(heats[0].get_array(), result.anomaly_map)
    assert heats[0].get_clim() == heats[1].get_clim() == (0, pytest.approx(2 * spade.normal_level))
    assert heats[0].get_cmap().name == "cividis"


def test_the_colour_bar_marks_the_normals_99th_percentile(spade, result):
    bar = spade_kit.draw_result(result).axes[3]
    assert [line.get_ydata()[0] for line in bar.lines if line.get_color() == RING] == [spade.normal_level]


def test_the_segmentation_is_solid_and_the_truth_dashed(result, demo, spade):
    figure = spade_kit.draw_result(result, threshold=float(np.median(result.anomaly_map)))
    _, found, _, truth = figure.axes[2].collections  # each over a darker, wider line
    assert to_hex(found.get_edgecolor()[0]) == RING.lower()
    assert to_hex(truth.get_edgecolor()[0]) == "#ffffff"
    assert found.get_linestyle()[0][1] is None
    assert truth.get_linestyle()[0][1] is not None
    good = spade.predict(next(sample for sample in demo.test if sample.label == "good"))
    assert [text.get_text() for text in spade_kit.draw_result(good).axes[2].get_legend().texts] == ["detected"]


@pytest.mark.parametrize("draw", [*ALL, lambda result: spade_kit.draw_explanation(result, 100, 60)])
def test_nothing_is_cut_from_a_saved_figure(draw, result, tmp_path):
    assert result.mask.any()  # the legend takes room
    draw(result).savefig(tmp_path / "figure.png")
    pixels = plt.imread(tmp_path / "figure.png")
    assert all((side == 1).all() for side in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def test_neighbours_are_in_order_with_their_distance(spade, result):
    figure = spade_kit.draw_neighbours(result, count=3)
    near = result.neighbours
    expected = [f"{rank + 1}: normal {near.index[rank]}, distance {near.distance[rank]:.2f}" for rank in range(3)]
    assert titles(figure) == ["query", *expected]
    np.testing.assert_array_equal(images(figure)[1].get_array(), spade.normal_image(near.index[0]))
    assert len(images(spade_kit.draw_neighbours(result, count=99))) == 6


def test_layers_show_shares_above_and_each_layer_alone_below_on_one_scale(result):
    drawn = images(spade_kit.draw_layers(result))
    expected = [*result.layer_maps.values(), *result.layer_alone.values()]
    for image, values in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(image.get_array(), values)
    assert len({image.get_clim() for image in drawn}) == 1


def test_the_match_is_marked_and_its_layers_are_bars(result):
    figure = spade_kit.draw_match(result, 100, 60)
    match = result.match(100, 60)
    rings = [
        (float(line.get_ydata()[0]), float(line.get_xdata()[0])) for axes in figure.axes[:2] for line in axes.lines
    ]
    assert rings == [(100, 60)] * 2 + [(match.row, match.col)] * 2
    assert [bar.get_width() for bar in figure.axes[4].patches] == pytest.approx(list(match.layers.values()))
    frame = figure.axes[2].patches[0]
    assert (frame.get_y(), frame.get_x(), frame.get_height()) == (99.5, 59.5, 4)


def test_the_reconstruction_is_next_to_the_query(result):
    query, rebuilt, heat = images(spade_kit.draw_reconstruction(result))
    np.testing.assert_array_equal(query.get_array(), result.image)
    np.testing.assert_array_equal(rebuilt.get_array(), result.reconstruction)
    np.testing.assert_array_equal(heat.get_array(), result.anomaly_map)


def test_figures_can_be_drawn_into_given_axes(result):
    figure, axes = plt.subplots(1, 3)
    plt.close(figure)
    assert spade_kit.draw_result(result, axes=axes) is figure
    assert len(axes[0].images) == 1
    with pytest.raises(ValueError, match="needs 5 axes; got 3"):
        spade_kit.draw_match(result, 0, 0, axes=axes)
