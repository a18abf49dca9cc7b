"""A digit's picture in, the digit out; TensorFlow is loaded for Keras models alone.

    python -m src.inference FILE ...            a line per picture
    python -m src.inference --json FILE ...     a line of JSON per picture
A picture that can't be read gets a sentence in its place, and the exit status is then 1.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

from src.config import CLASSES, IMAGE_SHAPE, find_result
from src.preparation import (
    Mark,
    NoDigitError,
    PictureError,
    find_digits,
    is_prepared,
    pass_on,
)

__all__ = [
    "NoDigitError",
    "PictureError",
    "Prediction",
    "open_model",
    "predict_digit",
    "read_digits",
]

MODEL = "robust.onnx"
EXPORTS = "exports.json"  # lies beside exported models and holds their SHA-256
PART = 256  # images at a time, which bounds the memory taken


class Prediction(NamedTuple):
    """digit 0-9; its probability; all ten (10,); what the network saw, float32 (28, 28);
    and where in the upright picture its ink is: left, top, right, bottom in pixels."""

    digit: int
    confidence: float
    probabilities: np.ndarray
    pixels: np.ndarray
    box: tuple[int, int, int, int]


def predict_digit(image, model=None) -> Prediction:
    """Read the one digit in a picture; of several, the largest.

    `image`: a path (always prepared), a PIL image, or an array: (28, 28) or (28, 28, 1) is
    taken as MNIST has it (light ink on 0), uint8 in 0-255 or floats in [0, 1], and not
    changed; any other (h, w) grey, (h, w, 3) RGB or (h, w, 4) RGBA of uint8, uint16 or floats
    in [0, 1] is prepared. `model`: a path to a .onnx, .tflite or .keras file, a function from
    open_model, or a Keras model; without it the exported `robust` model.
    Raises NoDigitError where there is no ink, PictureError for what is no such picture,
    FileNotFoundError where a file is missing.
    """
    if is_prepared(image):
        marks = [Mark(pass_on(image), (0, 0, *IMAGE_SHAPE[1::-1]))]
    else:
        marks = find_digits(image, single=True)
    return _predict(marks, model)[0]


def read_digits(image, model=None) -> list[Prediction]:
    """All digits in a picture, left to right. Takes and raises what predict_digit does, but
    prepares arrays of 28x28 as well; digits that touch each other are read as one."""
    return _predict(find_digits(image), model)


def _predict(marks: list[Mark], model) -> list[Prediction]:
    if model is None:
        model = find_result(MODEL)
    if isinstance(model, str | Path):
        model = Path(model)
        model = _opened(model, model.stat().st_mtime_ns if model.exists() else 0)
    images = np.stack([mark.pixels for mark in marks]).reshape(-1, *IMAGE_SHAPE)
    probabilities = np.asarray(model(images))
    return [
        Prediction(int(row.argmax()), float(row.max()), row, *mark)
        for row, mark in zip(probabilities, marks, strict=True)
    ]


@lru_cache(maxsize=4)
def _opened(path: Path, modified: int) -> Callable[[np.ndarray], np.ndarray]:
    """The model at `path`, opened once; `modified` makes a rewritten file a new entry."""
    return open_model(path)


def sha256(path: str | Path) -> str:
    """The file's SHA-256, as 64 hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def open_model(path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """A model file as a function: images float32 (n, 28, 28, 1) in [0, 1] to probabilities
    float32 (n, 10), rows summing to 1.

    ONNX Runtime reads `.onnx` and LiteRT `.tflite`, with one thread and without TensorFlow;
    Keras reads `.keras`. Threads may share the function. Where an exports.json beside an
    exported file names it, the file must have the SHA-256 stated there: without that, changed
    weights go unnoticed, and LiteRT may crash on a file made to harm.
    Raises FileNotFoundError, or ValueError naming a file that is damaged, changed, or no such
    model.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".tflite", ".keras"):
        raise ValueError(f"{path}: expected a name ending in .onnx, .tflite or .keras.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    if path.suffix == ".keras":
        from src.models import load_model

        model = load_model(path)
    else:
        content = path.read_bytes()
        _check_sha256(path, content)
    try:
        if path.suffix == ".keras":
            return _in_parts(lambda images: np.asarray(model(images, training=False)), PART)
        return _in_parts(*(_read_onnx if path.suffix == ".onnx" else _read_litert)(content))
    except ImportError:
        raise
    except Exception as error:  # the errors of ONNX Runtime share no narrower class
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:120]
        raise ValueError(
            f"{path}: not a model of digits that can be read ({reason}): get or export it again."
        ) from error


