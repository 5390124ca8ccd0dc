"""Simulated defects: pixel coverage, the effect of each tool on colour and position, and no change elsewhere."""

import colorsys
from dataclasses import replace
from itertools import pairwise
from math import hypot, inf

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from spade_kit.datasets.synthetic import TOOLS, VISIBLE, Stroke, changed, paint

SIZE = (61, 47)
WHITE = (255, 255, 255)
SAME_EVERYWHERE = (
    "brush",
    "blur",
    "colour",
    "move",
    "erase",
)  # "scratch" and "stain" depend on a random generator seeded with their position
NOISE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
HAND = ((20.25, 8.5), (24.0, 30.75), (44.5, 25.25))

place = st.tuples(st.floats(-30, 90), st.floats(-30, 90))


def grey(level, size=SIZE):
    return np.full((*size, 3), level, np.uint8)


def path(tool, points=HAND):
    """The points for a tool; a move has only two."""
    return points[:2] if tool == "move" else points


def shift(points, down, across):
    return tuple((row + down, col + across) for row, col in points)


def settings_of(tool):
    """Strategy for the arguments of a stroke with the tool."""
    lines = st.lists(place, min_size=2, max_size=2 if tool == "move" else 5).map(tuple)
    width, strength, ink = st.floats(0.01, 60), st.floats(0.01, 1), st.tuples(*[st.integers(0, 255)] * 3)
    return st.tuples(st.just(tool), lines, width, strength, ink)


def distance_by_hand(row, col, points):
    """From a pixel's centre to a polyline: to the nearest perpendicular foot on a segment, or to the nearest vertex."""
    nearest = min(hypot(row - r, col - c) for r, c in points)
    for (r0, c0), (r1, c1) in pairwise(points):
        length = hypot(r1 - r0, c1 - c0)
        if length:
            down, across = (r1 - r0) / length, (c1 - c0) / length
            if 0 <= (row - r0) * down + (col - c0) * across <= length:
                nearest = min(nearest, abs((row - r0) * across - (col - c0) * down))
    return nearest


def distances_by_hand(points, size=SIZE):
    return np.array([[distance_by_hand(row, col, points) for col in range(size[1])] for row in range(size[0])])


def lightness(photo):
    """Lightness as computed by Pillow."""
    return np.asarray(Image.fromarray(photo).convert("L")).astype(int)


def differs(photo, painted):
    return (photo != painted).any(-1)


# ---- coverage --------------------------------------------------------------------------------------------------------


def test_a_dab_of_3_px_in_the_middle_of_a_pixel_by_hand():
    """Its edge is at 1.5 px: centres within 1 px are covered fully, at sqrt 2 by 2 - sqrt 2, and at 2 not at all."""
    painted = paint(grey(0), [Stroke("brush", ((30, 20),), 3, colour=WHITE)])
    corner = round(255 * (2 - 2**0.5))
    expected = grey(0)
    expected[29:32, 19:22] = 255
    expected[29:32:2, 19:22:2] = corner
    np.testing.assert_array_equal(painted, expected)


def test_a_dab_between_two_pixels_is_shared_by_them():
    """A dab of 1 px, half a pixel from both centres, covers half of each pixel and nothing else."""
    painted = paint(grey(0), [Stroke("brush", ((30.5, 20),), 1, colour=(254, 254, 254))])
    expected = grey(0)
    expected[30:32, 20] = 127
    np.testing.assert_array_equal(painted, expected)


def test_a_line_thinner_than_a_pixel_is_as_opaque_as_wide():
    """A line a quarter of a pixel wide along a column: a quarter of white there, and no change next to it."""
    painted = paint(grey(0), [Stroke("brush", ((-9, 20), (99, 20)), 0.25, colour=WHITE)])
    assert set(painted[:, 20].ravel()) == {64}
    assert set(np.delete(painted, 20, axis=1).ravel()) == {0}


@pytest.mark.parametrize(
    ("points", "width", "size"),
    [
        (HAND, 7.3, SIZE),
        (((-12.0, -3.5), (70.25, 41.0), (10.0, 60.0)), 11, SIZE),  # it leaves the image on two sides
        (((9, 9), (9, 9), (9, 9)), 5, SIZE),
        (((5.5, 3), (30.25, 290), (-4, 180)), 6, (37, 301)),  # long enough to be measured in parts
    ],
)
def test_coverage_of_a_line_follows_the_distance_by_hand(points, width, size):
    painted = paint(grey(0, size), [Stroke("brush", points, width, colour=WHITE)])
    expected = 255 * np.clip(width / 2 + 0.5 - distances_by_hand(points, size), 0, 1)
    np.testing.assert_allclose(painted, np.repeat(expected[..., None], 3, 2), rtol=0, atol=0.51)


