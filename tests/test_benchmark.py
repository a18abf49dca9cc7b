"""Runs are scored on the right images, resumed, and never averaged in when damaged."""

import json

import numpy as np
import pytest

from src import benchmark, data, recipes, results, tuning

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


def run(name, seed, digits, **kwargs):
    return benchmark.run_one(recipes.get_recipe(name), seed, digits, **kwargs)


def test_a_run_is_scored_on_each_part(tiny, sample):
    result = run("own", 1, sample)
    assert (result["seed"], result["epochs"], result["images"]) == (1, 3, 1199)
    sizes = {part: result[part]["n"] for part in ("validation", "held_back", "test")}
    assert sizes == {"validation": 119, "held_back": 119, "test": 360}
    assert result["multiply_adds"] == 28 * 28 * 9 * 4 + 14 * 14 * 4 * 10
    assert "peak_test_accuracy" not in result  # ours: no choice between epochs is looked at


def test_another_system_keeps_its_own_share_and_has_no_images_held_back(tiny, sample):
    result = run("other", 0, sample)
    assert result["validation"]["n"] == 288 and "held_back" not in result
    assert result["peak_test_accuracy"] >= result["test"]["accuracy"]


def test_a_step_of_the_ladder_leaves_the_test_set_alone(tiny, sample):
    blind = sample._replace(x_test=None, y_test=None)
    result = run("own", 0, blind, test=False)
    assert "test" not in result and "held_back" not in result


def test_the_same_seed_gives_the_same_run(tiny, sample):
    first, again = (run("own", 3, sample) for _ in range(2))
    assert first["test"] == again["test"] != run("own", 4, sample)["test"]


def test_peak_takes_the_best_epoch(sample):
    class Fake:
        def set_weights(self, value):
            self.value = value

        def predict(self, images, **_):
            wrong = (sample.y_test + (np.arange(360) < self.value)) % 10
            return np.eye(10)[wrong]

    assert benchmark.peak(Fake(), [36, 18, 90], sample) == pytest.approx(0.95)


def fake_run(calls):
    def run_one(recipe, seed, digits, test=True):
        calls.append((seed, recipe["name"]))
        parts = {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}
        own = {"seed": seed, "seconds": 7.0 + seed, "settings": recipes.settings(recipe)}
        return dict.fromkeys(results.NEEDED, 1) | parts | own

    return run_one


