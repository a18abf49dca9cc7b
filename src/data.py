"""Digits: load, check, scale, split, feed. Images are uint8 (n, 28, 28) as stored."""

import gzip
import hashlib
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pooch
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from src.augmentation import augment, vary  # noqa: F401 (lessons say data.augment)
from src.config import CLASSES, IMAGE_SHAPE, ROOT, replacing

PIXELS = IMAGE_SHAPE[0] * IMAGE_SHAPE[1]
ARRAYS = {  # array: (file name in the original distribution, shape)
    "x_train": ("train-images-idx3-ubyte", (60_000, 28, 28)),
    "y_train": ("train-labels-idx1-ubyte", (60_000,)),
    "x_test": ("t10k-images-idx3-ubyte", (10_000, 28, 28)),
    "y_test": ("t10k-labels-idx1-ubyte", (10_000,)),
}
CONTENT_SHA256 = {  # of the raw bytes of each array, whatever file they came in
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}
KERAS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
MIRROR_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
DOWNLOADS = {  # file: SHA-256 of the file as served
    "mnist.npz": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
TIMEOUT = (5, 10)  # seconds to connect, then to wait for the next bytes


class DigitData(NamedTuple):
    """Images uint8 (n, 28, 28), labels uint8 (n,), and the name that figure titles show."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    name: str


class DataError(ValueError):
    """A file is there, but is not what its name promises."""


class DataUnavailableError(OSError):
    """MNIST could not be found or downloaded."""


def load_mnist(source: str = "mnist") -> DigitData:
    """MNIST's 60,000 + 10,000 digits, or the embedded sample.

    MNIST is looked for in the folder named by MNIST_DIR, where Keras keeps its download
    (~/.keras/datasets), in the user's cache, and then downloaded into that cache. Every
    array is compared with a known SHA-256 before it is used. `source="sample"` gives
    scikit-learn's 1,797 digits instead; the loader never does so by itself.

    Source of the data: LeCun, Cortes, Burges, "The MNIST database of handwritten digits".

    Raises DataError where MNIST_DIR holds a damaged file (it is named), DataUnavailableError
    where MNIST can't be had (with three ways out), ValueError for another `source`.
    """
    if source == "sample":
        return _load_sample()
    if source != "mnist":
        raise ValueError(f"source={source!r}: expected 'mnist' or 'sample'.")
    tried = []
    for place, load in _places():
        try:
            return DigitData(**load(), name="MNIST")
        except (OSError, ValueError) as error:
            if place == "MNIST_DIR" and isinstance(error, DataError):
                raise
            tried.append(f"{place}: {error}")
            if place == "MNIST_DIR":
                print(f"{tried[0]}; looking elsewhere.")
    raise DataUnavailableError(
        "MNIST can't be loaded. Three ways out: connect to the network and run this again "
        "(about 11 MB are downloaded, once); or set the environment variable MNIST_DIR to a "
        "folder that holds the four original files (train-images-idx3-ubyte.gz, ...) or "
        "Keras' mnist.npz; or work on the small embedded sample with "
        f"load_mnist(source='sample'). Tried: {' | '.join(tried)}"
    )


def _places() -> Iterator[tuple[str, Callable[[], dict]]]:
    """Each place to look in, with the call that loads MNIST from there."""
    if os.environ.get("MNIST_DIR"):
        yield "MNIST_DIR", lambda: _read_folder(_from_root(os.environ["MNIST_DIR"]))
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    yield "Keras' folder", lambda: _read_folder(keras_home / "datasets")
    cache = Path(pooch.os_cache("mnist-tutorial"))
    yield "cache", lambda: _read_folder(cache)
    yield "download", lambda: _download(cache, KERAS_URL, ["mnist.npz"])
    idx_files = [name + ".gz" for name, _ in ARRAYS.values()]
    yield "second download", lambda: _download(cache, MIRROR_URL, idx_files)


def _from_root(folder: str) -> Path:
    """A relative folder is taken from here, or from the project's root (notebooks run below it)."""
    path = Path(folder).expanduser()
    return path if path.is_dir() else ROOT / path


def _download(cache: Path, url: str, names: list[str]) -> dict:
    """Fetch files into `cache`, each stored only once it is whole and its SHA-256 is right."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"the cache folder {cache} can't be made ({error.strerror})") from error
    if not os.access(cache, os.W_OK):
        raise OSError(f"the cache folder {cache} can't be written to")
    print(f"Downloading MNIST (11 MB) from {url}")
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
    for name in names:
        try:
            pooch.retrieve(url + name, DOWNLOADS[name], name, cache, downloader=downloader)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OSError(f"no answer for {url + name}, or nowhere to put it ({reason})") from error
        except ValueError as error:  # pooch: the SHA-256 differs
            raise OSError(f"{url + name} came broken, or is not MNIST (SHA-256)") from error
    if "mnist.npz" not in names:  # else the damaged one would be read before the new files
        (cache / "mnist.npz").unlink(missing_ok=True)
    return _read_folder(cache)


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    """The four arrays from mnist.npz or from the four IDX files, content checked."""
    if (folder / "mnist.npz").exists():
        arrays = _read_npz(folder / "mnist.npz")
        sources = dict.fromkeys(ARRAYS, folder / "mnist.npz")
    else:
        sources = {key: _idx_path(folder, name) for key, (name, _) in ARRAYS.items()}
        missing = [ARRAYS[key][0] for key, path in sources.items() if path is None]
        if len(missing) == len(ARRAYS):
            raise FileNotFoundError(f"{folder} holds neither mnist.npz nor IDX files")
        if missing:
            raise DataError(f"{folder} lacks {', '.join(missing)} (with or without .gz)")
        arrays = {key: read_idx(path) for key, path in sources.items()}
    for key, path in sources.items():
        _check_content(key, arrays[key], path)
    return arrays


def _idx_path(folder: Path, name: str) -> Path | None:
    """The file of that name, gzipped or not; Kaggle's copy has a dot before "idx"."""
    names = (name, name + ".gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz")
    return next((folder / n for n in names if (folder / n).is_file()), None)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in ARRAYS}
    except (
        *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
        *(TypeError, RuntimeError),  # a lone .npy; flags or methods that zipfile can't read
    ) as error:
        raise DataError(
            f"{path} is damaged or is not Keras' mnist.npz ({error}): delete it and load again."
        ) from error


