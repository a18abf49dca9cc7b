"""A Keras model for places without TensorFlow: ONNX, and LiteRT as float32, float16 and int8.

    python -m src.export                 models/robust.keras, into models/
    python -m src.export MODEL.keras     a model of your own, into build/models/

Each file is read back by its own runtime and compared with Keras on MNIST's test images;
models/exports.json says how it did. Nothing is replaced unless all of them did well.
"""

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from src import data, evaluation
from src.config import CLASSES, IMAGE_SHAPE, ROOT, environment, replacing, results_dir, write_json
from src.inference import EXPORTS, open_model, sha256
from src.models import load_model

MODELS = ROOT / "models"
PRECISIONS = ("float32", "float16", "int8")
PACKAGES = ("onnxruntime", "ai-edge-litert", "onnx", "tf2onnx")
REPRESENTATIVE = 300  # training images that set the ranges of int8
LARGEST_LOSS = 0.001  # of accuracy, between Keras and an exported file
ROUNDS, WARM, TIMED = 30, 3, 10  # of timing; calls not timed and timed, per reader and round


def export_onnx(model: keras.Model, path: str | Path) -> Path:
    """Write the model as ONNX, float32 with a free batch size, whole or not at all.

    Raises ValueError unless it takes (n, 28, 28, 1) to (n, 10) and the name ends in .onnx.
    """
    path = _check_target(model, path, ".onnx")
    model(np.zeros((1, *IMAGE_SHAPE), np.float32))  # Keras refuses a model never called
    return _write(model, path, format="onnx")


def export_litert(
    model: keras.Model,
    path: str | Path,
    precision: str = "float32",
    images: np.ndarray | None = None,
) -> Path:
    """Write the model for LiteRT (.tflite), whole or not at all.

    `precision`: "float32"; "float16", weights stored in half the size; "int8", weights and all
    arithmetic in 8-bit integers, whose ranges come from `images`, float32 (n, 28, 28, 1) in
    [0, 1], a few hundred. Input and output stay float32: integers there left the errors of three
    networks as they were, saved under 400 bytes, and made a call slower by 6 microseconds.
    Quantization: Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference" (2018).
    Raises ValueError for another precision, shape or ending, and for int8 without images.
    """
    path = _check_target(model, path, ".tflite")
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}.")
    how = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
    if precision == "float16":
        how["target_spec"]["supported_types"] = [tf.float16]
    if precision == "int8":
        if images is None or len(images) == 0:
            raise ValueError("precision='int8' needs images: some hundred of the training images.")
        images = data.check_scaled(images)
        how["target_spec"] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]}
        how["representative_dataset"] = lambda: ([image[np.newaxis]] for image in images)
    if precision != "float32":
        how["optimizations"] = [tf.lite.Optimize.DEFAULT]
    return _write(model, path, format="litert", **how)


def _check_target(model: keras.Model, path: str | Path, ending: str) -> Path:
    takes, gives = (getattr(model, name, None) for name in ("input_shape", "output_shape"))
    if takes != (None, *IMAGE_SHAPE) or gives != (None, CLASSES):
        raise ValueError(
            f"model: takes {takes} to {gives}, expected {(None, *IMAGE_SHAPE)} to "
            f"{(None, CLASSES)}."
        )
    if Path(path).suffix != ending:
        raise ValueError(f"{path}: expected a name ending in {ending}.")
    return Path(path)


