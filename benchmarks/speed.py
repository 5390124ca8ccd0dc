"""Measure the speed of the exact search as ratios within one run: `make bench`.

Writes results/speed.json and results/speed.md. All methods use the same features, and their distances are compared
before timing. On a busy machine nothing is printed, because load slows the libraries down by very different factors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import spade_kit  # before torch, as users import it: it keeps torch's idle threads from spinning

# isort: split
import torch
from rivals import check_the_same, concatenate, faiss_flat, sklearn_brute, torch_brute, window_loop

from spade_kit import Pyramid, load_backbone
from spade_kit.correspondence import Question, search_pixels
from spade_kit.datasets.samples import as_array
from spade_kit.options import Options
from spade_kit.search.dispatch import PixelSearch
from spade_kit.search.shared_grid import CellLayout

RESULTS = Path(__file__).parent / "results"
BUSY = 20  # per cent of all cores used by other processes
QUERIES = 8
SLOW_QUERIES = 2  # for slow libraries, and for the comparison before timing
FORWARD = """
import sys, time, torch                 # torch first, so that it keeps its default number of threads
from spade_kit import load_backbone
backbone = load_backbone(sys.argv[1], pretrained=sys.argv[2] == "True")
x, times = torch.randn(1, 3, 224, 224), []
with torch.inference_mode():
    for _ in range(int(sys.argv[3])):
        start = time.perf_counter()
        backbone.module(x)
        times.append(1e3 * (time.perf_counter() - start))
