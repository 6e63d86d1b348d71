"""Label maps over pictures: colours that let the picture through, outlines between regions, a legend beside it."""

import cv2
import numpy as np

from retinue.datasets.targets import IGNORE, ClassMap
from retinue.tasks.drawing import INK, PAPER, Colour, shorten, text_width, write
from retinue.tasks.segmentation.palette import VOID, colours_of

OPACITY = 0.6
"""How much of a pixel is its class's colour."""
OUTLINE = 0.35
"""What is left of the light on an outline."""
VOID_NAME = "void"
BAND = 2**18
"""Pixels that are painted at a time: all that is made on the way stays small, and in the cache."""


def draw_labels(
    picture: np.ndarray, labels: np.ndarray, classes: ClassMap, opacity: float = OPACITY
) -> np.ndarray:
    """(h, w + legend, 3) uint8 RGB: the picture under its labels, and to its right the classes that occur.

    picture: (h, w, 3) uint8 RGB. labels: (h, w) uint8, class indices; 255 is hatched in grey. The legend's width is
    that of the classes' longest name, whichever occur: the drawings of a video are all of one size.
    """
    drawn = paint_labels(picture, labels, classes, opacity)
    height, width = labels.shape
    beside = legend(count_labels(labels), classes, height, legend_row(height, width))
    return np.concatenate([drawn, beside], 1)


def paint_labels(
    picture: np.ndarray, labels: np.ndarray, classes: ClassMap, opacity: float = OPACITY
) -> np.ndarray:
    """The light of a picture (h, w, 3) uint8 RGB in the colours of its labels (h, w) uint8, dark lines between regions.

    Only the picture's grey shows through: a hue is a class, whatever colour things have.
    """
    if picture.shape[:2] != labels.shape:
        raise ValueError(f"labels of {labels.shape} for a picture of {picture.shape[:2]} pixels")
    table = np.full((256, 1, 3), VOID, np.uint8)
    table[: len(classes), 0] = colours_of(classes)
    labels = np.ascontiguousarray(labels)
    edges, drawn = outlines(labels), np.empty((*labels.shape, 3), np.uint8)
    height, width = labels.shape
    rows, stripe = max(1, BAND // width), max(2, round(min(height, width) / 80))
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        colours = cv2.applyColorMap(labels[band], table)
        if (void := labels[band] == IGNORE).any():
            cv2.copyTo(hatch(void.shape, stripe, top), void.view(np.uint8), colours)
        mixed = cv2.addWeighted(grey(picture[band]), 1 - opacity, colours, opacity, 0)
        cv2.copyTo(cv2.convertScaleAbs(mixed, alpha=OUTLINE), edges[band], mixed)
        drawn[band] = mixed
    return drawn


def outlines(labels: np.ndarray) -> np.ndarray:
    """(h, w) uint8, not 0 at the last pixels of a region: one wide in pictures of up to 900 pixels."""
    width = max(1, round(min(labels.shape) / 600))
    return cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((width + 1, width + 1), np.uint8))


def grey(picture: np.ndarray) -> np.ndarray:
    """The light of a picture, (h, w, 3) uint8."""
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def hatch(size: tuple[int, ...], stripe: int, top: int = 0) -> np.ndarray:
    """(h, w, 3) uint8 of a size (h, w): diagonal stripes of two greys, `stripe` pixels wide along a row.

    top: the number of the first row in the picture, so that bands of it fit together.
    """
    place = np.arange(top, top + sum(size) - 1)
    line = np.where(place // stripe % 2, VOID[0] + 50, VOID[0] - 50).astype(np.uint8)
    stripes = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(line, size[1]))
    return cv2.cvtColor(stripes, cv2.COLOR_GRAY2RGB)


def count_labels(labels: np.ndarray) -> np.ndarray:
    """(256,) int64: how many pixels of labels (h, w) uint8 have each value."""
    counts, pixels = np.zeros(256, np.int64), labels.reshape(1, -1)
    for start in range(0, labels.size, 2**24):  # up to which float32 counts exactly
        part = np.ascontiguousarray(pixels[:, start : start + 2**24])
        counts += cv2.calcHist([part], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return counts


def legend_row(height: int, width: int) -> int:
    """Height of a legend's line in pixels: 11 beside the smallest pictures, a thirty-second of a large one's side."""
    side = min(height, width)
    return max(11, min(16, side // 16), round(side / 32))


def legend(counts: np.ndarray, classes: ClassMap, height: int, row: int) -> np.ndarray:
    """(height, w, 3) uint8: swatch, name and share of the classes that occur, the most frequent first, void last.

    counts: (256,) pixels of each label. row: of a line, in pixels. Where there is no room for all, how many are left
    out is said.
    """
    margin, swatch, inset = max(2, row // 3), row, max(1, row // 8)
    names = [shorten(name, 12 * row, row) for name in (*classes.names, VOID_NAME)]
    colours: list[Colour] = [*map(tuple, colours_of(classes).tolist()), VOID]
    left = 2 * margin + swatch
    right = left + max(text_width(name, row) for name in names) + margin + text_width("100 %", row)
    panel = np.full((height, right + margin, 3), PAPER, np.uint8)
    occurring = counts[[*range(len(classes)), IGNORE]]
    order = [i for i in np.argsort(-occurring[:-1], kind="stable").tolist() if occurring[i]]
    order += [len(classes)] * bool(occurring[-1])
    room = max(0, (height - 2 * margin) // row)
    shown = order if len(order) <= room else order[: max(0, room - 1)]
    for line, i in enumerate(shown):
        y = margin + line * row
        box = panel[y + inset : y + row - inset, margin : margin + swatch]
        box[:] = hatch(box.shape[:2], max(2, row // 5)) if i == len(classes) else colours[i]
        corner = (margin + swatch - 1, y + row - inset - 1)
        cv2.rectangle(panel, (margin, y + inset), corner, INK, max(1, row // 32))
        write(panel, names[i], left, y, row, INK)
        said = percent(occurring[i] / counts.sum())
        write(panel, said, right - text_width(said, row), y, row, INK)
    if len(shown) < len(order) and room:
        write(panel, f"{len(order) - len(shown)} more", left, margin + len(shown) * row, row, INK)
    return panel


def percent(share: float) -> str:
    """ "41 %", "<1 %"."""
    return f"{whole} %" if (whole := round(100 * share)) else "<1 %"