def test_strength_is_the_opacity_of_paint():
    painted = paint(grey(100), [Stroke("brush", ((30, 20),), 9, strength=0.25, colour=(200, 100, 0))])
    assert painted[30, 20].tolist() == [125, 100, 75]


def test_a_reversed_line_is_the_same_line():
    there, back = (paint(NOISE, [Stroke("brush", points, 8)]) for points in (HAND, HAND[::-1]))
    np.testing.assert_array_equal(there, back)


# ---- each tool -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [5, 90, 160, 250])
def test_a_scratch_has_a_bright_floor_or_dark_rims_on_any_ground(level):
    painted = paint(grey(level), [Stroke("scratch", ((30, 5), (30, 40)), 4)]).astype(int)
    assert (painted[30, 8:38] >= level).all()
    assert (painted[[28, 32], 8:38] <= level).all()
    assert np.abs(painted[28:33, 8:38] - level).max(axis=(0, 2)).min() > 5 * VISIBLE


def test_a_scratch_is_as_wide_as_its_size_and_fades_with_its_strength():
    full, half = (paint(grey(90), [Stroke("scratch", ((30, 5), (30, 40)), 4, part)]) for part in (1, 0.5))
    assert np.flatnonzero(differs(grey(90), full)[:, 20]).tolist() == [28, 29, 30, 31, 32]
    np.testing.assert_allclose(full.astype(int) - 90, 2.0 * (half.astype(int) - 90), rtol=0, atol=1.01)


def test_the_strength_of_a_scratch_varies():
    """Between 0.6 and 1 of its strength, in invisible steps."""
    floor = paint(grey(55, (21, 301)), [Stroke("scratch", ((10, -9), (10, 309)), 4)])[10, :, 0].astype(int)
    assert floor.max() - floor.min() > 30
    assert np.abs(np.diff(floor)).max() < VISIBLE
    assert floor.min() >= 55 + 0.6 * 180 - 1


def test_a_stain_is_translucent():
    """Like a colour filter: each channel loses a fixed fraction, and none gets brighter."""
    stained = paint(NOISE, [Stroke("stain", ((30, 20),), 30, colour=(255, 128, 0))])
    assert (stained <= NOISE).all()
    np.testing.assert_array_equal(stained[..., 0], NOISE[..., 0])
    lost = (NOISE.astype(float) - stained)[27:34, 17:24] / np.maximum(NOISE, 1)[27:34, 17:24]
    bright = NOISE[27:34, 17:24].min(-1) > 100
    np.testing.assert_allclose(lost[bright][:, 1], lost[bright][:, 2] * 127 / 255, rtol=0, atol=0.01)
    assert lost[bright][:, 2].min() > 0.65


def test_a_stain_is_thinner_in_the_middle_and_ends_softly_and_unevenly_within_its_size():
    size = (301, 203)
    stained = paint(grey(200, size), [Stroke("stain", ((150, 100),), 120, colour=(0, 0, 0))])[..., 0].astype(int)
    assert np.abs(np.diff(stained, axis=1)).max() < 25  # of the 200 levels between stain and ground
    assert stained.min() < stained[150, 100] - VISIBLE
    distance = distances_by_hand(((150, 100),), size)
    touched = stained < 200
    assert distance[touched].max() <= 60.5
    down, across = np.indices(size)
    angles = np.arctan2(down - 150, across - 100)
    sectors = [touched & (np.floor(angles / np.pi * 8) == sector) for sector in range(-8, 8)]
    reaches = [distance[sector].max() for sector in sectors]
    assert max(reaches) - min(reaches) > 6


def test_a_stain_keeps_its_outline_while_it_grows_and_the_next_differs():
    wall = grey(200, (90, 190))
    short, long, other = (
        paint(wall, [Stroke("stain", points, 30)])
        for points in (((40, 20), (40, 60)), ((40, 20), (40, 60), (40, 150)), ((40, 21), (40, 61)))
    )
    np.testing.assert_array_equal(short[:, :40], long[:, :40])
    assert changed(short, other).sum() > changed(wall, short).sum() / 3  # although only 1 px away


