"""Painting without a browser: results, kept images, page data and errors."""

import errno
import os
import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from math import nan
from pathlib import Path
from shutil import copy
from threading import Event, Thread, current_thread

import numpy as np
import pytest
from browsing import read_saved
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

import spade_kit
from spade_kit import SPADE, paint_defect
from spade_kit._files import encode_png
from spade_kit.datasets.synthetic import TOOLS, Stroke, paint
from spade_kit.features.crops import Cropping
from spade_kit.widgets._shared.export import join_modules

LINE = [(60, 40), (80.5, 90), (70, 120.25)]  # map pixels
side = st.integers(32, 300)


@pytest.fixture
def painting(spade, demo, tmp_path):
    painting = paint_defect(spade, demo, folder=tmp_path / "painted")
    yield painting
    painting.close()


@pytest.fixture
def sent(painting, monkeypatch):
    """The messages sent to the page besides traits."""
    sent = []
    monkeypatch.setattr(painting, "send", lambda content, buffers=(): sent.append((content, [*buffers])))
    return sent


def tell(painting, kind, **content):
    """Send a message as the page would."""
    painting._handle_custom_msg({"kind": kind, **content}, [])


def draw(painting, points, drawn, **other):
    """Send the brush stroke that the page is still drawing."""
    stroke = {"tool": "brush", "points": points, "size": 6, "strength": 1, "colour": "#ff0000", "drawn": drawn}
    tell(painting, "stroke", **stroke | other)


def differs(photo, painted):
    """Visible changes: any channel by more than 10 of 255 grey levels."""
    return (np.abs(photo.astype(int) - painted) > 10).any(-1)


def points(count, start=50):
    return [(start + step, start + 2 * step) for step in range(count)]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


# ---- coordinates -----------------------------------------------------------------------------------------------------


def test_crop_coordinates_on_a_long_photo_by_hand():
    """Rows: 100 become 50, 5 are cropped, so the first row covers 10 and 11. Columns: 300 become 50; 30 to 35."""
    crop = Cropping(50, 40).find((100, 300))
    places = np.array([(0, 0), (0.5, 0), (0, 0.5), (39, 39), (-5.5, -5.5)])
    expected = [(10.5, 32.5), (11.5, 32.5), (10.5, 35.5), (88.5, 266.5), (-0.5, -0.5)]
    np.testing.assert_allclose(crop.on_photo(places), expected)


@given(side, side, side, st.none() | side, st.lists(st.tuples(*[st.floats(-400, 400)] * 2), min_size=1, max_size=5))
@example(97, 131, 72, 51, [(3.25, 47.5)])
def test_crop_to_photo_coordinates_are_invertible(height, width, resize, size, places):
    assume(size is None or size <= resize)
    crop = Cropping(resize, size).find((height, width))
    on_photo = crop.on_photo(np.array(places, float))
    back = np.column_stack([crop._places(on_photo[:, axis], axis) for axis in (0, 1)])
    np.testing.assert_allclose(back, places, atol=1e-9)


def test_a_dab_is_placed_correctly_on_a_photo_larger_than_the_crop(painting, demo):
    """320 px become 256, and 16 are cropped: map pixel 100 has its centre at (100.5 + 16) * 1.25 in the image."""
    painting.stroke("brush", [(100, 40)], size=9)
    (stroke,) = painting.strokes
    assert stroke.points == ((145.125, 70.125),)
    assert stroke.size == 11.25
    rows, cols = np.nonzero(differs(demo.test[0].image, painting.painted))
    assert (rows.min() + rows.max()) / 2 == pytest.approx(145.125, abs=0.6)
    assert (cols.min() + cols.max()) / 2 == pytest.approx(70.125, abs=0.6)
    crop = painting.result.crop
    rows, cols = np.nonzero(differs(crop.cut(demo.test[0].image), painting.result.image))
    for places, middle in ((rows, 100), (cols, 40)):
        assert (places.min() + places.max()) / 2 == pytest.approx(middle, abs=0.6)
        assert np.ptp(places) + 1 == pytest.approx(9, abs=2.1)  # scaling adds a pixel at each side


def test_a_dab_is_placed_correctly_on_a_long_photo(spade):
    """200 x 350 px become a square: a map pixel is 0.78125 high and 1.3671875 wide, 1.07421875 on average."""
    wall = np.full((200, 350, 3), 120, np.uint8)
    painting = paint_defect(spade, wall)
    painting.stroke("brush", [(150, 31)], size=8, colour="white")
    assert painting.strokes[0].size == 8.59375
    lighter = painting.result.image[..., 0] - 120.0
    whole = lighter.sum()
    assert (lighter.sum(1) @ np.arange(224)) / whole == pytest.approx(150, abs=0.05)
    assert (lighter.sum(0) @ np.arange(224)) / whole == pytest.approx(31, abs=0.05)


