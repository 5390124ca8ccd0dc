"""The map of all images without a browser: places, neighbours, scores, selection and errors."""

from dataclasses import replace
from io import BytesIO

import matplotlib.colors
import numpy as np
import pytest
import traitlets
from PIL import Image
from sklearn.manifold import TSNE, trustworthiness

from spade_kit import SPADE, explore, load_backbone, map_images
from spade_kit.widgets import atlas as atlas_module


@pytest.fixture(scope="module")
def few(demo):
    """Every fourth test image, three good ones and nine defects."""
    return replace(demo, test=demo.test[::4])


@pytest.fixture(scope="module")
def judged(spade, few, left_out):
    """The results of all points: test images, then normal images."""
    return [*map(spade.predict, few.test), *left_out]


@pytest.fixture(scope="module")
def vectors(judged):
    return np.concatenate([result.query.pooled.double().numpy() for result in judged])


@pytest.fixture
def atlas(spade, few):
    atlas = map_images(spade, few)
    yield atlas
    atlas.close()


def places_of(atlas, projection="pca") -> np.ndarray:
    """(n, 2)."""
    return np.frombuffer(atlas.places[projection], np.float32).reshape(-1, 2)


def values_of(atlas, name) -> np.ndarray:
    return np.frombuffer(atlas.values[name], np.float32)


def ask(atlas, monkeypatch, points) -> tuple[dict, list[bytes]]:
    """The answer to a page that points at something."""
    sent = []
    monkeypatch.setattr(atlas, "send", lambda content, buffers=(): sent.append((content, buffers)))
    atlas._on_message(None, {"kind": "points", "points": points}, [])
    assert atlas.problem == ""
    return sent[-1]


# ---- places ----------------------------------------------------------------------------------------------------------


