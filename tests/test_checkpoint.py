"""Saving, changing and loading a fitted SPADE, and errors of invalid folders."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import TinyNet
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from spade_kit import SPADE, load_backbone
from spade_kit._files import lock
from spade_kit.gallery import checkpoint
from spade_kit.search.layout import SimdLayout


def same(one, other, photo, exactly=True):
    mine, its = one.predict(photo), other.predict(photo)
    compare = np.testing.assert_array_equal if exactly else close
    compare(mine.anomaly_map, its.anomaly_map)
    compare(mine.neighbours.distance, its.neighbours.distance)
    if exactly:
        np.testing.assert_array_equal(mine.neighbours.index, its.neighbours.index)
        np.testing.assert_array_equal(mine.correspondence.place, its.correspondence.place)


def with_backbone(options):
    """A crop of 200 px gives grids that do not nest: features are then stored as plain levels."""
    return options | {"backbone": load_backbone(crop=options["backbone"])} if "backbone" in options else options


def close(mine, its):
    np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-3 * np.max(its))


@pytest.fixture
def fitted(demo) -> SPADE:
    return SPADE(k=5).fit(demo.train[:8])


# ---- changing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [0, 3, 7, [1, 4, 6], np.int64(2)])
def test_removing_is_as_if_they_had_never_been_fitted(fitted, demo, scratched, gone):
    result, before = fitted.predict(scratched), fitted.with_options(sigma=4)
    fitted.remove(gone)
    kept = [at for at in range(8) if at not in np.atleast_1d(gone)]
    same(fitted, SPADE(k=5).fit([demo.train[at] for at in kept]), scratched, exactly=False)
    assert [normal.sample for normal in fitted.gallery.normals] == [demo.train[at] for at in kept]
    same(before, result.spade, scratched)  # others stay unchanged
    assert len(before) == 8


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"weights": "equal"}, {"backbone": 200}, {"combine": "ensemble"}])
def test_adding_is_as_if_all_had_been_fitted_at_once(demo, scratched, options):
    options = with_backbone(options)
    spade = SPADE(k=8, **options).fit(demo.train[:8]).add(demo.train[8:12])
    whole = SPADE(k=8, **options).fit(demo.train[:12])
    assert len(spade) == 12
    same(spade, whole, scratched)  # full batches of four: even the rounding is the same
    for mine, its in zip(spade.gallery.moments, whole.gallery.moments):
        np.testing.assert_array_equal(mine[0], its[0])
    close(spade.add(demo.train[12]).predict(scratched).anomaly_map,
          SPADE(k=8, **options).fit(demo.train[:13]).predict(scratched).anomaly_map)  # fmt: skip


def test_cached_thresholds_are_computed_again(fitted, demo):
    before = fitted.threshold(0.1), fitted.normal_level
    fitted.add(demo.train[8:12])
    refitted = SPADE(k=5).fit(demo.train[:12])
    assert (fitted.threshold(0.1), fitted.normal_level) == (refitted.threshold(0.1), refitted.normal_level)
    assert (fitted.threshold(0.1), fitted.normal_level) != before
    fitted.remove([8, 9, 10, 11])
    assert (fitted.threshold(0.1), fitted.normal_level) == before


def test_removing_and_adding_the_last_one_changes_nothing(fitted, demo, scratched):
    before = fitted.predict(scratched)
    fitted.remove(7).add(demo.train[7])
    close(fitted.predict(scratched).anomaly_map, before.anomaly_map)


def test_invalid_corrections_raise_an_error(fitted, demo, tmp_path, scratched):
    with pytest.raises(ValueError, match="At least one normal image must remain; got all 8 to remove"):
        fitted.remove(range(8))
    with pytest.raises(ValueError, match=r"index must refer to one of the training images, from 0 to 7; got 8\."):
        fitted.remove(8)
    with pytest.raises(ValueError, match="add needs at least one normal image; got none"):
        fitted.add([])
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(ValueError, match="it is empty"):
        fitted.add(tmp_path / "broken.png")
    with pytest.warns(UserWarning, match="1 of 9 fitted images are duplicates"):
        fitted.add(demo.train[0])
    with pytest.warns(UserWarning, match="labelled as defects, such as 'scratch'"):
        fitted.remove(8).add(scratched)
    assert len(fitted) == 9
    whole = SPADE(load_backbone(crop=None, resize=128)).fit(demo.train[:2])
    with pytest.warns(UserWarning, match="normal image 2 was squashed by 1.6 : 1 to the 128 x 128 px of the fit"):
        whole.add(demo.train[2].image[:200, :320])


# ---- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"k": 3, "kappa": 2, "radius": 4, "weights": "equal", "sigma": 2},
    {"weights": {"layer1": 0.5}, "combine": "ensemble"},
    {"backbone": 200},
])  # fmt: skip
@pytest.mark.slow
def test_a_loaded_spade_gives_the_same_results(demo, scratched, tmp_path, options):
    spade = SPADE(**with_backbone(options)).fit(demo.train[:5])
    spade.save(tmp_path / "saved")
    again = SPADE.load(tmp_path / "saved")
    assert again.describe_options() == spade.describe_options()
    assert repr(again) == repr(spade)
    same(spade, again, scratched)
    assert again.threshold(0.2) == spade.threshold(0.2)
    for index in range(5):
        np.testing.assert_array_equal(again.normal_image(index), spade.normal_image(index))
    assert again.predict_left_out(1).sample.path == demo.train[1].path
    assert again.gallery.normals[0].crop == spade.gallery.normals[0].crop
    same(again.add(demo.train[5]), spade.add(demo.train[5]), scratched)


def test_a_folder_of_format_1_loads(fitted, scratched, tmp_path):
    """Format 1 named its only feature file, stored a precision, and had no search option; unset options were null."""
    fitted.with_options(kappa=1).save(tmp_path)
    record = json.loads((tmp_path / "spade.json").read_text())
    old = record | {"format": 1, "features": record["shards"][0], "precision": "float32"}
    del old["shards"], old["options"]["search"]
    old["options"]["kappa"] = None
    (tmp_path / "spade.json").write_text(json.dumps(old))
    same(SPADE.load(tmp_path), fitted, scratched)
    (tmp_path / "spade.json").write_text(json.dumps(old | {"precision": "float16"}))
    with pytest.raises(ValueError, match=r"holds features as float16, which .* no longer supported\. Fit again"):
        SPADE.load(tmp_path)


def test_a_custom_module_that_changed_after_the_fit_is_refused(demo, scratched, tmp_path):
    own = {"layers": ("early", "middle", "late"), "pooled": "late", "resize": 72, "crop": 64}
    module = TinyNet()
    backbone = load_backbone(module, **own)
    spade = SPADE(backbone).fit(demo.train[:3])
    spade.save(tmp_path)
    torch.nn.init.constant_(module.stem.bias, 3.0)
    changed = r"TinyNet must have the weights of the fit; got others\. Fit again, or restore them\."
    refused = [lambda: spade.add(demo.train[3]), lambda: spade.save(tmp_path), lambda: spade.predict(scratched)]
    for call in refused * 2:
        with pytest.raises(ValueError, match=changed):
            call()
    with pytest.raises(ValueError, match=r"was fitted with TinyNet, weights .*; got TinyNet, weights .*"):
        SPADE.load(tmp_path, backbone)
    again = spade.with_options().fit(demo.train[:3]).add(demo.train[3])
    again.save(tmp_path)
    same(SPADE.load(tmp_path, backbone), again, scratched)
    module.stem.bias.data += 1  # which torch's count of changes leaves out
    with pytest.raises(ValueError, match=changed):
        again.predict(scratched)
    module.stem.bias.data -= 1
    assert again.predict(scratched).image_score > 0


def test_threads_save_to_one_folder_one_after_the_other(fitted, scratched, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fitted.save(tmp_path), range(12)))
    same(SPADE.load(tmp_path), fitted, scratched)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_processes_do_not_save_to_one_folder_at_once(fitted, demo, scratched, tmp_path):
    """Each would remove what the other has written and not yet listed."""
    fitted.save(tmp_path)
    with lock(tmp_path), pytest.raises(ValueError, match=r"is in use: another run is writing to it"):
        SPADE(k=2).fit(demo.train[:4]).save(tmp_path)
    same(SPADE.load(tmp_path), fitted, scratched)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_folder_needs_a_name(fitted, name):
    for call in (fitted.save, SPADE.load, lambda folder: fitted.predict_folder(folder, "out")):
        with pytest.raises(ValueError, match=r"must name a folder, '\.' for the current one; got "):
            call(name)


def test_a_save_by_another_thread_while_loading_is_read_instead(fitted, scratched, tmp_path, monkeypatch):
    """The old file vanishes between the manifest and the features."""
    fitted.save(tmp_path)
    newer = fitted.with_options(k=3)
    read, saves = checkpoint.find_backbone, iter([True, True, False])

    def save_meanwhile(*given):
        if next(saves, False):
            newer.save(tmp_path)
        return read(*given)

    monkeypatch.setattr(checkpoint, "find_backbone", save_meanwhile)
    loaded = SPADE.load(tmp_path)
    assert loaded.options == newer.options
    same(loaded, newer, scratched)


def test_several_shards_are_one_gallery(demo, scratched, tmp_path):
    parts = [SPADE(k=4).fit(demo.train[:4]), SPADE(k=4).fit(demo.train[4:8])]
    records = []
    for part in parts:
        part.save(tmp_path / "part")
        records.append(json.loads((tmp_path / "part/spade.json").read_text()))
        (tmp_path / "whole").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "part" / records[-1]["shards"][0], tmp_path / "whole")
    together = {name: [*records[0][name], *records[1][name]] for name in ("shards", "normals")}
    (tmp_path / "whole/spade.json").write_text(json.dumps(records[0] | together))
    same(SPADE.load(tmp_path / "whole"), SPADE(k=4).fit(demo.train[:8]), scratched)
    (tmp_path / "whole" / records[1]["shards"][0]).unlink()
    with pytest.raises(ValueError, match="is damaged or incomplete"):
        SPADE.load(tmp_path / "whole")


def test_other_users_can_read_it_and_paths_are_recorded(demo, tmp_path):
    spade = SPADE(k=2).fit([demo.train[0].path, str(demo.train[1].path)])
    spade.save(tmp_path)
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1
    told = json.loads((tmp_path / "spade.json").read_text())["normals"]
    assert [one["path"] for one in told] == [str(sample.path) for sample in demo.train[:2]]
    assert spade.suspects()["path"].str.len().min() > 0


def test_every_normal_records_where_it_came_from(fitted, demo, tmp_path):
    fitted.add(demo.train[8], why="looked at by hand")
    fitted.save(tmp_path)
    told = json.loads((tmp_path / "spade.json").read_text())["normals"]
    assert [one["path"] for one in told] == [str(sample.path) for sample in demo.train[:9]]
    assert [one["why"] for one in told] == ["fit"] * 8 + ["looked at by hand"]
    assert all(one["added"].endswith("+00:00") and len(one["sha"]) == 32 for one in told)
    assert SPADE.load(tmp_path).gallery.normals[8].why == "looked at by hand"


@pytest.mark.parametrize("limit", [0, 2**30])
def test_only_features_of_a_large_gallery_stay_in_the_file(fitted, tmp_path, monkeypatch, limit):
    monkeypatch.setattr("spade_kit.gallery.checkpoint._READ_UP_TO", limit)
    fitted.save(tmp_path)
    pixels = SPADE.load(tmp_path).gallery.pixels
    assert isinstance(pixels, SimdLayout)
    with open("/proc/self/maps", encoding="utf-8") as maps:
        assert any(str(tmp_path) in line for line in maps) == (limit == 0)


@pytest.mark.parametrize("change", ["cut", "emptied", "filled with zeros"])
def test_a_file_that_changes_after_loading_changes_no_answer(saved, change):
    saved.change()
    loaded = SPADE.load(saved.folder, saved.backbone)
    with open("/proc/self/maps", encoding="utf-8") as maps:  # a search of a mapped file would end this process
        assert not any(str(saved.folder) in line for line in maps)
    size = saved.features.stat().st_size
    with open(saved.features, "r+b") as file:
        file.truncate({"cut": size // 2, "emptied": 0}.get(change, size))
        file.write(bytes(size) if change == "filled with zeros" else b"")
    np.testing.assert_array_equal(loaded.predict(saved.image).anomaly_map, saved.expected.anomaly_map)


@pytest.mark.parametrize("name", ["coarse", "middle", "fine"])
@pytest.mark.parametrize("rows", [-1, 1])
def test_levels_that_hold_other_numbers_of_images_are_refused(fitted, tmp_path, name, rows):
    fitted.save(tmp_path)
    (file,) = tmp_path.glob("gallery-*")
    tensors = load_file(file)
    tensors[name] = np.concatenate([tensors[name]] * 2)[: len(fitted) + rows]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"is damaged or incomplete \(.* Fit again, or restore a copy"):
        SPADE.load(tmp_path)


def test_only_the_newest_features_stay(fitted, demo, scratched, tmp_path):
    fitted.save(tmp_path)
    loaded = SPADE.load(tmp_path)
    loaded.remove(0).save(tmp_path)  # over the file that it was read from
    assert len(list(tmp_path.glob("gallery-*"))) == 1
    same(loaded, SPADE.load(tmp_path), scratched)
    assert len(SPADE.load(tmp_path)) == 7


def test_a_save_deletes_only_what_the_manifest_it_replaces_lists(fitted, demo, scratched, tmp_path):
    fitted.save(tmp_path)
    (features,) = tmp_path.glob("gallery-*")
    mine = ["gallery-0123abcd.safetensors", "gallery-before_cleaning.safetensors", "spade_old.json", "notes.txt"]
    for name in mine:
        shutil.copy(features, tmp_path / name)
    before = features.read_bytes()
    for write in (fitted.remove(0).save, lambda folder: SPADE(k=3).fit(demo.train[:4], folder=folder), fitted.save):
        write(tmp_path)
        assert all((tmp_path / name).read_bytes() == before for name in mine)
        assert len(list(tmp_path.iterdir())) <= len(mine) + 2 + (tmp_path / ".lock").exists()
    same(SPADE.load(tmp_path), fitted, scratched)


@pytest.mark.parametrize("moment", ["before the manifest", "after the manifest"])
def test_a_save_killed_while_it_exchanges_files_leaves_none(fitted, scratched, tmp_path, monkeypatch, moment):
    fitted.save(tmp_path)
    write = checkpoint._write_manifest

    def kill(*given):
        if moment == "after the manifest":
            write(*given)
        monkeypatch.setattr(checkpoint, "_clean", lambda place: None)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_write_manifest", kill)
    with pytest.raises(KeyboardInterrupt):
        fitted.remove(0).save(tmp_path)
    monkeypatch.undo()
    assert len(SPADE.load(tmp_path)) == (8 if moment == "before the manifest" else 7)
    assert len(list(tmp_path.glob("gallery-*"))) == 2
    (tmp_path / "gallery-0123abcd.safetensors").touch()
    fitted.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


FOREIGN = {
    "an object": b'{"name": "spade", "format": 2}',
    "a list": b"[1, 2]",
    "a number": b"3",
    "text": b"digging tools",
    "nothing": b"",
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("what", [*FOREIGN, "a folder"])
def test_a_spade_json_of_another_kind_is_never_replaced(fitted, demo, tmp_path, what):
    mine = tmp_path / "spade.json"
    if what == "a folder":
        mine.mkdir()
    else:
        mine.write_bytes(FOREIGN[what])
    for write in (fitted.save, lambda folder: SPADE(k=3).fit(demo.train[:4], folder=folder)):
        with pytest.raises(ValueError, match=r"spade\.json must be that of a saved SPADE; got .* Use another folder\."):
            write(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]
    assert what == "a folder" or mine.read_bytes() == FOREIGN[what]


@pytest.mark.parametrize("damage", ["cut", "emptied", "of another version"])
def test_a_damaged_or_older_save_is_replaced(fitted, scratched, tmp_path, damage):
    fitted.save(tmp_path)
    manifest = tmp_path / "spade.json"
    text = manifest.read_text()
    other = json.dumps(json.loads(text) | {"format": 99, "new": 1})
    manifest.write_text({"cut": text[: len(text) // 2], "emptied": "", "of another version": other}[damage])
    fitted.save(tmp_path)
    same(SPADE.load(tmp_path), fitted, scratched)
    assert len(list(tmp_path.glob("gallery-*"))) == 1 + (damage == "emptied")  # then nothing says whose the old one is


KILLED = """
import sys
from pathlib import Path
import spade_kit
from spade_kit import SPADE
spade = SPADE.load(sys.argv[1])
print("ready", flush=True)
while True:
    spade.save(sys.argv[1])
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_complete_save(fitted, scratched, tmp_path):
    fitted.save(tmp_path)
    for delay in (0.0, 0.013, 0.05, 0.12):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        same(SPADE.load(tmp_path), fitted, scratched)
    fitted.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_old_save_intact(fitted, demo, scratched, tmp_path, monkeypatch):
    from spade_kit.gallery import checkpoint as store

    fitted.save(tmp_path)
    monkeypatch.setattr(store, "save_file", lambda *_: (_ for _ in ()).throw(store.SafetensorError("No space left")))
    with pytest.raises(OSError, match=r"could not be written \(No space left\)\. Files written before are intact"):
        fitted.remove(0).save(tmp_path)
    assert len(SPADE.load(tmp_path)) == 8
    assert len(list(tmp_path.iterdir())) == 2