# ---- the current view ------------------------------------------------------------------------------------------------


def test_the_result_equals_predict_on_the_painted_photo(painting, spade, demo):
    before = spade.predict(demo.test[0])
    np.testing.assert_array_equal(painting.result.anomaly_map, before.anomaly_map)
    painting.stroke("scratch", LINE)
    painting.stroke("stain", [(150, 150)], colour="navy")
    by_hand = [
        Stroke(stroke.tool, stroke.points, stroke.size, stroke.strength, stroke.colour) for stroke in painting.strokes
    ]
    painted = paint(demo.test[0].image, by_hand)
    np.testing.assert_array_equal(painting.painted, painted)
    np.testing.assert_array_equal(painting.mask, differs(demo.test[0].image, painted))
    after = spade.predict(painted)
    np.testing.assert_array_equal(painting.result.anomaly_map, after.anomaly_map)
    said = f"score {after.image_score:.2f}, before {before.image_score:.2f}"
    assert repr(painting) == f"Painting(chip/000, 2 strokes: {said})"
    painting.undo()
    assert repr(painting).startswith("Painting(chip/000, 1 stroke: ")
    painting.redo()
    assert painting.probe == np.unravel_index(after.anomaly_map.argmax(), (224, 224))


def test_a_painted_fitted_photo_is_judged_against_the_others(spade, demo):
    """Otherwise it would match itself around every stroke, and a defect could lower its score."""
    painting = paint_defect(spade, demo.train[2].path)
    np.testing.assert_array_equal(painting.result.anomaly_map, spade.predict_left_out(2).anomaly_map)
    painting.stroke("brush", LINE)
    others = spade.with_options().remove(2)
    np.testing.assert_array_equal(painting.result.anomaly_map, others.predict(painting.painted).anomaly_map)
    assert painting.result.image_score >= spade.predict_left_out(2).image_score


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "erase"])
def test_each_tool_with_its_defaults_changes_the_photo_and_the_map(painting, tool):
    """Across the rim of the part, where a blur and another hue are visible, too."""
    before = painting.result.anomaly_map
    painting.stroke(tool, [(112, 40), (150, 110)])
    assert painting.mask.sum() > 100
    assert np.abs(painting.result.anomaly_map - before).max() > 1
    painting.stroke("erase", [(112, 40), (150, 110)], size=150)
    assert not painting.mask.any()
    np.testing.assert_array_equal(painting.result.anomaly_map, before)


def test_size_strength_and_colour_are_applied(painting, demo):
    painting.stroke("brush", [(100, 40)], size=20, strength=0.5, colour="#0080ff")
    (stroke,) = painting.strokes
    assert (stroke.size, stroke.strength, stroke.colour) == (25, 0.5, (0, 128, 255))
    place = 145, 70  # in the image: half original, half paint
    halves = (demo.test[0].image[place].astype(float) + np.array((0, 128, 255))) / 2
    np.testing.assert_allclose(painting.painted[place], halves, atol=0.51)


def test_the_readout_counts_normals_at_or_above_the_scores(painting, spade, left_out, demo):
    painting.stroke("brush", LINE)
    normals = [result.image_score for result in left_out]
    scores = [spade.predict(photo).image_score for photo in (demo.test[0], painting.painted)]
    said = painting.readout()
    assert said.columns.tolist() == ["score", "normals of 12 at or above"]
    assert said.index.tolist() == ["before", "painted"]
    assert said["score"].tolist() == [pytest.approx(score, abs=0.0051) for score in scores]
    counts = [sum(normal >= score for normal in normals) for score in scores]
    assert said["normals of 12 at or above"].tolist() == counts
    assert counts[0] > counts[1]  # the painted defect scores higher


def test_a_figure_shows_the_painted_photo_and_the_probe(painting):
    painting.stroke("brush", LINE)
    painting.probe = (30, 70)
    panels = painting.draw().subfigs
    np.testing.assert_array_equal(panels[0].axes[0].get_images()[0].get_array(), painting.result.image)
    ring = panels[1].axes[0].lines[-1]
    assert (ring.get_ydata()[0], ring.get_xdata()[0]) == (30, 70)


# ---- undo and redo ---------------------------------------------------------------------------------------------------