def _check_sha256(path: Path, content: bytes) -> None:
    listing = path.with_name(EXPORTS)
    if not listing.is_file():
        return
    try:
        stated = json.loads(listing.read_text(encoding="utf-8"))["sha256"].get(path.name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{listing}: damaged: `python -m src.export` writes it anew.") from error
    if stated not in (None, hashlib.sha256(content).hexdigest()):
        raise ValueError(
            f"{path}: not the file that {EXPORTS} beside it describes (SHA-256 differs): get it "
            "again, or `python -m src.export` writes both."
        )


def _read_onnx(content: bytes) -> tuple[Callable, int]:
    """The model's function, and how many images it takes at a time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, not printed
    session = onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    takes, gives = session.get_inputs(), session.get_outputs()
    names = {"tensor(float)": "float32"}
    ends = [[_end(names.get(e.type, e.type), e.shape) for e in side] for side in (takes, gives)]
    free = _check_ends(*ends)
    return lambda x: session.run(None, {takes[0].name: x})[0], PART if free else 1


def _read_litert(content: bytes) -> tuple[Callable, int]:
    """The model's function, and how many images it takes at a time: one, LiteRT's default size,
    which every file allows."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    takes, gives, ends = interpreter.get_input_details(), interpreter.get_output_details(), []
    for side in (takes, gives):
        ends.append([_end(np.dtype(e["dtype"]).name, e["shape_signature"]) for e in side])
    _check_ends(*ends)
    interpreter.allocate_tensors()
    lock = Lock()

    def read(image: np.ndarray) -> np.ndarray:
        with lock:  # the interpreter holds the image between these calls
            interpreter.set_tensor(takes[0]["index"], image)
            interpreter.invoke()
            return interpreter.get_tensor(gives[0]["index"])

    return read, 1


def _check_ends(takes: list[str], gives: list[str]) -> bool:
    """True where the batch is free, False where it is 1. ValueError unless there is one input and
    one output, both as `_end` gives them, of a model of digits."""
    image, answer = ", ".join(map(str, IMAGE_SHAPE)), str(CLASSES)
    allowed = [([f"float32 ({n}, {image})"], [f"float32 ({n}, {answer})"]) for n in "n1"]
    if (takes, gives) not in allowed:
        raise ValueError(
            f"takes {' and '.join(takes)} to {' and '.join(gives)}, expected "
            f"{allowed[0][0][0]} to {allowed[0][1][0]}"
        )
    return (takes, gives) == allowed[0]


def _end(kind: str, shape: Iterable) -> str:
    """An input or output in words, a free size as n: "float32 (n, 10)"."""
    sizes = [int(s) if isinstance(s, int | np.integer) and s > 0 else "n" for s in shape]
    return f"{kind} ({', '.join(map(str, sizes))})"


def _in_parts(read: Callable, part: int) -> Callable[[np.ndarray], np.ndarray]:
    """`read` for any number of images; tried out on one. ValueError where it gives something
    else than probabilities."""

    def probabilities(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.shape[1:] != IMAGE_SHAPE or images.dtype.kind != "f":
            raise ValueError(
                f"images: {images.dtype} {images.shape}, expected float32 (n, 28, 28, 1)."
            )
        images = np.ascontiguousarray(images, np.float32)
        rows = [read(images[i : i + part]) for i in range(0, len(images), part)]
        rows = np.concatenate(rows) if rows else np.zeros((0, CLASSES), np.float32)
        return rows / rows.sum(axis=1, keepdims=True)  # those of int8 sum to 1 within 2%

    rows = read(np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(1, *IMAGE_SHAPE))
    if rows.shape != (1, CLASSES) or not (rows.min() >= 0 and abs(rows.sum() - 1) < 0.05):
        raise ValueError(f"gives {rows.shape} of sum {rows.sum():.3g}, expected (1, 10) of sum 1")
    return probabilities


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.inference", description="Read digits.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a picture")
    parser.add_argument("--json", action="store_true", help="a line of JSON per picture")
    parser.add_argument("--model", help="a .onnx, .tflite or .keras file in place of the published")
    options, failed = parser.parse_args(), False
    for name in options.files:
        try:
            found = {"digits": [_as_dict(one) for one in read_digits(name, options.model)]}
        except (OSError, ValueError) as error:
            found, failed = {"error": str(error)}, True
        if options.json:
            print(json.dumps({"file": name} | found), flush=True)
        elif "error" in found:
            reason = found["error"].removeprefix(f"{name}: ").removeprefix(f"{Path(name).name}: ")
            print(f"{name}: {reason}", file=sys.stderr, flush=True)
        else:
            read = ", ".join(f"{d['digit']} ({d['confidence']:.0%})" for d in found["digits"])
            print(f"{name}: {read}", flush=True)
    return int(failed)


def _as_dict(one: Prediction) -> dict:
    probabilities = [round(float(p), 6) for p in one.probabilities]
    return {
        "digit": one.digit,
        "confidence": round(one.confidence, 6),
        "probabilities": probabilities,
        "box": one.box,
    }


if __name__ == "__main__":
    sys.exit(main())
