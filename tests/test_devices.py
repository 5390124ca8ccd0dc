"""On a GPU the answers are those of the CPU, which runs the same tests by brute force, the only search of a GPU."""

import numpy as np
import pytest
import torch
from PIL import Image

from spade_kit import SPADE, Pyramid, extract_features, match_pixels

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
OPTIONS = [
    {},
    {"radius": 3, "kappa": 2},
    {"weights": {"layer1": 0.5, "layer2": 0, "layer3": 2}},
    {"combine": "ensemble", "radius": 8, "squared": True},
]


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    return request.param


def move(pyramid, device):
    return Pyramid([level.to(device) for level in pyramid.levels], pyramid.layers, pyramid.pooled.to(device))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_same_features_have_the_same_matches(device, demo, scratched, options):
    query, gallery = extract_features(scratched), extract_features(demo.train[:3])
    expected = match_pixels(query, gallery, **options)
    search = "brute_force" if device == "cpu" else "auto"
    found = match_pixels(move(query, device), move(gallery, device), search=search, **options)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-4, atol=1e-3)
    assert (found.place == expected.place).mean() > 0.999


def test_features_of_a_batch_are_the_same(device, demo):
    here, there = extract_features(demo.train[:9]), extract_features(demo.train[:9], device=device)
    for ours, theirs in zip([*there.levels, there.pooled], [*here.levels, here.pooled]):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-2, atol=1e-2)


def test_a_result_is_the_same(device, demo, scratched, spade):
    judge = SPADE(k=5, device=device).fit(demo.train[:12])
    found, expected = judge.predict(scratched), spade.predict(scratched)
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-2)
    assert found.neighbours.index.tolist() == expected.neighbours.index.tolist()
    assert judge.threshold(0.1) == pytest.approx(spade.threshold(0.1), rel=1e-2)


def test_a_folder_gets_the_same_rows(device, demo, spade, tmp_path):
    (tmp_path / "in").mkdir()
    for at, sample in enumerate(demo.test[18:24]):
        Image.fromarray(sample.image).save(tmp_path / f"in/{at}.png")
    expected = spade.predict_folder(tmp_path / "in", tmp_path / "here", fpr=0.2)
    found = SPADE(k=5, device=device).fit(demo.train[:12]).predict_folder(tmp_path / "in", tmp_path / "there", fpr=0.2)
    assert found["verdict"].tolist() == expected["verdict"].tolist()
    np.testing.assert_allclose(found["image_score"], expected["image_score"], rtol=1e-2)
