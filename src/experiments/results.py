"""What the stored results say, as tables: summaries over seeds, verdicts, comparisons.

Only results that are whole and up to date are read; others are named and left out.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from src import evaluation, recipes
from src.config import ROOT
from src.data import DigitData
from src.experiments import ensembles, plan, runs, tuning
from src.experiments.store import Job, read, read_all
from src.recipes import SHOWN, Recipe, get_recipe

MODELS = ROOT / "models"


def systems(models: Path = MODELS) -> pd.DataFrame:
    """Summarize each recipe's runs: a row per recipe, accuracies over seeds as shares.

    n, mean, sd, low and high are of the test accuracy; rounds are the timing's seconds, seconds
    their median, and ratio its multiple of the keras.io example's.
    """
    rows, times = {}, read_timing(models)
    for name, found in _by_name(runs.run_jobs(folder=models / "benchmarks")).items():
        recipe = get_recipe(name)
        scores = {part: [run[part]["accuracy"] for run in found] for part in ("validation", "test")}
        table = pd.DataFrame(found).reindex(columns=["training_accuracy", "peak_test_accuracy"])
        rows[name] = {
            **{field: getattr(recipe, field) for field in SHOWN},
            "parameters": found[0]["parameters"],
            "epochs": np.mean([run["epochs"] for run in found]),
            **evaluation.spread(scores["test"]),
            "validation": np.mean(scores["validation"]),
            "training_accuracy": table.training_accuracy.mean(),  # not every stored run has these
            "peak_minus_final": (table.peak_test_accuracy - scores["test"]).mean(),
            "verdict": verdict(recipe, scores[recipe.reported_on]),
        }
        if name in times:
            seconds = np.median(times[name])
            ratio = seconds / np.median(times["keras_io_convnet"])
            rows[name] |= {"rounds": times[name], "seconds": seconds, "ratio": ratio}
    return pd.DataFrame.from_dict(rows, orient="index")


def systems_table(models: Path = MODELS) -> pd.DataFrame:
    """Show what each recipe states beside what it reached, in words; accuracies as shares."""
    table = systems(models).reset_index(names="name")
    on_validation = table.validation.map(" of validation (here {:.2%})".format)
    overfit = table.training_accuracy.map(" (training accuracy here: {:.2%})".format)
    return pd.DataFrame({
        "recipe": table.system.fillna(table.name) + ": " + table.about,
        "it states": table.reported.fillna("–")
        + on_validation.where(table.reported_on == "validation", ""),
        **table[["mean", "sd", "n", "low", "high"]],
        "training": table.apply(duration, axis=1),
        "verdict": table.verdict.replace("", "–")
        + table.comparable.map({True: ", comparable network", False: ""})
        + overfit.where(table.verdict == "not supported", ""),
    })  # fmt: skip


def duration(row: pd.Series) -> str:
    """Write a training time and its multiple of the keras.io example's."""
    if pd.isna(row.get("seconds")):
        return "–"
    shown = f"{row.seconds:.0f} s" if row.seconds < 100 else f"{row.seconds / 60:.1f} min"
    return f"{shown}, {row.ratio:.2g}×"


def _by_name(jobs: list[Job]) -> dict[str, list[dict]]:
    """Read what is up to date: name of a recipe or step -> its results, in the order of jobs."""
    found = {job.path.stem.rsplit("-", 1)[0]: [] for job in jobs}
    for job, content in read_all(jobs):
        found[job.path.stem.rsplit("-", 1)[0]].append(content)
    return {name: some for name, some in found.items() if some}


def read_timing(models: Path = MODELS) -> dict[str, list[float]]:
    """Read the seconds of each round's training by recipe; nothing before the first timing.

    Of recipes timed for one epoch these are multiplied by their epochs.
    """
    for _, found in read_all([runs.timing_job(models)]):
        short = found["one_epoch"]
        whole = {name: [get_recipe(name).epochs * t for t in short[name]] for name in short}
        return found["seconds"] | whole
    return {}


