"""Figures: arrays in, matplotlib Figure out. One style, one palette, digits as dark ink on white.

Colours: mostly Okabe and Ito, "Color Universal Design" (2008), which stay apart for colour-blind
readers; no figure relies on colour alone.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator
from scipy.spatial import cKDTree

from src.config import CLASSES, replacing

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
DIGIT_COLOURS = (
    BLUE,
    ORANGE,
    GREEN,
    RED,
    "#CC79A7",
    "#56B4E9",
    "#882255",
    "#B5A800",
    GREY,
    "#222222",
)
INK = "Greys"  # colour map of digits: 0 is paper, 1 is ink
SHADE = "#DDEFE6"  # of a range, behind lines
COUNTS = "Blues"  # colour map of counts and densities
WIDTH = 8.0  # inches; with DPI 110 the width that GitHub shows
DPI = 110
STYLE = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "figure.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def _looks(colours: Sequence[str], markers: str) -> list[tuple[str, str]]:
    """A colour and a marker for each line: those named, then the rest of the palette."""
    more = [colour for colour in DIGIT_COLOURS if colour not in colours]
    return list(zip([*colours, *more], markers + "v<>PX*hpd", strict=False))


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the project's style, and close the figure so that a notebook shows it once."""

    @functools.wraps(draw)
    def styled(*args, **kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        return figure

    return styled


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG at the published resolution, with nothing cut off at the edges."""
    path = Path(path)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    return path


def _show_digit(ax, image: np.ndarray, **scale) -> None:
    ax.imshow(np.squeeze(image), cmap=INK, interpolation="nearest", **scale)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color="0.8")


@_styled
def plot_digits(
    images: np.ndarray,
    titles: Sequence[str] | None = None,
    columns: int = 10,
    title: str = "",
    colours: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    size: float = 11,
) -> Figure:
    """A grid of images (n, 28, 28), each under its own title (of `size` points), with a label
    before each row."""
    if len(images) == 0:
        figure = plt.figure(figsize=(WIDTH, 0.8))
        figure.add_subplot().axis("off")  # without one, a notebook shows nothing
        figure.suptitle(f"{title}: none")
        return figure
    rows = -(-len(images) // columns)
    tall = 0.28 if titles is not None else 0.06
    figsize = (WIDTH, rows * (WIDTH / columns + tall) + (0.45 if title else 0.1))
    figure, axes = plt.subplots(rows, columns, figsize=figsize, squeeze=False)
    largest = max(float(np.max(images)), 1e-9)
    for i, ax in enumerate(axes.flat):
        if i >= len(images):
            ax.axis("off")
            continue
        _show_digit(ax, images[i], vmin=0, vmax=largest)
        if titles is not None:
            ax.set_title(titles[i], fontsize=size, color=colours[i] if colours else "black", pad=3)
    for ax, label in zip(axes[:, 0], row_labels or (), strict=False):
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return figure


@_styled
def plot_class_counts(counts: dict[str, np.ndarray], title: str = "") -> Figure:
    """Bars of images per digit (10,), one panel for each named set."""
    figure, axes = plt.subplots(1, len(counts), figsize=(WIDTH, 3.2), squeeze=False)
    for ax, (name, values), colour in zip(axes.flat, counts.items(), DIGIT_COLOURS, strict=False):
        ax.bar(range(CLASSES), values, color=colour)
        ax.axhline(np.mean(values), color="black", lw=1, ls="--")
        ax.set(title=f"{name}: {np.sum(values):,} images", xticks=range(CLASSES), xlabel="digit")
        ax.yaxis.set_major_formatter("{x:,.0f}")
    axes[0, 0].set_ylabel("images (dashed: mean)")
    figure.suptitle(title)
    return figure


@_styled
def plot_ink(ink: np.ndarray, labels: np.ndarray, title: str = "") -> Figure:
    """Box plots of ink (n,), the share of full black in an image, per digit."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.6))
    sns.boxplot(
        x=labels, y=100 * ink, ax=ax, color=ORANGE, width=0.6, fliersize=1.5, linewidth=1,
        order=range(CLASSES), whis=(1, 99),
    )  # fmt: skip
    ax.set(xlabel="digit", ylabel="ink (% of full black)", title=title)
    ax.grid(axis="y", color="0.9")
    return figure


@_styled
def plot_embedding(
    points: np.ndarray, labels: np.ndarray, title: str = "", marked: np.ndarray | None = None
) -> Figure:
    """Points (n, 2), coloured by digit, with the digit written large where its points are most
    among themselves; and in a frame at each point that is `marked` (booleans)."""
    figure, ax = plt.subplots(figsize=(WIDTH, 6.4))
    near = cKDTree(points).query(points, min(60, len(points)))[1]
    purity = (labels[near] == labels[:, np.newaxis]).mean(axis=1)
    for digit in np.unique(labels):
        own = points[labels == digit]
        ax.scatter(*own.T, s=7, color=DIGIT_COLOURS[digit], alpha=0.7, lw=0)
        purest = own[purity[labels == digit] == purity[labels == digit].max()]
        x, y = purest[np.linalg.norm(purest - np.median(purest, axis=0), axis=1).argmin()]
        ax.text(
            x, y, str(digit), fontsize=20, weight="bold", ha="center", va="center",
            path_effects=[withStroke(linewidth=4, foreground="white")],
        )  # fmt: skip
    frame = {"boxstyle": "square,pad=0.1", "facecolor": (1, 1, 1, 0.6), "lw": 0.8}
    for i in np.flatnonzero(marked) if marked is not None else ():
        ax.text(*points[i], str(labels[i]), fontsize=9, ha="center", va="center", bbox=frame)
    ax.set(xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)
    return figure


@_styled
def plot_history(epochs: dict[str, list[float]], title: str = "") -> Figure:
    """Loss (log scale) and accuracy per epoch, for training and validation.

    The lowest validation loss is ringed, cuts of `learning_rate` are dotted lines.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.7))
    numbers = np.arange(1, len(epochs["loss"]) + 1)
    for ax, metric in zip(axes, ("loss", "accuracy"), strict=True):
        ax.plot(numbers, epochs[metric], color=BLUE, marker="o", ms=4, label="training")
        if f"val_{metric}" in epochs:
            best = int(np.argmin(epochs["val_loss"]))
            values = epochs[f"val_{metric}"]
            ax.plot(numbers, values, color=RED, marker="s", ms=4, ls="--", label="validation")
            ax.plot(numbers[best], values[best], marker="o", ms=12, mfc="none", mec="black",
                    ls="none", label="best validation loss")  # fmt: skip
        for cut in np.flatnonzero(np.diff(epochs.get("learning_rate", [])) < 0):
            ax.axvline(
                cut + 1.5, color=GREY, ls=":", label="learning rate cut" if ax is axes[0] else None
            )
        ax.set(xlabel="epoch", title=metric.capitalize())
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(color="0.9")
    _log_loss(axes[0])
    handles = {
        label: line for line, label in zip(*axes[0].get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles))
    axes[1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")
    figure.suptitle(title)
    return figure


def _log_loss(ax) -> None:
    """A logarithmic y axis with a number at 1, 2 and 5 of each decade."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")


