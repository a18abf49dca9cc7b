"""Tables and verdicts are those of the stored results that are up to date."""

import json

import numpy as np
import pandas as pd
import pytest

from src import evaluation
from src.experiments import ensembles, plan, results, runs, store, tuning
from src.recipes import RECIPES, Recipe


@pytest.fixture
def put():
    """Write a result as the store would."""

    def put(job, **content):
        job.path.parent.mkdir(parents=True, exist_ok=True)
        for name in job.files:
            (job.path.parent / name).write_bytes(b"whole")
        inputs = {need.path.name: store.digest(need) for need in job.needs}
        sums = {name: store.sha256(job.path.parent / name) for name in job.files}
        content |= {"settings": job.settings, "inputs": inputs, "sha256": sums}
        job.path.write_text(json.dumps(content))

    return put


@pytest.mark.parametrize(
    "reported, comparable, accuracies, expected",
    [
        ("99.1%", True, [0.990, 0.991, 0.992], "reproduced"),
        ("98%", True, [0.990, 0.991, 0.992], "above"),
        ("99.9%", True, [0.990, 0.991, 0.992], "below"),
        ("99.9%", False, [0.990, 0.991, 0.992], "not supported"),
        # t(2 degrees) = 4.303, so one more run falls within 0.991 ± 4.303 · 0.001 · √(4/3)
        ("99.596%", True, [0.990, 0.991, 0.992], "reproduced"),
        ("99.598%", True, [0.990, 0.991, 0.992], "below"),
        ("99.6%", True, [0.990, 0.991, 0.992], "reproduced"),  # its rounding reaches 99.55
        ("99.1%", True, [0.991, 0.992], ""),
        (None, True, [0.990, 0.991], ""),
    ],
)
def test_verdicts(reported, comparable, accuracies, expected):
    recipe = Recipe(reported=reported, comparable=comparable)
    assert results.verdict(recipe, accuracies) == expected


def put_runs(put, models, name, accuracies, **more):
    for job, accuracy in zip(
        runs.run_jobs([name], models / "benchmarks"), accuracies, strict=False
    ):
        parts = {part: {"accuracy": accuracy} for part in ("validation", "test")}
        content = {"parameters": 7, "epochs": 3, "training_accuracy": 0.998} | parts | more
        put(job, **content)


def put_timing(put, models, **seconds):
    put(runs.timing_job(models), seconds=seconds, one_epoch={"strong": [10, 30, 20]})


def test_a_summary_holds_means_over_seeds_and_times(put, tmp_path):
    put_runs(put, tmp_path, "two_conv_plain", [0.990, 0.991, 0.992])
    put_runs(put, tmp_path, "strong", [0.99], peak_test_accuracy=0.995)
    put_timing(put, tmp_path, two_conv_plain=[50, 70, 60], keras_io_convnet=[90, 120, 130])
    table = results.systems(tmp_path)
    assert list(table.index) == ["two_conv_plain", "strong"]
    row = table.loc["two_conv_plain"]
    assert (row["n"], row.verdict, row.seconds, row.ratio) == (3, "not supported", 60, 0.5)
    assert row["mean"] == pytest.approx(0.991) and row.sd == pytest.approx(0.001)
    assert row.validation == pytest.approx(0.991) and pd.isna(row.peak_minus_final)
    strong = table.loc["strong"]
    assert strong.seconds == 20 * RECIPES["strong"]["epochs"]  # timed for an epoch
    assert strong.peak_minus_final == pytest.approx(0.005) and pd.isna(strong.low)


def test_the_systems_table_says_in_words_what_was_reached(monkeypatch):
    whole = results.systems()
    some = whole.loc[["two_conv_plain", "kaggle_conv", "sprint"]].copy()
    some["seconds"], some["ratio"] = [60.0, 600.0, np.nan], [0.55, 2.2, 1]
    some["training_accuracy"], some["verdict"] = 0.998, ["not supported", "below", ""]
    monkeypatch.setattr(results, "systems", lambda models: some)
    table = results.systems_table(None)
    assert table.recipe[0] == "D: two convolutions, dense 128; nothing else"
    stated = ["99.7%", "98.9% of validation (here 99.00%)", "–"]
    assert table["it states"].tolist() == stated
    assert table.training.tolist() == ["60 s, 0.55×", "10.0 min, 2.2×", "–"]
    assert table.verdict.tolist() == [
        "not supported (training accuracy here: 99.80%)", "below, comparable network", "–",
    ]  # fmt: skip


