"""What training needs beside Keras: whole checkpoints, live progress, histories as JSON."""

import os
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from IPython import get_ipython
from IPython.display import display

from src import data, evaluation, models
from src.config import environment, write_json


class AtomicCheckpoint(keras.callbacks.ModelCheckpoint):
    """Keras' ModelCheckpoint for the best epoch, each file written whole or not at all.

    The model is saved beside `path` and moved there once complete: a run killed in
    mid-save leaves the checkpoint before it loadable.
    """

    def __init__(self, path: str | Path, monitor: str = "val_loss", **kwargs):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial = self.path.with_name(f"partial-{self.path.name}")
        self.partial.unlink(missing_ok=True)
        super().__init__(self.partial, monitor=monitor, save_best_only=True, **kwargs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.partial.unlink(missing_ok=True)  # left by a save that failed
        super().on_epoch_end(epoch, logs)
        if self.partial.exists():
            os.replace(self.partial, self.path)


class LiveProgress(keras.callbacks.Callback):
    """A table with a row per epoch, redrawn in place about once a second.

    A saved notebook keeps its last state only, as plain text that GitHub shows. Use it with
    `fit(..., verbose=0)`. Outside a notebook each epoch's row is printed.
    """

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.rows, self.handle, self.drawn = [], None, 0.0
        self.started = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.epoch, self.epoch_started = epoch, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if time.perf_counter() - self.drawn > 1:
            steps = self.params.get("steps") or "?"
            self._draw(f"epoch {self.epoch + 1}: batch {batch + 1} of {steps}")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        seconds = time.perf_counter() - self.epoch_started
        self.rows.append({"epoch": epoch + 1, "seconds": seconds, **(logs or {})})
        self._draw("")

    def on_train_end(self, logs: dict | None = None) -> None:
        total = time.perf_counter() - self.started
        self._draw(f"{len(self.rows)} of {self.params['epochs']} epochs in {total:.0f} s")

    def _draw(self, last_line: str) -> None:
        self.drawn = time.perf_counter()
        lines = _table(self.rows)
        text = "\n".join([*lines, last_line]).strip("\n")
        if not _in_notebook():
            if last_line == "" and self.rows:
                print("\n".join(lines if len(self.rows) == 1 else lines[-1:]))
        elif self.handle is None:
            self.handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self.handle.update({"text/plain": text}, raw=True)


def _in_notebook() -> bool:
    return getattr(get_ipython(), "kernel", None) is not None


def _table(rows: list[dict]) -> list[str]:
    """Rows of numbers as aligned lines of text under their names."""
    formats = {"epoch": "d", "seconds": ".1f", "learning_rate": ".2g"}
    names = list(dict.fromkeys(name for row in rows for name in row))
    widths = {name: max(len(name), 7) for name in names}
    lines = ["  ".join(f"{name:>{widths[name]}}" for name in names)]
    for row in rows:
        cells = (format(row[n], formats.get(n, ".4f")) if n in row else "" for n in names)
        lines.append("  ".join(f"{c:>{widths[n]}}" for c, n in zip(cells, names, strict=True)))
    return lines


def save_history(path: str | Path, history: keras.callbacks.History, **settings) -> Path:
    """A fit's history as JSON: `epochs` (lists per metric), `settings`, `environment`."""
    epochs = {name: [float(v) for v in values] for name, values in history.history.items()}
    return write_json(path, {"settings": settings, "epochs": epochs, "environment": environment()})


class Trained(NamedTuple):
    """What `train` returns; `fit_rows`, `val_rows`: which training images were used for what."""

    model: keras.Model
    history: dict[str, list[float]]
    seconds: float
    fit_rows: np.ndarray
    val_rows: np.ndarray


def make_optimizer(recipe: dict, steps: int) -> keras.optimizers.Optimizer:
    """Adam as the recipe has it, for a run of `steps` batches.

    The one-cycle schedule warms up linearly over the first quarter and falls to zero along a
    cosine: Smith and Topin, "Super-Convergence" (2018), with the cosine of Loshchilov and
    Hutter, "SGDR" (2017).
    """
    settings = dict(recipe["optimizer"])
    if recipe["schedule"] == "one_cycle":
        warm, peak = max(1, steps // 4), settings["learning_rate"]
        settings["learning_rate"] = keras.optimizers.schedules.CosineDecay(
            peak / 25, max(1, steps - warm), warmup_target=peak, warmup_steps=warm
        )
    if recipe["weight_average"]:
        settings |= {"use_ema": True, "ema_momentum": recipe["weight_average"]}
    return keras.optimizers.Adam(**settings)


def make_loss(recipe: dict) -> keras.losses.Loss:
    """The recipe's cross-entropy, for integer or one-hot labels."""
    if recipe["loss"] == "categorical_crossentropy":
        return keras.losses.CategoricalCrossentropy(label_smoothing=recipe["label_smoothing"])
    return keras.losses.SparseCategoricalCrossentropy()


def make_callbacks(recipe: dict) -> list[keras.callbacks.Callback]:
    """EarlyStopping and ReduceLROnPlateau where the recipe has them; both watch val_loss."""
    callbacks = []
    if recipe["early_stopping"]:
        callbacks.append(keras.callbacks.EarlyStopping(**recipe["early_stopping"]))
    if recipe["reduce_lr"]:
        callbacks.append(keras.callbacks.ReduceLROnPlateau(**recipe["reduce_lr"]))
    return callbacks


def split_rows(recipe: dict, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and rows for validation: the project's split, or a share drawn by `seed`."""
    if recipe["validation"] in ("select", "held_back"):
        fit, select, held = data.split_fit_select_held(labels)
        if recipe["validation"] == "select":
            return fit, select
        return np.sort(np.concatenate([fit, select])), held
    rows = np.arange(len(labels))
    if recipe["images"] and recipe["images"] < len(labels):
        _, rows = data.stratified_split(labels, recipe["images"] / len(labels), seed=0)
    fit, val = data.stratified_split(labels[rows], recipe["validation"], seed)
    return rows[fit], rows[val]


def train(
    recipe: dict,
    images: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> Trained:
    """Train a recipe on uint8 images (n, 28, 28) and labels (n,), the same for the same seed.

    The validation images are scored after each epoch where the recipe draws a share of its
    own for that, or a callback needs it. `seconds` is the wall clock of training, from building
    the network to its last step, tracing included.
    """
    fit, val = split_rows(recipe, labels, seed)
    encode = data.one_hot if recipe["loss"] == "categorical_crossentropy" else np.asarray
    x, y = data.scale_images(images), encode(labels)
    needed = make_callbacks(recipe)
    watch = bool(needed) or recipe["validation"] not in ("select", "held_back")
    started = time.perf_counter()
    keras.utils.set_random_seed(seed)
    batches = data.make_dataset(
        x[fit], y[fit], recipe["batch_size"], True, seed, recipe["augmentation"]
    )
    model = models.build(recipe["network"])
    optimizer = make_optimizer(recipe, len(batches) * recipe["epochs"])
    model.compile(optimizer, make_loss(recipe), metrics=["accuracy"])
    history = model.fit(
        batches,
        validation_data=data.make_dataset(x[val], y[val], 500) if watch else None,
        epochs=recipe["epochs"],
        callbacks=[*needed, *callbacks],
        shuffle=False,
        verbose=0,
    )
    seconds = time.perf_counter() - started
    return Trained(model, history.history, seconds, fit, val)


def score(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict:
    """n, errors, accuracy and loss on uint8 images (n, 28, 28)."""
    probabilities = model.predict(data.scale_images(images), batch_size=500, verbose=0)
    found = evaluation.evaluate(labels, probabilities)
    return {name: found[name] for name in ("n", "errors", "accuracy", "loss")}
