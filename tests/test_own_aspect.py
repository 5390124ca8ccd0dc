"""Whole images at their own shape: one size for all images of a fit, from their median aspect ratio."""

import json
import re
import warnings
from io import BytesIO

import browsing
import matplotlib.pyplot as plt
import numpy as np
import pandas
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import map_coordinates
from sklearn.metrics import roc_auc_score

from spade_kit import (
    SPADE,
    Dataset,
    Sample,
    compare_layers,
    evaluate,
    explore,
    extract_features,
    load_backbone,
    load_dataset,
)
from spade_kit.evaluation.sweep import sweep
from spade_kit.features.crops import Crop, Cropping
from spade_kit.features.pyramid import iterate_features
from spade_kit.figures import (
    draw_hardest,
    draw_layers,
    draw_match,
    draw_neighbours,
    draw_reconstruction,
    draw_result,
    draw_views,
)
from spade_kit.figures.results import draw_explanation

side = st.integers(32, 1200)  # longer images are refused at some sizes
shapes = st.lists(st.tuples(side, side), min_size=1, max_size=9)
MULTIPLES = st.sampled_from([8, 14, 16, 32])


def noise(height, width, seed=0):
    """Smooth noise, so that crops of two images differ and a JPEG keeps them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


@pytest.fixture
def whole(tiny):
    """A small network that judges whole images with a short side of 64 px."""
    return load_backbone(tiny.module.network, layers=tiny.sources, pooled="late", resize=64, crop=None)


@pytest.fixture
def landscape(whole):
    """A fit of images of nearly 3 : 2."""
    return SPADE(whole, k=3).fit(
        [noise(*shape, seed) for seed, shape in enumerate([(200, 300), (202, 300), (99, 150)])]
    )


@pytest.fixture(scope="module", params=["tall", "wide"])
def long(request, demo):
    """A fit of tall or wide images with the demo's defects, the dataset as samples, and (rows, columns) of its maps."""
    folder = request.getfixturevalue("tmp_path_factory").mktemp(request.param)
    rows, columns = (slice(None), slice(80, 240))[:: 1 if request.param == "tall" else -1]

    def cut(sample, name):
        Image.fromarray(sample.image[rows, columns]).save(folder / f"{name}.png")
        mask = None
        if sample.mask_path:
            mask = folder / f"{name}_mask.png"
            Image.fromarray(sample.mask[rows, columns]).save(mask)
        return Sample(folder / f"{name}.png", sample.label, mask, masked=True)

    good = [sample for sample in demo.test if sample.label == "good"]
    seen = [sample for sample in demo.test if sample.mask_path and sample.mask[rows, columns].sum() > 500]
    test = [cut(sample, f"test{at}") for at, sample in enumerate([*good[:2], *seen[:4]])]
    train = [cut(sample, f"train{at}") for at, sample in enumerate(demo.train[:5])]
    spade = SPADE(load_backbone(resize=128, crop=None), k=3).fit(train)
    return spade, test, (256, 128) if request.param == "tall" else (128, 256)


# ---- the size of a fit -----------------------------------------------------------------------------------------------


