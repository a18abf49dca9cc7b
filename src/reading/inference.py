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
    (28, 28) or (28, 28, 1), which are taken as MNIST has them: light ink on 0. `model`: as
    open_model takes it; by default the exported `robust`. Raises PictureError for no such picture,
    NoDigitError where there is no ink.
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
        read = _opened(path, path.stat().st_mtime_ns if path.exists() else 0)
    else:
        read = open_model(model)
    rows = read(np.stack([mark.pixels for mark in marks])[..., np.newaxis])
    answers = zip(rows, marks, strict=True)
    return [Prediction(int(row.argmax()), float(row.max()), row, *mark) for row, mark in answers]


@lru_cache(maxsize=4)
def _opened(path: Path, modified: int) -> Reader:
    return open_model(path)  # once, and again when a rewritten file has another `modified`


def open_model(model, listed: bool = False) -> Reader:
    """Open a file, a Keras model or a function as a function from images to probabilities.

    It takes float32 (n, 28, 28, 1) in [0, 1] to float32 (n, 10), and threads may share it. ONNX
    Runtime reads `.onnx` and LiteRT `.tflite`, with one thread and without TensorFlow; Keras reads
    `.keras`, `.h5` and `.hdf5`. An exported file must have the SHA-256 that exports.json beside it
    states, if it does; with `listed` it must, as LiteRT may crash on a file made to harm. Raises
    FileNotFoundError, or ValueError for other faults.
    """
    if not isinstance(model, str | Path):
        return _in_parts(_read_object(model), 256)  # each answer is checked
    path = Path(model) if listed else config.check_model_file(model)
    ending = path.suffix.lower()
    if listed or ending in EXPORTED:
        _check_sha256(path, listed)
    if ending not in EXPORTED:
        from src.models import load_model  # here, as it loads TensorFlow

        model = load_model(path)  # says itself what is wrong with a file
    try:
        if ending in EXPORTED:
            read = _in_parts(EXPORTED[ending](path.read_bytes()), 1)
        else:
            read = _in_parts(_read_object(model), 256)  # bounds the memory taken
        read(np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(1, *config.IMAGE_SHAPE))
        return read
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


EXPORTED = {".onnx": _read_onnx, ".tflite": _read_litert}


def _read_object(model) -> Reader:
    """Call a Keras model, whose shapes must be right, or any function."""
    if not callable(model):
        expected = "a path, a Keras model, or a function from images (n, 28, 28, 1) to (n, 10)"
        raise ValueError(f"model={model!r:.80}: expected {expected}.")
    if not hasattr(model, "predict_on_batch"):  # as Keras' models have
        return model
    takes, gives = (getattr(model, side, None) for side in ("input_shape", "output_shape"))
    if takes and gives:  # they are known once it was called
        config.check_network(takes[1:], gives[1:])
    return lambda images: model(images, training=False)


def _in_parts(read: Reader, part: int) -> Reader:
    """Let `read` take any number of images, `part` at a time, and check its answers.

    One is what every exported file takes, and costs ONNX Runtime 10% more than 256 (measured).
    """

    def probabilities(images: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(config.check_images(images))
        rows = [np.zeros((0, config.CLASSES), np.float32)]
        for i in range(0, len(images), part):
            some = np.asarray(read(images[i : i + part]))
            expected, sums = (len(images[i : i + part]), config.CLASSES), some.sum(axis=-1)
            if some.shape != expected or not ((some >= 0).all() and (abs(sums - 1) < 0.05).all()):
                found = f"model: gives {some.shape} of sum {sums.flat[0]:.3g}, expected {expected}"
                raise ValueError(f"{found} of sum 1, none negative: does it end in softmax?")
            rows.append(some / sums[:, np.newaxis])  # those of int8 sum to 1 within 2%
        return np.concatenate(rows)

    return probabilities
