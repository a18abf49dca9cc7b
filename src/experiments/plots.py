"""Figures of published experiments: times, searches, ensembles, photos, exports."""

import math
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.config import BLUE, GREY, RED
from src.plots import LOOKS, as_percent, new_figure, plain_log_ticks, styled


@styled()
def plot_accuracy_time(rows, title="") -> Figure:
    """Draw test accuracy against seconds of training.

    `rows` hold name, group, seconds (of each round), mean, low and high (95% interval of the
    mean accuracy; None with one run).
    """
    figure, ax = new_figure(title, 5.2)
    looks = dict(zip(dict.fromkeys(row["group"] for row in rows), LOOKS, strict=False))
    places = [np.median(row["seconds"]) for row in rows]
    for x, row in zip(places, rows, strict=True):
        (colour, marker), y = looks[row["group"]], row["mean"]
        ax.hlines(y, min(row["seconds"]), max(row["seconds"]), color=colour, lw=1.5)
        if row["low"] is not None:
            ax.vlines(x, row["low"], row["high"], color=colour, lw=1.5)
        ax.plot(x, y, marker, color=colour, ms=8)
        below = any(x / 1.15 < place < x for place in places)  # of the line, where it is crowded
        left = below or any(x < place < 1.3 * x for place in places)
        at, side = (-7 if left else 7, -14 if below else 4), "right" if left else "left"
        ax.annotate(row["name"], (x, y), at, textcoords="offset points", color=colour, ha=side)
    for group, (colour, marker) in looks.items():
        ax.plot([], [], marker, color=colour, label=group)
    ax.set(xscale="log", xlabel="seconds of training (logarithmic)", ylabel="test accuracy")
    plain_log_ticks(ax.xaxis)
    ax.yaxis.set_major_formatter(as_percent)
    ax.margins(x=0.16)
    ax.legend(loc="lower left")
    return figure


@styled()
def plot_ladder(table, title="") -> Figure:
    """Draw the gain of each step and its 95% interval: results.ladder's table, from the top."""
    steps = table.dropna(subset="gain")
    figure, ax = new_figure(title, 1.2 + 0.4 * len(steps))
    ax.axvline(0, color="black", lw=1)
    ax.hlines(steps.change, steps.low, steps.high, color=BLUE, lw=2)
    ax.plot(steps.gain, steps.change, "o", color=BLUE, ms=7)
    ax.invert_yaxis()
    ax.set(xlabel="gain over the step before, in points of validation accuracy")
    return figure