def read_idx(path: str | Path) -> np.ndarray:
    """One IDX file of unsigned bytes, gzipped or not, as a uint8 array of its own shape.

    Format: two zero bytes, type 0x08, number of dimensions, each dimension as a big-endian
    32-bit integer, the values. Raises DataError naming the file for anything else.
    """
    raw = _read_bytes(Path(path))
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or raw[3] not in (1, 3):
        raise DataError(
            f"{path}: wrong magic number {raw[:4].hex(' ') or '(empty)'}; an IDX file of "
            f"bytes starts with 00 00 08 01 (labels) or 00 00 08 03 (images).{_web_page(raw)}"
        )
    start = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise DataError(
            f"{path}: holds {len(raw):,} bytes, but its header {shape} promises "
            f"{expected:,}. The file is truncated or damaged: get it again."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def _read_bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    if not (raw.startswith(b"\x1f\x8b") or path.suffix == ".gz"):
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path}: not a whole gzip file ({error}).{_web_page(raw)} Get it again."
        ) from error


def _web_page(raw: bytes) -> str:
    return " It looks like a web page." if raw.lstrip()[:1] == b"<" else ""


def _check_content(key: str, array: np.ndarray, path: Path) -> None:
    shape = ARRAYS[key][1]
    if array.shape != shape or array.dtype != np.uint8:
        raise DataError(f"{path}: {key} is {array.dtype} {array.shape}, expected uint8 {shape}.")
    if key.startswith("y_"):
        check_labels(array, f"{path}: {key}")
    found = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    if found != CONTENT_SHA256[key]:
        raise DataError(
            f"{path}: the content of {key} is not MNIST's (SHA-256 {found[:12]}..., expected "
            f"{CONTENT_SHA256[key][:12]}...): the file was changed or damaged, get it again."
        )


