"""Any picture scaled and centred as MNIST's makers did with their scans; numpy, OpenCV and
Pillow only.

MNIST: binary scans of single digits, the ink's box scaled into 20x20 keeping its shape,
centred by mass in 28x28 (LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to
document recognition", 1998).
"""

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from src.config import IMAGE_SHAPE

LARGEST, SMALLEST = 50_000_000, 8  # pixels in all; pixels on a side
WORK = (224, 640)  # pixels of the longer side, while ink is looked for
SKETCH = 128  # ... while the paper's own brightness is
INK_BOX, OVERSAMPLED = 20, 160  # side of the ink's box in MNIST, and while strokes are measured
STROKE = 2.6  # pixels: a stroke's width in MNIST's 20x20 box
FAINTEST = 0.06  # ink darker than its paper by less than this share is no ink
NOISE = 4.0  # ... nor is what stays within so many sd of the paper's noise
CLOSE = 0.2  # pieces of one digit are no farther apart than this share of its size
WINDOW = 1 / 3  # of the frame: paper's brightness is taken from the lightest within it
FEWEST = 12  # pixels of ink
MOST = 60  # pieces of ink and holes in them; more are noise or text
LEAST = 0.02  # a digit's size, as a share of the picture's longer side
WITH_ALPHA = ("LA", "RGBA", "La", "RGBa", "PA")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")  # no EPS: Ghostscript would run it
DAMAGE = (  # what Pillow raises on damaged files
    *(OSError, EOFError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError),
    *(AttributeError, MemoryError, struct.error, zlib.error),
)
SIDE = IMAGE_SHAPE[0]


class PictureError(ValueError):
    """A picture that can't be read; the message says why."""


class NoDigitError(PictureError):
    """A picture in which nothing looks like a digit's ink."""


# --- reading a picture ---------------------------------------------------------------------


class Picture(NamedTuple):
    """Brightness, float32 (h, w) in [0, 1], upright, and the picture's own width and height."""

    grey: np.ndarray
    size: tuple[int, int]


def read_picture(image) -> Picture:
    """A path, PIL image or array as shades of grey, its longer side brought to within WORK.

    Transparent parts become paper of the shade farthest from what is drawn. Raises
    PictureError for what is no picture, or too large or small a one, FileNotFoundError.
    """
    size = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # what matters is an error here
        if isinstance(image, str | Path):
            with _open(Path(image)) as opened:
                image, size = _from_pil(opened, reduce=True)
        elif isinstance(image, Image.Image):
            image, size = _from_pil(image)
    try:
        image = np.asarray(image)
    except (ValueError, TypeError) as error:
        raise PictureError(f"image: no array ({_short(error)}).") from error
    image = _check_array(image)
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise PictureError(f"a picture of {width}x{height} pixels: at least 8x8 are needed.")
    if height * width > LARGEST:
        raise PictureError(_too_large(width, height))
    return Picture(_as_grey(_resize(image)), size or (width, height))


def _too_large(width: int, height: int) -> str:
    return f"a picture of {width}x{height} pixels: at most {LARGEST / 1e6:.0f} million are read."


def _open(path: Path) -> Image.Image:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{path.name}: far too large: at most {LARGEST / 1e6:.0f} million pixels are read."
        ) from error
    except DAMAGE as error:
        raise PictureError(
            f"{path.name}: not a picture that can be read; save it as PNG or JPEG."
        ) from error


def _short(error: Exception) -> str:
    return str(error).partition(": ")[0].split("\n")[0][:80] or type(error).__name__


