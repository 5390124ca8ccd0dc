"""The command spade-kit: exit codes, what goes to stdout and to stderr, and no tracebacks."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from spade_kit import SPADE, shell


@pytest.fixture(scope="module")
def folders(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shell")
    for place, samples in {"good": demo.train[:10], "new": demo.test[::9]}.items():
        (folder / place).mkdir()
        for sample in samples:
            shutil.copy(sample.path, folder / place / f"{sample.label}-{sample.path.name}")
    return folder


def test_fit_and_predict_as_a_script_would(folders, capsys):
    assert shell.main(["fit", str(folders / "good"), str(folders / "gallery"), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"fitted": 10, "of": 10, "gallery": str(folders / "gallery")}
    assert "10 normal images" in told.err
    call = ["predict", *(str(folders / name) for name in ("gallery", "new", "out"))]
    assert shell.main([*call, "--fpr", "0.2"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "images: " in told.err
    (folders / "new/broken.png").write_bytes(b"broken")
    assert shell.main([*call, "--fpr", "0.2", "--json", "--overlays"]) == 1
    assert len(list((folders / "out/overlays").iterdir())) == len(list((folders / "new").iterdir())) - 1
    counts = json.loads(capsys.readouterr().out)
    assert counts["not judged"] == 1
    assert counts["anomalous"] + counts["normal"] == len(list((folders / "new").iterdir())) - 1
    assert len(SPADE.load(folders / "gallery")) == 10


def test_an_image_that_cannot_be_fitted_gives_exit_code_1(folders, capsys):
    shutil.copytree(folders / "good", folders / "some")
    (folders / "some/z.png").write_bytes(b"broken")
    assert shell.main(["fit", str(folders / "some"), str(folders / "other"), "--recommended"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "spade-kit: some: 1 of 11 images are skipped. Cannot read" in told.err


def test_a_mask_says_where_to_look(folders, capsys):
    mask = np.zeros((320, 320), np.uint8)
    mask[100:200, 60:] = 255
    Image.fromarray(mask).save(folders / "roi.png")
    assert shell.main(["fit", str(folders / "good"), str(folders / "within"), "--roi", str(folders / "roi.png")]) == 0
    np.testing.assert_array_equal(SPADE.load(folders / "within").roi.mask, mask > 0)
    assert shell.main(["fit", str(folders / "good"), str(folders / "none"), "--roi", str(folders / "no.png")]) == 2
    assert "no.png" in capsys.readouterr().err


def test_images_of_unsupported_formats_give_exit_code_1(folders, tmp_path, capsys):
    shutil.copytree(folders / "good", tmp_path / "good")
    (tmp_path / "good/IMG_1.HEIC").write_bytes(b"heic")
    SPADE().fit(sorted((folders / "good").iterdir())).save(tmp_path / "gallery")
    call = ["predict", *(str(tmp_path / name) for name in ("gallery", "good", "out")), "--fpr", "0.2", "--json"]
    assert shell.main(call) == 1
    assert json.loads(capsys.readouterr().out)["not judged"] == 1
    assert shell.main(["fit", str(tmp_path / "good"), str(tmp_path / "again"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"fitted": 10, "of": 11, "gallery": str(tmp_path / "again")}


def test_a_folder_named_demo_is_fitted_and_not_the_demo(folders, tmp_path, monkeypatch, capsys):
    shutil.copytree(folders / "good", tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    assert shell.main(["fit", "demo", "gallery", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fitted"] == 10


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (["predict", "nowhere", "new", "out"], "spade-kit: "),
        (["fit", "nowhere", "gallery"], "spade-kit: "),
        (["fit", ".", "gallery", "--backbone", "resnet"], "spade-kit: "),
        (["predict", "gallery", "new", "out", "--jobs", "0"], "spade-kit: "),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(folders, call, told, capsys, monkeypatch):
    monkeypatch.chdir(folders)
    assert shell.main(call) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert told in said.err
    assert "Traceback" not in said.err


def test_wrong_usage_gives_exit_code_2(capsys):
    for call in ([], ["predict"], ["fly"], ["predict", "a", "b", "c", "--jobs", "many"]):
        with pytest.raises(SystemExit) as ended:
            shell.main(call)
        assert ended.value.code == 2
    assert capsys.readouterr().out == ""


def test_the_doctor_says_what_there_is_and_what_is_wrong(capsys, monkeypatch):
    shell.main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["weights"] == "bundled"
    assert told["compiler"] == "numba"
    monkeypatch.setattr(shell, "_LEAST_DISK", 10**9)
    assert shell.main(["doctor"]) == 1
    assert "GB of disk are free here, and 1000000000 are needed: make room." in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["timm", "torchvision"])
def test_the_doctor_examines_an_environment_whose_networks_cannot_be_built(broken):
    script = f"import sys; sys.modules['{broken}'] = None; from spade_kit.shell import main; sys.exit(main(['doctor']))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 1
    assert re.search(rf"No network can be built \(.*{broken}.*\): pip install .* torch torchvision timm\.", run.stdout)
    assert "disk_gb" in run.stdout


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A checkout in tmp_path, as far as the command can see, and the folders that JupyterLab was opened on."""
    opened = []

    def begin(run):
        opened.append(run)
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(shell, "__file__", str(tmp_path / "spade_kit/shell.py"))
    monkeypatch.setattr(shell, "subprocess", SimpleNamespace(Popen=begin))
    monkeypatch.setattr(shell.signal, "signal", lambda *_: None)  # for the tests after this one
    return opened


