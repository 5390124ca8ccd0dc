"""A folder judged without labels: the table, the pictures, and the errors."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spade_kit import SPADE, Sample, batch, evaluate
from spade_kit._files import Item, RunFolder, as_path, encode_png, encode_rows, encode_tiff, write_whole
from spade_kit.batch import COLUMNS, REGIONS
from spade_kit.datasets.images import UnreadablePhotoError


@pytest.fixture
def line(demo, tmp_path) -> Path:
    """Images as from a production line: some in subfolders, one broken."""
    folder = tmp_path / "line"
    for sample, name in zip(demo.test[::9], ("10.png", "9.png", "monday/a b.png", "monday/ä/ß.png", "x.png", "y.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.path, folder / name)
    whole = (folder / "x.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[:2000])
    (folder / "notes.txt").write_text("no photo")
    return folder


NAMES = ["9.png", "10.png", "broken.png", "monday/a b.png", "monday/ä/ß.png", "x.png", "y.png"]


def test_every_photo_gets_a_row_and_two_pictures(spade, demo, line, tmp_path, capsys):
    frame = spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    assert list(frame.columns) == list(COLUMNS)
    assert frame["path"].tolist() == NAMES
    threshold = spade.threshold(0.2, of="image")
    for row in frame.itertuples():
        if row.path == "broken.png":
            assert row.verdict == "not judged"
            assert f"Cannot read {line / 'broken.png'} as an image" in row.reason
            continue
        result = spade.predict(line / row.path)
        assert row.image_score == pytest.approx(result.image_score, rel=1e-5)
        assert row.retrieval_score == pytest.approx(result.retrieval_score, rel=1e-5)
        assert row.verdict == ("anomalous" if result.image_score >= threshold else "normal")
        assert row.nearest_normal == demo.train[result.neighbours.index[0]].path.name
        on_photo = result.on_photo()
        assert on_photo[row.row, row.col] == pytest.approx(np.nanmax(on_photo), rel=1e-4)
        with Image.open(tmp_path / "out/maps" / Path(row.path).with_suffix(".tiff")) as values:
            assert values.mode == "F"
            raw = np.asarray(values)
        np.testing.assert_allclose(raw, np.nan_to_num(on_photo), rtol=1e-4)  # computed in another batch
        with Image.open(tmp_path / "out/segmentations" / row.path) as marked:
            np.testing.assert_array_equal(np.asarray(marked) > 0, raw >= spade.threshold())
    beyond = (frame["verdict"] == "anomalous").sum()
    assert 0 < beyond < 6
    said = capsys.readouterr().out
    assert said.startswith(f"7 images: {beyond} reach the threshold of {threshold:.4g}, as about 20 % of normal images")
    assert "(estimated from 12); 1 not judged, see the column reason. The table is results.csv. 77 % of each" in said
    pandas.testing.assert_frame_equal(
        pandas.read_csv(tmp_path / "out/results.csv", keep_default_na=False).astype(str),
        frame.astype(object).where(frame.notna(), "").astype(str),
    )


def test_the_regions_of_every_image_stand_beside_the_table(spade, line, tmp_path):
    frame = spade.predict_folder(line, tmp_path / "out", fpr=0.2).set_index("path")
    found = pandas.read_csv(tmp_path / "out/regions.csv")
    assert list(found.columns) == list(REGIONS)
    assert found["path"].unique().tolist() == ["monday/a b.png", "monday/ä/ß.png", "x.png", "y.png"]  # as in the table
    for name in (name for name in NAMES if name != "broken.png"):
        rows = found[found["path"] == name]
        expected = spade.predict(line / name).regions(spade.threshold()).reset_index()
        pandas.testing.assert_frame_equal(
            rows.drop(columns="path").reset_index(drop=True), expected, check_dtype=False, rtol=1e-5, atol=0.05
        )
        assert frame.loc[name, "regions"] == len(expected)
        assert frame.loc[name, "area"] == pytest.approx(expected["area"].sum(), abs=0.05 * len(expected))
    assert pandas.isna(frame.loc["broken.png", "regions"])
    assert pandas.isna(frame.loc["broken.png", "area"])


@pytest.mark.parametrize("lost", ["a row", "all rows", "the table"])
def test_images_whose_regions_are_lost_are_judged_again(spade, line, tmp_path, lost, monkeypatch):
    whole, table = spade.predict_folder(line, tmp_path / "out", fpr=0.2), tmp_path / "out/regions.csv"
    before = table.read_bytes()
    lines = before.splitlines(keepends=True)
    if lost == "the table":
        table.unlink()
    else:
        table.write_bytes(b"".join(lines[:1] if lost == "all rows" else [*lines[:2], *lines[3:]]))
    finish, judged = batch._finish, []
    monkeypatch.setattr(batch, "_finish", lambda *given: judged.append(given[3].name) or finish(*given))
    pandas.testing.assert_frame_equal(spade.predict_folder(line, tmp_path / "out", fpr=0.2), whole)
    assert table.read_bytes() == before
    assert {*judged} == {"broken.png", "ß.png"} | (set() if lost == "a row" else {"a b.png", "x.png", "y.png"})


def test_an_image_that_changed_does_not_keep_its_old_regions(spade, line, tmp_path):
    spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    before = pandas.read_csv(tmp_path / "out/regions.csv").drop(columns="path")
    shutil.copy(line / "monday/ä/ß.png", line / "y.png")
    (line / "x.png").write_bytes(b"broken")
    spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    after = pandas.read_csv(tmp_path / "out/regions.csv")
    assert after["path"].tolist() == ["monday/a b.png", *["monday/ä/ß.png"] * 3, *["y.png"] * 3]
    pandas.testing.assert_frame_equal(
        after.drop(columns="path"), before.iloc[[0, 1, 2, 3, 1, 2, 3]].reset_index(drop=True)
    )


def test_results_from_before_there_were_regions_are_refused(spade, line, tmp_path):
    spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    table = tmp_path / "out/results.csv"
    older = pandas.read_csv(table).drop(columns=["regions", "area"])
    older.to_csv(table, index=False)
    (tmp_path / "out/regions.csv").unlink()
    with pytest.raises(
        ValueError, match=r"results\.csv must have the columns path, .*, regions, area, .*; got path, verd"
    ):
        spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    pandas.testing.assert_frame_equal(pandas.read_csv(table), older)


def test_an_interrupted_run_is_resumed(spade, line, tmp_path, monkeypatch):
    whole = spade.predict_folder(line, tmp_path / "whole", fpr=0.2)
    finish, finished = batch._finish, []

    def interrupted(*given):
        finished.append(given[3].name)
        if finished.count("a b.png") == 1 and given[3].name == "a b.png":
            raise KeyboardInterrupt
        return finish(*given)

    monkeypatch.setattr(batch, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    assert len((tmp_path / "out/results.csv").read_text().splitlines()) == 4
    finished[:] = ["a b.png"]
    again = spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    assert sorted(finished[1:]) == ["a b.png", "broken.png", "x.png", "y.png", "ß.png"]  # the unreadable one, too
    pandas.testing.assert_frame_equal(again, whole)


def test_an_incomplete_row_is_rewritten(spade, line, tmp_path):
    whole = spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    table = tmp_path / "out/results.csv"
    text = table.read_text()
    table.write_text(text[: text.index("y.png") + 9])
    pandas.testing.assert_frame_equal(spade.predict_folder(line, tmp_path / "out", fpr=0.2), whole)
    assert table.read_text() == text


def test_a_note_as_the_reason_of_a_judged_image_is_kept(spade, line, tmp_path):
    spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    table = tmp_path / "out/results.csv"
    noted = pandas.read_csv(table, dtype=str, keep_default_na=False)
    noted.loc[noted["image_score"] != "", "reason"] = "dust, Ann"
    noted.to_csv(table, index=False)
    before = table.read_bytes()
    with pytest.raises(ValueError, match=r"Row 2 of .*results\.csv must be as it was written; got .*dust, Ann"):
        spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    assert table.read_bytes() == before


CHANGED = {
    "a column": lambda rows: [[*row, "note" if at == 0 else "by Ann"] for at, row in enumerate(rows)],
    "a column without a name": lambda rows: [[*row, "" if at == 0 else "by Ann"] for at, row in enumerate(rows)],
    "no column": lambda rows: [row[:-1] for row in rows],
    "another order": lambda rows: [row[::-1] for row in rows],
    "another name": lambda rows: [["file", *rows[0][1:]], *rows[1:]],
    "no head": lambda rows: rows[1:],
    "a note in a row": lambda rows: [*rows[:-1], [*rows[-1], "by Ann"]],
    "a note between rows": lambda rows: [*rows[:2], ["# checked by Ann"], *rows[2:]],
    "a note below": lambda rows: [*rows, ["checked by Ann"]],
    "a row of empty cells": lambda rows: [*rows, [""] * len(rows[0])],
    "a row without its name": lambda rows: [*rows[:2], ["", *rows[2][1:]], *rows[3:]],
    "a note in place of a number": lambda rows: [*rows[:2], [*rows[2][:2], "see Ann", *rows[2][3:]], *rows[3:]],
}


@pytest.mark.parametrize("change", CHANGED)
@pytest.mark.parametrize("name", ["results", "regions"])
def test_a_table_that_was_changed_by_hand_is_not_written_again(spade, line, tmp_path, name, change):
    spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    table = tmp_path / f"out/{name}.csv"
    with table.open(newline="", encoding="utf-8") as lines:
        rows = CHANGED[change](list(csv.reader(lines)))
    with table.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows(rows)
    (tmp_path / "out/maps/9.tiff").unlink()  # something is left to do
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = rf"{name}\.csv must (have the columns path, .*; got |be as it was written; got ).*\. Keep your"
    with pytest.raises(ValueError, match=said) as refused:
        spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    assert ("got also 'note'. " in str(refused.value)) == (change == "a column")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_table_that_a_spreadsheet_saved_again_is_read(spade, line, tmp_path):
    whole = spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    for table in (tmp_path / "out/results.csv", tmp_path / "out/regions.csv"):
        before = table.read_bytes()
        table.write_bytes(b"\xef\xbb\xbf" + before.replace(b"\n", b"\r\n").replace(b"False", b"FALSE"))
        pandas.testing.assert_frame_equal(spade.predict_folder(line, tmp_path / "out", fpr=0.2), whole)
        assert table.read_bytes() == before


@pytest.mark.parametrize("gone", [FileNotFoundError("gone"), UnreadablePhotoError("cut")])
def test_an_image_that_is_gone_before_its_overlay_is_drawn_is_not_judged(spade, line, tmp_path, monkeypatch, gone):
    read = batch.images.read_image

    def read_most(path):
        if path.name == "y.png":
            raise gone
        return read(path)

    monkeypatch.setattr(batch.images, "read_image", read_most)
    table = spade.predict_folder(line, tmp_path / "out", fpr=0.2, overlays=True).set_index("path")
    assert table["verdict"].eq("not judged").sum() == 2
    assert str(gone) in table.loc["y.png", "reason"]
    assert not list((tmp_path / "out").rglob("y.*"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", ["no", 0, None])
@pytest.mark.parametrize("name", ["maps", "overlays"])
def test_maps_and_overlays_are_switches(spade, line, tmp_path, name, wrong):
    with pytest.raises(ValueError, match=f"{name} must be True or False; got {wrong!r}"):
        spade.predict_folder(line, tmp_path / "out", fpr=0.2, **{name: wrong})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gone", ["", "segmentations"])
def test_files_that_are_removed_during_a_run_are_missed_and_written_by_the_next(
    spade, line, tmp_path, monkeypatch, gone
):
    out, finish, seen = tmp_path / "out", batch._finish, []
    whole = spade.predict_folder(line, tmp_path / "whole", fpr=0.2)

    def interfere(*given):
        seen.append(given)
        if len(seen) == 3:
            shutil.rmtree(out / gone)
        return finish(*given)

    monkeypatch.setattr(batch, "_finish", interfere)
    monkeypatch.setattr("spade_kit.features.pyramid._choose_threads", lambda *_: 1)
    with pytest.warns(
        UserWarning, match=r"Files of \d images in .*out were removed while it was written, such as \w+/"
    ):
        spade.predict_folder(line, out, fpr=0.2)
    pandas.testing.assert_frame_equal(spade.predict_folder(line, out, fpr=0.2), whole)
    for file in (tmp_path / "whole").rglob("*.*"):
        assert (out / file.relative_to(tmp_path / "whole")).is_file()


def test_results_of_another_run_are_not_mixed_in(spade, line, tmp_path):
    spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    before = (tmp_path / "out/results.csv").read_text()
    with pytest.raises(
        ValueError, match=r"holds results of another run: options was 'K=5, .*' and is now 'K=2, .*another folder"
    ):
        spade.with_options(k=2).predict_folder(line, tmp_path / "out", fpr=0.2)
    for name in ("results", "regions"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.csv").write_text("something,else\n")
        with pytest.raises(ValueError, match=rf"holds a {name}\.csv but no run\.json, so its run is unknown"):
            spade.predict_folder(line, tmp_path / name, fpr=0.2)
    assert (tmp_path / "out/results.csv").read_text() == before
    assert json.loads((tmp_path / "out/run.json").read_text())["normals"] == 12


def test_a_full_disk_raises_an_error_and_written_files_stay_intact(spade, line, tmp_path, monkeypatch):
    whole = spade.predict_folder(line, tmp_path / "whole", fpr=0.2)
    write, room = Path.write_bytes, 7

    def write_until_full(self, content):
        nonlocal room
        room -= 1
        if room < 0:
            write(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    with pytest.raises(
        OSError, match=r"could not be written \(No space left on device\)\. Files written before are intact"
    ):
        spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    monkeypatch.undo()
    assert 1 <= len(pandas.read_csv(tmp_path / "out/results.csv")) <= 3  # two images are written at a time
    for path in (tmp_path / "out").rglob("*.tiff"):
        Image.open(path).load()
    assert not list((tmp_path / "out").rglob("*.writing"))
    pandas.testing.assert_frame_equal(spade.predict_folder(line, tmp_path / "out", fpr=0.2), whole)


def test_names_are_kept_apart_and_short_enough(spade, demo, tmp_path):
    folder = tmp_path / "line"
    folder.mkdir()
    photo = Image.fromarray(demo.test[0].image)
    for name in ("same.png", "same.jpg", "n" * 251 + ".png"):
        photo.save(folder / name)
    (folder / "loop").symlink_to(folder)
    frame = spade.predict_folder(folder, folder / "out", fpr=0.2)
    assert len(frame) == 3
    assert (frame["verdict"] != "not judged").all()
    written = sorted(path.name for path in (folder / "out/maps").iterdir())
    assert written[1:] == ["same.jpg.tiff", "same.png.tiff"]
    assert written[0].startswith("n" * 200)
    again = spade.predict_folder(folder, folder / "out", fpr=0.2)  # its own outputs are not read as photos
    pandas.testing.assert_frame_equal(again, frame)


NAMES_ON_DISK = [
    *(
        b"a.jpg",
        b"a.png",
        b"a.jpg.png",
        b"a-pi\xe8ce.png",
        b"a-pi\xe9ce.png",
        b"=cmd('x').png",
        b"a\rb.png",
        b"a\nb.png",
    ),
    *(
        b"a\\rb.png",
        b'say "$9" $.png',
        b"n" * 251 + b".png",
        b"n" * 251 + b".jpg",
        b"A.bmp",
        b"-1.png",
        b"sub.png/x.png",
    ),
    *(b"sub.bmp", b"sub.tiff/x.png", b"@b.png", b"'c.png", b"./ d.png", "\u202ee.png".encode()),
]


def test_any_name_gives_a_row_and_two_pictures_of_its_own(spade, demo, tmp_path, capsys):
    folder = tmp_path / "line"
    for number, name in enumerate(NAMES_ON_DISK):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(demo.test[number].image).save(path, "PNG")
    frame = spade.predict_folder(folder, tmp_path / "out", fpr=0.2)
    assert (frame["verdict"] != "not judged").all()
    capsys.readouterr().out.encode()
    assert sorted(os.fsencode(as_path(text)) for text in frame["path"]) == sorted(
        os.fsencode(Path(os.fsdecode(name))) for name in NAMES_ON_DISK
    )
    with open(tmp_path / "out/results.csv", newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["path"] for row in rows] == frame["path"].tolist()
    with open(tmp_path / "out/regions.csv", newline="", encoding="utf-8") as lines:
        assert {row["path"] for row in csv.DictReader(lines)} == set(frame["path"][frame["regions"] > 0])
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    results = [spade.predict(folder / as_path(text)) for text in frame["path"]]
    np.testing.assert_allclose(frame["image_score"], [result.image_score for result in results], rtol=1e-5)
    maps = [np.asarray(Image.open(file)).max() for file in (tmp_path / "out/maps").rglob("*.tiff") if file.is_file()]
    np.testing.assert_allclose(sorted(maps), sorted(np.nanmax(result.on_photo()) for result in results), rtol=1e-4)
    assert sum(file.is_file() for file in (tmp_path / "out/segmentations").rglob("*")) == len(NAMES_ON_DISK)
    again = spade.predict_folder(folder, tmp_path / "out", fpr=0.2)
    pandas.testing.assert_frame_equal(again, frame)


def test_images_of_unsupported_formats_are_named(spade, line, tmp_path):
    (line / "monday/a.HEIC").write_bytes(b"heic")
    told = r"1 image of unsupported formats not judged: monday/a\.HEIC\. Convert them to PNG\."
    with pytest.warns(UserWarning, match=told):
        table = spade.predict_folder(line, tmp_path / "out", fpr=0.2).set_index("path")
    assert sorted(table.index) == sorted([*NAMES, "monday/a.HEIC"])
    assert table.loc["monday/a.HEIC", "verdict"] == "not judged"
    assert "its format is none of PNG, JPEG" in table.loc["monday/a.HEIC", "reason"]


def test_a_jpeg_called_heic_is_judged_and_not_called_unsupported(spade, line, tmp_path):
    Image.new("RGB", (64, 64), "grey").save(line / "monday/a.heic", "JPEG")
    with pytest.warns(UserWarning, match=r"1 image with an unknown extension, known by their content: monday/a\.heic"):
        table = spade.predict_folder(line, tmp_path / "out", fpr=0.2).set_index("path")
    assert table.loc["monday/a.heic", "verdict"] != "not judged"


def test_images_whose_names_do_not_say_so_are_named(spade, line, tmp_path):
    """Other files are not."""
    whole = (line / NAMES[0]).read_bytes()
    for name in ("b.png.bak", "c", "d.jpeg_large"):
        (line / "monday" / name).write_bytes(whole)
    (line / "monday/notes.txt").write_text("BM: II* GIF")
    told = r"3 images with an unknown extension, known by their content: monday/b\.png\.bak, monday/c, monday/d\.jpeg_l"
    with pytest.warns(UserWarning, match=told):
        table = spade.predict_folder(line, tmp_path / "out", fpr=0.2).set_index("path")
    others = ["monday/b.png.bak", "monday/c", "monday/d.jpeg_large"]
    assert sorted(table.index) == sorted([*NAMES, *others])
    assert set(table.loc[others, "image_score"]) == {table.loc[NAMES[0], "image_score"]}
    assert len(list((tmp_path / "out/maps").rglob("*.tiff"))) == len(NAMES) - 1 + 3


def test_a_fitted_photo_is_judged_against_the_others(spade, demo, tmp_path):
    (tmp_path / "line").mkdir()
    shutil.copy(demo.train[3].path, tmp_path / "line")
    frame = spade.predict_folder(tmp_path / "line", tmp_path / "out", fpr=0.2)
    assert frame["image_score"][0] == pytest.approx(spade.predict_left_out(3).image_score, rel=1e-5)


def test_with_few_normal_photos_the_rate_is_the_smallest_they_can_estimate(spade, line, tmp_path, capsys):
    spade.predict_folder(line, tmp_path / "out")
    assert "as about 7.7 % of normal images do" in capsys.readouterr().out
    with pytest.warns(UserWarning, match=r"A false-alarm rate of 0\.01 needs at least 99 normal scores; got 12"):
        spade.predict_folder(line, tmp_path / "strict", fpr=0.01)
    assert "as about 7.7 % of normal images do" in capsys.readouterr().out


def test_replaced_photos_and_missing_outputs_are_judged_again(spade, demo, line, tmp_path):
    before = spade.predict_folder(line, tmp_path / "out", fpr=0.2).set_index("path")
    (tmp_path / "out/maps/9.tiff").unlink()
    shutil.copy(demo.test[26].path, line / "10.png")
    after = spade.predict_folder(line, tmp_path / "out", fpr=0.2).set_index("path")
    assert (tmp_path / "out/maps/9.tiff").is_file()
    assert after.loc["10.png", "image_score"] == pytest.approx(spade.predict(demo.test[26]).image_score, rel=1e-5)
    assert before.drop("10.png").equals(after.drop("10.png"))


def test_failed_photos_are_tried_again_even_if_outputs_exist(spade, line, tmp_path):
    spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    shutil.copy(line / "x.png", line / "broken.png")
    for name in ("maps/broken.tiff", "segmentations/broken.png"):  # of an earlier run, and newer than the photo
        (tmp_path / "out" / name).touch()
    rows = spade.predict_folder(line, tmp_path / "out", fpr=0.2).set_index("path")
    assert rows.loc["broken.png"].drop("modified").equals(rows.loc["x.png"].drop("modified"))


def test_results_are_not_read_as_photos_even_in_the_same_folder(spade, line):
    first = spade.predict_folder(line, line, fpr=0.2)
    assert first["path"].tolist() == spade.predict_folder(line, line, fpr=0.2)["path"].tolist() == NAMES


@pytest.mark.parametrize(
    "foreign", ["segmentations/9.png", "segmentations/u.png", "maps/9.tiff", "overlays/deep/m.txt"]
)
@pytest.mark.parametrize("inside", [True, False], ids=["into the input folder", "into a new folder"])
@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.filterwarnings("ignore:1 mask not judged")  # a folder of the user's named segmentations
def test_files_of_the_user_are_never_overwritten(spade, line, tmp_path, foreign, inside, maps):
    out = line if inside else tmp_path / "out"
    (out / foreign).parent.mkdir(parents=True)
    (out / foreign).write_bytes(b"mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = rf"{foreign.split('/')[0]} must be empty before a new run; it holds .* Use another folder for the results\."
    with pytest.raises(ValueError, match=said):
        spade.predict_folder(line, out, fpr=0.2, maps=maps)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_evaluation_does_not_overwrite_files_of_the_user_either(spade, demo, tmp_path):
    for name in ("maps", "photos"):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "mine.txt").touch()
        with pytest.raises(ValueError, match=rf"{name}/{name} must be empty before a new run; it holds mine\.txt"):
            evaluate(spade, demo.test[:2], folder=tmp_path / name)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/photos.parquet").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds a photos\.parquet but no run\.json, so its run is unknown"):
        evaluate(spade, demo.test[:2], folder=tmp_path / "new")
    assert (tmp_path / "new/photos.parquet").read_bytes() == b"mine"


@pytest.mark.parametrize("foreign", ["photos/00000.npz", "photos/notes.txt", "photos.parquet"])
def test_a_report_does_not_overwrite_files_of_the_user_either(spade, demo, tmp_path, foreign):
    report = evaluate(spade, demo.test[:2])
    (tmp_path / "out" / foreign).parent.mkdir(parents=True)
    (tmp_path / "out" / foreign).write_bytes(b"mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"out(/photos must be empty before a new| holds a photos\.parquet but no)"):
        report.save(tmp_path / "out")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before
    report.save(tmp_path / "new")
    report.save(tmp_path / "new")  # its own files are written again


def test_empty_folders_for_results_are_used(spade, line, tmp_path):
    for name in ("maps", "segmentations"):
        (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out/maps/.DS_Store").touch()
    assert spade.predict_folder(line, tmp_path / "out", fpr=0.2)["path"].tolist() == NAMES


@pytest.mark.parametrize("damage", ["cut", "empty", "without its last byte", "a folder"])
@pytest.mark.parametrize("name", ["segmentations/9.png", "maps/9.tiff"])
def test_outputs_that_were_cut_are_written_again(spade, line, tmp_path, name, damage):
    rows, file = spade.predict_folder(line, tmp_path / "out", fpr=0.2), tmp_path / "out" / name
    whole = file.read_bytes()
    file.unlink()
    if damage == "a folder":
        file.mkdir()
        with pytest.raises(OSError, match=f"{file.name} could not be written"):
            spade.predict_folder(line, tmp_path / "out", fpr=0.2)
        return
    file.write_bytes(whole[: {"cut": len(whole) // 2, "empty": 0}.get(damage, -1)])
    assert spade.predict_folder(line, tmp_path / "out", fpr=0.2).equals(rows)
    assert file.read_bytes() == whole


@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.data())
def test_a_picture_is_whole_only_with_its_last_byte(size, data):
    values = np.random.default_rng(sum(size)).random(size, np.float32)
    for suffix, content in ((".tiff", encode_tiff(values)), (".png", encode_png(values > 0.5))):
        with tempfile.TemporaryDirectory() as folder:
            item = Item({}, [], [Path(folder, f"x{suffix}")])
            item.files[0].write_bytes(content)
            assert item.is_done({})
            item.files[0].write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
            assert not item.is_done({})


@pytest.mark.parametrize(("content", "said"), [
    (b"[" * 100_000, "run.json is damaged"), (b"{}", r"run.json is damaged \(it is empty\)"), (b"[]", "it is empty"),
])  # fmt: skip
def test_a_damaged_manifest_is_refused_in_a_sentence(spade, line, tmp_path, content, said):
    spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    (tmp_path / "out/run.json").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        spade.predict_folder(line, tmp_path / "out", fpr=0.2)


def test_a_second_batch_in_the_same_folder_gets_no_verdicts_of_the_first(spade, demo, tmp_path):
    """The same names, sizes and times; one batch is all good, the other all defects."""
    kinds = {"first": "good", "second": "thread"}
    for name, kind in kinds.items():
        (tmp_path / name).mkdir()
        chosen = [sample for sample in demo.test if sample.label == kind][:2]
        for at, sample in enumerate(chosen):
            Image.fromarray(sample.image).save(tmp_path / name / f"{at}.bmp")
            os.utime(tmp_path / name / f"{at}.bmp", (1, 1))
    spade.predict_folder(tmp_path / "first", tmp_path / "out", fpr=0.2)
    alone = spade.predict_folder(tmp_path / "second", tmp_path / "alone", fpr=0.2)
    with pytest.raises(
        ValueError, match=r"out holds results of another run: input was '.*/first' and is now '.*/second'"
    ):
        spade.predict_folder(tmp_path / "second", tmp_path / "out", fpr=0.2)
    shutil.rmtree(tmp_path / "first")
    shutil.move(tmp_path / "second", tmp_path / "first")  # a folder that is filled again every day
    again = spade.predict_folder(tmp_path / "first", tmp_path / "out", fpr=0.2)
    pandas.testing.assert_frame_equal(again, alone)
    for kind in ("maps", "segmentations"):
        for file in (tmp_path / "out" / kind).iterdir():
            assert file.read_bytes() == (tmp_path / "alone" / kind / file.name).read_bytes()


def test_maps_are_optional_and_made_when_asked_for(spade, line, tmp_path):
    without = spade.predict_folder(line, tmp_path / "out", fpr=0.2, maps=False)
    assert not (tmp_path / "out/maps").exists()
    assert len(list((tmp_path / "out/segmentations").rglob("*.png"))) == 6
    pandas.testing.assert_frame_equal(spade.predict_folder(line, tmp_path / "out", fpr=0.2), without)
    assert len(list((tmp_path / "out/maps").rglob("*.tiff"))) == 6


def test_maps_of_an_earlier_run_follow_an_image_that_was_replaced(spade, line, tmp_path):
    spade.predict_folder(line, tmp_path / "out", fpr=0.2, overlays=True)
    shutil.copy(line / NAMES[1], line / NAMES[0])
    spade.predict_folder(line, tmp_path / "out", fpr=0.2, maps=False)
    spade.predict_folder(line, tmp_path / "alone", fpr=0.2, overlays=True)
    for kind in ("maps", "overlays"):
        files = sorted(file.relative_to(tmp_path / "alone") for file in (tmp_path / "alone" / kind).rglob("*.*"))
        assert len(files) == 6
        for file in files:
            with Image.open(tmp_path / "out" / file) as one, Image.open(tmp_path / "alone" / file) as other:
                np.testing.assert_allclose(one, other, atol=0.01)


def test_overlays_show_each_image_with_its_regions_when_asked_for(spade, line, tmp_path):
    without = spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    assert not (tmp_path / "out/overlays").exists()
    frame = spade.predict_folder(line, tmp_path / "out", fpr=0.2, overlays=True)
    pandas.testing.assert_frame_equal(frame, without)
    for row in frame[frame["verdict"] != "not judged"].itertuples():
        with Image.open(line / row.path) as photo, Image.open(tmp_path / "out/overlays" / row.path) as drawn:
            before, after = np.asarray(photo.convert("RGB").resize(drawn.size)).astype(int), np.asarray(drawn)
        ringed = (after == (213, 94, 0)).all(-1)
        assert ringed.any() == (row.regions > 0)
        assert (before != after).any() == (row.regions > 0)
    assert not (tmp_path / "out/overlays/broken.png").exists()


@pytest.mark.parametrize("inside", [True, False])
def test_overlays_are_results_and_no_images(spade, line, tmp_path, inside):
    out = line if inside else tmp_path / "out"
    first = spade.predict_folder(line, out, fpr=0.2, overlays=True)
    assert first["path"].tolist() == spade.predict_folder(line, out, fpr=0.2, overlays=True)["path"].tolist() == NAMES


def test_a_file_that_the_system_cannot_read_is_named_and_the_others_are_judged(spade, line, demo, tmp_path):
    (line / "memory.png").symlink_to("/proc/self/mem")  # opens, but reading fails
    (line / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(line / "pipe.png")
    rows = spade.predict_folder(line, tmp_path / "out", fpr=0.2).set_index("path")
    lost = rows[rows["verdict"] == "not judged"]["reason"]
    assert list(lost.index) == ["broken.png", "gone.png", "memory.png", "pipe.png"]
    assert lost["memory.png"] == (
        f"Cannot read {line}/memory.png as an image: Input/output error. Check that it can be read, or leave it out."
    )
    assert lost["gone.png"] == f"Expected an image at {line}/gone.png, but there is no such file. Check the path."
    assert lost["pipe.png"] == (
        f"Cannot read {line}/pipe.png as an image: it is a pipe, a socket or a device. Save the image as a file."
    )
    with pytest.warns(UserWarning, match=r"Skipped 3 of 5 images\. .*gone\.png.*memory\.png.*pipe\.png"):
        fitted = SPADE(k=1).fit([*demo.train[:2], *(line / name for name in ("gone.png", "memory.png", "pipe.png"))])
    assert len(fitted) == 2


# ---- a run folder ----------------------------------------------------------------------------------------------------


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1) | st.sampled_from(
    ["a,b", 'say "9 mm"', "two\nlines", "\r", "\r\n", "\u2028", "ß/日本.png", '"', "\n"]
)
SCORED = {"path": str, "label": str, "score": float, "row": int, "note": str}


@given(
    st.lists(
        st.tuples(TEXT, st.none() | TEXT, st.none() | st.floats(), st.none() | st.integers(), TEXT),
        unique_by=lambda row: row[0],
    ),
    st.data(),
)
def test_a_row_comes_back_exactly_unless_it_was_cut_off(cells, data):
    rows = [{name: value for name, value in zip(SCORED, row) if value is not None} for row in cells]
    with tempfile.TemporaryDirectory() as folder:
        run, table = RunFolder(Path(folder), "table.csv", SCORED), Path(folder, "table.csv")
        file = Path(folder, "file")
        file.touch()
        items = [Item({"path": row["path"], "label": row.get("label")}, [], [file]) for row in rows]
        ends, again = [], []

        def judge(waiting):
            for at, row in enumerate(rows):
                yield at, waiting[at].complete(row, waiting[at].state)
                ends.append(table.stat().st_size)

        def judge_again(waiting):
            again.extend(waiting)
            return ((at, item.complete({}, item.state)) for at, item in enumerate(waiting))

        run.resume(items, judge)
        content = table.read_bytes()
        lines = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]  # some of them within a cell
        cut = data.draw(st.integers(0, len(content)) | st.sampled_from(lines))
        table.write_bytes(content[:cut])
        whole = sum(end <= cut for end in ends)
        found = run.resume(items, judge_again)
    assert again == items[whole:]
    for row, expected in zip(found[:whole], rows):
        assert repr(sorted(row.items())) == repr(sorted(({"label": None} | expected).items()))  # NaN is not itself


PARTS = {"path": str, "part": int, "value": float}


@given(
    st.lists(st.tuples(TEXT, st.lists(st.floats(allow_nan=False), max_size=3)), unique_by=lambda row: row[0]), st.data()
)
def test_a_run_that_ends_at_any_byte_is_resumed_to_the_same_tables(cells, data):
    rows = [{"path": path, "parts": len(values)} for path, values in cells]
    for row, (path, values) in zip(rows, cells):
        parts = [{"path": path, "part": at, "value": value} for at, value in enumerate(values)]
        row["parts.csv"] = encode_rows(parts, PARTS)
    finished = data.draw(st.permutations(range(len(rows))))
    written, append = [], RunFolder._append

    def note(run, row):
        written.extend((run.folder / table, run._lines(table, row)) for table in run._tables)
        append(run, row)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run = RunFolder(folder, "table.csv", {"path": str, "parts": int}, parts={"parts.csv": PARTS})
        items = [Item({"path": row["path"]}, [], []) for row in rows]
        tables = [folder / "parts.csv", folder / "table.csv"]

        def judge(waiting):
            for at in finished:
                yield at, rows[at]

        with mock.patch.object(RunFolder, "_append", note):
            run.resume(items, judge)
        whole = [table.read_bytes() for table in tables]
        run.write([])
        left = data.draw(st.integers(0, sum(len(added) for _, added in written)))
        for table, added in written:
            with table.open("ab") as lines:
                lines.write(added[:left])
            left = max(left - len(added), 0)
        named = {row["path"]: row for row in rows}
        run.resume(items, lambda waiting: ((at, named[item.name["path"]]) for at, item in enumerate(waiting)))
        assert [table.read_bytes() for table in tables] == whole


def test_two_runs_cannot_write_one_folder_and_a_killed_one_does_not_block_it(spade, line, tmp_path):
    out = tmp_path / "out"
    whole = spade.predict_folder(line, out, fpr=0.2)
    before = (out / "results.csv").read_bytes()
    script = (
        "import json, sys, time; from pathlib import Path; from spade_kit._files import RunFolder\n"
        "folder = Path(sys.argv[1])\n"
        "with RunFolder(folder, 'results.csv', {}).claim(json.loads((folder / 'run.json').read_text())):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, out], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(
                ValueError, match=r"out is in use: another run is writing to it\. Wait until it ends, or use"
            ):
                spade.predict_folder(line, out, fpr=0.2)
            assert (out / "results.csv").read_bytes() == before
        finally:
            other.kill()
    left = [out / ".0123.writing", out / "maps/.4567.writing", out / "segmentations/monday/.89ab.writing"]
    for path in left:
        path.write_bytes(b"half a picture")
    pandas.testing.assert_frame_equal(spade.predict_folder(line, out, fpr=0.2), whole)
    assert not any(path.exists() for path in left)


def test_temporary_files_have_unique_names(tmp_path, monkeypatch):
    write, passing = Path.write_bytes, []
    monkeypatch.setattr(Path, "write_bytes", lambda self, content: passing.append(self) or write(self, content))
    longest = tmp_path / ("n" * 251 + ".png")
    for _ in range(3):
        write_whole(longest, b"whole")
    assert len(set(passing)) == 3
    assert all(path.parent == tmp_path and path.name.startswith(".") for path in passing)
    assert list(tmp_path.iterdir()) == [longest]


def test_a_replaced_photo_does_not_keep_its_old_row(spade, demo, line, tmp_path, monkeypatch):
    """Killed between the pictures and the row: the existing row belongs to another photo."""
    spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    shutil.copy(demo.test[26].path, line / "10.png")

    def kill(self, row):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_append", kill)
        with pytest.raises(KeyboardInterrupt):
            spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    after = spade.predict_folder(line, tmp_path / "out", fpr=0.2).set_index("path")
    assert after.loc["10.png", "image_score"] == pytest.approx(spade.predict(demo.test[26]).image_score, rel=1e-5)


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_folder_without_photos_raises_an_error(spade, demo, tmp_path):
    line = tmp_path / "one"
    with pytest.raises(FileNotFoundError, match=r"Expected a folder of images at .*nowhere, but there is none"):
        spade.predict_folder(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "iphone").mkdir()
    (tmp_path / "iphone/a.heic").write_bytes(b"heic")
    with pytest.raises(FileNotFoundError, match=r"No images found in .*\. Convert files to a supported format: PNG, "):
        spade.predict_folder(tmp_path / "iphone", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"Expected a folder of images at .*a\.heic, but it is a file"):
        spade.predict_folder(tmp_path / "iphone/a.heic", tmp_path / "out")
    line.mkdir()
    shutil.copy(demo.test[0].path, line / "0.png")
    with pytest.raises(
        OSError, match=r"n could not be written \(File name too long\)\. .* Use a folder with a shorter path"
    ):
        spade.predict_folder(line, tmp_path / ("n" * 256))
    with pytest.raises(FileNotFoundError, match=r"Expected a folder of images at .*n, but there is none"):
        spade.predict_folder(tmp_path / ("n" * 256), tmp_path / "out")
    with pytest.raises(ValueError, match=r"written to a folder, but .*a\.heic is a file"):
        spade.predict_folder(tmp_path / "iphone", tmp_path / "iphone/a.heic")


@pytest.mark.usefixtures("unchecked")
def test_a_list_is_not_a_folder(spade, tmp_path):
    with pytest.raises(ValueError, match=r"folder must be the path of a folder; got \['a\.png'\]"):
        spade.predict_folder(["a.png"], tmp_path / "out")


def test_an_image_that_does_not_fit_into_memory_gets_a_row(spade, line, tmp_path, monkeypatch):
    write = batch._write

    def write_with_little_memory(result, item, *given):
        if item.name["path"] == NAMES[0]:
            raise MemoryError
        if item.name["path"] == "x.png":
            raise MemoryError("The network needs 9 GB. Use a smaller crop.")
        if item.name["path"] == "y.png":
            np.empty(2**60, np.uint8)
        return write(result, item, *given)

    monkeypatch.setattr(batch, "_write", write_with_little_memory)
    frame = spade.predict_folder(line, tmp_path / "out", fpr=0.2)
    reasons = frame.set_index("path")["reason"]
    assert reasons[NAMES[0]] == reasons["y.png"] == "The image does not fit into memory. Make it smaller."
    assert reasons["x.png"] == "The network needs 9 GB. Use a smaller crop."
    assert (frame["verdict"] == "not judged").sum() == 4  # and the broken one


@pytest.mark.parametrize("run", [SPADE.predict_folder, lambda spade, line, out: evaluate(spade, samples_of(line), out)])
def test_an_image_that_is_broken_later_keeps_no_files_of_its_old_content(spade, line, tmp_path, run):
    def list_files() -> set[Path]:
        files = {file.relative_to(tmp_path) for file in (tmp_path / "out").rglob("*") if file.is_file()}
        return {file for file in files if file.suffix in (".png", ".tiff", ".npz")}

    (line / "broken.png").unlink()
    run(spade, line, tmp_path / "out")
    before = list_files()
    (line / "x.png").write_bytes((line / "x.png").read_bytes()[:2000])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an evaluation says that an image was not judged
        run(spade, line, tmp_path / "out")
    gone = before - list_files()
    assert len(gone) == 2
    assert all("x" in file.stem or file.suffix == ".npz" for file in gone)
    assert list_files() < before


def samples_of(folder: Path) -> list[Sample]:
    return [Sample(file, "kind") for file in sorted(folder.rglob("*.png"))]
