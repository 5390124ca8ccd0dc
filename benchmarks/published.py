"""Published results for classes of MVTec AD, and why ours may differ."""

_HEAD = [
    "| method, backbone | split | image AUC | pixel AUC | AUPRO | source |",
    "| --- | --- | --- | --- | --- | --- |",
]
_SPADE = "SPADE, wide_resnet50_2 | official | | {} | | Cohen & Hoshen, arXiv:2005.02357"
_PADIM = "PaDiM, wide_resnet50_2 | official | | {} | | Defard et al., arXiv:2011.08785"
_PATCHCORE = "PatchCore, wide_resnet50_2 | official | {} | {} | | README of anomalib"
_HERE = "{}, efficientnet_lite0 | these images | {} | {} | {} | anomalib 2.7, measured elsewhere"


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
    "The published results use the official split and a much larger network; ours use a small network, and a subset of "
    "the images or another split. They show the usual range, not which method is better. AUPRO also depends on "
    "how it is integrated: our code uses all thresholds and interpolates at 0.3."
)