@_styled
def plot_confusion(matrix: np.ndarray, title: str = "") -> Figure:
    """Mistakes by true and predicted digit (10, 10); right answers are left to the margin."""
    mistakes = np.array(matrix)
    right, total = mistakes.diagonal().copy(), mistakes.sum(axis=1)
    np.fill_diagonal(mistakes, 0)
    figure, ax = plt.subplots(figsize=(WIDTH, 6.6))
    labels = np.where(mistakes > 0, mistakes.astype(str), "")
    shades = np.where(mistakes > 0, mistakes, 0.5)  # none lies below the scale: white
    scale = LogNorm(0.7, max(mistakes.max(), 2))
    colours = plt.get_cmap(COUNTS).with_extremes(under="white")
    sns.heatmap(
        shades, annot=labels, fmt="", cmap=colours, norm=scale, cbar=False, ax=ax, square=True,
        linewidths=0.5, linecolor="0.9", annot_kws={"size": 11},
    )  # fmt: skip
    for digit in range(CLASSES):
        ax.add_patch(plt.Rectangle((digit, digit), 1, 1, color="0.9", lw=0))
        share = f"{100 * right[digit] / total[digit]:.2f}%" if total[digit] else "none"
        ax.text(CLASSES + 0.15, digit + 0.5, share, va="center")
    ax.text(CLASSES + 0.15, -0.25, "correct", va="center", weight="bold")
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="predicted digit", ylabel="true digit", title=title)
    return figure


