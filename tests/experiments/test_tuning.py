"""Searches find, survive a kill, spread over workers, and say what went wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import keras
import keras_tuner as kt
import numpy as np
import pytest

from src import data, models, recipes, training
from src.config import ROOT
from src.experiments import store, tuning
from src.experiments.tuning import SearchError

ONE_BLOCK = {"kernel_size": 3, "padding": "same", "pool": True}


def tiny_space(hp):
    """A network of a few hundred parameters."""
    filters = hp.Choice("filters_1", [2, 3, 4, 5], default=2)
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log", default=1e-2)
    network = {"filters": (filters,), **ONE_BLOCK}
    return recipes.get_recipe("fast", network=network, optimizer={"learning_rate": rate})


@pytest.fixture
def fitted(monkeypatch):
    """No training: a score from the settings. The list says what was asked for."""
    calls = []

    def fit(recipe, digits, share):
        rate = recipe.optimizer["learning_rate"]
        calls.append((rate, share))
        return {"loss": rate, "accuracy": rate}

    monkeypatch.setattr(tuning, "fit", fit)
    return calls


def search(folder, kind="random", space=tiny_space, digits=None, trials=3):
    """The trials of a search."""
    tuner = tuning.make_tuner(kind, folder, trials, space)
    tuner.search(digits)
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


def test_the_space_builds_at_random_points(tmp_path):
    tuner, seen = tuning.make_tuner("random", tmp_path, trials=20), set()
    for _ in range(20):
        values = tuner.oracle._random_values()
        recipe = tuning.recipe_from(values)
        model = models.build(recipe.network)
        names = [layer.name for layer in model.layers]
        assert sum(name.startswith("conv") for name in names) == values["filters"].count("-") + 1
        assert ("dense_units" in values) == ("dense1" in names) == values["dense"]
        assert bool(recipe.augmentation) == (values["augment"] > 0)
        assert recipe.optimizer["learning_rate"] == values["learning_rate"]
        assert 0.85 < models.multiply_adds(model) / 2.09e6 < 1.1  # none wins by taking longer
        seen |= set(values.items())
    assert {("dense", True), ("dense", False), ("filters", "16-48-48-48")} <= seen


def test_the_digest_changes_with_what_results_depend_on(monkeypatch):
    def steeper(hp):  # asks the same, makes something else of one answer
        found = tuning.space(hp)
        return found if found.augmentation else found.change(network={"dropout": 0.0})

    first = tuning.space_digest()
    assert first == tuning.space_digest() != tuning.space_digest(steeper)
    other = tuning.space_digest(tiny_space)
    monkeypatch.setitem(recipes.RECIPES["fast"], "label_smoothing", 0.1)
    assert len({first, other, tuning.space_digest()}) == 3


def test_a_trial_trains_for_its_share_and_never_sees_the_images_held_back(sample, monkeypatch):
    recipe, asked, made, fits = tuning.recipe_from({}, tiny_space), [], [], []
    part, compiled, fit = data.DigitData.part, training.compile_model, keras.Model.fit
    monkeypatch.setattr(data.DigitData, "part", lambda *a: asked.append(a[1]) or part(*a))
    monkeypatch.setattr(training, "compile_model", lambda *a: made.append(a[2]) or compiled(*a))
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: fits.append(k) or fit(*a, **k))
    found = tuning.fit(recipe, sample, 1 / 3)
    assert asked == ["train", "validation"]
    assert made == [fits[0]["steps_per_epoch"]] == [7]  # a third of two epochs of ten batches
    assert found == tuning.fit(recipe, sample, 1 / 3) and 0 < found["accuracy"] < 1
    with pytest.raises(ValueError, match="its score is not a number"):
        tuning.fit(recipe.change(optimizer={"learning_rate": np.nan}), sample, 1.0)


# Searches


def test_a_search_finds_trials_and_does_not_repeat_them(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # not needed, though Keras Tuner may
    build, built = models.build, []
    monkeypatch.setattr(models, "build", lambda network: built.append(network) or build(network))
    rows = search(tmp_path, digits=sample, trials=2)
    assert [row["status"] for row in rows] == ["COMPLETED"] * 2
    assert all(0 < row["loss"] < 5 and 0 <= row["accuracy"] <= 1 for row in rows)
    assert set(rows[0]["values"]) == {"filters_1", "learning_rate"}
    assert len(built) == 3  # one at first, as a check, and one in each trial
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").glob("*.json")}
    assert search(tmp_path, digits=sample, trials=2) == rows and len(times) == 2
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert capsys.readouterr().out.count("tuner0: trial ") == 2


@pytest.mark.parametrize("kind, before", [("random", 0), ("bayesian", 1), ("hyperband", 10)])
def test_a_killed_search_goes_on_and_more_trials_add_to_it(
    kind, before, tmp_path, fitted, monkeypatch
):
    """`before`: where it is killed; hyperband's tenth trial is the best of nine, trained longer."""
    whole, fit = search(tmp_path / "whole", kind), tuning.fit
    asked = fitted[:]
    fitted.clear()

    def killed(*args):
        if len(fitted) == before:
            raise KeyboardInterrupt
        return fit(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tuning, "fit", killed)
        search(tmp_path, kind)
    assert search(tmp_path, kind) == whole
    assert fitted == asked  # none twice
    if kind == "random":
        assert search(tmp_path, kind, trials=5)[:3] == whole and len(fitted) == 5
        assert search(tmp_path, kind, space=other_space)[0] not in whole


