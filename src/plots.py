"""Figures: arrays in, matplotlib Figure out. One style, digits as dark ink on white.

Colours: mostly Okabe and Ito, "Color Universal Design" (2008); no figure relies on them alone.
"""

import math
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator
from sklearn.neighbors import KernelDensity

from src.config import BLUE, CLASSES, GREEN, GREY, ORANGE, RED, check_pairs, replacing

PINK, SKY, WINE, OLIVE, BLACK = "#CC79A7", "#56B4E9", "#882255", "#B5A800", "#222222"
DIGIT_COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, WINE, OLIVE, GREY, BLACK)
LOOKS = list(zip(DIGIT_COLOURS * 11, "osD^v<>PX*h" * 10, strict=True))  # of lines, all different
INK, SHADE = "Greys", "#DDEFE6"  # colour map of digits; of a range, behind lines
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
    with replacing(path) as partial, styled():
        figure.savefig(partial, dpi="figure", bbox_inches="tight", metadata={"Software": None})
    return Path(path)


def as_percent(value: float, _) -> str:
    """Write an accuracy beside an axis that reaches over 1."""
    return f"{100 * value:.4g}%" if value < 1.00001 else ""


def plain_log_ticks(axis) -> None:
    """Number a logarithmic axis at 1, 2 and 5 of each decade, without powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


@styled()
def plot_digits(images, titles=(), columns=10, title="", row_labels=(), size=11, **scale) -> Figure:
    """Draw images (n, h, w) in a grid, each under its title of `size` points."""
    rows = math.ceil(len(images) / columns) or 1
    tall = max([h / w for h, w, *_ in map(np.shape, images)], default=0.1)
    height = min(tall * WIDTH / columns, 3.5) + (0.3 if len(titles) else 0.06)  # inches
    height = rows * height + (0.45 if title else 0.1)
    title = title if len(images) else f"{title}: none"
    figure, axes = new_figure(title, height, rows, columns, squeeze=False)
    # dark ink from 0 to the largest value of all images, unless told otherwise
    scale = {"cmap": INK, "vmin": 0, "vmax": max([1e-9, *map(np.max, images)])} | scale
    for ax, image in zip(axes.flat, images, strict=False):
        ax.imshow(np.squeeze(image), **scale)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(visible=True, color="0.8")
    for ax in axes.flat[len(images) :]:
        ax.axis("off")
    for ax, text in zip(axes.flat, titles, strict=False):
        ax.set_title(text, fontsize=size, pad=3)
    for ax, label in zip(axes[:, 0], row_labels, strict=False):
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def plot_predictions(images, labels, probabilities, title="", names=range(CLASSES)) -> Figure:
    """Draw images under digit and confidence: right ones blue; mistakes red, with the runner-up."""
    check_pairs(images, labels)
    titles, names = [], [f"{name:.7}" for name in map(str, names)]
    for true, row in zip(labels, probabilities, strict=True):
        first, second = np.argsort(-row, kind="stable")[:2]
        mistake = f"{names[true]} → {names[first]}\n{row[first]:.0%}, then {names[second]}"
        titles.append(f"{names[true]}  {row[first]:.1%}" if first == true else mistake)
    figure = plot_digits(images, titles, 8, title, size=10)
    for ax in figure.axes:
        ax.title.set_color(RED if "→" in ax.get_title() else BLUE)
    return figure


def plot_mistakes(
    images, labels, probabilities, rejected=(), title="mistakes", most=100, names=range(CLASSES)
) -> Figure:
    """Draw the first `most` of all mistakes; star, in black, labels `rejected` by people."""
    which = "All" if len(images) <= most else f"The {most} most confident of"
    starred = "; * printed label rejected by people" if any(rejected[:most]) else ""
    shown = [values[:most] for values in (images, labels, probabilities)]
    figure = plot_predictions(*shown, f"{which} {len(images)} {title}{starred}", names)
    for i in np.flatnonzero(rejected[:most]):
        name = figure.axes[i].title
        name.set(text=name.get_text().replace("\n", " *\n"), color="black")
    return figure


def plot_maps(maps, columns=16, signed=False, title="", row_labels=()) -> Figure:
    """Draw kernels or maps (h, w), each on its own scale; `signed`: blue below 0."""
    maps = [values / max(np.abs(values).max(), 1e-9) for values in maps]
    scale = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1} if signed else {}
    return plot_digits(maps, (), columns, title, row_labels, **scale)


def plot_heat(images, heat, titles, title="", columns=6, row_labels=()) -> Figure:
    """Draw digits in grey under `heat` (n, 28, 28) in [0, 1], where evidence lies."""
    grey = 1.6 * np.max(images)
    figure = plot_digits(images, titles, columns, title, row_labels, size=10, vmax=grey)
    for ax, warm in zip(figure.axes, heat, strict=False):
        ax.imshow(np.ones_like(warm), cmap="Oranges", vmin=0, vmax=1.4, alpha=0.75 * warm)
    return figure


def plot_pictures(pictures, titles=(), columns=6, title="", boxes=None) -> Figure:
    """Draw photos, grey or RGB in [0, 1]; `boxes`: number -> (left, top, right, bottom, text)."""
    figure = plot_digits(pictures, titles, columns, title, size=10, cmap="gray", vmax=1)
    for number, frames in (boxes or {}).items():
        ax = figure.axes[number]
        for x, y, right, bottom, text in frames:
            ax.add_patch(plt.Rectangle((x, y), right - x, bottom - y, fill=False, ec=BLUE, lw=1.5))
            ax.text(x, y, text, color=BLUE, va="bottom", fontsize=12)
    return figure


@styled()
def plot_embedding(points, labels, title="", marked=(), names=range(CLASSES)) -> Figure:
    """Draw points (n, 2) by digit, named where its points lie densest; frame those `marked`."""
    check_pairs(points, labels, "points")
    figure, ax = new_figure(title, 6.4)
    centred, edge = {"ha": "center", "va": "center"}, withStroke(linewidth=4, foreground="white")
    for digit in np.unique(labels):
        own = points[labels == digit]
        ax.scatter(*own.T, s=7, color=DIGIT_COLOURS[digit], alpha=0.7, lw=0)
        density = KernelDensity(bandwidth=np.std(points) / 5).fit(own).score_samples(own)
        place = own[density.argmax()]
        size = 20 if len(str(names[digit])) == 1 else 12
        ax.text(*place, names[digit], size=size, weight="bold", path_effects=[edge], **centred)
    frame = {"boxstyle": "square,pad=0.1", "facecolor": (1, 1, 1, 0.6), "lw": 0.8}
    for i in np.flatnonzero(marked):
        ax.text(*points[i], labels[i], size=9, bbox=frame, **centred)
    ax.axis("off")
    return figure


@styled()
def plot_history(histories, title="") -> Figure:
    """Draw loss and accuracy per epoch of runs, name -> epochs: training solid, validation dashed.

    The training scores are those of `evaluate`, where LiveProgress took them. What is not finite
    is left out; of a single run, cuts of the learning rate are dotted.
    """
    if not all(epochs.get("loss") for epochs in histories.values()):
        raise ValueError("no epoch has ended: run the training cell again, with EPOCHS 1 or more.")
    figure, axes = new_figure(title, 3.7, 1, 2)
    lost = ""
    for (name, epochs), colour in zip(histories.items(), DIGIT_COLOURS, strict=False):
        table = pd.DataFrame(epochs, index=range(1, len(epochs["loss"]) + 1))
        table = table.where(np.isfinite(table))
        for ax, metric in zip(axes, ("loss", "accuracy"), strict=True):
            look = {"color": colour, "ms": 4}
            ax.plot(table.get(f"train_{metric}", table[metric]), "o-", label=name, **look)
            if f"val_{metric}" in table:
                ax.plot(table[f"val_{metric}"], "s--", label=f"{name}, validation", **look)
            ax.set(xlabel="epoch", title=metric.capitalize())
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for epoch in table.index[table.loss.isna()][:1]:
            lost = f" ({name}: not finite from epoch {epoch})"
    if len(histories) == 1 and "learning_rate" in table:
        for ax in axes:
            for cut in table.index[table.learning_rate.diff() < 0] - 0.5:
                ax.axvline(cut, color=GREY, ls=":")
    axes[0].set(yscale="log", title=f"Loss{lost}")
    plain_log_ticks(axes[0].yaxis)
    axes[1].yaxis.set_major_formatter(as_percent)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled()
def plot_pixels(pixels, frames=None, title="") -> Figure:
    """Draw whole numbers 0-255 as a table in grey; `frames`: name -> (row, column) of 3x3."""
    figure, ax = new_figure(title, 0.36 * len(pixels) + 0.6)
    look = {"cmap": INK, "vmin": 0, "vmax": 255, "cbar": False, "linewidths": 0.5}
    ticks = {"xticklabels": False, "yticklabels": False}
    sns.heatmap(pixels, annot=True, fmt="d", annot_kws={"size": 9}, ax=ax, **look, **ticks)
    framed = zip((frames or {}).items(), (BLUE, GREEN, RED), strict=False)
    for (name, (row, column)), colour in framed:
        ax.add_patch(plt.Rectangle((column, row), 3, 3, fill=False, ec=colour, lw=4))
        style = {"color": "white", "weight": "bold", "backgroundcolor": colour}
        ax.text(column + 1.5, row, name, ha="center", va="center", size=9, **style)
    return figure


@styled()
def plot_stages(stages, title="") -> Figure:
    """Draw what becomes of an image, name -> (h, w): blue below 0, red above where both occur."""
    figure, axes = new_figure(title, 2.6 if title else 2.3, 1, len(stages))
    for ax, (name, values) in zip(axes, stages.items(), strict=True):
        most = np.abs(values).max()
        scale = {"cmap": "RdBu_r", "vmin": -most} if values.min() < 0 else {"cmap": INK, "vmin": 0}
        ax.imshow(values, vmax=most, **scale)
        ax.set(xticks=[], yticks=[], title=f"{name}\n{values.shape[0]} × {values.shape[1]}")
        ax.spines[:].set(visible=True, color="0.8")
    for ax in axes[1:]:
        ax.text(-0.09, 0.5, "→", transform=ax.transAxes, ha="center", va="center", size=16)
    return figure


def plot_fields(image, fields, title="") -> Figure:
    """Frame in an image (28, 28) the receptive field of the middle: name -> side in pixels."""
    titles = [f"{name}: {side} × {side}" for name, side in fields.items()]
    figure = plot_digits([image] * len(fields), titles, len(fields), title, vmax=2)
    for ax, side in zip(figure.axes, fields.values(), strict=True):
        corner = (len(image) - 1) / 2 - side / 2
        ax.add_patch(plt.Rectangle((corner, corner), side, side, fill=False, ec=BLUE, lw=2.5))
    return figure


@styled()
def plot_runs(table, title="") -> Figure:
    """Draw the validation accuracies of runs.read's table; the grey band spans those named base."""
    figure, ax = new_figure(title, 1.3 + 0.32 * table.run.nunique())
    base = table.validation[table.run == table.run.iloc[0]]
    ax.axvspan(base.min(), base.max(), color="0.88", zorder=0)
    ax.plot(table.validation, table.run, "o", color=BLUE, ms=7, alpha=0.8)
    seconds = table.groupby("run", sort=False).seconds.mean()
    ax.set_yticks(seconds.index, [f"{run} ({s:.0f} s)" for run, s in seconds.items()])
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(as_percent)
    ax.set(xlabel="validation accuracy")
    return figure