@_styled
def plot_digit_accuracy(rows: list[dict], title: str = "") -> Figure:
    """Accuracy per digit with its interval; `rows` hold digit, accuracy, low, high, n, errors."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.8))
    for row in rows:
        x, y = row["digit"], 100 * row["accuracy"]
        ax.vlines(x, 100 * row["low"], 100 * row["high"], color=BLUE, lw=3, alpha=0.45)
        ax.plot(x, y, "o", color=BLUE, ms=7)
        ax.annotate(f"{row['errors']} of\n{row['n']:,}", (x, 100 * row["low"]), (0, -4),
                    textcoords="offset points", ha="center", va="top", fontsize=9)  # fmt: skip
    total = sum(row["n"] for row in rows)
    overall = 100 * (1 - sum(row["errors"] for row in rows) / total)
    ax.axhline(overall, color="black", lw=1, ls="--", label=f"all digits: {overall:.2f}%")
    ax.margins(y=0.2)
    low, high = ax.get_ylim()
    ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= min(high, 100.001)])
    ax.set(xticks=range(CLASSES), xlabel="digit (wrong of all written below)",
           ylabel="accuracy, 95% interval", title=title)  # fmt: skip
    ax.yaxis.set_major_formatter("{x:.4g}%")
    ax.legend(loc="upper right")
    return figure


def plot_predictions(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, title: str = ""
) -> Figure:
    """A gallery: each image under "true → predicted" and the confidence of the prediction."""
    predictions, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = predictions == labels
    titles = [
        f"{t} → {p}\n{100 * c:.1f}%" if t != p else f"{p}  {100 * c:.1f}%"
        for t, p, c in zip(labels, predictions, confidences, strict=True)
    ]
    colours = [BLUE if ok else RED for ok in right]
    return plot_digits(images, titles, columns=8, title=title, colours=colours)


@_styled
def plot_prediction(pixels: np.ndarray, probabilities: np.ndarray, title: str = "") -> Figure:
    """What the network saw (28, 28) beside its ten probabilities."""
    figure, (left, ax) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), width_ratios=[1, 2.2])
    _show_digit(left, pixels, vmin=0, vmax=1)
    left.set_title("what the network sees")
    colours = [BLUE if p == np.max(probabilities) else "0.75" for p in probabilities]
    bars = ax.bar(range(CLASSES), 100 * np.asarray(probabilities), color=colours)
    ax.bar_label(
        bars, [f"{100 * p:.1f}" if p >= 0.0005 else "" for p in probabilities], fontsize=10
    )
    ax.set(xticks=range(CLASSES), ylim=(0, 112), xlabel="digit", ylabel="probability (%)")
    figure.suptitle(title)
    return figure


LAYER_COLOURS = {"Conv2D": BLUE, "Dense": GREEN, "BatchNormalization": ORANGE}


@_styled
def plot_architecture(rows: list[dict], title: str = "") -> Figure:
    """The layers from top to bottom; `rows` hold layer, kind, output, parameters."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.42 * len(rows) + 1.1))
    most = max(max(row["parameters"] for row in rows), 1)
    for y, row in enumerate(rows):
        colour = LAYER_COLOURS.get(row["kind"], GREY)
        ax.add_patch(plt.Rectangle((0, y - 0.38), 5.3, 0.76, color=colour, alpha=0.2, lw=0))
        ax.add_patch(plt.Rectangle((0, y - 0.38), 0.08, 0.76, color=colour, lw=0))
        ax.text(0.2, y, row["kind"], va="center", weight="bold")
        ax.text(2.15, y, row["layer"], va="center", fontsize=10)
        ax.text(5.2, y, row["output"], va="center", ha="right")
        ax.barh(y, 1.6 * row["parameters"] / most, left=5.45, height=0.5, color=colour)
        at = 5.55 + 1.6 * row["parameters"] / most
        ax.text(at, y, f"{row['parameters']:,}" if row["parameters"] else "–", va="center")
    for x, name, side in ((0.2, "kind", "left"), (2.15, "name", "left"),
                          (5.2, "output", "right"), (5.45, "parameters", "left")):  # fmt: skip
        ax.text(x, -0.85, name, ha=side, color="0.35")
    ax.set(xlim=(0, 8), ylim=(len(rows) - 0.5, -1.2), title=title)
    ax.axis("off")
    return figure