def test_a_custom_module_must_be_passed_again(demo, scratched, tmp_path):
    own = {"layers": ("early", "middle", "late"), "pooled": "late", "resize": 72, "crop": 64}
    spade = SPADE(load_backbone(TinyNet(), **own)).fit(demo.train[:3])
    spade.save(tmp_path)
    with pytest.raises(ValueError, match=r"fitted with a custom module, TinyNet, which is not saved\. Pass it"):
        SPADE.load(tmp_path)
    same(SPADE.load(tmp_path, load_backbone(TinyNet(), **own)), spade, scratched)
    other = TinyNet()
    torch.nn.init.zeros_(other.stem.bias)
    with pytest.raises(
        ValueError, match=r"was fitted with TinyNet, weights .*; got TinyNet, weights .*\. Use the same"
    ):
        SPADE.load(tmp_path, load_backbone(other, **own))


def test_invalid_folders_raise_a_clear_error(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no spade\.json\. Create it with spade\.save"):
        SPADE.load(tmp_path)
    fitted.save(tmp_path)
    with pytest.raises(
        ValueError, match=r"was fitted with efficientnet_lite0, .*'crop': 224.*; got .*'crop': 192.*\. Use the same"
    ):
        SPADE.load(tmp_path, load_backbone(crop=192))
    record = json.loads((tmp_path / "spade.json").read_text())
    (features,) = tmp_path.glob("gallery-*")
    whole = features.read_bytes()
    for damaged in (whole[:-100], whole[:20], b"", whole[:8] + b"?" * 50 + whole[58:]):
        features.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged or incomplete"):
            SPADE.load(tmp_path)
    features.write_bytes(whole)
    for wrong, said in [
        (
            {"format": 99, "spade_kit": "9.0"},
            r"format of .* must be a number from 1 to 3; got 99, written by spade_kit 9\.0",
        ),
        ({"normals": record["normals"][1:]}, "damaged or incomplete .*8 pictures for 7 images"),
        ({"shapes": record["shapes"][:2]}, "damaged or incomplete"),
        ({"shapes": []}, "damaged or incomplete"),
        ({"backbone": {}}, r"spade\.json is damaged \(parts of it are missing\)"),
        ({"options": {}}, "must hold the options"),
        ({"options": None}, r"spade\.json is damaged \(parts of it are missing\)"),
        ({"normals": 3}, "damaged or incomplete"),
    ]:
        (tmp_path / "spade.json").write_text(json.dumps(record | wrong))
        with pytest.raises(ValueError, match=said):
            SPADE.load(tmp_path)
    (tmp_path / "spade.json").write_text("{")
    with pytest.raises(ValueError, match=r"spade\.json is damaged"):
        SPADE.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"A SPADE is saved to a folder, but .* is a file"):
        fitted.save(tmp_path / "file")
    os.unlink(features)
    (tmp_path / "spade.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is damaged or incomplete"):
        SPADE.load(tmp_path)


