"""The check of the environment, and the checks of the exercises of lessons 00 and 07."""

import json
import shutil
from types import SimpleNamespace

import IPython
import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

import spade_kit
from spade_kit.lessons import check_environment, checking, explorer, quickstart


def test_a_complete_environment_is_ready(capsys):
    check_environment()
    said = capsys.readouterr().out
    assert said.endswith("Ready.\n")
    assert "NO" not in said
    assert said.count(" yes\n") == len(checking._NEEDED)


def test_a_missing_package_is_named_with_its_cure(capsys, monkeypatch):
    monkeypatch.setitem(checking._NEEDED, "a compiler", lambda: checking._find_package("no_such_package", (1, 0)))
    monkeypatch.setitem(checking._NEEDED, "a newer one", lambda: checking._find_package("numpy", (999, 0)))
    check_environment()
    said = capsys.readouterr().out
    assert said.count(" NO\n") == 2
    assert "Ready" not in said
    assert "Run `pip install -e .[lab]` in the project folder to install no_such_package." in said
    assert "to install numpy." in said


@pytest.fixture
def show(monkeypatch, tmp_path):
    """Show a figure as the output of a cell, in a lesson of two cells of which the first has a description."""
    cells = [
        {"source": ["draw(\n", "  1)"], "metadata": {"alt": 'A "thread" & a map'}},
        {"source": "x", "metadata": {}},
    ]
    (tmp_path / "lesson.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    shell = SimpleNamespace(display_formatter=DisplayFormatter(), user_ns={"_ih": [""]})
    shell.display_formatter.formatters["image/png"].for_type(Figure, lambda _: "UE5H")
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)

    def show(source: str, session: str) -> dict[str, str]:
        monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / session))
        checking.describe_figures()
        shell.user_ns["_ih"].append(source)
        return shell.display_formatter.format(Figure())[0]

    return show


def test_a_figure_has_the_alternative_text_of_its_cell(show):
    shown = show("draw(\n  1)\n", "lesson.ipynb")
    alt = "A &quot;thread&quot; &amp; a map"
    assert shown["text/html"] == f'<img src="data:image/png;base64,UE5H" alt="{alt}">'
    assert shown["image/png"] == "UE5H"


@pytest.mark.parametrize(
    ("source", "session"), [("draw(2)", "lesson.ipynb"), ("x", "lesson.ipynb"), ("x", "none.ipynb")]
)
def test_other_figures_are_shown_as_ever(show, source, session):
    assert sorted(show(source, session)) == ["image/png", "text/plain"]


@pytest.mark.parametrize("problem", [FileNotFoundError, ImportError, ValueError])
def test_missing_images_and_an_old_python_are_reported(monkeypatch, problem):
    monkeypatch.setattr(checking.platform, "python_version_tuple", lambda: ("3", "9", "1"))
    assert "install 3.10 or later" in checking._find_python()

    def load(name):
        raise problem(f"no {name} here")

    monkeypatch.setattr("spade_kit.datasets.loading.load_dataset", load)
    assert checking._find_photos("demo") == "no demo here"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda result, threshold: ..., "Not answered yet"),
        (lambda result, threshold: result.image_score >= threshold, "Right. "),
        (lambda result, threshold: (result.anomaly_map >= threshold).any(), "Right. "),
        (lambda result, threshold: bool(result.segmentation(threshold).any()), "Right. "),
        (lambda result, threshold: result.image_score > threshold, "just reaches the threshold"),
        (lambda result, threshold: result.anomaly_map.mean() >= threshold, "Is that the mean of the map?"),
        (lambda result, threshold: result.image_score < threshold, "wrong way round"),
        (lambda result, threshold: True, "A good part"),
        (lambda result, threshold: result.anomaly_map >= threshold, "for the whole part is asked for; got array([["),
        (lambda result, threshold: result.segmentation(threshold).sum(), "for the whole part is asked for; got "),
        (lambda result, threshold: print(result.image_score >= threshold), "The function returned nothing"),
        (lambda result, threshold: result.score, "Your code raises AttributeError"),
    ],
)
def test_the_exercise_of_lesson_00_names_the_mistake(capsys, answer, said):
    quickstart.check(answer)
    assert said in capsys.readouterr().out


def test_a_large_answer_of_another_form_is_shown_in_short(capsys):
    checking.check_answer(np.zeros((50, 60)), [0.5, 1], {}, "", "")
    said = capsys.readouterr().out
    assert said.startswith("Not yet. The exercise asks for an answer of another form; got array([[")
    assert len(said.splitlines()) == 1


def most_useful(result) -> int:
    return int(result.neighbours.index[np.bincount(result.correspondence.image[0].ravel()).argmax()])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda result: ..., "Not answered yet"),
        (most_useful, "Right. "),
        (lambda result: np.bincount(result.correspondence.image[0].ravel()).argmax(), "its rank among the neighbours"),
        (lambda result: np.bincount(result.correspondence.image[0].ravel()).max(), "the number of cells it explains"),
        (lambda result: result.correspondence.images, "Your code raises AttributeError"),
        (lambda result: 999, "Training image 999 explains 0 cells"),
    ],
)
def test_the_exercise_of_lesson_07_names_the_mistake(capsys, result, answer, said):
    explorer.check(answer, result)
    assert said in capsys.readouterr().out


def test_the_nearest_whole_image_is_another_mistake(capsys, spade, demo):
    for sample in demo.test:
        result = spade.predict(sample)
        ranks = np.bincount(result.correspondence.image[0].ravel())
        nearest = int(result.neighbours.index[0])
        if nearest not in (most_useful(result), int(ranks.argmax())):
            break
    explorer.check(lambda result: nearest, result)
    assert "nearest image as a whole" in capsys.readouterr().out


def test_the_copy_of_the_demo_is_a_folder_of_its_own_that_reads_as_the_demo_does():
    folder = quickstart.copy_demo()
    try:
        copied, demo = spade_kit.load_dataset(folder), spade_kit.load_dataset("demo")
        assert str(copied) == str(demo)
        assert folder in copied.train[0].path.parents
        assert folder not in demo.train[0].path.parents
    finally:
        shutil.rmtree(folder.parent)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda explorer: ..., "Not answered yet"),
        (lambda explorer: explorer.result.match(*explorer.probe).image, "Right. "),
        (lambda explorer: explorer.readout()["neighbour"].item(), "its rank among the neighbours"),
        (lambda explorer: explorer.readout()["normal row"].item(), "its row"),
        (lambda explorer: explorer.index, "the image under test"),
        (lambda explorer: explorer.readout()["distance"].item(), "That is the distance"),
        (lambda explorer: 999, "Training image 999 does not explain"),
        (lambda explorer: explorer.readout()["image"], "Your code raises KeyError"),
    ],
)
def test_the_warm_up_of_lesson_07_names_the_mistake(capsys, spade, demo, answer, said):
    ex = spade_kit.explore(spade, demo.test[:30])
    ex.index, ex.probe = 20, (90, 70)
    explorer.check_normal(answer, ex)
    assert said in capsys.readouterr().out
    ex.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "Not answered yet"),
        (3, "Right. "),
        (1, "can go together"),
        (6, "farther"),
        (0, "changes none"),
        (4, "4 is not"),
    ],
)
def test_the_question_of_lesson_07_names_the_mistake(capsys, answer, said):
    explorer.check_think(answer)
    assert said in capsys.readouterr().out
