"""What surrounds AP, drawn to files: curves, confusion, classes, kinds of error, sizes."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from retinue.datasets.targets import ClassMap
from retinue.tasks.detection.average_precision import IOUS, RECALLS
from retinue.tasks.detection.confusion import ClassRow, best_confidence, class_table, confusion_matrix
from retinue.tasks.detection.curves import Curve, ap_101, curves_at, mean
from retinue.tasks.detection.errors import KINDS, Assigned, Errors, assign, tide
from retinue.tasks.detection.judged import JudgedBoxes
from retinue.tasks.plots import COLOURS, NAMED, cut, draw_matrix, new_figure

COLOURED = len(COLOURS)
"""Up to so many classes each has a colour of its own; of more, the best and the worst three have."""
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "frameon": False, "fontsize": 8}
"""A legend to the right of its panel, where it hides no line."""
SMALL, MEDIUM = 32, 96
"""COCO's borders between small, medium and large objects: sides of squares, in pixels."""


def detection_plots(judged: JudgedBoxes, classes: ClassMap) -> dict[str, Callable[[str], None]]:
    """File name -> a function that draws it to a path, for boxes of these classes.

    Overlaps are of at least 0.5 where nothing else is said; the confusion and the sizes are those of the detections
    with at least the confidence at which the mean F1 over classes is best.
    """
    names = classes.names
    curves = curves_at(judged, len(names), IOUS)
    confidence, _ = best_confidence(curves[0])
    confident = judged.only(judged.scores >= confidence)
    return {
        "pr.png": partial(draw_precision_recall, curves, names),
        "f1.png": partial(draw_f1, curves[0], names),
        "confusion.png": lambda path: draw_confusion(
            confusion_matrix(confident, len(names), -np.inf), names, confidence, path
        ),
        "per_class.png": lambda path: draw_per_class(class_table(judged, names), path),
        "errors.png": lambda path: draw_errors(tide(judged, len(names)), path),
        "sizes.png": lambda path: draw_sizes(assign(confident, len(names)), confidence, path),
    }


def draw_precision_recall(curves: Sequence[Sequence[Curve]], names: Sequence[str], path: str) -> None:
    """Draw to an image file the interpolated precision over recall of every class at an overlap of 0.5, and the mean
    over classes at each of COCO's least overlaps. `curves`: `[threshold][class]`, of `IOUS`."""
    figure = new_figure(14.5, 4.8)
    left, right = figure.subplots(1, 2)
    aps = [ap_101(curve) for curve in curves[0]]
    labels = [f"{cut(name)} {_percent(ap)}" for name, ap in zip(names, aps)]
    _class_lines(left, [_at_recalls(curve) for curve in curves[0]], aps, labels, RECALLS, "AP50")
    right_lines = [_mean_line([_at_recalls(curve) for curve in row]) for row in curves]
    for i, (least, line) in enumerate(zip(IOUS, right_lines)):
        ap = mean([ap_101(curve) for curve in curves[i]])
        colour = _shade(i / (len(IOUS) - 1))
        label = f"IoU {least:.2f}: AP {_percent(ap)}"
        right.plot(RECALLS, line, color=colour, label=label, linewidth=1.6, drawstyle="steps-pre")
    overall = mean([mean([ap_101(curve) for curve in row]) for row in curves])
    left.set_title(f"each class at IoU 0.5: AP50 {_percent(mean(aps))}", fontsize=11)
    right.set_title(f"mean over classes by IoU: AP {_percent(overall)}", fontsize=11)
    right.legend(**BESIDE)
    for axes in (left, right):
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.005), ylim=(0, 1.02))
    _save(figure, path)


def draw_f1(curves: Sequence[Curve], names: Sequence[str], path: str) -> None:
    """Draw to an image file the F1 of every class over the least confidence, and the mean precision and recall."""
    scores = np.concatenate([np.empty(0), *(curve.scores for curve in curves)])
    low, high = scores.min(initial=0.0), scores.max(initial=1.0)
    confidences = np.linspace(low, high, 501)
    lines = [curve.at(confidences) for curve in curves]
    f1 = [line[2] for line in lines]
    best, value = best_confidence(curves)
    figure = new_figure(14.5, 4.8)
    left, right = figure.subplots(1, 2)
    tops = [float(np.nanmax(line)) if curve.truths else float("nan") for line, curve in zip(f1, curves)]
    labels = [
        f"{cut(name)} {_percent(top)} at {_number(curve.best_confidence())}"
        for name, top, curve in zip(names, tops, curves)
    ]
    _class_lines(left, f1, tops, labels, confidences, "best F1")
    for i, (name, colour) in enumerate((("precision", COLOURS[0]), ("recall", COLOURS[1]), ("F1", "black"))):
        right.plot(
            confidences, _mean_line([line[i] for line in lines]), color=colour, label=name, linewidth=2
        )
    right.legend(**BESIDE)
    left.set_title(f"each class: best mean F1 {_percent(value)} at confidence {_number(best)}", fontsize=11)
    right.set_title("mean over classes", fontsize=11)
    for axes in (left, right):
        axes.set(xlabel="least confidence", xlim=(low, high), ylim=(0, 1.02))
        if np.isfinite(best):
            axes.axvline(best, color="0.4", linestyle="--", linewidth=1, zorder=0)
    left.set_ylabel("F1")
    _save(figure, path)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], confidence: float, path: str) -> None:
    """Draw a matrix (k + 1, k + 1) of `confusion_matrix` to an image file."""
    truths, right = int(matrix[:-1].sum()), int(np.trace(matrix))
    wrong = int(matrix[:, :-1].sum()) - right
    title = f"{right} of {truths} objects found, {wrong} detections wrong"
    title += f"\nat confidence {_number(confidence)} and IoU 0.5"
    draw_matrix(matrix, [*names, "background"], path, title, [*names, "not found"])


