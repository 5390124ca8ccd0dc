"""Which layers of a network are read as levels of a pyramid, and as the vector of an image."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spade_kit._arguments import suggest
from spade_kit.features.transformers import as_map, check_order, find_grid, find_vector

_STRIDES = range(4, 17)  # px per cell: finer levels show only edges and are slow, coarser ones lose the position
_PROBE = 224  # px: side of the input that reveals a network's strides; a multiple of 32, so that they are exact
_NEEDED = "Features must be real numbers in a dense tensor, at least one per image"
_hooking = threading.Lock()  # torch counts hooks without one


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


class TimmFeatures(nn.Module):
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


class Adapted(nn.Module):
    """A network with levels averaged over ``side`` x ``side`` cells, fewer at the border, or with vectors of length 1.

    With ``unit``, the vector of each cell of a level, after averaging, and that of the image have it; zeros stay zeros.
    """

    def __init__(self, network: nn.Module, side: int, unit: bool) -> None:
        super().__init__()
        self.network, self.side, self.unit = network, side, unit

    def forward(self, x: Float[Tensor, "n 3 H W"]) -> tuple[list[Tensor], Tensor]:
        levels, pooled = self.network(x)
        if self.side > 1:
            pool = partial(nn.functional.avg_pool2d, kernel_size=self.side, stride=1, padding=self.side // 2)
            levels = [pool(level, count_include_pad=False) for level in levels]
        return ([_to_unit(level) for level in levels], _to_unit(pooled)) if self.unit else (levels, pooled)


def _to_unit(vectors: Float[Tensor, "n c ..."]) -> Float[Tensor, "n c ..."]:
    largest = vectors.abs().amax(1, keepdim=True)
    vectors = vectors / torch.where(largest > 0, largest, 1)  # the squares of large and of tiny values are no numbers
    return nn.functional.normalize(vectors, dim=1)


class Taps(nn.Module):
    """Any network, with the outputs of named submodules as levels: maps, or tokens of a vision transformer."""

    def __init__(self, network: nn.Module, layers: tuple[str, ...], pooled: str) -> None:
        super().__init__()
        self.network, self.sources, self.pooled = network, layers, pooled
        prefixes: Any = getattr(network, "num_prefix_tokens", None)
        self.prefixes = prefixes if isinstance(prefixes, int) else None
        self.has_class_token = getattr(network, "cls_token", 0) is not None  # if there are prefix tokens at all
        known = dict(network.named_modules())
        for layer in (*layers, pooled):
            if layer not in known:
                hint = suggest(layer, [*known]) or f" It has: {listing(network)}."
                raise ValueError(f"A layer must be the name of a submodule of the network; got {layer!r}.{hint}")

    def forward(self, x: Float[Tensor, "n 3 H W"]) -> tuple[list[Tensor], Tensor]:
        outputs = _record(self.network, {*self.sources, self.pooled}, x)
        *levels, vector = (as_features(layer, outputs.get(layer)) for layer in (*self.sources, self.pooled))
        of_tokens = [layer for layer, level in zip(self.sources, levels) if level.ndim == 3]
        check_order(of_tokens, [layer for layer in outputs if layer in of_tokens])  # maps tell it by their size
        size = x.shape[2], x.shape[3]
        levels = [self._as_map(layer, level, size) for layer, level in zip(self.sources, levels)]
        if vector.ndim == 3:
            prefixes, _, _ = find_grid(self.pooled, vector.shape[1], size, self.prefixes)
            vector = find_vector(vector, prefixes, prefixes > 0 and self.has_class_token)
        return levels, vector if vector.ndim < 3 else vector.mean(tuple(range(2, vector.ndim)))

    def _as_map(self, layer: str, level: Tensor, size: tuple[int, int]) -> Tensor:
        if level.ndim != 3:
            return level
        prefixes, rows, columns = find_grid(layer, level.shape[1], size, self.prefixes)
        return as_map(level[:, prefixes:], rows, columns)


def _record(network: nn.Module, names: set[str], x: Tensor) -> dict[str, Tensor]:
    """The outputs of named submodules during one pass, in the order in which they finish."""
    outputs: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if threading.get_ident() == thread:  # others may run the network, too
                outputs[name] = output

        return hook

    with _hooking:
        hooks = [part.register_forward_hook(keep(name)) for name, part in network.named_modules() if name in names]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def runs_at(module: nn.Module, height: int, width: int) -> bool:
    """Whether a network takes images of this size; asked of a copy whose tensors have shapes but hold no numbers."""
    tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
    shapes = copy.deepcopy(module, {id(tensor): tensor.detach().to("meta") for tensor in tensors})
    try:
        with torch.inference_mode():
            shapes.eval()(torch.empty(1, 3, height, width, device="meta"))
    except Exception:  # every network refuses in its own way
        return False
    return True


def maps_by_stride(network: nn.Module) -> tuple[tuple[str, ...], str]:
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


def listing(network: nn.Module) -> str:
    return ", ".join(name for name, _ in network.named_children())
