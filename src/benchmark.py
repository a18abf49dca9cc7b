"""Many runs of recipes, resumable one by one; README's tables and figure are made from them.

    python -m src.benchmark runs [RECIPE ...]   every seed of the plan: models/benchmarks/
    python -m src.benchmark ladder              one change at a time: models/ladder/
    python -m src.benchmark models              fast, strong, champion, robust: models/
    python -m src.benchmark tuned               the settings found against `fast`: models/tuning/
    python -m src.benchmark audit               suspicious labels: models/audit.json
    python -m src.benchmark photos              made-up photos and spoilt images: models/photos.json
    python -m src.benchmark timing              times side by side: models/timing.json
The first four go on where they were stopped, and skip what is there; the others start anew.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from src import corrupt, data, evaluation, models, preparation, training, tuning
from src.config import CLASSES, IMAGE_SHAPE, ROOT, environment, replacing, write_json
from src.inference import open_model
from src.recipes import LADDER, RECIPES, get_recipe, settings
from src.results import MODELS, RUNS, STEPS, read_result
from src.training import score

SEEDS = {name: 5 for name in RECIPES} | {"sprint": 20, "fast": 10, "champion": 3}
SEEDS["robust"] = 0  # not made for clean images: `photos` is its benchmark
LADDER_SEEDS = 1
COMPARED = 5  # seeds of the tuned settings and of `fast`
PUBLISHED = ("fast", "strong", "champion", "robust")
TIMED = ("sprint", "fast", "keras_io_convnet", *[n for n in RECIPES if RECIPES[n].get("system")])
ONE_EPOCH_TIMED = ("strong", "champion")  # times the number of epochs: the rest would take hours


class KeepWeights(keras.callbacks.Callback):
    """Remembers the weights after each epoch, so that they can be scored when all is done."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.weights = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.weights.append(self.model.get_weights())


def through_kaggle_csv(digits: data.DigitData, rows: np.ndarray, path: Path):
    """Training images and labels written as Kaggle's CSV and read back from it."""
    if not path.exists():
        names = [f"pixel{i}" for i in range(data.PIXELS)]
        table = pd.DataFrame(digits.x_train[rows].reshape(len(rows), -1), columns=names)
        table.insert(0, "label", digits.y_train[rows])
        with replacing(path) as partial:
            table.to_csv(partial, index=False)
    return data.load_kaggle_csv(path)


def run_one(recipe: dict, seed: int, digits: data.DigitData, test: bool = True) -> dict:
    """Train a recipe with a seed and score it: on its validation images, on the images held
    back unless it trained on some of them, and at the end, once, on the test images.

    `seconds` is the wall clock of the training alone.
    """
    images, labels = digits.x_train, digits.y_train
    if recipe["name"] == "kaggle_conv" and recipe["images"] < len(labels):
        _, rows = data.stratified_split(labels, recipe["images"] / len(labels))
        images, labels = through_kaggle_csv(digits, rows, ROOT / "build/kaggle/train.csv")
    keep = KeepWeights()
    keras.utils.clear_session()  # nothing of the runs before slows this one
    trained = training.train(recipe, images, labels, seed, (keep,))
    result = {
        "recipe": recipe["name"],
        "seed": seed,
        "data": digits.name,
        "settings": settings(recipe),
        "seconds": trained.seconds,
        "epochs": len(keep.weights),
        "images": len(trained.fit_rows),
        "parameters": trained.model.count_params(),
        "multiply_adds": models.multiply_adds(trained.model),
        "training_accuracy": trained.history["accuracy"][-1],  # an average over the last epoch
        "validation": score(trained.model, images[trained.val_rows], labels[trained.val_rows]),
    }
    if test:
        result |= _test_scores(recipe, trained.model, keep.weights, digits)
    return result | {"environment": environment()}


def _test_scores(recipe: dict, model: keras.Model, weights: list, digits: data.DigitData) -> dict:
    """Scores on the test images, and on those held back where the recipe leaves them alone."""
    scores = {}
    if recipe["validation"] == "select":
        held = data.split_fit_select_held(digits.y_train)[2]
        scores["held_back"] = score(model, digits.x_train[held], digits.y_train[held])
    scores["test"] = score(model, digits.x_test, digits.y_test)
    if recipe["validation"] != "select" or recipe["name"] == "strong":
        # for contrast only: what choosing the epoch on the test set would give
        scores["peak_test_accuracy"] = peak(model, weights, digits)
    return scores


