"""Manual corrections of a fitted SPADE: add and remove images step by step, with undo."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from spade_kit._files import printable
from spade_kit.datasets.samples import Photo
from spade_kit.spade import SPADE

_UNDO_BYTES = 2 * 2**30  # of galleries kept for undo; the last step can always be undone
WHY = "marked as normal"


@dataclass(frozen=True)
class Step:
    """One correction: a label, a line of Python, and the previous SPADE while memory allows."""

    told: str
    line: str
    before: SPADE | None


class Corrections:
    """``spade`` is the corrected SPADE; the one passed in is never modified."""

    def __init__(self, spade: SPADE) -> None:
        self.spade = copy.copy(spade)
        self._steps: list[Step] = []

    def copy(self) -> Corrections:
        """The same steps, to be continued or undone independently."""
        other = copy.copy(self)
        other._steps = [*self._steps]
        return other

    def add(self, photo: Photo, name: str, expression: str) -> None:
        """Add an image to the normal images, as a refit would; ``expression`` is its Python expression."""
        corrected = copy.copy(self.spade).add(photo, why=WHY)
        self._take(corrected, f"{name} added", f"add({expression}, why={WHY!r})")

    def remove(self, image: int) -> None:
        """Remove a training image, as a refit would; later ones move up."""
        sample = self.spade.gallery.normals[self.spade.gallery.check_index(image)].sample
        name = f"normal {image}" + (f" ({printable(sample.path.stem)})" if sample else "")
        self._take(copy.copy(self.spade).remove(image), f"{name} removed", f"remove({image})")

    def undo(self) -> None:
        before = self._steps[-1].before if self._steps else None
        if before is None:
            raise ValueError("There is no correction to undo.")
        self.spade = before
        self._steps.pop()

    def _take(self, corrected: SPADE, told: str, line: str) -> None:
        self._steps.append(Step(told, line, self.spade))
        self.spade = corrected
        room = max(1, _UNDO_BYTES // self.spade.gallery.nbytes)
        for at, step in enumerate(self._steps[:-room]):
            self._steps[at] = replace(step, before=None)  # releases the gallery

    def tell(self) -> list[str]:
        return [step.told for step in self._steps]

    @property
    def can_undo(self) -> bool:
        return bool(self._steps) and self._steps[-1].before is not None

    def code(self, name: str) -> tuple[str, list[str]]:
        """The variable name of the corrected SPADE, and the lines of Python that create it from the original."""
        if not self._steps:
            return name, []
        lines = [f"corrected = {name}.with_options()  # a copy: {name} is not modified"]
        return "corrected", lines + [f"corrected.{step.line}" for step in self._steps]
