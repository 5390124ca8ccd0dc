"""Write the lessons for students: ``python notebooks/make_student.py notebooks student``.

Without outputs, widgets and the cells tagged ``solution``; the pages and pictures that the lessons link to come along.
Only the standard library is used, since a build of the package calls this.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

_FOR_TEACHERS = {"teaching.md"}
_POINTER = re.compile(r"\n*^The solution is\b[^\n]*\bfolded cell below\.$", re.MULTILINE)
_PICTURE = re.compile(r"\]\(images/([^)\s]+)\)")
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")  # a link to the repository, which a student does not have


def write_student(notebooks: Path, student: Path) -> list[Path]:
    """Write every notebook, Markdown page and picture of the course; return the paths of the notebooks."""
    student.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(notebooks.glob("*.ipynb")):
        lesson = _strip(json.loads(path.read_text(encoding="utf-8")))
        text = json.dumps(lesson, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
        written.append(student / path.name)
        written[-1].write_bytes(text.encode())
    for path in sorted(notebooks.glob("*.md")):
        if path.name not in _FOR_TEACHERS:
            (student / path.name).write_bytes(_detach(path.read_text(encoding="utf-8")).encode())
    (student / "images").mkdir(exist_ok=True)
    for name in _PICTURE.findall("".join(path.read_text(encoding="utf-8") for path in student.glob("*.[im]*"))):
        shutil.copyfile(notebooks / "images" / name, student / "images" / name)
    return written


def _strip(lesson: dict[str, Any]) -> dict[str, Any]:
    """A notebook as it was before it was run, without solutions."""
    lesson["metadata"] = {"kernelspec": lesson["metadata"]["kernelspec"]}
    lesson["cells"] = [cell for cell in lesson["cells"] if "solution" not in cell["metadata"].get("tags", [])]
    for cell in lesson["cells"]:
        cell["metadata"].pop("execution", None)
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        else:
            cell["source"] = _detach("".join(cell["source"]))
    return lesson


def _detach(text: str) -> str:
    """A text without links out of the course, and without the sentence that leads to a solution."""
    return _OUTSIDE.sub(r"\1", _POINTER.sub("", text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", type=Path)
    parser.add_argument("student", type=Path)
    given = parser.parse_args()
    for written in write_student(given.notebooks, given.student):
        print(written)