def test_any_sequence_of_undo_and_redo_gives_the_same_bytes(painting, demo, rng):
    """Compared with two plain lists: strokes present and strokes undone."""
    there, back, made = [], [], 0
    for move in rng.choice(["paint", "undo", "redo", "clear"], 40, p=[0.4, 0.25, 0.25, 0.1]):
        if move == "paint":
            made += 1
            painting.stroke(TOOLS[made % 7], [(3 * made + 20, 60), (3 * made + 40, 100)], size=3 + made)
            there, back = [*there, painting.strokes[-1]], []
        elif move == "clear":
            painting.clear()
            there, back = [], [*back, *reversed(there)]
        else:
            (source, target), sentence = {
                "undo": ((there, back), "There is no stroke to undo"),
                "redo": ((back, there), "There is no stroke to redo"),
            }[move]
            if not source:
                with pytest.raises(ValueError, match=sentence):
                    getattr(painting, move)()
                continue
            getattr(painting, move)()
            target.append(source.pop())
        assert painting.strokes == tuple(there)
        assert painting.painted.tobytes() == paint(demo.test[0].image, there).tobytes()
        assert (painting.photo["strokes"], painting.photo["undone"]) == (len(there), len(back))
    assert made > 10


def test_each_photo_keeps_its_strokes(painting, spade, demo):
    painting.stroke("brush", LINE)
    first = painting.painted
    painting.index = 7
    assert painting.strokes == ()
    np.testing.assert_array_equal(painting.painted, demo.test[7].image)
    np.testing.assert_array_equal(painting.result.anomaly_map, spade.predict(demo.test[7]).anomaly_map)
    with pytest.raises(ValueError, match="no stroke to undo"):
        painting.undo()
    painting.stroke("scratch", LINE)
    painting.stroke("blur", LINE)
    painting.undo()
    painting.index = 0
    np.testing.assert_array_equal(painting.painted, first)
    np.testing.assert_array_equal(painting.result.anomaly_map, spade.predict(first).anomaly_map)
    with pytest.raises(ValueError, match="no stroke to redo"):
        painting.redo()
    painting.index = 7
    painting.redo()
    assert [stroke.tool for stroke in painting.strokes] == ["scratch", "blur"]


def test_the_given_spade_and_photo_are_not_modified(spade, demo):
    photo = demo.test[0].image
    before = photo.tobytes()
    painting = paint_defect(spade, photo)
    painting.stroke("brush", LINE)
    painting.spade.sigma = 0
    assert photo.tobytes() == before
    assert spade.sigma == 4


# ---- strokes in progress ---------------------------------------------------------------------------------------------


def test_a_longer_stroke_replaces_its_shorter_version(painting):
    draw(painting, points(1), "first")
    draw(painting, points(4), "first")
    assert len(painting.strokes) == 1
    assert len(painting.strokes[0].points) == 4
    draw(painting, points(2, 90), "second")
    assert [len(stroke.points) for stroke in painting.strokes] == [4, 2]
    painting.stroke("brush", LINE)
    draw(painting, points(3, 90), "second")  # arrives late, and replaces no stroke from Python
    assert [len(stroke.points) for stroke in painting.strokes] == [4, 2, 3, 3]
    assert painting.strokes[0].colour == (255, 0, 0)


def test_the_page_gets_a_reply_even_if_nothing_changes(painting):
    """For example when erasing an unpainted area; without a reply, the page counts as disconnected."""
    answers = []
    painting.observe(lambda change: answers.append(change["new"]["strokes"]), "photo")
    for count in (2, 4, 4):
        draw(painting, points(count), "first", tool="erase")
    assert answers == [1, 1, 1]
    tell(painting, "clear")
    tell(painting, "clear")
    assert answers == [1, 1, 1, 0, 0]


def test_undo_during_a_stroke_keeps_the_other_strokes(painting):
    painting.stroke("scratch", LINE)
    draw(painting, points(2), "first")
    tell(painting, "undo")
    draw(painting, points(5), "first")  # drawing continues
    assert [stroke.tool for stroke in painting.strokes] == ["scratch", "brush"]


def test_clear_and_redo_during_a_stroke_keep_the_other_strokes(painting):
    draw(painting, points(2), "first")
    painting.stroke("scratch", LINE)
    painting.undo()
    tell(painting, "clear")
    tell(painting, "redo")
    tell(painting, "redo")
    tell(painting, "undo")
    assert [stroke.tool for stroke in painting.strokes] == ["brush"]
    draw(painting, points(3, 90), "second")
    tell(painting, "clear")
    tell(painting, "redo")
    draw(painting, points(4, 90), "second")
    assert [len(stroke.points) for stroke in painting.strokes] == [2, 4]


