"""Lesson 08: where a threshold comes from, and how far it can be trusted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas
from jaxtyping import Float
from matplotlib.figure import Figure

from spade_kit.datasets.samples import Photo
from spade_kit.figures.style import BLUE, GREEN, RING
from spade_kit.lessons.checking import check_answer, explain, tell
from spade_kit.lessons.material import open_charts
from spade_kit.scores import find_threshold
from spade_kit.spade import SPADE


def try_rank(rank: int, count: int = 10, trials: int = 100_000, seed: int = 0) -> float:
    """How often a new normal score reaches the ``rank``-th smallest of ``count`` others of the same distribution."""
    scores = np.random.default_rng(seed).random((trials, count + 1))
    thresholds = np.sort(scores[:, :count], axis=1)[:, rank - 1]
    return float((scores[:, count] >= thresholds).mean())


def compare_thresholds(
    spade: SPADE, normals: Sequence[Photo], good: Sequence[Photo], kappas: Iterable[int], fpr: float
) -> pandas.DataFrame:
    """Image thresholds from normal images that are in the gallery, and from left-out ones, one row each.

    ``false alarms`` counts the good images, which were never fitted, that reach the threshold.
    """
    rows = []
    for kappa in kappas:
        seen = spade.with_options(kappa=kappa)
        scores = score(seen, good)
        cheated = find_threshold(score(seen, normals), fpr)
        for against, threshold in (("all, itself included", cheated), ("all others", seen.threshold(fpr, of="image"))):
            rows.append((kappa, against, round(threshold), int((scores >= threshold).sum())))
    return pandas.DataFrame(rows, columns=["kappa", "judged against", "threshold", "false alarms"])


def score(spade: SPADE, photos: Iterable[Photo]) -> Float[np.ndarray, "n"]:
    """Image scores. Fitted images stay in the gallery; the warning of ``predict`` about that is suppressed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This image is one of the fitted images")
        return np.array([spade.predict(photo).image_score for photo in photos])


def keep_promises(spade: SPADE, good: Sequence[Photo], rates: Iterable[float]) -> pandas.DataFrame:
    """How many good images that were not fitted reach the thresholds for the given false-alarm rates."""
    scores = score(spade, good)
    alarms = [int((scores >= spade.threshold(rate, of="image")).sum()) for rate in rates]
    seen = [f"{count} of {len(scores)}: {count / len(scores):.0%}" for count in alarms]
    return pandas.DataFrame({"promised": [f"{rate:.0%}" for rate in rates], "false alarms": seen})


