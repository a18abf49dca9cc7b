"""Averages against cases worked out by hand; members and students trained on a few images."""

import json
import shutil

import keras
import numpy as np
import pytest

from src import data, ensembles, models, recipes

RNG = np.random.default_rng(0)


def rows(*values):
    """Probabilities (n, 10): each value for digit 0, the rest for digit 1."""
    out = np.zeros((len(values), 10))
    out[:, 0], out[:, 1] = values, 1 - np.array(values)
    return out


# --- averages ----------------------------------------------------------------------------------


def test_average_is_the_mean_of_probabilities():
    found = ensembles.average([rows(0.9, 0.4), rows(0.2, 0.4), rows(0.1, 0.1)])
    np.testing.assert_allclose(found, rows(0.4, 0.3))


def test_average_can_outvote_by_confidence():
    # two of three say 1, but the third is surer of 0
    mean = ensembles.average([rows(0.45), rows(0.45), rows(0.99)])
    assert mean.argmax() == 0


def test_an_ensemble_of_one_is_its_member():
    np.testing.assert_array_equal(ensembles.average([rows(0.3, 0.8)]), rows(0.3, 0.8))


def test_an_ensemble_of_none_is_refused():
    with pytest.raises(ValueError, match="an ensemble of none"):
        ensembles.average([])


@pytest.mark.parametrize(
    "second, message",
    [
        (rows(0.5), r"late: probabilities \(1, 10\), the first member's are \(2, 10\)"),
        (np.full((2, 9), 1 / 9), r"late: probabilities \(2, 9\)"),
        (np.full((2, 10), np.nan), "late: probabilities that are not finite"),
    ],
)
def test_members_that_disagree_are_named(second, message):
    with pytest.raises(ValueError, match=message):
        ensembles.average([rows(0.5, 0.5), second], ["early", "late"])


def test_shift_moves_pixels_and_fills_with_paper():
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    moved = ensembles.shift(image, 1, -1)[0, ..., 0]
    np.testing.assert_array_equal(moved, [[0, 0, 0], [2, 3, 0], [5, 6, 0]])
    np.testing.assert_array_equal(ensembles.shift(image, 0, 0), image)


@pytest.mark.parametrize("step", [(3, 0), (0, -3)])
def test_a_shift_out_of_the_image_is_refused(step):
    with pytest.raises(ValueError, match="leaves nothing of 3x3 pixels"):
        ensembles.shift(np.ones((1, 3, 3, 1)), *step)


def test_shifts_are_averaged():
    # the answer is the brightness of the middle pixel: 1 for one of the five copies
    image = np.zeros((1, 3, 3, 1), np.float32)
    image[0, 0, 1] = 1
    found = ensembles.average_shifts(
        lambda x: rows(*x[:, 1, 1, 0]), image, ensembles.SHIFTS["cross"]
    )
    np.testing.assert_allclose(found, rows(0.2))


def test_each_kind_of_shifts_has_the_image_itself():
    for shifts in ensembles.SHIFTS.values():
        assert (0, 0) in shifts and len(set(shifts)) == len(shifts)
    assert [len(s) for s in ensembles.SHIFTS.values()] == [1, 5, 9]


def test_subsets_of_three_members_by_hand():
    labels = np.array([0, 0])
    members = [rows(0.9, 0.2), rows(0.2, 0.9), rows(0.6, 0.6)]
    found = ensembles.subset_scores(labels, members)
    assert found[1]["errors"] == [1, 1, 0]
    assert found[2]["errors"] == [0, 1, 1]  # 0.55 and 0.55; 0.75 and 0.4; 0.4 and 0.75
    assert found[3]["errors"] == [0]
    loss = -np.log([0.55, 0.55]).mean()
    assert found[2]["loss"][0] == pytest.approx(loss)
    assert [len(found[n]["loss"]) for n in (1, 2, 3)] == [3, 3, 1]


def test_the_mean_of_members_never_loses_more_than_they_do_on_average():
    # Jensen's inequality: -log of a mean is at most the mean of -logs
    labels = RNG.integers(0, 10, 50)
    members = [RNG.dirichlet(np.ones(10), 50) for _ in range(4)]
    found = ensembles.subset_scores(labels, members)
    means = [np.mean(found[size]["loss"]) for size in found]
    assert means == sorted(means, reverse=True)


