"""The reader's own training runs, kept as a table: a JSON file per run, so that none is lost."""

import os
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path

import keras
import pandas as pd

from src import training
from src.config import read_json, results_dir, write_json
from src.data import DigitData
from src.recipes import Recipe

SCORED = 5000  # training images that the training accuracy is measured on


def folder(digits: DigitData) -> Path:
    """Name the folder of the runs: the environment variable MNIST_RUNS_DIR, or in build/."""
    base = os.environ.get("MNIST_RUNS_DIR") or results_dir("runs")
    return Path(base) / digits.name


def train(digits: DigitData, knobs: dict, repeat: int = 1, callbacks=()) -> None:
    """Train with these knobs, once for each seed from 0 on, and keep each run.

    `knobs`: arguments of build_cnn (filters, dropout, ...), learning_rate, and fields of a
    recipe (batch_size, epochs, augmentation, images).
    """
    recipe = make_recipe(knobs)
    for seed in range(repeat):
        keras.utils.clear_session()
        trained = training.train(recipe, digits, seed, callbacks)
        keep(digits, knobs, trained.model, trained.seconds, seed)


def make_recipe(knobs: dict) -> Recipe:
    """Sort knobs into a recipe: its own fields, the optimizer's, the rest the network's."""
    own = {name for name in Recipe.__dataclass_fields__ if name not in ("network", "optimizer")}
    fields = {k: v for k, v in knobs.items() if k in own}
    others = {k: v for k, v in knobs.items() if k not in own}
    rate = {"learning_rate": others.pop("learning_rate", 0.001)}
    return Recipe(validation="split", network=others, optimizer=rate, **fields)


def keep(digits: DigitData, knobs: dict | str, model: keras.Model, seconds: float, seed=0) -> None:
    """Score a trained network on both sets, and keep the run; `knobs` may be just its name."""
    scores = {}
    for part in ("train", "validation"):
        images, labels = digits.part(part)
        scores[part] = training.score(model, images[:SCORED], labels[:SCORED])["accuracy"]
    now = datetime.now(UTC)
    run = {
        "knobs": knobs,
        "seed": seed,
        "parameters": model.count_params(),
        "seconds": seconds,
        "training": scores["train"],
        "validation": scores["validation"],
    }
    write_json(folder(digits) / f"{now:%Y%m%d-%H%M%S-%f}-{uuid.uuid4().hex[:6]}.json", run)
    print(f"seed {seed}: validation {scores['validation']:.2%} after {seconds:.1f} s", flush=True)


def read(digits: DigitData) -> pd.DataFrame:
    """Read the table of runs, oldest first; the first one is the base, others name what differs.

    A damaged file is named and left out.
    """
    rows, base = [], None
    for path in sorted(folder(digits).glob("[0-9]*.json")):
        try:
            run = read_json(path, ("knobs", "seed", "parameters", "seconds", "validation"))
        except ValueError as error:
            print(f"Left out: {error} Delete it in {path.parent.name}.")
            continue
        base = base or run["knobs"]
        rows.append({"run": name(run["knobs"], base)} | run)
    columns = ["run", "seed", "parameters", "seconds", "training", "validation"]
    return pd.DataFrame(rows, columns=columns)


def name(knobs: dict | str, base: dict | str) -> str:
    """Name a run by the knobs that differ from the base's."""
    if isinstance(knobs, str) or isinstance(base, str):
        return str(knobs)
    changed = [f"{k}={v}" for k, v in knobs.items() if base.get(k) != v]
    return ", ".join(changed) or "base"


def delete(digits: DigitData) -> None:
    """Delete all runs on this data, to begin a new table."""
    shutil.rmtree(folder(digits), ignore_errors=True)