def draw_per_class(rows: Sequence[ClassRow], path: str) -> None:
    """Draw AP and AP50 of every class with a truth as bars, the worst at the top, to an image file.

    Beyond 120 classes the 60 worst are shown.
    """
    ranked = sorted((row for row in rows if row.truths), key=lambda row: (row.ap, row.name))
    shown = ranked if len(ranked) <= NAMED else ranked[: NAMED // 2]
    places = range(len(shown))
    figure = new_figure(8, 1.5 + 0.22 * max(4, len(shown)))
    axes = figure.subplots()
    for values, colour in (([row.ap50 for row in shown], "#b9d6ec"), ([row.ap for row in shown], COLOURS[0])):
        axes.barh(places, values, height=0.72, color=colour)
    column = {"fontsize": 8, "family": "monospace"}
    axes.text(1.02, 1, f"{'AP':>5}  {'AP50':>5}", va="bottom", transform=axes.transAxes, **column)
    for place, row in zip(places, shown):
        axes.text(1.02, place, f"{_percent(row.ap):>5}  {_percent(row.ap50):>5}", va="center", **column)
    axes.set_yticks(places, [f"{cut(row.name, 32)} ({row.truths})" for row in shown], fontsize=8)
    axes.set(
        xlim=(0, 1),
        ylim=(max(1, len(shown)) - 0.4, -0.6),
        xlabel="AP (dark) and AP50 (light); objects in brackets",
    )
    average = mean([row.ap for row in rows]), mean([row.ap50 for row in rows])
    if shown:
        axes.axvline(average[0], color="0.3", linewidth=1, linestyle="--")
    title = f"mean over classes: AP {_percent(average[0])}, AP50 {_percent(average[1])}"
    if len(shown) < len(rows):
        title += f"\n{len(rows) - len(ranked)} of {len(rows)} classes have no objects"
    if len(shown) < len(ranked):
        title += f"; the {len(shown)} worst are shown"
    axes.set_title(title, fontsize=10)
    _save(figure, path, grid="")


def draw_errors(errors: Errors, path: str) -> None:
    """Draw what correcting each kind of error would add to AP50, in points, as bars to an image file."""
    labels = [f"{name} ({errors.counts[name]})" for name in KINDS]
    gains = [errors.gains[name] for name in KINDS]
    labels += ["all false positives", "all false negatives"]
    gains += [errors.false_positives, errors.false_negatives]
    values = 100 * np.nan_to_num(gains)
    places = [*range(len(KINDS)), len(KINDS) + 0.6, len(KINDS) + 1.6]
    figure = new_figure(7.5, 3.8)
    axes = figure.subplots()
    axes.barh(places, values, height=0.72, color=[COLOURS[0]] * len(KINDS) + ["0.6"] * 2)
    limit = max(1.0, float(values.max()))
    for place, gain, value in zip(places, gains, values):
        axes.text(value + 0.012 * limit, place, _percent(gain), va="center", fontsize=9)
    axes.set_yticks(places, labels, fontsize=9)
    axes.axhline(len(KINDS) - 0.2, color="0.8", linewidth=1)
    axes.set(
        xlim=(0, 1.12 * limit),
        ylim=(places[-1] + 0.6, -0.6),
        xlabel="points of AP50 that correcting them alone would add",
    )
    axes.set_title(f"AP50 {_percent(errors.ap)}: what it is lost to (number of errors)", fontsize=11)
    _save(figure, path, grid="x")


def draw_sizes(verdict: Assigned, confidence: float, path: str) -> None:
    """Draw how many truths of each size are found, nearly found and missed, as bars to an image file."""
    asked = ~verdict.judged.truth_crowd
    boxes = verdict.judged.truth_boxes[asked]
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)).clip(1)
    found, missed = verdict.found[asked], verdict.missed[asked]
    low, high = (np.log2(sides.min()), np.log2(sides.max())) if len(sides) else (4, 6)
    edges = 2 ** (np.arange(np.floor(2 * low), np.floor(2 * high) + 2) / 2)  # two bins an octave
    figure = new_figure(8, 4.2)
    axes = figure.subplots()
    base = np.zeros(len(edges) - 1)
    for rows, colour, label in (
        (found, COLOURS[0], "found"),
        (~found & ~missed, COLOURS[4], "seen, in a poor place or as another class"),
        (missed, COLOURS[1], "missed"),
    ):
        counts = np.histogram(sides[rows], edges)[0]
        look = {"color": colour, "label": label, "edgecolor": "white"}
        axes.bar(edges[:-1], counts, np.diff(edges), base, align="edge", **look)
        base += counts
    hits = np.histogram(sides[found], edges)[0]
    for i in np.flatnonzero(base):
        text = {"ha": "center", "va": "bottom", "fontsize": 8}
        axes.text(np.sqrt(edges[i] * edges[i + 1]), base[i], f"{100 * hits[i] / base[i]:.0f}%", **text)
    _size_axis(axes, edges)
    axes.set(ylabel="objects", ylim=(0, 1.3 * max(1, *base)))
    recall = f"{int(found.sum())} of {len(found)} objects found"
    axes.set_title(f"{recall} at confidence {_number(confidence)} and IoU 0.5", fontsize=11)
    plain = {"framealpha": 1, "edgecolor": "none", "fontsize": 8, "ncols": 3}
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.93), **plain)
    _save(figure, path, grid="y")