def peak(model: keras.Model, weights: list, digits: data.DigitData) -> float:
    """The best test accuracy over epochs, from weights stored while training."""
    best = 0.0
    for values in weights:
        model.set_weights(values)
        best = max(best, score(model, digits.x_test, digits.y_test)["accuracy"])
    return best


def run_plan(plan: Iterable[tuple[dict, int, Path]], digits: data.DigitData, test: bool) -> None:
    """Run each (recipe, seed, file) that has no whole result of this recipe yet; a result that
    is damaged, or of a recipe as it was once, is named and run again."""
    for recipe, seed, path in plan:
        if path.exists():
            try:
                found = read_result(path, ("test",) if test else ("seconds",))
                if found["settings"] == settings(recipe):
                    continue
                print(f"{path.name}: the recipe has changed since. It is run again.", flush=True)
            except ValueError as error:
                print(f"{error} It is run again.", flush=True)
        result = run_one(recipe, seed, digits, test)
        if test:  # these may run beside other work; `timing` compares times
            del result["seconds"]
        write_json(path, result)
        print(f"{path.name}: validation {result['validation']['accuracy']:.2%}", flush=True)


def runs(digits: data.DigitData, names: list[str], folder: Path = RUNS) -> None:
    """All seeds of the plan, the first seed of every recipe before the second."""
    plan = [(seed, name) for name in names or RECIPES for seed in range(SEEDS[name])]
    plan.sort(key=lambda pair: pair[0])
    run_plan([(get_recipe(n), s, folder / f"{n}-{s}.json") for s, n in plan], digits, True)


def ladder(digits: data.DigitData, folder: Path = STEPS) -> None:
    """The steps of LADDER, scored on the selection images alone."""
    recipes = {step: get_recipe(name, **changes) for step, (name, changes) in LADDER.items()}
    plan = [
        (recipe, seed, folder / f"{step}-{seed}.json")
        for seed in range(LADDER_SEEDS)
        for step, recipe in recipes.items()
    ]
    run_plan(plan, digits, False)


def train_published(digits: data.DigitData, names: list[str], folder: Path = MODELS) -> None:
    """Our networks with seed 0, trained on fit and selection images together; the JSON beside
    each says how it did on the images held back."""
    for name in names or PUBLISHED:
        path = folder / f"{name}.keras"
        if path.exists() and path.with_suffix(".json").exists():
            continue
        trained = training.train(
            get_recipe(name, validation="held_back"), digits.x_train, digits.y_train, seed=0
        )
        held, calibrated = trained.val_rows, {}
        if name == "robust":
            calibrated = calibrate(trained.model, digits.x_train[held], digits.y_train[held])
        models.save_model(trained.model, path)
        found = {
            "recipe": name,
            "seed": 0,
            "images": len(trained.fit_rows),
            "parameters": trained.model.count_params(),
            "held_back": score(trained.model, digits.x_train[held], digits.y_train[held]),
            "environment": environment(),
            **calibrated,
        }
        write_json(path.with_suffix(".json"), found)
        print(f"{path.name}: held back {found['held_back']['accuracy']:.2%}", flush=True)


