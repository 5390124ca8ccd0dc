"""Views, each compared with the equivalent result."""

import numpy as np
import pytest

from spade_kit import SPADE
from spade_kit.evaluation.metrics import aupro
from spade_kit.evaluation.views import look, make_view, rank, read_view
from spade_kit.options import Options


def seen(wanted, spade, result):
    bases = [spade]
    return look([result], make_view(read_view(wanted, bases), bases))


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3"])
def test_a_single_layer_matches_layer_alone_of_the_result(spade, result, layer):
    np.testing.assert_array_equal(seen(layer, spade, result).anomaly_map, result.layer_alone[layer])


@pytest.mark.parametrize(
    ("wanted", "options"),
    [
        (None, {}),
        ("all layers", {}),
        (("layer3", "layer1", "layer2"), {}),
        (("layer2", "layer1"), {"weights": {"layer3": 0}}),
        ({"k": 2, "kappa": 3}, {"k": 2, "kappa": 3}),
        ({"layers": ["layer2", "layer3"], "weights": {"layer2": 0.25}}, {"weights": {"layer1": 0, "layer2": 0.25}}),
        ({"combine": "ensemble", "radius": 3, "sigma": 1}, {"combine": "ensemble", "radius": 3, "sigma": 1}),
        ({"weights": "equal"}, {"weights": "equal"}),
    ],
)
def test_combined_layers_match_weights_and_options(spade, result, scratched, wanted, options):
    expected = spade.with_options(**options).predict(scratched).anomaly_map
    np.testing.assert_array_equal(seen(wanted, spade, result).anomaly_map, expected)


def test_some_layers_keep_their_equal_weights(spade, result, scratched):
    factors = spade.gallery.factors(Options(weights="equal"), np.arange(len(spade)))
    equal = dict(zip(spade.backbone.layers, factors.tolist()))
    expected = spade.with_options(weights=equal | {"layer1": 0}).predict(scratched).anomaly_map
    wanted = {"layers": ["layer2", "layer3"], "weights": "equal"}
    np.testing.assert_array_equal(seen(wanted, spade, result).anomaly_map, expected)


def test_a_normal_image_is_judged_against_the_others(spade):
    view = make_view(read_view("layer2", [spade]), [spade])
    np.testing.assert_array_equal(view.judge_left_out(4), spade.predict_left_out(4).layer_alone["layer2"])
    view = make_view(read_view({"kappa": 2}, [spade]), [spade])
    np.testing.assert_array_equal(view.judge_left_out(4), spade.with_options(kappa=2).predict_left_out(4).anomaly_map)


def test_a_match_equals_that_of_the_result(spade, result):
    found = seen(None, spade, result)
    assert all(found.match(*place) == result.match(*place) for place in [(0, 0), (100, 31), (223, 222)])
    alone, layer = seen("layer3", spade, result), result.match_alone["layer3"]
    match = alone.match(120, 40)
    cell = 120 * 14 // 224, 40 * 14 // 224
    assert match.neighbour == layer.image[0][cell]
    assert match.image == result.neighbours.index[layer.image[0][cell]]
    assert (match.row, match.col) == (layer.row[0][cell] * 16 + 8, layer.col[0][cell] * 16 + 8)
    assert match.layers == {"layer3": pytest.approx(match.distance)}


def test_another_fit_is_a_separate_view(spade, demo, result, scratched):
    fewer, bases = SPADE(k=2).fit(demo.train[:3]), [spade]
    spec = read_view(fewer, bases)
    assert (spec, bases) == ({"base": 1, "layers": None}, [spade, fewer])
    assert read_view(fewer, bases) == spec
    assert len(bases) == 2
    named = make_view(read_view({"base": fewer, "layers": ["layer1"], "name": "few"}, bases), bases)
    assert (named.name, named.base, named.layer) == ("few", 1, "layer1")
    view = make_view(spec, bases)
    assert view.name == "all layers, fit 2"
    expected = fewer.predict(scratched).anomaly_map
    np.testing.assert_array_equal(look([result, fewer.predict(scratched)], view).anomaly_map, expected)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("layer1", "layer1"),
        (("layer3", "layer1"), "layer1 + layer3"),
        ({"k": 5, "radius": None, "kappa": 2}, "all layers, K=5, kappa 2, everywhere"),
        ({"layers": "layer2", "radius": 4}, "layer2, radius 4"),
        ({"weights": {"layer2": 0.5}, "combine": "ensemble"}, "all layers, weights layer2 x 0.5, ensemble"),
        ({"weights": None, "sigma": 1.5}, "all layers, weights none, sigma 1.5"),
        ({"name": "the paper's"}, "the paper's"),
    ],
)
def test_a_view_has_a_descriptive_name(spade, wanted, name):
    assert make_view(read_view(wanted, [spade]), [spade]).name == name


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("layer4", "A layer must be one of 'layer1', 'layer2', 'layer3'; got 'layer4'."),
        ([], "at least one layer of layer1, layer2, layer3"),
        ({"kapa": 3}, "Did you mean 'kappa'"),
        (5, "a list of layers, a mapping or a fitted SPADE; got 5"),
        ({"base": 1}, "base must refer to one of the fitted SPADEs, from 0 to 0"),
        ({"layers": "layer1", "weights": "equal"}, "weights applies to several layers"),
        ({"k": 0}, "k must be a whole number of at least 1"),
    ],
)
def test_a_mistake_raises_a_clear_error(spade, wanted, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_view(read_view(wanted, [spade]), [spade])


def test_views_are_ranked_by_aupro_over_the_same_photos(rng):
    masks = [np.zeros((20, 30), bool) for _ in range(2)]
    masks[0][3:6, 4:9] = True
    maps = [[rng.random((20, 30)) + strength * mask for mask in masks] for strength in (0, 1)]
    assert rank(maps, masks) == [aupro(np.stack(some), np.stack(masks)) for some in maps]
    assert rank(maps, masks)[1] == pytest.approx(1)
    assert rank(maps, [masks[1], masks[1]]) is None
    assert rank([], []) is None
