"""Open any picture, given as a path, a PIL image or an array."""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from src.config import DAMAGE

LARGEST, SMALLEST = 50_000_000, 8  # pixels in all; pixels on a side (guesses)
MILLIONS = f"{LARGEST // 10**6} million"
WORK = (224, 640)  # least and most pixels of the longer side while ink is looked for (guesses)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM")  # no EPS: Ghostscript would run it
WHITE = {"uint8": 255, "uint16": 65_535}  # floats: 1


class PictureError(ValueError):
    """A picture that can't be read; the message says why."""


class NoDigitError(PictureError):
    """A picture in which nothing looks like a digit's ink."""


class Picture(NamedTuple):  # turned upright, its longer side brought to within WORK pixels
    grey: np.ndarray  # brightness, float32 (h, w) in [0, 1]
    colour: np.ndarray  # RGB to look at, uint8 (h, w, 3)
    size: tuple[int, int]  # width and height of the whole upright picture, before that


def read_picture(image) -> Picture:
    """Read a path, PIL image or array; a Picture is returned as it is.

    Arrays are (h, w) or (h, w, 1, 3 or 4), uint8, uint16 or floats in [0, 1].
    Raises PictureError for what is no picture, FileNotFoundError for a missing file.
    """
    if isinstance(image, Picture):
        return image
    size = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # what matters is an error here
        if isinstance(image, str | Path):
            with _open(Path(image)) as opened:
                image, size = _decode(opened, reduce=True)
        elif isinstance(image, Image.Image):
            image, size = _decode(image)
    image = check_array(image)
    height, width = image.shape[:2]
    size = size or _check_size(width, height)
    image = resize(image, np.clip(max(height, width), *WORK), least=2)
    return Picture(*_lay_on_paper(to_unit(np.atleast_3d(image))), size)


def _open(path: Path) -> Image.Image:
    if not os.path.isfile(path):  # Path.is_file raises ValueError for some names
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        reason = f"far too large: at most {MILLIONS} pixels are read"
        raise PictureError(f"{path.name}: {reason}.") from error
    except DAMAGE as error:
        reason = "not a picture that can be read; save it as PNG or JPEG"
        raise PictureError(f"{path.name}: {reason}.") from error


def _decode(picture: Image.Image, reduce: bool = False) -> tuple[np.ndarray, tuple[int, int]]:
    """Give upright pixels and the whole size; `reduce` may shrink `picture` itself."""
    width, height = _check_size(*picture.size)  # known before anything is decoded
    name = Path(getattr(picture, "filename", "") or "the picture").name
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise PictureError(f"{name}: its colours are {picture.mode}; save it as RGB or grey.")
    try:
        # a phone's photo (MPO) may hold another, smaller one
        frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
        if reduce:
            picture.draft("RGB", (WORK[1], WORK[1]))
        picture = ImageOps.exif_transpose(picture)
        deep = picture.mode.startswith(("I", "F"))  # 16 bits and floats, which convert would spoil
        pixels = np.asarray(picture if deep else picture.convert("RGBA"))
    except DAMAGE as error:
        reason = f"damaged or incomplete ({_short(error)}); get it again"
        raise PictureError(f"{name}: {reason}.") from error
    if frames > 1:
        raise PictureError(f"{name}: has {frames} frames; save the one to read.")
    turned = (picture.width > picture.height) != (width > height)
    return pixels, (height, width) if turned else (width, height)


def _check_size(width: int, height: int) -> tuple[int, int]:
    if min(width, height) < SMALLEST:
        raise PictureError(f"a picture of {width}x{height} pixels: at least 8x8 are needed.")
    if width * height > LARGEST:
        raise PictureError(f"a picture of {width}x{height} pixels: at most {MILLIONS} are read.")
    return width, height


def _short(error: Exception) -> str:
    return str(error).partition(": ")[0].split("\n")[0][:80] or type(error).__name__


def check_array(image) -> np.ndarray:
    """Return an array as (h, w, channels) of uint8, uint16 or float32, or refuse it."""
    try:
        image = np.asarray(image)
    except (ValueError, TypeError) as error:
        raise PictureError(f"image: no array ({_short(error)}).") from error
    shape, kind = image.shape, image.dtype.newbyteorder("=")
    image = np.atleast_3d(image.astype(kind, copy=False))
    if len(shape) not in (2, 3) or image.shape[2] not in (1, 3, 4) or 0 in shape:
        expected = "(h, w), (h, w, 3) or (h, w, 4), without a 0"
        raise PictureError(f"image: shape {shape}, expected {expected}.")
    if kind.name in WHITE:
        return image
    if kind == np.int32 and image.min() >= 0 and image.max() <= WHITE["uint16"]:
        return image.astype(np.uint16)  # as older Pillows open a 16-bit PNG
    if kind.kind != "f":
        raise PictureError(f"image: {kind}, expected uint8, uint16 or floats in [0, 1].")
    least, most = image.min(), image.max()
    if not (least >= 0 and most <= 1):  # NaN is neither
        advice = "expected floats in [0, 1]; divide by 255, or pass uint8"
        raise PictureError(f"image: values from {least} to {most}, {advice}.")
    return image.astype(np.float32)


def resize(image: np.ndarray, side: int, least: int = 1) -> np.ndarray:
    """Bring the longer side to `side` pixels, the other in proportion, or to `least`."""
    factor = side / max(image.shape[:2])
    size = [max(least, round(length * factor)) for length in image.shape[1::-1]]
    method = cv2.INTER_AREA if factor <= 1 else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=method)


def to_unit(image: np.ndarray) -> np.ndarray:
    """Bring uint8, uint16 or float brightness to float32 in [0, 1]."""
    return np.clip(image.astype(np.float32) / WHITE.get(image.dtype.name, 1), 0, 1)


def _lay_on_paper(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give grey and colour; what is transparent is white under dark ink, else black."""
    if image.shape[2] == 1:
        return image[..., 0], np.rint(255 * np.repeat(image, 3, axis=2)).astype(np.uint8)
    colour = image[..., :3].copy()
    if image.shape[2] == 4:
        alpha = image[..., 3:]
        drawn = (cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY) * alpha[..., 0]).sum()
        paper = np.float32(drawn < 0.5 * max(alpha.sum(), 1e-6))
        colour = colour * alpha + (1 - alpha) * paper
    return cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), np.rint(255 * colour).astype(np.uint8)