@styled()
def plot_trials(table, names, title="") -> Figure:
    """Draw each trial's loss against its value of each hyperparameter: results.trials' table.

    A panel per hyperparameter; where it has up to six values, they stand side by side, and last
    the trials in which it was not active.
    """
    rows = math.ceil(len(names) / 3)
    figure, axes = new_figure(title, 0.8 + 2.3 * rows, rows, 3, sharey=True, squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        levels = sorted(table[name].dropna().unique())
        few = len(levels) <= 6
        levels += ["none"] if few and table[name].isna().any() else []
        for (tuner, some), look in zip(table.groupby("tuner", sort=False), LOOKS, strict=False):
            x = some[name].fillna("none").map(levels.index) if few else some[name].dropna()
            x = x + np.linspace(-0.25, 0.25, len(x)) if few else x  # not in a heap
            ax.plot(x, some.loss[x.index], look[1], color=look[0], ms=5, alpha=0.7, label=tuner)
        if few:
            shown = [level if isinstance(level, str) else f"{level:g}" for level in levels]
            ax.set_xticks(range(len(levels)), [fill(level, 6) for level in shown])
        if name == "learning_rate":
            ax.set_xscale("log")
            plain_log_ticks(ax.xaxis)
        ax.set_xlabel(name)
    axes[0, 0].set_ylabel("validation loss")
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    legend_below(figure)
    return figure


@styled()
def plot_pairs(table, title="", ylabel="") -> Figure:
    """Draw a line per seed through the columns of a table, and their means."""
    figure, ax = new_figure(title, 3.6)
    places = np.arange(len(table.columns))
    ax.plot(places, table.to_numpy().T, "o-", color=GREY, ms=6, lw=1, alpha=0.8)
    ax.plot(places + 0.06, table.mean(), "D", color=RED, ms=9, ls="", label="mean")
    ax.set_xticks(places, table.columns)
    ax.set(xlim=(-0.5, len(places) - 0.5), ylabel=ylabel)
    ax.legend()
    return figure


@styled()
def plot_sizes(scores, title="") -> Figure:
    """Draw what ensembles of 1, 2, ... members score; see ensembles.subset_scores.

    For each measure the mean over all subsets of so many, in a band from best to worst.
    """
    figure, axes = new_figure(title, 3.7, 1, 2)
    for ax, key in zip(axes, ("errors", "loss"), strict=True):
        table = pd.DataFrame({size: pd.Series(score[key]) for size, score in scores.items()})
        low, high = table.min(), table.max()
        ax.fill_between(
            table.columns, low, high, color=BLUE, alpha=0.15, lw=0, label="best to worst"
        )
        ax.plot(table.mean(), "o-", color=BLUE, ms=5, label="mean over subsets of so many")
        ax.set(xlabel="members", title=key)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_below(figure)
    return figure


@styled()
def plot_ways(table, title="", xlabel="accuracy (%)") -> Figure:
    """Draw a row per kind, a mark per way: accuracy and its 95% interval.

    A second panel enlarges the end from 95%, where any mark lies there. `table`: kind -> way ->
    {"accuracy": 0 to 1, "interval": (low, high)}.
    """
    ways = list(next(iter(table.values())))
    found = [
        [(row[way]["accuracy"], *row[way]["interval"]) for way in ways] for row in table.values()
    ]
    accuracy, low, high = 100 * np.transpose(found)  # each (ways, kinds)
    starts = [0, 95] if accuracy.max() >= 95 else [0]
    panels = {"sharey": True, "squeeze": False, "width_ratios": (2, 1)[: len(starts)]}
    figure, axes = new_figure(title, 1.6 + 0.46 * len(table), 1, len(starts), **panels)
    for ax, start in zip(axes.flat, starts, strict=True):
        for j, (way, (colour, marker)) in enumerate(zip(ways, LOOKS, strict=False)):
            y = np.arange(len(table)) + 0.19 * (j - (len(ways) - 1) / 2)
            ax.plot(accuracy[j], y, marker, color=colour, ms=5.5, label=way)
            ax.hlines(y, low[j], high[j], color=colour, lw=1)
        ax.set(xlim=(start, 100 + (100 - start) / 50), xlabel=xlabel)
        ax.set_xticks(np.linspace(start, 100, 6))
        ax.set_title("enlarged: 95 to 100%" if start else "", fontsize=11)
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(table)), table)
    axes[0, 0].invert_yaxis()
    legend_below(figure)
    return figure


def legend_below(figure: Figure) -> None:
    """Name the lines of the first panel under all of them."""
    entries = figure.axes[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=5)


@styled()
def plot_exports(rows, title="") -> Figure:
    """Draw sizes, and times of one image with quartiles: rows of exports.json."""
    table = pd.DataFrame(rows)
    figure, (left, right) = new_figure(title, 0.9 + 0.4 * len(rows), 1, 2, sharey=True)
    bars = left.barh(table.name, table.bytes / 1000, 0.6, color=BLUE)
    left.bar_label(bars, fmt="{:,.0f}", padding=3, size=9)
    left.set(xlabel="size (kB)", xlim=(0, 1.2 * max(table.bytes) / 1000))
    left.invert_yaxis()
    right.hlines(table.name, *zip(*table.quartiles, strict=True), color=RED, lw=1)
    right.plot(table.milliseconds, table.name, "o", color=RED)
    above = {"textcoords": "offset points", "ha": "center", "size": 9}
    for name, time in zip(table.name, table.milliseconds, strict=True):
        right.annotate(f"{time:.3g}", (time, name), (0, 6), **above)
    right.set(xscale="log", xlabel="one image (ms), median and quartiles")
    right.xaxis.set_major_formatter("{x:g}")
    right.margins(x=0.12, y=0.12)
    return figure
