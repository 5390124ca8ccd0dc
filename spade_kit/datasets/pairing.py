"""Tell masks from images by their names and folders, and find the mask of each image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path, PurePath

from spade_kit.datasets.images import MaskPath, walk
from spade_kit.datasets.naming import MASK_NAMES, fold, plain, strip_mark


def pair(photos: Collection[Path], folder: Path, masks: Path | None = None) -> tuple[list[Path], dict[Path, MaskPath]]:
    """Separate the images in and below a folder from masks, and find the mask of each image that has one.

    Masks are in the folder ``masks`` under the names of the images; below ``folder`` in a folder called ``masks`` or,
    for the images in ``bad``, ``bad_masks``; or beside their image under its name and a mark, such as ``000_mask``.
    """
    known = {fold(str(path)) for photo in photos for path in (photo.with_suffix(""), *photo.parents)}

    def is_named_after(path: Path) -> bool:
        """Whether a name is that of an image or folder beside it, and a mark."""
        bare = strip_mark(path.name)
        return bare != path.name and fold(str(path.with_name(bare))) in known

    def place_of(path: Path) -> PurePath:
        """Where below the folder the image of a mask is; for an image, where it is itself."""
        below = path.relative_to(folder)
        entered = [folder / one for one in list(below.parents)[-2::-1]]
        left = [one for one in entered if plain(one.name) not in MASK_NAMES]
        return PurePath(*(strip_mark(one.name) if is_named_after(one) else one.name for one in left), below.stem)

    places = {photo: place_of(photo) for photo in photos}
    apart = {photo: at for photo, at in places.items() if at.parent != photo.relative_to(folder).parent}
    images = {photo: at for photo, at in places.items() if photo not in apart}
    truth = _match(images, apart | ({} if masks is None else _list_masks(masks)))
    beside = {photo: at for photo, at in images.items() if photo not in truth and is_named_after(photo.with_suffix(""))}
    bare = {photo: at for photo, at in images.items() if photo not in truth and photo not in beside}
    return [photo for photo in images if photo not in beside], truth | _match(bare, beside)


def _list_masks(folder: Path) -> dict[Path, PurePath]:
    """The masks in a folder, files and folders of several, with their paths below it, without suffix."""
    files = {path: path.relative_to(folder) for listing in walk(folder) for path in listing.images}
    several = {mask.parent: at.parent for mask, at in files.items() if len(at.parts) > 2}
    return {**several, **{mask: at.with_suffix("") for mask, at in files.items()}}


def _match(images: dict[Path, PurePath], masks: dict[Path, PurePath]) -> dict[Path, MaskPath]:
    """The masks of images by their places: exact names first, then those that differ in upper case, blanks and hyphens.

    Names with or without a mark, whichever fit more images, come first. No mask is taken twice, except by images whose
    names differ only in the suffix.
    """
    truth: dict[Path, MaskPath] = {}
    free = dict(masks)

    def find(alike: Callable[[str], str], bare: Callable[[str], str]) -> dict[Path, list[Path]]:
        named = defaultdict(list)
        for mask, at in free.items():
            named[alike(at.with_name(bare(at.name)).as_posix())].append(mask)
        found = {image: named.get(alike(at.as_posix()), []) for image, at in images.items() if image not in truth}
        return {image: held for image, held in found.items() if held}

    for alike in (str, plain):
        while found := max(find(alike, strip_mark), find(alike, str), key=len):
            for image, held in found.items():
                closest = sorted(held, key=lambda mask: mask.suffix == image.suffix)
                chosen = tuple({mask.with_suffix(""): mask for mask in closest}.values())
                truth[image] = chosen if len(chosen) > 1 else chosen[0]
            free = {mask: at for mask, at in free.items() if not any(mask in held for held in found.values())}
    return truth