# ---- damage and hostile folders --------------------------------------------------------------------------------------


class Saved:
    """A small saved gallery, its result for one image, and its files, to be damaged and restored."""

    def __init__(self, folder, demo, image, crop):
        self.folder, self.image, self.backbone = folder, image, load_backbone(crop=crop)
        SPADE(self.backbone, k=3, weights="equal").fit(demo.train[:4]).save(folder)
        self.files = {file: file.read_bytes() for file in sorted(folder.iterdir())}
        self.features, self.manifest = self.files
        self.record = json.loads(self.files[self.manifest])
        self.expected = self.predict()

    def predict(self):
        return SPADE.load(self.folder, self.backbone).predict(self.image)

    def outcome(self, backbone):
        """The result, or the sentence with which it is refused."""
        try:
            return SPADE.load(self.folder, backbone).predict(self.image), ""
        except (ValueError, ConnectionError) as problem:
            return None, str(problem)

    def write(self, file, content):
        """Restore everything, then write one file again: a loaded gallery may still read the old one."""
        for path, whole in {**self.files, file: content}.items():
            path.unlink(missing_ok=True)
            path.write_bytes(whole)

    def change(self, **changes):
        """Write a manifest with some entries changed, and without checksums, as a forger could."""
        record = {name: value for name, value in self.record.items() if name != "checksum"}
        normals = [
            {name: one[name] for name in one if name not in ("checksum", "features")} for one in record["normals"]
        ]
        self.write(self.manifest, json.dumps(record | {"normals": normals} | changes).encode())


