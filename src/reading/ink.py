"""Find the ink in a picture: darker than its paper, no ruled line, no shadow.

Numbers without a remark are guesses, kept since the synthetic photos are read well with them.
"""

from typing import NamedTuple

import cv2
import numpy as np

from src.reading.picture import WORK, NoDigitError, resize

SKETCH = 128  # pixels of the longer side while the paper's own brightness is looked for
WINDOW = 1 / 3  # of the sketch; the lightest within it is paper
FAINTEST = 0.06  # ink darker than its paper by less than this share is no ink
NOISE = 4.0  # ... nor is what stays within so many sd of the paper's noise
FEWEST = 12  # pixels of ink
TILT = np.radians(12)  # ruled lines are no farther from level or upright
BLANK = "nothing stands out from the paper: is the page blank?"


class Ink(NamedTuple):
    paper: np.ndarray  # (h, w), as all: its brightness, light even where the picture's is dark
    strength: np.ndarray  # from 0 to 1
    mask: np.ndarray  # uint8, 1 where ink is


def find_ink(grey: np.ndarray, small: bool = False) -> Ink:
    """Find dark ink on light paper, or light on dark: float32 (h, w) in [0, 1].

    `small`: a picture of few pixels, which the digit fills; its paper is taken to be even.
    """
    upright = 1 - grey if _ink_is_light(grey) else grey
    paper = _paper(upright, 1 if small else WINDOW)
    strength = np.clip((paper - upright) / np.maximum(paper, 0.1), 0, 1)
    strength = cv2.GaussianBlur(strength, (0, 0), max(grey.shape) / WORK[1])
    if small:
        return Ink(paper, strength, _threshold(strength, FAINTEST))
    some = strength[::3, ::3]
    spread = float(np.median(np.abs(some - np.median(some))))
    floor = max(FAINTEST, NOISE * 1.4826 * spread)  # normal noise has an sd of 1.4826 spreads
    mask = _without_lines((strength > floor).astype(np.uint8), strength)
    return Ink(paper, strength, _threshold(strength * _without_edge_blobs(mask), floor))