def test_a_stroke_continued_on_another_photo_replaces_none_there(painting):
    painting.index = 1
    painting.stroke("scratch", LINE)
    painting.index = 0
    draw(painting, points(2), "first")
    painting.index = 1
    draw(painting, points(4), "first")
    assert [stroke.tool for stroke in painting.strokes] == ["scratch", "brush"]
    painting.index = 0
    assert [len(stroke.points) for stroke in painting.strokes] == [2]


def test_cells_and_the_page_may_paint_at_the_same_time(painting, spade):
    """Page messages arrive in a separate thread: a cell paints while the page's stroke is being judged."""
    judge, judging, painted = painting.spade.judge, Event(), Event()

    def judge_slowly(*photo, **options):
        result = judge(*photo, **options)
        if current_thread() is page:
            judging.set()
            painted.wait(0.5)
        return result

    painting.spade.judge = judge_slowly
    page = Thread(target=draw, args=(painting, points(20), "first"))
    page.start()
    assert judging.wait(10)
    painting.stroke("scratch", LINE)
    painted.set()
    page.join()
    assert sorted(stroke.tool for stroke in painting.strokes) == ["brush", "scratch"]
    assert painting.photo["strokes"] == 2
    result = spade.predict(painting.painted)
    seen = np.frombuffer(painting.photo["seen"]["distance"], "<f4").reshape(56, 56)
    np.testing.assert_array_equal(seen, result.correspondence.distance)
    np.testing.assert_array_equal(painting.result.anomaly_map, result.anomaly_map)


# ---- data for the page -----------------------------------------------------------------------------------------------


def test_a_page_has_the_painted_crop_its_mask_and_the_matches(painting, spade, demo):
    assert painting.photo["mask"] is None
    painting.stroke("brush", LINE, size=12)
    photo, result = painting.photo, spade.predict(painting.painted)
    assert (photo["index"], photo["size"], photo["strokes"], photo["undone"]) == (0, [224, 224], 1, 0)
    picture = np.asarray(Image.open(BytesIO(photo["jpeg"]))).astype(int)
    assert np.abs(picture - result.crop.cut(painting.painted)).mean() < 2
    visible = differs(demo.test[0].image, painting.painted)
    mask = np.unpackbits(np.frombuffer(photo["mask"], np.uint8)).reshape(224, 224)
    np.testing.assert_array_equal(mask, result.crop.cut_mask(visible))
    assert photo["before"] == spade.predict(demo.test[0]).image_score
    found, seen = result.correspondence, photo["seen"]
    assert (seen["grid"], seen["sigma"]) == ([56, 56], 4)
    numbers = np.array(seen["normals"])[np.frombuffer(seen["image"], "<u2")]
    np.testing.assert_array_equal(numbers[:, 0], result.neighbours.index[found.image[0]].ravel())
    np.testing.assert_array_equal(np.frombuffer(seen["distance"], "<f4"), found.distance.ravel())
    np.testing.assert_array_equal(np.frombuffer(seen["place"], "<u4"), (56 * found.row + found.col).ravel())


def test_the_reference_level_comes_from_a_few_photos_first_and_then_from_all(painting, spade, left_out):
    scores = [result.image_score for result in left_out]
    first = painting.normals
    assert first["of"] == 12
    assert 1 < len(first["scores"]) < 12
    assert all(min(abs(score - other) for other in scores) < 1e-3 for score in first["scores"])
    painting.stroke("brush", LINE)
    assert painting.normals == first  # the scale does not depend on the strokes
    painting.finish()
    assert painting.normals["level"] == spade.normal_level
    np.testing.assert_allclose(painting.normals["scores"], sorted(scores), rtol=1e-6)


def test_a_page_gets_what_it_requests(painting, sent, spade, demo):
    painting.stroke("brush", LINE)
    for kind in ("hello", "pair", "png", "page"):
        tell(painting, kind)
    tell(painting, "normals", images=[3, 11])
    contents = [content for content, _ in sent]
    names = ["chip-000-painted.png", "chip-000-painted_mask.png", "chip-000-painted.png", "chip-000-painted.html"]
    assert contents[0] == {"kind": "here"}
    assert contents[1:5] == [{"kind": "file", "name": name} for name in names]
    photo, mask = (np.asarray(Image.open(BytesIO(sent[at][1][0]))) for at in (1, 2))
    np.testing.assert_array_equal(photo, painting.painted)
    np.testing.assert_array_equal(mask, 255 * differs(demo.test[0].image, painting.painted))
    assert Image.open(BytesIO(sent[3][1][0])).width > 1000
    assert sent[4][1][0].startswith(b"<!doctype html>")
    assert contents[5] == {"kind": "normals", "images": [3, 11]}
    for image, crop in zip((3, 11), sent[5][1]):
        np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(crop))), spade.normal_image(image))
    assert painting.problem == ""


