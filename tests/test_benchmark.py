"""Runs are scored on the right images, resumed, and never averaged in when damaged."""

import json

import numpy as np
import pytest

from src import benchmark, data, recipes

TINY = {
    "about": "a tiny network",
    "network": {"filters": (4,), "pool": True, "batch_norm": False, "dense_units": ()},
    "epochs": 3,
    "batch_size": 128,
}


@pytest.fixture
def tiny(monkeypatch):
    """One recipe with the project's split and one with a share, two seeds each."""
    for name, extra in {"own": {"validation": "select"}, "other": {}}.items():
        monkeypatch.setitem(recipes.RECIPES, name, {**TINY, **extra})
        monkeypatch.setitem(benchmark.SEEDS, name, 2)


def test_a_run_is_scored_on_each_part(tiny, sample):
    result = benchmark.run_one("own", 1, sample)
    assert (result["seed"], result["epochs"], result["images"]) == (1, 3, 1199)
    sizes = {part: result[part]["n"] for part in ("validation", "held_back", "test")}
    assert sizes == {"validation": 119, "held_back": 119, "test": 360}
    assert result["multiply_adds"] == 28 * 28 * 9 * 4 + 14 * 14 * 4 * 10
    assert result["peak_test_accuracy"] >= result["test"]["accuracy"]


def test_another_system_keeps_its_own_share_and_has_no_images_held_back(tiny, sample):
    result = benchmark.run_one("other", 0, sample)
    assert result["validation"]["n"] == 288 and "held_back" not in result


def test_the_same_seed_gives_the_same_run(tiny, sample):
    first, again = (benchmark.run_one("own", 3, sample) for _ in range(2))
    assert first["test"] == again["test"] != benchmark.run_one("own", 4, sample)["test"]


def test_peak_takes_the_best_epoch(sample):
    class Fake:
        def set_weights(self, value):
            self.value = value

        def predict(self, images, **_):
            wrong = (sample.y_test + (np.arange(360) < self.value)) % 10
            return np.eye(10)[wrong]

    assert benchmark.peak(Fake(), [36, 18, 90], sample) == pytest.approx(0.95)


def fake_run(calls):
    def run_one(name, seed, digits):
        calls.append((seed, name))
        score = {"accuracy": 0.5}
        return dict.fromkeys(benchmark.NEEDED, 1) | {"validation": score, "seed": seed}

    return run_one


def test_a_plan_goes_on_with_what_it_lacks(tiny, sample, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(benchmark, "run_one", fake_run(calls))
    benchmark.run_plan(["own", "other"], sample, tmp_path)
    assert calls == [(0, "own"), (0, "other"), (1, "own"), (1, "other")]
    (tmp_path / "own-1.json").unlink()
    (tmp_path / "other-0.json").write_text('{"recipe": "other"')
    (tmp_path / "other-1.json").write_text(json.dumps({"recipe": "other", "seed": 1}))
    calls.clear()
    capsys.readouterr()
    benchmark.run_plan(["own", "other"], sample, tmp_path)
    assert calls == [(0, "other"), (1, "own"), (1, "other")]
    said = capsys.readouterr().out
    assert "other-0.json: damaged" in said and "other-1.json: incomplete, without epochs" in said
    assert benchmark.read_result(tmp_path / "other-1.json")["seed"] == 1


def test_a_killed_plan_keeps_what_it_finished(tiny, sample, tmp_path, monkeypatch):
    calls = []
    run_one = fake_run(calls)

    def killed(name, seed, digits):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_one(name, seed, digits)

    monkeypatch.setattr(benchmark, "run_one", killed)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run_plan(["own", "other"], sample, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other-0.json", "own-0.json"]


def test_an_unknown_recipe_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark", "slow"])
    assert benchmark.main() == 1
    assert "no recipe named 'slow'" in capsys.readouterr().err


def test_images_come_back_from_kaggles_csv_as_they_went_in(sample, tmp_path):
    rows = np.array([5, 3, 8])
    path = tmp_path / "new" / "train.csv"
    for _ in range(2):  # written, then read again
        images, labels = benchmark.through_kaggle_csv(sample, rows, path)
        assert np.array_equal(images, sample.x_train[rows])
        assert np.array_equal(labels, sample.y_train[rows])


def test_committed_results_are_whole_and_of_the_plan():
    for path in sorted(benchmark.FOLDER.glob("*.json")):
        result = benchmark.read_result(path)
        assert path.name == f"{result['recipe']}-{result['seed']}.json"
        assert result["seed"] < benchmark.SEEDS[result["recipe"]]
        assert result["data"] == "MNIST" and result["test"]["n"] == 10_000
        assert ("held_back" in result) == (result["validation"]["n"] == 5000)


def test_the_projects_split_never_trains_on_the_images_held_back(tiny, sample):
    from src.training import split_rows

    fit, val = split_rows(recipes.get_recipe("own"), sample.y_train, 0)
    held = data.split_fit_select_held(sample.y_train)[2]
    assert not set(held) & (set(fit) | set(val))
