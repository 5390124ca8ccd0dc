"""Add the lessons for students to what is built: in a wheel they lie beside the demo, inside the package."""

import runpy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StudentLessons(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # a checkout has the lessons themselves
            return
        notebooks = Path(self.root, "notebooks")
        self.folder = TemporaryDirectory()
        runpy.run_path(str(notebooks / "make_student.py"))["write_student"](notebooks, Path(self.folder.name))
        place = {"wheel": "spade_kit/data/course", "sdist": "student"}[self.target_name]
        build_data["force_include"][self.folder.name] = place
