"""Vision transformers: blocks as levels, token by token against a pass block by block; sizes; unit lengths."""

import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from timm.models import Eva, VisionTransformer
from timm.models.beit import Beit

from spade_kit import SPADE, extract_features, load_backbone
from spade_kit.features.crops import Cropping
from spade_kit.features.transformers import find_grid

SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 5, "num_heads": 2, "num_classes": 0}
DEFAULT = ("blocks.1", "blocks.2", "blocks.3", "blocks.4")  # of five


def make_timm(kind=VisionTransformer, **options):
    torch.manual_seed(3)
    network = kind(**SMALL | options).eval()
    for parameter in network.parameters():  # those of the start leave norms and biases without effect
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def make_torchvision():
    torch.manual_seed(3)
    network = torchvision.models.VisionTransformer(64, 16, 4, 2, 32, 48, num_classes=3).eval()
    network.encoder.pos_embedding.data *= 20
    return network


def crops_of(height, width, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def normalised(crops, backbone):
    x = (crops / 255 - np.array(backbone.mean)) / np.array(backbone.std)
    return torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)


def check(levels, pooled, outputs, prefixes, vector):
    """Every cell of every level against the token at its place; ``outputs`` (n, t, c) of the blocks that are read."""
    assert len(levels) == len(outputs)
    for level, tokens in zip(levels, outputs):
        assert tokens.std() > 0.1
        height, width = level.shape[2:]
        assert prefixes + height * width == tokens.shape[1]
        for row in range(height):
            for col in range(width):
                expected = tokens[:, prefixes + row * width + col]
                torch.testing.assert_close(level[:, :, row, col], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, vector, rtol=1e-4, atol=1e-5)


# ---- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "prefixes"),
    [
        ({}, 1),
        ({"reg_tokens": 4}, 5),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, 0),
        ({"class_token": False, "reg_tokens": 2, "global_pool": "avg"}, 2),
        ({"global_pool": "avg"}, 1),
        ({"final_norm": False}, 1),
        ({"class_token": False, "global_pool": "map"}, 0),
    ],
    ids=["plain", "registers", "no class token", "registers only", "norm of the mean", "no norm", "attention pooling"],
)
def test_blocks_are_those_of_a_pass_block_by_block(options, prefixes):
    """Each through the norm that comes last in the network, whichever name timm gives it."""
    network = make_timm(**options)
    backbone = load_backbone(network, layers=DEFAULT, crop=64)
    crops = crops_of(64, 64)
    names = {name for name, _ in network.named_parameters()}
    (norm,) = [getattr(network, name) for name in ("norm", "fc_norm") if f"{name}.weight" in names] or [lambda x: x]
    with torch.inference_mode():
        tokens = network.patch_embed(normalised(crops, backbone))  # (n, 16, c)
        if network.cls_token is not None:
            tokens = torch.cat([network.cls_token.expand(2, -1, -1), tokens], 1)
        if network.reg_token is None:
            tokens = tokens + network.pos_embed
        else:  # timm gives registers positions, too
            first = tokens.shape[1] - 16
            tokens = torch.cat([tokens[:, :first], network.reg_token.expand(2, -1, -1), tokens[:, first:]], 1)
            tokens = tokens + network.pos_embed
        outputs = [norm(tokens := block(tokens)) for block in network.blocks]
    levels, pooled = backbone(crops)
    assert backbone.sources == DEFAULT
    assert backbone.layers == ("layer1", "layer2", "layer3", "layer4")
    vector = outputs[-1][:, 0] if network.cls_token is not None else outputs[-1][:, prefixes:].mean(1)
    check(levels, pooled, outputs[1:], prefixes, vector)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96)])
