"""Judge one dataset under many settings, without computing anything twice."""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import product
from math import nan
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas

from spade_kit._arguments import check_count, choose
from spade_kit._files import Item, RunFolder, as_folder, as_text, describe_state
from spade_kit._work import crew, hand_out, track
from spade_kit.datasets.roi import Roi, Where
from spade_kit.datasets.samples import Dataset, Sample, absolute
from spade_kit.evaluation.evaluate import describe_scores
from spade_kit.evaluation.map_store import Judged
from spade_kit.evaluation.report import METRICS, Report
from spade_kit.features.backbones import EMBEDDED, Backbone, load_backbone
from spade_kit.features.pyramid import chosen_layers, find_roi, iterate_features
from spade_kit.gallery.checkpoint import describe_backbone, open_backbone, tell_backbone
from spade_kit.gallery.gallery import QueryImage, digest
from spade_kit.spade import RUNS_DEPEND_ON, SPADE

MEASURED = ("image_roc_auc", "retrieval_roc_auc", "pixel_roc_auc", "aupro")
# ordered from slow to fast to change: later options reuse results computed for earlier ones
_SEARCH = ("weights", "combine", "radius", "kappa")
_READ = ("sigma", "score", "judged")
OPTIONS = ("backbone", "crop", "layers", "normals", *_SEARCH, "k", *_READ)
_MARGIN = 256 / 224  # default ratio of the resized image to its crop

Setting: TypeAlias = "dict[str, Any]"
Fitted: TypeAlias = "tuple[SPADE, list[QueryImage]]"
Step: TypeAlias = "tuple[Setting, Setting]"  # what is fitted, and what is searched


def sweep(
    dataset: Dataset,
    over: Mapping[str, Iterable],
    *,
    metrics: Sequence[str] = MEASURED,
    intervals: bool = False,
    draws: int = 3,
    seed: int = 0,
    roi: Where | None = None,
    folder: str | Path | None = None,
    jobs: int = 1,
    client: Any = None,
) -> pandas.DataFrame:
    """Judge a dataset under all combinations of the given options, and measure each combination.

    Features are computed once per backbone and crop and kept in memory, about 0.5 MB per image; a smaller K is looked
    up, and another sigma needs no search. A progress bar shows the latest row. Images that were
    fitted are judged against the others.

    Parameters
    ----------
    over
        Lists of values by option: ``backbone``, ``layers`` (names to use, such as ``("layer2",)`` or, of a vision
        transformer, ``("blocks.3",)``, as if the backbone had no others; None for all), ``k``, ``kappa``, ``radius``,
        ``weights``, ``combine``, ``sigma``, ``crop`` (the image is resized in proportion, 256 to 224; None for the
        whole image), ``normals`` (the number of fitted images, None for all), ``score``, ``judged``.
    metrics
        Names of metrics, as in `Report.metric`.
    intervals
        Add a bootstrap confidence interval of each metric, as ``<metric>_low`` and ``<metric>_high``.
    draws, seed
        The number of random draws for each number of normals; within a draw, smaller sets are subsets of larger ones.
    roi
        Where to look, as in `SPADE.fit`; with a folder, a mask or a polygon.
    folder
        Where to save each row as soon as it is measured, in ``sweep.csv``. After an interruption, a second call
        measures only the settings that are missing.
    jobs, client
        Processes, or a client whose workers share the settings, as in `SPADE.predict_folder`. Each worker computes the
        features itself.

    Returns
    -------
    pandas.DataFrame
        Tidy, one row per setting: the options of ``over``, ``draw`` if normals are drawn, the metrics (NaN where
        undefined, such as pixel metrics without masks), and ``seconds`` per image for features, search and map (NaN
        if K was looked up or only sigma differs).

    Raises
    ------
    ValueError
        If an option or metric is wrong, or the folder holds a sweep of other settings, networks or images, or is being
        written by another run.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> few = spade_kit.Dataset("few", parts.train[:12], parts.test[:12])
    >>> table = spade_kit.sweep(few, {"k": [1, 12]}, metrics=["image_roc_auc", "aupro"])
    >>> list(table["k"])
    [1, 12]

    ``sweep(parts, {"layers": [("layer1",), ("layer2",), ("layer3",), None]})`` shows which layer matters, with a vision
    transformer ``sweep(parts, {"backbone": [vit], "layers": [(block,) for block in vit.sources]})`` which block,
    ``sweep(parts, {"k": [1, 5, 20, 50]})`` repeats the paper's ablation of K.
    """
    values = _check(dataset, over, metrics)
    looks = product(values.get("backbone", [EMBEDDED]), values.get("crop", [224]))
    networks = [(name, crop, _load(name, crop, "crop" in values)) for name, crop in looks]
    for layers, (*_, backbone) in product(values.get("layers", []), networks):
        if layers is not None:
            chosen_layers(_find_layers(layers, backbone), backbone.layers)
    plan = list(_plan(values, check_count("draws", draws), len(dataset.train)))
    quick = {name: values[name] for name in ("k", *_READ) if name in values}
    work = partial(_measure_step, quick, metrics, intervals, seed)
    lasts = [dict(zip(quick, last)) for last in product(*quick.values())]
    settings = [
        {"backbone": name, "crop": crop} | fitted | searched | last
        for (name, crop, _), (fitted, searched), last in product(networks, plan, lasts)
    ]
    backbones, looked = [backbone for *_, backbone in networks], find_roi(dataset.train, roi)
    if folder is not None and looked is not None and looked.function is not None:
        raise ValueError(
            "With a folder, roi must be a mask or a polygon, so that a second call can tell whether it is the same; "
            "got a function. Leave folder out, or pass a mask."
        )
    with crew(jobs, client) as workers:
        run = partial(_run_plan if workers is None else partial(_run_on, workers), work, dataset, looked)
        judge = partial(_judge_settings, run, backbones, plan, len(lasts))
        if folder is None:
            found = dict(judge(range(len(settings))))
            rows = [found[at] for at in range(len(settings))]
        else:
            manifest = _describe(dataset, backbones) | {
                "roi": looked and hashlib.sha256(pickle.dumps(looked)).hexdigest(),
                "over": {name: list(map(repr, some)) for name, some in values.items()},
                **{"metrics": [*metrics], "intervals": bool(intervals), "draws": int(draws), "seed": int(seed)},
            }
            rows = _resume(as_folder("folder", folder), manifest, settings, metrics, judge)
    return _tabulate([row | setting for row, setting in zip(rows, settings)], values)