@pytest.fixture(scope="module", params=[224, 200], ids=["SIMD layout", "plain levels"])
def saved(request, tmp_path_factory, demo, scratched):
    return Saved(tmp_path_factory.mktemp("saved"), demo, scratched, request.param)


@given(st.data())
def test_damaged_files_are_refused_or_give_the_same_answer(saved, data):
    file = data.draw(st.sampled_from([saved.features, saved.manifest]))
    whole = saved.files[file]
    start = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, min(len(whole) - 1, 2000)))
    end = data.draw(st.sampled_from([start, start + 1, start + 9, len(whole)]))
    saved.write(file, whole[:start] + data.draw(st.binary(max_size=9)) + whole[end:])
    result, refused = saved.outcome(saved.backbone)
    if result is None:
        assert "Fit again" in refused
    else:
        np.testing.assert_array_equal(result.anomaly_map, saved.expected.anomaly_map)
        np.testing.assert_array_equal(result.neighbours.distance, saved.expected.neighbours.distance)


def places_of(node, path=()):
    """The paths to all entries of a manifest."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path] * bool(path) + [deeper for key, value in inside for deeper in places_of(value, (*path, key))]


def replaced(node, path, value):
    if not path:
        return value
    copy = node.copy()
    copy[path[0]] = replaced(node[path[0]], path[1:], value)
    return copy


values = st.sampled_from(
    [None, True, -1, 0, 1, 2.5, float("nan"), 1e308, 10**9, 10**400, "", "x", "..", [], [[[]]], {}]
)


@pytest.mark.slow
@given(st.data())
def test_any_entry_of_a_forged_manifest_is_refused_or_harmless(saved, data):
    saved.change()
    forged = json.loads(saved.manifest.read_bytes())
    forged = replaced(forged, data.draw(st.sampled_from(places_of(forged))), data.draw(values))
    saved.write(saved.manifest, json.dumps(forged).encode())
    result, refused = saved.outcome(saved.backbone if data.draw(st.booleans()) else None)
    assert refused.endswith((".", "?")) if result is None else np.isfinite(result.anomaly_map).all()


@pytest.mark.parametrize(("changes", "said"), [
    ({"extra": 1}, "it has the unknown entries 'extra'"),
    ({"shards": ["../gallery.safetensors"]}, r"plain names of safetensors files; got '\.\./gallery"),
    ({"shards": ["/etc/passwd"]}, "plain names of safetensors files; got '/etc/passwd'"),
    ({"shards": ["pipe.safetensors"]}, r"pipe\.safetensors is damaged or incomplete \(there is no such file\)"),
    ({"shards": []}, "damaged or incomplete"),
    ({"shards": ["a.safetensors"] * 2}, "shards must be at most 9999 different files; got 2"),
    ({"shards": [f"{at}.safetensors" for at in range(10_000)]}, "at most 9999 different files; got 10000"),
    ({"format": "2"}, r"must be a number from 1 to 3; got '2', written by"),
    ({"layers": ["layer1"] * 3}, "a shape for each of its layers"),
    ({"shapes": [[24, 2**40, 1]] * 3}, "a shape must have 3 sides of at most 65536"),
])  # fmt: skip
def test_a_forged_manifest_is_refused_in_a_sentence(saved, changes, said):
    saved.change(**changes)
    pipe = saved.folder / "pipe.safetensors"
    os.mkfifo(pipe)
    try:
        with pytest.raises(ValueError, match=said):
            saved.predict()
    finally:
        pipe.unlink()


@pytest.mark.parametrize(("inside", "changes", "said"), [
    ("options", {"kappa": 10**9}, r"out of range \(kappa must be at most 300; got 1000000000\.\)\. Fit again"),
    ("options", {"sigma": 1e6}, "sigma must be at most 1000"),
    ("options", {"k": -3}, "k must be a whole number of at least 1; got -3"),
    ("backbone", {"recipe": {"name": "resnet18", "url": "http://x"}}, "its recipe has the unknown entries 'url'"),
    ("backbone", {"recipe": {"name": ["resnet18"]}}, "its backbone must be described by names and numbers"),
])  # fmt: skip
def test_forged_settings_are_refused_in_a_sentence(saved, inside, changes, said):
    saved.change(**{inside: saved.record[inside] | changes})
    with pytest.raises(ValueError, match=said):
        saved.predict()


@pytest.mark.parametrize(("changes", "said"), [
    ({"crop": [[240, 320], [256, 256], [0, 0], [10**9, 10**9]]}, "a crop must have 2 sides of at most 65536"),
    ({"crop": [[240, 320], [256, 256], [17, 16], [224, 224]]}, "a crop must be that of the backbone"),
    ({"path": ["x"]}, "path, label, added and why of an image must be text"),
    ({"code": "import os"}, "an image has the unknown entries 'code'"),
])  # fmt: skip
def test_a_forged_image_is_refused_in_a_sentence(saved, changes, said):
    saved.change()
    normals = json.loads(saved.manifest.read_bytes())["normals"]
    saved.change(normals=[normals[0] | changes, *normals[1:]])
    with pytest.raises(ValueError, match=said):
        saved.predict()


def test_a_recipe_that_no_backbone_has_is_refused_with_the_name_of_the_folder(saved):
    for wrong in ({"average": -1}, {"resize": 10**9}, {"name": "resnet1800"}, {"layers": ["x"], "pooled": "y"}):
        recipe = {"name": "efficientnet_lite0"} | wrong
        saved.change(backbone=saved.record["backbone"] | {"recipe": recipe})
        with pytest.raises(ValueError, match=rf"^The backbone of {saved.folder} cannot be loaded\. [A-Za-z]"):
            SPADE.load(saved.folder)


def test_a_deeply_nested_manifest_is_refused(saved):
    saved.write(saved.manifest, b"[" * 100_000)
    with pytest.raises(ValueError, match=r"spade\.json is damaged"):
        saved.predict()


def test_a_folder_without_checksums_loads(saved):
    """As version 0.1 wrote it."""
    saved.change()
    np.testing.assert_array_equal(saved.predict().anomaly_map, saved.expected.anomaly_map)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("which", ["pooled", "features", "means0"])
def test_numbers_that_no_search_can_use_are_refused(saved, which, value):
    tensors = load_file(saved.features)
    name = which if which in tensors else "fine" if "fine" in tensors else "level0"
    tensors[name][-1] = value if which != "means0" else np.nan
    saved.change()
    saved.features.unlink()
    save_file(tensors, saved.features)
    with pytest.raises(ValueError, match=r"Features must be finite|are not finite|moments must be finite"):
        SPADE.load(saved.folder, saved.backbone).threshold(0.3)


def test_features_are_checked_image_by_image_when_they_are_first_read(demo, tmp_path):
    SPADE(k=2).fit(demo.train[:4]).save(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("gallery-*")
    tensors = load_file(file)
    tensors["middle"][2, 0, 0, 0] += 1
    save_file(tensors, file)
    loaded = SPADE.load(tmp_path / "saved")
    for index in (0, 1, 3):
        assert len(loaded.gallery.pyramid(index)) == 1
    for read in (
        lambda: loaded.gallery.pyramid(2),
        lambda: loaded.with_options(k=4).predict(demo.test[0]),
        lambda: loaded.remove(0),
        lambda: loaded.save(tmp_path / "again"),
    ):
        with pytest.raises(
            ValueError, match=r"saved is damaged: the features of image 2 .* another checksum\. Fit again"
        ):
            read()
    assert not (tmp_path / "again").exists()


def test_a_download_is_announced(saved, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    recipe = {"name": "resnet18", "pretrained": True}
    saved.change(backbone=saved.record["backbone"] | {"recipe": recipe, "name": "resnet18"})
    with (
        pytest.warns(UserWarning, match=r"fitted with resnet18; its weights .* will be downloaded"),
        pytest.raises(ConnectionError, match="could not be downloaded"),
    ):
        SPADE.load(saved.folder)


# ---- torch's settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float64", "float16", "meta", "autocast", "deterministic", "medium"])
def test_torchs_settings_change_no_answer_from_fit_to_loaded_gallery(demo, scratched, tmp_path, torch_settings, name):
    def run(folder):
        spade = SPADE(load_backbone(), k=3, weights="equal").fit(demo.train[:4])
        spade.save(folder)
        again = SPADE.load(folder)
        brute = again.with_options(search="brute_force", k=1, radius=1)
        return [judge.predict(scratched).anomaly_map for judge in (spade, again, brute)], again.threshold(0.3)

    expected = run(tmp_path / "usual")
    with torch_settings(name):
        changed = run(tmp_path / "changed")
        loaded = SPADE.load(tmp_path / "usual").predict(scratched).anomaly_map
    np.testing.assert_array_equal(expected[0], changed[0])
    np.testing.assert_array_equal(expected[0][0], loaded)
    assert expected[1] == changed[1]
