"""Figures that others have published for classes of MVTec AD, and why ours need not agree."""

_HEAD = [
    "| method, backbone | split | image AUC | pixel AUC | AUPRO | source |",
    "| --- | --- | --- | --- | --- | --- |",
]
_SPADE = "SPADE, wide_resnet50_2 | official | | {} | | Cohen & Hoshen, arXiv:2005.02357"
_PADIM = "PaDiM, wide_resnet50_2 | official | | {} | | Defard et al., arXiv:2011.08785"
_PATCHCORE = "PatchCore, wide_resnet50_2 | official | {} | {} | | README of anomalib"
_HERE = "{}, efficientnet_lite0 | these photographs | {} | {} | {} | anomalib 2.7, measured elsewhere"


def _lines(*rows: str) -> list[str]:
    return [*_HEAD, *(f"| {row} |" for row in rows)]


PUBLISHED = {
    "toothbrush": _lines(
        _SPADE.format(0.979),
        _PADIM.format(0.988),
        _PATCHCORE.format(0.933, 0.988),
        _HERE.format("PaDiM", 0.992, 0.987, 0.885),
        _HERE.format("PatchCore 10 %", 0.992, 0.984, 0.806),
    ),
    "hazelnut": _lines(_SPADE.format(0.991), _PADIM.format(0.982), _PATCHCORE.format("1.000", 0.987)),
    "transistor": _lines(_SPADE.format(0.941), _PADIM.format(0.975), _PATCHCORE.format("1.000", 0.981)),
}
WHY_THEY_DIFFER = (
    "Figures of the papers are for the official split and for the paper's much larger network; here it is a small one, "
    "and the photographs are an excerpt or another split. So they say what is usual, not who is better. Areas under "
    "the PRO curve also differ by how they are integrated: ours takes all thresholds and interpolates at 0.3."
)
