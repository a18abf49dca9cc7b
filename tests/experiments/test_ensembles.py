"""Averages against cases worked out by hand; members and students of a few tiny networks."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest

from src import data, models, training
from src.experiments import ensembles, store
from src.experiments.ensembles import MEMBERS, STUDENTS

RNG = np.random.default_rng(0)


def rows(*values):
    """Probabilities (n, 10): each value for digit 0, the rest for digit 1."""
    out = np.zeros((len(values), 10))
    out[:, 0], out[:, 1] = values, 1 - np.array(values)
    return out


def test_average_is_the_mean_of_probabilities():
    found = ensembles.average([rows(0.9, 0.4), rows(0.2, 0.4), rows(0.1, 0.1)])
    np.testing.assert_allclose(found, rows(0.4, 0.3))
    # two of three say 1, but the third is surer of 0
    assert ensembles.average([rows(0.45), rows(0.45), rows(0.99)]).argmax() == 0


def test_shift_moves_pixels_and_fills_with_paper():
    image = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    moved = ensembles.shift(image, 1, -1)
    np.testing.assert_array_equal(moved[0, ..., 0], [[0, 0, 0], [2, 3, 0], [5, 6, 0]])
    np.testing.assert_array_equal(ensembles.shift(image, 0, 0), image)
    assert moved.dtype == np.float32


def test_subsets_of_three_members_by_hand():
    members = [rows(0.9, 0.2), rows(0.2, 0.9), rows(0.6, 0.6)]
    found = ensembles.subset_scores(np.array([0, 0]), members)
    assert found[1]["errors"] == [1, 1, 0]
    assert found[2]["errors"] == [0, 1, 1]  # 0.55 and 0.55; 0.75 and 0.4; 0.4 and 0.75
    assert found[3]["errors"] == [0]
    assert found[2]["loss"][0] == pytest.approx(-np.log([0.55, 0.55]).mean())
    assert [len(found[n]["loss"]) for n in (1, 2, 3)] == [3, 3, 1]


def test_parameter_counts():
    recipes = MEMBERS | STUDENTS
    counts = [models.build(recipe.network).count_params() for recipe in recipes.values()]
    assert counts == [200_362, 274_274, 309_418, 411_498, 76_498, 19_734]


def test_probabilities_come_back(tmp_path):
    kept = RNG.dirichlet(np.full(10, 0.1), 20)
    ensembles.save_probabilities(tmp_path / "one.npz", {"a": kept})
    found = ensembles.load_probabilities(tmp_path / "one.npz", "a")
    np.testing.assert_allclose(found, kept, atol=2e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["one.npz"]


NAMES = ["plain-0", "residual-0"]
SMALL = {"filters": (4,), "pool": True, "batch_norm": False, "dense_units": (), "dropout": 0.0}


def stub(patch):
    """Two tiny members and a student; networks are built, not trained, and predict by one call."""
    calls = []

    def train(recipe, digits, seed=0, callbacks=(), start=None):
        calls.append((recipe.name, seed, recipe, start))
        keras.utils.set_random_seed(seed + recipe.batch_size)
        model = models.build(recipe.network)
        if start is not None:
            model.set_weights(start)
        return training.Trained(model, {}, 0.0, *training.split_rows(recipe, digits, seed))

    names = {"plain": SMALL, "residual": {"blocks": (4,)}, "pupil": SMALL}
    tiny = {name: dataclasses.replace(MEMBERS["vgg"], name=name, epochs=2, network=network)
            for name, network in names.items()}  # fmt: skip
    patch.setattr(ensembles, "STUDENTS", {"pupil": tiny.pop("pupil")})
    patch.setattr(ensembles, "MEMBERS", tiny)
    for name in ("SEEDS", "STUDENT_SEEDS", "POOL_EPOCHS"):
        patch.setattr(ensembles, name, 1)
    patch.setattr(training, "train", train)
    patch.setattr(keras.Model, "predict", lambda self, x, **_: np.asarray(self(x)))
    return calls


@pytest.fixture
def trained(monkeypatch):
    """What was asked for: (name, seed, recipe, start) of each training."""
    return stub(monkeypatch)


@pytest.fixture
def fitted(monkeypatch):
    """What students were to learn: (images, labels) of each epoch."""
    calls = []
    monkeypatch.setattr(keras.Model, "fit", lambda self, x, y, **_: calls.append((x, y)))
    return calls


@pytest.fixture(scope="module")
def kept(sample, tmp_path_factory):
    place = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        stub(patch)
        store.run_all(ensembles.jobs(place / "models/ensemble", place), sample)
    return place


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models/ensemble"


@pytest.fixture
def made(kept, trained, folder, tmp_path):
    """All jobs, made; the students are trained for real."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return ensembles.jobs(folder, tmp_path)


