"""Image files: every format becomes the same kind of array, and damaged files raise an error."""

import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from deep_images import chunk, deep_png, deep_tiff
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFile, PngImagePlugin

from spade_kit.datasets.images import (
    UnreadablePhotoError,
    pictures_in,
    read_image,
    read_mask,
    read_opened,
    read_size,
)

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


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_of_several_is_read_with_a_warning(tmp_path, kind):
    frames = [Image.fromarray(np.full((8, 9, 3), value, np.uint8)) for value in (50, 200, 90)]
    options = {"save_all": True, "append_images": frames[1:]} | LOSSLESS.get(kind, {})
    frames[0].save(tmp_path / "moving", kind, **options)
    told = r"moving holds 3 pages or frames, and only the first is used\. Save each as a file\."
    with pytest.warns(UserWarning, match=told):
        assert (read_image(tmp_path / "moving") == 50).all()


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


@st.composite
def deep_colours(draw) -> np.ndarray:
    """(5, 7, 3) uint16 within any range, such as that of a camera with 12 bits."""
    low = draw(st.integers(0, 65_000))
    high = draw(st.integers(low + 1, 65_535))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.integers(low, high + 1, (5, 7, 3)).astype(np.uint16)
    values[0, 0], values[0, 1] = low, high
    return values


def scaled(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    return np.array([round((int(value) - low) * 255 / (high - low)) for value in values.flat]).reshape(values.shape)


WRITTEN = {
    "png": deep_png,
    "png with alpha": lambda values: deep_png(np.dstack([values, np.full((5, 7), 65_535, np.uint16)])),
    "tiff": deep_tiff,
    "tiff, other byte order": lambda values: deep_tiff(values, ">"),
    "packed tiff": lambda values: deep_tiff(values, packed=True),
    "packed tiff, other byte order": lambda values: deep_tiff(values, ">", packed=True),
    "tiff with alpha": lambda values: deep_tiff(np.dstack([values, np.full((5, 7), 65_535, np.uint16)])),
}


@pytest.mark.parametrize("way", WRITTEN)
@given(values=deep_colours())
@pytest.mark.filterwarnings("ignore:An image has more than 8 bits")
def test_colours_of_sixteen_bits_are_scaled_from_their_own_range(tmp_path_factory, way, values):
    path = tmp_path_factory.getbasetemp() / "deep"
    path.write_bytes(WRITTEN[way](values))
    assert np.abs(read_image(path) - scaled(values)).max() <= 1  # two ways to round a half
    assert read_size(path) == (5, 7)


@pytest.mark.parametrize("way", WRITTEN)
def test_scaled_colours_are_reported(tmp_path, way):
    values = np.arange(105, dtype=np.uint16).reshape(5, 7, 3) * 40
    (tmp_path / "deep").write_bytes(WRITTEN[way](values))
    with pytest.warns(UserWarning, match=r"more than 8 bits per channel\. Each such image is scaled"):
        np.testing.assert_allclose(read_image(tmp_path / "deep"), scaled(values), atol=1)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.filterwarnings("ignore:An image has more than 8 bits")
def test_deep_colours_are_turned_upright(tmp_path, order, packed):
    values = np.arange(105, dtype=np.uint16).reshape(5, 7, 3) * 600
    (tmp_path / "0.tif").write_bytes(deep_tiff(values, order, packed=packed, orientation=6))
    (tmp_path / "0.png").write_bytes(deep_png(values, after=chunk(b"eXIf", turned(6))))
    for name in ("0.tif", "0.png"):
        np.testing.assert_allclose(read_image(tmp_path / name), np.rot90(scaled(values), -1), atol=1)
        assert read_size(tmp_path / name) == (7, 5)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (deep_png(np.ones((5, 7, 2), np.uint16)), "its 16-bit channels would be cut to 8 bits. Save it as 16-bit grey"),
        (deep_tiff(np.ones((5, 7, 4), np.uint16), meaning=5), "its 16-bit channels would be cut to 8 bits"),
        (deep_tiff(np.ones((5, 7, 4), np.uint16), extra=1), "its 16-bit channels would be cut to 8 bits"),
        (
            deep_tiff(np.ones((5, 7, 3), np.float32)),
            "this TIFF is cut, or of a kind that is not supported. Save it as 8-bit",
        ),
    ],
    ids=["grey and alpha", "cmyk", "colour times alpha", "float"],
)
def test_deep_colours_are_never_cut_silently(tmp_path, content, why):
    (tmp_path / "deep").write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(UnreadablePhotoError, match=rf"Cannot read .*deep as an image: {why}"):
            read(tmp_path / "deep")


