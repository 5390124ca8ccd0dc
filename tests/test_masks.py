"""Masks: every way to store one gives the same defect, labels stay whole, and what is odd is reported."""

from io import BytesIO

import numpy as np
import pytest
from deep_images import deep_png
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.ndimage import binary_dilation, binary_erosion

from spade_kit import Sample, evaluate, load_dataset
from spade_kit.datasets.images import interpret_mask, read_image, read_mask, read_size

TURNED = {  # EXIF orientation: how the stored pixels are shown
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@st.composite
def defects(draw) -> np.ndarray:
    """(61, 83) bool: one or two rectangles, at least 8 pixels on each side."""
    defect = np.zeros((61, 83), bool)
    for _ in range(draw(st.integers(1, 2))):
        top, left = draw(st.integers(0, 50)), draw(st.integers(0, 70))
        defect[top : top + draw(st.integers(8, 24)), left : left + draw(st.integers(8, 30))] = True
    return defect


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Save an image, and interpret it as a mask."""
    folder = tmp_path_factory.mktemp("masks")

    def save_and_read(picture: Image.Image, kind: str = "PNG", **options) -> tuple[np.ndarray, str]:
        picture.save(folder / "mask", kind, **options)
        return interpret_mask(folder / "mask")

    return save_and_read


# ---- what marks a defect ---------------------------------------------------------------------------------------------


@given(defect=defects(), colour=st.tuples(*[st.integers(0, 255)] * 3), kind=st.sampled_from(["PNG", "TIFF"]))
def test_the_alpha_channel_decides_if_it_varies(read, defect, colour, kind):
    layer = np.dstack([np.full((*defect.shape, 3), colour, np.uint8), np.uint8(defect * 255)])
    mask, reason = read(Image.fromarray(layer), kind)
    np.testing.assert_array_equal(mask, defect)
    assert reason == "where opaque"


@given(defect=defects(), alpha=st.integers(0, 255))
def test_an_alpha_channel_of_one_value_decides_nothing(read, defect, alpha):
    grey = np.uint8(defect * 255)
    layer = np.dstack([grey, grey, grey, np.full_like(grey, alpha)])
    mask, reason = read(Image.fromarray(layer))
    np.testing.assert_array_equal(mask, defect)
    assert reason == "where not 0"


@given(defect=defects(), colours=st.lists(st.integers(0, 255), min_size=9, max_size=9))
def test_the_index_of_a_palette_decides_whatever_its_colours(read, defect, colours):
    index = np.uint8(defect)
    index[: index.shape[0] // 2] *= 2  # two kinds of defect
    picture = Image.fromarray(index, "L")
    picture.putpalette(colours)
    mask, _ = read(picture)
    np.testing.assert_array_equal(mask, defect)


def test_a_palette_of_greys_is_read_as_grey(read):
    soft = np.uint8(np.linspace(0, 255, 64).round())[None].repeat(40, 0)
    soft[:, :16], soft[:, 48:] = 0, 255
    mask, reason = read(Image.fromarray(soft), "GIF")
    np.testing.assert_array_equal(mask, soft > 127)
    assert reason == "where brighter than half"


@given(defect=defects(), level=st.integers(1, 255), kind=st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]))
def test_one_level_of_grey_is_a_defect_however_dark(read, defect, level, kind):
    mask, reason = read(Image.fromarray((defect * level).astype(kind)), "TIFF")
    np.testing.assert_array_equal(mask, defect)
    assert reason == "where not 0"


@given(channel=st.integers(0, 2), defect=defects())
def test_a_mask_in_one_colour_is_read(read, channel, defect):
    colour = np.zeros((*defect.shape, 3), np.uint8)
    colour[..., channel] = defect * 255
    np.testing.assert_array_equal(read(Image.fromarray(colour))[0], defect)


@given(st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 4)), st.integers(1, 255), min_size=1, max_size=12))
def test_areas_of_labels_stay_whole(read, labels):
    """Labels of any level, as in VisA and MVTec LOCO. A line of 1 px could as well be the noise of a JPEG."""
    mask = np.zeros((61, 83), np.uint8)
    for (row, col), label in labels.items():
        mask[12 * row : 12 * row + 12, 16 * col : 16 * col + 15] = label
    np.testing.assert_array_equal(read(Image.fromarray(mask))[0], mask > 0)


@given(
    levels=st.lists(st.integers(3, 21).map(lambda level: 12 * level), min_size=1, max_size=4, unique=True),
    quality=st.integers(40, 100),
    radius=st.sampled_from([0, 0.5, 1]),
    kind=st.sampled_from(["JPEG", "PNG"]),
)
def test_several_labels_are_all_defects_after_a_jpeg(read, levels, quality, radius, kind):
    """Also if it was saved as PNG again, and with soft edges, which are as uncertain as the noise of the JPEG."""
    labels = np.zeros((120, 160), np.uint8)
    for at, level in enumerate(levels):
        labels[9 + 50 * (at // 2) : 40 + 50 * (at // 2), 13 + 70 * (at % 2) : 60 + 70 * (at % 2)] = level
    stream = BytesIO()
    Image.fromarray(labels).filter(ImageFilter.GaussianBlur(radius)).save(stream, "JPEG", quality=quality)
    found, reason = read(Image.open(stream), kind, **({"quality": quality} if kind == "JPEG" else {}))
    inside = binary_erosion(labels > 0, iterations=5)
    assert found[inside].all()
    if reason != "where not 0":
        assert found[~binary_dilation(labels > 0, iterations=5)].mean() < 0.005  # the noise of a JPEG reaches 8 px
        assert (reason == "where brighter than half") == (min(levels) >= 192) or 170 < min(levels) < 200


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_labels_within_the_noise_of_a_lossy_file_mark_nothing(read, kind):
    """The mask is then remarked on as empty."""
    labels = np.zeros((120, 160), np.uint8)
    labels[20:50, 20:60], labels[60:90, 80:130] = 1, 2
    assert not read(Image.fromarray(labels), kind, quality=75)[0].any()


@given(levels=st.lists(st.integers(60, 255), min_size=1, max_size=2), quality=st.integers(45, 95), again=st.booleans())
def test_the_noise_of_a_webp_marks_nothing_also_if_saved_again(read, levels, quality, again):
    """Below a quality of 45, the noise around a bright area can be brighter than half of a dark one."""
    labels = np.zeros((120, 160), np.uint8)
    for at, level in enumerate(levels):
        rows, columns = np.ogrid[:120, :160]
        labels[(rows - 55) ** 2 + (columns - 40 - 75 * at) ** 2 < 29**2] = level
    stream = BytesIO()
    Image.fromarray(labels).save(stream, "WEBP", quality=quality)
    if again:
        found, _ = read(Image.open(stream).convert("L"))
    else:
        found, _ = read(Image.fromarray(labels), "WEBP", quality=quality)
    assert found[binary_erosion(labels > 0, iterations=4)].all()
    assert not found[~binary_dilation(labels > 0, iterations=4)].any()


@given(defect=defects(), radius=st.floats(0.5, 3), quality=st.integers(40, 100), kind=st.sampled_from(["JPEG", "PNG"]))
def test_a_soft_brush_is_cut_at_half_in_any_file(tmp_path_factory, defect, radius, quality, kind):
    sharp = np.pad(np.uint8(defect * 255), 3)
    sharp[:20, :30] = 255  # so that the brush is white in some middle
    soft = Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(radius))
    stream = BytesIO()
    soft.save(stream, kind, **({"quality": quality} if kind == "JPEG" else {}))
    (tmp_path_factory.getbasetemp() / "soft").write_bytes(stream.getvalue())
    found, reason = interpret_mask(tmp_path_factory.getbasetemp() / "soft")
    np.testing.assert_array_equal(found, np.array(Image.open(stream)) > 127)
    assert reason == "where brighter than half"


@given(defect=defects(), quality=st.integers(20, 100), again=st.booleans())
def test_a_jpeg_of_a_mask_is_cut_at_half(read, defect, quality, again):
    stream = BytesIO()
    Image.fromarray(np.uint8(defect * 255)).save(stream, "JPEG", quality=quality)
    mask, _ = read(Image.open(stream), "PNG") if again else read(Image.open(stream), "JPEG", quality="keep")
    assert (binary_erosion(defect) <= mask).all()
    assert (mask <= binary_dilation(defect)).all()


def test_an_all_black_jpeg_marks_nothing_at_any_quality(read):
    """At some qualities, black is decoded to a level of 1 to 4."""
    for quality in range(1, 101):
        assert not read(Image.new("L", (40, 30)), "JPEG", quality=quality)[0].any()


@given(defect=defects(), sigma=st.floats(0.7, 2))
def test_a_soft_brush_is_cut_at_half(read, defect, sigma):
    mask, reason = read(Image.fromarray(np.uint8(defect * 255)).filter(ImageFilter.GaussianBlur(sigma)))
    square = np.ones((5, 5))
    assert (binary_erosion(defect, square) <= mask).all()
    assert (mask <= binary_dilation(defect)).all()
    assert reason == "where brighter than half"


@pytest.mark.parametrize("stored", ["grey", "palette"])
@given(defect=defects(), sigma=st.floats(0.7, 2), strength=st.floats(0.3, 0.7), seed=st.integers(0, 9))
def test_a_soft_brush_without_white_is_cut_at_half_of_its_maximum(read, stored, defect, sigma, strength, seed):
    brush = Image.fromarray(np.uint8(defect * 255)).filter(ImageFilter.GaussianBlur(sigma))
    grey = np.uint8(np.array(brush) * strength)
    picture = Image.fromarray(grey)
    if stored == "palette":  # black first, and other levels in any order
        used, index = np.unique(grey, return_inverse=True)
        order = np.append(0, np.random.default_rng(seed).permutation(np.arange(1, len(used))))
        picture = Image.fromarray(np.uint8(np.argsort(order)[index].reshape(grey.shape)), "L")
        picture.putpalette(used[order].repeat(3).tolist())
    mask, reason = read(picture)
    assert (binary_erosion(defect, np.ones((5, 5))) <= mask).all()
    assert (mask <= binary_dilation(defect)).all()
    assert reason in ("where brighter than half of the maximum", "where brighter than half of the darkest area")


def test_a_wide_soft_brush_is_not_read_as_its_whole_slope(read):
    """A defect of 12 x 12 px: the slope covers eight times as much."""
    defect = np.zeros((96, 96), np.uint8)
    defect[40:52, 30:42] = 255
    mask, reason = read(Image.fromarray(defect).filter(ImageFilter.GaussianBlur(5)))
    assert 144 <= mask.sum() <= 1.3 * 144
    assert reason == "where brighter than half of the maximum"


@given(ids=st.integers(2, 60), step=st.integers(1, 3), seed=st.integers(0, 99))
def test_many_small_labels_stay_whole(read, ids, step, seed):
    """The numbers of objects of 2 to 4 px, none next to another."""
    rng, mask = np.random.default_rng(seed), np.zeros((60, 90), np.uint8)
    for at in range(ids):
        row, col = 6 * (at // 15), 6 * (at % 15)
        mask[row : row + rng.integers(2, 5), col : col + rng.integers(2, 5)] = step * (at + 1)
    np.testing.assert_array_equal(read(Image.fromarray(mask))[0], mask > 0)


@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
@given(defect=defects(), factor=st.sampled_from([0.63, 1.7, 3]))
def test_a_resized_mask_is_cut_at_half(read, defect, factor, how):
    """A mask's pixel agrees with the pixel of the original at its centre, unless that is at an edge."""
    size = [round(side * factor) for side in defect.shape]
    mask, _ = read(Image.fromarray(np.uint8(defect * 255)).resize(size[::-1], how))
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, defect.shape, strict=True)
    )
    square = np.ones((3, 3))
    inside, near = binary_erosion(defect, square, border_value=1), binary_dilation(defect, square)
    assert (inside[rows][:, columns] <= mask).all()
    assert (mask <= near[rows][:, columns]).all()


