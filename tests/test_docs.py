"""The documents: how-tos that run, pages built without a warning, live and accessible without a network."""

import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).parents[1] / "docs"
HOW_TOS = sorted(path for path in (DOCS / "howto").glob("*.md") if path.stem != "index")
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folders(tmp_path, demo, monkeypatch) -> None:
    """The folders of the how-tos: normal images in ``good``, others in ``photos``, here."""
    monkeypatch.chdir(tmp_path)
    for name, samples in (("good", demo.train[:20]), ("photos", demo.test[:3])):
        Path(name).mkdir()
        for at, sample in enumerate(samples):
            shutil.copy(sample.path, Path(name, f"{at:03}.jpg"))


@pytest.mark.slow
@pytest.mark.parametrize("path", HOW_TOS, ids=lambda path: path.stem)
def test_a_how_to_runs_as_it_stands(path, folders):
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
    names = {"display": lambda shown: None}  # IPython's, which notebooks have
    for reason, code in blocks:
        if not reason:
            exec(compile(code, path.name, "exec"), names)
    plt.close("all")


def test_only_what_needs_more_than_the_package_is_not_run():
    reasons = [reason for path in HOW_TOS for reason, _ in BLOCK.findall(path.read_text(encoding="utf-8")) if reason]
    assert [re.search("downloads|processes|cluster", reason)[0] for reason in reasons] == [
        "processes", "cluster", "downloads", "downloads", "downloads"
    ]  # fmt: skip