def _from_pil(picture: Image.Image, reduce: bool = False) -> tuple[np.ndarray, tuple[int, int]]:
    """The picture's pixels and its whole size; upright. `reduce` decodes a large JPEG at the size
    that is needed, which changes `picture` itself."""
    width, height = picture.size  # known before anything is decoded
    name = Path(getattr(picture, "filename", "") or "the picture").name
    if width * height > LARGEST:
        raise PictureError(_too_large(width, height))
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise PictureError(f"{name}: its colours are {picture.mode}; save it as RGB or grey.")
    try:
        # a phone's photo (MPO) may hold another, smaller one
        frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
        if reduce:
            picture.draft("RGB", (WORK[1], WORK[1]))
        picture = ImageOps.exif_transpose(picture)
        if (picture.width > picture.height) != (width > height):
            width, height = height, width
        if not picture.mode.startswith(("I", "F")):
            alpha = picture.mode in WITH_ALPHA or "transparency" in picture.info
            picture = picture.convert("RGBA" if alpha else "RGB")
        pixels = np.asarray(picture)
    except DAMAGE as error:
        raise PictureError(
            f"{name}: damaged or incomplete ({_short(error)}); get it again."
        ) from error
    if frames > 1:
        raise PictureError(f"{name}: has {frames} frames; save the one to read.")
    return pixels, (width, height)


def _check_array(image: np.ndarray) -> np.ndarray:
    """An array of the kinds that are read, as (h, w, channels) of uint8, uint16 or float32."""
    shape = image.shape
    if not image.dtype.isnative:
        image = image.astype(image.dtype.newbyteorder("="))
    if image.ndim == 2:
        image = image[..., np.newaxis]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in shape:
        raise PictureError(
            f"image: shape {shape}, expected (h, w), (h, w, 3) or (h, w, 4), without a 0."
        )
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype == np.int32 and image.min() >= 0 and image.max() <= 65_535:
        return image.astype(np.uint16)  # as older Pillows open a 16-bit PNG
    if image.dtype.kind != "f":
        raise PictureError(f"image: {image.dtype}, expected uint8, uint16 or floats in [0, 1].")
    if not (image.min() >= 0 and image.max() <= 1):  # NaN is neither
        raise PictureError(
            f"image: values from {image.min()} to {image.max()}, expected floats in [0, 1]; "
            "divide by 255, or pass uint8."
        )
    return image.astype(np.float32)


def _resize(image: np.ndarray) -> np.ndarray:
    """The longer side brought to within WORK, so that what follows costs the same for all."""
    height, width = image.shape[:2]
    factor = np.clip(max(height, width), *WORK) / max(height, width)
    if factor == 1:
        return image
    size = [max(2, round(side * factor)) for side in (width, height)]
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=method).reshape(size[1], size[0], -1)


def _as_grey(image: np.ndarray) -> np.ndarray:
    """(h, w, 1, 3 or 4) -> float32 (h, w) in [0, 1], transparency as paper."""
    top = {"uint8": 255, "uint16": 65_535}.get(image.dtype.name, 1)
    image = np.clip(image.astype(np.float32) / top, 0, 1)
    if image.shape[2] == 1:
        return image[..., 0]
    grey = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)
    if image.shape[2] == 4 and image[..., 3].min() < 1:
        alpha = image[..., 3]
        drawn = (grey * alpha).sum() / max(alpha.sum(), 1e-6)
        grey = grey * alpha + (1 - alpha) * (drawn < 0.5)  # dark ink on white, light on black
    return grey


# --- finding the ink -----------------------------------------------------------------------


class Ink(NamedTuple):
    """Of each place (h, w): the picture's brightness and the paper's, light in both, the
    strength of ink from 0 to 1, and whether it is ink, uint8 0 or 1."""

    grey: np.ndarray
    paper: np.ndarray
    strength: np.ndarray
    mask: np.ndarray


def find_ink(grey: np.ndarray, small: bool = False) -> Ink:
    """Ink on paper, dark on light or light on dark: float32 (h, w) in [0, 1].

    `small`: a picture of few pixels, which the digit fills; its paper is taken to be even.
    Raises NoDigitError where nothing stands out from the paper.
    """
    upright = 1 - grey if _ink_is_light(grey) else grey
    paper = _paper(upright, 1 if small else WINDOW)
    strength = np.clip((paper - upright) / np.maximum(paper, 0.1), 0, 1)
    strength = cv2.GaussianBlur(strength, (0, 0), max(grey.shape) / 640)
    floor = FAINTEST if small else _floor(strength)
    faint = (strength > floor).astype(np.uint8)
    if not small:
        faint = _without_edge_blobs(_without_lines(faint, strength))
    return Ink(upright, paper, strength, _threshold(strength * faint, floor))