def test_a_blur_is_gaussian_with_a_sigma_of_a_sixth_of_its_size():
    """Compared with scipy, within the error of three box blurs, in the middle of the stroke, at full opacity."""
    photo = np.random.default_rng(1).integers(0, 256, (121, 87, 3), np.uint8)
    blurred = paint(photo, [Stroke("blur", ((60, 40),), 36, strength=0.5)])
    expected = gaussian_filter(photo.astype(float), (3, 3, 0))
    np.testing.assert_allclose(blurred[55:66, 35:46], expected[55:66, 35:46], rtol=0, atol=3)


@pytest.mark.parametrize("points", [((30, 20),), ((0, 0), (3, 5)), ((60, 46),), ((30, -3),)])
def test_a_blur_takes_its_neighbours_from_the_whole_photo(points):
    """The blur uses a box with a margin large enough to have no effect. The edge fades over 3/10 of 6 px."""
    whole = np.asarray(Image.fromarray(NOISE).filter(ImageFilter.GaussianBlur(2)))
    cover = np.clip((6.5 - distances_by_hand(points)) / 1.8, 0, 1)[..., None]
    expected = NOISE + cover * (whole.astype(float) - NOISE)
    np.testing.assert_allclose(paint(NOISE, [Stroke("blur", points, 12)]), expected, rtol=0, atol=0.51)


def test_a_blur_grows_with_size_and_with_strength():
    def contrast(size, strength):
        return paint(NOISE, [Stroke("blur", ((30, 20),), size, strength)])[26:35, 16:25].std()

    assert NOISE[26:35, 16:25].std() > contrast(20, 0.2) > contrast(20, 1) > contrast(60, 1)


@pytest.mark.parametrize("ink", [(200, 40, 40), (20, 60, 230), (250, 240, 10), (3, 0, 0)])
def test_colour_turns_the_hue_and_leaves_the_lightness(ink):
    painted = paint(NOISE, [Stroke("colour", HAND, 14, colour=ink)])
    np.testing.assert_allclose(lightness(painted), lightness(NOISE), rtol=0, atol=1)
    hue = colorsys.rgb_to_hsv(*ink)[0]
    middle = [tuple(painted[row, col] / 255) for row, col in ((22, 19), (24, 30), (34, 28))]
    for colour in middle:
        assert abs((colorsys.rgb_to_hsv(*colour)[0] - hue + 0.5) % 1 - 0.5) < 0.02


@pytest.mark.parametrize("ink", [(0, 0, 0), (90, 90, 90), WHITE])
def test_a_grey_drains_all_colour(ink):
    painted = paint(NOISE, [Stroke("colour", ((30, 20),), 900, colour=ink)])
    np.testing.assert_allclose(painted, np.repeat(lightness(NOISE)[..., None], 3, 2), rtol=0, atol=1)


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_have_no_hue_to_turn(level):
    np.testing.assert_array_equal(paint(grey(level), [Stroke("colour", HAND, 14)]), grey(level))


def test_a_moved_patch_lands_where_it_was_sent():
    """From (14, 30) to (44, 12): 30 rows down and 18 columns left; 30.4 is rounded to 30 whole pixels."""
    moved = paint(NOISE, [Stroke("move", ((14, 30), (44.4, 12)), 12)])
    inside = distances_by_hand(((44.4, 12),)) < 4.2  # inside the feathered edge
    rows, cols = np.nonzero(inside)
    np.testing.assert_array_equal(moved[rows, cols], NOISE[rows - 30, cols + 18])
    outside = distances_by_hand(((44.4, 12),)) >= 6.5
    np.testing.assert_array_equal(moved[outside], NOISE[outside])


def test_the_edge_of_a_moved_patch_is_blended():
    photo = grey(0)
    photo[:30] = 200
    moved = paint(photo, [Stroke("move", ((14, 20), (45, 20)), 20)])[45, 20:, 0].astype(int)
    assert moved[:7].tolist() == [200] * 7
    assert moved[7:12].tolist() == [200, 167, 100, 33, 0]  # over the last 3 of 10.5 px: 5/6, 1/2 and 1/6 of 200


