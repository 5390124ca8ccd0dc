"""The recommended settings: chosen from the normal images alone, explained, and overridden by whoever knows better."""

import json
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import rotate

from spade_kit import SPADE, load_backbone
from spade_kit.gallery.placement import Placement
from spade_kit.gallery.recommendation import choose
from spade_kit.options import Options

UNDECIDED = ("radius", "score", "judged")
MAPS = arrays(np.float32, (4, 3, 8), elements=st.integers(1, 50).map(float))


@pytest.fixture(scope="module")
def fitted(demo):
    """Fitted on sixteen images of the demo at 160 px."""
    return SPADE.recommended(size=160).fit(demo.train[:16])


def ask(undecided=UNDECIDED, count=20, **said):
    """What is chosen if the normal images say this."""
    said = {"share": 0.5, "alike": 0.9, "hurdle": 0.5, "relief": 0.1} | said
    calibration = SimpleNamespace(
        gallery=SimpleNamespace(places=range(count), shapes=[(24, 80, 160)]),
        alike=lambda options: said["alike"],
        placement=lambda options: Placement(**said),
    )
    return {option: value for option, value, *_ in choose(calibration, Options(), undecided)}


# ---- what the normal images say --------------------------------------------------------------------------------------


@given(MAPS)
def test_the_share_of_place_is_that_of_a_loop(maps):
    placement = Placement.of(zip(maps, maps), maps[0], alike=0.5)
    left = [((values - np.delete(maps, at, 0).mean(0, dtype=float)) ** 2).sum() for at, values in enumerate(maps)]
    whole = ((maps - maps.mean(dtype=float)) ** 2).sum()
    assert placement.share == pytest.approx(1 - sum(left) / max(whole, 1e-30), rel=1e-4, abs=1e-4)
    assert placement.hurdle == 1  # the excess is the same here
    assert placement.relief == pytest.approx(maps[0].std() / maps[0].mean(), rel=1e-4)
    assert placement.alike == 0.5


def test_place_explains_all_of_maps_that_are_alike_and_nothing_of_noise():
    rng = np.random.default_rng(0)
    alike = [np.outer(np.arange(1, 41), np.arange(1, 81)).astype(np.float32)] * 8
    assert Placement.of(zip(alike, alike), alike[0], 0).share == pytest.approx(1)
    noise = rng.random((8, 40, 80), np.float32)
    assert Placement.of(zip(noise, noise), noise[0], 0).share < 0


def test_the_hurdle_compares_how_far_a_defect_must_rise():
    values = np.arange(1, 5, dtype=np.float32)[:, None, None] * np.ones((4, 10, 80), np.float32)
    values[:, :, 40:] += 10  # parts are on the right
    halved = Placement.of(zip(values, values / 2), values[0], 0)
    tops = np.array([11, 12, 13, 14])
    assert halved.hurdle == pytest.approx(0.5)
    shifted = Placement.of(zip(values, np.where(np.arange(80) < 40, values, values - 5)), values[0], 0)
    high = np.quantile(tops, 0.9) - 12.5
    assert shifted.hurdle == pytest.approx((np.quantile(tops - 5, 0.9) - 7.5) / high, rel=1e-3)


def test_parts_lie_alike_if_their_matches_are_near(fitted):
    near = []
    for index in np.unique(np.linspace(0, 15, 12).astype(int)):
        found = fitted.with_options(radius=6).predict_left_out(index).correspondence  # 15 % of 40 cells
        rows, cols = np.indices((40, 40))
        near.append((abs(found.row[0] - rows) <= 2) & (abs(found.col[0] - cols) <= 2))
    assert fitted.placement.alike == pytest.approx(np.mean(near))
    assert fitted.with_options(radius=None).placement.alike == fitted.placement.alike


def test_what_is_known_of_place_is_printed(fitted, demo):
    assert "match within 5 % of the short side" in str(fitted)
    assert "\n" not in repr(fitted)
    plain = SPADE(fitted.backbone).fit(demo.train[:3])
    assert str(plain) == repr(plain)  # not yet asked for
    assert str(plain.placement) in str(plain)
    with pytest.warns(UserWarning, match="duplicates"):
        assert SPADE(fitted.backbone).fit([demo.train[0]] * 2).placement is None
    assert "not fitted" in str(SPADE.recommended())


