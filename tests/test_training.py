"""Live progress, histories, and small trainings from end to end."""

import re
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from src import config, disturb, evaluation, explain, plots, training
from src.data import scale_images
from src.models import build_cnn, load_model
from src.recipes import get_recipe
from src.training import LiveProgress, save_history

TERMINAL_CODES = re.compile(r"[\r\b\x1b]")


def tiny_cnn() -> keras.Model:
    return build_cnn((4,), pool=True, batch_norm=False, dense_units=(), dropout=0.0)


# Progress


@pytest.fixture
def shown(monkeypatch):
    """The texts that a notebook shows, each in place of the one before."""
    texts = []

    def show(content, raw, display_id=None):
        assert bool(display_id) == (not texts) and raw and list(content) == ["text/plain"]
        texts.append(content["text/plain"])
        return SimpleNamespace(update=show)

    monkeypatch.setattr(training, "get_ipython", lambda: SimpleNamespace(kernel=True))
    monkeypatch.setattr(training, "display", show)
    return texts


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


def test_in_a_notebook_one_table_is_redrawn_in_place(shown, train_slowly):
    train_slowly(epochs=2, batches=4, seconds=2)
    assert shown[:2] == ["epoch 1: batch 1 of 4", "epoch 1: batch 2 of 4"]
    assert len(shown) == 2 * (4 + 1) + 1
    *lines, last = shown[-1].splitlines()
    assert last == "2 of 2 epochs in 16 s"
    header = ["epoch", "seconds", "loss", "val_accuracy"]
    assert [line.split() for line in lines] == [header, *ROWS]
    assert not any(TERMINAL_CODES.search(text) for text in shown)
    assert len({len(line) for line in lines}) == 1, shown[-1]  # columns under their names


def test_short_batches_are_drawn_about_once_a_second(shown, train_slowly):
    train_slowly(epochs=1, batches=50, seconds=0.1)
    assert sum("batch" in text for text in shown) == 5  # the first, and four in 5 s
    assert shown[-1].splitlines()[-1] == "1 of 2 epochs in 5 s"


def test_outside_a_notebook_each_epochs_row_is_printed(train_slowly, capsys):
    train_slowly(epochs=2, batches=4, seconds=2)
    text = capsys.readouterr().out
    assert [line.split() for line in text.splitlines()[1:]] == ROWS
    assert "batch" not in text and not TERMINAL_CODES.search(text)


def test_a_history_keeps_epochs_settings_and_environment(tmp_path):
    history = keras.callbacks.History()
    history.history = {"loss": [np.float32(0.5), 0.25], "learning_rate": [np.float32(0.125), 1e-4]}
    path = save_history(tmp_path / "history.json", history, seed=3, filters=[8, 16])
    assert config.read_json(path) == {
        "settings": {"seed": 3, "filters": [8, 16]},
        "epochs": {"loss": [0.5, 0.25], "learning_rate": [0.125, 1e-4]},
        "environment": config.environment(),
    }


# From end to end


def checkpoint(folder):
    """As in 02; the threshold keeps out a first epoch whose loss is not a number."""
    settings = {"save_best_only": True, "initial_value_threshold": np.inf}
    return keras.callbacks.ModelCheckpoint(folder / "best.keras", **settings)


TINY = {"network": {"filters": (4,), "kernel_size": 3, "dense_units": 8}, "epochs": 1}


def test_callbacks_work_together_and_both_kinds_of_labels_learn_alike(sample, tmp_path):
    rules = {  # nothing counts as better, so that both act
        "early_stopping": {"patience": 2, "min_delta": 100},
        "reduce_lr": {"factor": 0.5, "patience": 1, "min_delta": 100},
    }
    network, histories = {"filters": (4,), "dense_units": ()}, []
    for loss in ("sparse_categorical_crossentropy", "categorical_crossentropy"):
        recipe = get_recipe("two_conv_plain", loss=loss, network=network, **rules)
        recipe = recipe.change(optimizer={"learning_rate": 0.01})
        callbacks = [
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
            LiveProgress(),
        ]
        trained = training.train(recipe, sample, callbacks=callbacks)
        histories.append(trained.history)
        images, labels = scale_images(sample.x_train), sample.y_train
        best, rows = load_model(tmp_path / "best.keras"), trained.val_rows
        scored = training.score(best, images[rows], labels[rows])["loss"]
        assert scored == pytest.approx(min(trained.history["val_loss"]), rel=1e-4)
    first, second = histories
    assert set(first) == {"accuracy", "loss", "val_accuracy", "val_loss", "learning_rate"}
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-3, err_msg=name)
    assert first["val_accuracy"][-1] > 0.8
    assert first["learning_rate"] == pytest.approx([0.01, 0.01, 0.005])  # stopped after two more


def compiled(recipe):
    model = tiny_cnn()
    training.compile_model(model, recipe, steps=100)
    return model


def test_one_cycle_warms_up_for_a_quarter_and_ends_at_zero():
    recipe = get_recipe("fast", optimizer={"learning_rate": 0.01})
    rate = compiled(recipe).optimizer._learning_rate
    rates = [float(rate(step)) for step in (0, 25, 62, 100)]
    assert rates == pytest.approx([0.0004, 0.01, 0.00510, 0], abs=2e-4)


