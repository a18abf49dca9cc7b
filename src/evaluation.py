"""Numbers about predictions: labels (n,), predictions (n,), probabilities (n, 10), or lists."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest, norm, t
from sklearn import metrics

from src.config import CLASSES

# MNIST test images whose printed label lost a vote of five people: printed, and what most saw
# (None where no other digit had a majority). Northcutt, Athalye and Mueller, "Pervasive Label
# Errors in Test Sets" (2021), labelerrors.com.
REJECTED_TEST_LABELS = {
    947: (8, 9), 1621: (0, 6), 1901: (9, 4), 2462: (2, 0), 2597: (5, 3), 3558: (5, 0),
    5937: (5, 3), 6651: (0, 6), 6783: (1, 6), 9729: (5, 6), 2654: (6, None), 3520: (6, None),
    9679: (6, None), 2130: (4, None), 8527: (4, None),
}  # fmt: skip


def check_predictions(labels, probabilities) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays if they are digits, and ten probabilities for each."""
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
    if np.isnan(probabilities).any():
        raise ValueError("probabilities: NaN among them: did the training diverge?")
    sums = probabilities.sum(axis=1)
    if not (np.all(probabilities >= 0) and np.allclose(sums, 1, atol=1e-3)):
        raise ValueError(
            f"probabilities: rows sum to {sums.min():.3f} ... {sums.max():.3f}, expected 1 and "
            "no negative value: does the model end in softmax?"
        )
    return labels, probabilities


def evaluate(labels, probabilities) -> dict:
    """Measure accuracy and loss, each with a 95% interval for the draw of the images.

    Returns n, errors, accuracy, accuracy_interval (Wilson), loss (mean negative log of the
    true digit's probability, clipped at 1e-7 as Keras does), loss_interval (mean ± 1.96
    standard errors). What another training seed changes is not in the intervals.
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
    n, right = len(labels), int(metrics.accuracy_score(labels, predictions, normalize=False))
    low, high = accuracy_interval(right, n)
    return {"n": n, "errors": n - right, "accuracy": right / n, "low": low, "high": high}


def accuracy_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson score interval for `correct` of `total`, as fractions.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927). 0.99 of 10,000 gives 0.9879 to 0.9918.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total}: expected 0 to total, of 1 or more.")
    interval = binomtest(int(correct), int(total)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def spread(values: Sequence[float]) -> dict:
    """Return n, mean, sd (of the sample), low, high: 95% interval of the mean.

    From Student's t: "The probable error of a mean", Biometrika 6 (1908). With one value, sd,
    low and high are None.
    """
    if len(values) == 0:
        raise ValueError("no values: expected one or more.")
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return {"n": n, "mean": mean, "sd": None, "low": None, "high": None}
    sd = float(np.std(values, ddof=1))
    margin = float(t.ppf(0.975, n - 1) * sd / np.sqrt(n))
    return {"n": n, "mean": mean, "sd": sd, "low": mean - margin, "high": mean + margin}


def confusion_matrix(labels, predictions) -> np.ndarray:
    """Count images (10, 10), by true digit (row) and predicted digit (column)."""
    if not np.isin([*labels, *predictions], range(CLASSES)).all():
        raise ValueError(f"labels, predictions: expected whole numbers from 0 to {CLASSES - 1}.")
    return metrics.confusion_matrix(labels, predictions, labels=range(CLASSES))


def accuracy_per_digit(labels, predictions) -> list[dict]:
    """Make a row for each digit that occurs: digit, and what accuracy_row gives."""
    confusion_matrix(labels, predictions)  # says what is no digit
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    parts = {int(digit): labels == digit for digit in np.unique(labels)}
    return [{"digit": d, **accuracy_row(labels[p], predictions[p])} for d, p in parts.items()]


def confused_pairs(matrix) -> list[tuple[int, int, int]]:
    """List (true, predicted, count) of the mistakes in a confusion matrix, most first."""
    counts = {(i, j): int(matrix[i][j]) for i in range(CLASSES) for j in range(CLASSES) if i != j}
    return sorted([(*pair, n) for pair, n in counts.items() if n], key=lambda row: -row[2])


def confident_mistakes(labels, probabilities) -> np.ndarray:
    """Find the row numbers of the wrong predictions, the most confident first."""
    labels, probabilities = check_predictions(labels, probabilities)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]


def accuracy_relabelled(labels, predictions) -> dict[str, tuple[int, int]]:
    """Count (right, total) on MNIST's test set under three versions of its labels.

    As printed, with the ten labels corrected that people agree on, and without the fifteen that
    they rejected. Empty for labels that are not MNIST's 10,000 test labels.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    rejected = list(REJECTED_TEST_LABELS)
    printed, seen = np.array(list(REJECTED_TEST_LABELS.values()), float).T  # None is NaN
    if labels.shape != (10_000,) or (labels[rejected] != printed).any():
        return {}
    corrected = labels.copy()
    corrected[rejected] = np.where(np.isnan(seen), printed, seen)
    versions = {
        "as printed": predictions == labels,
        "ten corrected": predictions == corrected,
        "without the fifteen": np.delete(predictions == labels, rejected),
    }
    return {name: (int(right.sum()), len(right)) for name, right in versions.items()}


