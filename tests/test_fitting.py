"""Fits whose features go to files, in one process or several: the same galleries, and what stays in its file."""

import json
import shutil
import warnings

import numpy as np
import pytest
from conftest import TinyNet

from spade_kit import SPADE, load_backbone
from spade_kit._files import lock
from spade_kit._work import LostImageError, crew
from spade_kit.gallery import checkpoint, fitting, gallery
from spade_kit.search.layout import Shards


@pytest.fixture(scope="module")
def client():
    with crew(2) as client:
        yield client


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(fitting, "CHUNK", 4)


@pytest.fixture
def in_files(monkeypatch):
    """Features stay in their files."""
    monkeypatch.setattr(checkpoint, "_READ_UP_TO", 0)


def assert_same(one: SPADE, other: SPADE, photo) -> None:
    for mine, its in zip(one.gallery.moments, other.gallery.moments):
        np.testing.assert_array_equal(mine, its)
    assert [normal.digest for normal in one.gallery.normals] == [normal.digest for normal in other.gallery.normals]
    assert [normal.jpeg for normal in one.gallery.normals] == [normal.jpeg for normal in other.gallery.normals]
    mine, its = one.predict(photo), other.predict(photo)
    np.testing.assert_array_equal(mine.neighbours.index, its.neighbours.index)
    np.testing.assert_array_equal(mine.anomaly_map, its.anomaly_map)


@pytest.mark.parametrize("crop", [224, 200, None])
def test_a_fit_into_a_folder_is_the_fit_in_memory_and_a_save(demo, scratched, tmp_path, crop):
    backbone = load_backbone(resize=224, crop=crop)
    expected = SPADE(backbone, k=5).fit(demo.train[:10])
    spade = SPADE(backbone, k=5).fit(demo.train[:10], folder=tmp_path / "fit")
    assert spade.folder == tmp_path / "fit"
    assert len(list((tmp_path / "fit").glob("*.safetensors"))) == 3
    assert not (tmp_path / "fit/.fitting").exists()
    for found in (spade, SPADE.load(tmp_path / "fit")):
        assert_same(found, expected, scratched)
        assert found.options == expected.options


def test_what_the_normal_images_decide_is_saved_too(demo, tmp_path):
    spade = SPADE.recommended(size=128).fit(demo.train[:12], folder=tmp_path)
    loaded = SPADE.load(tmp_path)
    assert loaded.options == spade.options == SPADE.recommended(size=128).fit(demo.train[:12]).options
    assert loaded.choices.equals(spade.choices)


@pytest.mark.usefixtures("in_files")
@pytest.mark.parametrize("options", [{}, {"combine": "ensemble", "kappa": 3}, {"search": "brute_force"}])
def test_features_that_stay_in_their_files_give_the_same_answers(demo, scratched, tmp_path, options):
    expected = SPADE(k=6, **options).fit(demo.train[:10])
    spade = SPADE(k=6, **options).fit(demo.train[:10], folder=tmp_path / "fit")
    assert isinstance(spade.gallery.pixels, Shards)
    assert spade.gallery.nbytes == expected.gallery.nbytes
    assert_same(spade, expected, scratched)
    assert spade.threshold(0.2) == expected.threshold(0.2)
    before, after = (one.predict(scratched).with_k(3).anomaly_map for one in (expected, spade))
    np.testing.assert_array_equal(after, before)
    for each in (spade, expected):
        each.remove([0, 5]).add(demo.train[10])
    assert not isinstance(spade.gallery.pixels, Shards)
    np.testing.assert_array_equal(spade.predict(scratched).anomaly_map, expected.predict(scratched).anomaly_map)


@pytest.mark.usefixtures("in_files")
def test_shards_can_be_saved_elsewhere_and_reduced_to_some_layers(demo, scratched, tmp_path):
    expected = SPADE(k=6).fit(demo.train[:10])
    spade = SPADE(k=6).fit(demo.train[:10], folder=tmp_path / "fit")
    spade.save(tmp_path / "copy")
    spade.save(tmp_path / "fit")  # onto itself
    assert len(list((tmp_path / "fit").glob("*.safetensors"))) == 3
    for folder in ("copy", "fit"):
        assert_same(SPADE.load(tmp_path / folder), expected, scratched)
    some = [spade.gallery.only(["layer3"]), expected.gallery.only(["layer3"])]
    np.testing.assert_array_equal(*(one.pyramid(7).levels[0].numpy() for one in some))


@pytest.mark.usefixtures("in_files")
def test_each_file_is_checked_when_it_is_first_read(demo, scratched, tmp_path):
    spade = SPADE(k=2).fit(demo.train[:10], folder=tmp_path)
    last = tmp_path / json.loads((tmp_path / "spade.json").read_text())["shards"][2]
    content = bytearray(last.read_bytes())
    content[-5000] ^= 1  # of an array of the layout, or a picture's
    shutil.copy(last, tmp_path / "before")
    head = int.from_bytes(content[:8], "little") + 8
    told = json.loads(bytes(content[8:head]))
    start = told["fine"]["data_offsets"][0] + head
    content = bytearray((tmp_path / "before").read_bytes())
    content[start] ^= 64
    last.write_bytes(content)
    loaded = SPADE.load(tmp_path)
    loaded.gallery.pixels.verify(np.arange(8))
    with pytest.raises(ValueError, match=r"the features of image 8 cannot be used, they have another checksum"):
        loaded.gallery.pixels.verify(np.arange(10))
    del spade


