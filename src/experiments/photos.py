"""How pictures are read: synthetic photos, corrupted images, and what is no digit at all."""

from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from src import disturb, evaluation
from src.config import CLASSES, IMAGE_SHAPE, ROOT, environment
from src.data import DigitData
from src.experiments.store import Job
from src.reading import digits as reading
from src.reading import synthetic
from src.reading.inference import open_model
from src.reading.picture import NoDigitError, read_picture, resize

MODELS = ROOT / "models"
PREPARED = {  # way: (what prepares the picture, the network's file)
    "resized": (reading.squeeze, "champion.keras"),
    "boxed": (reading.box_and_centre, "champion.keras"),
    "prepared + champion": (reading.prepare, "champion.keras"),
    "prepared + robust": (reading.prepare, "robust.onnx"),
}
SURE = 0.9  # a wrong answer above this confidence is counted apart
BY_KIND, PHOTOS, SCRIBBLES = 500, 2000, 500  # of each kind; of all kinds together; scribbles
SCENES = 1_000_000  # seed of the first photo's scene: `calibrate` drew others, from 0


def job(needs: tuple[Job, ...], folder: Path = MODELS) -> Job:
    """Describe models/photos.json; `needs`: the results of champion and of the exports."""
    settings = {
        "ways": {way: model for way, (_, model) in PREPARED.items()},
        "pictures": {"by_kind": BY_KIND, "all_together": PHOTOS, "scribbles": SCRIBBLES},
        "strengths": synthetic.KINDS | {"all together": synthetic.PHOTO},
        "scenes_from": SCENES,
    }
    path = folder / "photos.json"
    return Job(path, settings, measure, needs, command="make photos")


def measure(digits: DigitData, path: Path) -> dict:
    """Measure the ways of PREPARED, with the networks beside `path`, on all kinds of pictures.

    Synthetic photos of test images, at all strengths together and with one kind of disturbance
    at a time, on the same digits; the same 28x28 images corrupted in twelve ways; and the share
    of letters and scribbles that are answered with a confidence above 0.9.
    """
    images, labels = digits.part("test")
    rows = np.random.default_rng(0).permutation(len(images))[:PHOTOS]
    images, labels = images[rows], labels[rows]
    readers = {name: open_model(path.parent / name) for name in ("champion.keras", "robust.onnx")}
    kinds, compared = _by_kind(images[..., 0], labels, readers)
    corrupted = _by_corruption(images, labels, readers)
    return {
        "photos": kinds,
        "robust_against_champion": compared,
        "corrupted_images": len(images),
        "corrupted": corrupted,
        "corrupted_mean": pd.DataFrame(corrupted).drop(columns="none").mean(axis=1).to_dict(),
        "no_digit": _without_digit(readers),
        "environment": environment(),
    }


def prepare_all(pictures: Iterable, prepare: Callable) -> tuple[np.ndarray, list[int]]:
    """Prepare pictures as float32 (n, 28, 28, 1); name those refused, which are empty."""
    pixels, refused = [], []
    for i, picture in enumerate(pictures):
        try:
            pixels.append(prepare(picture))
        except NoDigitError:
            pixels.append(np.zeros(IMAGE_SHAPE[:2], np.float32))
            refused.append(i)
    return np.stack(pixels)[..., np.newaxis], refused


def own_picture(path: str, image: np.ndarray) -> np.ndarray:
    """Open a picture by its path from the project's folder; without one, photograph `image`."""
    if path:
        return resize(read_picture(ROOT / Path(path).expanduser()).colour, 480)
    scene = {"gradient": 0.4, "shadow": 0.5, "size": (0.5, 0.6), "pen": (0.015, 0.02)}
    return synthetic.photograph(image, 2, **scene)


def read_photos(pictures: Iterable, labels: np.ndarray, prepare: Callable, read: Callable) -> dict:
    """Read pictures in one way: a table row, and which were read `right` (n,).

    The row: accuracy with its 95% interval, shares both wrong and above 0.9 confidence, and
    refused (these count as wrong).
    """
    pixels, refused = prepare_all(pictures, prepare)
    probabilities = np.asarray(read(pixels))
    answers, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    labels, sure = labels[: len(pixels)], confidence > SURE
    right = answers == labels
    right[refused] = sure[refused] = False
    row = {
        "n": len(right),
        "accuracy": float(right.mean()),
        "interval": evaluation.accuracy_interval(int(right.sum()), len(right)),
        "wrong_and_sure": float((sure & ~right).mean()),
        "refused": len(refused) / len(right),
    }
    return {"row": row, "right": right}