def test_places_are_principal_components_in_double_precision(atlas, vectors):
    atlas.finish()
    centred = vectors - vectors.mean(0)
    _, strengths, axes = np.linalg.svd(centred, full_matrices=False)
    places = places_of(atlas)
    expected = centred @ axes[:2].T
    signs = np.sign((places * expected).sum(0))
    np.testing.assert_allclose(places * signs, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
    across, up = 100 * strengths[:2] ** 2 / (strengths**2).sum()
    assert f"{across:.0f} % of the variance to the right, {up:.0f} % upwards" in atlas.told["axes"]["pca"]


def test_normal_images_are_placed_at_once_and_test_images_as_they_are_read(atlas):
    assert [np.isnan(part).all() for part in (places_of(atlas)[:12], places_of(atlas)[12:])] == [True, False]
    said = []
    atlas.observe(lambda change: said.append(change["new"]), "waiting")
    atlas.finish()
    assert said == ["0 of 12 photos read…", ""]
    assert np.isfinite(places_of(atlas)).all()


def test_tsne_is_the_same_each_time_says_how_far_it_is_and_is_as_good_as_in_one_piece(spade, demo):
    normals = SPADE(spade.backbone, k=5).fit(demo.train)
    atlas, other = map_images(normals, None), map_images(normals, None)
    said = []
    atlas.observe(lambda change: said.append(change["new"]), "waiting")
    for one in (atlas, other):
        one.projection = "tsne"
        one.finish()
    assert said == [*(f"t-SNE: {done} of 1000 iterations…" for done in (0, 250, 500, 750)), ""]
    np.testing.assert_array_equal(places_of(atlas, "tsne"), places_of(other, "tsne"))
    vectors = normals.gallery.pooled.numpy()
    whole = TSNE(perplexity=(60 - 1) / 3, init="pca", random_state=0).fit_transform(vectors)
    places = places_of(atlas, "tsne")
    assert trustworthiness(vectors, places, n_neighbors=5) > trustworthiness(vectors, whole, n_neighbors=5) - 0.02
    assert trustworthiness(vectors, places, n_neighbors=5) > trustworthiness(vectors, places_of(atlas), n_neighbors=5)


# ---- neighbours and scores -------------------------------------------------------------------------------------------


def test_neighbours_are_those_of_predict_and_normal_images_have_them_among_the_others(atlas, judged, monkeypatch):
    atlas.finish()
    content, thumbs = ask(atlas, monkeypatch, list(range(24)))
    assert content["near"] == [result.neighbours.index.tolist() for result in judged]
    assert all(thumb[:2] == b"\xff\xd8" for thumb in thumbs)
    count = np.bincount(np.concatenate([result.neighbours.index for result in judged[:12]]), minlength=12)
    np.testing.assert_array_equal(values_of(atlas, "neighbours")[12:], count)
    assert np.isnan(values_of(atlas, "neighbours")[:12]).all()


def test_a_fitted_image_among_the_test_images_is_not_its_own_neighbour(spade, demo, left_out, monkeypatch):
    atlas = map_images(spade, [demo.train[3]])
    atlas.finish()
    content, _ = ask(atlas, monkeypatch, [0])
    assert content["near"] == [left_out[3].neighbours.index.tolist()]


def test_scores_are_computed_when_they_are_asked_for(atlas, judged):
    atlas.finish()
    assert np.isnan(values_of(atlas, "score")).all()
    said = []
    atlas.observe(lambda change: said.append(change["new"]), "waiting")
    atlas.colour = "score"
    atlas.finish()
    assert said == ["0 of 24 photos scored…", "20 of 24 photos scored…", ""]
    np.testing.assert_allclose(values_of(atlas, "score"), [result.image_score for result in judged], rtol=1e-6)


@pytest.mark.parametrize(("most", "area", "side"), [(1000, 1_000_000, 72), (5, 5 * 20**2, 20)])
def test_pictures_and_neighbours_are_kept_for_pages_without_a_kernel(atlas, judged, monkeypatch, most, area, side):
    monkeypatch.setattr(atlas_module, "_SAVED", most)
    monkeypatch.setattr(atlas_module, "_SHEET", area)
    atlas.finish()
    kept = atlas.pictures
    assert kept["points"] == {1000: list(range(24)), 5: [0, 5, 11, 17, 23]}[most]
    assert kept["near"] == [judged[at].neighbours.index.tolist() for at in kept["points"]]
    assert kept["side"] == side
    sheet = np.asarray(Image.open(BytesIO(kept["jpeg"])), int)
    photos = [np.asarray(Image.fromarray(result.image).resize((side, side)), int) for result in judged]
    for number, at in enumerate(kept["points"]):
        row, col = (side * place for place in divmod(number, kept["columns"]))
        off = [np.abs(sheet[row : row + side, col : col + side] - photo).mean() for photo in photos]
        assert np.argmin(off) == at
    assert sheet.size <= 3 * area * 1.3


def test_images_that_are_not_square_keep_their_shape_in_kept_pictures(demo):
    backbone = load_backbone(resize=64, crop=None)
    wide = [np.asarray(Image.open(sample.path).convert("RGB"))[:150] for sample in demo.train[:3]]
    atlas = map_images(SPADE(backbone, k=2).fit(wide))
    atlas.finish()
    side, sheet = atlas.pictures["side"], np.asarray(Image.open(BytesIO(atlas.pictures["jpeg"])), int)
    height, width = atlas.spade.normal_image(0).shape[:2]
    empty = (np.abs(sheet[:side, :side] - 128).max((1, 2)) < 12).sum()
    assert empty == pytest.approx(side * (1 - height / width), abs=3)


# ---- selection and views ---------------------------------------------------------------------------------------------


def test_a_linked_explorer_shows_only_the_selected_images(atlas, spade, few):
    explorer = explore(spade, few)
    link = traitlets.link((atlas, "selection"), (explorer, "selection"))
    atlas.selection = np.array([7, 2, 7])
    assert atlas.selection == explorer.selection == (2, 7)
    explorer.selection = ()
    assert atlas.selection == ()
    atlas.set_state({"selection": [5, 1], "selected_normals": [11]})
    assert (explorer.selection, atlas.selected_normals) == ((1, 5), (11,))
    assert "3 selected" in repr(atlas)
    link.unlink()


def test_a_figure_shows_each_point_in_the_colour_of_its_kind(atlas, few):
    atlas.finish()
    (panel,) = atlas.draw().axes
    drawn = {one.get_label(): one for one in panel.collections}
    assert list(drawn)[:2] == ["normal (12)", "good (3)"]
    np.testing.assert_allclose(drawn["normal (12)"].get_offsets(), places_of(atlas)[12:])
    colours = {matplotlib.colors.to_hex(one.get_facecolor()[0]) + str(one.get_paths()[0]) for one in drawn.values()}
    assert len(colours) == len(drawn) == 1 + len({sample.label for sample in few.test})
    atlas.colour = "score"
    atlas.finish()
    (scored,) = (one for one in atlas.draw().axes[0].collections if one.get_label() == "normal (12)")
    np.testing.assert_array_equal(scored.get_array(), values_of(atlas, "score")[12:])
    assert matplotlib.colors.to_hex(scored.get_edgecolor()[0]) == atlas.about["kinds"][0][1].lower()


def test_without_test_images_the_normal_ones_are_shown(spade, demo):
    for dataset in (None, replace(demo, test=[])):
        atlas = map_images(spade, dataset)
        assert [name for name, _ in atlas.photos] == [f"normal {at}" for at in range(12)]
        assert np.isfinite(places_of(atlas)).all()


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_unreadable_images_are_named_and_skipped(spade, few, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"none")
    atlas = map_images(spade, [few.test[0], tmp_path / "broken.png", few.test[1]])
    with pytest.warns(UserWarning, match=r"Images that cannot be read: 1 \(broken\)\. First error: .*broken\.png"):
        atlas.finish()
    assert np.isnan(places_of(atlas)[:, 0]).nonzero()[0].tolist() == [1]
    assert "broken" in atlas.told["lost"]
    atlas.colour = "score"
    atlas.finish()
    assert np.isnan(values_of(atlas, "score")).nonzero()[0].tolist() == [1]


def test_a_map_needs_three_images_that_can_be_read(demo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"none")
    two = SPADE(k=1).fit(demo.train[:2])
    with pytest.raises(ValueError, match=r"at least 3 images; got 2 normal and 1 test images, of which 1 cannot"):
        map_images(two, [tmp_path / "broken.png"])
    with pytest.raises(ValueError, match=r"The list of images is empty"):
        map_images(two, [])
    assert np.isfinite(places_of(map_images(two, demo.test[:1]))).all()


def test_identical_images_lie_on_one_place(demo):
    with pytest.warns(UserWarning, match="duplicates"):
        same = SPADE(k=1).fit(demo.train[:1] * 3)
    atlas = map_images(same)
    assert not places_of(atlas).any()
    assert "0 % of the variance" in atlas.told["axes"]["pca"]
    atlas.projection = "tsne"
    atlas.finish()
    assert np.isfinite(places_of(atlas, "tsne")).all()


@pytest.mark.parametrize(("name", "value", "said"), [
    ("projection", "umap", "projection must be one of 'pca', 'tsne'; got 'umap'"),
    ("colour", "scores", "colour must be one of .*Did you mean 'score'"),
    ("selection", [12], "selection must refer to one of the images, from 0 to 11; got 12"),
    ("selected_normals", 12, "selected_normals must refer to one of the images, from 0 to 11; got 12"),
])  # fmt: skip
def test_wrong_values_change_nothing(atlas, name, value, said):
    before = getattr(atlas, name)
    with pytest.raises(ValueError, match=said):
        setattr(atlas, name, value)
    assert getattr(atlas, name) == before
    atlas.set_state({name: value})
    assert atlas.problem
    assert getattr(atlas, name) == before
