"""Any picture to 28x28: what must not matter to the result, what must, and what is refused."""

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from src.preparation import (
    NoDigitError,
    PictureError,
    centre,
    find_digits,
    prepare,
    read_picture,
    stages,
)

SEVEN = [[(0, 0), (1, 0), (0.35, 1)]]
ONE = [[(0.5, 0), (0.5, 1)]]
ZERO = [[(0.5 + 0.4 * np.cos(a), 0.5 + 0.5 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 40)]]
FIVE = [  # in two pieces
    [(0.12, 0.05), (0.05, 0.45), (0.6, 0.4), (0.95, 0.65), (0.6, 1), (0, 0.92)],
    [(0.32, 0), (1, 0)],
]
BOX = (60, 40, 140, 200)  # left, top, right, bottom of the strokes' middle lines
WIDE = (20, 90, 180, 140)


def drawn(strokes=SEVEN, box=BOX, pen=14, on=None) -> np.ndarray:
    """Dark ink on a light sheet of 200x240 pixels, or on another."""
    sheet = np.full((240, 200), 255, np.uint8) if on is None else on
    left, top, right, bottom = box
    for stroke in strokes:
        places = np.array(stroke) * (right - left, bottom - top) + (left, top)
        cv2.polylines(sheet, [np.rint(places * 16).astype(np.int32)], False, 0, pen, cv2.LINE_AA, 4)
    return sheet


def prepared(image) -> np.ndarray:
    return find_digits(image, single=True)[0].pixels


def apart(one, other) -> float:
    """How much of the ink differs, as a share."""
    return float(np.abs(one - other).sum() / other.sum())


def saved(folder, picture, kind="PNG", name="picture", **options):
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(np.ascontiguousarray(picture))
    path = folder / name
    picture.save(path, kind, **options)
    return path


def extent(pixels, axis) -> int:
    places = np.flatnonzero(pixels.max(axis=axis) > 0.02)
    return places[-1] - places[0] + 1


@pytest.fixture(scope="module")
def seven():
    return prepared(drawn())


# --- what comes out --------------------------------------------------------------------------


def test_the_result_is_what_drawing_at_mnists_size_gives(seven):
    fine = np.full((560, 560), 255, np.uint8)  # 20 of its pixels are one of MNIST's
    pen, corner = 52, 160 + 26  # 2.6 of MNIST's pixels; ink begins in column 8 and row 6
    sheet = drawn(box=(corner, corner - 40, corner + 168, corner - 40 + 348), pen=pen, on=fine)
    small = 1 - cv2.resize(sheet, (28, 28), interpolation=cv2.INTER_AREA) / 255
    assert apart(seven, small) < 0.15
    assert seven.shape == (28, 28) and seven.dtype == np.float32
    assert seven.min() == 0 and 0.99 < seven.max() <= 1


@pytest.mark.parametrize("strokes", [SEVEN, FIVE, ZERO, ONE])
@pytest.mark.parametrize("box", [BOX, WIDE])
def test_ink_fits_20x20_in_its_own_shape_centred_by_mass(strokes, box):
    mark = find_digits(drawn(strokes, box))[0]
    left, top, right, bottom = mark.box
    sides, found = (right - left, bottom - top), (extent(mark.pixels, 0), extent(mark.pixels, 1))
    assert max(found) == 20 and np.argmax(found) == np.argmax(sides)
    assert min(found) == pytest.approx(20 * min(sides) / max(sides), abs=1.6)  # and thickened
    rows, columns = np.indices((28, 28))
    for places in (rows, columns):
        mass = (places * mark.pixels).sum() / mark.pixels.sum()
        assert mass == pytest.approx(13.5, abs=0.51)


@pytest.mark.parametrize("pen", [3, 6, 12])
def test_thin_strokes_become_as_wide_as_mnists(pen):
    assert prepared(drawn(ONE, pen=pen))[8:20].sum(axis=1).mean() == pytest.approx(2.6, abs=0.4)


@pytest.mark.parametrize("pen", [26, 40])
def test_thick_strokes_stay_as_they_are(pen):
    expected = 20 * pen / (160 + pen)
    width = prepared(drawn(ONE, pen=pen))[8:20].sum(axis=1).mean()
    assert width == pytest.approx(expected, abs=0.5)  # the box has whole pixels


