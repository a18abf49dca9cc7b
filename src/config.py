"""Paths, fixed facts, JSON files, checks of shapes. Nothing is read or written on import."""

import json
import os
import platform
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
IMAGE_SHAPE = (28, 28, 1)
CLASSES = 10
PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn")
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
DAMAGE = (  # what numpy, h5py, Keras, Pillow and zipfile raise on a file that is not whole
    *(OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(RuntimeError, SyntaxError, MemoryError, struct.error, zlib.error, zipfile.BadZipFile),
)
MODEL_FILES = (".onnx", ".tflite", ".keras", ".h5", ".hdf5")
FOREIGN = {  # what other endings tell, or files in a folder or beside a path
    ".ckpt": "a TensorFlow checkpoint", ".pb": "a TensorFlow graph", ".json": "without weights",
    ".pt": "PyTorch's", ".pth": "PyTorch's", ".pkl": "a pickle", "/saved_model.pb": "a SavedModel",
    **dict.fromkeys((".index", ".meta", "/checkpoint"), "a TensorFlow checkpoint"),
}  # fmt: skip


class DataError(ValueError):
    """A file or an array is there, but is not what it should be."""


def _results_path(kind: str, source: str) -> Path:
    base = Path(os.environ.get("MNIST_RESULTS_DIR") or ROOT / "build")
    return (base if source == "mnist" else base / Path(source).resolve().name) / kind


def expect(holds: bool, name: str, value, expected: str) -> None:
    """ValueError, with the value and what was `expected` of it, unless that holds."""
    if not holds:
        raise ValueError(f"{name}={value!r:.120}: expected {expected}.")


def check_arguments(name: str, given: dict, known: Iterable[str]) -> None:
    """ValueError naming an argument among those `given` that is not `known`."""
    expect(isinstance(given, dict), name, given, "a dict of arguments")
    for one in [one for one in given if one not in known][:1]:
        raise ValueError(f"{name}: no argument {one!r}; there are {', '.join(known)}.")


def is_count(value) -> bool:
    """Tell whether a value is a whole number, 1 or more: Python's or numpy's, no float or bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def is_share(value) -> bool:
    """Tell whether a value is a number from 0 to below 1."""
    return isinstance(value, Real) and 0 <= value < 1


def as_json(content, **options) -> str:
    """Write as JSON what may hold numpy's numbers and arrays."""
    return json.dumps(content, default=lambda value: np.asarray(value).tolist(), **options)


def results_dir(kind: str, source: str = "mnist") -> Path:
    """Make and return the folder of `kind`, "models" or "figures", in build/ or MNIST_RESULTS_DIR.

    Another source than MNIST has a folder of its own there, so that the two never mix.
    """
    folder = _results_path(kind, source)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_result(
    name: str, kind: str = "models", source: str = "mnist", published: bool = False
) -> Path:
    """Find your own file, else MNIST's published one (for another source if `published`)."""
    places = [_results_path(kind, source)]
    if source == "mnist" or published:
        places.append(ROOT / kind)
    for folder in places:
        if (folder / name).exists():
            return folder / name
    advice = f"A network of your own comes from notebooks/02_training.ipynb, SOURCE = {source!r}"
    if Path(name).suffix in (".onnx", ".tflite"):
        advice = "Exports come from `make export`"
    if source == "mnist":
        advice += "; `git restore models` brings back a published one"
    raise FileNotFoundError(f"{name} is not in {' or '.join(map(str, places))}. {advice}.")


def display_path(path: Path) -> str:
    """Name a path as seen from the project's root, so that nothing printed names one's home."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def environment() -> dict:
    """Collect what results depend on: cores, system and library versions."""
    system = f"{platform.system()} {platform.machine()}"
    found = {"cores": os.cpu_count(), "system": system, "python": platform.python_version()}
    return found | {name: version(name) for name in PACKAGES}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write to a new file beside `path`; rename it to `path` on success, delete it on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own, as two processes may write at once; the ending tells libraries the format
    partial = path.with_name(f"partial-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: str | Path, needed: Iterable[str] = (), advice: str = "") -> dict:
    """Read a JSON file; ValueError, ending with `advice`, where it is damaged or lacks a key."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in needed if key not in content]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name}: damaged ({error}){advice}.") from error
    if missing:
        raise ValueError(f"{path.name}: incomplete, without {', '.join(missing)}{advice}.")
    return content


def write_json(path: str | Path, content: dict) -> Path:
    """Write `content` as JSON, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(as_json(content, indent=1) + "\n", encoding="utf-8")
    return Path(path)


def check_model_file(path: str | Path) -> Path:
    """Return the path of a file that may hold a model; of anything else say what it is."""
    path, ending = Path(path), Path(path).suffix.lower()
    known = FOREIGN.items()
    found = [what for end, what in known if end == ending or Path(f"{path}{end}").exists()]
    if path.is_dir() or ending not in MODEL_FILES:
        found = (*found, "a folder" if path.is_dir() else "unknown")[0]
        expected = f"expected a name ending in {', '.join(MODEL_FILES)}"
        raise ValueError(f"{path}: {found}, {expected}: save or export it so where it was made.")
    if not path.exists():
        ways = "02_training writes your own, `git restore models` brings back the published ones"
        raise FileNotFoundError(f"{path}: no such file; {ways}.")
    return path


def check_images(images: np.ndarray) -> np.ndarray:
    """Return images as float32 if they are (n, 28, 28, 1) in [0, 1], else say what they are."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != IMAGE_SHAPE:
        raise DataError(f"images: shape {images.shape}, expected (n, 28, 28, 1).")
    if images.dtype.kind != "f":
        raise DataError(f"images: {images.dtype}, expected floats in [0, 1]: see scale_images.")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        found = f"values from {images.min()} to {images.max()}"
        raise DataError(f"images: {found}, expected 0 to 1: see scale_images.")
    return images.astype(np.float32, copy=False)


def check_pairs(images, labels, what: str = "images") -> None:
    """DataError unless there are as many labels as images, or as whatever `what` names."""
    if len(images) != len(labels):
        raise DataError(f"{len(images)} {what} and {len(labels)} labels: expected as many.")


def check_network(takes: tuple, gives: tuple, name: str = "model") -> None:
    """ValueError unless a network's shapes, without the batch, are an image's and ten outputs."""
    found, expected = (tuple(takes), tuple(gives)), (IMAGE_SHAPE, (CLASSES,))
    if found != expected:
        raise ValueError("{}: takes {} to {}, expected {} to {}.".format(name, *found, *expected))