# ---- what follows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alike", "radius"), [(1, 4), (0.67, 4), (0.66, 12), (0.2, 12)])
def test_the_radius_is_small_if_parts_lie_alike(alike, radius):
    assert ask(alike=alike)["radius"] == radius


@pytest.mark.parametrize(
    ("hurdle", "relief", "score", "judged"),
    [
        *((0.6, 0.1, "excess", "excess"), (0.6, 0.5, "excess", "map")),
        *((0.9, 0.1, "top", "map"), (1.1, 0.5, "top", "map")),
    ],
)
def test_the_excess_is_used_where_it_makes_defects_easier(hurdle, relief, score, judged):
    assert ask(hurdle=hurdle, relief=relief) == {"radius": 4, "score": score, "judged": judged}


def test_few_images_decide_nothing_about_place():
    assert ask(count=4) == {"score": "top", "judged": "map"}


@pytest.mark.parametrize("undecided", [(), ("score",), ("radius", "judged")])
def test_only_what_is_undecided_is_chosen(undecided):
    assert tuple(ask(undecided)) == undecided


# ---- from outside ----------------------------------------------------------------------------------------------------


def test_the_choices_are_explained(fitted):
    choices = fitted.choices
    assert list(choices.columns) == ["value", "why", "rests_on"]
    assert list(choices.index) == ["crop", "resize", "average", "weights", "sigma", *UNDECIDED]
    for name in ("weights", "sigma", *UNDECIDED):
        assert choices["value"][name] == getattr(fitted, name)
    assert f"alike {fitted.placement.alike:.2f}" == choices["rests_on"]["radius"]
    assert fitted.backbone.resize == 160
    assert fitted.sigma == 1.25
    assert fitted.radius == 2  # of 40 cells: the demo's parts lie alike
    assert fitted.score == "excess"
    assert len(SPADE().choices) == 0


def test_parts_that_do_not_lie_alike_get_a_larger_radius(fitted, demo):
    turned = [rotate(sample.image, 30 * at, reshape=False, mode="nearest") for at, sample in enumerate(demo.train[:12])]
    spade = SPADE.recommended(size=160).fit(turned)
    assert spade.radius == 6
    assert spade.placement.alike < fitted.placement.alike - 0.2
    assert spade.placement.share < fitted.placement.share


def test_what_a_user_sets_stays(fitted, demo):
    spade = SPADE.recommended(size=160).with_options(score="max")
    spade.radius = None
    spade.fit(demo.train[:6])
    assert (spade.score, spade.radius) == ("max", None)
    assert "radius" not in spade.choices.index
    assert "judged" in spade.choices.index
    other = fitted.with_options(sigma=3)
    assert "sigma" not in other.choices.index
    assert "sigma" in fitted.choices.index
    spade.fit(demo.train[:3])  # chooses again
    assert spade.choices["value"]["judged"] == "map"
    assert spade.radius is None


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("size", [0, -1, 31, 2**14 + 1, "320", 320.5, True])
def test_a_size_that_is_no_side_of_an_image_is_refused_by_its_name(size):
    with pytest.raises(ValueError, match=rf"size must be a whole number from 32 to 16,384; got {size!r}\."):
        SPADE.recommended(size=size)


def test_the_recommended_settings_are_regular_options(fitted, demo, tmp_path):
    by_hand = SPADE(load_backbone(resize=160, crop=None, average=3)).under(fitted.options).fit(demo.train[:16])
    result, expected = fitted.predict(demo.test[0]), by_hand.predict(demo.test[0])
    np.testing.assert_array_equal(result.judged_map, expected.judged_map)
    assert result.image_score == expected.image_score
    fitted.save(tmp_path)
    again = SPADE.load(tmp_path)
    assert again.options == fitted.options
    assert again.predict(demo.test[0]).image_score == result.image_score


# ---- saved -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    """A saved fit's folder and manifest."""
    folder = tmp_path_factory.mktemp("recommended")
    fitted.save(folder)
    return folder, json.loads((folder / "spade.json").read_text())


