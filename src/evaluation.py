"""Numbers about predictions: labels (n,), predictions (n,), probabilities (n, 10).

Where a function takes labels with probabilities, a ValueError says what is wrong with them, as
check_predictions finds it.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import softmax
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


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> dict:
    """Do two models differ on the same images? Exact McNemar test on booleans (n,): which images
    each read right. Returns only_a, only_b (images that one alone read right) and p.

    McNemar, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12 (1947); under equal models only_a is binomial with one half, tested
    two-sided by scipy. With 8 against 2, p is 112/1024. Raises ValueError for other lengths.
    """
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if right_a.shape != right_b.shape or right_a.ndim != 1:
        raise ValueError(f"shapes {right_a.shape} and {right_b.shape}: expected (n,) twice.")
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": float(p)}


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
    """(true, predicted, count) for every kind of mistake in a confusion matrix (10, 10), most
    first."""
    pairs = [
        (int(true), int(predicted), int(matrix[true, predicted]))
        for true, predicted in np.argwhere(matrix)
        if true != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def detectable_difference(n: int, disagreement: float, power: float = 0.8) -> float:
    """The smallest difference in accuracy that two models must have for McNemar's test on n
    images to find it (5%, two-sided) with this `power`, if they disagree on this share.

    Connor, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43 (1987), solved for the difference. 10,000 images and 0.4% disagreement:
    0.0018. Raises ValueError where even a wholly one-sided disagreement would not be found.
    """
    z_size, z_power = norm.ppf(0.975), norm.ppf(power)

    def excess(difference: float) -> float:
        rest = np.sqrt(max(disagreement - difference**2, 0))
        return np.sqrt(n) * difference - z_size * np.sqrt(disagreement) - z_power * rest

    if not 0 < disagreement <= 1 or excess(disagreement) < 0:
        raise ValueError(f"{n} images, {disagreement:.2%} disagreement: too few to show any.")
    return float(brentq(excess, 0, disagreement))


def brier_score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over images of the squared distance from the one-hot label: 0 is perfect, 2 the worst.

    Brier, "Verification of forecasts expressed in terms of probability" (1950).
    """
    check_predictions(labels, probabilities)
    return float(np.mean(np.sum((probabilities - np.eye(CLASSES)[labels]) ** 2, axis=1)))


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> dict:
    """Images by rising confidence in bins of equal number: arrays n, confidence (mean), accuracy,
    low and high (its 95% Wilson interval) per bin, and `error`, the expected calibration error:
    the mean over images of |accuracy - confidence| of their bin.

    Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    binning" (2015); bins of equal mass after Nguyen and O'Connor (2015), since nearly all
    confidences lie close to 1.
    """
    check_predictions(labels, probabilities)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    parts = [p for p in np.array_split(np.argsort(confidence, kind="stable"), bins) if len(p)]
    n = np.array([len(part) for part in parts])
    means = np.array([confidence[part].mean(dtype=float) for part in parts])
    shares = np.array([right[part].mean() for part in parts])
    pairs = zip(parts, n, strict=True)
    low, high = np.array([accuracy_interval(int(right[part].sum()), m) for part, m in pairs]).T
    error = float(np.sum(n * np.abs(shares - means)) / n.sum())
    return {
        "n": n, "confidence": means, "accuracy": shares, "low": low, "high": high, "error": error,
    }  # fmt: skip


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of the logits divided by `temperature` (Guo et al. 2017): probabilities (n, 10) in
    and out; above 1, less sure; same predictions."""
    logits = np.log(np.clip(probabilities.astype(float), 1e-30, 1)) / temperature
    return softmax(logits, axis=1)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature from 0.05 to 20 with the least negative log-likelihood.

    Guo et al., "On Calibration of Modern Neural Networks" (2017).
    """
    check_predictions(labels, probabilities)

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, np.exp(log_temperature))
        return -np.mean(np.log(np.clip(scaled[np.arange(len(labels)), labels], 1e-30, 1)))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def coverage_curve(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What answering only the surest images gives: shares answered (1/n to 1), and the accuracy
    among these.

    El-Yaniv and Wiener, "On the foundations of noise-free selective classification" (2010).
    """
    check_predictions(labels, probabilities)
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    answered = np.arange(1, len(labels) + 1)
    return answered / len(labels), np.cumsum(right) / answered


# MNIST test images whose printed label lost a vote of five people: printed, and what most saw
# (None where no other digit had a majority). Northcutt, Athalye and Mueller, "Pervasive Label
# Errors in Test Sets" (2021), labelerrors.com.
REJECTED_TEST_LABELS = {
    947: (8, 9), 1621: (0, 6), 1901: (9, 4), 2462: (2, 0), 2597: (5, 3), 3558: (5, 0),
    5937: (5, 3), 6651: (0, 6), 6783: (1, 6), 9729: (5, 6), 2654: (6, None), 3520: (6, None),
    9679: (6, None), 2130: (4, None), 8527: (4, None),
}  # fmt: skip


def accuracy_relabelled(labels: np.ndarray, predictions: np.ndarray) -> dict[str, tuple[int, int]]:
    """(right, total) on MNIST's test set as printed, with the ten labels corrected that people
    agree on, and without the fifteen that they rejected.

    Raises ValueError for labels that are not MNIST's 10,000 test labels.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    rejected = list(REJECTED_TEST_LABELS)
    printed = [label for label, _ in REJECTED_TEST_LABELS.values()]
    if labels.shape != (10_000,) or labels[rejected].tolist() != printed:
        raise ValueError(f"{len(labels)} labels: expected those of MNIST's 10,000 test images.")
    corrected, kept = labels.copy(), np.ones(len(labels), bool)
    for row, (_, seen) in REJECTED_TEST_LABELS.items():
        corrected[row] = labels[row] if seen is None else seen
    kept[rejected] = False
    right = predictions == labels
    return {
        "as printed": (int(right.sum()), len(labels)),
        "ten corrected": (int((predictions == corrected).sum()), len(labels)),
        "without the fifteen": (int(right[kept].sum()), int(kept.sum())),
    }
