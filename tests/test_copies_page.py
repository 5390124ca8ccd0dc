"""Copies of widgets: in the same state, and independent, in Python and in a notebook."""

import numpy as np
import pytest
from browsing import Shown

import spade_kit

CELLS = (
    """
import spade_kit
explorer = spade_kit.explore(spade_kit.SPADE.load("fitted"), spade_kit.load_dataset("demo").test[:4])
explorer.index, explorer.probe = 2, (60, 70)
""",
    "explorer",
    "closer = explorer.copy()\ncloser.k, closer.probe = 2, (100, 61)\ncloser",
)
MORE = {
    **{"explorer": ("k", 2), "comparison": ("scale", "own"), "chooser": ("of", "image")},
    "atlas": ("projection", "pca"),
}


@pytest.fixture
def widgets(spade, demo, tmp_path):
    """All widgets, each in a state that its constructor does not give it."""
    photos = demo.test[::12]
    explorer, comparison = spade_kit.explore(spade, iter(photos)), spade_kit.compare_layers(spade, photos)
    explorer.show(demo.test[1])
    explorer.remove(3)
    explorer.kappa, explorer.probe, explorer.threshold = 2, (60, 70), 50.0
    comparison.views = ["layer1", spade_kit.SPADE(k=2).fit(demo.train[20:22])]
    comparison.index, comparison.scale, comparison.difference, comparison.probe = 1, "one", (1, 0), (60, 70)
    chooser = spade_kit.choose_threshold(spade, photos)
    chooser.finish()
    chooser.of, chooser.threshold = "pixel", 40.0
    painting = spade_kit.paint_defect(spade, photos, folder=tmp_path / "painted")
    painting.index = 2
    painting.stroke("brush", [(50, 60), (70, 80)])
    painting.keep("mark")
    review = spade_kit.review_suspects(spade)
    review.drop()
    review.keep()
    atlas = spade_kit.map_images(spade, iter(photos))
    atlas.projection, atlas.colour, atlas.selection, atlas.selected_normals = "tsne", "score", (0, 2), (5,)
    atlas.finish()
    made = {"explorer": explorer, "comparison": comparison, "chooser": chooser, "painting": painting}
    return made | {"review": review, "atlas": atlas}


def state_of(widget) -> dict:
    names = ("kept", "dropped", "strokes", "sentence", "views", "suspects")
    state = {name: getattr(widget, name) for name in (*widget.MOVABLE, *names) if hasattr(widget, name)}
    return state | {"code": widget.code()} if hasattr(widget, "code") else state


def map_of(widget) -> np.ndarray:
    if hasattr(widget, "places"):
        return np.frombuffer(widget.places[widget.projection] + widget.values["score"], np.float32)
    return np.stack([*widget.maps.values()]) if hasattr(widget, "maps") else widget.result.anomaly_map


def test_a_copy_is_in_the_same_state(widgets):
    for name, widget in widgets.items():
        widget.finish()
        copy = widget.copy()
        copy.finish()
        assert state_of(copy) == state_of(widget), name
        assert copy.photos == widget.photos
        assert repr(copy) == repr(widget)
        if name != "chooser":
            np.testing.assert_array_equal(map_of(copy), map_of(widget))


def test_a_copy_and_its_original_are_independent(widgets):
    for name, widget in widgets.items():
        widget.finish()
        before, copy = state_of(widget), widget.copy()
        if name in ("painting", "review"):
            copy.undo()
        elif name == "explorer":
            copy.undo()
            copy.show(widget.images.photo(0)[0])
        else:
            trait, value = MORE[name]
            setattr(copy, trait, value)
        assert state_of(copy) != before, name
        assert state_of(widget) == before, name


def test_a_copy_moves_where_it_is_shown(notebook):
    first, second = Shown(notebook.page, 0), Shown(notebook.page, 1)
    for shown in (first, second):
        shown.settle()
    numbers = [shown.root.get_by_label("K, typed").input_value() for shown in (first, second)]
    assert numbers == ["5", "2"]
    assert first.ring(first.photo, "pinned") == (60, 70)
    assert second.ring(second.photo, "pinned") == (100, 61)
    assert [shown.root.get_attribute("data-shown") for shown in (first, second)] == ["2", "2"]
