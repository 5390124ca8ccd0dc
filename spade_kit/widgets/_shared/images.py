"""The images that a widget shows: from a dataset, the fitted images (leave-one-out), or the user's own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from PIL import Image

from spade_kit._arguments import check_index
from spade_kit._files import printable
from spade_kit.datasets.images import decode
from spade_kit.datasets.samples import Dataset, Photo, Sample, as_array, as_list
from spade_kit.result import Result
from spade_kit.spade import SPADE
from spade_kit.widgets._shared.encoding import jpeg

Images: TypeAlias = "Dataset | Photo | Iterable[Photo]"  # what a widget can show
_THUMB = 72  # px


class _Listed(NamedTuple):
    photo: Photo | int  # an int is the index of a fitted image
    expression: str = ""
    origin: str = ""  # a line of Python that defines the names in the expression


class ImageList:
    """An ordered list of images, each with a name, an optional label and a Python expression.

    Parameters
    ----------
    spade
        The SPADE passed by the user, before any corrections.
    photos
        A Dataset, to show its ``test``, or a list of images. For None, or for a dataset without test images, every
        fitted image is shown, judged against the others.

    Attributes
    ----------
    given
        The number of images passed by the user.
    """

    def __init__(self, spade: SPADE, photos: Images | None) -> None:
        if not isinstance(spade, SPADE):
            raise ValueError(f"A widget needs a fitted SPADE; got a value of type {type(spade).__name__}.")
        self._spade = spade
        given = photos.test if isinstance(photos, Dataset) else [] if photos is None else as_list(photos)
        name = find_name(photos) or ("dataset" if isinstance(photos, Dataset) else "photos")
        list_ = f"{name}.test" if isinstance(photos, Dataset) else name
        origin = "" if find_name(photos) else f"# {name} as in spade_kit.explore(spade, {name})"
        self.given = len(given)
        self._listed = [_Listed(_check_photo(photo), f"{list_}[{place}]", origin) for place, photo in enumerate(given)]
        if not given and photos is not None and not isinstance(photos, Dataset):
            raise ValueError("The list of images is empty. Pass an image, or no list to see the fitted images.")
        self._listed = self._listed or [_Listed(image) for image in range(len(spade))]

    def __len__(self) -> int:
        return len(self._listed)

    @property
    def given_ones(self) -> list[Photo]:
        """The images passed by the user."""
        return [self.photo(index)[0] for index in range(self.given)]

    def take_over(self, other: ImageList) -> None:
        """List the images of another list."""
        self._listed = [*other._listed]

    def add(self, photo: Photo) -> int:
        """Append an image and return its index."""
        _check_photo(photo)
        if isinstance(photo, (str, Path)):
            listed = _Listed(photo, repr(str(photo)))
        elif named := getattr(photo, "filename", ""):
            listed = _Listed(photo, "photo", f"photo = {str(named)!r}  # add the folder of this file")
        elif name := find_name(photo):
            listed = _Listed(photo, name)
        else:
            listed = _Listed(photo, "photo", "# photo as in show(photo)")
        self._listed.append(listed)
        return len(self) - 1

    def drop_last(self) -> None:
        self._listed.pop()

    def check(self, index: int, name: str = "index") -> int:
        return check_index(name, index, len(self), "image")

    def check_all(self, indexes: Any, name: str) -> tuple[int, ...]:
        """Indices in ascending order, each once, from one or several."""
        given = indexes if isinstance(indexes, Iterable) else [indexes]
        return tuple(sorted({self.check(index, name) for index in given}))

    def _sample(self, index: int) -> Photo | None:
        photo = self._listed[index].photo
        return self._spade.gallery.normals[photo].sample if isinstance(photo, int) else photo

    def name(self, index: int) -> str:
        """``scratch/003``; a number if there is no file."""
        photo = self._sample(index)
        if isinstance(photo, Sample):
            stem = printable(photo.path.stem)
            return stem if photo.label is None else f"{photo.label}/{stem}"
        if isinstance(photo, (str, Path)):
            return printable(Path(photo).stem)
        if named := getattr(photo, "filename", ""):
            return printable(Path(named).stem)
        return f"{'normal' if isinstance(self._listed[index].photo, int) else 'photo'} {index}"

    def label(self, index: int) -> str | None:
        photo = self._sample(index)
        return photo.label if isinstance(photo, Sample) else None

    def masked(self, index: int) -> bool:
        """Whether the image has a mask."""
        photo = self._sample(index)
        return isinstance(photo, Sample) and photo.mask_path is not None

    @property
    def listed(self) -> list[list]:
        """The name and label of each image, for the page."""
        return [[self.name(index), self.label(index)] for index in range(len(self))]

    @property
    def has_masks(self) -> bool:
        """Whether any image has a mask."""
        return any(map(self.masked, range(len(self))))

    def judge(self, index: int, spade: SPADE, before: Result | None = None) -> Result:
        """Judge an image; a fitted image is judged against the others, since it would only find itself.

        With its result ``before`` from another gallery, the image is not read again.
        """
        photo = self._listed[index].photo
        if isinstance(photo, int) and spade.reads_like(self._spade):
            return spade.judge(self._spade.gallery.query(photo))
        return spade.judge(self.photo(index)[0] if before is None else before.source)

    def photo(self, index: int) -> tuple[Photo, str]:
        """An image to fit, and its Python expression."""
        photo = self._listed[index].photo
        if not isinstance(photo, int):
            return photo, self._listed[index].expression
        sample = self._spade.gallery.normals[photo].sample
        if sample is None:
            raise ValueError(
                f"Normal image {photo} was fitted as an array, and only features are kept: it cannot be fitted again. "
                "Undo the step that removed it."
            )
        return sample, repr(str(sample.path))

    def thumbs(self, indexes: Iterable[int]) -> dict[int, bytes]:
        """Thumbnails of the evaluated crops as JPEGs; empty if a file cannot be read."""
        return {index: self._thumb(index) for index in indexes}

    def _thumb(self, index: int) -> bytes:
        photo = self._listed[index].photo
        if isinstance(photo, int):
            return jpeg(self._spade.normal_image(photo), _THUMB)
        try:
            pixels = as_array(photo)
            height, width, _ = pixels.shape
            return jpeg(self._spade.gallery.cropping.find((height, width)).cut(pixels), _THUMB)
        except (OSError, ValueError):
            return b""

    def origin(self, index: int, normal: int | None) -> str:
        """Lines of Python that define the names used by `describe`."""
        photo = self._listed[index].photo
        if not isinstance(photo, int) or normal is not None:
            return self._listed[index].origin
        sample = self._spade.gallery.normals[photo].sample
        return f"photo = {str(sample.path)!r}" if sample else f"# photo as normal {photo} was fitted"

    def describe(self, index: int, name: str, normal: int | None, drawn: bool = False) -> str:
        """The call that judges the image with a SPADE of this name, within the variable ``roi`` if one is ``drawn``.

        ``normal`` is its index if it is fitted.
        """
        photo = self._listed[index].photo
        given = ("photo" if isinstance(photo, int) else self._listed[index].expression) + (", roi=roi" if drawn else "")
        if normal is None:
            return f"{name}.predict({given})"
        return f"{name}.judge({name}.read({given}))" if drawn else f"{name}.predict_left_out({normal})"


def _check_photo(photo: Photo) -> Photo:
    """An image; a number is none, although it could be the index of a fitted image."""
    if isinstance(photo, int):
        as_array(photo)  # type: ignore[arg-type]  # raises
    return photo


def find_name(thing: object) -> str | None:
    """The variable name of an object in the user's notebook or script, if it has one."""
    names = vars(sys.modules["__main__"]).items()
    return next((name for name, value in names if value is thing and thing is not None and name[0] != "_"), None)


def read_upload(name: str, content: bytes) -> Image.Image:
    """Decode an uploaded file into an image with its file name."""
    photo = decode(content, name)
    photo.filename = name  # type: ignore[attr-defined]
    return photo
