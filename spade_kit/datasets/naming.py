"""What the names of folders, labels and files say: good or defective, train or test, image or mask."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from spade_kit._files import as_text

GOOD = "good"
GOOD_NAMES = {
    *("good", "ok", "okay", "io", "normal", "normals", "pass", "passed", "intact", "healthy", "undamaged"),
    *("defect_free", "no_defect", "no_defects", "nodefect", "non_defective", "not_defective", "accept", "accepted"),
    *("o.k.", "i.o.", "clean", "gut", "in_ordnung", "without_defect", "without_defects"),
}
BAD_NAMES = {
    *("bad", "nok", "not_ok", "ng", "ko", "nio", "not_good", "abnormal", "abnormals", "anomaly", "anomalies"),
    *("anomalous", "defect", "defects", "defective", "fault", "faults", "faulty", "damaged", "fail", "failed"),
    *("reject", "rejects", "rejected", "scrap", "outlier", "outliers"),
}
TRAIN_NAMES = {"train", "training"}
TEST_NAMES = {"test", "testing"}
IMAGE_NAMES = {"image", "images", "img", "imgs", "jpegimages", "photo", "photos", "rgb"}
UNSORTED_NAMES = TEST_NAMES | IMAGE_NAMES | {"all", "new", "unknown", "unsorted", "unlabelled", "unlabeled"}
MASK_NAMES = {
    f"{of}{what}{several}"
    for of in ("", "defect_", "anomaly_", "binary_", "pixel_", "gt_", "label_", "test_")
    for what in ("mask", "gt", "truth", "ground_truth", "groundtruth", "annotation", "seg", "segmentation")
    for several in ("", "s", "class", "_class", "object", "_object", "_mask", "_masks", "_image", "_images", "_png")
}
LABEL_NAMES = {"label", "labels"}  # of masks, or a defective label: the names of the files tell
MISSING = {"na", "n/a", "#n/a", "<na>", "nan", "nat", "none", "null"}  # what programs write for no value
NAMED = 3  # at most this many files are named in a remark
_MARK = "(?:masks?|gt|(?:ground[ _-]?)?truth|labels?|seg(?:mentation)?|annotation)"
_MARKS = [re.compile(rf"(?<=.)[ ._-]{_MARK}(?:[ ._-]?\(?\d+\)?)?$", re.I), re.compile(rf"^{_MARK}[ ._-](?=.)", re.I)]


def fold(name: str) -> str:
    """A name without the differences that some file systems ignore: upper case, and two ways to store an accent."""
    return unicodedata.normalize("NFC", name).casefold()


def plain(name: str) -> str:
    """A name in lower case, its words joined by one underscore."""
    return re.sub(r"[ _-]+", "_", fold(name)).strip("_")


def as_label(name: str) -> str:
    """A label or the name of a folder; all names of good parts become ``good``, in full-width letters, too.

    Line breaks and the like become blanks, and those at the ends are left out.
    """
    seen = "".join(one for one in unicodedata.normalize("NFKC", name) if unicodedata.category(one) != "Cf")
    return GOOD if plain(seen.strip()) in GOOD_NAMES else " ".join(name.split())


def says_bad(name: str) -> bool:
    """Whether a file's name begins or ends with a word for defects, such as NG_002 and 002 not ok."""
    words = re.sub(r"[\W\d_]+", "_", f"_{fold(name)}_")
    said = [kind for kind in GOOD_NAMES | BAD_NAMES if words.startswith(f"_{kind}_") or words.endswith(f"_{kind}_")]
    return max(said, key=len, default=GOOD) in BAD_NAMES


def strip_mark(name: str) -> str:
    """A name without what marks a mask, such as in 000_mask, GT-000, 000_mask_2 and 000 mask (2); else the name."""
    return next((bare for mark in _MARKS if (bare := mark.sub("", name)) != name), name)


def list_numbers(name: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", name)))


def is_marked(path: Path) -> bool:
    """Whether a name, or that of a folder, marks a mask."""
    folders = {plain(folder) for folder in path.parts[:-1]}
    return any(strip_mark(name) != name for name in (*path.parts[:-1], path.stem)) or bool(
        folders & (MASK_NAMES | LABEL_NAMES)
    )


def name_file(path: Path) -> str:
    """The last two parts of a path."""
    return as_text(Path(path.parent.name, path.name))


def name_some(paths: list[Path]) -> str:
    named = ", ".join(map(name_file, paths[:NAMED]))
    return f"{named} and {len(paths) - NAMED} more" if len(paths) > NAMED else named
