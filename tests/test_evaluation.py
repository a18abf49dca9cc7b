"""Numbers about predictions, against closed forms and scikit-learn."""

import math
import statistics

import numpy as np
import pytest
from scipy import special, stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, recall_score

from src.evaluation import (
    REJECTED_TEST_LABELS,
    accuracy_interval,
    accuracy_per_digit,
    accuracy_relabelled,
    apply_temperature,
    brier_score,
    calibration_bins,
    check_predictions,
    confident_mistakes,
    confused_pairs,
    confusion_matrix,
    coverage_curve,
    detectable_difference,
    evaluate,
    fit_temperature,
    mcnemar,
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
    equal = np.tile(probabilities[:2], (30, 1))  # so many that an unstable sort would mix them
    expected = [*range(0, 60, 2), *range(1, 60, 2)]
    assert confident_mistakes(np.full(60, 7), equal).tolist() == expected


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
    assert (found["n"], found["mean"]) == (4, pytest.approx(np.mean(values)))


def test_the_spread_of_one_value_or_none():
    alone = spread([0.99])
    assert alone == {"n": 1, "mean": 0.99, "sd": None, "low": None, "high": None}
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_mcnemar_is_exact_and_two_sided():
    # 8 against 2 of 10: 2 (1 + 10 + 45) / 1024; the images that both read right don't count
    right_a = np.array([True] * 8 + [False] * 2 + [True] * 90 + [False] * 5)
    right_b = np.array([False] * 8 + [True] * 2 + [True] * 90 + [False] * 5)
    found = mcnemar(right_a, right_b)
    assert (found["only_a"], found["only_b"]) == (8, 2)
    assert found["p"] == pytest.approx(112 / 1024)
    assert mcnemar(right_b, right_a)["p"] == pytest.approx(112 / 1024)
    assert mcnemar(right_a.astype(int), right_b.astype(int)) == found  # 0 and 1 do as well


def test_mcnemar_of_equal_models_and_of_other_lengths():
    right = np.array([True, False, True])
    assert mcnemar(right, right) == {"only_a": 0, "only_b": 0, "p": 1.0}
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\)"):
        mcnemar(right, right[:2])


def random_predictions(n=2000, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    logits = rng.normal(size=(n, 10))
    logits[np.arange(n), labels] += 2.5
    return labels, special.softmax(logits, axis=1)


def test_detectable_difference_has_the_power_it_states():
    # simulated: the exact test finds a difference of that size about as often as asked for
    n, share = 10_000, 0.01
    difference = detectable_difference(n, share, power=0.8)
    rng = np.random.default_rng(0)
    only_a = rng.binomial(n, (share + difference) / 2, 1500)
    only_b = rng.binomial(n - only_a, (share - difference) / 2 / (1 - (share + difference) / 2))
    pairs = zip(only_a, only_b, strict=True)
    found = np.mean([stats.binomtest(int(a), int(a + b)).pvalue < 0.05 for a, b in pairs])
    assert 0.74 < found < 0.84  # the exact test is a little more careful than the formula
    assert detectable_difference(10_000, 0.004) == pytest.approx(0.0018, abs=5e-5)
    assert detectable_difference(40_000, share) < difference


def test_too_few_images_for_any_difference():
    with pytest.raises(ValueError, match="100 images, 1.00% disagreement: too few"):
        detectable_difference(100, 0.01)
    for impossible in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match="disagreement: too few"):
            detectable_difference(100, impossible)


def test_detectable_difference_where_nearly_all_images_differ():
    for share in (0.8, 1.0):
        found, n = detectable_difference(40, share), 40
        rest = np.sqrt(share - found**2)  # Connor's equation, the difference squared included
        z_size, z_power = stats.norm.ppf([0.975, 0.8])
        assert np.sqrt(n) * found == pytest.approx(z_size * np.sqrt(share) + z_power * rest)


def test_brier_agrees_with_sklearn_and_its_limits():
    labels, probabilities = random_predictions()
    one_by_one = [brier_score_loss(labels == d, probabilities[:, d]) for d in range(10)]
    assert brier_score(labels, probabilities) == pytest.approx(sum(one_by_one))
    assert brier_score(labels, np.eye(10)[labels]) == 0
    assert brier_score(labels, np.eye(10)[(labels + 1) % 10]) == 2


def test_calibration_bins_hold_equal_numbers_and_a_known_error():
    labels = np.zeros(300, int)
    probabilities = np.full((300, 10), 0.4 / 9)
    probabilities[:, 0] = 0.6
    probabilities[150:] = 0.1 / 9
    probabilities[150:, 0] = 0.9
    labels[:30] = 1  # 80% of the images at 0.6 are right, 100% of those at 0.9
    found = calibration_bins(labels, probabilities, bins=2)
    assert found["n"].tolist() == [150, 150]
    np.testing.assert_allclose(found["confidence"], [0.6, 0.9])
    np.testing.assert_allclose(found["accuracy"], [0.8, 1.0])
    ends = np.transpose([wilson(120, 150), wilson(150, 150)])
    np.testing.assert_allclose([found["low"], found["high"]], ends)
    assert found["error"] == pytest.approx((0.2 + 0.1) / 2)


