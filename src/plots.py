"""Figures: arrays in, matplotlib Figure out. One style, one palette, digits as dark ink on white.

Colours: mostly Okabe and Ito, "Color Universal Design" (2008), which stay apart for colour-blind
readers; no figure relies on colour alone.
"""

import math
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator
from scipy.spatial import cKDTree

from src.config import BLUE, CLASSES, GREEN, GREY, ORANGE, RED, replacing

PINK, SKY, WINE, OLIVE, BLACK = "#CC79A7", "#56B4E9", "#882255", "#B5A800", "#222222"
DIGIT_COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, WINE, OLIVE, GREY, BLACK)
LOOKS = list(zip(DIGIT_COLOURS * 11, "osD^v<>PX*h" * 10, strict=True))  # of lines, all different
INK = "Greys"  # colour map of digits: 0 is paper, 1 is ink
SHADE = "#DDEFE6"  # of a range, behind lines
WIDTH = 8.0  # inches; with 110 dots per inch the width that GitHub shows
STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 13,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "0.9",
    "legend.frameon": False,
}


@contextmanager
def styled():
    """Draw in the project's style, not the reader's: `with`, or a decorator."""
    plt.draw_if_interactive()  # loads the backend: in the block, its settings would be lost again
    with plt.style.context(["default", STYLE]):
        yield


def new_figure(title: str, height: float, rows: int = 1, columns: int = 1, **settings) -> tuple:
    """Make a figure and its panels, closed so that a notebook shows it once."""
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), **settings)
    plt.close(figure)
    figure.suptitle(title)
    return figure, axes


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG at the published resolution, with nothing cut off at the edges."""
    path = Path(path)
    with replacing(path) as partial, styled():
        figure.savefig(partial, dpi="figure", bbox_inches="tight", metadata={"Software": None})
    return path


def as_percent(value: float, _) -> str:
    """Write an accuracy beside an axis that reaches over 1."""
    return f"{100 * value:.4g}%" if value < 1.00001 else ""


def plain_log_ticks(axis) -> None:
    """Number a logarithmic axis at 1, 2 and 5 of each decade, without powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


@styled()
def plot_digits(
    images, titles=(), columns=10, title="", colours=("black",), row_labels=(), size=11, **scale
) -> Figure:
    """Draw images (n, h, w) in a grid, each under its title of `size` points.

    `scale` (cmap, vmin, vmax) replaces dark ink from 0 to the largest value of all images.
    """
    rows = math.ceil(len(images) / columns) or 1
    tall = max([h / w for h, w, *_ in map(np.shape, images)], default=0.1)
    height = min(tall * WIDTH / columns, 3.5) + (0.3 if len(titles) else 0.06)  # inches
    height = rows * height + (0.45 if title else 0.1)
    title = title if len(images) else f"{title}: none"
    figure, axes = new_figure(title, height, rows, columns, squeeze=False)
    scale = {"cmap": INK, "vmin": 0, "vmax": max([1e-9, *map(np.max, images)])} | scale
    for ax, image in zip(axes.flat, images, strict=False):
        ax.imshow(np.squeeze(image), **scale)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(visible=True, color="0.8")
    for ax in axes.flat[len(images) :]:
        ax.axis("off")
    for ax, text, colour in zip(axes.flat, titles, cycle(colours), strict=False):
        ax.set_title(text, fontsize=size, color=colour, pad=3)
    for ax, label in zip(axes[:, 0], row_labels, strict=False):
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def plot_predictions(images, labels, probabilities, title="", rejected=()) -> Figure:
    """Draw images under digit and confidence: right ones blue, mistakes red.

    A mistake names the runner-up too; where people `rejected` the printed label (booleans), it
    gets a star, and is black.
    """
    titles, colours = [], []
    stars = rejected if len(rejected) else [False] * len(images)
    for true, row, star in zip(labels, probabilities, stars, strict=True):
        first, second = np.argsort(-row, kind="stable")[:2]
        if first == true:
            titles.append(f"{true}  {row[first]:.1%}")
            colours.append(BLUE)
        else:
            mark = " *" if star else ""
            titles.append(f"{true} → {first}{mark}\n{row[first]:.0%}, then {second}")
            colours.append("black" if star else RED)
    return plot_digits(images, titles, 8, title, colours or ["black"], size=10)


