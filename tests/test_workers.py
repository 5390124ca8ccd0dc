"""Folders judged by several processes: the same rows and pictures, whatever ends in the middle."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import psutil
import pytest
from conftest import TinyNet
from PIL import Image

from spade_kit import SPADE, _work, evaluate, load_backbone, sweep
from spade_kit._files import Item
from spade_kit._work import LostImageError, crew, hand_out
from spade_kit.batch import judge_on


@pytest.fixture(scope="module")
def client():
    with crew(2) as client:
        yield client


@pytest.fixture
def many(demo, tmp_path) -> Path:
    """126 images, one of them broken."""
    folder = tmp_path / "many"
    folder.mkdir()
    for copy in range(3):
        for at, sample in enumerate(demo.test):
            shutil.copy(sample.path, folder / f"{copy}-{at:02d}.png")
    (folder / "1-11.png").write_bytes(b"broken")
    return folder


def quick_backbone():
    """A small network, which workers load by its name."""
    return load_backbone("resnet18", pretrained=False, resize=72, crop=64)


@pytest.fixture(scope="module")
def quick(demo) -> SPADE:
    return SPADE(quick_backbone()).fit(demo.train[:8])


def assert_same(found: pandas.DataFrame, expected: pandas.DataFrame) -> None:
    """Scores differ by rounding, as batches do."""
    assert found["path"].tolist() == expected["path"].tolist()
    exact = ["verdict", "nearest_normal", "judged", "squash", "reason", "bytes", "sha256"]
    pandas.testing.assert_frame_equal(found[exact], expected[exact])
    for name in ("image_score", "retrieval_score"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)


def assert_same_maps(one: Path, other: Path) -> None:
    files = sorted(path.relative_to(one) for path in (one / "maps").rglob("*.tiff"))
    assert files == sorted(path.relative_to(other) for path in (other / "maps").rglob("*.tiff"))
    for file in files:
        with Image.open(one / file) as mine, Image.open(other / file) as its:
            np.testing.assert_allclose(np.array(mine), np.array(its), rtol=1e-4, atol=1e-4)


def in_thread(call):
    """Start a call; a function that waits for its result, or raises its error."""
    found = []

    def run():
        try:
            found.append(call())
        except Exception as problem:
            found.append(problem)

    thread = threading.Thread(target=run)
    thread.start()

    def wait():
        thread.join(300)
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    return wait


def wait_for(told, seconds=60):
    end = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < end
        time.sleep(0.01)


def count_rows(out: Path) -> int:
    table = out / "results.csv"
    return len(table.read_bytes().splitlines()) - 1 if table.exists() else 0


def end_on_one_image(item, photo, found, seconds):
    if isinstance(found, LostImageError):
        return {"reason": str(found)}
    if photo.name == "0-06.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"score": found.image_score}


def test_workers_write_what_one_process_does(quick, many, client, tmp_path, monkeypatch):
    monkeypatch.setattr(_work, "CHUNK", 16)
    expected = quick.predict_folder(many, tmp_path / "one", fpr=0.2)
    found = quick.predict_folder(many, tmp_path / "two", fpr=0.2, client=client)
    assert_same(found, expected)
    assert_same_maps(tmp_path / "one", tmp_path / "two")
    regions = [pandas.read_csv(tmp_path / name / "regions.csv") for name in ("one", "two")]
    pandas.testing.assert_frame_equal(*regions, rtol=1e-4)
    assert (tmp_path / "two/fit/spade.json").is_file()
    assert found.loc[found["path"] == "1-11.png", "verdict"].tolist() == ["not judged"]


def test_a_saved_fit_is_read_where_it_is(quick, many, client, tmp_path):
    quick.save(tmp_path / "fit")
    loaded = SPADE.load(tmp_path / "fit")
    for part in list(many.iterdir())[:120]:
        part.unlink()
    loaded.with_options(sigma=2).predict_folder(many, tmp_path / "out", fpr=0.2, client=client)
    assert not (tmp_path / "out/fit").exists()
    loaded.with_options(sigma=2).predict_folder(many, tmp_path / "one", fpr=0.2)
    out, one = (pandas.read_csv(tmp_path / name / "results.csv") for name in ("out", "one"))
    assert_same(out, one)


def test_jobs_are_processes_that_end_with_the_call(quick, many, tmp_path):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    found = quick.predict_folder(many, tmp_path / "two", fpr=0.2, maps=False, jobs=2)
    assert_same(found, quick.predict_folder(many, tmp_path / "one", fpr=0.2, maps=False))
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert not [child for child in left if "spawn_main" in " ".join(child.cmdline())]


def test_an_evaluation_is_shared_out_too(quick, demo, client, tmp_path, monkeypatch):
    monkeypatch.setattr(_work, "CHUNK", 8)
    expected = evaluate(quick, demo, tmp_path / "one")
    found = evaluate(quick, demo, tmp_path / "two", client=client)
    for metric in ("image_roc_auc", "pixel_roc_auc", "aupro"):
        assert found.metric(metric) == pytest.approx(expected.metric(metric), abs=1e-4)
    assert found.to_frame()["path"].equals(expected.to_frame()["path"])
    with pytest.raises(ValueError, match=r"With jobs or a client, evaluate needs a folder"):
        evaluate(quick, demo, client=client)


def test_settings_are_shared_out_too(demo, client, tmp_path):
    some = replace(demo, train=demo.train[:6], test=demo.test[::6])
    over = {"backbone": [quick_backbone()], "normals": [3, None], "weights": [None, "equal"], "k": [1, 3]}
    expected = sweep(some, over, draws=2)
    for folder in (None, tmp_path, tmp_path):
        found = sweep(some, over, draws=2, folder=folder, client=client)
        pandas.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"), rtol=1e-4)
    own = load_backbone(TinyNet(), layers=("early",), resize=72, crop=64)
    with pytest.raises(ValueError, match=r"Workers load a network by its name; got the custom module TinyNet"):
        sweep(some, {"backbone": [own]}, client=client)


def test_a_worker_that_is_killed_costs_nothing(quick, many, tmp_path, monkeypatch):
    monkeypatch.setattr(_work, "CHUNK", 4)
    expected = quick.predict_folder(many, tmp_path / "one", fpr=0.2)
    with crew(2) as client:
        out = tmp_path / "two"
        finish = in_thread(lambda: quick.predict_folder(many, out, fpr=0.2, client=client))
        wait_for(lambda: count_rows(out) > 10)
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        assert_same(finish(), expected)
    assert_same_maps(tmp_path / "one", tmp_path / "two")


def test_without_a_scheduler_what_was_done_is_whole_and_a_second_call_goes_on(quick, many, tmp_path, monkeypatch):
    monkeypatch.setattr(_work, "CHUNK", 4)
    out = tmp_path / "two"
    with crew(2) as client:
        finish = in_thread(lambda: quick.predict_folder(many, out, fpr=0.2, client=client))
        wait_for(lambda: count_rows(out) > 10)
        client.cluster.close()
        with pytest.raises(ConnectionError, match=r"The scheduler is gone\. What was done is whole: connect again"):
            finish()
    done = count_rows(out)
    assert 10 < done < 126
    assert_same(quick.predict_folder(many, out, fpr=0.2), quick.predict_folder(many, tmp_path / "one", fpr=0.2))


def test_an_image_that_ends_its_workers_is_one_row(quick, many, client, tmp_path, monkeypatch):
    monkeypatch.setattr(_work, "CHUNK", 4)
    quick.save(tmp_path / "fit")
    photos = sorted(many.iterdir())[:10]

    (tmp_path / "out").mkdir()
    judge = judge_on(client, SPADE.load(tmp_path / "fit"), tmp_path / "out", end_on_one_image)
    rows = dict(judge([(Item({"path": photo.name}, [photo], []), photo) for photo in photos]))
    assert sorted(rows) == list(range(10))
    assert [row["path"] for row in rows.values() if "reason" in row] == ["0-06.png"]
    assert rows[6]["reason"].startswith("every worker that was given it ended")


def test_a_folder_that_workers_cannot_see_is_named_with_the_machine(quick, many, client, tmp_path):
    quick.save(tmp_path / "fit")
    loaded = SPADE.load(tmp_path / "fit")
    shutil.move(tmp_path / "fit", tmp_path / "elsewhere")
    told = rf"There is no folder {tmp_path}/fit: workers need storage that all machines share\. This is what .* says\."
    with pytest.raises(OSError, match=told):
        loaded.predict_folder(many, tmp_path / "out", fpr=0.2, client=client)


def test_another_fit_in_the_folder_is_not_used(quick, demo, many, client, tmp_path):
    quick.save(tmp_path / "fit")
    loaded = SPADE.load(tmp_path / "fit")
    SPADE(quick.backbone).fit(demo.train[8:16]).save(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"fit holds another fit now\. Save this one again, or load that one\."):
        loaded.predict_folder(many, tmp_path / "out", fpr=0.2, client=client)


def test_errors_of_workers_keep_their_sentence(client):
    def fail(items):
        raise PermissionError("x could not be written (Permission denied).")

    with pytest.raises(OSError, match=r"x could not be written \(Permission denied\)\. This is what .* says\."):
        list(hand_out(client, fail, [1, 2]))


def test_warnings_of_workers_are_repeated_here(client):
    def remark(items):
        from spade_kit._arguments import warn

        warn("odd")
        return items

    with pytest.warns(UserWarning, match="odd"):
        assert sorted(hand_out(client, remark, [5, 6])) == [(0, 5), (1, 6)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"jobs": 0}, r"jobs must be a whole number of at least 1; got 0"),
        ({"jobs": 1.5}, r"jobs must be a whole number of at least 1; got 1\.5"),
        ({"client": 5}, r"client must be a connected dask\.distributed\.Client; got a value of type int"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_invalid_workers_are_refused(quick, many, tmp_path, given, told):
    with pytest.raises(ValueError, match=told):
        quick.predict_folder(many, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_client_is_checked(quick, many, client, demo, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"jobs must be 1 with a client, which has workers of its own; got 2"):
        quick.predict_folder(many, tmp_path / "out", client=client, jobs=2)
    own = SPADE(load_backbone(TinyNet(), layers=("early",), resize=72, crop=64)).fit(demo.train[:3])
    with pytest.raises(ValueError, match=r"Workers load a network by its name; got the custom module TinyNet"):
        own.predict_folder(many, tmp_path / "own", client=client)
    monkeypatch.setattr(_work, "version", lambda name: "0.1")
    with pytest.raises(
        ValueError, match=r"Workers must have the versions of this process; tls://.* has .*torch .*, here 0\.1, numpy"
    ):
        quick.predict_folder(many, tmp_path / "out", client=client)


def test_a_closed_client_is_refused(quick, many, tmp_path):
    with crew(2) as closed:
        pass
    with pytest.raises(ValueError, match=r"must be a connected dask\.distributed\.Client; got one that is closed"):
        quick.predict_folder(many, tmp_path / "out", client=closed)


def test_our_workers_listen_on_this_machine_only_and_speak_to_nobody_else(client):
    scheduler = client.scheduler.address
    assert scheduler.startswith("tls://127.0.0.1:")
    assert client.security.require_encryption
    served = {connection.laddr.ip for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
              for connection in process.net_connections("tcp") if connection.status == psutil.CONN_LISTEN}  # fmt: skip
    assert served <= {"127.0.0.1", "::1"}


# ---- a script --------------------------------------------------------------------------------------------------------

WORK = "    with crew(2) as workers:\n        print(workers.submit(abs, -7).result())\n"


@pytest.mark.parametrize(
    ("script", "line"),
    [
        (f"if True:\n{WORK}", 3),
        (f"def work():\n{WORK}\nwork()", 6),
        (f"def work():\n{WORK}\nif __name__ == '__main__':\n    work()", None),
    ],
)
def test_a_script_that_workers_would_begin_again_is_refused_in_a_sentence(tmp_path, script, line):
    file = tmp_path / "judge.py"
    file.write_text(f"from spade_kit._work import crew\n{script}")
    ran = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=100)
    if line is None:
        assert (ran.returncode, ran.stdout) == (0, "7\n")
        return
    told = f'RuntimeError: With jobs, line {line} of {file} must be under if __name__ == "__main__":'
    assert told in ran.stderr
    assert ran.stderr.count("Traceback") == 1


def test_a_script_that_is_no_file_is_refused_in_a_sentence():
    script = f"from spade_kit._work import crew\nif __name__ == '__main__':\n{WORK}"
    ran = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=100)
    assert (
        "RuntimeError: With jobs, the script must be a file, because workers import it, too; got <stdin>." in ran.stderr
    )
