"""Export a Keras model as ONNX and LiteRT: python -m src.reading.export MODEL.keras."""

import argparse
import os
import sys
import tempfile
import timeit
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from src import config, data, evaluation
from src.models import load_model
from src.reading.inference import EXPORTS, open_model, sha256

FILES = {  # what follows a model's name in each file's, and the precision of the file
    ".onnx": "float32", ".tflite": "float32", "_float16.tflite": "float16", "_int8.tflite": "int8"
}  # fmt: skip
REPRESENTATIVE = 300  # training images that set the ranges of int8, each digit with its share
PACKAGES = ("onnxruntime", "ai-edge-litert", "onnx", "tf2onnx")
LARGEST_LOSS = 0.001  # of accuracy, between Keras and an exported file
ROUNDS, WARM, TIMED = 30, 3, 10  # of timing; calls not timed and timed, per reader and round


def convert(model: keras.Model, path, precision: str = "float32", images=None) -> Path:
    """Write a model as ONNX or for LiteRT, as `path` ends in .onnx or .tflite, or not at all.

    `precision`, of LiteRT: "float32"; "float16", weights stored in half the size; "int8", all
    arithmetic in 8-bit integers, whose ranges come from a few hundred `images`, float32
    (n, 28, 28, 1) in [0, 1] (Jacob et al., "Quantization and training of neural networks for
    efficient integer-arithmetic-only inference", 2018). Input and output stay float32: integers
    there left the errors of three networks as they were, saved under 400 bytes and cost 6 µs.
    """
    path = Path(path)
    if path.suffix not in (".onnx", ".tflite"):
        raise ValueError(f"{path}: expected a name ending in .onnx or .tflite.")
    known = ("float32",) if path.suffix == ".onnx" else ("float32", "float16", "int8")
    if precision not in known:
        raise ValueError(f"precision={precision!r}: expected one of {', '.join(known)}.")
    takes, gives = (getattr(model, side, None) or () for side in ("input_shape", "output_shape"))
    config.check_network(takes[1:], gives[1:])
    target, options = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}, {"format": "onnx"}
    if path.suffix == ".tflite":
        options = {"format": "litert", "target_spec": target}
    if precision != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        target["supported_types"] = [tf.float16]
    if precision == "int8":
        if images is None or len(images) == 0:
            raise ValueError("precision='int8' needs images: some hundred of the training images.")
        images = config.check_images(images)
        target["supported_ops"] = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        options["representative_dataset"] = lambda: ([image[np.newaxis]] for image in images)
    model(np.zeros((1, *config.IMAGE_SHAPE), np.float32))  # Keras refuses a model never called
    with config.replacing(path) as partial_file, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras' patch of tf2onnx for numpy 2
        model.export(str(partial_file), verbose=False, **options)
    return path


def compare(source: str | Path, exported: Sequence[Path], images, labels) -> list[dict]:
    """Score two ways to ask the Keras file `source`, and each exported file: a row each.

    `agreement` is the share of images answered as by model.predict, `largest_difference` that of
    a probability from its. Images: float32 (n, 28, 28, 1) in [0, 1].
    """
    predict = partial(load_model(source).predict, batch_size=500, verbose=0)
    paths = {"model.predict": Path(source), "model(x)": Path(source)}
    paths |= {path.name: path for path in exported}
    readers = {name: open_model(path) for name, path in paths.items()} | {"model.predict": predict}
    expected, times, rows = predict(images), latencies(readers, images[:1]), []
    for name, path in paths.items():
        answers = readers[name](images)
        scores = evaluation.evaluate(labels, answers)
        size, (low, median, high) = path.stat().st_size, times[name]
        row = {"name": name, "bytes": size, "kB": size / 1000}
        row["threads"] = os.cpu_count() if path == Path(source) else 1
        row |= {key: scores[key] for key in ("n", "errors", "accuracy")}
        row["agreement"] = float(np.mean(answers.argmax(axis=1) == expected.argmax(axis=1)))
        row["largest_difference"] = float(np.abs(answers - expected).max())
        row |= {"milliseconds": median, "quartiles": [low, high]}
        row["times_fastest"] = median / min(middle for _, middle, _ in times.values())
        rows.append(row)
    return rows


def latencies(readers: dict[str, Callable], image: np.ndarray) -> dict[str, list[float]]:
    """Measure the quartiles of milliseconds for an image, in turn: the machine's drift hits all."""
    seconds = {name: [] for name in readers}
    for _ in range(ROUNDS):
        for name, read in readers.items():
            times = timeit.repeat(partial(read, image), number=1, repeat=WARM + TIMED)
            seconds[name] += times[WARM:]
    quartiles = (0.25, 0.5, 0.75)
    return {name: (1000 * np.quantile(t, quartiles)).tolist() for name, t in seconds.items()}


def export_model(path, digits: data.DigitData, folder: str | Path) -> dict:
    """Export a Keras file to `folder`, compare on the test images, and write exports.json.

    Nothing is replaced where a file is not as accurate as Keras within LARGEST_LOSS. exports.json
    is replaced first: after a kill, open_model refuses the files that are still old.
    """
    path, folder, model = Path(path), Path(folder), load_model(path)
    images, labels = digits.part("train")
    images = images[data.stratified_split(labels, REPRESENTATIVE / len(labels), seed=0)[1]]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as work:
        files = {Path(work, path.stem + ending): kind for ending, kind in FILES.items()}
        made = [convert(model, file, kind, images) for file, kind in files.items()]
        rows = compare(path, made, *digits.part("test"))
        right = rows[0]["accuracy"]
        for row in rows:
            if not abs(row["accuracy"] - right) <= LARGEST_LOSS:
                apart = f"{row['name']}: {row['accuracy']:.2%} right, Keras {right:.2%}"
                raise ValueError(f"{apart}: too far apart, so nothing is replaced.")
        listing = {
            "made_from": path.name,
            "data": digits.name,
            "representative_images": len(images),
            "rows": rows,
            "sha256": {file.name: sha256(file) for file in (path, *made)},
            "environment": config.environment() | {name: version(name) for name in PACKAGES},
        }
        config.write_json(folder / EXPORTS, listing)
        for file in made:
            file.replace(folder / file.name)
    return listing


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.reading.export", description=__doc__)
    parser.add_argument("model", metavar="MODEL.keras", help="exported to build/models/")
    try:
        path, folder = parser.parse_args().model, config.results_dir("models")
        rows = export_model(path, data.load_mnist(), folder)["rows"]
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    shown = ["name", "bytes", "accuracy", "agreement", "largest_difference", "milliseconds"]
    print(pd.DataFrame(rows)[shown].to_string(index=False))


if __name__ == "__main__":
    main()