def test_runs_of_a_recipe_as_it_was_are_named_and_left_out(put, tmp_path, monkeypatch, capsys):
    put_runs(put, tmp_path, "fast", [0.990, 0.991])
    put_timing(put, tmp_path, fast=[20], keras_io_convnet=[100])
    assert len(results.accuracy_time_rows(tmp_path)) == 1
    monkeypatch.setitem(RECIPES, "fast", RECIPES["fast"] | {"batch_size": 64})
    assert results.systems(tmp_path).empty and results.accuracy_time_rows(tmp_path) == []
    said = capsys.readouterr().out
    assert "Left out: fast-0.json: made with other settings (batch_size); `make benchmark`" in said
    assert "Left out: timing.json: made with other settings (champion, fast, strong); " in said


def test_the_figure_has_the_recipes_that_were_timed(put, tmp_path):
    assert results.accuracy_time_rows(tmp_path) == []  # before the first timing
    for name in ("two_conv_plain", "keras_io_convnet", "sprint", "fast"):
        put_runs(put, tmp_path, name, [0.99])
    put_timing(put, tmp_path, two_conv_plain=[60], keras_io_convnet=[90], sprint=[5, 6])
    rows = results.accuracy_time_rows(tmp_path)
    assert [(row["name"], row["group"], row["seconds"]) for row in rows] == [
        ("D", "the five systems", [60]), ("keras.io", "keras.io example", [90]),
        ("sprint", "ours", [5, 6]),
    ]  # fmt: skip
    assert rows[0]["mean"] == 0.99 and pd.isna(rows[0]["low"])


def test_the_ladder_gains_step_by_step_over_the_seeds_that_both_have(put, tmp_path):
    jobs = {job.path.stem: job for job in runs.ladder_jobs(tmp_path / "ladder")}
    accuracies = {"start": (0.5, 0.7, 0.6), "one_cycle": (0.6, 0.9), "fast": (0.9,)}
    for step, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            put(jobs[f"{step}-{seed}"], seed=seed, parameters=5, validation={"accuracy": accuracy})
    first, second, last = results.ladder(tmp_path).to_dict("records")
    assert first["change"].startswith("three convolutions") and first["seeds"] == 3
    assert first["accuracy"] == pytest.approx(60) and pd.isna(first["gain"])
    assert second["gain"] == pytest.approx(15)  # of 10 and 20: seed by seed
    # t(1 degree) = 12.706, so 15 ± 12.706 · 5
    assert (second["low"], second["high"]) == pytest.approx((-48.53, 78.53), abs=0.01)
    assert last["change"] == "light augmentation: fast" and last["gain"] == pytest.approx(30)


@pytest.fixture
def ensemble(put, tmp_path):
    """Stored results of the ensemble and its students: (models, their folder)."""
    folder = tmp_path / "ensemble"
    for i, job in enumerate(ensembles.member_jobs(folder)):
        put(job, parameters=1000 + i, multiply_adds=9, held_back={"errors": i, "n": 5000})
    put(ensembles.declared_job(folder), members=[], shifts="none")
    members = {"a-0": {"accuracy": 0.99}, "b-0": {"accuracy": 0.98}}
    together = {"accuracy": 0.995, "accuracy_interval": [0.99, 0.998], "loss": 0.02}
    put(ensembles.test_job(folder), ensemble=together, members=members, wrong=[1, 947, 9729])
    put(ensembles.continued_job(folder), ensemble=together, members=members, wrong=[2, 3])
    for job in ensembles.student_jobs(folder):
        seed = int(job.path.stem[-1])
        recipe, way, _ = job.path.stem.split("-")
        gain = 0.002 if way == "distilled" else 0
        about = {"recipe": recipe, "distilled": way == "distilled", "seed": seed}
        put(
            job,
            **about,
            parameters=99,
            test={"accuracy": 0.99 + gain + (0.001 if seed == 0 else 0)},
        )
    return tmp_path


