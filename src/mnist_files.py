"""MNIST's files: where they lie, download, the IDX and npz formats, Kaggle's CSV; all checked."""

import gzip
import hashlib
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pooch

from src.config import CLASSES, DAMAGE, IMAGE_SHAPE, ROOT, DataError, replacing

ARRAYS = {  # array: (its file in the original distribution, its shape)
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
KERAS_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"  # mnist.npz
MIRROR_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MIRROR_SHA256 = {  # of each file with .gz, as served
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
ONE_BY_ONE = {f"{i // 28 + 1}x{i % 28 + 1}": f"pixel{i}" for i in range(784)}  # "MNIST in CSV"
TIMEOUT = (5, 10)  # seconds to connect, then to wait for the next bytes; a guess


class DataUnavailableError(OSError):
    """MNIST could not be found or downloaded."""


def find_mnist() -> dict[str, np.ndarray]:
    """Read MNIST's four arrays from the first place that has them whole."""
    tried = []
    if named := os.environ.get("MNIST_DIR", "").strip(" \n'\""):
        folder = Path(named).expanduser()
        try:  # a relative folder is taken from here, else from the root (notebooks run below it)
            folder = folder if folder.exists() else ROOT / folder
            return read_folder(folder.parent if folder.is_file() else folder)
        except OSError as error:  # but a DataError, of a damaged file there, ends the search
            tried.append(f"MNIST_DIR: {error}")
            print(f"{tried[0]}; looking elsewhere.")
    cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"
    idx_files = {f"{name}.gz": sha256 for name, sha256 in MIRROR_SHA256.items()}
    places = {
        "Keras' folder": lambda: read_folder(cache),
        "download": lambda: _download(cache, KERAS_URL, {"mnist.npz": KERAS_SHA256}),
        "second download": lambda: _download(cache, MIRROR_URL, idx_files),
    }
    for place, load in places.items():
        try:
            return load()
        except (OSError, DataError) as error:
            tried.append(f"{place}: {error}")
    raise DataUnavailableError(
        "MNIST can't be loaded. Three ways out: connect to the network and run this again "
        "(about 11 MB are downloaded, once); or set the environment variable MNIST_DIR to a "
        "folder that holds the four original files (train-images-idx3-ubyte.gz, ...) or "
        "Keras' mnist.npz; or work on the small embedded sample with "
        f"load_mnist(source='sample'). Tried: {' | '.join(tried)}"
    )


def _download(cache: Path, url: str, files: dict[str, str]) -> dict[str, np.ndarray]:
    """Fetch files (name: SHA-256) into `cache`, each stored only once it is whole; read them."""
    print(f"Downloading MNIST (11 MB) from {url}")
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
    for name, sha256 in files.items():
        try:
            pooch.retrieve(url + name, sha256, name, cache, downloader=downloader)
        except OSError as error:
            reason = error.strerror or f"{type(error).__name__}: {error}"[:100]
            at = f"no answer for {url + name}, or no place for it in {cache}"
            raise OSError(f"{at} ({reason})") from error
        except ValueError as error:  # pooch: the SHA-256 differs
            raise OSError(f"{url + name} came broken, or is not MNIST (SHA-256)") from error
    if "mnist.npz" not in files:  # else the damaged one would be read before the new files
        (cache / "mnist.npz").unlink(missing_ok=True)
    return read_folder(cache)


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Read and check the four arrays, from mnist.npz or from the four IDX files."""
    for below in ("MNIST/raw", "raw", "MNIST", "mnist"):  # PyTorch makes the first
        if any(_idx_path(folder / below, name) for name, _ in ARRAYS.values()):
            folder /= below
    npz = folder / "mnist.npz"
    paths = dict.fromkeys(ARRAYS, npz)
    if npz.exists():
        try:
            with np.load(npz, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in ARRAYS}
        except DAMAGE as error:
            reason = f"is damaged or is not Keras' mnist.npz ({error}): delete it and load again."
            raise DataError(f"{npz} {reason}") from error
    else:
        paths = {key: _idx_path(folder, name) for key, (name, _) in ARRAYS.items()}
        if not any(paths.values()):
            raise FileNotFoundError(f"{folder} holds neither mnist.npz nor IDX files")
        if missing := [ARRAYS[key][0] for key, path in paths.items() if path is None]:
            raise DataError(f"{folder} lacks {', '.join(missing)} (with or without .gz)")
        arrays = {key: read_idx(path) for key, path in paths.items()}
    for key, array in arrays.items():
        _check_content(key, array, paths[key])
    return arrays


def _idx_path(folder: Path, name: str) -> Path | None:
    """Find the file of that name, gzipped or not; Kaggle's copy has a dot before "idx"."""
    names = [one + end for one in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    return next((folder / one for one in names if (folder / one).is_file()), None)


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes, gzipped or not, as uint8 of the shape in its header.

    The format: 00 00 08, the number of sizes, each as a big-endian 32-bit integer, the values.
    """
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):  # as every gzip file does
        try:
            raw = gzip.decompress(raw)
        except DAMAGE as error:
            raise DataError(f"{path}: not a whole gzip file ({error}). Get it again.") from error
    if raw[:4] not in (b"\0\0\x08\x01", b"\0\0\x08\x03"):
        found = f"{path}: wrong magic number {raw[:4].hex(' ') or '(empty)'}"
        expected = "an IDX file of bytes starts with 00 00 08 01 (labels) or 00 00 08 03 (images)."
        page = " It looks like a web page." if raw.lstrip().startswith(b"<") else ""
        raise DataError(f"{found}; {expected}{page}")
    start = 4 + 4 * raw[3]
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    promised = start + math.prod(shape)
    if len(raw) != promised:
        found = f"holds {len(raw):,} bytes, but its header {shape} promises {promised:,}"
        raise DataError(f"{path}: {found}. The file is truncated or damaged: get it again.")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def _check_content(key: str, array: np.ndarray, path: Path) -> None:
    shape, expected = ARRAYS[key][1], CONTENT_SHA256[key]
    reason = f"{key} is {array.dtype} {array.shape}, expected uint8 {shape}"
    if array.shape == shape and array.dtype == np.uint8:
        if key.startswith("y_"):
            check_labels(array, f"{path}: {key}")
        found = hashlib.sha256(array.tobytes()).hexdigest()
        if found == expected:
            return
        reason = f"content of {key} is not MNIST's (SHA-256 {found[:9]}..., not {expected[:9]}...)"
    others = "Fashion-MNIST (SOURCE 'fashion_mnist' loads it), KMNIST and EMNIST share the names"
    raise DataError(f"{path}: whole, but {reason}; {others}; if it should be MNIST, get it again.")


def check_labels(labels: np.ndarray, name: str = "labels") -> np.ndarray:
    """Return labels if they are whole numbers 0-9 in one dimension, else say what they are."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{name}: {labels.dtype} {labels.shape}, expected integers (n,).")
    wrong = np.flatnonzero((labels < 0) | (labels >= CLASSES))
    if len(wrong):
        found = f"label {labels[wrong[0]]} at index {wrong[0]}"
        raise DataError(f"{name}: {found}, expected 0 to {CLASSES - 1}.")
    return labels


def find_fashion() -> dict[str, np.ndarray]:
    """Read Fashion-MNIST by Keras' loader, which downloads it (30 MB) into ~/.keras/datasets."""
    from keras.datasets import fashion_mnist  # here: TensorFlow takes seconds

    try:
        (x_train, y_train), (x_test, y_test) = fashion_mnist.load_data()
    except DAMAGE as error:
        raise DataError(
            f"Fashion-MNIST's files are damaged ({error}): delete ~/.keras/datasets/fashion-mnist "
            "and load them again."
        ) from error
    except Exception as error:  # Keras raises a bare Exception where a download fails
        raise DataUnavailableError(f"Fashion-MNIST can't be downloaded ({error}).") from error
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def find_kaggle(folder: Path, name: str, needed: bool = True) -> Path | None:
    """Find one of Kaggle's files in a folder, as it is or in a zip; or in a zip itself."""
    for path in (folder, folder / name, *sorted(folder.glob("*.zip"))):
        if path.is_file() and (path.name == name or name in _tables(path)):
            return path
    if needed:
        advice = "get it from kaggle.com/c/digit-recognizer/data"
        raise DataError(f"{folder} holds no {name}: {advice}.")
    return None


def _tables(path: Path) -> dict[str, str]:
    """List the CSVs of a zip, name -> place in it; none of another file."""
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        return {Path(one).name: one for one in archive.namelist() if one.endswith(".csv")}


def load_kaggle_csv(path: str | Path, name="train.csv") -> tuple[np.ndarray, np.ndarray | None]:
    """Read Kaggle's digit-recognizer file: images uint8 (n, 28, 28), labels (n,) or None.

    Of a zip that holds several tables, the one of that `name`.
    """
    try:
        if tables := _tables(path):
            inside = tables.get(name) or next(iter(tables.values()))
            with zipfile.ZipFile(path) as archive, archive.open(inside) as file:
                table = pd.read_csv(file)
        else:
            table = pd.read_csv(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # those of pandas, tar, xz and others share no narrower class
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path}: not a CSV table ({reason}); get it again.") from error
    table = table.rename(columns=ONE_BY_ONE)
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first cells for an index
        raise DataError(f"{path}: its rows hold more cells than its header has columns.")
    pixels = [f"pixel{i}" for i in range(math.prod(IMAGE_SHAPE))]
    missing = [name for name in pixels if name not in table]
    extra = [str(name)[:20] for name in table if name not in {"label", *pixels}]
    if missing or extra or table.empty:
        raise DataError(
            f"{path}: {len(table)} rows with {len(pixels) - len(missing)} of {len(pixels)} pixel "
            f"columns; expected a header of an optional label, then pixel0 ... {pixels[-1]} or "
            f"1x1 ... 28x28. Missing: {missing[:3] or 'none'}; not expected: {extra[:3] or 'none'}."
        )
    images = _whole_numbers(table[pixels], path, 255).reshape(-1, *IMAGE_SHAPE[:2])
    if "label" not in table:
        return images, None
    return images, _whole_numbers(table[["label"]], path, CLASSES - 1).ravel()


def _whole_numbers(table: pd.DataFrame, path: str | Path, largest: int) -> np.ndarray:
    """Return the cells as uint8; name the first that is no whole number from 0 to `largest`."""
    numbers = table.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    wrong = np.argwhere(~((numbers >= 0) & (numbers <= largest) & (numbers == np.floor(numbers))))
    if len(wrong):
        row, column = wrong[0]
        found = f"column {table.columns[column]} holds '{table.iat[row, column]}'"
        expected = f"expected a whole number from 0 to {largest}"
        cut = ": the file is cut short, get it again" if row == len(numbers) - 1 else ""
        raise DataError(f"{path}: row {row + 1}, {found}, {expected}{cut}.")
    return numbers.astype(np.uint8)


def save_kaggle_submission(path: str | Path, predictions: np.ndarray) -> None:
    """Write what Kaggle takes: ImageId from 1, Label; a row per unlabelled image, in order."""
    labels = check_labels(predictions, "predictions")
    table = pd.DataFrame({"ImageId": np.arange(1, len(labels) + 1), "Label": labels})
    with replacing(path) as partial:
        table.to_csv(partial, index=False)
