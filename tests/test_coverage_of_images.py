"""How much of each image was judged, and which images were squashed, is said wherever results are shown."""

import os
import re
import warnings

import numpy as np
import pandas
import pytest
from browsing import read_saved
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spade_kit import SPADE, Sample, draw_result, evaluate, explore, load_backbone
from spade_kit.features.crops import Cropping

SIDES = st.integers(32, 3000)


@pytest.fixture(scope="module")
def wide(demo):
    """Images of 200 x 300 px and three more of 200 x 200."""
    images = [np.ascontiguousarray(sample.image[:200, :300]) for sample in demo.train[:4]]
    return images, [np.ascontiguousarray(sample.image[:200, :200]) for sample in demo.train[4:7]]


@given(SIDES, SIDES, st.sampled_from([(256, 224), (366, 320), (256, 256), (64, None)]))
def test_the_fraction_judged_is_that_of_the_pixels_with_a_value(height, width, sizes):
    crop = Cropping(*sizes).find((height, width))
    if height * width < 10**5:
        on_photo = crop.put_back(np.zeros(crop.size, np.float32))
        assert crop.judged == pytest.approx(np.isfinite(on_photo).mean())
    resize, cut = sizes
    part = 1 if cut is None else (cut / resize) ** 2
    assert crop.judged == pytest.approx(part, abs=2 / min(height, width))  # up to a pixel on each side


@given(SIDES, SIDES)
def test_a_square_crop_squashes_by_the_aspect_ratio(height, width):
    squash = Cropping(256, 224).find((height, width)).squash
    assert squash == pytest.approx(max(height, width) / min(height, width))
    assert Cropping(256, 224).find((width, height)).squash == pytest.approx(squash)


@given(SIDES, SIDES)
def test_a_whole_image_keeps_its_aspect_ratio_but_for_rounding(height, width):
    crop = Cropping(320, None).find((height, width))
    assert crop.judged == 1
    assert crop.squash < 1.2


def test_captions_say_how_much_was_judged():
    assert Cropping(256, 224).find((256, 256)).describe() == "77 % of the image judged"
    assert Cropping(256, None).find((300, 600)).describe() == "100 % of the image judged"
    assert re.fullmatch(
        r"7\d % of the image judged, squashed by 1.5 : 1", Cropping(256, 224).find((600, 400)).describe()
    )


def test_the_coverage_of_several_images_is_one_sentence_or_two():
    square = Cropping(256, 224)
    assert square.describe_coverage([], [], []) == ""
    assert square.describe_coverage(["a", "b"], [1, 1], [1, 1.2]) == "100 % of each image was judged."
    assert square.describe_coverage(["a"], [0.766], [1]) == (
        "77 % of each image was judged; load_backbone(..., crop=None) judges all of it."
    )
    assert square.describe_coverage(["a", "b", "c"], [0.7, 0.8, 0.7], [1, 1.5, 2]) == (
        "70 to 80 % of each image was judged; load_backbone(..., crop=None) judges all of it. "
        "2 of 3 images were squashed, such as c by 2 : 1. Use load_backbone(..., crop=None) to keep the aspect ratio."
    )


# ---- images that were squashed ---------------------------------------------------------------------------------------


