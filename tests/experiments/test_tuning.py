"""Searches find, survive a kill, spread over workers, and say what went wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import keras_tuner as kt
import numpy as np
import pytest

from src import models, recipes, training
from src.config import ROOT
from src.experiments import store, tuning
from src.experiments.tuning import SearchError

SMALL = {"images": 96, "epochs": 1, "trials": 3}
ONE_BLOCK = {"kernel_size": 3, "padding": "same", "pool": True}


def tiny_space(hp):
    """A network of a few hundred parameters."""
    filters = hp.Choice("filters_1", [2, 3, 4, 5], default=2)
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log", default=1e-2)
    network = {"filters": (filters,), **ONE_BLOCK}
    return {"network": network, "optimizer": {"learning_rate": rate}}


@pytest.fixture
def fitted(monkeypatch):
    """No training: a score from the settings. The list says what was asked for."""
    calls = []

    def fit(recipe, search_data, settings, start=None, keep=None):
        calls.append((recipe.optimizer["learning_rate"], start and start.read_text()))
        if keep:
            keep.write_text(f"{recipe.optimizer['learning_rate']}")
        return {"loss": recipe.optimizer["learning_rate"], "accuracy": 0.5}

    monkeypatch.setattr(tuning, "fit", fit)
    return calls


def search(folder, kind="random", space=tiny_space, data=(0, 0, 0), **changes):
    """The trials of a search."""
    settings = SMALL | changes
    tuner = tuning.make_tuner(kind, folder, space=space, **settings)
    tuner.search(*data[:2], validation_data=data[2])
    return tuning.trials(tuner)


# The space


def test_the_defaults_are_fast_itself():
    found, fast = tuning.recipe_from({}), recipes.get_recipe("fast")
    one, other = (models.build(recipe.network) for recipe in (found, fast))
    assert one.get_config() == other.get_config()
    assert (
        found.change(network=fast.network).settings()
        == fast.change(network=found.network).settings()
    )


def test_the_space_builds_at_fifty_random_points(tmp_path):
    tuner, seen = tuning.make_tuner("random", tmp_path, trials=50), set()
    for _ in range(50):
        values = tuner.oracle._random_values()
        recipe = tuning.recipe_from(values)
        model = models.build(recipe.network)
        names = [layer.name for layer in model.layers]
        assert model.output_shape == (None, 10)
        assert sum(name.startswith("conv") for name in names) == values["blocks"]
        assert ("filters_3" in values) == (values["blocks"] == 3)
        assert ("batch_norm_momentum" in values) == ("bn1" in names) == values["batch_norm"]
        assert ("augment_strength" in values) == bool(recipe.augmentation) == values["augment"]
        assert recipe.optimizer["learning_rate"] == values["learning_rate"]
        seen |= set(values.items())
    assert {("blocks", 2), ("blocks", 3), ("augment", True), ("augment", False)} <= seen


def test_the_digest_changes_with_what_results_depend_on(monkeypatch):
    def steeper(hp):  # asks the same, makes something else of one answer
        found = tuning.space(hp)
        if not found["augmentation"]:
            found["network"]["dropout"] = 0.0
        return found

    first = tuning.space_digest()
    assert first == tuning.space_digest() != tuning.space_digest(steeper)
    other = tuning.space_digest(tiny_space)
    monkeypatch.setitem(recipes.RECIPES["fast"], "label_smoothing", 0.1)
    assert len({first, other, tuning.space_digest()}) == 3


def test_a_search_never_sees_the_images_held_back(sample):
    x, y, (x_val, y_val) = tuning.search_data(sample, 500)
    assert (len(x), len(x_val)) == (500, 119) and y.shape == (500, 10)
    np.testing.assert_array_equal(x_val, sample.part("validation")[0])
    known = {image.tobytes() for image in sample.part("train")[0]}
    assert {image.tobytes() for image in x} <= known
    assert len(tuning.search_data(sample, 10**6)[0]) == len(sample.rows["train"])
    assert y.sum(axis=0).min() >= 45  # stratified
    with pytest.raises(ValueError, match="images=5: expected 10 or more"):
        tuning.search_data(sample, 5)


# Searches


@pytest.mark.parametrize("kind", tuning.KINDS)
def test_a_search_finds_trials_and_does_not_repeat_them(
    kind, sample, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # not needed, though Keras Tuner may
    size, build, built = {"epochs": 2, "trials": 2}, models.build, []
    size["data"] = tuning.search_data(sample, 96)
    monkeypatch.setattr(models, "build", lambda network: built.append(network) or build(network))
    rows = search(tmp_path, kind, **size)
    assert [row["status"] for row in rows] == ["COMPLETED"] * 2
    assert all(0 < row["loss"] < 5 and 0 <= row["accuracy"] <= 1 for row in rows)
    assert all(row["epochs"] == 2 and row["from_epoch"] == 0 for row in rows)
    assert set(rows[0]["values"]) == {"filters_1", "learning_rate"}
    assert len(built) == 3  # one at first, as a check, and one in each trial
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").glob("*.json")}
    assert search(tmp_path, kind, **size) == rows and len(times) == 2
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert capsys.readouterr().out.count("tuner0: trial ") == 2


@pytest.mark.parametrize("kind, before", [("random", 0), ("bayesian", 1), ("hyperband", 2)])
def test_a_killed_search_goes_on_and_more_trials_add_to_it(
    kind, before, tmp_path, fitted, monkeypatch
):
    """`before`: where it is killed; hyperband's third trial goes on from its first."""
    whole, fit = search(tmp_path / "whole", kind, epochs=3), tuning.fit
    asked = fitted[:]
    fitted.clear()

    def killed(*args):
        if len(fitted) == before:
            raise KeyboardInterrupt
        return fit(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tuning, "fit", killed)
        search(tmp_path, kind, epochs=3)
    assert search(tmp_path, kind, epochs=3) == whole
    assert fitted == asked  # none twice
    if kind == "random":
        assert search(tmp_path, kind, epochs=3, trials=5)[:3] == whole and len(fitted) == 5
        assert search(tmp_path, kind, epochs=3, space=other_space)[0] not in whole


