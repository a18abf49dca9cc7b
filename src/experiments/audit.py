"""Training labels that look wrong to networks that were not trained on them."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from src import training
from src.config import CLASSES, ROOT, environment
from src.data import DigitData
from src.experiments.store import Job
from src.recipes import get_recipe

FOLDS, KEPT = 5, 100


def job(folder: Path = ROOT / "models") -> Job:
    """Describe models/audit.json."""
    settings = get_recipe("fast", validation=0.01).settings() | {"folds": FOLDS}
    return Job(folder / "audit.json", settings, find_suspects, command="make audit")


def find_suspects(digits: DigitData, _: Path | None = None) -> dict:
    """Rank the training labels by the probability that a network gives them, lowest first.

    Each image is read by a `fast` that was not trained on it; cleanlab ranks the labels by that
    probability ("self-confidence"). The hundred lowest are kept, and how many cleanlab's own
    threshold calls wrong. Northcutt, Jiang and Chuang, "Confident Learning" (2021).
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    labels = digits.y_train.astype(int)
    probabilities = _out_of_fold(digits)
    predicted = probabilities.argmax(axis=1)
    quality = get_label_quality_scores(labels, probabilities)
    rows = np.argsort(quality, kind="stable")[:KEPT]
    suspects = pd.DataFrame(
        {
            "row": rows,
            "label": labels[rows],
            "predicted": predicted[rows],
            "probability": probabilities[rows].max(axis=1),
            "quality": quality[rows],
        }
    )
    return {
        "images": len(labels),
        "accuracy": float((predicted == labels).mean()),
        "above_threshold": int(find_label_issues(labels, probabilities).sum()),
        "suspects": suspects.to_dict("records"),
        "environment": environment(),
    }


def _out_of_fold(digits: DigitData) -> np.ndarray:
    """Read each training image with a network that was not trained on it: (n, 10)."""
    probabilities = np.zeros((len(digits.y_train), CLASSES))
    recipe = get_recipe("fast", validation=0.01)
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(
        digits.y_train, digits.y_train
    )
    for fold, (kept, out) in enumerate(parts):
        keras.utils.clear_session()
        x, y = digits.x_train, digits.y_train
        part = DigitData(x[kept], y[kept], x[out], y[out], f"fold {fold + 1}")
        model = training.train(recipe, part, seed=fold).model
        probabilities[out] = model.predict(part.part("test")[0], batch_size=500, verbose=0)
        print(f"fold {fold + 1} of {FOLDS}", flush=True)
    return probabilities
