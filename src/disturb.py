"""Disturb and corrupt test images, to see what a network still reads.

Images are float32 (n, 28, 28, 1) in [0, 1], ink 1 on paper 0, and stay so.
"""

from functools import partial

import cv2
import numpy as np
from scipy import ndimage

from src.config import check_pairs


def curves(networks: dict, images: np.ndarray, labels: np.ndarray) -> dict:
    """Score Keras models by name: {disturbance: {name: (strengths, accuracies)}}."""
    check_pairs(images, labels)
    found = {way: {} for way in DISTURBANCES}
    for way, (_, strengths, _, _) in DISTURBANCES.items():
        disturbed = np.concatenate([disturb(images, way, strength) for strength in strengths])
        for name, network in networks.items():
            answers = network.predict(disturbed, batch_size=500, verbose=0).argmax(axis=1)
            right = answers.reshape(len(strengths), -1) == labels
            found[way][name] = (strengths, right.mean(axis=1))
    return found


def trained_ranges(augmentation: dict) -> dict:
    """Find the strengths that an augmentation draws: {disturbance: (low, high)}."""
    middles = {way: DISTURBANCES[way][3] for way in augmentation if way in DISTURBANCES}
    return {way: (x - augmentation[way], x + augmentation[way]) for way, x in middles.items()}


def disturb(images: np.ndarray, name: str, strength: float, seed: int = 0) -> np.ndarray:
    """Change images by one of DISTURBANCES; same seed, same result."""
    if name not in DISTURBANCES:
        raise ValueError(f"no disturbance named {name!r}; there are {', '.join(DISTURBANCES)}.")
    change = DISTURBANCES[name][0]
    draws = [np.random.default_rng(seed)] if change in (_add_noise, _occlude) else []
    return _change_each(change, images, strength, *draws)


def _change_each(change, images, *arguments):
    """Change images, each (28, 28), one by one."""
    changed = [change(image, *arguments) for image in images[..., 0]]
    return np.array(changed, np.float32)[..., np.newaxis]


def _affine(image, degrees=0, right=0, scale=1, shear=0):
    """Turn counterclockwise, scale and shear about the middle; move to the right."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[cos, sin], [-sin, cos]]) @ [[1, 0], [shear, 1]] / scale
    middle = (np.array(image.shape) - 1) / 2
    start = middle - matrix @ (middle + (0, right))
    return np.clip(ndimage.affine_transform(image, matrix, start, order=1), 0, 1)


def _thicken(image, pixels):
    """Dilate (below 0: erode) by so many pixels on each side; parts of a pixel by blending."""
    morph = ndimage.grey_dilation if pixels > 0 else ndimage.grey_erosion
    whole, part = divmod(abs(pixels), 1)
    smaller, larger = (morph(image, size=(2 * int(steps) + 1,) * 2) for steps in (whole, whole + 1))
    return (1 - part) * smaller + part * larger


def _add_noise(image, sd, rng):
    return np.clip(image + rng.normal(0, sd, image.shape), 0, 1)


def _occlude(image, side, rng):
    """Put a square of paper somewhere on the middle 20x20, which MNIST's digits fill."""
    image, (row, column) = image.copy(), rng.integers(4, max(5, 25 - int(side)), 2)
    image[row : row + int(side), column : column + int(side)] = 0
    return image


DISTURBANCES = {  # name: (change, strengths, unit, the strength among them that changes nothing)
    "rotation": (_affine, (-45, -30, -20, -10, 0, 10, 20, 30, 45), "degrees", 0),
    "shift": (lambda x, s: _affine(x, right=s), (-6, -4, -2, 0, 2, 4, 6), "pixels to the right", 0),
    "scale": (lambda x, s: _affine(x, scale=s), (0.5, 0.65, 0.8, 1, 1.15, 1.3, 1.4), "times", 1),
    "shear": (lambda x, s: _affine(x, shear=s), (-0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6), "tangent", 0),
    "thickness": (_thicken, (-1, -0.5, 0, 0.5, 1, 2), "pixels on each side", 0),
    "noise": (_add_noise, (0, 0.1, 0.2, 0.3, 0.4, 0.5), "sd", 0),
    "blur": (ndimage.gaussian_filter, (0, 0.5, 1, 1.5, 2, 2.5), "sd in pixels", 0),
    "contrast": (np.multiply, (1, 0.7, 0.5, 0.3, 0.2, 0.1), "share of the ink", 1),
    "brightness": (np.maximum, (0, 0.1, 0.2, 0.3, 0.5, 0.7), "grey of the paper", 0),
    "occlusion": (_occlude, (0, 3, 5, 7, 9, 12), "side in pixels", 0),
}
UNITS = {name: unit for name, (_, _, unit, _) in DISTURBANCES.items()}


def _pepper(image, rng):
    chance = rng.random(image.shape)  # one pixel in eight becomes black or white
    return np.where(chance < 1 / 16, 0, np.where(chance > 15 / 16, 1, image))


def _smear(image, rng):
    """Blur along seven pixels, in any direction."""
    line = np.zeros((9, 9), np.float32)
    line[4, 1:8] = 1
    line = cv2.warpAffine(line, cv2.getRotationMatrix2D((4, 4), rng.uniform(0, 180), 1), (9, 9))
    return cv2.filter2D(image, -1, line / line.sum())


def _fog(image, rng):
    """Lay a pale cloud over all: up to 0.7 light, a quarter to half of the contrast left."""
    cloud = cv2.resize(rng.random((4, 4)), image.shape, interpolation=cv2.INTER_CUBIC)
    return np.clip(0.5 * image + 0.2 + 0.5 * np.clip(cloud, 0, 1) * (1 - 0.5 * image), 0, 1)


def _stripe(image, rng):
    away = np.arange(image.shape[1]) - rng.integers(4, 17)  # an upright band, 8 pixels wide
    return np.where((away >= 0) & (away < 8), 1 - image, image)


def _zigzag(image, rng):
    rows, columns = rng.integers(4, 24) + np.tile([-3, 3], 4), np.linspace(0, 27, 8)
    line = np.stack([columns, rows], 1).astype(np.int32)
    ink = cv2.polylines(np.zeros(image.shape, np.uint8), [line], False, 255, 1, cv2.LINE_AA)
    return np.maximum(image, ink / np.float32(255))


def _dots(image, rng):
    image, rows = image.copy(), np.linspace(*rng.integers(3, 25, 2), 7)
    for place in np.stack([np.linspace(2, 25, 7), rows], 1).round().astype(int):
        cv2.circle(image, place.tolist(), 1, 1, -1)
    return image


_CORRUPTIONS = {
    "noise": lambda image, rng: _add_noise(image, 0.3, rng),
    "pepper": _pepper,
    "blur": lambda image, rng: ndimage.gaussian_filter(image, 1.5),
    "motion blur": _smear,
    "low contrast": lambda image, rng: 0.2 * image,
    "grey paper": lambda image, rng: 0.5 + 0.5 * image,
    "fog": _fog,
    "inverted": lambda image, rng: 1 - image,
    "stripe": _stripe,
    "zigzag": _zigzag,
    "dotted line": _dots,
    "edges": lambda image, rng: cv2.Canny((image * 255).astype(np.uint8), 100, 200) / 255,  # 1986
}
CORRUPTIONS = {name: partial(_change_each, change) for name, change in _CORRUPTIONS.items()}
