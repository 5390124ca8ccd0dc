"""A fitted SPADE that is corrected by hand: photographs put in and taken out, step by step, and back."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from spade_kit.datasets.samples import Photo
from spade_kit.spade import SPADE

_UNDO_BYTES = 2 * 2**30  # of galleries kept to go back to; the last step can always be undone
WHY = "said to be normal"


@dataclass(frozen=True)
class Step:
    """One correction: in words, as a line of Python, and the SPADE before it, until that takes too much memory."""

    told: str
    line: str
    before: SPADE | None


class Corrections:
    """The SPADE that was given stays as it was; ``spade`` is the corrected one."""

    def __init__(self, spade: SPADE) -> None:
        self.spade = copy.copy(spade)
        self._steps: list[Step] = []

    def add(self, photo: Photo, name: str, expression: str) -> None:
        """Put a photograph among the normal ones, as a refit would; ``expression`` gives it in Python."""
        corrected = copy.copy(self.spade).add(photo, why=WHY)
        self._take(corrected, f"{name} in", f"add({expression}, why={WHY!r})")

    def remove(self, image: int) -> None:
        """Take a training image out, as a refit would; the others move up."""
        sample = self.spade.gallery.normals[self.spade.gallery.check_index(image)].sample
        corrected = copy.copy(self.spade).remove(image)
        self._take(corrected, f"normal {image}{f' ({sample.path.stem})' if sample else ''} out", f"remove({image})")

    def undo(self) -> None:
        before = self._steps[-1].before if self._steps else None
        if before is None:
            raise ValueError("There is no correction left to undo.")
        self.spade = before
        self._steps.pop()

    def _take(self, corrected: SPADE, told: str, line: str) -> None:
        self._steps.append(Step(told, line, self.spade))
        self.spade = corrected
        room = max(1, _UNDO_BYTES // self.spade.gallery.nbytes)
        for at, step in enumerate(self._steps[:-room]):
            self._steps[at] = replace(step, before=None)  # lets go of the gallery

    def tell(self) -> list[str]:
        return [step.told for step in self._steps]

    @property
    def can_undo(self) -> bool:
        return bool(self._steps) and self._steps[-1].before is not None

    def code(self, name: str) -> tuple[str, list[str]]:
        """What the corrected SPADE is called, and the lines of Python that make it from the one that was given."""
        if not self._steps:
            return name, []
        lines = [f"corrected = {name}.with_options()  # {name} stays as it was"]
        return "corrected", lines + [f"corrected.{step.line}" for step in self._steps]
