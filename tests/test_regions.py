"""Connected regions of a map, against a flood fill by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spade_kit import figures
from spade_kit.correspondence import Correspondence
from spade_kit.evaluation.regions import draw_regions, find_regions
from spade_kit.features.crops import Crop
from spade_kit.retrieval import Neighbours

COLUMNS = [
    "top",
    "left",
    "bottom",
    "right",
    "area",
    "peak",
    "row",
    "col",
    "mean",
    "normal",
    "normal_row",
    "normal_col",
    "at_edge",
]  # in this order, as documented
MAPS = arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 11)), elements=st.integers(0, 4).map(float))
PHOTO = (6, 3)  # times as many pixels of the original image in a pixel of the map, (rows, columns)


def fill(judged, threshold):
    """The regions as sets of pixels, by a flood fill."""
    left = {tuple(place) for place in np.argwhere(judged >= threshold)}
    regions = []
    while left:
        edge, region = [left.pop()], set()
        while edge:
            row, col = edge.pop()
            region.add((row, col))
            near = {(row + down, col + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            edge += near
        regions.append(region)
    return regions


def look(judged, threshold):
    """The frame for a map without a margin, whose cells match (image 1, mirrored place)."""
    height, width = judged.shape
    photo = height * PHOTO[0], width * PHOTO[1]
    rows, cols = np.indices(judged.shape)
    found = Correspondence(
        judged, judged[None], np.ones((1, height, width), int), height - 1 - rows[None], width - 1 - cols[None]
    )
    neighbours = Neighbours(np.array([8, 5]), np.zeros(2, np.float32))
    return find_regions(judged, threshold, Crop(photo, judged.shape, (0, 0), judged.shape), found, neighbours)


@given(MAPS, st.integers(1, 5))
def test_regions_are_those_of_a_flood_fill(judged, threshold):
    frame = look(judged, threshold)
    assert list(frame.columns) == COLUMNS
    expected = []
    for region in fill(judged, threshold):
        rows, cols = np.array(sorted(region)).T
        values = judged[rows, cols]
        peak = int(values.argmax())  # the first of equal ones, row by row
        expected.append((
            (-values.max(), rows[0], cols[0]),
            [rows.min() * PHOTO[0], cols.min() * PHOTO[1], (rows.max() + 1) * PHOTO[0], (cols.max() + 1) * PHOTO[1]],
            [len(region) * PHOTO[0] * PHOTO[1], values.max(), rows[peak], cols[peak], values.mean(dtype=float)],
            [5, judged.shape[0] - 1 - rows[peak], judged.shape[1] - 1 - cols[peak]],
            bool(
                rows.min() == 0 or cols.min() == 0
                or rows.max() == judged.shape[0] - 1 or cols.max() == judged.shape[1] - 1
            ),
        ))  # fmt: skip
    assert len(frame) == len(expected)
    assert frame["peak"].is_monotonic_decreasing
    expected = [[*box, *values, *normal, edge] for _, box, values, normal, edge in sorted(expected)]
    for (_, row), wanted in zip(frame.iterrows(), expected):
        assert row.tolist() == pytest.approx(wanted)
    assert frame.index.tolist() == list(range(1, len(frame) + 1))


def test_above_everything_there_is_no_region_but_every_column():
    frame = look(np.ones((4, 5), np.float32), 2)
    assert frame.empty
    assert list(frame.columns) == COLUMNS
    assert pandas.concat([frame, look(np.ones((4, 5), np.float32), 1)])["normal"].tolist() == [5]


@given(st.integers(3, 40), st.integers(3, 40), st.integers(0, 11), st.integers(0, 15))
def test_boxes_lie_in_the_image_and_hold_a_pixel_at_any_scale(height, width, row, col):
    judged = np.zeros((12, 16), np.float32)
    judged[row, col] = 1
    found = Correspondence(judged, judged[None], *(np.zeros((1, 12, 16), int) for _ in range(3)))
    crop = Crop((height, width), (14, 20), (1, 2), judged.shape)
    (box,) = (
        find_regions(judged, 1, crop, found, Neighbours(np.zeros(1, int), np.zeros(1, np.float32))).iloc[:, :4].values
    )
    assert 0 <= box[0] < box[2] <= height
    assert 0 <= box[1] < box[3] <= width
    assert box[0] <= (row + 1.5) * height / 14 <= box[2]


@given(st.sampled_from([(512, 700), (200, 310), (2000, 1100)]), arrays(bool, (6, 7)))
def test_outlines_run_inside_the_regions_and_each_has_its_number(size, marked):
    judged = np.kron(marked, np.ones((9, 8))).astype(np.float32)
    crop = Crop(size, (60, 64), (2, 3), judged.shape)
    found = Correspondence(judged, judged[None], *(np.zeros((1, *judged.shape), int) for _ in range(3)))
    regions = find_regions(judged, 0.5, crop, found, Neighbours(np.zeros(1, int), np.zeros(1, np.float32)))
    drawn = draw_regions(np.full((*size, 3), 128, np.uint8), judged, 0.5, crop, regions)
    assert max(drawn.shape) == min(max(*size, 512), 1024)
    scale = np.array(drawn.shape[:2]) / crop.scaled
    rows, cols = np.argwhere((drawn == (213, 94, 0)).all(-1)).T
    row, col = ((at + 0.5) / by - start for at, by, start in zip((rows, cols), scale, crop.offset))
    border = [np.abs(place / side - np.round(place / side)) * side < 1 for place, side in ((row, 9), (col, 8))]
    assert (border[0] | border[1]).all()  # along the sides of the blocks
    grey = (drawn == 128).all(-1)
    assert grey.all() == (not marked.any())
    for y, x in (regions[["row", "col"]].to_numpy() + 0.5 + crop.offset) * scale:
        box = drawn[max(int(y) - 30, 0) : int(y) + 30, max(int(x) - 45, 0) : int(x) + 45]
        assert (box == 255).all(-1).any()


def test_a_result_has_the_regions_of_its_segmentation(spade, scratched):
    result = spade.predict(scratched)
    threshold = result.normal_level
    frame = result.regions(threshold)
    assert frame["area"].sum() == pytest.approx(
        result.segmentation(threshold).sum() * (np.prod(result.crop.photo) / 256**2)
    )
    first = frame.iloc[0]
    assert first["peak"] == result.judged_map.max()
    match = result.match(int(first["row"]), int(first["col"]))
    assert (match.image, match.row, match.col) == tuple(first[["normal", "normal_row", "normal_col"]])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("threshold", [np.nan, np.inf, "high", None, True, [1.0], 1j])
def test_a_threshold_that_is_no_number_is_refused(spade, scratched, threshold):
    with pytest.raises(ValueError, match=r"A threshold must be a finite raw distance, such as .*; got "):
        spade.predict(scratched).regions(threshold)


def test_the_regions_of_a_figure_are_numbered(spade, scratched):
    result = spade.predict(scratched)
    numbers = [
        [text.get_text() for text in figures.draw_result(result, result.normal_level, regions=regions).axes[2].texts]
        for regions in (False, True)
    ]
    plt.close("all")
    count = min(len(result.regions(result.normal_level)), 20)
    assert numbers == [[], [str(number) for number in range(1, count + 1)]]
