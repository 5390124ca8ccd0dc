"""Folder layouts in practice: which files are found, and that every guess is reported."""

import errno
import inspect
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from spade_kit import SPADE, load_dataset
from spade_kit.datasets.images import pictures_below, pictures_in
from spade_kit.datasets.naming import name_file


@pytest.fixture
def put(tmp_path, rng):
    """Write random images and masks; names are paths below one folder."""

    def put(*names: str, size: tuple[int, int] = (6, 8)) -> Path:
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
        return tmp_path / "set"

    return put


def found(samples) -> list[tuple]:
    """Label, name, and the mask's name."""
    return [(s.label, s.path.name, s.mask_path.name if s.mask_path else None) for s in samples]


@pytest.mark.parametrize(
    ("train", "good", "bad", "masks"),
    [
        ("train/good", "test/good", "test/bent", "ground_truth/bent"),
        ("Train/OK", "Test/ok", "Test/bent", "Masks/Bent"),
        ("training/Normal", "testing/NORMAL", "testing/bent", "Ground Truth/bent"),
    ],
)
def test_folders_of_splits_have_several_names(put, train, good, bad, masks):
    folder = put(f"{train}/10.png", f"{train}/9.png", f"{good}/0.png", f"{bad}/0.jpg", f"{bad}/1.jpg", f"{masks}/0.png")
    put(f"{masks}/1-MASK.png")
    dataset = load_dataset(folder)
    assert found(dataset.train) == [("good", "9.png", None), ("good", "10.png", None)]
    assert sorted(found(dataset.test)) == [
        ("bent", "0.jpg", "0.png"),
        ("bent", "1.jpg", "1-MASK.png"),
        ("good", "0.png", None),
    ]
    assert all(sample.masked for sample in dataset.train + dataset.test)
    assert dataset.remarks == ()


def test_btad_is_read_by_its_own_names(put):
    folder = put("train/ok/0000.bmp", "test/ok/0001.bmp", "test/ko/0000.bmp", "ground_truth/ko/0000.png")
    dataset = load_dataset(folder)
    assert sorted(found(dataset.test)) == [("good", "0001.bmp", None), ("ko", "0000.bmp", "0000.png")]


def test_all_masks_of_a_picture_of_mvtec_loco_are_joined(put):
    folder = put("train/good/000.png", "validation/good/000.png", "test/good/000.png", "test/logical_anomalies/000.png")
    masks = folder / "ground_truth/logical_anomalies/000"
    masks.mkdir(parents=True)
    joined = np.zeros((6, 8), np.uint8)
    for number, place in enumerate([(1, 2), (4, 7)]):
        mask = np.zeros((6, 8), np.uint8)
        mask[place] = joined[place] = 200 + number
        Image.fromarray(mask).save(masks / f"{number:03}.png")
    dataset = load_dataset(folder)
    (logical,) = [sample for sample in dataset.test if sample.label == "logical_anomalies"]
    np.testing.assert_array_equal(logical.mask, joined > 0)
    assert dataset.remarks == ("validation: not used; test images belong in test, masks in ground_truth or masks.",)


@pytest.mark.parametrize("given", ["folder", "as train"])
def test_a_plain_folder_holds_normal_photos(put, given):
    folder = put("b10.png", "b9.png", "a.jpg")
    dataset = load_dataset(folder) if given == "folder" else load_dataset(train=folder)
    assert found(dataset.train) == [("good", name, None) for name in ("a.jpg", "b9.png", "b10.png")]
    assert dataset.test == []
    assert str(dataset).splitlines() == [
        "set: 3 normal images, 0 test images",
        "plain folder: all images count as normal; no masks; 6 x 8 px",
        "The images are not square, such as 6 x 8 px: SPADE(load_backbone(crop=None)) keeps their shape.",
    ]


def test_subfolders_of_a_plain_folder_are_reported(put):
    assert load_dataset(put("0.png", "old/1.png")).remarks == ("1 folder of images not used: set/old.",)


def test_two_folders(put):
    folder = put("fine/0.png", "line/7.png", "line/scratch/1.png", "line/ok/2.png")
    dataset = load_dataset(train=folder / "fine", test=folder / "line")
    assert found(dataset.train) == [("good", "0.png", None)]
    assert found(dataset.test) == [(None, "7.png", None), ("good", "2.png", None), ("scratch", "1.png", None)]
    assert str(dataset).startswith("fine: 1 normal images, 3 test images (1 good, 1 unknown, 1 scratch)\ntwo folders;")