@given(shapes, st.integers(32, 1600), MULTIPLES)
def test_the_size_is_the_pair_of_multiples_nearest_the_median_shape(photos, resize, multiple):
    """Against a search of all pairs."""
    height, width = Cropping(resize, None, multiple=multiple).fit(photos).size
    ordered = sorted(rows / columns for rows, columns in photos)
    middle = len(ordered) // 2
    median = (ordered[middle] * ordered[-1 - middle]) ** 0.5
    sides = np.arange(1, max(resize, 32) // multiple + 2) * multiple
    short = min(height, width)
    assert abs(short - resize) == pytest.approx(np.abs(sides - resize).min())
    longs = np.arange(short, 130 * short, multiple)
    least = np.abs(longs / short - max(median, 1 / median)).min()
    assert abs(max(height, width) / short - max(median, 1 / median)) == pytest.approx(least, abs=1e-9)
    assert height == width or (height > width) == (median > 1)


@given(shapes, st.integers(32, 1600))
def test_turned_images_have_the_turned_size(photos, resize):
    height, width = Cropping(resize, None).fit(photos).size
    assert Cropping(resize, None).fit([photo[::-1] for photo in photos]).size == (width, height)


@given(side, side, st.sampled_from([64, 256, 320, 1024]))
def test_one_image_is_fitted_at_its_own_crop(height, width, resize):
    own = Cropping(resize, None).find((height, width))
    long, short = max(own.size), min(own.size)
    size = Cropping(resize, None).fit([(height, width)]).size
    tie = max(height, width) * short / min(height, width) % 32  # either of two sizes is as near
    assert size == own.size or (abs(tie - 16) < 1e-6 and abs(max(size) - long) == 32)


def test_images_that_cannot_be_fitted_do_not_count():
    assert Cropping(64, None).fit([(31, 400), (5, 900), (100, 200), (100, 200)]).size == (64, 128)
    assert Cropping(64, None).fit([(31, 400)]).size is None
    assert Cropping(72, 64).fit([(100, 900)]) == Cropping(72, 64)


@given(side, side)
def test_every_image_of_a_fit_is_resized_to_its_size(height, width):
    crop = Cropping(64, None, (64, 96)).find((height, width))
    assert crop == Crop((height, width), (64, 96), (0, 0), (64, 96))
    assert crop.box == (0, 0, height, width)
    assert crop.squash == pytest.approx(max(height * 1.5 / width, width / 1.5 / height))


# ---- a fit of several shapes -----------------------------------------------------------------------------------------


def test_images_of_several_shapes_are_fitted_and_judged_at_one_size(landscape):
    assert landscape.gallery.cropping == Cropping(64, None, (64, 96))
    assert [normal.image.shape for normal in landscape.gallery.normals] == [(64, 96, 3)] * 3
    result = landscape.predict(noise(410, 600, 5))
    assert result.anomaly_map.shape == (64, 96)
    assert result.on_photo().shape == (410, 600)
    assert not np.isnan(result.on_photo()).any()
    assert landscape.predict_left_out(2).anomaly_map.shape == (64, 96)
    landscape.add(noise(205, 300, 6))
    assert landscape.threshold(0.25) > 0
    assert landscape.remove([0, 1]).predict(noise(200, 300, 7)).anomaly_map.shape == (64, 96)


def test_a_fit_sees_the_images_resized_to_its_size(whole, landscape):
    image = noise(410, 600, 5)
    resized = np.array(Image.fromarray(image).resize((96, 64), Image.Resampling.BILINEAR))
    result = landscape.predict(image)
    np.testing.assert_array_equal(result.image, resized)
    for level, expected in zip(result.query.levels, whole(resized[None])[0]):
        torch.testing.assert_close(level, expected)


def test_the_shape_of_a_turned_photo_is_that_after_turning(whole, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for at in range(3):
        Image.fromarray(noise(200, 300, at)).save(tmp_path / f"{at}.jpg", exif=exif)
    for images in ([tmp_path / f"{at}.jpg" for at in range(3)], [Image.open(tmp_path / "0.jpg")]):
        assert SPADE(whole).fit(images).gallery.cropping.size == (96, 64)


def test_files_are_decoded_once_and_those_that_cannot_be_read_are_skipped(whole, tmp_path, monkeypatch):
    for at in range(3):
        Image.fromarray(noise(200, 300, at)).save(tmp_path / f"{at}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    Image.fromarray(noise(20, 300)).save(tmp_path / "4.png")
    decoded = []
    read = Sample.image.fget
    monkeypatch.setattr(Sample, "image", property(lambda sample: decoded.append(sample.path) or read(sample)))
    with pytest.warns(UserWarning, match="Skipped 2 of 5 images"):
        spade = SPADE(whole).fit([Sample(tmp_path / f"{at}.png") for at in range(5)])
    assert spade.gallery.cropping.size == (64, 96)
    assert len(decoded) == len(set(decoded)) == 5
    with pytest.raises(ValueError, match=r"3\.png"):
        SPADE(whole).fit(tmp_path / "3.png")


def test_a_square_crop_needs_no_sizes(tiny, monkeypatch):
    monkeypatch.setattr("spade_kit.features.pyramid.shape_of", lambda image: pytest.fail("read a size"))
    assert SPADE(tiny).fit([noise(90, 100), noise(100, 90, 1)]).gallery.cropping == Cropping(72, 64)


def test_features_of_several_images_have_one_size(whole):
    images = [noise(200, 300), noise(300, 200), noise(100, 150)]
    pyramid = extract_features(images, whole)
    resized = np.stack([Image.fromarray(image).resize((96, 64), Image.Resampling.BILINEAR) for image in images])
    for level, expected in zip(pyramid.levels, whole(resized)[0]):
        torch.testing.assert_close(level, expected)


def test_masks_of_another_size_and_metrics_follow(landscape, tmp_path):
    samples = []
    for at, (photo, mask) in enumerate([((200, 300), (100, 150)), ((208, 300), (208, 300)), ((196, 300), (50, 75))]):
        Image.fromarray(noise(*photo, 10 + at)).save(tmp_path / f"{at}.png")
        truth = np.zeros(mask, bool)
        truth[: mask[0] // 2, : mask[1] // 3] = True
        Image.fromarray(truth).save(tmp_path / f"{at}_mask.png")
        samples.append(Sample(tmp_path / f"{at}.png", "scratch", tmp_path / f"{at}_mask.png"))
    Image.fromarray(noise(200, 300, 20)).save(tmp_path / "good.png")
    samples.append(Sample(tmp_path / "good.png", "good", masked=True))
    report = evaluate(landscape, samples)
    results = [landscape.predict(sample) for sample in samples]
    for result in results[:3]:
        expected = np.zeros((64, 96), bool)
        expected[:32, :32] = True
        np.testing.assert_array_equal(result.mask, expected)
    maps, masks = (np.stack([getattr(result, name) for result in results]) for name in ("anomaly_map", "mask"))
    assert report.metric_or_nan("pixel_roc_auc") == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))


def test_a_sweep_uses_one_size(tmp_path):
    for at, height in enumerate((200, 205, 195, 203, 190, 210)):
        Image.fromarray(noise(height, 300, at)).save(tmp_path / f"{at}.png")
    samples = [Sample(tmp_path / f"{at}.png", "good" if at < 5 else "bad") for at in range(6)]
    network = load_backbone(resize=64, crop=None)
    table = sweep(
        Dataset("few", samples[:3], samples[3:]), {"backbone": [network], "k": [1, 3]}, metrics=["image_roc_auc"]
    )
    spade = SPADE(network, k=3).fit(samples[:3])
    scores = [spade.predict(sample).image_score for sample in samples[3:]]
    assert table["image_roc_auc"].tolist()[1] == roc_auc_score([0, 0, 1], scores)


# ---- saved fits ------------------------------------------------------------------------------------------------------


def test_a_saved_fit_keeps_its_size(whole, landscape, tmp_path):
    landscape.save(tmp_path / "fit")
    again = SPADE.load(tmp_path / "fit", whole)
    image = noise(190, 300, 8)
    assert again.gallery.cropping == landscape.gallery.cropping
    np.testing.assert_array_equal(again.predict(image).anomaly_map, landscape.predict(image).anomaly_map)
    again.add(noise(212, 300, 9))
    again.save(tmp_path / "fit")
    assert len(SPADE.load(tmp_path / "fit", whole)) == 4


def test_a_fit_saved_at_the_size_of_another_rule_loads(whole, tmp_path, monkeypatch):
    """The first edition rounded each side."""
    images = [noise(200, 250, at) for at in range(3)]
    monkeypatch.setattr(Cropping, "fit", lambda cropping, photos: Cropping(64, None, (64, 96)))
    spade = SPADE(whole)
    with pytest.warns(UserWarning, match="3 of 3 images were squashed"):
        spade.fit(images)
    spade.save(tmp_path)
    monkeypatch.undo()
    assert SPADE.load(tmp_path, whole).predict_left_out(0).anomaly_map.shape == (64, 96)


@pytest.mark.parametrize(("change", "said"), [
    (lambda crops: [[photo, [64, 128], at, [64, 128]] for photo, _, at, _ in crops], "must have the size of its pict"),
    (lambda crops: [[photo, [64, 90], at, [64, 90]] for photo, _, at, _ in crops], "sides in multiples of 32, the sh"),
    (lambda crops: [[photo, [128, 192], at, [128, 192]] for photo, _, at, _ in crops], r"near 64 px; got \[128, 192\]"),
    (lambda crops: [[photo, [0, 0], at, [0, 0]] for photo, _, at, _ in crops], "sides in multiples of 32"),
    (lambda crops: [*crops[:2], [crops[2][0], [96, 64], [0, 0], [96, 64]]], "must be that of the backbone"),
    (lambda crops: [*crops[:2], [crops[2][0], [64, 128], [0, 0], [64, 96]]], "must be that of the backbone"),
    (lambda crops: [[photo, size, [0, 1], size] for photo, _, _, size in crops], "must be that of the backbone"),
])  # fmt: skip
def test_a_forged_size_is_refused(whole, landscape, tmp_path, change, said):
    landscape.save(tmp_path)
    manifest = json.loads((tmp_path / "spade.json").read_bytes())
    for normal, crop in zip(manifest["normals"], change([normal["crop"] for normal in manifest["normals"]])):
        normal["crop"] = crop
        del normal["checksum"]
    (tmp_path / "spade.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=said):
        SPADE.load(tmp_path, whole)


# ---- images of another shape -----------------------------------------------------------------------------------------


TO_FIT = "to the 64 x 96 px of the fit"
CURE = "Fit images of another shape separately."


def test_images_of_another_shape_are_named_in_a_fit(whole):
    images = [noise(200, 300), noise(300, 200, 1), noise(200, 300, 2), noise(170, 300, 3), noise(200, 300, 4)]
    with pytest.warns(UserWarning, match="squashed") as said:
        spade = SPADE(whole, k=2).fit(images)
    assert [str(one.message) for one in said] == [
        f"2 of 5 images were squashed {TO_FIT}, such as normal image 1 by 2.2 : 1. {CURE}"
    ]
    with pytest.warns(UserWarning, match="squashed") as said:  # other images than those that the fit named
        spade.predict(noise(300, 200, 7))
    assert [str(one.message) for one in said] == [f"The image was squashed by 2.2 : 1 {TO_FIT}. {CURE}"]


@pytest.mark.parametrize(("height", "told"), [(173, "1.16 : 1"), (231, "1.16 : 1"), (174.5, None), (229, None)])
def test_a_change_of_more_than_15_percent_is_said(landscape, height, told):
    image = noise(round(2 * height), 600, 5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = landscape.predict(image)
    assert [str(one.message) for one in said] == (
        [f"The image was squashed by {told} {TO_FIT}. {CURE[:-1]}, or use a larger resize."] if told else []
    )
    assert ("squashed" in result.crop.describe()) == bool(told)


@given(side, side, st.integers(112, 1600))
def test_a_single_shape_is_never_squashed_beyond_the_limit_by_rounding(height, width, resize):
    assert Cropping(resize, None).fit([(height, width)]).find((height, width)).squash < 1.15


def test_a_larger_resize_is_no_cure_where_rounding_is_not_the_cause():
    told = Cropping(128, None, (128, 192)).describe_squash(["a.png", "b.png"], [1.14, 1.3])
    assert told == (
        "1 of 2 images were squashed to the 128 x 192 px of the fit, such as b.png by 1.3 : 1. "
        "Fit images of another shape separately."
    )
    assert Cropping(128, None, (128, 192)).describe_squash(["a.png"], [1.14]) == ""


@given(side, side, st.integers(32, 200), st.integers(32, 4000))
def test_a_larger_resize_is_advised_only_where_it_can_help(height, width, resize, longer):
    """With sides that are not rounded, the images of a fit would have their own shape."""
    cropping = Cropping(resize, None).fit([(height, width)])
    for photo in ((height, width), (height, longer)):
        squash = cropping.find(photo).squash
        told = cropping.describe_squash(["a.png"], [squash])
        without_rounding = max(photo[1] / width, width / photo[1])
        if photo == (height, width):
            assert (told == "") == (squash <= 1.15)
            assert told == "" or "larger resize" in told
        elif "larger resize" in told:
            rounding = cropping.find((height, width)).squash
            assert without_rounding <= squash * rounding * (1 + 1e-9)


def test_the_worst_of_several_images_is_named():
    told = Cropping(256, 224).describe_squash(["a", "b", "c"], [1.5, 1.1, 3])
    assert told.startswith("2 of 3 images were squashed, such as c by 3 : 1.")


def test_added_images_of_another_shape_are_named(landscape):
    with pytest.warns(UserWarning, match=rf"^1 of 2 images were squashed {TO_FIT}, such as normal image 4 by 2\.2 : 1"):
        landscape.add([noise(200, 300, 8), noise(300, 200, 9)])
    assert len(landscape) == 5


def test_a_folder_and_an_evaluation_name_images_of_another_shape(landscape, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name, shape in {"a": (200, 300), "b": (300, 200), "c": (300, 200)}.items():
        Image.fromarray(noise(*shape, 11)).save(tmp_path / f"in/{name}.png")
    table = landscape.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.4)
    told = f"2 of 3 images were squashed {TO_FIT}, such as b.png by 2.2 : 1. {CURE}"
    assert f"100 % of each image was judged. {told}" in capsys.readouterr().out
    np.testing.assert_allclose(table["squash"], [1, 2.25, 2.25])
    np.testing.assert_allclose(pandas.read_csv(tmp_path / "out/results.csv")["judged"], 1)
    with Image.open(tmp_path / "out/segmentations/b.png") as segmentation:
        assert segmentation.size == (200, 300)
    samples = [Sample(tmp_path / f"in/{name}.png", "good") for name in "abc"]
    with pytest.warns(UserWarning, match=re.escape(told)):
        evaluate(landscape, samples)


def test_the_explorer_says_that_an_image_has_another_shape(landscape):
    explorer = explore(landscape, [noise(300, 200, 11)])
    assert explorer.photo["judged"] == "100 % of the image judged, squashed by 2.2 : 1"
    assert explorer.photo["size"] == [64, 96]


def test_a_square_crop_keeps_its_limit_and_its_cure(tiny):
    with pytest.warns(UserWarning, match="squashed") as said:
        SPADE(tiny).fit([noise(100, 118), noise(100, 122, 1)])
    assert [str(one.message) for one in said] == [
        "1 of 2 images were squashed, such as normal image 1 by 1.2 : 1. "
        "Use load_backbone(..., crop=None) to keep the aspect ratio."
    ]


# ---- widgets ---------------------------------------------------------------------------------------------------------


def test_thumbnails_have_the_shape_of_the_fit(landscape):
    images = explore(landscape, [noise(200, 300, 5), noise(300, 200, 6)]).images
    for jpeg in images.thumbs([0, 1]).values():
        assert Image.open(BytesIO(jpeg)).size == (72, 48)


def test_an_image_read_at_one_size_is_read_again_for_another(whole, landscape, tmp_path):
    paths = []
    for at, shape in enumerate([(200, 300), (202, 300), (300, 200), (302, 200)]):
        paths.append(tmp_path / f"{at}.png")
        Image.fromarray(noise(*shape, at)).save(paths[-1])
    wide, tall = SPADE(whole).fit(paths[:2]), SPADE(whole).fit(paths[2:])
    assert wide.reads_like(SPADE(whole).fit(paths[1]))
    assert not wide.reads_like(tall)
    result = explore(wide).images.judge(0, tall)
    assert result.anomaly_map.shape == (96, 64)
    np.testing.assert_array_equal(result.image, tall.read(paths[0]).image)


def test_views_of_two_sizes_cannot_be_compared(whole, landscape):
    other = SPADE(whole).fit([noise(300, 200, at) for at in range(3)])
    with pytest.raises(ValueError, match=r"the same resize= and crop=, and fit both on the same images\."):
        compare_layers(landscape, [noise(200, 300, 5)], ["layer1", other])


def test_a_page_shows_pictures_in_their_own_shape(long, browser, tmp_path):
    spade, test, (height, width) = long
    explorer = explore(spade, test)
    explorer.index = 3
    explorer.save_html(tmp_path / "page.html")
    with browsing.open_offline(browser, tmp_path / "page.html", viewport={"width": 1300, "height": 900}) as page:
        stages = page.locator(".sk-views .sk-stage")
        stages.first.wait_for()
        boxes = [stages.nth(at).bounding_box() for at in range(stages.count())]
        shown = page.locator(".sk-card img").first.evaluate("image => getComputedStyle(image).objectFit")
    assert len(boxes) == 3
    for box in boxes:
        assert box["height"] / box["width"] == pytest.approx(height / width, rel=0.01)
        assert box["height"] <= 0.63 * 900
    assert shown == "contain"


# ---- figures ---------------------------------------------------------------------------------------------------------


def shown(figure):
    """Width and height of each picture in pixels of the figure, then in pixels of the image."""
    figure.draw_without_rendering()  # lays it out
    for panel in figure.axes:
        if panel.images:
            box = panel.get_window_extent()
            (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
            yield box.width, box.height, abs(right - left), abs(bottom - top)


@pytest.mark.parametrize("draw", [
    draw_result, draw_neighbours, draw_layers, draw_reconstruction,
    lambda result: draw_match(result, 40, 40), lambda result: draw_explanation(result, 40, 40),
    lambda result: draw_views(result, {"a": result.anomaly_map, "b": result.anomaly_map}, (40, 40), "scale"),
])  # fmt: skip
def test_figures_draw_tall_and_wide_images_in_their_own_shape(long, draw):
    spade, test, (height, width) = long
    figure = draw(spade.predict(test[3]))
    pictures = list(shown(figure))
    assert any((columns, rows) == (width, height) for *_, columns, rows in pictures)
    for across, down, columns, rows in pictures:
        assert down / across == pytest.approx(rows / columns, rel=0.02)
    edge = figure.bbox
    for panel in figure.axes:
        box = panel.get_tightbbox()
        assert min(box.x0, box.y0) >= -2
        assert max(box.x1 - edge.width, box.y1 - edge.height) <= 2
    plt.close(figure)


def test_the_hardest_images_are_drawn_in_their_own_shape(long):
    spade, test, (height, width) = long
    figure = draw_hardest(evaluate(spade, test), 2)
    for across, down, columns, rows in shown(figure):
        if columns > 1 and rows > 1:
            assert (columns, rows) == (width, height)
            assert down / across == pytest.approx(rows / columns, rel=0.02)


# ---- datasets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "said"), [
    ([(200, 100)] * 3, "The images are not square, such as 200 x 100 px: "),
    ([(100, 130), (100, 130), (100, 100)], "2 of 3 images are not square, such as 100 x 130 px: "),
    ([(100, 130), (100, 100), (100, 100)], ""),
    ([(100, 119)] * 3, ""),
])  # fmt: skip
def test_a_dataset_says_how_to_keep_the_shape_of_its_images(tmp_path, sizes, said):
    for at, size in enumerate(sizes):
        Image.fromarray(noise(*size, at)).save(tmp_path / f"{at}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="skipped"):
        lines = str(load_dataset(tmp_path)).splitlines()
    told = [line for line in lines if "crop=None" in line]
    assert told == ([f"{said}SPADE(load_backbone(crop=None)) keeps their shape."] if said else [])


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_fit_that_exceeds_the_memory_is_refused_before_it_starts(whole, monkeypatch):
    images = [noise(64, 96, at) for at in range(40)]
    need = SPADE(whole).fit(images).gallery.nbytes
    passes = []
    forward = type(whole).__call__
    monkeypatch.setattr(type(whole), "__call__", lambda self, crops: passes.append(len(crops)) or forward(self, crops))
    memory = type("Memory", (), {"available": need - 1})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(
        MemoryError, match=r"The features of 40 images need 0\.0 GB of memory, and 0\.0 GB are available"
    ):
        SPADE(whole).fit(images)
    assert len(passes) <= torch.get_num_threads() + 2 < 10
    memory.available = need
    assert len(SPADE(whole).fit(images)) == 40


@pytest.mark.parametrize(("sizes", "batches"), [
    ((256, 224, None), [4]), ((366, 320, None), [4]), ((320, None, (320, 320)), [4]), ((320, None, (320, 640)), [2, 2]),
    ((512, 448, None), [2, 2]), ((640, None, (640, 640)), [1] * 4), ((1536, None, (1536, 1536)), [1] * 4),
])  # fmt: skip
def test_fewer_large_images_are_passed_at_once(tiny, sizes, batches):
    images = [noise(64, 64, at) for at in range(4)]
    assert [len(pyramid) for *_, pyramid in iterate_features(images, tiny, Cropping(*sizes))] == batches


# ---- what would not fit ----------------------------------------------------------------------------------------------


def test_a_pass_that_would_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr("spade_kit.features.pyramid.free_memory", lambda device: 2**30)
    network = load_backbone(crop=None, resize=2048)
    with pytest.raises(
        MemoryError, match=r"about 2\.0 GB of memory for a crop of 2048 x 2048 px, and 1\.0 GB are avail"
    ):
        SPADE(network, k=1).fit([np.zeros((100, 100, 3), np.uint8)])


def test_a_file_that_does_not_fit_into_memory_is_skipped(demo, monkeypatch):
    picture = demo.train[0].image

    def read(path):
        if path == demo.train[1].path:
            raise MemoryError
        return picture

    monkeypatch.setattr("spade_kit.datasets.samples.read_image", read)
    with pytest.warns(
        UserWarning, match=r"Skipped 1 of 2 images\. 001\.jpg does not fit into memory\. Make it smaller"
    ):
        SPADE(k=1).fit([demo.train[0].path, demo.train[1].path])


@pytest.mark.parametrize("shape", [(33, 40_000), (40_000, 33)])
def test_images_that_are_too_long_are_refused(shape):
    photo = np.zeros((*shape, 3), np.uint8)
    for call in (SPADE(load_backbone(crop=None, resize=64)).fit, lambda one: load_backbone(crop=None).find_crop(one)):
        with pytest.raises(ValueError, match=r"must be at most 65,500 px after resizing; got .*Use a smaller resize"):
            call(photo)


@given(st.integers(1, 900), st.integers(1, 40))
def test_a_map_is_put_back_in_parts_as_in_one(rows, columns):
    values = np.random.default_rng(rows).random((8, 8), np.float32)
    crop = Cropping(8, 8).find((max(rows, 32), max(columns, 32)))
    expected = map_coordinates(
        values,
        np.meshgrid(*((np.arange(side) + 0.5) * 8 / side - 0.5 for side in crop.photo), indexing="ij"),
        order=1,
        mode="nearest",
    )
    np.testing.assert_array_equal(crop.put_back(values), expected)