@_styled
def plot_accuracy_time(rows: list[dict], title: str = "") -> Figure:
    """Test accuracy against seconds of training, logarithmic.

    `rows` hold name, group, seconds (of each round), mean, low and high (95% interval of the
    mean accuracy; None with one run).
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 5.2))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    looks = dict(zip(groups, zip((GREY, BLUE, RED), "sDo", strict=True), strict=False))
    for row in rows:
        colour, marker = looks[row["group"]]
        x, y = np.median(row["seconds"]), 100 * row["mean"]
        ax.hlines(y, min(row["seconds"]), max(row["seconds"]), color=colour, lw=1.5)
        if row["low"] is not None:
            ax.vlines(x, 100 * row["low"], 100 * row["high"], color=colour, lw=1.5)
        ax.plot(x, y, marker, color=colour, ms=8)
        places = [np.median(other["seconds"]) for other in rows]
        below = any(x / 1.15 < place < x for place in places)  # of the line, where it is crowded
        left = below or any(x < place < 1.3 * x for place in places)
        at, side = (-7 if left else 7, -14 if below else 4), "right" if left else "left"
        ax.annotate(row["name"], (x, y), at, textcoords="offset points", color=colour, ha=side)
    for group, (colour, marker) in looks.items():
        ax.plot([], [], marker, color=colour, label=group)
    ax.set(xscale="log", xlabel="seconds of training (logarithmic)", ylabel="test accuracy",
           title=title)  # fmt: skip
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.yaxis.set_major_formatter("{x:.4g}%")
    ax.margins(x=0.16)
    ax.grid(color="0.9")
    ax.legend(loc="lower left")
    return figure


@_styled
def plot_search(curves: dict[str, tuple[Sequence[float], Sequence[float]]], title: str = ""):
    """Best validation loss so far against epochs spent, a line for each tuner.

    `curves`: name -> (epochs spent by the end of each trial, best loss by then).
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 4))
    looks = zip((BLUE, ORANGE, GREEN, RED), ("-", "--", "-.", ":"), strict=True)
    for (name, (epochs, best)), (colour, line) in zip(curves.items(), looks, strict=False):
        ax.step(epochs, best, line, where="post", color=colour, lw=2, label=name)
        ax.plot(max(epochs), min(best), "o", color=colour)
    ax.set(xlabel="epochs spent, all trials together", ylabel="best validation loss so far",
           title=title)  # fmt: skip
    ax.grid(color="0.9")
    ax.legend()
    return figure