def test_the_lab_puts_lessons_into_a_new_folder_and_into_no_other(opened, tmp_path, monkeypatch, capsys):
    (tmp_path / "student/images").mkdir(parents=True)
    for name in ("00_first.ipynb", "images/one.png"):
        (tmp_path / "student" / name).write_text("as made", encoding="utf-8")
    course, own, here = (tmp_path / name for name in ("new/course", "own", "here"))
    assert shell.main(["lab", str(course)]) == 0
    assert "Begin with 00_first.ipynb." in capsys.readouterr().err
    (course / "00_first.ipynb").write_text("as answered", encoding="utf-8")
    (course / "images/one.png").unlink()
    own.mkdir()
    (own / "mine.txt").touch()
    here.mkdir()
    monkeypatch.chdir(here)
    for call in (["lab", str(course)], ["lab", str(own)], ["lab"]):
        assert shell.main(call) == 0
    assert (course / "00_first.ipynb").read_text(encoding="utf-8") == "as answered"
    assert [path.name for path in (*(course / "images").iterdir(), *own.iterdir(), *here.iterdir())] == ["mine.txt"]
    assert [run[-1] for run in opened] == [str(course), str(course), str(own), "."]
    assert {run[3] for run in opened} == {"--ip=127.0.0.1"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal to end a program gracefully")
def test_jupyterlab_ends_with_the_command(tmp_path):
    (tmp_path / "jupyterlab.py").write_text(
        "import time; print('begun', flush=True); time.sleep(600)", encoding="utf-8"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", "import sys; from spade_kit.shell import main; sys.exit(main(['lab']))"]
    env = os.environ | {"PYTHONPATH": paths}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, cwd=tmp_path) as run:
        assert run.stdout.readline().strip() == b"begun"
        run.terminate()
        assert run.wait(60) != 0
        assert run.stdout.read() == b""  # the pipe is closed: nobody holds it any more


def test_a_checkout_says_where_the_lessons_are(opened, tmp_path, capsys):
    assert shell.main(["lab", str(tmp_path / "course")]) == 2
    assert "make student" in capsys.readouterr().err
    assert opened == []


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "spade_kit.shell", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("fit", "predict", "lab", "doctor"):
        assert f"    {command} " in done.stdout
