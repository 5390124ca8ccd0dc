"""The photographs that a widget shows: those of a dataset, the fitted ones each left out, and one's own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from spade_kit._arguments import check_index
from spade_kit.datasets.images import decode
from spade_kit.datasets.samples import Dataset, Photo, Sample, as_array, as_list
from spade_kit.result import Result
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.encoding import jpeg

_THUMB = 72  # px


class _Listed(NamedTuple):
    photo: Photo | int  # one of the fitted ones
    expression: str = ""
    origin: str = ""  # of what the expression names


class ImageList:
    """Photographs in an order, each with a name, a label if it has one, and a line of Python that gives it.

    Parameters
    ----------
    spade
        As it was given; corrections by hand come after.
    photos
        A Dataset, whose ``test`` is shown, or a list of photographs. None, a dataset of normals alone or an empty list:
        every fitted photograph is shown, judged against the others.

    Attributes
    ----------
    given
        How many photographs were given.
    """

    def __init__(self, spade: SPADE, photos: Dataset | Iterable[Photo] | None) -> None:
        self._spade = spade
        given = photos.test if isinstance(photos, Dataset) else [] if photos is None else as_list(photos)
        name = find_name(photos) or ("dataset" if isinstance(photos, Dataset) else "photos")
        list_ = f"{name}.test" if isinstance(photos, Dataset) else name
        origin = "" if find_name(photos) else f"# {name} as in spade_kit.explore(spade, {name})"
        self.given = len(given)
        self._listed = [_Listed(photo, f"{list_}[{place}]", origin) for place, photo in enumerate(given)]
        self._listed = self._listed or [_Listed(image) for image in range(len(spade))]

    def __len__(self) -> int:
        return len(self._listed)

    def add(self, photo: Photo) -> int:
        """Put a photograph at the end, and tell its place."""
        if isinstance(photo, (str, Path)):
            listed = _Listed(photo, repr(str(photo)))
        elif named := getattr(photo, "filename", ""):
            listed = _Listed(photo, "photo", f"photo = {str(named)!r}  # with the folder that it lies in")
        elif name := find_name(photo):
            listed = _Listed(photo, name)
        else:
            listed = _Listed(photo, "photo", "# photo as in show(photo)")
        self._listed.append(listed)
        return len(self) - 1

    def drop_last(self) -> None:
        self._listed.pop()

    def check(self, index: int) -> int:
        return check_index("index", index, len(self), "photo")

    def _sample(self, index: int) -> Photo | None:
        photo = self._listed[index].photo
        return self._spade.gallery.normals[photo].sample if isinstance(photo, int) else photo

    def name(self, index: int) -> str:
        """``scratch/003``; a number where there is no file."""
        photo = self._sample(index)
        if isinstance(photo, Sample):
            return photo.path.stem if photo.label is None else f"{photo.label}/{photo.path.stem}"
        if isinstance(photo, (str, Path)):
            return Path(photo).stem
        named = getattr(photo, "filename", "")
        return Path(named).stem if named else f"photo {index}"

    def label(self, index: int) -> str | None:
        photo = self._sample(index)
        return photo.label if isinstance(photo, Sample) else None

    def masked(self, index: int) -> bool:
        """Whether it is known where its defect is."""
        photo = self._sample(index)
        return isinstance(photo, Sample) and photo.mask_path is not None

    @property
    def listed(self) -> list[list]:
        """Name and label of each, for a page."""
        return [[self.name(index), self.label(index)] for index in range(len(self))]

    @property
    def has_masks(self) -> bool:
        """Whether a photograph with a defect says where it is."""
        return any(map(self.masked, range(len(self))))

    def judge(self, index: int, spade: SPADE, before: Result | None = None) -> Result:
        """One of the fitted photographs is always judged against the others: it would only find itself.

        With what another gallery said of it ``before``, a photograph is not read again.
        """
        photo = self._listed[index].photo
        if isinstance(photo, int) and spade.backbone is self._spade.backbone:
            return spade.judge(self._spade.gallery.query(photo))
        return spade.judge(self.photo(index)[0] if before is None else before.source)

    def photo(self, index: int) -> tuple[Photo, str]:
        """A photograph to fit, and how it is called in Python."""
        photo = self._listed[index].photo
        if not isinstance(photo, int):
            return photo, self._listed[index].expression
        sample = self._spade.gallery.normals[photo].sample
        if sample is None:
            raise ValueError(
                f"Normal photo {photo} was fitted as an array, of which only features are kept: it cannot be fitted "
                "again. Undo the step that took it out."
            )
        return sample, repr(str(sample.path))

    def thumbs(self, indexes: Iterable[int]) -> dict[int, bytes]:
        """Small pictures of evaluated crops, as JPEGs; empty where a file cannot be read."""
        return {index: self._thumb(index) for index in indexes}

    def _thumb(self, index: int) -> bytes:
        photo = self._listed[index].photo
        if isinstance(photo, int):
            return jpeg(self._spade.normal_image(photo), _THUMB)
        try:
            pixels = as_array(photo)
            return jpeg(self._spade.backbone.find_crop(pixels).cut(pixels), _THUMB)
        except (OSError, ValueError):
            return b""

    def origin(self, index: int, normal: int | None) -> str:
        """Where the names in `describe` come from, as lines of Python."""
        photo = self._listed[index].photo
        if not isinstance(photo, int) or normal is not None:
            return self._listed[index].origin
        sample = self._spade.gallery.normals[photo].sample
        return f"photo = {str(sample.path)!r}" if sample else f"# photo as normal {photo} was fitted"

    def describe(self, index: int, name: str, normal: int | None) -> str:
        """The call by which a SPADE of this name judges it; ``normal`` says which of the fitted ones it is."""
        if normal is not None:
            return f"{name}.predict_left_out({normal})"
        photo = self._listed[index].photo
        return f"{name}.predict({'photo' if isinstance(photo, int) else self._listed[index].expression})"


def find_name(thing: object) -> str | None:
    """What a thing is called in the user's notebook or script, if it has a name there."""
    names = vars(sys.modules["__main__"]).items()
    return next((name for name, value in names if value is thing and thing is not None and name[0] != "_"), None)


def read_upload(name: str, content: bytes) -> Image.Image:
    """An uploaded file as a photograph that knows its name."""
    photo = decode(content, name)
    photo.filename = name  # type: ignore[attr-defined]
    return photo
