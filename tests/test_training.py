"""Checkpoints, live progress, histories, and small trainings from end to end."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from src import config, training
from src.data import one_hot, scale_images
from src.models import build_cnn, load_model
from src.recipes import get_recipe
from src.training import AtomicCheckpoint, LiveProgress, save_history

TERMINAL_CODES = re.compile(r"[\r\b\x1b]")


def tiny_cnn() -> keras.Model:
    return build_cnn((4,), pool=True, batch_norm=False, dense_units=(), dropout=0.0)


# Checkpoints


@pytest.fixture
def epochs(tmp_path):
    """A checkpoint, and a call that ends an epoch with the epoch's number in the weights."""
    model = tiny_cnn()
    checkpoint = AtomicCheckpoint(tmp_path / "new" / "best.keras")
    checkpoint.set_model(model)

    def end(epoch: int, val_loss: float) -> None:
        output = model.get_layer("output")
        output.set_weights([output.get_weights()[0], np.full(10, epoch)])
        checkpoint.on_epoch_end(epoch, {"val_loss": val_loss})

    return SimpleNamespace(end=end, path=checkpoint.path)


def saved_epoch(path) -> int:
    return int(load_model(path).get_layer("output").get_weights()[1][0])


def save_half(model, path, *args, **kwargs):
    with open(path, "wb") as file:
        file.write(b"half a model")
    raise OSError("disk full")


def fail(*args):
    raise OSError("disk full")


def test_checkpoint_keeps_the_best_epoch_only(epochs):
    kept = []
    for epoch, val_loss in enumerate([0.9, 0.5, 0.7, 0.5, 0.4, float("nan"), 0.6]):
        epochs.end(epoch, val_loss)
        kept.append(saved_epoch(epochs.path))
    assert kept == [0, 1, 1, 1, 4, 4, 4]  # and no network whose loss is not a number
    assert os.listdir(epochs.path.parent) == ["best.keras"]


@pytest.mark.parametrize("broken", [(keras.Model, "save", save_half), (os, "replace", fail)])
def test_a_failed_save_leaves_the_earlier_checkpoint(broken, epochs, monkeypatch):
    epochs.end(1, 0.9)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(*broken)
        epochs.end(2, 0.5)
    assert saved_epoch(epochs.path) == 1
    epochs.end(3, 0.7)  # the same callback goes on
    assert saved_epoch(epochs.path) == 3 and len(os.listdir(epochs.path.parent)) == 1


KILLED_IN_MID_SAVE = """
import sys
import keras
from src.data import load_mnist, scale_images
from src.models import build_cnn
from src.training import AtomicCheckpoint

whole_save = keras.Model.save

def save(model, path, *args, **kwargs):
    whole_save(model, path, *args, **kwargs)
    if checkpoint.path.exists():
        raw = open(path, "rb").read()
        open(path, "wb").write(raw[: len(raw) // 2])
        print("half of the second checkpoint", flush=True)
        sys.stdin.read()  # waits here to be killed

keras.Model.save = save
keras.utils.set_random_seed(0)
sample = load_mnist("sample")
checkpoint = AtomicCheckpoint(sys.argv[1], monitor="loss")
model = build_cnn((4,), pool=True, batch_norm=False, dense_units=(), dropout=0.0)
model.compile(
    keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", run_eagerly=True
)
x, y = scale_images(sample.x_train[:640]), sample.y_train[:640]
model.fit(x, y, epochs=5, verbose=0, callbacks=[checkpoint])
"""


def test_a_run_killed_in_mid_save_leaves_a_loadable_checkpoint(tmp_path, sample):
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED_IN_MID_SAVE, str(tmp_path / "best.keras")],
        cwd=config.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(120, child.kill)
    limit.start()
    try:
        reached = "half of the second checkpoint\n" in iter(child.stdout.readline, "")
    finally:
        limit.cancel()
        child.kill()
    assert reached, child.communicate()[1]
    assert child.wait() == -signal.SIGKILL
    (half,) = tmp_path.glob("partial-*.keras")
    with pytest.raises(ValueError, match="not a whole Keras model"):
        load_model(half)
    model = load_model(tmp_path / "best.keras")
    probabilities = np.asarray(model(scale_images(sample.x_train[:640])))
    assert (probabilities.argmax(axis=1) == sample.y_train[:640]).mean() > 0.5


# Progress


class Screen:
    """Stands in for IPython's display: keeps what is shown, and how often a new one begins."""

    def __init__(self):
        self.displays, self.texts = 0, []

    def display(self, content, raw, display_id):
        self.displays += 1
        return self.update(content, raw)

    def update(self, content, raw):
        assert raw and list(content) == ["text/plain"]
        self.texts.append(content["text/plain"])
        return self


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(training, "_in_notebook", lambda: True)
    monkeypatch.setattr(training, "display", screen.display)
    return screen