def test_an_opened_image_of_sixteen_bit_colours_is_refused(tmp_path):
    (tmp_path / "deep.png").write_bytes(deep_png(np.ones((5, 7, 3), np.uint16)))
    told = r"deep\.png as an image: it has 16 bits per channel, and Pillow keeps 8 of them\. Pass the path"
    with Image.open(tmp_path / "deep.png") as photo, pytest.raises(UnreadablePhotoError, match=told):
        read_opened(photo)


GREYS = {  # how levels are stored: type of the values, meaning of 0, and the stored values from those that are meant
    "signed 8 bits": (np.int8, 1, lambda meant: meant),
    "unsigned 32 bits": (np.uint32, 1, lambda meant: meant),
    "16 bits, 0 is white": (np.uint16, 0, lambda meant: 65_535 - meant),
    "8 bits, 0 is white": (np.uint8, 0, lambda meant: 255 - meant),
    "1 bit a byte": (np.uint8, 1, lambda meant: meant),
}


@pytest.mark.parametrize("way", GREYS)
@pytest.mark.filterwarnings("ignore:An image has more than 8 bits")
def test_grey_levels_of_a_tiff_keep_their_order(tmp_path, way):
    """Whatever their sign, and whether 0 is black or white; in a mask, what is more than 0 is a defect."""
    kind, meaning, store = GREYS[way]
    limits = np.iinfo(kind)
    meant = np.linspace(limits.min, limits.max, 35).round().astype(np.int64).reshape(5, 7, 1)
    meant[0, :2, 0] = max(limits.min, 0), limits.min
    stored = store(meant).astype(kind)
    (tmp_path / "grey.tif").write_bytes(deep_tiff(stored, meaning=meaning))
    with Image.open(tmp_path / "grey.tif") as opened:
        opened_pixels = read_opened(opened)
    for read in (read_image(tmp_path / "grey.tif"), opened_pixels):
        expected = (meant - meant.min()) / np.ptp(meant) * 255
        np.testing.assert_allclose(read, np.broadcast_to(expected, (5, 7, 3)), atol=1)
    labels = np.where(meant > np.median(meant), limits.max, max(limits.min, 0))
    (tmp_path / "mask.tif").write_bytes(deep_tiff(store(labels).astype(kind), meaning=meaning))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif"), labels[..., 0] > 0)


def test_floats_whose_zero_is_white_are_refused(tmp_path):
    (tmp_path / "grey.tif").write_bytes(deep_tiff(np.ones((5, 7, 1), np.float32), meaning=0))
    with pytest.raises(UnreadablePhotoError, match=r"grey\.tif as an image: its 0 is white, .* Save it with 0"):
        read_image(tmp_path / "grey.tif")


@pytest.mark.parametrize("alpha", [0, 1, 128, 254])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_alpha_channel_of_one_value_is_ignored_with_a_warning(tmp_path, kind, alpha):
    clear = np.dstack([PICTURE, np.full(PICTURE.shape[:2], alpha, np.uint8)])
    Image.fromarray(clear).save(
        tmp_path / "clear", kind, **LOSSLESS[kind] | ({"exact": True} if kind == "WEBP" else {})
    )
    with pytest.warns(UserWarning, match=r"clear is transparent everywhere\. Its alpha channel is ignored\."):
        np.testing.assert_array_equal(read_image(tmp_path / "clear"), PICTURE)