VISA = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0001.JPG,
candle,test,normal,candle/Data/Images/Normal/0002.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
capsules,train,normal,capsules/Data/Images/Normal/000.JPG,
"""


def test_visa_is_read_by_its_official_split(put):
    files = [row.split(",")[3] for row in VISA.splitlines()[1:]]
    root = put(*files, "candle/Data/Masks/Anomaly/000.png")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text(VISA)
    dataset = load_dataset(root / "candle")
    assert found(dataset.train) == [("good", "0001.JPG", None)]
    assert found(dataset.test) == [("good", "0002.JPG", None), ("anomaly", "000.JPG", "000.png")]
    assert dataset.layout == "VisA, official split of one class"
    with pytest.raises(
        FileNotFoundError, match=r"must list images of .*; it lists candle, capsules\. Load one of them, .*candle'\)"
    ):
        load_dataset(root)


def write_visa(put, *rows: str) -> Path:
    """Two normal images for training and one good and two defective ones, and a table with these rows."""
    names = [
        f"candle/Data/Images/{name}.JPG" for name in ("Normal/0", "Normal/1", "Normal/2", "Anomaly/0", "Anomaly/1")
    ]
    root = put(*names, *(f"candle/Data/Masks/Anomaly/{at}.png" for at in (0, 1)))
    (root / "split_csv").mkdir()
    lines = (row.replace("Images", "candle/Data/Images").replace("Masks", "candle/Data/Masks") for row in rows)
    head = "object,split,label,image,mask"
    (root / "split_csv/1cls.csv").write_text("\n".join([head, *(f"candle,{line}" for line in lines)]))
    return root / "candle"


TRAINED = "train,normal,Images/Normal/0.JPG,", "train,normal,Images/Normal/1.JPG,"
BROKEN = "test,anomaly,Images/Anomaly/0.JPG,Masks/Anomaly/0.png"


def test_images_that_the_table_of_visa_does_not_list_are_counted(put):
    dataset = load_dataset(write_visa(put, *TRAINED, BROKEN))
    assert "2 images not used: Anomaly/1.JPG, Normal/2.JPG." in dataset.remarks
    assert "1 mask not used: Anomaly/1.png." in dataset.remarks


def test_numbers_of_visa_are_labels(put):
    rows = (row.replace("normal", "0").replace("anomaly", "1") for row in (*TRAINED, BROKEN))
    dataset = load_dataset(write_visa(put, *rows))
    assert {sample.label for sample in dataset.train} == {"good"}
    assert [sample.label for sample in dataset.test] == ["1"]
    assert "Labels of 1cls.csv are numbers: 0 counts as good." in dataset.remarks


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            "train,anomaly,Images/Anomaly/1.JPG,",
            r"1cls\.csv puts .*Anomaly/1\.JPG, a 'anomaly' image, among the normal",
        ),
        ("test,normal,Images/Anomaly/0.JPG,", r"must give each image one label; got 'anomaly' and 'good' for .*0\.JPG"),
        ("test,normal,Images/lot/../Anomaly/0.JPG,", r"must give each image one label; got 'anomaly' and 'good'"),
        ("val,normal,Images/Normal/2.JPG,", r"split of .*Normal/2\.JPG in 1cls\.csv must be one of 'train', 'test'"),
    ],
)
def test_rows_of_visa_that_contradict_are_refused(put, row, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_dataset(write_visa(put, *TRAINED, BROKEN, row))


def test_a_table_of_visa_without_rows_is_refused(put):
    with pytest.raises(
        FileNotFoundError, match=r"1cls\.csv must list images of .*candle; it lists nothing\. Unpack it"
    ):
        load_dataset(write_visa(put))


def test_masks_of_normal_images_in_a_table_are_reported(put):
    folder = put("0.png", "1.png", "m.png")
    (folder / "list.csv").write_text("path,label,split,mask\n0.png,good,train,m.png\n1.png,unlabeled,test,\n")
    dataset = load_dataset(folder / "list.csv")
    assert dataset.remarks == ("1 normal image with a mask, not used: set/0.png.",)
    assert [sample.label for sample in dataset.test] == [None]


def test_defects_of_a_table_without_a_mask_are_reported(put):
    folder = put(*(f"{at}.png" for at in range(4)), "m.png")
    rows = ["0.png,good,train,", "1.png,bent,test,m.png", "2.png,bent,test,", "3.png,good,test,"]
    (folder / "list.csv").write_text("\n".join(["path,label,split,mask", *rows]))
    assert load_dataset(folder / "list.csv").remarks == ("1 defect image without a mask: set/2.png.",)


@pytest.mark.parametrize("name", ["{}.jfif", "{}.heic", "{}"])
@pytest.mark.parametrize(
    ("images", "place"),
    [
        (("good/0.png", "good/1.png"), "bad"),
        (("train/good/0.png", "test/good/0.png"), "test/crack"),
        (("train/good/0.png", "test/dent/cam1/0.png"), "test/dent/cam2"),
        (("train/good/0.png",), "train/good/cam2"),
        (("0.png",), "more"),
    ],
)
def test_images_with_an_unknown_extension_alone_in_their_folder_are_counted(put, images, place, name):
    folder = put(*images, f"{place}/part.png")
    (folder / place / "part.png").rename(folder / place / name.format("part"))
    (folder / place / "notes.txt").write_text("nothing")
    if place == "bad":
        (folder / "bad").rename(folder / "nok")
        place = "nok"
    dataset = load_dataset(folder)
    told = f"1 file with an unknown extension not used: {Path(place).name}/{name.format('part')}."
    assert told in dataset.remarks
    assert dataset.skipped == 1


def test_a_label_that_comes_from_a_folder_beside_is_told(put):
    folder = put("good/0.png", "line/0.png", "line/1.png", "bad/0.png")
    told = (
        "line is beside a folder of good images, so its 2 images are labelled 'line'. If they have no label, rename it"
    )
    assert any(remark.startswith(told) for remark in load_dataset(train=folder / "good", test=folder / "line").remarks)
    assert not load_dataset(train=folder / "good", test=folder / "bad").remarks


@pytest.mark.parametrize(
    "mask", ["masks/bad/0_mask.png", "masks/0.png", "bad_masks/0.png", "bad/0_mask.png", "labels/0.png"]
)
def test_folders_of_test_images_have_their_masks_in_the_usual_places(put, mask):
    folder = put("good/0.png", "bad/0.png", mask)
    dataset = load_dataset(train=folder / "good", test=folder / "bad")
    assert [sample.mask_path for sample in dataset.test] == [folder / mask]
    whole = put("train/good/0.png", "test/dent/0.png", "ground_truth/dent/0_mask.png")
    for test in ("test", "test/dent"):
        dataset = load_dataset(train=whole / "train/good", test=whole / test)
        assert [sample.mask_path for sample in dataset.test] == [whole / "ground_truth/dent/0_mask.png"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_sets_label_mask_and_split(put, separator):
    folder = put("a/0.png", "a/1.png", "b/2.png", "b/2 mask.png")
    rows = ["Path,Label,mask,Split", "a/0.png,OK ,,train", "a/1.png,,,test", ",,,", "b/2.png,dent,b/2 mask.png,test"]
    (folder / "list.csv").write_text("\ufeff" + "\n".join(rows).replace(",", separator), encoding="utf-8")
    dataset = load_dataset(folder / "list.csv")
    assert dataset.name == "list"
    assert found(dataset.train) == [("good", "0.png", None)]
    assert found(dataset.test) == [(None, "1.png", None), ("dent", "2.png", "2 mask.png")]


def test_a_table_with_only_paths_lists_normal_images(put):
    folder = put("a/0.png", "1.png")
    (folder / "list.csv").write_text("path\na/0.png\n1.png\n")
    dataset = load_dataset(folder / "list.csv")
    assert [sample.label for sample in dataset.train] == ["good", "good"]
    assert dataset.remarks == ("list.csv has no labels: all images count as normal.",)


def test_the_guess_can_be_overridden(put):
    folder = put("0.png", "train/good/1.png")
    assert found(load_dataset(folder).train) == [("good", "1.png", None)]
    assert found(load_dataset(folder, layout="plain").train) == [("good", "0.png", None)]


# ---- deeper down, side by side, and folders of the system ------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("normal", "abnormal"),
        ("OK", "NOK"),
        ("good", "bad"),
        ("ok", "ng"),
        ("Pass", "Fail"),
        ("defect-free", "Defective"),
    ],
)
def test_normal_and_defective_folders_side_by_side_are_understood(put, good, bad):
    folder = put(f"{good}/0.png", f"{good}/1.png", f"{bad}/2.png", f"{bad}/cam 1/3.png", "dent/4.png", "new/5.png")
    put("masks/dent/4_mask.png")
    dataset = load_dataset(folder)
    assert found(dataset.train) == [("good", "0.png", None), ("good", "1.png", None)]
    assert sorted(found(dataset.test), key=lambda one: one[1]) == [
        (bad, "2.png", None),
        (bad, "3.png", None),
        ("dent", "4.png", "4_mask.png"),
        (None, "5.png", None),
    ]
    assert f"normal images in {good}, each other folder is a kind of defect; 1 masks" in str(dataset)
    assert f"2 defect images without a mask: {bad}/2.png" in str(dataset)


def test_a_good_folder_beside_folders_of_unknown_kinds_is_not_guessed_at(put):
    with pytest.raises(FileNotFoundError, match=r"contains good, scratch\. .*train=.*good', test=.*scratch'\)"):
        load_dataset(put("good/0.png", "scratch/1.png"))


def test_images_deeper_down_are_used_with_the_label_of_their_kind(put):
    folder = put("train/good/cam1/0.png", "train/good/1.png", "test/good/a/b/2.png", "test/bent/cam1/3.png")
    put("test/bent/cam2/3.png", "ground_truth/bent/cam1/3_mask.png", "ground_truth/bent/cam2/3/0.png")
    dataset = load_dataset(folder)
    assert found(dataset.train) == [("good", "1.png", None), ("good", "0.png", None)]
    assert found(dataset.test) == [("bent", "3.png", "3_mask.png"), ("bent", "3.png", "3"), ("good", "2.png", None)]
    assert dataset.test[1].mask_path == folder / "ground_truth/bent/cam2/3"
    assert dataset.remarks == ("1 image of train/good from folders below it: cam1.",)


@pytest.mark.parametrize(("place", "label"), [("good/nok", "good"), ("bent/lot/OK", "bent")])
def test_folders_that_contradict_each_other_are_reported(put, place, label):
    dataset = load_dataset(put("train/good/0.png", f"test/{place}/1.png", "test/bent/lot/2.png", "test/good/lot/3.png"))
    told = f"1 image in folders that contradict the one above: {place}/1.png counts as {label}."
    assert [remark for remark in dataset.remarks if remark.startswith(told)]
    assert not load_dataset(put("other/train/good/0.png", "other/test/bent/lot/2.png").joinpath("other")).remarks


def test_folders_side_by_side_that_contradict_each_other_are_reported(put):
    folder = put("ok/0.png", "nok/lot/ok/1.png", "nok/lot/dent/2.png")
    for dataset in (load_dataset(folder), load_dataset(train=folder / "ok", test=folder / "nok")):
        told = "1 image in folders that contradict the one above: nok/lot/ok/1.png counts as nok. Move them if"
        assert [remark for remark in dataset.remarks if remark.startswith(told)]


@pytest.mark.parametrize(("good", "as_train"), [("train/good", False), ("ok", False), ("ok", True)])
def test_normal_images_from_folders_below_are_used_and_the_folders_named(put, good, as_train):
    """A folder such as Trash may hold what is not normal."""
    names = ["Trash/1.png", "Trash/2.png", "batch 1/old/3.png", *(f"more/{at}/x.png" for at in range(9))]
    folder = put("nok/0.png", *(f"{good}/{name}" for name in names))
    dataset = load_dataset(train=folder) if as_train else load_dataset(folder)
    assert len(dataset.train) == 12
    places = ", ".join(["Trash", "batch 1/old", *(f"more/{at}" for at in range(8))])
    parent = "train" if good == "train/good" else "set"
    assert f"12 images of {parent}/{Path(good).name} from folders below it: {places} and 1 more." in dataset.remarks


def test_thumbnails_are_no_images_of_a_dataset(put):
    folder = put("train/good/0.png", *(f"train/good/{name}/0.png" for name in ("thumbs", "_thumbs", "Thumbnails")))
    assert found(load_dataset(folder).train) == [("good", "0.png", None)]


def test_images_that_no_layout_has_a_place_for_are_counted(put):
    folder = put("train/good/0.png", "1.png", "train/2.png", "test/bent/ground truth/3.png", "test/bent/4.png")
    put("train/cam/deep/5.png")
    assert load_dataset(folder).remarks == (
        "train/cam: 1 images not used.",
        "2 images not used: set/1.png, train/2.png.",
        "1 mask not used: ground truth/3.png.",
    )
    assert load_dataset(put("other/deep/6.png"), layout="plain").remarks[0].startswith("3 folders of images not used")


def test_folders_of_the_system_are_left_out_everywhere(put, spade, tmp_path):
    places = [".ipynb_checkpoints", "@eaDir/1.png", ".Trash-1000/files", "$RECYCLE.BIN", "__MACOSX", "#recycle"]
    folder = put("train/good/0.png", "test/bent/1.png", *(f"{place}/x.png" for place in places), size=(64, 64))
    put(*(f"{part}/{place}/y.png" for part in ("train", "train/good", "test", "test/bent") for place in places))
    put("test/bent/._1.png")
    dataset = load_dataset(folder)
    assert found(dataset.train + dataset.test) == [("good", "0.png", None), ("bent", "1.png", None)]
    assert dataset.remarks == ()
    rows = spade.predict_folder(folder, tmp_path / "out", fpr=0.2)
    assert rows["path"].tolist() == ["test/bent/1.png", "train/good/0.png"]


def test_a_folder_that_is_named_like_an_image_is_a_folder(put):
    folder = put("train/good/0.png", "train/good/1.png/2.png", "test/bent.png/3.png")
    dataset = load_dataset(folder)
    assert found(dataset.train) == [("good", "0.png", None), ("good", "2.png", None)]
    assert found(dataset.test) == [("bent.png", "3.png", None)]
    assert pictures_in(folder / "train/good") == [folder / "train/good/0.png"]


def test_linked_folders_are_read_once_and_never_in_circles(put, tmp_path):
    folder = put("train/good/0.png")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "elsewhere/1.png")
    for name, target in (("cam", tmp_path / "elsewhere"), ("loop", folder), ("up", tmp_path), ("self", "self")):
        (folder / "train/good" / name).symlink_to(target)
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "elsewhere")
    assert pictures_below(folder) == [folder / "train/good/0.png", folder / "train/good/cam/1.png"]
    assert len(load_dataset(folder).train) == 2


def test_a_folder_that_cannot_be_listed_is_named(put, monkeypatch):
    folder = put("train/good/0.png", "train/good/locked/1.png")
    scandir = os.scandir

    def refuse(place):
        if Path(place).name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    told = r"Folder \S*locked cannot be read: Permission denied\. Its images are not used\."
    with pytest.warns(UserWarning, match=told):
        dataset = load_dataset(folder)
    assert len(dataset.train) == 1
    assert re.fullmatch(told, dataset.remarks[-1])
    (folder / "train/good/0.png").unlink()
    for given in ({"name_or_path": folder}, {"train": folder / "train/good"}, {"train": folder / "train"}):
        with pytest.raises(FileNotFoundError, match=rf"but it contains .*\. {told} Check that it can be read\.$"):
            load_dataset(**given)


def test_folders_are_read_however_deep_they_are(put):
    folder, limit = put("/".join("a" * 200) + "/0.png"), sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert [path.name for path in pictures_below(folder)] == ["0.png"]
    finally:
        sys.setrecursionlimit(limit)


def test_each_folder_is_listed_once(put, monkeypatch, spade, tmp_path):
    """Over a network, to list a folder takes long."""
    folder = put(
        "train/good/a/0.png", "train/good/1.png", "test/bent/2.png", "test/new/3.png", "ground_truth/bent/2.png"
    )
    put("ok/4.png", "nok/5.png", "nok/b/6.png", size=(64, 64))
    scandir, places = os.scandir, []

    def scan(place):
        places.append(Path(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", scan)
    for load in (
        lambda: load_dataset(folder),
        lambda: load_dataset(train=folder / "ok", test=folder / "nok"),
        lambda: spade.predict_folder(folder / "nok", tmp_path / "out", fpr=0.2),
    ):
        places.clear()
        load()
        listed = [place for place in places if folder in (place, *place.parents)]
        assert len(listed) > 0
        named = [folder, folder / "ok", folder / "nok"]  # whether it can be listed is asked first
        assert all(listed.count(place) <= 1 + (place in named) for place in listed)


@pytest.fixture
def nobody(spade, demo):
    """Give up the rights of root, which may read everything, in a folder that everyone may enter."""
    spade.predict(demo.test[0])  # imports all that is needed
    with TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        rights = os.geteuid()
        os.seteuid(65534)
        (Path(folder) / "set").mkdir()
        yield Path(folder) / "set"
        os.seteuid(rights)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_what_may_not_be_read_is_named_with_the_reason(nobody, spade):
    for name in ("train/good/0.png", "train/good/1.png", "test/bent/0.png", "ground_truth/bent/0_mask.png"):
        (nobody / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 64), len(name)).save(nobody / name)

    def locked(name: str, mode: int = 0):
        os.chmod(nobody / name, mode)
        with pytest.warns(UserWarning, match="Permission denied") as said:
            dataset = load_dataset(nobody)
        os.chmod(nobody / name, 0o777)
        assert len(said) == 1  # said once
        assert "Permission denied" in str(dataset)
        return len(dataset.train), len(dataset.test), sum(one.mask_path is not None for one in dataset.test)

    assert locked("test/bent") == (2, 0, 0)
    assert locked("ground_truth") == (2, 1, 0)
    assert locked("train/good/0.png") == (1, 1, 1)
    os.chmod(nobody / "ground_truth/bent", 0o444)
    assert load_dataset(nobody).remarks == ("1 mask unreadable, not used: bent/0_mask.png.",)
    os.chmod(nobody / "train/good", 0o444)
    with pytest.raises(FileNotFoundError, match=r"No normal image .*0\.png as an image: Permission denied\."):
        load_dataset(nobody)
    os.chmod(nobody / "train/good", 0o777)
    os.chmod(nobody, 0)
    for use in (load_dataset, lambda folder: spade.predict_folder(folder, "/tmp/unused")):
        with pytest.raises(PermissionError, match=r"Cannot list the folder .*: Permission denied\. Check"):
            use(nobody)
    os.chmod(nobody, 0o777)


def test_lists_of_folders_are_joined_and_their_names_are_labels_where_they_say_one(put):
    folder = put("a/0.png", "b/good/1.png", "sorted/good/2.png", "sorted/scratch/3.png", "nok/4.png", "line/5.png")
    put("sorted/new/6.png", "nok/cam/7.png", "line/dent/8.png")
    test = [folder / name for name in ("sorted/good", "sorted/scratch", "sorted/new", "nok", "line")]
    dataset = load_dataset(train=[folder / "a", str(folder / "b")], test=test)
    assert found(dataset.train) == [("good", "0.png", None), ("good", "1.png", None)]
    assert found(dataset.test) == [
        ("good", "2.png", None),
        ("scratch", "3.png", None),
        (None, "6.png", None),
        ("nok", "4.png", None),
        ("nok", "7.png", None),
        (None, "5.png", None),
        ("dent", "8.png", None),
    ]
    assert dataset.layout == "2 + 5 folders"
    one = load_dataset(train=folder / "a", test=folder / "nok")
    assert [sample.label for sample in one.test] == ["nok", "nok"]
    for wrong in ([], [folder / "a", ""], [folder / "a", 7]):
        with pytest.raises(ValueError, match=r"given by a name or one path; got|takes either a name or path"):
            load_dataset(train=wrong)


def test_names_that_are_no_text_can_be_printed(put):
    folder = put("train/good/0.png", os.fsdecode(b"test/b\xe4d\n/1.png"), "ground_truth/other/=1.png")
    (folder / os.fsdecode(b"train/good/\xff.heic")).write_bytes(b"")
    dataset = load_dataset(folder)
    str(dataset).encode()
    assert [sample.label for sample in dataset.test] == ["b\\udce4d"]
    assert dataset.test[0].image.shape == (6, 8, 3)
    assert dataset.remarks == (
        "1 mask without an image: other/=1.png.",
        "1 defect image without a mask: b\\udce4d\\n/1.png; expected mask: ground_truth/b\\udce4d\\n/1_mask.png.",
        "1 file with an unknown extension not used: good/\\udcff.heic.",
    )


# ---- masks among images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask",
    [
        "test/bent/0_mask",
        "test/bent/0_GT",
        "test/bent/masks/0",
        "test/ground_truth/bent/0_mask",
        "test/bent_masks/0",
        "masks/bent/mask_0",
    ],
)
def test_masks_among_test_images_are_masks(put, mask):
    folder = put("train/good/0.png", "test/good/0.png", "test/bent/0.jpg", f"{mask}.png")
    dataset = load_dataset(folder)
    assert found(dataset.train) == [("good", "0.png", None)]
    assert sorted(found(dataset.test)) == [("bent", "0.jpg", Path(f"{mask}.png").name), ("good", "0.png", None)]
    assert all(sample.masked for sample in dataset.test)
    assert dataset.remarks == ()


@pytest.mark.parametrize(
    ("images", "mask"),
    [
        (["train/good/0.png"], "train/good/0_mask.png"),
        (["train/good/0.png"], "train/good/masks/0.png"),
        (["train/0.png"], "train/gt_0.png"),
        (["good/0.png", "bad/1.png"], "good/0_gt.png"),
        (["good/0.png", "bad/1.png"], "good_masks/0.png"),
        (["0.png"], "0_mask (1).png"),
    ],
)
def test_masks_are_never_normal_images_nor_defects(put, images, mask):
    dataset = load_dataset(put(*images, mask))
    assert {sample.path.name for sample in dataset.train + dataset.test} == {Path(image).name for image in images}
    named = "/".join(Path("set", mask).parts[-2:])
    assert f"1 mask not used: {named}." in dataset.remarks


@pytest.mark.parametrize(
    ("images", "mask", "of"),
    [
        (["train/good/0.png", "test/bent/1.png", "test/good/1.png"], "test/masks/1_mask.png", "bent/1.png"),
        (["train/good/0.png", "test/bent/1.png", "test/torn/2.png"], "ground_truth/2.png", "torn/2.png"),
        (["good/1.png", "bad/lot/1.png"], "masks/1.png", "lot/1.png"),
        (["good/0.png", "bad/a/1.png", "bad/b/1.png"], "masks/1.png", None),
        (["good/0.png", "torn/1.png", "bad/1.png"], "masks/1.png", None),
    ],
)
def test_masks_in_one_folder_are_those_of_the_images_that_alone_have_their_names(put, images, mask, of):
    dataset = load_dataset(put(*images, mask))
    masked = {name_file(sample.path): sample.mask_path for sample in dataset.test if sample.mask_path}
    assert {*masked} == ({of} - {None})
    assert any("without an image" in remark for remark in dataset.remarks) == (of is None)


def test_defects_beside_good_images_have_their_masks_beside_them(put):
    folder = put("good/0.png", "bad/1.png", "bad/1_mask.png", "bad/2.png", "bad_masks/2.png", "bad/3.png")
    dataset = load_dataset(folder)
    assert found(dataset.train) == [("good", "0.png", None)]
    assert found(dataset.test) == [("bad", "1.png", "1_mask.png"), ("bad", "2.png", "2.png"), ("bad", "3.png", None)]
    assert dataset.remarks == ("1 defect image without a mask: bad/3.png; expected mask: 3_mask.png.",)
    listed = load_dataset(train=folder / "good", test=folder / "bad")
    assert found(listed.test) == found(dataset.test)


def test_kinds_whose_names_differ_in_case_keep_their_own_masks(put):
    kinds = ("Bent", "bent", "a b", "A_B")
    folder = put("train/good/0.png", *(f"{part}/{kind}/0.png" for part in ("test", "ground_truth") for kind in kinds))
    dataset = load_dataset(folder)
    assert [sample.mask_path.parent.name for sample in dataset.test] == [sample.label for sample in dataset.test]
    assert dataset.remarks == ()


def test_a_mask_of_several_images_is_reported(put):
    dataset = load_dataset(
        put("train/good/0.png", "test/bent/0.png", "test/bent/0.jpg", "ground_truth/bent/0_mask.png")
    )
    assert [sample.mask_path.name for sample in dataset.test] == ["0_mask.png"] * 2
    assert dataset.remarks == (
        "1 mask used for several images: bent/0_mask.png.",
        "2 images differ only in the extension: bent/0.jpg, bent/0.png. If some are masks, move them to a folder masks "
        "beside the images.",
    )


def test_masks_in_a_folder_to_predict_are_left_out_with_a_warning(put, spade, tmp_path):
    folder = put("test/bent/1.png", "test/bent/1_mask.png", "ground_truth/bent/2_mask.png", size=(64, 64))
    told = r"2 masks not judged: bent/2_mask\.png, bent/1_mask\.png\. If they are images, change their names\."
    with pytest.warns(UserWarning, match=told):
        rows = spade.predict_folder(folder, tmp_path / "out", fpr=0.2)
    assert rows["path"].tolist() == ["test/bent/1.png"]
    rows = spade.predict_folder(folder / "ground_truth", tmp_path / "masks", fpr=0.2)
    assert rows["path"].tolist() == ["bent/2_mask.png"]


# ---- tables ----------------------------------------------------------------------------------------------------------


MASKS = ["gt", "GT", "seg", "Segmentation", "SegmentationClass", "truth", "Ground Truth", "defect_masks", "annotation"]


@pytest.mark.parametrize("masks", [*MASKS, "labels", "gt_images", "binary-masks"])
@pytest.mark.parametrize("mark", ["", "_mask", "_gt"])
def test_a_folder_of_masks_has_many_names_wherever_it_is(put, masks, mark):
    put("0/train/good/a.png", "0/train/good/b.png", f"0/train/good/{masks}/a{mark}.png", "0/test/bad/c.png")
    put(f"0/test/bad/{masks}/c{mark}.png", "1/good/a.png", "1/bad/c.png", f"1/{masks}/bad/c{mark}.png")
    folder = put("2/good/a.png", "2/bad/c.png", f"2/bad/{masks}/c{mark}.png")
    remarks = [f"1 mask not used: {masks}/a{mark}.png."], [], []
    for at, normal in enumerate(("ab", "a", "a")):
        dataset = load_dataset(folder / str(at))
        assert found(dataset.train) == [("good", f"{name}.png", None) for name in normal]
        assert found(dataset.test) == [("bad", "c.png", f"c{mark}.png")]
        assert [text for text in dataset.remarks if "inverted" not in text] == remarks[at]


@pytest.mark.parametrize("masks", [*MASKS, "label", "SegmentationObject"])
def test_masks_beside_a_folder_of_images_are_never_judged(put, spade, tmp_path, masks):
    folder = put("images/a.png", f"{masks}/a.png", "images/b.png", f"{masks}/b_mask.png", size=(256, 256))
    with pytest.warns(UserWarning, match=rf"2 masks not judged: {masks}/a\.png, {masks}/b_mask\.png\. If they are"):
        judged = spade.predict_folder(folder, tmp_path / "out", fpr=0.2)
    assert judged["path"].tolist() == ["images/a.png", "images/b.png"]


def test_a_kind_of_defect_may_be_called_label(put):
    dataset = load_dataset(put("good/000.png", "bad/000.png", "label/000.png"))
    assert sorted(found(dataset.test)) == [("bad", "000.png", None), ("label", "000.png", None)]


@pytest.mark.parametrize("good", ["good", "0"])
def test_folders_that_are_numbers_are_labels_and_0_counts_as_good(put, good):
    folder = put(f"train/{good}/a.png", "test/0/b.png", "test/1/c.png", "test/2/d.png", "ground_truth/1/c_mask.png")
    put("ground_truth/2/d_mask.png")
    told = "Folders in test are numbers: 0 counts as good."
    for dataset in (load_dataset(folder), load_dataset(train=folder / "train" / good, test=folder / "test")):
        assert found(dataset.train) == [("good", "a.png", None)]
        assert [(sample.label, sample.path.name) for sample in dataset.test] == [
            ("good", "b.png"), ("1", "c.png"), ("2", "d.png")
        ]  # fmt: skip
        assert told in str(dataset)
    assert ("Folders in train are numbers" in str(load_dataset(folder))) == (good == "0")


@pytest.mark.parametrize(("good", "bad"), [("False", "True"), ("0.0", "1.0"), ("00", "01")])
def test_truth_values_are_labels_of_folders(put, good, bad):
    dataset = load_dataset(put("train/good/0.png", f"test/{good}/1.png", f"test/{bad}/2.png"))
    assert found(dataset.test) == [("good", "1.png", None), (bad, "2.png", None)]
    assert f"Folders in test are numbers: {good} counts as good." in dataset.remarks


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        (("no", "yes"), "no, yes in test: kinds of defects."),
        (("N", "Y"), "N, Y in test: kinds of defects."),
        (("-1", "1"), "-1 in test: a kind of defect."),
        (("正常", "異常"), "正常 in test: a kind of defect."),
    ],
)
def test_folders_that_answer_an_unknown_question_are_reported(put, kinds, told):
    dataset = load_dataset(put("train/good/0.png", *(f"test/{kind}/1.png" for kind in kinds)))
    assert f"{told} If images of one are good, rename it good." in dataset.remarks


def test_test_images_beside_good_ones_may_lie_in_kinds(put):
    folder = put("ok/0.png", "check/good/1.png", "check/dent/2.png")
    dataset = load_dataset(train=folder / "ok", test=folder / "check")
    assert sorted(found(dataset.test)) == [("dent", "2.png", None), ("good", "1.png", None)]
    assert dataset.remarks == ()


def test_numbers_below_a_kind_are_reported_if_they_may_be_good_and_bad(put):
    told = "contradict the one above"
    assert "1 image in folders that contradict the one above: lot1/0/a.png counts as lot1." in str(
        load_dataset(put("train/good/a.png", "test/lot1/0/a.png", "test/lot1/1/a.png"))
    )
    assert told not in str(load_dataset(put("b/train/good/a.png", "b/test/bent/0/a.png", "b/test/bent/2/a.png") / "b"))


def test_masks_of_lists_of_folders_lie_below_one_folder(put):
    folder = put(*(f"{lot}/{kind}/0.png" for lot in ("d1", "d2") for kind in ("ok", "nok")), "masks/d1/nok/0.png")
    lots = [folder / "d1", folder / "d2"]
    dataset = load_dataset(train=[lot / "ok" for lot in lots], test=[lot / "nok" for lot in lots])
    assert [sample.mask_path for sample in dataset.test] == [folder / "masks/d1/nok/0.png", None]


def test_masks_beside_folders_that_are_not_understood_are_reported(put):
    folder = put("d1/ok/0.png", "d1/nok/0.png", "masks/first/0.png")
    dataset = load_dataset(train=folder / "d1/ok", test=folder / "d1/nok")
    assert f"{folder.name}/masks: 1 mask not used." in dataset.remarks


def test_masks_belong_to_rgb_of_several_channels(put):
    folder = put("train/good/rgb/0.png", *(f"test/bent/{channel}/0.png" for channel in ("rgb", "xyz", "gt")))
    masks = {sample.path.parent.name: sample.mask_path for sample in load_dataset(folder).test}
    assert masks == {"rgb": folder / "test/bent/gt/0.png", "xyz": None}


def test_a_label_has_no_blanks_at_its_ends_and_no_line_breaks(put):
    dataset = load_dataset(put("train/good/0.png", "test/1.png", "test/2.png"))
    dataset = dataset.label({"1.png": "bad ", "2.png": "bad"})
    assert "(2 bad)" in str(dataset)
    assert "(1 bad part, 1 bad)" in str(dataset.label({"1.png": "bad\npart"}))


def test_a_test_folder_in_a_format_that_is_not_supported_is_named(put):
    folder = put("good/0.png")
    (folder / "test/bent").mkdir(parents=True)
    (folder / "test/bent/0.heic").write_bytes(b"heic")
    with pytest.raises(FileNotFoundError, match=r"\.heic is not supported\. Convert"):
        load_dataset(train=folder / "good", test=folder / "test")


@pytest.mark.parametrize("kinds", [("good", "0"), ("1", "2"), ("0", "bent")])
def test_0_is_a_kind_of_its_own_among_other_names(put, kinds):
    dataset = load_dataset(put("train/good/a.png", *(f"test/{kind}/{kind}.png" for kind in kinds)))
    assert {sample.label for sample in dataset.test} == {*kinds}
    assert "numbers" not in str(dataset)


@pytest.mark.parametrize(
    ("names", "place"),
    [
        (["y/ground_truth/bad/a.png", "y/test/bad/a.png", "y/test/good/a.png", "y/train/good/a.png"], "y/train/good"),
        (["y/ground_truth/bad/a.png", "y/test/bad/a.png", "y/test/ok/a.png"], "y/test/ok"),
        (["y/gt/bad/a.png", "y/photos/a.png"], "y/photos"),
        (["y/bad/masks/a.png", "y/bad/a.png", "y/later/a.png"], "y/later"),
    ],
)
def test_the_place_of_normal_images_is_named_and_never_one_of_masks(put, names, place):
    folder = put(*(f"x/{name}" for name in names))
    sentence = f"such as in {folder}/x/{place}. Pass the folder of normal images."
    with pytest.raises(FileNotFoundError, match=re.escape(sentence)):
        load_dataset(folder)


def test_a_folder_of_masks_is_not_proposed_as_test_images(put):
    with pytest.raises(FileNotFoundError, match=r"load_dataset\(train='.*/ok', test='.*/things'\)\."):
        load_dataset(put("ok/a.png", "gt/b.png", "things/b.png"))
    with pytest.raises(FileNotFoundError, match=r"Pass the folder of images of good parts\."):
        load_dataset(put("../masks/gt/b.png").parent / "masks")


def test_a_table_may_separate_folders_with_backslashes(put):
    folder = put("a/b/0.png", "a/1.png", "back\\slash.png")
    (folder / "list.csv").write_text("path,split\na\\b\\0.png,train\nback\\slash.png,train\na\\1.png,test\n")
    dataset = load_dataset(folder / "list.csv")
    assert [sample.path for sample in dataset.train] == [folder / "a/b/0.png", folder / "back\\slash.png"]
    assert [sample.path for sample in dataset.test] == [folder / "a/1.png"]


@pytest.mark.parametrize(("good", "bad"), [("0", "1"), ("1", "0"), ("0.0", "1.0"), ("1", "-1"), ("False", "True")])
def test_the_number_of_the_training_images_counts_as_good(put, good, bad):
    folder = put("0.png", "1.png", "2.png")
    (folder / "list.csv").write_text(f"path,label,split\n0.png,{good},train\n1.png,{good},test\n2.png,{bad},test\n")
    dataset = load_dataset(folder / "list.csv")
    assert [sample.label for sample in dataset.train + dataset.test] == ["good", "good", bad]
    assert dataset.remarks == (f"Labels of list.csv are numbers: {good} counts as good.",)


def test_a_cell_of_a_table_may_hold_a_line_break(put):
    folder = put("a\nb.png", "c\u2028d.png")
    (folder / "list.csv").write_text('path\n"a\nb.png"\n"c\u2028d.png"\n', encoding="utf-8")
    assert [sample.path.name for sample in load_dataset(folder / "list.csv").train] == ["a\nb.png", "c\u2028d.png"]


def test_rows_of_one_image_are_joined(put, tmp_path):
    folder = put("0.png", "1.png", "2.png")
    masks = np.zeros((2, 6, 8), np.uint8)
    masks[0, 1, 1], masks[1, 4, 5] = 9, 200
    for number, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / f"m{number}.png")
    rows = ["0.png,good,,train", "1.png,dent,m0.png,test", "1.png,dent,m1.png,test", "./1.png,dent,m1.png,test"]
    rows += ["2.png,,,test", "2.png,dent,m1.png,test"]
    (folder / "list.csv").write_text("\n".join(["path,label,mask,split", *rows]))
    one, two = load_dataset(folder / "list.csv").test
    np.testing.assert_array_equal(one.mask, masks.any(0))
    np.testing.assert_array_equal(two.mask, masks[1] > 0)
    assert [one.label, two.label] == ["dent", "dent"]
    assert load_dataset(folder / "list.csv").remarks[0] == (
        "3 rows of list.csv for an image again, joined: set/1.png, set/1.png, set/2.png."
    )


def test_a_table_without_names_for_its_first_and_last_column_is_read(put):
    folder = put("0.png")
    (folder / "list.csv").write_text(",path,split,\n0,0.png,train,\n")
    assert load_dataset(folder / "list.csv").remarks == ()


# ---- remarks ---------------------------------------------------------------------------------------------------------


def test_unreadable_files_are_skipped_and_named(put):
    folder = put("train/good/0.png", "train/good/1.png", "test/bent/0.png")
    (folder / "train/good/2.png").write_bytes(b"")
    (folder / "test/bent/1.jpg").write_bytes(b"no picture")
    with pytest.warns(
        UserWarning, match=r"set: 2 of 5 images are skipped\. .*2\.png.* it is empty.*1\.jpg.* its format is none of"
    ):
        dataset = load_dataset(folder)
    assert [len(dataset.train), len(dataset.test)] == [2, 1]
    assert "2 of 5 images are skipped" in str(dataset)


def test_masks_that_fit_no_image_are_reported(put):
    folder = put("train/good/0.png", *(f"test/bent/{at}.png" for at in range(4)), "ground_truth/bent/0_mask.png")
    put("ground_truth/bent/1_mask.png", size=(12, 16))
    put("ground_truth/bent/2_mask.png", size=(8, 6))
    put("ground_truth/bent/9_mask.png")
    (folder / "ground_truth/bent/3_mask.png").write_bytes(b"")
    dataset = load_dataset(folder)
    assert [sample.mask_path is not None for sample in dataset.test] == [True, True, False, False]
    assert dataset.remarks == (
        "1 mask without an image: bent/9_mask.png.",
        "1 mask unreadable, not used: bent/3_mask.png.",
        "1 mask of another orientation than the image, not used: bent/2_mask.png.",
        "1 mask of a different size from the image, resized: bent/1_mask.png.",
    )


@pytest.mark.parametrize(("damage", "told"), [
    (lambda file: file.write_bytes(b""), "unreadable"),
    (lambda file: Image.new("L", (16, 12)).save(file), "of a different size from the other masks of the image"),
])  # fmt: skip
def test_of_several_masks_of_an_image_the_wrong_one_is_named(put, damage, told):
    folder = put("train/good/0.png", "test/bent/0.png", *(f"ground_truth/bent/0/{at}.png" for at in range(3)))
    damage(folder / "ground_truth/bent/0/1.png")
    dataset = load_dataset(folder)
    assert dataset.test[0].mask is None
    assert dataset.remarks == (
        f"1 mask {told}, not used: 0/1.png.",
        "1 image whose other masks are not used, either: bent/0.png.",
    )


def test_missing_values_of_a_table_are_no_labels_and_no_masks(put):
    rows = [
        "0.png,None,nan,train",
        "1.png,NaN,,test",
        "2.png,n/a,2_mask.png,test",
        "3.png,,,test",
        "4.png,bent,NA,test",
    ]
    folder = put(*(f"{at}.png" for at in range(5)), "2_mask.png")
    (folder / "list.csv").write_text("\n".join(["path,label,mask,split", *rows]))
    dataset = load_dataset(folder / "list.csv")
    assert found(dataset.train) == [("good", "0.png", None)]
    assert [sample.label for sample in dataset.test] == [None, None, None, "bent"]
    assert [sample.mask_path is not None for sample in dataset.test] == [False, True, False, False]
    assert dataset.remarks == (
        "4 rows of list.csv without a label: 1 in train, as good, and 3 in test.",
        "1 defect image without a mask: set/4.png.",
    )


def test_an_image_that_nobody_labelled_is_no_normal_image(put):
    folder = put(*(f"{at}.png" for at in range(4)))
    (folder / "list.csv").write_text("path,label\n0.png,good\n1.png,ok\n2.png,\n3.png,n/a\n")
    dataset = load_dataset(folder / "list.csv")
    assert found(dataset.train) == [("good", "0.png", None), ("good", "1.png", None)]
    assert found(dataset.test) == [(None, "2.png", None), (None, "3.png", None)]
    assert dataset.remarks == ("2 rows of list.csv without a label: 2 in test.",)


def test_a_row_without_a_split_is_told(put):
    folder = put(*(f"{at}.png" for at in range(3)))
    (folder / "list.csv").write_text("path,label,split\n0.png,good,train\n1.png,good\n2.png,bent,test\n")
    dataset = load_dataset(folder / "list.csv")
    assert [sample.path.name for sample in dataset.train] == ["0.png", "1.png"]
    assert dataset.remarks == ("1 row of list.csv without a split: in train.",)


def test_a_row_with_more_cells_than_names_is_refused(put):
    folder = put("0.png", "1.png")
    table = folder / "list.csv"
    table.write_text("path,label,split\n0.png,good,train,,\n1.png,good,,test\n")
    with pytest.raises(
        ValueError, match=r"Row 3 of .*list\.csv must have as many cells as the first line, 3; got 4\. Put"
    ):
        load_dataset(table)
    table.write_text("path,label,split\n0.png,good,train,,\n1.png,good,test\n")
    assert len(load_dataset(table).test) == 1


def test_a_test_image_that_is_also_normal_is_reported(put):
    folder = put("train/good/0.png", "train/good/1.png", "test/bent/0.png")
    (folder / "test/bent/5.png").write_bytes((folder / "train/good/1.png").read_bytes())
    assert load_dataset(folder).remarks == ("1 test image also among the training images: bent/5.png.",)


def test_a_defect_without_a_mask_is_reported(put):
    folder = put("train/good/0.png", "test/bent/0.png", "test/bent/1.png", "ground_truth/bent/0_mask.png")
    told = "1 defect image without a mask: bent/1.png; expected mask: ground_truth/bent/1_mask.png."
    assert load_dataset(folder).remarks == (told,)


def test_defects_and_duplicates_among_the_fitted_are_reported(demo):
    with pytest.warns(UserWarning, match=r"1 of 3 fitted images are labelled as defects, such as 'chip'"):
        SPADE(k=1).fit([*demo.train[:2], demo.test[0]])
    with pytest.warns(UserWarning, match="1 of 3 fitted images are duplicates. Duplicates are left out together"):
        SPADE(k=1).fit([*demo.train[:2], demo.train[0]])


def test_images_of_several_sizes_are_reported(put):
    put("0.png", "1.png")
    dataset = load_dataset(put("2.png", size=(20, 10)))
    assert "2 sizes from 6 x 8 to 20 x 10 px" in str(dataset)


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_mistakes_raise_a_clear_error(put, tmp_path):
    folder = put("good/0.png", "scratch/1.png")
    (tmp_path / "empty").mkdir()
    for name in ("file.txt", "set.ZIP"):
        (tmp_path / name).write_text("")
    mistakes = [
        (tmp_path / "empty", {}, r"Expected images in .*empty, but it contains nothing\. Pass the folder of images"),
        (folder, {"layout": "mvtec"}, r"contains deep, good, scratch\. .*train=.*good', test=.*scratch'\)"),
        (
            put("deep/a/b/2.png") / "deep",
            {},
            r"deep, but it contains a\. Its images are deeper down, such as in .*/deep/a/b\. Pass the folder of normal",
        ),
        (tmp_path / "nowhere", {}, r"Expected a folder of images at .*nowhere, but there is none\. Check the path"),
        (
            tmp_path / "set.ZIP",
            {},
            r"Expected a folder of images at .*set\.ZIP, but it is an archive\. Unpack it, and pass",
        ),
        (None, {"train": tmp_path / "set.ZIP"}, r"set\.ZIP, but it is an archive\. Unpack it, and pass the folder"),
        (tmp_path / "file.txt", {}, r"or a CSV table, but .*file\.txt is another kind of file"),
        (
            None,
            {"train": folder / "good", "test": tmp_path / "empty"},
            r"Expected images in .*empty, but it contains nothing",
        ),
        (
            folder / "table.csv",
            {"layout": "csv"},
            r"Expected a CSV table at .*table\.csv, but there is no such file",
        ),
        (None, {"train": tmp_path / "file.txt"}, r"Expected a folder of images at .*file\.txt, but it is a file"),
    ]
    for path, options, sentence in mistakes:
        with pytest.raises(FileNotFoundError, match=sentence):
            load_dataset(path, **options)
    for path, options, sentence in (
        (folder, {"layout": "mvtek"}, "layout must be one of .* Did you mean 'mvtec'"),
        (folder, {"train": folder}, "takes either a name or path, or the folder of normal images"),
        (None, {}, "takes either a name or path"),
        ("", {}, "given by a name or one path; got ''"),
    ):
        with pytest.raises(ValueError, match=sentence):
            load_dataset(path, **options)


def test_a_dataset_without_any_readable_image_is_an_error(tmp_path):
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"No normal image of .* can be read\. .*0\.png.*it is empty"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file\n0.png\n", "The first line of .* must name the columns path, .*; got 'file'"),
        ("path,label\n0.png,dent\n", "lists defects, such as 'dent', so it needs a column split"),
        (
            "path,class\n0.png,dent\n",
            "has unknown columns class; known columns are path, label, mask and split. Rename them",
        ),
        ("path,split\n0.png,trian\n", "split of 0.png in list.csv must be one of 'train', 'test'; got 'trian'"),
        ("path,label,split\n0.png,dent,train\n", "list.csv puts 0.png, a 'dent' image, among the normal ones"),
        ("path,label\n0.png,0\n0.png,1\n", "lists defects, such as '1', so it needs a column split"),
        (
            "path,label,split\n0.png,0,train\n0.png,1,train\n",
            "a '1' image, among the normal ones",
        ),
        ("path,split\n0.png,test\n", "lists no normal image for training"),
        (
            "path,label,split\n0.png,good,train\n0.png,dent,test\n",
            "list.csv must give each image one label; got 'good' and 'dent' for .*0.png. Correct its rows",
        ),
        (f"path,split\n{'0' * 200_000},train\n", "list.csv is not a CSV table: field larger .*. Check its quotes"),
    ],
)
def test_an_invalid_table_raises_an_error(put, text, sentence):
    folder = put("0.png")
    (folder / "list.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        load_dataset(folder / "list.csv")


# ---- fitting --------------------------------------------------------------------------------------------------------


def test_a_fit_leaves_out_what_cannot_be_read_and_names_it(put, demo):
    folder = put("large.png", "other.png", size=(64, 64))
    put("small.png", size=(20, 64))
    whole = (folder / "other.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    names = ["cut.png", "large.png", "small.png", "missing.png", "other.png"]
    with pytest.warns(
        UserWarning,
        match=r"Skipped 3 of 5 images\. .*cut\.png.*; small\.png: An image must have at least 32.*missing\.png",
    ):
        spade = SPADE(k=1).fit([folder / name for name in names])
    alone = SPADE(k=1).fit([folder / "large.png", folder / "other.png"])
    assert len(spade) == 2
    result, expected = spade.predict(demo.test[0]), alone.predict(demo.test[0])
    np.testing.assert_array_equal(result.anomaly_map, expected.anomaly_map)
    with pytest.raises(FileNotFoundError, match=r"missing\.png, but there is no such file"):
        SPADE(k=1).fit([folder / "missing.png"])


def test_damaged_files_never_stop_a_fit(demo, tmp_path):
    """Files cut, changed and spliced, among a few good ones."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(120):
        content = bytearray(demo.train[number % 6].path.read_bytes())
        how, at, other = number % 3, *rng.integers(0, len(content), 2)
        if how == 0:
            content = content[:at]
        elif how == 1:
            content[at] ^= rng.integers(1, 256)
        else:
            part = content[other : other + 200]
            content[at : at + len(part)] = part
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(bytes(content))
    with pytest.warns(UserWarning, match=r"of 123 images\. Cannot read .* as an image"):
        spade = SPADE(k=1).fit([*paths, *demo.train[6:9]])
    assert 3 <= len(spade) < 123 - 40  # every third file was cut


