"""Masks that no name marks, told by their few colours: beside an image of the same name, or in a folder beside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from spade_kit._arguments import spread_evenly
from spade_kit.datasets.images import count_colours
from spade_kit.datasets.naming import (
    BAD_NAMES,
    GOOD_NAMES,
    LABEL_NAMES,
    MASK_NAMES,
    TEST_NAMES,
    TRAIN_NAMES,
    UNSORTED_NAMES,
    fold,
    plain,
    strip_mark,
)

_READ = 6  # so many files tell whether all of their kind are masks
_GUESSED = 10  # so many names of folders are tried
_TOLD = GOOD_NAMES | BAD_NAMES | UNSORTED_NAMES | TRAIN_NAMES | TEST_NAMES | MASK_NAMES  # what folders of these hold


def find_twins(photos: Collection[Path]) -> dict[Path, str]:
    """The masks beside an image, with its name: 000.png of 000.jpg, and 000_anno.png or anno_000.png of 000.

    All masks have the same extension, and add the same to the name.
    """
    named = defaultdict[str, list[Path]](list)
    twins = defaultdict[tuple[str, str], dict[Path, str]](dict)  # by addition and extension: mask -> name of its image
    images = defaultdict[tuple[str, str], set[Path]](set)
    for photo in photos:
        named[fold(str(photo.with_suffix("")))].append(photo)
    for photo in photos:
        place = str(photo.parent / "_")[:-1]
        for name, addition in _split(photo.stem):
            if others := {*named.get(fold(place + name), ())} - {photo}:
                kind = addition.lower(), photo.suffix.lower()
                twins[kind][photo] = name
                images[kind] |= others
                break
    drawn = [kind for kind, held in twins.items() if are_drawn([*held], 2 if kind[0] else 1)]
    told = [kind for kind in drawn if not are_drawn(sorted(images[kind]), 1)]
    return {photo: name for kind in told for photo, name in twins[kind].items()}


def _split(stem: str) -> Iterator[tuple[str, str]]:
    """A name, and shorter ones without what may have been added at its end or beginning; and the addition."""
    yield stem, ""
    for at in range(len(stem) - 1, 0, -1):
        before, after = stem[at - 1], stem[at]
        if before.isalnum() and not (before.isalpha() and after.islower()) and not (before + after).isdigit():
            yield stem[:at], f"*{stem[at:]}"
    for at in range(1, len(stem)):
        before, after = stem[at - 1], stem[at]
        if after.isalnum() and not before.isalnum():
            yield stem[at:], f"{stem[:at]}*"


def find_apart(photos: Collection[Path], folder: Path) -> set[Path]:
    """Folders of masks of images beside or in folders beside: labels/000.png, or labels/bad/000.png, of bad/000.png."""
    held, named = defaultdict[Path, list[Path]](list), defaultdict[tuple[str, str], list[Path]](list)
    for photo in photos:
        named[str(photo.parent), fold(photo.stem)].append(photo)
        for one in [*photo.parents][: len(photo.relative_to(folder).parts) - 1]:
            held[one].append(photo)
            named[str(one.parent), fold(photo.stem)].append(photo)

    def find_images(mask: Path, one: Path) -> list[Path]:
        names = (strip_mark(mask.stem), *(name for name, _ in _split(mask.stem)))
        alike = (named.get((str(one.parent), fold(name)), ()) for name in names)
        return next(filter(None, ([photo for photo in some if one not in photo.parents] for some in alike)), [])

    def are_masks(one: Path, files: Sequence[Path]) -> bool:
        if not (all(find_images(file, one) for file in files) and are_drawn(files, 2)):
            return False
        return not are_drawn([min(find_images(file, one)) for file in files], 1)

    return {one for one, files in held.items() if plain(one.name) not in _TOLD and are_masks(one, files)}


def find_folders(photos: Collection[Path], folder: Path, least: int = 2) -> dict[Path, str]:
    """Folders of masks with the name of the folder beside that holds the images: label, and img; "" if it is below it.

    Beside each other at the top, where folders are kinds, that of the images must have a name such as ``images``.
    Where no name says so, one of the masks must have at least so many colours: blank images have one.
    """
    held, places = defaultdict(list), defaultdict(set)
    for photo in photos:
        places[fold(str(photo.with_suffix("")))].add(photo.parent)
        for one in [*photo.parents][: len(photo.relative_to(folder).parts) - 1]:
            held[one].append(photo)
            places[_place(photo, one, photo.stem)].add(one)

    def find_partners(photo: Path, one: Path) -> set[str]:
        beside = {other for stem in (photo.stem, strip_mark(photo.stem)) for other in places[_place(photo, one, stem)]}
        names = {other.name for other in beside - {one} if other.parent == one.parent}
        kept = names if one.parent != folder else {name for name in names if plain(name) in UNSORTED_NAMES}
        return kept | ({""} if beside - {one} - {one.parent / name for name in names} else set())

    partners: dict[Path, str] = {}
    tried: dict[str, list[Path]] = defaultdict(list)
    for one, files in list(held.items()):
        found = [find_partners(photo, one) for photo in files]
        if all(found) or (plain(one.name) in MASK_NAMES and any(found)):
            partners[one] = max(set().union(*found))
            tried[plain(one.name)] += files
    likely = sorted(tried, key=lambda name: -len(tried[name]))[:_GUESSED]
    drawn = {
        name for name in likely if name in MASK_NAMES or are_drawn(tried[name], 1 if name in LABEL_NAMES else least)
    }
    return {
        one: partner
        for one, partner in partners.items()
        if plain(one.name) in drawn - {plain(partner)}
        and (plain(one.name) in MASK_NAMES | LABEL_NAMES or plain(partner) not in drawn)
        and plain(partner) not in MASK_NAMES
    }


def _place(photo: Path, one: Path, stem: str) -> str:
    """Where an image would be if a folder above it were left out."""
    return fold(str(one.parent / photo.relative_to(one).with_name(stem)))


def are_drawn(files: Sequence[Path], least: int = 1) -> bool:
    """Whether some of these files have few colours, and one of them at least so many."""
    most = 0
    for at in spread_evenly(len(files), _READ):
        if (colours := count_colours(files[at])) == 0:
            return False
        most = max(most, colours)
    return most >= least
