"""Repeat the paper's ablations, of the pyramid's levels and of K, on the data here: `make paper DATA="demo path"`.

Writes results/paper.md. What the paper published stands beside it, marked as such.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas
from published import BESIDE_THE_PAPER

import spade_kit

RESULT = Path(__file__).parent / "results" / "paper.md"
LEVELS = [("layer3",), ("layer2",), ("layer1",), ("layer2", "layer3"), ("layer1", "layer2"), None]
COUNTS = [1, 3, 5, 10, 20, 50]
METRICS = {"retrieval_roc_auc": "image AUC", "pixel_roc_auc": "pixel AUC", "aupro": "AUPRO"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", default=["demo"])
    parts = [spade_kit.load_dataset(Path(name) if Path(name).is_dir() else name) for name in parser.parse_args().data]
    text = [BESIDE_THE_PAPER]
    for title, option, values in (("Levels of the pyramid", "layers", LEVELS), ("K", "k", COUNTS)):
        text.append(f"## {title}")
        for dataset in parts:
            some = [value for value in values if option != "k" or value <= len(dataset.train)]
            table = spade_kit.sweep(dataset, {option: some}, metrics=[*METRICS], intervals=True)
            text += [f"{dataset.name}, {len(dataset.train)} normal images:", format_table(table, option)]
    RESULT.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def format_table(table: pandas.DataFrame, option: str) -> str:
    lines = [f"| {option} | {' | '.join(METRICS.values())} |", "| --- " * (1 + len(METRICS)) + "|"]
    for _, row in table.iterrows():
        cells = [f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]" for name in METRICS]
        lines.append(f"| {describe(row[option])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def describe(value: object) -> str:
    return "all levels" if value is None else " + ".join(value) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    main()
