"""The options of a search and of a map: checked, described and compared in one place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, SupportsIndex, TypeAlias

import numpy as np

from spade_kit._arguments import check_count, check_number, check_switch, choose

DEFAULT_K = 50
COMBINE = ("concat", "ensemble")
SEARCH = ("auto", "brute_force")
SCORE = ("max", "top", "excess")
JUDGED = ("map", "excess")
MOST_SIGMA = 1000  # map pixels; more would take minutes
MOST_KAPPA = 300  # 2 s per image of 224 px; the time grows with the square
LARGEST = 1e37  # limit of a weight and of a sum of weighted squares: close to the float32 maximum
Weights: TypeAlias = "Mapping[str, float] | tuple[tuple[str, float], ...] | str | None"


@dataclass(frozen=True)
class Options:
    """The options of `SPADE`, which documents them; a new option is a field here, with its check and its description.

    ``k=None`` means 50, or all images if there are fewer; ``weights`` are stored as pairs, so that options can be
    compared and used as keys.
    """

    k: int | None = None
    kappa: int = 1
    radius: int | None = None
    weights: Weights = None
    combine: str = "concat"
    sigma: float = 4
    search: str = "auto"
    score: str = "max"
    judged: str = "map"
    squared: bool = False

    def __post_init__(self) -> None:
        checked = {
            "k": None if self.k is None else check_count("k", self.k),
            "kappa": 1 if self.kappa is None else check_kappa(self.kappa),
            "radius": None if self.radius is None else check_count("radius", self.radius, least=0),
            "combine": choose("combine", self.combine, COMBINE),
            "weights": _freeze(self.weights),
            "sigma": check_sigma(self.sigma),
            "search": choose("search", self.search, SEARCH),
            "score": choose("score", self.score, SCORE),
            "judged": choose("judged", self.judged, JUDGED),
            "squared": check_switch("squared", self.squared),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> Options:
        """A copy with some options changed, by name."""
        for name in changes:
            choose("An option", name, OPTIONS)
        return replace(self, **changes)

    def rename(self, find: Callable[[str], str]) -> Options:
        """The same options with other names of the layers."""
        if not isinstance(self.weights, tuple):
            return self
        return replace(self, weights={find(layer): weight for layer, weight in self.weights})

    def as_given(self) -> dict[str, Any]:
        """All options by name, in the form in which a user passes them."""
        weights = dict(self.weights) if isinstance(self.weights, tuple) else self.weights
        return {name: getattr(self, name) for name in OPTIONS} | {"k": self.k or DEFAULT_K, "weights": weights}

    def retrieved(self, available: int) -> int:
        """How many of the ``available`` images are retrieved."""
        return min(self.k or DEFAULT_K, available)

    def of_search(self, available: int) -> Options:
        """The options that determine matches among ``available`` images, without those that only read the distances."""
        return replace(self.of_map, k=max(1, self.retrieved(available)), sigma=0)

    @property
    def of_map(self) -> Options:
        """The options that determine the anomaly map, without how images are scored and which map is judged."""
        return replace(self, score="max", judged="map")

    @property
    def need_level(self) -> bool:
        """Whether the level that normal images reach at each place is needed to score an image or to judge a pixel."""
        return "excess" in (self.score, self.judged)

    def root(self, squared: np.ndarray) -> np.ndarray:
        """Squared distances in the form in which they enter a map: Euclidean, or as they are under ``squared``."""
        return squared if self.squared else np.sqrt(squared)

    def factors(self, layers: Sequence[str], variance: Callable[[], Sequence[float]]) -> np.ndarray:
        """(L,) float32: the weight of each level's squared distance; ``variance`` returns the variances for "equal"."""
        if self.weights is None:
            return np.ones(len(layers), np.float32)
        if isinstance(self.weights, str):
            spread = np.asarray(variance())
            return np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 1).astype(np.float32)
        weights = dict(self.weights)
        for name, value in weights.items():
            choose("A layer", name, layers)
            check_number(f"The weight of {name}", value, f"a number from 0 to {LARGEST:g}", least=0, most=LARGEST)
        factors = np.array([weights.get(name, 1) for name in layers], np.float32)
        if not factors.any():
            raise ValueError("At least one layer must have a weight above 0; all are 0. Raise one of them.")
        return factors

    def describe(self) -> str:
        """All options in one line, for captions."""
        usual = {"weights": None, "squared": False, "search": "auto", "score": "max", "judged": "map"}  # omitted
        order = ("k", "kappa", "radius", "combine", "weights", "squared", "sigma", "search", "score", "judged")
        return self.format([name for name in order if name not in usual or getattr(self, name) != usual[name]], "=")

    def format(self, names: Collection[str], sign: str = " ") -> str:
        """Some options as text, such as ``K=5, radius 4``; ``sign`` separates a name from its number."""
        return ", ".join(self._format(name, sign) for name in names)

    def _format(self, name: str, sign: str) -> str:
        value = getattr(self, name)
        if name == "weights":
            pairs = value if isinstance(value, tuple) else ()
            between = ", " if sign == "=" else " "
            return "weights " + (between.join(f"{layer} x {factor:g}" for layer, factor in pairs) or value or "none")
        told = {
            "k": f"K={value or DEFAULT_K}",
            "radius": "everywhere" if value is None else f"radius {value}",
            "squared": "squared distances" if value else "distances not squared",
            **{"combine": f"{value}", "search": f"{value}", "judged": f"{value} judged"},
        }
        return told.get(name, f"{name}{sign}{value:g}" if isinstance(value, float) else f"{name}{sign}{value}")


OPTIONS = tuple(field.name for field in fields(Options))


def _freeze(weights: Any) -> tuple[tuple[str, float], ...] | str | None:
    if isinstance(weights, str) and weights == "equal":
        return weights
    if isinstance(weights, Mapping):
        return tuple(weights.items()) or None
    if weights is None or (isinstance(weights, tuple) and all(isinstance(pair, tuple) for pair in weights)):
        return weights
    cure = " For a file of weights, use load_backbone(name, weights=...)." if isinstance(weights, str) else ""
    raise ValueError(f'weights must be a mapping like {{"layer3": 0.5}}, "equal" or None; got {weights!r}.{cure}')


def check_kappa(kappa: SupportsIndex) -> int:
    return check_count("kappa", kappa, most=MOST_KAPPA)


def check_sigma(sigma: float) -> float:
    needed = f"a number of map pixels from 0, no smoothing, to {MOST_SIGMA:,}"
    return check_number("sigma", sigma, needed, least=0, most=MOST_SIGMA)
