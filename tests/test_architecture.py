"""The house: imports flow one way, and importing costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spade_kit

PACKAGE = Path(spade_kit.__file__).parent
FLOORS = [  # a module may import from floors below its own
    {
        "_arguments",
        "features.crops",
        "figures.style",
        "evaluation.metrics",
        "_progress",
        "_files",
        "features.folding",
        "search.layout",
    },
    {
        "datasets.images",
        "evaluation.bootstrap",
        "features.backbones",
        "datasets.synthetic",
        "search.simd",
        "search.runtime",
    },
    {"backbones", "metrics", "datasets.samples", "evaluation.operating_point"},
    {"features.pyramid", "datasets.layouts"},
    {"datasets.loading"},
    {"retrieval", "search.branch_and_bound", "search.projection", "search.brute_force"},
    {"search.dispatch"},
    {"correspondence"},
    {"scores"},
    {"evaluation.threshold_study", "batch", "gallery.gallery", "result", "evaluation.map_store"},
    {"evaluation.report", "gallery.checkpoint"},
    {"spade"},
    {"evaluation.evaluate"},
    {"figures.results", "evaluation.sweep", "evaluation.views"},
    {"figures.reports"},
    {
        "widgets._shared.encoding",
        "widgets._shared.checks",
        "widgets._shared.export",
        "widgets._shared.scheduler",
        "widgets._shared.preview",
        "widgets._shared.normals",
    },
    {"widgets._shared.images", "widgets._shared.edits", "widgets._shared.base"},
    {"widgets._shared.sight"},
    {"widgets._shared.scored"},
    {"lessons.checking", "lessons.material"},
    {
        f"lessons.{path.stem}"
        for path in (PACKAGE / "lessons").glob("*.py")
        if path.stem not in ("__init__", "checking", "material")
    },
    {f"widgets.{widget}" for widget in ("chooser", "comparison", "explorer", "painting", "review")},
]
FLOOR = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}


def imports_of(module: str) -> set[str]:
    """Modules of the package that a module imports when it runs, types alone not counted."""
    tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and id(node) not in typing_only]
    named = {f"{node.module}.{alias.name}" for node in froms for alias in node.names} | {node.module for node in froms}
    return {name.removeprefix("spade_kit.") for name in named if name.removeprefix("spade_kit.") in FLOOR}


def test_every_module_has_its_floor():
    paths = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    assert {".".join(path.parts) for path in paths} == set(FLOOR)


@pytest.mark.parametrize("module", sorted(FLOOR))
def test_imports_flow_one_way(module):
    assert all(FLOOR[other] < FLOOR[module] for other in imports_of(module))


def test_figures_know_results_only_by_name():
    assert imports_of("figures.results") == {"_arguments", "figures.style"}


def test_the_metrics_stand_on_the_ground():
    assert (
        imports_of("demo")
        == imports_of("evaluation.metrics")
        == imports_of("features.crops")
        == imports_of("figures.style")
        == set()
    )


def test_importing_the_package_takes_no_heavy_library_with_it():
    heavy = {"torch", "matplotlib", "ipywidgets", "numba", "timm", "scipy", "sklearn", "pandas", "anywidget"}
    script = f"import sys, spade_kit; dir(spade_kit); print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_is_found_on_first_use():
    for name in spade_kit.__all__:
        assert getattr(spade_kit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'SPADES'"):
        spade_kit.SPADES  # noqa: B018