def _load_sample() -> DigitData:
    """scikit-learn's 8x8 digits (0..16), enlarged to 20x20 in a 28x28 frame as MNIST's are."""
    digits = load_digits()
    large = zoom(digits.images, (1, 20 / 8, 20 / 8), order=1, grid_mode=True, mode="nearest")
    images = np.pad(np.rint(large / 16 * 255).astype(np.uint8), ((0, 0), (4, 4), (4, 4)))
    labels = digits.target.astype(np.uint8)
    train, test = stratified_split(labels, 0.2, seed=0)
    return DigitData(images[train], labels[train], images[test], labels[test], "sample digits")


def load_kaggle_csv(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Kaggle's digit-recognizer file: images uint8 (n, 28, 28) and labels, None without them.

    Columns: an optional `label` (0-9), then pixel0 ... pixel783 (0-255), row by row.
    Raises DataError naming file, column and row for anything else.
    """
    try:
        table = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV table ({error}).") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first cells for an index
        raise DataError(f"{path}: its rows hold more cells than its header has columns.")
    pixels = [f"pixel{i}" for i in range(PIXELS)]
    missing = [name for name in pixels if name not in table]
    extra = [name for name in table if name not in {"label", *pixels}]
    if missing or extra or table.empty:
        raise DataError(
            f"{path}: {len(table)} rows with {PIXELS - len(missing)} of {PIXELS} pixel columns; "
            f"expected an optional label, then pixel0 ... pixel{PIXELS - 1}. "
            f"Missing: {missing[:3] or 'none'}; not expected: {extra[:3] or 'none'}."
        )
    values = _whole_numbers(table[pixels], path, 255)
    images = values.astype(np.uint8).reshape(-1, *IMAGE_SHAPE[:2])
    if "label" not in table:
        return images, None
    return images, _whole_numbers(table[["label"]], path, CLASSES - 1).astype(np.uint8).ravel()


def _whole_numbers(table: pd.DataFrame, path: str | Path, largest: int) -> np.ndarray:
    """The cells as numbers; the first that is not a whole number in 0..largest is named."""
    numbers = table.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    wrong = ~((numbers >= 0) & (numbers <= largest) & (numbers == np.floor(numbers)))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"{path}: row {row + 1}, column {table.columns[column]} holds "
            f"'{table.iat[row, column]}', expected a whole number from 0 to {largest}."
        )
    return numbers


def save_kaggle_submission(path: str | Path, predictions: np.ndarray) -> None:
    """The file that Kaggle takes: ImageId from 1, Label; one row per unlabelled image, in order."""
    labels = check_labels(np.asarray(predictions), "predictions")
    table = pd.DataFrame({"ImageId": np.arange(1, len(labels) + 1), "Label": labels})
    with replacing(path) as partial:
        table.to_csv(partial, index=False)


def check_labels(labels: np.ndarray, name: str = "labels") -> np.ndarray:
    """`labels` if they are whole numbers 0-9 in one dimension, else ValueError naming them."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{name}: {labels.dtype} {labels.shape}, expected integers (n,).")
    wrong = np.flatnonzero((labels < 0) | (labels >= CLASSES))
    if len(wrong):
        first = wrong[0]
        raise DataError(
            f"{name}: label {labels[first]} at index {first}, expected 0 to {CLASSES - 1}."
        )
    return labels


