"""Disturbances of 28x28 images, spoilt images, and made-up photos, letters and scribbles; numpy
and image libraries only.

Images of 28x28 are float (n, 28, 28, 1) in [0, 1], ink 1 on paper 0, and stay so when disturbed
or spoilt. Photos, letters and scribbles are larger, uint8, dark ink on light paper.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.morphology import skeletonize

from src.config import IMAGE_SHAPE

MIDDLE = (IMAGE_SHAPE[0] - 1) / 2


def _affine(images: np.ndarray, matrix, offset=(0.0, 0.0)) -> np.ndarray:
    """Each place of the result taken from matrix @ (row, column) about the middle, minus offset."""
    matrix, middle = np.asarray(matrix, float), np.full(2, MIDDLE)
    start = middle - matrix @ (middle + np.asarray(offset))
    turned = [ndimage.affine_transform(image[..., 0], matrix, start, order=1) for image in images]
    return np.clip(np.array(turned, np.float32), 0, 1)[..., np.newaxis]


def rotate(images: np.ndarray, degrees: float, rng=None) -> np.ndarray:
    """Turned counterclockwise about the middle."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return _affine(images, [[cos, sin], [-sin, cos]])


def shift(images: np.ndarray, pixels: float, rng=None) -> np.ndarray:
    """Moved to the right."""
    return _affine(images, np.eye(2), (0, pixels))


def scale(images: np.ndarray, factor: float, rng=None) -> np.ndarray:
    """Made larger (above 1) or smaller about the middle."""
    return _affine(images, np.eye(2) / factor)


def shear(images: np.ndarray, tangent: float, rng=None) -> np.ndarray:
    """Slanted to the right: a row moves by `tangent` times its height above the middle."""
    return _affine(images, [[1, 0], [tangent, 1]])


