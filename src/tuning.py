"""Hyperparameter search with Keras Tuner: the space, a search that resumes, many workers.

    python -m src.tuning [KIND ...]                all searches, or some: models/tuning/
    python -m src.tuning [KIND ...] --workers 3    the same, with a chief and three workers
KIND is random, bayesian or hyperband. What a search has finished is kept in build/tuning/,
where a search that was stopped goes on. With KERASTUNER_ORACLE_IP, KERASTUNER_ORACLE_PORT and
KERASTUNER_TUNER_ID set, the process is a chief or a worker, as Keras Tuner's guide has it.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import grpc
import keras
import keras_tuner as kt
from keras_tuner.src import utils as kt_utils
from keras_tuner.src.distribute import oracle_client

from src import data, models, training
from src.config import ROOT, display_path, environment, read_json, results_dir, write_json
from src.recipes import get_recipe

FOLDER = ROOT / "models" / "tuning"
KINDS = {"random": kt.RandomSearch, "bayesian": kt.BayesianOptimization, "hyperband": kt.Hyperband}
EPOCHS, TRIALS, IMAGES = 10, 12, 12_000  # hyperband, too, spends 120 epochs: 30 trials
SEED = 0
METRIC = "cross_entropy"  # without label smoothing, so that settings compare
FITTING = 1  # to be raised where RecipeModel comes to fit otherwise: searches then begin anew
VARIABLES = ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID")
LAUNCHER = "MNIST_TUNING_LAUNCHER"  # process that started this one as a chief or a worker
STATE = ("ongoing_trials", "start_order", "end_order", "retry_queue", "hyperparameters")
TRIAL = ("trial_id", "status", "score", "metrics", "hyperparameters", "message")
RESTARTS = 3  # of each worker that dies
TRY_AGAIN, PATIENCE = 0.5, 120  # seconds between looks, and to wait for a chief

# Keras Tuner writes its state in place: a process killed in mid-write would leave half a file.
kt_utils.save_json = write_json
oracle_client.TIMEOUT = PATIENCE  # a worker's calls would wait an hour for a chief that has gone


class SearchError(RuntimeError):
    """A search that can't go on, or found nothing."""


def space(hp: kt.HyperParameters) -> dict:
    """Ask `hp` for each hyperparameter; returns the changes to the recipe `fast` that they make.

    The defaults are `fast` itself. Every question is asked in every call, as conditions need.
    """
    blocks = hp.Choice("blocks", [2, 3], default=3)
    filters = [
        hp.Choice("filters_1", [16, 24, 32, 48], default=24),
        hp.Choice("filters_2", [32, 48, 64], default=48),
    ]
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
        "filters": (*filters, third) if blocks == 3 else tuple(filters),
        "kernel_size": (kernel, 3, 3)[:blocks],
        "padding": fast["network"]["padding"][:blocks],
        "pool": fast["network"]["pool"][:blocks],
        "batch_norm": batch_norm,
        "dense_units": (dense,) if dense else (),
        "dropout": dropout,
    } | ({"batch_norm_momentum": momentum} if batch_norm else {})
    sizes = fast["augmentation"].items()
    return {
        "network": network,
        "optimizer": {"learning_rate": rate},
        "batch_size": batch_size,
        "augmentation": {name: size * strength for name, size in sizes} if augment else None,
    }


def recipe_from(values: dict, space: Callable = space) -> dict:
    """The recipe that a trial's values (name -> value) stand for."""
    hp = kt.HyperParameters()
    hp.values = dict(values)
    return get_recipe("fast", **space(hp))


class RecipeModel(kt.HyperModel):
    """What Keras Tuner calls for each trial: build the network of a recipe, then fit it."""

    def __init__(self, space: Callable, epochs: int):
        super().__init__()
        self.space, self.epochs = space, epochs

    def build(self, hp: kt.HyperParameters) -> keras.Model:
        keras.utils.set_random_seed(SEED)
        return models.build_cnn(**get_recipe("fast", **self.space(hp))["network"])

    def fit(self, hp, model, x, y, validation_data, **kwargs):
        recipe = get_recipe("fast", **self.space(hp))
        batches = data.make_dataset(x, y, recipe["batch_size"], True, SEED, recipe["augmentation"])
        kwargs = {"epochs": self.epochs, "initial_epoch": 0} | kwargs
        # Hyperband goes on with a trial's weights: the schedule is that of the epochs to come
        steps = (kwargs["epochs"] - kwargs["initial_epoch"]) * len(batches)
        metrics = ["accuracy", keras.metrics.CategoricalCrossentropy(name=METRIC)]
        optimizer = training.make_optimizer(recipe, steps)
        model.compile(optimizer, training.make_loss(recipe), metrics=metrics)
        x_val, y_val = validation_data
        return model.fit(
            batches, validation_data=data.make_dataset(x_val, y_val, 500), shuffle=False, **kwargs
        )


