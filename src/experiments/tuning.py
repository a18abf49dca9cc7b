"""Search for better settings with Keras Tuner, alone or by a chief and its workers.

Each trial is a piece of the store. A search always begins with a fresh Keras Tuner, which
proposes the same trials as before, and those that are stored are answered at once: so a killed
search goes on where it was, and more trials add to it.
"""

import hashlib
import json
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import grpc
import keras
import keras_tuner as kt
import numpy as np
from keras_tuner.src.distribute import oracle_client
from keras_tuner.src.engine import conditions

from src import data, models, training
from src.config import ROOT, display_path, environment, read_json, results_dir
from src.experiments import store
from src.experiments.store import Job
from src.experiments.workers import SearchError, end_with_launcher, role, run_workers
from src.recipes import Recipe, get_recipe

FOLDER = ROOT / "models" / "tuning"
KINDS = {
    "random": kt.oracles.RandomSearchOracle,
    "bayesian": kt.oracles.BayesianOptimizationOracle,
    "hyperband": kt.oracles.HyperbandOracle,
}
EPOCHS, TRIALS, IMAGES = 10, 12, 12_000  # hyperband, too, spends 120 epochs: 30 trials
SEED = 0
SCORE = "val_cross_entropy"  # without label smoothing, so that settings compare
ALL = 10**6  # more than a search has trials
PATIENCE = 120  # seconds that a worker waits for its chief
LOST = (
    "The chief does not answer. Stop all workers, then start chief and workers again with the "
    "same commands: the search goes on where it was."
)
conditions.print = lambda *_: None  # Keras Tuner prints each condition that it sends


def space(hp: kt.HyperParameters) -> dict:
    """Ask `hp` for each hyperparameter; return the changes to `fast` that the answers make.

    The defaults are `fast` itself. Every question is asked in every call, as conditions need.
    """
    blocks = hp.Choice("blocks", [2, 3], default=3)
    first = hp.Choice("filters_1", [16, 24, 32, 48], default=24)
    second = hp.Choice("filters_2", [32, 48, 64], default=48)
    with hp.conditional_scope("blocks", [3]):
        third = hp.Choice("filters_3", [48, 64, 96], default=64)
    kernel = hp.Choice("kernel_size", [3, 5], default=5)
    batch_norm = hp.Boolean("batch_norm", default=True)
    with hp.conditional_scope("batch_norm", [True]):
        momentum = hp.Choice("batch_norm_momentum", [0.9, 0.99], default=0.9)
    augment = hp.Boolean("augment", default=True)
    with hp.conditional_scope("augment", [True]):
        strength = hp.Float("augment_strength", 0.5, 2.5, step=0.25, default=1.0)
    dense = hp.Choice("dense_units", [0, 64, 128, 256], default=0)
    dropout = hp.Float("dropout", 0.0, 0.5, step=0.1, default=0.2)
    rate = hp.Float("learning_rate", 1e-3, 3e-2, sampling="log", default=1e-2)
    batch_size = hp.Choice("batch_size", [64, 128, 256], default=128)
    fast = get_recipe("fast")
    network = {
        "filters": (first, second, third)[:blocks],
        "kernel_size": (kernel, 3, 3)[:blocks],
        "padding": fast.network["padding"][:blocks],
        "pool": fast.network["pool"][:blocks],
        "batch_norm": batch_norm,
        "dense_units": (dense,) if dense else (),
        "dropout": dropout,
    }
    if batch_norm:
        network["batch_norm_momentum"] = momentum
    sizes = fast.augmentation.items()
    return {
        "network": network,
        "optimizer": {"learning_rate": rate},
        "batch_size": batch_size,
        "augmentation": {name: size * strength for name, size in sizes} if augment else None,
    }


def recipe_from(values: dict, space: Callable = space) -> Recipe:
    """Make the recipe that a trial's values (name -> value) stand for."""
    hp = kt.HyperParameters()
    hp.values = dict(values)
    return get_recipe("fast", **space(hp))


def space_digest(space: Callable = space) -> str:
    """Digest a space's questions, and the recipes that it makes of twenty draws."""
    hp = kt.HyperParameters()
    content = [get_recipe("fast", **space(hp)).settings(), hp.get_config()["space"]]
    for seed in range(20):
        drawn = {p.name: p.random_sample(seed + i) for i, p in enumerate(hp.space)}
        content.append(recipe_from(drawn, space).settings())
    # nine digits of a float: the last ones of a logarithmic draw may differ between systems
    content = json.loads(json.dumps(content), parse_float=lambda text: f"{float(text):.9g}")
    return _digest(content)