def test_a_plan_goes_on_with_what_it_lacks(tiny, sample, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(benchmark, "run_one", fake_run(calls))
    benchmark.runs(sample, ["own", "other"], tmp_path)
    assert calls == [(0, "own"), (0, "other"), (1, "own"), (1, "other")]
    (tmp_path / "own-1.json").unlink()
    (tmp_path / "other-0.json").write_text('{"recipe": "other"')
    (tmp_path / "other-1.json").write_text(json.dumps({"recipe": "other", "seed": 1}))
    calls.clear()
    capsys.readouterr()
    benchmark.runs(sample, ["own", "other"], tmp_path)
    assert calls == [(0, "other"), (1, "own"), (1, "other")]
    said = capsys.readouterr().out
    assert (
        "other-0.json: damaged" in said
        and "other-1.json: incomplete, without settings, epochs" in said
    )
    again = results.read_result(tmp_path / "other-1.json")
    assert again["seed"] == 1 and "seconds" not in again  # times are timing's alone


def test_a_result_of_another_recipe_is_not_kept(tiny, sample, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(benchmark, "run_one", fake_run(calls))
    benchmark.runs(sample, ["own"], tmp_path)
    monkeypatch.setitem(recipes.RECIPES, "own", recipes.RECIPES["own"] | {"about": "other words"})
    benchmark.runs(sample, ["own"], tmp_path)
    assert len(calls) == 2
    monkeypatch.setitem(recipes.RECIPES, "own", recipes.RECIPES["own"] | {"batch_size": 64})
    benchmark.runs(sample, ["own"], tmp_path)
    assert len(calls) == 4
    assert "own-0.json: the recipe has changed since" in capsys.readouterr().out


def test_the_ladder_runs_its_steps_without_the_test_set(tiny, sample, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(benchmark, "run_one", fake_run(calls))
    monkeypatch.setattr(benchmark, "LADDER", {"one": ("own", {}), "two": ("own", {"epochs": 1})})
    monkeypatch.setattr(benchmark, "LADDER_SEEDS", 2)
    for _ in range(2):
        benchmark.ladder(sample, tmp_path)
    assert len(calls) == 4
    monkeypatch.setattr(results, "LADDER", benchmark.LADDER)
    first = tmp_path / "one-0.json"
    content = json.loads(first.read_text())
    first.write_text(json.dumps(content | {"seconds": 3.0, "validation": {"accuracy": 0.7}}))
    rows = results.ladder_rows(tmp_path)
    assert [(row["step"], row["seeds"]) for row in rows] == [("one", 2), ("two", 2)]
    assert rows[0]["seconds"] == pytest.approx((3 + 8) / 2)
    assert rows[0]["accuracy"] == pytest.approx(60)
    assert rows[0]["sd"] == pytest.approx(100 * np.std([0.5, 0.7], ddof=1))
    assert rows[1]["sd"] == 0


def test_a_killed_plan_keeps_what_it_finished(tiny, sample, tmp_path, monkeypatch):
    calls = []
    run_one = fake_run(calls)

    def killed(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_one(*args)

    monkeypatch.setattr(benchmark, "run_one", killed)
    with pytest.raises(KeyboardInterrupt):
        benchmark.runs(sample, ["own", "other"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other-0.json", "own-0.json"]


def test_timing_takes_the_recipes_in_turn_and_keeps_runs_that_lack(
    tiny, sample, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(benchmark, "run_one", fake_run(calls))
    monkeypatch.setattr(benchmark, "RUNS", tmp_path)
    monkeypatch.setattr(benchmark, "TIMED", ("own",))
    monkeypatch.setattr(benchmark, "ONE_EPOCH_TIMED", ("other",))
    (tmp_path / "own-0.json").write_text("kept")
    benchmark.timing(sample, tmp_path / "timing.json", rounds=2)
    assert calls == [(0, "own"), (0, "other"), (1, "own"), (1, "other")]
    found = json.loads((tmp_path / "timing.json").read_text())
    assert found["seconds"] == {"own": [7, 8]} and found["one_epoch"] == {"other": [7, 8]}
    assert results.read_timing(tmp_path) == {"own": [7, 8], "other": [21, 24]}  # three epochs
    assert (tmp_path / "own-0.json").read_text() == "kept"
    assert not (tmp_path / "other-0.json").exists()
    assert "seconds" not in results.read_result(tmp_path / "own-1.json")


def test_published_models_are_fitted_without_the_images_held_back(
    tiny, sample, tmp_path, monkeypatch
):
    for _ in range(2):  # the second finds all done
        benchmark.train_published(sample, ["own"], tmp_path)
        monkeypatch.setattr(benchmark.training, "train", None)
    found = json.loads((tmp_path / "own.json").read_text())
    assert found["images"] == 1199 + 119 and found["held_back"]["n"] == 119
    model = benchmark.models.load_model(tmp_path / "own.keras")
    assert model.count_params() == found["parameters"]


def test_an_unknown_recipe_is_named(monkeypatch, capsys):
    for command, name in (("runs", "slow"), ("runs", "robust"), ("models", "five_conv")):
        monkeypatch.setattr("sys.argv", ["benchmark", command, name])
        assert benchmark.main() == 1
        said = capsys.readouterr().err
        assert f"no {command} of {name}; there are" in said and "fast, strong" in said


def test_images_come_back_from_kaggles_csv_as_they_went_in(sample, tmp_path):
    rows = np.array([5, 3, 8])
    path = tmp_path / "new" / "train.csv"
    for _ in range(2):  # written, then read again
        images, labels = benchmark.through_kaggle_csv(sample, rows, path)
        assert np.array_equal(images, sample.x_train[rows])
        assert np.array_equal(labels, sample.y_train[rows])


def test_committed_results_are_whole_and_of_the_plan():
    for path in sorted(benchmark.RUNS.glob("*.json")):
        result = results.read_result(path)
        assert result["settings"] == recipes.settings(recipes.get_recipe(result["recipe"]))
        assert path.name == f"{result['recipe']}-{result['seed']}.json"
        assert result["seed"] < benchmark.SEEDS[result["recipe"]]
        assert result["data"] == "MNIST" and result["test"]["n"] == 10_000
        assert ("held_back" in result) == (result["validation"]["n"] == 5000)


def test_the_projects_split_never_trains_on_the_images_held_back(tiny, sample):
    from src.training import split_rows

    fit, val = split_rows(recipes.get_recipe("own"), sample.y_train, 0)
    held = data.split_fit_select_held(sample.y_train)[2]
    assert not set(held) & (set(fit) | set(val))


BEST = {"blocks": 2}


def write_compared(folder, wrong, values=BEST):
    """A search, and runs of `tuned`: name -> a list of wrong rows per seed."""
    found = {"project": "p", "settings": {}, "trials": [{"loss": 0.1, "values": values}]}
    (folder / "random.json").write_text(json.dumps(found))
    (folder / "compared").mkdir(exist_ok=True)
    for name, seeds in wrong.items():
        recipe = tuning.recipe_from(BEST) if name == "tuned" else recipes.get_recipe("fast")
        for seed, rows in enumerate(seeds):
            run = {"seed": seed, "settings": recipes.settings(recipe), "n": 1000, "wrong": rows}
            run |= {"parameters": 7, "seconds": 30.0 if name == "tuned" else 20.0}
            (folder / f"compared/{name}-{seed}.json").write_text(json.dumps(run))


def some(n, start=0):
    return list(range(start, start + n))


@pytest.mark.parametrize(
    ("tuned", "verdict"),
    [
        ([some(1), some(2), some(1), some(3), []], "tuned is better"),
        ([some(23), some(20), some(22, 30), some(21), some(17)], "no difference shown"),
        # every seed is a little worse, but by two images of a thousand: the draw of images
        ([some(22), some(22), some(22), some(22), some(22)], "no difference shown"),
        ([some(60), some(62), some(61), some(59), some(60)], "tuned is worse"),
    ],
)
def test_the_tuned_settings_are_compared_over_seeds_and_images(tuned, verdict, tmp_path):
    fast = [some(20), some(20), some(20), some(20), some(20)]
    write_compared(tmp_path, {"tuned": tuned, "fast": fast})
    found = benchmark.compare_tuned(tmp_path)
    assert found["verdict"] == verdict and found["time_ratio"] == 1.5
    assert found["accuracy"]["fast"]["mean"] == pytest.approx(0.98)
    gains = [(len(f) - len(t)) / 1000 for f, t in zip(fast, tuned, strict=True)]
    assert found["difference"]["mean"] == pytest.approx(np.mean(gains))
    assert found["difference"]["sd"] == pytest.approx(np.std(gains, ddof=1))
    per_image = [np.mean([(i in f) - (i in t) for f, t in zip(fast, tuned, strict=True)])
                 for i in range(1000)]  # fmt: skip
    over_images = found["difference_over_images"]
    assert over_images["sd"] == pytest.approx(np.std(per_image, ddof=1))
    assert over_images["mean"] == pytest.approx(np.mean(gains)) and over_images["n"] == 1000
    first = (set(fast[0]), set(tuned[0]))
    only = {"only_a": len(first[0] - first[1]), "only_b": len(first[1] - first[0])}
    assert {k: found["mcnemar"][k] for k in only} == only


def test_a_compared_run_that_is_missing_damaged_or_of_other_settings_is_named(tmp_path):
    write_compared(tmp_path, {"tuned": [[1]] * 5, "fast": [[1]] * 4})
    with pytest.raises(FileNotFoundError, match=r"fast-4.json"):
        benchmark.compare_tuned(tmp_path)
    (tmp_path / "compared/fast-4.json").write_text("{}")
    with pytest.raises(ValueError, match="fast-4.json: incomplete, without seed"):
        benchmark.compare_tuned(tmp_path)
    write_compared(tmp_path, {"tuned": [[1]] * 5, "fast": [[1]] * 5}, values={"blocks": 3})
    with pytest.raises(ValueError, match="tuned-0.json: of other settings"):
        benchmark.compare_tuned(tmp_path)


def test_the_winner_and_fast_are_trained_in_turn_and_not_twice(
    tiny, sample, tmp_path, monkeypatch, capsys
):
    trials = [{"loss": loss, "values": {"blocks": 2, "batch_size": size}}
              for loss, size in ((None, 64), (0.2, 256), (0.1, 128))]  # fmt: skip
    search = {"project": "p", "settings": {}, "trials": trials}
    (tmp_path / "random.json").write_text(json.dumps(search))
    monkeypatch.setitem(recipes.RECIPES, "fast", {**recipes.RECIPES["fast"], "epochs": 1})
    monkeypatch.setattr(benchmark, "COMPARED", 1)
    benchmark.tuned(sample, tmp_path)
    found = {
        n: json.loads((tmp_path / f"compared/{n}-0.json").read_text()) for n in ("tuned", "fast")
    }
    assert len(found["tuned"]["settings"]["network"]["filters"]) == 2
    assert found["fast"]["settings"] == recipes.settings(recipes.get_recipe("fast"))
    assert all(run["n"] == 119 and max(run["wrong"]) < 119 for run in found.values())
    capsys.readouterr()
    benchmark.tuned(sample, tmp_path)
    assert capsys.readouterr().out == ""
    (tmp_path / "compared/fast-0.json").write_text("{")
    benchmark.tuned(sample, tmp_path)
    assert capsys.readouterr().out.startswith("fast-0.json: damaged")


def test_the_audit_reads_each_image_with_a_network_that_was_not_trained_on_it(
    tmp_path, monkeypatch
):
    """Networks that know the true digit, kept in an image's first pixel, of images that they
    were not trained on: the two wrong labels come first."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (400, 28, 28), dtype=np.uint8)
    truth = np.arange(400) % 10
    images[:, 0, 0] = 20 * truth
    labels = truth.copy()
    labels[[17, 230]] = [3, 4]

    class Knows:
        def __init__(self, fitted):
            self.fitted = {image.tobytes() for image in data.scale_images(fitted)}

        def predict(self, scaled, **_):
            assert not self.fitted & {image.tobytes() for image in scaled}
            digits = np.round(scaled[:, 0, 0, 0] * 255 / 20).astype(int)
            return 0.9 * np.eye(10)[digits] + 0.01

    def train(recipe, fitted, fitted_labels, seed):
        assert len(fitted) == len(fitted_labels) == 320
        return benchmark.training.Trained(Knows(fitted), {}, 0.0, None, None)

    monkeypatch.setattr(benchmark.training, "train", train)
    digits = data.DigitData(images, labels, images[:1], labels[:1], "made up")
    benchmark.audit(digits, tmp_path / "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text())
    assert [s["row"] for s in found["suspects"][:2]] == [17, 230]
    first = found["suspects"][0]
    assert (first["label"], first["predicted"]) == (3, 7)
    assert first["probability"] == pytest.approx(0.91) and first["quality"] == pytest.approx(0.01)
    assert found["accuracy"] == 398 / 400 and found["above_threshold"] == 2
    assert len(found["suspects"]) == 100 and found["images"] == 400


def test_photos_have_scenes_of_their_own_and_say_how_many_were_read(monkeypatch, tmp_path, sample):
    seeds, whole = [], benchmark.corrupt.photograph

    def photograph(image, seed, **strengths):
        seeds.append(seed)
        return whole(image, seed, 64, **strengths)

    def says(path):
        digit = 2 if path.suffix == ".onnx" else 3
        row = np.where(np.arange(10) == digit, 0.91, 0.01)
        return lambda images: np.tile(row, (len(images), 1))

    monkeypatch.setattr(benchmark.corrupt, "photograph", photograph)
    monkeypatch.setattr(benchmark.corrupt, "KINDS", {"plain": benchmark.corrupt.PLAIN})
    monkeypatch.setattr(benchmark, "open_model", says)
    letters, scribbles = benchmark.corrupt.letters()[:4], benchmark.corrupt.scribbles(6)
    monkeypatch.setattr(benchmark.corrupt, "letters", lambda: letters)
    monkeypatch.setattr(benchmark.corrupt, "scribbles", lambda n: scribbles)
    monkeypatch.setattr(benchmark, "PHOTOS", 12)
    monkeypatch.setattr(benchmark, "BY_KIND", 5)
    benchmark.photos(sample, tmp_path / "photos.json")
    found = json.loads((tmp_path / "photos.json").read_text())
    assert sorted(set(seeds)) == list(range(1_000_000, 1_000_012)) and len(seeds) == 17
    assert list(found["photos"]["plain"]) == [
        "resized", "boxed", "prepared + champion", "prepared + robust",
    ]  # fmt: skip
    assert {kind: row["boxed"]["n"] for kind, row in found["photos"].items()} == {
        "all together": 12, "plain": 5,
    }  # fmt: skip
    rows = np.random.default_rng(0).permutation(360)[:12]
    twos, threes = (float((sample.y_test[rows] == digit).mean()) for digit in (2, 3))
    read = found["photos"]["all together"]["resized"]
    ways, compared = found["photos"]["all together"], found["robust_against_champion"]
    for count, network in (("only_a", "robust"), ("only_b", "champion")):  # none is right twice
        assert compared[count] == round(12 * ways[f"prepared + {network}"]["accuracy"])
    assert compared["only_a"] != compared["only_b"]
    assert found["spoilt_images"] == 12 and read["accuracy"] == pytest.approx(threes)
    assert found["spoilt"]["fog"]["robust.onnx"] == pytest.approx(twos)
    numbers = {k: [row["n"] for row in ways.values()] for k, ways in found["no_digit"].items()}
    assert numbers == {"letters": [4, 4], "scribbles": [6, 6]}
    assert found["no_digit"]["scribbles"]["prepared + robust"]["wrong_and_sure"] == 1