def blind(digits):
    return dataclasses.replace(digits, x_test=None, y_test=None)


def test_members_are_trained_and_chosen_without_the_test_images(trained, sample, folder):
    declared = store.get(ensembles.declared_job(folder), blind(sample))
    assert declared["members"] == NAMES
    assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} == {
        "declared.json",
        *(name + end for name in declared["members"] for end in (".json", ".keras", ".npz")),
    }
    errors = {kind: found["errors"] for kind, found in declared["validation"].items()}
    best = [kind for kind in errors if errors[kind] == min(errors.values())]
    assert declared["shifts"] == best[0]  # of equal ones, that of fewest copies
    one = store.read(ensembles.member_jobs(folder)[0])
    assert one["validation"]["n"] == one["held_back"]["n"] == 119


def test_members_are_scored_as_their_probabilities_are_stored(trained, sample, folder, monkeypatch):
    close = np.full(10, 1e-3)
    close[8], close[7] = 0.4961, 0.4959  # a tie once stored as float16, and the first one wins
    monkeypatch.setattr(keras.Model, "predict", lambda self, x, **_: np.tile(close, (len(x), 1)))
    scored = store.get(ensembles.member_jobs(folder)[0], sample)["held_back"]
    assert scored["errors"] == (sample.part("held_back")[1] != 7).sum()  # 107, of 8: 108


def errors_of(probabilities, digits):
    return np.flatnonzero(probabilities.argmax(axis=1) != digits.y_test).tolist()


def test_the_declared_ensemble_is_opened_once_and_read(made, sample, folder):
    found = store.get(ensembles.test_job(folder), blind(sample))
    stored = ensembles.load_probabilities(folder / "test.npz", "ensemble")
    assert errors_of(stored, sample) == found["wrong"]
    labels, members = ensembles.answers("test", folder)
    np.testing.assert_array_equal(labels, sample.y_test)
    mean = ensembles.average(members.values())
    assert len(errors_of(mean, sample)) == found["without_shifts"]["errors"]
    for name, scored in found["members"].items():
        assert len(errors_of(members[name], sample)) == scored["errors"]
    everyone = set.intersection(*(set(errors_of(p, sample)) for p in members.values()))
    np.testing.assert_array_equal(
        ensembles.missed_images(folder), sample.x_test[sorted(everyone)]
    )  # fmt: skip
    assert everyone and list(members) == NAMES


def test_answers_are_averaged_over_shifts(made, sample):
    images, steps = sample.part("test")[0], ((0, 0), (0, 1))
    (found,) = ensembles._ask(made[:1], images, steps).values()
    both = [ensembles._ask(made[:1], ensembles.shift(images, *s))["plain-0"] for s in steps]
    np.testing.assert_allclose(found, np.mean(both, axis=0))


def test_answers_on_the_images_held_back_are_those_that_were_scored(made, sample, folder):
    labels, members = ensembles.answers("held_back", folder)
    np.testing.assert_array_equal(labels, sample.part("held_back")[1])
    for job in made[:2]:
        errors = (members[job.path.stem].argmax(axis=1) != labels).sum()
        assert errors == store.read(job)["held_back"]["errors"]