def test_a_kill_between_a_trial_and_the_next_loses_nothing(tmp_path, fitted, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kt.Oracle, "end_trial", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        search(tmp_path)
    assert len(search(tmp_path)) == len(fitted) == 3


def other_space(hp):
    return tiny_space(hp) | {"batch_size": hp.Choice("batch_size", [32, 64])}


def test_hyperband_spends_as_many_epochs_as_the_others(tmp_path, fitted):
    rows = search(tmp_path, "hyperband", space=tuning.space, epochs=tuning.EPOCHS)
    spent = sum(row["epochs"] - row["from_epoch"] for row in rows)
    assert spent == tuning.EPOCHS * tuning.TRIALS and len(rows) == 30
    assert {(row["from_epoch"], row["epochs"]) for row in rows} >= {(0, 2), (2, 4), (4, 10)}
    continued = [(rate, start) for rate, start in fitted if start]
    assert len(continued) == sum(row["from_epoch"] > 0 for row in rows)
    assert all(float(start) == rate for rate, start in continued)  # the weights of its own parent


def test_a_continued_trial_begins_with_its_parents_weights(sample, tmp_path):
    recipe, found = tuning.recipe_from({}, tiny_space), tuning.search_data(sample, 96)
    recipe = recipe.change(network={"batch_norm": False}, augmentation=None)
    first = tuning.fit(
        recipe, found, {"from_epoch": 0, "epochs": 2}, keep=tmp_path / "a.weights.h5"
    )
    frozen, epochs = recipe.change(optimizer={"learning_rate": 0.0}), {"from_epoch": 2, "epochs": 3}
    assert tuning.fit(frozen, found, epochs, start=tmp_path / "a.weights.h5") == first
    x, y, (x_val, y_val) = found
    with pytest.raises(ValueError, match="its score is not a number"):
        tuning.fit(recipe, (x, y, (x_val, y_val * np.nan)), epochs)


def broken(hp):
    """Fine where Keras Tuner asks for the space, broken in each trial."""
    filters = hp.Choice("filters_1", [-1, -2, -3], default=-1)
    rate = hp.Float("learning_rate", 1e-3, 1e-1, default=0.05)
    network = {"filters": (2,) if rate == 0.05 else (filters,), **ONE_BLOCK}
    return {"network": network, "optimizer": {"learning_rate": rate}}


def test_failing_trials_are_listed_and_an_error_where_all_fail(sample, tmp_path, capsys):
    data = tuning.search_data(sample, 96)
    for _ in range(2):
        with pytest.raises(SearchError, match=r"(?s)None of 4 .*filters=\[-\d\]: expected 1"):
            search(tmp_path, space=broken, trials=4, data=data)
    assert capsys.readouterr().out.count("FAILED: ValueError: filters=") == 4


@pytest.mark.parametrize("kind", ["random", "hyperband"])
def test_a_failed_trial_is_listed_keeps_its_message_and_does_not_end_a_search(
    kind, tmp_path, fitted, monkeypatch, capsys
):
    fit = tuning.fit

    def sometimes(*args, **kwargs):
        if not fitted:
            fitted.append("failed")
            raise MemoryError("no memory left")
        return fit(*args, **kwargs)

    monkeypatch.setattr(tuning, "fit", sometimes)
    rows = search(tmp_path, kind, epochs=2)
    assert [row["status"] for row in rows][:2] == ["FAILED", "COMPLETED"]
    assert "FAILED: MemoryError: no memory left" in capsys.readouterr().out
    assert rows[0]["message"].endswith("no memory left\n") and rows[0]["loss"] is None
    before = len(fitted)
    assert search(tmp_path, kind, epochs=2) == rows and len(fitted) == before


def test_values_that_make_no_recipe_are_a_failure_too(tmp_path, fitted):
    def space(hp):
        size = hp.Choice("batch_size", [64, 0], default=64)
        return tiny_space(hp) | {"batch_size": size}

    rows = search(tmp_path, space=space, trials=8)
    messages = {row["values"]["batch_size"]: row["message"] for row in rows}
    assert "batch_size=0: expected a whole number" in messages[0] and messages[64] is None


def test_a_damaged_trial_is_named_and_made_again(tmp_path, fitted, capsys):
    rows = search(tmp_path)
    path = next((tmp_path / "trials").glob("*.json"))
    path.write_text('{"loss": 0.')
    assert search(tmp_path) == rows and len(fitted) == 4
    assert re.search(rf"{path.name}: damaged .* It is made again", capsys.readouterr().out)


# Bad input


def no_network(hp):
    return {"network": {"filters": (hp.Choice("filters_1", [0, 8]),), **ONE_BLOCK}}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("grid", {}, "no tuner named 'grid'; there are random, bayesian"),
        ("random", {"trials": 0}, "trials=0: expected a whole number, 1 or more"),
        ("random", {"epochs": 2.5}, "epochs=2.5: expected a whole number, 1 or more"),
        ("random", {"images": -1}, "images=-1: expected a whole number, 1 or more"),
        ("random", {"space": no_network}, r"filters=\[0\]: expected 1 or more"),
    ],
)
def test_what_makes_no_search(kind, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tuning.make_tuner(kind, tmp_path, **settings)


def test_a_folder_that_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SearchError, match=r"can't be written to .*MNIST_RESULTS_DIR"):
        tuning.make_tuner("random", tmp_path / "file" / "tuning")


