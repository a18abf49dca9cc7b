"""Every stored result is whole, was made by the recipe of today, and fits what it was made from."""

import hashlib

import numpy as np
import pytest

from src import benchmark, data, ensembles, models, recipes, results, tuning
from src.config import ROOT, read_json
from src.recipes import get_recipe, settings

MODELS = ROOT / "models"


def found(pattern):
    paths = sorted(MODELS.glob(pattern))
    assert paths, pattern
    return [pytest.param(path, id=path.stem) for path in paths]


def check_score(score, n):
    assert score["n"] == n and score["errors"] == round(n * (1 - score["accuracy"]))
    assert 0 < score["loss"] < 1


@pytest.mark.parametrize("path", found("benchmarks/*.json"))
def test_a_run_is_of_its_recipe_and_seed(path):
    run = results.read_result(path)
    assert run["settings"] == settings(get_recipe(run["recipe"]))
    assert path.stem == f"{run['recipe']}-{run['seed']}" and run["data"] == "MNIST"
    assert run["seed"] < benchmark.SEEDS[run["recipe"]]
    assert ("held_back" in run) == (run["validation"]["n"] == 5000)
    check_score(run["test"], 10_000)


def test_no_seed_of_the_benchmark_lacks():
    counts = {name: len(list((MODELS / "benchmarks").glob(f"{name}-*.json")))
              for name in benchmark.SEEDS}  # fmt: skip
    assert counts == benchmark.SEEDS


@pytest.mark.parametrize("path", found("ladder/*.json"))
def test_a_step_of_the_ladder_is_of_its_recipe(path):
    run = results.read_result(path, ("seconds",))
    name, changes = recipes.LADDER[path.stem.rsplit("-", 1)[0]]
    assert run["settings"] == settings(get_recipe(name, **changes))
    check_score(run["validation"], 5000)


@pytest.mark.parametrize("name", benchmark.PUBLISHED)
def test_a_published_network_is_whole_and_beside_its_own_scores(name):
    run = read_json(MODELS / f"{name}.json", ("held_back", "images"))
    model = models.load_model(MODELS / f"{name}.keras")
    network = models.build(get_recipe(name)["network"])
    assert model.count_params() == network.count_params() == run["parameters"]
    assert (run["recipe"], run["seed"], run["images"]) == (name, 0, 55_000)
    check_score(run["held_back"], 5000)


@pytest.mark.parametrize("member", ensembles.member_names())
def test_a_member_is_whole_and_of_its_recipe(member):
    run = ensembles.check_member(member)
    assert run["settings"] == settings(get_recipe(run["recipe"]))
    assert member == f"{run['recipe']}-{run['seed']}"
    for part in ensembles.PARTS:
        check_score(run[part], 5000)
        for shifts in ensembles.SHIFTS:
            kept = ensembles.FOLDER / f"{member}.npz"
            assert ensembles.load_probabilities(kept, f"{part}_{shifts}").shape == (5000, 10)


@pytest.mark.parametrize("path", found("ensemble/*student-*.json"))
def test_a_student_is_of_its_recipe(path):
    run = ensembles.read_student(path)
    assert run["settings"] == settings(get_recipe(run["recipe"]))
    way = "distilled" if run["distilled"] else "plain"
    assert path.stem == f"{run['recipe']}-{way}-{run['seed']}"
    check_score(run["test"], 10_000)


@pytest.mark.parametrize("name", recipes.STUDENTS)
def test_a_published_student_has_the_network_of_its_recipe(name):
    network = models.build(get_recipe(name)["network"])
    assert models.load_model(MODELS / f"{name}.keras").count_params() == network.count_params()


def test_the_ensemble_is_of_its_members_and_both_tries_count_what_they_store(mnist):
    declared = ensembles.read_result(ensembles.FOLDER / "declared.json")
    first, second = (
        ensembles.read_result(ensembles.FOLDER / f"{name}.json") for name in ("test", "continued")
    )
    assert declared["members"] == ensembles.member_names() == list(first["members"])
    assert list(second["members"]) == declared["members"]
    assert second["settings"] == ensembles.CONTINUED
    kept = ensembles.FOLDER / "test.npz"
    for name, score in {"ensemble": first["ensemble"], **first["members"]}.items():
        wrong = ensembles.load_probabilities(kept, name).argmax(axis=1) != mnist.y_test
        assert wrong.sum() == score["errors"]
        if name == "ensemble":
            assert np.flatnonzero(wrong).tolist() == first["wrong"]
    assert len(second["wrong"]) == second["ensemble"]["errors"]


def test_members_count_what_they_store(mnist):
    rows = data.split_fit_select_held(mnist.y_train)
    for part, at in zip(ensembles.PARTS, rows[1:], strict=True):
        for member in ensembles.member_names():
            kept = ensembles.load_probabilities(ensembles.FOLDER / f"{member}.npz", f"{part}_none")
            errors = (kept.argmax(axis=1) != mnist.y_train[at]).sum()
            assert errors == ensembles.read_member(member)[part]["errors"]


@pytest.mark.parametrize("kind", tuning.KINDS)
def test_a_search_is_whole(kind):
    search = tuning.read_searches()[kind]
    assert search["settings"] == {"images": 12_000, "epochs": 10, "trials": 12}
    spent = sum(trial["epochs"] - trial["from_epoch"] for trial in search["trials"])
    assert spent == 120 and all(trial["status"] == "COMPLETED" for trial in search["trials"])
    for trial in search["trials"]:
        tuning.recipe_from(trial["values"])


def test_the_comparison_is_of_the_searches_winner_and_fast():
    assert benchmark.compare_tuned()["difference"]["n"] == benchmark.COMPARED
    best = read_json(MODELS / "best_hyperparameters.json")
    assert best["values"] == tuning.best_trial()["values"]
    network = models.build(tuning.recipe_from(best["values"])["network"])
    assert models.load_model(MODELS / "tuned.keras").count_params() == network.count_params()


def test_exports_are_of_the_published_network_and_unchanged():
    exports = read_json(MODELS / "exports.json", ("rows", "sha256"))
    assert exports["made_from"] == "robust.keras" and "robust.keras" in exports["sha256"]
    for name, stated in exports["sha256"].items():
        assert hashlib.sha256((MODELS / name).read_bytes()).hexdigest() == stated, name


def test_other_results_are_whole():
    assert read_json(MODELS / "evaluation.json", ("test", "halves"))["model"] == "champion.keras"
    assert len(read_json(MODELS / "audit.json", ("accuracy",))["suspects"]) == 100
    assert read_json(MODELS / "photos.json", ("spoilt", "no_digit"))["spoilt_images"] == 2000
    assert set(results.read_timing()) == {*benchmark.TIMED, *benchmark.ONE_EPOCH_TIMED}
    timed = ensembles.read_result(ensembles.FOLDER / "timing.json", ("epoch_seconds",))
    assert set(timed["epoch_seconds"]) == set(recipes.MEMBERS)
    history = read_json(MODELS / "training_history.json", ("settings", "epochs"))
    assert history["settings"]["parameters"] == 459_210
    for name in ("mnist_cnn_final.keras", "best_model.keras"):
        assert models.load_model(MODELS / name).count_params() == 459_210
