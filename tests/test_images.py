"""Image files: every format becomes the same kind of array, and damaged files raise an error."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spade_kit.datasets.images import UnreadablePhotoError, pictures_in, read_image, read_mask, read_size

LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}
WAYS = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {"quality": 90}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "lzw tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "webp": ("WEBP", {}),
    "gif": ("GIF", {}),
}


def draw_picture() -> np.ndarray:
    """(40, 48, 3): smooth, with a few edges, like a photo."""
    y, x = np.mgrid[:40, :48]
    channels = [
        127 + 120 * np.sin(x / 7),
        127 + 120 * np.cos(y / 5),
        np.where((x - 20) ** 2 + (y - 18) ** 2 < 90, 30, 220),
    ]
    return np.stack(channels, -1).astype(np.uint8)


PICTURE = draw_picture()


def encode(name: str) -> bytes:
    kind, options = WAYS[name]
    stream = BytesIO()
    Image.fromarray(PICTURE).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(tmp_path, kind):
    Image.fromarray(PICTURE).save(tmp_path / "photo", kind, **LOSSLESS[kind])
    np.testing.assert_array_equal(read_image(tmp_path / "photo"), PICTURE)
    assert read_size(tmp_path / "photo") == (40, 48)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.fromarray(np.full((8, 9, 3), value, np.uint8)) for value in (50, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "moving.gif") == 50).all()


def test_cmyk_becomes_rgb(tmp_path):
    Image.fromarray(PICTURE).convert("CMYK").save(tmp_path / "print.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "print.tif"), PICTURE)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_more_than_eight_bits_are_scaled_from_their_own_range_with_a_warning(tmp_path, kind):
    values = np.linspace(1000, 5000, 40 * 48).reshape(40, 48).astype(kind)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    with pytest.warns(
        UserWarning, match=r"more than 8 bits per channel\. Each such image is scaled from its own range"
    ):
        read = read_image(tmp_path / "deep.tif")
    expected = (values.astype(float) - values.min()) / (np.ptp(values.astype(float))) * 255
    assert np.abs(read - expected[..., None]).max() <= 0.5


def test_a_mask_is_true_where_not_zero_and_several_are_joined(tmp_path):
    one, two = np.zeros((2, 6, 5), np.uint8)
    one[1, 1], two[4, 3] = 1, 255
    (tmp_path / "several").mkdir()
    for number, mask in enumerate((one, two)):
        Image.fromarray(mask).save(tmp_path / "several" / f"{number}.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "several" / "0.png"), one > 0)
    np.testing.assert_array_equal(read_mask(tmp_path / "several"), (one + two) > 0)
    Image.fromarray(two.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png"), two > 0)


def test_names_are_sorted_by_the_numbers_in_them(tmp_path):
    for name in (
        "photo10.png",
        "photo9.PNG",
        "photo1.png",
        "a b ä.png",
        "._photo1.png",
        "notes.txt",
        "x" * 251 + ".png",
    ):
        (tmp_path / name).touch()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = [path.name for path in pictures_in(tmp_path)]
    assert names == ["a b ä.png", "loop.png", "photo1.png", "photo9.PNG", "photo10.png", "x" * 251 + ".png"]


# ---- errors ----------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a few bytes that claims 30,000 x 30,000 pixels."""
    good = bytearray(encode("png"))
    good[16:24] = (30_000).to_bytes(4, "big") * 2
    from zlib import crc32

    good[29:33] = crc32(good[12:29]).to_bytes(4, "big")
    return bytes(good)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"no picture at all", "its format is none of PNG, JPEG, BMP, TIFF, WEBP, GIF"),
        (encode("png")[:300], "Truncated|truncated|broken"),
        (encode("jpeg")[:-100], "truncated"),
        (bomb(), "it claims more than 179 megapixels"),
    ],
    ids=["empty", "text", "half a png", "most of a jpeg", "bomb"],
)
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, content, why):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(UnreadablePhotoError, match=rf"Cannot read .*photo\.png as an image: .*({why})"):
        read_image(path)


def test_a_loop_of_links_is_not_a_file(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for read in (read_image, read_size):
        with pytest.raises(FileNotFoundError, match=r"loop\.png, but there is no such file"):
            read(tmp_path / "loop.png")


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    """Each good file's pixels by its name, and the ``folder`` the files are in."""
    folder = tmp_path_factory.mktemp("undamaged")
    for name in WAYS:
        (folder / name).write_bytes(encode(name))
    return {name: read_image(folder / name) for name in WAYS} | {"folder": folder}


@st.composite
def damaged(draw) -> tuple[str, str, bytes]:
    """A valid file that was truncated, in which bytes were changed, or in which bytes were overwritten by others."""
    name = draw(st.sampled_from(sorted(WAYS)))
    content = bytearray(encode(name))
    place = st.integers(0, len(content) - 1)
    how = draw(st.sampled_from(["cut", "flip", "splice"]))
    if how == "cut":
        content = content[: draw(place)]
    elif how == "flip":
        for at in draw(st.lists(place, min_size=1, max_size=4, unique=True)):
            content[at] ^= draw(st.integers(1, 255))
    else:
        to, start, length = draw(place), draw(place), draw(st.integers(1, 200))
        part = content[start : start + length]
        content[to : to + len(part)] = part
    return name, how, bytes(content)


@settings(max_examples=10 * settings().max_examples)  # most damage changes nothing that is decoded
@given(damaged())
@pytest.mark.filterwarnings("ignore")  # Pillow's warnings about unknown tags
def test_damage_is_reported_where_the_format_can_detect_it(undamaged, file):
    """PNG has checksums; every format detects truncation; no other kind of error is raised."""
    name, how, content = file
    path = undamaged["folder"] / "damaged"
    path.write_bytes(content)
    try:
        read = read_image(path)
    except UnreadablePhotoError:
        return
    assert read.dtype == np.uint8
    assert read.ndim == 3
    if name == "png" or how == "cut":
        np.testing.assert_array_equal(read, undamaged[name])
