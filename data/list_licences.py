"""List the licences of the packages that spade_kit needs: ``python data/list_licences.py THIRD_PARTY.md``."""

import argparse
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

_TOP = """# Packages that are installed beside spade_kit

None of them is part of this repository or its wheel. The list is what `pip install "spade_kit[all]"` installs on Linux,
with the licence that each package's own metadata or licence file names. Packages whose names begin with nvidia or cuda,
and triton, come with PyTorch's CUDA build only. For weights and data see [NOTICE](NOTICE).

| package | version | licence |
|---|---|---|
"""


def needed(name: str, extra: str) -> set[str]:
    """The names of the installed distributions that one with an extra needs, directly or not, itself included."""
    todo, seen = [(name, ""), (name, extra)], set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) not in seen:
            seen.add((name, extra))
            for asked in map(Requirement, distribution(name).requires or []):
                if asked.marker is None or asked.marker.evaluate({"extra": extra}):
                    todo += [(asked.name, of) for of in ("", *asked.extras)]
    return {distribution(name).name for name, _ in seen}


def find_licence(package: Distribution) -> str:
    """The licence by an expression, a name of one line, classifiers, or the title of the licence file."""
    metadata = package.metadata
    name = metadata.get("License", "").strip()
    classifiers = [line.split(" :: ")[-1] for line in metadata.get_all("Classifier", []) if line.startswith("License")]
    known = "" if "\n" in name or name == "UNKNOWN" else name
    title = (package.read_text("LICENSE") or "").strip().partition("\n")[0]
    return metadata.get("License-Expression") or known or ", ".join(classifiers) or title or "not named"


def write_list(path: Path) -> None:
    packages = sorted(map(distribution, needed("spade_kit", "all") - {"spade_kit"}), key=lambda one: one.name.lower())
    rows = [f"| {package.name} | {package.version} | {find_licence(package)} |\n" for package in packages]
    path.write_text(_TOP + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    write_list(parser.parse_args().path)