def test_members_tries_and_students_are_counted(ensemble):
    members = results.members(ensemble)
    assert list(members.index) == list(ensembles.MEMBERS)
    assert members.errors.tolist()[0] == [0, 4] and members.n.tolist()[0] == 5000
    first, second = results.tries(ensemble).to_dict("records")
    assert first["mean"] == pytest.approx(0.985) and first["wrong"] == [1, 947, 9729]
    assert first["parameters"] == sum(range(1000, 1008)) and second["members"] == 2
    students = results.students(ensemble)
    assert students.loc[("student", "difference"), "mean"] == pytest.approx(0.002)
    assert students.loc[("small_student", "plain"), "n"] == 5


def test_students_are_compared_over_the_seeds_trained_both_ways(ensemble):
    (ensemble / "ensemble/student-plain-3.json").unlink()
    assert results.students(ensemble).loc[("student", "distilled"), "n"] == 4


def test_a_member_of_another_recipe_takes_all_that_was_made_from_it_out(
    ensemble, monkeypatch, capsys
):
    """Directly or not: the declared ensemble, both tries and every student."""
    changed = ensembles.MEMBERS["vgg"].change(epochs=2)
    monkeypatch.setitem(ensembles.MEMBERS, "vgg", changed)
    assert "vgg" not in results.members(ensemble).index
    assert results.tries(ensemble).empty and results.students(ensemble).empty
    said = capsys.readouterr().out
    for name in ("vgg-0", "vgg-1", "test", "continued", "student-plain-0"):
        assert f"Left out: {name}.json: " in said
    found = {job.path.stem: store.problem(job) for job in plan.jobs(ensemble)["ensemble"]}
    assert found["five_conv-0"] is None and "vgg-0.json" in found["declared"]


def some(n, start=0):
    return list(range(start, start + n))


def test_winners_are_compared_over_seeds_and_images(put, tmp_path):
    lowest, highest = ({"filters": "24-48-64", "batch_size": size} for size in (64, 128))
    for kind in tuning.KINDS:
        trials = [{"loss": 0.1, "accuracy": 0.8, "values": lowest},
                  {"loss": 0.2, "accuracy": 0.9, "values": highest}]  # fmt: skip
        put(tuning.search_job(kind, tmp_path), trials=trials)
    by_loss = [some(seed) for seed in range(10)]
    wrong = {"by_loss": iter(by_loss), "by_accuracy": iter([some(25)] * 10)}
    wrong["fast"] = iter([some(20)] * 10)
    for job in tuning.compared_jobs(tmp_path):
        name = job.path.stem.split("-")[0]
        assert job.settings["batch_size"] == (64 if name == "by_loss" else 128)
        put(job, wrong=next(wrong[name]), n=1000, parameters=7)
    found = results.compare_tuned(tmp_path)
    assert found["errors"].columns.tolist() == ["fast", "by_loss", "by_accuracy"]
    assert found["errors"]["fast"].tolist() == [20] * 10
    one, other = found["gains"].loc["by_loss"], found["gains"].loc["by_accuracy"]
    assert other["mean"] == -5
    gains = [20 - len(rows) for rows in by_loss]
    over_seeds = evaluation.spread(gains)
    assert [one["mean"], one.low, one.high] == [over_seeds[key] for key in ("mean", "low", "high")]
    per_image = [1000 * np.mean([(i < 20) - (i in rows) for rows in by_loss]) for i in range(1000)]
    over_images = evaluation.spread(per_image)
    assert [one.images_low, one.images_high] == [over_images["low"], over_images["high"]]


def test_the_cost_of_trials_adds_up_in_each_search():
    one = {"values": {"rate": 1}, "share": 0.5}
    found = results.trials({"random": {"trials": [one, one]}, "bayesian": {"trials": [one]}})
    assert found.spent.tolist() == [0.5, 1.0, 0.5] and found.rate.tolist() == [1, 1, 1]
