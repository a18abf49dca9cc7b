"""Numbers about predictions, against closed forms and scikit-learn."""

import math
import statistics

import numpy as np
import pytest
from scipy import special, stats
from sklearn.metrics import accuracy_score, log_loss

from src import evaluation as ev
from src.config import DataError

Z = 1.959963984540054  # 97.5% of the normal distribution lie below


def sure_of(*digits: int) -> np.ndarray:
    return np.eye(10)[list(digits)]


@pytest.fixture(scope="module")
def predicted():
    """Labels, and synthetic probabilities that are right more often than not."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1000)
    return labels, special.softmax(rng.normal(size=(1000, 10)) + 2 * np.eye(10)[labels], axis=1)


def confident(confidences, digits) -> np.ndarray:
    """A row for each confidence in a digit; the other nine share the rest."""
    rows = np.outer(1 - np.array(confidences), np.full(10, 1 / 9))
    rows[np.arange(len(rows)), digits] = confidences
    return rows


@pytest.mark.parametrize(
    ("correct", "total"), [(0, 10), (10, 10), (1, 1), (3, 7), (50, 100), (9_920, 10_000)]
)
def test_interval_is_wilsons(correct, total):
    low, high = ev.accuracy_interval(correct, total)
    for end in (low, high):  # its distance is 1.96 standard errors of its own
        distance = Z**2 * end * (1 - end) / total
        assert (end - correct / total) ** 2 == pytest.approx(distance, abs=1e-12)
    assert low <= correct / total <= high and low < high
    assert (low == 0) == (correct == 0) and (high == 1) == (correct == total)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 10), (11, 10)])
def test_impossible_counts_are_refused(correct, total):
    with pytest.raises(ValueError, match=f"{correct} correct of {total}"):
        ev.accuracy_interval(correct, total)


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
        ([0, 1], sure_of(0, 1) * np.nan, "NaN: did the training diverge.*rate"),
    ],
)
def test_what_is_no_prediction_is_refused(labels, probabilities, message):
    for function in (ev.evaluate, ev.confident_mistakes, ev.fit_temperature):
        with pytest.raises(ValueError, match=message):
            function(labels, probabilities)


def test_lists_do_as_well_as_arrays(predicted):
    of_predictions = (ev.accuracy_row, ev.confusion_matrix)
    of_both = (ev.evaluate, ev.confident_mistakes, ev.calibration_error, ev.fit_temperature)
    labels, probabilities = predicted
    answers = probabilities.argmax(axis=1)
    for function in (*of_predictions, *of_both, ev.coverage_curve):
        given = answers if function in of_predictions else probabilities
        expected = function(labels, given)
        np.testing.assert_equal(function(labels.tolist(), given.tolist()), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_evaluate_agrees_with_sklearn(dtype, predicted):
    labels, exact = predicted
    result = ev.evaluate(labels.astype(np.uint8), exact.astype(dtype))
    correct = int((exact.argmax(axis=1) == labels).sum())
    losses = -np.log(exact[np.arange(1000), labels])
    margin = Z * np.std(losses, ddof=1) / math.sqrt(1_000)
    assert result["accuracy"] == accuracy_score(labels, exact.argmax(axis=1)) == correct / 1_000
    assert 0.3 < result["accuracy"] < 0.8
    assert (result["n"], result["errors"]) == (1_000, 1_000 - correct)
    assert tuple(result["accuracy_interval"]) == ev.accuracy_interval(correct, 1_000)
    assert result["loss"] == pytest.approx(log_loss(labels, exact, labels=range(10)), abs=1e-6)
    ends = [np.mean(losses) - margin, np.mean(losses) + margin]
    assert result["loss_interval"] == pytest.approx(ends, abs=1e-6)


def test_evaluate_at_its_limits():
    right = ev.evaluate(np.arange(10), sure_of(*range(10)))
    assert (right["errors"], right["loss"], right["loss_interval"]) == (0, 0, [0, 0])
    wrong = ev.evaluate(np.arange(10), sure_of(*range(1, 10), 0))
    assert (wrong["errors"], wrong["loss"]) == (10, pytest.approx(-math.log(1e-7)))  # clipped
    assert np.isnan(ev.evaluate([3], np.full((1, 10), 0.1))["loss_interval"]).all()


def test_confusion_counts_true_digits_by_row():
    matrix = ev.confusion_matrix([3, 1, 1, 1, 1, 5], [3, 8, 8, 3, 9, 5])
    assert matrix.shape == (10, 10) and matrix.sum() == 6
    assert (matrix[3, 3], matrix[1, 8], matrix[5, 5]) == (1, 2, 1)
    with pytest.raises(DataError, match="2 predictions and 3 labels: expected as many"):
        ev.confusion_matrix([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="expected whole numbers from 0 to 9"):
        ev.confusion_matrix([1, 10], [1, 2])


def test_confident_mistakes_come_first():
    probabilities = confident([0.9, 0.6, 0.99, 0.7, 0.9, 0.6], 2)
    labels = np.array([7, 7, 2, 7, 7, 7])  # row 2 is right; 0 and 4, 1 and 5 are equally sure
    assert ev.confident_mistakes(labels, probabilities).tolist() == [0, 4, 3, 1, 5]
    assert ev.confident_mistakes(np.full(6, 2), probabilities).tolist() == []
    equal = np.tile(probabilities[:2], (30, 1))  # so many that an unstable sort would mix them
    expected = [*range(0, 60, 2), *range(1, 60, 2)]
    assert ev.confident_mistakes(np.full(60, 7), equal).tolist() == expected


def test_spread_agrees_with_scipys_t_interval():
    values = [0.9905, 0.9921, 0.9899, 0.9914]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = {"n": 4, "mean": np.mean(values), "sd": statistics.stdev(values)}
    assert ev.spread(values) == pytest.approx(found | {"low": low, "high": high})
    assert ev.spread([0.99]) == {"n": 1, "mean": 0.99, "sd": None, "low": None, "high": None}
    with pytest.raises(ValueError, match="no values"):
        ev.spread([])


def test_mcnemar_is_exact_and_two_sided():
    # 8 against 2 of 10: 2 (1 + 10 + 45) / 1024; the images that both read right don't count
    right_a = np.array([True] * 8 + [False] * 2 + [True] * 90 + [False] * 5)
    right_b = np.array([False] * 8 + [True] * 2 + [True] * 90 + [False] * 5)
    found = ev.mcnemar(right_a, right_b)
    assert found == {"only_a": 8, "only_b": 2, "p": pytest.approx(112 / 1024)}
    assert ev.mcnemar(right_b, right_a)["p"] == pytest.approx(112 / 1024)
    as_numbers = ev.mcnemar(right_a.astype(int), right_b.tolist())
    assert as_numbers == found  # 0 and 1 do as well
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\)"):
        ev.mcnemar([True, False, True], [True, False])


def test_calibration_compares_confidence_and_accuracy_in_bins_of_equal_width():
    labels = np.repeat([1, 0], [30, 270])  # 80% of those at 0.62 are right, 100% of those at 0.95
    probabilities = confident([0.62] * 150 + [0.95] * 150, 0)
    found = ev.calibration_bins(labels, probabilities)
    assert found.n.tolist() == [150, 150]
    np.testing.assert_allclose(found.middle, [0.65, 0.95])
    np.testing.assert_allclose(found.confidence, [0.62, 0.95])
    np.testing.assert_allclose(found.accuracy, [0.8, 1.0])
    ends = [ev.accuracy_interval(120, 150), ev.accuracy_interval(150, 150)]
    np.testing.assert_allclose(found[["low", "high"]], ends)
    error = ev.calibration_error(labels, probabilities)
    assert error == pytest.approx((0.18 + 0.05) / 2)
    assert ev.calibration_bins([0], np.eye(10)[:1]).middle.tolist() == [0.95]  # 1 is in the last


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_fitted_temperature_undoes_a_known_one(temperature):
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=2, size=(20_000, 10))
    true = special.softmax(logits, axis=1)
    labels = (true.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1).clip(max=9)
    seen = special.softmax(logits / temperature, axis=1)  # off by this factor
    assert ev.fit_temperature(labels, seen) == pytest.approx(1 / temperature, rel=0.05)
    undone = ev.apply_temperature(seen.tolist(), 1 / temperature)
    np.testing.assert_allclose(undone, true, atol=1e-6)


def test_temperatures_of_answers_that_are_wholly_sure():
    sure, labels = np.eye(10), np.arange(10)
    np.testing.assert_allclose(ev.apply_temperature(sure, 2.0), sure, atol=1e-9)
    lowest = ev.fit_temperature(labels, 0.01 * sure + 0.099)  # all are right: as sure as can be
    highest = ev.fit_temperature((labels + 1) % 10, sure)  # all are wrong
    assert (lowest, highest) == (pytest.approx(0.05, rel=0.02), pytest.approx(20, rel=0.02))


def test_coverage_counts_the_surest_first():
    probabilities = confident([0.9, 0.6, 0.8, 0.7], [3, 1, 2, 5])
    covered, accuracy = ev.coverage_curve(np.array([3, 0, 2, 4]), probabilities)
    np.testing.assert_allclose(covered, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(accuracy, [1, 1, 2 / 3, 0.5])
    labels = np.repeat([3, 4], 30)  # of equal ones the first come first
    accuracy = ev.coverage_curve(labels, np.tile(np.eye(10)[3], (60, 1)))[1]
    np.testing.assert_allclose(accuracy[:31], [*[1] * 30, 30 / 31])