# --- distillation ------------------------------------------------------------------------------


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_loss_is_that_of_softened_logits(temperature):
    teacher, student = RNG.normal(0, 2, (2, 6, 10))
    expected = -(temperature**2) * (
        softmax(teacher / temperature) * np.log(softmax(student / temperature))
    ).sum(axis=1)
    found = ensembles.distillation_loss(
        softmax(teacher).astype("f4"), softmax(student).astype("f4"), temperature
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_distillation_at_temperature_one_is_keras_own_cross_entropy():
    teacher, student = (RNG.dirichlet(np.ones(10), 7).astype("f4") for _ in range(2))
    keras_own = keras.losses.categorical_crossentropy(teacher, student)
    np.testing.assert_allclose(ensembles.distillation_loss(teacher, student), keras_own, rtol=1e-5)


def test_distillation_is_least_for_the_teachers_own_answer():
    teacher = RNG.dirichlet(np.ones(10), 5).astype("f4")
    others = RNG.dirichlet(np.ones(10), 5).astype("f4")
    own = np.array(ensembles.distillation_loss(teacher, teacher, 3.0))
    assert (own < np.array(ensembles.distillation_loss(teacher, others, 3.0))).all()


# --- networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("five_conv", 200_362),
        ("vgg", 274_274),
        ("resnet", 309_418),
        ("large_kernels", 411_498),
        ("student", 76_498),
        ("small_student", 19_734),
    ],
)
def test_parameter_counts(name, parameters):
    model = models.build(recipes.get_recipe(name)["network"])
    assert model.count_params() == parameters
    assert model.output_shape == (None, 10)


def test_members_differ_in_the_network_alone():
    found = [recipes.get_recipe(name) for name in recipes.MEMBERS]
    for field in ("optimizer", "augmentation", "schedule", "batch_size", "label_smoothing"):
        assert all(recipe[field] == found[0][field] for recipe in found), field


# --- probabilities on disk -----------------------------------------------------------------------


def test_probabilities_come_back(tmp_path):
    kept = RNG.dirichlet(np.full(10, 0.1), 20)
    path = ensembles.save_probabilities(tmp_path / "one.npz", {"a": kept})
    np.testing.assert_allclose(ensembles.load_probabilities(path, "a"), kept, atol=2e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.npz"]


def test_damaged_probabilities_are_named(tmp_path):
    path = ensembles.save_probabilities(
        tmp_path / "one.npz", {"a": rows(0.5), "b": np.ones((2, 3))}
    )
    with pytest.raises(ValueError, match="one.npz: damaged, or without c"):
        ensembles.load_probabilities(path, "c")
    with pytest.raises(ValueError, match=r"one.npz: b is \(2, 3\), expected \(n, 10\)"):
        ensembles.load_probabilities(path, "b")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="one.npz: damaged"):
        ensembles.load_probabilities(path, "a")
    with pytest.raises(FileNotFoundError, match="two.npz: no such file; `make ensemble`"):
        ensembles.load_probabilities(tmp_path / "two.npz", "a")


# --- members, trained small ----------------------------------------------------------------------