def test_a_transformer_of_torchvision_is_read_like_timms(height, width):
    network = make_torchvision()
    backbone = load_backbone(network, layers=("encoder.layers.encoder_layer_1", "blocks.2"), crop=64)
    assert backbone.sources == ("blocks.1", "blocks.2")
    levels, pooled = backbone(crops_of(height, width))
    assert levels[0].shape == (2, 32, height // 16, width // 16)
    if height == width:  # the only size that torchvision's own pass takes
        outputs = {}
        for number, block in enumerate(network.encoder.layers):
            block.register_forward_hook(lambda *call, number=number: outputs.update({number: call[2]}))
        with torch.inference_mode():
            network(normalised(crops_of(height, width), backbone))
            normed = [network.encoder.ln(outputs[number]) for number in range(4)]
        check(levels, pooled, normed[1:3], 1, normed[3][:, 0])
    assert torch.backends.mha.get_fastpath_enabled()  # as it was


def test_the_vector_is_that_of_the_last_block_whichever_blocks_are_read():
    network, crops = make_timm(), crops_of(64, 64)
    early, late = (load_backbone(network, layers=[layer], crop=64)(crops) for layer in ("blocks.0", "blocks.4"))
    assert torch.equal(early[1], late[1])
    assert not torch.allclose(early[0][0], late[0][0], atol=0.1)


@pytest.mark.parametrize(
    ("depth", "numbers"),
    [
        *((1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [1, 2, 3]), (9, [2, 4, 6, 8]), (12, [3, 6, 9, 11])),
        *((24, [6, 12, 18, 23]), (40, [10, 20, 30, 39])),
    ],
)
def test_four_blocks_are_read_by_default(depth, numbers):
    network = make_timm(depth=depth, embed_dim=4)
    assert load_backbone(network, crop=64).sources == tuple(f"blocks.{number}" for number in numbers)


@pytest.mark.parametrize("kind", [Eva, Beit])
def test_other_families_have_the_same_shapes(kind):
    """DINOv3 and EVA are built by one class, BEiT by another."""
    levels, pooled = load_backbone(make_timm(kind), layers=("blocks.0", "blocks.4"), crop=64)(crops_of(64, 64))
    assert [tuple(level.shape) for level in levels] == [(2, 32, 4, 4)] * 2
    assert pooled.shape == (2, 32)


def test_a_vision_transformer_by_name_gives_levels_on_one_grid():
    backbone = load_backbone("vit_tiny_patch16_224", pretrained=False)
    assert backbone.sources == ("blocks.3", "blocks.6", "blocks.9", "blocks.11")
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.5,) * 3)  # as this one was trained
    pyramid = extract_features(list(crops_of(90, 60)), backbone)
    assert [tuple(level.shape) for level in pyramid.levels] == [(2, 192, 14, 14)] * 4
    assert pyramid.pooled.shape == (2, 192)


def test_a_network_without_batch_norms_is_not_copied(monkeypatch):
    """A large transformer takes gigabytes."""
    backbone = load_backbone("test_vit", pretrained=False, resize=160, crop=160)
    monkeypatch.setattr("copy.deepcopy", lambda *_: pytest.fail("it was copied"))
    assert backbone.folds
    backbone(crops_of(160, 160))


# ---- tokens of other modules -----------------------------------------------------------------------------------------


class Tokens(torch.nn.Module):
    """A transformer of one's own: patches of 8 px, after some other tokens."""

    def __init__(self, prefixes, patch=8):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Parameter(torch.randn(1, prefixes, 6))
        self.patches = torch.nn.Conv2d(3, 6, patch, patch)
        self.early, self.late = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)

    def tokens(self, x):
        return torch.cat([self.first.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)

    def forward(self, x):
        return self.late(self.early(self.tokens(x)))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 72)])
@pytest.mark.parametrize("prefixes", [0, 1, 5])
@pytest.mark.parametrize("known", [True, False])
def test_tokens_of_a_custom_module_become_maps(height, width, prefixes, known):
    network = Tokens(prefixes)
    if known:
        network.num_prefix_tokens = prefixes
    backbone = load_backbone(network, layers=("early", "late"), crop=64)
    crops = crops_of(height, width)
    with torch.inference_mode():
        early = network.early(network.tokens(normalised(crops, backbone)))
        late = network.late(early)
    levels, pooled = backbone(crops)
    check(levels, pooled, [early, late], prefixes, late[:, 0] if prefixes else late.mean(1))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(4, 16), st.integers(0, 9))
def test_the_grid_of_tokens_follows_from_the_size_of_the_image(rows, columns, patch, prefixes):
    size = rows * patch, columns * patch
    assert find_grid("late", prefixes + rows * columns, size, prefixes) == (prefixes, rows, columns)


def test_tokens_that_fit_no_grid_or_several_raise_an_error():
    with pytest.raises(ValueError, match=r"tokens at late .* grid of patches; got 17 for .* 64 x 64 px, with 2 prefix"):
        find_grid("late", 17, (64, 64), 2)
    with pytest.raises(ValueError, match=r"got 20 .* unknown number of prefix tokens\. Set num_prefix_tokens"):
        find_grid("late", 20, (70, 70), None)
    with pytest.raises(ValueError, match=r"unknown number .*, which may be 1 and 4 x 4, or 8 and 3 x 3\. Set"):
        find_grid("late", 17, (120, 120), None)


def test_blocks_out_of_order_raise_an_error():
    told = (
        r"layers must name each block once, in the order in which the blocks run; got late, early\. Use early, late\."
    )
    with pytest.raises(ValueError, match=told):
        load_backbone(Tokens(1), layers=("late", "early"), pooled="early")(crops_of(64, 64))
    for layers in (["blocks.3", "blocks.1"], ["blocks.3", "blocks.1", "blocks.1"]):
        with pytest.raises(ValueError, match=r"each block once, .*; got blocks\.3, .*\. Use blocks\.1, blocks\.3\."):
            load_backbone(make_timm(), layers=layers)


