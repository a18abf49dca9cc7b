"""Pictures opened: all kinds give the same, turned upright; what can't be read gets a sentence."""

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from src.reading.picture import PictureError, read_picture


@pytest.fixture(autouse=True)
def no_warnings():
    """None is let through; a file left open would warn, too."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    "change",
    [
        lambda sheet: (sheet.astype(np.uint16) * 257).astype(">u2"),  # the other byte order
        lambda sheet: sheet.astype(np.int32) * 257,  # as some 16-bit files
        lambda sheet: (sheet / 255).astype(np.float16)[..., np.newaxis],
        lambda sheet: np.dstack([sheet] * 3 + [np.full_like(sheet, 255)]),
        lambda sheet: np.asfortranarray(sheet[::-1, ::-1])[::-1, ::-1],
        lambda sheet: (sheet / 255).tolist(),
    ],
)
def test_all_types_of_arrays_give_the_same(change, sheet):
    array, expected = change(sheet), read_picture(sheet)
    before = np.array(array)
    picture = read_picture(array)
    np.testing.assert_allclose(picture.grey, expected.grey, atol=0.005)
    np.testing.assert_allclose(picture.colour.astype(int), expected.colour, atol=1)
    np.testing.assert_array_equal(array, before)  # the caller's own is left alone


@pytest.mark.parametrize(
    "mode, kinds",
    [
        *[("1", "PNG BMP TIFF GIF"), ("L", "PNG BMP TIFF GIF JPEG MPO"), ("P", "PNG BMP TIFF GIF")],
        *[("LA", "PNG"), ("RGB", "PNG JPEG WEBP PPM"), ("RGBA", "PNG")],
        *[("I", ""), ("I;16", "PNG TIFF"), ("I;16B", "TIFF"), ("F", "")],
    ],
)
def test_all_modes_and_formats_give_the_same(mode, kinds, sheet, tmp_path):
    types = {"I": np.int32, "I;16": np.uint16, "I;16B": ">u2", "F": np.float32}
    image = Image.fromarray(sheet)
    if mode in types:
        values = (sheet * (1 / 255 if mode == "F" else 257.0)).astype(types[mode])
        image = Image.frombytes(mode, (200, 240), values.tobytes())
    images = [image if mode in types else image.convert(mode)]
    for kind in kinds.split():  # a phone's MPO holds a preview, too
        more = {"save_all": True, "append_images": [Image.new(mode, (50, 60))]}
        images[0].save(tmp_path / kind, kind, **(more if kind == "MPO" else {}))
        images += [tmp_path / kind, str(tmp_path / kind)]
    for image in images:  # mode "1" has no shades at the outline
        assert np.abs(read_picture(image).grey - read_picture(sheet).grey).mean() < 0.01


@pytest.mark.parametrize(
    "orientation, stored",  # EXIF's orientation, and how the picture lies in the file
    [(2, np.fliplr), (5, np.transpose), (6, np.rot90), (8, lambda upright: np.rot90(upright, -1))],
)
def test_pictures_are_turned_upright(orientation, stored, sheet, tmp_path):
    exif, path = Image.Exif(), tmp_path / "picture.png"
    exif[274] = orientation
    Image.fromarray(stored(sheet).copy()).save(path, exif=exif)
    with Image.open(path) as opened:
        for picture in (read_picture(path), read_picture(opened)):
            np.testing.assert_allclose(picture.grey, read_picture(sheet).grey, atol=1e-6)
            assert picture.size == (200, 240) and picture.colour.shape == (240, 200, 3)


@pytest.mark.parametrize("alpha", [1, 0.7])
@pytest.mark.parametrize(
    "ink, paper", [((0, 0, 0), 255), ((20, 30, 110), 255), ((250, 230, 180), 0)]
)
def test_transparent_parts_are_paper_for_dark_and_for_light_ink(ink, paper, alpha, sheet, tmp_path):
    drawing = np.zeros((240, 200, 4), np.uint8)
    drawing[..., 3] = (255 - sheet) * alpha
    drawing[sheet < 255, :3] = ink
    Image.fromarray(drawing).save(tmp_path / "drawing.png")
    for image in (drawing, tmp_path / "drawing.png", Image.fromarray(drawing).convert("LA")):
        picture = read_picture(image)
        assert (picture.colour[0, 0] == paper).all() and picture.grey[0, 0] == paper / 255
    drawn = read_picture(drawing).colour[sheet == 0].mean(axis=0)
    np.testing.assert_allclose(drawn, alpha * np.array(ink) + (1 - alpha) * paper, atol=1.5)


def test_transparency_of_palettes_counts_too(sheet, tmp_path):
    palette = Image.fromarray((sheet > 127).astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 0, 0, 0])  # black ink on transparent black
    palette.save(tmp_path / "palette.png", transparency=1)
    grey = read_picture(tmp_path / "palette.png").grey
    assert np.abs(grey - read_picture(sheet).grey).mean() < 0.02


def test_colours_are_kept():
    photo = np.broadcast_to(np.array((10, 128, 250), np.uint8), (300, 200, 3))
    np.testing.assert_array_equal(read_picture(photo).colour, photo)


def test_a_large_jpeg_is_decoded_small_but_an_opened_one_stays_whole(tmp_path, monkeypatch, sheet):
    path, sizes, convert = tmp_path / "large.jpg", [], Image.Image.convert
    Image.fromarray(cv2.resize(sheet, (2000, 2400))).save(path)
    monkeypatch.setattr(
        Image.Image, "convert", lambda self, mode: sizes.append(self.size) or convert(self, mode)
    )
    with Image.open(path) as opened:
        for picture in (read_picture(path), read_picture(opened)):
            assert picture.grey.shape == picture.colour.shape[:2] == (640, 533)
            assert picture.size == (2000, 2400)
    assert sizes == [(1000, 1200), (2000, 2400)]  # half: the next smaller has less than 640


def encoded(kind, mode="L", **options) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (240, 200), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


CLOSED = Image.open(io.BytesIO(encoded("PNG")))
CLOSED.close()
SHEET = np.zeros((50, 50))
BAD_PICTURES = [
    (CLOSED, "^the picture: damaged"),
    (np.zeros((50, 7), np.uint8), "7x50 pixels: at least 8x8"),
    (np.zeros((0, 28), np.uint8), r"shape \(0, 28\), expected \(h, w\)"),
    (np.zeros((50, 50, 2), np.uint8), r"shape \(50, 50, 2\)"),
    (None, r"shape \(\)"),
    ([[1, 2], [3]], "no array"),
    (SHEET + np.nan, "from nan to nan.*divide by 255"),
    (SHEET - 0.5, "from -0.5 to -0.5.*divide by 255"),
    (SHEET.astype(np.int64), "int64, expected uint8"),
    (SHEET.astype(np.int32) + 70_000, "int32, expected uint8"),
    (SHEET > 0, "bool, expected uint8"),
    (np.full((50, 50), "0"), "<U1, expected uint8"),
    (np.broadcast_to(np.uint8(255), (8000, 8000)), "8000x8000 .*at most 50 million are read"),
]


@pytest.mark.parametrize("image, message", BAD_PICTURES)
def test_what_is_no_picture_is_refused(image, message):
    with pytest.raises(PictureError, match=message):
        read_picture(image)


def huge(side: int) -> bytes:
    """A PNG that promises side x side pixels and holds fewer."""
    raw = encoded("PNG")
    header = b"IHDR" + struct.pack(">II", side, side) + raw[24:29]
    return raw[:12] + header + struct.pack(">I", zlib.crc32(header)) + raw[33:]


MORE = {"save_all": True, "append_images": [Image.new("L", (200, 240))]}
BAD_FILES = {
    "cut.jpg": (encoded("JPEG")[:-900], "damaged or incomplete .*get it again"),
    "cut.png": (encoded("PNG")[:600], "damaged or incomplete .*get it again"),
    "text.png": (b"hello", "not a picture .*save it as PNG or JPEG"),
    "empty.png": (b"", "not a picture .*save it as PNG or JPEG"),
    "postscript.png": (encoded("EPS"), "not a picture .*save it as PNG or JPEG"),
    "moving.gif": (encoded("GIF", **MORE), "has 2 frames; save the one to read"),
    "print.jpg": (encoded("JPEG", "CMYK"), "colours are CMYK; save it as RGB or grey"),
    "bomb.png": (huge(60_000), "at most 50 million pixels are read"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_named(name, tmp_path):
    raw, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(PictureError, match=f"^{name}: .*{message}"):
        read_picture(tmp_path / name)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    (tmp_path / "huge.png").write_bytes(huge(8000))
    with pytest.raises(PictureError, match="8000x8000 pixels: at most 50 million are read"):
        read_picture(tmp_path / "huge.png")


@pytest.mark.parametrize("name", ["absent.png", "", "\0", "long" * 2000])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_picture(tmp_path / name)  # "" is the folder itself
