"""Files of a run: paths as text, safe tables, what counts as done, and errors that name the cure."""

import csv
import errno
import hashlib
import os
import tempfile
import threading
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spade_kit import SPADE, Report, Sample, draw_hardest, draw_result, evaluate, load_backbone, load_dataset
from spade_kit._files import (
    Item,
    RunFolder,
    as_path,
    as_text,
    describe_state,
    encode_tiff,
    explain_failure,
    shorten,
    write_whole,
)
from spade_kit.gallery import checkpoint
from spade_kit.widgets._shared.images import ImageList

NAMES = st.binary(min_size=1, max_size=255).map(os.fsdecode) | st.text("=+-@\t\r\n'\\./xné\u2028\u202e", min_size=1)
PATHS = NAMES.map(lambda name: name.replace("\0", "0")).map(Path)
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


@given(PATHS)
def test_a_path_becomes_printable_text_and_comes_back(path):
    text = as_text(path)
    assert text.isprintable()
    assert text.encode("utf-8").decode() == text
    assert not text.startswith(FORMULAS)
    assert os.fsencode(as_path(text)) == os.fsencode(path)


def test_an_ordinary_name_stays_as_it_is():
    for name in ("9.png", "monday/a b.png", "/home/x/ß 日本 (1) 'q' \"r\" $5 #.png"):
        assert as_text(name) == name
    assert as_text("=cmd('x').png") == "./=cmd('x').png"
    assert as_text("a\rb\\c.png") == "a\\rb\\\\c.png"
    assert as_text(os.fsdecode(b"pi\xe8ce.png")) == "pi\\udce8ce.png"


def each(judge):
    """A function of one item as `RunFolder.resume` takes it."""
    return lambda items: ((at, item.complete(judge(item), item.state)) for at, item in enumerate(items))


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=1))
def test_no_cell_of_a_table_begins_as_a_formula(labels):
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder), "table.csv", {"at": int, "label": str})
        items = [Item({"at": at}, [], []) for at in range(len(labels))]
        run.resume(items, each(lambda item: {"label": labels[item.name["at"]]}))
        with open(Path(folder, "table.csv"), newline="", encoding="utf-8") as lines:
            cells = [cell for row in csv.reader(lines) for cell in row]
        again = run.resume(items, each(lambda item: pytest.fail("was judged again")))
    assert not [cell for cell in cells if cell.startswith(FORMULAS)]
    assert [row["label"] for row in again] == labels


@given(PATHS.map(lambda path: path.name or "x"))
def test_a_shortened_name_leaves_room_for_a_suffix(name):
    for marked in (False, True):
        assert len(os.fsencode(f"{shorten(name, marked)}.tiff")) <= 255
    assert len(os.fsencode(name)) > 250 or shorten(name) == name
    assert shorten("n" * 251) != shorten("n" * 252)


ODD = [os.fsdecode(name) for name in (b"p\xe8.png", b"a\rb\nc.png", b"$x_{$.png", b"=1.png", b"n" * 251 + b".png")]


@pytest.fixture
def odd(demo, tmp_path) -> list[Sample]:
    """Images whose names are no text, two by two good and with a defect, all with the same content as in the demo."""
    samples = []
    for number, name in enumerate(ODD):
        path = tmp_path / os.fsdecode(b"f\xff") / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(demo.test[9 * number].path.read_bytes())
        samples.append(Sample(path, "chip" if number % 2 else "good"))
    return samples


def test_results_figures_and_widgets_name_an_image_in_text(spade, demo, odd):
    fitted = SPADE(k=1).fit([odd[0], odd[2], demo.train[0]])
    for sample in odd:
        result = spade.predict(sample)
        assert repr(result).isprintable()
        draw_result(result, 1.0).savefig(BytesIO())
    names = ImageList(spade, [*odd, *(sample.path for sample in odd)])
    assert all(names.name(index).isprintable() for index in range(len(names)))
    assert [as_path(text) for text in fitted.suspects().sort_index()["path"]][:2] == [odd[0].path, odd[2].path]
    assert all(text.isprintable() for text in fitted.suspects()["path"])


