"""The photographs that a widget shows: those of a dataset, the fitted ones each left out, and one's own."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from spade_kit.arguments import check_index
from spade_kit.datasets import Dataset, Photo, Sample, as_array, as_list
from spade_kit.results import Result
from spade_kit.spade import SPADE
from spade_kit.widgets.packing import jpeg

_THUMB = 72  # px
_FITTED = "# spade as in spade_kit.explore(spade, ...)"


class Album:
    """Photographs in an order, each with a name, a label if it has one, and a line of Python that gives it.

    Parameters
    ----------
    photos
        A Dataset, whose ``test`` is shown, or a list of photographs. None, a dataset of normals alone or an empty list:
        every fitted photograph is shown, judged against the others.
    """

    def __init__(self, spade: SPADE, photos: Dataset | Iterable[Photo] | None) -> None:
        self._spade = spade
        self._photos: list[Photo | int] = []
        self._expressions: list[str] = []
        self._origins: list[str] = []  # of what an expression names
        given = photos.test if isinstance(photos, Dataset) else [] if photos is None else as_list(photos)
        name = "dataset" if isinstance(photos, Dataset) else "photos"
        list_ = "dataset.test" if isinstance(photos, Dataset) else "photos"
        for place, photo in enumerate(given):
            self._append(photo, f"{list_}[{place}]", f"# spade and {name} as in spade_kit.explore(spade, {name})")
        if not given:
            for image in range(len(spade)):
                self._append(image, "", _FITTED)

    def __len__(self) -> int:
        return len(self._photos)

    def add(self, photo: Photo) -> int:
        """Put a photograph at the end, and tell its place."""
        if isinstance(photo, (str, Path)):
            self._append(photo, repr(str(photo)), _FITTED)
        elif named := getattr(photo, "filename", ""):
            self._append(photo, "photo", f"{_FITTED}\nphoto = {str(named)!r}  # with the folder that it lies in")
        else:
            self._append(photo, "photo", f"{_FITTED}; photo as in show(photo)")
        return len(self) - 1

    def _append(self, photo: Photo | int, expression: str, origin: str) -> None:
        self._photos.append(photo)
        self._expressions.append(expression)
        self._origins.append(origin)

    def drop_last(self) -> None:
        for each in (self._photos, self._expressions, self._origins):
            each.pop()

    def check(self, index: int) -> int:
        return check_index("index", index, len(self), "photo")

    def _sample(self, index: int) -> Photo | None:
        photo = self._photos[index]
        return self._spade._fitted.normals[photo].sample if isinstance(photo, int) else photo

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

    @property
    def has_masks(self) -> bool:
        """Whether a photograph with a defect says where it is."""
        samples = map(self._sample, range(len(self)))
        return any(isinstance(photo, Sample) and photo.mask_path is not None for photo in samples)

    def judge(self, index: int, spade: SPADE) -> Result:
        """One of the fitted photographs is always judged against the others: it would only find itself."""
        photo = self._photos[index]
        return spade.predict_left_out(photo) if isinstance(photo, int) else spade._predict(photo, leave_out=True)

    def thumbs(self, indexes: Iterable[int]) -> dict[int, bytes]:
        """Small pictures of evaluated crops, as JPEGs; empty where a file cannot be read."""
        return {index: self._thumb(index) for index in indexes}

    def _thumb(self, index: int) -> bytes:
        photo = self._photos[index]
        if isinstance(photo, int):
            return jpeg(self._spade.normal_image(photo), _THUMB)
        try:
            pixels = as_array(photo)
            return jpeg(self._spade.backbone.find_crop(pixels).cut(pixels), _THUMB)
        except (OSError, ValueError):
            return b""

    def origin(self, index: int) -> str:
        """Where the names in `describe` come from, as lines of Python."""
        return self._origins[index]

    def describe(self, index: int, options: str) -> str:
        """The call that judges it, in Python."""
        photo = self._photos[index]
        call = f"predict_left_out({photo})" if isinstance(photo, int) else f"predict({self._expressions[index]})"
        return f"spade{options}.{call}"


def read_upload(name: str, content: bytes) -> Image.Image:
    """An uploaded file as a photograph that knows its name."""
    try:
        photo = Image.open(BytesIO(content))
        photo.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as problem:
        why = "it is no picture" if isinstance(problem, UnidentifiedImageError) else problem
        raise ValueError(
            f"A photo was expected, but Pillow cannot read {name} ({why}). Take a PNG, JPEG, TIFF, BMP or WebP."
        ) from problem
    photo.filename = name  # type: ignore[attr-defined]
    return photo