def _by_kind(images: np.ndarray, labels: np.ndarray, readers: dict) -> tuple[dict, dict]:
    """Read photos of each kind in each way; compare robust (a) with champion on all together."""
    found, compared = {}, {}
    for kind, strengths in {"all together": {}, **synthetic.KINDS}.items():
        shown = images[: BY_KIND if strengths else PHOTOS]
        pictures = [synthetic.photograph(x, SCENES + i, **strengths) for i, x in enumerate(shown)]
        answers = {
            way: read_photos(pictures, labels, prepare, readers[model])
            for way, (prepare, model) in PREPARED.items()
        }
        found[kind] = {way: answer["row"] for way, answer in answers.items()}
        if not strengths:
            robust, champion = (answers[f"prepared + {name}"] for name in ("robust", "champion"))
            compared = evaluation.mcnemar(robust["right"], champion["right"])
        print(kind, {way: row["accuracy"] for way, row in found[kind].items()}, flush=True)
    return found, compared


def _by_corruption(images: np.ndarray, labels: np.ndarray, readers: dict) -> dict:
    """Read images (n, 28, 28, 1) corrupted in each way: way -> network -> accuracy."""
    found = {}
    for kind, corrupt in {"none": lambda images, rng: images, **disturb.CORRUPTIONS}.items():
        corrupted = np.clip(corrupt(images, np.random.default_rng(0)), 0, 1).astype(np.float32)
        found[kind] = {
            model: float((read(corrupted).argmax(axis=1) == labels).mean())
            for model, read in readers.items()
        }
    return found


def _without_digit(readers: dict) -> dict:
    """Read letters and scribbles: n and the share answered above 0.9 confidence, per network."""
    found = {}
    shown = {"letters": synthetic.letters(), "scribbles": synthetic.scribbles(SCRIBBLES)}
    for kind, pictures in shown.items():
        nothing, found[kind] = np.full(len(pictures), CLASSES), {}  # no digit is right
        for way in ("prepared + champion", "prepared + robust"):
            prepare, model = PREPARED[way]
            row = read_photos(pictures, nothing, prepare, readers[model])["row"]
            found[kind][way] = {key: row[key] for key in ("n", "wrong_and_sure")}
    return found


def calibrate(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict:
    """Divide the model's logits by the temperature that suits pictures unlike MNIST's.

    `images`: scaled (n, 28, 28, 1), of which the first 1,000 become synthetic photos, are
    corrupted, and, one picture in 20, give way to scribbles, whose labels are drawn at random,
    as no answer to them is right. The last layer's weights are divided, so that every export is
    calibrated as well. Returns the temperature, and how the digits were read.
    """
    images, labels = images[: synthetic.CALIBRATED], labels[: synthetic.CALIBRATED]
    photos = [synthetic.photograph(image, i) for i, image in enumerate(images)]
    parts, true = [prepare_all(photos, reading.prepare)[0]], [labels]
    ways = list(disturb.CORRUPTIONS.values())
    for i, corrupt in enumerate(ways):  # each image in one of the ways
        parts.append(corrupt(images[i :: len(ways)], np.random.default_rng(i)))
        true.append(labels[i :: len(ways)])
    pixels = np.clip(np.concatenate(parts), 0, 1).astype(np.float32)
    true, probabilities = np.concatenate(true), model.predict(pixels, batch_size=500, verbose=0)
    curves = synthetic.scribbles(max(1, len(true) // 20), seed=1)
    unread = model.predict(prepare_all(curves, reading.prepare)[0], verbose=0)
    chance = np.random.default_rng(0).integers(0, CLASSES, len(curves))
    temperature = evaluation.fit_temperature(
        np.concatenate([true, chance]), np.concatenate([probabilities, unread])
    )
    output = model.layers[-1]
    output.set_weights([weights / temperature for weights in output.get_weights()])
    right = probabilities.argmax(axis=1) == true
    read = {"photos": right[: len(images)].mean(), "corrupted": right[len(images) :].mean()}
    shares = {kind: float(share) for kind, share in read.items()}
    return {"temperature": temperature, "calibrated_on": {"n": len(images), "accuracy": shares}}
