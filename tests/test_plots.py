"""Figures: what they show, and that nothing is cut off."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from src import evaluation, plots
from src.models import build_cnn, layer_table

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (24, 28, 28), dtype=np.uint8)
LABELS = np.arange(24) % 10
PROBABILITIES = np.full((24, 10), 0.02)
PROBABILITIES[np.arange(24), LABELS] = 0.82
PROBABILITIES[3] = np.roll(PROBABILITIES[3], 5)  # 3 is taken for 8
MATRIX = np.diag(np.arange(90, 100)) + 3 * np.eye(10, k=1, dtype=int)
HISTORY = {
    "loss": [0.3, 0.2, 0.1], "accuracy": [0.9, 0.95, 0.97],
    "val_loss": [0.2, 0.1, 0.15], "val_accuracy": [0.95, 0.97, 0.96],
}  # fmt: skip
PARALLEL = {
    "batch_norm": [True, False] * 6, "size": [1, 2, None] * 4, "rate": list(np.logspace(-3, 0, 12)),
}  # fmt: skip
WAYS = {
    kind: {
        way: {"accuracy": x, "interval": (x - 0.01, x + 0.005)}
        for way, x in (("resized", low), ("prepared", 0.99))
    }
    for kind, low in (("plain", 0.97), ("shadow", 0.5))
}
BINS = evaluation.calibration_bins(LABELS, PROBABILITIES, 4)
CURVES = {name: {"one": ((0, 1), (1, 0.5)), "other": ((0, 1), (1, 0.7))} for name in "abcd"}
FIGURES = {
    "ways": lambda: plots.plot_ways(WAYS, "T"),
    "mistakes": lambda: plots.plot_mistakes(IMAGES, LABELS, PROBABILITIES, LABELS == 3, "T"),
    "calibration": lambda: plots.plot_calibration(
        {"as it is": BINS}, {"as it is": (np.array([0.5, 1]), np.array([1, 0.9]))}, "T"
    ),
    "robustness": lambda: plots.plot_robustness(
        CURVES, {"a": (0, 0.5)}, dict.fromkeys("abcd", "u"), "T"
    ),
    "attacks": lambda: plots.plot_attacks({"one": ((0, 0.1), (1, 0.2))}, "T"),
    "maps": lambda: plots.plot_maps(rng.normal(size=(20, 5, 5)), signed=True, title="T"),
    "heat": lambda: plots.plot_heat(IMAGES, IMAGES / 255, list("abcdefghijklmnopqrstuvwx"), "T"),
    "marked": lambda: plots.plot_embedding(rng.normal(size=(24, 2)), LABELS, "T", LABELS == 3),
    "digits": lambda: plots.plot_digits(IMAGES, list("abcdefghijklmnopqrstuvwx"), title="T"),
    "counts": lambda: plots.plot_class_counts(
        {"Training": np.arange(10), "Test": np.ones(10)}, "T"
    ),
    "ink": lambda: plots.plot_ink(IMAGES.mean((1, 2)) / 255, LABELS, "T"),
    "embedding": lambda: plots.plot_embedding(rng.normal(size=(24, 2)), LABELS, "T"),
    "history": lambda: plots.plot_history(HISTORY, "T"),
    "confusion": lambda: plots.plot_confusion(MATRIX, "T"),
    "search": lambda: plots.plot_search({"a": ([1, 2], [3, 2]), "b": ([1, 4], [2, 1])}, "T"),
    "parallel": lambda: plots.plot_parallel(PARALLEL, np.arange(12.0), "T"),
    "digit accuracy": lambda: plots.plot_digit_accuracy(
        evaluation.accuracy_per_digit(LABELS, PROBABILITIES.argmax(1)), "T"
    ),
    "predictions": lambda: plots.plot_predictions(IMAGES, LABELS, PROBABILITIES, "T"),
    "prediction": lambda: plots.plot_prediction(IMAGES[0] / 255, PROBABILITIES[0], "T"),
    "architecture": lambda: plots.plot_architecture(layer_table(build_cnn()), "T"),
}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_closed_titled_legible_and_as_wide_as_github_shows(draw, tmp_path):
    figure = draw()
    assert isinstance(figure, Figure) and plt.get_fignums() == []
    assert any(text.startswith("T") for text in texts(figure))
    sizes = [text.get_fontsize() for text in figure.findobj(plt.Text) if text.get_text()]
    assert min(sizes) >= 9
    path = plots.save_figure(figure, tmp_path / "new" / "figure.png")
    height, width = plt.imread(path).shape[:2]
    assert 700 <= width <= 960 and height <= 900


def test_drawing_leaves_the_readers_own_style_alone():
    before = dict(plt.rcParams)
    plots.plot_history(HISTORY)
    assert dict(plt.rcParams) == before


def test_digits_are_dark_ink_on_white():
    image = np.zeros((1, 28, 28))
    image[0, 14, 14] = 1
    shown = plots.plot_digits(image, columns=1).axes[0].images[0]
    colours = shown.cmap(shown.norm(shown.get_array()))[..., :3]
    assert np.allclose(colours[0, 0], 1) and colours[14, 14].max() < 0.1


def test_an_empty_gallery_says_so():
    figure = plots.plot_predictions(IMAGES[:0], LABELS[:0], PROBABILITIES[:0], "Mistakes")
    assert texts(figure) == ["Mistakes: none"] and len(figure.axes) == 1  # else it is not shown


def test_confusion_shows_mistakes_and_keeps_right_answers_out_of_the_colours():
    shown = [text.get_text() for text in plots.plot_confusion(MATRIX).axes[0].texts]
    assert shown.count("3") == 9
    assert "90" not in shown and "96.77%" in shown  # 90 of 93 zeros


def test_confusion_of_a_perfect_model_and_of_a_missing_digit():
    perfect = np.diag([0] + [5] * 9)
    shown = texts(plots.plot_confusion(perfect))
    assert "none" in shown and shown.count("100.00%") == 9


def test_gallery_titles_name_true_and_predicted_digit():
    shown = texts(plots.plot_predictions(IMAGES, LABELS, PROBABILITIES))
    assert "3 → 8\n82.0%" in shown and "0  82.0%" in shown


def test_history_marks_the_best_epoch_and_goes_without_validation():
    loss, accuracy = plots.plot_history(HISTORY).axes
    assert loss.lines[2].get_xdata() == accuracy.lines[2].get_xdata() == [2]
    cuts = plots.plot_history({**HISTORY, "learning_rate": [0.1, 0.1, 0.03]}).axes[0].lines[3:]
    assert [line.get_xdata()[0] for line in cuts] == [2.5]
    alone = plots.plot_history({"loss": [1.0], "accuracy": [0.5]})
    assert len(alone.axes[0].lines) == 1


def test_digit_accuracy_shows_each_interval_and_the_mean():
    rows = evaluation.accuracy_per_digit(LABELS, PROBABILITIES.argmax(1))
    shown = texts(plots.plot_digit_accuracy(rows))
    assert "1 of\n3" in shown and "all digits: 95.83%" in shown
    ticks = plots.plot_digit_accuracy(rows).axes[0].get_yticks()
    assert len(ticks) > 2 and max(ticks) == 100


def test_architecture_names_each_layer_with_its_parameters():
    shown = texts(plots.plot_architecture(layer_table(build_cnn())))
    assert {"conv3", "36,928", "7 × 7 × 64", "dense1", "401,536"} <= set(shown)


def test_digit_colours_are_ten_different_ones():
    assert len(set(plots.DIGIT_COLOURS)) == 10


def test_accuracy_against_seconds_shows_points_intervals_and_groups():
    rows = [
        {"name": "D", "group": "the five systems", "seconds": [50, 60, 70], "mean": 0.991,
         "low": 0.990, "high": 0.992},
        {"name": "sprint", "group": "ours", "seconds": [5], "mean": 0.9915, "low": None,
         "high": None},
    ]  # fmt: skip
    ax = plots.plot_accuracy_time(rows).axes[0]
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["D", "sprint"]
    points = {tuple(np.concatenate(line.get_data())) for line in ax.lines if len(line.get_xdata())}
    assert points == {(60, 99.1), (5, 99.15)}
    spans = [line.get_paths()[0].vertices for line in ax.collections]
    assert [(span.min(), span.max()) for span in (s[:, 0] for s in spans)][0] == (50, 70)
    assert (spans[1][:, 1].min(), spans[1][:, 1].max()) == pytest.approx((99.0, 99.2))
    assert len(spans) == 3  # no interval with one seed
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["the five systems", "ours"]


def test_parallel_coordinates_place_each_value_and_mark_the_best():
    axes = plots.plot_parallel(PARALLEL, np.arange(12.0), "T").axes[0]
    texts = [(text.xy[0], round(text.xy[1], 2), text.get_text()) for text in axes.texts]
    assert {(0, 0, "no"), (0, 1, "yes"), (1, 0, "–"), (1, 0.5, "1"), (1, 1, "2")} <= set(texts)
    assert {(2, 0, "0.001"), (2, 0.5, "0.032"), (2, 1, "1")} <= set(texts)
    lines = {tuple(np.round(line.get_ydata(), 2)): line for line in axes.lines}
    best = [heights for heights, line in lines.items() if line.get_color() == plots.BLUE]
    assert (1, 0.5, 0) in best and (0, 1, 0.09) in best  # scores 0 and 1 of twelve
    assert lines[(0, 0, 1)].get_color() != plots.BLUE


def test_every_mistake_shows_its_runner_up_and_a_star_where_the_label_was_rejected():
    figure = plots.plot_mistakes(IMAGES, LABELS, PROBABILITIES, np.arange(24) == 3, "T")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[3] == "3 → 8 *\n82%, then 0" and titles[4] == "4 → 4\n82%, then 0"
    colours = [ax.title.get_color() for ax in figure.axes[3:5]]
    assert len(set(colours)) == 2 and plots.BLUE not in colours  # blue means right


def test_titles_of_sure_mistakes_keep_clear_of_each_other():
    figure = plots.plot_mistakes(IMAGES[:8], LABELS[:8], np.eye(10)[[1] * 8], [True] * 8, "T")
    figure.draw_without_rendering()
    boxes = [ax.title.get_window_extent() for ax in figure.axes]
    assert figure.axes[0].get_title().endswith("100%, then 0")
    assert all(left.x1 + 5 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_calibration_is_refusal_and_error_in_percent():
    covered = {"as it is": (np.array([0.96, 1]), np.array([1, 0.9]))}
    left, right = plots.plot_calibration({"as it is": BINS}, covered, "T").axes
    (line,) = right.lines
    np.testing.assert_allclose(line.get_xydata(), [[4, 0], [0, 10]], atol=1e-9)
    figure = left.figure
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["as sure as right", f"as it is: {100 * BINS['error']:.2f} points off"]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["as it is"]


def test_calibration_keeps_its_height_where_all_bins_or_none_hold_mistakes(tmp_path):
    heights = []
    for wrong in (0, 1, 20):
        probabilities = np.eye(10)[(np.arange(20) < wrong).astype(int)] * 0.89 + 0.011
        bins = evaluation.calibration_bins(np.zeros(20, int), probabilities, 4)
        figure = plots.plot_calibration({"it": bins}, {"it": (np.ones(1), np.ones(1))}, "T")
        plots.save_figure(figure, tmp_path / "calibration.png")
        heights.append(figure.axes[0].get_position().height)
    assert min(heights) > 0.6, heights


def test_calibration_draws_a_bin_without_mistakes_open_and_at_the_edge():
    bins = {
        "confidence": np.array([0.9, 0.99]), "accuracy": np.array([0.8, 1]),
        "low": np.array([0.7, 0.98]), "high": np.array([0.85, 1]), "error": 0.1,
    }  # fmt: skip
    covered = {"it": (np.array([1]), np.array([0.9]))}
    left = plots.plot_calibration({"it": bins}, covered, "T").axes[0]
    assert (left.get_xscale(), left.get_yscale()) == ("log", "log")
    some, none = left.lines[1:3]
    np.testing.assert_allclose(some.get_xydata(), [[10, 20]])
    np.testing.assert_allclose(none.get_xydata(), [[1, left.get_ylim()[0]]])
    assert (some.get_markerfacecolor(), none.get_markerfacecolor()) == (plots.BLUE, "white")
    spans = [segment[:, 1] for segment in left.collections[0].get_segments()]
    np.testing.assert_allclose(spans, [[15, 30], [left.get_ylim()[0], 2]])


def test_robustness_shades_the_trained_range_of_its_panel_only():
    axes = plots.plot_robustness(CURVES, {"b": (0.2, 0.4)}, dict.fromkeys("abcd", "u"), "T").axes
    shaded = [[patch.get_x() for patch in ax.patches] for ax in axes[:4]]
    assert shaded == [[], [pytest.approx(0.2)], [], []]
    assert [line.get_label() for line in axes[0].lines] == ["one", "other"]
    np.testing.assert_allclose(axes[0].lines[1].get_ydata(), [100, 70])


def test_no_line_is_left_out_beyond_the_named_colours():
    curves = {"a": {f"model {i}": ([0, 1], [1, 0.5]) for i in range(9)}}
    lines = plots.plot_robustness(curves, {}, {"a": "u"}, "T").axes[0].lines
    looks = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(lines) == len(looks) == 9


def test_robustness_says_what_is_shaded_where_anything_is():
    for ranges, labels in (({"b": (0.2, 0.4)}, ["one", "other", "seen"]), ({}, ["one", "other"])):
        figure = plots.plot_robustness(CURVES, ranges, dict.fromkeys("abcd", "u"), shaded="seen")
        legends = [ax.get_legend() for ax in figure.axes if ax.get_legend()]
        assert [text.get_text() for text in legends[0].get_texts()] == labels
        line_colours = {line.get_color() for line in figure.axes[0].lines}
        assert plots.SHADE not in line_colours


def test_marked_points_show_their_digit():
    points = rng.normal(size=(24, 2))
    marked = np.arange(24) == 13
    (text,) = [t for t in plots.plot_embedding(points, LABELS, "T", marked).axes[0].texts
               if t.get_bbox_patch()]  # fmt: skip
    assert text.get_text() == "3" and text.get_position() == pytest.approx(tuple(points[13]))


def test_heat_maps_have_labelled_rows_of_any_length():
    heat = np.zeros((4, 28, 28))
    figure = plots.plot_heat(IMAGES[:4], heat, list("abcd"), columns=2, row_labels=["x", "y"])
    assert [ax.get_ylabel() for ax in figure.axes] == ["x", "", "y", ""]
    assert [ax.get_title() for ax in figure.axes] == list("abcd")


def test_ways_show_each_accuracy_and_those_from_95_percent_once_more():
    left, right = plots.plot_ways(WAYS, "T").axes
    marks = [[line.get_xdata().tolist() for line in ax.lines] for ax in (left, right)]
    assert marks == [[[97, 50], [99, 99]], [[97], [99, 99]]]
    assert [text.get_text() for text in left.figure.legends[0].get_texts()] == list(WAYS["plain"])
    spans = [segment[:, 0] for segment in left.collections[0].get_segments()]
    np.testing.assert_allclose(spans, [[96, 97.5], [49, 50.5]])


def test_ways_all_below_95_percent_need_no_second_panel():
    low = {"shadow": {"resized": {"accuracy": 0.5, "interval": (0.4, 0.6)}}}
    assert len(plots.plot_ways(low, "T").axes) == 1


def test_sizes_show_the_mean_in_a_band_from_best_to_worst():
    one = {"errors": [3, 5], "loss": [0.2, 0.4], "calibration_error": [0.1, 0.1]}
    two = {"errors": [2], "loss": [0.1], "calibration_error": [0.2]}
    errors, loss, off = plots.plot_sizes({1: one, 2: two}, "T").axes
    np.testing.assert_allclose(errors.lines[0].get_xydata(), [[1, 4], [2, 2]])
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [0.3, 0.1])
    reach = errors.collections[0].get_paths()[0].vertices
    assert (reach[:, 1].min(), reach[:, 1].max()) == (2, 5)
    assert off.get_title() == "calibration error"
    legend = [text.get_text() for text in errors.figure.legends[0].get_texts()]
    assert legend == ["best to worst", "mean over subsets of so many"]


def test_costs_show_each_seed_and_leave_out_what_was_not_measured():
    rows = [
        {"name": "a", "errors": [3, 5], "parameters": 2000, "multiply_adds": 1e6, "seconds": 4.0},
        {"name": "b", "errors": [2, 2], "parameters": 5000, "multiply_adds": 3e6, "seconds": None},
    ]
    rows = [row | {"n": 1234} for row in rows]
    parameters, adds = plots.plot_costs(rows, "T").axes
    assert parameters.get_ylabel() == "errors of 1,234"
    assert [line.get_xdata().mean() for line in parameters.lines] == pytest.approx([2, 5])
    assert [list(line.get_ydata()) for line in adds.lines] == [[3, 5], [2, 2]]
    first, second = adds.lines[1].get_xdata()  # two seeds that agree are both seen
    assert second - first == pytest.approx(0.09)
    rows[1]["seconds"] = 5.0
    assert len(plots.plot_costs(rows, "T").axes) == 3
    assert [text.get_text() for text in parameters.figure.legends[0].get_texts()] == ["a", "b"]