@styled()
def plot_confusion(matrix, title="", names=range(CLASSES)) -> Figure:
    """Draw a confusion matrix (10, 10): mistakes; the share of right ones beside it."""
    figure, ax = new_figure(title, 6.6)
    right, total = np.diagonal(matrix), np.sum(matrix, axis=1)
    mistakes = matrix - np.diag(right)
    low, high = 0.7, max(mistakes.max(), 2)  # given twice: seaborn warns where all are masked
    colours = {"cmap": "Blues", "norm": LogNorm(low, high), "vmin": low, "vmax": high}
    cells = {"square": True, "linewidths": 0.5, "linecolor": "0.9", "mask": mistakes == 0}
    sns.heatmap(mistakes, annot=True, fmt="d", cbar=False, ax=ax, **colours, **cells)
    for digit in range(CLASSES):
        ax.add_patch(plt.Rectangle((digit, digit), 1, 1, color="0.9", lw=0))
        share = f"{right[digit] / total[digit]:.2%}" if total[digit] else "none"
        ax.text(CLASSES + 0.15, digit + 0.5, share, va="center")
    ax.text(CLASSES + 0.15, -0.25, "correct", va="center", weight="bold")
    names = [str(name) for name in names]
    ax.set_xticks(np.arange(CLASSES) + 0.5, names, rotation=0 if len(names[0]) == 1 else 90)
    ax.set_yticks(np.arange(CLASSES) + 0.5, names)
    ax.tick_params(axis="y", rotation=0)
    ax.grid(visible=False)
    ax.set(xlabel="predicted", ylabel="true")
    return figure


