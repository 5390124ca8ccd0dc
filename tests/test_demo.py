"""The bundled demo set: it matches the renderer, its masks match the defects, and it stays small."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from render_demo import COUNTS, KINDS, SIDE, find_change, render_part, render_sample

FOLDER = Path(__file__).parents[1] / "data" / "demo"
SOME = [("train", "good", 59), ("test", "good", 4)] + [("test", kind, 3) for kind in KINDS]


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@cache
def rendered(defect: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    return render_part(3, defect, severity=0.8)


def bundled_masks() -> list[np.ndarray]:
    return [read(path) for path in sorted(FOLDER.glob("ground_truth/*/*_mask.png"))]


@pytest.mark.parametrize(("split", "kind", "index"), SOME)
def test_a_rendered_part_is_the_bundled_one(split: str, kind: str, index: int) -> None:
    image, mask = render_sample(split, kind, index)
    photo = read(FOLDER / split / kind / f"{index:03d}.jpg").astype(float)
    assert np.abs(photo - image).mean() < 3
    truth = FOLDER / "ground_truth" / kind / f"{index:03d}_mask.png"
    np.testing.assert_array_equal(mask, read(truth) > 0 if truth.exists() else np.zeros((SIDE, SIDE), bool))


def test_the_set_has_60_normal_and_48_test_images_and_a_mask_for_each_defect() -> None:
    found = {key: len(list(FOLDER.joinpath(*key).glob("*.jpg"))) for key in COUNTS}
    assert found == COUNTS
    assert found["train", "good"] == 60
    assert found["test", "good"] == 12
    assert [len(list((FOLDER / "ground_truth" / kind).iterdir())) for kind in KINDS] == [6] * 6
    assert len(list(FOLDER.rglob("*.jpg"))) == 108


def test_the_set_fits_in_six_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 6e6


def test_images_are_square_and_in_colour() -> None:
    for path in FOLDER.rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((SIDE, SIDE), "RGB")


def test_masks_are_black_and_white() -> None:
    assert {value for mask in bundled_masks() for value in np.unique(mask)} == {0, 255}


def test_every_mask_is_filled_and_inside_the_evaluated_crop() -> None:
    edge = SIDE // 16  # the central 224 of 256 px excludes a sixteenth on each side
    for mask in bundled_masks():
        inside = mask[edge:-edge, edge:-edge] > 0
        assert inside.any()
        assert inside.sum() == (mask > 0).sum()


def test_one_seed_gives_one_part() -> None:
    first, second, other = rendered()[0], render_part(3)[0], render_part(4)[0]
    np.testing.assert_array_equal(first, second)
    assert np.abs(first.astype(float) - other).mean() > 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_changes_its_part_inside_the_mask_and_hardly_outside(kind: str) -> None:
    sound, nothing = rendered()
    damaged, mask = rendered(kind)
    change = np.abs(damaged.astype(float) - sound).max(axis=-1)
    assert not nothing.any()
    assert change[mask].mean() > 5
    assert change[~mask].mean() < 0.2


def test_a_more_severe_stain_changes_more() -> None:
    sound = rendered()[0].astype(float)
    faint, clear = (np.abs(image - sound).sum() for image in (render_part(3, "stain", 0.0)[0], rendered("stain")[0]))
    assert clear > 1.5 * faint


def test_a_moved_screw_is_marked_in_its_old_and_new_place() -> None:
    mask = rendered("misplaced")[1]
    rows, cols = np.nonzero(mask)
    assert 30 < np.ptp(cols) < 70  # two places, one pitch (34 px) apart
    assert np.ptp(rows) < 50  # one row: a screw of 25 px and its shadow


def test_the_mask_of_a_change_has_no_gaps_and_no_specks() -> None:
    sound = np.zeros((40, 50, 3))
    damaged = sound.copy()
    damaged[10:20, 10:20, 1] = 0.5
    damaged[14:16, 14:16] = 0  # a gap
    damaged[35, 45] = 0.5  # a speck
    expected = np.zeros((40, 50), bool)
    expected[10:20, 10:20] = True
    np.testing.assert_array_equal(find_change(sound, damaged), expected)


def test_an_unknown_defect_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"thread, misplaced; got 'rust'\. Choose one"):
        render_part(0, "rust")