def _digest(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def search_data(digits: data.DigitData, images: int = IMAGES) -> tuple:
    """Choose x, y, (x_val, y_val) for a search; images scaled, labels one-hot.

    x holds `images` training images, stratified (all where there are fewer), x_val all
    validation images.
    """
    if images < 10:
        raise ValueError(f"images={images}: expected 10 or more, one of each digit.")
    rows = digits.rows["train"]
    if images < len(rows):
        rows = rows[data.stratified_split(digits.y_train[rows], images / len(rows), SEED)[1]]
    x_val, labels = digits.part("validation")
    x, y = data.scale_images(digits.x_train[rows]), data.one_hot(digits.y_train[rows])
    return x, y, (x_val, data.one_hot(labels))


def make_tuner(kind, folder, images=IMAGES, epochs=EPOCHS, trials=TRIALS, space=space) -> kt.Tuner:
    """Make a Keras Tuner whose `search` takes x, y, validation_data, as search_data gives them.

    Trials are stored in `folder`. Hyperband goes by `epochs`, the most that one trial may take,
    and has no number of `trials`.
    """
    if kind not in KINDS:
        raise ValueError(f"no tuner named {kind!r}; there are {', '.join(KINDS)}.")
    for name, n in (("images", images), ("epochs", epochs), ("trials", trials)):
        if not isinstance(n, int) or n < 1:  # Keras Tuner would take 0 trials for no limit
            raise ValueError(f"{name}={n!r}: expected a whole number, 1 or more.")
    models.build(recipe_from({}, space).network)  # says at once what makes no network
    try:
        (Path(folder) / "trials").mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SearchError(
            f"{folder}: can't be written to ({error.strerror}). MNIST_RESULTS_DIR names another "
            "folder for results."
        ) from error
    own = {"max_epochs": epochs} if kind == "hyperband" else {"max_trials": trials}
    if kind == "bayesian":
        own["num_initial_points"] = 4 if trials >= 12 else 2  # drawn at random; guesses
    oracle = KINDS[kind](
        objective=kt.Objective(SCORE, "min"),
        # 0 would mean none; Keras Tuner counts up from it, so that near ones share draws
        seed=SEED + 1 + 1000 * list(KINDS).index(kind),
        max_consecutive_failed_trials=ALL,  # it raises while it holds a lock: `search` looks
        **own,
    )
    oracle.verbose = 0
    return StoredTuner(oracle, space, images, epochs, Path(folder))


class StoredTuner(kt.Tuner):
    """A Keras Tuner that takes each trial's answer from the store, or trains and stores it."""

    def __init__(self, oracle, space: Callable, images: int, epochs: int, folder: Path):
        self.space, self.images, self.epochs, self.folder = space, images, epochs, folder
        self.scratch = tempfile.TemporaryDirectory()  # for Keras Tuner's own files
        try:
            super().__init__(oracle, space, directory=self.scratch.name)
        except grpc.RpcError as error:
            raise SearchError(LOST) from error

    def search(self, *args, **kwargs) -> None:
        """Run the search, or this process' part of it, to the end."""
        try:
            super().search(*args, **kwargs)
        except grpc.RpcError as error:
            raise SearchError(LOST) from error
        found = [] if self._is_worker() else trials(self)
        if found and all(trial["status"] == "FAILED" for trial in found):
            raise SearchError(
                f"None of {len(found)} trials completed. The first one failed with:\n"
                f"{found[0]['message']}"
            )

    def pre_create_trial(self) -> None:
        if self._is_worker():
            time.sleep(0.2)  # Hyperband may have nothing to do for a while, and is asked at once

    def run_trial(self, trial, x, y, validation_data) -> dict:
        job = self.job(trial)
        if store.problem(job):
            asked = [f"{name}={value:.3g}" for name, value in _asked(trial).items()]
            print(f"{self.tuner_id}: trial {trial.trial_id}: {', '.join(asked)}", flush=True)
        found = store.get(job, (x, y, validation_data), wait=True)  # for the same trial elsewhere
        if found["message"]:
            raise kt.errors.FailedTrialError(found["message"])
        return {SCORE: found["validation"]["loss"]}

    def job(self, trial) -> Job:
        """Describe a trial as a piece of the store, named by all that its answer depends on."""
        values, parents = trial.hyperparameters.values, ()
        if "tuner/trial_id" in values:  # hyperband goes on with the weights of that trial
            parents = (self.job(self.oracle.get_trial(values["tuner/trial_id"])),)
        try:
            recipe = recipe_from(values, self.space).settings()
        except Exception:  # `_train` meets it again, and stores it
            recipe = {"values": values}
        settings = {
            "recipe": recipe,
            "images": self.images,
            "from_epoch": values.get("tuner/initial_epoch", 0),
            "epochs": values.get("tuner/epochs", self.epochs),
            "seed": SEED,
            "parent": parents[0].path.stem if parents else None,
        }
        path = self.folder / "trials" / f"{_digest(settings)}.json"
        files = (f"{path.stem}.weights.h5",) if "tuner/epochs" in values else ()
        return Job(path, settings, partial(self._train, values, settings, files), parents, files)

    def _train(self, values: dict, settings: dict, files: Sequence[str], data, path: Path) -> dict:
        keep = [path.with_name(name) for name in files]
        start = path.with_name(f"{settings['parent']}.weights.h5") if settings["parent"] else None
        try:
            found = fit(recipe_from(values, self.space), data, settings, start, *keep)
        except Exception as error:  # of whatever kind: the search goes on
            for file in keep:
                file.touch()  # the store looks for it
            print(f"FAILED: {type(error).__name__}: {error}", flush=True)
            return {"message": traceback.format_exc()}
        return {"message": None, "validation": found}


def _asked(trial) -> dict:
    """Take a trial's values: the active ones, without Keras Tuner's own such as tuner/epochs."""
    hp = trial.hyperparameters
    return {name: v for name, v in hp.values.items() if "/" not in name and hp.is_active(name)}


def fit(recipe: Recipe, search_data: tuple, settings: dict, start=None, keep=None) -> dict:
    """Train a trial's network for some epochs; return the loss and accuracy of the best.

    `settings`: from_epoch and epochs. `start`: a file of weights to go on from. `keep`: a file
    for the best epoch's weights.
    """
    x, y, validation = search_data
    begin, end = settings["from_epoch"], settings["epochs"]
    keras.utils.clear_session()
    keras.utils.set_random_seed(SEED)
    model = models.build(recipe.network)
    if start:
        model.load_weights(start)
    batches = data.make_dataset(x, y, recipe.batch_size, True, SEED, recipe.augmentation)
    cross_entropy = keras.metrics.CategoricalCrossentropy(name=SCORE.removeprefix("val_"))
    # after `start`, too, the schedule is that of the epochs to come
    training.compile_model(model, recipe, (end - begin) * len(batches), metrics=[cross_entropy])
    settings = {"initial_epoch": begin, "epochs": end, "shuffle": False, "verbose": 0}
    if keep:
        only = {"save_best_only": True, "save_weights_only": True}
        settings["callbacks"] = [keras.callbacks.ModelCheckpoint(keep, SCORE, **only)]
    validation = data.make_dataset(*validation, 500)
    found = model.fit(batches, validation_data=validation, **settings).history
    if not np.isfinite(found[SCORE]).any():
        raise ValueError("its score is not a number")
    best = int(np.nanargmin(found[SCORE]))
    return {"loss": found[SCORE][best], "accuracy": found["val_accuracy"][best]}


def trials(tuner: StoredTuner) -> list[dict]:
    """List a search's trials in the order in which they began.

    trial, status, epochs and from_epoch (those taken over from another trial), loss and
    accuracy on the validation images (None unless it completed), values of the hyperparameters
    that were active, message of a failure.
    """
    rows = []
    found = tuner.oracle.get_best_trials(ALL)  # those too that have not completed
    for trial in sorted(found, key=lambda trial: int(trial.trial_id)):
        job = tuner.job(trial)
        answer = read_json(job.path) if job.path.exists() else {}
        row = {"trial": trial.trial_id, "status": trial.status}
        row |= {name: job.settings[name] for name in ("epochs", "from_epoch")}
        row |= {"loss": None, "accuracy": None, **answer.get("validation", {})}
        rows.append(row | {"values": _asked(trial), "message": answer.get("message")})
    return rows


def search_job(kind, folder=FOLDER, images=IMAGES, epochs=EPOCHS, trials=TRIALS, workers=1) -> Job:
    """Describe a whole search, by this process or by a chief and so many workers."""
    size = {"images": images, "epochs": epochs, "trials": trials}
    run = partial(_run_search, kind, size, workers)
    return Job(folder / f"{kind}.json", size | {"space": space_digest()}, run, command="make tune")


def _run_search(kind: str, size: dict, workers: int, digits: data.DigitData, path: Path) -> dict:
    source = "mnist" if digits.name == "MNIST" else "sample"
    chiefs = search_job(kind, _work(source), **size)
    if workers > 1:
        options = [f"--{name}={value}" for name, value in (size | {"source": source}).items()]
        run_workers([sys.executable, "-m", "src.experiments", "tune", kind, *options], workers)
    if path != chiefs.path and store.problem(chiefs) is None:
        return {name: store.read(chiefs)[name] for name in ("trials", "environment")}
    tuner = make_tuner(kind, _work(source), **size)
    x, y, validation = search_data(digits, size["images"])
    tuner.search(x, y, validation_data=validation)
    return {"trials": [] if tuner._is_worker() else trials(tuner), "environment": environment()}


def _work(source: str) -> Path:
    return results_dir("work", source) / "tuning"


def read_searches(folder: Path = FOLDER) -> dict[str, dict]:
    """Read the finished searches in `folder`: kind -> content of its JSON."""
    found = {job.path.stem: content for job, content in store.read_all(_searches(folder))}
    if not found:
        raise FileNotFoundError(f"{display_path(folder)} holds no search: run make tune first.")
    if len({json.dumps(content["settings"]) for content in found.values()}) > 1:
        raise SearchError(f"{display_path(folder)}: searches with unequal settings; redo them all.")
    return found


def _searches(folder: Path) -> list[Job]:
    """List the searches whose JSON is in `folder`, each of the size that it was made with."""
    jobs = []
    for job in (search_job(kind, folder) for kind in KINDS):
        if job.path.exists():
            try:
                made = read_json(job.path, ("settings",))["settings"]
                size = (made[name] for name in ("images", "epochs", "trials"))
                jobs.append(search_job(job.path.stem, folder, *size))
            except (ValueError, LookupError, TypeError):
                jobs.append(job)  # damaged, as the store will say
    return jobs


def best_trial(folder: Path = FOLDER) -> dict:
    """Find the trial with the lowest loss among the searches in `folder`."""
    return _best(read_searches(folder).values())


def _best(searches: Iterable[dict]) -> dict:
    found = [trial for search in searches for trial in search["trials"]]
    return min((t for t in found if t["loss"] is not None), key=lambda trial: trial["loss"])


def compared_jobs(folder: Path = FOLDER, seeds: int = 5) -> list[Job]:
    """List trainings of the searches' winner and of `fast`, in turn, seed by seed."""
    recipes, searches = {"tuned": None, "fast": get_recipe("fast")}, _searches(folder)
    if whole := [store.read(job) for job in searches if store.problem(job) is None]:
        recipes["tuned"] = recipe_from(_best(whole)["values"])
    jobs = []
    for seed in range(seeds):
        for name, recipe in recipes.items():
            settings = recipe.settings() if recipe else {}  # of a winner that is not known yet
            needs = tuple(searches) if name == "tuned" else ()
            path = folder / "compared" / f"{name}-{seed}.json"
            jobs.append(
                Job(path, settings, partial(_compare, recipe, seed), needs, (), "make tune")
            )
    return jobs


def _compare(recipe: Recipe | None, seed: int, digits: data.DigitData, path: Path) -> dict:
    """Train a recipe; list the rows of the images held back that it reads wrong."""
    if recipe is None:
        raise SearchError(f"{display_path(path.parents[1])} holds no search: run make tune first.")
    keras.utils.clear_session()
    trained = training.train(recipe, digits, seed)
    images, labels = digits.part("held_back")
    predicted = trained.model.predict(images, batch_size=500, verbose=0).argmax(axis=1)
    return {
        "seed": seed,
        "seconds": trained.seconds,
        "parameters": trained.model.count_params(),
        "n": len(labels),
        "wrong": np.flatnonzero(predicted != labels).tolist(),
        "environment": environment(),
    }


def run(
    kinds=(), source="mnist", workers=1, images=IMAGES, epochs=EPOCHS, trials=TRIALS, folder=None
) -> None:
    """Run some searches into `folder`; or all, and compare their winner with `fast`.

    A chief or a worker, as the environment tells them, takes its part in one search.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers are ended, too
    digits, size = data.load_mnist(source), (images, epochs, trials)
    if role():
        end_with_launcher()
        if len(kinds) != 1:
            raise SearchError("a chief and its workers make one search at a time: name it.")
        job = search_job(kinds[0], _work(source), *size)
        oracle_client.TIMEOUT = PATIENCE  # not an hour, for a chief that has gone
        job.run(digits, job.path) if role() == "worker" else store.get(job, digits)
        return
    folder = folder or (FOLDER if source == "mnist" else results_dir("tuning", source))
    for kind in kinds or KINDS:
        job = search_job(kind, folder, *size, workers)
        if store.problem(job) is None:
            path, kept = display_path(job.path), display_path(_work(source))
            print(f"{path} is there already; delete it and {kept} to search again.")
        store.get(job, digits)
    if not kinds:
        store.run_all(compared_jobs(folder), digits)
