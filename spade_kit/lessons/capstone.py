"""The capstone: images of one's own, a guess before the method's answer, and what to hand in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas
from scipy.stats import spearmanr

from spade_kit.datasets.samples import GOOD, Dataset
from spade_kit.lessons.checking import tell

_NORMALS, _DEFECTS, _SHORT = 10, 3, 200  # images, images, px


def check_images(dataset: Dataset) -> None:
    """Check that a dataset is enough to try the method on: normal images, defects, and pixels."""
    tell(
        lambda: dataset,
        _find_gap,
        f"{len(dataset.train)} normal images, and {len(dataset.test)} to judge.",
    )


def _find_gap(dataset: Dataset) -> str | None:
    defects = sum(sample.label not in (GOOD, None) for sample in dataset.test)
    known = {sample.path.resolve() for sample in dataset.train} & {sample.path.resolve() for sample in dataset.test}
    shortest = min(min(sample.image.shape[:2]) for sample in dataset.train)
    if len(dataset.train) < _NORMALS:
        return f"{len(dataset.train)} normal images are too few to say what is normal: take at least {_NORMALS}."
    if known:
        return (
            f"{min(known).name} is among the normal images and among those to judge: it would be compared with itself."
        )
    if defects < _DEFECTS:
        return (
            f"{defects} images to judge have the label of a defect: take at least {_DEFECTS} in a folder of their own."
        )
    if defects == len(dataset.test):
        return (
            "No good image is to be judged, so no false alarm could show. Take some that are not among the normal ones."
        )
    if shortest < _SHORT:
        return f"The short side of an image is {shortest} px: little is left to see. Take {_SHORT} px or more."
    return None


def check_guess(guess: Sequence[str], table: pandas.DataFrame) -> None:
    """Check a guess, names from the most to the least anomalous, against a table of ``predict_folder``."""
    scores = table.dropna(subset="image_score").set_index("path")["image_score"]
    names = list(guess)
    mistake = None if ... in names else _find_name(names, scores)
    right = "" if mistake or ... in names else _compare(names, scores)
    tell(lambda: names, lambda _: mistake, right)


def _find_name(names: list[str], scores: pandas.Series) -> str | None:
    if len(names) < 3:
        return f"A ranking of {len(names)} says nothing: name at least three images."
    if doubled := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        return f"{doubled[0]} is named twice."
    if missing := [name for name in names if name not in scores.index]:
        return f"{missing[0]} was not judged. Names are those of the column path, such as {scores.index[0]}."
    return None


def _compare(guess: list[str], scores: pandas.Series) -> str:
    own, found = np.arange(1, len(guess) + 1), scores[guess].rank(ascending=False).to_numpy()
    far = int(np.abs(own - found).argmax())
    told = f"Your order and the method's agree with a rank correlation of {spearmanr(own, found).statistic:.1f}."
    if own[far] == found[far]:
        return told
    return (
        f"{told} You differ most on {guess[far]}: your place is {own[far]}, the method's {found[far]:.0f}. Explain it."
    )