@pytest.mark.parametrize(("head", "twice"), [("path,label,label,split", "label"), ("Path,path,label,split", "path")])
def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path, head, twice):
    (tmp_path / "table.csv").write_text(f"{head}\na.png,good,bad,test\n")
    with pytest.raises(ValueError, match=rf"table\.csv must name each column once; got {twice} again\. Rename one"):
        load_dataset(tmp_path / "table.csv")


# ---- images beside masks ---------------------------------------------------------------------------------------------


@pytest.fixture
def split(put, draw):
    """Splits, or good and bad, in a folder beside one of masks."""

    def split(images, masks, *names):
        for at, name in enumerate(names):
            put(f"{images}/{name}/{at}.png")
            if "good" not in name:
                draw(f"{masks}/{name}/{at}.png")
        return put(f"{images}/{names[0]}/a.png")

    return split


@pytest.fixture
def draw(put):
    def draw(name):
        mask = np.zeros((6, 8), np.uint8)
        mask[2:4, 3:6] = 255
        path = put() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)

    return draw


@pytest.mark.parametrize("masks", ["masks", "labels", "ground_truth"])
@pytest.mark.parametrize("images", ["images", "imgs", "JPEGImages"])
def test_a_folder_of_images_beside_one_of_masks_is_one_dataset(split, images, masks):
    folder = split(images, masks, "train/good", "test/good", "test/dent")
    for root in (folder, folder / images):
        dataset = load_dataset(root)
        assert found(dataset.train) == [("good", "0.png", None), ("good", "a.png", None)]
        assert [(s.label, s.mask_path) for s in dataset.test] == [
            ("dent", folder / masks / "test/dent/2.png"), ("good", None),
        ]  # fmt: skip
        assert dataset.remarks == ()
    assert load_dataset(folder).name == "set"


