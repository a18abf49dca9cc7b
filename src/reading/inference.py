"""Read the digits in pictures; TensorFlow is loaded for Keras models alone."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

from src import config
from src.reading.digits import Mark, find_digits
from src.reading.picture import NoDigitError, PictureError, check_array, to_unit  # noqa: F401

MODEL = "robust.onnx"
EXPORTS = "exports.json"  # lies beside exported models and holds their SHA-256
Reader = Callable[[np.ndarray], np.ndarray]  # images (n, 28, 28, 1) to probabilities (n, 10)
NOT_OPENED = (
    ", so it is not opened. Take both files from the project again (git restore models), "
    "or make them with `make export`"
)


class Prediction(NamedTuple):
    """One digit that was read."""

    digit: int
    confidence: float  # its probability
    probabilities: np.ndarray  # all ten, (10,)
    pixels: np.ndarray  # what the network saw, float32 (28, 28)
    box: tuple[int, int, int, int]  # of its ink in the upright picture: see Mark


def predict_digit(image, model=None) -> Prediction:
    """Read the one digit in a picture; of several, the largest.

    `image`: a path, a PIL image, or an array as read_picture takes it. All are prepared, but arrays
    (28, 28) or (28, 28, 1), which are taken as MNIST has them: light ink on 0. `model`: the path of
    a .onnx, .tflite or .keras file, a function from open_model, or a Keras model; by default the
    exported `robust`. Raises PictureError for no such picture, NoDigitError where there is no ink.
    """
    if isinstance(image, np.ndarray) and image.shape in ((28, 28), (28, 28, 1)):
        marks = [Mark(to_unit(check_array(image)[..., 0]), (0, 0, 28, 28))]
    else:
        marks = find_digits(image, single=True)
    return _predict(marks, model)[0]


def read_digits(image, model=None) -> list[Prediction]:
    """Read all digits, left to right, as predict_digit does; prepare arrays of 28x28 as well."""
    return _predict(find_digits(image), model)


def _predict(marks: list[Mark], model) -> list[Prediction]:
    model = config.find_result(MODEL) if model is None else model
    if isinstance(model, str | Path):
        path = Path(model)
        model = _opened(path, path.stat().st_mtime_ns if path.exists() else 0)
    rows = np.asarray(model(np.stack([mark.pixels for mark in marks])[..., np.newaxis]))
    answers = zip(rows, marks, strict=True)
    return [Prediction(int(row.argmax()), float(row.max()), row, *mark) for row, mark in answers]


@lru_cache(maxsize=4)
def _opened(path: Path, modified: int) -> Reader:
    return open_model(path)  # once, and again when a rewritten file has another `modified`


def open_model(path: str | Path, listed: bool = False) -> Reader:
    """Open a model file as a function from images to probabilities.

    It takes float32 (n, 28, 28, 1) in [0, 1] to float32 (n, 10), and threads may share it. ONNX
    Runtime reads `.onnx` and LiteRT `.tflite`, with one thread and without TensorFlow; Keras reads
    `.keras`. An exported file must have the SHA-256 that exports.json beside it states, if it does;
    with `listed` it must, as LiteRT may crash on a file made to harm. Raises FileNotFoundError, or
    ValueError for other faults.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".tflite", ".keras"):
        raise ValueError(f"{path}: expected a name ending in .onnx, .tflite or .keras.")
    if not path.is_file() and not listed:
        raise FileNotFoundError(f"{path}: no such file.")
    if path.suffix != ".keras" or listed:
        _check_sha256(path, listed)
    if path.suffix == ".keras":
        from src.models import load_model  # here, as it loads TensorFlow

        model = load_model(path)  # says itself what is wrong with a file
    try:
        if path.suffix == ".keras":  # in parts, which bound the memory taken
            return _in_parts(lambda images: np.asarray(model(images, training=False)), 256)
        read = _read_onnx if path.suffix == ".onnx" else _read_litert
        return _in_parts(read(path.read_bytes()), 1)
    except ImportError:
        raise
    except Exception as error:  # the errors of ONNX Runtime share no narrower class
        reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
        reason = f"not a model of digits that can be read ({reason})"
        raise ValueError(f"{path}: {reason}: get or export it again.") from error


def _check_sha256(path: Path, listed: bool) -> None:
    """ValueError unless the file is the one that exports.json beside it names, if it does."""
    listing, hashes = path.with_name(EXPORTS), {}
    if listing.is_file():
        hashes = config.read_json(listing, ("sha256",), NOT_OPENED)["sha256"]
    stated = hashes.get(path.name) if isinstance(hashes, dict) else ""
    name, beside = config.display_path(path), config.display_path(listing)
    if not path.is_file():
        raise ValueError(f"{name} is missing{NOT_OPENED}.")
    if stated is None and listed:
        raise ValueError(f"{beside} holds no checksum for {path.name}{NOT_OPENED}.")
    if stated not in (None, sha256(path)):
        raise ValueError(f"{name} is not the file that {beside} describes{NOT_OPENED}.")


def sha256(path: str | Path) -> str:
    """Return the file's SHA-256, as 64 hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _read_onnx(content: bytes) -> Reader:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, not printed
    how = {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}
    session = onnxruntime.InferenceSession(content, options, **how)
    (takes,), (gives,) = session.get_inputs(), session.get_outputs()
    config.check_network(takes.shape[1:], gives.shape[1:])
    return lambda image: session.run(None, {takes.name: image})[0]


def _read_litert(content: bytes) -> Reader:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    (takes,), (gives,) = interpreter.get_input_details(), interpreter.get_output_details()
    config.check_network(takes["shape"][1:].tolist(), gives["shape"][1:].tolist())
    interpreter.allocate_tensors()
    lock = Lock()

    def read(image: np.ndarray) -> np.ndarray:
        with lock:  # the interpreter holds the image between these calls
            interpreter.set_tensor(takes["index"], image)
            interpreter.invoke()
            return interpreter.get_tensor(gives["index"])

    return read


def _in_parts(read: Reader, part: int) -> Reader:
    """Let `read` take any number of images, `part` at a time; try it on one.

    One is what every exported file takes, and costs ONNX Runtime 10% more than 256 (measured).
    """

    def probabilities(images: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(config.check_images(images))
        rows = [np.zeros((0, config.CLASSES), np.float32)]
        rows += [read(images[i : i + part]) for i in range(0, len(images), part)]
        rows = np.concatenate(rows)
        return rows / rows.sum(axis=1, keepdims=True)  # those of int8 sum to 1 within 2%

    rows = read(np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(1, *config.IMAGE_SHAPE))
    if rows.shape != (1, config.CLASSES) or not (rows.min() >= 0 and abs(rows.sum() - 1) < 0.05):
        raise ValueError(f"gives {rows.shape} of sum {rows.sum():.3g}, expected (1, 10) of sum 1")
    return probabilities
