"""What a release says of itself in several files is the same in all of them."""

import re
from pathlib import Path

import pytest
import yaml

import spade_kit

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_one_version():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == citation["version"] == spade_kit.__version__


def test_one_summary_of_who_and_under_what_licence():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (author,) = citation["authors"]
    assert f'authors = [{{ name = "{author["name"]}" }}]' in project
    assert f'license = "{citation["license"]}"' in project
    assert f"Copyright 2026 {author['name']}" in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_every_python_that_is_named_is_tested():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = set(re.findall(r"Python :: (3\.\d+)", project))
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["quick"]["strategy"]["matrix"]
    assert named <= {*matrix["python"], *(one["python"] for one in matrix["include"])}
    assert f'requires-python = ">={min(named, key=lambda version: int(version[2:]))}"' in project


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / ".pre-commit-config.yaml"], ids=lambda path: path.name)
def test_every_target_that_is_called_exists(path):
    targets = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    text = path.read_text(encoding="utf-8")
    assert yaml.safe_load(text)
    assert set(re.findall(r": make ([\w-]+)$", text, re.MULTILINE)) <= set(" ".join(targets).split())
