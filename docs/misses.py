"""What SPADE overlooks in the demo, and pages of the explorer: judged, drawn and saved when the pages are built."""

from __future__ import annotations

from typing import Any

from lessons import DOCS, PAGES, save, write
from matplotlib import pyplot

import spade_kit


def setup(app: Any) -> None:
    app.connect("env-before-read-docs", lambda app, env, names: write_misses() if "misses" in names else None)


def write_misses() -> None:
    """Describe and draw each defective part that scores as good, and save an explorer of them as a page."""
    parts = spade_kit.load_dataset("demo")
    spade = spade_kit.SPADE().fit(parts.train)
    threshold = spade.threshold(fpr=0.05, of="image")
    better = spade_kit.SPADE.recommended().fit(parts.train)
    limit = better.threshold(fpr=0.05, of="image")
    results = [spade.predict(sample) for sample in parts.test]
    missed = [at for at, one in enumerate(results) if parts.test[at].label != "good" and one.image_score < threshold]
    lines = []
    for at in missed:
        sample, result = parts.test[at], results[at]
        name = f"{sample.label}-{sample.path.stem}"
        picture = DOCS / "_made" / "pictures" / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure = spade_kit.draw_result(result, spade.threshold(fpr=0.01))
        figure.savefig(picture, dpi=90, bbox_inches="tight")
        pyplot.close(figure)
        found = (result.segmentation(spade.threshold(fpr=0.01)) & result.mask).sum() / result.mask.sum()
        kind = sample.label.replace("_", " ")
        lines += [
            f"### {sample.label}/{sample.path.stem}",
            f"![A part with the defect {kind}, outlined in the third picture, and its anomaly map, in which the defect "
            f"hardly stands out](/_made/pictures/{name}.png)",
            f"Score {result.image_score:.1f}, threshold {threshold:.1f}; {100 * found:.0f} % of the defect is marked. "
            f"`SPADE.recommended()` {'finds' if better.predict(sample).image_score >= limit else 'misses'} it.",
        ]
    write(DOCS / "_made" / "misses.md", "\n\n".join(lines))
    kinds = {sample.label: at for at, sample in reversed(list(enumerate(parts.test)))}
    explorer = spade_kit.explore(spade, parts)
    for name, shown in (("explorer", [kinds.pop("thread"), *kinds.values()]), ("misses", missed)):
        explorer.index = shown[0]
        save(explorer, PAGES / f"{name}.page.html", shown)
    save(spade_kit.show_stages(spade, parts.test[37]), PAGES / "stages.page.html")  # the thread of README's picture
