"""`SPADE.recommended` of a vision transformer is RAD, whose published formulas are written out here."""

import numpy as np
import pytest
import torch

from spade_kit import SPADE, load_backbone

NAME = "vit_tiny_patch16_224"


def rad(query, normals, classes, k, radius=1):
    """(h, w): per layer the least 1 - cos within the window of k images, averaged; in float64, cell by cell.

    ``query`` (L, c, h, w), ``normals`` (n, L, c, h, w); ``classes`` are the class tokens, the query's first.
    """
    unit = [token / np.linalg.norm(token) for token in classes.astype(np.float64)]
    near = np.argsort([-unit[0] @ other for other in unit[1:]], kind="stable")[:k]
    layers, _, h, w = query.shape
    distance = np.zeros((layers, h, w))
    for layer in range(layers):
        for row in range(h):
            for col in range(w):
                here = query[layer, :, row, col].astype(np.float64)
                cosines = []
                for image in near:
                    for y in range(max(row - radius, 0), min(row + radius + 1, h)):
                        for x in range(max(col - radius, 0), min(col + radius + 1, w)):
                            there = normals[image, layer, :, y, x].astype(np.float64)
                            cosines.append(here @ there / np.linalg.norm(here) / np.linalg.norm(there))
                distance[layer, row, col] = 1 - max(cosines)
    return distance.mean(0)


def read(photo, backbone):
    """The four blocks and the class token of an image, from the network itself."""
    crop = backbone.find_crop(photo).cut(photo)
    levels, pooled = backbone(crop[None])
    return np.stack([level[0].numpy() for level in levels]), pooled[0].numpy()


@pytest.fixture(scope="module")
def backbones():
    """The same untrained network with and without unit length, at a size that is quick."""
    return {unit: load_backbone(NAME, pretrained=False, resize=128, crop=112, unit=unit) for unit in (False, True)}


@pytest.fixture(scope="module")
def fitted(demo, backbones):
    return SPADE.recommended(backbones[True]).fit(demo.train[:7])


def test_half_of_the_map_before_smoothing_is_that_of_rad(demo, backbones, fitted):
    raw = backbones[False]
    normals, classes = zip(*(read(sample.image, raw) for sample in demo.train[:7]))
    for k in (3, 7):
        for sample in demo.test[-2:]:
            query, token = read(sample.image, raw)
            expected = rad(query, np.stack(normals), np.stack([token, *classes]), k)
            found = fitted.with_options(k=k).predict(sample).correspondence.distance / 2
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_images_have_the_order_of_rad(demo, backbones, fitted):
    """By its own score: the map enlarged, the mean of its highest 1 %; without smoothing, whose border differs."""
    raw = backbones[False]
    normals, classes = zip(*(read(sample.image, raw) for sample in demo.train[:7]))
    ours, theirs = [], []
    for sample in [*demo.test[:3], *demo.test[-5:]]:
        query, token = read(sample.image, raw)
        cells = torch.tensor(rad(query, np.stack(normals), np.stack([token, *classes]), 7))
        enlarged = torch.nn.functional.interpolate(cells[None, None], (112, 112), mode="bilinear").flatten()
        theirs.append(float(enlarged.sort(descending=True).values[: int(0.01 * 112**2)].mean()))
        ours.append(fitted.with_options(sigma=0).predict(sample).image_score / 2)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.argsort(ours).tolist() == np.argsort(theirs).tolist()


def test_the_settings_are_those_published(monkeypatch):
    seen = {}

    def load(name, **given):
        seen.update(given)
        return load_backbone(name, pretrained=False, **given)

    monkeypatch.setattr("spade_kit.gallery.recommendation.load_backbone", load)
    spade = SPADE.recommended("vit_small_patch14_dinov2")
    assert (spade.backbone.resize, spade.backbone.crop, spade.backbone.unit) == (512, 448, True)
    assert spade.backbone.sources == ("blocks.3", "blocks.6", "blocks.9", "blocks.11")
    assert (spade.combine, spade.radius, spade.squared, spade.score, spade.sigma) == ("ensemble", 1, True, "top", 1.75)


def test_k_is_150_or_all_and_choices_say_so(fitted, tmp_path):
    assert fitted.k == 7
    choices = fitted.choices
    assert choices.loc["k"].tolist() == [7, "as RAD publishes it, 150, or all", "7 normal images"]
    assert choices.loc["radius", "value"] == 1
    assert set(choices["rests_on"]) == {"7 normal images", "arXiv:2601.22763"}
    fitted.save(tmp_path / "fit")
    assert SPADE.load(tmp_path / "fit").choices.equals(choices)


def test_what_a_user_sets_stays(demo, backbones):
    spade = SPADE.recommended(backbones[True])
    spade.k, spade.radius = 2, None
    spade.fit(demo.train[:4])
    assert (spade.k, spade.radius) == (2, None)
    assert not {"k", "radius"} & set(spade.choices.index)


def test_a_backbone_without_unit_length_is_refused(backbones):
    with pytest.raises(ValueError, match=r"need vectors of length 1; got a backbone with unit=False\. Use load_backbo"):
        SPADE.recommended(backbones[False])
