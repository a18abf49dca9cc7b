"""Numbers about predictions, against closed forms and scikit-learn."""

import math
import statistics

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss, recall_score

from src.evaluation import (
    accuracy_interval,
    accuracy_per_digit,
    check_predictions,
    confident_mistakes,
    confused_pairs,
    confusion_matrix,
    evaluate,
    spread,
)

Z = 1.959963984540054  # 97.5% of the normal distribution lie below


def sure_of(*digits: int) -> np.ndarray:
    return np.eye(10)[list(digits)]


@pytest.fixture(scope="module")
def guesses():
    """1,000 labels and made-up probabilities that are right about half of the time."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1_000)
    scores = np.exp(rng.normal(size=(1_000, 10)) + 2 * np.eye(10)[labels])
    return labels, scores / scores.sum(axis=1, keepdims=True)


def wilson(correct: int, total: int) -> tuple[float, float]:
    share = correct / total
    centre = share + Z**2 / (2 * total)
    margin = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    return (centre - margin) / (1 + Z**2 / total), (centre + margin) / (1 + Z**2 / total)


@pytest.mark.parametrize(
    ("correct", "total"), [(0, 10), (10, 10), (1, 1), (3, 7), (50, 100), (9_920, 10_000)]
)
def test_interval_is_wilsons(correct, total):
    low, high = accuracy_interval(correct, total)
    assert (low, high) == pytest.approx(wilson(correct, total), abs=1e-12)
    assert (low == 0) == (correct == 0) and (high == 1) == (correct == total)


@pytest.mark.parametrize(
    ("correct", "low", "high"),
    [(9_900, 0.9879, 0.9918), (9_920, 0.9901, 0.9936), (9_970, 0.9957, 0.9979)],
)
def test_known_intervals(correct, low, high):
    assert tuple(round(end, 4) for end in accuracy_interval(correct, 10_000)) == (low, high)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 10), (11, 10)])
def test_impossible_counts_are_refused(correct, total):
    with pytest.raises(ValueError, match=f"{correct} correct of {total}"):
        accuracy_interval(correct, total)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0.0, 1.0], sure_of(0, 1), r"labels: float64 \(2,\), expected integers"),
        (sure_of(0, 1).astype(int), sure_of(0, 1), r"labels: int64 \(2, 10\)"),
        ([0, 10], sure_of(0, 1), "labels: 0 to 10, expected 0 to 9"),
        ([-1, 1], sure_of(0, 1), "labels: -1 to 1, expected 0 to 9"),
        ([0, 1, 2], sure_of(0, 1), r"shape \(2, 10\) for 3 labels, expected \(3, 10\)"),
        ([0, 1], sure_of(0, 1)[:, :9], r"shape \(2, 9\) for 2 labels"),
        ([0, 1], np.array([0, 1]), r"shape \(2,\) for 2 labels"),
        (np.zeros(0, int), np.zeros((0, 10)), "at least one row"),
        ([0, 1], sure_of(0, 1) * 1.01, "sum to 1.010.*softmax"),
        ([0, 1], sure_of(0, 1) * 2 - 0.1, "no negative value"),  # rows do sum to 1
        ([0, 1], sure_of(0, 1) * np.nan, "sum to nan"),
    ],
)
def test_what_is_no_prediction_is_refused(labels, probabilities, message):
    for function in (check_predictions, evaluate, confident_mistakes):
        with pytest.raises(ValueError, match=message):
            function(np.array(labels), probabilities)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_evaluate_agrees_with_sklearn(guesses, dtype):
    labels, probabilities = guesses[0], guesses[1].astype(dtype)
    result = evaluate(labels.astype(np.uint8), probabilities)
    predictions = probabilities.argmax(axis=1)
    correct = int((predictions == labels).sum())
    losses = [-math.log(row[label]) for label, row in zip(labels, guesses[1], strict=True)]
    margin = Z * np.std(losses, ddof=1) / math.sqrt(1_000)
    assert result["accuracy"] == accuracy_score(labels, predictions) == correct / 1_000
    assert 0.3 < result["accuracy"] < 0.8
    assert (result["n"], result["errors"]) == (1_000, 1_000 - correct)
    assert result["accuracy_interval"] == pytest.approx(list(wilson(correct, 1_000)))
    assert result["loss"] == pytest.approx(log_loss(labels, guesses[1], labels=range(10)), abs=1e-6)
    ends = [np.mean(losses) - margin, np.mean(losses) + margin]
    assert result["loss_interval"] == pytest.approx(ends, abs=1e-6)


def test_evaluate_at_its_limits():
    right = evaluate(np.arange(10), sure_of(*range(10)))
    assert (right["errors"], right["accuracy"], right["loss"]) == (0, 1, 0)
    assert right["accuracy_interval"] == pytest.approx([0.7225, 1], abs=1e-4)
    assert right["loss_interval"] == [0, 0]
    wrong = evaluate(np.arange(10), sure_of(*range(1, 10), 0))
    assert (wrong["errors"], wrong["accuracy"]) == (10, 0)
    assert wrong["loss"] == pytest.approx(-math.log(1e-7))  # clipped
    single = evaluate(np.array([3]), np.full((1, 10), 0.1))
    assert (single["n"], single["errors"]) == (1, 1)
    assert single["loss"] == pytest.approx(math.log(10))
    assert np.isnan(single["loss_interval"]).all()


def test_confusion_matrix_counts_true_digits_by_row():
    matrix = confusion_matrix(np.array([3, 3, 3, 5]), np.array([3, 8, 8, 5]))
    expected = np.zeros((10, 10), int)
    expected[3, 3], expected[3, 8], expected[5, 5] = 1, 2, 1
    np.testing.assert_array_equal(matrix, expected)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        confusion_matrix(np.array([1, 2, 3]), np.array([1, 2]))


def test_accuracy_per_digit_is_recall_and_leaves_a_missing_digit_out(guesses):
    labels, predictions = guesses[0], guesses[1].argmax(axis=1)
    labels, predictions = labels[labels != 4], predictions[labels != 4]
    rows = accuracy_per_digit(labels, predictions)
    digits = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [row["digit"] for row in rows] == digits
    recall = recall_score(labels, predictions, labels=digits, average=None)
    np.testing.assert_allclose([row["accuracy"] for row in rows], recall)
    for row in rows:
        assert row["n"] == (labels == row["digit"]).sum()
        ends = wilson(row["n"] - row["errors"], row["n"])
        assert (row["low"], row["high"]) == pytest.approx(ends)
    assert sum(row["errors"] for row in rows) == (labels != predictions).sum()


def test_confident_mistakes_come_first():
    probabilities = np.zeros((6, 10))
    for row, confidence in enumerate([0.9, 0.6, 0.99, 0.7, 0.9, 0.6]):
        probabilities[row] = (1 - confidence) / 9
        probabilities[row, 2] = confidence
    labels = np.array([7, 7, 2, 7, 7, 7])  # row 2 is right; 0 and 4, 1 and 5 are equally sure
    assert confident_mistakes(labels, probabilities).tolist() == [0, 4, 3, 1, 5]
    assert confident_mistakes(np.full(6, 2), probabilities).tolist() == []


def test_confused_pairs_most_first():
    matrix = np.diag([5] * 10)
    assert confused_pairs(matrix) == []
    matrix[4, 9], matrix[9, 4], matrix[1, 7] = 2, 6, 2
    assert confused_pairs(matrix) == [(9, 4, 6), (1, 7, 2), (4, 9, 2)]


def test_spread_agrees_with_scipys_t_interval():
    values = [0.9905, 0.9921, 0.9899, 0.9914]
    found = spread(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["sd"] == pytest.approx(statistics.stdev(values))


def test_the_spread_of_one_value_or_none():
    alone = spread([0.99])
    assert alone == {"n": 1, "mean": 0.99, "sd": None, "low": None, "high": None}
    with pytest.raises(ValueError, match="no values"):
        spread([])
