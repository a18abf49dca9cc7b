"""What training needs beside Keras: recipes compiled and fitted, whole checkpoints, progress."""

import inspect
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import display

from src import data, evaluation, models
from src.config import check_arguments, check_pairs, environment, write_json
from src.recipes import Recipe


class LiveProgress(keras.callbacks.Callback):
    """Show a table of the epochs, redrawn about once a second; outside a notebook, print its rows.

    A saved notebook keeps the last state as plain text. Use it with `fit(..., verbose=0)`, first
    of the callbacks. With `images` and `labels` of the training set, they are scored after each
    epoch by `evaluate`, as train_accuracy and train_loss. `seconds` are those of the last fit.
    """

    def __init__(self, images=None, labels=None):
        super().__init__()
        if images is not None:
            check_pairs(images, labels)
        self.images, self.labels, self.seconds = images, labels, 0.0

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.rows, self.handle, self.drawn, self.started = [], None, 0.0, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if time.perf_counter() - self.drawn > 1:
            self._draw(f"epoch {len(self.rows) + 1}: batch {batch + 1} of {self.params['steps']}")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.images is not None and logs:
            data = {"x": self.images, "y": self.labels, "batch_size": 500}
            scored = self.model.evaluate(**data, verbose=0, return_dict=True)
            logs |= {f"train_{name}": value for name, value in scored.items()}
        earlier = sum(row["seconds"] for row in self.rows)
        seconds = time.perf_counter() - self.started - earlier
        self.rows.append({"epoch": epoch + 1, "seconds": seconds, **(logs or {})})
        self._draw()
        if not np.isfinite(list(self.rows[-1].values())).all():
            self.model.stop_training = True
            print(f"Not finite in epoch {epoch + 1}, it diverged: lower the learning rate.")

    def on_train_end(self, logs: dict | None = None) -> None:
        self.seconds = time.perf_counter() - self.started
        self._draw(f"{len(self.rows)} of {self.params['epochs']} epochs in {self.seconds:.0f} s")

    def _draw(self, last_line: str = "") -> None:
        self.drawn = time.perf_counter()
        kinds = {"epoch": "{:d}", "seconds": "{:.1f}", "learning_rate": "{:.2g}"}
        columns = {name: kinds.get(name, "{:.4f}").format for row in self.rows for name in row}
        table = pd.DataFrame(self.rows).to_string(index=False, formatters=columns)
        lines = table.splitlines() if self.rows else []
        text = {"text/plain": "\n".join([*lines, last_line]).strip("\n")}
        if getattr(get_ipython(), "kernel", None) is None:  # not in a notebook
            if self.rows and not last_line:
                print("\n".join(lines if len(self.rows) == 1 else lines[-1:]))
        elif self.handle is None:
            self.handle = display(text, raw=True, display_id=True)
        else:
            self.handle.update(text, raw=True)


def save_history(path: str | Path, history: keras.callbacks.History, **settings) -> Path:
    """Write a fit's history as JSON: `epochs` (lists per metric), `settings`, `environment`."""
    epochs = {name: [float(v) for v in values] for name, values in history.history.items()}
    return write_json(path, {"settings": settings, "epochs": epochs, "environment": environment()})


class Trained(NamedTuple):
    """What `train` returns; the rows say which training images were used for what."""

    model: keras.Model
    history: dict[str, list[float]]
    seconds: float  # wall clock, from building the network to its last step
    train_rows: np.ndarray
    val_rows: np.ndarray