def mcnemar(right_a, right_b) -> dict:
    """Test by McNemar whether two models differ: which images (n,) each read right.

    Returns only_a, only_b (images that one alone read right) and p, exact and two-sided: under
    equal models only_a is binomial with one half. With 8 against 2, p is 112/1024. "Note on the
    sampling error of the difference between correlated proportions", Psychometrika 12 (1947).
    """
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if right_a.shape != right_b.shape or right_a.ndim != 1:
        raise ValueError(f"shapes {right_a.shape} and {right_b.shape}: expected (n,) twice.")
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": float(p)}


def compare(right_a, right_b) -> dict:
    """Compare two models by which of the same images (n,) each read right.

    Returns what mcnemar does, and as fractions lead (of a), disagreement, and detectable: see
    detectable_difference, NaN where so few images can't show any.
    """
    found, n = mcnemar(right_a, right_b), len(right_a)
    disagreement = (found["only_a"] + found["only_b"]) / n
    try:
        detectable = detectable_difference(n, disagreement)
    except ValueError:
        detectable = float("nan")
    lead = (found["only_a"] - found["only_b"]) / n
    return {**found, "lead": lead, "disagreement": disagreement, "detectable": detectable}


def detectable_difference(n: int, disagreement: float, power: float = 0.8) -> float:
    """Find the smallest true lead that McNemar's test would show with this `power`.

    On n images, at 5%, two-sided, for models that disagree on this share of them. Connor,
    "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43 (1987), solved for the difference. 10,000 and 0.4% give 0.0018.
    """
    a, b = norm.ppf(0.975) * np.sqrt(max(disagreement, 0)), norm.ppf(power)
    # sqrt(n) x = a + b sqrt(disagreement - x**2), solved for the difference x
    square = disagreement * (n + b**2) - a**2
    difference = float((a * np.sqrt(n) + b * np.sqrt(max(square, 0))) / (n + b**2))
    if square < 0 or not 0 < difference <= disagreement <= 1:
        raise ValueError(f"{n} images, {disagreement:.2%} disagreement: too few to show any.")
    return difference


def calibration_bins(labels, probabilities, bins: int = 15) -> dict:
    """Compare confidence and accuracy in bins of equally many images.

    Arrays n, confidence (mean, rising), accuracy, low, high (95% Wilson), and `error`, the
    expected calibration error: the mean over images of |accuracy - confidence| of their bin.
    Naeini, Cooper and Hauskrecht (2015); equal numbers after Nguyen and O'Connor (2015), since
    nearly all confidences lie close to 1.
    """
    labels, probabilities = check_predictions(labels, probabilities)
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    rows = []
    for part in np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(labels))):
        mean = confidence[part].mean(dtype=float)
        rows.append({"confidence": mean, **accuracy_row(labels[part], predictions[part])})
    table = pd.DataFrame(rows).drop(columns="errors")
    error = np.average(abs(table.accuracy - table.confidence), weights=table.n)
    return {**{name: table[name].to_numpy() for name in table}, "error": float(error)}


def calibration_table(labels, named_probabilities: dict) -> pd.DataFrame:
    """Set three measures of calibration side by side, a column for each name.

    The Brier score is 0 at best, 2 at worst.
    """
    columns = {}
    for name, probabilities in named_probabilities.items():
        columns[name] = {
            "expected calibration error": calibration_bins(labels, probabilities)["error"],
            "negative log-likelihood": evaluate(labels, probabilities)["loss"],
            "Brier score": metrics.brier_score_loss(
                labels, probabilities, labels=range(CLASSES), scale_by_half=False
            ),
        }
    return pd.DataFrame(columns)


def apply_temperature(probabilities, temperature: float) -> np.ndarray:
    """Divide logits by `temperature` (Guo et al. 2017); above 1, answers are less sure."""
    logits = np.log(np.clip(np.asarray(probabilities, float), 1e-30, 1)) / temperature
    return softmax(logits, axis=1)


def fit_temperature(labels, probabilities) -> float:
    """Find the temperature from 0.05 to 20 with the least negative log-likelihood.

    Guo et al., "On Calibration of Modern Neural Networks" (2017).
    """
    labels, probabilities = check_predictions(labels, probabilities)

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, np.exp(log_temperature))
        return -np.mean(np.log(np.clip(scaled[np.arange(len(labels)), labels], 1e-30, 1)))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def coverage_curve(labels, probabilities) -> tuple[np.ndarray, np.ndarray]:
    """Answer the surest images only: shares answered (1/n to 1), accuracy among them.

    El-Yaniv and Wiener, "On the foundations of noise-free selective classification" (2010).
    """
    labels, probabilities = check_predictions(labels, probabilities)
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    answered = np.arange(1, len(labels) + 1)
    return answered / len(labels), np.cumsum(right) / answered