def _ink_is_light(grey: np.ndarray) -> bool:
    """Tell by the skewness about the local median: ink is rarer and farther away."""
    sketch = (resize(grey, 64, least=4) * 255).astype(np.uint8)
    vote = 0.0
    for window in (9, 47):  # shadows don't mislead the small one, nor bold strokes the large one
        middle = cv2.medianBlur(sketch, min(window, min(sketch.shape) // 2 * 2 - 1))
        away = sketch.astype(np.float32) - middle
        cubes = away * away * away  # 100 times as fast as **3
        vote += float(cubes.sum() / (np.abs(cubes).sum() + 1e-9))
    return vote > 0


def _paper(grey: np.ndarray, window: float) -> np.ndarray:
    """Estimate the paper's brightness: a morphological closing fills the strokes in."""
    sketch = cv2.medianBlur(resize(cv2.GaussianBlur(grey, (0, 0), 1), SKETCH, least=4), 3)
    square = np.ones((2 * int(SKETCH * window / 2) + 1,) * 2, np.uint8)
    closed = cv2.GaussianBlur(cv2.morphologyEx(sketch, cv2.MORPH_CLOSE, square), (0, 0), 1)
    return cv2.resize(closed, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _without_lines(mask: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Take out ruled lines, but not the ink of strokes that cross or cover one."""
    for _ in range(2):  # level lines, then upright ones
        for line in _lines(mask):
            rows, columns, run = _runs(mask, *line)
            length = run.sum(axis=0)
            if not length.any():
                continue
            run &= length <= 1.5 * np.median(length[length > 0]) + 1.5  # longer: a stroke
            ink = run * strength[rows, columns]
            darkest = ink.max(axis=0)
            run &= ink < 1.4 * np.median(darkest[darkest > 0])  # darker: a stroke, too
            mask[rows[run], columns[run]] = 0
        mask, strength = (np.ascontiguousarray(part.T) for part in (mask, strength))
    return mask


def _lines(mask: np.ndarray) -> list[tuple[float, float]]:
    """Find nearly level, parallel lines: row at the left edge and slope of each.

    Duda and Hart, "Use of the Hough transformation to detect lines and curves in pictures" (1972).
    """
    height, width = mask.shape
    angles = (np.pi / 2 - TILT, np.pi / 2 + TILT)  # in steps of half a degree
    found = cv2.HoughLines(mask, 1, np.radians(0.5), width // 2, None, 0, 0, *angles)
    if found is None:
        return []
    near = cv2.dilate(np.pad(mask, ((3, 3), (0, 0))), np.ones((5, 1), np.uint8))
    columns, tenth = np.arange(width), max(1, width // 10)
    lines: list[tuple[float, float]] = []
    for rho, theta in found.reshape(-1, found.shape[-1])[:300, :2].astype(float):  # 300: time
        start, slope = rho / np.sin(theta), -np.cos(theta) / np.sin(theta)
        rows = np.rint(start + slope * columns).astype(int)
        hit = near[np.clip(rows + 3, 0, height + 5), columns]
        ends = min(hit[:tenth].mean(), hit[-tenth:].mean()) > 0.3  # not so in most bold strokes
        beside = any(abs(start - s + (slope - t) * width / 2) < 4 for s, t in lines)  # pixels
        parallel = not lines or abs(slope - lines[0][1]) <= 0.03  # radians
        if ends and parallel and not beside and _is_line(mask, start, slope):
            lines.append((start, slope))
    return lines


def _is_line(mask: np.ndarray, start: float, slope: float) -> bool:
    """Tell whether thin runs of ink cover most of what no thick stroke hides."""
    length = _runs(mask, start, slope)[2].sum(axis=0)
    clear = length <= 2 + 0.015 * max(mask.shape)
    thin = ((length > 0) & clear).sum()
    return thin > 0.4 * len(length) and thin > 0.75 * clear.sum()


def _runs(mask: np.ndarray, start: float, slope: float) -> tuple[np.ndarray, ...]:
    """Give rows and columns (k, w) near a line, and which are in runs that meet it."""
    height, width = mask.shape
    reach = max(6, height // 30)
    steps, columns = np.arange(-reach, reach + 1), np.arange(width)
    rows = np.rint(start + slope * columns).astype(int) + steps[:, np.newaxis]
    inside, columns = np.clip(rows, 0, height - 1), np.broadcast_to(columns, rows.shape)
    ink = (mask[inside, columns] > 0) & (rows == inside)
    nearest = reach + np.array([0, -1, 1, -2, 2])
    first = nearest[ink[nearest].argmax(axis=0)], columns[0]
    gaps = np.cumsum(~ink, axis=0, dtype=np.uint16)  # stays the same along a run
    return inside, columns, ink & (gaps == gaps[first]) & ink[first]


def _without_edge_blobs(mask: np.ndarray) -> np.ndarray:
    """Take out what touches the edge and is far wider than a stroke: shadows, tables."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    far = np.clip(1.5 * middle_width(depth, 75), 0.02 * max(mask.shape), 0.05 * max(mask.shape))
    blobs = cv2.connectedComponents((depth > far).astype(np.uint8))[1]
    rim, reach = blobs.copy(), int(far + 3)
    rim[reach:-reach, reach:-reach] = 0
    paper = np.isin(blobs, rim[rim > 0], invert=True).astype(np.uint8)
    if paper.all():
        return mask
    rest = mask * (cv2.distanceTransform(paper, cv2.DIST_L2, 5) > far + 2)
    return rest if rest.any() else mask


def middle_width(depth: np.ndarray, percentile: float = 50) -> float:
    """Measure strokes: twice `depth`, the distance to paper, along their middles."""
    ridge = depth[(depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8)) - 1e-3) & (depth > 0)]
    return 2 * float(np.percentile(ridge, percentile)) - 1 if ridge.size else 1.0


def _threshold(strength: np.ndarray, floor: float) -> np.ndarray:
    """Find what is above Otsu's threshold, and above half of it and touching that.

    Otsu, "A threshold selection method from gray-level histograms" (1979).
    """
    above = strength[strength > floor]
    if above.size >= FEWEST:
        levels = np.ascontiguousarray((above * 255).astype(np.uint8))
        otsu = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] / 255
        places = cv2.connectedComponents((strength > max(floor, otsu / 2)).astype(np.uint8))[1]
        ink = np.isin(places, places[strength > max(floor, otsu)])
        if ink.any():
            return ink.astype(np.uint8)
    raise NoDigitError(BLANK)