def draw_scores(rows: Mapping[str, Float[np.ndarray, "_"]], thresholds: Mapping[str, float]) -> Figure:
    """A row of dots for the image scores of each group (higher is more anomalous), and thresholds as lines."""
    figure, (panel,) = open_charts(8.6, 0.55 * len(rows) + 1.2, "image score: maximum distance (raw)", size=9)
    for place, (name, scores) in enumerate(rows.items()):
        colour = RING if "defect" in name else GREEN if "good" in name else BLUE
        panel.scatter(scores, np.full(len(scores), -place), s=36, color=colour, alpha=0.45, linewidths=0)
    for (name, threshold), style in zip(thresholds.items(), ("solid", "dashed")):
        panel.axvline(threshold, color="#222222", linewidth=1.5, linestyle=style)
        panel.annotate(name, (threshold, 1.02), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
    panel.set_yticks(-np.arange(len(rows)), [f"{name} ({len(scores)})" for name, scores in rows.items()])
    panel.set_ylim(0.6 - len(rows), 0.6)
    panel.spines["left"].set_visible(False)
    return figure


def check_count(images: int) -> None:
    """Check how many normal images a false-alarm rate of 2 % needs."""
    mistakes = {
        "One more than needed: with 49 the rank is 50 x 0.98 = 49, the largest score.": 50,
        "With 48 the rank is 49 x 0.98 = 48.02, rounded up to 49, and there are only 48 scores.": 48,
        "That is twice as many as needed: the new image falls above the largest of N in 1 of N + 1 cases.": 99,
        "That suffices for 4 %: 1 of 25.": 24,
    }
    told = "A new image falls above the largest of 49 in 1 of 50 cases: 2 %."
    check_answer(images, 49, mistakes, lambda got: f"The largest of {got} scores is reached in 1 of {got + 1}.", told)


def check_think(costs: Sequence[float]) -> None:
    """Check what three thresholds cost per 1,000 parts, 10 of them defective."""
    recall, rate = np.array([0.64, 0.78, 0.92]), np.array([0.05, 0.32, 0.65])
    missed, alarms = 10 * (1 - recall), 990 * rate
    mistakes = {
        "The recall is the fraction found; a miss is one of the others.": 50 * 10 * recall + alarms,
        "Nearly: false alarms are a fraction of the 990 good parts, not of all 1,000.": 50 * missed + 1000 * rate,
        "Those are false alarms alone. Add 50 for each missed defect.": alarms,
        "Those are misses alone. Add 1 for each false alarm.": 50 * missed,
        "That counts parts. A missed defect costs 50.": missed + alarms,
    }
    otherwise = (
        f"How many of the 10 defects are missed, and how many of the 990 good parts are false alarms? Got {costs}."
    )
    told = (
        "The highest threshold is the cheapest here, although it misses the most defects: "
        "only one part in a hundred is defective."
    )
    check_answer(costs, 50 * missed + alarms, mistakes, otherwise, told, rtol=0.0025)  # whole numbers will do


def check(find: Callable[[np.ndarray, float], float]) -> None:
    """Check the threshold from normal scores (n,) that a new one reaches with at most the given probability."""
    rng = np.random.default_rng(0)
    asked = [(rng.permutation(np.cumsum(np.arange(1.0, count + 1))), rate) for count, rate in _ASKED]
    right = "spade.threshold takes this score of the normal images, each judged against the others."
    tell(
        lambda: [find(scores.copy(), rate) for scores, rate in asked],
        lambda answer: _find_mistake(np.asarray(answer, float), [scores for scores, _ in asked]),
        right,
    )


# Numbers of scores, whose gaps differ, and rates: each mistake shows in one of them.
_ASKED = ((30, 0.1), (25, 0.1), (26, 0.15), (22, 0.1))


def _find_mistake(answer: np.ndarray, stored: Sequence[np.ndarray]) -> str | None:
    """Explain the answers for some scores: of 30, (30 + 1) * 0.9 = 27.9, so the 28th is right."""
    counts, kept = np.array([(count, 1 - rate) for count, rate in _ASKED]).T
    exact = (counts + 1) * kept
    ranks = np.ceil(exact).astype(int)
    scores = [np.sort(one) for one in stored]

    def take(ranks: np.ndarray) -> np.ndarray:
        return np.array([one[int(rank) - 1] for one, rank in zip(scores, ranks)])

    mistakes = {
        "Of 30 scores that is the 27th, and 4 of the 31 gaps lie above it, 13 %: the new image counts, too: N + 1.": (
            take(np.ceil(counts * kept))
        ),
        "The rank is rounded down, so too many new images reach the threshold: round up.": take(np.floor(exact)),
        "The rank is rounded to the nearest number, which is too low for some N: round up.": take(np.round(exact)),
        "That is right for some N and too low for others: the rank is (N + 1)(1 - rate), rounded up.": (
            take(np.ceil((counts - 1) * kept) + 1)
        ),
        "Of 30 scores that is the 29th: Python counts from 0, so the r-th smallest is scores[r - 1].": take(ranks + 1),
        "That lies between two scores: take one of the scores, without interpolation.": (
            np.array([np.quantile(one, share) for one, share in zip(scores, kept)])
        ),
        "That is a rank, not a score: look it up among the sorted scores.": ranks,
        "Those scores are not sorted: sort them first.": (
            np.array([one[rank - 1] for one, rank in zip(stored, ranks)])
        ),
        "That score is among the lowest: sort the scores from low to high.": take(counts + 1 - ranks),
    }
    otherwise = (
        f"(30 + 1) * 0.9 = 27.9: round up, and take the score of that rank. For 30 scores you return {answer[0]:g}."
    )
    return explain(answer, take(ranks), mistakes, otherwise)
