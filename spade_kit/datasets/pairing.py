"""Tell masks from images by their names and folders, and find the mask of each image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path, PurePath

from spade_kit.datasets.drawn import are_masks, find_folders, find_twins
from spade_kit.datasets.images import MaskPath, walk
from spade_kit.datasets.naming import GOOD, MASK_NAMES, as_label, fold, list_numbers, plain, strip_mark


def pair(
    photos: Collection[Path], folder: Path, masks: Path | None = None, least: int = 2
) -> tuple[list[Path], dict[Path, MaskPath]]:
    """Separate the images in and below a folder from masks, and find the mask of each image that has one.

    Masks are in the folder ``masks`` under the names of the images; below ``folder`` in a folder called ``masks`` (or
    ``labels``, if all its images have such names) or, for the images in ``bad``, ``bad_masks``; or beside their image
    under its name and a mark, such as ``000_mask``. Where names leave it open, few colours tell a mask: see `drawn`.
    """
    below = {photo.parent for photo in photos}
    folders = {one for parent in below for one in (parent, *parent.parents)}
    known = {fold(str(path)) for path in (*folders, *(photo.with_suffix("") for photo in photos))}

    def is_named_after(path: Path) -> bool:
        """Whether a name is that of an image or folder beside it, and a mark."""
        bare = strip_mark(path.name)
        return bare != path.name and fold(str(path.with_name(bare))) in known

    partners = find_folders(photos, folder, least)

    def leave_masks(parent: Path) -> PurePath:
        """The folder of the images whose masks are in a folder, relative to the whole; of images, their own."""
        entered = [folder / one for one in list((parent / "file").relative_to(folder).parents)[-2::-1]]
        left = [one for one in entered if one in partners or plain(one.name) not in MASK_NAMES]
        names = (partners.get(one, strip_mark(one.name) if is_named_after(one) else one.name) for one in left)
        return PurePath(*filter(None, names))

    own: dict[Path, PurePath] = {parent: parent.relative_to(folder) for parent in below}
    homes = {parent: leave_masks(parent) for parent in below}
    apart = {photo: homes[photo.parent] / photo.stem for photo in photos if homes[photo.parent] != own[photo.parent]}
    twins = find_twins([photo for photo in photos if photo not in apart], least)
    apart |= {photo: own[photo.parent] / name for photo, name in twins.items()}
    apart |= {
        photo: own[photo.parent] / photo.stem for photo in _find_marked([one for one in photos if one not in apart])
    }
    images = {photo: own[photo.parent] / photo.stem for photo in photos if photo not in apart}
    truth = _match(images, apart | ({} if masks is None else _list_masks(masks)))
    beside = {photo: at for photo, at in images.items() if photo not in truth and is_named_after(photo.with_suffix(""))}
    bare = {photo: at for photo, at in images.items() if photo not in truth and photo not in beside}
    return [photo for photo in images if photo not in beside], truth | _match(bare, beside)


def _find_marked(photos: list[Path]) -> list[Path]:
    """Files with names such as 000_mask and few colours, of an image or not, if files with other names have many."""
    others = list[Path]()
    marked = defaultdict[Path, list[Path]](list)
    for photo in photos:
        (others if strip_mark(photo.stem) == photo.stem else marked[photo.parent]).append(photo)
    return [mask for held in marked.values() if others and are_masks(held, others, 2) for mask in held]


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
            taken = {mask for held in found.values() for mask in held}
            free = {mask: at for mask, at in free.items() if mask not in taken}
    truth |= _match_below({image: at for image, at in images.items() if image not in truth}, free)
    named = {masks[mask].parent for held in truth.values() for mask in (held if isinstance(held, tuple) else [held])}
    return truth | _match_numbers(images, {mask: at for mask, at in masks.items() if at.parent not in named}, truth)


def _match_below(images: dict[Path, PurePath], masks: dict[Path, PurePath]) -> dict[Path, MaskPath]:
    """The masks of images in folders below that of the masks, where one image alone has the name; a defect, if any."""
    named = defaultdict[str, list[Path]](list)
    for image, at in images.items():
        named[at.name].append(image)
    truth: dict[Path, MaskPath] = {}
    for mask, at in masks.items():
        alike = {image: images[image] for image in named[strip_mark(at.name)] or named[at.name]}
        if len(alone := _list_below(at.parent, alike)) == 1:
            truth[alone[0]] = mask
    return truth


def _list_below(folder: PurePath, images: dict[Path, PurePath]) -> list[Path]:
    """The images of defects in and below a folder, or if there are none, of good parts."""
    below = [image for image, at in images.items() if folder in at.parents]
    return [image for image in below if GOOD not in map(as_label, images[image].parts[:-1])] or below


def _match_numbers(
    images: dict[Path, PurePath], masks: dict[Path, PurePath], known: Collection[Path]
) -> dict[Path, MaskPath]:
    """The masks of images by the numbers that end their names, as mask_005 of cam1_5, if each of a folder fits one."""
    truth: dict[Path, MaskPath] = {}
    for folder in {at.parent for at in masks.values()}:
        numbered = defaultdict[tuple[int, ...], list[Path]](list)
        for image in _list_below(folder, images):
            numbers = list_numbers(image.stem)
            for first in range(len(numbers)):
                numbered[numbers[first:]].append(image)
        fitting = {
            mask: numbered[list_numbers(strip_mark(at.name))] for mask, at in masks.items() if at.parent == folder
        }
        found = {image: mask for mask, alike in fitting.items() for image in alike}
        if all(len(alike) == 1 for alike in fitting.values()) and len(found) == len(fitting):
            truth |= {} if found.keys() & known else found
    return truth