@pytest.mark.parametrize("load", [partial(load_backbone, make_timm()), partial(load_backbone, make_torchvision())])
@pytest.mark.parametrize("layer", ["blocks.5", "block.1", "blocks.-1", "encoder.layers.encoder_layer_5"])
def test_a_block_that_does_not_exist_raises_an_error(load, layer):
    with pytest.raises(ValueError, match=rf"one of its blocks, blocks\.0 to blocks\.[34]; got '{layer}'\."):
        load(layers=["blocks.0", layer])


def test_the_vector_of_a_transformer_cannot_be_chosen():
    with pytest.raises(
        ValueError, match=r"pooled must be None for a vision transformer, .*; got 'norm'\. Leave it out"
    ):
        load_backbone(make_timm(), layers=("blocks.1",), pooled="norm")


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch", "resize", "crop"), [(8, 256, 224), (14, 252, 224), (16, 256, 224), (32, 256, 224), (20, 260, 220)]
)
def test_resize_and_crop_are_the_multiples_of_the_patch_nearest_256_and_224(patch, resize, crop):
    network = make_timm(img_size=patch * 4, patch_size=patch, depth=1, dynamic_img_size=True)
    backbone = load_backbone(network)
    assert (backbone.resize, backbone.crop, backbone.multiple) == (resize, crop, patch)
    levels, _ = backbone(crops_of(crop, crop, 1))
    assert levels[0].shape == (1, 32, crop // patch, crop // patch)
    given = load_backbone(network, resize=300, crop=2 * patch if patch > 14 else 10 * patch)
    assert given.resize == 300  # what is asked for is kept: only the crop has to be a multiple


def test_whole_images_have_sides_in_multiples_of_the_patch():
    network = make_timm(img_size=56, patch_size=14, dynamic_img_size=True)
    backbone = load_backbone(network, layers=["blocks.4"], resize=100, crop=None)
    photos = list(crops_of(60, 125))
    assert backbone.find_crop(photos[0]).size == (98, 210)  # 7 and 15 patches; 100 and 208 px by proportion
    assert extract_features(photos, backbone).levels[0].shape == (2, 32, 7, 15)
    assert load_backbone(network, crop=None).resize == 252


def test_a_size_that_does_not_fit_names_the_nearest_that_do():
    moving = make_timm(img_size=56, patch_size=14, dynamic_img_size=True)
    with pytest.raises(
        ValueError, match=r"multiple of the patch of VisionTransformer, 14 px; got 100\. Use crop=98 or 1"
    ):
        load_backbone(moving, crop=100)
    with pytest.raises(ValueError, match=r"14 px; got 250\. Use crop=238\."):  # 252 is more than resize
        load_backbone(moving, resize=251, crop=250)
    with pytest.raises(ValueError, match=r"14 px; got 33\. Use crop=42 and a larger resize\."):
        load_backbone(moving, resize=33, crop=33)
    with pytest.raises(
        ValueError, match=r"Transformer takes images of 64 x 64 px; got crop=224\. Use resize=256, crop=64\."
    ):
        load_backbone(make_timm())
    with pytest.raises(
        ValueError, match=r"takes images of 64 x 64 px; got whole images, crop=None\. Use resize=256, cro"
    ):
        load_backbone(make_timm(), crop=None)


@pytest.mark.skipif(not timm.is_model("test_vit_relpos"), reason="timm has no such network before 1.0.31")
def test_a_network_of_fixed_size_is_set_to_the_crop_where_timm_can():
    """Trained at 160 px, with a position for each pair of cells."""
    levels, _ = load_backbone("test_vit_relpos", pretrained=False, resize=128, crop=96)(crops_of(96, 96))
    assert levels[0].shape[2:] == (6, 6)
    with pytest.raises(ValueError, match=r"test_vit_relpos takes images of 160 x 160 px; got whole images, crop=None"):
        load_backbone("test_vit_relpos", pretrained=False, crop=None)


def test_a_fit_of_whole_images_is_saved_and_loaded(tmp_path):
    """Patches of 14 px: the saved sizes are multiples of 14, not of 32."""
    backbone = load_backbone("eva02_tiny_patch14_224", pretrained=False, resize=70, crop=None)
    spade = SPADE(backbone, k=1).fit(list(crops_of(50, 99, 3)))
    spade.save(tmp_path)
    again = SPADE.load(tmp_path)
    assert again.gallery.cropping == spade.gallery.cropping == Cropping(70, None, (70, 140), 14)
    assert again.backbone.multiple == 14


def test_swin_stays_a_pyramid_and_takes_other_sizes():
    load = partial(load_backbone, "swin_tiny_patch4_window7_224", pretrained=False)
    levels, _ = load(crop=None)(crops_of(64, 96, 1))
    assert [tuple(level.shape[1:]) for level in levels] == [(96, 16, 24), (192, 8, 12), (384, 4, 6)]
    with pytest.raises(
        ValueError, match=r"takes images of 224 x 224 or 256 x 256 px; got crop=225\. Use resize=256, crop"
    ):
        load(crop=225)


# ---- unit length -----------------------------------------------------------------------------------------------------


class Values(torch.nn.Module):
    """Given values in every cell of a map of 2 x 2."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.nn.Identity()
        self.made = torch.tensor(values).view(1, -1, 1, 1)

    def forward(self, x):
        return self.values(self.made.expand(len(x), -1, 2, 2))


@pytest.mark.parametrize("average", [1, 3])
def test_vectors_have_length_1_after_averaging(tiny, average):
    load = partial(load_backbone, tiny.module.network, layers=tiny.sources, average=average)
    plain, unit = load(), load(unit=True)
    crops = crops_of(64, 64)
    (levels, pooled), (shorter, vector) = plain(crops), unit(crops)
    for ours, theirs in zip([*shorter, vector], [*levels, pooled]):
        lengths = np.sqrt((theirs.double().numpy() ** 2).sum(1, keepdims=True))
        np.testing.assert_allclose(ours.numpy(), theirs.double().numpy() / lengths, rtol=1e-5, atol=1e-7)
    assert (plain.unit, unit.unit) == (False, True)
    assert unit.name == f"{plain.name}, unit length"
    assert unit.sha256 == plain.sha256


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1.0, 1e30])
def test_vectors_of_any_size_have_length_1(size):
    (level,), pooled = load_backbone(Values([3 * size, 0.0, -4 * size]), layers=["values"], unit=True)(crops_of(32, 32))
    expected = torch.tensor([0.6, 0.0, -0.8]) if size > 1e-40 else level[0, :, 0, 0]  # too few digits to tell
    torch.testing.assert_close(level, expected.view(1, 3, 1, 1).expand(2, -1, 2, 2))
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(2))


def test_vectors_of_zeros_stay_zeros_and_others_stay_no_numbers():
    crops = crops_of(32, 32)
    (level,), pooled = load_backbone(Values([0.0, 0.0]), layers=["values"], unit=True)(crops)
    assert not level.any()
    assert not pooled.any()
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Features must be finite"):
            extract_features(list(crops), load_backbone(Values([wrong, 1.0]), layers=["values"], unit=True))


def test_squared_distances_of_unit_vectors_are_two_minus_two_cosines():
    pyramid = extract_features(list(crops_of(64, 64)), load_backbone(make_timm(), crop=64, unit=True))
    (one, other) = pyramid.levels[0][:, :, 1, 2].double().numpy()
    cosine = one @ other / np.sqrt((one @ one) * (other @ other))
    assert ((one - other) ** 2).sum() == pytest.approx(2 - 2 * cosine, rel=1e-5)


def test_unit_is_saved_and_fits_saved_before_it_existed_load(tmp_path):
    photos = list(crops_of(60, 60, 3))
    for unit in (False, True):
        folder = tmp_path / str(unit)
        backbone = load_backbone(resize=64, crop=64, unit=unit)
        SPADE(backbone, k=1).fit(photos).save(folder)
        again = SPADE.load(folder)
        assert again.backbone.unit is unit
        with pytest.raises(
            ValueError, match=r"was fitted with efficientnet_lite0.*Use the same backbone, or fit again"
        ):
            SPADE.load(folder, backbone=load_backbone(resize=64, crop=64, unit=not unit))
    record = json.loads((tmp_path / "False" / "spade.json").read_text())
    del record["backbone"]["recipe"]["unit"], record["checksum"]
    (tmp_path / "False" / "spade.json").write_text(json.dumps(record))
    assert SPADE.load(tmp_path / "False").backbone.unit is False


def test_a_fit_of_a_custom_module_is_loaded_only_with_the_same_length(tmp_path, tiny):
    load = partial(load_backbone, tiny.module.network, layers=tiny.sources, resize=72, crop=64)
    SPADE(load(unit=True), k=1).fit(list(crops_of(60, 60, 3))).save(tmp_path)
    assert SPADE.load(tmp_path, backbone=load(unit=True)).backbone.unit
    for other in (load(), load(unit=True, average=3)):
        with pytest.raises(ValueError, match=r"was fitted with TinyNet, unit length, .* Use the same backbone"):
            SPADE.load(tmp_path, backbone=other)


@pytest.mark.usefixtures("unchecked")
def test_unit_is_true_or_false():
    with pytest.raises(ValueError, match="unit must be True or False; got 'yes'"):
        load_backbone(unit="yes")
