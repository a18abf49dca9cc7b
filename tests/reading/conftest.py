"""What the tests of reading share: digits drawn with a pen, and how far two results differ."""

import cv2
import numpy as np
import pytest

from src.reading.digits import prepare

TURN = np.linspace(0, 2 * np.pi, 40)
STROKES = {  # in a box of width and height 1
    "seven": [[(0, 0), (1, 0), (0.35, 1)]],
    "one": [[(0.5, 0), (0.5, 1)]],
    "zero": [np.stack([0.5 + 0.4 * np.cos(TURN), 0.5 + 0.5 * np.sin(TURN)], axis=1)],
    "five": [  # in two pieces
        [(0.12, 0.05), (0.05, 0.45), (0.6, 0.4), (0.95, 0.65), (0.6, 1), (0, 0.92)],
        [(0.32, 0), (1, 0)],
    ],
    "tail": [[(0, 0), (0.05, 0.9)]],
}


def draw(name="seven", box=(60, 40, 140, 200), pen=14, on=None) -> np.ndarray:
    """Dark ink on a light sheet of 200x240 pixels, or on another; `box`: of the middle lines."""
    sheet = np.full((240, 200), 255, np.uint8) if on is None else on
    left, top, right, bottom = box
    for stroke in STROKES[name]:
        places = np.array(stroke) * (right - left, bottom - top) + (left, top)
        cv2.polylines(sheet, [np.rint(places * 16).astype(np.int32)], False, 0, pen, cv2.LINE_AA, 4)
    return sheet


@pytest.fixture(scope="session")
def drawn():
    return draw


@pytest.fixture
def sheet():
    return draw()


@pytest.fixture(scope="session")
def seven():
    return prepare(draw())


@pytest.fixture(scope="session")
def apart():
    """How much of the ink differs, as a share."""
    return lambda one, other: float(np.abs(one - other).sum() / other.sum())
