"""Runs are scored on the right images, and times are taken side by side."""

import dataclasses
import json

import pytest

from src import models, recipes, training
from src.experiments import photos, runs, store
from src.recipes import RECIPES, get_recipe

TINY = {
    "about": "a tiny network",
    "network": {"filters": (4,), "pool": True, "batch_norm": False, "dense_units": ()},
    "epochs": 3,
    "batch_size": 128,
}


@pytest.fixture
def tiny(monkeypatch):
    """One recipe with the project's split and one with a share, two seeds each."""
    for name, extra in {"own": {"validation": "split"}, "other": {}}.items():
        monkeypatch.setitem(RECIPES, name, {**TINY, **extra})
        monkeypatch.setitem(runs.SEEDS, name, 2)


def test_a_run_is_scored_on_each_part(tiny, sample, monkeypatch):
    score, on_test = training.score, []

    def scored(model, images, labels):
        found = score(model, images, labels)
        if len(labels) == len(sample.y_test):
            found["accuracy"] = [0.5, 0.7, 0.9, 0.6][len(on_test)]
            on_test.append(found)
        return found

    monkeypatch.setattr(training, "score", scored)
    result = runs.run_one(get_recipe("own"), sample, 1)
    assert (result["seed"], result["epochs"], result["images"]) == (1, 3, 1199)
    sizes = {part: result[part]["n"] for part in ("validation", "held_back", "test")}
    assert sizes == {"validation": 119, "held_back": 119, "test": 360}
    assert result["multiply_adds"] == 28 * 28 * 9 * 4 + 14 * 14 * 4 * 10
    assert (result["test"]["accuracy"], result["peak_test_accuracy"]) == (0.5, 0.9)  # of an epoch
    assert "seconds" not in result  # times are timing's alone


def test_another_system_keeps_its_own_share_and_has_no_images_held_back(tiny, sample):
    result = runs.run_one(get_recipe("other", epochs=1), sample, 0)
    assert result["validation"]["n"] == 288 and "held_back" not in result


def test_a_step_of_the_ladder_leaves_the_test_set_alone(tiny, sample):
    blind = dataclasses.replace(sample, x_test=None, y_test=None)
    result = runs.run_one(get_recipe("own", epochs=1), blind, 0, test=False)
    assert "test" not in result and "held_back" not in result and result["seconds"] > 0


def fake_run(calls):
    def run_one(recipe, digits, seed, test=True):
        calls.append((seed, recipe.name, recipe.epochs))
        return {"seconds": 7.0 + seed, "validation": {"accuracy": 0.5}}

    return run_one


def test_all_first_seeds_come_before_the_second_ones(tiny, sample, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(runs, "run_one", fake_run(calls))
    jobs = runs.run_jobs(["own", "other"], tmp_path)
    store.run_all(jobs, sample)
    assert [call[:2] for call in calls] == [(0, "own"), (0, "other"), (1, "own"), (1, "other")]
    assert [job.path.name for job in jobs][:2] == ["own-0.json", "other-0.json"]
    monkeypatch.setitem(RECIPES, "own", RECIPES["own"] | {"about": "other words"})
    store.run_all(runs.run_jobs(["own", "other"], tmp_path), sample)
    assert len(calls) == 4
    monkeypatch.setitem(RECIPES, "own", RECIPES["own"] | {"batch_size": 64})
    store.run_all(runs.run_jobs(["own", "other"], tmp_path), sample)
    assert [call[:2] for call in calls[4:]] == [(0, "own"), (1, "own")]


def test_the_ladder_climbs_from_system_c_to_fast():
    steps = {step.name: step for step in recipes.ladder()}
    assert steps["fast"].settings() == get_recipe("fast").settings()
    assert steps["start"].network == get_recipe("conv_batch_norm").network
    assert steps["narrower_layers"].network == get_recipe("fast").network
    for step in steps.values():
        assert step.validation == "split" and step.epochs <= 3 and step.about
        assert not step.early_stopping and not step.reduce_lr


def test_timing_takes_the_recipes_in_turn_and_loses_a_round_at_most(
    tiny, sample, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(runs, "TIMED", ("own",))
    monkeypatch.setattr(runs, "ONE_EPOCH_TIMED", ("other",))
    job = runs.timing_job(tmp_path, tmp_path / "work", rounds=2)

    def killed(recipe, digits, seed, test=True):
        if seed == 1:
            raise KeyboardInterrupt
        return fake_run(calls)(recipe, digits, seed)

    monkeypatch.setattr(runs, "run_one", killed)
    with pytest.raises(KeyboardInterrupt):
        store.get(job, sample)
    monkeypatch.setattr(runs, "run_one", fake_run(calls))
    found = store.get(job, sample)
    assert calls == [(0, "own", 3), (0, "other", 1), (1, "own", 3), (1, "other", 1)]
    assert found["seconds"] == {"own": [7, 8]} and found["one_epoch"] == {"other": [7, 8]}
    assert not list((tmp_path / "work").glob("*.json"))  # a later timing begins with new rounds
    monkeypatch.setitem(RECIPES, "other", RECIPES["other"] | {"batch_size": 64})
    changed = runs.timing_job(tmp_path, tmp_path / "work", rounds=2)
    assert store.problem(changed) == "made with other settings (other)"


def test_published_models_are_trained_without_the_images_held_back(tiny, sample, tmp_path):
    (job,) = runs.published_jobs(["own"], tmp_path)
    found = store.get(job, sample)
    assert found["images"] == 1199 + 119 and found["held_back"]["n"] == 119
    model = models.load_model(tmp_path / "own.keras")
    assert model.count_params() == found["parameters"]
    # a network of other settings does not stay beside runs of today's
    (changed,) = runs.published_jobs(["own"], tmp_path)
    changed = changed._replace(settings=changed.settings | {"epochs": 1})
    assert store.problem(changed) == "made with other settings (epochs)"


def test_robust_alone_is_calibrated(sample, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "robust", TINY | {"epochs": 1})
    monkeypatch.setattr(photos, "calibrate", lambda model, images, labels: {"n": len(images)})
    (job,) = runs.published_jobs(["robust"], tmp_path)
    assert store.get(job, sample)["n"] == 119 and job.settings["calibration_images"] == 1000
    assert json.loads((tmp_path / "robust.json").read_text())["sha256"].keys() == {"robust.keras"}