def test_an_evaluation_of_any_names_is_kept_and_read_again(spade, odd, tmp_path):
    twice = [*odd, *(replace(sample, label="good") for sample in odd), Sample(odd[0].path.with_name("n_2.png"), "good")]
    for name in ("n.png", "n.jpg"):
        twice.append(Sample(odd[0].path.with_name(name), "good"))
    for sample in twice[-3:]:
        sample.path.write_bytes(odd[0].path.read_bytes())
    out = tmp_path / os.fsdecode(b"out\xff")
    report = evaluate(spade, twice, folder=out)
    again = Report.load(out)
    assert [as_path(text) for text in again.to_frame()["path"]] == [sample.path for sample in twice]
    assert all(text.isprintable() for text in again.to_frame()["path"])
    np.testing.assert_array_equal(again.to_frame()["image_score"], report.to_frame()["image_score"])
    assert len(list((out / "maps").rglob("*.tiff"))) == len(twice)
    draw_hardest(again, 2).savefig(BytesIO())
    (out / "photos/00000.npz").unlink()
    with pytest.raises(ValueError, match=r"out\\udcff/photos/00000\.npz is damaged or missing"):
        Report.load(out).judged(0)
    with pytest.raises(FileNotFoundError, match=r"Expected a report in .*f\\udcff, but there is none"):
        Report.load(odd[0].path.parent)


def test_a_fit_in_a_folder_of_any_name_is_loaded_again(spade, demo, tmp_path):
    folder = tmp_path / os.fsdecode(b"fit\xff") / "a\nb"
    spade.save(folder)
    again = SPADE.load(folder)
    np.testing.assert_array_equal(again.predict(demo.test[0]).anomaly_map, spade.predict(demo.test[0]).anomaly_map)
    next(folder.glob("*.safetensors")).write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"fit\\udcff/a\\nb/gallery-.* is damaged or incomplete"):
        SPADE.load(folder)


def test_images_that_are_gone_are_named(spade, demo, tmp_path):
    (tmp_path / "in").mkdir()
    for at in range(3):
        (tmp_path / f"in/{at}.png").write_bytes(demo.test[at].path.read_bytes())
    spade.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.2)
    (tmp_path / "in/1.png").unlink()
    with pytest.warns(
        UserWarning, match=r"Images of an earlier run that are gone: 1, such as 1\.png.*rows are removed"
    ):
        table = spade.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.2)
    assert table["path"].tolist() == ["0.png", "2.png"]
    assert (tmp_path / "out/maps/1.tiff").is_file()
    spade.predict_folder(tmp_path / "in", tmp_path / "out", fpr=0.2)  # said once


def test_images_with_other_labels_are_not_gone(spade, demo, tmp_path):
    one, other = demo.test[0], demo.test[-1]
    evaluate(spade, replace(demo, test=[one, other]), folder=tmp_path)
    report = evaluate(spade, replace(demo, test=[replace(one, label="dent"), other]), folder=tmp_path)
    assert report.to_frame()["label"].tolist() == ["dent", other.label]
    with pytest.warns(UserWarning, match=f"that are gone: 1, such as .*{other.path.name}"):
        evaluate(spade, replace(demo, test=[one]), folder=tmp_path)


# ---- what counts as done ---------------------------------------------------------------------------------------------


def test_the_state_of_an_image_is_its_size_time_and_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    os.utime(tmp_path / "a", (1000, 2000))
    assert describe_state([tmp_path / "a"]) == {
        "bytes": 3,
        "modified": 2000,
        "sha256": hashlib.sha256(hashlib.sha256(b"abc").digest()).hexdigest(),
    }
    (tmp_path / "b").write_bytes(b"abc")
    (tmp_path / "@eaDir").mkdir()
    assert describe_state([tmp_path])["bytes"] == 6  # a folder of masks stands for its files
    for unreadable in ("nowhere", "pipe", "memory"):
        if unreadable == "pipe":
            os.mkfifo(tmp_path / unreadable)
        if unreadable == "memory":
            (tmp_path / unreadable).symlink_to("/proc/self/mem")
        assert describe_state([tmp_path / "a", tmp_path / unreadable]) is None


@pytest.mark.parametrize("change", ["content of the same size and time", "output", "nothing", "time"])
def test_an_image_is_judged_again_if_its_content_or_its_outputs_changed(tmp_path, change):
    photo, output = tmp_path / "a.bmp", tmp_path / "out/a.tiff"
    photo.write_bytes(b"first")
    os.utime(photo, (1000, 1000))
    asked = []

    def judge(item):
        asked.append(photo.read_bytes())
        write_whole(output, encode_tiff(np.zeros((2, 3), np.float32)))
        return {"score": float(len(asked))}

    run, items = (
        RunFolder(tmp_path / "out", "table.csv", {"path": str, "score": float}),
        [Item({"path": "a.bmp"}, [photo], [output])],
    )
    (tmp_path / "out").mkdir()
    run.resume(items, each(judge))
    if "content" in change:
        photo.write_bytes(b"other")
        os.utime(photo, (1000, 1000))
    elif change == "output":
        output.unlink()
    elif change == "time":
        photo.touch()
    (row,) = run.resume(items, each(judge))
    judged_again = change not in ("nothing", "time")
    assert len(asked) == 1 + judged_again
    assert row["score"] == 1 + judged_again
    assert output.read_bytes() == encode_tiff(np.zeros((2, 3), np.float32))


