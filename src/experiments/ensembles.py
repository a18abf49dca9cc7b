"""Ensembles of networks and students of them: trained net by net, opened on test once.

`jobs` lists what is made, in order: members; the ensemble that is declared, chosen on
validation images; its score on test; a second try, its members trained on; students, small
networks that learn from it. `answers` is what the notebook reads.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import keras
import numpy as np
from scipy import ndimage

from src import data, models, recipes, training
from src.config import ROOT, environment, replacing
from src.data import DigitData
from src.evaluation import evaluate
from src.experiments.store import Job, read, run_all
from src.recipes import Recipe, get_recipe

FOLDER = ROOT / "models" / "ensemble"
WORK = ROOT / "build" / "work"  # for pieces of what is not finished
PARTS = ("validation", "held_back")  # which members are scored on
SEEDS = 2  # of each member
STUDENT_SEEDS = 5  # of each student, who is trained in both
WAYS = ("distilled", "plain")
POOL_EPOCHS = 12  # of augmented images for students, who then see the same again
SHIFTS = {  # one-pixel-shift averaging: (down, right) of each copy; "square" holds the others
    "none": ((0, 0),),
    "cross": ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)),
    "square": tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)),
}
CONTINUED = {  # what the second try changes in a member's recipe
    "validation": "held_back",
    "epochs": 6,
    "optimizer": {"learning_rate": 1e-3},
    "augmentation": {"rotation": 7, "scale": 0.05, "shear": 0.05, "shift": 1},
}
MEMBERS = {name: get_recipe(name) for name in recipes.MEMBERS}
STUDENTS = {name: get_recipe(name) for name in recipes.STUDENTS}


def average(members: Iterable[np.ndarray]) -> np.ndarray:
    """Average members' probabilities, each (n, classes)."""
    return np.mean(list(members), axis=0, dtype=float)


