"""Make pictures to read: photos of MNIST's digits, letters, scribbles. Same seed, same picture."""

from pathlib import Path

import cv2
import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.morphology import skeletonize

CALIBRATED = 1000  # robust's temperature is of so many images held back, in scenes of seeds from 0
STRENGTHS = {  # the strongest, up to which a photo draws its own; the least and most to ask for
    "size": ((0.15, 0.8), 0.05, 1),  # height of the digit, as a share of the frame
    "pen": ((0.01, 0.04), 0.005, 0.5),  # width of the pen, as a share of the digit's height
    "paper": (60, 0, 200),  # how far, of 255, paper may be from white, shade and tint together
    "ink": (110, 0, 255),  # how far from black ink may be, each colour for itself
    "gradient": (0.4, 0, 1),  # share of light lost from one side of the paper to the other
    "shadow": (0.4, 0, 1),  # share of light lost where a shadow with a soft edge lies
    "lines": (True, 0, 1),  # ruled lines, on half of the photos
    "rotation": (10, 0, 180),  # degrees
    "blur": (1.0, 0, np.inf),  # sd in pixels
    "noise": (10, 0, np.inf),  # sd of 255
    "jpeg": (60, 0, 100),  # lowest quality
}
PHOTO = {name: strongest for name, (strongest, _, _) in STRENGTHS.items()}
PLAIN = dict.fromkeys(PHOTO, 0) | {"size": (0.5, 0.5), "pen": (0.09, 0.09), "jpeg": 100}
KINDS = {  # photos with one kind of disturbance alone, and the strengths that it is
    "plain": (), "small, anywhere": ("size",), "thin pen": ("pen",), "coloured": ("paper", "ink"),
    "uneven light": ("gradient",), "shadow": ("shadow",), "ruled lines": ("lines",),
    "rotation": ("rotation",), "blur and noise": ("blur", "noise"), "JPEG": ("jpeg",),
}  # fmt: skip
KINDS = {kind: PLAIN | {name: PHOTO[name] for name in names} for kind, names in KINDS.items()}


def held_back(digits, n: int, seed: int = CALIBRATED, **strengths):
    """Photograph up to `n` images that neither training nor robust's calibration has seen.

    Returns photos, in scenes of the seeds from `seed` on, images (n, 28, 28, 1) and labels.
    """
    images, labels = digits.part("held_back")
    first = CALIBRATED if len(images) > CALIBRATED else 0  # a small sample calibrated nothing
    images, labels = images[first : first + n], labels[first : first + n]
    photos = [photograph(image, seed + i, **strengths) for i, image in enumerate(images)]
    return photos, images, labels


def photograph(image: np.ndarray, seed: int, frame: int = 480, **strengths) -> np.ndarray:
    """Make a photo of a digit written with a pen on paper: uint8 (frame, frame, 3).

    `image`: float (28, 28) or (28, 28, 1) in [0, 1]; `strengths` replace those in PHOTO.
    """
    _check_strengths(strengths)
    how, rng = PHOTO | strengths, np.random.default_rng(seed)
    height = rng.uniform(*how["size"]) * frame
    pen = rng.uniform(*how["pen"]) * height
    ink = pen_digit(np.squeeze(image), height, pen, rng, how["rotation"])[:frame, :frame]
    top, left = (rng.integers(0, frame - side + 1) for side in ink.shape)
    marks = np.zeros((frame, frame, 1), np.float32)
    marks[top : top + ink.shape[0], left : left + ink.shape[1], 0] = ink
    # 1e-9, here and below, is of the code that drew the published photos
    paper = 255 - rng.uniform(0, how["paper"]) - rng.uniform(0, how["paper"] / 4 + 1e-9, 3)
    colour = rng.uniform(0, how["ink"] + 1e-9, 3)
    scene = np.full((frame, frame, 3), paper, np.float32)
    if how["lines"] and rng.random() < 0.5:
        scene = _rule(scene, rng)
    scene += marks * (colour - scene)
    scene *= _light(frame, how["gradient"], how["shadow"], rng)[..., np.newaxis]
    return _take(scene, how, rng)


def _check_strengths(strengths: dict) -> None:
    for name, value in strengths.items():
        if name not in PHOTO:
            raise ValueError(f"no strength named {name!r}; there are {', '.join(PHOTO)}.")
        _, least, most = STRENGTHS[name]
        pair, numbers = name in ("size", "pen"), np.array(value)
        right = numbers.dtype.kind in "biuf" and numbers.shape == ((2,) if pair else ())
        if not (right and least <= numbers.flat[0] <= numbers.flat[-1] <= most):
            kind = "two rising numbers, as a pair," if pair else "a number"
            raise ValueError(f"{name}={value!r}: expected {kind} from {least:g} to {most:g}.")