def test_many_writers_never_swap_their_files(tmp_path):
    def write(mark: str) -> None:
        for index in range(100):
            write_whole(tmp_path / f"{mark}{index}", mark.encode() * 5000)

    threads = [threading.Thread(target=write, args=(mark,)) for mark in "ABC"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = list(tmp_path.iterdir())
    assert len(files) == 300
    assert all(file.read_bytes() == file.name[:1].encode() * 5000 for file in files)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, r"Free some space or use another folder, then call again\."),
        (errno.EROFS, r"Allow writing there, or use another folder, then call again\."),
        (errno.EACCES, r"Allow writing there, or use another folder, then call again\."),
        (errno.ENAMETOOLONG, r"Use a folder with a shorter path, then call again\."),
        (errno.EIO, r"Use another folder, then call again\."),
    ],
)
def test_a_file_that_cannot_be_written_raises_an_error_with_the_right_cure(number, cure):
    said = rf"a\\nb could not be written \({os.strerror(number)}\)\. .* intact\. {cure}"
    with pytest.raises(OSError, match=said), explain_failure(Path("a\nb")):
        raise OSError(number, os.strerror(number), "inside.png")


# ---- what cannot be read, or is no path ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "what", "read"),
    [
        ("table.csv", "a table", load_dataset),
        ("own.pth", "weights", lambda path: load_backbone("resnet18", weights=path)),
        ("spade.json", "a saved SPADE", lambda path: SPADE.load(path.parent)),
    ],
)
def test_a_file_that_the_system_cannot_read_is_named(tmp_path, name, what, read):
    (tmp_path / name).symlink_to("/proc/self/mem")  # opens, but reading fails
    told = rf"Cannot read .*{name} as {what}: Input/output error\. Check that it can be read\."
    with pytest.raises(OSError, match=told):
        read(tmp_path / name)


def test_locked_features_are_not_called_damaged(spade, tmp_path, monkeypatch):
    spade.save(tmp_path)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoint, "open", refuse, raising=False)
    with pytest.raises(PermissionError, match=r"gallery-\w+\.safetensors as features: Permission denied\. Check that"):
        SPADE.load(tmp_path)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [None, 5, b"x", ["a"]])
def test_what_is_no_path_is_refused(spade, given):
    for call in (SPADE.load, spade.save):
        with pytest.raises(ValueError, match=r"^folder must be the path of a folder; got "):
            call(given)
    with pytest.raises(ValueError, match=r"^path must be the path of an image; got "):
        Sample(given)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("given", [5, b"x", [None], object(), {"a": 1}.values()])
def test_a_mask_is_given_by_its_path_or_paths(given):
    with pytest.raises(ValueError, match=r"^mask_path must be the path of a mask, or several paths; got "):
        Sample("a.png", "bad", given)


def test_a_name_that_is_too_long_is_that_of_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights must be a file; there is none at"):
        load_backbone("resnet18", weights="x" * 5000)
    for layout, what in (("csv", "a CSV table"), ("visa", "VisA's split")):
        with pytest.raises(FileNotFoundError, match=f"Expected {what} at "):
            load_dataset("x" * 5000, layout=layout)
    with pytest.raises(FileNotFoundError, match="holds no fitted SPADE"):
        SPADE.load("x" * 5000)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"k": 1}, {"k": 2}, "k was 1 and is now 2"),
        ({"k": 1}, {"k": 1, "layers": "a"}, "layers was None and is now 'a'"),
        ({"k": 1, "layers": "a"}, {"k": 1}, "layers was 'a' and is now None"),
    ],
)
def test_a_run_that_differs_in_any_key_is_another_one(tmp_path, first, second, told):
    run = RunFolder(tmp_path, "table.csv", {})
    for _ in range(2):
        with run.claim(first):
            pass
    with (
        pytest.raises(ValueError, match=f"holds results of another run: {told}. Use another folder"),
        run.claim(second),
    ):
        pass
