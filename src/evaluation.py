"""Numbers about predictions: labels (n,), predictions (n,), probabilities (n, 10), or lists."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest, norm, t
from sklearn import metrics

from src.config import CLASSES, DataError, check_pairs

# MNIST test images whose printed label lost a vote of five people: printed, and what most saw
# (the printed one where they agreed on no other). Northcutt, Athalye and Mueller, "Pervasive
# Label Errors in Test Sets" (2021), labelerrors.com.
REJECTED_TEST_LABELS = {
    947: (8, 9), 1621: (0, 6), 1901: (9, 4), 2462: (2, 0), 2597: (5, 3), 3558: (5, 0),
    5937: (5, 3), 6651: (0, 6), 6783: (1, 6), 9729: (5, 6), 2654: (6, 6), 3520: (6, 6),
    9679: (6, 6), 2130: (4, 4), 8527: (4, 4),
}  # fmt: skip


def check_predictions(labels, probabilities) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays if they are digits, and ten probabilities for each."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: {labels.dtype} {labels.shape}, expected integers (n,).")
    shape, expected = probabilities.shape, (len(labels), CLASSES)
    if shape != expected or len(labels) == 0:
        found = f"shape {shape} for {len(labels)} labels"
        raise DataError(f"probabilities: {found}, expected {expected} and at least one row.")
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(f"labels: {labels.min()} to {labels.max()}, expected 0 to {CLASSES - 1}.")
    if np.isnan(probabilities).any():
        raise ValueError("probabilities: NaN: did the training diverge? Lower the learning rate.")
    sums = probabilities.sum(axis=1)
    if probabilities.min() < 0 or not np.allclose(sums, 1, atol=1e-3):
        wrong = (
            f"rows sum to {sums.min():.3f} ... {sums.max():.3f}, expected 1 and no negative value"
        )
        raise ValueError(f"probabilities: {wrong}: does the model end in softmax?")
    return labels, probabilities


def evaluate(labels, probabilities) -> dict:
    """Return n, errors, accuracy, loss, and their 95% intervals for the draw of the images.

    Wilson's, and ± 1.96 standard errors. The loss is the mean negative log of the true digit's
    probability, clipped at 1e-7 as Keras does. What another training seed changes is in neither.
    """
    labels, probabilities = check_predictions(labels, probabilities)
    found, n = accuracy_row(labels, probabilities.argmax(axis=1)), len(labels)
    losses = -np.log(np.clip(probabilities[np.arange(n), labels].astype(float), 1e-7, 1))
    mean = float(losses.mean())
    margin = float(norm.ppf(0.975) * losses.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    found["accuracy_interval"] = [found.pop("low"), found.pop("high")]
    return {**found, "loss": mean, "loss_interval": [mean - margin, mean + margin]}


def accuracy_row(labels, predictions) -> dict:
    """Return n, errors, accuracy, low, high: its 95% Wilson interval, from 0 to 1."""
    check_pairs(predictions, labels, "predictions")
    n, right = len(labels), int(metrics.accuracy_score(labels, predictions, normalize=False))
    low, high = accuracy_interval(right, n)
    return {"n": n, "errors": n - right, "accuracy": right / n, "low": low, "high": high}


def accuracy_interval(correct: int, total: int) -> tuple[float, float]:
    """Compute the 95% interval of a share: 9,900 of 10,000 give 0.9879 to 0.9918."""
    # Wilson, "Probable inference, the law of succession, and statistical inference" (1927)
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total}: expected 0 to total, of 1 or more.")
    interval = binomtest(int(correct), int(total)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def spread(values) -> dict:
    """Return n, mean, sd (of the sample), low, high: 95% interval of the mean, None of one."""
    n = len(values)  # by Student's t: "The probable error of a mean" (1908)
    if n == 0:
        raise ValueError("no values: expected one or more.")
    mean = float(np.mean(values))
    if n == 1:
        return {"n": n, "mean": mean, "sd": None, "low": None, "high": None}
    sd = float(np.std(values, ddof=1))
    margin = float(t.ppf(0.975, n - 1) * sd / np.sqrt(n))
    return {"n": n, "mean": mean, "sd": sd, "low": mean - margin, "high": mean + margin}


def confusion_matrix(labels, predictions) -> np.ndarray:
    """Count images (10, 10), by true digit (row) and predicted digit (column)."""
    check_pairs(predictions, labels, "predictions")
    if not np.isin([*labels, *predictions], range(CLASSES)).all():
        raise ValueError(f"labels, predictions: expected whole numbers from 0 to {CLASSES - 1}.")
    return metrics.confusion_matrix(labels, predictions, labels=range(CLASSES))


def confident_mistakes(labels, probabilities) -> np.ndarray:
    """Find the row numbers of the wrong predictions, the most confident first."""
    labels, probabilities = check_predictions(labels, probabilities)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]


def mcnemar(right_a, right_b) -> dict:
    """Test whether two models differ, by which of the same images (n,) each read right.

    Returns only_a, only_b (read right by one alone) and an exact, two-sided p. McNemar, "Note on
    the sampling error of the difference between correlated proportions" (1947).
    """
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if right_a.shape != right_b.shape or right_a.ndim != 1:
        raise ValueError(f"shapes {right_a.shape} and {right_b.shape}: expected (n,) twice.")
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0  # by one half
    return {"only_a": only_a, "only_b": only_b, "p": float(p)}


def calibration_bins(labels, probabilities, bins: int = 10) -> pd.DataFrame:
    """Compare confidence and accuracy in bins of equal width; empty ones are left out.

    A row per bin: middle, confidence (mean), and what accuracy_row gives.
    """
    labels, probabilities = check_predictions(labels, probabilities)
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    numbers = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = []
    for number in np.unique(numbers):
        part = numbers == number
        means = {"middle": (number + 0.5) / bins, "confidence": confidence[part].mean(dtype=float)}
        rows.append(means | accuracy_row(labels[part], predictions[part]))
    return pd.DataFrame(rows)


def calibration_error(labels, probabilities) -> float:
    """Compute the mean distance between confidence and accuracy, over the images of all bins.

    The expected calibration error of Guo et al., "On Calibration of Modern Neural Networks" (2017).
    """
    table = calibration_bins(labels, probabilities, 15)
    return float(np.average(abs(table.accuracy - table.confidence), weights=table.n))


def apply_temperature(probabilities, temperature: float) -> np.ndarray:
    """Divide logits by `temperature`; above 1, answers are less sure."""
    logits = np.log(np.clip(np.asarray(probabilities, float), 1e-30, 1)) / temperature
    return softmax(logits, axis=1)


def fit_temperature(labels, probabilities) -> float:
    """Find the temperature from 0.05 to 20 with the least negative log-likelihood."""
    # Guo et al., "On Calibration of Modern Neural Networks" (2017)
    labels, probabilities = check_predictions(labels, probabilities)

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, np.exp(log_temperature))
        return -np.mean(np.log(np.clip(scaled[np.arange(len(labels)), labels], 1e-30, 1)))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def coverage_curve(labels, probabilities) -> tuple[np.ndarray, np.ndarray]:
    """Answer the surest images only: shares answered (1/n to 1), accuracy among them."""
    # El-Yaniv and Wiener, "On the foundations of noise-free selective classification" (2010)
    labels, probabilities = check_predictions(labels, probabilities)
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    answered = np.arange(1, len(labels) + 1)
    return answered / len(labels), np.cumsum(right) / answered
