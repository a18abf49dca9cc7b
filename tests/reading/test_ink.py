"""Ink found: what must not matter to a digit's pixels."""

import numpy as np
import pytest

from src.reading.digits import find_digits, prepare
from src.reading.ink import find_ink

ROWS, COLUMNS = np.indices((240, 200))
RANDOM = np.zeros((240, 200), bool)
for row, column in np.random.default_rng(0).integers(3, 195, (40, 2)):
    RANDOM[row : row + 2, column : column + 2] = True


@pytest.mark.parametrize(
    "change, most",
    [
        (lambda sheet: 255 - sheet, 0.01),
        (lambda sheet: 40 + sheet // 3, 0.05),  # pale, on grey
        (lambda sheet: 200 - sheet // 3, 0.05),
        (lambda sheet: sheet * (0.6 + ROWS / 600), 0.05),  # uneven light
        (lambda sheet: sheet * (1 - COLUMNS / 600), 0.05),
        (lambda sheet: (255 - sheet) * (1 - ROWS / 600), 0.05),
        (lambda sheet: (255 - sheet) * (0.6 + COLUMNS / 600), 0.05),
    ],
)
def test_shades_and_light_change_little(change, most, sheet, seven, apart):
    assert apart(prepare(change(sheet).astype(np.uint8)), seven) < most


@pytest.mark.parametrize(
    "where, shade",
    [
        ((ROWS == 120) | (ROWS == 121), 120),  # a ruled line
        ((COLUMNS == 100) | (COLUMNS == 101), 120),  # an upright one
        (ROWS % 40 < 2, 120),  # ruled paper
        ((ROWS - COLUMNS // 8) % 40 < 2, 120),  # at a slant
        (RANDOM, 0),  # specks
        (COLUMNS < 14, 30),  # strips at the edges
        (ROWS < 12, 30),
        (ROWS >= 220, 60),
    ],
)
def test_what_is_no_digit_is_left_out(where, shade, sheet, seven, apart):
    sheet[where] = np.minimum(sheet[where], shade)
    (mark,) = find_digits(sheet)
    assert apart(mark.pixels, seven) < 0.1


def test_a_table_that_touches_the_digit_is_left_out(drawn):
    sheet = drawn(box=(30, 40, 140, 200), pen=8)
    sheet[:, :28] = 30
    (mark,) = find_digits(sheet)
    np.testing.assert_allclose(mark.box, (30, 36, 144, 204), atol=10)


@pytest.mark.parametrize("light", [False, True])
def test_ink_is_told_from_its_paper(light, sheet):
    grey = np.float32(0.1) + sheet * np.float32(0.8 / 255)
    ink = find_ink(1 - grey if light else grey)
    np.testing.assert_allclose(ink.paper, 0.9, atol=0.02)
    assert ink.strength.min() >= 0 and ink.strength.max() <= 1
    assert ink.mask.dtype == np.uint8 and (ink.mask == (sheet < 128)).mean() > 0.99
