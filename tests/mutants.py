"""Plant faults in a copy of the package, one at a time, and check that the tests or a lesson catch each.

``make mutants``: each fault must be caught by its unit tests or by its lesson. ``make mutants ARGS="--only radius"``
selects faults by name; ``--all`` runs the lesson even if the tests have caught the fault.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("spade_kit", "tests", "notebooks", "data", "pyproject.toml")
PATIENCE = 600  # s for one run: a fault may make a loop endless


@dataclass(frozen=True)
class Fault:
    """A change of one line, and the test file and lesson that should notice it."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    lesson: str


FAULTS = [
    Fault(
        "wrong axis in the retrieval",
        "retrieval.py",
        "distance.sort(dim=1",
        "distance.sort(dim=0",
        "retrieval",
        "03_retrieval",
    ),
    Fault(
        "K ignored",
        "options.py",
        "return min(self.k or DEFAULT_K, available)",
        "return available",
        "spade",
        "03_retrieval",
    ),
    Fault(
        "gallery's tail dropped",
        "spade.py",
        "return now.judge(query, np.arange(len(now)))",
        "return now.judge(query, np.arange(len(now) - 1))",
        "spade",
        "03_retrieval",
    ),
    Fault(
        "leave-one-out includes itself",
        "gallery/gallery.py",
        "others = np.flatnonzero(apart)",
        "others = np.arange(len(self))",
        "spade",
        "08_thresholds",
    ),
    Fault(
        "off by one in the radius",
        "search/layout.py",
        "return gap <= radius",
        "return gap < radius",
        "correspondence",
        "04_correspondence",
    ),
    Fault(
        "squared instead of Euclidean distance",
        "correspondence.py",
        "options.root(weighted.sum(0)).mean(0)",
        "weighted.sum(0).mean(0)",
        "correspondence",
        "04_correspondence",
    ),
    Fault(
        "maximum instead of mean over kappa",
        "correspondence.py",
        "options.root(weighted.sum(0)).mean(0)",
        "np.sqrt(weighted.sum(0)).max(0)",
        "correspondence",
        "04_correspondence",
    ),
    Fault(
        "rows and columns swapped",
        "correspondence.py",
        "place // w % h, place % w)",
        "place % w, place // w % h)",
        "correspondence",
        "04_correspondence",
    ),
    Fault(
        "weights multiply the distance twice",
        "correspondence.py",
        "weighted = weights[:, None, None, None].astype(np.float64) * squared",
        "weighted = weights[:, None, None, None].astype(np.float64) ** 2 * squared",
        "correspondence",
        "06_pyramid_layers",
    ),
    Fault(
        "equal weights are the variances",
        "options.py",
        "1 / np.where(spread > 0, spread, 1)",
        "np.where(spread > 0, spread, 1)",
        "correspondence",
        "06_pyramid_layers",
    ),
    Fault(
        "ensemble leaves out a level",
        "correspondence.py",
        "used = np.flatnonzero(weights > 0)",
        "used = np.flatnonzero(weights > 0)[:-1]",
        "correspondence",
        "06_pyramid_layers",
    ),
    Fault(
        "smoothing left out",
        "scores.py",
        'return gaussian_filter(resize(distance, size), sigma, mode="reflect", truncate=4)',
        "return resize(distance, size)",
        "scores",
        "05_from_distances_to_a_map",
    ),
    Fault(
        "shares by distances instead of squares",
        "scores.py",
        "return distance * layer_distance / np.where(whole > 0, whole, 1)",
        "return distance * layer_distance**0.5 / np.where(whole > 0, whole, 1)",
        "scores",
        "05_from_distances_to_a_map",
    ),
    Fault(
        "corners aligned",
        "correspondence.py",
        'mode="bilinear", align_corners=False',
        'mode="bilinear", align_corners=True',
        "scores",
        "05_from_distances_to_a_map",
    ),
    Fault(
        "excess adds the level",
        "scores.py",
        "anomaly_map - level",
        "anomaly_map + level",
        "excess",
        "05_from_distances_to_a_map",
    ),
    Fault(
        "threshold one rank too low",
        "scores.py",
        "ceil(round((count + 1) * (1 - fpr), 9))",
        "ceil(round(count * (1 - fpr), 9)) - 1",
        "scores",
        "08_thresholds",
    ),
    Fault(
        "mask shifted by one",
        "features/crops.py",
        "Image.Resampling.NEAREST).astype(bool)",
        "Image.Resampling.NEAREST).astype(bool)[::-1]",
        "crops",
        "06_pyramid_layers",
    ),
    Fault(
        "mask interpolated",
        "features/crops.py",
        "Image.Resampling.NEAREST).astype(bool)",
        "Image.Resampling.BILINEAR).astype(bool)",
        "crops",
        "05_from_distances_to_a_map",
    ),
    Fault(
        "crop off by a pixel",
        "features/crops.py",
        "scaled[top : top + rows, left : left + columns]",
        "scaled[top + 1 : top + rows + 1, left : left + columns]",
        "crops",
        "02_features",
    ),
    Fault(
        "layer order swapped",
        "features/pyramid.py",
        "return Pyramid([level.contiguous() for level in levels], backbone.layers, pooled)",
        "return Pyramid([level.contiguous() for level in levels], backbone.layers[::-1], pooled)",
        "features",
        "02_features",
    ),
    Fault(
        "mean of the preprocessing forgotten",
        "features/backbones.py",
        "return self._run((x - mean) / std)",
        "return self._run(x / std)",
        "backbones",
        "02_features",
    ),
    Fault(
        "PRO cut before its limit",
        "evaluation/metrics.py",
        "return float(auc(np.append(x[inside], limit), np.append(y[inside], edge)) / limit)",
        "return float(auc(x[inside], y[inside]) / limit)",
        "metrics",
        "09_metrics",
    ),
    Fault(
        "PRO over pixels instead of regions",
        "evaluation/metrics.py",
        "weight[mask] = 1 / sizes[labels[mask]]",
        "weight[mask] = regions[image] / mask.sum()",
        "metrics",
        "09_metrics",
    ),
    Fault(
        "segmentation excludes the threshold itself",
        "result.py",
        "return self.judged_map >= check_threshold(threshold)",
        "return self.judged_map > check_threshold(threshold)",
        "spade",
        "08_thresholds",
    ),
    Fault(
        "the wrong image is removed",
        "spade.py",
        "kept = np.array([at for at in range(len(self)) if at not in gone], np.int64)",
        "kept = np.array([at for at in range(len(self)) if at + 1 not in gone], np.int64)",
        "corrections",
        "07_explorer",
    ),
    Fault(
        "another percentile for the reference level",
        "gallery/calibration.py",
        "float(np.percentile(take_inside(np.asarray(maps)), 99))",
        "float(np.percentile(take_inside(np.asarray(maps)), 95))",
        "spade",
        "00_quickstart",
    ),
    Fault(
        "pictures of normal images shifted by one",
        "gallery/checkpoint.py",
        'shard["jpeg_ends"].tolist()[:-1]',
        'shard["jpeg_ends"].tolist()[1:]',
        "checkpoint",
        "07_explorer",
    ),
    Fault(
        "excluded neighbours come back",
        "widgets/_shared/caches.py",
        "np.setdiff1d(result.among, request.without)",
        "result.among",
        "explorer",
        "07_explorer",
    ),
    Fault(
        "matches under other options reused",
        "result.py",
        "return same and own.of_search(count) == options.of_search(count)",
        "return same",
        "search",
        "06_pyramid_layers",
    ),
    Fault(
        "brute force with a shifted window",
        "search/brute_force.py",
        "window[0][row][:, None] & window[1][:, None, :]",
        "np.roll(window[0][row], 1)[:, None] & window[1][:, None, :]",
        "search",
        "04_correspondence",
    ),
    Fault(
        "bootstrap of one kind only",
        "evaluation/bootstrap.py",
        "for group in groups])",
        "for group in groups[:1]])",
        "reports",
        "09_metrics",
    ),
    Fault(
        "reports compared on different draws",
        "evaluation/report.py",
        "after(drawn) - before(drawn)",
        "after(drawn) - before(drawn[::-1])",
        "reports",
        "12_hand_it_on",
    ),
]


