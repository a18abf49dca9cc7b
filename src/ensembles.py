"""Ensembles of networks and students of them: trained net by net, opened on test once.

    python -m src.ensembles members     trains what is missing: models/ensemble/
    python -m src.ensembles declare     which ensemble, chosen on selection images
    python -m src.ensembles open        the declared ensemble on the test images
    python -m src.ensembles continue    the second try: members trained on, opened as one
    python -m src.ensembles students    small networks that learn from it
    python -m src.ensembles timing      seconds of an epoch, side by side
    python -m src.ensembles all         these six in turn, as `make ensemble` does
Each goes on where it was stopped.
"""

import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import keras
import numpy as np

from src import data, evaluation, models, training
from src.config import CLASSES, ROOT, environment, read_json, replacing, write_json
from src.recipes import LONG, MEMBERS, STUDENTS, get_recipe, settings

FOLDER = ROOT / "models" / "ensemble"
WAYS = ("distilled", "plain")  # of training a student
SEEDS, STUDENT_SEEDS = 2, 5  # of each member; of each student, distilled and plain
SHIFTS = {  # one-pixel-shift averaging: (down, right) of each copy
    "none": ((0, 0),),
    "cross": ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)),
    "square": tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)),
}
POOL, POOL_EPOCHS = ROOT / "build" / "students", 12  # what students learn from, more than once
CONTINUED = {  # of a member's recipe, in the second try
    "validation": "held_back",
    "epochs": 6,
    "optimizer": {"learning_rate": 1e-3},
    "augmentation": {"rotation": 7, "scale": 0.05, "shear": 0.05, "shift": 1},
}
CONTINUED_FOLDER = ROOT / "build" / "continued"
PARTS = ("select", "held_back")
DAMAGED = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile)


# --- averages ----------------------------------------------------------------------------------


def average(members: Sequence[np.ndarray], names: Sequence[str] = ()) -> np.ndarray:
    """The mean of members' probabilities, each (n, classes).

    Raises ValueError for no member, and, naming it, for one whose shape is not the first's or
    that holds a number that is not finite.
    """
    if not len(members):
        raise ValueError("an ensemble of none: expected one member or more.")
    first = np.asarray(members[0])
    for i, member in enumerate(members):
        name = names[i] if i < len(names) else f"member {i}"
        member = np.asarray(member)
        if member.ndim != 2 or member.shape != first.shape:
            raise ValueError(
                f"{name}: probabilities {member.shape}, the first member's are {first.shape}."
            )
        if not np.isfinite(member).all():
            raise ValueError(f"{name}: probabilities that are not finite.")
    return np.mean([np.asarray(member, float) for member in members], axis=0)


