"""Masks that no name marks, told by their few colours: beside an image of the same name, or in a folder beside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
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
    list_numbers,
    plain,
    strip_mark,
)

_READ = 6  # so many files tell whether all of their kind are masks
_GUESSED = 10  # so many names of folders are tried
_TOLD = GOOD_NAMES | BAD_NAMES | UNSORTED_NAMES | TRAIN_NAMES | TEST_NAMES | MASK_NAMES  # what folders of these hold


def find_twins(photos: Collection[Path], least: int = 2) -> dict[Path, str]:
    """The masks beside an image, with its name: 000.png of 000.jpg, 000_anno.png or anno_000.png of 000 or image_000.

    All masks have the same extension, and add the same to the name. If the image's name has an addition, too, what is
    left of both holds a digit, and what the mask alone adds holds none: mask_000 or cam1_mask_000 of cam1_000.
    """
    splits = {
        photo: [(f"{parent}/{fold(name)}", addition) for name, addition in _split(photo.stem)]
        for photo in photos
        for parent in [photo.parent]
    }
    named = defaultdict[str, dict[Path, str]](dict)  # name without addition -> image -> addition
    masks = defaultdict[tuple[str, str], dict[Path, list[Path]]](dict)  # by addition and extension: mask -> images
    for photo in photos:
        for name, addition in splits[photo]:
            if not addition or (_holds_digit(name.rpartition("/")[2]) and not addition.strip("*_- .").isdigit()):
                named[name][photo] = addition
    for photo in photos:
        for name, addition in splits[photo]:
            alike = named.get(name, {})
            both = photo in alike  # an addition to each name
            if others := [
                one
                for one, other in alike.items()
                if one != photo and (not other or (both and _is_word(addition, other)))
            ]:
                masks[addition.lower(), photo.suffix.lower()][photo] = sorted(others, key=lambda one: len(alike[one]))
                break
    images = {kind: sorted(set().union(*held.values())) for kind, held in masks.items()}
    told = [kind for kind, held in masks.items() if are_masks([*held], images[kind], least if kind[0] else 1)]
    found = {mask: others for kind in told for mask, others in masks[kind].items()}
    return {mask: next((one for one in held if one not in found), held[0]).stem for mask, held in found.items()}


def _is_word(addition: str, other: str) -> bool:
    """Whether an addition to a name, without what it begins with like another one, holds no digit."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(addition, other))
    return not _holds_digit(addition[sum(1 for _ in alike) :])


def _holds_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def _split(stem: str) -> Iterator[tuple[str, str]]:
    """A name, and shorter ones without what may have been added at its end or beginning; and the addition."""
    yield stem, ""
    for at in range(len(stem) - 1, 0, -1):
        before, after = stem[at - 1], stem[at]
        if before.isalnum() and not (before.isalpha() and after.islower()) and not (before + after).isdigit():
            yield stem[:at], f"*{stem[at:]}"
    for at in range(1, len(stem)):
        before, after = stem[at - 1], stem[at]
        if after.isalnum() and (not before.isalnum() or (before.isalpha() and after.isdigit())):
            yield stem[at:], f"{stem[:at]}*"