class ChiefLost(kt.errors.FatalError):
    """A worker's chief does not answer; Keras Tuner would take it for a failure of the trial."""


class Reporting:
    """Beside Keras Tuner's own work: a line as a trial begins and ends, the message of one that
    fails in a file of its own (from a worker it would not reach the chief), and an error where
    the first three fail or nothing completed."""

    ended, completed = 0, 0

    def pre_create_trial(self) -> None:
        if self._is_worker():
            time.sleep(0.2)  # Hyperband may have nothing to do for a while, and is asked at once

    def on_trial_begin(self, trial) -> None:
        self._message_file(trial).unlink(missing_ok=True)  # of an earlier try
        values = {k: v for k, v in trial.hyperparameters.values.items() if "/" not in k}
        found = ", ".join(f"{k}={_short(v)}" for k, v in values.items() if v is not None)
        line = f"{self._who()}trial {trial.trial_id}: {found}"
        print(textwrap.fill(line, 95, subsequent_indent="    "), flush=True)
        super().on_trial_begin(trial)

    def on_trial_end(self, trial) -> None:
        message = trial.message
        if message:
            self._message_file(trial).write_text(message, encoding="utf-8")
        super().on_trial_end(trial)
        trial = self.oracle.get_trial(trial.trial_id)
        completed = trial.status == "COMPLETED"
        found = f"{trial.score:.4f}" if completed else _last_line(message)
        print(f"{self._who()}trial {trial.trial_id} {trial.status}: {found}", flush=True)
        self.ended, self.completed = self.ended + 1, self.completed + completed
        if self.ended == 3 and not self.completed:
            check_completed(self.project_dir)

    def _run_and_update_trial(self, trial, *args, **kwargs) -> None:
        try:
            super()._run_and_update_trial(trial, *args, **kwargs)
        except grpc.RpcError as error:
            raise ChiefLost from error

    def search(self, *args, **kwargs) -> None:
        try:
            with nullcontext() if self._is_worker() else alone(Path(self.project_dir)):
                super().search(*args, verbose=0, **kwargs)
        except (grpc.RpcError, ChiefLost) as error:
            raise SearchError(
                "The chief does not answer. Stop all workers, then start chief and workers again "
                "with the same commands: the search goes on where it was."
            ) from error
        if not self._is_worker():
            check_completed(self.project_dir)

    def _message_file(self, trial) -> Path:
        return Path(self.get_trial_dir(trial.trial_id)) / "failed.txt"

    def _who(self) -> str:
        return f"{self.tuner_id}: " if self._is_worker() else ""


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _last_line(message: str | None) -> str:
    return (message or "").strip().rpartition("\n")[2] or "its score is not a number"


def make_tuner(
    kind: str,
    folder: Path,
    images: int = IMAGES,
    epochs: int = EPOCHS,
    trials: int = TRIALS,
    space: Callable = space,
) -> kt.Tuner:
    """A Keras Tuner of this `kind`, whose `search` takes x, y (of `images` images) and
    validation_data; see search_data.

    Its project in `folder` is named by a digest of what results depend on: a changed space
    begins anew, the same one goes on where it was stopped, more `trials` add to it. Hyperband
    has no `trials`: it goes by `epochs`, the most that one trial may take.
    Raises ValueError for an unknown kind or settings that make no network, SearchError where
    the search could not work: no tensorboard, a folder that can't be written, damaged files.
    """
    if kind not in KINDS:
        raise ValueError(f"no tuner named {kind!r}; there are {', '.join(KINDS)}.")
    for name, n in (("images", images), ("epochs", epochs), ("trials", trials)):
        if not isinstance(n, int) or n < 1:  # Keras Tuner would take 0 trials for no limit
            raise ValueError(f"{name}={n!r}: expected a whole number, 1 or more.")
    own = {"max_epochs": epochs} if kind == "hyperband" else {"max_trials": trials}
    own |= {"num_initial_points": 4 if trials >= 12 else 2} if kind == "bayesian" else {}
    project = Path(folder) / f"{kind}-{digest(space, images, epochs)}"
    check_ready(folder)
    if role() == "worker":
        wait_for_chief(project)
    else:
        with alone(project):
            mend(project)
    tuner = type(kind, (Reporting, KINDS[kind]), {})
    with redirect_stdout(None):  # it prints whole paths
        return tuner(
            hypermodel=RecipeModel(space, epochs),
            objective=kt.Objective(f"val_{METRIC}", "min"),
            # 0 would mean none; Keras Tuner counts up from it, so that near ones share draws
            seed=SEED + 1 + 1000 * list(KINDS).index(kind),
            directory=folder,
            project_name=project.name,
            max_consecutive_failed_trials=10**6,  # it raises while it holds a lock: see search
            **own,
        )