def test_the_static_preview_is_deterministic(painting):
    painting.stroke("stain", LINE)
    data, _ = painting._repr_mimebundle_()
    again, _ = painting._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert (data["image/png"], data["text/plain"]) == (again["image/png"], again["text/plain"])
    painting.undo()
    other, _ = painting._repr_mimebundle_()
    assert other["image/png"] != data["image/png"]


def test_a_saved_page_is_small_self_contained_and_complete(painting, tmp_path):
    painting.stroke("stain", LINE)
    painting.save_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 1_500_000
    text = read_saved(tmp_path / "page.html")
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<title>chip/000, painted</title>" in text
    (packed,) = re.findall(r'"jpeg": \{"base64": "([^"]*)"\}', text)
    assert b64decode(packed) == painting.photo["jpeg"]
    assert str(tmp_path) not in text  # no local paths in the page


def test_the_pages_code_is_one_module_without_imports():
    text = join_modules("saved.js") + join_modules("painting.js")
    assert not re.findall(r"^(import .*|export (?!default).*)$", text, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names)) > 20


# ---- kept images -----------------------------------------------------------------------------------------------------


def test_a_kept_photo_and_its_mask_are_in_the_mvtec_layout(painting, demo, tmp_path):
    painting.stroke("brush", LINE)
    sample = painting.keep("hand made")
    folder = tmp_path / "painted"
    assert sample.path == folder / "test/hand made/000.png"
    assert sample.mask_path == folder / "ground_truth/hand made/000_mask.png"
    assert (sample.label, sample.masked) == ("hand made", True)
    np.testing.assert_array_equal(np.asarray(Image.open(sample.path)), painting.painted)
    visible = differs(demo.test[0].image, painting.painted)
    np.testing.assert_array_equal(np.asarray(Image.open(sample.mask_path)), 255 * visible)
    (folder / "train/good").mkdir(parents=True)
    copy(demo.train[0].path, folder / "train/good")
    again = spade_kit.load_dataset(folder)
    assert again.layout == "MVTec AD layout"
    (read,) = again.test
    assert read.label == "hand made"
    np.testing.assert_array_equal(read.image, painting.painted)
    np.testing.assert_array_equal(read.mask, visible)


def test_a_stroke_of_the_page_waits_until_a_photo_is_kept_with_its_mask(painting, demo, monkeypatch):
    """Messages of the page arrive in a separate thread."""
    page = Thread(target=lambda: draw(painting, points(40), "late"))

    def encode_slowly(pixels):
        if page.ident is None:  # not started yet
            page.start()
            page.join(0.3)
        return encode_png(pixels)

    painting.stroke("brush", LINE)
    before = painting.painted
    monkeypatch.setattr("spade_kit.widgets.painting.encode_png", encode_slowly)
    sample = painting.keep()
    page.join()
    np.testing.assert_array_equal(sample.image, before)
    np.testing.assert_array_equal(sample.mask, differs(demo.test[0].image, before))
    assert len(painting.strokes) == 2


def test_a_kept_photo_is_evaluated_with_the_test_photos(spade, demo, tmp_path):
    few = replace(demo, test=demo.test[4:8])
    painting = paint_defect(spade, few, folder=tmp_path)
    painting.index = 3
    painting.stroke("brush", LINE, size=10)
    sample = painting.keep("brush")
    assert painting.dataset.test == [*few.test, sample]
    assert (painting.dataset.name, painting.dataset.train) == (few.name, few.train)
    assert len(few.test) == 4  # the input is not modified
    np.testing.assert_array_equal(painting.dataset.test[-1].image, painting.painted)
    np.testing.assert_array_equal(painting.dataset.test[-1].mask, painting.mask)
    assert painting.kept == ["brush/000"]
    report = spade_kit.evaluate(spade, painting.dataset)
    row = report.to_frame().iloc[-1]
    assert (row["label"], row["path"]) == ("brush", str(sample.path))
    assert row["image_score"] == pytest.approx(painting.result.image_score, rel=1e-6)
    np.testing.assert_array_equal(report.judged(4).mask, painting.result.crop.cut_mask(painting.mask))
    assert report.metric("pixel_roc_auc", ["brush"]) > 0.9