def test_stages_end_in_what_the_network_gets_ink_dark():
    shown = stages(drawn())
    assert list(shown) == [
        "grey", "the paper alone", "ink over paper", "ink or not", "the digit's pieces",
        "thin strokes widened", "20x20 in 28x28",
    ]  # fmt: skip
    for name, picture in shown.items():
        assert picture.dtype == np.float32, name
        assert picture.min() >= -1e-6 and picture.max() <= 1 + 1e-6, name
    strokes = shown["thin strokes widened"]
    assert strokes.shape[0] == strokes.shape[1] and strokes[0].min() == 1
    np.testing.assert_allclose(1 - shown["20x20 in 28x28"], prepare(drawn()), atol=1e-6)


@pytest.mark.parametrize("ink", [np.zeros((20, 20)), np.ones((30, 20))], ids=["none", "too large"])
def test_ink_that_cannot_be_centred_is_refused(ink):
    with pytest.raises(ValueError, match="expected some, within 28x28"):
        centre(ink)


def test_a_small_loop_stays_open():
    loop = drawn(ZERO, box=(60, 165, 92, 200), pen=3, on=drawn([[(0, 0), (0.05, 0.9)]], pen=3))
    pixels = prepared(loop)
    count, _ = cv2.connectedComponents((pixels < 0.6).astype(np.uint8), connectivity=4)
    assert count - 1 == 2  # around, and within


# --- what must not matter --------------------------------------------------------------------