def add_noise(images: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Normal noise of this sd on every pixel, clipped to [0, 1]."""
    return np.clip(images + rng.normal(0, sd, images.shape), 0, 1).astype(np.float32)


def blur(images: np.ndarray, sd: float, rng=None) -> np.ndarray:
    """Gaussian blur, sd in pixels."""
    return ndimage.gaussian_filter(images, (0, sd, sd, 0)).astype(np.float32)


def fade(images: np.ndarray, contrast: float, rng=None) -> np.ndarray:
    """Ink at this share of its strength, paper as it is."""
    return (images * contrast).astype(np.float32)


def tint(images: np.ndarray, grey: float, rng=None) -> np.ndarray:
    """Paper at this grey in place of 0, ink as it is."""
    return np.maximum(images, grey).astype(np.float32)


def occlude(images: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square of paper, `side` pixels wide, over a random place of the middle 20x20."""
    out, side = images.copy(), int(side)
    corners = rng.integers(4, max(5, 25 - side), (len(images), 2))
    for image, (row, column) in zip(out, corners, strict=True):
        image[row : row + side, column : column + side] = 0
    return out


def thicken(images: np.ndarray, pixels: float, rng=None) -> np.ndarray:
    """Strokes wider by about this much on each side, or thinner below 0; parts of a pixel by
    blending grey dilations (erosions) of neighbouring sizes."""
    morph = ndimage.grey_dilation if pixels > 0 else ndimage.grey_erosion
    whole, part = divmod(abs(pixels), 1)

    def by(steps: int) -> np.ndarray:
        side = 2 * steps + 1
        return morph(images, size=(1, side, side, 1)) if steps else images

    smaller = by(int(whole))
    larger = by(int(whole) + 1) if part else smaller
    return ((1 - part) * smaller + part * larger).astype(np.float32)


# name -> (what does it, its strengths with the undisturbed one among them, the unit, that one)
DISTURBANCES: dict[str, tuple[Callable, tuple[float, ...], str, float]] = {
    "rotation": (rotate, (-45, -30, -20, -10, 0, 10, 20, 30, 45), "degrees", 0),
    "shift": (shift, (-6, -4, -2, 0, 2, 4, 6), "pixels to the right", 0),
    "scale": (scale, (0.5, 0.65, 0.8, 1, 1.15, 1.3, 1.4), "times", 1),
    "shear": (shear, (-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6), "tangent", 0),
    "thickness": (thicken, (-1, -0.5, 0, 0.5, 1, 2), "pixels on each side", 0),
    "noise": (add_noise, (0, 0.1, 0.2, 0.3, 0.4, 0.5), "sd", 0),
    "blur": (blur, (0, 0.5, 1, 1.5, 2, 2.5), "sd in pixels", 0),
    "contrast": (fade, (1, 0.7, 0.5, 0.3, 0.2, 0.1), "share of the ink", 1),
    "brightness": (tint, (0, 0.1, 0.2, 0.3, 0.5, 0.7), "grey of the paper", 0),
    "occlusion": (occlude, (0, 3, 5, 7, 9, 12), "side in pixels", 0),
}


def disturb(images: np.ndarray, name: str, strength: float, seed: int = 0) -> np.ndarray:
    """Images after one of DISTURBANCES. Raises ValueError for another name."""
    if name not in DISTURBANCES:
        raise ValueError(f"no disturbance named {name!r}; there are {', '.join(DISTURBANCES)}.")
    change, _, _, neutral = DISTURBANCES[name]
    return images if strength == neutral else change(images, strength, np.random.default_rng(seed))


# --- spoilt images: what may lie over, under or between -----------------------------------------


def invert(images: np.ndarray, rng=None) -> np.ndarray:
    """Dark ink on white paper, as most files have it."""
    return 1 - images


def motion_blur(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smeared along seven pixels, in a direction of its own for each image."""
    out = np.empty_like(images)
    for image, result, angle in zip(images, out, rng.uniform(0, 180, len(images)), strict=True):
        kernel = np.zeros((9, 9), np.float32)
        kernel[4, 1:8] = 1
        kernel = cv2.warpAffine(kernel, cv2.getRotationMatrix2D((4, 4), angle, 1), (9, 9))
        result[..., 0] = cv2.filter2D(image[..., 0], -1, kernel / kernel.sum())
    return out


def pepper(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One pixel in eight black or white."""
    chance = rng.random(images.shape)
    return np.where(chance < 1 / 16, 0, np.where(chance > 15 / 16, 1, images)).astype(np.float32)


def fog(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pale cloud over everything: up to 0.7 light, a quarter to half of the contrast left."""
    coarse = rng.uniform(0, 1, (len(images), 4, 4))
    clouds = [cv2.resize(field, (28, 28), interpolation=cv2.INTER_CUBIC) for field in coarse]
    cloud = np.clip(np.array(clouds), 0, 1)[..., np.newaxis]
    return np.clip(0.5 * images + 0.2 + 0.5 * cloud * (1 - 0.5 * images), 0, 1).astype(np.float32)


def stripe(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light and dark exchanged in a band eight pixels wide."""
    out = images.copy()
    for image, first in zip(out, rng.integers(4, 17, len(out)), strict=True):
        image[:, first : first + 8] = 1 - image[:, first : first + 8]
    return out


def zigzag(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A jagged line drawn from side to side over the digit."""
    out = images.copy()
    for image in out:
        rows = rng.integers(4, 24) + np.tile([-3, 3], 4)
        line = np.stack([np.linspace(0, 27, 8), rows], 1).astype(np.int32)
        image[..., 0] = np.maximum(image[..., 0], _drawn(line))
    return out


def dotted_line(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seven dots in a row across the digit."""
    out = images.copy()
    for image in out:
        ends = rng.integers(3, 25, 2)
        sheet = np.zeros((28, 28), np.uint8)
        for x, y in zip(np.linspace(2, 25, 7), np.linspace(*ends, 7), strict=True):
            cv2.circle(sheet, (round(x), round(y)), 1, 255, -1)
        image[..., 0] = np.maximum(image[..., 0], sheet / np.float32(255))
    return out


def edges(images: np.ndarray, rng=None) -> np.ndarray:
    """Outlines alone, as Canny's detector finds them (1986)."""
    found = [cv2.Canny((image[..., 0] * 255).astype(np.uint8), 100, 200) for image in images]
    return np.array(found, np.float32)[..., np.newaxis] / 255


def _drawn(line: np.ndarray) -> np.ndarray:
    sheet = np.zeros((28, 28), np.uint8)
    return cv2.polylines(sheet, [line], False, 255, 1, cv2.LINE_AA) / np.float32(255)


SPOILT: dict[str, Callable] = {  # each: images, rng -> images
    "noise": lambda images, rng: add_noise(images, 0.3, rng),
    "pepper": pepper,
    "blur": lambda images, rng: blur(images, 1.5),
    "motion blur": motion_blur,
    "low contrast": lambda images, rng: fade(images, 0.2),
    "grey paper": lambda images, rng: 0.5 + 0.5 * images,
    "fog": fog,
    "inverted": invert,
    "stripe": stripe,
    "zigzag": zigzag,
    "dotted line": dotted_line,
    "edges": edges,
}


def scribbles(n: int, seed: int = 0) -> np.ndarray:
    """`n` pictures, uint8 (n, 112, 112), dark on light, that show no digit: closed and open
    curves through six to nine places at random."""
    rng, out = np.random.default_rng(seed), np.full((n, 112, 112), 255, np.uint8)
    for picture in out:
        places = rng.uniform(15, 97, (rng.integers(6, 10), 2))
        fine = np.linspace(0, len(places) - 1, 120)
        curve = [np.interp(fine, np.arange(len(places)), places[:, axis]) for axis in (0, 1)]
        curve = ndimage.gaussian_filter1d(np.stack(curve, 1), 3, axis=0)
        cv2.polylines(
            picture, [np.rint(curve).astype(np.int32)], rng.random() < 0.5, 0, 5, cv2.LINE_AA
        )
    return out


FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono-Oblique", "STIXGeneral",
    "STIXGeneralBolIta", "cmr10", "cmtt10",
)  # fmt: skip


def letters(seed: int = 0) -> np.ndarray:
    """The capital letters in eight of the fonts that matplotlib brings, uint8 (208, 112, 112),
    dark on light, font by font from A to Z, each at a height of its own."""
    rng, pictures = np.random.default_rng(seed), []
    folder = Path(get_data_path(), "fonts", "ttf")
    for name in FONTS:
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            font = ImageFont.truetype(folder / f"{name}.ttf", int(rng.integers(64, 89)))
            sheet = Image.new("L", (112, 112), 255)
            middle = (56 + int(rng.integers(-8, 9)), 56)
            ImageDraw.Draw(sheet).text(middle, letter, 0, font, "mm")
            pictures.append(np.asarray(sheet))
    return np.array(pictures)


# --- synthetic photos ------------------------------------------------------------------------

PHOTO = {  # the strongest of each; a photo draws its own up to that
    "size": (0.15, 0.8),  # height of the digit, as a share of the frame
    "pen": (0.01, 0.04),  # width of the pen, as a share of the digit's height
    "paper": 60,  # how far, of 255, paper may be from white, shade and tint together
    "ink": 110,  # how far from black ink may be, each colour for itself
    "gradient": 0.4,  # share of light lost from one side of the paper to the other
    "shadow": 0.4,  # share of light lost where a shadow with a soft edge lies
    "lines": True,  # ruled lines, on half of the photos
    "rotation": 10,  # degrees
    "blur": 1.0,  # sd in pixels
    "noise": 10,  # sd of 255
    "jpeg": 60,  # lowest quality
}
LIMITS = {  # where it is not from 0 to infinity
    "size": (0.05, 1), "pen": (0.005, 0.5), "paper": (0, 200), "ink": (0, 255), "gradient": (0, 1),
    "shadow": (0, 1), "lines": (0, 1), "rotation": (0, 180), "jpeg": (0, 100),
}  # fmt: skip
PLAIN = {
    "size": (0.5, 0.5), "pen": (0.09, 0.09), "paper": 0, "ink": 0, "gradient": 0, "shadow": 0,
    "lines": False, "rotation": 0, "blur": 0, "noise": 0, "jpeg": 100,
}  # fmt: skip

KINDS = {  # a photo with one kind of disturbance alone
    "plain": PLAIN,
    "small, anywhere": PLAIN | {"size": PHOTO["size"]},
    "thin pen": PLAIN | {"pen": PHOTO["pen"]},
    "coloured": PLAIN | {"paper": PHOTO["paper"], "ink": PHOTO["ink"]},
    "uneven light": PLAIN | {"gradient": PHOTO["gradient"]},
    "shadow": PLAIN | {"shadow": PHOTO["shadow"]},
    "ruled lines": PLAIN | {"lines": True},
    "rotation": PLAIN | {"rotation": PHOTO["rotation"]},
    "blur and noise": PLAIN | {"blur": PHOTO["blur"], "noise": PHOTO["noise"]},
    "JPEG": PLAIN | {"jpeg": PHOTO["jpeg"]},
}


def photograph(image: np.ndarray, seed: int, frame: int = 480, **strengths) -> np.ndarray:
    """A photo, made up, of an MNIST digit written with a pen on paper: uint8 (frame, frame, 3).

    `image`: float (28, 28) or (28, 28, 1) in [0, 1]. `strengths` replace those in PHOTO; see
    PLAIN for none at all. Same seed, same photo. Raises ValueError for a strength that is unknown
    or out of its range, and for an image without ink.
    """
    _check_strengths(strengths)
    how, rng = PHOTO | strengths, np.random.default_rng(seed)
    height = rng.uniform(*how["size"]) * frame
    ink = pen_digit(
        np.squeeze(image), height, rng.uniform(*how["pen"]) * height, rng, how["rotation"]
    )
    marks = np.zeros((frame, frame), np.float32)
    ink = ink[:frame, :frame]
    top, left = (rng.integers(0, frame - side + 1) for side in ink.shape)
    marks[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    paper = 255 - rng.uniform(0, how["paper"]) - rng.uniform(0, how["paper"] / 4 + 1e-9, 3)
    colour = rng.uniform(0, how["ink"] + 1e-9, 3)
    scene = np.full((frame, frame, 3), paper, np.float32)
    if how["lines"] and rng.random() < 0.5:
        scene = _ruled(scene, rng)
    scene += marks[..., np.newaxis] * (colour - scene)
    scene *= _light(frame, how["gradient"], how["shadow"], rng)[..., np.newaxis]
    return _camera(scene, how, rng)


def _check_strengths(strengths: dict) -> None:
    for name, value in strengths.items():
        if name not in PHOTO:
            raise ValueError(f"no strength named {name!r}; there are {', '.join(PHOTO)}.")
        pair = isinstance(PHOTO[name], tuple)
        least, most = LIMITS.get(name, (0, np.inf))
        numbers = np.asarray(value if pair else [value])
        right = numbers.dtype.kind in "biuf" and numbers.shape == (2 if pair else 1,)
        if not (right and least <= numbers.min() and numbers[0] <= numbers[-1] <= most):
            kind = "two rising numbers, as a pair," if pair else "a number"
            raise ValueError(f"{name}={value!r}: expected {kind} from {least:g} to {most:g}.")


def pen_digit(image: np.ndarray, height: float, pen: float, rng, rotation: float = 0) -> np.ndarray:
    """The middle line of a digit's strokes, drawn with a round pen `pen` pixels wide: float
    (h, w), ink 1, no margin; turned by up to `rotation` degrees. `height` is that of the digit
    before, in pixels; a thinner pen leaves less. Raises ValueError for an image without ink."""
    if not image.max() > 0.3:
        raise ValueError("image: no ink over 0.3: there is no digit to draw again.")
    fine = 4 if height < 400 else 2  # drawn larger, then reduced
    rows, columns = (np.flatnonzero(image.max(axis=a) > 0.3) for a in (1, 0))
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    wide = cv2.resize(np.pad(image, 2), None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    wide = cv2.GaussianBlur(wide, (0, 0), 2)
    line = skeletonize(wide > 0.55)
    angle = np.radians(rng.uniform(-rotation, rotation)) if rotation else 0.0
    factor = fine * height / (8 * len(rows))
    spine = np.argwhere(line)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places, joins = _joined(line, spine)
    places = (places - places.mean(axis=0)) @ turn * factor
    margin = int(np.ceil(fine * pen / 2)) + fine
    places = np.rint(places - places.min(axis=0) + margin).astype(int)
    sheet = np.zeros(places.max(axis=0) + margin + 1, np.uint8)
    for a, b in joins:
        cv2.line(
            sheet,
            places[a][::-1].tolist(),
            places[b][::-1].tolist(),
            255,
            max(1, round(fine * pen)),
        )
    size = [max(1, round(n / fine)) for n in sheet.shape[::-1]]
    return cv2.resize(sheet, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _joined(line, spine):
    """The line's pixels as places, smoothed along the line, and pairs of neighbours."""
    number = -np.ones(np.array(line.shape) + 2, int)
    number[spine[:, 0] + 1, spine[:, 1] + 1] = np.arange(len(spine))
    steps = [(0, 1), (1, 0), (1, 1), (1, -1)]
    joins = []
    for down, right in steps:
        other = number[spine[:, 0] + 1 + down, spine[:, 1] + 1 + right]
        there = np.flatnonzero(other >= 0)
        joins += [np.stack([there, other[there]], 1)]
    joins = np.concatenate(joins)
    places = spine.astype(float)
    for _ in range(4):  # each place moves to the mean of itself and its neighbours
        total, count = places.copy(), np.ones(len(places))
        for a, b in (joins.T, joins.T[::-1]):
            np.add.at(total, a, places[b])
            np.add.at(count, a, 1)
        places = total / count[:, np.newaxis]
    return places, joins if len(joins) else np.array([[0, 0]])


def _ruled(scene: np.ndarray, rng) -> np.ndarray:
    """Paper with lines, pale blue or grey, up to three degrees off level."""
    frame = len(scene)
    step, slope = rng.uniform(0.08, 0.2) * frame, np.tan(np.radians(rng.uniform(-3, 3)))
    rows, columns = np.mgrid[:frame, :frame]
    away = (rows - slope * columns + rng.uniform(0, step)) % step
    line = (away < max(1.0, frame / 300))[..., np.newaxis]
    return np.where(line, scene * rng.uniform((0.5, 0.6, 0.7), (0.8, 0.85, 0.95)), scene)


def _light(frame: int, gradient: float, shadow: float, rng) -> np.ndarray:
    """Share of full light at each place (frame, frame)."""
    y, x = np.mgrid[-0.5 : 0.5 : frame * 1j, -0.5 : 0.5 : frame * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2) + 0.5
    light = 1 - rng.uniform(0, gradient + 1e-9) * along
    angle, place = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    edge = (np.cos(angle) * x + np.sin(angle) * y - place) / rng.uniform(0.01, 0.1)
    return light * (1 - rng.uniform(0, shadow + 1e-9) / (1 + np.exp(-np.clip(edge, -30, 30))))


def _camera(scene: np.ndarray, how: dict, rng) -> np.ndarray:
    """What a small camera makes of the scene (h, w, 3) in 0-255: blur, noise, JPEG."""
    blur = rng.uniform(0, how["blur"] + 1e-9)
    scene = cv2.GaussianBlur(scene, (0, 0), blur) if blur > 0.1 else scene
    scene = scene + rng.normal(0, rng.uniform(0, how["noise"] + 1e-9), scene.shape)
    photo = np.clip(scene, 0, 255).astype(np.uint8)
    quality = int(rng.integers(how["jpeg"], 101))
    _, packed = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(packed, cv2.IMREAD_COLOR)[..., ::-1])
