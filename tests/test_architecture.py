"""The architecture: imports flow one way, private parts stay private, and importing costs nothing."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from mutants import FAULTS

import spade_kit

PACKAGE = Path(spade_kit.__file__).parent
ROOMS = {  # from the ground up: a module may import modules listed before it, in its own room or an earlier one
    "helpers": "_arguments _work _files options",
    "datasets": "datasets.naming datasets.decoding datasets.images datasets.drawn datasets.pairing datasets.tables "
    "datasets.roi datasets.samples datasets.layouts datasets.loading datasets.synthetic",
    "metrics": "evaluation.metrics metrics evaluation.bootstrap",
    "search": "search.layout search.simd search.runtime search.branch_and_bound search.projection search.brute_force "
    "search.shared_grid search.dispatch",
    "features": "features.crops features.folding features.transformers features.levels features.weights "
    "features.downloads features.sources features.backbones backbones features.pyramid",
    "stages": "retrieval correspondence scores evaluation.regions",
    "gallery": "gallery.gallery gallery.place_level gallery.placement gallery.calibration gallery.recommendation "
    "gallery.checkpoint gallery.fitting",
    "result": "result",
    "batch": "evaluation.page batch",
    "spade": "spade",
    "evaluation": "evaluation.operating_point evaluation.threshold_study evaluation.views evaluation.map_store "
    "evaluation.advice evaluation.report evaluation.evaluate evaluation.sweep",
    "figures": "figures.style figures.results figures.curves figures.reports figures.stages",
    "widgets": "widgets._shared.scheduler widgets._shared.export widgets._shared.encoding "
    "widgets._shared.base widgets._shared.images widgets._shared.caches widgets._shared.edits "
    "widgets.explorer widgets.comparison widgets.chooser widgets.painting widgets.review widgets.atlas "
    "widgets.stages",
    "lessons": "lessons.checking lessons.material lessons.quickstart lessons.nearest_neighbours lessons.features "
    "lessons.retrieval lessons.correspondence lessons.from_distances_to_a_map lessons.pyramid_layers lessons.explorer "
    "lessons.thresholds lessons.metrics lessons.when_it_fails lessons.how_it_is_fast lessons.hand_it_on "
    "lessons.capstone",
    "shell": "shell",
    "reference": "reference",
}
ROOM = {module: room for room, modules in ROOMS.items() for module in modules.split()}
PLACE = {module: place for place, module in enumerate(ROOM)}


def path_of(module: str) -> Path:
    return PACKAGE / f"{module.replace('.', '/')}.py"


@cache
def imports_of(module: str) -> set[str]:
    """Modules of the package that a module imports, including those imported only for types."""
    imports = [node for node in ast.walk(ast.parse(path_of(module).read_text())) if isinstance(node, ast.ImportFrom)]
    named = {node.module for node in imports} | {
        f"{node.module}.{alias.name}" for node in imports for alias in node.names
    }
    return {name.removeprefix("spade_kit.") for name in named} & set(ROOM)


def test_every_module_has_its_place():
    paths = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    assert sorted(".".join(path.parts) for path in paths) == sorted(ROOM)


@pytest.mark.parametrize("module", ROOM)
def test_imports_flow_one_way(module):
    assert [other for other in imports_of(module) if PLACE[other] >= PLACE[module]] == []


def test_modules_are_imported_by_their_own_names():
    """Not through a package or an alias for users, so that each import is an arrow between two modules."""
    for module in ROOM:
        for node in ast.walk(ast.parse(path_of(module).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spade_kit"):
                assert node.level == 0
                source = node.module.removeprefix("spade_kit").removeprefix(".")
                assert source not in ("metrics", "backbones")
                names = {f"{source}.{alias.name}".removeprefix(".") for alias in node.names}
                assert source in ROOM or source == "lessons.checking" or names <= set(ROOM), module


def test_the_architecture_diagram_matches_the_imports():
    """One arrow from each room to every room that it imports, except those reached through other arrows."""
    uses = {
        room: {ROOM[other] for module in ROOMS[room].split() for other in imports_of(module)} - {room} for room in ROOMS
    }

    def below(room: str) -> set[str]:
        return uses[room].union(*(below(other) for other in uses[room]))

    arrows = {(room, other) for room in ROOMS for other in uses[room] - set().union(*map(below, uses[room]))}
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    assert set(re.findall(r"(\w+) --> (\w+)", picture)) == arrows
    assert set(re.findall(r"^ *(\w+)\[", picture, re.MULTILINE)) == set(ROOMS)


def own_names(tree: ast.Module) -> set[str]:
    """The names that a module defines, or sets on its own objects."""
    defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    fields = {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    set_ = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_own(node)}
    return defined | fields | set_


def is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


@pytest.mark.parametrize("module", ROOM)
def test_no_module_touches_private_parts_of_another(module):
    tree = ast.parse(path_of(module).read_text(encoding="utf-8"))
    private = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr) and not is_own(node)
        if node.attr not in own_names(tree)
    ]
    assert private == []


def test_no_module_imports_private_names_of_another():
    for module in ROOM:
        for node in ast.walk(ast.parse(path_of(module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spade_kit"):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], module


def test_the_top_folder_has_few_entries():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "py.typed", "__init__.pyi", "data"}
    assert len(entries) <= 23, sorted(entries)


def test_importing_the_package_imports_no_heavy_library():
    heavy = {"torch", "matplotlib", "ipywidgets", "numba", "timm", "scipy", "sklearn", "pandas", "anywidget"}
    script = f"import sys, spade_kit; dir(spade_kit); print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(("before", "told"), [("enable", "True 1"), ("disable", "False 0")])
def test_garbage_is_collected_once_when_all_is_imported(before, told):
    script = (
        f"import gc, spade_kit; gc.{before}(); count = lambda: gc.get_stats()[2]['collections']; earlier = count(); "
        "spade_kit.SPADE, spade_kit.SPADE; print(gc.isenabled(), count() - earlier)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == told


def test_datasets_are_read_without_torch():
    script = "import sys; from spade_kit import load_dataset; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "False\n"
    )


def test_every_public_name_is_found_on_first_use():
    for name in spade_kit.__all__:
        assert getattr(spade_kit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'SPADES'"):
        spade_kit.SPADES  # noqa: B018


def test_editors_and_type_checkers_are_told_the_same_names():
    imports = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body[1:-1]
    told = {alias.asname: getattr(import_module(node.module), alias.name) for node in imports for alias in node.names}
    assert told.keys() == {*spade_kit.__all__, *spade_kit._MODULES}
    assert all(told[name] is getattr(spade_kit, name) for name in told)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["backbones", "correspondence", "datasets", "features", "figures", "metrics",
                                    "retrieval", "scores"])  # fmt: skip
def test_modules_keep_the_names_that_users_know(module):
    script = f"import spade_kit; one = spade_kit.{module}; import spade_kit.{module} as other; print(one is other)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_faults_still_fit_the_code(fault):
    """`make mutants` takes twenty minutes; this takes none."""
    assert (PACKAGE / fault.file).read_text(encoding="utf-8").count(fault.old) == 1
    assert (Path(__file__).parent / f"test_{fault.tests}.py").is_file()
    assert (PACKAGE.parent / f"notebooks/{fault.lesson}.ipynb").is_file()
