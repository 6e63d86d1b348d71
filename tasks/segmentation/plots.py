"""What surrounds mean IoU, drawn to files: which class is taken for which, and every class's own figures."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from retinue.tasks.plots import COLOURS, cut, draw_matrix, new_figure
from retinue.tasks.segmentation.metrics import SegmentationMetric, mean

ROWS = 60
"""Up to so many classes stand one above the other; more are shared over columns."""
PALE = "#b9d6ec"


def segmentation_plots(metric: SegmentationMetric) -> dict[str, Callable[[str], None]]:
    """File name -> a function that draws it to a path, for all that the metric took in."""
    names = metric.classes.names
    return {
        "confusion.png": partial(draw_confusion, metric.confusion, names),
        "per_class.png": partial(draw_per_class, metric.per_class(), metric.confusion.sum(1), names),
    }


def draw_confusion(confusion: np.ndarray, names: Sequence[str], path: str) -> None:
    """Draw a matrix (k, k) of pixels, row true and column predicted, as shares of the row to an image file.

    Up to 20 classes have the shares written in, in per cent.
    """
    pixels = int(confusion.sum())
    right = int(confusion.trace())
    title = f"{100 * right / pixels:.1f}% of {pixels:,} pixels right" if pixels else "no pixels"
    draw_matrix(confusion, names, path, title, percent=True)


def draw_per_class(
    figures: Mapping[str, np.ndarray], pixels: np.ndarray, names: Sequence[str], path: str
) -> None:
    """Draw every class's IoU as a bar to an image file, the worst at the top, beside its share of the true pixels.

    figures: `SegmentationMetric.per_class`; the class accuracy lies behind the IoU as a pale bar, so that what is seen
    of it is what wrong pixels of other classes cost, and the boundary IoU is a mark. pixels: (k,) true pixels a class.
    Classes without an IoU are left out.
    """
    iou = figures["miou"]
    ranked = [int(i) for i in np.argsort(iou, kind="stable") if not np.isnan(iou[i])]
    columns = max(1, -(-len(ranked) // ROWS))
    rows = max(1, -(-len(ranked) // columns))
    figure = new_figure(0.8 + 6.4 * columns, 1.7 + 0.22 * max(4, rows))
    figure.get_layout_engine().set(w_pad=0.12)
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for column, axes in enumerate(panels):
        part = ranked[column * rows : (column + 1) * rows]
        axes.set_yticks(range(len(part)), [cut(names[i], 32) for i in part], fontsize=8)
        axes.set(xlim=(0, 100), ylim=(rows - 0.4, -0.6), xlabel="%")
        axes.spines[["top", "right"]].set_visible(False)
        if part:
            _bars(axes, {name: 100 * values[part] for name, values in figures.items()})
            _write_columns(axes, 100 * iou[part], 100 * pixels[part] / max(1, pixels.sum()))
            axes.axvline(100 * mean(iou), color="0.3", linewidth=1, linestyle="--")
    handles, labels = panels[0].get_legend_handles_labels()
    look: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": 8}
    figure.legend(handles[::-1], labels[::-1], **look)
    figure.suptitle(_title(figures, len(ranked), len(names)), fontsize=11)
    figure.savefig(path, dpi=120)


def _title(figures: Mapping[str, np.ndarray], shown: int, classes: int) -> str:
    if not shown:
        return "no pixels"
    title = f"mean IoU {100 * mean(figures['miou']):.1f}% (dashed)"
    if not np.isnan(boundary := mean(figures.get("boundary_iou", []))):
        title += f", boundary IoU {100 * boundary:.1f}%"
    return title + (f"\n{classes - shown} of {classes} classes do not occur" if shown < classes else "")


def _bars(axes: Any, figures: Mapping[str, np.ndarray]) -> None:
    """IoU and class accuracy as bars, boundary IoU as a mark; all in per cent."""
    places = np.arange(len(figures["miou"]))
    axes.barh(places, figures["miou"], height=0.72, color=COLOURS[0], label="IoU", zorder=2)
    axes.barh(places, figures["class_accuracy"], height=0.72, color=PALE, label="class accuracy", zorder=1)
    if "boundary_iou" in figures:
        mark: dict[str, Any] = {"marker": "|", "s": 100, "linewidths": 2, "color": COLOURS[4]}
        axes.scatter(figures["boundary_iou"], places, label="boundary IoU", clip_on=False, zorder=3, **mark)


def _write_columns(axes: Any, iou: np.ndarray, shares: np.ndarray) -> None:
    """IoU and the share of the true pixels, both in per cent, to the right of the bars."""
    look: dict[str, Any] = {"fontsize": 8, "family": "monospace"}
    axes.text(1.02, 1, f"{'IoU':>5}  {'pixels':>6}", va="bottom", transform=axes.transAxes, **look)
    for place, (value, share) in enumerate(zip(iou, shares)):
        axes.text(102, place, f"{value:5.1f}  {_share(share):>6}", va="center", **look)


def _share(percent: float) -> str:
    """Per cent with as many decimals as a small share needs; "0%" is none at all."""
    if not percent:
        return "0%"
    return "<0.01%" if percent < 0.01 else f"{percent:.2f}%" if percent < 1 else f"{percent:.1f}%"