def run(command: tuple[str, ...], folder: Path) -> tuple[bool, float]:
    """Whether a command fails or times out, and how long it took."""
    environment = os.environ | {"PYTHONPATH": str(folder), "TQDM_DISABLE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    start = time.monotonic()
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=PATIENCE)
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        failed = True
    return failed, time.monotonic() - start


def check_copy(folder: Path) -> None:
    """Check that the copy is what runs; otherwise no fault, or every fault, would be caught."""
    code = "import spade_kit, pathlib; print(pathlib.Path(spade_kit.__file__).parents[1].resolve())"
    environment = os.environ | {"PYTHONPATH": str(folder)}
    told = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert told.stdout.strip() == str(folder.resolve()), told.stdout + told.stderr


@contextmanager
def planted(fault: Fault, folder: Path) -> Iterator[None]:
    """Plant a fault in the copy, and restore it."""
    path = folder / "spade_kit" / fault.file
    before = path.read_text(encoding="utf-8")
    if (count := before.count(fault.old)) != 1:
        raise ValueError(f"{fault.name}: {fault.old!r} must occur once in {fault.file}; got {count} times.")
    write(path, before.replace(fault.old, fault.new))
    yield
    write(path, before)


def write(path: Path, text: str) -> None:
    """Write a module and delete its compiled kernels."""
    path.write_text(text, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob("*.nb?"):
        compiled.unlink()


@cache
def passes(command: tuple[str, ...], folder: Path) -> bool:
    return not run(command, folder)[0]


def catches(command: tuple[str, ...], fault: Fault, folder: Path) -> tuple[bool, float]:
    """Whether a run fails for a fault, and how long it took."""
    if not passes(command, folder):
        raise RuntimeError(f"{' '.join(command)} fails without any fault, so it cannot catch one.")
    with planted(fault, folder):
        return run(command, folder)


def tests_of(name: str) -> tuple[str, ...]:
    return sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/test_{name}.py"


def lesson_of(name: str) -> tuple[str, ...]:
    flags = ("--nbval", "--nbval-current-env", "--nbval-sanitize-with=tests/nbval.cfg", "-p", "no:cacheprovider")
    return sys.executable, "-m", "pytest", "-x", "-q", *flags, f"notebooks/{name}.ipynb"


def main(only: str, both: bool) -> int:
    faults = [fault for fault in FAULTS if only in fault.name]
    survivors = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        folder.mkdir()
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        check_copy(folder)
        for number, fault in enumerate(faults, 1):
            by_tests, seconds = catches(tests_of(fault.tests), fault, folder)
            ask_lesson = both or not by_tests
            by_lesson, more = catches(lesson_of(fault.lesson), fault, folder) if ask_lesson else (False, 0.0)
            caught = [f"tests/test_{fault.tests}.py"] * by_tests + [f"lesson {fault.lesson}"] * by_lesson
            print(f"{number:2}/{len(faults)} {fault.name:40} {' and '.join(caught) or 'NOT CAUGHT'}  "
                  f"({seconds + more:.0f} s)", flush=True)  # fmt: skip
            survivors += [] if caught else [fault.name]
    print(f"{len(faults) - len(survivors)} of {len(faults)} caught." + "".join(f"\nNot caught: {n}" for n in survivors))
    return len(survivors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    sys.exit(main(given.only, given.all))
