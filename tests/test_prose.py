"""Sentences that people read: plain English, in the field's words. `words.txt` and codespell hold the single words."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/howto/*.md",
        "notebooks/*.md",
        "notebooks/*.ipynb",
        "spade_kit/**/*.py",
        "spade_kit/**/*.js",
        "tests/*.py",
    )
    for path in ROOT.glob(pattern)
    if path != Path(__file__)
)
AVOIDED = {  # pattern: what to write
    r"\bbut\b[^.;\"]{0,120}\bcame\b": "…; got X",
    r"\b(was|were) given and\b": "…; got X",
    r"\bterms of art\b": "technical terms",
    r"\ball that a hand\b": "everything you can do with the mouse",
    r"\bwithout a word\b": "silently",
    r"\bhow sure (it|that|a|one)\b": "its uncertainty, its confidence interval",
    r"\bthe part of (the )?(normals|normal (images|photos|pixels))\b": "the fraction of",
    r"\bsays? (of|so) (much|many)\b": "gives the number of",
    r"\bof (one's|its|their) own accord\b": "by itself",
    r"\ba photo(graph)? after the other\b": "one image after another",
    r"\bis not known, so that\b": "unknown, so",
    r"\bwhat speaks for\b": "justification, evidence for",
}


def sentences(path: Path) -> str:
    """The text of a file; of a notebook its cells, not their outputs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return re.sub(r"\"?\n\s*(#|//|\*)?\s*(f?\")?", " ", text)  # a sentence may go over several lines


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_sentences_are_plain(path):
    text = sentences(path)
    found = [(match[0], plain) for avoided, plain in AVOIDED.items() for match in re.finditer(avoided, text, re.I)]
    assert found == []


def test_words_are_spelled_right_and_are_ours():
    """Of notebooks only the cells are read, since their outputs hold pictures; then all other files."""
    cells = "\n".join(sentences(path) for path in TEXTS if path.suffix == ".ipynb")
    codespell = [sys.executable, "-m", "codespell_lib"]
    for checked, given in ((["-"], cells), ([], None)):
        run = subprocess.run([*codespell, *checked], input=given, capture_output=True, text=True, cwd=ROOT)
        assert run.stdout == ""
        assert run.returncode == 0, run.stderr