@pytest.fixture
def train_slowly(monkeypatch):
    """Calls the callback as a fit over two epochs does, by a clock of its own."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def train(epochs: int, batches: int, seconds: float) -> None:
        progress = LiveProgress()
        progress.set_params({"epochs": 2, "steps": batches})
        progress.on_train_begin()
        for epoch in range(epochs):
            for batch in range(batches):
                clock.now += seconds
                progress.on_train_batch_end(batch, {"loss": 1.0})
            logs = {"loss": 0.5 - epoch / 8, "val_accuracy": 0.75 + epoch / 8}
            progress.on_epoch_end(epoch, logs)
        progress.on_train_end()

    return train


ROWS = [["1", "8.0", "0.5000", "0.7500"], ["2", "8.0", "0.3750", "0.8750"]]


def test_in_a_notebook_one_table_is_redrawn_in_place(screen, train_slowly):
    train_slowly(epochs=2, batches=4, seconds=2)
    assert screen.displays == 1
    assert screen.texts[:2] == ["epoch 1: batch 1 of 4", "epoch 1: batch 2 of 4"]
    assert len(screen.texts) == 2 * (4 + 1) + 1
    lines = screen.texts[-1].splitlines()
    assert lines.pop() == "2 of 2 epochs in 16 s"
    header = ["epoch", "seconds", "loss", "val_accuracy"]
    assert [line.split() for line in lines] == [header, *ROWS]
    assert not any(TERMINAL_CODES.search(text) for text in screen.texts)
    ends = [[cell.end() for cell in re.finditer(r"\S+", line)] for line in lines]
    assert ends[0] == ends[1] == ends[2], screen.texts[-1]  # columns under their names


def test_short_batches_are_drawn_about_once_a_second(screen, train_slowly):
    train_slowly(epochs=1, batches=50, seconds=0.1)
    assert sum("batch" in text for text in screen.texts) == 5  # the first, and four in 5 s
    assert screen.texts[-1].splitlines()[-1] == "1 of 2 epochs in 5 s"


def test_outside_a_notebook_each_epochs_row_is_printed(train_slowly, capsys):
    train_slowly(epochs=2, batches=4, seconds=2)
    text = capsys.readouterr().out
    assert [line.split() for line in text.splitlines() if line.split()[0].isdigit()] == ROWS
    assert "batch" not in text and not TERMINAL_CODES.search(text)


# Histories


def test_a_history_keeps_epochs_settings_and_environment(tmp_path):
    history = keras.callbacks.History()
    history.history = {"loss": [np.float32(0.5), 0.25], "learning_rate": [np.float32(0.125), 1e-4]}
    path = save_history(tmp_path / "history.json", history, seed=3, filters=[8, 16])
    content = config.read_json(path)
    assert content["epochs"] == {"loss": [0.5, 0.25], "learning_rate": [0.125, 1e-4]}
    assert content["settings"] == {"seed": 3, "filters": [8, 16]}
    assert content["environment"]["cores"] == os.cpu_count()
    assert content["environment"]["tensorflow"] == tf.__version__
    assert content["environment"]["keras"] == keras.__version__
    assert os.listdir(tmp_path) == ["history.json"]


# From end to end


def train(folder, sample, encode, loss: str) -> SimpleNamespace:
    """A fit with all callbacks; nothing counts as better, so that both stopping rules act."""
    keras.utils.set_random_seed(0)
    model = tiny_cnn()
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    validation = scale_images(sample.x_test), encode(sample.y_test)
    callbacks = [
        AtomicCheckpoint(folder / "best.keras"),
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=100),
        keras.callbacks.EarlyStopping(patience=2, min_delta=100),
        LiveProgress(),
    ]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        history = model.fit(
            scale_images(sample.x_train),
            encode(sample.y_train),
            validation_data=validation,
            epochs=10,
            verbose=0,
            callbacks=callbacks,
        ).history
    best = load_model(folder / "best.keras")
    best.compile(loss=loss)
    return SimpleNamespace(
        history=history,
        printed=printed.getvalue(),
        checkpoint_loss=best.evaluate(*validation, verbose=0),
    )


@pytest.fixture(scope="module")
def runs(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        train(folder, sample, lambda labels: labels, "sparse_categorical_crossentropy"),
        train(folder, sample, one_hot, "categorical_crossentropy"),
    ]


def test_both_kinds_of_labels_learn_in_the_same_way(runs):
    first, second = (run.history for run in runs)
    assert set(first) == {"accuracy", "loss", "val_accuracy", "val_loss", "learning_rate"}
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-3, err_msg=name)
    assert first["val_accuracy"][-1] > 0.8 and second["val_accuracy"][-1] > 0.8


def test_the_callbacks_work_together(runs):
    for run in runs:
        assert len(run.history["loss"]) == 3  # stopped two epochs after the first
        np.testing.assert_allclose(run.history["learning_rate"], [0.01, 0.01, 0.005])
        rows = [line.split() for line in run.printed.splitlines()]
        assert [row[0] for row in rows if row[0].isdigit()] == ["1", "2", "3"]
        assert run.checkpoint_loss == pytest.approx(min(run.history["val_loss"]), rel=1e-4)


def compiled(recipe, steps=100):
    model = tiny_cnn()
    training.compile_model(model, recipe, steps)
    return model


def test_one_cycle_warms_up_for_a_quarter_and_ends_at_zero():
    recipe = get_recipe("fast", optimizer={"learning_rate": 0.01})
    rate = compiled(recipe).optimizer._learning_rate
    rates = [float(rate(step)) for step in (0, 25, 62, 100)]
    assert rates == pytest.approx([0.0004, 0.01, 0.00510, 0], abs=2e-4)


def test_a_constant_rate_and_a_weight_average_reach_the_optimizer():
    optimizer = compiled(get_recipe("two_conv_plain", weight_average=0.9)).optimizer
    assert float(optimizer.learning_rate) == pytest.approx(1e-3)
    assert optimizer.use_ema and optimizer.ema_momentum == 0.9


def test_label_smoothing_reaches_the_loss():
    loss = compiled(get_recipe("fast", label_smoothing=0.1)).loss
    truth, guess = np.eye(10)[[3]], np.full((1, 10), 0.01)
    guess[0, 3] = 0.91
    expected = -(0.91 * np.log(0.91) + 0.09 * np.log(0.01))  # 0.9 + 0.1/10, and nine times 0.1/10
    assert float(loss(truth, guess)) == pytest.approx(expected, rel=1e-4)


TINY = {"network": {"filters": (4,), "kernel_size": 3, "dense_units": 8}, "epochs": 1}


@pytest.mark.parametrize("by", ["recipe", "callback", "share", "none"])
def test_validation_images_are_scored_where_something_watches_them(sample, tmp_path, by):
    changes = {"recipe": {"early_stopping": {"patience": 1}}, "share": {"validation": 0.2}}
    callbacks = [AtomicCheckpoint(tmp_path / "best.keras")] if by == "callback" else []
    recipe = get_recipe("sprint", **TINY, **changes.get(by, {}))
    trained = training.train(recipe, sample, callbacks=callbacks)
    assert ("val_loss" in trained.history) == (by != "none")
    assert (tmp_path / "best.keras").exists() == (by == "callback")


def test_the_same_seed_trains_the_same_network(sample):
    recipe = get_recipe("sprint", **TINY, augmentation={"rotation": 10})
    weights = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(99 + len(weights))  # whatever was drawn before
        weights.append(training.train(recipe, sample, seed).model.get_weights()[-2])
    assert np.array_equal(weights[0], weights[1]) and not np.allclose(weights[0], weights[2])


def test_training_begins_with_the_weights_that_are_given(sample):
    recipe = get_recipe("sprint", **TINY, optimizer={"learning_rate": 1e-12})
    start = training.train(recipe, sample, seed=1).model.get_weights()
    again = training.train(recipe, sample, seed=2, start=start).model.get_weights()
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(start, again, strict=True))


@pytest.mark.parametrize("validation, trained_on", [("split", 1199), ("held_back", 1318)])
def test_the_one_split_keeps_its_parts_apart(sample, validation, trained_on):
    rows, val = training.split_rows(get_recipe("fast", validation=validation), sample, 0)
    assert len(rows) == trained_on and not set(rows) & set(val)
    assert not set(sample.rows["held_back"]) & set(rows)


def test_a_share_and_a_number_of_images_are_stratified(sample):
    recipe = get_recipe("kaggle_conv", images=1000)
    rows, val = training.split_rows(recipe, sample, 0)
    assert (len(rows), len(val)) == (900, 100) and not set(rows) & set(val)
    assert np.bincount(sample.y_train[rows]).min() > 80


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"network": {"layers": 3}}, "network: no argument 'layers'; there are filters"),
        ({"augmentation": {"turn": 3}}, "augmentation: no argument 'turn'"),
        ({"augmentation": {"seed": 3}}, "augmentation: no argument 'seed'; there are rot"),
        ({"optimizer": {"rate": 3}}, "optimizer: no argument 'rate'; there are learning"),
        ({"network": {"pool": (True,) * 2}}, "pool has 2 values for 3 filters"),
        ({"network": {"dropout": 1.0}}, "dropout=1.0: expected 0 or more and less"),
    ],
)
def test_what_makes_no_training_is_named(sample, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        training.train(get_recipe("fast", **changes), sample)