@_styled
def plot_parallel(columns: dict[str, Sequence], scores: Sequence[float], title: str = "") -> Figure:
    """Parallel coordinates: a line per trial through its value on each axis; the darker, the
    lower its score, and the best tenth in colour.

    `columns`: name -> a value per trial, None where the hyperparameter was not active. Each axis
    shows the values that occur, or, for more than eight numbers, a logarithmic scale.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 5.2))
    heights = []
    for at, values in enumerate(columns.values()):
        places, ticks = _axis_places(values)
        heights.append(places)
        ax.axvline(at, color="0.8", lw=1, zorder=0)
        for place, text in ticks:
            edge = [withStroke(linewidth=3, foreground="white")]
            ax.annotate(text, (at, place), (3, 0), textcoords="offset points", fontsize=9,
                        va="center", path_effects=edge)  # fmt: skip
    ranks = np.argsort(np.argsort(np.asarray(scores))) / max(1, len(scores) - 1)
    for i in np.argsort(-ranks):
        best = ranks[i] <= 0.1
        ax.plot([h[i] for h in heights], color=BLUE if best else str(0.35 + 0.5 * ranks[i]),
                lw=2.5 if best else 1, zorder=2 if best else 1)  # fmt: skip
    title = f"{title} (blue: the best tenth)"
    ax.set(title=title, ylim=(-0.08, 1.05), xlim=(-0.2, len(columns) - 0.5), yticks=[])
    ax.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    ax.spines[:].set_visible(False)
    return figure


def _axis_places(values: Sequence) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights from 0 to 1 of the values, and (height, text) of the axis' ticks."""
    known = sorted({v for v in values if v is not None})
    if len(known) > 8:
        low, high = np.log(known[0]), np.log(known[-1])
        places = (np.log(np.array(values, float)) - low) / (high - low)
        ends = (known[0], np.sqrt(known[0] * known[-1]), known[-1])
        return places, [(h, f"{v:.2g}") for h, v in zip((0, 0.5, 1), ends, strict=True)]
    levels = [None] * (None in values) + known
    heights = {v: i / max(1, len(levels) - 1) for i, v in enumerate(levels)}
    names = {None: "–", True: "yes", False: "no"}
    ticks = [(h, names[v] if v is None or v is True or v is False else f"{v:g}")
             for v, h in heights.items()]  # fmt: skip
    return np.array([heights[v] for v in values]), ticks


def plot_mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    rejected: Sequence[bool],
    title: str = "",
) -> Figure:
    """Every mistake with true → predicted, its confidence, and the runner-up; where people
    `rejected` the printed label, a star, and black."""
    order = np.argsort(-probabilities, axis=1)
    titles = [
        f"{true} → {first}{' *' if star else ''}\n{100 * p[first]:.0f}%, then {second}"
        for true, (first, second), p, star in zip(
            labels, order[:, :2], probabilities, rejected, strict=True
        )
    ]
    colours = ["black" if star else RED for star in rejected]
    return plot_digits(images, titles, columns=8, title=title, colours=colours, size=10)