def find_folders(photos: Collection[Path], folder: Path, least: int = 2) -> dict[Path, str]:
    """Folders of masks, with the name of the folder beside that holds the images; "" if these are not in one beside.

    Each file of such a folder has an image at its own place in a folder beside, or where it would be without its
    folder: label/000.png of img/000.png, or of 000.png. Then the name says that it holds masks, or all folders of this
    name have few colours, and one of their files at least so many: blank images have one. Or, where most names of files
    are alike, as labels/000_a.png and bad/000.png, or their numbers, the files have few colours, and the images do not.
    """
    tree = _Tree(photos, folder)
    partners, apart = dict[Path, str](), dict[Path, str]()
    tried = defaultdict[str, list[Path]](list)
    for one, files in tree.held.items():
        name = plain(one.name)
        found = [tree.find_partners(photo, one) for photo in files]
        if all(found) or (name in MASK_NAMES and any(found)):
            partners[one] = max(set().union(*found), key=lambda name: (plain(name) in UNSORTED_NAMES, name))
            tried[name] += files
        elif name not in _TOLD:
            alike = [min(some) for photo in files if (some := tree.find_alike(photo, one))]
            apart |= {one: ""} if 2 * len(alike) > len(files) and are_masks(files, alike, 2) else {}
    likely = sorted(tried, key=lambda name: -len(tried[name]))[:_GUESSED]
    drawn = {name for name in likely if are_drawn(tried[name], 1 if name in LABEL_NAMES else least)}

    def hold_masks(name: str, partner: str) -> bool:
        if partner in MASK_NAMES | {name}:
            return False
        if name in MASK_NAMES or (name in LABEL_NAMES and partner in UNSORTED_NAMES | {""}):
            return True
        return name in drawn and (name in LABEL_NAMES or partner not in drawn)

    return apart | {one: partner for one, partner in partners.items() if hold_masks(plain(one.name), plain(partner))}


class _Tree:
    """Images by their places, with and without one of the folders above them."""

    def __init__(self, photos: Collection[Path], folder: Path) -> None:
        self.folder = folder
        self.held = defaultdict[Path, list[Path]](list)  # by a folder above
        self._places = defaultdict[str, set[Path]](
            set
        )  # place -> the images there, and folders without which others are there
        # by a name or number in a folder, or in one of its folders
        self._named = defaultdict[tuple[Path, str | int], list[Path]](list)
        for photo in photos:
            self._places[fold(str(photo.with_suffix("")))].add(photo)
            names: tuple[str | int, ...] = (fold(photo.stem), *list_numbers(photo.stem)[-1:])
            for name in names:
                self._named[photo.parent, name].append(photo)
            for one in [*photo.parents][: len(photo.relative_to(folder).parts) - 1]:
                self.held[one].append(photo)
                self._places[_place(photo, one, photo.stem)].add(one)
                for name in names:
                    self._named[one.parent, name].append(photo)

    def find_partners(self, mask: Path, one: Path) -> set[str]:
        """Names of folders beside a folder that have an image at the place of a mask; "" if it is there without one.

        Beside each other at the top, where folders are kinds, that of the images must have a name such as ``images``.
        """
        stems = (mask.stem, strip_mark(mask.stem))
        others = set().union(*(self._places[_place(mask, one, stem)] for stem in stems)) - {one}
        beside = {other for other in others & self.held.keys() if other.parent == one.parent}
        names = {other.name for other in beside}
        if one.parent == self.folder:
            names = {name for name in names if plain(name) in UNSORTED_NAMES}
        return names | ({""} if others - beside else set())

    def find_alike(self, mask: Path, one: Path) -> list[Path]:
        """Images beside a folder or in folders beside, by the name of a mask, or else a part of it, or its number.

        At the top, where folders are kinds, a number counts only of images where the mask would be without its folder.
        """
        parts = (strip_mark(mask.stem), *(name for name, _ in _split(mask.stem)))
        named = [self._named.get((one.parent, fold(name)), []) for name in parts]
        home = one.parent / mask.relative_to(one).parent
        alike = [self._named.get((home, number), []) for number in list_numbers(mask.stem)[-1:]]
        if one.parent == self.folder:
            alike = [[photo for photo in some if photo.parent == home] for some in alike]
        beside = ([photo for photo in some if one not in photo.parents] for some in named + alike)
        return next(filter(None, beside), [])


def _place(photo: Path, one: Path, stem: str) -> str:
    """Where an image would be if a folder above it were left out."""
    return fold(str(one.parent / photo.relative_to(one).with_name(stem)))


def are_masks(files: Sequence[Path], images: Sequence[Path], least: int) -> bool:
    return are_drawn(files, least) and not are_drawn(images)


def are_drawn(files: Sequence[Path], least: int = 1) -> bool:
    """Whether some of these files have few colours, and one of them at least so many."""
    most = 0
    for at in spread_evenly(len(files), _READ):
        if (colours := count_colours(files[at])) == 0:
            return False
        most = max(most, colours)
    return most >= least