@styled()
def plot_prediction(pixels, probabilities, title="", names=range(CLASSES)) -> Figure:
    """Draw what the network saw (28, 28) beside its ten probabilities."""
    shares = 100 * np.asarray(probabilities)
    figure, (left, right) = new_figure(title, 2.9, 1, 2, width_ratios=[1, 2.2])
    left.imshow(np.squeeze(pixels), cmap=INK, vmin=0, vmax=1)
    left.set(xticks=[], yticks=[], title="what the network sees")
    left.spines[:].set(visible=True, color="0.8")
    bars = right.bar(range(CLASSES), shares, color=np.where(shares < max(shares), "0.75", BLUE))
    right.bar_label(bars, [f"{p:.1f}" if p >= 0.05 else "" for p in shares], fontsize=10)
    right.set(ylim=(0, 112), ylabel="probability (%)")
    right.set_xticks(range(CLASSES), names, rotation=0 if len(str(names[0])) == 1 else 40)
    return figure


@styled()
def plot_architecture(rows, title="") -> Figure:
    """Draw the layers from top to bottom: rows of models.layer_table."""
    table = pd.DataFrame(rows)
    kinds = {"Conv2D": BLUE, "Dense": GREEN, "BatchNormalization": ORANGE}
    colours = [kinds.get(kind, GREY) for kind in table.kind]
    lengths = 1.5 * table.parameters / max(1, table.parameters.max())
    table["parameters"] = [f"{n:,}" if n else "–" for n in table.parameters]
    figure, ax = new_figure(title, 0.42 * len(table) + 1.1)
    ax.barh(table.index, 6.4, 0.76, color=colours, alpha=0.2)
    ax.barh(table.index, lengths, 0.76, left=6.4, color=colours)
    for name, x in {"kind": 0.1, "layer": 2.2, "output": 5, "parameters": 6.3}.items():
        side = "right" if x > 3 else "left"
        for y, text in enumerate([name, *table[name]], -1):
            ax.text(x, y, text, ha=side, va="center", weight="bold" if y < 0 else None)
    ax.set(xlim=(0, 8), ylim=(len(table) - 0.5, -1.4))
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
    if len(curves) > 1:
        ax.legend()
    return figure