def test_calibration_agrees_with_sklearns_quantile_bins():
    labels, probabilities = random_predictions()
    found = calibration_bins(labels, probabilities, bins=10)
    right = probabilities.argmax(axis=1) == labels
    shares, means = calibration_curve(
        right, probabilities.max(axis=1), n_bins=10, strategy="quantile"
    )
    np.testing.assert_allclose(found["accuracy"], shares, atol=0.011)
    np.testing.assert_allclose(found["confidence"], means, atol=0.002)
    assert len(calibration_bins(labels, probabilities)["n"]) == 15


def test_calibration_with_fewer_images_than_bins():
    labels, probabilities = random_predictions(4)
    assert calibration_bins(labels, probabilities)["n"].tolist() == [1] * 4


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_fitted_temperature_undoes_a_known_one(temperature):
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=2, size=(20_000, 10))
    true = special.softmax(logits, axis=1)
    labels = np.array([rng.choice(10, p=row) for row in true])
    seen = special.softmax(logits / temperature, axis=1)  # off by this factor
    assert fit_temperature(labels, seen) == pytest.approx(1 / temperature, rel=0.05)
    np.testing.assert_allclose(apply_temperature(seen, 1 / temperature), true, atol=1e-6)


def test_a_temperature_of_one_changes_nothing_and_keeps_predictions():
    labels, probabilities = random_predictions(50)
    np.testing.assert_allclose(apply_temperature(probabilities, 1.0), probabilities)
    cooler = apply_temperature(probabilities, 0.3)
    assert (cooler.argmax(1) == probabilities.argmax(1)).all()
    assert cooler.max(1).mean() > probabilities.max(1).mean()


def test_temperatures_of_answers_that_are_wholly_sure():
    sure, labels = np.eye(10), np.arange(10)
    np.testing.assert_allclose(apply_temperature(sure, 2.0), sure, atol=1e-9)
    low = fit_temperature(labels, 0.01 * sure + 0.099)
    assert low == pytest.approx(0.05, rel=0.02)  # all are right: as sure as can be
    high = fit_temperature((labels + 1) % 10, sure)
    assert high == pytest.approx(20, rel=0.02)  # all are wrong


def test_coverage_counts_the_surest_first():
    probabilities = np.full((4, 10), 0.0)
    for row, (digit, sure) in enumerate([(3, 0.9), (1, 0.6), (2, 0.8), (5, 0.7)]):
        probabilities[row] = (1 - sure) / 9
        probabilities[row, digit] = sure
    covered, accuracy = coverage_curve(np.array([3, 0, 2, 4]), probabilities)
    np.testing.assert_allclose(covered, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(accuracy, [1, 1, 2 / 3, 0.5])
    equal = np.tile(np.eye(10)[3], (60, 1))
    labels = np.where(np.arange(60) < 30, 3, 4)  # of equal ones the first come first
    np.testing.assert_allclose(coverage_curve(labels, equal)[1][:31], [*[1] * 30, 30 / 31])


def test_the_test_sets_rejected_labels(mnist):
    labels = mnist.y_test.astype(int)
    found = accuracy_relabelled(labels, labels)
    assert found == {
        "as printed": (10_000, 10_000),
        "ten corrected": (9_990, 10_000),
        "without the fifteen": (9_985, 9_985),
    }
    agreed = labels.copy()
    for row, (_, seen) in REJECTED_TEST_LABELS.items():
        agreed[row] = labels[row] if seen is None else seen
    assert accuracy_relabelled(labels, agreed)["ten corrected"] == (10_000, 10_000)
    assert accuracy_relabelled(labels, agreed)["as printed"] == (9_990, 10_000)


def test_relabelled_counts_on_made_up_labels():
    labels = np.zeros(10_000, int)
    for row, (printed, _) in REJECTED_TEST_LABELS.items():
        labels[row] = printed
    predictions = labels.tolist()
    predictions[1621], predictions[3520], predictions[0], predictions[1] = 6, 1, 1, 1
    assert accuracy_relabelled(labels, predictions) == {
        "as printed": (9_996, 10_000),
        "ten corrected": (9_988, 10_000),  # nine more are wrong, and 1621 is right
        "without the fifteen": (9_983, 9_985),
    }


def test_labels_of_another_set_are_refused():
    with pytest.raises(ValueError, match="360 labels: expected those of MNIST"):
        accuracy_relabelled(np.zeros(360, int), np.zeros(360, int))
    with pytest.raises(ValueError, match="10000 labels: expected those of MNIST"):
        accuracy_relabelled(np.zeros(10_000, int), np.zeros(10_000, int))
