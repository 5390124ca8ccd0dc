"""The evaluated crop: boxes by exact fractions, maps placed back on the image, masks without interpolation."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spade_kit.features.crops import Cropping

side = st.integers(32, 300)
PHOTOS = [((97, 131), 72, 64), ((131, 97), 72, 51), ((40, 300), 72, 64), ((300, 40), 96, None), ((75, 170), 64, None)]


def judged(photo, scaled, offset, size):
    """The first judged pixel along one axis and the one after the last, by the definition."""
    centres = [(pixel + Fraction(1, 2)) * scaled / photo for pixel in range(photo)]
    inside = [pixel for pixel, centre in enumerate(centres) if offset <= centre < offset + size]
    return inside[0], inside[-1] + 1


def photo_places(crop, axis):
    """The centres of the crop's pixels, in pixel coordinates of the original image."""
    pixels = np.arange(crop.size[axis]) + crop.offset[axis]
    return (pixels + 0.5) * crop.photo[axis] / crop.scaled[axis] - 0.5


def test_the_default_crop_of_a_512_px_photo_is_its_centre_448():
    """512 px become 256, and 16 are cut at each side: 32 px of the original."""
    crop = Cropping(256, 224).find((512, 512))
    assert crop.box == (32, 32, 480, 480)
    assert (crop.scaled, crop.offset, crop.size) == ((256, 256), (16, 16), (224, 224))


def test_the_box_of_a_long_photo_by_hand():
    """Rows: 100 become 50, 5 cut at each side, so 10 of the original. Columns: 300 become 50, 5 cut, so 30."""
    assert Cropping(50, 40).find((100, 300)).box == (10, 30, 90, 270)
    # An odd remainder: 50 - 33 = 17, 8 before and 9 after; 16 and 18 rows, 48 and 54 columns of the original.
    assert Cropping(50, 33).find((100, 300)).box == (16, 48, 82, 246)


@given(side, side, side, side)
@example(42, 35, 72, 36)  # an edge exactly on the centre of a pixel, which a rounded quotient misses
def test_a_pixel_is_in_the_box_if_its_centre_is_in_the_crop(height, width, resize, size):
    assume(size <= resize)
    crop = Cropping(resize, size).find((height, width))
    top, left, bottom, right = crop.box
    assert (top, bottom) == judged(height, resize, crop.offset[0], size)
    assert (left, right) == judged(width, resize, crop.offset[1], size)


@given(side, side, side, st.none() | side)
def test_a_map_put_back_is_nan_exactly_outside_the_box(height, width, resize, size):
    assume(size is None or size <= resize)
    crop = Cropping(resize, size).find((height, width))
    on_photo = crop.put_back(np.ones(crop.size, np.float32))
    top, left, bottom, right = crop.box
    outside = np.ones((height, width), bool)
    outside[top:bottom, left:right] = False
    assert on_photo.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(on_photo), outside)
    np.testing.assert_array_equal(on_photo[~outside], 1)


@pytest.mark.parametrize(("photo", "resize", "size"), PHOTOS)
def test_a_ramp_put_back_is_the_ramp(photo, resize, size):
    """Beyond the centres of the outermost crop pixels it is constant."""
    crop = Cropping(resize, size).find(photo)
    rows, cols = (photo_places(crop, axis) for axis in (0, 1))
    on_photo = crop.put_back((3 * rows[:, None] - 2 * cols).astype(np.float32))
    top, left, bottom, right = crop.box
    down, across = (
        np.clip(np.arange(first, last), places[0], places[-1])
        for first, last, places in ((top, bottom, rows), (left, right, cols))
    )
    np.testing.assert_allclose(on_photo[top:bottom, left:right], 3 * down[:, None] - 2 * across, atol=1e-3)


@pytest.mark.parametrize(("photo", "resize", "size"), PHOTOS)
def test_a_bright_square_comes_back_to_its_place_in_the_photo(photo, resize, size):
    """A round trip: a shift by half a pixel, or rows swapped with columns, would move its centre."""
    crop = Cropping(resize, size).find(photo)
    row, col = photo[0] // 2 + 5, photo[1] // 2 - 6
    picture = np.zeros((*photo, 3), np.uint8)
    picture[row - 4 : row + 5, col - 4 : col + 5] = 255
    back = np.nan_to_num(crop.put_back(crop.cut(picture)[..., 1].astype(np.float32)))
    down, across = np.indices(photo)
    assert (back * down).sum() / back.sum() == pytest.approx(row, abs=0.25)
    assert (back * across).sum() / back.sum() == pytest.approx(col, abs=0.25)
    assert back[row, col] > 0.9 * back.max()


@pytest.mark.parametrize(("photo", "resize", "size"), PHOTOS)
def test_a_crop_matches_torchs_resize_and_crop(rng, photo, resize, size):
    """Antialiased bilinear by another library; values may differ by rounding."""
    crop = Cropping(resize, size).find(photo)
    picture = rng.integers(0, 256, (*photo, 3), np.uint8)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    scaled = torch.nn.functional.interpolate(x, crop.scaled, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    (top, left), (height, width) = crop.offset, crop.size
    expected = scaled[top : top + height, left : left + width].numpy()
    assert crop.cut(picture).dtype == np.uint8
    np.testing.assert_allclose(crop.cut(picture), expected, rtol=0, atol=1.01)


@pytest.mark.parametrize(("photo", "resize", "size"), [*PHOTOS, ((50, 41), 72, 64)])
def test_a_mask_is_sampled_at_the_centres_and_never_interpolated(rng, photo, resize, size):
    crop = Cropping(resize, size).find(photo)
    mask = rng.random(photo) < 0.3
    cut = crop.cut_mask(mask)
    by_hand = np.zeros(crop.size, bool)
    for row, photo_row in enumerate(photo_places(crop, 0)):
        for col, photo_col in enumerate(photo_places(crop, 1)):
            by_hand[row, col] = mask[int(photo_row + 0.5), int(photo_col + 0.5)]
    assert cut.dtype == bool
    np.testing.assert_array_equal(cut, by_hand)


def test_a_square_in_the_mask_keeps_its_position_on_the_crop():
    """120 x 200 become 60 x 60, the centre 50: rows / 2 - 5, columns * 3 / 10 - 5."""
    mask = np.zeros((120, 200), bool)
    mask[20:60, 50:150] = True
    rows, cols = np.nonzero(Cropping(60, 50).find((120, 200)).cut_mask(mask))
    assert (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1) == (5, 25, 10, 40)
    assert len(rows) == 20 * 30


@given(side, side, st.integers(64, 300))
def test_the_whole_photo_keeps_its_aspect_ratio_with_sides_in_multiples_of_32(height, width, resize):
    crop = Cropping(resize, None).find((height, width))
    assert crop.box == (0, 0, height, width)
    assert crop.offset == (0, 0)
    assert crop.size == crop.scaled
    for pixels, scaled in zip((height, width), crop.scaled):
        assert scaled % 32 == 0
        assert abs(scaled - pixels * resize / min(height, width)) <= 16


def test_a_long_photo_stays_long():
    assert Cropping(256, None).find((100, 250)).size == (256, 640)
    assert Cropping(256, None).find((250, 100)).size == (640, 256)


@pytest.mark.parametrize("photo", [(31, 400), (400, 31)])
@pytest.mark.parametrize("size", [224, None])
def test_a_photo_that_is_too_small_raises_an_error(photo, size):
    with pytest.raises(ValueError, match=f"at least 32 pixels on each side; got {photo[0]} x {photo[1]}"):
        Cropping(256, size).find(photo)
    assert Cropping(256, size).find((32, 32)).box[2] > 0