def plot_mistakes(images, labels, probabilities, rejected=(), title="mistakes", most=100) -> Figure:
    """Draw the first `most` of all mistakes; see plot_predictions.

    The caption counts them and goes on with `title`: "The 100 most confident of 143 mistakes".
    """
    which = "All" if len(images) <= most else f"The {most} most confident of"
    starred = "; * printed label rejected by people" if any(rejected[:most]) else ""
    caption = f"{which} {len(images)} {title}{starred}"
    shown = [values[:most] for values in (images, labels, probabilities)]
    return plot_predictions(*shown, caption, rejected[:most])


def plot_maps(maps, columns=16, signed=False, title="") -> Figure:
    """Draw filters or maps (n, h, w), each on its own scale; `signed`: blue below 0."""
    maps = maps / np.maximum(np.abs(maps).max(axis=(1, 2), keepdims=True), 1e-9)
    scale = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1} if signed else {}
    return plot_digits(maps, columns=columns, title=title, **scale)


def plot_heat(images, heat, titles, title="", columns=6, row_labels=()) -> Figure:
    """Draw digits in grey under `heat` (n, 28, 28) in [0, 1], where evidence lies."""
    settings = {"row_labels": row_labels, "size": 10, "vmax": 1.6 * np.max(images)}
    figure = plot_digits(images, titles, columns, title, **settings)
    for ax, warm in zip(figure.axes, heat, strict=False):
        ax.imshow(np.ones_like(warm), cmap="Oranges", vmin=0, vmax=1.4, alpha=0.75 * warm)
    return figure


def plot_pictures(pictures, titles=(), columns=6, title="", boxes=None) -> Figure:
    """Draw photos as they are: grey (h, w) in [0, 1] or RGB (h, w, 3).

    `boxes`: number of a picture -> (left, top, right, bottom, text) of frames to draw in it.
    """
    columns = min(columns, len(pictures))
    figure = plot_digits(pictures, titles, columns, title, size=10, cmap="gray", vmax=1)
    for number, frames in (boxes or {}).items():
        ax = figure.axes[number]
        for left, top, right, bottom, text in frames:
            size = (right - left, bottom - top)
            ax.add_patch(plt.Rectangle((left, top), *size, fill=False, ec=BLUE, lw=1.5))
            ax.text(left, top, text, color=BLUE, va="bottom", fontsize=12)
    return figure


@styled()
def plot_embedding(points, labels, title="", marked=()) -> Figure:
    """Draw points (n, 2) coloured by digit; frame those `marked` (booleans).

    Each digit is written large where its points are most among themselves.
    """
    figure, ax = new_figure(title, 6.4)
    near = cKDTree(points).query(points, min(60, len(points)))[1]
    purity = (labels[near] == labels[:, np.newaxis]).mean(axis=1)
    edge = [withStroke(linewidth=4, foreground="white")]
    for digit in np.unique(labels):
        own, pure = points[labels == digit], purity[labels == digit]
        ax.scatter(*own.T, s=7, color=DIGIT_COLOURS[digit], alpha=0.7, lw=0)
        purest = own[pure == pure.max()]
        x, y = purest[np.linalg.norm(purest - np.median(purest, axis=0), axis=1).argmin()]
        ax.text(x, y, digit, size=20, weight="bold", ha="center", va="center", path_effects=edge)
    frame = {"boxstyle": "square,pad=0.1", "facecolor": (1, 1, 1, 0.6), "lw": 0.8}
    for i in np.flatnonzero(marked):
        ax.text(*points[i], labels[i], size=9, ha="center", va="center", bbox=frame)
    ax.axis("off")
    return figure


@styled()
def plot_history(epochs, title="") -> Figure:
    """Draw loss and accuracy per epoch, the best epoch, cuts of `learning_rate`.

    Values that are not finite are left out; the title of the loss says from which epoch.
    """
    figure, axes = new_figure(title, 3.7, 1, 2)
    table = pd.DataFrame(epochs, index=range(1, len(epochs["loss"]) + 1))
    table = table.where(np.isfinite(table))
    losses = table.get("val_loss", table.loss[:0])
    best = losses.index[losses == losses.min()][:1]  # none without a finite loss
    cuts = np.flatnonzero(np.diff(epochs.get("learning_rate", [])) < 0) + 1.5
    for ax, metric in zip(axes, ("loss", "accuracy"), strict=True):
        ax.plot(table[metric], "o-", color=BLUE, ms=4, label="training")
        if f"val_{metric}" in table:
            values = table[f"val_{metric}"]
            ax.plot(values, "s--", color=RED, ms=4, label="validation")
            ax.plot(values[best], "o", ms=12, mfc="none", mec="black", label="best validation loss")
        if len(cuts):
            ends = {"ymin": 0, "ymax": 1, "transform": ax.get_xaxis_transform()}
            ax.vlines(cuts, **ends, color=GREY, ls=":", label="learning rate cut")
        ax.set(xlabel="epoch", title=metric.capitalize())
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if table.loss.isna().any():
        axes[0].set_title(f"Loss (not finite from epoch {table.index[table.loss.isna()][0]})")
    axes[0].set_yscale("log")
    plain_log_ticks(axes[0].yaxis)
    axes[1].yaxis.set_major_formatter(as_percent)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled()