def _shrink(image: np.ndarray, side: int = SKETCH) -> np.ndarray:
    factor = side / max(image.shape)
    size = [max(4, round(n * factor)) for n in image.shape[::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _ink_is_light(grey: np.ndarray) -> bool:
    """Which side of the local median is rarer and farther away, by the skewness about it in a
    small window (which shadows do not mislead) and in a large one (nor bold strokes)."""
    small = (_shrink(grey, 64) * 255).astype(np.uint8)
    vote = 0.0
    for window in (9, 47):
        middle = cv2.medianBlur(small, min(window, min(small.shape) // 2 * 2 - 1))
        away = small.astype(np.float32) - middle
        cubes = away * away * away  # 100 times as fast as **3
        vote += float(cubes.sum() / (np.abs(cubes).sum() + 1e-9))
    return vote > 0


def _paper(grey: np.ndarray, window: float) -> np.ndarray:
    """The light paper's brightness behind dark ink, shade by shade: the lightest near each
    place, then the darkest of these (a morphological closing), smoothed."""
    small = cv2.medianBlur(_shrink(cv2.GaussianBlur(grey, (0, 0), 1)), 3)
    square = np.ones((2 * int(SKETCH * window / 2) + 1,) * 2, np.uint8)
    closed = cv2.morphologyEx(small, cv2.MORPH_CLOSE, square)
    closed = cv2.GaussianBlur(closed, (0, 0), 1)
    return cv2.resize(closed, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _floor(strength: np.ndarray) -> float:
    """What ink must exceed: FAINTEST, and the paper's noise."""
    some = strength[::3, ::3]
    return max(FAINTEST, NOISE * 1.4826 * float(np.median(np.abs(some - np.median(some)))))


def _threshold(strength: np.ndarray, floor: float) -> np.ndarray:
    """Where ink is, uint8 0 or 1: above Otsu's threshold among what exceeds `floor`, and, where
    it touches such a place, above half of that.

    Otsu, "A threshold selection method from gray-level histograms" (1979).
    """
    above = strength[strength > floor]
    if above.size < FEWEST:
        raise NoDigitError("nothing stands out from the paper: is the page blank?")
    levels = np.ascontiguousarray((above * 255).astype(np.uint8))
    otsu = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] / 255
    strong, weak = max(floor, otsu), max(floor, otsu / 2)
    count, places = cv2.connectedComponents((strength > weak).astype(np.uint8))
    sure = np.zeros(count, np.uint8)
    sure[places[strength > strong]] = 1
    sure[0] = 0
    return sure[places]


def _without_lines(mask: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """`mask` without ruled lines, level or upright, up to 12 degrees off; where a digit crosses
    a line, or is drawn along it with more ink, its ink stays."""
    for _ in range(2):
        for place, slope in _lines(mask):
            rows, columns = _line_pixels(mask, place, slope)
            ink = strength[rows, columns]
            darkest = np.zeros(mask.shape[1], np.float32)
            np.maximum.at(darkest, columns, ink)
            if darkest.any():
                faint = ink < 1.4 * np.median(darkest[darkest > 0])
                mask = mask.copy()
                mask[rows[faint], columns[faint]] = 0
        mask, strength = (np.ascontiguousarray(part.T) for part in (mask, strength))
    return mask


def _without_edge_blobs(mask: np.ndarray) -> np.ndarray:
    """`mask` without what touches the edge and is far wider than a stroke: shadows, tables."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    far = np.clip(
        1.5 * _middle_width(depth, 75), *(share * max(mask.shape) for share in (0.02, 0.05))
    )
    core = (depth > far).astype(np.uint8)
    if not core.any():
        return mask
    _, places, stats, _ = cv2.connectedComponentsWithStats(core)
    left, top, width, height, _ = stats.T
    reach = far + 2
    edge = (left <= reach) | (left + width >= mask.shape[1] - reach)
    edge |= (top <= reach) | (top + height >= mask.shape[0] - reach)
    edge[0] = False
    if not edge.any():
        return mask
    away = cv2.distanceTransform(1 - edge[places].astype(np.uint8), cv2.DIST_L2, 5)
    rest = mask * (away > far + 2)
    return rest if rest.any() else mask


def _lines(mask: np.ndarray) -> list[tuple[float, float]]:
    """Rows at the left edge and slopes of thin lines through the whole width, all of about the
    same slope.

    Hough transform, after Duda and Hart, "Use of the Hough transformation to detect lines and
    curves in pictures" (1972).
    """
    height, width = mask.shape
    tilt, level = np.radians(12), np.pi / 2
    votes = int(0.5 * width)
    found = cv2.HoughLines(mask, 1, np.radians(0.5), votes, None, 0, 0, level - tilt, level + tilt)
    if found is None:
        return []
    rho, theta = found.reshape(-1, found.shape[-1])[:300, :2].T.astype(float)
    places, slopes = rho / np.sin(theta), -np.cos(theta) / np.sin(theta)
    through = _reach_both_ends(mask, places, slopes)
    lines: list[tuple[float, float]] = []
    for place, slope in zip(places[through], slopes[through], strict=True):
        if any(abs(place - p + (slope - q) * width / 2) < 4 for p, q in lines):
            continue
        if lines and abs(slope - lines[0][1]) > 0.03:
            continue
        if _is_line(mask, place, slope):
            lines.append((place, slope))
    return lines


def _reach_both_ends(mask: np.ndarray, places: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Which of n lines have ink near them in 30% of the first and of the last tenth of columns:
    (n,) bool. Most lines through a bold digit do not, and need no closer look."""
    height, width = mask.shape
    near = cv2.dilate(np.pad(mask, ((3, 3), (0, 0))), np.ones((5, 1), np.uint8))
    tenth = max(1, width // 10)
    ends = np.array([np.arange(tenth), np.arange(width - tenth, width)])  # (2, tenth)
    rows = np.rint(places[:, np.newaxis, np.newaxis] + slopes[:, np.newaxis, np.newaxis] * ends)
    covered = near[np.clip(rows.astype(int) + 3, 0, height + 5), ends]
    return (covered.mean(axis=2) > 0.3).all(axis=1)


def _is_line(mask: np.ndarray, place: float, slope: float) -> bool:
    """Whether most of the width is covered by runs no thicker than a line's."""
    length = _runs(mask, place, slope)[1].sum(axis=0)
    limit = 2 + 0.015 * max(mask.shape)
    thin, hidden = (length > 0) & (length <= limit), length > limit
    return thin.mean() > 0.4 and thin.sum() > 0.75 * (~hidden).sum()


def _runs(mask: np.ndarray, place: float, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Near a line, along each of the w columns: k rows around it (k, w), and which of these
    places belong to the unbroken run of ink that meets the line."""
    height, width = mask.shape
    reach = max(6, height // 30)
    steps, columns = np.arange(-reach, reach + 1), np.arange(width)
    rows = np.rint(place + slope * columns).astype(int) + steps[:, np.newaxis]
    band = mask.take(np.clip(rows, 0, height - 1) * width + columns).astype(bool)
    band &= (rows >= 0) & (rows < height)
    nearest = np.argsort(np.abs(steps), kind="stable")[:5]  # within two rows of the line
    start = nearest[band[nearest].argmax(axis=0)]
    gaps = np.cumsum(~band, axis=0, dtype=np.uint16)  # stays the same along a run
    return rows, band & (gaps == gaps[start, columns]) & band[start, columns]


def _line_pixels(mask: np.ndarray, place: float, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns where runs of ink along a column meet the line and are as short as it is
    thick; longer ones belong to strokes that cross it."""
    rows, run = _runs(mask, place, slope)
    length = run.sum(axis=0)
    if length.any():
        run &= length <= 1.5 * np.median(length[length > 0]) + 1.5
    where, columns = np.nonzero(run)
    return rows[where, columns], columns


def prepare(image) -> np.ndarray:
    """Any picture as what the network reads: the largest digit in it, float32 (28, 28), ink 1 on
    paper 0. Takes what read_picture does. Raises PictureError for what is no picture,
    NoDigitError where there is no digit's ink, FileNotFoundError."""
    return find_digits(image, single=True)[0].pixels


def stages(image) -> dict[str, np.ndarray]:
    """What `prepare` goes through, to look at: each step's name and picture, float32 brightness
    from 0 to 1, so that ink is dark; the sixth shows the digit's box alone, in
    a square.

    Takes and raises what `prepare` does, but shows noise and pages of text, which that refuses.
    """
    grey, size = read_picture(image)
    ink = find_ink(grey, small=max(size) < WORK[0] / 2)
    places, found = _components(ink.mask)
    group = _one_group(found, _keep(found, grey.shape))
    (left, top), (right, bottom) = _bounds(found, group)
    kept = np.isin(places, group)
    cut = kept[top:bottom, left:right].astype(np.float32)
    strokes = _even_strokes(cut)
    spare = [max(strokes.shape) - side for side in strokes.shape]
    shown = {
        "grey": grey,
        "the paper alone": ink.paper,
        "ink over paper": 1 - ink.strength,
        "ink or not": 1 - ink.mask,
        "the digit's pieces": 1 - kept,
        "thin strokes widened": 1 - np.pad(strokes, [(n // 2, n - n // 2) for n in spare]),
        "20x20 in 28x28": 1 - to_mnist(cut),
    }
    return {name: np.asarray(picture, np.float32) for name, picture in shown.items()}


class Mark(NamedTuple):
    """One digit's ink: what the network gets, float32 (28, 28), ink 1 on paper 0; and its box,
    left, top, right, bottom in whole pixels of the upright picture."""

    pixels: np.ndarray
    box: tuple[int, int, int, int]


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labelled places and, per label, left, top, width, height, area; label 0 is the paper."""
    _, places, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return places, stats


def _keep(stats: np.ndarray, shape: tuple[int, int]) -> list[int]:
    """Numbers of the pieces that belong to digits: no specks, nothing that enters from the edge
    unless there is nothing else."""
    left, top, width, height, area = stats[1:].T
    edge = (
        (left <= 1) | (top <= 1) | (left + width >= shape[1] - 1) | (top + height >= shape[0] - 1)
    )
    size = np.maximum(width, height)
    if not len(size):
        raise NoDigitError("nothing stands out from the paper: is the page blank?")
    inner = ~edge & (size >= 0.25 * size[~edge].max(initial=0)) & (size >= 0.05 * max(shape))
    wanted = ~edge if inner.any() else np.ones_like(edge)
    largest = size[wanted].max()
    if largest < LEAST * max(shape):
        raise NoDigitError("no more than specks: bring the digit closer, or write it larger.")
    return [i + 1 for i in np.flatnonzero(wanted & (area >= 0.002 * largest**2))]


def find_digits(image, single: bool = False) -> list[Mark]:
    """The digits in a picture, left to right; or the largest alone, with all that is close to
    it. Takes and raises what read_picture does, and NoDigitError where there is no ink."""
    grey, size = read_picture(image)
    ink = find_ink(grey, small=max(size) < WORK[0] / 2)
    places, stats = _components(ink.mask)
    kept = _keep(stats, grey.shape)
    holes = cv2.connectedComponents(1 - ink.mask, connectivity=4)[0] - 2
    if len(kept) + holes > MOST:
        raise NoDigitError(
            f"{len(kept)} marks with {holes} holes, no digit: is it noise, or a page of text?"
        )
    groups = [_one_group(stats, kept)] if single else _groups(stats, kept)
    scale = np.divide(size, grey.shape[::-1])
    return [_mark(places, stats, group, scale) for group in groups]


def _bounds(stats: np.ndarray, group: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Upper left and lower right corner, as (x, y), around some pieces."""
    corners, sizes = stats[group][:, :2], stats[group][:, 2:4]
    return corners.min(axis=0), (corners + sizes).max(axis=0)


def _gap(stats: np.ndarray, group: list[int], i: int) -> np.ndarray:
    """Pixels between a piece and a group's box, across and down; below 0 where they overlap."""
    (low, high), (first, last) = _bounds(stats, group), _bounds(stats, [i])
    return np.maximum(low - last, first - high)


def _one_group(stats: np.ndarray, kept: list[int]) -> list[int]:
    """The largest piece and, from large to small, all that come close to what is there."""
    first, *others = sorted(kept, key=lambda i: -max(stats[i][2:4]))
    group = [first]
    for i in others:
        low, high = _bounds(stats, group)
        if _gap(stats, group, i).max() < CLOSE * (high - low).max():
            group.append(i)
    return group


def _groups(stats: np.ndarray, kept: list[int]) -> list[list[int]]:
    """Pieces of each digit, digits from left to right: a piece joins the larger ones that it
    lies above or below, or very near; what is left and smaller than a digit is left out."""
    order = sorted(kept, key=lambda i: -max(stats[i][2:4]))
    largest = max(stats[order[0]][2:4])
    groups: list[list[int]] = []
    for i in order:
        size = max(stats[i][2:4])
        for group in groups:
            low, high = _bounds(stats, group)
            beside, above = _gap(stats, group, i)
            whole = (high - low).max()
            overlap = -beside > 0.5 * min(stats[i][2], high[0] - low[0])
            near = size < 0.6 * whole and beside < CLOSE / 3 * whole
            if above < CLOSE * whole and (overlap or near):
                group.append(i)
                break
        else:
            if size >= 0.3 * largest:
                groups.append([i])
    return sorted(groups, key=lambda group: stats[group][:, 0].min())


def _mark(places: np.ndarray, stats: np.ndarray, group: list[int], scale: np.ndarray) -> Mark:
    (x0, y0), (x1, y1) = low, high = _bounds(stats, group)
    cut = np.isin(places[y0:y1, x0:x1], group).astype(np.float32)
    box = [*np.floor(low * scale + 1e-6), *np.ceil(high * scale - 1e-6)]
    return Mark(to_mnist(cut), tuple(map(int, box)))


# --- as MNIST's makers made it ---------------------------------------------------------------


def to_mnist(ink: np.ndarray) -> np.ndarray:
    """One digit's ink, (h, w) with 1 for ink and no margin, as float32 (28, 28): strokes
    thickened to MNIST's width where they are thinner, the box scaled into 20x20 keeping its
    shape, centred by mass."""
    even = _even_strokes(ink)
    rows, columns = np.flatnonzero(even.max(axis=1) > 0.02), np.flatnonzero(even.max(axis=0) > 0.02)
    even = even[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    factor = INK_BOX / max(even.shape)
    size = [max(1, round(side * factor)) for side in even.shape[::-1]]
    return centre(np.minimum(cv2.resize(even, size, interpolation=cv2.INTER_AREA), 1))


def _even_strokes(ink: np.ndarray) -> np.ndarray:
    """Ink scaled to OVERSAMPLED pixels, its outline smoothed, moved outwards where strokes are
    thin; with a margin."""
    factor = OVERSAMPLED / max(ink.shape)
    size = [max(2, round(side * factor)) for side in ink.shape[::-1]]
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    large = cv2.resize(ink, size, interpolation=method)
    margin = OVERSAMPLED // 8
    large = cv2.copyMakeBorder(large, *[margin] * 4, cv2.BORDER_CONSTANT, value=0)
    large = cv2.GaussianBlur(large, (0, 0), max(1.0, 0.5 * factor))
    inside = (large > 0.5).astype(np.uint8)
    if not inside.any():
        inside = (large > 0.5 * large.max()).astype(np.uint8)
    width = stroke_width(inside)
    share = STROKE / INK_BOX
    grow = max(0.0, (share * OVERSAMPLED - width) / (1 - share)) / 2
    away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    return np.clip(_spare_holes(inside, away, grow) + 1 - away, 0, 1)


def _spare_holes(inside: np.ndarray, away: np.ndarray, grow: float):
    """How far ink may grow at each place: loops stay open."""
    count, places = cv2.connectedComponents(1 - inside, connectivity=4)
    if not grow or count < 3:
        return grow
    reach = np.zeros(count, np.float32)
    np.maximum.at(reach, places.ravel(), away.ravel())
    limit = np.minimum(grow, 0.5 * reach)
    limit[places[0, 0]] = limit[0] = grow
    return limit[places]


def stroke_width(mask: np.ndarray) -> float:
    """Median width of strokes in pixels: twice the distance to paper along their middles.
    `mask`: uint8 (h, w), 1 for ink and 0 for paper; without ink the width is 1."""
    return _middle_width(cv2.distanceTransform(mask, cv2.DIST_L2, 5))


def _middle_width(depth: np.ndarray, percentile: float = 50) -> float:
    ridge = depth[(depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8)) - 1e-3) & (depth > 0)]
    return 2 * float(np.percentile(ridge, percentile)) - 1 if ridge.size else 1.0


def centre(ink: np.ndarray) -> np.ndarray:
    """Ink, float (h, w), at most 28x28, in a frame float32 (28, 28) with its centre of mass in
    the middle, as far as the frame allows. Raises ValueError for larger ink, and for none."""
    total = ink.sum()
    if not total > 0 or max(ink.shape) > SIDE:
        raise ValueError(f"ink: shape {ink.shape}, sum {total:g}: expected some, within 28x28.")
    out = np.zeros(IMAGE_SHAPE[:2], np.float32)
    corner = []
    for axis, length in enumerate(ink.shape):
        mass = (ink.sum(axis=1 - axis) * np.arange(length)).sum() / total
        corner.append(int(np.clip(round(SIDE / 2 - 0.5 - mass), 0, SIDE - length)))
    out[corner[0] : corner[0] + ink.shape[0], corner[1] : corner[1] + ink.shape[1]] = ink
    return out


# --- what is usually done instead, to compare with -----------------------------------------------


def squeeze(image) -> np.ndarray:
    """The usual recipe: grey, inverted where it is bright, resized to 28x28. float32 (28, 28).
    Takes and raises what read_picture does."""
    grey = read_picture(image).grey
    grey = 1 - grey if grey.mean() > 0.5 else grey
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def box_and_centre(image) -> np.ndarray:
    """One threshold (Otsu's) for the whole picture, then MNIST's own steps: all that is ink
    scaled into 20x20 and centred by mass. float32 (28, 28). Takes and raises what read_picture
    does, and NoDigitError for a picture of one shade."""
    grey = read_picture(image).grey
    levels = ((1 - grey if grey.mean() > 0.5 else grey) * 255).astype(np.uint8)
    mask = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1]
    if not mask.any():
        raise NoDigitError("nothing stands out from the paper: is the page blank?")
    left, top, width, height = cv2.boundingRect(mask)
    ink = mask[top : top + height, left : left + width].astype(np.float32)
    factor = INK_BOX / max(ink.shape)
    size = [max(1, round(side * factor)) for side in ink.shape[::-1]]
    return centre(cv2.resize(ink, size, interpolation=cv2.INTER_AREA))


def is_prepared(image) -> bool:
    """Whether this is an array of MNIST's own size."""
    shape = getattr(image, "shape", None)
    return isinstance(image, np.ndarray) and shape in (IMAGE_SHAPE, IMAGE_SHAPE[:2])


def pass_on(image: np.ndarray) -> np.ndarray:
    """A 28x28 array as float32 (28, 28) in [0, 1], unchanged but for its type. Raises
    PictureError unless it is of uint8, uint16 or floats in [0, 1]."""
    image = _check_array(image)[..., 0]
    top = {"uint8": 255, "uint16": 65_535}.get(image.dtype.name, 1)
    return image.astype(np.float32) / np.float32(top)