STORED = {  # EXIF's orientation -> the upright picture as it then lies in the file
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.T,
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).T,
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_turned_upright(orientation, seven, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    path = saved(tmp_path, STORED[orientation](drawn()), exif=exif)
    (mark,) = find_digits(path)
    np.testing.assert_array_equal(mark.pixels, seven)
    assert mark.box == find_digits(drawn())[0].box
    with Image.open(path) as picture:
        np.testing.assert_array_equal(prepared(picture), seven)


def rgba(colour, alpha=1.0) -> np.ndarray:
    """The seven in one colour, on nothing."""
    sheet = np.zeros((240, 200, 4), np.uint8)
    sheet[..., 3] = (255 - drawn()) * alpha
    sheet[sheet[..., 3] > 0, :3] = colour
    return sheet


@pytest.mark.parametrize("colour", [(0, 0, 0), (20, 30, 110), (255, 255, 255), (250, 230, 180)])
def test_transparent_parts_are_paper_for_dark_and_for_light_ink(colour, seven, tmp_path):
    assert apart(prepared(rgba(colour)), seven) < 0.02
    assert apart(prepared(saved(tmp_path, rgba(colour))), seven) < 0.02
    assert apart(prepared(rgba(colour, alpha=0.7)), seven) < 0.02


def test_transparency_of_palettes_and_greys_counts_too(seven, tmp_path):
    palette = Image.fromarray((drawn() > 127).astype(np.uint8), "L")
    palette.putpalette([0, 0, 0, 0, 0, 0])  # black ink on transparent black
    path = saved(tmp_path, palette.convert("P"), transparency=1)
    with Image.open(path) as picture:
        assert picture.mode in ("P", "L", "1")
    for image in (path, Image.fromarray(rgba((0, 0, 0))).convert("LA")):
        assert apart(prepared(image), seven) < 0.05


GREY = drawn()
RGB = np.dstack([GREY] * 3)
ARRAYS = {
    "uint16": GREY.astype(np.uint16) * 257,
    "uint16 of the other byte order": (GREY.astype(np.uint16) * 257).astype(">u2"),
    "int32 as some 16-bit files": GREY.astype(np.int32) * 257,
    "float16": (GREY / 255).astype(np.float16),
    "float32": GREY / np.float32(255),
    "float64": GREY / 255,
    "one channel": GREY[..., np.newaxis],
    "RGB": RGB,
    "RGB as floats": RGB / 255,
    "RGBA": np.dstack([RGB, np.full_like(GREY, 255)]),
    "column by column": np.asfortranarray(GREY),
    "a view turned twice": np.ascontiguousarray(GREY[::-1, ::-1])[::-1, ::-1],
    "a list": (GREY / 255).tolist(),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_all_types_of_arrays_give_the_same(kind, seven):
    assert apart(prepared(ARRAYS[kind]), seven) < 0.01


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I", "I;16", "F"])
def test_all_modes_of_pillow_give_the_same(mode, seven):
    scale = {"I": 257, "I;16": 257, "F": 1 / 255}.get(mode)
    kind = {"I": np.int32, "I;16": np.uint16, "F": np.float32}.get(mode)
    picture = Image.fromarray((GREY.astype(kind) * kind(scale)) if scale else GREY)
    picture = picture if scale else picture.convert(mode)
    assert picture.mode == mode
    assert apart(prepared(picture), seven) < 0.06  # "1" has no shades at the outline


@pytest.mark.parametrize(
    "kind, mode", [(k, m) for k in ("PNG", "BMP", "TIFF", "GIF") for m in ("1", "L", "P")]
    + [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B"), ("PNG", "RGBA"), ("JPEG", "L")]
    + [("JPEG", "RGB"), ("WEBP", "RGB"), ("PPM", "RGB")],
)  # fmt: skip
def test_all_formats_of_files_give_the_same(kind, mode, seven, tmp_path):
    deep = mode.startswith("I")
    picture = Image.fromarray(ARRAYS["uint16"] if deep else GREY)
    path = saved(tmp_path, picture if deep else picture.convert(mode), kind)
    if mode == "I;16B":
        big = ARRAYS["uint16 of the other byte order"].tobytes()
        Image.frombytes("I;16B", (200, 240), big).save(path, "TIFF")
    assert apart(prepared(path), seven) < 0.06
    assert apart(prepared(str(path)), seven) < 0.06


def test_a_negative_gives_the_same(seven):
    assert apart(prepared(255 - GREY), seven) < 0.01
    assert apart(prepared(40 + GREY // 3), seven) < 0.05  # pale, on grey
    assert apart(prepared(200 - GREY // 3), seven) < 0.05


@pytest.mark.parametrize("turns", range(4))
def test_uneven_light_changes_little(turns, seven):
    light = np.rot90(np.linspace(0.6, 1, 240)[:, np.newaxis] * np.ones((240, 240)), turns)
    for sheet in (GREY, 255 - GREY):
        assert apart(prepared((sheet * light[:, 20:220]).astype(np.uint8)), seven) < 0.05


def with_line(rows, columns, shade=120) -> np.ndarray:
    sheet = GREY.copy()
    sheet[rows, columns] = np.minimum(sheet[rows, columns], shade)
    return sheet


def specked(sheet) -> np.ndarray:
    sheet = sheet.copy()
    for row, column in np.random.default_rng(0).integers(3, 195, (40, 2)):
        sheet[row : row + 2, column : column + 2] = 0
    return sheet


EVERY = slice(None)
UNWANTED = {
    "a ruled line": with_line(slice(120, 122), EVERY),
    "an upright one": with_line(EVERY, slice(100, 102)),
    "ruled paper": with_line(np.arange(240) % 40 < 2, EVERY),
    "specks": specked(GREY),
    "a strip on the left": with_line(EVERY, slice(14), 30),
    "a strip above": with_line(slice(12), EVERY, 30),
    "a strip below": with_line(slice(220, None), EVERY, 60),
}  # fmt: skip


@pytest.mark.parametrize("what", UNWANTED)
def test_what_is_no_digit_is_left_out(what, seven):
    (mark,) = find_digits(UNWANTED[what])
    assert apart(mark.pixels, seven) < 0.06


# --- which digits, and where -----------------------------------------------------------------


@pytest.mark.parametrize(
    "width, kind", [(50, "PNG"), (150, "PNG"), (1000, "PNG"), (1000, "JPEG"), (4000, "JPEG")]
)
def test_boxes_are_in_the_pictures_own_pixels(width, kind, tmp_path):
    sheet = cv2.resize(GREY, (width, width * 6 // 5), interpolation=cv2.INTER_AREA)
    expected = np.array((53, 33, 148, 208)) * width / 200
    exif = Image.Exif()
    exif[274] = 6
    for path in (
        saved(tmp_path, sheet, kind, "upright"),
        saved(tmp_path, np.rot90(sheet), kind, "on its side", exif=exif),
    ):
        (mark,) = find_digits(path)
        np.testing.assert_allclose(mark.box, expected, atol=max(1.5, width / 150))
        assert all(type(side) is int for side in mark.box)
        assert read_picture(path).size == (width, width * 6 // 5)


def test_a_large_jpeg_is_decoded_small(tmp_path, monkeypatch):
    path = saved(tmp_path, cv2.resize(GREY, (2000, 2400)), "JPEG")
    sizes, convert = [], Image.Image.convert
    monkeypatch.setattr(
        Image.Image, "convert", lambda self, mode: sizes.append(self.size) or convert(self, mode)
    )
    assert read_picture(path).grey.shape == (640, 533)
    assert sizes == [(1000, 1200)]  # half: the next smaller has less than 640


def test_a_picture_that_was_opened_elsewhere_stays_whole(tmp_path):
    path = saved(tmp_path, cv2.resize(GREY, (2000, 2400)), "JPEG")
    with Image.open(path) as picture:
        assert read_picture(picture).grey.shape == (640, 533)
        assert picture.size == (2000, 2400)


def test_a_strip_has_its_box_inside():
    strip = np.full((10, 40_000), 255, np.uint8)
    strip[2:8, 100:3000] = 0
    (mark,) = find_digits(strip)
    left, top, right, bottom = mark.box
    assert 0 <= left < right <= 40_000 and 0 <= top < bottom <= 10


def test_digits_are_found_left_to_right_and_alone_the_largest():
    sheet = np.full((240, 600), 255, np.uint8)
    boxes = {"seven": (500, 60, 550, 160), "one": (80, 60, 130, 160), "zero": (300, 60, 350, 190)}
    strokes = {"seven": SEVEN, "one": ONE, "zero": ZERO}
    for name, box in boxes.items():
        drawn(strokes[name], box, on=sheet)
    marks = find_digits(sheet)
    for mark, name in zip(marks, ("one", "zero", "seven"), strict=True):
        left, top, right, bottom = boxes[name]
        assert left - 12 < mark.box[0] < mark.box[2] < right + 12
        assert apart(mark.pixels, prepared(drawn(strokes[name], (80, top, 130, bottom)))) < 0.15
    (largest,) = find_digits(sheet, single=True)
    assert largest.box == marks[1].box


@pytest.mark.parametrize("single", [False, True])
def test_a_digit_in_two_pieces_is_one(single):
    assert cv2.connectedComponents(255 - drawn(FIVE, pen=8))[0] == 3  # paper and both
    (mark,) = find_digits(drawn(FIVE, pen=8), single)
    np.testing.assert_allclose(mark.box, (56, 36, 144, 204), atol=3)


# --- what is refused -------------------------------------------------------------------------


def noise(shape, draw, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 256, shape) if draw == "uniform" else rng.normal(128, 40, shape)
    return np.clip(values, 0, 255).astype(np.uint8)


NO_DIGIT = {
    "white": (np.full((300, 200), 255, np.uint8), "blank"),
    "grey": (np.full((300, 200), 128, np.uint8), "blank"),
    "black": (np.zeros((300, 200), np.uint8), "blank"),
    "small and black": (np.zeros((40, 40, 3), np.uint8), "blank"),
    "clear": (np.zeros((300, 200, 4), np.uint8), "blank"),
    "specks": (specked(np.full((240, 200), 255, np.uint8)), "write it larger"),
    "one speck": (np.pad(np.zeros((5, 5), np.uint8), 200, constant_values=255), "write it larger"),
} | {
    f"{draw} {shape} {seed}": (noise(shape, draw, seed), "noise|blank|larger")
    for draw in ("uniform", "normal")
    for shape in ((40, 40), (60, 60, 3), (300, 200), (500, 500))
    for seed in range(2)
}


@pytest.mark.parametrize("kind", NO_DIGIT)
@pytest.mark.parametrize("single", [False, True])
def test_where_no_digit_is_none_is_found(kind, single):
    image, message = NO_DIGIT[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NoDigitError, match=message):
            find_digits(image, single)


SHEET = np.zeros((50, 50))
BAD_ARRAYS = {
    "1x1": (np.zeros((1, 1), np.uint8), "1x1 pixels: at least 8x8"),
    "too narrow": (np.zeros((50, 7), np.uint8), "7x50 pixels: at least 8x8"),
    "empty": (np.zeros((0, 28), np.uint8), r"shape \(0, 28\), expected \(h, w\)"),
    "flat": (np.zeros(784, np.uint8), r"shape \(784,\), expected \(h, w\)"),
    "a batch": (np.zeros((1, 50, 50, 3), np.uint8), r"shape \(1, 50, 50, 3\)"),
    "two channels": (np.zeros((50, 50, 2), np.uint8), r"shape \(50, 50, 2\)"),
    "five channels": (np.zeros((50, 50, 5), np.uint8), r"shape \(50, 50, 5\)"),
    "nothing": (None, r"shape \(\)"),
    "a ragged list": ([[1, 2], [3]], "no array"),
    "not a number": (SHEET + np.nan, "from nan to nan.*divide by 255"),
    "infinite": (SHEET + np.inf, "from inf to inf.*divide by 255"),
    "0 to 255": (SHEET + 255, "from 255.0 to 255.0.*divide by 255"),
    "negative": (SHEET - 0.5, "from -0.5 to -0.5.*divide by 255"),
    "integers": (SHEET.astype(np.int64), "int64, expected uint8"),
    "large integers": (SHEET.astype(np.int32) + 70_000, "int32, expected uint8"),
    "truth values": (SHEET > 0, "bool, expected uint8"),
    "complex": (SHEET * 1j, "complex128, expected uint8"),
    "objects": (np.full((50, 50), None), "object, expected uint8"),
    "strings": (np.full((50, 50), "0"), "<U1, expected uint8"),
    "too large": (np.broadcast_to(np.uint8(255), (8000, 8000)), "8000x8000 .*at most 50 million"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_what_is_no_picture_is_refused(kind):
    image, message = BAD_ARRAYS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureError, match=message):
            read_picture(image)


def png_header(side: int) -> bytes:
    """A PNG that promises side x side pixels and holds next to none."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(100)),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(raw)) + name + raw + struct.pack(">I", zlib.crc32(name + raw))
        for name, raw in chunks.items()
    )


def encoded(kind, mode="L", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GREY).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


MORE = {"save_all": True, "append_images": [Image.new("L", (200, 240))]}
BAD_FILES = {
    "cut.jpg": (encoded("JPEG")[:-900], "damaged or incomplete .*get it again"),
    "cut.png": (encoded("PNG")[:600], "damaged or incomplete .*get it again"),
    "head.jpg": (encoded("JPEG")[:200], "not a picture .*save it as PNG or JPEG"),
    "text.png": (b"hello", "not a picture .*save it as PNG or JPEG"),
    "empty.png": (b"", "not a picture .*save it as PNG or JPEG"),
    "postscript.png": (encoded("EPS"), "not a picture .*save it as PNG or JPEG"),
    "moving.gif": (encoded("GIF", **MORE), "has 2 frames; save the one to read"),
    "moving.webp": (encoded("WEBP", "RGB", **MORE), "has 2 frames; save the one to read"),
    "pages.tif": (encoded("TIFF", **MORE), "has 2 frames; save the one to read"),
    "print.jpg": (encoded("JPEG", "CMYK"), "colours are CMYK; save it as RGB or grey"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_named(name, tmp_path):
    raw, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a file left open would warn, too
        with pytest.raises(PictureError, match=f"^{name}: .*{message}"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("side", [8000, 60_000])
def test_a_huge_picture_is_refused_before_it_is_decoded(side, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    (tmp_path / "huge.png").write_bytes(png_header(side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureError, match="at most 50 million"):
            read_picture(tmp_path / "huge.png")


def test_a_photo_with_a_preview_behind_it_is_read(seven, tmp_path):
    preview = Image.fromarray(GREY).resize((50, 60))
    path = saved(tmp_path, GREY, "MPO", save_all=True, append_images=[preview])
    with Image.open(path) as picture:
        assert picture.n_frames == 2
    assert apart(prepared(path), seven) < 0.06


@pytest.mark.parametrize("name", ["absent.png", "", "\0", "long" * 2000])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_picture(tmp_path / name)  # "" is the folder itself
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_picture(str(tmp_path / name))


def test_a_closed_picture_is_refused():
    picture = Image.open(io.BytesIO(encoded("PNG")))
    picture.close()
    with pytest.raises(PictureError, match="^the picture: damaged"):
        read_picture(picture)


def test_the_callers_array_and_picture_are_left_alone():
    array, picture = drawn(), Image.fromarray(drawn())
    prepared(array), prepared(picture)
    np.testing.assert_array_equal(array, GREY)
    np.testing.assert_array_equal(np.asarray(picture), GREY)