def test_rate_weight_average_and_label_smoothing_reach_keras():
    for rate in (1, np.int64(1), np.float32(1)):
        recipe = get_recipe("two_conv_plain", optimizer={"learning_rate": rate})
        assert float(compiled(recipe).optimizer.learning_rate) == 1
    optimizer = compiled(get_recipe("two_conv_plain", weight_average=0.9)).optimizer
    assert float(optimizer.learning_rate) == pytest.approx(1e-3)
    assert optimizer.use_ema and optimizer.ema_momentum == 0.9
    loss = compiled(get_recipe("fast", label_smoothing=0.1)).loss
    truth, guess = np.eye(10)[[3]], np.full((1, 10), 0.01)
    guess[0, 3] = 0.91
    expected = -(0.91 * np.log(0.91) + 0.09 * np.log(0.01))  # 0.9 + 0.1/10, and nine times 0.1/10
    assert float(loss(truth, guess)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("by", ["recipe", "callback", "share", "none"])
def test_validation_images_are_scored_where_something_watches_them(sample, tmp_path, by):
    changes = {"recipe": {"early_stopping": {"patience": 1}}, "share": {"validation": 0.2}}
    callbacks = (
        [keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)]
        if by == "callback"
        else []
    )
    recipe = get_recipe("sprint", **TINY, **changes.get(by, {}))
    trained = training.train(recipe, sample, callbacks=callbacks)
    assert ("val_loss" in trained.history) == (by != "none")


def test_a_run_that_diverges_leaves_no_checkpoint_and_scores_its_training_images(tmp_path, capsys):
    x, y = np.random.default_rng(0).random((64, 28, 28, 1)), np.arange(64) % 10
    model, history = tiny_cnn(), None
    model.compile(
        keras.optimizers.SGD(1e30), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    callbacks = [LiveProgress(x, y), checkpoint(tmp_path)]
    history = model.fit(x, y, validation_data=(x, y), callbacks=callbacks, verbose=0, epochs=2)
    assert np.isnan(history.history["train_loss"]).tolist() == [True]  # it is stopped
    assert not list(tmp_path.iterdir())
    assert "Not finite in epoch 1, it diverged: lower the learning rate." in capsys.readouterr().out


def test_the_same_seed_trains_the_same_network(sample):
    recipe = get_recipe("sprint", **TINY, augmentation={"rotation": 10})
    weights = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(99 + len(weights))  # whatever was drawn before
        weights.append(training.train(recipe, sample, seed).model.get_weights()[-2])
    assert np.array_equal(weights[0], weights[1]) and not np.allclose(weights[0], weights[2])


def test_there_must_be_as_many_labels_as_images(sample):
    images, labels, model = *sample.part("test"), tiny_cnn()
    points, answers = images[:, 0, :2, 0], np.full((len(images), 10), 0.1)
    for call in (
        lambda: replace(sample, y_train=sample.y_train[:400]),
        lambda: replace(sample, x_test=sample.x_test[:5]),
        lambda: training.score(model, images, labels[:5]),
        lambda: LiveProgress(images, labels[:5]),
        lambda: disturb.curves({"one": model}, images, labels[:5]),
        lambda: explain.fgsm(model, images, labels[:5], 0.1),
        lambda: explain.grad_cam(model, images, labels[:5]),
        lambda: plots.plot_predictions(images, labels[:5], answers),
        lambda: plots.plot_embedding(points, labels[:5]),
        lambda: evaluation.evaluate(labels[:5], answers),
        lambda: evaluation.accuracy_row(labels[:5], labels),
    ):
        with pytest.raises(config.DataError, match=r"\b(5|400)\b.*"):
            call()


def test_training_begins_with_the_weights_that_are_given(sample):
    recipe = get_recipe("sprint", **TINY, optimizer={"learning_rate": 1e-12})
    start = training.train(recipe, sample, seed=1).model.get_weights()
    again = training.train(recipe, sample, seed=2, start=start).model.get_weights()
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(start, again, strict=True))


def test_rows_are_those_of_the_one_split_or_a_stratified_share(sample):
    for validation, trained_on in (("split", 1199), ("held_back", 1318)):
        rows, val = training.split_rows(get_recipe("fast", validation=validation), sample, 0)
        assert len(rows) == trained_on and not set(rows) & set(val)
        assert not set(sample.rows["held_back"]) & set(rows)
    few, _ = training.split_rows(get_recipe("fast", images=500), sample, 0)
    assert len(few) == 500 and set(few) <= set(sample.rows["train"])
    rows, val = training.split_rows(get_recipe("kaggle_conv", images=1000), sample, 0)
    assert (len(rows), len(val)) == (900, 100) and not set(rows) & set(val)
    assert np.bincount(sample.y_train[rows]).min() > 80


@pytest.mark.parametrize(
    "field, argument, first",
    [("network", "layers", "filters"), ("augmentation", "seed", "rot"), ("optimizer", "lr", "lea"),
     ("early_stopping", "patient", "monitor"), ("reduce_lr", "patient", "monitor")],
)  # fmt: skip
def test_an_unknown_argument_is_named(sample, field, argument, first):
    message = f"{field}: no argument '{argument}'; there are {first}"
    with pytest.raises(ValueError, match=message):
        training.train(get_recipe("fast", **{field: {argument: 3}}), sample)