def pen_digit(image: np.ndarray, height: float, pen: float, rng, rotation: float = 0) -> np.ndarray:
    """Draw a digit again with a round pen, turned by up to `rotation` degrees: float (h, w), ink 1.

    `pen` is its width in pixels, `height` the digit's before: the pen follows the middle of its
    strokes, so a thinner one leaves less.
    """
    if not image.max() > 0.3:
        raise ValueError("image: no ink over 0.3: there is no digit to draw again.")
    fine = 4 if height < 400 else 2  # drawn larger by this, then reduced, for smooth edges
    rows, columns = (np.flatnonzero(image.max(axis=axis) > 0.3) for axis in (1, 0))
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    wide = cv2.resize(np.pad(image, 2), None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    line = skeletonize(cv2.GaussianBlur(wide, (0, 0), 2) > 0.55)  # both are guesses
    places, pairs = _smooth_line(line)
    angle = np.radians(rng.uniform(-rotation, rotation)) if rotation else 0.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places = (places - places.mean(axis=0)) @ turn * (fine * height / (8 * len(rows)))
    margin = int(np.ceil(fine * pen / 2)) + fine
    places = np.rint(places - places.min(axis=0) + margin).astype(int)
    sheet = np.zeros(places.max(axis=0) + margin + 1, np.uint8)
    for start, end in places[pairs, ::-1].tolist():
        cv2.line(sheet, start, end, 255, max(1, round(fine * pen)))
    size = [max(1, round(side / fine)) for side in sheet.shape[::-1]]
    return cv2.resize(sheet, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _smooth_line(line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a line's pixels as places, smoothed along it, and which of them are neighbours."""
    places = np.argwhere(line).astype(float)
    pairs = KDTree(places).query_pairs(1.5, output_type="ndarray")  # a pixel has up to eight
    down, right = np.diff(places[pairs], axis=1)[:, 0].T
    pairs = pairs[np.lexsort([right % 3, down])]  # one order of adding, as rounding decides below
    here, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    count = 1 + np.bincount(here, minlength=len(places))[:, np.newaxis]
    for _ in range(4):  # each place moves to the mean of itself and its neighbours
        total = places.copy()
        np.add.at(total, here, places[other])
        places = total / count
    return places, pairs if len(pairs) else np.array([[0, 0]])


def _rule(scene: np.ndarray, rng) -> np.ndarray:
    """Rule the paper with lines, pale blue or grey, up to three degrees off level."""
    frame = len(scene)
    step, slope = rng.uniform(0.08, 0.2) * frame, np.tan(np.radians(rng.uniform(-3, 3)))
    rows, columns = np.mgrid[:frame, :frame]
    away = (rows - slope * columns + rng.uniform(0, step)) % step
    line = (away < max(1.0, frame / 300))[..., np.newaxis]
    return np.where(line, scene * rng.uniform((0.5, 0.6, 0.7), (0.8, 0.85, 0.95)), scene)


def _light(frame: int, gradient: float, shadow: float, rng) -> np.ndarray:
    """Draw the share of full light at each place (frame, frame)."""
    y, x = np.mgrid[-0.5 : 0.5 : frame * 1j, -0.5 : 0.5 : frame * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2) + 0.5
    light = 1 - rng.uniform(0, gradient + 1e-9) * along
    angle, place = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    edge = (np.cos(angle) * x + np.sin(angle) * y - place) / rng.uniform(0.01, 0.1)
    return light * (1 - rng.uniform(0, shadow + 1e-9) / (1 + np.exp(-np.clip(edge, -30, 30))))


def _take(scene: np.ndarray, how: dict, rng) -> np.ndarray:
    """Photograph the scene (h, w, 3) in 0-255 as a small camera does: blur, noise, JPEG."""
    blur = rng.uniform(0, how["blur"] + 1e-9)
    scene = cv2.GaussianBlur(scene, (0, 0), blur) if blur > 0.1 else scene
    scene = scene + rng.normal(0, rng.uniform(0, how["noise"] + 1e-9), scene.shape)
    photo = np.clip(scene, 0, 255).astype(np.uint8)
    quality = int(rng.integers(how["jpeg"], 101))
    _, packed = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(packed, cv2.IMREAD_COLOR)[..., ::-1])


def scribbles(n: int, seed: int = 0) -> np.ndarray:
    """Draw `n` closed and open curves, which are no digits: uint8 (n, 112, 112), ink 0."""
    rng, out = np.random.default_rng(seed), np.full((n, 112, 112), 255, np.uint8)
    for picture in out:
        places = rng.uniform(15, 97, (rng.integers(6, 10), 2))
        fine = np.linspace(0, len(places) - 1, 120)
        curve = [np.interp(fine, np.arange(len(places)), axis) for axis in places.T]
        curve = np.rint(ndimage.gaussian_filter1d(np.stack(curve, 1), 3, axis=0)).astype(np.int32)
        cv2.polylines(picture, [curve], rng.random() < 0.5, 0, 5, cv2.LINE_AA)
    return out


FONTS = "DejaVuSans DejaVuSans-Bold DejaVuSerif DejaVuSansMono-Oblique".split()
FONTS += "STIXGeneral STIXGeneralBolIta cmr10 cmtt10".split()


def letters(seed: int = 0) -> np.ndarray:
    """Draw A to Z in eight fonts that matplotlib brings: uint8 (208, 112, 112), ink 0."""
    rng, folder, pictures = np.random.default_rng(seed), Path(get_data_path(), "fonts", "ttf"), []
    for name in FONTS:
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            font = ImageFont.truetype(folder / f"{name}.ttf", int(rng.integers(64, 89)))
            sheet = Image.new("L", (112, 112), 255)
            middle = (56 + int(rng.integers(-8, 9)), 56)
            ImageDraw.Draw(sheet).text(middle, letter, 0, font, "mm")
            pictures.append(np.asarray(sheet))
    return np.array(pictures)