def test_sixteen_bit_colour_of_a_mask_keeps_small_labels(tmp_path):
    labels = np.zeros((9, 11, 3), np.uint16)
    labels[2:5, 3:7] = 3  # only the low byte
    (tmp_path / "mask.png").write_bytes(deep_png(labels))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), labels[..., 0] > 0)


# ---- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", TURNED)
def test_image_mask_and_size_are_turned_alike(tmp_path, kind, orientation):
    grey = np.zeros((40, 56), np.uint8)
    grey[:8, :16] = 255
    lossless = {"lossless": True} if kind == "webp" else {}
    path = tmp_path / f"0.{kind}"
    Image.fromarray(grey).save(path, exif=turned(orientation), **lossless)
    expected = TURNED[orientation](grey) > 127
    np.testing.assert_array_equal(read_mask(path), expected)
    np.testing.assert_array_equal(read_image(path)[..., 0] > 127, expected)
    assert read_size(path) == expected.shape


# ---- what a dataset tells about its masks ----------------------------------------------------------------------------


@pytest.fixture
def put(tmp_path, rng):
    """Write one normal image and one defect image of 20 x 30 pixels with its mask, and load them."""

    def write(*masks: np.ndarray | None, photo: int = 1, mask_orientation: int | None = None):
        for place in ("train/good/0.png", *(f"test/bent/{at}.png" for at in range(len(masks)))):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8))
            picture.save(tmp_path / place, exif=turned(photo))
        (tmp_path / "ground_truth/bent").mkdir(parents=True)
        for at, mask in enumerate(masks):
            exif = {} if mask_orientation is None else {"exif": turned(mask_orientation)}
            Image.fromarray(mask).save(tmp_path / f"ground_truth/bent/{at}.png", **exif)
        return load_dataset(tmp_path)

    return write


