"""Stage 1: preprocessing by hand; the same numbers for every batch size and every kind of input."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch
from conftest import TinyNet
from PIL import Image

from spade_kit import SPADE, Pyramid, Sample, extract_features, load_backbone, match_pixels, nearest_images


def level(n, c, h, w):
    return torch.zeros(n, c, h, w)


def shapes(pyramid):
    return [tuple(level.shape) for level in pyramid.levels]


def all_equal(one, other, tolerance=0.0):
    assert one.layers == other.layers
    for ours, theirs in zip([*one.levels, one.pooled], [*other.levels, other.pooled]):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.fixture
def photos(rng) -> list[np.ndarray]:
    """Coarse patterns, which survive scaling; odd sizes, all different."""
    return [
        np.kron(rng.integers(0, 256, (rows, cols, 3)), np.ones((9, 9, 1))).astype(np.uint8)[:-2, :-4]
        for rows, cols in ((11, 15), (15, 11), (9, 9), (30, 8))
    ]


@pytest.mark.parametrize(("resize", "size"), [(256, 224), (72, 64)])
def test_a_photo_is_scaled_cut_and_normalised_as_by_hand(tiny, photos, resize, size):
    """Resize to a square (antialiased), crop, scale to 0..1, normalise; then run the network layer by layer."""
    network = tiny.module.network
    backbone = load_backbone(network, layers=tiny.sources, pooled="late", resize=resize, crop=size)
    pyramid = extract_features(photos, backbone)
    first = (resize - size) // 2
    for number, photo in enumerate(photos):
        scaled = Image.fromarray(photo).resize((resize, resize), Image.Resampling.BILINEAR)
        x = np.asarray(scaled.crop((first, first, first + size, first + size))).astype(np.float64) / 255
        x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        x = torch.tensor(x, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.inference_mode():
            early = network.early(network.stem(x).relu())
            middle = network.middle(early.relu())
            late = network.late(middle.relu())
        for ours, by_hand in zip(pyramid.levels, (early, middle, late)):
            assert by_hand.std() > 0.01
            torch.testing.assert_close(ours[number], by_hand[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pyramid.pooled[number], late[0].mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_the_default_pyramid_has_the_documented_shapes(demo):
    pyramid = extract_features(demo.train[:2])
    assert pyramid.layers == ("layer1", "layer2", "layer3")
    assert shapes(pyramid) == [(2, 24, 56, 56), (2, 40, 28, 28), (2, 112, 14, 14)]
    assert pyramid.pooled.shape == (2, 320)
    assert pyramid.grid == (56, 56)
    assert {values.dtype for values in (*pyramid.levels, pyramid.pooled)} == {torch.float32}


def test_the_batch_size_changes_nothing_but_rounding(demo):
    images, backbone = demo.test[::11], load_backbone()
    assert len(images) == 5
    one, three, sixteen = (extract_features(images, backbone, batch_size=size) for size in (1, 3, 16))
    all_equal(one, sixteen, 1e-4)
    all_equal(three, sixteen, 1e-4)
    assert (one.levels[2][0] - one.levels[2][4]).abs().max() > 0.1


def test_every_type_of_input_gives_the_same_features(tiny, photos, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(len(photos))]
    for path, photo in zip(paths, photos):
        Image.fromarray(photo).save(path)
    expected = extract_features(photos, tiny)
    for kind in (Path, str, Sample, Image.open):
        all_equal(extract_features((kind(path) for path in paths), tiny), expected)
    mixed = [photos[0], paths[1], Sample(paths[2]), Image.fromarray(photos[3])]
    all_equal(extract_features(mixed, tiny), expected)
    single = extract_features(paths[2], tiny)
    assert len(single) == 1
    all_equal(single, expected.select(2), 1e-5)


def test_select_keeps_the_order_asked_for(tiny, photos):
    pyramid = extract_features(photos, tiny)
    assert len(pyramid) == 4
    chosen = pyramid.select([3, 0, 0])
    assert len(chosen) == 3
    assert chosen.layers == pyramid.layers
    for place, image in enumerate([3, 0, 0]):
        for ours, whole in zip([*chosen.levels, chosen.pooled], [*pyramid.levels, pyramid.pooled]):
            assert torch.equal(ours[place], whole[image])
    assert not torch.equal(chosen.pooled[0], chosen.pooled[1])
    for index in (1, np.int64(1), np.array([1]), range(1, 2), torch.tensor([1])):
        all_equal(pyramid.select(index), pyramid.select([1]))
    assert len(pyramid.select([])) == 0


def test_photos_may_be_one_array_and_the_backbone_a_name(photos):
    stack = np.stack([photos[2], photos[2][::-1]])
    pyramid = extract_features(stack, "efficientnet_lite0")
    assert len(pyramid) == 2
    all_equal(pyramid, extract_features(list(stack)))


@pytest.mark.parametrize(
    ("photo", "grids"),
    [((70, 150), [(16, 32), (8, 16), (4, 8)]), ((150, 70), [(32, 16), (16, 8), (8, 4)])],
)
def test_a_whole_photo_keeps_its_aspect_and_its_grids_nest(tiny, rng, photo, grids):
    """70 x 150 with the short side 64: 64 x 137, and 128 is the nearest multiple of 32."""
    whole = load_backbone(tiny.module.network, layers=tiny.sources, pooled="late", resize=64, crop=None)
    pyramid = extract_features(rng.integers(0, 256, (*photo, 3), np.uint8), whole)
    assert [shape[2:] for shape in shapes(pyramid)] == grids
    assert pyramid.grid == grids[0]


def test_a_pyramid_can_be_built_by_hand_from_lists():
    pyramid = Pyramid([level(2, 3, 7, 5), level(2, 9, 3, 5)], ["layer1", "layer2"], torch.zeros(2, 4))
    assert isinstance(pyramid.levels, tuple)
    assert pyramid.layers == ("layer1", "layer2")
    assert (len(pyramid), pyramid.grid) == (2, (7, 5))


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_an_invalid_pyramid_raises_an_error():
    fine, coarse, pooled = level(2, 3, 8, 6), level(2, 4, 4, 3), torch.zeros(2, 5)
    mistakes = [
        ([coarse, fine], ["layer1", "layer2"], pooled),
        ([level(2, 3, 4, 6), level(2, 3, 8, 3)], ["layer1", "layer2"], pooled),
        ([level(2, 3, 8, 3), level(2, 3, 4, 6)], ["layer1", "layer2"], pooled),
        ([fine, coarse], ["layer1"], pooled),
        ([fine, level(3, 4, 4, 3)], ["layer1", "layer2"], pooled),
        ([fine[0], coarse], ["layer1", "layer2"], pooled),
        ([fine, coarse], ["layer1", "layer2"], torch.zeros(5, 2)),
        ([fine, coarse], ["layer1", "layer2"], torch.zeros(2)),
        ([], [], pooled),
        ([fine, coarse], ["layer1", "layer1"], pooled),
    ]
    for levels, layers, vectors in mistakes:
        with pytest.raises(ValueError, match=r"one \(n, c, h, w\) level per layer name, unique names, fine to coarse"):
            Pyramid(levels, layers, vectors)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_whole_photos_of_several_aspect_ratios_get_one_size(tiny, photos, batch_size):
    """Even if they are in different batches."""
    whole = load_backbone(tiny.module.network, layers=tiny.sources, resize=64, crop=None)
    pyramid = extract_features([photos[0], photos[1], photos[0]], whole, batch_size=batch_size)
    assert [tuple(level.shape[2:]) for level in pyramid.levels] == [(16, 24), (8, 12), (4, 6)]


@pytest.mark.usefixtures("unchecked")
def test_empty_input_and_an_empty_batch_raise_an_error(tiny, photos):
    with pytest.raises(ValueError, match="at least one image; got none"):
        extract_features([], tiny)
    for size in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"batch_size must be a whole number of at least 1; got {size}."):
            extract_features(photos, tiny, batch_size=size)
    with pytest.raises(ValueError, match=r"got an array of shape \(97, 131\) and type uint8"):
        extract_features(photos[0][..., 0], tiny)


def test_a_mask_and_negative_numbers_select_as_in_numpy(rng):
    pyramid = Pyramid([torch.arange(4.0).view(4, 1, 1, 1)], ["layer1"], torch.zeros(4, 1))
    for index in ([True, False, False, True], [0, -1], np.array([0, 3]), torch.tensor([0, 3]), range(0, 4, 3)):
        assert pyramid.select(index).levels[0].flatten().tolist() == [0, 3]


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_number_of_an_image_selects_nothing():
    pyramid = Pyramid([torch.arange(4.0).view(4, 1, 1, 1)], ["layer1"], torch.zeros(4, 1))
    for wrong in (99, -5, 1.5, "a", None, [0, 4], [0.5], [True], [[0], [1, 2]]):
        with pytest.raises(
            ValueError, match=r"index must hold numbers of images, from 0 to 3, or True for those to sel"
        ):
            pyramid.select(wrong)


@pytest.mark.usefixtures("unchecked")
def test_the_vector_is_float32_for_any_input(rng):
    fine, numbers = level(3, 2, 4, 4), rng.integers(0, 9, (3, 5))
    for pooled in (numbers, torch.tensor(numbers), torch.tensor(numbers).double(), torch.tensor(numbers).half()):
        pyramid = Pyramid([fine], ["layer1"], pooled)
        assert pyramid.pooled.dtype == torch.float32
        near = nearest_images(pyramid.select(1), pyramid, k=1)
        assert (near.index.tolist(), near.distance.tolist()) == ([[1]], [[0]])


UNUSABLE = [
    *(None, "x", {"x": torch.zeros(2)}, (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)), torch.zeros(2, 0, 4, 4)),
    *(torch.zeros(2, 3, 0, 4), torch.zeros(2, 3, 4, 4) + 0j, torch.zeros(2, 3, 4, 4).to_sparse()),
    torch.zeros(2, 3, 4, 4, device="meta"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", UNUSABLE, ids=range(len(UNUSABLE)))
def test_what_is_no_tensor_of_numbers_is_refused_by_name(photos, wrong):
    """In a pyramid made by hand, and as the output of a network."""
    said = "Features must be real numbers in a dense tensor, at least one per image; got .* at "
    with pytest.raises(ValueError, match=f"{said}a level"):
        Pyramid([wrong], ["layer1"], torch.zeros(2, 1))
    with pytest.raises(ValueError, match=f"{said}pooled"):
        Pyramid([level(2, 3, 4, 4)], ["layer1"], wrong)

    network = TinyNet()
    network.late.register_forward_hook(lambda *_: "none" if wrong is None else wrong)  # None would keep the output
    for layers, pooled in ((("early", "late"), "early"), (("early",), "late")):
        backbone = load_backbone(network, layers=layers, pooled=pooled, resize=72, crop=64)
        for use in (partial(extract_features, backbone=backbone), SPADE(backbone).fit):
            with pytest.raises(ValueError, match=f"{said}late"):
                use(photos[2:3])


@pytest.mark.parametrize("convert", [torch.Tensor.int, lambda x: x > 0, torch.Tensor.half, torch.Tensor.double])
def test_a_network_may_return_any_real_numbers(photos, convert):
    network = TinyNet()
    network.late.register_forward_hook(lambda _module, _inputs, output: convert(output * 9))
    backbone = load_backbone(network, layers=("early", "late"), pooled="late", resize=72, crop=64)
    pyramid = extract_features(photos[2:3], backbone)
    with torch.inference_mode():
        expected = network(next(_inputs_of(photos[2:3], backbone))).float()
    torch.testing.assert_close(pyramid.levels[1], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(pyramid.pooled, expected.mean((2, 3)), rtol=1e-3, atol=1e-3)


def _inputs_of(photos, backbone):
    for photo in photos:
        crop = torch.tensor(backbone.find_crop(photo).cut(photo)).permute(2, 0, 1)[None] / 255
        yield (crop - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(3, 1, 1)


def test_a_layer_that_never_runs_is_named(photos):
    network = TinyNet()
    network.idle = torch.nn.Identity()
    with pytest.raises(ValueError, match="got a value of type NoneType at idle"):
        extract_features(photos[2:3], load_backbone(network, layers=("early", "idle"), resize=72, crop=64))


@pytest.mark.usefixtures("unchecked")
def test_only_pyramids_are_compared():
    pyramid = Pyramid([level(1, 3, 4, 4)], ["layer1"], torch.zeros(1, 2))
    for compare in (match_pixels, nearest_images):
        for pair, name in (((None, pyramid), "query"), ((pyramid, torch.zeros(1, 2)), "gallery")):
            with pytest.raises(ValueError, match=rf"{name} must be a Pyramid; got .* Use extract_features\(images\)"):
                compare(*pair)


@pytest.mark.usefixtures("unchecked")
def test_a_pyramid_built_by_hand_is_float32_for_any_input(rng):
    numbers = rng.integers(0, 9, (2, 3, 4, 4))
    for level in (numbers, torch.tensor(numbers), torch.tensor(numbers).double(), torch.tensor(numbers).half()):
        pyramid = Pyramid([level], ["layer1"], torch.zeros(2, 1))
        assert pyramid.levels[0].dtype == torch.float32
        np.testing.assert_array_equal(pyramid.levels[0], numbers)
    assert repr(pyramid) == "Pyramid(layer1 (2, 3, 4, 4), pooled (2, 1))"


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e19, 1e30])
@pytest.mark.parametrize("layer", ["early", "late"])
def test_features_that_no_search_can_use_are_refused(photos, factor, layer):
    """NaN, infinite, or with squares beyond float32: in a fit, in a query and on their own."""
    backbone = load_backbone(TinyNet(), layers=("early", "middle", "late"), pooled="late", resize=72, crop=64)
    square = [photos[2], photos[2][::-1], photos[2][:, ::-1]]
    fitted = SPADE(backbone).fit(square[:2])
    getattr(backbone.module.network, layer).register_forward_hook(lambda *given: given[-1] * factor)
    name = {"early": "layer1", "late": "layer3"}[layer]
    for use in (partial(extract_features, backbone=backbone), SPADE(backbone).fit, lambda x: fitted.predict(x[0])):
        with pytest.raises(ValueError, match=rf"Features must be finite, .* at {name}, .* Check the images and the"):
            use(square[2:])


# ---- threads ---------------------------------------------------------------------------------------------------------


class Remembering(TinyNet):
    """Keeps the last image that it was given, as some feature extractors do with their outputs."""

    def forward(self, x):
        self.kept = x
        sleep(0.01)
        return super().forward(self.kept)


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "resnet18", "legacy_xception", "vit_tiny_patch16_224", "custom"]
)
def test_every_image_gets_its_own_features_whatever_runs_beside_it(restless, four_threads, rng, name):
    sizes = {"resize": 64, "crop": 64} if name != "vit_tiny_patch16_224" else {}
    if name == "custom":
        network = load_backbone(Remembering(), layers=("early", "middle", "late"), pooled="late", **sizes)
    else:
        network = load_backbone(name, pretrained=False, **sizes)
    images = list(rng.integers(0, 256, (12, 64, 64, 3), np.uint8))
    together = extract_features(images, network, batch_size=1)
    for at, image in enumerate(images):
        all_equal(together.select(at), extract_features(image, network), 1e-4)


def test_two_ways_to_read_one_network_do_not_mix(restless, rng):
    network = load_backbone("resnet18", pretrained=False).module.network
    ways = [("layer1", "layer2"), ("layer2", "layer3")] * 2
    backbones = [load_backbone(network, layers=layers, resize=64, crop=64) for layers in ways]
    images = rng.integers(0, 256, (4, 64, 64, 3), np.uint8)
    alone = [extract_features(image, backbone) for image, backbone in zip(images, backbones)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for expected, found in zip(alone, pool.map(extract_features, images, backbones)):
                all_equal(found, expected, 1e-4)
    assert not any(part._forward_hooks for part in network.modules())


def test_the_number_of_torchs_threads_stays(four_threads, photos, tiny):
    extract_features(photos, tiny, batch_size=1)
    assert torch.get_num_threads() == 4
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 4


@pytest.mark.parametrize(("images", "cores"), [(1, 4), (3, 4), (5, 2), (40, 1)])
def test_few_images_get_all_cores_and_many_share_them(four_threads, tiny, rng, monkeypatch, images, cores):
    used = []
    forward = type(tiny).__call__
    monkeypatch.setattr(type(tiny), "__call__", lambda *given: used.append(torch.get_num_threads()) or forward(*given))
    monkeypatch.setattr(type(tiny), "runs_in_threads", True)
    extract_features(list(rng.integers(0, 256, (images, 64, 64, 3), np.uint8)), tiny)
    assert set(used) == {cores}