def shift(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Images (n, h, w, ...) moved by whole pixels, 0 where nothing comes from."""
    height, width = images.shape[1:3]
    if abs(down) >= height or abs(right) >= width:
        raise ValueError(f"a shift of {down}, {right} leaves nothing of {height}x{width} pixels.")
    moved = np.zeros_like(images)
    moved[:, max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = images[
        :, max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return moved


def average_shifts(
    predict: Callable[[np.ndarray], np.ndarray], images: np.ndarray, shifts=SHIFTS["cross"]
) -> np.ndarray:
    """The mean of what `predict` answers to copies of the images moved by each of `shifts`."""
    return average([predict(shift(images, *step)) for step in shifts])


def subset_scores(labels: np.ndarray, members: Sequence[np.ndarray]) -> dict[int, dict]:
    """For ensembles of 1, 2, ... members, over all subsets of so many: `errors`, `loss` and
    `calibration_error`, each a list with one value per subset."""
    average(members)  # says what is wrong with them
    scores: dict[int, dict] = {}
    for size in range(1, len(members) + 1):
        found = []
        for chosen in combinations(members, size):
            mean = np.mean(chosen, axis=0)
            scored = evaluation.evaluate(labels, mean)
            error = evaluation.calibration_bins(labels, mean)["error"]
            found.append((scored["errors"], scored["loss"], error))
        columns = zip(*found, strict=True)
        scores[size] = dict(
            zip(("errors", "loss", "calibration_error"), map(list, columns), strict=True)
        )
    return scores


# --- members -----------------------------------------------------------------------------------


def member_names() -> list[str]:
    """All members, the first seed of each network before the second."""
    return [f"{name}-{seed}" for seed in range(SEEDS) for name in MEMBERS]


def train_members(digits: data.DigitData, folder: Path = FOLDER) -> None:
    """Train each member that is missing, damaged or of another recipe; its JSON comes last."""
    for member in member_names():
        name, seed = member.rsplit("-", 1)
        recipe, path = get_recipe(name), folder / f"{member}.json"
        if _is_done(path, recipe, lambda path: check_member(path.stem, folder)):
            continue
        keras.utils.clear_session()
        trained = training.train(recipe, digits.x_train, digits.y_train, int(seed))
        models.save_model(trained.model, path.with_suffix(".keras"))
        found = {
            "recipe": name,
            "seed": int(seed),
            "settings": settings(recipe),
            "images": len(trained.fit_rows),
            "parameters": trained.model.count_params(),
            "multiply_adds": models.multiply_adds(trained.model),
            **_predict_parts(trained.model, digits, path.with_suffix(".npz")),
            "environment": environment(),
        }
        write_json(path, found)
        print(f"{path.name}: selection {found['select']['accuracy']:.2%}", flush=True)


def _is_done(path: Path, recipe: dict, check: Callable[[Path], dict]) -> bool:
    """Whether a result is there, whole, and of this recipe; what it lacks is printed."""
    try:
        if check(path)["settings"] == settings(recipe):
            return True
        print(f"{path.name}: the recipe has changed since. It is trained again.", flush=True)
    except FileNotFoundError:
        pass
    except ValueError as error:
        print(f"{str(error).split(';')[0]}. It is trained again.", flush=True)
    return False


def _predict_parts(model: keras.Model, digits: data.DigitData, path: Path) -> dict:
    """Write log-probabilities for selection and held-back images; return the scores of what was
    written, so that all counts agree."""
    rows = dict(zip(PARTS, data.split_fit_select_held(digits.y_train)[1:], strict=True))
    logs = {}
    for part, where in rows.items():
        images = data.scale_images(digits.x_train[where])
        for shifts, steps in SHIFTS.items():
            found = average_shifts(lambda x: _predict(model, x), images, steps)
            logs[f"{part}_{shifts}"] = found
    save_probabilities(path, logs)
    scores = {}
    for part, where in rows.items():
        plain = load_probabilities(path, f"{part}_none")
        found = evaluation.evaluate(digits.y_train[where], plain)
        scores[part] = {key: found[key] for key in ("n", "errors", "accuracy", "loss")}
    return scores


def _predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return model.predict(images, batch_size=500, verbose=0)


def save_probabilities(path: Path, probabilities: dict[str, np.ndarray]) -> Path:
    """Write probabilities (n, classes) as float16 logarithms, whole or not at all."""
    logs = {name: np.log(np.clip(p, 1e-9, 1)).astype("f2") for name, p in probabilities.items()}
    with replacing(path) as partial:
        np.savez_compressed(partial, **logs)
    return path


def load_probabilities(path: Path, name: str) -> np.ndarray:
    """What save_probabilities wrote under `name`, rows summing to 1, float64 (n, classes).

    Raises FileNotFoundError, or ValueError naming a file that is damaged or lacks it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; `make ensemble` trains what is missing.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = np.exp(archive[name].astype(float))
    except DAMAGED as error:
        raise ValueError(
            f"{path.name}: damaged, or without {name}; delete it and run `make ensemble`."
        ) from error
    if found.ndim != 2 or found.shape[1] != CLASSES or not np.isfinite(found).all():
        raise ValueError(f"{path.name}: {name} is {found.shape}, expected (n, {CLASSES}).")
    return found / found.sum(axis=1, keepdims=True)


def check_member(member: str, folder: Path = FOLDER) -> dict:
    """A member's JSON, after a look at its other files. Raises FileNotFoundError, or ValueError
    naming the file of the three (.json, .npz, .keras) that is damaged or missing beside others."""
    found = read_member(member, folder)
    path = folder / f"{member}.npz"
    try:
        load_probabilities(path, "held_back_none")
        models.load_model(path.with_suffix(".keras"))
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    return found


def read_member(member: str, folder: Path = FOLDER) -> dict:
    """A member's JSON. Raises FileNotFoundError, or ValueError naming one that is damaged."""
    return read_result(folder / f"{member}.json", ("settings", "parameters", "select", "held_back"))


def read_result(path: Path, needed: Sequence[str] = ()) -> dict:
    """A result. Raises FileNotFoundError, or ValueError naming a file that is damaged or lacks
    one of the `needed` keys."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; `make ensemble` makes what is missing.")
    return read_json(path, needed, "; delete it and run `make ensemble`")


def read_members(names: Sequence[str], part: str, folder: Path = FOLDER) -> list[np.ndarray]:
    """Members' probabilities of a part, "select_none" for example."""
    return [load_probabilities(folder / f"{name}.npz", part) for name in names]


# --- the declared ensemble ---------------------------------------------------------------------


def declare(digits: data.DigitData, folder: Path = FOLDER) -> dict:
    """Which ensemble will be opened on test, chosen on selection images: all members, with the
    one-pixel shifts that make fewest errors there, the fewest shifts of equal ones."""
    path, names = folder / "declared.json", member_names()
    if path.exists():
        return read_result(path, ("members", "shifts"))
    labels = digits.y_train[data.split_fit_select_held(digits.y_train)[1]]
    scores = {}
    for shifts in SHIFTS:
        members = read_members(names, f"select_{shifts}", folder)
        scores[shifts] = _scores(labels, average(members, names))
    best = min(scores, key=lambda shifts: (scores[shifts]["errors"], len(SHIFTS[shifts])))
    write_json(path, {"members": names, "shifts": best, "select": scores})
    print(f"declared: {len(names)} members, shifts: {best}", flush=True)
    return {"members": names, "shifts": best, "select": scores}


def _scores(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    found = evaluation.evaluate(labels, probabilities)
    found["calibration_error"] = evaluation.calibration_bins(labels, probabilities)["error"]
    return found


def open_test(digits: data.DigitData, folder: Path = FOLDER) -> dict:
    """The declared ensemble, and each member alone, on the test images, once."""
    path, declared = folder / "test.json", declare(digits, folder)
    if path.exists():
        return read_result(path, ("ensemble", "members", "wrong"))
    images, alone, shifted = data.scale_images(digits.x_test), {}, {}
    for name in declared["members"]:
        model = models.load_model(folder / f"{name}.keras")
        alone[name] = _predict(model, images)
        shifted[name] = average_shifts(
            lambda x, model=model: _predict(model, x), images, SHIFTS[declared["shifts"]]
        )
    probabilities = {"ensemble": average(list(shifted.values()), list(shifted)), **alone}
    kept = save_probabilities(folder / "test.npz", probabilities)
    mean, *each = [load_probabilities(kept, name) for name in probabilities]
    scored = _scores(digits.y_test, mean)
    found = {
        "ensemble": scored,
        "without_shifts": _scores(digits.y_test, average(each)),
        "members": {n: _scores(digits.y_test, p) for n, p in zip(alone, each, strict=True)},
        "wrong": np.flatnonzero(mean.argmax(axis=1) != digits.y_test).tolist(),
        "environment": environment(),
    }
    write_json(path, found)
    print(f"test: {scored['accuracy']:.2%}", flush=True)
    return found


# --- the second try ---------------------------------------------------------------------------


class _StartFrom(keras.callbacks.Callback):
    """Training begins with these weights."""

    def __init__(self, weights: list[np.ndarray]) -> None:
        super().__init__()
        self.weights = weights

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.model.set_weights(self.weights)


def continue_members(digits: data.DigitData, folder: Path = FOLDER) -> dict:
    """A second try at the declared ensemble's accuracy: its members trained on as CONTINUED says,
    with selection images too, then opened on test as one, without shifts, whatever they score.

    That training ends on images that are changed less: He et al., "Data augmentation revisited"
    (2019). Trained members are kept in build/continued/ until all are there.
    """
    path, names = folder / "continued.json", declare(digits, folder)["members"]
    if path.exists():
        return read_result(path, ("ensemble", "held_back", "wrong"))
    held = data.split_fit_select_held(digits.y_train)[2]
    parts = {"held_back": digits.x_train[held], "test": digits.x_test}
    answers: dict[str, list[np.ndarray]] = {part: [] for part in parts}
    for name in names:
        model = _train_on(name, digits, folder)
        for part, images in parts.items():
            answers[part].append(_predict(model, data.scale_images(images)))
    mean = average(answers["test"], names)
    found = {
        "settings": CONTINUED,
        "held_back": _scores(digits.y_train[held], average(answers["held_back"], names)),
        "ensemble": _scores(digits.y_test, mean),
        "members": {
            name: _scores(digits.y_test, p) for name, p in zip(names, answers["test"], strict=True)
        },
        "wrong": np.flatnonzero(mean.argmax(axis=1) != digits.y_test).tolist(),
        "environment": environment(),
    }
    write_json(path, found)
    print(f"{path.name}: test {found['ensemble']['accuracy']:.2%}", flush=True)
    return found


def _train_on(member: str, digits: data.DigitData, folder: Path) -> keras.Model:
    name, seed = member.rsplit("-", 1)
    kept = CONTINUED_FOLDER / f"{member}.keras"
    if not kept.exists():
        keras.utils.clear_session()
        start = _StartFrom(models.load_model(folder / f"{member}.keras").get_weights())
        recipe = get_recipe(name, **CONTINUED)
        trained = training.train(recipe, digits.x_train, digits.y_train, int(seed), (start,))
        models.save_model(trained.model, kept)
        print(f"{member}: trained on", flush=True)
    return models.load_model(kept)


# --- students ------------------------------------------------------------------------------------


def distillation_loss(teacher, student, temperature: float = 1.0):
    """T² times the cross-entropy of probabilities at temperature T, per row: (n, classes) twice
    to (n,). With T = 1 this is cross-entropy with the teacher's probabilities as labels.

    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015).
    """
    logs = [keras.ops.log(keras.ops.clip(p, 1e-7, 1)) / temperature for p in (teacher, student)]
    target, log_answer = keras.ops.softmax(logs[0]), keras.ops.log_softmax(logs[1])
    return -(temperature**2) * keras.ops.sum(target * log_answer, axis=-1)


def make_pool(digits: data.DigitData, epochs: int, folder: Path = FOLDER) -> None:
    """The training images augmented anew for each of `epochs`, with the declared ensemble's
    probabilities: build/students/, a file each, those there already kept."""
    names = declare(digits, folder)["members"]
    teachers = []
    fit = data.split_fit_select_held(digits.y_train)[0]
    x, y = data.scale_images(digits.x_train[fit]), digits.y_train[fit]
    for epoch in range(epochs):
        path = POOL / f"epoch-{epoch}.npz"
        if path.exists():
            continue
        teachers = teachers or [models.load_model(folder / f"{name}.keras") for name in names]
        keras.utils.set_random_seed(epoch)  # tf.data's draws hang on it too
        batches = data.make_dataset(x, y, 500, False, epoch, LONG["augmentation"])
        images = np.concatenate([batch[0].numpy() for batch in batches])
        images = np.rint(images * 255).astype(np.uint8)
        scaled = images / np.float32(255)
        soft = average([_predict(teacher, scaled) for teacher in teachers], names)
        with replacing(path) as partial:
            np.savez(partial, images=images[..., 0], soft=soft.astype(np.float32))
        print(f"{path.name}: the ensemble reads {(soft.argmax(1) == y).mean():.2%}", flush=True)


def train_student(recipe: dict, digits: data.DigitData, seed: int, distilled: bool) -> keras.Model:
    """Train on the pool, with the teacher's probabilities as labels or with the printed ones;
    the same images in the same order either way."""
    labels = data.one_hot(digits.y_train[data.split_fit_select_held(digits.y_train)[0]])
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = models.build(recipe["network"])
    steps = -(-len(labels) // recipe["batch_size"]) * recipe["epochs"]
    loss = distillation_loss if distilled else training.make_loss(recipe)
    model.compile(training.make_optimizer(recipe, steps), loss, metrics=["accuracy"])
    for epoch in range(recipe["epochs"]):
        with np.load(POOL / f"epoch-{epoch % POOL_EPOCHS}.npz") as pool:
            images, soft = pool["images"][..., np.newaxis] / np.float32(255), pool["soft"]
        model.fit(
            images, soft if distilled else labels, batch_size=recipe["batch_size"], verbose=0,
            initial_epoch=epoch, epochs=epoch + 1,
        )  # fmt: skip
    return model


def train_students(digits: data.DigitData, folder: Path = FOLDER) -> None:
    """Each student and seed, distilled and plain, scored on test at its end; of seed 0 the
    distilled network is published."""
    plan = [(n, s, d) for s in range(STUDENT_SEEDS) for n in STUDENTS for d in (True, False)]
    for name, seed, distilled in plan:
        recipe = get_recipe(name)
        path = folder / f"{name}-{'distilled' if distilled else 'plain'}-{seed}.json"
        if _is_done(path, recipe, read_student):
            continue
        make_pool(digits, POOL_EPOCHS, folder)  # what is there is kept
        model = train_student(recipe, digits, seed, distilled)
        select, held = data.split_fit_select_held(digits.y_train)[1:]
        if distilled and seed == 0:
            models.save_model(model, folder.parent / f"{name}.keras")
        found = {
            "recipe": name,
            "distilled": distilled,
            "seed": seed,
            "settings": settings(recipe),
            "parameters": model.count_params(),
            "multiply_adds": models.multiply_adds(model),
            "select": training.score(model, digits.x_train[select], digits.y_train[select]),
            "held_back": training.score(model, digits.x_train[held], digits.y_train[held]),
            "test": training.score(model, digits.x_test, digits.y_test),
            "environment": environment(),
        }
        write_json(path, found)
        print(f"{path.name}: selection {found['select']['accuracy']:.2%}", flush=True)


def read_student(path: Path) -> dict:
    """A student's JSON. Raises FileNotFoundError, or ValueError naming one that is damaged."""
    return read_result(path, ("settings", "parameters", "test"))


# --- what the notebook and README show ---------------------------------------------------------


def member_rows(folder: Path = FOLDER) -> list[dict]:
    """One dict per network of the members: name, about, parameters, multiply_adds, seconds (of
    an epoch, the fastest of `timing`'s rounds, or None before it), errors (on images held back,
    of each seed), n (of these)."""
    timed = folder / "timing.json"
    seconds = read_result(timed, ("epoch_seconds",)) if timed.exists() else {}
    rows = []
    for name, recipe in MEMBERS.items():
        found = [read_member(f"{name}-{seed}", folder) for seed in range(SEEDS)]
        times = seconds.get("epoch_seconds", {}).get(name)
        row = {"name": name, "about": recipe["about"], "epochs": recipe["epochs"]}
        row |= {key: found[0][key] for key in ("parameters", "multiply_adds")}
        row["seconds"] = min(times) if times else None
        row["errors"] = [one["held_back"]["errors"] for one in found]
        rows.append(row | {"n": found[0]["held_back"]["n"]})
    return rows


def student_rows(folder: Path = FOLDER) -> list[dict]:
    """One dict per student: name, parameters, and the spread (evaluation.spread) over seeds of
    the test accuracy `distilled`, `plain`, and of their `difference`, seed by seed; of the seeds
    that were trained both ways."""
    rows = []
    for name in STUDENTS:
        ways = [[folder / f"{name}-{way}-{s}.json" for way in WAYS] for s in range(STUDENT_SEEDS)]
        pairs = [pair for pair in ways if all(path.exists() for path in pair)]
        if not pairs:
            continue
        columns = zip(*pairs, strict=True)
        found = {
            way: list(map(read_student, paths)) for way, paths in zip(WAYS, columns, strict=True)
        }
        accuracy = {k: [one["test"]["accuracy"] for one in runs] for k, runs in found.items()}
        accuracy["difference"] = np.subtract(*accuracy.values()).tolist()
        row = {"name": name, "parameters": found["plain"][0]["parameters"]}
        rows.append(row | {kind: evaluation.spread(values) for kind, values in accuracy.items()})
    return rows


# --- time --------------------------------------------------------------------------------------


def timing(digits: data.DigitData, folder: Path = FOLDER, rounds: int = 3) -> None:
    """Seconds of each member network's second epoch, in turn in each round."""
    if (folder / "timing.json").exists():
        return
    seconds: dict[str, list[float]] = {name: [] for name in MEMBERS}
    for _ in range(rounds):
        for name in MEMBERS:
            keras.utils.clear_session()
            clock, recipe = _EpochSeconds(), get_recipe(name, epochs=2)
            training.train(recipe, digits.x_train, digits.y_train, 0, (clock,))
            seconds[name].append(clock.seconds)
    write_json(folder / "timing.json", {"epoch_seconds": seconds, "environment": environment()})


class _EpochSeconds(keras.callbacks.Callback):
    """Seconds of the last epoch, which traces nothing."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds = time.perf_counter() - self.started


def main() -> int:
    commands = {
        "members": train_members,
        "declare": declare,
        "open": open_test,
        "continue": continue_members,
        "students": train_students,
        "timing": timing,
    }
    if len(sys.argv) != 2 or sys.argv[1] not in (*commands, "all"):
        print(__doc__)
        return 2
    try:
        digits = data.load_mnist()
        for name, command in commands.items():
            if sys.argv[1] in (name, "all"):
                command(digits)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