def digest(space: Callable, images: int, epochs: int) -> str:
    """Eight hexadecimal digits that change with the space, with what it makes of twenty draws,
    with the recipe `fast`, and with the fitting."""
    hp = kt.HyperParameters()
    content = [FITTING, images, epochs, get_recipe("fast", **space(hp))]
    content += [hp.get_config()["space"]]
    for seed in range(20):
        drawn = kt.HyperParameters()
        drawn.values = {p.name: p.random_sample(seed + i) for i, p in enumerate(hp.space)}
        content.append(space(drawn))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def role() -> str:
    """What Keras Tuner's environment variables make of this process: "chief", "worker" or "".

    Raises SearchError unless all three are set, or none.
    """
    found = [name for name in VARIABLES if name in os.environ]
    if found and len(found) < 3:
        raise SearchError(f"{', '.join(found)} set, expected all of {', '.join(VARIABLES)}.")
    if not found:
        return ""
    return "chief" if "chief" in os.environ[VARIABLES[2]] else "worker"


@contextmanager
def alone(project: Path):
    """Holds the project for one process. SearchError where another one has it."""
    project.mkdir(parents=True, exist_ok=True)
    with open(project / "lock", "w", encoding="utf-8") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SearchError(
                f"{project.name}: another process is searching there. Wait for it, or end it."
            ) from error
        yield


def check_ready(folder: Path) -> None:
    """SearchError where trials could not run or be kept."""
    if importlib.util.find_spec("tensorboard") is None:
        raise SearchError(
            "Keras Tuner imports tensorboard in every trial, and it is not installed: "
            "pip install -r requirements.txt"
        )
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SearchError(
            f"{folder}: can't be written to ({error.strerror}). MNIST_RESULTS_DIR names another "
            "folder for results."
        ) from error


def mend(project: Path) -> None:
    """Make what a killed search left fit to go on from: trials that had just begun are taken
    away, those that had ended count as ended, and one whose file is damaged counts as failed.

    Raises SearchError where the search's own state is damaged.
    """
    if not (project / "oracle.json").exists():
        return
    state = _read(project / "oracle.json", STATE, "; move its folder away to begin anew")
    for path in project.glob("trial_*"):
        if path.name.removeprefix("trial_") not in state["start_order"]:
            shutil.rmtree(path)
    for name in state["start_order"]:
        path = project / f"trial_{name}" / "trial.json"
        try:
            trial = _read(path, TRIAL)
        except (SearchError, FileNotFoundError) as error:
            print(f"{error} The trial counts as failed.")
            if path.exists():
                os.replace(path, path.with_name("damaged-trial.json"))
            path.parent.mkdir(exist_ok=True)
            trial = _failed_trial(name, state["hyperparameters"]["space"])
            write_json(path, trial)
        if trial["status"] in ("COMPLETED", "FAILED"):
            state["end_order"] += [name] * (name not in state["end_order"])
    done, running = state["end_order"], state["ongoing_trials"]
    state["ongoing_trials"] = {who: name for who, name in running.items() if name not in done}
    state["retry_queue"] = [name for name in state["retry_queue"] if name not in done]
    write_json(project / "oracle.json", state)
    # Keras Tuner takes a project up again where this file is, and writes it late
    write_json(project / f"{os.environ.get(VARIABLES[2], 'tuner0')}.json", {})


def _failed_trial(name: str, space: list) -> dict:
    hp = {"space": space, "values": {}}
    message = "its trial.json was damaged"
    return {"trial_id": name, "hyperparameters": hp, "metrics": {"metrics": {}}, "score": None,
            "best_step": 0, "status": "FAILED", "message": message}  # fmt: skip


