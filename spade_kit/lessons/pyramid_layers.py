"""Lesson 06: which layer sees which defect, and how layers are weighted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas
from jaxtyping import UInt8

from spade_kit.datasets.samples import GOOD, Sample
from spade_kit.evaluation.views import Wanted, look, make_view, rank, read_view
from spade_kit.features.backbones import Backbone
from spade_kit.lessons.checking import explain, tell
from spade_kit.spade import SPADE


def rank_by_kind(spade: SPADE, samples: Sequence[Sample], wanted: Sequence[Wanted]) -> pandas.DataFrame:
    """AUPRO of views over the images of each kind of defect, one row per kind."""
    bases = [spade]
    views = [make_view(read_view(one, bases), bases) for one in wanted]
    table = {}
    for kind in dict.fromkeys(sample.label for sample in samples if sample.label != GOOD):
        results = [spade.predict(sample) for sample in samples if sample.label == kind]
        maps = [[look([result], view).anomaly_map for result in results] for view in views]
        scores = rank(maps, [result.mask for result in results if result.mask is not None])
        table[kind] = dict(zip((view.name for view in views), scores or []))
    return pandas.DataFrame(table).T


def find_reach(
    backbones: Sequence[Backbone], photo: UInt8[np.ndarray, "H W 3"], rows: slice, columns: slice
) -> pandas.DataFrame:
    """Per level, the grid and the percentage of its cells that change when the colours of one place are inverted.

    ``rows`` and ``columns`` are of the crop.
    """
    table = []
    for backbone in backbones:
        crop = backbone.find_crop(photo).cut(photo)
        changed = crop.copy()
        changed[rows, columns] = 255 - crop[rows, columns]
        before, after = (backbone(np.stack([one]))[0] for one in (crop, changed))
        for layer, source, level, other in zip(backbone.layers, backbone.sources, before, after):
            _, channels, height, width = level.shape
            differ = (level != other).any(1).float().mean().item()  # of the cells (1, h, w)
            table.append((backbone.name, layer, source, channels, f"{height} x {width}", f"{differ:.0%}"))
    return pandas.DataFrame(table, columns=["backbone", "layer", "read at", "channels", "cells", "changed"])


def check_shares(shares: Sequence[float]) -> None:
    """Check the shares of three layers whose squared distances are 9, 16 and 144."""
    squares, roots = np.array([9.0, 16, 144]), np.array([3.0, 4, 12])
    mistakes = {
        "Those are the squares: divide them by their sum.": squares,
        "Those are the distances of the layers, each alone. Shares are in proportion to their squares.": roots,
        "That is in proportion to the roots, 3, 4 and 12. Squares add up, roots do not.": roots / 19,
        "Those are the roots divided by the distance: they add up to more than 1.": roots / 13,
        "Those are shares of the distance, and add up to 13. As fractions of it they add up to 1: divide by 13.": (
            squares / 13
        ),
        "9, 16 and 144 are squared already: do not square them again.": squares**2 / (squares**2).sum(),
        "That is what the two other layers contribute together.": 1 - squares / 169,
        'A third each is what weights="equal" aims at. Here the squares differ.': np.full(3, 1 / 3),
        "Rounded to one digit, yes. Give two.": np.array([0.1, 0.1, 0.9]),
    }

    def otherwise(answer: np.ndarray) -> str:
        if not np.isclose(answer.sum(), 1, atol=0.02):
            return f"Fractions of one whole add up to 1; these add up to {answer.sum():.2f}."
        worst = abs(answer - squares / 169).argmax()
        return f"layer{worst + 1} contributes {squares[worst]:.0f} of 169: that is not {answer[worst]:g}."

    tell(
        lambda: shares,
        lambda answer: _explain_fractions(answer, squares / 169, mistakes, otherwise),
        "5 %, 9 % and 85 %: one layer with large values leaves little to the others.",
    )


def check_think(fractions: Sequence[float]) -> None:
    """Check which fraction a line of 2 px is of the pixels that matter to a cell, 10, 18 and 70 px across."""
    sides = np.array([10.0, 18, 70])
    mistakes = {
        "That would be a spot of 2 x 2 px. A scratch runs through from side to side.": (2 / sides) ** 2,
        "That is a line of 1 px.": 1 / sides,
        "That is the width divided by the scratch: turn the fraction round.": sides / 2,
        "Cells are 4, 8 and 16 px apart, but what matters to a cell is wider.": 2 / np.array([4, 8, 16]),
        "A cell can see 19, 67 and 339 px, but those at the border hardly matter.": 2 / np.array([19, 67, 339]),
    }
    otherwise = f"Divide the width of the scratch by the width that matters; got {fractions}."
    tell(
        lambda: fractions,
        lambda answer: _explain_fractions(answer, 2 / sides, mistakes, lambda _: otherwise),
        "A fifth and a thirty-fifth: most of what a coarse cell sees is normal, and is averaged with the scratch.",
    )


def _explain_fractions(
    answer: Sequence[float],
    right: np.ndarray,
    mistakes: Mapping[str, np.ndarray],
    otherwise: Callable[[np.ndarray], str],
) -> str | None:
    """Explain fractions of three layers, which may be rounded to two decimals or digits."""
    if np.size(answer) != 3:
        return f"There are three layers, so three numbers are needed; got {answer}."
    mistakes = {
        **mistakes,
        "The order is layer1, layer2, layer3.": right[::-1],
        "Those are percentages: divide by 100.": 100 * right,
    }
    for told, value in [(None, right), *mistakes.items()]:
        rounded = 0.5 if value.max() > 1 else 0.005  # percent and squares have no decimals
        if np.allclose(answer, value, rtol=0, atol=rounded + 1e-9):
            return told
    return otherwise(np.asarray(answer, float))


def check(weigh: Callable[[Sequence[np.ndarray]], Sequence[float]]) -> None:
    """Check weights that make all levels count equally, computed from levels (n, c, h, w)."""
    rng = np.random.default_rng(0)
    levels = [rng.normal(5, 2, (6, 3, 8, 8)), rng.normal(-1, 0.5, (6, 5, 4, 4)), rng.normal(0, 1, (6, 9, 2, 2))]
    right = 'These are the weights that weights="equal" uses.'
    tell(lambda: weigh(levels), lambda answer: _find_mistake(answer, levels), right)


def _find_mistake(weights: Sequence[float], levels: Sequence[np.ndarray]) -> str | None:
    channels = np.array([level.shape[1] for level in levels])
    if np.iterable(weights) and [np.size(one) for one in weights] == channels.tolist():
        return "Those are weights of channels. A layer has one weight: sum the variances of its channels first."
    answer = np.asarray(weights, float)
    if answer.shape != (3,):
        return f"There are three levels, so three weights are needed; got an array of shape {answer.shape}."
    variances = np.array([sum(level[:, channel].var() for channel in range(level.shape[1])) for level in levels])
    places = np.array([level[:, 0].size for level in levels])
    mistakes = {
        "Those are the variances: a level that varies a lot has to count less, so take the reciprocals.": variances,
        "That is the mean over the channels: a distance adds them up, so sum the variances of all channels.": (
            channels / variances
        ),
        "That is one over the standard deviation, but weights multiply squared distances: drop the root.": (
            1 / np.sqrt(variances)
        ),
        "Those are standard deviations, summed: sum the variances, the squares.": (
            [1 / level.std((0, 2, 3)).sum() for level in levels]
        ),
        "That is the variance over everything at once: take it per channel, over images, rows and columns.": (
            [1 / level.var() for level in levels]
        ),
        "Those are mean squares: a variance is taken around the mean of the channel, which need not be 0.": (
            [1 / (level**2).mean((0, 2, 3)).sum() for level in levels]
        ),
        "That divides by n - 1, as for a sample (ddof=1). Divide by n, as np.var does.": (
            (places - 1) / places / variances
        ),
        "That is the variance over the channels of each place: take it over images, rows and columns, axes 0, 2, 3.": (
            [1 / level.var(1).sum() for level in levels]
        ),
        "That is the variance over images only, place by place: take rows and columns, too, axes 0, 2 and 3.": (
            [1 / level.var(0).sum() for level in levels]
        ),
        "That is the variance over rows and columns of one image at a time: take the images, too, axes 0, 2 and 3.": (
            [1 / level.var((2, 3)).sum() for level in levels]
        ),
        "That counts channels. Whether they vary a lot or hardly at all must count, too.": 1 / channels,
        "The same weight for all is no weight: a layer that varies more would count more.": np.full(3, answer[0]),
    }
    needed, got = (", ".join(f"{weight:.4f}" for weight in some) for some in (1 / variances, answer))
    otherwise = f"The weights must be {needed}; got {got}."
    if np.ptp(factors := answer * variances) < 1e-3 * factors.max() and not np.allclose(factors, 1):
        return f"The proportions are right. The weights themselves are the reciprocals, {needed}; got {got}."
    return explain(answer, 1 / variances, mistakes, otherwise, rtol=1e-3)