DEFECT = np.zeros((20, 30), np.uint8)
DEFECT[4:8, 5:9] = 255


def test_a_dataset_tells_how_masks_were_understood_and_which_are_odd(put):
    soft = np.array(Image.fromarray(DEFECT).filter(ImageFilter.GaussianBlur(0.8)))
    dataset = put(DEFECT, soft, 255 - DEFECT, np.zeros_like(DEFECT), DEFECT)
    content = dataset.test[4].mask_path.read_bytes()
    dataset.test[4].mask_path.write_bytes(content[:-20])
    assert str(dataset).splitlines()[1:] == [
        "MVTec AD layout; 5 masks (defect 3 where not 0, 1 where brighter than half); 20 x 30 px",
        "Empty masks (1 of 5): bent/3.png. Check that their defects were saved.",
        "Masks of more than half of the image (1 of 5): bent/2.png. Check that they are not inverted.",
        f"Unreadable masks (1 of 5): Cannot read {dataset.test[4].mask_path} as an image: Truncated File Read. Remove "
        "or replace it.",
        "The images are not square, such as 20 x 30 px: SPADE(load_backbone(crop=None)) keeps their shape.",
    ]


def test_a_mask_that_contradicts_a_good_image_is_reported(put, tmp_path):
    put(DEFECT)
    for name, mask in (("0", DEFECT), ("1", 0 * DEFECT)):
        for folder, pixels in (("test", DEFECT), ("ground_truth", mask)):
            (tmp_path / folder / "ok").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / "ok" / f"{name}.png")
    lines = str(load_dataset(tmp_path)).splitlines()
    assert "3 masks" in lines[1]
    assert lines[2:3] == ["Masks that mark a defect in a good image (1 of 3): ok/0.png. Correct the label or the mask."]