def test_a_lost_chief_is_an_error_of_the_search_not_of_a_trial(tmp_path, fitted, monkeypatch):
    def lost(*args, **kwargs):
        raise tuning.grpc.RpcError

    with monkeypatch.context() as patch:
        patch.setattr(kt.Oracle, "end_trial", lost)
        with pytest.raises(SearchError, match="chief does not answer. Stop all workers"):
            search(tmp_path)
    assert [row["status"] for row in search(tmp_path)] == ["COMPLETED"] * 3 and len(fitted) == 3


def test_a_chief_takes_part_in_one_search(monkeypatch):
    monkeypatch.setattr(tuning, "role", lambda: "chief")
    monkeypatch.setattr(tuning, "end_with_launcher", lambda: None)
    with pytest.raises(SearchError, match="one search at a time: name it"):
        tuning.run(source="sample")


# Whole searches


def test_run_searches_once_and_compares_the_winner(results, fitted, monkeypatch, capsys):
    model = models.build({"filters": (2,), **ONE_BLOCK})
    trained = training.Trained(model, {}, 1.0, np.arange(9), np.arange(9))
    monkeypatch.setattr(training, "train", lambda recipe, digits, seed: trained)
    folder, size = results / "sample" / "tuning", SMALL | {"source": "sample", "trials": 2}
    with pytest.raises(FileNotFoundError, match="holds no search: run make tune first"):
        tuning.read_searches(folder)
    assert store.problem(tuning.compared_jobs(folder)[0]) == "missing"
    tuning.run(**size)
    assert {s["settings"]["trials"] for s in tuning.read_searches(folder).values()} == {2}
    jobs = tuning.compared_jobs(folder)
    assert [job.path.stem for job in jobs[:3]] == ["tuned-0", "fast-0", "tuned-1"]
    tuned, fast = (store.read(job) for job in jobs[:2])
    rate = tuning.best_trial(folder)["values"]["learning_rate"]
    assert rate == tuned["settings"]["optimizer"]["learning_rate"] == min(c[0] for c in fitted)
    assert tuned["n"] == 119 and set(fast) >= {"seconds", "parameters", "wrong", "environment"}
    before = len(fitted)
    tuning.run(["random"], **size)
    said = capsys.readouterr().out
    assert "random.json is there already; delete it and tuning to search again" in said
    tuning.run(["random"], **size | {"trials": 3})
    assert len(fitted) == before + 1
    with pytest.raises(SearchError, match="unequal settings"):
        tuning.read_searches(folder)
    assert "made from" in store.problem(tuning.compared_jobs(folder)[0])


