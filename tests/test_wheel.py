"""The wheel, installed where the repository cannot be seen: its commands, its lessons and the README's lines."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import urllib.error
import urllib.request
import venv
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest
from browsing import free_port, wait_for
from list_licences import needed

import spade_kit

ROOT = Path(__file__).parents[1]
MOST_MEGABYTES = 12  # of the wheel, and of the sdist
BUILD = [sys.executable, "-m", "hatchling", "build", "-t"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("CI") and find_spec("hatchling") is None,
        reason='building a wheel needs hatchling: pip install -e ".[test]"',
    ),
]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([*BUILD, "sdist", "-d", folder], cwd=ROOT, check=True)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(sdist) -> Path:
    """Built from the sdist, without a network."""
    folder = sdist.parent
    subprocess.run(["tar", "xf", sdist, "-C", folder], check=True)
    subprocess.run([*BUILD, "wheel", "-d", folder], cwd=folder / sdist.name.removesuffix(".tar.gz"), check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def home(wheel, tmp_path_factory) -> Path:
    """A new environment after ``pip install WHEEL[lab]``.

    Nothing is downloaded: what the wheel needs, and nothing else, is linked from the environment of this test.
    """
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": home}))
    for found in map(distribution, needed("spade_kit", "lab") - {"spade_kit"}):
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (packages / top).exists():  # some share a folder
                (packages / top).symlink_to(found.locate_file(top))
    for shared in ("share/jupyter", "etc/jupyter"):
        (home / shared).parent.mkdir(exist_ok=True)
        (home / shared).symlink_to(Path(sys.prefix, shared))
    pip = [sys.executable, "-m", "pip", "--python", home, "install", "-q", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, f"{wheel}[lab]"], check=True)
    return home


def run(home: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command of the new environment, where the repository is out of sight."""
    command = [str(home / "bin" / command[0]), *command[1:]]
    return subprocess.run(command, cwd=home.parent, env=environment(), capture_output=True, text=True, timeout=600)


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


def test_the_sdist_holds_each_file_once_and_lessons_without_outputs(sdist):
    assert sdist.stat().st_size < MOST_MEGABYTES * 2**20
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        (lesson,) = (name for name in names if name.endswith("07_explorer.ipynb"))
        assert '"image/png"' not in archive.extractfile(lesson).read().decode()
    assert len(names) == len(set(names))


def test_the_wheel_is_small_and_whole(wheel):
    assert wheel.stat().st_size < MOST_MEGABYTES * 2**20
    with ZipFile(wheel) as archive:
        names = {name.removeprefix("spade_kit/") for name in archive.namelist()}
    lessons = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {Path(name).name for name in names if name.startswith("data/course/")} >= {*lessons, "glossary.md"}
    assert sum(name.startswith("data/demo/train/") for name in names) == 60
    assert {"py.typed", "__init__.pyi", "widgets/static/explorer.js"} <= names
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE", "THIRD_PARTY.md"}


def test_the_doctor_finds_everything(home):
    done = run(home, "spade-kit", "doctor", "--json")
    told = json.loads(done.stdout)
    assert told["spade_kit"] == spade_kit.__version__
    assert told["workers"] == "not installed"  # nothing but what the extra asks for can be seen
    assert (done.returncode, told["wrong"]) == (0, [])


def test_the_lines_of_the_readme_run(home):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(import spade_kit\n\n.*?)```", readme, re.DOTALL)
    assert lines.count("\n") <= 11
    (home.parent / "nine.py").write_text(lines + "print(spade_kit.__file__, result.image_score)", encoding="utf-8")
    done = run(home, "python", "-W", "error", "nine.py")
    assert done.returncode == 0, done.stderr
    assert str(home) in done.stdout


def test_the_lab_opens_the_course_and_asks_for_its_token(home):
    (home.parent / "config").mkdir()
    (home.parent / "config/jupyter_server_config.py").write_text("c.ServerApp.open_browser = False", encoding="utf-8")
    port = free_port()
    settings = {"JUPYTER_PORT": str(port), "JUPYTER_TOKEN": "secret", "JUPYTER_CONFIG_DIR": str(home.parent / "config")}
    lab = subprocess.Popen(
        [home / "bin/spade-kit", "lab", "course/"],
        cwd=home.parent,
        env=environment(**settings),
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/api", lab)
        url = f"http://127.0.0.1:{port}/api/contents"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url, timeout=10)
        refused.value.close()
        assert refused.value.code == 403
        with urllib.request.urlopen(f"{url}?token=secret", timeout=10) as response:
            shown = {entry["name"] for entry in json.load(response)["content"]}
        assert shown >= {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} | {"images", "glossary.md"}
    finally:
        os.killpg(lab.pid, 15)
        lab.communicate(timeout=30)