def test_a_move_copies_nothing_from_beyond_the_border():
    """At the corner (0, 0) three quarters of the disc are missing: only the part below and to the right is copied."""
    moved = paint(NOISE, [Stroke("move", ((0, 0), (30, 20)), 16)])
    kept = np.ones(SIZE, bool)
    kept[30:, 20:] = False
    np.testing.assert_array_equal(moved[kept], NOISE[kept])
    np.testing.assert_array_equal(moved[30:33, 20:23], NOISE[:3, :3])


def test_a_move_copies_the_result_of_earlier_strokes():
    painted = paint(grey(90), [Stroke("brush", ((10, 10),), 9), Stroke("move", ((10, 10), (40, 30)), 5)])
    assert painted[40, 30].tolist() == [200, 40, 40]


def test_erase_restores_the_bytes_of_the_photo():
    strokes = [Stroke(tool, path(tool), 9) for tool in TOOLS if tool != "erase"]
    painted = paint(NOISE, strokes)
    erased = paint(NOISE, [*strokes, Stroke("erase", ((24, 25),), 15)])
    distance = distances_by_hand(((24, 25),))
    assert differs(painted, NOISE)[distance < 7].mean() > 0.5
    np.testing.assert_array_equal(erased[distance < 7], NOISE[distance < 7])
    np.testing.assert_array_equal(erased[distance > 8], painted[distance > 8])


def test_half_an_erasure_restores_half():
    painted = paint(grey(100), [Stroke("brush", HAND, 9, colour=(200, 0, 50)), Stroke("erase", HAND, 30, 0.5)])
    assert painted[24, 30].tolist() == [150, 50, 75]


def test_paint_after_an_erasure_stays():
    brush, erase = Stroke("brush", HAND, 9), Stroke("erase", HAND, 30)
    np.testing.assert_array_equal(paint(NOISE, [brush, erase]), NOISE)
    np.testing.assert_array_equal(paint(NOISE, [erase, brush]), paint(NOISE, [brush]))


# ---- laws of all tools -----------------------------------------------------------------------------------------------


def test_these_are_the_tools():
    assert TOOLS == ("brush", "scratch", "stain", "blur", "colour", "move", "erase")


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "erase"])
def test_every_tool_is_visible_and_does_not_modify_its_input(tool):
    photo = NOISE.copy()
    photo.flags.writeable = False
    painted = paint(photo, [Stroke(tool, path(tool), 9)])
    assert changed(photo, painted).sum() > 40
    assert (painted.dtype, painted.shape) == (np.uint8, photo.shape)
    np.testing.assert_array_equal(painted, paint(photo, [Stroke(tool, path(tool), 9)]))


def test_without_strokes_the_result_is_a_copy():
    painted = paint(NOISE, [])
    np.testing.assert_array_equal(painted, NOISE)
    assert not np.shares_memory(painted, NOISE)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("away", [(-90, 0), (90, 0), (0, -90), (0, 90), (-99_000, 99_000)])
def test_a_stroke_beside_the_photo_changes_nothing(tool, away):
    before, beside = Stroke("brush", HAND, 5), Stroke(tool, shift(path(tool), *away), 20)
    np.testing.assert_array_equal(paint(NOISE, [before, beside]), paint(NOISE, [before]))


@pytest.mark.parametrize("tool", TOOLS)
def test_strokes_act_on_the_result_of_earlier_strokes(tool):
    """An erasure restores the original image instead."""
    first, second = [Stroke("brush", HAND[:2], 12)], [Stroke(tool, path(tool), 15, 0.7)]
    at_once, in_turn = paint(NOISE, first + second), paint(paint(NOISE, first), second)
    assert np.array_equal(at_once, in_turn) == (tool != "erase")


@pytest.mark.parametrize("tool", SAME_EVERYWHERE)
def test_photo_and_strokes_shifted_alike_give_the_result_shifted(tool):
    """Shifted by 5 rows and 9 columns, and compared far from the border."""
    strokes = [Stroke("brush", HAND, 13), Stroke(tool, path(tool), 9)]
    here = paint(NOISE, strokes)
    there = paint(np.roll(NOISE, (5, 9), (0, 1)), [replace(s, points=shift(s.points, 5, 9)) for s in strokes])
    np.testing.assert_array_equal(here[8:51, 6:33], there[13:56, 15:42])
    assert differs(here, NOISE)[8:51, 6:33].any()