TINY = {"about": "tiny", "validation": "select", "epochs": 1, "batch_size": 128}
SMALL = {"filters": (4,), "pool": True, "batch_norm": False, "dense_units": (), "dropout": 0.0}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Two members of one seed and one student of two seeds; a folder for what they leave."""
    members = {"plain": TINY | {"network": SMALL}, "residual": TINY | {"network": {"blocks": (4,)}}}
    for where in (recipes, ensembles):
        monkeypatch.setattr(where, "MEMBERS", members)
    student = {"pupil": recipes.LONG | TINY | {"network": SMALL}}
    for where in (recipes, ensembles):
        monkeypatch.setattr(where, "STUDENTS", student)
    monkeypatch.setattr(ensembles, "SEEDS", 1)
    monkeypatch.setattr(ensembles, "STUDENT_SEEDS", 2)
    monkeypatch.setattr(ensembles, "POOL", tmp_path / "pool")
    monkeypatch.setattr(ensembles, "CONTINUED_FOLDER", tmp_path / "continued")
    monkeypatch.setattr(ensembles, "POOL_EPOCHS", 1)
    return tmp_path / "models" / "ensemble"


@pytest.fixture
def trained(monkeypatch):
    """Networks are built and not trained, and predict by one call, which saves seconds; the
    names of those that were asked for."""
    names = []

    def build(recipe, images, labels, seed):
        names.append(recipe["name"])
        keras.utils.set_random_seed(seed)
        model = models.build(recipe["network"])
        return ensembles.training.Trained(model, {}, 0.0, *data.split_fit_select_held(labels)[:2])

    monkeypatch.setattr(ensembles.training, "train", build)
    monkeypatch.setattr(ensembles, "_predict", lambda model, x: np.asarray(model(x)))
    return names


def test_members_are_trained_and_chosen_without_the_test_images(tiny, sample):
    blind = sample._replace(x_test=None, y_test=None)
    ensembles.train_members(blind, tiny)
    names = ensembles.member_names()
    assert names == ["plain-0", "residual-0"]
    assert {p.name for p in tiny.iterdir()} == {
        f"{n}{end}" for n in names for end in (".json", ".keras", ".npz")
    }
    declared = ensembles.declare(blind, tiny)
    assert declared["members"] == names
    errors = {kind: found["errors"] for kind, found in declared["select"].items()}
    assert errors[declared["shifts"]] == min(errors.values())
    assert ensembles.declare(blind, tiny) == declared


def test_members_are_scored_as_their_probabilities_are_stored(tiny, sample, trained, monkeypatch):
    close = np.full(10, 1e-3)
    close[1], close[0] = 0.4961, 0.4959  # a tie once stored as float16, and the first one wins
    monkeypatch.setattr(ensembles, "_predict", lambda model, x: np.tile(close, (len(x), 1)))
    ensembles.train_members(sample, tiny)
    held = data.split_fit_select_held(sample.y_train)[2]
    scored = ensembles.read_member("plain-0", tiny)["held_back"]
    assert scored["errors"] == (sample.y_train[held] != 0).sum()


def test_what_is_missing_or_damaged_is_trained_again(tiny, sample, trained, capsys, monkeypatch):
    ensembles.train_members(sample, tiny)
    assert trained == ["plain", "residual"]
    before = (tiny / "plain-0.json").stat().st_mtime_ns
    ensembles.train_members(sample, tiny)
    assert trained == ["plain", "residual"]  # all were there
    (tiny / "residual-0.npz").write_bytes(b"PK")
    ensembles.train_members(sample, tiny)
    said = capsys.readouterr().out
    assert "residual-0.npz: damaged" in said and "trained again" in said
    (tiny / "residual-0.keras").unlink()
    ensembles.train_members(sample, tiny)
    assert "residual-0.keras: no such file" in capsys.readouterr().out
    (tiny / "residual-0.json").write_text("{")
    ensembles.train_members(sample, tiny)
    assert "residual-0.json: damaged" in capsys.readouterr().out
    assert (tiny / "plain-0.json").stat().st_mtime_ns == before
    monkeypatch.setitem(recipes.MEMBERS["plain"], "batch_size", 64)
    ensembles.train_members(sample, tiny)
    assert "plain-0.json: the recipe has changed since" in capsys.readouterr().out
    assert trained == ["plain", *["residual"] * 4, "plain"]


def test_a_killed_training_goes_on_with_the_nets_it_lacks(tiny, sample, trained, monkeypatch):
    build = ensembles.training.train

    def killed(recipe, *args):
        if recipe["name"] == "residual":
            raise KeyboardInterrupt
        return build(recipe, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ensembles.training, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            ensembles.train_members(sample, tiny)
    assert (tiny / "plain-0.json").exists() and not (tiny / "residual-0.json").exists()
    ensembles.train_members(sample, tiny)
    assert trained == ["plain", "residual"]


def test_the_declared_ensemble_is_opened_once(tiny, sample, trained):
    ensembles.train_members(sample, tiny)
    ensembles.declare(sample, tiny)
    found = ensembles.open_test(sample, tiny)
    stored = ensembles.load_probabilities(tiny / "test.npz", "ensemble")
    wrong = np.flatnonzero(stored.argmax(axis=1) != sample.y_test)
    assert found["wrong"] == wrong.tolist() and found["ensemble"]["errors"] == len(wrong)
    alone = [ensembles.load_probabilities(tiny / "test.npz", n) for n in ("plain-0", "residual-0")]
    errors = int((np.mean(alone, axis=0).argmax(axis=1) != sample.y_test).sum())
    assert found["without_shifts"]["errors"] == errors
    blind = sample._replace(x_test=None, y_test=None)
    assert ensembles.open_test(blind, tiny) == json.loads(json.dumps(found))


def test_a_missing_member_is_named(tiny, sample, trained):
    ensembles.train_members(sample, tiny)
    (tiny / "residual-0.npz").unlink()
    with pytest.raises(FileNotFoundError, match="residual-0.npz: no such file"):
        ensembles.declare(sample, tiny)


def test_the_second_try_goes_on_from_the_members(tiny, sample, monkeypatch, capsys):
    still = {"validation": "held_back", "epochs": 1, "optimizer": {"learning_rate": 1e-12}}
    monkeypatch.setattr(ensembles, "CONTINUED", still)
    ensembles.train_members(sample, tiny)
    found = ensembles.continue_members(sample, tiny)
    kept = {path.stem: path for path in ensembles.CONTINUED_FOLDER.iterdir()}
    assert set(kept) == {"plain-0", "residual-0"}
    before, after = (
        models.load_model(path).get_weights() for path in (tiny / "plain-0.keras", kept["plain-0"])
    )
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    answer = models.load_model(tiny / "plain-0.keras").predict(
        data.scale_images(sample.x_test), verbose=0
    )
    wrong = int((answer.argmax(axis=1) != sample.y_test).sum())
    assert found["members"]["plain-0"]["errors"] == wrong
    assert found["ensemble"]["n"] == 360 and len(found["wrong"]) == found["ensemble"]["errors"]
    assert found["held_back"]["n"] == len(data.split_fit_select_held(sample.y_train)[2])
    (tiny / "continued.json").unlink()
    kept["residual-0"].unlink()
    capsys.readouterr()
    ensembles.continue_members(sample, tiny)
    said = capsys.readouterr().out
    assert "residual-0: trained on" in said and "plain-0: trained on" not in said
    blind = sample._replace(x_train=None, x_test=None)
    assert ensembles.continue_members(blind, tiny)["wrong"] == found["wrong"]


def test_students_learn_from_the_same_images(tiny, sample, trained, monkeypatch):
    ensembles.train_members(sample, tiny)
    fitted = []
    fit = keras.Model.fit

    def spy(self, images, labels, **kwargs):
        fitted.append((images, labels))
        return fit(self, images, labels, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", spy)
    ensembles.train_students(sample, tiny)
    runs = [f"pupil-{kind}-{seed}.json" for seed in (0, 1) for kind in ("distilled", "plain")]
    assert all((tiny / run).exists() for run in runs) and len(fitted) == 4
    (soft_images, soft), (images, hard) = fitted[:2]
    np.testing.assert_array_equal(soft_images, images)
    fit_rows = data.split_fit_select_held(sample.y_train)[0]
    np.testing.assert_array_equal(hard, data.one_hot(sample.y_train[fit_rows]))
    teachers = [models.load_model(tiny / f"{n}.keras") for n in ensembles.member_names()]
    expected = np.mean([t.predict(images, verbose=0) for t in teachers], axis=0)
    np.testing.assert_allclose(soft, expected, atol=1e-5)
    published = models.load_model(tiny.parent / "pupil.keras")
    scored = json.loads((tiny / runs[0]).read_text())["test"]
    found = published.predict(data.scale_images(sample.x_test), verbose=0).argmax(axis=1)
    assert int((found != sample.y_test).sum()) == scored["errors"]
    (tiny / runs[3]).unlink()
    ensembles.train_students(sample, tiny)
    assert len(fitted) == 5
    shutil.rmtree(ensembles.POOL)
    ensembles.train_students(sample, tiny)
    assert len(fitted) == 5 and not ensembles.POOL.exists()  # nothing lacks, so nothing is made


def test_students_are_compared_over_seeds_trained_both_ways(tiny, monkeypatch):
    monkeypatch.setattr(ensembles, "STUDENT_SEEDS", 3)
    assert ensembles.student_rows(tiny) == []
    scores = {"distilled": (0.9, 0.8, 0.7), "plain": (0.8, 0.8)}
    for way, accuracies in scores.items():
        for seed, accuracy in enumerate(accuracies):
            content = {"settings": {}, "parameters": 7, "test": {"accuracy": accuracy}}
            ensembles.write_json(tiny / f"pupil-{way}-{seed}.json", content)
    (row,) = ensembles.student_rows(tiny)
    assert (row["name"], row["parameters"], row["plain"]["n"]) == ("pupil", 7, 2)
    assert row["distilled"]["mean"] == pytest.approx(0.85)
    assert row["difference"]["mean"] == pytest.approx(0.05)
    assert row["difference"]["sd"] == pytest.approx(0.05 * 2**0.5)


def test_a_damaged_student_is_named(tiny, sample):
    path = tiny / "pupil-plain-0.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(ValueError, match="pupil-plain-0.json: incomplete, without"):
        ensembles.read_student(path)


@pytest.mark.parametrize("name, command", [("declared", "declare"), ("test", "open_test")])
def test_damaged_results_are_named(tiny, sample, trained, name, command):
    ensembles.train_members(sample, tiny)
    ensembles.open_test(sample, tiny)
    (tiny / f"{name}.json").write_text("[]")
    with pytest.raises(ValueError, match=f"{name}.json: incomplete, .*delete it"):
        getattr(ensembles, command)(sample, tiny)


def test_the_command_line_says_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ensembles", "wrong"])
    assert ensembles.main() == 2
    assert "python -m src.ensembles members" in capsys.readouterr().out


# --- a residual network ------------------------------------------------------------------------


def test_a_residual_block_adds_what_went_in():
    model = models.build_resnet(blocks=(4, 8), dropout=0.0)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Add") == 2
    assert model.get_layer("add1").input[0] is model.get_layer("relu0").output  # nothing between
    assert model.get_layer("add2").output.shape == (None, 7, 7, 8)


@pytest.mark.parametrize("blocks", [(), (4, 0)])
def test_a_residual_network_without_filters_is_refused(blocks):
    with pytest.raises(ValueError, match="blocks="):
        models.build_resnet(blocks=blocks)
