"""Summaries and verdicts are those of the runs' JSON."""

import json

import pytest

from src import recipes, results


@pytest.mark.parametrize(
    "reported, comparable, accuracies, expected",
    [
        ("99.1%", True, [0.990, 0.991, 0.992], "reproduced"),
        ("98%", True, [0.990, 0.991, 0.992], "above"),
        ("99.9%", True, [0.990, 0.991, 0.992], "below"),
        ("99.9%", False, [0.990, 0.991, 0.992], "not supported"),
        # t(2 degrees) = 4.303, so one more run falls within 0.991 ± 4.303 · 0.001 · √(4/3)
        ("99.596%", True, [0.990, 0.991, 0.992], "reproduced"),
        ("99.598%", True, [0.990, 0.991, 0.992], "below"),
        ("99.6%", True, [0.990, 0.991, 0.992], "reproduced"),  # its rounding reaches 99.55
        ("99.1%", True, [0.991, 0.992], ""),
        (None, True, [0.990, 0.991], ""),
    ],
)
def test_verdicts(reported, comparable, accuracies, expected):
    recipe = {"reported": reported, "comparable": comparable}
    assert results.verdict(recipe, accuracies) == expected


def test_a_summary_holds_means_over_the_seeds(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "other", {"about": "another"})
    for seed, (validation, test, peak) in enumerate([(0.9, 0.95, 0.96), (0.8, 0.97, 0.97)]):
        content = dict.fromkeys(results.NEEDED, 1) | {
            "validation": {"accuracy": validation}, "test": {"accuracy": test},
            "peak_test_accuracy": peak, "epochs": 3 + seed,
        }  # fmt: skip
        (tmp_path / f"other-{seed}.json").write_text(json.dumps(content))
    rows = results.summarize(tmp_path)
    assert list(rows) == ["other"]
    row = rows["other"]
    assert row["epochs"] == 3.5 and row["test"]["n"] == 2 and row["verdict"] == ""
    assert row["test"]["mean"] == pytest.approx(0.96)
    assert row["validation"]["mean"] == pytest.approx(0.85)
    assert row["peak_minus_final"] == pytest.approx(0.005)


def test_rows_of_the_figure_hold_times_accuracies_and_groups(tmp_path):
    assert results.accuracy_time_rows(tmp_path) == []  # before the first timing
    (tmp_path / "benchmarks").mkdir()
    for name in ("two_conv_plain", "keras_io_convnet", "sprint", "fast"):
        parts = {part: {"accuracy": 0.99} for part in ("validation", "test")}
        content = dict.fromkeys(results.NEEDED, 1) | parts
        (tmp_path / f"benchmarks/{name}-0.json").write_text(json.dumps(content))
    seconds = {"two_conv_plain": [60], "keras_io_convnet": [90], "sprint": [5, 6]}
    timing = {"seconds": seconds, "one_epoch": {}}
    (tmp_path / "timing.json").write_text(json.dumps(timing))
    rows = results.accuracy_time_rows(tmp_path)
    assert [(row["name"], row["group"], row["seconds"]) for row in rows] == [
        ("D", "the five systems", [60]), ("keras.io", "keras.io example", [90]),
        ("sprint", "ours", [5, 6]),
    ]  # fmt: skip
    assert rows[0]["mean"] == 0.99 and rows[0]["low"] is None