def test_a_kill_between_a_trial_and_the_next_loses_nothing(tmp_path, fitted, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kt.Oracle, "end_trial", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        search(tmp_path)
    assert len(search(tmp_path)) == len(fitted) == 3


def other_space(hp):
    return tiny_space(hp).change(batch_size=hp.Choice("batch_size", [32, 64]))


def test_hyperband_spends_as_much_as_the_others(tmp_path, fitted):
    rows = search(tmp_path, "hyperband", trials=tuning.TRIALS)
    assert sum(row["share"] for row in rows) == pytest.approx(tuning.TRIALS)
    shares = [round(9 * row["share"]) for row in rows]
    assert tuple(shares[:46]) == 2 * tuning.ROUND
    first = [row["loss"] for row in rows[:9]]
    assert [row["loss"] for row in rows[9:12]] == sorted(first)[:3]


def broken(hp):
    """Fine where Keras Tuner asks for the space, broken in each trial."""
    filters = hp.Choice("filters_1", [-1, -2, -3], default=-1)
    rate = hp.Float("learning_rate", 1e-3, 1e-1, default=0.05)
    network = {"filters": (2,) if rate == 0.05 else (filters,), **ONE_BLOCK}
    return recipes.get_recipe("fast", network=network, optimizer={"learning_rate": rate})


def test_failing_trials_are_listed_and_an_error_where_all_fail(sample, tmp_path, capsys):
    for _ in range(2):
        with pytest.raises(SearchError, match=r"(?s)None of 4 .*filters=\[-\d\]: expected 1"):
            search(tmp_path, space=broken, trials=4, digits=sample)
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
    rows = search(tmp_path, kind)
    assert [row["status"] for row in rows][:2] == ["FAILED", "COMPLETED"]
    assert "FAILED: MemoryError: no memory left" in capsys.readouterr().out
    assert rows[0]["message"].endswith("no memory left\n") and rows[0]["loss"] is None
    before = len(fitted)
    assert search(tmp_path, kind) == rows and len(fitted) == before


def test_values_that_make_no_recipe_are_a_failure_too(tmp_path, fitted):
    def space(hp):
        size = hp.Choice("batch_size", [64, 0], default=64)
        return tiny_space(hp).change(batch_size=size)

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
    filters = (hp.Choice("filters_1", [0, 8]),)
    return recipes.get_recipe("fast", network={"filters": filters, **ONE_BLOCK})


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("grid", {}, "no tuner named 'grid'; there are random, bayesian"),
        ("random", {"trials": 0}, "trials=0: expected a whole number, 1 or more"),
        ("random", {"trials": 2.5}, "trials=2.5: expected a whole number, 1 or more"),
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
    folder, size = results / "sample" / "tuning", {"source": "sample", "trials": 2}
    with pytest.raises(FileNotFoundError, match="holds no search: run make tune first"):
        tuning.read_searches(folder)
    assert store.problem(tuning.compared_jobs(folder)[0]) == "missing"
    tuning.run(**size)
    assert {s["settings"]["trials"] for s in tuning.read_searches(folder).values()} == {2}
    jobs = tuning.compared_jobs(folder)
    assert [job.path.stem for job in jobs[:3]] == ["by_loss-0", "by_accuracy-0", "fast-0"]
    lowest, highest, fast = (store.read(job) for job in jobs[:3])
    for winner, by, best in ((lowest, "loss", min), (highest, "accuracy", max)):
        rate = winner["settings"]["optimizer"]["learning_rate"]
        assert rate == tuning.best_trial(folder, by)["values"]["learning_rate"]
        assert rate == best(call[0] for call in fitted)
    assert lowest["n"] == 119 and set(fast) >= {"seconds", "parameters", "wrong", "environment"}
    before = len(fitted)
    tuning.run(["random"], **size)
    said = capsys.readouterr().out
    assert "random.json is there already; delete it and tuning to search again" in said
    tuning.run(["random"], **size | {"trials": 3})
    assert len(fitted) == before + 1
    with pytest.raises(SearchError, match="unequal settings"):
        tuning.read_searches(folder)
    reason = store.problem(tuning.compared_jobs(folder)[0])  # the third trial may have won
    assert reason.startswith(("made from another random.json", "made with other settings"))


@pytest.fixture
def command(results):
    """`python -m src.experiments tune random ...` on the sample, ended in any case."""
    options = "--source=sample --trials=3 --workers=2".split()
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
    assert all(("dense_units" in r["values"]) == r["values"]["dense"] for r in rows)