def scale_images(images: np.ndarray) -> np.ndarray:
    """uint8 (n, 28, 28) -> float32 (n, 28, 28, 1) in [0, 1].

    Raises DataError for another shape or type; images that are scaled already are refused too.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != IMAGE_SHAPE[:2]:
        raise DataError(
            f"images: {images.dtype} {images.shape}, expected uint8 (n, 28, 28) with values "
            "0-255. Images in [0, 1] are scaled already."
        )
    return images[..., np.newaxis].astype(np.float32) / 255


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Labels 0-9 (n,) -> float32 (n, 10) with a single 1 in each row."""
    return np.eye(CLASSES, dtype=np.float32)[check_labels(labels)]


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of two parts, `fraction` of each digit in the second; same seed, same split.

    Raises ValueError where the fraction is not between 0 and 1 or a digit is too rare to split.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction}: expected more than 0 and less than 1.")
    rows, size = np.arange(len(labels)), math.ceil(fraction * len(labels) - 1e-6)
    first, second = train_test_split(rows, test_size=size, stratify=labels, random_state=seed)
    return np.sort(first), np.sort(second)


def split_fit_select_held(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The project's one split, seed 0, as row numbers: 10/12 to fit, 1/12 to select by,
    1/12 held back. Of MNIST's 60,000 training images: 50,000, 5,000 and 5,000.

    Raises ValueError for fewer than 12 labels, or a digit too rare to split.
    """
    if len(labels) < 12:
        raise ValueError(f"{len(labels)} labels: expected 12 or more for three parts.")
    part = len(labels) // 12
    rest, held = stratified_split(labels, part / len(labels))
    fit, select = stratified_split(labels[rest], part / len(rest))
    return rest[fit], rest[select], held


def make_dataset(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    augmentation: dict | None = None,
):
    """A tf.data pipeline of (images, labels) batches, shuffled anew each epoch on request.

    `augmentation` holds arguments of `augmentation.vary`, applied anew each epoch, too.

    `images` float (n, 28, 28, 1) in [0, 1]; `labels` integers (n,) or one-hot (n, 10).
    Raises DataError for another shape or range, or different lengths.
    """
    import tensorflow as tf  # here, so that looking at data does not wait for TensorFlow

    images = check_scaled(images)
    if len(images) != len(labels) or len(images) == 0:
        raise DataError(f"{len(images)} images and {len(labels)} labels: expected as many, not 0.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected 1 or more.")
    labels = np.asarray(labels)
    if labels.ndim == 1:
        check_labels(labels)
    elif labels.shape[1:] != (CLASSES,):
        raise DataError(f"labels: shape {labels.shape}, expected (n,) or (n, {CLASSES}).")
    x, y = tf.constant(images), tf.constant(labels)
    rows = tf.data.Dataset.range(len(images))
    if shuffle:
        rows = rows.shuffle(len(images), seed=seed, reshuffle_each_iteration=True)
    batches = rows.batch(batch_size)
    batches = batches.map(lambda i: (tf.gather(x, i), tf.gather(y, i)), tf.data.AUTOTUNE)
    if augmentation:
        seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
        batches = tf.data.Dataset.zip(batches, seeds).map(
            lambda batch, pair: vary(*batch, pair, **augmentation),
            tf.data.AUTOTUNE,
        )
    return batches.prefetch(tf.data.AUTOTUNE)


def check_scaled(images: np.ndarray) -> np.ndarray:
    """`images` as float32 if they are (n, 28, 28, 1) in [0, 1], else DataError saying what is."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != IMAGE_SHAPE:
        raise DataError(f"images: shape {images.shape}, expected (n, 28, 28, 1).")
    if images.dtype.kind != "f":
        raise DataError(f"images: {images.dtype}, expected floats in [0, 1]: see scale_images.")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise DataError(
            f"images: values from {images.min()} to {images.max()}, expected 0 to 1: "
            "see scale_images."
        )
    return images.astype(np.float32, copy=False)
