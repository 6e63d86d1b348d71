"""What the plots of several tasks share: a figure, its colours, a matrix of counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

COUNTED = 20
"""Up to so many classes a matrix has its counts written in."""
NAMED = 120
"""Up to so many classes have a bar each."""
COLOURS = (
    "#2e7dbe", "#c8382f", "#3b8f4a", "#8a5fb0", "#d98e04", "#1a9c9c", "#7a5230", "#d35fa0", "#4b4b9b", "#777777",
)  # fmt: skip
"""Lines and bars, told apart; the first is the usual one."""


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches, without any state of pyplot's."""
    from matplotlib.figure import Figure  # slow, and only drawing needs it

    return Figure(figsize=(width, height), layout="constrained")


def cut(name: str, length: int = 24) -> str:
    """A name of at most `length` characters."""
    return name if len(name) <= length else name[: length - 1] + "…"


def draw_matrix(
    counts: np.ndarray,
    names: Sequence[str],
    path: str,
    title: str,
    predicted_names: Sequence[str] | None = None,
    percent: bool = False,
) -> None:
    """Draw a confusion matrix (k, k) of counts, row true and column predicted, to an image file.

    Colours are shares of the row, so that rare classes show; the counts are written for up to 20 classes (`percent`:
    the shares instead, in per cent), and of more the small shares are lifted by a square root. `predicted_names` are
    those of the columns where they are not `names`.
    """
    k = len(names)
    rows = counts.sum(1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros((k, k)), where=rows > 0)
    side = float(np.clip(3 + 0.42 * k if k <= COUNTED else 5 + 0.11 * k, 4.5, 18))
    figure = new_figure(side + 1, side)
    figure.set_layout_engine("compressed")  # square cells: the usual layout cuts the outer labels
    axes = figure.subplots()
    lift, ticks = (1 if k <= COUNTED else 0.5), np.linspace(0, 1, 6)
    image = axes.imshow(shares**lift, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, label="share of the row")
    bar.set_ticks(ticks**lift, labels=[f"{tick:.1f}" for tick in ticks])
    _name_ticks(axes, names, predicted_names or names, 0.8 * side / k)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    if k <= COUNTED:
        for i, j in np.ndindex(k, k):
            colour = "white" if shares[i, j] > 0.5 else "black" if counts[i, j] else "0.75"
            text = _percent(shares[i, j]) if percent else str(counts[i, j])
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
    figure.savefig(path, dpi=120)


def _percent(share: float) -> str:
    """Per cent in at most three characters; "0" is none at all, "0.0" very few."""
    percent = 100 * share
    return "0" if not share else f"{percent:.1f}" if percent < 9.95 else f"{percent:.0f}"


def _name_ticks(axes: Any, names: Sequence[str], predicted_names: Sequence[str], cell: float) -> None:
    """Names at rows and columns `cell` inches wide, upright where they would not fit beside one another.

    As many as there is room for, which is all of them up to about 160.
    """
    k = len(names)
    size = 9 if k <= COUNTED else float(np.clip(600 / k, 5, 8))
    places = range(0, k, int(np.ceil(1.2 * size / 72 / cell)))
    below = [cut(predicted_names[i]) for i in places]
    fits = max(map(len, below), default=0) * size / 72 * 0.65 < cell
    axes.set_xticks(places, below, rotation=0 if fits else 90, fontsize=size)
    axes.set_yticks(places, [cut(names[i]) for i in places], fontsize=size)