def test_masks_of_one_image_must_have_one_size(tmp_path):
    for name, size in (("a", (5, 7)), ("b", (7, 5))):
        Image.new("L", size).save(tmp_path / f"{name}.png")
    told = r"Masks of one image must have one size; got \S*a\.png with 7 x 5 px and \S*b\.png with 5 x 7 px\. Replace"
    for several in (tmp_path, (tmp_path / "a.png", tmp_path / "b.png")):
        with pytest.raises(ValueError, match=told):
            read_mask(several)


def test_a_mask_of_another_shape_than_its_image_is_not_used(tmp_path, spade, demo):
    """As in a dataset: the truth is unknown, and the image is judged all the same."""
    photo = demo.test[0].path
    for name, size in (("wide", (640, 320)), ("small", (80, 80))):
        Image.new("L", size, 255).save(tmp_path / f"{name}.png")
    told = r"The mask of .* is not used: it must have the aspect ratio of its image; got 320 x 640 px for 320 x 320 px"
    with pytest.warns(UserWarning, match=told):
        assert Sample(photo, "dot", tmp_path / "wide.png").mask is None
    assert Sample(photo, "dot", tmp_path / "small.png").mask.all()
    with pytest.warns(UserWarning, match=told):
        report = evaluate(spade, [demo.test[0], Sample(photo, "dot", tmp_path / "wide.png")])
    assert report.to_frame()["image_score"].notna().all()
    assert report.judged(1).mask is None


