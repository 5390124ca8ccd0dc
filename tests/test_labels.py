"""Labels given to a dataset, from a mapping or a table."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spade_kit import Dataset, Sample, load_dataset
from spade_kit._files import as_text
from spade_kit.datasets.tables import ImageNames

NORMALS, TESTED = ("n/000.png", "n/001.png", "n/002.png"), ("a/003.png", "a/004.jpg", "b/003.png", "b/x y.png")


@pytest.fixture
def parts() -> Dataset:
    train = [Sample(Path(path), "good") for path in NORMALS]
    return Dataset("parts", train, [Sample(Path(path)) for path in TESTED], remarks=("told before",))


def labels_of(samples) -> list:
    return [sample.label for sample in samples]


# ---- a mapping -------------------------------------------------------------------------------------------------------


def test_labels_are_given_by_path_by_its_end_and_without_suffix(parts):
    told = {"a/003.png": "OK", "004": "scratch", Path("b/003"): "defect", os.path.abspath("b/x y.png"): "unknown"}
    labelled = parts.label(told)
    assert labels_of(labelled.test) == ["good", "scratch", "defect", None]
    assert labels_of(labelled.train) == ["good"] * 3
    assert labels_of(parts.test) == [None] * 4
    assert replace(labelled, test=parts.test) == parts
    assert labels_of(labelled.label({"x y": "chip", "a/003": None}).test) == [None, "scratch", "defect", "chip"]


def test_backslashes_separate_folders(parts):
    assert labels_of(parts.label({"b\\003.png": "chip"}).test) == [None, None, "chip", None]


def test_a_whole_name_comes_before_one_without_its_suffix():
    parts = Dataset("p", [], [Sample(Path("a/1.png")), Sample(Path("a/1.png.jpg"))])
    assert labels_of(parts.label({"1.png": "good"}).test) == ["good", None]


def test_normal_images_labelled_as_defects_are_tested(parts):
    labelled = parts.label({"001": "chip", "000": "good", "002": "unknown"})
    assert [(str(one.path), one.label) for one in labelled.train] == [("n/000.png", "good"), ("n/002.png", None)]
    assert [(str(one.path), one.label) for one in labelled.test[4:]] == [("n/001.png", "chip")]
    told = "1 of 3 normal images have labels of defects, and are tested: n/001.png."
    assert labelled.remarks == ("told before", told)


def test_an_image_that_is_also_tested_is_tested_once(parts):
    both = replace(parts, test=[*parts.test, Sample(Path("n/001.png"))])
    labelled = both.label({"001": "chip"})
    assert [(str(one.path), one.label) for one in labelled.test[4:]] == [("n/001.png", "chip")]
    assert len(labelled.train) == 2


def test_masks_stay(parts):
    masked = replace(parts, test=[Sample(Path("a/003.png"), None, Path("m.png"), True)])
    assert masked.label({"003": "chip"}).test == [Sample(Path("a/003.png"), "chip", Path("m.png"), True)]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({}, r"labels must be a label by image, like .*; got \{\}\. Name at least one image\."),
        (3, r"labels must be a label by image, .*; got 3\."),
        ({"oo5.png": "good"}, r"A label must be of an image in parts; got 'oo5.png', which is none\."),
        ({"c/003.png": "good"}, r"A label must be of an image in parts; got 'c/003.png', which is none\."),
        ({"": "good"}, r"A label must be of an image in parts; got '', which is none\."),
        ({"04.jpg": "good"}, r"which is none\. Did you mean '004.jpg'\?"),
        (
            {"003.png": "good"},
            r"name one image; got '003.png', the name of 2 in parts: a/003.png, b/003.png\. Add the ",
        ),
        ({"004": "good", "a/004": "chip"}, r"a/004.jpg must have one label; got 'good' and 'chip'\. Drop one\."),
        (
            {"004": [3]},
            r'label must be "good", the name of a type of defect, or None if unknown; got \[3\]\. Pass a name',
        ),
        ({"004": "0", "a/003": "chip"}, r"all numbers, of which 0 is good; got '0' beside 'chip'\. Write good for "),
        ({"004": "no", "a/003": "yes"}, r"of which 0 is good; got 'no'\. Write good for images of good parts"),
        ({"004": 0, "a/003": "good"}, r"got '0' beside 'good'\."),
        ({"004": 0.02, "a/003": 0.98}, r"got '0\.02'\. Write good for images of good parts"),
        ({"004": -1, "a/003": 1}, r"got '-1'\. Write good for images of good parts"),
        ({"004": -1, "a/003": "good"}, r"got '-1' beside 'good'\."),
        ({"004": "T", "a/003": "F"}, r"got 'F'\. Write good for images of good parts"),
        (dict.fromkeys(NORMALS, "chip"), r"needs normal images; these labels leave none in parts\. Label some good\."),
    ],
)
def test_what_is_no_label_is_said_in_a_sentence(unchecked, parts, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        parts.label(labels)


# ---- a table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        "path,label\na/003.png,good\n004,scratch\nb/003.png,\nx y.png,NA\n",
        "\ufeffname;label;note\na\\003.png;gut;\n004.jpg;scratch;seen twice\n",
        'label,split,path\n"good",test,a/003.png\nscratch,,004\nscratch,,004\n',
    ],
)
def test_labels_are_read_from_a_table(parts, tmp_path, table):
    (tmp_path / "labels.csv").write_text(table, encoding="utf-8")
    for file in (tmp_path / "labels.csv", str(tmp_path / "labels.csv")):
        assert labels_of(parts.label(file).test) == ["good", "scratch", None, None]


def test_of_numbers_0_is_good(parts, tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\na/003.png,0\n004,1\n")
    assert labels_of(parts.label(tmp_path / "labels.csv").test)[:2] == ["good", "1"]


def test_paths_of_a_table_are_those_below_its_folder_first(tmp_path):
    places = [tmp_path / "1.png", tmp_path / "deeper/1.png"]
    parts = Dataset("p", [], list(map(Sample, places)))
    (tmp_path / "labels.csv").write_text("path,label\n1.png,good\n")
    assert labels_of(parts.label(tmp_path / "labels.csv").test) == ["good", None]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("path,label\n", "Name at least one image"),
        ("path,kind\n1.png,good\n", "must name the columns label"),
        ("file,label\n004,good\n", "must name the columns path, label"),
        ("path,label\n004,good\n004,chip\n", "a/004.jpg must have one label; got 'good' and 'chip'"),
    ],
)
def test_a_table_without_labels_is_an_error(parts, tmp_path, table, sentence):
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(ValueError, match=sentence):
        parts.label(tmp_path / "labels.csv")


def test_a_missing_table_is_an_error(parts):
    with pytest.raises(FileNotFoundError, match=r"Expected a CSV table at nothing\.csv"):
        parts.label("nothing.csv")


@given(st.lists(st.text("ab.\\\n =é\u200b", min_size=1).filter(lambda name: name.strip(".")), min_size=1, unique=True))
def test_every_path_is_found_as_it_is_written(names):
    paths = [Path("photos", name) for name in names]
    found = ImageNames(paths, "parts")
    for path in {*paths}:
        assert found.find(path, Path()) == path
        assert found.find(as_text(path), Path()) == path


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        *(("0", "1"), ("0.0", "1.0"), ("False", "True"), ("0", "7"), ("00", "01"), ("-0", "+1"), (" 0 ", "1")),
        *(('"0,0"', '"1,0"'), ("\uff10", "\uff11"), ("0", "0.5"), ("0.", "1.")),
        *(("0.000e+00", "1.000e+00"), ("b'0'", "b'1'")),
    ],
)
def test_of_numbers_zero_is_good(tmp_path, parts, good, bad):
    table = f"path,label\na/003.png,{good}\n004.jpg,{bad}\nx y.png,\n"
    (tmp_path / "labels.csv").write_text(table, encoding="utf-8")
    good, bad = good.strip('"'), bad.strip('"')
    for labels in (tmp_path / "labels.csv", {"a/003.png": good, "004.jpg": bad, "x y.png": None}):
        assert labels_of(parts.label(labels).test) == ["good", bad, None, None]
    assert labels_of(parts.label({"a/003.png": "1", "004.jpg": "2"}).test) == ["1", "2", None, None]


@pytest.mark.parametrize(
    ("good", "bad", "named"),
    [
        (0, 1, "1"),
        (False, True, "True"),
        (0.0, 2.0, "2.0"),
        (np.int64(0), np.int64(3), "3"),
        (np.False_, np.True_, "True"),
    ],
)
def test_numbers_are_labels(parts, good, bad, named):
    labels = {"a/003.png": good, "004.jpg": bad, "x y.png": float("nan"), "b/003.png": pandas.NaT}
    assert labels_of(parts.label(labels).test) == ["good", named, None, None]


def test_a_table_of_numbers_beside_names_is_refused_when_it_is_loaded_too(tmp_path):
    table = tmp_path / "parts.csv"
    for cells in (("good", "0", "1"), ("good", "bent", "0"), ("good", "no", "yes"), ("good", "False", "True")):
        rows = (f"{at}.png,{cell},{'test' if at else 'train'}" for at, cell in enumerate(cells))
        table.write_text("\n".join(["path,label,split", *rows]))
        with pytest.raises(ValueError, match=r"Labels must be good and the names of defects, or all numbers"):
            load_dataset(table)


@pytest.mark.parametrize("good", ["\ufeffgood", "go\u200bod", "\u00a0good", "\uff27\uff4f\uff4f\uff44", " OK "])
def test_good_is_known_by_how_it_looks(parts, good):
    assert labels_of(parts.label({"a/003.png": good}).test)[0] == "good"
