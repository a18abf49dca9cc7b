"""Numbers about predictions: labels (n,), predictions (n,), probabilities (n, 10)."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, norm, t
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from src.config import CLASSES


def accuracy_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for `correct` of `total`, as fractions.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927); computed by scipy. 0.99 of 10,000 gives 0.9879 to 0.9918.
    Raises ValueError where `correct` is not in 0..total or `total` is 0.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total}: expected 0 to total, of 1 or more.")
    interval = binomtest(int(correct), int(total)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def spread(values: Sequence[float]) -> dict:
    """n, mean, sd (of the sample) and the 95% interval of the mean, from Student's t.

    Student, "The probable error of a mean", Biometrika 6 (1908). With one value, sd, low and
    high are None. Raises ValueError without values.
    """
    if len(values) == 0:
        raise ValueError("no values: expected one or more.")
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return {"n": n, "mean": mean, "sd": None, "low": None, "high": None}
    sd = float(np.std(values, ddof=1))
    margin = float(t.ppf(0.975, n - 1) * sd / np.sqrt(n))
    return {"n": n, "mean": mean, "sd": sd, "low": mean - margin, "high": mean + margin}


def check_predictions(labels: np.ndarray, probabilities: np.ndarray) -> None:
    """ValueError unless the labels are integers 0-9 and there is one row of ten probabilities,
    summing to 1, for each."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: {labels.dtype} {labels.shape}, expected integers (n,).")
    if probabilities.shape != (len(labels), CLASSES) or len(labels) == 0:
        raise ValueError(
            f"probabilities: shape {probabilities.shape} for {len(labels)} labels, expected "
            f"({len(labels)}, {CLASSES}) and at least one row."
        )
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(f"labels: {labels.min()} to {labels.max()}, expected 0 to {CLASSES - 1}.")
    sums = probabilities.sum(axis=1)
    if not (np.all(probabilities >= 0) and np.allclose(sums, 1, atol=1e-3)):
        raise ValueError(
            f"probabilities: rows sum to {sums.min():.3f} ... {sums.max():.3f}, expected 1 and "
            "no negative value: does the model end in softmax?"
        )


def evaluate(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Accuracy and loss of n predictions, each with a 95% interval.

    Returns n, errors, accuracy, accuracy_interval (Wilson), loss (mean negative log of the
    true digit's probability, clipped at 1e-7 as Keras does), loss_interval (mean ± 1.96
    standard errors). The intervals hold the sampling of test images, not of training seeds.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    check_predictions(labels, probabilities)
    n = len(labels)
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    losses = -np.log(np.clip(probabilities[np.arange(n), labels].astype(float), 1e-7, 1))
    margin = norm.ppf(0.975) * losses.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return {
        "n": n,
        "errors": n - correct,
        "accuracy": correct / n,
        "accuracy_interval": list(accuracy_interval(correct, n)),
        "loss": float(losses.mean()),
        "loss_interval": [float(losses.mean() - margin), float(losses.mean() + margin)],
    }


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Counts (10, 10), true digit by row, predicted by column, digits that never occur included.

    Raises ValueError for labels and predictions of different lengths, or outside 0-9.
    """
    if not np.isin([*labels, *predictions], range(CLASSES)).all():
        raise ValueError(f"labels, predictions: expected whole numbers from 0 to {CLASSES - 1}.")
    return sklearn_confusion_matrix(labels, predictions, labels=range(CLASSES))


def accuracy_per_digit(labels: np.ndarray, predictions: np.ndarray) -> list[dict]:
    """For each digit that occurs: digit, n, errors, accuracy, low, high (95% Wilson interval)."""
    matrix = confusion_matrix(labels, predictions)
    rows = []
    for digit in np.flatnonzero(matrix.sum(axis=1)):
        correct, n = int(matrix[digit, digit]), int(matrix[digit].sum())
        low, high = accuracy_interval(correct, n)
        rows.append(
            {
                "digit": int(digit),
                "n": n,
                "errors": n - correct,
                "accuracy": correct / n,
                "low": low,
                "high": high,
            }
        )
    return rows


def confident_mistakes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Row numbers of the wrong predictions, the most confident first."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    check_predictions(labels, probabilities)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]


def confused_pairs(matrix: np.ndarray) -> list[tuple[int, int, int]]:
    """(true, predicted, count) for every kind of mistake in a confusion matrix, most first."""
    pairs = [
        (int(true), int(predicted), int(matrix[true, predicted]))
        for true, predicted in np.argwhere(matrix)
        if true != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair[2])
