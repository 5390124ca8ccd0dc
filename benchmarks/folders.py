"""Measure how fast folders are judged, by one process and by several, and what many normals cost: `make bench-folders`.

Writes results/folders.json and results/folders.md. Ratios are of one run; on a busy machine nothing is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psutil

import spade_kit  # before torch, as users import it: it keeps torch's idle threads from spinning

# isort: split
import numpy as np
import torch
from PIL import Image

from spade_kit._work import CHUNK, crew, hand_out
from spade_kit.gallery.checkpoint import publish, unfinished, write_shard
from spade_kit.gallery.gallery import Normal
from spade_kit.retrieval import find_nearest_of_many

RESULTS = Path(__file__).parent / "results"
NETWORKS = ["efficientnet_lite0", "wide_resnet50_2", "vit_base_patch14_dinov2"]
BUSY = 20  # per cent of all cores
ONE_THREAD = """
import sys, time
import spade_kit, torch
torch.set_num_threads(1)
spade = spade_kit.SPADE.load(sys.argv[1])
spade.predict(sys.argv[4])
start = time.perf_counter()
spade.predict_folder(sys.argv[2], sys.argv[3], maps=False)
print(time.perf_counter() - start, file=sys.stderr)
"""


def seconds(call: Callable, *given: Any, **options: Any) -> float:
    start = time.perf_counter()
    call(*given, **options)
    return time.perf_counter() - start


def median(times: int, call: Callable, *given: Any) -> float:
    """Milliseconds."""
    return 1e3 * float(np.median([seconds(call, *given) for _ in range(times)]))


def make_photos(folder: Path, count: int) -> list[Path]:
    """The demo's test images, each a little different, so that none is a copy."""
    folder.mkdir()
    photos = []
    for at, sample in enumerate(islice(cycle(spade_kit.load_dataset("demo").test), count)):
        pixels = sample.image.copy()
        pixels[at % 200, at // 200 % 200] ^= 1
        photos.append(folder / f"{at:06d}.png")
        Image.fromarray(pixels).save(photos[-1])
    return photos


def judge(spade: spade_kit.SPADE, photos: Sequence[Path], folder: Path, out: Path) -> dict[str, float]:
    """Milliseconds an image of `predict_folder` without and with maps, and of `predict`, twice in turn."""
    times: dict[str, list[float]] = {"predict": [], "predict_folder, no maps": [], "predict_folder": []}
    for turn in range(2):
        times["predict"].append(seconds(lambda: [spade.predict(photo).image_score for photo in photos]))
        for name, maps in {"predict_folder, no maps": False, "predict_folder": True}.items():
            place = out / f"{maps}{turn}"
            times[name].append(seconds(spade.predict_folder, folder, place, maps=maps))
    return {name: 1e3 * min(some) / len(photos) for name, some in times.items()}


def share(gallery: Path, photos: Sequence[Path], folder: Path, out: Path) -> dict[str, float]:
    """Seconds of one process held to one thread, of two workers, and of the workers' start; cost of handing out."""
    call = [sys.executable, "-c", ONE_THREAD, *map(str, (gallery, folder, out / "one", photos[0]))]
    alone = float(subprocess.run(call, check=True, capture_output=True, text=True).stderr.splitlines()[-1])
    spade = spade_kit.SPADE.load(gallery)
    start = time.perf_counter()
    with crew(2) as client:
        began = time.perf_counter() - start
        few = folder.parent / "few"
        few.mkdir()
        for photo in photos[: 2 * CHUNK]:
            shutil.copy(photo, few)
        first = seconds(spade.predict_folder, few, out / "few", maps=False, client=client)
        two = seconds(spade.predict_folder, folder, out / "two", maps=False, client=client)
        items = list(range(100 * CHUNK))
        idle = seconds(lambda: list(hand_out(client, list, items)))
    return {
        "one process, one thread": alone,
        "two workers": two,
        "ratio": alone / two,
        "start of two workers": began,
        "first two chunks, with loading": first,
        "handing out, ms an image": 1e3 * idle / len(items),
    }


def pace(photos: Sequence[Path], folder: Path, out: Path) -> list[dict[str, Any]]:
    """Images a second of `predict_folder`, by network and device: the default, the paper's, a vision transformer."""
    rows = []
    for name in NETWORKS:
        row: dict[str, Any] = {"network": name}
        for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
            network = spade_kit.load_backbone(name, pretrained=name == NETWORKS[0], device=device)
            spade = spade_kit.SPADE(network).fit(spade_kit.load_dataset("demo").train[:50])
            spade.predict(photos[0]), spade.threshold(of="image"), spade.threshold()
            took = seconds(spade.predict_folder, folder, out / f"{name} {device}", maps=False)
            row[torch.cuda.get_device_name() if device == "cuda" else "CPU"] = len(photos) / took
        rows.append(row)
    return rows


def grow(spade: spade_kit.SPADE, folder: Path, photos: int, out: Path) -> dict[str, float]:
    """The most memory that this process held, in MB, over a tenth of the images and over all."""
    some = folder.parent / "tenth"
    some.mkdir()
    for photo in sorted(folder.iterdir())[: photos // 10]:
        shutil.copy(photo, some)
    found = {}
    for name, images in {"a tenth": some, "all": folder}.items():
        spade.predict_folder(images, out / name, maps=False)
        found[name] = psutil.Process().memory_info().rss / 2**20
    return found


def many_normals(counts: Sequence[int], out: Path) -> list[dict[str, Any]]:
    """Load and judge with galleries of made-up features of the right shapes."""
    small = spade_kit.SPADE().fit(spade_kit.load_dataset("demo").train[:48])
    photo = spade_kit.load_dataset("demo").test[20].path
    rows = []
    for count in counts:
        place = out / f"normals{count}"
        fitted = seconds(make_gallery, small, count, place)
        before = own_memory()
        start = time.perf_counter()
        spade = spade_kit.SPADE.load(place)
        loaded = time.perf_counter() - start
        spade.predict(photo)
        predicted = median(9, spade.predict, photo)
        rows.append(
            {
                "normals": count,
                "written": fitted,
                "load": loaded,
                "predict, ms": predicted,
                "features, GB": spade.gallery.nbytes / 2**30,
                "memory without them, GB": (own_memory() - before) / 2**30,
            }
        )
        del spade
        shutil.rmtree(place)
    return rows


def own_memory() -> int:
    """Bytes of this process that are no pages of files."""
    told = psutil.Process().memory_info()
    return told.rss - told.shared


def make_gallery(small: spade_kit.SPADE, count: int, place: Path) -> None:
    """Shards of the features of a small fit with noise, and pooled vectors of their own."""
    numbers, shards, gallery = np.random.default_rng(0), [], small.gallery
    with unfinished(place, ".unfinished") as new:
        for start in range(0, count, 240):
            images = np.arange(min(240, count - start)) % len(small)
            part = gallery.take(images)
            pooled = part.pooled + torch.from_numpy(numbers.normal(0, 0.05, part.pooled.shape).astype(np.float32))
            normals = tuple(rename(one, start + at) for at, one in enumerate(part.normals))
            shards.append(write_shard(new, replace(part, normals=normals, pooled=pooled)))
        publish(place, shards, small.backbone, small.options, [])


def rename(normal: Normal, number: int) -> Normal:
    return replace(normal, digest=number.to_bytes(16, "big"), sample=None)


def retrieve(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Retrieval among so many pooled vectors, against one product of NumPy over the same bytes."""
    rows = []
    for count in counts:
        vectors = torch.rand(count, 320)
        query, lengths = torch.rand(1, 320), (vectors * vectors).sum(1).numpy()
        ours = median(11, find_nearest_of_many, query, vectors, lengths, 50)
        product = median(11, np.dot, vectors.numpy(), query.numpy()[0])
        rows.append({"normals": count, "retrieval, ms": ours, "product, ms": product, "ratio": ours / product})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--normals", type=int, nargs="*", default=[1_000, 10_000])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    if (busy := psutil.cpu_percent(2)) > BUSY:
        sys.exit(
            f"Other processes use {busy:.0f} % of the cores: the ratios would be meaningless. Wait until it is idle."
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        photos = make_photos(out / "photos", given.photos)
        spade = spade_kit.SPADE().fit(spade_kit.load_dataset("demo").train)
        spade.save(out / "gallery")
        report = {
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "photos": given.photos,
            "one process": judge(spade, photos[:200], make_part(photos[:200], out), out / "a"),
            "two workers": share(out / "gallery", photos, out / "photos", out / "b"),
            "memory": grow(spade, out / "photos", given.photos, out / "c"),
            "networks": pace(photos[:200], out / "part", out / "d"),
            "retrieval": retrieve([10_000, 100_000, 1_000_000]),
            "many normals": many_normals(given.normals, out),
        }
    (RESULTS / "folders.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "folders.md").write_text(describe(report))
    print(describe(report))


def make_part(photos: Sequence[Path], out: Path) -> Path:
    part = out / "part"
    part.mkdir()
    for photo in photos:
        shutil.copy(photo, part)
    return part


def describe(report: dict[str, Any]) -> str:
    def table(rows: Sequence[dict[str, Any]]) -> list[str]:
        head = list(rows[0])
        cells = [
            [
                cell if isinstance(cell, str) else f"{cell:,.3g}" if isinstance(cell, float) else f"{cell:,}"
                for cell in row.values()
            ]
            for row in rows
        ]
        lines = map(" | ".join, cells)
        return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {line} |" for line in lines), ""]

    return "\n".join(
        [
            "# Folders",
            "",
            f"{report['machine']}; {report['photos']} images of 320 px, 60 normal images, the default settings.",
            "",
            "Milliseconds an image, from the file to the row, of two turns the faster:",
            "",
            *table([report["one process"]]),
            "Seconds for all images, without maps, unless it says otherwise:",
            "",
            *table([report["two workers"]]),
            "Memory of the process in MB, after a tenth of the images and after all:",
            "",
            *table([report["memory"]]),
            "Images a second by network and device, K = 50; the larger networks with random weights:",
            "",
            *table(report["networks"]),
            "## Many normals",
            "",
            "Retrieval of 50 neighbours by vectors of 320 numbers, and one product by NumPy over the same bytes:",
            "",
            *table(report["retrieval"]),
            "Galleries of made-up features; seconds, unless it says otherwise:",
            "",
            *table(report["many normals"]),
        ]
    )


if __name__ == "__main__":
    main()
