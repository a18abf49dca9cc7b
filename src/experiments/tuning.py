"""Search for better settings with Keras Tuner, alone or by a chief and its workers.

Each trial is a piece of the store. A search always begins with a fresh Keras Tuner, which
proposes the same trials as before, and those that are stored are answered at once: so a killed
search goes on where it was, and more trials add to it.
"""

import json
import math
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import grpc
import keras
import keras_tuner as kt
import numpy as np
from keras_tuner.src.distribute import oracle_client
from keras_tuner.src.engine import conditions

from src import data, models, training
from src.config import ROOT, display_path, environment, expect, read_json, results_dir
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
TRIALS = 40  # of `fast`'s length, for each tuner
UNITS = 9  # parts of `fast`'s length: hyperband trains its trials for 1, 3 or 9 of them
ROUND = (1,) * 9 + (3,) * 3 + (9,) + (3,) * 5 + (9,) * 5  # its trials, in this order, over again
WINNERS = {"by_loss": "loss", "by_accuracy": "accuracy"}  # two tries, in this order
SEED = 0
ALL = 10**6  # more than a search has trials
PATIENCE = 120  # seconds that a worker waits for its chief
LOST = (
    "The chief does not answer. Stop all workers, then start chief and workers again with the "
    "same commands: the search goes on where it was."
)
conditions.print = lambda *_: None  # Keras Tuner prints each condition that it sends


def space(hp: kt.HyperParameters) -> Recipe:
    """Ask `hp` for each hyperparameter; return the recipe that the answers make of `fast`.

    The defaults are `fast` itself. Label smoothing stays: it changes the loss that trials are
    compared by. All questions are asked in every call, as conditions need.
    """
    filters = hp.Choice("filters", ["24-48-64", "16-48-96", "16-48-48-48"])
    dense = hp.Boolean("dense", default=False)
    with hp.conditional_scope("dense", [True]):
        units = hp.Choice("dense_units", [32, 64, 128])
    dropout = hp.Float("dropout", 0.0, 0.4, step=0.1, default=0.2)
    rate = hp.Float("learning_rate", 3e-3, 3e-2, sampling="log", default=1e-2)
    batch_size = hp.Choice("batch_size", [64, 128], default=128)
    augment = hp.Float("augment", 0.0, 2.0, step=0.25, default=1.0)
    return like_fast(filters, units if dense else 0, dropout, rate, batch_size, augment)


def like_fast(filters: str, units: int, dropout: float, rate: float, batch_size: int, augment):
    """Change `fast`: its filters, as "24-48-64", its dense layer, dropout and steps.

    All `filters` of the space cost about as many multiply-adds. `augment` multiplies the
    strength of the augmentation.
    """
    fast, sizes = get_recipe("fast"), [int(size) for size in filters.split("-")]
    later = len(sizes) - 2
    network = {
        "filters": sizes,
        "kernel_size": [5] + [3] * (later + 1),
        "padding": ["valid"] * 2 + ["same"] * later,
        "pool": [True] * 2 + [False] * later,
        "dense_units": [units] if units else [],
        "dropout": dropout,
    }
    stronger = {name: augment * size for name, size in fast.augmentation.items()}
    return fast.change(
        network=network, optimizer={"learning_rate": rate}, batch_size=batch_size,
        augmentation=stronger if augment else None,
    )  # fmt: skip


def recipe_from(values: dict, space: Callable = space) -> Recipe:
    """Make the recipe that a trial's values (name -> value) stand for."""
    hp = kt.HyperParameters()
    hp.values = dict(values)
    return space(hp)


def space_digest(space: Callable = space) -> str:
    """Digest a space's questions, and the recipes that it makes of twenty draws."""
    hp = kt.HyperParameters()
    content = [space(hp).settings(), hp.get_config()["space"]]
    for seed in range(20):
        drawn = {p.name: p.random_sample(seed + i) for i, p in enumerate(hp.space)}
        content.append(recipe_from(drawn, space).settings())
    # nine digits of a float: the last ones of a logarithmic draw may differ between systems
    content = json.loads(json.dumps(content), parse_float=lambda text: f"{float(text):.9g}")
    return store.digest_of(content)