def _judge_settings(
    run: Callable, networks: Sequence[Backbone], plan: Sequence[Step], count: int, wanted: Sequence[int]
) -> Iterator[tuple[int, Setting]]:
    """The rows of some settings as they come; ``count`` settings in succession need one search."""
    steps = sorted({at // count for at in wanted})
    for number, backbone in enumerate(networks):
        own = [step for step in steps if step // len(plan) == number]
        for at, rows in run([plan[step % len(plan)] for step in own], backbone) if own else ():
            yield from enumerate(rows, own[at] * count)


def _resume(
    folder: Path, manifest: dict[str, Any], settings: Sequence[Setting], metrics: Sequence[str], judge: Callable
) -> list[Setting]:
    """The rows of all settings: those that a folder holds, and the others, each written as it comes."""
    names = [{"setting": at, **{name: repr(value) for name, value in one.items()}} for at, one in enumerate(settings)]
    measured = *(f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")), "seconds"
    columns = dict.fromkeys(names[0], str) | {"setting": int} | dict.fromkeys(measured, float)

    def measure(some: Sequence[Item]) -> Iterator[tuple[int, Setting]]:
        places = {item.name["setting"]: place for place, item in enumerate(some)}
        return ((places[at], row | names[at]) for at, row in judge([*places]) if at in places)

    run = RunFolder(folder, "sweep.csv", columns)
    with run.claim(manifest):
        rows = run.resume([Item(name, [], []) for name in names], measure, "settings")
    return [{name: row[name] for name in measured if name in row} for row in rows]


def _describe(dataset: Dataset, networks: Sequence[Backbone]) -> dict[str, Any]:
    """What the rows of a sweep depend on beside its settings: versions, networks, and the images by their content."""
    samples = [*dataset.train, None, *dataset.test]
    states = [one and (describe_state([one.path, *one.mask_parts]) or {}).get("sha256") for one in samples]
    marks = [one and (one.label, one.masked, state) for one, state in zip(samples, states)]
    return {
        **{package: version(package) for package in RUNS_DEPEND_ON},
        "backbones": [f"{backbone}, {backbone.sources}, {describe_backbone(backbone)}" for backbone in networks],
        "dataset": dataset.name,
        "dataset_sha256": hashlib.sha256(repr(marks).encode()).hexdigest(),
    }


def _run_plan(
    work: Callable, dataset: Dataset, roi: Roi | None, plan: Sequence[Step], backbone: Backbone
) -> Iterator[tuple[int, list[Setting]]]:
    """In this process."""
    galleries = _Galleries(backbone, roi, dataset.train, dataset.test)
    with track(total=len(plan) * len(galleries.queries), desc=f"{backbone}: settings x images") as progress:
        for at, step in enumerate(plan):
            rows = work(galleries, step, progress.update)
            progress.set_postfix_str(_tell(rows[-1]))
            yield at, rows


def _run_on(
    workers: Any, work: Callable, dataset: Dataset, roi: Roi | None, plan: Sequence[Step], backbone: Backbone
) -> Iterator[tuple[int, list[Setting]]]:
    """By the workers of a client, in the order in which they finish."""
    from cloudpickle import dumps  # which Dask needs

    samples = (tuple(map(absolute, part)) for part in (dataset.train, dataset.test))
    measure = partial(_measure_steps, work, (*tell_backbone(backbone), dumps(roi), *samples))
    with track(total=len(plan), desc=f"{backbone}: settings") as progress:
        for at, rows in hand_out(workers, measure, plan, 1):
            if isinstance(rows, Exception):
                raise rows
            progress.set_postfix_str(_tell(rows[-1]))
            progress.update()
            yield at, rows


def _tell(row: Setting) -> str:
    """``radius=0, k=5: aupro 0.803``."""
    options = [f"{name}={value}" for name, value in row.items() if name in OPTIONS and value is not None]
    return f"{', '.join(options)}: {', '.join(f'{name} {row[name]:.3f}' for name in METRICS if name in row)}"


def _measure_steps(work: Callable, given: tuple, steps: Sequence[Step]) -> list[list[Setting]]:
    """On a worker, with the galleries that `_open_galleries` makes of what is given."""
    galleries = _open_galleries(*given)
    return [work(galleries, step, lambda: None) for step in steps]


@lru_cache(maxsize=1)
def _open_galleries(told: str, device: str, roi: bytes, *samples: tuple[Sample, ...]) -> _Galleries:
    return _Galleries(open_backbone(told, device), pickle.loads(roi), *samples)


def _measure_step(
    over: dict, metrics: Sequence[str], intervals: bool, seed: int, galleries: _Galleries, step: Step, advance: Callable
) -> list[Setting]:
    """Rows of all settings that need one search."""
    fitted, searched = step
    spade, queries = galleries.take(fitted["layers"], fitted["normals"], fitted["draw"], seed)
    return [
        fitted | searched | quick | _measure(report, metrics, intervals) | {"seconds": galleries.seconds + seconds}
        for quick, report, seconds in _judge_all(spade.with_options(**searched), queries, over, advance)
    ]


def _check(dataset: Dataset, over: Mapping[str, Iterable], metrics: Sequence[str]) -> dict[str, list]:
    if not isinstance(over, Mapping) or not over:
        raise ValueError(f'sweep needs options with lists of values, like over={{"k": [1, 5, 50]}}; got {over!r}.')
    values: dict[str, list] = {choose("An option", name, OPTIONS): [] for name in over}
    for name, some in over.items():
        if isinstance(some, (str, Mapping)) or not isinstance(some, Iterable):
            raise ValueError(f"sweep takes a list of values for {name}; got {some!r}. Put it in brackets.")
        for value in some:
            if value not in values[name]:
                values[name].append(value)
    if empty := [name for name, some in values.items() if not some]:
        raise ValueError(f"sweep needs at least one value for each option; got none for {', '.join(empty)}.")
    for name in ("k", "normals"):
        for count in values.get(name, []):
            if name == "k" or count is not None:
                check_count(name, count)
    if isinstance(metrics, str):
        raise ValueError(f"metrics must be a list of names; got {metrics!r}. Put it in brackets.")
    for metric in metrics:
        choose("A metric", metric, METRICS)
    if not isinstance(dataset, Dataset) or not dataset.train or not dataset.test:
        raise ValueError("sweep needs a Dataset with images to fit and images to judge. Call load_dataset for one.")
    return values


def _load(backbone: Any, crop: int | None, asked: bool) -> Backbone:
    if not asked:
        return load_backbone(backbone)
    if isinstance(backbone, Backbone):
        raise ValueError("With crop among the options, backbones are loaded once per crop. Pass them by name.")
    return load_backbone(backbone, resize=256 if crop is None else round(crop * _MARGIN), crop=crop)


def _find_layers(names: Sequence[str], backbone: Backbone) -> Sequence[str]:
    return names if isinstance(names, str) else [backbone.find_layer(name) for name in names]


def _plan(values: dict[str, list], draws: int, available: int) -> Iterator[Step]:
    """One step for each search that must run."""
    names = [name for name in _SEARCH if name in values]
    for layers, count in product(values.get("layers", [None]), values.get("normals", [None])):
        for draw in range(1 if count is None or count >= available else draws):
            for chosen in product(*(values[name] for name in names)):
                yield {"layers": layers, "normals": count, "draw": draw}, dict(zip(names, chosen))


class _Galleries:
    """Features of all images, computed once, and the parts of them that each setting uses."""

    def __init__(self, backbone: Backbone, roi: Roi | None, train: Sequence[Sample], test: Sequence[Sample]) -> None:
        self.spade = SPADE(backbone).fit(train, roi=roi)
        start = time.perf_counter()
        read = iterate_features(test, backbone, self.spade.gallery.cropping, skip=True)
        self.queries = [
            QueryImage(pyramid.select(at), picture, place, photo, digest(picture))
            for photos, places, pictures, pyramid in read
            for at, (photo, place, picture) in enumerate(zip(photos, places, pictures))
            if isinstance(photo, Sample)
        ]
        self.seconds = (time.perf_counter() - start) / len(self.queries)  # per image, for features
        self._by_layers: dict[tuple[str, ...], Fitted] = {}

    def take(self, layers: Sequence[str] | None, count: int | None, draw: int, seed: int) -> Fitted:
        """A SPADE fitted with some of the images, and the queries."""
        spade, queries = self._take_layers(layers)
        if count is not None and count < len(spade):
            among = np.sort(np.random.default_rng([seed, draw]).permutation(len(spade))[:count])
            spade = spade.with_gallery(spade.gallery.take(among))
        return spade, queries

    def _take_layers(self, layers: Sequence[str] | None) -> Fitted:
        if layers is None:
            return self.spade, self.queries
        key = tuple(_find_layers(layers, self.spade.backbone))
        if key not in self._by_layers:
            queries = [replace(query, pyramid=query.pyramid.only(key)) for query in self.queries]
            self._by_layers[key] = self.spade.with_gallery(self.spade.gallery.only(key)), queries
        return self._by_layers[key]


def _judge_all(
    spade: SPADE, queries: list[QueryImage], values: dict[str, list], advance: Callable
) -> Iterator[tuple[Setting, Report, float]]:
    """Judge all images with one search, and derive every smaller K and what only reads distances without a search."""
    ks = values.get("k", [spade.k])
    reads = [dict(zip(_READ, read)) for read in product(*(values.get(name, [getattr(spade, name)]) for name in _READ))]
    spade = spade.under(spade.options.replace(k=max(ks), **reads[0]))
    kept: list[tuple[Setting, list[tuple[Setting, Judged]]]] = [({"k": k} | read, []) for k in ks for read in reads]
    searching = 0.0
    for query in queries:
        assert query.sample is not None  # queries come from a dataset
        photo = {"path": as_text(query.sample.path), "label": query.sample.label}
        start = time.perf_counter()
        result = spade.judge(query)
        searching += time.perf_counter() - start
        fewer = {k: result if k >= len(result.neighbours) else result.with_k(k) for k in ks}
        for setting, judged in kept:
            other = fewer[setting["k"]].with_options(**{name: setting[name] for name in _READ})
            judged.append((photo | describe_scores(other), Judged.of(other)))
        advance()
    run = spade.describe_run()
    for setting, judged in kept:
        rows, maps = zip(*judged)
        seconds = searching / len(queries) if setting == {"k": max(ks)} | reads[0] else nan
        yield setting, Report("the dataset", run, pandas.DataFrame(rows), maps), seconds


def _measure(report: Report, metrics: Sequence[str], intervals: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in metrics:
        found[name] = report.metric_or_nan(name)
        if intervals and not np.isnan(found[name]):
            found[f"{name}_low"], found[f"{name}_high"] = report.interval(name)
    return found


def _tabulate(rows: list[Setting], values: dict[str, list]) -> pandas.DataFrame:
    frame = pandas.DataFrame(rows)
    told = [name for name in OPTIONS if name in values]
    if "normals" in values:
        told.insert(told.index("normals") + 1, "draw")
    frame = frame[told + [name for name in frame.columns if name not in (*OPTIONS, "draw")]]
    for name in told:  # keep the values as given: None must not become NaN
        frame[name] = pandas.Series([row[name] for row in rows], dtype=object)
    return frame
