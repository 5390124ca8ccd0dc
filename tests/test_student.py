"""Student versions of the lessons: nothing is answered beforehand, and every link has a target."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from make_student import write_student

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    write_student(NOTEBOOKS, folder)
    return folder


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_lesson_keeps_all_but_what_answers_it(path, student):
    whole, left = (nbformat.read(folder / path.name, 4) for folder in (NOTEBOOKS, student))
    nbformat.validate(left)
    asked = [cell for cell in whole.cells if "solution" not in cell.metadata.get("tags", [])]
    assert [cell.id for cell in left.cells] == [cell.id for cell in asked]
    assert [cell.source for cell in left.cells if cell.cell_type == "code"] == [
        cell.source for cell in asked if cell.cell_type == "code"
    ]
    assert {(len(cell.outputs), cell.execution_count) for cell in left.cells if cell.cell_type == "code"} == {(0, None)}
    assert left.metadata == {"kernelspec": whole.metadata.kernelspec}
    texts, before = ("".join(c.source for c in part if c.cell_type == "markdown") for part in (left.cells, asked))
    assert texts.count("<details>") == before.count("<details>")
    assert "folded cell" not in texts


def test_every_link_has_a_target_in_the_folder(student):
    texts = {path.name: path.read_text(encoding="utf-8") for path in student.glob("*.md")}
    for path in student.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts[path.name] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    targets = [
        (name, *found) for name, text in texts.items() for found in re.findall(r"\]\(([^:#)]+)(#[^)]*)?\)", text)
    ]
    assert len(targets) > 30
    assert [(name, target) for name, target, _ in targets if not (student / target).is_file()] == []
    assert "teaching.md" not in texts


def test_the_same_lessons_give_the_same_bytes(student, tmp_path):
    other = tmp_path / "lessons"
    other.mkdir()
    for path in NOTEBOOKS.glob("*.ipynb"):  # run at another time, on another Python
        lesson = nbformat.read(path, 4)
        lesson.metadata.language_info.version = "3.14.0"
        for cell in lesson.cells:
            cell.metadata.pop("execution", None)
        nbformat.write(lesson, other / path.name)
    shutil.copytree(NOTEBOOKS / "images", other / "images")
    for path in write_student(other, tmp_path / "student"):
        assert path.read_bytes() == (student / path.name).read_bytes()


def test_only_the_pictures_that_lessons_show_come_along(student):
    texts = "".join(path.read_text(encoding="utf-8") for path in [*student.glob("*.ipynb"), *student.glob("*.md")])
    pictures = [path.name for path in (student / "images").iterdir()]
    assert pictures
    assert all(f"](images/{name})" in texts for name in pictures)