def test_only_the_first_page_of_a_mask_is_used_and_it_is_said(tmp_path):
    pages = [Image.fromarray(np.roll(DEFECT, 5 * at, 1)) for at in range(3)]
    for name in ("mask.tif", "mask.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        told = rf"{name} holds 3 pages or frames, and only the first is used\. Save each as a file\."
        with pytest.warns(UserWarning, match=told):
            np.testing.assert_array_equal(read_mask(tmp_path / name), DEFECT > 0)


def test_of_many_masks_some_are_read_and_it_is_told(put, monkeypatch):
    monkeypatch.setattr("spade_kit.datasets.samples._MASKS", 3)
    dataset = put(*[DEFECT] * 7)
    assert "7 masks (defect where not 0; 3 of them read)" in str(dataset)
    monkeypatch.setattr("spade_kit.datasets.samples._MASKS", 6)
    assert "7 masks (defect where not 0; 6 of them read)" in str(dataset)
    monkeypatch.setattr("spade_kit.datasets.samples._PIXELS", 4.5 * DEFECT.size)
    assert "7 masks (defect where not 0; 5 of them read)" in str(dataset)


def test_a_mask_that_is_missing_on_disk_is_reported_as_missing(put, tmp_path):
    put(DEFECT)
    (tmp_path / "t.csv").write_text(
        "path,label,mask,split\ntrain/good/0.png,good,,train\ntest/bent/0.png,bent,gone/0.png,test\n"
    )
    dataset = load_dataset(tmp_path / "t.csv")
    assert dataset.test[0].mask_path is None
    assert dataset.remarks[0] == "1 mask missing on disk, not used: gone/0.png."


def test_masks_drawn_on_the_turned_or_on_the_stored_pixels_are_told_apart(put):
    """Of an image with EXIF orientation 6: the shape of the mask shows what it was drawn on."""
    dataset = put(np.ascontiguousarray(np.rot90(DEFECT, -1)), DEFECT, photo=6)
    assert [sample.mask_path is not None for sample in dataset.test] == [True, False]
    assert dataset.remarks == ("1 mask of another orientation than the image, not used: bent/1.png.",)


@pytest.mark.parametrize(("photo", "mask", "odd"), [(3, None, True), (3, 3, False), (1, 2, True), (6, 6, False)])
def test_a_mask_with_another_exif_orientation_is_reported_if_its_shape_proves_nothing(put, photo, mask, odd):
    dataset = put(DEFECT, photo=photo, mask_orientation=mask)
    told = (
        "1 mask of another EXIF orientation than the image (check that the defects are in the right place): bent/0.png."
    )
    assert dataset.remarks == ((told,) if odd else ())
    assert dataset.test[0].mask.shape == dataset.test[0].image.shape[:2]


def test_an_empty_mask_is_blamed_and_not_the_crop(spade, demo, tmp_path):
    Image.new("L", (320, 320)).save(tmp_path / "black.png")
    black = Sample(demo.test[0].path, "dot", tmp_path / "black.png")
    with pytest.warns(UserWarning, match=r"1 defects of .* have an empty mask, such as that of .*Check these") as said:
        evaluate(spade, [*demo.test[5:8], black])
    assert not any("crop" in str(one.message) for one in said)


def test_a_folder_without_masks_raises_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected masks in .*, but there are none\. Check the folder\."):
        read_mask(tmp_path)