def test_a_single_photo_starts_a_new_dataset(spade, demo, tmp_path):
    painting = paint_defect(spade, demo.test[6].path, folder=tmp_path)
    assert painting.dataset.train == demo.train[:12]
    assert painting.dataset.test == []
    painting.stroke("brush", LINE)
    sample = painting.keep()
    assert painting.dataset.test == [sample]
    assert files(tmp_path) == ["ground_truth/painted/000_mask.png", "test/painted/000.png"]


def test_numbering_continues_after_existing_files(painting, spade, demo, tmp_path):
    folder = tmp_path / "painted"
    (folder / "test/scratch").mkdir(parents=True)
    for stem in ("000", "002"):
        (folder / f"test/scratch/{stem}.png").write_bytes(b"somebody else's")
    painting.stroke("scratch", LINE)
    assert [painting.keep(kind).path.stem for kind in ("scratch", "stain", "scratch")] == ["001", "000", "003"]
    assert painting.kept == ["scratch/001", "stain/000", "scratch/003"]
    for stem in ("000", "002"):
        assert (folder / f"test/scratch/{stem}.png").read_bytes() == b"somebody else's"
    other = paint_defect(spade, demo, folder=folder)
    other.stroke("brush", LINE)
    assert other.keep("scratch").path.stem == "004"


def test_masks_of_photos_in_another_format_are_not_overwritten(painting, demo, tmp_path):
    """As in the demo: images are JPEGs, and ``000.jpg`` has ``000_mask.png``."""
    folder = tmp_path / "painted"
    for path, place in ((demo.test[0].path, "test/chip"), (demo.test[0].mask_path, "ground_truth/chip")):
        (folder / place).mkdir(parents=True)
        copy(path, folder / place)
    painting.stroke("scratch", LINE)
    sample = painting.keep("chip")
    truth = folder / "ground_truth/chip" / demo.test[0].mask_path.name
    assert truth.read_bytes() == demo.test[0].mask_path.read_bytes()
    assert sample.path.stem == "001"


@pytest.mark.parametrize("room", [0, 1], ids=["for nothing", "for the mask"])
@pytest.mark.parametrize("by", ["Python", "the page"])
def test_a_full_disk_is_reported_and_leaves_nothing_half_written(painting, monkeypatch, tmp_path, room, by):
    painting.stroke("brush", LINE)
    dataset, write, left = painting.dataset, Path.write_bytes, [room]

    def write_until_full(self, content):
        if not left[0]:
            write(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        return write(self, content)

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write_until_full)
        said = r"could not be written \(No space left on device\)\. Files written before are intact\. Free some space"
        if by == "Python":
            with pytest.raises(OSError, match=said):
                painting.keep("dent")
        else:
            tell(painting, "keep", label="dent")
            assert re.search(said, painting.problem)
    assert painting.dataset is dataset
    assert painting.kept == []
    assert files(tmp_path) == ["painted/ground_truth/dent/000_mask.png"][:room]
    for path in tmp_path.rglob("*.png"):
        Image.open(path).load()
    tell(painting, "keep", label="dent")  # once there is room
    assert painting.problem == ""
    assert len(painting.kept) == 1
    np.testing.assert_array_equal(painting.dataset.test[-1].image, painting.painted)
    np.testing.assert_array_equal(painting.dataset.test[-1].mask, painting.mask)


def test_a_photo_is_saved_with_its_mask_beside_it(painting, tmp_path):
    painting.stroke("brush", LINE)
    painting.save(tmp_path / "new" / "dent.png")
    assert files(tmp_path) == ["new/dent.png", "new/dent_mask.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new/dent.png")), painting.painted)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new/dent_mask.png")) > 0, painting.mask)
    with pytest.raises(ValueError, match=r"path must end in \.png, since PNG is lossless; got 'dent\.jpg'"):
        painting.save(tmp_path / "dent.jpg")
    assert not (tmp_path / "dent.jpg").exists()


