"""Measure the accuracy of many settings on a dataset, with confidence intervals: `make results DATA=path`.

Writes results/<dataset>.md and .json. Besides the settings of the package, the tables include candidates that are not
part of it, to show why.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas
from published import PUBLISHED, WHY_THEY_DIFFER

import spade_kit
from spade_kit import SPADE, Dataset, Report, evaluate, load_backbone
from spade_kit.correspondence import resize
from spade_kit.evaluation.evaluate import describe_scores
from spade_kit.evaluation.map_store import Judged
from spade_kit.result import Result
from spade_kit.scores import make_map, mean_of_top

RESULTS = Path(__file__).parent / "results"
METRICS = {
    "image_roc_auc": "image AUC",
    "top_roc_auc": "top 1 %",
    "retrieval_roc_auc": "kNN",
    "pixel_roc_auc": "pixel AUC",
    "aupro": "AUPRO",
    "aupro_05": "AUPRO 0.05",
}
ALONE = "misplaced"  # a kind of the demo: a defect of position, not of appearance, so it gets its own table


@dataclass(frozen=True)
class Entry:
    """One line of the table."""

    setting: str
    report: Report
    features: float  # MB, size of the gallery's features

    def measure(self, kinds: Sequence[str] | None) -> dict[str, float | list[float]]:
        found: dict[str, float | list[float]] = {}
        for name in METRICS:
            try:
                found[name] = [self.report.metric(name, kinds), *self.report.interval(name, kinds)]
            except ValueError:  # no masks
                continue
        return found

    @property
    def milliseconds(self) -> float:
        return 1e3 * float(self.report.to_frame()["seconds"].median())


# ---- settings of the package -----------------------------------------------------------------------------------------


def measure_settings(dataset: Dataset) -> Iterator[Entry]:
    spade = SPADE().fit(dataset.train)
    yield judge("concat, the defaults", spade, dataset)
    results = [spade.judge(sample) for sample in dataset.test]
    yield judge("ensemble", spade.with_options(combine="ensemble"), dataset)
    yield judge("equal weights", spade.with_options(weights="equal"), dataset)
    for layer in spade.backbone.layers:
        yield report_maps(f"{layer} alone", [result.layer_alone[layer] for result in results], results)
    for name, options in {
        "radius 0": {"radius": 0},
        "radius 4": {"radius": 4},
        "kappa 3": {"kappa": 3},
        "kappa 5": {"kappa": 5},
    }.items():
        yield judge(name, spade.with_options(**options), dataset)
    yield from measure_candidates(spade, results)
    equal = {"weights": "equal", "sigma": 2.5}
    for name, size, side, radius in (
        ("equal, sigma 2.5", 224, 1, None),
        ("equal, sigma 2.5, radius 8 of 56 cells", 224, 1, 8),
        ("equal, sigma 2.5, radius 8, averaged 3 x 3", 224, 3, 8),
        ("equal, sigma 2.5, radius 12, 320 px", 320, 1, 12),
        ("equal, sigma 2.5, averaged 3 x 3, 320 px", 320, 3, None),
    ):
        backbone = load_backbone(resize=round(size * 256 / 224), crop=size, average=side)
        yield judge(name, SPADE(backbone, radius=radius, **equal).fit(dataset.train), dataset)
    yield from measure_editions(dataset)


def measure_editions(dataset: Dataset) -> Iterator[Entry]:
    """The recommended settings of version 0.1 and of today, and today's without one ingredient each."""
    equal = {"weights": "equal", "sigma": 2.5}
    first = SPADE(load_backbone(resize=366, crop=320, average=3), radius=12, **equal).fit(dataset.train)
    yield judge("first edition", first, dataset)
    spade = SPADE.recommended().fit(dataset.train)
    yield judge("**recommended**, second edition", spade, dataset)
    others = {
        "score": ("max", "top", "excess"),
        "judged": ("map", "excess"),
        "radius": (None, 4, 12),
        "weights": (None,),
    }
    for name, values in others.items():
        for value in values:
            if getattr(spade, name) != value:
                yield judge(f"second edition, but {name} {value}", spade.with_options(**{name: value}), dataset)
    for name, sizes in {"square": {"resize": 320, "crop": 320}, "512 px": {"resize": 512, "crop": None}}.items():
        other = SPADE.recommended(load_backbone(average=3, **sizes), size=sizes["resize"])
        yield judge(f"second edition, but {name}", other.fit(dataset.train), dataset)


def judge(setting: str, spade: SPADE, dataset: Dataset) -> Entry:
    spade.predict(dataset.test[0])  # compiles the search before it is timed
    print(f"  {setting}", flush=True)
    return Entry(setting, evaluate(spade, dataset), megabytes(spade))


def megabytes(spade: SPADE) -> float:
    pixels = spade.gallery.pixels
    return (pixels.nbytes if hasattr(pixels, "nbytes") else sum(level.nbytes for level in pixels)) / 2**20


def report_maps(
    setting: str, maps: Sequence[np.ndarray], results: Sequence[Result], scores: Sequence[float] | None = None
) -> Entry:
    """Report on custom maps, with the maximum of each map as the image score unless scores are given."""
    rows = []
    for at, (values, result) in enumerate(zip(maps, results)):
        score = float(values.max()) if scores is None else scores[at]
        own = {"image_score": score, "top_score": mean_of_top(values), "seconds": float("nan")}
        rows.append({"path": str(result.sample.path), "label": result.label} | describe_scores(result) | own)
    judged = [Judged(values, 0, result.mask, result.crop) for values, result in zip(maps, results)]
    spade = results[0].spade
    print(f"  {setting}", flush=True)
    return Entry(setting, Report("", spade.describe_run(), pandas.DataFrame(rows), judged), megabytes(spade))


