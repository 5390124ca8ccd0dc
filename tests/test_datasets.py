"""Datasets on disk: which files are found, their labels, and that every format becomes the same kind of array."""

import csv
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spade_kit import SPADE, Sample, load_dataset
from spade_kit.datasets.samples import as_array, as_list

UPRIGHT = {1: lambda a: a, 3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1), 8: np.rot90}  # EXIF orientation


def write(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def picture(rng) -> np.ndarray:
    return rng.integers(0, 256, (5, 7, 3), np.uint8)


@pytest.fixture
def bottles(tmp_path, picture) -> Path:
    """Three normal images and five test images: two good, two broken, one bent without a mask; mixed formats."""
    folder = tmp_path / "bottles"
    for name in ("train/good/b.png", "train/good/a.PNG", "train/good/c.bmp", "test/good/0.png", "test/good/1.tif"):
        write(folder / name, picture)
    for name in ("test/broken/0.png", "test/broken/1.png", "test/bent/0.png"):
        write(folder / name, picture)
    for number in (0, 1):
        mask = np.zeros((5, 7), np.uint8)
        mask[1 + number, 2:6] = 255 if number else 1  # every value above 0 is a defect
        write(folder / f"ground_truth/broken/{number}_mask.png", mask)
    (folder / "train/good/notes.txt").write_text("not an image")
    (folder / "test/readme.md").write_text("not a kind of defect")
    return folder


def test_a_folder_in_the_mvtec_layout_is_read(bottles):
    dataset = load_dataset(bottles)
    assert dataset.name == "bottles"
    assert [sample.path.name for sample in dataset.train] == ["a.PNG", "b.png", "c.bmp"]
    assert [sample.label for sample in dataset.train] == ["good"] * 3
    assert [(sample.label, sample.path.name) for sample in dataset.test] == [
        ("bent", "0.png"),
        ("broken", "0.png"),
        ("broken", "1.png"),
        ("good", "0.png"),
        ("good", "1.tif"),
    ]
    assert all(sample.path.parent.name == sample.label for sample in dataset.test)
    assert load_dataset(str(bottles)) == dataset


def test_a_mask_is_the_defect_or_empty_or_unknown(bottles):
    bent, first, second, good, _ = load_dataset(bottles).test
    assert bent.mask is None  # a defect without a mask, in a dataset with masks
    for sample, row in ((first, 1), (second, 2)):
        expected = np.zeros((5, 7), bool)
        expected[row, 2:6] = True
        assert sample.mask.dtype == bool
        np.testing.assert_array_equal(sample.mask, expected)
    for sample in (good, load_dataset(bottles).train[0]):
        assert sample.mask.dtype == bool
        np.testing.assert_array_equal(sample.mask, np.zeros((5, 7), bool))


def test_without_ground_truth_every_mask_is_unknown(tmp_path, picture):
    for name in ("train/good/0.png", "test/good/0.png", "test/bent/0.png"):
        write(tmp_path / name, picture)
    dataset = load_dataset(tmp_path)
    assert [sample.mask for sample in dataset.train + dataset.test] == [None] * 3


def test_the_empty_mask_of_a_turned_photo_has_the_upright_shape(tmp_path, picture):
    path = write(tmp_path / "0.png", picture, exif=turned(6))
    assert Sample(path, "good", masked=True).mask.shape == (7, 5)
    assert Sample(path, "good", masked=True).image.shape == (7, 5, 3)


def test_images_are_read_on_access_only(bottles, picture):
    dataset = load_dataset(bottles)
    sample = dataset.train[1]
    np.testing.assert_array_equal(sample.image, picture)
    sample.path.unlink()
    assert len(dataset.train) == 3
    with pytest.raises(FileNotFoundError, match=r"Expected an image at .*b\.png, but there is no such file"):
        _ = sample.image


def test_a_dataset_prints_its_contents(bottles):
    assert str(load_dataset(bottles)).splitlines() == [
        "bottles: 3 normal images, 5 test images (2 good, 1 bent, 2 broken)",
        "MVTec AD layout; 2 masks (defect where not 0); 5 x 7 px",
        "1 defect image without a mask: bent/0.png; expected mask: ground_truth/bent/0_mask.png.",
        "1 file with an unknown extension not used: good/notes.txt.",
        "4 test images also among the training images: bent/0.png, broken/0.png, broken/1.png and 1 more.",
        "The images are not square, such as 5 x 7 px: SPADE(load_backbone(crop=None)) keeps their shape.",
    ]


# ---- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_a_sample_takes_paths_as_text(tmp_path, picture):
    path = write(tmp_path / "0.png", picture)
    mask = write(tmp_path / "1.png", np.uint8(picture[..., 0] > 99))
    sample = Sample(str(path), "dent", str(mask))
    assert sample == Sample(path, "dent", mask)
    np.testing.assert_array_equal(sample.image, picture)
    np.testing.assert_array_equal(sample.mask, picture[..., 0] > 99)
    assert Sample(path, "dent", [mask]) == sample
    assert Sample(path, "dent", [str(mask), path]).mask_path == (mask, path)
    large = [write(tmp_path / f"{at}.png", np.full((64, 64, 3), 40 * at, np.uint8)) for at in (2, 3)]
    assert len(SPADE(k=1).fit([Sample(str(one), "good") for one in large])) == 2


def test_all_words_for_good_parts_mean_good_in_a_sample():
    for word in ("good", "ok", "OK", "Good", "normal", "good ", "defect-free"):
        assert Sample(Path("0.png"), word).label == "good"
    for word in (None, "", "  "):
        assert Sample(Path("0.png"), word).label is None
    assert Sample(Path("0.png"), "NOK").label == "NOK"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("label", [0, 1, True, np.int64(1), float("nan"), b"good"])
def test_a_label_that_is_no_text_is_refused(label):
    told = r'label must be "good", the name of a type of defect, or None if unknown; got .*\. Pass a name\.'
    with pytest.raises(ValueError, match=told):
        Sample(Path("0.png"), label)


# ---- every kind of image ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_rotated_photo_is_turned_upright(tmp_path, picture, orientation):
    path = write(tmp_path / "turned.png", picture, exif=turned(orientation))
    expected = UPRIGHT[orientation](picture)
    np.testing.assert_array_equal(as_array(path), expected)
    with Image.open(path) as photo:
        np.testing.assert_array_equal(as_array(photo), expected)


def test_grey_palette_and_alpha_become_three_channels(tmp_path, picture):
    grey = picture[..., 0]
    alpha = np.dstack([picture, grey])
    palette = Image.fromarray(255 - grey)  # a palette of greys, in reverse
    palette.putpalette([255 - value for value in range(256) for _ in "rgb"])
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "transparent.png", transparency=bytes(range(256)))
    two = Image.fromarray(grey > 127)
    two.save(tmp_path / "two.png")
    three = np.dstack([grey] * 3)

    def on_white(colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        a = opacity[..., None] / 255
        return colour * a + 255 * (1 - a)

    for path, expected in (
        (write(tmp_path / "grey.png", grey), three),
        (write(tmp_path / "alpha.png", alpha), on_white(picture, grey)),
        (write(tmp_path / "grey_alpha.png", alpha[..., [0, 3]]), on_white(three, picture[..., 0])),
        (tmp_path / "palette.png", three),
        (tmp_path / "transparent.png", on_white(three, 255 - grey)),
        (tmp_path / "two.png", np.where(three > 127, 255, 0)),
    ):
        for photo in (path, str(path), Sample(path)):
            assert as_array(photo).dtype == np.uint8
            assert np.abs(as_array(photo) - expected).max() <= (0 if expected.dtype == np.uint8 else 1), path.name


def test_one_photo_or_many_become_a_list(tmp_path, picture):
    path = write(tmp_path / "0.png", picture)
    for single in (path, str(path), Sample(path), Image.fromarray(picture), picture):
        assert as_list(single) == [single]
        assert as_list(iter([single, single])) == [single, single]
    stack = np.stack([picture, picture[::-1]])
    np.testing.assert_array_equal(as_list(stack)[1], picture[::-1])


# ---- bundled datasets ------------------------------------------------------------------------------------------------


def test_the_demo_has_60_normal_photos_12_good_ones_and_36_defects(demo):
    assert demo.name == "demo"
    assert Counter(sample.label for sample in demo.train) == {"good": 60}
    kinds = ("chip", "misplaced", "scratch", "stain", "thread", "wrong_colour")
    assert Counter(sample.label for sample in demo.test) == {"good": 12} | dict.fromkeys(kinds, 6)
    for sample in (demo.train[0], *demo.test[::5]):
        assert sample.mask.shape == sample.image.shape[:2]
        assert sample.mask.any() == (sample.label != "good")
        assert sample.mask.mean() < 0.3


def test_solar_cells_keep_doubtful_cells_out_of_the_normal_ones():
    package = pytest.importorskip("elpv_dataset")
    folder = Path(package.__file__).parent / "data"
    with open(folder / "labels.csv", newline="") as lines:
        rows = [[cell for cell in row if cell] for row in csv.reader(lines, delimiter=" ")]
    probability = {Path(row[0]).name: float(row[1]) for row in rows}
    cells = load_dataset("solar_cells")
    samples = cells.train + cells.test
    assert len(samples) == len({sample.path for sample in samples}) == len(probability) == 2624
    assert {sample.label for sample in cells.train} == {"good"}
    counts = {"good": 1508, "defect 33 %": 295, "defect 67 %": 106, "defect 100 %": 715}
    assert Counter(sample.label for sample in samples) == counts
    undoubted = [name for name, told in probability.items() if told == 0]
    assert [sample.path.name for sample in cells.train] == undoubted[::2]
    for sample in samples:
        told = 0 if sample.label == "good" else int(sample.label.split()[1]) / 100
        assert told == pytest.approx(probability[sample.path.name], abs=0.005)
    assert [sample.mask for sample in (cells.train[0], cells.test[0], cells.test[-1])] == [None] * 3
    assert cells.test[-1].image.shape == (300, 300, 3)
    assert str(cells).startswith("solar_cells: 754 normal images, 1870 test images (754 good, ")


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_missing_folder_raises_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a folder of images at .*nowhere, but there is none"):
        load_dataset(tmp_path / "nowhere")


def test_a_folder_in_an_unknown_layout_raises_an_error(bottles):
    with pytest.raises(
        FileNotFoundError, match=r"Expected images in .*test, but it contains bent, .*load_dataset\(train="
    ):
        load_dataset(bottles / "test")
    with pytest.raises(
        FileNotFoundError, match=r"It is a folder of datasets. Load one of them, such as load_dataset\('.*bottles'\)"
    ):
        load_dataset(bottles.parent)


def test_missing_solar_cells_name_the_pip_command(monkeypatch):
    monkeypatch.setattr("spade_kit.datasets.loading.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install \"spade_kit\[data\]\""):
        load_dataset("solar_cells")


@pytest.mark.usefixtures("unchecked")
def test_a_value_that_is_not_an_image_raises_an_error(picture):
    mistakes = [
        (picture[..., 0], r"an array of shape \(5, 7\) and type uint8\."),
        (picture / 1.0, r"an array of shape \(5, 7, 3\) and type float64 with values from 0 to 2[0-9]+\."),
        (picture / 255 - 0.1, r"an array of shape \(5, 7, 3\) and type float64 with values from -0.1 to 0.[0-9]+\."),
        (np.full((5, 7, 3), np.nan), r"an array of shape \(5, 7, 3\) and type float64 with values from nan to nan\."),
        (picture[..., :2], r"an array of shape \(5, 7, 2\) and type uint8\."),
        (picture.astype(np.int64), r"an array of shape \(5, 7, 3\) and type int64\."),
        (np.ma.masked_array(picture, picture > 99), r"an array with masked values\. Fill them: image\.filled\(0\)\."),
        (7, r"a value of type int\. Pass one of these\."),
        (None, r"a value of type NoneType\. Pass one of these\."),
        ([picture], r"a value of type list\. Pass one image at a time\."),
        (b"png", r"a value of type bytes\. Open it first: PIL\.Image\.open\(io\.BytesIO\(image\)\)\."),
        (io.BytesIO(b"png"), r"a value of type BytesIO\. Open it first: PIL\.Image\.open\(image\)\."),
        (picture[..., :1], r"an array of shape \(5, 7, 1\) .*np\.dstack\(\[image\] \* 3\)\."),
        (
            picture[..., [0, 1, 2, 0, 1]],
            r"an array .* Give it the shape \(rows, columns, 3\), with red",
        ),
        (picture.ravel(), r"an array .* Give it the shape \(rows, columns, 3\), with red"),
    ]
    for wrong, sentence in mistakes:
        with pytest.raises(ValueError, match=r"an \(H, W, 3\) array, uint8 or float from 0 to 1; got " + sentence):
            as_array(wrong)
    for content in (b"png", io.BytesIO(b"png")):
        assert as_list(content) == [content]  # not the bytes or lines in it
    with pytest.raises(ValueError, match=r"an array of shape \(5, 7\) and type uint8\."):
        [as_array(photo) for photo in as_list(picture[..., 0])]
    np.testing.assert_array_equal(as_array(picture / 255), picture)
    np.testing.assert_array_equal(as_array(np.ma.masked_array(picture)), picture)


@pytest.mark.usefixtures("unchecked")
def test_a_tensor_is_refused_with_the_conversion_of_its_shape(picture):
    tensor = torch.from_numpy(picture)
    for given, conversion in (
        (tensor, "image"),
        (tensor.permute(2, 0, 1), "image.permute(1, 2, 0)"),
        (tensor.permute(2, 0, 1)[None], "images[0].permute(1, 2, 0)"),
        ((tensor / 255).requires_grad_(), "image.detach()"),
        ((tensor / 255).permute(2, 0, 1).bfloat16().requires_grad_(), "image.permute(1, 2, 0).detach().float()"),
    ):
        shape = re.escape(f"a torch tensor of shape {tuple(given.shape)}. Pass {conversion}.cpu().numpy(), ")
        with pytest.raises(ValueError, match=shape):
            as_array(given)
        converted = eval(f"{conversion}.cpu().numpy()", {"image": given, "images": given})
        np.testing.assert_allclose(as_array(converted), picture, atol=0 if given.dtype == torch.uint8 else 1)
    with pytest.raises(ValueError, match=r"a torch tensor of shape \(3, 5, 7\)"):
        [as_array(photo) for photo in as_list(tensor.permute(2, 0, 1))]