@pytest.mark.usefixtures("in_files")
def test_a_copy_that_does_not_fit_into_memory_is_refused(demo, tmp_path, monkeypatch):
    spade = SPADE().fit(demo.train[:8], folder=tmp_path)
    monkeypatch.setattr(gallery, "free_memory", lambda device: 8 * 500_000)
    with pytest.raises(MemoryError, match=r"The features of 9 images need 0\.0 GB of memory, .*folder="):
        spade.add(demo.train[8])
    assert len(spade) == 8


def test_workers_write_the_same_gallery(demo, scratched, tmp_path, client):
    expected = SPADE(k=5).fit(demo.train[:10])
    for folder, workers in {"client": {"client": client}, "jobs": {"jobs": 2}}.items():
        spade = SPADE(k=5).fit(demo.train[:10], folder=tmp_path / folder, **workers)
        np.testing.assert_allclose(
            spade.predict(scratched).anomaly_map, expected.predict(scratched).anomaly_map, rtol=1e-4, atol=1e-4
        )
        assert [normal.digest for normal in spade.gallery.normals] == [x.digest for x in expected.gallery.normals]


def test_skipped_images_are_named_once(demo, tmp_path, client):
    (tmp_path / "broken.png").write_bytes(b"")
    photos = [*demo.train[:3], tmp_path / "broken.png", *demo.train[3:6], tmp_path / "broken.png", demo.train[6]]
    for folder, workers in {"one": {}, "two": {"client": client}}.items():
        with pytest.warns(UserWarning, match=r"Skipped 2 of 9 images\. Cannot read .*broken\.png") as said:
            spade = SPADE().fit(photos, folder=tmp_path / folder, **workers)
        assert len(said) == 1
        assert len(spade) == 7
    with pytest.raises(ValueError, match=r"Cannot read .*broken\.png"):
        SPADE().fit([tmp_path / "broken.png"] * 5, folder=tmp_path / "three")
    assert not (tmp_path / "three/spade.json").exists()


def test_an_image_that_ends_its_workers_is_skipped(demo, tmp_path, monkeypatch):
    def hand_out(workers, work, images, chunk):
        yield 0, LostImageError("every worker that was given it ended")
        yield from ((at + 1, found) for at, found in enumerate(work(images[1:])))

    monkeypatch.setattr(fitting, "hand_out", hand_out)
    with pytest.warns(UserWarning, match=r"Skipped 1 of 4 images\. .*: every worker that was given it ended"):
        spade = SPADE().fit(demo.train[:4], folder=tmp_path, client=None, jobs=2)
    assert len(spade) == 3


def test_a_fit_that_fails_leaves_the_older_save_intact(demo, scratched, tmp_path, monkeypatch):
    before = SPADE(k=3).fit(demo.train[:5], folder=tmp_path)
    monkeypatch.setattr(checkpoint, "write_shard", lambda place, gallery: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        SPADE(k=3).fit(demo.train[:9], folder=tmp_path)
    assert not (tmp_path / ".fitting").exists()
    assert_same(SPADE.load(tmp_path), before, scratched)


def test_options_are_not_saved_with_the_gallery_of_another_fit(demo, tmp_path, monkeypatch):
    """Which ends between the two steps of this one: its files are written, and its options are still to be chosen."""
    folder, choose = tmp_path / "fit", SPADE._choose

    def choose_slowly(spade):
        SPADE(k=2).fit(demo.train[6:9], folder=folder)
        choose(spade)

    monkeypatch.setattr(SPADE, "_choose", choose_slowly)
    with pytest.raises(ValueError, match=r"fit was given another fit meanwhile. Save this one in another folder\."):
        SPADE.recommended().fit(demo.train[:3], folder=folder)
    loaded = SPADE.load(folder)
    assert (len(loaded), loaded.k, loaded.choices.empty) == (3, 2, True)


def test_a_folder_in_use_and_other_mistakes_are_refused(demo, tmp_path):
    with lock(tmp_path / "used"), pytest.raises(ValueError, match=r"used is in use: another run is writing to it"):
        SPADE().fit(demo.train[:2], folder=tmp_path / "used")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"A SPADE is saved to a folder, but .*file is a file"):
        SPADE().fit(demo.train[:2], folder=tmp_path / "file")
    with pytest.raises(ValueError, match=r"fit needs at least one normal image; got none\."):
        SPADE().fit([], folder=tmp_path / "none")
    with pytest.raises(ValueError, match=r"With jobs or a client, fit needs a folder for what the workers write"):
        SPADE().fit(demo.train[:2], jobs=2)
    own = SPADE(load_backbone(TinyNet(), layers=("early",), resize=72, crop=64))
    with pytest.raises(ValueError, match=r"Workers load a network by its name; got the custom module TinyNet"):
        own.fit(demo.train[:3], folder=tmp_path / "own", jobs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(own.fit(demo.train[:3], folder=tmp_path / "own")) == 3
