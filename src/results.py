"""What the runs of `benchmark` say, from their JSON: summaries, verdicts, rows of tables."""

from pathlib import Path

import numpy as np

from src import evaluation
from src.config import ROOT, read_json
from src.recipes import LADDER, RECIPES, SHOWN, STEP_WORDS, get_recipe

MODELS = ROOT / "models"
RUNS, STEPS = MODELS / "benchmarks", MODELS / "ladder"
NEEDED = ("recipe", "seed", "settings", "epochs", "parameters", "multiply_adds", "validation")


def read_result(path: Path, needed: tuple[str, ...] = ("test",), always=NEEDED) -> dict:
    """One run's JSON. Raises ValueError naming a file that is damaged or incomplete."""
    return read_json(path, (*always, *needed))


def read_timing(folder: Path = MODELS) -> dict[str, list[float]]:
    """Seconds of each round's training by recipe, those timed for an epoch times their epochs;
    nothing before the first timing."""
    path = folder / "timing.json"
    if not path.exists():
        return {}
    found = read_json(path, ("seconds", "one_epoch"))
    return found["seconds"] | {
        name: [RECIPES[name]["epochs"] * t for t in times]
        for name, times in found["one_epoch"].items()
    }


def verdict(recipe: dict, accuracies: list[float]) -> str:
    """What several runs' accuracies say of the figure that the system states.

    Empty before the third run. The figure is compared with the interval where one more run
    would fall in 95% of cases, mean ± t sd √(1 + 1/n) (Hahn and Meeker, "Statistical
    Intervals", 1991), widened by the figure's rounding. "below" where the sizes are our choice,
    "not supported" where the system gives them.
    """
    if not recipe["reported"] or len(accuracies) < 3:
        return ""
    digits = recipe["reported"].rstrip("%")
    stated, rounding = float(digits) / 100, 0.5 * 10.0 ** -(len(digits.partition(".")[2]) + 2)
    found, n = evaluation.spread(accuracies), len(accuracies)
    margin = (found["high"] - found["mean"]) * np.sqrt(n + 1) + rounding
    if abs(stated - found["mean"]) <= margin:
        return "reproduced"
    if stated < found["mean"]:
        return "above"
    return "below" if recipe["comparable"] else "not supported"


def summarize(folder: Path = RUNS) -> dict[str, dict]:
    """For each recipe with results: its test accuracy as n, mean, sd and 95% interval over
    seeds, means of the other figures, and the verdict on the figure that the system states."""
    rows = {}
    for name in RECIPES:
        recipe = get_recipe(name)
        found = [read_result(path) for path in sorted(folder.glob(f"{name}-*.json"))]
        if not found:
            continue
        values = {part: [run[part]["accuracy"] for run in found] for part in ("validation", "test")}
        peaks = [
            run["peak_test_accuracy"] - run["test"]["accuracy"]
            for run in found
            if "peak_test_accuracy" in run
        ]
        rows[name] = {
            **{field: recipe[field] for field in SHOWN},
            "parameters": found[0]["parameters"],
            "epochs": float(np.mean([run["epochs"] for run in found])),
            **{part: evaluation.spread(accuracies) for part, accuracies in values.items()},
            "peak_minus_final": float(np.mean(peaks)) if peaks else None,
            "training_accuracy": _mean(found, "training_accuracy"),
            "verdict": verdict(recipe, values[recipe["reported_on"]]),
        }
    return rows


def _mean(found: list[dict], key: str) -> float | None:
    values = [run[key] for run in found if key in run]
    return float(np.mean(values)) if values else None


def ladder_rows(folder: Path = STEPS) -> list[dict]:
    """A row per step of LADDER: its change in words, parameters, median seconds, mean and sd of
    the selection accuracy in %, and how many seeds these are over."""
    rows = []
    for step in LADDER:
        found = [read_result(path, ("seconds",)) for path in sorted(folder.glob(f"{step}-*.json"))]
        if found:
            accuracy = evaluation.spread([run["validation"]["accuracy"] for run in found])
            rows.append(
                {
                    "step": step,
                    "change": STEP_WORDS.get(step, step),
                    "parameters": found[0]["parameters"],
                    "seconds": float(np.median([run["seconds"] for run in found])),
                    "accuracy": 100 * accuracy["mean"],
                    "sd": np.nan if accuracy["sd"] is None else 100 * accuracy["sd"],
                    "seeds": accuracy["n"],
                }
            )
    return rows


def accuracy_time_rows(folder: Path = MODELS) -> list[dict]:
    """What plots.plot_accuracy_time takes, from the benchmark's and the timing's JSON."""
    times, rows = read_timing(folder), []
    for name, row in summarize(folder / "benchmarks").items():
        if name not in times:
            continue
        group = "the five systems" if row["system"] else "ours"
        group = "keras.io example" if name == "keras_io_convnet" else group
        label = row["system"] or ("keras.io" if name == "keras_io_convnet" else name)
        rows.append({"name": label, "group": group, "seconds": times[name], **row["test"]})
    return rows