def test_good_and_bad_images_beside_masks_are_one_dataset(split):
    folder = split("images", "masks", "good", "bad")
    for root in (folder, folder / "images"):
        assert found(load_dataset(root).test) == [("bad", "1.png", "1.png")]


def test_masks_beside_a_dataset_are_found_by_the_call_that_is_proposed(split):
    folder = split("part 7", "masks", "train/good", "test/good", "test/dent")
    with pytest.raises(FileNotFoundError, match="and the masks beside them are found: load_dataset") as refused:
        load_dataset(folder)
    call = str(refused.value).partition("are found: ")[2].rstrip(".")
    assert [s.mask_path for s in eval(call, {"load_dataset": load_dataset}).test if s.label == "dent"] == [
        folder / "masks/test/dent/2.png"
    ]


def test_a_kind_may_be_called_test(put, draw):
    folder = put("train/good/0.png", "test/test/1.png", "test/dent/2.png")
    draw("ground_truth/dent/2.png")
    draw("ground_truth/test/1.png")
    assert [sample.mask_path is None for sample in load_dataset(folder).test] == [False, False]


def test_masks_may_have_the_splits_of_their_images(put, draw):
    folder = put("train/good/0.png", "test/good/1.png", "test/dent/2.png")
    for mask in ("train/good/0.png", "test/good/1_label.png", "test/dent/2_label.png"):
        draw(f"annotations/{mask}")
    dataset = load_dataset(folder)
    assert sorted(found(dataset.test)) == [("dent", "2.png", "2_label.png"), ("good", "1.png", "1_label.png")]
    assert dataset.remarks == ("1 mask not used: good/0.png.",)


