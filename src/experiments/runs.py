"""Recipes trained over many seeds, the ladder's steps, the published networks, and their times."""

from functools import partial
from pathlib import Path

import keras

from src import models, training
from src.config import ROOT, environment
from src.data import DigitData, scale_images
from src.experiments import photos
from src.experiments.store import Job, in_rounds
from src.reading.synthetic import CALIBRATED
from src.recipes import RECIPES, Recipe, get_recipe, ladder

MODELS, WORK = ROOT / "models", ROOT / "build" / "work"
SEEDS = {name: 5 for name in RECIPES} | {"sprint": 20, "fast": 10, "champion": 3}
SEEDS["robust"] = 0  # not made for clean images: `photos` is its benchmark
LADDER_SEEDS = 10
PUBLISHED = ("fast", "strong", "champion", "robust")
SYSTEMS = tuple(name for name in RECIPES if RECIPES[name].get("system"))
TIMED = ("sprint", "fast", "keras_io_convnet", *SYSTEMS)
ONE_EPOCH_TIMED = ("strong", "champion")  # times the number of epochs: the rest would take hours
ROUNDS = 3


def run_jobs(names=(), folder: Path = MODELS / "benchmarks") -> list[Job]:
    """List all seeds of some recipes (of all), the first seed of every recipe before the second."""
    jobs = []
    for seed in range(max(SEEDS.values())):
        for name in names or RECIPES:
            if seed < SEEDS[name]:
                jobs.append(_run_job(get_recipe(name), seed, folder))
    return jobs


def ladder_jobs(folder: Path = MODELS / "ladder") -> list[Job]:
    """List the ladder's steps, which leave the test images alone."""
    seeds = range(LADDER_SEEDS)
    return [_run_job(step, seed, folder, test=False) for seed in seeds for step in ladder()]


def _run_job(recipe: Recipe, seed: int, folder: Path, test: bool = True) -> Job:
    path = folder / f"{recipe.name}-{seed}.json"
    return Job(path, recipe.settings(), lambda digits, _: run_one(recipe, digits, seed, test))


class KeepWeights(keras.callbacks.Callback):
    """Remember the weights after each epoch, so that they can be scored when all is done."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.weights = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.weights.append(self.model.get_weights())


def run_one(recipe: Recipe, digits: DigitData, seed: int, test: bool = True) -> dict:
    """Train a recipe with a seed, and score it at the end on its validation images.

    With `test` it is scored on the test images too, once, and on the images held back where the
    recipe leaves them alone. Without, `seconds` is the wall clock of the training: runs with
    `test` may share the machine, and `timing_job` compares times.
    """
    keep = KeepWeights()
    keras.utils.clear_session()  # nothing of the runs before slows this one
    trained = training.train(recipe, digits, seed, (keep,))
    model, images = trained.model, scale_images(digits.x_train[trained.val_rows])
    result = {
        "recipe": recipe.name,
        "seed": seed,
        "data": digits.name,
        "epochs": len(keep.weights),
        "images": len(trained.train_rows),
        "parameters": model.count_params(),
        "multiply_adds": models.multiply_adds(model),
        "training_accuracy": trained.history["accuracy"][-1],  # an average over the last epoch
        "validation": training.score(model, images, digits.y_train[trained.val_rows]),
        "environment": environment(),
    }
    if not test:
        return result | {"seconds": trained.seconds}
    if recipe.validation == "split":
        result["held_back"] = training.score(model, *digits.part("held_back"))
    images, labels = digits.part("test")
    result["test"] = training.score(model, images, labels)
    accuracies = []  # for contrast only: what choosing the epoch on the test set would give
    for weights in keep.weights:
        model.set_weights(weights)
        accuracies.append(training.score(model, images, labels)["accuracy"])
    return result | {"peak_test_accuracy": max(accuracies)}


def published_jobs(names=(), folder: Path = MODELS) -> list[Job]:
    """List our published networks: seed 0, trained on all but the images held back."""
    jobs = []
    for name in names or PUBLISHED:
        recipe = get_recipe(name, validation="held_back")
        settings = recipe.settings()
        if name == "robust":
            settings["calibration_images"] = CALIBRATED
        run, files = partial(train_published, recipe), (f"{name}.keras",)
        jobs.append(Job(folder / f"{name}.json", settings, run, files=files))
    return jobs


def train_published(recipe: Recipe, digits: DigitData, path: Path) -> dict:
    """Train and save a network to publish; its scores are those of the images held back."""
    trained, held = training.train(recipe, digits, seed=0), digits.part("held_back")
    calibrated = photos.calibrate(trained.model, *held) if recipe.name == "robust" else {}
    models.save_model(trained.model, path.with_suffix(".keras"))
    return {
        "recipe": recipe.name,
        "seed": 0,
        "images": len(trained.train_rows),
        "parameters": trained.model.count_params(),
        "held_back": training.score(trained.model, *held),
        "environment": environment(),
        **calibrated,
    }


def timing_job(folder: Path = MODELS, work: Path = WORK / "timing", rounds: int = ROUNDS) -> Job:
    """Time the recipes side by side: each in turn in every round, so that drift hits all alike."""
    whole = {name: get_recipe(name) for name in TIMED}
    short = {name: get_recipe(name, epochs=1) for name in ONE_EPOCH_TIMED}
    settings = {name: recipe.settings() for name, recipe in (whole | short).items()}

    def time_round(digits: DigitData, turn: int) -> dict:
        seconds = {}
        for name, recipe in (whole | short).items():
            seconds[name] = run_one(recipe, digits, turn, test=False)["seconds"]
            print(f"round {turn + 1}: {name} {seconds[name]:.1f} s", flush=True)
        return seconds

    def run(digits: DigitData, _: Path) -> dict:
        found = in_rounds(work, settings, time_round, rounds, digits)
        parts = {"seconds": whole, "one_epoch": short}
        times = {part: {name: found[name] for name in names} for part, names in parts.items()}
        return times | {"environment": environment()}

    return Job(folder / "timing.json", settings | {"rounds": rounds}, run, command="make timing")