def calibrate(model: keras.Model, images: np.ndarray, labels: np.ndarray, n: int = 1000) -> dict:
    """Divide the model's logits by the temperature that suits made-up photos of the first `n`
    images, uint8 (n, 28, 28), the same images spoilt, and, one picture in 20, scribbles, which
    are labelled at random, as no answer to them is right; returns it, and how digits were read.

    The last layer's weights are divided, so that every export is calibrated as well.
    """
    images, labels = images[:n], labels[:n].astype(int)
    photos = [corrupt.photograph(image / np.float32(255), i) for i, image in enumerate(images)]
    parts = [prepare_all(photos, preparation.prepare)[0]]  # one refused is an empty image
    ways, clean = list(corrupt.SPOILT.values()), data.scale_images(images)
    for i, spoil in enumerate(ways):  # each image in one of the ways
        parts.append(spoil(clean[i :: len(ways)], np.random.default_rng(i)))
    pixels = np.clip(np.concatenate(parts), 0, 1).astype(np.float32)
    true = np.concatenate([labels, *[labels[i :: len(ways)] for i in range(len(ways))]])
    probabilities = model.predict(pixels, batch_size=500, verbose=0)
    curves = corrupt.scribbles(max(1, len(true) // 20), seed=1)
    unread = model.predict(prepare_all(curves, preparation.prepare)[0], verbose=0)
    chance = np.random.default_rng(0).integers(0, CLASSES, len(curves))
    temperature = evaluation.fit_temperature(
        np.concatenate([true, chance]), np.concatenate([probabilities, unread])
    )
    output = model.layers[-1]
    output.set_weights([weights / temperature for weights in output.get_weights()])
    right = probabilities.argmax(axis=1) == true
    read = {
        "photos": float(right[: len(images)].mean()),
        "spoilt": float(right[len(images) :].mean()),
    }
    return {"temperature": temperature, "calibrated_on": {"n": len(images), "accuracy": read}}


def tuned(digits: data.DigitData, folder: Path = tuning.FOLDER) -> None:
    """The best settings of the published searches, and `fast`, in turn with COMPARED seeds:
    which of the images held back each run reads wrong."""
    found = tuning.recipe_from(tuning.best_trial(folder)["values"])
    for seed in range(COMPARED):
        for name, recipe in (("tuned", found), ("fast", get_recipe("fast"))):
            path = folder / "compared" / f"{name}-{seed}.json"
            try:
                _read_run(path, recipe)
                continue
            except FileNotFoundError:
                pass
            except ValueError as error:
                print(f"{error} It is run again.", flush=True)
            result = _wrong_when_held_back(recipe, seed, digits)
            write_json(path, result)
            print(f"{path.name}: {len(result['wrong'])} of {result['n']:,} wrong", flush=True)


def _wrong_when_held_back(recipe: dict, seed: int, digits: data.DigitData) -> dict:
    """A run of `tuned`: rows of the images held back, among these, that it reads wrong."""
    keras.utils.clear_session()
    trained = training.train(recipe, digits.x_train, digits.y_train, seed)
    held = data.split_fit_select_held(digits.y_train)[2]
    images = data.scale_images(digits.x_train[held])
    predicted = trained.model.predict(images, batch_size=500, verbose=0).argmax(axis=1)
    return {
        "seed": seed,
        "settings": settings(recipe),
        "seconds": trained.seconds,
        "parameters": trained.model.count_params(),
        "n": len(held),
        "wrong": np.flatnonzero(predicted != digits.y_train[held]).tolist(),
        "environment": environment(),
    }


def _read_run(path: Path, recipe: dict) -> dict:
    """A run of `tuned`. ValueError where it is damaged or of another recipe."""
    run = read_result(path, needed=("wrong",), always=("seed", "settings", "n"))
    if run["settings"] != settings(recipe):
        raise ValueError(f"{path.name}: of other settings; `make tune` compares the winner anew.")
    return run


def compare_tuned(folder: Path = tuning.FOLDER) -> dict:
    """What the runs of `tuned` say: each recipe's accuracy over seeds; the difference (tuned
    minus fast) with its 95% interval over paired seeds, and over images; McNemar's test for
    seed 0; times as a ratio; and a verdict, which takes both intervals to lie on one side of 0.

    Raises FileNotFoundError or ValueError for runs that are missing, damaged, or not of the
    best settings in `folder`.
    """
    best = tuning.recipe_from(tuning.best_trial(folder)["values"])
    runs = {"tuned": [], "fast": []}
    for name, recipe in (("tuned", best), ("fast", get_recipe("fast"))):
        paths = [folder / "compared" / f"{name}-{seed}.json" for seed in range(COMPARED)]
        runs[name] = [_read_run(path, recipe) for path in paths]
    n = runs["fast"][0]["n"]
    right = {k: np.array([~np.isin(np.arange(n), r["wrong"]) for r in v]) for k, v in runs.items()}
    seconds = {k: np.array([run["seconds"] for run in found]) for k, found in runs.items()}
    gain = right["tuned"].astype(float) - right["fast"]  # a row per seed, a column per image
    over_seeds, over_images = (evaluation.spread(gain.mean(axis=axis)) for axis in (1, 0))
    lows, highs = ([part[end] for part in (over_seeds, over_images)] for end in ("low", "high"))
    verdict = "no difference shown"
    if min(lows) > 0 or max(highs) < 0:
        verdict = "tuned is better" if min(lows) > 0 else "tuned is worse"
    return {
        "n": n,
        "parameters": {k: found[0]["parameters"] for k, found in runs.items()},
        "accuracy": {k: evaluation.spread(rows.mean(axis=1)) for k, rows in right.items()},
        "difference": over_seeds,
        "difference_over_images": over_images,
        "mcnemar": evaluation.mcnemar(right["tuned"][0], right["fast"][0]),
        "time_ratio": float(np.median(seconds["tuned"] / seconds["fast"])),
        "verdict": verdict,
    }


def audit(digits: data.DigitData, path: Path = MODELS / "audit.json", folds: int = 5) -> None:
    """Training labels that `fast` doubts: each image is read by a network that was not trained on
    it, and cleanlab ranks the labels by the probability that they got ("self-confidence"). The
    hundred lowest are kept, and how many cleanlab's own threshold would call wrong.

    Northcutt, Jiang and Chuang, "Confident Learning" (2021).
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    labels = digits.y_train.astype(int)
    probabilities = _out_of_fold(digits.x_train, labels, folds)
    predicted = probabilities.argmax(axis=1)
    quality = get_label_quality_scores(labels, probabilities)
    rows = np.argsort(quality, kind="stable")[:100]
    suspects = pd.DataFrame(
        {
            "row": rows,
            "label": labels[rows],
            "predicted": predicted[rows],
            "probability": probabilities[rows].max(axis=1),
            "quality": quality[rows],
        }
    )
    found = {
        "images": len(labels),
        "accuracy": float((predicted == labels).mean()),
        "above_threshold": int(find_label_issues(labels, probabilities).sum()),
        "suspects": suspects.to_dict("records"),
    }
    write_json(path, found | {"environment": environment()})


def _out_of_fold(images: np.ndarray, labels: np.ndarray, folds: int) -> np.ndarray:
    """Probabilities (n, 10) from networks that were not trained on the image that they read."""
    probabilities = np.zeros((len(labels), CLASSES))
    recipe = get_recipe("fast", validation=0.01)
    parts = StratifiedKFold(folds, shuffle=True, random_state=0).split(labels, labels)
    for fold, (fit, out) in enumerate(parts):
        keras.utils.clear_session()
        model = training.train(recipe, images[fit], labels[fit], seed=fold).model
        scaled = data.scale_images(images[out])
        probabilities[out] = model.predict(scaled, batch_size=500, verbose=0)
        print(f"fold {fold + 1} of {folds}", flush=True)
    return probabilities


PREPARED = {
    "resized": (preparation.squeeze, "champion.keras"),
    "boxed": (preparation.box_and_centre, "champion.keras"),
    "prepared + champion": (preparation.prepare, "champion.keras"),
    "prepared + robust": (preparation.prepare, "robust.onnx"),
}
BY_KIND, PHOTOS = 500, 2000  # photos of each kind, and of all kinds together
SCENES = 1_000_000  # seed of the first photo's scene: `calibrate` drew others, from 0


def prepare_all(pictures: Iterable, prepare) -> tuple[np.ndarray, list[int]]:
    """Pictures as float32 (n, 28, 28, 1), and which of them were refused; these are empty."""
    pixels, refused = [], []
    for i, picture in enumerate(pictures):
        try:
            pixels.append(prepare(picture))
        except preparation.NoDigitError:
            pixels.append(np.zeros(IMAGE_SHAPE[:2], np.float32))
            refused.append(i)
    return np.stack(pixels)[..., np.newaxis], refused


def read_photos(pictures: Iterable, labels: np.ndarray, prepare, read) -> dict:
    """How a way of preparing and a model do on pictures: accuracy with its 95% interval, the
    share both wrong and over 0.9 sure, the share refused (which count as wrong), and `right`,
    a boolean per picture."""
    pixels, refused = prepare_all(pictures, prepare)
    probabilities = np.asarray(read(pixels))
    right = probabilities.argmax(axis=1) == labels[: len(pixels)]
    sure = probabilities.max(axis=1) > 0.9
    right[refused] = sure[refused] = False
    return {
        "n": len(right),
        "accuracy": float(right.mean()),
        "interval": evaluation.accuracy_interval(int(right.sum()), len(right)),
        "wrong_and_sure": float((sure & ~right).mean()),
        "refused": len(refused) / len(right),
        "right": right,
    }


def photos(digits: data.DigitData, path: Path = MODELS / "photos.json") -> None:
    """Made-up photos of test images, read in the four ways of PREPARED: at all strengths together,
    and with one kind of disturbance at a time, on the same digits; the accuracy on 28x28 test
    images spoilt in twelve ways; and the share of letters and scribbles that are answered with
    over 0.9 confidence. All with their numbers of pictures."""
    rows = np.random.default_rng(0).permutation(len(digits.x_test))[:PHOTOS]
    images, labels = data.scale_images(digits.x_test[rows]), digits.y_test[rows]
    readers = {name: open_model(MODELS / name) for name in ("champion.keras", "robust.onnx")}
    kinds, compared = _by_kind(images[..., 0], labels, readers)
    found = {
        "photos": kinds,
        "robust_against_champion": compared,
        "spoilt_images": len(images),
        "spoilt": _by_spoiling(images, labels, readers),
        "no_digit": _without_digit(readers),
    }
    write_json(path, found | {"environment": environment()})


def _by_kind(images: np.ndarray, labels: np.ndarray, readers: dict) -> tuple[dict, dict]:
    """Kind of disturbance -> way of PREPARED -> what read_photos says; and McNemar's test of the
    last two ways, robust as `a`, on all kinds together."""
    found, compared = {}, {}
    for kind, strengths in {"all together": {}, **corrupt.KINDS}.items():
        shown = images[: BY_KIND if strengths else PHOTOS]
        pictures = [corrupt.photograph(x, SCENES + i, **strengths) for i, x in enumerate(shown)]
        found[kind] = {
            way: read_photos(pictures, labels, prepare, readers[model])
            for way, (prepare, model) in PREPARED.items()
        }
        right = {way: row.pop("right") for way, row in found[kind].items()}
        if not strengths:
            champion, robust = list(right.values())[2:]
            compared = evaluation.mcnemar(robust, champion)
        print(kind, {way: round(float(some.mean()), 4) for way, some in right.items()}, flush=True)
    return found, compared


def _by_spoiling(images: np.ndarray, labels: np.ndarray, readers: dict) -> dict:
    """Way of spoiling images (n, 28, 28, 1) -> model -> accuracy."""
    found = {}
    for kind, spoil in {"none": lambda images, rng: images, **corrupt.SPOILT}.items():
        spoilt = np.clip(spoil(images, np.random.default_rng(0)), 0, 1).astype(np.float32)
        found[kind] = {
            model: float((read(spoilt).argmax(axis=1) == labels).mean())
            for model, read in readers.items()
        }
    return found


def _without_digit(readers: dict) -> dict:
    """Letters and scribbles -> prepared way -> n and the share answered over 0.9 sure."""
    found = {}
    for kind, pictures in (("letters", corrupt.letters()), ("scribbles", corrupt.scribbles(500))):
        nothing = np.full(len(pictures), CLASSES)  # no digit is right
        found[kind] = {}
        for way, (prepare, model) in list(PREPARED.items())[2:]:
            row = read_photos(pictures, nothing, prepare, readers[model])
            found[kind][way] = {key: row[key] for key in ("n", "wrong_and_sure")}
    return found


def timing(digits: data.DigitData, path: Path = MODELS / "timing.json", rounds: int = 3):
    """Seconds of training, the recipes in turn in each round, so that drift hits all alike.

    A run that the benchmark lacks is scored and kept there, too.
    """
    seconds = {name: [] for name in TIMED}
    first_epoch = {name: [] for name in ONE_EPOCH_TIMED}
    for seed in range(rounds):
        for name in TIMED:
            kept = RUNS / f"{name}-{seed}.json"
            result = run_one(get_recipe(name), seed, digits, test=not kept.exists())
            seconds[name].append(result.pop("seconds"))
            if not kept.exists():
                write_json(kept, result)
            print(f"round {seed + 1}: {name} {seconds[name][-1]:.1f} s", flush=True)
        for name in ONE_EPOCH_TIMED:
            run = run_one(get_recipe(name, epochs=1), seed, digits, test=False)
            first_epoch[name].append(run["seconds"])
    found = {"seconds": seconds, "one_epoch": first_epoch, "environment": environment()}
    write_json(path, found)


def main() -> int:
    commands = {
        "runs": runs,
        "ladder": ladder,
        "models": train_published,
        "tuned": tuned,
        "audit": audit,
        "photos": photos,
        "timing": timing,
    }
    command, *names = sys.argv[1:] or [""]
    if command not in commands or (names and command not in ("runs", "models")):
        print(__doc__)
        return 2
    try:
        known = PUBLISHED if command == "models" else [name for name, n in SEEDS.items() if n]
        if unknown := set(names) - set(known):
            raise ValueError(f"no {command} of {', '.join(unknown)}; there are {', '.join(known)}.")
        commands[command](data.load_mnist(), *([names] if command in ("runs", "models") else []))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