def test_images_of_labels_are_no_masks_of_other_images(put):
    folder = put("images/train/good/0.png", "images/test/bad/1.png", "labels/train/good/0.png", "labels/test/bad/1.png")
    with pytest.raises(FileNotFoundError, match="Specify the folders"):
        load_dataset(folder)


@pytest.mark.parametrize(("images", "masks"), [("images", "test/masks"), ("img", "ground_truth"), ("rgb", "masks/rgb")])
def test_kinds_in_a_folder_of_test_images_are_labels(put, draw, images, masks):
    folder = put("train/good/0.png", f"test/{images}/good/1.png", f"test/{images}/dent/2.png")
    draw(f"{masks}/dent/2.png")
    for dataset in (load_dataset(folder), load_dataset(train=folder / "train/good", test=folder / "test")):
        assert sorted(found(dataset.test)) == [("dent", "2.png", "2.png"), ("good", "1.png", None)]
        assert dataset.remarks == ()


def test_folders_given_one_by_one_that_are_numbers_are_labels(put):
    folder = put("a/0.png", "lot/0/1.png", "lot/1/2.png")
    dataset = load_dataset(train=folder / "a", test=[folder / "lot/1", folder / "lot/0"])
    assert found(dataset.test) == [("1", "2.png", None), ("good", "1.png", None)]
    assert dataset.remarks == ("Folders in lot are numbers: 0 counts as good.",)