def test_the_second_try_goes_on_from_the_members(made, trained, sample, folder, tmp_path, capsys):
    job = ensembles.continued_job(folder, tmp_path)
    kept = [job._replace(path=tmp_path / "continued" / f"{name}.json") for name in NAMES]
    answers = ensembles._ask(kept, sample.part("test")[0])
    found = store.read(job)
    assert errors_of(ensembles.average(answers.values()), sample) == found["wrong"]
    assert found["held_back"]["n"] == 119 and found["settings"] == ensembles.CONTINUED
    (tmp_path / "continued/residual-0.keras").unlink(), job.path.unlink()
    store.get(job, sample)  # a killed run loses one member, and what was made of all
    ((name, seed, recipe, start),) = trained
    assert (name, seed, recipe.validation, recipe.epochs) == ("residual", 0, "held_back", 6)
    assert recipe == ensembles.MEMBERS[name].change(**ensembles.CONTINUED)
    before = models.load_model(folder / "residual-0.keras").get_weights()
    assert len(start) == len(before) and all(map(np.array_equal, start, before))
    assert f"test: {found['ensemble']['accuracy']:.2%}" in capsys.readouterr().out
    other = folder / "plain-0.json"  # as of another run
    other.write_text(other.read_text().replace('"seed": 0', '"seed": 9'))
    store.get(job, sample)
    assert [call[0] for call in trained] == ["residual", "plain"]


def test_nothing_that_was_made_from_other_members_is_read(
    made, trained, fitted, sample, folder, tmp_path, monkeypatch, capsys
):
    old = {job.path.stem: job.path.read_text() for job in made}
    pool = (tmp_path / "students/epoch-0.npz").read_bytes()
    changed = ensembles.MEMBERS["residual"].change(batch_size=64)
    monkeypatch.setitem(ensembles.MEMBERS, "residual", changed)
    jobs = ensembles.jobs(folder, tmp_path)
    capsys.readouterr()
    assert [job.path.stem for job, _ in store.read_all(jobs)] == ["plain-0"]
    said = capsys.readouterr().out
    for name in ("declared", "test", "labels", "continued", "pupil-distilled-0", "pupil-plain-0"):
        assert f"Left out: {name}.json: made from " in said
    with pytest.raises(store.OutOfDate, match=r"residual-0.json, .* settings \(batch_size\)"):
        ensembles.answers("held_back", folder)
    store.run_all(jobs, sample)
    assert [call[0] for call in trained] == ["residual", "residual"]  # again, and trained on
    assert all(job.path.read_text() != old[job.path.stem] for job in jobs[1:])
    assert (tmp_path / "students/epoch-0.npz").read_bytes() != pool


def test_students_learn_from_the_same_images(made, fitted, sample, folder, tmp_path):
    distilled, plain = ensembles.student_jobs(folder, tmp_path)
    distilled.path.unlink(), plain.path.unlink()
    store.run_all([distilled, plain], sample)
    (images, soft), _, (same, hard), _ = fitted  # two epochs each, of a pool of one
    np.testing.assert_array_equal(images, same)
    np.testing.assert_array_equal(hard, data.one_hot(sample.part("train")[1]))
    answers = ensembles._ask(ensembles.member_jobs(folder), images)
    np.testing.assert_allclose(soft, ensembles.average(answers.values()), atol=1e-5)
    shutil.rmtree(tmp_path / "students")
    store.run_all([distilled, plain], sample)  # nothing lacks, so no pool is made
    assert len(fitted) == 4 and not (tmp_path / "students").exists()


def test_a_published_student_that_is_gone_comes_back(made, fitted, sample, folder, tmp_path):
    job, published = ensembles.student_jobs(folder, tmp_path)[0], tmp_path / "models/pupil.keras"
    published.unlink()
    with pytest.raises(store.OutOfDate, match="pupil.keras beside it is missing"):
        store.read(job)
    found = store.get(job, sample)
    answers = models.load_model(published).predict(sample.part("test")[0])
    assert found["test"]["errors"] == len(errors_of(answers, sample))