def _size_axis(axes: Any, edges: np.ndarray) -> None:
    """Powers of two as ticks, and COCO's small, medium and large."""
    axes.set_xscale("log", base=2)
    ticks = [2**power for power in range(0, 16) if edges[0] <= 2**power <= edges[-1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    borders = [edges[0], *(border for border in (SMALL, MEDIUM) if edges[0] < border < edges[-1]), edges[-1]]
    for left, right in pairwise(borders):
        middle = np.sqrt(left * right)
        name = "small" if middle < SMALL else "medium" if middle < MEDIUM else "large"
        place = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "top"}
        axes.text(middle, 0.99, name, fontsize=9, color="0.3", **place)
        if right < edges[-1]:
            axes.axvline(right, color="0.4", linewidth=1, linestyle="--", zorder=0)
    axes.set(xlim=(edges[0], edges[-1]), xlabel="side of the object, square root of its box's area (pixels)")


def _class_lines(
    axes: Any,
    lines: Sequence[np.ndarray],
    values: Sequence[float],
    labels: Sequence[str],
    x: np.ndarray,
    what: str,
) -> None:
    """A line for each class that has a truth, named where they are few or it is of the best or worst; their mean."""
    known = sorted((i for i, value in enumerate(values) if not np.isnan(value)), key=lambda i: -values[i])
    named = known if len(known) <= COLOURED else known[:3] + known[-3:]
    for i in known:
        if i not in named:
            axes.plot(
                x, _until_nothing(lines[i]), color="0.8", linewidth=0.8, zorder=1, drawstyle="steps-pre"
            )
    for i, colour in zip(named, COLOURS):
        line = _until_nothing(lines[i])
        axes.plot(x, line, color=colour, linewidth=1.6, label=labels[i], zorder=2, drawstyle="steps-pre")
    if len(known) > 1:
        look = {"color": "black", "linewidth": 2.4, "zorder": 3, "drawstyle": "steps-pre"}
        axes.plot(x, _mean_line(lines), label="mean over classes", **look)
    if known:
        title = what if len(named) == len(known) else f"{what}, best and worst three of {len(known)}"
        axes.legend(**BESIDE, title=title, title_fontsize=8, alignment="left")


def _until_nothing(line: np.ndarray) -> np.ndarray:
    """The line without its last zeros: the falls to the axis of many classes hide the rest."""
    last = np.flatnonzero(line)
    return np.where(np.arange(len(line)) <= (last[-1] if len(last) else -1), line, np.nan)


def _at_recalls(curve: Curve) -> np.ndarray:
    """(101,) the interpolated precision at recalls 0, 0.01, ..., 1, 0 beyond the highest; NaN without a truth."""
    if not curve.truths:
        return np.full(len(RECALLS), np.nan)
    return np.append(curve.envelope, 0.0)[np.searchsorted(curve.recall, RECALLS, "left")]


def _mean_line(lines: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of lines (k, n) point by point, over those that are not NaN there."""
    table = np.array(lines)
    known = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.nansum(table, 0) / known.sum(0)


def _shade(place: float) -> tuple[float, float, float]:
    """From dark to light blue along [0, 1]."""
    dark, light = np.array([0.03, 0.19, 0.42]), np.array([0.72, 0.84, 0.93])
    red, green, blue = dark + place * (light - dark)
    return float(red), float(green), float(blue)


def _percent(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{100 * value:.1f}"


def _number(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.2f}"


def _save(figure: Any, path: str, grid: str = "both") -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        if grid:
            axes.grid(axis=grid, alpha=0.3)
            axes.set_axisbelow(True)
    figure.savefig(path, dpi=120)
