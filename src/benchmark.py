"""Many runs of recipes: one small JSON per run under models/benchmarks/, resumable run by run.

python -m src.benchmark [RECIPE ...]    all seeds of the plan that have no result yet
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from src import data, evaluation, models, training
from src.config import ROOT, environment, write_json
from src.recipes import RECIPES, get_recipe

FOLDER = ROOT / "models" / "benchmarks"
SEEDS = {name: 5 for name in RECIPES} | {"sprint": 20, "fast": 10}
NEEDED = ("recipe", "seed", "epochs", "parameters", "multiply_adds", "validation", "test")


class KeepWeights(keras.callbacks.Callback):
    """Remembers the weights after each epoch, so that they can be scored when all is done."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.weights = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.weights.append(self.model.get_weights())


def through_kaggle_csv(digits: data.DigitData, rows: np.ndarray, path: Path):
    """Training images and labels written as Kaggle's CSV and read back from it."""
    if not path.exists():
        names = [f"pixel{i}" for i in range(data.PIXELS)]
        table = pd.DataFrame(digits.x_train[rows].reshape(len(rows), -1), columns=names)
        table.insert(0, "label", digits.y_train[rows])
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
    return data.load_kaggle_csv(path)


def score(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict:
    """n, errors, accuracy and loss on uint8 images."""
    probabilities = model.predict(data.scale_images(images), batch_size=500, verbose=0)
    found = evaluation.evaluate(labels, probabilities)
    return {name: found[name] for name in ("n", "errors", "accuracy", "loss")}


def run_one(name: str, seed: int, digits: data.DigitData) -> dict:
    """Train a recipe with a seed and score it: on its validation images, on the images held
    back unless it trained on some of them, and at the end, once, on the test images."""
    recipe = get_recipe(name)
    images, labels = digits.x_train, digits.y_train
    if name == "kaggle_conv" and recipe["images"] < len(labels):
        _, rows = data.stratified_split(labels, recipe["images"] / len(labels))
        images, labels = through_kaggle_csv(digits, rows, ROOT / "build/kaggle/train.csv")
    keep = KeepWeights()
    trained = training.train(recipe, images, labels, seed, (keep,))
    result = {
        "recipe": name,
        "seed": seed,
        "data": digits.name,
        "epochs": len(keep.weights),
        "images": len(trained.fit_rows),
        "parameters": trained.model.count_params(),
        "multiply_adds": models.multiply_adds(trained.model),
        "validation": score(trained.model, images[trained.val_rows], labels[trained.val_rows]),
    }
    if recipe["validation"] == "select":
        held = data.split_fit_select_held(labels)[2]
        result["held_back"] = score(trained.model, images[held], labels[held])
    result["test"] = score(trained.model, digits.x_test, digits.y_test)
    if len(keep.weights) > 2:  # for contrast only: what choosing the epoch on test would give
        result["peak_test_accuracy"] = peak(trained.model, keep.weights, digits)
    return result | {"environment": environment()}


def peak(model: keras.Model, weights: list, digits: data.DigitData) -> float:
    """The best test accuracy over epochs, from weights stored while training."""
    best = 0.0
    for values in weights:
        model.set_weights(values)
        best = max(best, score(model, digits.x_test, digits.y_test)["accuracy"])
    return best


def read_result(path: Path) -> dict:
    """One run's JSON. Raises ValueError naming a file that is damaged or incomplete."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in NEEDED if key not in result]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name}: damaged ({error}).") from error
    if missing:
        raise ValueError(f"{path.name}: incomplete, without {', '.join(missing)}.")
    return result


def run_plan(names: list[str], digits: data.DigitData, folder: Path = FOLDER) -> None:
    """Run what has no whole result yet, the first seed of all recipes before the second."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = [(seed, name) for name in names for seed in range(SEEDS[name])]
    for seed, name in sorted(plan, key=lambda pair: pair[0]):
        path = folder / f"{name}-{seed}.json"
        if path.exists():
            try:
                read_result(path)
                continue
            except ValueError as error:
                print(f"{error} It is run again.", flush=True)
        result = run_one(name, seed, digits)
        write_json(path, result)
        print(f"{path.name}: validation {result['validation']['accuracy']:.2%}", flush=True)


def main() -> int:
    names = sys.argv[1:] or list(RECIPES)
    try:
        for name in names:
            get_recipe(name)
        run_plan(names, data.load_mnist())
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
