"""Disturbances of 28x28 images, each with a strength; numpy and image libraries only.

Images are float (n, 28, 28, 1) in [0, 1], ink 1 on paper 0; results have the same form.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

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
