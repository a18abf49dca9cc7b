"""Digits: load, check, split, scale, feed. Images are uint8 (n, 28, 28) as stored."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from src import config, mnist_files
from src.config import CLASSES, IMAGE_SHAPE, DataError, check_images, display_path, expect
from src.mnist_files import (  # noqa: F401 (callers say data.load_kaggle_csv)
    DataUnavailableError,
    check_labels,
    load_kaggle_csv,
    save_kaggle_submission,
)

FASHION = ("T-shirt", "Trousers", "Pullover", "Dress", "Coat")
FASHION += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True, eq=False)
class DigitData:
    """Images uint8 (n, 28, 28), labels uint8 (n,), names for figures, and one split."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    name: str
    class_names: tuple[str, ...] = tuple("0123456789")
    unlabelled: np.ndarray | None = None  # images to predict, of Kaggle's test.csv

    def __post_init__(self):
        config.check_pairs(self.x_train, self.y_train, "training images")
        if self.x_test is not None:  # some runs must not see it
            config.check_pairs(self.x_test, self.y_test, "test images")

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Split the training images by row, stratified, seed 0; MNIST's 50,000, 5,000 and 5,000.

        To train on, to choose settings by (validation), to compare networks on (held_back).
        """
        if len(self.y_train) < 12:
            raise ValueError(f"{len(self.y_train)} labels: expected 12 or more for three parts.")
        part = len(self.y_train) // 12
        rest, held_back = stratified_split(self.y_train, part / len(self.y_train))
        train, validation = stratified_split(self.y_train[rest], part / len(rest))
        return {"train": rest[train], "validation": rest[validation], "held_back": held_back}

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Scale a part of `rows`, or "test": images float32 (n, 28, 28, 1), labels int64 (n,)."""
        if name == "test":
            return scale_images(self.x_test), self.y_test.astype(np.int64)
        if name not in self.rows:
            raise ValueError(f"no part named {name!r}; there are {', '.join(self.rows)}, test.")
        rows = self.rows[name]
        return scale_images(self.x_train[rows]), self.y_train[rows].astype(np.int64)


def load_mnist(source: str = "mnist") -> DigitData:
    """Load MNIST's 60,000 + 10,000 digits, or what else `source` names.

    "sample": scikit-learn's 1,797 digits. "fashion_mnist": clothes, Xiao, Rasul and Vollgraf,
    "Fashion-MNIST" (2017), by Keras' loader. A folder, or Kaggle's zip: its train.csv, a sixth of
    it as the test set, and test.csv if it is there.

    MNIST is looked for in the folder named by MNIST_DIR, then in Keras' (~/.keras/datasets), then
    downloaded to there: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".
    DataError names a damaged file in MNIST_DIR, DataUnavailableError says how MNIST can be had.
    """
    if source == "sample":
        return _load_sample()
    if source == "fashion_mnist":
        return DigitData(**mnist_files.find_fashion(), name="Fashion-MNIST", class_names=FASHION)
    if source == "mnist":
        return DigitData(**mnist_files.find_mnist(), name="MNIST")
    folder = Path(str(source).strip(" '\"")).expanduser()
    expected = "'mnist', 'fashion_mnist', 'sample', or a folder that holds Kaggle's train.csv"
    expect(folder.exists(), "source", source, expected)
    return _load_kaggle(folder)


def _load_kaggle(folder: Path) -> DigitData:
    images, labels = load_kaggle_csv(mnist_files.find_kaggle(folder, "train.csv"))
    if labels is None:
        raise DataError(f"{folder / 'train.csv'}: without a column `label`: is it test.csv?")
    train, test = stratified_split(labels, 1 / 6)
    asked = mnist_files.find_kaggle(folder, "test.csv", needed=False)
    asked = load_kaggle_csv(asked, "test.csv")[0] if asked else None
    parts = images[train], labels[train], images[test], labels[test]
    return DigitData(*parts, "Kaggle's digits", unlabelled=asked)


