"""Lesson 02: what a network sees in an image, how far it looks, and the cost of wrong preprocessing."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import TypeAlias

import numpy as np
import pandas
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import nn

from spade_kit.datasets.samples import GOOD, Sample
from spade_kit.evaluation.metrics import roc_auc
from spade_kit.features.backbones import Backbone, load_backbone
from spade_kit.features.pyramid import Pyramid, compute_features
from spade_kit.figures.style import RING, make_panels, show_picture
from spade_kit.lessons.checking import check_answer, tell
from spade_kit.lessons.material import add_bar, auc_of_kinds, show_grid
from spade_kit.spade import SPADE

Change: TypeAlias = Callable[[np.ndarray], np.ndarray]

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ALIKE = 1e-5  # of a feature's length: rounding error between equal features computed at two places
_RIGHT = "no mistake"


def take_crop(backbone: Backbone, sample: Sample) -> UInt8[np.ndarray, "H W 3"]:
    """The crop of an image that the network receives."""
    photo = sample.image
    return backbone.find_crop(photo).cut(photo)


# ---- how far a feature sees ------------------------------------------------------------------------------------------


def list_convolutions(backbone: Backbone, layer: str) -> list[tuple[int, int]]:
    """The (kernel, stride) of each convolution before a layer, in order, without those of 1 x 1, which add no reach.

    This works for the embedded backbone, where modules are named in the order in which they run.
    """
    last = backbone.sources[backbone.layers.index(layer)]
    names, parts = zip(*backbone.module.get_submodule("network").named_modules())
    end = max(at for at, name in enumerate(names) if name == last or name.startswith(f"{last}."))
    convolutions = [part for part in parts[: end + 1] if isinstance(part, nn.Conv2d)]
    found = [(part.kernel_size[0], part.stride[0]) for part in convolutions]
    return [one for one in found if one != (1, 1)]


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Side in pixels of the square that one cell behind a stack of convolutions can depend on."""
    field = step = 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * step
        step *= stride
    return field


def change_pixel(backbone: Backbone, crop: UInt8[np.ndarray, "H W 3"], row: int, col: int) -> list[np.ndarray]:
    """Change of each cell's feature, (h, w) per level, when one pixel is inverted."""
    changed = crop.copy()
    changed[row, col] = 255 - crop[row, col]
    before, after = (compute_features([photo], backbone) for photo in (crop, changed))
    return [(here - there).norm(dim=1)[0].numpy() for here, there in zip(before.levels, after.levels)]


