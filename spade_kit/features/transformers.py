"""Vision transformers: maps of several blocks at one stride, and the class token as the vector of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import isqrt
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.backends import mha
from torchvision.models import VisionTransformer

from spade_kit._arguments import HeldSetting

_MOST_PREFIXES = 9  # a class token and eight registers
# Torch's fast path for attention: on a CPU it holds the weights of all pairs of tokens at once.
_without_fast_path = HeldSetting(mha.get_fastpath_enabled, mha.set_fastpath_enabled, False)


class Blocks(nn.Module):
    """A vision transformer, read at some of its blocks, each through its final norm; all levels share one grid.

    The vector of an image is the class token of the last block, whichever blocks are read; without a class token it is
    the mean of the last block's patches. By default four blocks are read: of 12 the blocks 3, 6, 9 and 11.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.stride = max(info["reduction"] for info in network.feature_info)
        depth = len(network.feature_info)
        self.chosen = sorted({depth // 4, depth // 2, 3 * depth // 4, depth - 1})
        names = [name for name, _ in network.named_parameters()]
        self.has_class_token = any(name.endswith(("cls_token", "class_token")) for name in names)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(f"blocks.{number}" for number in self.chosen)

    def choose(self, layers: Sequence[str]) -> None:
        """Read these blocks, named ``blocks.0``, ... or as the network names them."""
        own = {info["module"]: number for number, info in enumerate(self.network.feature_info)}
        numbers = own | {f"blocks.{number}": number for number in own.values()}
        for layer in layers:
            if layer not in numbers:
                raise ValueError(
                    f"A layer of this vision transformer must be one of its blocks, blocks.0 to blocks.{len(own) - 1}; "
                    f"got {layer!r}."
                )
        self.chosen = [numbers[layer] for layer in layers]
        check_order(self.sources, [f"blocks.{number}" for number in sorted(set(self.chosen))])

    def forward(self, x: Float[Tensor, "n 3 H W"]) -> tuple[list[Tensor], Tensor]:
        tokens, maps = self.network.forward_intermediates(x, indices=self.chosen, norm=True)
        if isinstance(getattr(self.network, "norm", None), nn.Identity):  # then timm norms the mean of the patches only
            norm = self.network.fc_norm
            tokens, maps = norm(tokens), [norm(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for level in maps]
        tokens = tokens.flatten(1, -2)  # some give (n, h, w, c)
        return maps, find_vector(tokens, self.network.num_prefix_tokens, self.has_class_token)


class TorchvisionTransformer(nn.Module):
    """A vision transformer of torchvision that works like timm's, at any size: its positions are interpolated."""

    num_prefix_tokens = 1

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        blocks = [f"encoder.layers.{name}" for name, _ in network.encoder.layers.named_children()]
        self.feature_info = [{"module": name, "reduction": network.patch_size} for name in blocks]

    def forward_intermediates(
        self, x: Float[Tensor, "n 3 H W"], indices: Sequence[int], norm: bool
    ) -> tuple[Float[Tensor, "n t c"], list[Float[Tensor, "n c h w"]]]:
        from timm.layers import resample_abs_pos_embed

        network, encoder = self.network, self.network.encoder
        patches = network.conv_proj(x)  # (n, c, h, w)
        height, width = patches.shape[2:]
        side = network.image_size // network.patch_size
        places = resample_abs_pos_embed(encoder.pos_embedding, [height, width], [side, side], num_prefix_tokens=1)
        first = network.class_token.expand(len(x), -1, -1)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1) + places  # (n, 1 + h * w, c)
        finish = encoder.ln if norm else nn.Identity()
        maps = []
        with _without_fast_path:
            for number, block in enumerate(encoder.layers):
                tokens = block(tokens)
                if number in indices:
                    maps.append(as_map(finish(tokens)[:, 1:], height, width))
        return finish(tokens), maps


def check_order(layers: Sequence[str], order: Sequence[str]) -> None:
    """Check that layers of one size are named in the order in which they run."""
    if list(layers) != list(order):
        raise ValueError(
            "layers must name each block once, in the order in which the blocks run; got "
            f"{', '.join(layers)}. Use {', '.join(order)}."
        )


def as_map(patches: Float[Tensor, "n t c"], height: int, width: int) -> Float[Tensor, "n c h w"]:
    return patches.transpose(1, 2).unflatten(2, (height, width))


def find_vector(tokens: Float[Tensor, "n t c"], prefixes: int, has_class_token: bool) -> Float[Tensor, "n c"]:
    """The class token, which comes first, or else the mean of the patches."""
    return tokens[:, 0] if has_class_token else tokens[:, prefixes:].mean(1)


def find_grid(name: str, count: int, size: tuple[int, int], prefixes: int | None) -> tuple[int, int, int]:
    """The tokens before the patches, and the (rows, columns) of the patches, of ``count`` tokens of an image.

    The grid is a square for square images, and otherwise that of square patches. Where the number of prefix tokens is
    not known, it is the only one for which patches fill the image exactly.
    """
    known = [prefixes] if prefixes is not None else range(min(_MOST_PREFIXES, count // 2) + 1)
    grids = [(prefix, *grid) for prefix in known for grid in _grids(count - prefix, size, prefixes is None)]
    if len(grids) == 1:
        return grids[0]
    before = "an unknown number of prefix tokens" if prefixes is None else f"{prefixes} prefix tokens"
    several = ", or ".join(f"{prefix} and {rows} x {columns}" for prefix, rows, columns in grids)
    raise ValueError(
        f"The tokens at {name} must be prefix tokens and a grid of patches; got {count} for an image of {size[0]} x "
        f"{size[1]} px, with {before}{f', which may be {several}' if several else ''}. "
        "Set num_prefix_tokens of the module, or name a layer that returns maps (n, c, h, w)."
    )


def _grids(patches: int, size: tuple[int, int], exact: bool) -> list[tuple[int, int]]:
    """The grids of square patches that have this many cells; there is at most one."""
    height, width = size
    if not exact and height == width:
        root = isqrt(max(patches, 0))
        return [(root, root)] if 0 < root**2 == patches else []
    sides = [side for side in range(1, min(size) + 1) if not exact or height % side == width % side == 0]
    grids = {(height // side, width // side) for side in sides}
    return [(rows, columns) for rows, columns in grids if rows * columns == patches]


def is_timm_transformer(network: nn.Module) -> bool:
    """Whether timm's interface to this network offers blocks at one stride, with prefix tokens or none."""
    info = getattr(network, "feature_info", None)
    offers = hasattr(network, "forward_intermediates") and getattr(network, "num_prefix_tokens", None) is not None
    return offers and isinstance(info, list) and len({level["reduction"] for level in info}) == 1


def find_blocks(network: nn.Module) -> Blocks | None:
    """The blocks of a vision transformer of timm or torchvision; None for any other network."""
    if is_timm_transformer(network):
        return Blocks(network)
    return Blocks(TorchvisionTransformer(network)) if isinstance(network, VisionTransformer) else None


def find_creator(name: str) -> Callable[..., nn.Module]:
    """How timm builds a network whose levels can be read, for images of any size where it can."""
    create: Callable[..., nn.Module] = partial(timm.create_model, name)
    with torch.random.fork_rng(devices=()), torch.device("meta"):  # shapes without numbers: quick
        transformer = is_timm_transformer(create())
        plain = partial(create, num_classes=0) if transformer else partial(create, features_only=True)
        any_size = partial(plain, dynamic_img_size=True) if transformer else partial(plain, strict_img_size=False)
        try:
            any_size()
        except TypeError:  # not an option of this network
            return plain
    return any_size