def _load_sample() -> DigitData:
    """Enlarge scikit-learn's 8x8 digits (0..16) to 20x20 in a 28x28 frame, as MNIST's are."""
    digits = load_digits()
    large = zoom(digits.images, (1, 20 / 8, 20 / 8), order=1, grid_mode=True, mode="nearest")
    images = np.pad(np.rint(large / 16 * 255).astype(np.uint8), ((0, 0), (4, 4), (4, 4)))
    labels = digits.target.astype(np.uint8)
    train, test = stratified_split(labels, 0.2)
    return DigitData(images[train], labels[train], images[test], labels[test], "sample digits")


def scale_images(images: np.ndarray) -> np.ndarray:
    """Scale uint8 (n, 28, 28) to float32 (n, 28, 28, 1) in [0, 1]."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != IMAGE_SHAPE[:2]:
        expected = "expected uint8 (n, 28, 28) with values 0-255"
        found = f"images: {images.dtype} {images.shape}"
        raise DataError(f"{found}, {expected}. Images in [0, 1] are scaled already.")
    return images[..., np.newaxis].astype(np.float32) / 255


def write_submission(digits: DigitData, model, path: str | Path) -> None:
    """Write a network's answers to the images of Kaggle's test.csv, and say how many."""
    if digits.unlabelled is None:
        print("These data hold no test.csv: nothing to send.")
        return
    images = scale_images(digits.unlabelled)
    answers = model.predict(images, batch_size=500, verbose=0).argmax(axis=1)
    save_kaggle_submission(path, answers)
    print(f"{display_path(path)}: {len(answers):,} answers")


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Turn labels 0-9 (n,) into float32 (n, 10) with a single 1 in each row."""
    return np.eye(CLASSES, dtype=np.float32)[check_labels(labels)]


def stratified_split(labels, fraction: float, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Split row numbers in two, `fraction` of each digit in the second; same seed, same split."""
    expect(0 < fraction < 1, "fraction", fraction, "more than 0 and less than 1")
    rows, size = np.arange(len(labels)), math.ceil(fraction * len(labels) - 1e-6)
    first, second = train_test_split(rows, test_size=size, stratify=labels, random_state=seed)
    return np.sort(first), np.sort(second)


def make_dataset(images, labels, batch_size, shuffle=False, seed=0, augmentation=None):
    """Make a tf.data pipeline of batches, shuffled and varied (`augmentation.vary`) in each epoch.

    `images` float (n, 28, 28, 1) in [0, 1]; `labels` integers (n,) or one-hot (n, 10).
    """
    import tensorflow as tf  # here, so that looking at data does not wait for TensorFlow

    from src.augmentation import KNOBS, vary

    images, labels = check_images(images), np.asarray(labels)
    if len(images) != len(labels) or len(images) == 0:
        raise DataError(f"{len(images)} images and {len(labels)} labels: expected as many, not 0.")
    expect(config.is_count(batch_size), "batch_size", batch_size, "a whole number, 1 or more")
    augmentation = augmentation or {}
    config.check_arguments("augmentation", augmentation, KNOBS)
    if labels.ndim == 1:
        check_labels(labels)
    elif labels.shape[1:] != (CLASSES,):
        raise DataError(f"labels: shape {labels.shape}, expected (n,) or (n, {CLASSES}).")
    if shuffle or augmentation:
        # shuffle and Dataset.random mix TensorFlow's global seed into their own: with both set
        # here, the batches depend on `seed` alone. Keras draws weights and dropout elsewhere.
        tf.random.set_seed(seed)
    x, y = tf.constant(images), tf.constant(labels)
    rows = tf.data.Dataset.range(len(images))
    if shuffle:
        rows = rows.shuffle(len(images), seed=seed, reshuffle_each_iteration=True)
    batches = rows.batch(batch_size)
    batches = batches.map(lambda i: (tf.gather(x, i), tf.gather(y, i)), tf.data.AUTOTUNE)
    if augmentation:
        seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
        batches = tf.data.Dataset.zip(batches, seeds).map(
            lambda batch, pair: vary(*batch, pair, **augmentation), tf.data.AUTOTUNE
        )
    return batches.prefetch(tf.data.AUTOTUNE)
