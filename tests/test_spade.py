"""The three stages combined."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.exceptions import NotFittedError

import spade_kit
from spade_kit import SPADE, Sample, extract_features, match_pixels, nearest_images
from spade_kit.scores import find_threshold
from spade_kit.search.layout import SimdLayout


@pytest.fixture(scope="module")
def pyramid(demo):
    return extract_features(demo.train[:12])


def map_by_hand(found, sigma=4):
    tensor = torch.tensor(found.distance)[None, None]
    upsampled = torch.nn.functional.interpolate(tensor, (224, 224), mode="bilinear", align_corners=False)
    return gaussian_filter(upsampled[0, 0].numpy(), sigma, mode="reflect", truncate=4)


OPTIONS = [
    {},
    {"kappa": 3},
    {"radius": 4},
    {"weights": {"layer3": 0.5}},
    {"combine": "ensemble"},
    {"sigma": 1.5},
    {"k": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_predict_is_the_three_stages_one_after_the_other(spade, pyramid, scratched, options):
    result = spade.with_options(**options).predict(scratched)
    query = extract_features(scratched)
    near = nearest_images(query, pyramid, k=options.get("k", 5))
    chosen = {name: value for name, value in options.items() if name not in ("k", "sigma")}
    found = match_pixels(query, pyramid.select(near.index[0]), **chosen)
    np.testing.assert_array_equal(result.neighbours.index, near.index[0])
    np.testing.assert_allclose(result.neighbours.distance, near.distance[0], rtol=1e-4)
    np.testing.assert_allclose(result.anomaly_map, map_by_hand(found, options.get("sigma", 4)), rtol=1e-3)
    assert result.image_score == result.anomaly_map.max()
    assert result.retrieval_score == pytest.approx(near.distance.mean(), rel=1e-4)
    assert result.anomaly_map.dtype == np.float32


def test_equal_weights_use_the_whole_gallery(spade, pyramid, scratched):
    variance = [float(x.double().transpose(0, 1).flatten(1).var(1, correction=0).sum()) for x in pyramid.levels]
    named = {name: 1 / value for name, value in zip(pyramid.layers, variance)}
    equal, given = (spade.with_options(k=3, weights=weights).predict(scratched) for weights in ("equal", named))
    np.testing.assert_allclose(equal.anomaly_map, given.anomaly_map, rtol=1e-5)


def test_every_type_of_input_gives_the_same_result(spade, scratched):
    ways = [scratched, scratched.path, str(scratched.path), Image.open(scratched.path), scratched.image]
    first, *rest = [spade.predict(way).anomaly_map for way in ways]
    for other in rest:
        np.testing.assert_array_equal(first, other)


def test_layer_maps_add_up_to_the_anomaly_map(spade, scratched):
    for options in OPTIONS:
        result = spade.with_options(**options).predict(scratched)
        np.testing.assert_allclose(sum(result.layer_maps.values()), result.anomaly_map, rtol=1e-4, atol=1e-3)
        assert list(result.layer_maps) == ["layer1", "layer2", "layer3"]


def test_a_layer_alone_is_a_search_through_that_layer(result, pyramid, scratched):
    query = extract_features(scratched)
    gallery = pyramid.select(result.neighbours.index)
    for level, name in enumerate(pyramid.layers):
        only = [spade_kit.Pyramid([p.levels[level]], [name], p.pooled) for p in (query, gallery)]
        np.testing.assert_allclose(result.layer_alone[name], map_by_hand(match_pixels(*only)), rtol=1e-3)
        assert (result.layer_alone[name] <= result.anomaly_map * (1 + 1e-4) + 1e-3).mean() > 0.95  # levels add up


def test_a_match_is_the_pair_of_pixels_that_was_measured(result, pyramid, scratched):
    query = extract_features(scratched)
    for row, col in [(0, 0), (223, 223), (101, 60), (7, 190)]:
        match = result.match(row, col)
        assert match.image == result.neighbours.index[match.neighbour]
        assert (match.row % 4, match.col % 4) == (2, 2)  # the centre of a cell of four pixels
        parts = []
        for stride, asked, held in zip((4, 8, 16), query.levels, pyramid.levels):
            here = asked[0, :, row // stride, col // stride].double()
            there = held[match.image, :, match.row // stride, match.col // stride].double()
            parts.append(float(((here - there) ** 2).sum()))
        assert match.distance == pytest.approx(np.sqrt(sum(parts)), rel=1e-4)
        shares = [match.distance * part / sum(parts) for part in parts]
        assert list(match.layers.values()) == pytest.approx(shares, rel=1e-3)


def test_the_reconstruction_takes_each_cell_from_its_match(spade, result):
    rebuilt = result.reconstruction
    assert rebuilt.shape == (224, 224, 3)
    for row, col in [(0, 0), (40, 120), (221, 3)]:
        match = result.match(row, col)
        corner = [place // 4 * 4 for place in (row, col, match.row, match.col)]
        normal = spade.normal_image(match.image)
        np.testing.assert_array_equal(
            rebuilt[corner[0] : corner[0] + 4, corner[1] : corner[1] + 4],
            normal[corner[2] : corner[2] + 4, corner[3] : corner[3] + 4],
        )


def test_the_result_has_the_ground_truth_on_the_crop(result, scratched):
    full = Image.fromarray(scratched.mask).resize((256, 256), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(result.mask, np.asarray(full)[16:240, 16:240])
    assert result.label == "scratch"
    assert result.mask.any()
    assert result.box == (20, 20, 300, 300)  # of 320 px
    assert result.image.shape == (224, 224, 3)


def test_on_photo_keeps_the_peak_and_marks_what_was_not_judged(result):
    whole = result.on_photo()
    assert whole.shape == (320, 320)
    assert np.isnan(whole).sum() == 320**2 - 280**2
    peak, there = (np.unravel_index(np.nanargmax(x), x.shape) for x in (result.anomaly_map, whole))
    np.testing.assert_allclose(there, [(at + 16 + 0.5) * 320 / 256 - 0.5 for at in peak], atol=1)


def test_the_segmentation_is_where_the_map_reaches_the_threshold(result):
    at = float(np.median(result.anomaly_map))
    np.testing.assert_array_equal(result.segmentation(at), result.anomaly_map >= at)
    assert result.segmentation(result.image_score).sum() == 1


def test_radius_0_and_kappa_k_with_a_threshold_match_common_pseudocode(spade, pyramid, scratched):
    """Mean distance to the pixel at the same position in the K retrieved images; 1 where it passes a threshold."""
    result = spade.with_options(k=4, kappa=4, radius=0, sigma=0).predict(scratched)
    query = extract_features(scratched)
    distance = np.zeros((56, 56))
    for image in result.neighbours.index:
        squared = np.zeros((56, 56))
        for step, asked, held in zip((1, 2, 4), query.levels, pyramid.levels):
            difference = ((asked[0].double() - held[image].double()) ** 2).sum(0).numpy()
            squared += np.kron(difference, np.ones((step, step)))
        distance += np.sqrt(squared) / 4
    np.testing.assert_allclose(result.correspondence.distance, distance, rtol=1e-3)
    expected = torch.nn.functional.interpolate(torch.tensor(distance)[None, None], (224, 224), mode="bilinear")[0, 0]
    passes = np.asarray(expected >= 60)
    assert (result.segmentation(60) == passes).mean() > 0.9999  # rounding at the threshold itself


# ---- leaving out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"weights": "equal"}, {"k": 50}], ids=str)
def test_a_left_out_image_is_judged_as_if_it_had_never_been_fitted(demo, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k=50 is reduced to six with a warning
        everyone = SPADE(**options).fit(demo.train[:6])
        others = SPADE(**options).fit([demo.train[i] for i in (0, 1, 2, 4, 5)])
    left_out, expected = everyone.predict_left_out(3), others.predict(demo.train[3])
    np.testing.assert_allclose(left_out.anomaly_map, expected.anomaly_map, rtol=1e-3)
    places = np.array([0, 1, 2, 4, 5])
    np.testing.assert_array_equal(left_out.neighbours.index, places[expected.neighbours.index])
    assert left_out.label == "good"
    assert not left_out.mask.any()


def test_the_threshold_comes_from_left_out_normals_smoothed_as_in_use(spade):
    judge = spade.with_options(sigma=2)
    maps = [judge.predict_left_out(index).anomaly_map for index in range(12)]
    pixels = np.concatenate([values.ravel() for values in maps])
    assert judge.threshold(0.01) == pytest.approx(find_threshold(pixels, 0.01), rel=1e-6)
    assert judge.threshold(0.1, of="image") == pytest.approx(sorted(values.max() for values in maps)[11], rel=1e-6)
    assert judge.threshold(0.5, of="image") == pytest.approx(sorted(values.max() for values in maps)[6], rel=1e-6)
    assert judge.normal_level == pytest.approx(np.percentile(pixels, 99), rel=1e-6)


def test_images_of_one_part_are_left_out_together(demo):
    """The same image twice, and a copy that differs in one pixel: a group is judged by the rest."""
    nearly = demo.train[0].image.copy()
    nearly[160, 160] ^= 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice = SPADE().fit([*demo.train[:4], nearly])
        assert twice.predict_left_out(0).image_score < 10
        once = SPADE().fit(demo.train[1:4]).predict(demo.train[0]).image_score
        judged = twice.threshold(0.2, of="image", groups=[0, 1, 2, 3, 0])
    assert judged >= once * 0.999
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert twice.threshold(0.2, of="image", groups=np.array([0, 1, 2, 3, 0])) == judged
    with pytest.raises(ValueError, match=r"one label per training image \(5\); got 2"):
        twice.threshold(groups=[0, 1])
    with pytest.raises(ValueError, match="got 5, 1 of them NaN"):
        twice.threshold(groups=[0, 1, 2, 3, float("nan")])


def test_another_call_does_not_search_again(demo, monkeypatch):
    judge = SPADE(k=2).fit(demo.train[:4])
    level = judge.threshold(0.1)
    monkeypatch.setattr("spade_kit.gallery.gallery.search_pixels", None)
    assert judge.threshold(0.1) == level
    assert judge.with_options(sigma=1).threshold(0.1) != level
    with pytest.raises(TypeError, match="NoneType"):
        judge.with_options(radius=1).threshold(0.1)


# ---- options and galleries -------------------------------------------------------------------------------------------


def test_other_options_leave_the_original_as_it_was(spade, scratched):
    before = spade.predict(scratched).anomaly_map
    other = spade.with_options(k=2, sigma=1)
    assert (other.k, other.sigma, spade.k, spade.sigma) == (2, 1, 5, 4)
    assert other.gallery is spade.gallery
    np.testing.assert_array_equal(spade.predict(scratched).anomaly_map, before)


def test_a_result_does_not_change_with_its_spade(demo, scratched):
    judge = SPADE(k=2).fit(demo.train[:4])
    result, again = judge.predict(scratched), judge.predict(scratched)
    alone, rebuilt = again.layer_alone, again.reconstruction
    judge.fit(demo.train[4:8])
    judge.sigma = 0
    np.testing.assert_array_equal(result.reconstruction, rebuilt)
    for name, values in result.layer_alone.items():
        np.testing.assert_array_equal(values, alone[name])
    np.testing.assert_allclose(sum(result.layer_maps.values()), result.anomaly_map, rtol=1e-4, atol=1e-3)


def test_weights_are_copied(spade, scratched):
    weights = {"layer3": 0.5}
    judge = spade.with_options(weights=weights)
    before = judge.predict(scratched).image_score
    weights["layer3"] = 9
    assert judge.predict(scratched).image_score == before


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_are_numbers(spade, scratched):
    theirs = {"k": np.int64(3), "radius": np.int32(9), "sigma": np.float32(2), "weights": {"layer2": np.float32(0.5)}}
    ours = {"k": 3, "radius": 9, "sigma": 2, "weights": {"layer2": 0.5}}
    maps = [spade.with_options(**options).predict(scratched).anomaly_map for options in (theirs, ours)]
    np.testing.assert_array_equal(*maps)
    assert spade.threshold(np.float64(0.25)) == spade.threshold(0.25)


def test_a_reduced_option_warns_once_where_it_is_set(spade, scratched):
    with pytest.warns(UserWarning, match=r"kappa=20 exceeds the number of candidates of a corner pixel \(5\)") as said:
        judge = spade.with_options(kappa=20, radius=0)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = judge.predict(scratched)
        assert result.correspondence.image.shape[0] == 5
        assert len(result.layer_alone) == 3
        judge.with_options(sigma=1).threshold(0.1)


def test_one_normal_image_gives_a_result_but_no_normal_level(demo, scratched):
    result = SPADE().fit(demo.train[:1]).predict(scratched)
    assert result.spade.normal_level is None
    for draw in (spade_kit.draw_result, spade_kit.draw_layers, spade_kit.draw_reconstruction):
        draw(result).canvas.draw()


def test_a_fitted_photo_is_recognised(spade, demo):
    with pytest.warns(UserWarning, match=r"one of the fitted images.*predict_left_out"):
        result = spade.predict(demo.train[3])
    assert result.image_score == 0
    assert result.neighbours.index[0] == 3


def test_a_whole_photo_that_is_not_square_can_be_judged(demo, rng):
    whole = spade_kit.load_backbone(resize=128, crop=None)
    photos = [Image.fromarray(rng.integers(0, 255, (150, 260, 3), np.uint8)) for _ in range(3)]
    judge = SPADE(whole).fit(photos[:2])
    result = judge.predict(photos[2])
    assert result.anomaly_map.shape == (128, 224)
    assert result.box == (0, 0, 150, 260)
    assert result.on_photo().shape == (150, 260)
    assert not np.isnan(result.on_photo()).any()
    assert 0 <= result.match(127, 223).col < 224


def test_a_custom_module_and_a_single_level_work_throughout(tiny, demo, scratched):
    judge = SPADE(tiny).fit(demo.train[:3])
    assert judge.predict(scratched).anomaly_map.shape == (64, 64)
    vit = spade_kit.load_backbone("vit_tiny_patch16_224", pretrained=False, layers=["blocks.11"])
    result = SPADE(vit).fit(demo.train[:3]).predict(scratched)
    assert list(result.layer_maps) == ["layer1"]
    np.testing.assert_allclose(result.layer_maps["layer1"], result.anomaly_map, rtol=1e-5)
    assert "untrained" in repr(result.spade)


def test_large_memory_use_gives_a_warning_first(monkeypatch, demo):
    monkeypatch.setattr("spade_kit.gallery.gallery._WORTH_SAYING", 1e-3)
    with pytest.warns(UserWarning, match=r"features of 3 images will take 0.0 GB.*smaller crop"):
        SPADE().fit(demo.train[:3])


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_predict_before_fit_says_what_to_do(demo):
    with pytest.raises(NotFittedError, match=r"Call spade.fit\(images\)"):
        SPADE().predict(demo.test[0])


def test_an_explicit_k_above_the_gallery_size_warns_once(demo, scratched):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(SPADE().fit(demo.train[:3]).predict(scratched).neighbours) == 3
    with pytest.warns(UserWarning, match=r"k=9 exceeds the number of normal images \(3\)") as said:
        result = SPADE(k=9).fit(demo.train[:3]).predict(scratched)
    assert len(said) == 1
    assert len(result.neighbours) == 3


@pytest.mark.usefixtures("unchecked")
def test_each_mistake_raises_a_clear_error(spade, result):
    mistakes = [
        ({"k": 0}, "k must be a whole number of at least 1; got 0."),
        ({"kappa": 2.5}, "kappa must be a whole number"),
        ({"radius": -1}, "radius must be a whole number of at least 0"),
        ({"sigma": -1}, "sigma must be a number of map pixels from 0"),
        ({"sigma": float("nan")}, "sigma must be a number"),
        ({"weights": {"layer4": 1}}, "got 'layer4'. Did you mean 'layer3'"),
        ({"combine": "concatenate"}, "got 'concatenate'. Did you mean 'concat'"),
        ({"kapa": 2}, "got 'kapa'. Did you mean 'kappa'"),
        ({"backbone": "resnet18"}, "An option must be one of 'k', 'kappa'"),
    ]
    for wrong, sentence in mistakes:
        with pytest.raises(ValueError, match=sentence):
            spade.with_options(**wrong)
    for fpr in (0, 1, 1.5, float("nan"), "low"):
        with pytest.raises(ValueError, match="fpr must be a false-alarm rate between 0 and 1"):
            spade.threshold(fpr)
    with pytest.raises(ValueError, match="of must be one of 'pixel', 'image'"):
        spade.threshold(of="pixels")
    with pytest.raises(ValueError, match=r"precision is no longer an option.*Leave it out"):
        SPADE(precision="half")
    with pytest.raises(ValueError, match=r"must refer to one of the training images, from 0 to 11; got 12\."):
        spade.predict_left_out(12)
    for index in (-1, 12):
        with pytest.raises(ValueError, match="index"):
            spade.normal_image(index)
    for threshold in (float("nan"), None, "high"):
        with pytest.raises(ValueError, match="A threshold must be a finite raw distance"):
            result.segmentation(threshold)
    with pytest.raises(ValueError, match=r"got a value of type Dataset\. For a Dataset, pass its \.train or \.test"):
        SPADE().fit(spade_kit.load_dataset("demo"))
    with pytest.raises(ValueError, match="Pass one image at a time"):
        spade.predict([result.image, result.image])
    with pytest.raises(FileNotFoundError, match=r"Expected an image at .*, but it is a folder"):
        spade.predict(result.sample.path.parent)
    with pytest.raises(ValueError, match="A backbone must be a name, a torch module"):
        SPADE(backbone=None)
    with pytest.raises(ValueError, match="count must be a whole number of at least 1"):
        spade_kit.draw_neighbours(result, 0)
    with pytest.raises(ValueError, match="0 <= row < 224"):
        result.match(224, 0)
    with pytest.raises(ValueError, match="at least one normal image; got none"):
        SPADE().fit([])
    with pytest.raises(ValueError, match="at least one other normal image"):
        SPADE(k=1).fit([result.image]).predict_left_out(0)


def test_a_layer_agrees_where_it_finds_the_same_normal_cell_by_itself(result):
    found, alone = result.correspondence, result.match_alone["layer2"]
    for row, col in ((0, 0), (13, 40), (55, 55)):
        together = found.image[0, row, col], found.row[0, row, col] // 2, found.col[0, row, col] // 2
        by_itself = tuple(place[0, row // 2, col // 2] for place in (alone.image, alone.row, alone.col))
        assert result.layer_agrees["layer2"][row, col] == (together == by_itself)
    assert 0 < result.layer_agrees["layer2"].mean() < 1


@pytest.mark.slow
def test_defects_among_the_normals_are_the_first_suspects(demo):
    """Two defects planted among the normal images. One good part ranks between them."""
    planted = [next(s for s in demo.test if s.label == kind).path for kind in ("thread", "scratch")]
    normals = [sample.path for sample in demo.train[:30]]
    judge = SPADE(k=10).fit([*normals[:10], *planted, *normals[10:]])
    suspects = judge.suspects()
    assert suspects.index[0] == 10
    assert 11 in suspects.index[:3]
    assert suspects["score"].is_monotonic_decreasing
    for index, row in suspects.head(4).iterrows():
        left_out = judge.predict_left_out(index)
        assert row["score"] == pytest.approx(left_out.image_score)
        assert left_out.anomaly_map[row["row"], row["col"]] == left_out.image_score
    turned = np.asarray(Image.open(planted[0]).convert("RGB"))[:, 1:]  # the same thread in a second image
    twice = SPADE(k=10).fit([*normals, planted[0], turned])
    assert set(twice.suspects().index[:2]) != {30, 31}  # they match each other
    assert set(twice.suspects(groups=[*range(30), "piece", "piece"]).index[:2]) == {30, 31}


# ---- interruptions and failures --------------------------------------------------------------------------------------


def test_an_interrupted_fit_changes_nothing(spade, demo, monkeypatch):
    before = SPADE(k=5).fit(demo.train[:6])
    expected = before.predict(demo.test[0]).anomaly_map
    passes = iter(range(2))

    def interrupted(self, crops):
        next(passes)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(before.backbone), "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        before.fit(demo.train[6:12])
    monkeypatch.undo()
    assert len(before) == 6
    np.testing.assert_array_equal(before.predict(demo.test[0]).anomaly_map, expected)


def test_too_little_memory_raises_an_error_with_the_size_needed(demo, monkeypatch):
    make = SimdLayout.__init__

    def refuse(self, n, shapes):
        if n == 6:
            raise MemoryError("Unable to allocate")
        make(self, n, shapes)

    monkeypatch.setattr(SimdLayout, "__init__", refuse)
    with pytest.raises(
        MemoryError, match=r"The features of 6 images need 0\.0 GB of memory, and [\d.]+ GB are available. Use fewer"
    ):
        SPADE(k=5).fit(demo.train[:6])


def test_an_unavailable_device_raises_an_error():
    with pytest.raises(ValueError, match=r"device must be 'cpu', 'cuda' or 'mps', and available here; got 'gpu': "):
        SPADE(device="gpu")


def test_a_defect_lost_by_the_crop_gives_a_warning(spade, demo, tmp_path):
    Image.fromarray(demo.test[0].image).save(tmp_path / "photo.png")
    mask = np.zeros(demo.test[0].image.shape[:2], np.uint8)
    mask[2, 2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    result = spade.predict(Sample(tmp_path / "photo.png", "dot", tmp_path / "mask.png"))
    with pytest.warns(UserWarning, match=r"The defect of photo\.png is not visible on the evaluated crop"):
        assert not result.mask.any()