def verdict(recipe: Recipe, accuracies: list[float]) -> str:
    """Judge the accuracy that a system states by what several runs measured.

    Empty before the third run. The figure is compared with the interval where one more run
    would fall in 95% of cases, mean ± t sd √(1 + 1/n) (Hahn and Meeker, "Statistical
    Intervals", 1991), widened by the figure's rounding. "below" where the sizes are our choice,
    "not supported" where the system gives them.
    """
    if not recipe.reported or len(accuracies) < 3:
        return ""
    digits = recipe.reported.rstrip("%")
    stated, rounding = float(digits) / 100, 0.5 * 10.0 ** -(len(digits.partition(".")[2]) + 2)
    found, n = evaluation.spread(accuracies), len(accuracies)
    margin = (found["high"] - found["mean"]) * np.sqrt(n + 1) + rounding
    if abs(stated - found["mean"]) <= margin:
        return "reproduced"
    if stated < found["mean"]:
        return "above"
    return "below" if recipe.comparable else "not supported"


def ladder(models: Path = MODELS) -> pd.DataFrame:
    """Show what each step of the ladder brought, in points of validation accuracy over its seeds.

    gain, low and high: the mean difference to the step before, seed by seed, and its 95% interval.
    """
    found, rows, before = _by_name(runs.ladder_jobs(models / "ladder")), {}, None
    for step in recipes.ladder():
        scores = {
            run["seed"]: 100 * run["validation"]["accuracy"] for run in found.get(step.name, ())
        }
        if not scores:
            continue
        row = {"change": step.about, "parameters": found[step.name][0]["parameters"]}
        row |= {"accuracy": np.mean(list(scores.values())), "seeds": len(scores)}
        if before and (pairs := sorted(scores.keys() & before.keys())):
            gains = evaluation.spread([scores[seed] - before[seed] for seed in pairs])
            row |= {"gain": gains["mean"], "low": gains["low"], "high": gains["high"]}
        rows[step.name] = row
        before = scores
    return pd.DataFrame.from_dict(rows, orient="index")


def accuracy_time_rows(models: Path = MODELS) -> list[dict]:
    """List what plot_accuracy_time takes: name, group, seconds of each round, mean, low, high."""
    table, rows = systems(models), []
    for name, row in table.dropna(subset="seconds").iterrows() if "seconds" in table else ():
        label, group = name, "ours"
        if pd.notna(row.system):
            label, group = row.system, "the five systems"
        elif name == "keras_io_convnet":
            label, group = "keras.io", "keras.io example"
        shown = row[["mean", "low", "high"]].to_dict()
        rows.append({"name": label, "group": group, "seconds": row.rounds, **shown})
    return rows


