"""Add the lessons for students to what is built: beside the demo in a wheel, without the others in an sdist."""

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
        written = runpy.run_path(str(notebooks / "make_student.py"))["write_student"](notebooks, Path(self.folder.name))
        if self.target_name == "wheel":
            build_data["force_include"][self.folder.name] = "spade_kit/data/course"
        else:  # an sdist holds the rest of the folder already
            build_data["force_include"] |= {str(path): f"notebooks/{path.name}" for path in written}