@pytest.mark.parametrize("name", ["photo.png", "other.png"])
def test_saving_never_replaces_an_image_or_mask_of_the_user(spade, demo, tmp_path, name):
    photo, folder = tmp_path / "photo.png", tmp_path / "painted"
    photo.write_bytes(demo.test[6].path.read_bytes())
    (tmp_path / "other_mask.png").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    painting = paint_defect(spade, photo, folder=folder)
    painting.stroke("brush", LINE)
    for path in (tmp_path / name, tmp_path / "." / name):
        with pytest.raises(ValueError, match=r"png exists, and would be replaced\. Use another name, or delete it\."):
            painting.save(path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    painting.save(tmp_path / "new.png")
    again = paint_defect(spade, photo, folder=folder)
    again.stroke("brush", LINE)
    again.save(tmp_path / "new.png")  # the same once more
    again.stroke("brush", [(40, 40)])
    again.save(tmp_path / "new.png")  # what it wrote itself
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new_mask.png")) > 0, again.mask)


@pytest.mark.parametrize("label", ["", ".", "..", "../up", "a/b", "/etc", "scratch/", ".hidden", "good", "OK", None])
def test_an_invalid_defect_folder_name_is_rejected(painting, tmp_path, label):
    """Images labelled good are expected to have no mask: they would count as false alarms."""
    painting.stroke("brush", LINE)
    with pytest.raises(ValueError, match="label must be a defect type that is a valid folder name"):
        painting.keep(label)
    assert not list(tmp_path.rglob("*.png"))
    assert painting.kept == []


@pytest.mark.parametrize("label", [" ", "dent ", "\t", 5])
def test_a_defect_folder_name_is_text_without_blanks_around_it(painting, label):
    painting.stroke("brush", LINE)
    with pytest.raises(ValueError, match="label must be a defect type that is a valid folder name"):
        painting.keep(label)


def test_an_invisible_change_cannot_be_kept(painting, tmp_path):
    sentence = "The strokes made no visible change"
    with pytest.raises(ValueError, match=sentence):
        painting.keep()
    painting.stroke("brush", LINE, strength=0.01)
    painting.stroke("erase", [(150, 150)])
    with pytest.raises(ValueError, match=sentence):
        painting.keep()
    tell(painting, "keep", label="painted")
    assert painting.problem.startswith(sentence)
    assert not list(tmp_path.rglob("*.png"))


# ---- few images ------------------------------------------------------------------------------------------------------


def test_one_normal_photo_is_enough_to_paint(demo, tmp_path):
    painting = paint_defect(SPADE(k=1).fit(demo.train[:1]), demo.test[6], folder=tmp_path)
    before = painting.result.image_score
    assert painting.normals == {"level": pytest.approx(before / 2), "scores": [], "of": 0}
    painting.stroke("brush", LINE)
    painting.finish()
    assert painting.result.image_score > before
    assert painting.readout()["normals of 0 at or above"].tolist() == [0, 0]
    assert painting.keep().path.is_file()
    assert painting._repr_mimebundle_()[0]["image/png"].startswith(b"\x89PNG")
    painting.save_html(tmp_path / "page.html")


def test_arrays_are_enough_to_fit_and_to_paint_on(demo, tmp_path):
    spade = SPADE(k=2).fit([sample.image for sample in demo.train[:3]])
    painting = paint_defect(spade, [demo.test[6].image, demo.test[7].image], folder=tmp_path)
    assert (painting.dataset.train, painting.dataset.test) == ([], [])
    painting.index = 1
    painting.stroke("brush", LINE)
    painting.finish()
    assert painting.photos == [["photo 0", None], ["photo 1", None]]
    assert painting.keep().mask.any()
    assert len(painting.dataset.test) == 1
    np.testing.assert_array_equal(painting.result.anomaly_map, spade.predict(painting.painted).anomaly_map)
    painting.save_html(tmp_path / "page.html")


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "a dataset of normals alone"])
def test_without_a_photo_an_error_names_the_accepted_inputs(spade, demo, given):
    given = replace(demo, test=[]) if isinstance(given, str) else given
    with pytest.raises(ValueError, match=r"needs an image to paint on; got none\. Pass an image of dataset\.test"):
        paint_defect(spade, given)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"tool": "brsh"}, r"tool must be one of 'brush', 'scratch', .*; got 'brsh'. Did you mean 'brush'\?"),
        ({"points": []}, "brush needs at least one point; got none"),
        ({"tool": "move", "points": [(5, 5)]}, "move needs two points, start and end; got 1"),
        ({"tool": "move", "points": points(3)}, "move needs two points, start and end; got 3"),
        ({"points": [(5, nan)]}, "col must be a number of image pixels"),
        ({"points": [(1e9, 5)]}, "row must be a number of image pixels"),
        ({"points": [(1, 2, 3)]}, r"pairs? \(row, col\)"),
        ({"points": [(1, 2, 3), (4, 5, 6)]}, r"pairs? \(row, col\)"),  # not three pairs
        ({"points": (5, 5)}, r"pairs? \(row, col\)"),
        ({"points": None}, r"pairs? \(row, col\) of map pixels; got \[None\]"),
        ({"points": 5}, r"pairs? \(row, col\) of map pixels; got \[5\]"),
        ({"points": [("a", "b")]}, r"pairs? \(row, col\)"),
        ({"size": 0}, r"size must be a diameter from 0\.1 to 224 map pixels; got 0"),
        ({"size": 224.5}, r"size must be a diameter from 0\.1 to 224 map pixels; got 224\.5"),
        ({"size": nan}, "size must be a diameter"),
        ({"size": "4"}, "size must be a diameter"),
        ({"strength": 0}, "strength must be a number above 0, up to 1; got 0"),
        ({"strength": 1.5}, r"strength must be a number above 0, up to 1; got 1\.5"),
        ({"strength": "1"}, "strength must be a number above 0, up to 1; got '1'"),
        ({"colour": "bleu"}, "colour must be a colour name or a value like '#c82828'; got 'bleu'"),
        ({"colour": (1, 2, 3)}, "colour must be a colour name or a value like '#c82828'"),
        ({"colour": 5}, "colour must be a colour name or a value like '#c82828'; got 5"),
    ],
    ids=str,
)
def test_an_invalid_stroke_raises_an_error_and_changes_nothing(painting, wrong, sentence):
    painting.stroke("scratch", LINE)
    painting.undo()
    photo = painting.photo
    stroke = {"tool": "brush", "points": LINE} | wrong
    with pytest.raises(ValueError, match=sentence):
        painting.stroke(**stroke)
    assert painting.strokes == ()
    assert painting.photo is photo
    painting.redo()  # the undone stroke is still available
    assert [stroke.tool for stroke in painting.strokes] == ["scratch"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("index", 48, "index must refer to one of the images, from 0 to 47; got 48"),
        ("probe", (0, 224), r"0 <= row < 224 and 0 <= col < 224; got \(0, 224\)"),
    ],
)
def test_an_invalid_value_raises_an_error_and_changes_nothing(painting, name, value, sentence):
    painting.stroke("brush", LINE)
    before, result = getattr(painting, name), painting.result
    with pytest.raises(ValueError, match=sentence):
        setattr(painting, name, value)
    painting.set_state({name: value})
    assert re.search(sentence, painting.problem)
    assert getattr(painting, name) == before
    assert painting.photo["strokes"] == len(painting.strokes) == 1
    np.testing.assert_array_equal(painting.result.anomaly_map, result.anomaly_map)
    painting.set_state({"index": 1})
    assert (painting.index, painting.problem) == (1, "")