@given(alpha=arrays(np.uint8, PICTURE.shape[:2], elements=st.integers(0, 127)))
def test_an_image_that_is_nowhere_more_opaque_than_not_is_no_cut_out(alpha):
    """Such as a label mask of 0 and 1 that was stored as the alpha channel."""
    with pytest.warns(UserWarning, match=r"is transparent everywhere\. Its alpha channel is ignored\."):
        np.testing.assert_array_equal(read_opened(Image.fromarray(np.dstack([PICTURE, alpha]))), PICTURE)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_with_too_few_colours_is_damage(tmp_path, bits):
    """Pillow would read the missing ones as black. `png_of` writes three colours."""
    row = bytes([0, 0b00000001])
    (tmp_path / "few.png").write_bytes(png_of(row, size=(1, 8 // bits), bits=bits, colour=3))
    read_image(tmp_path / "few.png")
    (tmp_path / "few.png").write_bytes(png_of(bytes([0, 0b00000011]), size=(1, 8 // bits), bits=bits, colour=3))
    if bits == 1:
        read_image(tmp_path / "few.png")
    else:
        with pytest.raises(
            UnreadablePhotoError, match=r"few\.png is damaged: its palette has 3 colours, and its pixels"
        ):
            read_image(tmp_path / "few.png")


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


# ---- heads -----------------------------------------------------------------------------------------------------------


def turned(orientation: int) -> bytes:
    """EXIF data with an orientation, as a chunk of a PNG holds it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


@given(length=st.integers(1, 400), orientation=st.integers(1, 8), after=st.booleans())
def test_the_head_of_a_png_is_found_whatever_the_length_of_its_chunks(tmp_path_factory, length, orientation, after):
    path = tmp_path_factory.getbasetemp() / "chunks.png"
    content = deep_png(np.arange(105, dtype=np.uint16).reshape(5, 7, 3), pixels_in=length)
    at = len(content) - 12 if after else 33  # before the end, or behind the head
    path.write_bytes(content[:at] + chunk(b"eXIf", turned(orientation)) + content[at:])
    assert read_size(path) == ((7, 5) if orientation >= 5 else (5, 7))
    path.write_bytes(content[:-12])
    with pytest.raises(UnreadablePhotoError, match="truncated"):
        read_size(path)


def test_the_size_of_a_png_is_read_without_its_pixels(tmp_path, monkeypatch):
    (tmp_path / "0.png").write_bytes(encode("png"))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    assert read_size(tmp_path / "0.png") == (40, 48)


# ---- what a decoder complains about ----------------------------------------------------------------------------------


def put_before(content: bytes, marker: bytes, stray: bytes) -> bytes:
    at = content.rfind(marker)
    return content[:at] + stray + content[at:]


def encode_rows() -> bytes:
    """A JPEG with restart markers."""
    stream = BytesIO()
    Image.fromarray(PICTURE).save(stream, "JPEG", quality=90, restart_marker_rows=1)
    return stream.getvalue()


def change_scan(content: bytes) -> bytes:
    """A JPEG whose scan claims other frequencies than all."""
    at = content.find(b"\xff\xda")
    return content[: at + 12] + b"\x3e" + content[at + 13 :]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (put_before(encode_rows(), b"\xff\xd1", b"\0" * 12), "12 extraneous bytes"),
        (put_before(encode("jpeg"), b"\xff\xd9", b"\1\2\3\4"), "extraneous bytes before marker 0xd9"),
        (put_before(encode("jpeg"), b"\xff\xd9", b"\0" * 500), "extraneous bytes before marker 0xd9"),
        (put_before(encode("jpeg"), b"\xff\xda", bytes(range(100))), "100 extraneous bytes before marker 0xda"),
        (change_scan(encode("jpeg")), "Invalid SOS parameters"),
        (encode("jpeg").replace(b"JFIF\0\1\1", b"JFIF\0\3\1"), "unknown JFIF revision number 3.01"),
    ],
    ids=["before a restart", "before the end", "padding", "in the header", "scan", "revision"],
)
def test_what_libjpeg_complains_about_is_read_with_a_warning(tmp_path, undamaged, content, complaint):
    (tmp_path / "cam.jpg").write_bytes(content)
    with pytest.warns(
        UserWarning, match=rf"cam\.jpg is read, but its decoder complains: .*{complaint}.*\. If the image"
    ):
        read = read_image(tmp_path / "cam.jpg")
    if complaint.startswith("12 "):
        (tmp_path / "sound.jpg").write_bytes(encode_rows())
        np.testing.assert_array_equal(read, read_image(tmp_path / "sound.jpg"))
    else:
        np.testing.assert_array_equal(read, undamaged["jpeg"])


@pytest.mark.parametrize(
    "content",
    [
        encode("jpeg")[:-200] + b"\xff\xd9",
        put_before(encode("jpeg"), b"\xff\xd9", encode("jpeg")[-300:-200].replace(b"\xff", b"\1")),
        encode_rows()[: encode_rows().find(b"\xff\xd0")] + encode_rows()[encode_rows().find(b"\xff\xd2") :],
    ],
    ids=["ends early", "lost its place", "rows missing"],
)
def test_a_jpeg_without_all_its_pixels_is_refused(tmp_path, content):
    (tmp_path / "cam.jpg").write_bytes(content)
    with pytest.raises(UnreadablePhotoError, match=r"cam\.jpg as an image: (Corrupt JPEG data|.* truncated)"):
        read_image(tmp_path / "cam.jpg")


@pytest.mark.parametrize(
    ("tag", "turns"), [(0x0112, False), (0x011A, True), (0x0101, True)], ids=["orientation", "resolution", "height"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_text_where_exif_needs_a_number_is_reported(tmp_path, tag, turns, kind):
    entries = [struct.pack("<HHI4s", tag, 2, 3, b"ab")]
    entries += [struct.pack("<HHIHxx", 0x0112, 3, 1, 6)] if turns else []
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(sorted(entries)) + bytes(4)
    Image.fromarray(PICTURE).save(tmp_path / "cam", kind, exif=exif)
    with pytest.warns(UserWarning, match=r"cam is read, but its decoder complains: .*EXIF"):
        read = read_image(tmp_path / "cam")
    assert read.shape[:2] == read_size(tmp_path / "cam") == ((48, 40) if turns else (40, 48))


# ---- errors ----------------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a few bytes that claims 30,000 x 30,000 pixels."""
    good = bytearray(encode("png"))
    good[16:24] = (30_000).to_bytes(4, "big") * 2
    from zlib import crc32

    good[29:33] = crc32(good[12:29]).to_bytes(4, "big")
    return bytes(good)


def without_palette() -> bytes:
    """A PNG of indices of colours that it does not hold."""
    stream = BytesIO()
    Image.fromarray(PICTURE[..., 0]).convert("P").save(stream, "PNG")
    whole = stream.getvalue()
    start = whole.find(b"PLTE") - 4
    return whole[:start] + whole[start + 12 + int.from_bytes(whole[start : start + 4], "big") :]


def with_text() -> bytes:
    """A PNG with 2 MB of text, such as the recipe of an image generator."""
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "x" * 2_000_000, zip=True)
    stream = BytesIO()
    Image.fromarray(PICTURE).save(stream, "PNG", pnginfo=text)
    return stream.getvalue()


def with_profile() -> bytes:
    """A PNG with a colour profile of 2 MB."""
    stream = BytesIO()
    Image.fromarray(PICTURE).save(stream, "PNG", icc_profile=bytes(2_000_000))
    return stream.getvalue()


@pytest.mark.parametrize("name", WAYS)
def test_a_cut_file_is_refused_whatever_pillow_is_set_to(tmp_path, monkeypatch, name):
    """The setting stays what it was, and whole files are read as ever."""
    whole = encode(name)
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "cut").write_bytes(whole[: int(len(whole) * 0.6)])
    expected = read_image(tmp_path / "whole")
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    with ThreadPoolExecutor(4) as pool:
        assert all((read == expected).all() for read in pool.map(read_image, [tmp_path / "whole"] * 40))
    with pytest.raises(UnreadablePhotoError, match="cut as an image"):
        read_image(tmp_path / "cut")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def png_of(pixels: bytes, *, size: tuple[int, int], bits: int, colour: int, interlaced: bool = False) -> bytes:
    """A PNG of (rows, columns) with these filtered pixels, whole as a stream, whether they are all or not."""
    head = struct.pack(">IIBBBBB", *size[::-1], bits, colour, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(range(9))) if colour == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + pixels + chunk(b"IEND", b"")


@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kind=st.sampled_from(
        [(0, 1, 1), (0, 2, 1), (0, 8, 1), (0, 16, 1), (2, 8, 3), (2, 16, 3), (3, 1, 1), (4, 8, 2), (6, 8, 4)]
    ),
    interlaced=st.booleans(),
    missing=st.integers(0, 3),
)
@pytest.mark.filterwarnings("ignore:An image has more than 8 bits", "ignore:.* is transparent everywhere")
def test_a_png_with_too_few_pixels_is_refused_and_a_black_one_is_read(
    tmp_path_factory, size, kind, interlaced, missing
):
    path = tmp_path_factory.getbasetemp() / "rows.png"
    (height, width), (colour, bits, channels) = size, kind
    if interlaced:  # in each square of 8 x 8, the pass of each pixel, as the standard draws it
        table = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
        square = np.array([list(map(int, row)) for row in table])
        whole = np.tile(square, (3, 3))[:height, :width]
        lines = [int((row == number).sum()) for number in range(1, 8) for row in whole if (row == number).any()]
    else:
        lines = [width] * height
    pixels = b"".join(bytes(1 + (columns * bits * channels + 7) // 8) for columns in lines)
    path.write_bytes(
        png_of(pixels[: len(pixels) - missing], size=size, bits=bits, colour=colour, interlaced=interlaced)
    )
    if not missing:
        assert read_image(path).shape == (*size, 3)
        return
    with pytest.raises(UnreadablePhotoError, match=r"rows\.png as an image: .*truncated.*\. Remove or replace it\."):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"no picture at all", "its format is none of PNG, JPEG, BMP, TIFF, WEBP, GIF"),
        (encode("png")[:300], "Truncated|truncated|broken"),
        (encode("jpeg")[:-100], "truncated"),
        (without_palette(), r"its palette is missing\. Remove or replace it\."),
        (bomb(), r"it claims more than 179 megapixels, the limit of Pillow\. .*PIL\.Image\.MAX_IMAGE_PIXELS = "),
        (with_profile(), "it contains text or a colour profile of more than 1 MB"),
        (
            with_text(),
            r"it contains text or .* of more than 1 MB .*raise PIL\.PngImagePlugin\.MAX_TEXT_CHUNK\.",
        ),
    ],
    ids=["empty", "text", "half a png", "most of a jpeg", "no palette", "bomb", "large profile", "much text"],
)
def test_what_cannot_be_read_is_named_with_the_reason(tmp_path, content, why):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(UnreadablePhotoError, match=rf"Cannot read .*photo\.png as an image: .*({why})"):
        read_image(path)


def test_what_exists_but_is_no_file_is_named_as_what_it_is(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.png").symlink_to(os.devnull)
    for name, why in (
        ("loop.png", r"Too many levels of symbolic links\. Check that it can be read, or leave it out\."),
        ("pipe.png", r"it is a pipe, a socket or a device\. Save the image as a file\."),
        ("null.png", r"it is a pipe, a socket or a device\. Save the image as a file\."),
        ("x" * 5000, r"File name too long\. Check that it can be read, or leave it out\."),
    ):
        for read in (read_image, read_size, read_mask):
            with pytest.raises(UnreadablePhotoError, match=rf"Cannot read .*{name} as an image: {why}"):
                read(tmp_path / name)


def test_what_does_not_exist_is_said_to_be_missing(tmp_path):
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "file").touch()
    for name in ("gone.png", "dangling.png", "file/0.png", "a\0b.png"):
        for read in (read_image, read_size, read_mask):
            with pytest.raises(FileNotFoundError, match=r"Expected an image at .*, but there is no such file\. Check"):
                read(tmp_path / name)


def test_an_opened_image_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "0.png"
    path.write_bytes(encode("png"))
    closed = Image.open(path)
    closed.close()
    cut = Image.open(BytesIO(encode("png")[:-200]))
    odd = Image.fromarray(PICTURE).convert("LA").convert("La")
    for photo, why in (
        (closed, r"Cannot read .*0\.png as an image: .*closed.*\. Open it again, or convert it to RGB\."),
        (cut, r"Cannot read an opened image as an image: .*truncated.*\. Open it again, or convert it to RGB\."),
        (
            odd,
            r"Cannot read an opened image as an image: conversion from La .*\. Open it again, or convert it to RGB\.",
        ),
    ):
        with pytest.raises(UnreadablePhotoError, match=why):
            read_opened(photo)


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