def make_tuner(kind: str, folder, trials: int = TRIALS, space: Callable = space) -> kt.Tuner:
    """Make a Keras Tuner whose `search` takes the digits, and stores its trials in `folder`.

    Hyperband takes as long as so many trials of full length.
    """
    if kind not in KINDS:
        raise ValueError(f"no tuner named {kind!r}; there are {', '.join(KINDS)}.")
    # Keras Tuner would take 0 trials for no limit
    expect(isinstance(trials, int) and trials >= 1, "trials", trials, "a whole number, 1 or more")
    models.build(recipe_from({}, space).network)  # says at once what makes no network
    try:
        (Path(folder) / "trials").mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SearchError(
            f"{folder}: can't be written to ({error.strerror}). MNIST_RESULTS_DIR names another "
            "folder for results."
        ) from error
    own = {"max_trials": trials}
    if kind == "hyperband":
        own = {"max_epochs": UNITS, "factor": 3, "hyperband_iterations": trials}
    if kind == "bayesian":
        own["num_initial_points"] = max(2, min(10, trials // 2))  # drawn at random; a guess
    oracle = KINDS[kind](
        objective=kt.Objective("val_loss", "min"),
        # 0 would mean none; Keras Tuner counts up from it, so that near ones share draws
        seed=SEED + 1 + 1000 * list(KINDS).index(kind),
        max_consecutive_failed_trials=ALL,  # it raises while it holds a lock: `search` looks
        **own,
    )
    oracle.verbose = 0
    if kind == "hyperband":  # as many as take that long
        oracle.max_trials = int(np.searchsorted(np.cumsum(ROUND * trials), trials * UNITS)) + 1
    return StoredTuner(oracle, space, Path(folder))


class StoredTuner(kt.Tuner):
    """A Keras Tuner that takes each trial's answer from the store, or trains and stores it."""

    def __init__(self, oracle, space: Callable, folder: Path):
        self.space, self.folder = space, folder
        self.scratch = tempfile.TemporaryDirectory()  # for Keras Tuner's own files
        try:
            super().__init__(oracle, space, directory=self.scratch.name)
        except grpc.RpcError as error:
            raise SearchError(LOST) from error

    def search(self, digits: data.DigitData) -> None:
        """Run the search, or this process' part of it, to the end."""
        try:
            super().search(digits)
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

    def run_trial(self, trial, digits: data.DigitData) -> dict:
        job = self.job(trial)
        if store.problem(job):
            asked = [
                f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in _asked(trial).items()
            ]
            print(f"{self.tuner_id}: trial {trial.trial_id}: {', '.join(asked)}", flush=True)
        found = store.get(job, digits, wait=True)  # for the same trial elsewhere
        if found["message"]:
            raise kt.errors.FailedTrialError(found["message"])
        return {"val_loss": found["validation"]["loss"]}

    def job(self, trial) -> Job:
        """Describe a trial as a piece of the store, named by all that its answer depends on."""
        values = trial.hyperparameters.values
        try:
            recipe = recipe_from(values, self.space).settings()
        except Exception:  # `_train` meets it again, and stores it
            recipe = {"values": values}
        units = values.get("tuner/epochs", UNITS)
        settings = {"recipe": recipe, "units": units, "seed": SEED}
        path = self.folder / "trials" / f"{store.digest_of(settings)}.json"
        return Job(path, settings, partial(self._train, values, units))

    def _train(self, values: dict, units: int, digits: data.DigitData, path: Path) -> dict:
        try:
            found = fit(recipe_from(values, self.space), digits, units / UNITS)
        except Exception as error:  # of whatever kind: the search goes on
            print(f"FAILED: {type(error).__name__}: {error}", flush=True)
            return {"message": traceback.format_exc()}
        return {"message": None, "validation": found}


def _asked(trial) -> dict:
    """Take a trial's values: the active ones, without Keras Tuner's own such as tuner/epochs."""
    hp = trial.hyperparameters
    return {name: v for name, v in hp.values.items() if "/" not in name and hp.is_active(name)}


def fit(recipe: Recipe, digits: data.DigitData, share: float) -> dict:
    """Train a recipe for a share of its steps, a whole schedule long; score it on validation.

    Returns loss (of the recipe) and accuracy.
    """
    x, y = digits.part("train")
    keras.utils.clear_session()
    keras.utils.set_random_seed(SEED)
    batches = data.make_dataset(
        x, data.one_hot(y), recipe.batch_size, True, SEED, recipe.augmentation
    )
    steps = math.ceil(share * recipe.epochs * len(batches))
    model = models.build(recipe.network)
    training.compile_model(model, recipe, steps)
    model.fit(batches.repeat(), steps_per_epoch=steps, shuffle=False, verbose=0)
    x, y = digits.part("validation")
    found = model.evaluate(x, data.one_hot(y), batch_size=500, return_dict=True, verbose=0)
    if not np.isfinite(found["loss"]):
        raise ValueError("its score is not a number")
    return {name: found[name] for name in ("loss", "accuracy")}


def trials(tuner: StoredTuner) -> list[dict]:
    """List a search's trials in the order in which they began.

    trial, status, share (of `fast`'s length), loss and accuracy on the validation images (None
    unless it completed), values of the hyperparameters that were active, message of a failure.
    """
    rows = []
    found = tuner.oracle.get_best_trials(ALL)  # those too that have not completed
    for trial in sorted(found, key=lambda trial: int(trial.trial_id)):
        job = tuner.job(trial)
        answer = read_json(job.path) if job.path.exists() else {}
        row = {"trial": trial.trial_id, "status": trial.status}
        row["share"] = job.settings["units"] / UNITS
        row |= {"loss": None, "accuracy": None, **answer.get("validation", {})}
        rows.append(row | {"values": _asked(trial), "message": answer.get("message")})
    return rows


def search_job(kind: str, folder: Path = FOLDER, trials: int = TRIALS, workers: int = 1) -> Job:
    """Describe a whole search, by this process or by a chief and so many workers."""
    settings = {"trials": trials, "space": space_digest()}
    run = partial(_run_search, kind, trials, workers)
    return Job(folder / f"{kind}.json", settings, run, command="make tune")


def _run_search(kind: str, trials_: int, workers: int, digits: data.DigitData, path: Path) -> dict:
    source = "mnist" if digits.name == "MNIST" else "sample"
    chiefs = search_job(kind, _work(source), trials_)
    if workers > 1:
        options = [f"--trials={trials_}", f"--source={source}"]
        run_workers([sys.executable, "-m", "src.experiments", "tune", kind, *options], workers)
    if path != chiefs.path and store.problem(chiefs) is None:
        return {name: store.read(chiefs)[name] for name in ("trials", "environment")}
    tuner = make_tuner(kind, _work(source), trials_)
    tuner.search(digits)
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
                jobs.append(search_job(job.path.stem, folder, made["trials"]))
            except (ValueError, LookupError, TypeError):
                jobs.append(job)  # damaged, as the store will say
    return jobs


def best_trial(folder: Path = FOLDER, by: str = "accuracy") -> dict:
    """Find the trial with the lowest "loss", or the highest "accuracy", among the searches."""
    return _best(read_searches(folder).values(), by)


def _best(searches: Iterable[dict], by: str) -> dict:
    found = [trial for search in searches for trial in search["trials"]]
    sign = -1 if by == "loss" else 1
    return max((t for t in found if t["loss"] is not None), key=lambda trial: sign * trial[by])


def compared_jobs(folder: Path = FOLDER, seeds: int = 10) -> list[Job]:
    """List trainings of the searches' winners and of `fast`, in turn, seed by seed."""
    recipes: dict = dict.fromkeys(WINNERS) | {"fast": get_recipe("fast")}
    searches = _searches(folder)
    if whole := [store.read(job) for job in searches if store.problem(job) is None]:
        recipes |= {name: recipe_from(_best(whole, by)["values"]) for name, by in WINNERS.items()}
    jobs = []
    for seed in range(seeds):
        for name, recipe in recipes.items():
            settings = recipe.settings() if recipe else {}  # of a winner that is not known yet
            needs = () if name == "fast" else tuple(searches)
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


def run(kinds=(), source="mnist", workers=1, trials=TRIALS, folder=None) -> None:
    """Run some searches into `folder`; or all, and compare their winner with `fast`.

    A chief or a worker, as the environment tells them, takes its part in one search.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers are ended, too
    digits = data.load_mnist(source)
    if role():
        end_with_launcher()
        if len(kinds) != 1:
            raise SearchError("a chief and its workers make one search at a time: name it.")
        job = search_job(kinds[0], _work(source), trials)
        oracle_client.TIMEOUT = PATIENCE  # not an hour, for a chief that has gone
        job.run(digits, job.path) if role() == "worker" else store.get(job, digits)
        return
    folder = folder or (FOLDER if source == "mnist" else results_dir("tuning", source))
    for kind in kinds or KINDS:
        job = search_job(kind, folder, trials, workers)
        if store.problem(job) is None:
            path, kept = display_path(job.path), display_path(_work(source))
            print(f"{path} is there already; delete it and {kept} to search again.")
        store.get(job, digits)
    if not kinds:
        store.run_all(compared_jobs(folder), digits)