@pytest.mark.parametrize("tool", SAME_EVERYWHERE)
def test_rows_and_columns_are_treated_alike(tool):
    """Within two grey levels, because a blur rounds between its passes over rows and columns."""
    strokes = [Stroke("brush", HAND, 13), Stroke(tool, path(tool), 9)]
    turned = [replace(s, points=tuple((col, row) for row, col in s.points)) for s in strokes]
    upright = paint(NOISE, strokes).astype(int)
    np.testing.assert_allclose(paint(NOISE.transpose(1, 0, 2), turned).transpose(1, 0, 2), upright, rtol=0, atol=2)


@given(st.sampled_from(TOOLS).flatmap(settings_of))
@example(("blur", ((30, 20),), 100_000))
@example(("stain", ((30, 20),), 1e-6))
def test_no_pixel_changes_that_lies_farther_than_half_the_size(drawn):
    """Plus half a pixel, the reach of a pixel; for a move the second point counts."""
    before, stroke = Stroke("brush", HAND, 5), Stroke(*drawn)
    unlike = differs(paint(NOISE, [before]), paint(NOISE, [before, stroke]))
    distance = distances_by_hand(stroke.points[1:] if stroke.tool == "move" else stroke.points)
    assert distance[unlike].max(initial=0) <= stroke.size / 2 + 0.5


@given(st.lists(st.sampled_from(TOOLS).flatmap(settings_of), max_size=4))
def test_erasing_everything_restores_the_photo(drawn):
    strokes = [*(Stroke(*each) for each in drawn), Stroke("erase", ((30, 20),), 200)]
    np.testing.assert_array_equal(paint(NOISE, strokes), NOISE)


# ---- the mask --------------------------------------------------------------------------------------------------------


def test_a_difference_above_visible_in_any_channel_is_a_change():
    photo, painted = grey(100), grey(100)
    painted[5, 7] = (100, 100 - VISIBLE - 1, 100)
    painted[50, 40] = (101 + VISIBLE, 100, 100)
    painted[9, 9] = (100 + VISIBLE, 100 - VISIBLE, 100)
    assert np.argwhere(changed(photo, painted)).tolist() == [[5, 7], [50, 40]]
    np.testing.assert_array_equal(changed(photo, painted), changed(painted, photo))


def test_a_blur_marks_the_connector_of_the_demo_but_not_its_plain_plate(demo):
    photo = demo.train[0].image
    on_plate, on_connector = (paint(photo, [Stroke("blur", (point,), 18)]) for point in ((225, 100), (155, 240)))
    assert differs(photo, on_plate).sum() > 150
    assert not changed(photo, on_plate).any()
    assert changed(photo, on_connector).sum() > 50


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"tool": "scrach"}, r"tool must be one of 'brush', .*, 'erase'; got 'scrach'. Did you mean 'scratch'\?"),
        ({"points": ()}, "brush needs at least one point; got none"),
        ({"tool": "move"}, "move needs two points, start and end; got 1"),
        ({"points": (30, 20)}, r"A point must be a pair \(row, col\); got 30"),
        ({"points": ((1, 2, 3),)}, r"A point must be a pair \(row, col\); got \(1, 2, 3\)"),
        ({"points": ((inf, 2),)}, "row must be a number of image pixels from -100000 to 100000; got inf"),
        ({"points": ((1, 2e5),)}, "col must be a number of image pixels from -100000 to 100000; got 200000.0"),
        ({"size": 0}, "size must be a diameter in image pixels, above 0, up to 100000; got 0"),
        ({"size": "4"}, "size must be a diameter in image pixels, above 0, up to 100000; got '4'"),
        ({"strength": 0}, "strength must be a number above 0, up to 1; got 0"),
        ({"strength": 1.5}, "strength must be a number above 0, up to 1; got 1.5"),
        ({"colour": (1, 2)}, r"red, green and blue, whole numbers from 0 to 255; got \(1, 2\)"),
        ({"colour": (1, 2, 256)}, r"whole numbers from 0 to 255; got \(1, 2, 256\)"),
        ({"colour": (0.5, 2, 3)}, r"whole numbers from 0 to 255; got \(0.5, 2, 3\)"),
        ({"colour": "red"}, "whole numbers from 0 to 255; got 'red'"),
    ],
)
def test_an_invalid_stroke_raises_an_error(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        Stroke(**{"tool": "brush", "points": ((30, 20),), "size": 4} | wrong)