@pytest.fixture
def command(results):
    """`python -m src.experiments tune random ...` on the sample, ended in any case."""
    options = "--source=sample --images=96 --epochs=1 --trials=3 --workers=2".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "src.experiments", "tune", "random", *options], cwd=ROOT,
        env=os.environ | {"MNIST_RESULTS_DIR": str(results)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    timer = threading.Timer(400, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    yield process
    timer.cancel()
    process.stdout.close()
    process.wait()


def test_a_chief_and_two_workers_finish_though_one_is_killed(command, results):
    lines = []

    def until(pattern):
        for line in command.stdout:
            lines.append(line)
            if match := re.search(pattern, line):
                return match[1]
        raise AssertionError(f"{pattern!r} did not come: {''.join(lines)}")

    pid, trial = until(r"^worker1: process (\d+)"), until(r"^worker1: (trial \d+): ")
    os.kill(int(pid), signal.SIGKILL)
    printed = "".join(lines + command.stdout.readlines())
    assert command.wait() == 0, printed
    assert "worker1 died (code -9) and is started again" in printed
    assert printed.count(f"worker1: {trial}: ") == 2  # begun again
    rows = json.loads((results / "sample" / "tuning" / "random.json").read_text())["trials"]
    assert [row["status"] for row in rows] == ["COMPLETED"] * 3
    by_worker = re.findall(r"^(worker\d): trial \d+: ", printed, re.MULTILINE)
    assert sorted(set(by_worker)) == ["worker0", "worker1"] and len(by_worker) == 4
    assert "\nTrue\n" not in printed  # Keras Tuner prints values of conditions
    assert all(("filters_3" in r["values"]) == (r["values"]["blocks"] == 3) for r in rows)