def draw_lines(ax, curves, **settings) -> None:
    """Draw a line for each name -> (x, y) into a panel, in a look of its own."""
    for (name, (x, y)), (colour, marker) in zip(curves.items(), LOOKS, strict=False):
        ax.plot(x, y, **({"color": colour, "marker": marker, "label": name} | settings))


@styled()
def plot_robustness(curves, ranges, units, title="", shaded="trained on") -> Figure:
    """Draw accuracy against strength: a panel per disturbance, a line per model.

    `curves`: see disturb.curves; `ranges`: disturbance -> (low, high), what `shaded` names.
    """
    rows = math.ceil(len(curves) / 3)
    figure, axes = new_figure(title, 2.5 * rows, rows, 3, sharey=True, squeeze=False)
    for ax, (name, models) in zip(axes.flat, curves.items(), strict=False):
        draw_lines(ax, models, ms=4)
        ax.set(title=name, xlabel=units[name], ylim=(0, 1.03))
        if name in ranges:
            ax.axvspan(*ranges[name], color=SHADE, zorder=0)
    for ax in axes.flat[len(curves) :]:
        ax.axis("off")
    if ranges:
        axes[0, 0].add_patch(plt.Rectangle((0, 0), 0, 0, color=SHADE, label=shaded))
    axes[0, 0].yaxis.set_major_formatter(as_percent)
    figure.supylabel("accuracy", size=11)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled()
def plot_reliability(bins, title="") -> Figure:
    """Draw accuracy against confidence, a panel per name -> evaluation.calibration_bins."""
    figure, axes = new_figure(title, 3.6, 1, len(bins), sharey=True, squeeze=False)
    for ax, (name, table) in zip(axes.flat, bins.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="black", lw=1, ls="--", label="as sure as right")
        ax.bar(table.middle, table.accuracy, 0.09, color=BLUE, alpha=0.5, label="accuracy")
        ax.vlines(table.middle, table.low, table.high, color=BLUE, lw=1.5)
        ax.plot(table.confidence, table.accuracy, "D", color=RED, ms=5, label="mean confidence")
        for row in table.itertuples():
            ax.text(row.middle, 0.02, f"{row.n:,}", ha="center", size=9, rotation=90)
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", title=name)
    axes[0, 0].set_ylabel("accuracy")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
