"""Figures: what they show, and that nothing is cut off."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from src import evaluation, plots

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (24, 28, 28), dtype=np.uint8)
LABELS = np.arange(24) % 10
PROBABILITIES = np.full((24, 10), 0.02)
PROBABILITIES[np.arange(24), LABELS] = 0.82
PROBABILITIES[3] = np.roll(PROBABILITIES[3], 5)  # 3 is taken for 8
ANSWERS = (IMAGES, LABELS, PROBABILITIES)
LETTERS = list("abcdefghijklmnopqrstuvwx")
POINTS = rng.normal(size=(24, 2))
MATRIX = np.diag(np.arange(90, 100)) + 3 * np.eye(10, k=1, dtype=int)
HISTORY = {
    "loss": [0.3, 0.2, 0.1], "accuracy": [0.9, 0.95, 0.97], "learning_rate": [0.1, 0.1, 0.03],
    "val_loss": [0.2, 0.1, 0.15], "val_accuracy": [0.95, 0.97, 0.96],
}  # fmt: skip
LAYERS = [
    {"layer": "conv3", "kind": "Conv2D", "output": "7 × 7 × 64", "parameters": 36928},
    {"layer": "pool", "kind": "MaxPooling2D", "output": "3 × 3 × 64", "parameters": 0},
]
BINS = evaluation.calibration_bins(LABELS, PROBABILITIES)
CURVES = {name: {"one": ((0, 1), (1, 0.5)), "other": ((0, 1), (1, 0.7))} for name in "abcd"}
UNITS = dict.fromkeys("abcd", "u")
INKS = {"black", "0.35", plots.BLUE, plots.RED}
PHOTO = rng.uniform(0, 1, (30, 40, 3))
FIGURES = {
    "digits": lambda: plots.plot_digits(IMAGES, LETTERS, title="T"),
    "predictions": lambda: plots.plot_predictions(*ANSWERS, "T"),
    "mistakes": lambda: plots.plot_mistakes(*ANSWERS, LABELS == 3, "T"),
    "maps": lambda: plots.plot_maps(rng.normal(size=(20, 5, 5)), signed=True, title="T"),
    "heat": lambda: plots.plot_heat(IMAGES, IMAGES / 255, LETTERS, "T"),
    "pictures": lambda: plots.plot_pictures([PHOTO, IMAGES[0] / 255], "ab", 2, "T"),
    "embedding": lambda: plots.plot_embedding(POINTS, LABELS, "T", LABELS == 3),
    "history": lambda: plots.plot_history({"a": HISTORY}, "T"),
    "confusion": lambda: plots.plot_confusion(MATRIX, "T"),
    "prediction": lambda: plots.plot_prediction(IMAGES[0] / 255, PROBABILITIES[0], "T"),
    "architecture": lambda: plots.plot_architecture(LAYERS, "T"),
    "lines": lambda: plots.plot_lines(CURVES["a"], "T", "x", "accuracy", percent=True),
    "robustness": lambda: plots.plot_robustness(CURVES, {"a": (0, 0.5)}, UNITS, "T"),
    "reliability": lambda: plots.plot_reliability({"as it is": BINS, "other": BINS}, "T"),
}


def written(holder) -> list[str]:
    """All texts of a figure or a legend, the empty ones left out."""
    return [text.get_text() for text in holder.findobj(plt.Text) if text.get_text()]


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_titled_legible_and_as_wide_as_github_shows(draw, tmp_path):
    """... shown once by a notebook, and black on white whatever style the reader has set."""
    with plt.style.context("dark_background"):
        before = dict(plt.rcParams)
        figure = draw()
        path = plots.save_figure(figure, tmp_path / "new" / "figure.png")
        assert dict(plt.rcParams) == before
    assert isinstance(figure, Figure) and plt.get_fignums() == []
    assert any("T" in text for text in written(figure))
    texts = [text for text in figure.findobj(plt.Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 9
    drawn = [text for ax in figure.axes for text in ax.texts]  # white on a dark field, it may be
    assert {text.get_color() for text in texts if text not in drawn} <= INKS
    picture = plt.imread(path)
    height, width = picture.shape[:2]
    assert 700 <= width <= 960 and height <= 900
    assert (picture[[0, 0, -1, -1], [0, -1, 0, -1]] == 1).all()  # the paper


def test_digits_are_dark_ink_on_white():
    shown = plots.plot_digits(np.eye(28)[np.newaxis], columns=1).axes[0].images[0]
    colours = shown.cmap(shown.norm(shown.get_array()))[..., :3]
    assert np.allclose(colours[0, 1], 1) and colours[0, 0].max() < 0.1


def test_an_empty_gallery_says_so():
    nothing = [values[:0] for values in ANSWERS]
    figure = plots.plot_predictions(*nothing, "Mistakes")
    assert written(figure) == ["Mistakes: none"] and figure.axes  # else it is not shown
    assert written(plots.plot_mistakes(*nothing)) == ["All 0 mistakes: none"]


def test_predictions_name_digit_confidence_and_of_mistakes_the_runner_up():
    axes = plots.plot_predictions(*ANSWERS).axes
    assert axes[0].get_title() == "0  82.0%" and axes[3].get_title() == "3 → 8\n82%, then 0"
    assert [ax.title.get_color() for ax in axes[2:4]] == [plots.BLUE, plots.RED]
    named = plots.plot_predictions(*ANSWERS, names=[f"number {i}" for i in range(10)])
    assert named.axes[0].get_title() == "number   82.0%"  # cut, so that titles stay apart


def test_mistakes_are_counted_cut_and_starred_where_people_rejected_the_label():
    figure = plots.plot_mistakes(*ANSWERS, LABELS == 3, "mistakes of it", most=5)
    caption = "The 5 most confident of 24 mistakes of it; * printed label rejected by people"
    assert figure.get_suptitle() == caption
    assert sum(bool(ax.images) for ax in figure.axes) == 5
    assert figure.axes[3].get_title() == "3 → 8 *\n82%, then 0"
    assert figure.axes[3].title.get_color() == "black"
    assert plots.plot_mistakes(*ANSWERS, [False] * 24).get_suptitle() == "All 24 mistakes"


def test_titles_of_sure_mistakes_keep_clear_of_each_other():
    figure = plots.plot_mistakes(IMAGES[:8], LABELS[2:10], np.eye(10)[[1] * 8], [True] * 8)
    figure.draw_without_rendering()
    boxes = [ax.title.get_window_extent() for ax in figure.axes]
    assert figure.axes[0].get_title().endswith("100%, then 0")
    assert all(left.x1 + 5 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_rows_of_any_length_are_labelled_and_pictures_and_points_framed():
    figure = plots.plot_heat(IMAGES[:4], np.zeros((4, 28, 28)), "abcd", "", 2, ["x", "y"])
    assert [ax.get_ylabel() for ax in figure.axes] == ["x", "", "y", ""]
    assert [ax.get_title() for ax in figure.axes] == list("abcd")
    figure = plots.plot_maps([IMAGES[0], -3 * np.ones((7, 7))], 1, True, row_labels=["x", "y"])
    assert [ax.get_ylabel() for ax in figure.axes] == ["x", "y"]
    assert figure.axes[1].images[0].get_array().min() == -1  # on its own scale
    ax = plots.plot_pictures([PHOTO], [""], 1, boxes={0: [(2, 3, 12, 23, "7 (99%)")]}).axes[0]
    assert ax.patches[-1].get_bbox().bounds == (2, 3, 10, 20) and written(ax) == ["7 (99%)"]
    texts = plots.plot_embedding(POINTS, LABELS, "T", np.arange(24) == 13).axes[0].texts
    (framed,) = [text for text in texts if text.get_bbox_patch()]
    assert framed.get_text() == "3" and framed.get_position() == pytest.approx(tuple(POINTS[13]))


def test_history_draws_training_solid_and_validation_dashed_in_one_colour_per_run():
    other = {"loss": [0.5], "train_loss": [0.3], "accuracy": [0.8], "train_accuracy": [0.9]}
    figure = plots.plot_history({"a": HISTORY, "b": other})
    loss, accuracy = figure.axes
    assert [line.get_linestyle() for line in loss.lines] == ["-", "--", "-"]
    colours = [line.get_color() for line in loss.lines]
    assert colours[0] == colours[1] != colours[2]
    assert loss.lines[2].get_ydata() == [0.3] and accuracy.lines[2].get_ydata() == [0.9]
    assert written(figure.legends[0]) == ["a", "a, validation", "b"]
    cuts = plots.plot_history({"a": HISTORY}).axes[1].lines[2:]
    assert [line.get_xdata()[0] for line in cuts] == [2.5]


@pytest.mark.parametrize("lost", [np.nan, np.inf])
@pytest.mark.parametrize("finite", [[], [0.5]])
def test_a_run_that_diverged_is_drawn_and_named(lost, finite, tmp_path):
    losses = [*finite, lost, lost]
    epochs = {"loss": losses, "val_loss": losses, "accuracy": [0.1] * len(losses)}
    figure = plots.plot_history({"a": epochs})
    plots.save_figure(figure, tmp_path / "history.png")
    assert figure.axes[0].get_title() == f"Loss (a: not finite from epoch {len(finite) + 1})"


def test_a_run_without_an_epoch_says_what_to_do():
    with pytest.raises(ValueError, match="no epoch has ended: run the training cell again"):
        plots.plot_history({"a": {}})


def test_stages_and_fields_show_sizes():
    image = np.eye(28)
    figure = plots.plot_stages({"image": image, "map": image[1:-1, 1:-1] - 0.5})
    assert [ax.get_title() for ax in figure.axes] == ["image\n28 × 28", "map\n26 × 26"]
    assert figure.axes[1].images[0].get_clim() == (-0.5, 0.5)
    ax = plots.plot_fields(image, {"first": 3}).axes[0]
    assert ax.patches[-1].get_bbox().bounds == (12, 12, 3, 3)  # pixels 12.5 to 14.5, edge to edge


def test_pixels_are_written_and_patches_framed():
    ax = plots.plot_pixels(np.arange(40).reshape(5, 8), {"A": (1, 2)}).axes[0]
    assert written(ax)[:3] == ["0", "1", "2"] and written(ax)[-1] == "A"
    assert ax.patches[-1].get_bbox().bounds == (2, 1, 3, 3)


def test_confusion_shows_mistakes_and_keeps_right_answers_out_of_the_colours():
    shown = [text.get_text() for text in plots.plot_confusion(MATRIX).axes[0].texts]
    assert shown.count("3") == 9
    assert "90" not in shown and "96.77%" in shown  # 90 of 93 zeros
    perfect = written(plots.plot_confusion(np.diag([0] + [5] * 9)))
    assert "none" in perfect and perfect.count("100.00%") == 9


def test_architecture_names_each_layer_with_its_parameters():
    shown = written(plots.plot_architecture(LAYERS))
    assert {"conv3", "36,928", "7 × 7 × 64", "pool", "–"} <= set(shown)


def test_no_line_is_left_out_and_no_two_look_alike():
    curves = {f"model {i}": ([0, 1], [1, 0.5]) for i in range(30)}
    for figure in (plots.plot_lines(curves), plots.plot_robustness({"a": curves}, {}, {"a": "u"})):
        lines = figure.axes[0].lines
        assert len(lines) == len({(line.get_color(), line.get_marker()) for line in lines}) == 30


def test_robustness_shades_the_trained_range_of_its_panel_only_and_says_so():
    figure = plots.plot_robustness(CURVES, {"b": (0.2, 0.4)}, UNITS, "T", "seen")
    shaded = [[p.get_x() for p in ax.patches if p.get_width()] for ax in figure.axes[:4]]
    assert shaded == [[], [pytest.approx(0.2)], [], []]
    assert written(figure.legends[0]) == ["one", "other", "seen"]
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), [1, 0.7])
    assert written(plots.plot_robustness(CURVES, {}, UNITS).legends[0]) == ["one", "other"]


def test_reliability_draws_accuracy_over_confidence_with_intervals_and_counts():
    figure = plots.plot_reliability({"it": BINS})
    (ax,) = figure.axes
    bars = {round(bar.get_x() + bar.get_width() / 2, 2): bar.get_height() for bar in ax.patches}
    assert bars == dict(zip(BINS.middle.round(2), BINS.accuracy, strict=True))
    np.testing.assert_allclose(ax.lines[1].get_xydata(), BINS[["confidence", "accuracy"]])
    ends = [segment[:, 1] for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(ends, BINS[["low", "high"]])
    assert [text.get_text() for text in ax.texts] == [str(n) for n in BINS.n]