@_styled
def plot_calibration(bins: dict[str, dict], coverage: dict, title: str = "") -> Figure:
    """Left: the share wrong, with its interval, against 1 - confidence per bin, for each name in
    `bins` (as evaluation.calibration_bins gives them). Right: the share wrong among the images
    answered against the share refused; `coverage`: name -> (share answered, accuracy)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.9))
    looks = _looks((BLUE, ORANGE, GREEN), "osD")
    _draw_bins(left, bins, looks)
    left.set(xscale="log", yscale="log", xlabel="1 - confidence (%)", ylabel="wrong (%)",
             title="as sure as right?")  # fmt: skip
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter("{x:g}")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=9)
    for (name, (answered, accuracy)), (colour, _) in zip(coverage.items(), looks, strict=False):
        right.plot(100 * (1 - answered), 100 * (1 - accuracy), color=colour, lw=2, label=name)
    right.set(xlim=(0, 5), ylim=(0, None), xlabel="refused, the least sure first (%)",
              ylabel="wrong among the rest (%)", title="what refusing buys")  # fmt: skip
    right.legend(fontsize=9)
    for ax in (left, right):
        ax.grid(color="0.9")
    figure.suptitle(title)
    return figure


def _draw_bins(ax, bins: dict[str, dict], looks: list, floor: float = 0.02) -> None:
    """Wrong (%) against 1 - confidence (%) per bin, for logarithmic axes. What is below `floor`
    is drawn at the edge, a share of 0 with an open marker."""
    ax.plot([floor, 100], [floor, 100], color="0.6", lw=1, label="as sure as right")
    for (name, found), (colour, marker) in zip(bins.items(), looks, strict=False):
        unsure, wrong, low, high = (
            np.maximum(100 * (1 - found[key]), floor)
            for key in ("confidence", "accuracy", "high", "low")
        )
        ax.vlines(unsure, low, high, color=colour, lw=1, alpha=0.6)
        some = found["accuracy"] < 1
        for chosen, fill in ((some, colour), (~some, "white")):
            if chosen.any():  # an empty line with clip_on=False would take room elsewhere
                ax.plot(
                    unsure[chosen], wrong[chosen], marker, color=colour, mfc=fill, clip_on=False
                )
        off = f"{name}: {100 * found['error']:.2f} points off"
        ax.plot([], [], marker, color=colour, label=off)
    ax.set(xlim=(floor, 100), ylim=(floor, 100))


@_styled
def plot_robustness(
    curves: dict[str, dict], ranges: dict, units: dict, title: str = "", shaded: str = "trained on"
) -> Figure:
    """A panel per disturbance: accuracy (%) against strength, a line per model.

    `curves`: disturbance -> model -> (strengths, accuracies from 0 to 1). `ranges`:
    disturbance -> (low, high), shaded, which the legend calls `shaded`. `units`: x axes' labels.
    """
    rows = -(-len(curves) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(WIDTH, 2.35 * rows), sharey=True, squeeze=False)
    looks = _looks((GREY, ORANGE, BLUE, RED, GREEN), "sDo^v")
    for ax, (name, models) in zip(axes.flat, curves.items(), strict=False):
        if name in ranges:
            ax.axvspan(*ranges[name], color=SHADE, zorder=0)
        for (model, (x, y)), (colour, marker) in zip(models.items(), looks, strict=False):
            ax.plot(x, 100 * np.asarray(y), marker, ls="-", ms=4, color=colour, label=model)
        ax.set(title=name, xlabel=units[name], ylim=(0, 103))
        ax.grid(color="0.9")
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy (%)")
    for ax in axes.flat[len(curves) :]:
        ax.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if ranges:
        handles, labels = [*handles, plt.Rectangle((0, 0), 1, 1, color=SHADE)], [*labels, shaded]
    room = len(curves) < axes.size
    legend = axes.flat[-1 if room else 0].legend(handles, labels, loc="right" if room else "best")
    legend.set_in_layout(not room)  # it may reach into the empty panel before
    figure.suptitle(title)
    return figure


@_styled
def plot_attacks(curves: dict[str, tuple[Sequence, Sequence]], title: str = "") -> Figure:
    """Accuracy against the largest change per pixel; `curves`: name -> (epsilons, accuracies)."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.8))
    looks = _looks((BLUE, RED, ORANGE, GREEN), "osD^")
    for (name, (x, y)), (colour, marker) in zip(curves.items(), looks, strict=False):
        ax.plot(x, 100 * np.asarray(y), marker, ls="-", color=colour, lw=2, label=name)
    ax.set(xlabel="largest change of a pixel (of 0 to 1)", ylabel="accuracy (%)", ylim=(0, 103),
           title=title)  # fmt: skip
    ax.grid(color="0.9")
    ax.legend()
    return figure