def load(saved, **changes):
    """Load a manifest with some entries changed, without its checksum, as a forger could."""
    folder, record = saved
    record = {name: value for name, value in (record | changes).items() if name != "checksum"}
    (folder / "spade.json").write_text(json.dumps(record))
    return SPADE.load(folder)


def test_the_choices_are_saved_and_a_new_fit_chooses_again(fitted, saved, demo, tmp_path):
    again = load(saved)
    pandas.testing.assert_frame_equal(again.choices, fitted.choices)
    assert str(again.choices) == str(fitted.choices)
    again.with_options(radius=7).save(tmp_path)  # what a user sets stays out
    own = SPADE.load(tmp_path)
    assert list(own.choices.index) == [name for name in fitted.choices.index if name != "radius"]
    own.fit(demo.train[:3])
    assert (own.radius, own.score, own.judged) == (7, "top", "map")
    assert own.choices["rests_on"]["judged"] == "3"


def test_a_choice_is_listed_while_its_option_has_that_value(fitted):
    other = fitted.under(fitted.options.replace(sigma=3))
    assert list(other.choices.index) == [name for name in fitted.choices.index if name != "sigma"]
    assert len(other.under(fitted.options).choices) == len(fitted.choices)


def test_an_older_save_has_no_choices(saved, fitted, tmp_path):
    folder, record = saved
    older = {name: value for name, value in record.items() if name not in ("choices", "checksum")}
    (folder / "spade.json").write_text(json.dumps(older))
    assert len(SPADE.load(folder).choices) == 0
    SPADE(fitted.backbone).with_gallery(fitted.gallery).save(tmp_path)
    assert len(SPADE.load(tmp_path).choices) == 0


REASONS = r"the reasons of its choices must be one line of at most 200 characters each\). Fit again"
SETTINGS = r"its choices must be those of its settings; got .*\). Fit again"


@pytest.mark.parametrize(("rows", "said"), [
    ([["sigma", 1.25, "\x1b[2J", ""]], REASONS),
    ([["sigma", 1.25, "", "\ud800"]], REASONS),  # cannot be encoded for printing
    ([["sigma", 1.25, "", "a\nb"]], REASONS),
    ([["sigma", 1.25, "", "\u202e"]], REASONS),  # writes backwards
    ([["sigma", 1.25, "x" * 201, ""]], REASONS),
    ([["sigma", 1.25, "", ["x"]]], REASONS),
    ([["sigma", 9, "", ""]], SETTINGS),
    ([["crop", [10**6] * 10**4, "", ""]], SETTINGS),
    ([["sigma", 1.25, "", ""]] * 2, "its choices must be a list of different settings"),
    ("sigma", "its choices must be a list of different settings"),
    ([["shell", "x", "", ""]], "is damaged"),
    ([[["sigma"], 1.25, "", ""]], "is damaged"),
    ([["sigma", 1.25]], "is damaged"),
    (None, "is damaged"),
])  # fmt: skip
def test_forged_choices_are_refused_in_a_sentence(saved, rows, said):
    with pytest.raises(ValueError, match=said) as refused:
        load(saved, choices=rows)
    assert len(str(refused.value)) < 500


def test_damaged_choices_have_another_checksum(saved):
    folder, record = saved
    (option, value, _, figure), *others = record["choices"]
    forged = record | {"choices": [[option, value, "another reason", figure], *others]}
    (folder / "spade.json").write_text(json.dumps(forged))
    with pytest.raises(ValueError, match="its settings have another checksum"):
        SPADE.load(folder)


def test_what_a_backbone_has_of_its_own_was_not_chosen(demo, tmp_path):
    own = SPADE.recommended(load_backbone(resize=160, crop=None, average=3), size=160).fit(demo.train[:6])
    named = SPADE.recommended(size=160).fit(demo.train[:6])
    assert {*named.choices.index} - {*own.choices.index} == {"resize", "crop", "average"}
    for spade in (own, named):
        spade.save(tmp_path)
        assert SPADE.load(tmp_path).fit(demo.train[:6]).choices.equals(spade.choices)
