"""Cut digits out of a picture, scaled and centred as MNIST's makers did.

LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition" (1998).
Numbers without a remark are guesses, kept since the synthetic photos are read well with them.
"""

from typing import NamedTuple

import cv2
import numpy as np

from src.config import IMAGE_SHAPE
from src.reading.ink import BLANK, find_ink, middle_width
from src.reading.picture import WORK, NoDigitError, read_picture, resize

SIDE, INK_BOX = IMAGE_SHAPE[0], 20  # MNIST's frame, and the box of its ink
OVERSAMPLED = 160  # side of that box while strokes are widened
# Pixels: a stroke's least width in MNIST's box. Half of MNIST's are wider than 2.3, a tenth wider
# than 3.4 (measured on 2,000); on photos from elsewhere 2.6 did better than no widening.
STROKE = 2.6
CLOSE = 0.2  # pieces of one digit are no farther apart than this share of its size
MOST = 60  # pieces of ink and holes in them; more are noise or text


class Mark(NamedTuple):
    pixels: np.ndarray  # what the network reads: float32 (28, 28), ink 1 on paper 0
    box: tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the upright picture


def prepare(image) -> np.ndarray:
    """Turn a picture's largest digit into what networks read: float32 (28, 28)."""
    return find_digits(image, single=True)[0].pixels


def find_digits(image, single: bool = False) -> list[Mark]:
    """Find the digits in what read_picture takes, left to right; or the largest alone.

    Raises PictureError for what is no picture, NoDigitError where there is no digit's ink.
    """
    picture, digits = _steps(image, single)
    scale = np.divide(picture.size, picture.grey.shape[::-1])
    marks = []
    for box, ink in digits:
        box = np.append(np.floor(box[:2] * scale + 1e-6), np.ceil(box[2:] * scale - 1e-6))
        marks.append(Mark(box_in(even_strokes(ink), 0.02), tuple(box.astype(int).tolist())))
    return marks


def _size(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).max(axis=-1)


def _around(boxes: np.ndarray) -> np.ndarray:
    return np.append(boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0))


def _steps(image, single: bool) -> tuple:
    """Give a picture, and of each digit its box and ink."""
    picture = read_picture(image)
    ink = find_ink(picture.grey, small=max(picture.size) < WORK[0] / 2)
    _, places, stats, _ = cv2.connectedComponentsWithStats(ink.mask)
    boxes = np.hstack([stats[:, :2], stats[:, :2] + stats[:, 2:4]])  # left, top, right, bottom
    kept = _without_specks(boxes, stats[:, 4], picture.grey.shape)
    holes = cv2.connectedComponents(1 - ink.mask, connectivity=4)[0] - 2
    if len(kept) + holes > MOST:
        counted = f"{len(kept)} marks with {holes} holes"
        raise NoDigitError(f"{counted}, no digit: is it noise, or a page of text?")
    digits = []
    for pieces in _groups(boxes, kept, single):
        left, top, right, bottom = box = _around(boxes[pieces])
        cut = np.isin(places[top:bottom, left:right], pieces).astype(np.float32)
        digits.append((box, cut))
    return picture, digits


def _without_specks(boxes: np.ndarray, areas: np.ndarray, shape: tuple) -> np.ndarray:
    """Number the pieces, large to small; leave out specks and, if it can, the edge."""
    size = _size(boxes)
    edge = ((boxes[:, :2] <= 1) | (boxes[:, 2:] >= np.subtract(shape[::-1], 1))).any(axis=1)
    edge[0], size[0] = True, 0  # the paper
    inner = ~edge & (size >= 0.25 * size[~edge].max(initial=0)) & (size >= 0.05 * max(shape))
    wanted = ~edge if inner.any() else size > 0
    largest = size[wanted].max()
    if largest < 0.02 * max(shape):
        raise NoDigitError("no more than specks: bring the digit closer, or write it larger.")
    kept = np.flatnonzero(wanted & (areas >= 0.002 * largest**2))
    return kept[np.argsort(-size[kept], kind="stable")]