def train(recipe: Recipe, digits: data.DigitData, seed=0, callbacks=(), start=None) -> Trained:
    """Train a recipe on the training images, from weights `start`; same seed, same network.

    Validation images are scored after each epoch where the recipe keeps a share of its own, or
    a callback watches them.
    """
    _check_arguments(recipe)
    callbacks = list(callbacks)
    if recipe.early_stopping:
        callbacks.append(keras.callbacks.EarlyStopping(**recipe.early_stopping))
    if recipe.reduce_lr:
        callbacks.append(keras.callbacks.ReduceLROnPlateau(**recipe.reduce_lr))
    watched = [str(getattr(callback, "monitor", "")) for callback in callbacks]
    rows, val_rows = split_rows(recipe, digits, seed)
    labels, validation = digits.y_train, None
    if recipe.loss == "categorical_crossentropy":
        labels = data.one_hot(labels)
    if isinstance(recipe.validation, float) or any(name.startswith("val") for name in watched):
        images = data.scale_images(digits.x_train[val_rows])
        validation = data.make_dataset(images, labels[val_rows], 500)
    x, y = data.scale_images(digits.x_train[rows]), labels[rows]
    started = time.perf_counter()
    keras.utils.set_random_seed(int(seed))
    batches = data.make_dataset(x, y, recipe.batch_size, True, seed, recipe.augmentation)
    model = models.build(recipe.network)
    compile_model(model, recipe, len(batches) * recipe.epochs)
    if start is not None:
        model.set_weights(start)
    history = model.fit(batches, validation_data=validation, epochs=recipe.epochs,
                        callbacks=callbacks, shuffle=False, verbose=0)  # fmt: skip
    seconds = time.perf_counter() - started
    return Trained(model, history.history, seconds, rows, val_rows)


def _check_arguments(recipe: Recipe) -> None:
    """ValueError naming an argument that a network, an optimizer or a callback does not take."""
    network = models.build_resnet if "blocks" in recipe.network else models.build_cnn
    takes = {"network": network, "optimizer": keras.optimizers.Adam}
    takes["early_stopping"] = keras.callbacks.EarlyStopping
    takes["reduce_lr"] = keras.callbacks.ReduceLROnPlateau
    for name, function in takes.items():
        check_arguments(name, getattr(recipe, name), inspect.signature(function).parameters)


def split_rows(recipe: Recipe, digits: data.DigitData, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose the rows to train on and those to validate on: of the one split, or by a share."""
    labels, rows, val = digits.y_train, np.arange(len(digits.y_train)), None
    if recipe.validation == "split":
        rows, val = digits.rows["train"], digits.rows["validation"]
    elif recipe.validation == "held_back":
        val = digits.rows["held_back"]
        rows = np.setdiff1d(rows, val)
    if recipe.images and recipe.images < len(rows):
        rows = rows[data.stratified_split(labels[rows], recipe.images / len(rows))[1]]
    if val is not None:
        return rows, val
    kept, val = data.stratified_split(labels[rows], recipe.validation, seed)
    return rows[kept], rows[val]


def compile_model(model: keras.Model, recipe: Recipe, steps: int, loss=None, metrics=()) -> None:
    """Compile a model as the recipe has it, for a run of `steps` batches.

    The one-cycle schedule warms up linearly over the first quarter, then falls to zero along a
    cosine: Smith and Topin, "Super-Convergence" (2018); Loshchilov and Hutter, "SGDR" (2017).
    """
    rate = float(recipe.optimizer.get("learning_rate", 0.001))  # Keras takes no whole number
    settings = recipe.optimizer | {"learning_rate": rate}
    if recipe.schedule == "one_cycle":
        warm = max(1, steps // 4)
        settings["learning_rate"] = keras.optimizers.schedules.CosineDecay(
            rate / 25, max(1, steps - warm), warmup_target=rate, warmup_steps=warm
        )
    if recipe.weight_average:
        settings |= {"use_ema": True, "ema_momentum": recipe.weight_average}
    if loss is None and recipe.loss == "categorical_crossentropy":
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
    loss = loss or keras.losses.SparseCategoricalCrossentropy()
    model.compile(keras.optimizers.Adam(**settings), loss, metrics=["accuracy", *metrics])


def score(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict:
    """Score a model on scaled images: n, errors, accuracy and loss."""
    check_pairs(images, labels)
    found = evaluation.evaluate(labels, model.predict(images, batch_size=500, verbose=0))
    return {name: found[name] for name in ("n", "errors", "accuracy", "loss")}