def _read(path: Path, needed: Iterable[str] = (), advice: str = "") -> dict:
    """A JSON file. SearchError naming it where it is damaged or lacks what is needed."""
    try:
        return read_json(path, needed, advice)
    except ValueError as error:
        raise SearchError(f"{path.parent.name}/{error}") from error


def read_trials(project: Path, epochs: int | None = None) -> list[dict]:
    """The trials of a search in the order they began, from its files: trial, status, epochs
    (`epochs` where the tuner sets none) and from_epoch (those it took over), loss and accuracy
    on the validation images (None unless it completed), values (of the hyperparameters that
    were active), message of a failure.

    Raises SearchError naming a damaged file.
    """
    rows = []
    for path in Path(project).glob("trial_*/trial.json"):
        trial = _read(path, TRIAL)
        completed, failed = trial["status"] == "COMPLETED", path.with_name("failed.txt")
        values = trial["hyperparameters"]["values"]
        accuracy = trial["metrics"]["metrics"].get("val_accuracy", {}).get("observations")
        rows.append(
            {
                "trial": trial["trial_id"],
                "status": trial["status"],
                "epochs": values.get("tuner/epochs", epochs),
                "from_epoch": values.get("tuner/initial_epoch", 0),
                "loss": trial["score"] if completed else None,
                "accuracy": accuracy[-1]["value"][0] if completed and accuracy else None,
                "values": {k: v for k, v in values.items() if "/" not in k},
                "message": _message(trial, failed),
            }
        )
    return sorted(rows, key=lambda row: int(row["trial"]))


def _message(trial: dict, failed: Path) -> str | None:
    if trial["status"] != "FAILED":
        return None
    found = failed.read_text("utf-8") if failed.exists() else trial["message"]
    return found or "its score is not a number"


def best_trial(folder: Path = FOLDER) -> dict:
    """The trial with the lowest loss among the searches whose JSON is in `folder`.

    Raises FileNotFoundError where there is none.
    """
    found = [trial for search in read_searches(folder).values() for trial in search["trials"]]
    return min((t for t in found if t["loss"] is not None), key=lambda trial: trial["loss"])


def read_searches(folder: Path = FOLDER) -> dict[str, dict]:
    """The JSON of each finished search in `folder` by kind.

    Raises FileNotFoundError without any, SearchError where they can't be compared.
    """
    paths = {kind: folder / f"{kind}.json" for kind in KINDS}
    keys = ("project", "settings", "trials")
    found = {kind: _read(path, keys) for kind, path in paths.items() if path.exists()}
    if not found:
        raise FileNotFoundError(f"{display_path(folder)} holds no search: run make tune first.")
    if len({json.dumps(search["settings"]) for search in found.values()}) > 1:
        raise SearchError(f"{display_path(folder)}: searches with unequal settings; redo them all.")
    return found


def check_completed(project: Path) -> None:
    """SearchError with the first trial's message unless one trial or more completed."""
    trials = read_trials(project)
    if not any(trial["status"] == "COMPLETED" for trial in trials):
        message = trials[0]["message"] if trials else "no trial was begun"
        raise SearchError(
            f"None of {len(trials)} trials completed. The first one failed with:\n{message}"
        )


def search_data(digits: data.DigitData, images: int = IMAGES) -> tuple:
    """x, y, (x_val, y_val) of a search: `images` of those to fit, stratified (all where there
    are fewer), and the selection images; images scaled, labels one-hot. Raises ValueError for
    fewer than ten images."""
    if images < 10:
        raise ValueError(f"images={images}: expected 10 or more, one of each digit.")
    fit, select, _ = data.split_fit_select_held(digits.y_train)
    if images < len(fit):
        _, part = data.stratified_split(digits.y_train[fit], images / len(fit), SEED)
        fit = fit[part]
    x, y = data.scale_images(digits.x_train), data.one_hot(digits.y_train)
    return x[fit], y[fit], (x[select], y[select])


def wait_for_chief(project: Path, seconds: float = PATIENCE) -> None:
    """Return once the chief of this project listens. SearchError after so many seconds without."""
    address = os.environ[VARIABLES[0]], int(os.environ[VARIABLES[1]])
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address, timeout=TRY_AGAIN).close()
            if (project / "chief.json").exists():
                return
        except OSError:
            pass
        time.sleep(TRY_AGAIN)
    raise SearchError(
        f"No chief of {project.name} at {address[0]}:{address[1]} within {seconds:.0f} s. Start "
        f"one, with {VARIABLES[2]}=chief; check {VARIABLES[0]} and {VARIABLES[1]}, and that "
        "MNIST_RESULTS_DIR is the same folder for all."
    )


