"""Masks that no name marks, told by their few colours: beside an image of the same name, or in a folder beside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from spade_kit._arguments import spread_evenly
from spade_kit.datasets.images import count_colours
from spade_kit.datasets.naming import LABEL_NAMES, MASK_NAMES, UNSORTED_NAMES, fold, plain, strip_mark

_READ = 6  # so many files tell whether all of their kind are masks
_GUESSED = 10  # so many names of folders are tried


def find_twins(photos: Collection[Path]) -> set[Path]:
    """The masks that have the name of an image beside them and another extension: 000.png of 000.jpg."""
    named, twins = defaultdict(list), defaultdict(list)
    for photo in photos:
        named[fold(str(photo.with_suffix("")))].append(photo)
    for photo in (photo for several in named.values() if len(several) > 1 for photo in several):
        twins[photo.suffix.lower()].append(photo)
    drawn = {suffix for suffix, files in twins.items() if _are_drawn(files, 1)}
    return {photo for suffix in drawn for photo in twins[suffix]} if drawn != twins.keys() else set()


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
        name for name in likely if name in MASK_NAMES or _are_drawn(tried[name], 1 if name in LABEL_NAMES else least)
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


def _are_drawn(files: Sequence[Path], least: int) -> bool:
    """Whether some of these files have few colours, and one of them at least so many."""
    most = 0
    for at in spread_evenly(len(files), _READ):
        if (colours := count_colours(files[at])) == 0:
            return False
        most = max(most, colours)
    return most >= least
