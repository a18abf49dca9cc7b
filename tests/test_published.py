"""Every stored result is whole, up to date, and fits the networks and counts beside it."""

import json

import numpy as np
import pytest

from src import models
from src.config import ROOT, read_json
from src.experiments import ensembles, plan, results, runs, store, tuning
from src.reading.inference import open_model
from src.recipes import get_recipe

MODELS = ROOT / "models"
JOBS = plan.jobs()
ALL = [job for jobs in JOBS.values() for job in jobs]


@pytest.mark.parametrize("job", ALL, ids=lambda job: f"{job.path.parent.name}/{job.path.stem}")
def test_a_result_is_there_whole_and_up_to_date(job):
    assert store.problem(job) is None


def test_no_result_lies_beside_that_nobody_makes():
    made = {job.path for job in ALL}
    for folder in ("benchmarks", "ladder", "ensemble", "tuning"):
        assert set((MODELS / folder).rglob("*.json")) <= made
    others = {"baselines", "best_hyperparameters", "notebook_times", "training_history"}
    assert {path.stem for path in MODELS.glob("*.json")} - {job.path.stem for job in ALL} == others


def check_score(score, n):
    assert score["n"] == n and score["errors"] == round(n * (1 - score["accuracy"]))
    assert 0 < score["loss"] < 1


@pytest.mark.parametrize("group", ["runs", "ladder", "models", "ensemble"])
def test_scores_count_their_images(group):
    for job in JOBS[group]:
        run = read_json(job.path)
        if "recipe" not in run:
            continue
        assert run["recipe"] in job.path.stem and run["seed"] in range(20)
        shares = {"validation": 5000, "held_back": 5000, "test": 10_000}
        if "held_back" not in run:
            shares["validation"] = run["validation"]["n"]
        for part in set(shares) & set(run):
            check_score(run[part], shares[part])


def test_no_seed_lacks():
    names = [job.path.stem.rsplit("-", 1)[0] for job in JOBS["runs"]]
    assert {name: names.count(name) for name in set(names)} == {
        name: n for name, n in runs.SEEDS.items() if n
    }


@pytest.mark.parametrize("name", [*runs.PUBLISHED, *ensembles.STUDENTS])
def test_a_published_network_is_its_recipes(name):
    network = models.build(get_recipe(name).network)
    assert models.load_model(MODELS / f"{name}.keras").count_params() == network.count_params()


def test_both_tries_of_the_ensemble_count_what_is_stored(mnist):
    folder = MODELS / "ensemble"
    first, second = (read_json(folder / f"{name}.json") for name in ("test", "continued"))
    assert (
        list(first["members"])
        == list(second["members"])
        == [job.path.stem for job in ensembles.member_jobs()]
    )
    for name, score in {"ensemble": first["ensemble"], **first["members"]}.items():
        answers = ensembles.load_probabilities(folder / "test.npz", name).argmax(axis=1)
        wrong = np.flatnonzero(answers != mnist.y_test)
        assert len(wrong) == score["errors"]
        assert name != "ensemble" or wrong.tolist() == first["wrong"]
    assert len(second["wrong"]) == second["ensemble"]["errors"]


def test_members_count_what_is_stored(mnist):
    for part in ("validation", "held_back"):
        labels = mnist.part(part)[1]
        for job in ensembles.member_jobs():
            stored = ensembles.load_probabilities(job.path.with_suffix(".npz"), f"{part}_none")
            errors = (stored.argmax(axis=1) != labels).sum()
            assert errors == read_json(job.path)[part]["errors"]


@pytest.mark.parametrize("kind", tuning.KINDS)
def test_a_search_spent_as_much_as_the_others(kind):
    trials = results.trials({kind: tuning.read_searches()[kind]})
    assert trials.share.sum() == pytest.approx(tuning.TRIALS)
    assert set(trials.status) == {"COMPLETED"}


def test_the_winner_is_kept():
    best = read_json(MODELS / "best_hyperparameters.json")
    assert best["values"] == tuning.best_trial()["values"]
    network = models.build(tuning.recipe_from(best["values"]).network)
    assert models.load_model(MODELS / "tuned.keras").count_params() == network.count_params()


def test_exports_open_as_the_listed_ones():
    for name in plan.EXPORTED:
        assert open_model(MODELS / name, listed=True)(np.zeros((1, 28, 28, 1))).shape == (1, 10)


def test_the_training_of_02_is_whole():
    history = read_json(MODELS / "training_history.json", ("settings", "epochs"))
    for name in ("mnist_cnn_final.keras", "best_model.keras"):
        parameters = models.load_model(MODELS / name).count_params()
        assert parameters == history["settings"]["parameters"]
    assert len(json.dumps(history["epochs"])) > 100