def members(models: Path = MODELS) -> pd.DataFrame:
    """Show the members' networks: cost, and errors on the images held back, per seed."""
    rows = {}
    for name, found in _by_name(ensembles.member_jobs(models / "ensemble")).items():
        recipe = ensembles.MEMBERS[name]
        rows[name] = {
            "about": recipe.about,
            "parameters": found[0]["parameters"],
            "multiply_adds": found[0]["multiply_adds"],
            "epochs": recipe.epochs,
            "errors": [one["held_back"]["errors"] for one in found],
            "n": found[0]["held_back"]["n"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def tries(models: Path = MODELS) -> pd.DataFrame:
    """Show both tries of the ensemble on test: members' accuracies, that of all together."""
    folder, rows = models / "ensemble", {}
    titles = {"test": "averaged", "continued": "second try: the same, trained on"}
    sizes = [member["parameters"] for _, member in read_all(ensembles.member_jobs(folder))]
    jobs = [ensembles.test_job(folder), ensembles.continued_job(folder)]
    for job, content in read_all(jobs):
        alone = [score["accuracy"] for score in content["members"].values()]
        together = content["ensemble"]
        low, high = together["accuracy_interval"]
        rows[titles[job.path.stem]] = {
            "members": len(alone),
            "parameters": sum(sizes),
            "loss": together["loss"],
            "mean": np.mean(alone),
            "least": min(alone),
            "most": max(alone),
            "together": together["accuracy"],
            "low": low,
            "high": high,
            "wrong": content["wrong"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def students(models: Path = MODELS) -> pd.DataFrame:
    """Compare students trained both ways, seed by seed: spreads of the test accuracy.

    A row per student and way ("distilled", "plain", "difference"), of the seeds that have both.
    """
    rows = {}
    found = pd.DataFrame(run for _, run in read_all(ensembles.student_jobs(models / "ensemble")))
    for name, runs_of in found.groupby("recipe", sort=False) if len(found) else ():
        accuracy = runs_of.assign(accuracy=[test["accuracy"] for test in runs_of.test])
        table = accuracy.pivot(index="seed", columns="distilled", values="accuracy").dropna()
        table = table.rename(columns={True: "distilled", False: "plain"})[["distilled", "plain"]]
        for way, values in table.assign(difference=table.distilled - table.plain).items():
            parameters = runs_of.parameters.iloc[0]
            rows[name, way] = {"parameters": parameters, **evaluation.spread(values.to_list())}
    return pd.DataFrame.from_dict(rows, orient="index")


def photos(models: Path = MODELS) -> dict:
    """Read what was measured on synthetic photos, corrupted images, letters and scribbles."""
    return read(plan.jobs(models)["photos"][0])


def exports(models: Path = MODELS) -> dict:
    """Read sizes, times and errors of the exported network."""
    return read(plan.jobs(models)["export"][0])


def suspects(digits: DigitData, most: int) -> tuple[np.ndarray, list[str]]:
    """Take MNIST's training images whose labels are most in doubt; "label → answer" for each."""
    rows = pd.DataFrame(read(plan.jobs()["audit"][0])["suspects"]).head(most)
    if digits.name != "MNIST":
        print("The labels in doubt are those of MNIST.")
        rows = rows.head(0)
    return digits.x_train[rows.row], [f"{one.label} → {one.predicted}" for one in rows.itertuples()]


def compare_tuned(folder: Path = MODELS / "tuning") -> dict:
    """Compare the searches' winners with `fast` on the images held back, over paired seeds.

    `errors`: a row per seed, a column per recipe. `gains`: a row per winner, how many errors it
    makes less than `fast`, with 95% intervals over seeds (`low`, `high`) and over images.
    """
    found: dict = {}
    for job in tuning.compared_jobs(folder):
        found.setdefault(job.path.stem.split("-")[0], []).append(read(job))
    n = found["fast"][0]["n"]
    wrong = {  # a row per seed, a column per image
        name: np.array([np.isin(range(n), run["wrong"]) for run in seeds], int)
        for name, seeds in found.items()
    }
    gains = {}
    for name in tuning.WINNERS:
        gain = wrong["fast"] - wrong[name]
        seeds, images = map(evaluation.spread, (gain.sum(axis=1), gain.mean(axis=0) * n))
        gains[name] = {key: seeds[key] for key in ("mean", "low", "high")}
        gains[name] |= {f"images_{key}": images[key] for key in ("low", "high")}
    errors = pd.DataFrame({name: wrong[name].sum(axis=1) for name in ("fast", *tuning.WINNERS)})
    return {"n": n, "errors": errors, "gains": pd.DataFrame(gains).T}


def trials(searches: dict[str, dict]) -> pd.DataFrame:
    """List the trials of searches: a row each, with its tuner, values, and cost."""
    rows = [
        {"tuner": kind, **trial, **trial["values"]}
        for kind, found in searches.items()
        for trial in found["trials"]
    ]
    table = pd.DataFrame(rows)
    return table.assign(spent=table.groupby("tuner").share.cumsum())