def test_a_fit_says_once_that_images_were_squashed(wide):
    images, square = wide
    with pytest.warns(UserWarning, match="squashed") as said:
        spade = SPADE(k=2).fit([*square, *images])
    assert [str(warning.message) for warning in said] == [
        "4 of 7 images were squashed, such as normal image 3 by 1.5 : 1. "
        "Use load_backbone(..., crop=None) to keep the aspect ratio."
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all else is quiet
        spade.predict(images[0][::-1])
        spade.add(images[1][::-1])


def test_an_image_that_is_squashed_otherwise_than_those_that_the_fit_named_is_named(wide, tmp_path):
    """The fit names wide images; a tall one, and a much wider one, look different from them."""
    images, _ = wide
    with pytest.warns(UserWarning, match="squashed"):
        spade = SPADE(k=2).fit(images)
    tall, wider = images[0].transpose(1, 0, 2), np.concatenate([images[0], images[0]], 1)
    names = {"tall": tall, "wider": wider, "alike": images[1][::-1]}
    for name, image in names.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    for name, told in (("tall", "1.5 : 1"), ("wider", "3 : 1")):
        with pytest.warns(UserWarning, match=rf"^{name}\.png was squashed by {told}\. Use load_backbone"):
            spade.predict(tmp_path / f"{name}.png")
    spade.predict(tmp_path / "alike.png")
    samples = [Sample(tmp_path / f"{name}.png", "good") for name in names]
    for folder in (None, tmp_path / "out"):
        with pytest.warns(UserWarning, match=r"^2 of 3 images were squashed, such as wider\.png by 3 : 1"):
            evaluate(spade, samples, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate(spade, samples[2:])
    with pytest.warns(UserWarning, match=r"^tall\.png was squashed by 1\.5 : 1"):
        spade.add(tmp_path / "tall.png")
    spade.predict(tall[::-1])  # now it is named


def test_a_squashed_image_is_named_if_the_normal_images_were_not(wide, tmp_path):
    images, square = wide
    spade = SPADE(k=2).fit(square)
    Image.fromarray(images[0]).save(tmp_path / "wide.png")
    with pytest.warns(
        UserWarning, match=r"^wide.png was squashed by 1.5 : 1. Use load_backbone\(..., crop=None\) to keep"
    ):
        spade.predict(tmp_path / "wide.png")
    with pytest.warns(UserWarning, match=r"^The image was squashed by 1.5 : 1"):
        spade.predict(images[0])
    with pytest.warns(UserWarning, match=r"1.5 : 1"):
        spade.add(tmp_path / "wide.png")
    spade.predict(images[1])


def test_a_whole_image_is_not_squashed(wide):
    images, _ = wide
    spade = SPADE(load_backbone("efficientnet_lite0", crop=None, resize=128), k=2).fit(images)
    assert spade.predict(images[0][::-1]).crop.judged == 1


# ---- where it is said ------------------------------------------------------------------------------------------------


def test_a_folder_says_how_much_of_each_image_was_judged(spade, wide, tmp_path, capsys):
    images, square = wide
    (tmp_path / "in").mkdir()
    for name, image in {"a": square[0], "b": images[0], "c": images[1]}.items():
        Image.fromarray(image).save(tmp_path / f"in/{name}.png")
    (tmp_path / "in/d.png").write_bytes(b"no image")
    table = spade.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.2)
    said = capsys.readouterr().out
    assert re.search(
        r"7\d( to 7\d)? % of each image was judged; load_backbone\(..., crop=None\) judges all of it\.", said
    )
    assert said.count("squashed") == 1
    assert "2 of 3 images were squashed, such as b.png by 1.5 : 1." in said
    written = pandas.read_csv(tmp_path / "out/results.csv")
    for frame in (table, written):
        np.testing.assert_allclose(frame["squash"], [1, 1.5, 1.5, np.nan], rtol=1e-3)
    for name, judged in zip(written["path"][:3], written["judged"]):
        with Image.open(tmp_path / "out/maps" / name.replace("png", "tiff")) as values:
            assert judged == pytest.approx((np.array(values) > 0).mean(), abs=1e-4)
    spade.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.2)
    assert capsys.readouterr().out == said  # resumed


def test_a_folder_of_unreadable_files_says_nothing_of_a_crop(spade, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/d.png").write_bytes(b"no image")
    spade.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.2)
    assert "% of each image" not in capsys.readouterr().out


def test_an_evaluation_says_which_images_were_squashed(spade, wide, tmp_path):
    images, square = wide
    for name, image in {"a": square[0], "b": images[0]}.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    samples = [Sample(tmp_path / "a.png", "good"), Sample(tmp_path / "b.png", "good")]
    for _ in range(2):  # judged, then resumed
        with pytest.warns(UserWarning, match=r"1 of 2 images were squashed, such as b\.png by 1\.5 : 1"):
            table = evaluate(spade, samples, folder=tmp_path / "out").to_frame()
        np.testing.assert_allclose(table["squash"], [1, 1.5], rtol=1e-3)
        np.testing.assert_allclose(table["judged"], spade.predict(samples[0]).crop.judged, atol=0.01)


def test_the_caption_of_a_figure_says_how_much_was_judged(spade, scratched):
    (caption,) = (text.get_text() for text in draw_result(spade.predict(scratched)).texts if "crop" in text.get_text())
    assert "crop 224 x 224 px, 77 % of the image judged; " in caption


def test_the_explorer_says_how_much_was_judged(spade, scratched, tmp_path):
    explorer = explore(spade, [scratched])
    assert explorer.photo["judged"] == "77 % of the image judged"
    explorer.save_html(tmp_path / "page.html")
    assert "77 % of the image judged" in read_saved(tmp_path / "page.html")


def test_a_name_that_cannot_be_printed_is_printed_in_another_form(wide, tmp_path):
    images, square = wide
    path = os.fsdecode(os.fsencode(tmp_path) + b"/pi\xe8ce\n.png")
    Image.fromarray(images[0]).save(path)
    with pytest.warns(UserWarning, match="was squashed by 1.5 : 1") as said:
        SPADE(k=2).fit(square).predict(path)
    str(said[0].message).encode("utf-8")
    assert "\n" not in str(said[0].message)
