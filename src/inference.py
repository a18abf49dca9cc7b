"""One picture in, one digit out. Keras is loaded only where a model has to be opened."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from src.config import IMAGE_SHAPE, find_result

MODEL = "mnist_cnn_final.keras"


class Prediction(NamedTuple):
    """digit 0-9; its probability; all ten (10,); what the network saw, float32 (28, 28)."""

    digit: int
    confidence: float
    probabilities: np.ndarray
    pixels: np.ndarray


def predict_digit(image: np.ndarray, model=None) -> Prediction:
    """Read one digit, light on dark as in MNIST.

    `image`: (28, 28) or (28, 28, 1), uint8 in 0-255 or floats in [0, 1]. `model`: a Keras
    model, or a path to one; without it, your own trained model or else the published one.
    Raises ValueError for another shape, type or range, FileNotFoundError where no model is.
    """
    pixels = _as_pixels(image)
    if model is None:
        model = find_result(MODEL)
    if isinstance(model, str | Path):
        model = _open_model(str(model), Path(model).stat().st_mtime_ns)
    probabilities = np.asarray(model(pixels.reshape(1, *IMAGE_SHAPE), training=False))[0]
    digit = int(probabilities.argmax())
    return Prediction(digit, float(probabilities[digit]), probabilities, pixels)


def _as_pixels(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.shape not in (IMAGE_SHAPE, IMAGE_SHAPE[:2]):
        raise ValueError(f"image: shape {image.shape}, expected (28, 28) or (28, 28, 1).")
    if image.dtype == np.uint8:
        return image.reshape(IMAGE_SHAPE[:2]).astype(np.float32) / 255
    if image.dtype.kind != "f":
        raise ValueError(f"image: {image.dtype}, expected uint8 in 0-255 or floats in [0, 1].")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"image: values from {image.min()} to {image.max()}, expected floats in [0, 1]; "
            "divide by 255, or pass uint8."
        )
    return image.reshape(IMAGE_SHAPE[:2]).astype(np.float32)


@lru_cache(maxsize=4)
def _open_model(path: str, modified: int):
    """The model at `path`; `modified` makes a rewritten file a new entry."""
    from src.models import load_model

    return load_model(path)
