"""Masks that no name marks are told from images by their few colours."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from spade_kit import SPADE, load_dataset
from spade_kit.datasets.images import count_colours
from spade_kit.datasets.naming import name_file

COUNT = 3


def draw(rng, blank=False, size=(60, 80)):
    mask = np.zeros(size, np.uint8)
    row, col = rng.integers(5, 30, 2)
    mask[row : row + 9, col : col + 12] = 0 if blank else 255
    return mask


def take(rng, size=(60, 80)):
    """An image of a part: bright part on black, with noise."""
    photo = rng.integers(0, 3, (*size, 3))
    height, width = size
    part = photo[height // 6 : -height // 6, width // 6 : -width // 6]
    part[:] = rng.normal(120, 20, part.shape).clip(0, 255)
    return photo.astype(np.uint8)


@pytest.fixture
def put(tmp_path, rng):
    def put(place, make, **options):
        for at in range(COUNT):
            path = tmp_path / place.format(at)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make(rng, **options)).save(path)
        return tmp_path

    return put


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("bad/{}.jpg", "bad/{}.png"),
        ("bad/{}.png", "bad/{}.bmp"),
        ("bad/{}.jpg", "bad/{}.gif"),
        ("bad/{}.png", "bad/{}.jpg"),
        ("bad/lot 7/{}.jpg", "bad/lot 7/{}.png"),
        ("bad/img/{}.png", "bad/label/{}.png"),
        ("bad/img/{}.jpg", "bad/drawn by Ann/{}.png"),
        ("bad/camera/{}.jpg", "bad/SegmentationClassPNG/{}.png"),
        ("bad/img/{}.png", "bad/masks/{}.png"),
        ("bad/img/{}.png", "bad/Labels/{}_label.jpg"),
        ("bad/{}.jpg", "bad/Masks2/{}.png"),
        ("bad/lot/{}.jpg", "bad/lot/annotated/{}.png"),
        *(("bad/{}.png", f"bad/{{}}{end}.png") for end in ("_anno", "(mask)", "Mask", ".png.mask", "_m", "_bin 2")),
        *(("bad/{}.png", f"bad/{start}{{}}.bmp") for start in ("anno_", "roi-")),
        ("bad/part {}.jpg", "bad/part {} target.png"),
        *(("bad/{}.png", f"{place}/{{}}.png") for place in ("labels", "lbl", "targets", "binary", "roi", "masks")),
        ("bad/lot 7/{}.jpg", "targets/{}_label.png"),
        *(("bad/{}.jpg", f"{place}/bad/{{}}.png") for place in ("lbl", "Maske", "labels")),
    ],
)
def test_a_mask_is_told_by_its_colours_where_names_do_not(put, photo, mask):
    folder = put("good/{}.png", take)
    put(photo, take)
    put(mask, draw)
    dataset = load_dataset(folder)
    assert [(s.label, s.path, s.mask_path) for s in dataset.test] == [
        ("bad", folder / photo.format(at), folder / mask.format(at)) for at in range(COUNT)
    ]
    assert "not used" not in str(dataset)
    told = f"3 masks told by few colours, not by name: {name_file(Path(mask.format(0)))}"
    assert (told in str(dataset)) == all(word not in mask.lower() for word in ("masks/", "label", ".mask"))


@pytest.mark.parametrize("place", ["bad/{}.png", "bad/lot 7/{}.png"])
@pytest.mark.parametrize(
    ("photo", "mask", "named"),
    [
        *((f"{word}_{{}}", f"{mark}_{{}}", True) for word, mark in (("image", "mask"), ("color", "segmentation"))),
        ("Image 00{}", "Mask 00{}", True),
        ("photo-{}", "gt-{}", True),
        ("img{}", "seg{}", False),
        ("part_{}", "part_anno_{}", False),
        ("{}_rgb", "{}_anno", False),
        ("cam1_00{}", "anno_00{}", False),
        ("00{}_cam1", "00{}_mask", True),
        ("cam1_00{}", "cam1_mask_00{}", True),
        ("2026-11-29_image_{}", "2026-11-29_mask_{}", True),
    ],
)
def test_a_mask_and_its_image_may_have_different_words_around_one_number(put, place, photo, mask, named):
    folder = put(f"good/{photo}.png", take)
    put(place.format(photo), take)
    put(place.format(mask), draw)
    dataset = load_dataset(folder)
    assert [(s.path, s.mask_path) for s in dataset.test] == [
        (folder / place.format(photo).format(at), folder / place.format(mask).format(at)) for at in range(COUNT)
    ]
    assert ("3 masks told by few colours, not by name" in str(dataset)) != named


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        *(("{}.jpg", mask) for mask in ("lbl/{}_lbl.png", "lbl/bad/{}_anno.png", "bad/lbl/{}_bin.png")),
        ("Bild_{}.png", "bad/Masken/Maske_{}.png"),
        ("image_{}.png", "bad/masks_png/mask_00{}.png"),
        ("SN{}.png", "Masken/bad/{}.png"),
        ("7 lot {}.png", "masks/bad/Maske_{}.png"),
        ("cam1_{}.png", "bad/masks/mask_{}.png"),
        ("{}.png", "bad/00{}_mask.png"),
        ("part 7-0{}.png", "bad/mask_{}.png"),
    ],
)
def test_masks_of_other_names_are_found_by_their_numbers(put, photo, mask):
    folder = put("good/{}.png", take)
    put(f"bad/{photo}", take)
    put(mask, draw)
    dataset = load_dataset(folder)
    assert [(s.path, s.mask_path) for s in dataset.test] == [
        (folder / "bad" / photo.format(at), folder / mask.format(at)) for at in range(COUNT)
    ]
    assert "not used" not in str(dataset)
    told = f"3 masks found by number, not by name: {name_file(Path(mask.format(0)))} is that of {photo.format(0)}."
    assert (told in str(dataset)) == (Path(mask).parent != Path("bad"))


@pytest.mark.parametrize("mask", ["bad/Masken/{}.png", "bad/Masken/Maske_{}.png", "bad/00{}_mask.png"])
@pytest.mark.parametrize(
    ("also", "make"),
    [
        ("bad/cam2_1.png", take),  # 1 is the number of two images
        ("{place}7{mark}.png", draw),  # no image has the number
        ("{place}1 2{mark}.png", draw),  # nor do both numbers fit
        ("{place}00 2{mark}.png", draw),
    ],
)
def test_masks_whose_numbers_leave_it_open_are_not_guessed(put, mask, also, make, rng):
    folder = put("good/{}.png", take)
    put("bad/cam_{}.png", take)
    put(mask, draw)
    place, _, mark = mask.removesuffix(".png").partition("{}")
    Image.fromarray(make(rng)).save(folder / also.format(place=place, mark=mark))
    dataset = load_dataset(folder)
    assert all(sample.path.parent.name == "bad" and "mask" not in sample.path.name for sample in dataset.test)
    assert all(sample.mask_path is None for sample in dataset.test)
    assert "masks not used" in str(dataset)


@pytest.mark.parametrize("odd", ["3_1", "3_v2", "top_2", "3 (2)"])
def test_numbers_do_not_count_where_names_fit(put, odd, rng):
    """A mask left over from another image, or a copy, is that of no image, whatever its number."""
    folder = put("good/{}.png", take)
    put("bad/{}.png", take)
    for image in ("side_2", "3"):
        Image.fromarray(take(rng)).save(folder / f"bad/{image}.png")
    for mask in ("bad/masks/0", "bad/masks/3", f"bad/masks/{odd}"):
        (folder / mask).parent.mkdir(exist_ok=True)
        Image.fromarray(draw(rng)).save(folder / f"{mask}.png")
    dataset = load_dataset(folder)
    assert {s.path.stem: s.mask_path.stem for s in dataset.test if s.mask_path} == {"0": "0", "3": "3"}
    assert f"1 mask not used: masks/{odd}.png" in str(dataset)


@pytest.mark.parametrize("names", ["{}", "dark_{}"])
@pytest.mark.parametrize("place", ["", "test/"])
def test_a_kind_of_nearly_uniform_images_holds_no_masks(put, names, place):
    folder = put(f"{'train/' if place else ''}good/{{}}.png", take)
    put(f"{place}bad/{names.replace('dark', 'scratch')}.png", take)
    put(f"{place}dark/{names}.png", lambda rng: rng.normal(6, 2, (60, 80, 3)).clip(0, 255).astype(np.uint8))
    dataset = load_dataset(folder)
    assert len(dataset.test) == 2 * COUNT
    assert all(sample.mask_path is None for sample in dataset.test)


@pytest.mark.parametrize("mask", ["bad/Masken/{}.png", "Masken/bad/{}.png", "Masken/{}.png", "bad/masks_2/{}.png"])
@pytest.mark.parametrize("stray", ["17", "legend"])
def test_a_mask_without_an_image_leaves_the_others_masks(put, mask, stray, rng):
    folder = put("good/{}.jpg", take)
    put("bad/{}.jpg", take)
    put(mask, draw)
    Image.fromarray(draw(rng)).save(folder / mask.format(stray))
    dataset = load_dataset(folder)
    assert [(s.path, s.mask_path) for s in dataset.test] == [
        (folder / f"bad/{at}.jpg", folder / mask.format(at)) for at in range(COUNT)
    ]
    assert f"1 mask not used: {name_file(Path(mask.format(stray)))}" in str(dataset)


@pytest.mark.parametrize("hue", [(1, 0, 0), (1, 1, 0), (0, 1, 1)])
def test_masks_of_a_coloured_soft_brush_are_told_too(put, hue):
    folder = put("good/{}.png", take)
    put("bad/image_{}.png", take)
    put("bad/mask_{}.png", lambda rng: as_soft(rng)[..., None] * np.array(hue, np.uint8))
    assert [sample.mask_path for sample in load_dataset(folder).test] == [
        folder / f"bad/mask_{at}.png" for at in range(COUNT)
    ]


@pytest.mark.parametrize("place", ["bad/paint/x{}7.png", "bad/a{}b.png", "other/1{}.png"])
def test_images_like_masks_are_remarked_on(put, place):
    folder = put("good/{}.png", take)
    put("bad/{}.jpg", take)
    assert "few colours" not in str(load_dataset(folder))
    put(place, draw)
    dataset = load_dataset(folder)
    found = len(dataset.test) == 2 * COUNT
    assert found == ("3 images of few colours, as masks have" in str(dataset)), dataset


@pytest.mark.parametrize("size", [(96, 96), (200, 256)])
@pytest.mark.parametrize(("defect", "sigma"), [((4, 6), 2), ((10, 20), 2), ((10, 20), 4), ((20, 20), 5), ((40, 40), 6)])
@pytest.mark.parametrize("mask", ["lbl/bad/{}.png", "bad/x/{}.png", "bad/{}_lbl2.png"])
def test_masks_of_a_soft_brush_may_be_small_and_without_white(put, size, defect, sigma, mask):
    def brush(rng):
        mask, (row, col) = np.zeros(size), rng.integers(16, 30, 2)
        mask[row : row + defect[0], col : col + defect[1]] = 255
        return gaussian_filter(mask, sigma).round().astype(np.uint8)

    folder = put("good/{}.jpg", take, size=size)
    put("bad/{}.jpg", take, size=size)
    put(mask, brush)
    assert [(s.path, s.mask_path) for s in load_dataset(folder).test] == [
        (folder / f"bad/{at}.jpg", folder / mask.format(at)) for at in range(COUNT)
    ]


@pytest.mark.parametrize("grain", [3, 20])
def test_grey_images_on_pure_black_are_no_masks(put, grain):
    def on_black(rng):
        photo = np.zeros((96, 96), np.uint8)
        photo[30:66, 30:66] = (gaussian_filter(rng.normal(0, 9 * grain, (36, 36)), 1) + 120).clip(1, 254)
        return photo

    folder = put("good/{}.png", take)
    put("bad/cam1/{}.png", take)
    put("bad/cam2/{}.png", on_black)
    assert len(load_dataset(folder).test) == 2 * COUNT


@pytest.mark.parametrize("kind", ["mask", "gt"])
def test_images_on_black_in_a_folder_called_mask_are_remarked_on(put, kind):
    folder = put("train/good/{}.png", take)
    put("test/dent/{}.png", take)
    put(f"test/{kind}/{{}}.png", take)
    assert "Masks of many colours (3 of 3)" in str(load_dataset(folder))


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("sigma", [0.1, 2, 8])
def test_masks_of_a_jpeg_or_a_soft_brush_have_no_many_colours(put, quality, sigma):
    def brush(rng):
        mask = gaussian_filter(draw(rng, size=(200, 256)).astype(float), sigma).round().astype(np.uint8)
        stream = BytesIO()
        Image.fromarray(mask).save(stream, "JPEG", quality=quality)
        return np.array(Image.open(stream))

    folder = put("train/good/{}.png", take, size=(200, 256))
    put("test/dent/{}.png", take, size=(200, 256))
    put("ground_truth/dent/{}.png", brush)
    assert "many colours" not in str(load_dataset(folder))


def as_alpha(rng, size=(60, 80)):
    """A red brush stroke on nothing."""
    alpha = draw(rng, size=size)
    return np.dstack([np.full(size, 200, np.uint8), *np.zeros((2, *size), np.uint8), alpha])


def as_soft(rng, size=(60, 80)):
    mask = np.zeros(size)
    mask[12:48, rng.integers(5, 12) : 68] = 255
    return gaussian_filter(mask, 1.5).round().astype(np.uint8)


@pytest.mark.parametrize("make", [as_alpha, as_soft])
@pytest.mark.parametrize("mask", ["lbl/{}.png", "bad/{}_anno.png", "bad/x/{}.png"])
def test_masks_of_transparency_or_a_soft_brush_are_told_too(put, make, mask):
    folder = put("good/{}.png", take)
    put("bad/{}.jpg", take)
    put(mask, make)
    assert [sample.mask_path for sample in load_dataset(folder).test] == [
        folder / mask.format(at) for at in range(COUNT)
    ]


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("good/{}.jpg", "good/{}.png"),
        ("good/image_{}.png", "good/mask_{}.png"),
        ("good/img/{}.png", "good/label/{}.png"),
        ("good/img/{}.jpg", "good/ann/{}.png"),
    ],
)
def test_empty_masks_of_good_images_are_no_images(put, photo, mask):
    folder = put(photo, take)
    put(mask, draw, blank=True)
    put("bad/{}.png", take)
    dataset = load_dataset(folder)
    assert [sample.path for sample in dataset.train] == [folder / photo.format(at) for at in range(COUNT)]
    assert "3 masks not used" in str(dataset)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bad/{}.jpg", "bad/{}.png"),  # two exposures
        ("bad/left/{}.png", "bad/right/{}.png"),
        ("bad/front/{}.png", "bad/label/{}.png"),  # images of a label
        ("bad/{}.png", "label/{}.png"),
        ("bad/left_{}.png", "bad/right_{}.png"),
        ("bad/image_{}.png", "bad/label_{}.png"),
    ],
)
def test_two_images_of_one_name_stay_images(put, one, other):
    folder = put("good/{}.png", take)
    put(one, take)
    put(other, take)
    assert len(load_dataset(folder).test) == 2 * COUNT


@pytest.mark.parametrize(("one", "other"), [("bad/{}.png", "no part/{}.png"), ("bad/a/{}.png", "bad/b/{}.png")])
def test_images_of_nothing_stay_images(put, one, other):
    folder = put("good/{}.png", take)
    put(one, take)
    put(other, draw, blank=True)
    assert len(load_dataset(folder).test) == 2 * COUNT


def test_images_of_few_colours_have_masks_in_a_folder_that_says_so(put):
    folder = put("good/{}.png", take)
    put("bad/images/{}.png", draw)
    put("bad/masks/{}.png", draw)
    assert [sample.mask_path is not None for sample in load_dataset(folder).test] == [True] * COUNT


def test_dark_images_are_no_masks(put):
    folder = put("good/{}.png", take)
    put("bad/cam1/{}.png", take)
    put("bad/cam2/{}.png", lambda rng: rng.integers(0, 3, (60, 80), np.uint8))
    assert len(load_dataset(folder).test) == 2 * COUNT


def test_masks_of_this_kind_are_not_judged_and_said(put, tmp_path):
    folder = put("in/{}.jpg", take, size=(64, 64))
    put("in/{}.png", draw, size=(64, 64))
    spade = SPADE().fit([take(np.random.default_rng(at), (64, 64)) for at in range(3)])
    with pytest.warns(UserWarning, match=r"3 masks not judged: in/0\.png, in/1\.png, in/2\.png"):
        table = spade.predict_folder(folder / "in", tmp_path / "out", fpr=0.5)
    assert table["path"].tolist() == ["0.jpg", "1.jpg", "2.jpg"]


def test_an_image_that_is_taken_as_a_mask_is_remarked_on(put):
    folder = put("good/{}.png", take)
    put("bad/{}.png", take)
    put("bad/{}_label.png", lambda rng: rng.integers(0, 90, (60, 80, 3), np.uint8))
    assert "Masks of many colours (3 of 3): bad/0_label.png, bad/1_label.png, bad/2_label.png." in str(
        load_dataset(folder)
    )


@given(colours=st.integers(1, 32), seed=st.integers(0, 99), suffix=st.sampled_from([".png", ".bmp", ".tif", ".gif"]))
def test_few_colours_are_counted(tmp_path_factory, colours, seed, suffix):
    rng = np.random.default_rng(seed)
    levels = rng.permutation(256)[:colours].astype(np.uint8)
    image = levels[np.arange(64 * 48).reshape(48, 64) // 7 % colours]  # a change every seventh pixel
    path = tmp_path_factory.mktemp("colours") / f"image{suffix}"
    Image.fromarray(image).save(path)
    assert count_colours(path) == colours


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_the_noise_of_a_jpeg_adds_no_colours(tmp_path, rng, quality):
    mask = np.zeros((300, 400), np.uint8)
    mask[100:180, 50:200] = 255
    Image.fromarray(mask).save(tmp_path / "mask.jpg", quality=quality)
    assert count_colours(tmp_path / "mask.jpg") > 0
    Image.fromarray(take(rng, (300, 400))).save(tmp_path / "photo.jpg", quality=quality)
    assert count_colours(tmp_path / "photo.jpg") == 0
    assert count_colours(Path("nowhere.png")) == 0
