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

ENDINGS = {"float32": "", "float16": "_float16", "int8": "_int8"}  # of LiteRT's file names
REPRESENTATIVE = 300  # training images that set the ranges of int8
PACKAGES = ("onnxruntime", "ai-edge-litert", "onnx", "tf2onnx")
LARGEST_LOSS = 0.001  # of accuracy, between Keras and an exported file
ROUNDS, WARM, TIMED = 30, 3, 10  # of timing; calls not timed and timed, per reader and round


def export_onnx(model: keras.Model, path: str | Path) -> Path:
    """Write a model as ONNX, float32 with a free batch size, whole or not at all."""
    return _write(model, path, ".onnx", format="onnx")


def export_litert(model: keras.Model, path, precision: str = "float32", images=None) -> Path:
    """Write a model for LiteRT (.tflite), whole or not at all.

    `precision`: "float32"; "float16", weights stored in half the size; "int8", all arithmetic in
    8-bit integers, whose ranges come from a few hundred `images`, float32 (n, 28, 28, 1) in
    [0, 1] (Jacob et al., "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", 2018). Input and output stay float32: integers there left
    the errors of three networks as they were, saved under 400 bytes, and cost 6 microseconds.
    """
    if precision not in ENDINGS:
        raise ValueError(f"precision={precision!r}: expected one of {', '.join(ENDINGS)}.")
    target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options = {} if precision == "float32" else {"optimizations": [tf.lite.Optimize.DEFAULT]}
    if precision == "float16":
        target["supported_types"] = [tf.float16]
    if precision == "int8":
        if images is None or len(images) == 0:
            raise ValueError("precision='int8' needs images: some hundred of the training images.")
        images = config.check_images(images)
        target["supported_ops"] = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        options["representative_dataset"] = lambda: ([image[np.newaxis]] for image in images)
    return _write(model, path, ".tflite", format="litert", target_spec=target, **options)


def _write(model: keras.Model, path: str | Path, ending: str, **options) -> Path:
    takes, gives = (getattr(model, side, None) or () for side in ("input_shape", "output_shape"))
    config.check_network(takes[1:], gives[1:])
    if Path(path).suffix != ending:
        raise ValueError(f"{path}: expected a name ending in {ending}.")
    model(np.zeros((1, *config.IMAGE_SHAPE), np.float32))  # Keras refuses a model never called
    with config.replacing(path) as partial_file, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras' patch of tf2onnx for numpy 2
        model.export(str(partial_file), verbose=False, **options)
    return Path(path)


def export_all(model: keras.Model, folder: Path, name: str, images: np.ndarray) -> list[Path]:
    """Write `name`.onnx and three .tflite files, of int8 by `images`; return their paths."""
    made = [export_onnx(model, folder / f"{name}.onnx")]
    for precision, ending in ENDINGS.items():
        made.append(export_litert(model, folder / f"{name}{ending}.tflite", precision, images))
    return made


def representative_images(digits: data.DigitData, n: int = REPRESENTATIVE, seed=0) -> np.ndarray:
    """Choose `n` training images for int8, float32 (n, 28, 28, 1), each digit with its share."""
    images, labels = digits.part("train")
    return images[data.stratified_split(labels, n / len(labels), seed)[1]]


def compare(source: str | Path, exported: Sequence[Path], images, labels, rounds=ROUNDS) -> list:
    """Score two ways to ask the Keras file `source`, and each exported file: a row each.

    Images float32 (n, 28, 28, 1) in [0, 1], labels (n,). `agreement` is the share of images
    answered as by model.predict, `largest_difference` that of a probability from its,
    `times_fastest` the time for one image as a multiple of the fastest row's.
    """
    predict = partial(load_model(source).predict, batch_size=500, verbose=0)
    paths = {path.name: path for path in exported}
    readers = {"model.predict": predict, "model(x)": open_model(source)}
    readers |= {name: open_model(path) for name, path in paths.items()}
    expected = predict(images)
    times, rows = latencies(readers, images, rounds), []
    fastest = min(time["milliseconds"] for time in times.values())
    for name, read in readers.items():
        answers = read(images)
        scores = evaluation.evaluate(labels, answers)
        size = paths.get(name, Path(source)).stat().st_size
        rows.append(
            {
                "name": name,
                "bytes": size,
                "kB": size / 1000,
                "threads": 1 if name in paths else os.cpu_count(),
                **{key: scores[key] for key in ("n", "errors", "accuracy")},
                "agreement": float(np.mean(answers.argmax(axis=1) == expected.argmax(axis=1))),
                "largest_difference": float(np.abs(answers - expected).max()),
                **times[name],
                "times_fastest": times[name]["milliseconds"] / fastest,
            }
        )
    return rows


def latencies(readers: dict[str, Callable], images: Sequence, rounds: int = ROUNDS) -> dict:
    """Time each reader on the first image, in turn, so that drift of the machine hits all."""
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: expected 1 or more.")
    seconds = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            times = timeit.repeat(partial(read, images[:1]), number=1, repeat=WARM + TIMED)
            seconds[name] += times[WARM:]
    measured = {}
    for name, times in seconds.items():
        low, median, high = (1000 * np.quantile(times, (0.25, 0.5, 0.75))).tolist()
        measured[name] = {"milliseconds": median, "quartiles": [low, high]}
    return measured


def export_model(path, digits: data.DigitData, folder: str | Path, rounds: int = ROUNDS) -> dict:
    """Export a Keras file to `folder`, compare on the test images, and write exports.json.

    Files are made and compared elsewhere; nothing is replaced where one is not as accurate as
    Keras within LARGEST_LOSS. exports.json is replaced first: after a kill in between, open_model
    refuses the files that are still old, and says to export again.
    """
    path, folder = Path(path), Path(folder)
    model, images = load_model(path), representative_images(digits)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as work:
        made = export_all(model, Path(work), path.stem, images)
        rows = compare(path, made, *digits.part("test"), rounds)
        for row in rows:
            if not abs(row["accuracy"] - rows[0]["accuracy"]) <= LARGEST_LOSS:
                raise ValueError(
                    f"{row['name']}: {row['accuracy']:.2%} right, Keras {rows[0]['accuracy']:.2%}: "
                    "too far apart, so nothing is replaced."
                )
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
        rows = export_model(path, data.load_mnist(), folder, ROUNDS)["rows"]
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    unseen = ["threads", "n", "errors", "quartiles", "kB", "times_fastest"]
    print(pd.DataFrame(rows).drop(columns=unseen).to_string(index=False))


if __name__ == "__main__":
    main()