def plot_confusion(matrix, title="") -> Figure:
    """Draw a confusion matrix (10, 10): mistakes; the share of right ones beside it."""
    right, total = np.diagonal(matrix), np.sum(matrix, axis=1)
    mistakes = matrix - np.diag(right)
    figure, ax = new_figure(title, 6.6)
    numbers = np.where(mistakes > 0, mistakes.astype(str), "")
    colours = plt.get_cmap("Blues").with_extremes(under="white")  # of 0.5: no mistake
    scale = {"cmap": colours, "norm": LogNorm(0.7, max(mistakes.max(), 2)), "cbar": False}
    cells = {"square": True, "linewidths": 0.5, "linecolor": "0.9", "ax": ax}
    sns.heatmap(np.maximum(mistakes, 0.5), annot=numbers, fmt="", **scale, **cells)
    for digit in range(CLASSES):
        ax.add_patch(plt.Rectangle((digit, digit), 1, 1, color="0.9", lw=0))
        share = f"{right[digit] / total[digit]:.2%}" if total[digit] else "none"
        ax.text(CLASSES + 0.15, digit + 0.5, share, va="center")
    ax.text(CLASSES + 0.15, -0.25, "correct", va="center", weight="bold")
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="predicted digit", ylabel="true digit")
    return figure


@styled()
def plot_digit_accuracy(rows, title="") -> Figure:
    """Draw accuracies and intervals: rows of evaluation.accuracy_per_digit."""
    table = pd.DataFrame(rows)
    overall = 1 - table.errors.sum() / table.n.sum()
    figure, ax = new_figure(title, 3.8)
    ax.vlines(table.digit, table.low, table.high, color=BLUE, lw=3, alpha=0.45)
    ax.plot(table.digit, table.accuracy, "o", color=BLUE, ms=7)
    below = {"textcoords": "offset points", "ha": "center", "va": "top", "size": 9}
    for row in table.itertuples():
        ax.annotate(f"{row.errors} of\n{row.n:,}", (row.digit, row.low), (0, -4), **below)
    ax.axhline(overall, color="black", lw=1, ls="--", label=f"all digits: {overall:.2%}")
    ax.margins(y=0.2)
    ax.set(xlabel="digit (wrong of all written below)", ylabel="accuracy, 95% interval")
    ax.set_xticks(range(CLASSES))
    ax.yaxis.set_major_formatter(as_percent)
    ax.legend(loc="upper right")
    return figure


@styled()
def plot_prediction(pixels, probabilities, title="") -> Figure:
    """Draw what the network saw (28, 28) beside its ten probabilities."""
    shares = 100 * np.asarray(probabilities)
    figure, (left, right) = new_figure(title, 2.9, 1, 2, width_ratios=[1, 2.2])
    left.imshow(np.squeeze(pixels), cmap=INK, vmin=0, vmax=1)
    left.set(xticks=[], yticks=[], title="what the network sees")
    left.spines[:].set(visible=True, color="0.8")
    bars = right.bar(range(CLASSES), shares, color=np.where(shares < max(shares), "0.75", BLUE))
    right.bar_label(bars, [f"{p:.1f}" if p >= 0.05 else "" for p in shares], fontsize=10)
    right.set(xticks=range(CLASSES), ylim=(0, 112), xlabel="digit", ylabel="probability (%)")
    return figure


@styled()
def plot_architecture(rows, title="") -> Figure:
    """Draw the layers from top to bottom: rows of models.layer_table."""
    table = pd.DataFrame(rows)
    kinds = {"Conv2D": BLUE, "Dense": GREEN, "BatchNormalization": ORANGE}
    colours, y = [kinds.get(kind, GREY) for kind in table.kind], range(len(table))
    figure, ax = new_figure(title, 0.42 * len(table) + 1.1)
    ax.barh(y, 5.3, 0.76, color=colours, alpha=0.2)
    ax.barh(y, 0.08, 0.76, color=colours)
    lengths = 1.6 * table.parameters / max(1, table.parameters.max())
    bars = ax.barh(y, lengths, 0.5, left=5.45, color=colours)
    ax.bar_label(bars, [f"{n:,}" if n else "–" for n in table.parameters], padding=6)
    for x, name, side in ((0.2, "kind", "left"), (2.15, "layer", "left"), (5.2, "output", "right")):
        ax.text(x, -0.85, name, ha=side, color="0.35")
        for at, text in enumerate(table[name]):
            ax.text(x, at, text, ha=side, va="center", weight="bold" if name == "kind" else None)
    ax.text(5.45, -0.85, "parameters", color="0.35")
    ax.set(xlim=(0, 8), ylim=(len(table) - 0.5, -1.2))
    ax.axis("off")
    return figure