def trace_back(
    backbone: Backbone, crops: Sequence[UInt8[np.ndarray, "H W 3"]], layer: str, seed: int = 0
) -> Float[np.ndarray, "H W"]:
    """Influence of each pixel on the feature in the middle of a layer: the squared gradient, normalised to sum 1.

    The gradient is that of the feature projected on two random directions; its square is averaged over these
    directions and over the images.
    """
    photos = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255  # (n, 3, H, W)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (backbone.mean, backbone.std))
    x = ((photos - mean) / std).requires_grad_()
    level = backbone.module(x)[0][backbone.layers.index(layer)]
    feature = level[:, :, level.shape[2] // 2, level.shape[3] // 2]  # (n, c)
    generator = torch.Generator().manual_seed(seed)
    pulls = [(feature * torch.randn(feature.shape, generator=generator)).sum() for _ in range(2)]
    asked = [torch.autograd.grad(pull, x, retain_graph=True)[0].square().sum((0, 1)) for pull in pulls]  # (H, W) each
    moved = torch.stack(asked).sum(0).double()
    return (moved / moved.sum()).numpy()


def side_that_holds(part: float, trace: Float[np.ndarray, "H W"], cells: int) -> int:
    """Side in pixels of the smallest square around the middle cell that holds the fraction ``part`` of a trace."""
    away = [abs(np.arange(side) + 0.5 - _middle(cells, side)) for side in trace.shape]
    reach = np.maximum(away[0][:, None], away[1][None]) + 0.5  # (H, W): to the far side of a pixel
    sides = range(1, 2 * max(trace.shape))
    return next(side for side in sides if trace[reach <= side / 2].sum() >= part * trace.sum())


def _middle(cells: int, side: int) -> float:
    """Centre of the middle cell of a grid, in pixels from the edge."""
    return (cells // 2 + 0.5) * side / cells


def measure_similarity(pyramid: Pyramid, row: int, col: int, side: int = 224) -> list[Float[np.ndarray, "h w"]]:
    """Distance of each cell of an image from the cell that holds the pixel (row, col), one grid per level."""
    grids = []
    for level in pyramid.levels:
        h, w = level.shape[2:]
        feature = level[:, :, row * h // side, col * w // side, None, None]
        grids.append((level - feature).norm(dim=1)[0].numpy())
    return grids


def find_alike(grid: Float[np.ndarray, "h w"], count: int, beyond: int = 1) -> list[tuple[int, int]]:
    """(row, col) of the cells at the smallest distances, nearest first, without the probed cell and those beside it."""
    row, col = np.unravel_index(grid.argmin(), grid.shape)
    rows, cols = np.indices(grid.shape)
    far = np.where(np.maximum(abs(rows - row), abs(cols - col)) > beyond, grid, np.inf)
    return [divmod(int(at), grid.shape[1]) for at in far.argsort(axis=None, kind="stable")[:count]]


def count_different(level: Float[torch.Tensor, "1 c h w"]) -> int:
    """Number of different features among the cells of an image."""
    features = level[0].flatten(1).T.double()  # (h w, c)
    distance = torch.cdist(features, features) / features.norm(dim=1).mean()
    return int((distance < _ALIKE).int().argmax(1).unique().numel())


# ---- other features, and other preprocessing -------------------------------------------------------------------------


class Colours(nn.Module):
    """No network at all: the mean colour of each cell, on the grids of strides 4, 8 and 16."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle, self.coarse = (nn.AvgPool2d(stride) for stride in (4, 8, 16))

    def forward(self, x: Float[torch.Tensor, "n 3 H W"]) -> tuple[torch.Tensor, ...]:
        return self.fine(x), self.middle(x), self.coarse(x)


def load_colours() -> Backbone:
    """`Colours` as a backbone."""
    return load_backbone(Colours(), layers=("fine", "middle", "coarse"), pooled="coarse")


def score_by_kind(spades: Mapping[str, SPADE], tests: Sequence[Sample]) -> pandas.DataFrame:
    """Image AUC, one row per fitted SPADE: each kind of defect against all good images, and all kinds together."""
    table = {}
    for name, spade in spades.items():
        scores = np.array([spade.predict(sample).image_score for sample in tests])
        aucs = auc_of_kinds(scores, [sample.label for sample in tests])
        table[name] = {"all": aucs["all"]} | aucs
    return pandas.DataFrame(table).T.map("{:.2f}".format)


def list_ways(backbone: Backbone) -> dict[str, tuple[Backbone, Change]]:
    """Ways to preprocess an image, the right one first: a backbone, and a change made to the image before it."""
    return {
        _RIGHT: (backbone, np.asarray),
        "blue and red swapped": (backbone, lambda photo: np.ascontiguousarray(photo[..., ::-1])),
        "ImageNet's statistics": (replace(backbone, mean=_IMAGENET[0], std=_IMAGENET[1]), np.asarray),
        "0 to 255, not scaled": (replace(backbone, mean=(0.0,) * 3, std=(1 / 255,) * 3), np.asarray),
        "JPEG of quality 15": (backbone, _compress),
        "5 % larger": (backbone, _enlarge),
        "20 % darker": (backbone, lambda photo: (photo * 0.8).astype(np.uint8)),
    }


def _compress(photo: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=15)
    return np.asarray(Image.open(file))


def _enlarge(photo: np.ndarray) -> np.ndarray:
    """The middle of an image, which appears 5 % larger once it is scaled to the network's input size."""
    top, left = (round(side * (1 - 1 / 1.05) / 2) for side in photo.shape[:2])
    return np.ascontiguousarray(photo[top : len(photo) - top, left : photo.shape[1] - left])


def price_mistakes(right: SPADE, normals: Sequence[Sample], tests: Sequence[Sample]) -> pandas.DataFrame:
    """The effect of each way to preprocess images, one row each, the right one first.

    ``AUC everywhere``: normal and test images are both preprocessed this way. ``AUC test only``: only the test images
    are. ``false alarms``: good test images above a threshold set for a false-alarm rate of 5 %, in the latter
    case.
    """
    good = np.array([sample.label == GOOD for sample in tests])
    photos = [[sample.image for sample in some] for some in (normals, tests)]
    threshold, among = right.threshold(fpr=0.05, of="image"), np.arange(len(right))
    table = {}
    for name, (backbone, change) in list_ways(right.backbone).items():
        fitted, judged = ([change(photo) for photo in some] for some in photos)
        wrong = right if name == _RIGHT else SPADE(backbone, k=right.k).fit(fitted)
        seen = [wrong.predict(photo) for photo in judged]
        everywhere = np.array([one.image_score for one in seen])
        test_only = np.array([right.judge(one.source, among).image_score for one in seen])
        table[name] = {
            "AUC everywhere": f"{roc_auc(everywhere, ~good):.2f}",
            "AUC test only": f"{roc_auc(test_only, ~good):.2f}",
            "false alarms": f"{(test_only[good] >= threshold).sum()} of {good.sum()}",
        }
    return pandas.DataFrame(table).T


# ---- figures ---------------------------------------------------------------------------------------------------------


def draw_channels(backbone: Backbone, crop: UInt8[np.ndarray, "H W 3"], count: int = 4) -> Figure:
    """One row per layer: the image in cells of its stride, and the channels that vary most over it."""
    pyramid = compute_features([crop], backbone)
    figure, panels = make_panels(None, len(pyramid.levels) * (count + 1), count + 1, bars=1)
    for row, (name, level) in enumerate(zip(pyramid.layers, pyramid.levels)):
        first, *others = panels[row * (count + 1) : (row + 1) * (count + 1)]
        stride = len(crop) // level.shape[2]
        cells = crop.reshape(level.shape[2], stride, level.shape[3], stride, 3).mean((1, 3)) / 255
        show_picture(first, cells, f"{name}: cells of {stride} x {stride} px")
        chosen = level[0].var((1, 2)).argsort(descending=True)[:count].tolist()
        end = float(level[0, chosen].abs().max())
        for panel, channel in zip(others, chosen):
            title = f"channel {channel} of {level.shape[1]}"
            image = show_grid(panel, level[0, channel].numpy(), title, vmin=-end, vmax=end)
        add_bar(others[-1], image, "feature value")
    return figure


def draw_traces(
    backbone: Backbone, crop: UInt8[np.ndarray, "H W 3"], traces: Mapping[str, Float[np.ndarray, "H W"]]
) -> Figure:
    """Where the middle cell of each layer looks: receptive field (dashed) and square with 90 % of its trace (solid)."""
    figure, (photo, *others) = make_panels(None, 1 + len(traces), bars=1)
    show_picture(photo, crop, "image")
    for panel, (name, trace), level in zip(others, traces.items(), compute_features([crop], backbone).levels):
        cells = level.shape[2]
        field, most = receptive_field(*zip(*list_convolutions(backbone, name))), side_that_holds(0.9, trace, cells)
        image = show_grid(panel, trace, f"{name}: {field} px, 90 % in {most} px", norm=LogNorm(1e-8, 1e-2, clip=True))
        middle = _middle(cells, len(crop))
        _draw_square(panel, middle, field, "white", "dashed")
        _draw_square(panel, middle, most, RING, "solid")
        _draw_square(photo, middle, most, RING, "solid")
    add_bar(others[-1], image, "fraction of the trace")
    return figure


def draw_similarity(
    backbone: Backbone, crop: UInt8[np.ndarray, "H W 3"], grids: Sequence[Float[np.ndarray, "h w"]]
) -> Figure:
    """Distance of each cell from the probed one (circle), and the three most similar cells elsewhere (crosses)."""
    figure, (photo, *others) = make_panels(None, 1 + len(grids), bars=1)
    show_picture(photo, crop, "image")
    for panel, name, grid in zip(others, backbone.layers, grids):
        title = f"{name} (crosses: most similar)"
        image = show_grid(panel, grid / np.median(grid), title, vmin=0, vmax=1.5, extent=_extent(len(crop)))
        asked, *alike = [
            (np.array(at) + 0.5) * len(crop) / len(grid) - 0.5
            for at in (np.unravel_index(grid.argmin(), grid.shape), *find_alike(grid, 3))
        ]
        for one in [panel, photo] if panel is others[0] else [panel]:
            for colour, width in (("white", 4), (RING, 2)):
                one.plot(*asked[::-1], "o", markersize=13, mfc="none", mec=colour, mew=width)
        for at in alike:
            panel.plot(*at[::-1], "X", markersize=8, mfc=RING, mec="white", mew=1)
    add_bar(others[-1], image, "distance / median of the layer")
    return figure


def draw_mistakes(backbone: Backbone, photo: UInt8[np.ndarray, "H W 3"]) -> Figure:
    """The input of the network in each case, shown as if it were normalised for these weights."""
    ways = list_ways(backbone)
    figure, panels = make_panels(None, len(ways), 4, side=2.0)
    for panel, (name, (other, change)) in zip(panels, ways.items()):
        changed = change(photo)
        taken = (other.find_crop(changed).cut(changed) / 255 - other.mean) / other.std  # (H, W, 3)
        show_picture(panel, (taken * backbone.std + backbone.mean).clip(0, 1), name)
    return figure


def draw_padding(pyramid: Pyramid, side: int = 224) -> Figure:
    """Distance of each cell of a uniform image from the centre cell, relative to the length of the centre feature."""
    figure, panels = make_panels(None, len(pyramid.levels), bars=1)
    for panel, name, level in zip(panels, pyramid.layers, pyramid.levels):
        middle = level[:, :, level.shape[2] // 2, level.shape[3] // 2, None, None]
        away = ((level - middle).norm(dim=1) / middle.norm())[0].numpy()
        title = f"{name}: {count_different(level)} different features"
        image = show_grid(panel, away, title, vmin=0, vmax=1, extent=_extent(side))
    add_bar(panels[-1], image, "distance / length of the centre feature")
    return figure


def _extent(side: int) -> tuple[float, float, float, float]:
    """Extent of a grid that is shown at the size of the crop."""
    return -0.5, side - 0.5, side - 0.5, -0.5


def _draw_square(panel: Axes, middle: float, side: float, colour: str, style: str) -> None:
    """A square around a place (in pixels from the edge of the crop), cut off where the crop ends."""
    limits = {"xlim": panel.get_xlim(), "ylim": panel.get_ylim()}
    corner = middle - side / 2 - 0.5
    panel.add_patch(Rectangle((corner, corner), side, side, fill=False, ec=colour, ls=style, lw=1.6))
    panel.set(**limits)


# ---- the exercise ----------------------------------------------------------------------------------------------------

_STACKS = [((7, 7, 3), (2, 3, 1)), ((7, 3), (2, 2)), ((3,), (1,)), ((5, 3, 5, 3), (1, 2, 2, 2))]


def check(field: Callable[[Sequence[int], Sequence[int]], int]) -> None:
    """Check that ``field`` gives the receptive field behind convolutions with these kernels and strides."""
    right = "For layer3 of our network your formula gives 339 px."
    tell(lambda: [field(list(kernels), list(strides)) for kernels, strides in _STACKS], _find_mistake, right)


def _find_mistake(answers: Sequence[int]) -> str | None:
    for answer, (kernels, strides) in zip(answers, _STACKS):
        if not isinstance(answer, Real):
            return f"The answer must be one number, the side in pixels; got a {type(answer).__name__}."
        if answer == (right := receptive_field(kernels, strides)):
            continue
        told = f"With kernels {kernels} and strides {strides} the field is {right} px; got {answer}."
        return f"{told} {_list_mistakes(kernels, strides).get(answer, '')}".rstrip()
    return None


def _list_mistakes(kernels: Sequence[int], strides: Sequence[int]) -> dict[int, str]:
    """What leads to each wrong answer for a stack of convolutions."""
    reach = np.array(kernels) - 1  # in cells of the grid before each convolution
    steps = np.cumprod([1, *strides])  # pixels between these cells; the last entry is the stride of the output
    strideless = "Strides matter: behind a stride of 2, one cell farther is 2 pixels farther."
    too_wide = "A kernel of 3 reaches 2 cells farther, not 3: take kernel - 1."
    backwards = "That begins at the wrong end: kernels and strides are listed from the image onwards."
    return {
        1 + reach.sum(): strideless,
        reach.sum(): f"{strideless} And begin with 1.",
        1 + reach @ steps[1:]: "A stride counts for the convolutions behind it: add first, then multiply the step.",
        1 + reach @ strides: "A stride counts for the convolutions behind it, for all of them: multiply the steps.",
        reach @ steps[:-1]: "The starting pixel is missing: begin with 1.",
        1 + np.array(kernels) @ steps[:-1]: too_wide,
        np.array(kernels) @ steps[:-1]: f"{too_wide} And begin with 1.",
        1 + (reach // 2) @ steps[:-1]: "That is one side only: a kernel of 3 looks left and right.",
        1 + reach @ [1, *strides[:-1]]: "Steps multiply: behind strides of 2 and 3, one cell farther is 6 pixels.",
        1 + reach.sum() * steps[-1]: "The first kernel works in steps of 1: add first, then multiply the step.",
        receptive_field(kernels[::-1], strides[::-1]): backwards,
        receptive_field(kernels[::-1], strides): f"Only the strides are in order. {backwards}",
        receptive_field(kernels[:-1], strides[:-1]): "The last convolution is missing.",
        receptive_field(kernels[1:], strides[1:]): "The first convolution is missing.",
        sum(kernels): "Kernels overlap, so their sides do not add up; and their steps grow with the strides.",
        int(np.prod(kernels)): "Kernels reach farther by kernel - 1 each: that adds up, it does not multiply.",
        steps[-1]: "That is the spacing between cells of the grid, not the field of each cell.",
        receptive_field(kernels, strides) ** 2: "That is the number of pixels in the square: its side is asked for.",
    }


def check_shape(shape: tuple[int, int, int]) -> None:
    """Check the shape of layer2 for a crop of 448 x 448 pixels."""
    told: dict[tuple[int, ...], str] = {
        (40, 28, 28): "That is its shape for a crop of 224 x 224: stride 8 is the same for every crop.",
        (80, 56, 56): "The number of channels does not depend on the size of the image.",
        (80, 28, 28): "A larger image has more cells; the number of channels stays the same.",
        (56, 56, 40): "The channels come first: (c, h, w).",
        (24, 112, 112): "That is layer1: layer2 has stride 8.",
        (112, 28, 28): "That is layer3: layer2 has stride 8.",
    }
    otherwise = "The table gives channels and stride of layer2: how many times does the stride fit into the side?"
    right = "Twice the side, four times the cells; the channels stay the same."
    tell(lambda: shape, lambda _: None if tuple(shape) == (40, 56, 56) else told.get(tuple(shape), otherwise), right)


def check_think(cells: int) -> None:
    """Check how many cells of a layer of stride 16 and field 75 one pixel can change at most."""
    mistakes = {
        "That is one row of cells: the grid has two directions.": 5,
        "75 / 16 is 4.7: some pixels lie in only 4 fields of a row, others in 5. And the grid has two directions.": 4,
        "75 / 16 is 4.7: some pixels lie in only 4 fields of a row, others in 5. Take the most.": 16,
        "Six fields begin 16 px apart over 80 px: no pixel lies in all of them.": 36,
        "That is the cell whose 16 x 16 pixels hold the pixel. Its neighbours look farther than their own pixels.": 1,
        "Those are the pixels that one cell sees: how many cells see one pixel?": 75**2,
    }
    otherwise = "Count the fields of 75 px in a row that can hold one pixel, if they begin 16 px apart; then square."
    right = (
        "The rule gives the 5 x 5 and 9 x 9 cells of layer1 and layer2, too: fields of 19 and 67 px, strides 4 and 8."
    )
    check_answer(cells, 25, mistakes, otherwise, right)