def test_an_error_is_reported_each_time_and_cleared_afterwards(painting):
    """Without a message, the page would wait until it counts as disconnected."""
    told = []
    painting.observe(lambda change: told.append(change["new"]), "problem")
    for _ in range(2):
        draw(painting, points(2), "first", size=300)
    assert [text[:25] for text in told if text] == ["size must be a diameter f"] * 2
    draw(painting, points(2), "second")
    assert painting.problem == ""
    for _ in range(2):
        tell(painting, "redo")
    assert told[-1] == "There is no stroke to redo."
    assert told.count(told[-1]) == 2
    tell(painting, "undo")
    assert painting.problem == ""


def test_an_error_during_a_stroke_keeps_what_was_drawn(painting):
    draw(painting, points(3), "first")
    draw(painting, points(5), "first", strength=0)
    assert "strength must be a number above 0" in painting.problem
    assert [len(stroke.points) for stroke in painting.strokes] == [3]
    draw(painting, points(6), "first")
    assert [len(stroke.points) for stroke in painting.strokes] == [6]


def test_an_unknown_message_is_an_error(painting):
    tell(painting, "stork")
    assert "Did you mean 'stroke'" in painting.problem


def test_an_unreadable_photo_is_named_and_the_strokes_on_others_stay(spade, demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    painting = paint_defect(spade, [demo.test[0], tmp_path / "broken.png"], folder=tmp_path)
    painting.stroke("brush", LINE)
    painted = painting.painted
    with pytest.raises(ValueError, match=r"Cannot read .*broken\.png as an image"):
        painting.index = 1
    painting.set_state({"index": 1})
    assert re.search(r"Cannot read .*broken\.png as an image", painting.problem)
    assert painting.index == painting.photo["index"] == 0
    np.testing.assert_array_equal(painting.painted, painted)
    np.testing.assert_array_equal(painting.result.anomaly_map, spade.predict(painted).anomaly_map)
