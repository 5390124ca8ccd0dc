"""The options of a search and of a map: comparison, description and errors."""

import copy
import pickle

import numpy as np
import pytest

from spade_kit import SPADE, load_backbone
from spade_kit.options import OPTIONS, Options


def test_equal_options_are_equal_keys():
    one = Options(k=np.int64(5), weights={"layer1": 2.0}, sigma=4)
    same = Options(k=5, kappa=None, weights=(("layer1", 2.0),), sigma=4.0)
    assert one == same
    assert {one: 1}[same] == 1
    assert Options(weights={}) == Options()


def test_a_default_k_is_fifty_or_as_many_as_there_are():
    assert [Options().retrieved(count) for count in (1, 49, 50, 51)] == [1, 49, 50, 50]
    assert Options(k=3).retrieved(2) == 2
    assert SPADE().k == 50


def test_sigma_alone_needs_no_search_and_k_beyond_the_images_is_all_of_them():
    assert Options(sigma=1).of_search(12) == Options(k=12, sigma=9).of_search(12)
    assert Options(k=99).of_search(12) == Options(k=12).of_search(12)
    for name, value in {"k": 5, "kappa": 2, "radius": 0, "weights": "equal", "combine": "ensemble"}.items():
        assert Options().of_search(12) != Options().replace(**{name: value}).of_search(12)


def test_options_are_described_in_a_fixed_order():
    assert Options().describe() == "K=50, kappa=1, everywhere, concat, sigma=4"
    all_ = Options(3, 2, 1, {"layer1": 0.5, "layer3": 2}, "ensemble", 2.5, "brute_force")
    assert (
        all_.describe() == "K=3, kappa=2, radius 1, ensemble, weights layer1 x 0.5, layer3 x 2, sigma=2.5, brute_force"
    )
    assert all_.format(["k", "radius", "weights", "kappa"]) == "K=3, radius 1, weights layer1 x 0.5 layer3 x 2, kappa 2"


def test_an_attribute_of_spade_is_checked_when_it_is_set():
    spade = SPADE()
    spade.radius, spade.weights = 3, {"layer1": 2}
    assert (spade.options.radius, spade.weights) == (3, {"layer1": 2})
    with pytest.raises(ValueError, match=r"A layer must be one of 'layer1', 'layer2', 'layer3'; got 'layer9'\."):
        spade.weights = {"layer9": 1}
    with pytest.raises(ValueError, match=r"kappa must be a whole number from 1 to 300; got 0\."):
        spade.kappa = 0
    assert (spade.kappa, spade.weights) == (1, {"layer1": 2})


def test_the_backbone_of_a_spade_is_never_another_one(spade, scratched):
    """It may give features of the same shapes, whose distances mean nothing."""
    network, score = spade.backbone, spade.predict(scratched).image_score
    for other in (load_backbone(pretrained=False), "resnet18", None):
        with pytest.raises(
            AttributeError, match=r"A SPADE keeps its backbone\. Make another one, SPADE\(backbone\), and"
        ):
            spade.backbone = other
    assert spade.backbone is network
    assert spade.predict(scratched).image_score == score


def test_a_typing_error_in_an_attribute_raises_an_error():
    spade = SPADE()
    for name, close in {"kapa": "kappa", "sigmaa": "sigma", "option": "options", "backbne": "backbone"}.items():
        with pytest.raises(AttributeError, match=rf"A SPADE has no attribute {name!r}\. Did you mean {close!r}\?"):
            setattr(spade, name, 3)
    with pytest.raises(AttributeError, match=r"A SPADE has no attribute 'zzzzzz'\.$"):
        spade.zzzzzz = 3
    copied = copy.copy(spade)
    copied.kappa, copied._mine = 3, 1
    assert (copied.kappa, copy.deepcopy(copied).kappa, pickle.loads(pickle.dumps(copied)).kappa) == (3, 3, 3)


def test_a_fitted_spade_and_its_results_can_be_copied_and_are_saved_not_pickled(spade, result, scratched):
    for fitted in (spade, result):
        with pytest.raises(TypeError, match=r"cannot be pickled\. Use spade\.save\(folder\) and SPADE\.load\(folder\)"):
            pickle.dumps(fitted)
    for copied in (copy.copy(spade), copy.deepcopy(spade), copy.deepcopy(result).spade):
        assert copied is not spade
        np.testing.assert_array_equal(copied.predict(scratched).anomaly_map, result.anomaly_map)
        copied.kappa = 2
        copied.remove(0)
    assert (spade.kappa, len(spade)) == (1, 12)
    one, same = copy.deepcopy([spade, spade])
    assert one is same


@pytest.mark.parametrize(("given", "said"), [
    ({"weights": {"layer1": 1e38}}, r"The weight of layer1 must be a number from 0 to 1e\+37; got 1e\+38"),
    ({"sigma": 1e9}, "sigma must be a number of map pixels from 0, no smoothing, to 1,000; got 1000000000.0"),
    ({"sigma": 10**400}, "sigma must be a number of map pixels from 0, no smoothing, to 1,000; got 1000"),
    ({"kappa": 301}, r"kappa must be a whole number from 1 to 300; got 301\."),
])  # fmt: skip
def test_the_limits_of_a_number_are_named(given, said):
    with pytest.raises(ValueError, match=said):
        SPADE(**given)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.uint8])
def test_numbers_of_numpy_are_compared_as_floats(dtype):
    """Warnings are errors here, and the largest weight is none of NumPy's small floats."""
    assert SPADE(sigma=dtype(3), weights={"layer1": dtype(2)}).options == SPADE(sigma=3, weights={"layer1": 2}).options


@pytest.mark.usefixtures("unchecked")
def test_removed_and_unknown_parameters_raise_an_error():
    pinned = {"k", "kappa", "radius", "weights", "combine", "sigma", "search", "score", "judged", "squared"}
    assert set(OPTIONS) == pinned
    with pytest.raises(ValueError, match="squared must be True or False; got 'no'"):
        SPADE(squared="no")
    assert "squared distances" in repr(SPADE(squared=True))
    for given in ("float16", "float32", None):
        with pytest.raises(ValueError, match="precision is no longer an option: features are stored as float32"):
            SPADE(precision=given)
    with pytest.raises(TypeError, match=r"SPADE.__init__\(\) got an unexpected keyword argument 'sigmas'"):
        SPADE(sigmas=3)
    for name, hint in {"K": "Did you mean 'k'", "sigmaa": "Did you mean 'sigma'"}.items():
        with pytest.raises(TypeError, match=rf"unexpected keyword argument {name!r}\. {hint}\?$"):
            SPADE(**{name: 5})
    for name in ("crop", "resize", "layers", "average", "pretrained"):
        with pytest.raises(TypeError, match=rf"Pass load_backbone\(\.\.\., {name}=\.\.\.\) as the backbone\.$"):
            SPADE(**{name: None})
    with pytest.raises(ValueError, match=r"An option must be one of .*'squared'; got 'precision'."):
        SPADE().with_options(precision="float16")
