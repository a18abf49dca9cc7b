"""Figures of published experiments: each value where it belongs."""

import numpy as np
import pandas as pd
import pytest

from src.experiments import plots
from src.plots import save_figure

TRIALS = pd.DataFrame({
    "tuner": ["random"] * 4 + ["bayesian"] * 2, "loss": [0.3, 0.2, 0.5, 0.4, 0.25, 0.35],
    "filters": ["8-16", "16", "16", "8-16", "16", "16"], "units": [32, np.nan, 64, np.nan, 32, 64],
    "learning_rate": [0.001, 0.002, 0.003, 0.004, 0.005, 0.03], "augment": np.linspace(0, 2, 6),
})  # fmt: skip
SOME = pd.concat([TRIALS, TRIALS[:2].assign(learning_rate=0.01, augment=0.1)], ignore_index=True)
PAIRS = pd.DataFrame({"fast": [25, 27, 23], "tuned": [20, 24, 19]})
TIMES = [
    {"name": "D", "group": "the five systems", "seconds": [50, 60, 70], "mean": 0.991,
     "low": 0.990, "high": 0.992},
    {"name": "sprint", "group": "ours", "seconds": [5], "mean": 0.9915, "low": None, "high": None},
]  # fmt: skip
SIZES = {
    1: {"errors": [3, 5], "loss": [0.2, 0.4]},
    2: {"errors": [2], "loss": [0.1]},
}
EXPORTS = [
    {"name": "onnx", "bytes": 1_200_000, "milliseconds": 0.2, "quartiles": [0.1, 0.3]},
    {"name": "int8", "bytes": 300_400, "milliseconds": 20, "quartiles": [10, 30]},
]


def ways(**accuracies):
    return {
        way: {"accuracy": x, "interval": (x - 0.01, x + 0.005)} for way, x in accuracies.items()
    }


WAYS = {"plain": ways(resized=0.97, prepared=0.99), "shadow": ways(resized=0.5, prepared=0.99)}
LADDER = pd.DataFrame({"change": ["a", "b", "c"], "gain": [np.nan, 0.2, -0.1],
                       "low": [np.nan, 0.1, -0.3], "high": [np.nan, 0.3, 0.1]})  # fmt: skip
FIGURES = {
    "ladder": lambda: plots.plot_ladder(LADDER, "T"),
    "accuracy time": lambda: plots.plot_accuracy_time(TIMES, "T"),
    "trials": lambda: plots.plot_trials(
        SOME, ["filters", "units", "learning_rate", "augment"], "T"
    ),
    "pairs": lambda: plots.plot_pairs(PAIRS, "T", "errors"),
    "sizes": lambda: plots.plot_sizes(SIZES, "T"),
    "ways": lambda: plots.plot_ways(WAYS, "T"),
    "exports": lambda: plots.plot_exports(EXPORTS, "T"),
}


def legend(holder) -> list[str]:
    return [text.get_text() for text in holder.get_texts()]


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_titled_and_as_wide_as_github_shows(draw, tmp_path):
    figure = draw()
    assert figure.get_suptitle().startswith("T")
    save_figure(figure, tmp_path / "figure.png")
    width, height = figure.get_size_inches() * figure.dpi
    assert width == 880 and height <= 900


def test_accuracy_against_seconds_shows_points_intervals_and_groups():
    ax = FIGURES["accuracy time"]().axes[0]
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["D", "sprint"]
    points = {tuple(np.concatenate(line.get_data())) for line in ax.lines if len(line.get_xdata())}
    assert points == {(60, 0.991), (5, 0.9915)}
    seconds, interval, alone = [lines.get_segments()[0] for lines in ax.collections]
    assert seconds[:, 0].tolist() == [50, 70] and interval[:, 1].tolist() == [0.990, 0.992]
    assert alone[:, 0].tolist() == [5, 5]  # and no interval with one seed
    assert legend(ax.get_legend()) == ["the five systems", "ours"]


def test_trials_stand_at_their_values_each_tuner_in_a_look_of_its_own():
    figure = FIGURES["trials"]()
    filters, units, rate, augment, *empty = figure.axes
    assert [label.get_text() for label in filters.get_xticklabels()] == ["16", "8-16"]
    random, bayesian = filters.lines
    assert random.get_xdata().round().tolist() == [1, 0, 0, 1, 1, 0]
    assert random.get_ydata().tolist() == [0.3, 0.2, 0.5, 0.4, 0.3, 0.2]
    assert random.get_color() != bayesian.get_color()
    assert [label.get_text() for label in units.get_xticklabels()] == ["32", "64", "none"]
    assert units.lines[1].get_xdata().round().tolist() == [0, 1]
    assert (
        rate.get_xscale() == "log" and augment.get_xscale() == "linear"
    )  # seven values: as they are
    assert augment.lines[1].get_xdata().tolist() == [1.6, 2] and not any(ax.axison for ax in empty)
    assert legend(figure.legends[0]) == ["random", "bayesian"]


def test_pairs_join_a_seed_with_itself_and_show_the_means():
    ax = FIGURES["pairs"]().axes[0]
    assert [line.get_ydata().tolist() for line in ax.lines[:3]] == [[25, 20], [27, 24], [23, 19]]
    assert ax.lines[3].get_ydata().tolist() == [25, 21]


def test_the_ladder_shows_gains_and_intervals():
    ax = FIGURES["ladder"]().axes[0]
    assert ax.lines[1].get_xdata().tolist() == [0.2, -0.1]
    spans = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    assert spans == [[0.1, 0.3], [-0.3, 0.1]]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "c"]


def test_sizes_show_the_mean_in_a_band_from_best_to_worst():
    figure = FIGURES["sizes"]()
    errors, loss = figure.axes
    np.testing.assert_allclose(errors.lines[0].get_xydata(), [[1, 4], [2, 2]])
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [0.3, 0.1])
    reach = errors.collections[0].get_paths()[0].vertices
    assert (reach[:, 1].min(), reach[:, 1].max()) == (2, 5)
    assert loss.get_title() == "loss"
    assert legend(figure.legends[0]) == ["best to worst", "mean over subsets of so many"]


def test_ways_show_each_accuracy_and_those_from_95_percent_once_more():
    figure = FIGURES["ways"]()
    left, right = figure.axes
    np.testing.assert_allclose([line.get_xdata() for line in left.lines], [[97, 50], [99, 99]])
    assert right.get_xlim()[0] == 95 and right.get_title() == "enlarged: 95 to 100%"
    assert legend(figure.legends[0]) == ["resized", "prepared"]
    spans = [segment[:, 0] for segment in left.collections[0].get_segments()]
    np.testing.assert_allclose(spans, [[96, 97.5], [49, 50.5]])
    assert len(plots.plot_ways({"shadow": ways(resized=0.5)}, "T").axes) == 1


def test_exports_show_size_time_and_quartiles():
    left, right = FIGURES["exports"]().axes
    assert [text.get_text() for text in left.texts] == ["1,200", "300"]
    assert [text.get_text() for text in right.texts] == ["0.2", "20"]
    spans = [segment[:, 0].tolist() for segment in right.collections[0].get_segments()]
    assert spans == [[0.1, 0.3], [10, 30]]