@_styled
def plot_maps(maps: np.ndarray, columns: int = 16, signed: bool = False, title: str = "") -> Figure:
    """Filters or feature maps (n, h, w), each on its own scale; `signed`: blue is below 0."""
    rows = -(-len(maps) // columns)
    size = (WIDTH, rows * (WIDTH / columns + 0.06) + 0.45)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax, values in zip(axes.flat, maps, strict=False):
        top = max(float(np.abs(values).max()), 1e-9)
        scale = {"vmin": -top, "vmax": top, "cmap": "RdBu_r"} if signed else {"cmap": INK}
        ax.imshow(values, **scale)
    for ax in axes.flat:
        ax.axis("off")
    figure.suptitle(title)
    return figure


@_styled
def plot_heat(
    images: np.ndarray, heat: np.ndarray, titles: Sequence[str], title: str = "",
    columns: int = 6, row_labels: Sequence[str] = (),
) -> Figure:  # fmt: skip
    """Digits in grey under the places that spoke for an answer, `heat` (n, 28, 28) in [0, 1],
    with a label before each row."""
    rows = -(-len(images) // columns)
    size = (WIDTH, rows * (WIDTH / max(columns, 6) + 0.34) + 0.45)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(images) :]:
        ax.axis("off")
    for ax, image, warm, text in zip(axes.flat, images, heat, titles, strict=False):
        _show_digit(ax, image, vmin=0, vmax=1.6)
        ax.imshow(np.ones_like(warm), cmap="Oranges", vmin=0, vmax=1.4, alpha=0.75 * warm)
        ax.set_title(text, fontsize=10, pad=3)
    for ax, label in zip(axes[:, 0], row_labels, strict=False):
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return figure


@_styled
def plot_pictures(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    columns: int = 6,
    title: str = "",
    boxes: dict[int, Sequence[tuple]] | None = None,
) -> Figure:
    """Photos as they are: grey (h, w) in [0, 1] or RGB (h, w, 3), with a title each. `boxes`: for
    the number of a picture, (left, top, right, bottom, text) of frames to draw in it."""
    rows, columns = -(-len(pictures) // columns), min(columns, len(pictures))
    tall = min(2, max(np.shape(picture)[0] / np.shape(picture)[1] for picture in pictures))
    size = (WIDTH, rows * (tall * WIDTH / columns + 0.3) + 0.3 * bool(title))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(pictures) :]:
        ax.axis("off")
    for i, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.set_title(titles[i] if titles else "", fontsize=10)
        for spine in ax.spines.values():
            spine.set(visible=True, color="0.8")
        for left, top, right, bottom, text in (boxes or {}).get(i, ()):
            ax.add_patch(
                plt.Rectangle((left, top), right - left, bottom - top, fill=False, ec=BLUE, lw=1.5)
            )
            ax.text(left, top, text, color=BLUE, va="bottom", fontsize=12)
    figure.suptitle(title)
    return figure


@_styled
def plot_ways(table: dict[str, dict[str, dict]], title: str = "", xlabel: str = "") -> Figure:
    """A row per kind, a mark per way: accuracy in % with its 95% interval; marks from 95% on once
    more in a panel that enlarges that end. `table`: kind -> way -> {"accuracy": 0 to 1,
    "interval": (low, high)}."""
    ways = list(next(iter(table.values())))
    starts = [0, 95] if _ways_above(table, ways, 95).any() else [0]
    figure, axes = plt.subplots(
        1, len(starts), figsize=(WIDTH, 1.6 + 0.46 * len(table)), sharey=True, squeeze=False,
        width_ratios=(2, 1)[: len(starts)],
    )  # fmt: skip
    looks = _looks((GREY, ORANGE, RED, GREEN, BLUE), "sDo^v")
    for ax, start in zip(axes.flat, starts, strict=True):
        shown = _ways_above(table, ways, start)
        for j, (way, (colour, marker)) in enumerate(zip(ways, looks, strict=False)):
            found = [row[way] for row in table.values()]
            x = np.array([100 * row["accuracy"] for row in found])
            reach = np.abs(np.array([row["interval"] for row in found]).T * 100 - x)
            y, some = np.arange(len(table)) + 0.19 * (j - (len(ways) - 1) / 2), shown[:, j]
            ax.errorbar(x[some], y[some], xerr=reach[:, some], fmt=marker, ms=5.5, color=colour,
                        elinewidth=1, label=None if start else way)  # fmt: skip
        ax.set(xlim=(start, 100 + (100 - start) / 50), xlabel=xlabel or "accuracy (%)")
        ax.set_xticks(np.linspace(start, 100, 6))
        ax.grid(axis="x", color="0.9")
    axes[0, 0].set(yticks=range(len(table)), yticklabels=list(table))
    axes[0, 0].invert_yaxis()
    if len(starts) > 1:
        axes[0, 1].set_title("enlarged: 95 to 100%", fontsize=11)
    figure.suptitle(title)
    figure.legend(loc="outside lower center", ncols=len(ways))
    return figure


def _ways_above(table: dict[str, dict[str, dict]], ways: list[str], start: float) -> np.ndarray:
    """Which accuracies are `start` % or more: bool (kinds, ways)."""
    return np.array(
        [[100 * row[way]["accuracy"] >= start for way in ways] for row in table.values()]
    )


@_styled
def plot_exports(rows: list[dict], title: str = "") -> Figure:
    """Two panels over the rows of models/exports.json: size in kB, and time for one image in
    ms on a logarithmic axis with quartiles."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 0.9 + 0.4 * len(rows)), sharey=True)
    names, y = [row["name"] for row in rows], np.arange(len(rows))
    sizes = [row["bytes"] / 1000 for row in rows]
    times = np.array([row["milliseconds"] for row in rows])
    ends = np.array([row["quartiles"] for row in rows]).T
    for bar in left.barh(y, sizes, color=BLUE, height=0.6):
        left.annotate(
            f"{bar.get_width():,.0f}", (bar.get_width(), bar.get_y() + 0.3), (3, 0),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    left.set(yticks=y, yticklabels=names, xlabel="size (kB)", xlim=(0, 1.2 * max(sizes)))
    left.invert_yaxis()
    right.errorbar(times, y, xerr=np.abs(ends - times), fmt="o", color=RED, elinewidth=1)
    for at, time in zip(y, times, strict=True):
        right.annotate(
            f"{time:.3g}", (time, at), (0, 6), textcoords="offset points", ha="center", fontsize=9
        )
    right.set(xscale="log", xlabel="one image (ms), median and quartiles")
    right.margins(x=0.12, y=0.12)
    right.grid(axis="x", color="0.9")
    figure.suptitle(title)
    return figure


@_styled
def plot_sizes(scores: dict[int, dict[str, Sequence[float]]], title: str = "") -> Figure:
    """What ensembles of 1, 2, ... members score: for each measure the mean over all subsets of
    so many, in a band from the best to the worst. `scores`: see ensembles.subset_scores."""
    labels = {"errors": "errors", "loss": "loss", "calibration_error": "calibration error"}
    figure, axes = plt.subplots(1, len(labels), figsize=(WIDTH, 3.7))
    sizes = list(scores)
    for ax, (key, label) in zip(axes, labels.items(), strict=True):
        values = [scores[size][key] for size in sizes]
        low, high = [min(v) for v in values], [max(v) for v in values]
        ax.fill_between(sizes, low, high, color=BLUE, alpha=0.15, lw=0, label="best to worst")
        means = [np.mean(v) for v in values]
        ax.plot(sizes, means, "o-", color=BLUE, ms=5, label="mean over subsets of so many")
        ax.set(xlabel="members", title=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(axis="y", color="0.9")
    figure.suptitle(title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@_styled
def plot_costs(rows: list[dict], title: str = "") -> Figure:
    """Errors of each network against its parameters, multiply-adds and seconds of an epoch.

    `rows` hold name, errors (of each seed, side by side), n (images), parameters, multiply_adds,
    seconds (None where not measured; then they have no panel).
    """
    costs = {"parameters": "parameters (thousands)", "multiply_adds": "multiply-adds (millions)",
             "seconds": "seconds of an epoch"}  # fmt: skip
    scale = {"parameters": 1e3, "multiply_adds": 1e6, "seconds": 1}
    costs = {k: label for k, label in costs.items() if all(row[k] is not None for row in rows)}
    figure, axes = plt.subplots(1, len(costs), figsize=(WIDTH, 3.8), sharey=True)
    looks = _looks((BLUE, GREY, RED, GREEN, ORANGE), "oDs^v")
    for ax, (cost, label) in zip(axes, costs.items(), strict=True):
        apart = 0.03 * max(row[cost] for row in rows) / scale[cost]  # of the marks of two seeds
        for row, (colour, marker) in zip(rows, looks, strict=False):
            errors = row["errors"]
            at = row[cost] / scale[cost] + apart * (np.arange(len(errors)) - (len(errors) - 1) / 2)
            ax.plot(at, errors, marker, color=colour, ms=7, label=row["name"])
        ax.set(xlabel=label)
        ax.margins(x=0.2, y=0.15)
        ax.grid(axis="y", color="0.9")
    axes[0].set(ylabel=f"errors of {rows[0]['n']:,}")
    axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    handles, names = axes[0].get_legend_handles_labels()
    figure.suptitle(title)
    figure.legend(handles, names, loc="outside lower center", ncols=len(rows), frameon=False)
    return figure