# ---- candidates that are not in the package --------------------------------------------------------------------------


def measure_candidates(spade: SPADE, results: Sequence[Result]) -> Iterator[Entry]:
    """Image scores from the coarsest layer, power means of layers, and distances divided by local density."""
    layers = spade.backbone.layers
    coarsest = [float(result.layer_alone[layers[-1]].max()) for result in results]
    maps = [result.anomaly_map for result in results]
    yield report_maps(f"*defaults, images by {layers[-1]} alone*", maps, results, coarsest)
    normals = [spade.predict_left_out(index) for index in range(len(spade))]
    for name, power, summarise in (
        ("*mean of layers / their normals' mean*", 1, np.mean),
        ("*4th power of layers / their normals' maximum*", 4, np.max),
    ):
        scale = {
            layer: np.mean([summarise(normal.match_alone[layer].distance) for normal in normals]) for layer in layers
        }
        yield report_maps(name, [combine(result, scale, power) for result in results], results)
    density = np.stack([normal.correspondence.distance for normal in normals])  # (n, h, w), higher: rarer normal pixel
    for name, share in (("*defaults / a fifth density*", 0.2), ("*defaults / half density*", 0.5)):
        yield report_maps(name, [hold_against(density, share, result) for result in results], results)


def combine(result: Result, scale: dict[str, float], power: int) -> np.ndarray:
    """The power mean over layers, each searched alone and divided by a scale."""
    grid = result.query.grid
    parts = [resize(found.distance, grid) / scale[layer] for layer, found in result.match_alone.items()]
    joined = np.mean(np.power(parts, power), 0) ** (1 / power)
    return make_map(joined.astype(np.float32), result.crop.size, 4)


def hold_against(density: np.ndarray, share: float, result: Result) -> np.ndarray:
    """Distances divided by a mix of the mean and the matched normal pixel's own distance to other normals."""
    found = result.correspondence
    own = density[result.neighbours.index[found.image[0]], found.row[0], found.col[0]]
    return make_map(found.distance / ((1 - share) * density.mean() + share * own), result.crop.size, 4)


# ---- output files ----------------------------------------------------------------------------------------------------


def write(dataset: Dataset, command: str, entries: Sequence[Entry], kinds: dict[str, list[str] | None]) -> None:
    rows = {
        entry.setting: {title: entry.measure(some) for title, some in kinds.items()}
        | {"milliseconds": entry.milliseconds, "features_mb": entry.features}
        | {name: entry.report.run[name] for name in ("backbone", "crop", "options")}
        for entry in entries
    }
    about = {
        "dataset": str(dataset).replace(str(Path.home()), "~"),
        "command": command,
        "machine": platform.machine(),
        "run": {name: value for name, value in entries[0].report.run.items() if name not in ("crop", "options")},
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{dataset.name}.json").write_text(json.dumps(about | {"settings": rows}, indent=1) + "\n")
    lines = [f"# {dataset.name}", "", *(f"{line}  " for line in str(dataset).splitlines()), "", describe(about), ""]
    for title in kinds:
        lines += [f"## {title}", "", *tabulate(rows, title), ""]
    lines += ["*Italic*: not in the package, computed from the default features. The JSON lists all options.", ""]
    if dataset.name in PUBLISHED:
        lines += ["## Published results", "", *PUBLISHED[dataset.name], "", WHY_THEY_DIFFER, ""]
    (RESULTS / f"{dataset.name}.md").write_text("\n".join(lines))


def describe(about: dict) -> str:
    run = about["run"]
    return (
        f"`{about['command']}`, spade_kit {run['spade_kit']}, torch {run['torch']}, {run['backbone']} "
        f"({run['weights']}), K = {min(50, run['normals'])} of {run['normals']} normals, sigma 4 unless stated. "
        "Brackets: 95 % confidence intervals, bootstrap over images. ms: median time of one core for reading, search "
        f"and map of an image, if timed. Peak memory of the whole run: {about['peak_memory_gb']:.1f} GB."
    )


def tabulate(rows: dict[str, dict], title: str) -> list[str]:
    shown = [name for name in METRICS if any(name in row[title] for row in rows.values())]
    lines = [
        "| setting | " + " | ".join(METRICS[name] for name in shown) + " | ms | features |",
        "| --- |" + " --- |" * (len(shown) + 2),
    ]
    for setting, row in rows.items():
        cells = [tell(row[title].get(name)) for name in shown]
        timed = "" if np.isnan(row["milliseconds"]) else f"{row['milliseconds']:.0f}"
        lines.append(f"| {setting} | " + " | ".join(cells) + f" | {timed} | {row['features_mb']:.0f} MB |")
    return lines


def tell(found: list[float] | None) -> str:
    if found is None:
        return ""
    value, low, high = found
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help='"demo", "solar_cells", or a folder')
    parser.add_argument("--every", type=int, default=1, help="use only every n-th image")
    given = parser.parse_args()
    dataset = spade_kit.load_dataset(given.data)
    name = Path(given.data).name
    command = f"make results DATA={'path/to/' * (name != given.data)}{name}"
    if given.every > 1:
        dataset = replace(dataset, train=dataset.train[:: given.every], test=dataset.test[:: given.every])
        command += f' ARGS="--every {given.every}"'
    labels = sorted({sample.label for sample in dataset.test} - {"good", None})
    kinds: dict[str, list[str] | None] = {"All defects": None}
    if dataset.name == "demo":
        kinds = {f"All defects but *{ALONE}*": [kind for kind in labels if kind != ALONE], f"Only *{ALONE}*": [ALONE]}
    print(f"{dataset}\n{command}")
    write(dataset, command, list(measure_settings(dataset)), kinds)


if __name__ == "__main__":
    main()