def _write(model: keras.Model, path: Path, **how) -> Path:
    """Export beside `path`, then move there."""
    with replacing(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras' patch of tf2onnx for numpy 2
        model.export(str(partial), verbose=False, **how)
    return path


def representative_images(
    digits: data.DigitData, n: int = REPRESENTATIVE, seed: int = 0
) -> np.ndarray:
    """`n` images float32 (n, 28, 28, 1) of the fitting part, each digit with its share."""
    fit = data.split_fit_select_held(digits.y_train)[0]
    _, rows = data.stratified_split(digits.y_train[fit], n / len(fit), seed)
    return data.scale_images(digits.x_train[fit[rows]])


def export_all(model: keras.Model, folder: Path, name: str, images: np.ndarray) -> list[Path]:
    """Writes `name`.onnx, .tflite, _float16.tflite and _int8.tflite in `folder`, and returns their
    paths; `images`, float32 (n, 28, 28, 1) in [0, 1], are those for int8. Raises what
    export_onnx and export_litert do; files written before that stay."""
    made = [export_onnx(model, folder / f"{name}.onnx")]
    for precision in PRECISIONS:
        ending = "" if precision == "float32" else f"_{precision}"
        path = folder / f"{name}{ending}.tflite"
        made.append(export_litert(model, path, precision, images))
    return made


def compare(
    source: str | Path,
    exported: Sequence[Path],
    images: np.ndarray,
    labels: np.ndarray,
    rounds: int = ROUNDS,
) -> list[dict]:
    """A row for `model.predict` and `model(x)` of the Keras file `source` and for each exported
    file: name, bytes, threads, n, errors, accuracy, agreement (share of images given the same
    answer as by model.predict), largest_difference of a probability from it, and the times that
    `latencies` finds.

    `images` float32 (n, 28, 28, 1) in [0, 1], labels (n,). Raises FileNotFoundError, or
    ValueError naming a file that is damaged or no model of digits.
    """
    reads = keras_readers(load_model(source)) | {path.name: open_model(path) for path in exported}
    sizes = {path.name: path.stat().st_size for path in exported}
    expected = reads["model.predict"](images)
    times = latencies(reads, images, rounds)
    rows = []
    for name, read in reads.items():
        found = read(images)
        scores = evaluation.evaluate(labels, found)
        rows.append(
            {
                "name": name,
                "bytes": sizes.get(name, Path(source).stat().st_size),
                "threads": 1 if name in sizes else os.cpu_count(),
                **{key: scores[key] for key in ("n", "errors", "accuracy")},
                "agreement": float(np.mean(found.argmax(axis=1) == expected.argmax(axis=1))),
                "largest_difference": float(np.abs(found - expected).max()),
                **times[name],
            }
        )
    return rows


def keras_readers(model: keras.Model) -> dict[str, Callable]:
    """Both ways to ask a Keras model, 500 images at a time: `model.predict`, and `model(x)`, which
    calls the network directly, without the machinery for batches. Each takes images float32
    (n, 28, 28, 1) in [0, 1] to probabilities float32 (n, 10)."""

    def call(images: np.ndarray) -> np.ndarray:
        parts = range(0, len(images), 500)
        return np.concatenate([model(images[i : i + 500], training=False) for i in parts])

    return {
        "model.predict": lambda images: model.predict(images, batch_size=500, verbose=0),
        "model(x)": call,
    }


def latencies(reads: dict[str, Callable], images: np.ndarray, rounds: int = ROUNDS) -> dict:
    """For each reader the time for one image: milliseconds (the median) and quartiles.

    In each round every reader has its turn, so that drift of the machine hits all alike; its
    first WARM calls are not timed. Raises ValueError for less than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: expected 1 or more.")
    seconds = {name: [] for name in reads}
    for _ in range(rounds):
        for name, read in reads.items():
            for call in range(WARM + TIMED):
                at = call % len(images)
                started = time.perf_counter()
                read(images[at : at + 1])
                if call >= WARM:
                    seconds[name].append(time.perf_counter() - started)
    found = {}
    for name, times in seconds.items():
        low, median, high = (1000 * float(q) for q in np.quantile(times, (0.25, 0.5, 0.75)))
        found[name] = {"milliseconds": median, "quartiles": [low, high]}
    return found


def export_model(
    path: str | Path, digits: data.DigitData, folder: Path = MODELS, rounds: int = ROUNDS
) -> dict:
    """Export the Keras file to `folder`, compare on the test images, and write exports.json:
    made_from, rows of `compare`, sha256 of each file, and the environment, which it returns.

    All files are made and compared elsewhere, then moved. Raises what load_model does, and
    ValueError where an exported file's accuracy is not Keras' within LARGEST_LOSS; then the
    folder is as it was.
    """
    path, folder = Path(path), Path(folder)
    model = load_model(path)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as work:
        made = export_all(model, Path(work), path.stem, representative_images(digits))
        images = data.scale_images(digits.x_test)
        rows = compare(path, made, images, digits.y_test, rounds)
        _check_rows(rows)
        found = {
            "made_from": path.name,
            "data": digits.name,
            "representative_images": REPRESENTATIVE,
            "rows": rows,
            "sha256": {file.name: sha256(file) for file in (path, *made)},
            "environment": environment() | {name: version(name) for name in PACKAGES},
        }
        for file in made:
            os.replace(file, folder / file.name)
    write_json(folder / EXPORTS, found)
    return found


def _check_rows(rows: list[dict]) -> None:
    for row in rows:
        if not abs(row["accuracy"] - rows[0]["accuracy"]) <= LARGEST_LOSS:
            raise ValueError(
                f"{row['name']}: {row['accuracy']:.2%} right, Keras {rows[0]['accuracy']:.2%}: "
                "too far apart, so nothing is replaced."
            )


def table(rows: list[dict]) -> str:
    """The rows of `compare` as text, to print."""
    heads = f"{'bytes':>10}{'accuracy':>10}{'agree':>10}{'largest diff':>14}{'ms, 1 image':>13}"
    lines = [" " * 22 + heads]
    for row in rows:
        lines.append(
            f"{row['name']:22}{row['bytes']:>10,}{row['accuracy']:>10.2%}{row['agreement']:>10.2%}"
            f"{row['largest_difference']:>14.1e}{row['milliseconds']:>13.3f}"
        )
    return "\n".join(lines)


def main() -> int:
    names = sys.argv[1:]
    if len(names) > 1 or any(name.startswith("-") for name in names):
        print(__doc__)
        return 2
    try:
        path = names[0] if names else MODELS / "robust.keras"
        folder = results_dir("models") if names else MODELS
        found = export_model(path, data.load_mnist(), folder, ROUNDS)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(table(found["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
