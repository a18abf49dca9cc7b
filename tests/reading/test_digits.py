"""Digits cut out: what must come out, which digits, and what is refused."""

import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from src.reading import digits
from src.reading.digits import find_digits, prepare
from src.reading.picture import NoDigitError, read_picture


def extent(pixels, axis) -> int:
    places = np.flatnonzero(pixels.max(axis=axis) > 0.02)
    return places[-1] - places[0] + 1


def test_the_result_is_what_drawing_at_mnists_size_gives(drawn, seven, apart):
    fine = np.full((560, 560), 255, np.uint8)  # 20 of its pixels are one of MNIST's
    pen, corner = 52, 160 + 26  # 2.6 of MNIST's pixels; ink begins in column 8 and row 6
    fine = drawn(box=(corner, corner - 40, corner + 168, corner - 40 + 348), pen=pen, on=fine)
    small = 1 - cv2.resize(fine, (28, 28), interpolation=cv2.INTER_AREA) / 255
    assert apart(seven, small) < 0.15
    assert seven.shape == (28, 28) and seven.dtype == np.float32
    assert seven.min() == 0 and 0.99 < seven.max() <= 1


@pytest.mark.parametrize("name", ["seven", "five", "zero", "one"])
@pytest.mark.parametrize("box", [(60, 40, 140, 200), (20, 90, 180, 140)])
def test_ink_fits_20x20_in_its_own_shape_centred_by_mass(name, box, drawn):
    mark = find_digits(drawn(name, box))[0]
    left, top, right, bottom = mark.box
    sides, found = (right - left, bottom - top), (extent(mark.pixels, 0), extent(mark.pixels, 1))
    assert max(found) == 20 and np.argmax(found) == np.argmax(sides)
    assert min(found) == pytest.approx(20 * min(sides) / max(sides), abs=1.6)  # and thickened
    for places in np.indices((28, 28)):
        mass = (places * mark.pixels).sum() / mark.pixels.sum()
        assert mass == pytest.approx(13.5, abs=0.51)


@pytest.mark.parametrize("pen", [3, 6, 12, 26, 40])
def test_thin_strokes_become_as_wide_as_mnists_thick_ones_stay(pen, drawn):
    width = prepare(drawn("one", pen=pen))[8:20].sum(axis=1).mean()
    assert width == pytest.approx(max(2.6, 20 * pen / (160 + pen)), abs=0.5)  # boxes: whole pixels


def test_a_small_loop_stays_open(drawn):
    pixels = prepare(drawn("zero", (60, 165, 92, 200), pen=3, on=drawn("tail", pen=3)))
    count, _ = cv2.connectedComponents((pixels < 0.6).astype(np.uint8), connectivity=4)
    assert count - 1 == 2  # around, and within


@pytest.mark.parametrize("width, kind", [(50, "PNG"), (150, "PNG"), (1000, "PNG"), (4000, "JPEG")])
def test_boxes_are_in_the_pictures_own_pixels(width, kind, sheet, tmp_path):
    sheet = cv2.resize(sheet, (width, width * 6 // 5), interpolation=cv2.INTER_AREA)
    expected, exif = np.array((53, 33, 148, 208)) * width / 200, Image.Exif()
    exif[274] = 6  # it lies on its side
    Image.fromarray(np.rot90(sheet).copy()).save(tmp_path / "picture", kind, exif=exif)
    for image in (sheet, tmp_path / "picture"):
        (mark,) = find_digits(image)
        np.testing.assert_allclose(mark.box, expected, atol=max(1.5, width / 150))
        assert all(type(side) is int for side in mark.box)


def test_a_strip_has_its_box_inside():
    strip = np.full((10, 40_000), 255, np.uint8)
    strip[2:8, 100:3000] = 0
    (mark,) = find_digits(strip)
    left, top, right, bottom = mark.box
    assert 0 <= left < right <= 40_000 and 0 <= top < bottom <= 10


def test_digits_are_found_left_to_right_and_alone_the_largest(drawn, apart):
    row = np.full((240, 600), 255, np.uint8)
    boxes = {"seven": (500, 60, 550, 160), "one": (80, 60, 130, 160), "zero": (300, 60, 350, 190)}
    for name, box in boxes.items():
        drawn(name, box, on=row)
    marks = find_digits(row)
    for mark, name in zip(marks, ("one", "zero", "seven"), strict=True):
        left, top, right, bottom = boxes[name]
        assert left - 12 < mark.box[0] < mark.box[2] < right + 12
        assert apart(mark.pixels, prepare(drawn(name, (80, top, 130, bottom)))) < 0.15
    assert [mark.box for mark in find_digits(row, single=True)] == [marks[1].box]


@pytest.mark.parametrize("single", [False, True])
def test_a_digit_in_two_pieces_is_one(single, drawn):
    five = drawn("five", pen=8)
    assert cv2.connectedComponents(255 - five)[0] == 3  # paper and both
    (mark,) = find_digits(five, single)
    np.testing.assert_allclose(mark.box, (56, 36, 144, 204), atol=3)
    halves = drawn("one", (60, 130, 140, 200), pen=8, on=drawn("one", (60, 40, 140, 112), pen=8))
    (mark,) = find_digits(halves, single)
    np.testing.assert_allclose(mark.box, (96, 36, 104, 204), atol=3)


PAGE, RNG = np.full((300, 200), 255, np.uint8), np.random.default_rng(0)
SPECKED = np.where(RNG.random(PAGE.shape) < 0.001, 0, PAGE)
NO_DIGIT = [
    *((page, "blank") for page in (PAGE, PAGE // 2, 0 * PAGE, PAGE[:40, :40] // 9)),
    (np.zeros((300, 200, 4), np.uint8), "blank"),
    (SPECKED, "write it larger"),
    *((RNG.integers(0, 256, (side, side), np.uint8), "noise|larger") for side in (40, 500)),
]


@pytest.mark.parametrize("image, message", NO_DIGIT)
def test_where_no_digit_is_none_is_found(image, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for single in (False, True):
            with pytest.raises(NoDigitError, match=message):
                find_digits(image, single)


def test_a_picture_that_was_read_is_not_read_again(sheet, seven):
    np.testing.assert_array_equal(prepare(read_picture(sheet)), seven)


def test_the_usual_recipes_resize_all_or_box_one_threshold(sheet, seven, apart):
    small = 1 - cv2.resize(sheet, (28, 28), interpolation=cv2.INTER_AREA) / 255
    for picture in (sheet, 255 - sheet):
        assert apart(digits.squeeze(picture), small) < 0.05
    boxed = digits.box_and_centre(sheet)
    assert extent(boxed, 1) == 20 and apart(boxed, seven) < 0.4  # its strokes are thinner
    with pytest.raises(NoDigitError, match="blank"):
        digits.box_and_centre(PAGE)