def check_port(ip: str, port: int) -> int:
    """The port if it is free (any free one for 0). SearchError where it is in use."""
    with socket.socket() as probe:
        if os.name == "posix":  # else a port stays taken for a minute after its chief has ended
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as error:
            raise SearchError(
                f"{ip}:{port} can't be listened on ({error.strerror}): set {VARIABLES[1]} to a "
                f"free port, {VARIABLES[0]} to an address of the chief's machine, for all alike."
            ) from error
        return probe.getsockname()[1]


def run_workers(command: list[str], workers: int) -> None:
    """Run `command` as a chief and so many workers, processes on this machine, to the end.

    A worker that dies is started again under its own id: Keras Tuner hands it its unfinished
    trial, and its chief waits for every worker that it knows. The chief listens on loopback:
    whoever reaches its port can run the search, for it asks no one who they are.
    Raises SearchError where one of them ends with an error or dies too often.
    """
    ip = "127.0.0.1"
    values = {VARIABLES[0]: ip, VARIABLES[1]: str(check_port(ip, 0)), LAUNCHER: str(os.getpid())}
    share = str(max(1, (os.cpu_count() or 1) // workers))
    limits = {"TF_NUM_INTRAOP_THREADS": share, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}

    def start(name: str) -> subprocess.Popen:
        env = limits | os.environ | values | {VARIABLES[2]: name}
        process = subprocess.Popen(command, env=env)
        print(f"{name}: process {process.pid}", flush=True)
        return process

    running = {name: start(name) for name in ("chief", *(f"worker{i}" for i in range(workers)))}
    try:
        _watch(running, start)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _watch(running: dict[str, subprocess.Popen], start: Callable) -> None:
    """Until all workers have ended well; the chief, whose state is on disk by then, is left."""
    deaths = dict.fromkeys(running, 0)
    while set(running) - {"chief"}:
        time.sleep(TRY_AGAIN)
        for name, process in list(running.items()):
            code = process.poll()
            if code == 0:
                del running[name]
            elif code is not None:
                deaths[name] += 1
                if code == 1 or name == "chief" or deaths[name] > RESTARTS:
                    raise SearchError(f"{name} ended with code {code}: see what it says above.")
                print(f"{name} died (code {code}) and is started again", flush=True)
                running[name] = start(name)


def search(
    kind: str,
    source: str = "mnist",
    target: Path | None = None,
    workers: int = 1,
    images: int = IMAGES,
    epochs: int = EPOCHS,
    trials: int = TRIALS,
) -> None:
    """One search from beginning to end, or this process' part of it; its trials as KIND.json in
    the folder `target`, by default beside the search's own files. A finished one is not redone.
    """
    settings = {"images": images, "epochs": epochs, "trials": trials}
    folder, me, launched = results_dir("tuning", source), role(), LAUNCHER in os.environ
    project = folder / f"{kind}-{digest(space, images, epochs)}"
    about = {"project": project.name, "settings": settings}
    path = (target or folder) / f"{kind}.json"
    if not launched and path.exists() and _read(path).items() >= about.items():
        print(f"{display_path(path)} is there already; delete it to search again.")
        return
    if workers > 1 and not me:
        options = [f"--{name}={value}" for name, value in (settings | {"source": source}).items()]
        run_workers([sys.executable, "-m", "src.tuning", kind, *options], workers)
    else:
        if me == "chief":
            check_port(os.environ[VARIABLES[0]], int(os.environ[VARIABLES[1]]))
        x, y, validation = search_data(data.load_mnist(source), images)
        make_tuner(kind, folder, **settings).search(x, y, validation_data=validation)
    if me != "worker" and not launched:
        check_completed(project)
        found = {"trials": read_trials(project, epochs), "environment": environment()}
        write_json(path, about | found)


def _end_with_launcher() -> None:
    """End this process when the one that launched it has gone."""
    while os.getppid() == int(os.environ[LAUNCHER]):
        time.sleep(1)
    os._exit(1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m src.tuning", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--source", default="mnist")
    defaults = {"workers": 1, "images": IMAGES, "epochs": EPOCHS, "trials": TRIALS}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers are ended, too
    if LAUNCHER in os.environ:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    target = FOLDER if options["source"] == "mnist" else None
    try:
        for kind in options.pop("kinds") or KINDS:
            search(kind, target=target, **options)
    except (SearchError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