def _groups(boxes: np.ndarray, kept: np.ndarray, single: bool) -> list[list[int]]:
    """Group pieces into digits, left to right; drop small pieces that join none."""
    groups: list[list[int]] = []
    for i in kept:
        home = next((g for g in groups if _belongs(boxes[i], _around(boxes[g]), single)), None)
        if home is not None:
            home.append(i)
        elif not groups or (not single and _size(boxes[i]) >= 0.3 * _size(boxes[kept[0]])):
            groups.append([i])
    return sorted(groups, key=lambda group: boxes[group, 0].min())


def _belongs(piece: np.ndarray, digit: np.ndarray, single: bool) -> bool:
    """Tell whether a piece is near a digit; if not `single`, nearer at the sides."""
    beside, above = np.maximum(digit[:2] - piece[2:], piece[:2] - digit[2:])  # gaps, or below 0
    close = CLOSE * _size(digit)
    if single:
        return max(beside, above) < close
    overlap = -beside > 0.5 * min(piece[2] - piece[0], digit[2] - digit[0])
    near = _size(piece) < 0.6 * _size(digit) and beside < close / 3
    return above < close and (overlap or near)


def even_strokes(ink: np.ndarray) -> np.ndarray:
    """Scale a digit's ink (h, w), without margin, to OVERSAMPLED; smooth it, widen thin strokes."""
    large = np.pad(resize(ink, OVERSAMPLED, least=2), OVERSAMPLED // 8)
    large = cv2.GaussianBlur(large, (0, 0), max(1.0, 0.5 * OVERSAMPLED / max(ink.shape)))
    level = 0.5 if large.max() > 0.5 else 0.5 * large.max()
    inside = (large > level).astype(np.uint8)
    width = middle_width(cv2.distanceTransform(inside, cv2.DIST_L2, 5))
    share = STROKE / INK_BOX  # the box grows with the strokes, hence 1 - share
    grow = max(0.0, (share * OVERSAMPLED - width) / (1 - share)) / 2
    away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    count, places = cv2.connectedComponents(1 - inside, connectivity=4)
    reach = np.zeros(count, np.float32)  # how far it is to the middle of each hole
    np.maximum.at(reach, places, away)
    limit = np.minimum(grow, 0.5 * reach)  # so that loops stay open
    limit[[0, places[0, 0]]] = grow  # the ink itself, and the paper around it
    return np.clip(limit[places] + 1 - away, 0, 1)


def box_in(ink: np.ndarray, least: float) -> np.ndarray:
    """Scale the box around ink above `least` into 20x20; centre its mass in float32 (28, 28)."""
    x, y, width, height = cv2.boundingRect((ink > least).astype(np.uint8))
    ink = np.minimum(resize(ink[y : y + height, x : x + width], INK_BOX), 1)
    spare = []
    for axis, length in enumerate(ink.shape):
        mass = (ink.sum(axis=1 - axis) * np.arange(length)).sum() / ink.sum()
        before = int(np.clip(round((SIDE - 1) / 2 - mass), 0, SIDE - length))
        spare.append((before, SIDE - length - before))
    return np.pad(ink.astype(np.float32), spare)


def squeeze(image) -> np.ndarray:
    """Follow the usual recipe: grey, inverted where it is bright, resized to 28x28."""
    return cv2.resize(_light_ink(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def box_and_centre(image) -> np.ndarray:
    """Box what exceeds Otsu's threshold, then scale and centre that as MNIST's."""
    levels = (_light_ink(image) * 255).astype(np.uint8)
    mask = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1]
    if not mask.any():
        raise NoDigitError(BLANK)
    return box_in(mask.astype(np.float32), 0)


def _light_ink(image) -> np.ndarray:
    grey = read_picture(image).grey
    return 1 - grey if grey.mean() > 0.5 else grey
