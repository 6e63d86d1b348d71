"""A classifier's curves and tables, drawn to files."""

from collections.abc import Mapping, Sequence

import numpy as np

from retinue.tasks.classification.fit import Shots
from retinue.tasks.plots import COLOURS, NAMED, cut, draw_matrix, new_figure


def draw_confusion(confusion: np.ndarray, names: Sequence[str], path: str) -> None:
    """Draw a confusion matrix (k, k) of counts, row true and column predicted, to an image file.

    Colours are shares of the row, so that rare classes show; the counts are written for up to 20 classes.
    """
    draw_matrix(confusion, names, path, _accuracy_title(confusion))


def _accuracy_title(confusion: np.ndarray) -> str:
    pictures = int(confusion.sum())
    if not pictures:
        return "no pictures"
    return f"top-1 {100 * np.trace(confusion) / pictures:.1f}% of {pictures} pictures"


def draw_per_class(accuracies: Mapping[str, float], path: str) -> None:
    """Draw the accuracy of every class (NaN: no pictures) as bars, the worst at the top, to an image file.

    Beyond 120 classes the 60 worst are shown.
    """
    rows = sorted(accuracies.items(), key=lambda row: (np.isnan(row[1]), row[1]))
    shown = rows if len(rows) <= NAMED else rows[: NAMED // 2]
    values = np.array([value for _, value in shown])
    figure = new_figure(7, max(2.0, 1.3 + 0.24 * len(shown)))
    axes = figure.subplots()
    axes.barh(range(len(shown)), np.nan_to_num(values), height=0.7, color=COLOURS[0])
    for i, value in enumerate(values):
        text = "no pictures" if np.isnan(value) else f"{100 * value:.1f}%"
        axes.text(1.02, i, text, va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [cut(name, 32) for name, _ in shown], fontsize=8)
    axes.set(xlim=(0, 1.0), ylim=(len(shown) - 0.4, -0.6), xlabel="accuracy")
    known = [value for _, value in rows if not np.isnan(value)]
    if known:
        mean = float(np.mean(known))
        axes.axvline(mean, color="0.4", linewidth=1, linestyle="--", zorder=0)
        axes.set_title(f"mean over classes {100 * mean:.1f}%", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def draw_curve(series: Mapping[str, Sequence[Shots]], path: str, chance: float | None = None) -> None:
    """Draw accuracy over training pictures a class to an image file: the figure of Zeiler and Fergus for
    Caltech-256 (2013, arXiv:1311.2901, figure 9).

    series: rows of (shots, mean, deviation, ...) by name, for instance "ImageNet features + linear" and "from
    scratch"; accuracies in [0, 1]; the bars show one standard deviation. `chance` adds a line.
    """
    figure = new_figure(6.4, 4.4)
    axes = figure.subplots()
    styles = list(zip(COLOURS, "os^Dv"))
    for i, (name, rows) in enumerate(series.items()):
        colour, marker = styles[i % len(styles)]
        shots, means, deviations = (np.array([row[j] for row in rows], dtype=float) for j in range(3))
        axes.errorbar(
            shots,
            100 * means,
            100 * deviations,
            color=colour,
            marker=marker,
            capsize=3,
            linewidth=1.6,
            label=name,
        )
    if chance is not None:
        axes.axhline(
            100 * chance, color="0.5", linewidth=1, linestyle="--", label=f"chance {100 * chance:.0f}%"
        )
    places = sorted({row[0] for rows in series.values() for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [str(place) for place in places])
    axes.minorticks_off()
    axes.set(xlabel="training pictures a class", ylabel="accuracy (%)", ylim=(0, 102))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if series:
        axes.legend(frameon=False, loc="best")
    figure.savefig(path, dpi=120)