print(sorted(times[3:])[len(times[3:]) // 2])
"""


class Times(list):
    """Milliseconds, one per call."""

    @property
    def median(self) -> float:
        return float(np.median(self))

    def __str__(self) -> str:
        low, high = np.percentile(self, [25, 75])
        return f"{self.median:.3g} ({low:.3g} to {high:.3g})"


def tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


def clock(call: Callable[[Any], Any], items: Iterable[Any], warm: bool = True) -> Times:
    items = list(items)
    if warm:
        call(items[0])
    times = Times()
    for item in items:
        start = time.perf_counter()
        call(item)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def ratio(slow: Times, fast: Times) -> str:
    """Ratio of the medians, with the quartiles of the ratios if times can be paired."""
    if len(slow) != len(fast):
        return f"{slow.median / fast.median:.3g}"
    low, high = np.percentile(np.array(slow) / np.array(fast), [25, 75])
    return f"{slow.median / fast.median:.3g} ({low:.3g} to {high:.3g})"


def forward(name: str, pretrained: bool) -> float:
    """Time in ms of one plain forward pass of the unmodified network, in a separate process."""
    calls = 60 if name == "efficientnet_lite0" else 15
    run = subprocess.run(
        [sys.executable, "-c", FORWARD, name, str(pretrained), str(calls)], capture_output=True, text=True, check=True
    )
    return float(run.stdout)


def load_of_others() -> float:
    """Per cent of all cores that are busy while this process sleeps."""
    return psutil.cpu_percent(interval=3)


# ---- the table -------------------------------------------------------------------------------------------------------


def compare(dataset: spade_kit.Dataset, name: str, pretrained: bool, rivals: dict[str, Callable]) -> list[dict]:
    """Time search, predict and the other libraries with K = N <= 50, with both weightings."""
    tell(f"{dataset.name}, {name}: search, predict, {', '.join(rivals)}")
    backbone = load_backbone(name, pretrained=pretrained)
    normals = dataset.train[:50]
    spade = spade_kit.SPADE(backbone).fit(normals)
    photos = [as_array(sample) for sample in dataset.test[:: max(1, len(dataset.test) // QUERIES)][:QUERIES]]
    queries = [spade_kit.extract_features(photo, backbone) for photo in photos]
    images, gallery = np.arange(len(normals)), spade.gallery
    levels = gallery.pixels.read(images)
    before = forward(name, pretrained)
    rows = []
    for weights in (None, "equal"):
        judge = spade.with_options(weights=weights)
        factors = gallery.factors(judge.options, images)
        asked_of = (gallery.pixels, images, factors, judge.options)
        found = [search_pixels(Question(query, *asked_of)) for query in queries]
        row = {
            "data": dataset.name,
            "backbone": backbone.name,
            "weights": weights or "raw",
            "normals": len(normals),
            "queries": len(queries),
            "search": clock(lambda query, of=asked_of: search_pixels(Question(query, *of)), queries),
            "predict": clock(judge.predict, photos),
        }
        held = concatenate(levels, factors)
        asked = [concatenate(query.levels, factors) for query in queries]
        for rival, build in rivals.items():
            look = build(held)
            some = asked if rival == "faiss" else asked[:SLOW_QUERIES]
            for query, ours in zip(some[:SLOW_QUERIES], found):
                check_the_same(ours.distance, look(query), query, held)
            row[rival] = clock(look, some, warm=False)
        rows.append(row)
    judge = spade.with_options(combine="ensemble")
    ensemble = clock(judge.predict, photos)
    one = np.ones(len(levels), np.float32)
    alone = clock(lambda query: search_pixels(Question(query, gallery.pixels, images, one, judge.options)), queries)
    rows.append({"data": dataset.name, "backbone": backbone.name, "weights": "ensemble", "normals": len(normals),
                 "queries": len(queries), "search": alone, "predict": ensemble})  # fmt: skip
    if "faiss" in rivals:
        per_level = [(faiss_flat(concatenate([x], [1])), [concatenate([q.levels[at]], [1]) for q in queries])
                     for at, x in enumerate(levels)]  # fmt: skip
        rows[-1]["faiss"] = clock(
            lambda at: [look(asked[at]) for look, asked in per_level], range(len(queries)), warm=False
        )
    between = (before + forward(name, pretrained)) / 2
    for row in rows:
        row["forward"] = between
    return rows


# ---- scaling ---------------------------------------------------------------------------------------------------------


def grow(photos: Sequence[Any], normals: Sequence[Any]) -> list[dict]:
    """Vary one parameter at a time, each compared with brute-force search in torch."""
    rows = []
    tell("scaling with K, kappa, radius, crop")

    def add(what: str, value: object, levels: Sequence[torch.Tensor], query: Pyramid, k: int, **options: Any) -> None:
        kappa, radius = options.get("kappa", 1), options.get("radius")
        one = np.ones(len(levels), np.float32)
        pixels = PixelSearch(query.levels, [level[:k] for level in levels], np.arange(k))
        ours = clock(lambda _: pixels.measure(pixels.find(one, kappa, radius)), range(5))
        look = torch_brute(concatenate([level[:k] for level in levels], one))
        asked = concatenate(query.levels, one)
        rows.append(
            {"what": what, "value": value, "search": ours, "torch": clock(lambda _: look(asked), range(2), warm=False)}
        )

    pyramid, query = spade_kit.extract_features(normals[:200]), spade_kit.extract_features(photos[0])
    for k in (5, 10, 20, 50, 100, 200):
        if k <= len(pyramid):
            add("K", k, pyramid.levels, query, k)
    for kappa in (1, 3, 10):
        add("kappa", kappa, pyramid.levels, query, 50, kappa=kappa)
    for radius in (0, 4, None):
        add("radius", "everywhere" if radius is None else radius, pyramid.levels, query, 50, radius=radius)
    for crop in (224, 320, 512):
        backbone = load_backbone(resize=round(crop * 8 / 7), crop=crop)
        held, asked = (spade_kit.extract_features(images, backbone) for images in (normals[:50], photos[0]))
        add("crop", crop, held.levels, asked, min(50, len(held)))
    return rows


def grow_gallery(photos: Sequence[Any], normals: Sequence[Any]) -> list[dict]:
    """Vary N: predict with K = 50 and an increasing number of normal images, and measure the process's memory."""
    rows = []
    tell("scaling with N")
    for n in (60, 200, 1000, 2000):
        if n > len(normals):
            break
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            spade = spade_kit.SPADE().fit(normals[:n])
        held = spade.gallery.nbytes
        rows.append({
            "normals": n, "predict": clock(spade.predict, photos), "features_mb": held / 2**20,
            "resident_mb": psutil.Process().memory_info().rss / 2**20,
            "said": [str(warning.message) for warning in said],
        })  # fmt: skip
        del spade
    return rows


def fit(samples: Sequence[spade_kit.Sample]) -> dict:
    """Compare `fit` with decoding, resizing and forward passes alone."""
    tell("fit")
    backbone = load_backbone()

    def bare(_: int) -> None:
        for start in range(0, len(samples), 4):
            photos = [sample.image for sample in samples[start : start + 4]]
            backbone(np.stack([backbone.find_crop(photo).cut(photo) for photo in photos]))

    whole, alone = Times(), Times()
    bare(0)
    for _ in range(5):
        alone += clock(bare, [0], warm=False)
        whole += clock(lambda _: spade_kit.SPADE(backbone).fit(samples), [0], warm=False)
    return {"images": len(samples), "fit": whole, "bare": alone}


def live(spade: spade_kit.SPADE, photos: Sequence[Any]) -> list[dict]:
    """Time the updates after a slider moves, compared with a search from scratch."""
    tell("live controls, worst cases")
    results = [spade.predict(photo) for photo in photos]
    whole = clock(lambda result: spade.gallery.search(result.query, spade.options, result.among), results)
    rows = [
        {"what": "with_k, the first", "time": clock(lambda result: result.with_k(20), results, warm=False)},
        {"what": "with_k, then", "time": clock(lambda result: result.with_k(10), results)},
        {"what": "sigma", "time": clock(lambda result: result.with_options(sigma=2), results)},
    ]
    for row in rows:
        row["search"] = whole
    for options in ({"kappa": 3}, {"radius": 4}, {"weights": "equal"}, {"weights": {"layer1": 2}}):
        other = spade.with_options(**options)
        search = partial(spade.gallery.search, options=other.options)
        scratch = clock(lambda result, search=search: search(result.query, among=result.among), results)
        again = clock(
            lambda result, search=search: search(result.query, among=result.among, first=result.correspondence.place),
            results,
        )
        rows.append({"what": ", ".join(f"{k}={v}" for k, v in options.items()), "time": again, "search": scratch})
    return rows


def worst() -> list[dict]:
    """Time inputs that prune badly, with 20 normal images of the embedded backbone's shapes, against brute force."""
    generator = torch.Generator().manual_seed(0)
    shapes, rows = [(24, 56, 56), (40, 28, 28), (112, 14, 14)], []
    noise, other = ([torch.randn(n, *shape, generator=generator) for shape in shapes] for n in (20, 1))
    one = np.ones(3, np.float32)
    constant = [torch.full((20, *shape), 1.5) for shape in shapes]
    cases = {
        "noise": (other, noise),
        "constant images": ([level[:1] for level in constant], constant),
        "all normals identical": (other, [level[:1].repeat(20, 1, 1, 1) for level in noise]),
        "one normal": (other, [level[:1] for level in noise]),
        "a query equal to a normal": ([level[7:8] for level in noise], noise),
    }
    for case, (query, gallery) in cases.items():
        pixels = PixelSearch(query, gallery, np.arange(len(gallery[0])))
        look, asked = torch_brute(concatenate(gallery, one)), concatenate(query, one)
        ours = clock(lambda _, pixels=pixels: pixels.find(one, 1, None), range(3))
        rows.append({"what": case, "search": ours, "torch": clock(lambda _, a=asked, look=look: look(a), range(3))})
    return rows


# ---- vision transformers ---------------------------------------------------------------------------------------------


def transform(photos: Sequence[Any], normals: Sequence[Any]) -> list[dict]:
    """Time the search of untrained vision transformers at 448 px, with 50 and 150 normal images."""
    rows = []
    for name in ("vit_small_patch14_dinov2", "vit_base_patch16_224"):
        tell(f"{name}: search, loop, faiss")
        backbone = load_backbone(name, pretrained=False, resize=512, crop=448, unit=True)
        crops = [backbone.find_crop(photo).cut(photo) for photo in map(as_array, normals)]
        turned = [np.rot90(crop, turns).copy() for turns in range(4) for crop in crops][:150]
        held = spade_kit.extract_features(turned, backbone)
        asked = [backbone.find_crop(photo).cut(photo)[None] for photo in map(as_array, photos[:3])]
        forward = clock(backbone, asked * 2)
        queries = [spade_kit.extract_features(crop[0], backbone) for crop in asked]
        rows += [
            {"backbone": backbone.name, "k": k, "forward": forward, **search_blocks(queries, held.select(range(k)))}
            for k in (50, len(held))
        ]
    return rows


def search_blocks(queries: Sequence[Pyramid], held: Pyramid) -> dict[str, Times]:
    """Each block within a window, against RAD's loop; and all blocks together everywhere, against faiss."""
    one, images, layout = np.ones(len(held.layers), np.float32), np.arange(len(held)), CellLayout.of(held.levels)

    def search(options: Options) -> Callable[[Pyramid], Any]:
        return lambda query: search_pixels(Question(query, layout, images, one, options))

    window, loop = search(Options(radius=1, combine="ensemble", squared=True)), window_loop(held.levels, 1)
    theirs = torch.stack(loop(queries[0].levels)).mean(0).numpy()
    assert np.abs(window(queries[0]).distance / 2 - theirs).max() < 1e-5
    look = faiss_flat(concatenate(held.levels, one))
    return {
        "window": clock(window, queries * 3),
        "loop": clock(lambda query: loop(query.levels), queries[:1], warm=False),
        "everywhere": clock(search(Options()), queries * 2),
        "faiss": clock(lambda query: look(concatenate(query.levels, one)), queries, warm=False),
    }


# ---- the report ------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def write(report: dict[str, Any]) -> str:
    """Format a report as Markdown. Times are medians in ms, with quartiles."""
    parts = [
        "# Speed\n",
        f"{report['cpu']}, {report['threads']} threads; {report['versions']}. Other processes used "
        f"{report['load_before']:.0f} % of the cores before and {report['load_after']:.0f} % after the run. Medians in "
        "ms; brackets: quartiles over the queries. Forward: one plain pass of the unmodified network, in a separate "
        "process. Search: matches and distances, from given features. K = N, the number of normals. "
        "Untrained networks are labelled.\n",
    ]
    head = ("data", "backbone", "weights", "N", "forward", "search", "predict", "search / forward", "predict / forward")
    rivals = [name for name in ("faiss", "torch", "sklearn") if any(name in row for row in report["compare"])]
    body = []
    for row in report["compare"]:
        line = [row["data"], row["backbone"], row["weights"], row["normals"], f"{row['forward']:.3g}", row["search"],
                row["predict"], f"{row['search'].median / row['forward']:.2f}",
                f"{row['predict'].median / row['forward']:.2f}"]  # fmt: skip
        body.append(line + [f"{ratio(row[rival], row['search'])} x" if rival in row else "" for rival in rivals])
    parts += [table((*head, *(f"against {rival}" for rival in rivals)), body)]
    head = ("parameter", "value", "search", "torch, brute force", "ratio")
    parts += ["## Scaling, embedded backbone\n", table(head, (
        (row["what"], row["value"], row["search"], row["torch"], ratio(row["torch"], row["search"]))
        for row in report["growth"]))]  # fmt: skip
    parts += ["## Number of normals\n", table(("normals", "predict", "features, MB", "whole process, MB"), (
        (row["normals"], row["predict"], f"{row['features_mb']:.0f}", f"{row['resident_mb']:.0f}")
        for row in report["gallery"]))]  # fmt: skip
    parts += ["## Live updates\n", table(("change", "time", "search from scratch", "ratio"), (
        (row["what"], row["time"], row["search"], f"{row['time'].median / row['search'].median:.2f}")
        for row in report["live"]))]  # fmt: skip
    parts += ["## Worst cases\n", table(("case", "search", "torch, brute force", "search / brute force"), (
        (row["what"], row["search"], row["torch"], f"{row['search'].median / row['torch'].median:.2f}")
        for row in report["worst"]))]  # fmt: skip
    head = ("backbone", "K", "forward", "radius 1, ensemble", "/ forward", "RAD's loop", "ratio", "everywhere, concat",
            "against faiss")  # fmt: skip
    parts += ["## Vision transformers at 448 px, four blocks\n", table(head, (
        (row["backbone"], row["k"], row["forward"], row["window"],
         f"{row['window'].median / row['forward'].median:.2f}", row["loop"], f"{ratio(row['loop'], row['window'])} x",
         row["everywhere"], f"{ratio(row['faiss'], row['everywhere'])} x")
        for row in report["transformers"]))]  # fmt: skip
    done = report["fit"]
    parts += [f"`fit` of {done['images']} images takes {done['fit']} ms; decoding, resizing and forward passes alone "
              f"take {done['bare']} ms: {done['fit'].median / done['bare'].median:.2f} x.\n"]  # fmt: skip
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="skip the large network and the slow libraries")
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    warnings.simplefilter("ignore")
    report: dict[str, Any] = {"load_before": load_of_others()}
    if report["load_before"] > BUSY:
        sys.exit(
            f"Other processes use {report['load_before']:.0f} % of the cores: the ratios would be meaningless. "
            "Run it again on an idle machine."
        )
    sets = [spade_kit.load_dataset("demo")]
    if "SPADE_KIT_MVTEC" in os.environ:
        sets.insert(0, spade_kit.load_dataset(Path(os.environ["SPADE_KIT_MVTEC"]) / "toothbrush"))
    cells = spade_kit.load_dataset("solar_cells")
    everyone = [*cells.train, *cells.test]
    slow = {} if arguments.quick else {"torch": torch_brute, "sklearn": sklearn_brute}
    report["compare"] = [
        row for data in sets for row in compare(data, "efficientnet_lite0", True, {"faiss": faiss_flat, **slow})
    ]
    if not arguments.quick:
        report["compare"] += [
            row for data in sets for row in compare(data, "wide_resnet50_2", False, {"faiss": faiss_flat})
        ]
    photos = [as_array(sample) for sample in sets[0].test[:: max(1, len(sets[0].test) // QUERIES)][:QUERIES]]
    report["growth"] = grow([as_array(cells.test[0])], cells.train)
    report["gallery"] = grow_gallery([as_array(sample) for sample in everyone[2100:2110]], everyone)
    report["fit"] = fit(sets[0].train)
    report["live"] = live(spade_kit.SPADE().fit(sets[0].train), photos)
    report["worst"] = worst()
    report["transformers"] = transform(photos, sets[0].train)
    report["load_after"] = load_of_others()
    report["cpu"] = f"{platform.machine()} {cpu_name()}"
    report["threads"] = torch.get_num_threads()
    names = ("torch", "numba", "numpy", "faiss", "scikit-learn")
    report["versions"] = ", ".join(f"{name} {version(name)}" for name in names)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "speed.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "speed.md").write_text(write(report))
    if report["load_after"] > BUSY:
        sys.exit(
            f"Other processes used {report['load_after']:.0f} % of the cores at the end. "
            "Run it again on an idle machine."
        )
    print(write(report))


def cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def version(name: str) -> str:
    from importlib.metadata import version as installed

    return installed("faiss-cpu" if name == "faiss" else name).split("+")[0]


if __name__ == "__main__":
    main()