def test_folders_given_one_by_one_whose_names_may_be_labels_are_named(put):
    folder = put("a/0.png", "lot/dent/1.png", "lot/scratch/2.png", "new/3.png")
    dataset = load_dataset(train=folder / "a", test=[folder / "lot/dent", folder / "lot/scratch", folder / "new"])
    told = "dent, scratch: images without a label. If these names are labels, pass the folder that holds them as test."
    assert dataset.remarks == (told,)
    assert found(load_dataset(train=folder / "a", test=[folder / "lot"]).test)[0][0] == "dent"


@pytest.mark.parametrize("test", [["lot"], ["lot", "nok"]])
def test_a_folder_of_a_foreign_format_is_refused_by_its_name(put, test):
    folder = put("a/0.png", "nok/1.png")
    (folder / "lot").mkdir()
    (folder / "lot/0.HEIC").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"lot, but it contains 0\.HEIC\. \.heic is not supported\. Convert"):
        load_dataset(train=folder / "a", test=[folder / name for name in test])


@pytest.mark.parametrize(
    ("normal", "bad"), [("ok_front", "def_front"), ("1", "0"), ("Class A", "class b"), ("frisch", "faul")]
)
def test_a_kind_with_the_name_of_the_folder_of_normal_images_is_good(put, normal, bad):
    folder = put(*(f"{split}/{normal}/{split}{at}.png" for split in ("train", "test") for at in range(2)))
    put(f"test/{bad}/0.png", f"test/{bad}/1.png")
    for train in (folder / "train" / normal, [folder / "train" / normal]):
        dataset = load_dataset(train=train, test=folder / "test")
        labels = {sample.path.parent.name: sample.label for sample in dataset.test}
        assert labels == {normal: "good", bad: bad}
        told = f"test/{normal} has the name of a folder of normal images: it counts as good."
        assert dataset.remarks[0] == told  # and of 0 that it may mean good
    assert {
        sample.label for sample in load_dataset(train=folder / "train" / normal, test=folder / "test" / bad).test
    } == {None}


@pytest.mark.parametrize("part", ["train", "images", "bad"])
def test_a_folder_of_normal_images_whose_name_says_nothing_of_them_names_no_kind(put, part):
    folder = put(f"a/{part}/0.png", f"test/{part}/1.png", "test/crack/2.png")
    dataset = load_dataset(train=folder / "a" / part, test=folder / "test")
    assert {sample.label for sample in dataset.test if sample.path.stem == "1"} <= {part, None}


def test_normal_images_that_are_named_like_defects_are_told(put):
    folder = put(
        "OK_1.png", "NG_1.png", "2-not_ok.png", "003 defect.png", "ok 4.png", "without_defect_5.png", "angle_6.png"
    )
    told = (
        "3 normal images named like a defect: set/2-not_ok.png, set/003 defect.png, set/NG_1.png. If they are defects, "
        "move them to a folder of their own, and pass it as test."
    )
    assert load_dataset(folder).remarks == (told,)
    for path in load_dataset(folder).train:
        if path.path.name in told:
            path.path.unlink()
    assert load_dataset(folder).remarks == ()