@styled()
def plot_lines(curves, title="", xlabel="", ylabel="", percent=False, **settings) -> Figure:
    """Draw a line for each name -> (x, y); y from 0 to 1 in percent, where asked for."""
    figure, ax = new_figure(title, 4)
    draw_lines(ax, curves, **settings)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if percent:
        ax.set_ylim(0, 1.03)
        ax.yaxis.set_major_formatter(as_percent)
    ax.legend()
    return figure


def draw_lines(ax, curves, **settings) -> None:
    """Draw a line for each name -> (x, y) into a panel, in a look of its own."""
    for (name, (x, y)), (colour, marker) in zip(curves.items(), LOOKS, strict=False):
        ax.plot(x, y, **({"color": colour, "marker": marker, "label": name} | settings))


@styled()
def plot_robustness(curves, ranges, units, title="", shaded="trained on") -> Figure:
    """Draw accuracy against strength: a panel per disturbance, a line per model.

    `curves`: disturbance -> model -> (strengths, accuracies from 0 to 1). `ranges`: disturbance
    -> (low, high), shaded, which the legend calls `shaded`. `units`: labels of x axes.
    """
    rows = math.ceil(len(curves) / 3)
    figure, axes = new_figure(title, 2.35 * rows, rows, 3, sharey=True, squeeze=False)
    for ax, (name, models) in zip(axes.flat, curves.items(), strict=False):
        draw_lines(ax, models, ms=4)
        ax.set(title=name, xlabel=units[name], ylim=(0, 1.03))
        if name in ranges:
            ax.axvspan(*ranges[name], color=SHADE, zorder=0)
    for ax in axes.flat[len(curves) :]:
        ax.axis("off")
    first, room = axes[0, 0], len(curves) < axes.size
    if ranges:
        first.add_patch(plt.Rectangle((0, 0), 0, 0, color=SHADE, label=shaded))
    first.yaxis.set_major_formatter(as_percent)
    figure.supylabel("accuracy", size=11)
    place = {"loc": "outside lower center", "ncols": 4}
    if room:
        place = {"loc": "lower right", "bbox_to_anchor": (1, 0.04)}
    figure.legend(*first.get_legend_handles_labels(), **place)
    return figure


@styled()
def plot_calibration(bins, coverage, title="") -> Figure:
    """Draw how often each confidence is wrong, and what refusing images buys.

    `bins`: name -> evaluation.calibration_bins, `coverage`: name -> evaluation.coverage_curve.
    What is below 0.02% is drawn at the edge, a share of 0 with an open marker.
    """
    figure, (left, right) = new_figure(title, 3.9, 1, 2)
    ends = (0.02, 100)
    left.plot(ends, ends, color="0.6", lw=1, label="as sure as right")
    for (name, found), (colour, marker) in zip(bins.items(), LOOKS, strict=False):
        parts = [found[key] for key in ("confidence", "accuracy", "high", "low")]
        unsure, wrong, low, high = np.maximum(100 * (1 - np.array(parts)), ends[0])
        fill = np.where(found["accuracy"] < 1, colour, "white")
        off = f"{name}: {100 * found['error']:.2f} points off"
        left.vlines(unsure, low, high, color=colour, lw=1, alpha=0.6)
        left.scatter(unsure, wrong, marker=marker, c=fill, ec=colour, clip_on=False, zorder=2)
        left.plot([], [], marker, color=colour, label=off)
    left.set(xscale="log", xlim=ends, xlabel="1 - confidence (%)", title="as sure as right?")
    left.set(yscale="log", ylim=ends, ylabel="wrong (%)")
    left.xaxis.set_major_formatter("{x:g}")
    left.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower left", ncols=3, fontsize=9)
    refused = {name: (100 * (1 - x), 100 * (1 - y)) for name, (x, y) in coverage.items()}
    draw_lines(right, refused, lw=2, marker="")
    right.set(xlim=(0, 5), xlabel="refused, the least sure first (%)", title="what refusing buys")
    right.set(ylim=(0, None), ylabel="wrong among the rest (%)")
    right.legend(fontsize=9)
    return figure
