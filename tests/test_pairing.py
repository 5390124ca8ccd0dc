"""Which file is the mask of which image, by names alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spade_kit.datasets.naming import BAD_NAMES, GOOD_NAMES, as_label, says_bad, strip_mark
from spade_kit.datasets.pairing import pair
from spade_kit.datasets.samples import Sample

FOLDER = Path("set")
PLAIN = st.lists(st.sampled_from(["a", "A", "b", "1", "-", " ", "\u00e9", "e\u0301"]), min_size=1, max_size=4)
MARKED = st.lists(st.sampled_from(["a", "A", "b", "_mask", "_gt", "mask_", "_mask_2", "."]), min_size=1, max_size=4)
KINDS = st.sampled_from(["bad", "Bad", "sub/a", "sub/A"])


def stems(parts: st.SearchStrategy) -> st.SearchStrategy:
    """Kinds and names; many differ only in upper case or in a mark."""
    name = parts.map(lambda one: "".join(one)).filter(lambda stem: stem.strip(" .") == stem)
    return st.lists(st.tuples(KINDS, name), min_size=1, max_size=8, unique=True)


@given(named=stems(MARKED), spelling=st.sampled_from(["{}", "{}_mask", "{} Mask", "{}-GT"]))
def test_each_image_gets_the_mask_of_its_exact_name(named, spelling):
    """Whatever else the other names look like, even where they are those of masks."""
    masks = {
        FOLDER / kind / f"{stem}.png": FOLDER / "masks" / kind / f"{spelling.format(stem)}.png" for kind, stem in named
    }
    images, truth = pair([*masks, *masks.values()], FOLDER)
    assert images == list(masks)
    assert truth == masks


@given(named=stems(PLAIN), mark=st.sampled_from(["_mask", " mask", "-GT", "_ground_truth", ".Mask", "_masks"]))
def test_masks_beside_their_images_are_no_images(named, mark):
    masks = {FOLDER / kind / f"{stem}.jpg": FOLDER / kind / f"{stem}{mark}.png" for kind, stem in named}
    images, truth = pair([*masks, *masks.values()], FOLDER)
    assert images == list(masks)
    assert truth == masks


@pytest.mark.parametrize(
    ("mask", "image"),
    [
        ("bad/0_mask.png", "bad/0.png"),
        ("bad/GT_0.png", "bad/0.png"),
        ("bad/masks/0.png", "bad/0.png"),
        ("bad/cam/masks/0_mask.png", "bad/cam/0.png"),
        ("bad/Label/0_label.png", "bad/0.png"),
        ("labels/0.png", "0.png"),
        ("ground_truth/bad/0_mask.png", "bad/0.png"),
        ("Ground Truth/Bad/0.PNG", "bad/0.png"),
        ("bad_masks/0.png", "bad/0.png"),
        ("bad_gt/cam/0.png", "bad/cam/0.png"),
        ("bad/E\u0301_mask.png", "bad/\u00e9.png"),
    ],
)
def test_a_mask_is_found_in_every_usual_place(mask, image):
    assert pair([FOLDER / mask, FOLDER / image], FOLDER) == ([FOLDER / image], {FOLDER / image: FOLDER / mask})


def test_a_folder_of_defective_labels_is_a_kind():
    images = [FOLDER / name for name in ("good/0.png", "label/0.png", "label/1.png", "0.png")]
    assert pair(images, FOLDER) == (images, {})


def test_a_name_with_a_mark_is_an_image_where_no_image_has_its_name():
    names = [FOLDER / name for name in ("bad/half_mask.png", "bad/gt_1.png", "face mask/0.png", "mask_on/0.png")]
    assert pair(names, FOLDER) == (names, {})


def test_several_masks_of_one_image_are_kept_together():
    masks = tuple(FOLDER / f"bad/0_mask_{number}.png" for number in (1, 2))
    assert pair([FOLDER / "bad/0.png", *masks], FOLDER)[1] == {FOLDER / "bad/0.png": masks}


def test_the_suffix_decides_between_masks_of_one_name_and_one_mask_may_serve_several():
    a, b, c = (FOLDER / f"bad/0{suffix}" for suffix in (".png", ".PNG", ".bmp"))
    first, second = FOLDER / "masks/bad/0.png", FOLDER / "masks/bad/0.PNG"
    assert pair([a, b, first, second], FOLDER)[1] == {a: first, b: second}
    assert pair([a, c, first], FOLDER)[1] == {a: first, c: first}


def test_a_mask_of_an_exact_name_is_not_given_to_an_image_of_another_case():
    upper, lower, mask = (FOLDER / name for name in ("Bad/0.png", "bad/0.png", "masks/Bad/0.png"))
    assert pair([upper, lower, mask], FOLDER)[1] == {upper: mask}
    assert pair([lower, mask], FOLDER)[1] == {lower: mask}


@pytest.mark.parametrize("bare", ["000", "a b", "x_1"])
def test_a_mark_is_taken_from_a_name(bare):
    for named in (
        "{}_mask",
        "{} MASK",
        "{}-gt",
        "{}.mask",
        "{}_ground truth",
        "{}_mask2",
        "{}_mask_03",
        "{} mask (2)",
        "{}_label",
        "{}_seg",
        "gt_{}",
    ):
        assert strip_mark(named.format(bare)) == bare
    assert strip_mark(bare) == bare


def test_all_words_for_good_parts_are_one_label():
    for word in (
        "good",
        "Good ",
        "OK",
        "GOOD_",
        "normal",
        "defect-free",
        "No  Defect",
        "NoDefect",
        "clean",
        "O.K.",
        "i.O.",
    ):
        assert as_label(word) == "good"
    for word in ("not good", "nok", "goods", "scratch ", "0", "a\\b"):
        assert as_label(word) == word.strip()


@pytest.mark.parametrize("form", ["{}", "{}_001", "001-{}", "{}(2)", "{}.part", "Part 7 {}"])
def test_a_file_is_named_like_a_defect_if_the_longest_word_at_an_end_says_so(form):
    for word in GOOD_NAMES | BAD_NAMES:
        if "." not in word:  # those are names of folders
            assert says_bad(form.format(word.upper())) == (word in BAD_NAMES)
    for word in ("koala", "angle", "scrapbook", "reference", "a_ng_b"):
        assert not says_bad(form.format(word))


def test_a_label_beside_its_image_is_a_mask_and_one_without_an_image_is_an_image():
    photo, mask, other = (FOLDER / name for name in ("bad/a.jpg", "bad/a_label.bmp", "bad/b_label.bmp"))
    assert pair([photo, mask, other], FOLDER) == ([photo, other], {photo: mask})


def test_an_empty_path_is_no_mask():
    assert Sample(Path("a.png"), "bad", "").mask_path is None