def shift(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Move images (n, h, w, 1) by whole pixels, 0 where nothing comes from."""
    return ndimage.shift(images, (0, down, right, 0), order=0)


def subset_scores(labels: np.ndarray, members: Sequence[np.ndarray]) -> dict[int, dict]:
    """Score all ensembles of 1, 2, ... of the members: a list per measure, a value per subset."""
    scores = {}
    for size in range(1, len(members) + 1):
        sets = combinations(members, size)
        found = [evaluate(labels, average(chosen)) for chosen in sets]
        scores[size] = {measure: [one[measure] for one in found] for measure in ("errors", "loss")}
    return scores


def save_probabilities(path: Path, probabilities: dict[str, np.ndarray]) -> None:
    """Write probabilities (n, classes) as float16 logarithms, whole or not at all."""
    logs = {name: np.log(np.clip(p, 1e-9, 1)).astype("f2") for name, p in probabilities.items()}
    with replacing(path) as unfinished:
        np.savez_compressed(unfinished, **logs)


def load_probabilities(path: Path, name: str) -> np.ndarray:
    """Read what was saved under a name: float64 (n, classes), rows summing to 1."""
    with np.load(path) as stored:
        found = np.exp(stored[name].astype(float))
    return found / found.sum(axis=1, keepdims=True)


_job = partial(Job, command="make ensemble")


def jobs(folder: Path = FOLDER, work: Path = WORK) -> list[Job]:
    """List all results in the order in which they are made."""
    opened = [declared_job(folder), test_job(folder), labels_job(folder)]
    opened.append(continued_job(folder, work))
    return [*member_jobs(folder), *opened, *student_jobs(folder, work)]


def member_jobs(folder: Path = FOLDER) -> list[Job]:
    """List the members, the first seed of each recipe before the second."""
    seeds = range(SEEDS)
    return [_member_job(recipe, seed, folder) for seed in seeds for recipe in MEMBERS.values()]


def _member_job(recipe: Recipe, seed: int, folder: Path) -> Job:
    name = f"{recipe.name}-{seed}"

    def run(digits: DigitData, path: Path) -> dict:
        model = _train(recipe, digits, seed, path)
        scores = _predict_parts(model, digits, path.with_suffix(".npz"))
        return {"recipe": recipe.name, "seed": seed, **_cost(model), **scores}

    settings, files = recipe.settings() | {"shifts": SHIFTS}, (f"{name}.keras", f"{name}.npz")
    return _job(folder / f"{name}.json", settings, run, (), files)


def _train(recipe: Recipe, digits: DigitData, seed: int, path: Path, start=None) -> keras.Model:
    keras.utils.clear_session()
    model = training.train(recipe, digits, seed, start=start).model
    models.save_model(model, path.with_suffix(".keras"))
    return model


def _cost(model: keras.Model) -> dict:
    size = {"parameters": model.count_params(), "multiply_adds": models.multiply_adds(model)}
    return size | {"environment": environment()}


def _predict_parts(model: keras.Model, digits: DigitData, path: Path) -> dict:
    """Store a member's probabilities; score what was stored, so that all counts agree."""
    kept, scores = {}, {}
    for part in PARTS:
        images, _ = digits.part(part)
        answers = {step: _predict(model, shift(images, *step)) for step in SHIFTS["square"]}
        for kind, steps in SHIFTS.items():
            kept[f"{part}_{kind}"] = average([answers[step] for step in steps])
    save_probabilities(path, kept)
    for part in PARTS:
        found = evaluate(digits.part(part)[1], load_probabilities(path, f"{part}_none"))
        scores[part] = {key: found[key] for key in ("n", "errors", "accuracy", "loss")}
    return scores


def _predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return model.predict(images, batch_size=500, verbose=0)


def read_members(members: Sequence[Job], part: str) -> dict[str, np.ndarray]:
    """Read members' probabilities by name, those of "validation_none" for example."""
    found = {}
    for job in members:
        read(job)  # refuses one that is out of date
        found[job.path.stem] = load_probabilities(job.path.with_suffix(".npz"), part)
    return found


def declared_job(folder: Path = FOLDER) -> Job:
    """Choose an ensemble on validation images: all members, with the best of SHIFTS.

    That is the one with fewest errors; of equal ones, the one with fewest copies.
    """
    members = member_jobs(folder)

    def run(digits: DigitData, _: Path) -> dict:
        _, labels = digits.part("validation")
        scores = {}
        for kind in SHIFTS:
            answers = read_members(members, f"validation_{kind}")
            scores[kind] = evaluate(labels, average(answers.values()))
        best = min(scores, key=lambda kind: (scores[kind]["errors"], len(SHIFTS[kind])))
        print(f"declared: {len(members)} members, shifts: {best}", flush=True)
        return {"members": list(answers), "shifts": best, "validation": scores}

    return _job(folder / "declared.json", {"shifts": SHIFTS}, run, tuple(members))


def test_job(folder: Path = FOLDER) -> Job:
    """Open the declared ensemble, and each member alone, on the test images."""
    declared = declared_job(folder)

    def run(digits: DigitData, path: Path) -> dict:
        images, _ = digits.part("test")
        shifts, kept = SHIFTS[read(declared)["shifts"]], path.with_suffix(".npz")
        alone, shifted = (_ask(declared.needs, images, s) for s in (SHIFTS["none"], shifts))
        save_probabilities(kept, {"ensemble": average(shifted.values()), **alone})
        alone = {name: load_probabilities(kept, name) for name in alone}
        found = _test_scores(digits, alone, load_probabilities(kept, "ensemble"))
        return found | {"without_shifts": evaluate(digits.y_test, average(alone.values()))}

    return _job(folder / "test.json", {}, run, (declared, *declared.needs), ("test.npz",))


def _ask(members: Sequence[Job], images: np.ndarray, shifts=SHIFTS["none"]) -> dict:
    """Open the members' networks one after the other, and average each one's answers."""
    answers = {}
    for job in members:
        model = models.load_model(job.path.with_suffix(".keras"))
        answers[job.path.stem] = average(_predict(model, shift(images, *s)) for s in shifts)
    return answers


def _test_scores(digits: DigitData, members: dict, ensemble: np.ndarray) -> dict:
    together = evaluate(digits.y_test, ensemble)
    print(f"test: {together['accuracy']:.2%}", flush=True)
    return {
        "ensemble": together,
        "members": {name: evaluate(digits.y_test, alone) for name, alone in members.items()},
        "wrong": np.flatnonzero(ensemble.argmax(axis=1) != digits.y_test).tolist(),
        "environment": environment(),
    }


def labels_job(folder: Path = FOLDER) -> Job:
    """Keep, for readers without MNIST, labels and the test images that all members miss."""
    test = test_job(folder)

    def run(digits: DigitData, path: Path) -> dict:
        kept = {part: digits.part(part)[1].astype(np.uint8) for part in ("held_back", "test")}
        wrong = [p.argmax(axis=1) != kept["test"] for p in _test_answers(folder).values()]
        missed = np.flatnonzero(np.all(wrong, axis=0))
        with replacing(path.with_suffix(".npz")) as unfinished:
            np.savez_compressed(unfinished, **kept, missed=digits.x_test[missed])
        return {"missed": missed.tolist()}

    return _job(folder / "labels.json", {}, run, (test,), ("labels.npz",))


def _test_answers(folder: Path) -> dict[str, np.ndarray]:
    names = [job.path.stem for job in member_jobs(folder)]
    return {name: load_probabilities(folder / "test.npz", name) for name in names}


def answers(part: str, folder: Path = FOLDER) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Read MNIST's labels of a part, "held_back" or "test", and members' probabilities by name."""
    labels = _read_kept(part, folder)
    if part == "test":
        return labels, _test_answers(folder)
    return labels, read_members(member_jobs(folder), f"{part}_none")


def missed_images(folder: Path = FOLDER) -> np.ndarray:
    """Read the test images, in their order, that all members miss."""
    return _read_kept("missed", folder)


def _read_kept(name: str, folder: Path) -> np.ndarray:
    job = labels_job(folder)
    read(job)  # refuses one that is out of date
    with np.load(job.path.with_suffix(".npz")) as stored:
        return stored[name]


def continued_job(folder: Path = FOLDER, work: Path = WORK) -> Job:
    """Train the members on, and open them on test as one, without shifts: the second try.

    They learn from validation images too, and end on images that are changed less: He et al.,
    "Data augmentation revisited" (2019). `work` keeps each as it is trained.
    """
    declared = declared_job(folder)

    def run(digits: DigitData, _: Path) -> dict:
        members = [_continued_member(job, work / "continued") for job in declared.needs]
        run_all(members, digits)
        held_back, test = (_ask(members, digits.part(part)[0]) for part in ("held_back", "test"))
        scores = evaluate(digits.part("held_back")[1], average(held_back.values()))
        return {"held_back": scores, **_test_scores(digits, test, average(test.values()))}

    return _job(folder / "continued.json", CONTINUED, run, (declared, *declared.needs))


def _continued_member(member: Job, work: Path) -> Job:
    name, seed = member.path.stem.rsplit("-", 1)
    recipe = MEMBERS[name].change(**CONTINUED)

    def run(digits: DigitData, path: Path) -> dict:
        start = models.load_model(member.path.with_suffix(".keras")).get_weights()
        model = _train(recipe, digits, int(seed), path, start)
        return {"held_back": training.score(model, *digits.part("held_back"))}

    files = (f"{member.path.stem}.keras",)
    return _job(work / member.path.name, recipe.settings(), run, (member,), files)


def student_jobs(folder: Path = FOLDER, work: Path = WORK) -> list[Job]:
    """List the students, of the first seed before the second, trained both ways."""
    declared, found = declared_job(folder), []
    for seed in range(STUDENT_SEEDS):
        for recipe in STUDENTS.values():
            found += [_student_job(recipe, way, seed, declared, work / "students") for way in WAYS]
    return found


def _student_job(recipe: Recipe, way: str, seed: int, declared: Job, work: Path) -> Job:
    distilled = way == "distilled"
    files = (f"../{recipe.name}.keras",) if distilled and seed == 0 else ()  # is published

    def run(digits: DigitData, path: Path) -> dict:
        pool = _pool(recipe.augmentation, declared, work, digits)
        model = _train_student(recipe, seed, distilled, digits, pool)
        for name in files:
            models.save_model(model, path.parent / name)
        scores = {part: training.score(model, *digits.part(part)) for part in (*PARTS, "test")}
        named = {"recipe": recipe.name, "distilled": distilled, "seed": seed}
        return named | _cost(model) | scores

    path = declared.path.with_name(f"{recipe.name}-{way}-{seed}.json")
    settings = recipe.settings() | {"distilled": distilled, "pool_epochs": POOL_EPOCHS}
    return _job(path, settings, run, (declared, *declared.needs), files)


def _pool(augmentation: dict, declared: Job, work: Path, digits: DigitData) -> list[Path]:
    """Augment the training images again and again; store what the ensemble answers to them."""

    def run(digits: DigitData, path: Path) -> dict:
        images, labels = digits.part("train")
        epoch = int(path.stem.split("-")[1])  # the seed of its augmentation
        batches = data.make_dataset(images, labels, 500, False, epoch, augmentation)
        images = np.concatenate([batch.numpy() for batch, _ in batches])
        images = np.rint(images * 255).astype(np.uint8)
        scaled = images / np.float32(255)
        soft = average(_ask(declared.needs, scaled).values())
        with replacing(path.with_suffix(".npz")) as unfinished:
            np.savez(unfinished, images=images[..., 0], soft=soft.astype(np.float32))
        right = float((soft.argmax(axis=1) == labels).mean())
        print(f"{path.stem}: the ensemble reads {right:.2%}", flush=True)
        return {"accuracy": right}

    settings = {"augmentation": augmentation}
    needs = (declared, *declared.needs)
    names = [f"epoch-{epoch}" for epoch in range(POOL_EPOCHS)]
    run_all([_job(work / f"{n}.json", settings, run, needs, (f"{n}.npz",)) for n in names], digits)
    return [work / f"{name}.npz" for name in names]


def _train_student(
    recipe: Recipe, seed: int, distilled: bool, digits: DigitData, pool: list[Path]
) -> keras.Model:
    """Train on the pool, with the ensemble's probabilities as labels or with the printed ones.

    The same images in the same order either way. Hinton, Vinyals and Dean, "Distilling the
    knowledge in a neural network" (2015), soften both sides by a temperature; here it is 1.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = models.build(recipe.network)
    labels = data.one_hot(digits.y_train[digits.rows["train"]])
    loss = keras.losses.CategoricalCrossentropy() if distilled else None  # None: the recipe's
    steps = math.ceil(len(labels) / recipe.batch_size) * recipe.epochs
    training.compile_model(model, recipe, steps, loss)
    for epoch in range(recipe.epochs):
        with np.load(pool[epoch % len(pool)]) as stored:
            images, soft = stored["images"][..., np.newaxis] / np.float32(255), stored["soft"]
        model.fit(images, soft if distilled else labels, batch_size=recipe.batch_size, verbose=0,
                  initial_epoch=epoch, epochs=epoch + 1)  # fmt: skip
    return model
