"""What can be wrong with boxes: what is mended or left out when they are loaded, and what merely looks doubtful."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from retinue.datasets.problem import Problem
from retinue.datasets.targets import ClassMap

TOLERANCE = 1.0
"""A box may stick out of its picture by so many pixels: it is clipped without a word."""

SYSTEMATIC = 10
"""So many boxes at a border, all one pixel short of it, are no accident."""

BACKGROUND = ("background", "__background__", "_background_", "bg", "n/a", "na", "void")
"""Class names (lower case) that are no objects."""

KINDS: dict[str, tuple[Literal["error", "warning"], str]] = {
    "NaN box": ("error", "left out; correct or remove it"),
    "degenerate box": ("error", "left out: it has no area; correct or remove it"),
    "box outside": ("error", "left out: no part of it is in the picture; correct or remove it"),
    "outline of another size": (
        "error",
        "left out: its run-length code was made for another picture; correct it",
    ),
    "out-of-frame box": ("warning", "clipped to the picture; correct it"),
}
"""Faults of single objects -> how bad they are, and what was done."""


def clean_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Clip boxes into their pictures, and tell which to leave out.

    boxes: (n, 4) float, x1 y1 x2 y2; sizes: (n, 2) height, width of each box's picture.
    Returns clipped boxes (n, 4) float64, kept (n,) bool, and the fault, one of `KINDS`, by row.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    end = np.tile(np.asarray(sizes, np.float64).reshape(-1, 2)[:, ::-1], 2)
    finite = np.logical_and.reduce(np.isfinite(boxes), axis=1)
    written = np.where(finite[:, None], boxes, 0.0)
    clipped = np.clip(written, 0.0, end)
    sound = np.logical_and(finite, (written[:, 2:] > written[:, :2]).all(1))
    # What is left must also have a size in float32, as which samples give it.
    left = (clipped[:, 2:].astype(np.float32) > clipped[:, :2].astype(np.float32)).all(1)
    kept = np.logical_and(sound, left)
    far = kept & (np.abs(clipped - written).max(1, initial=0) > TOLERANCE)
    faults = {
        **dict.fromkeys(np.flatnonzero(~finite).tolist(), "NaN box"),
        **dict.fromkeys(np.flatnonzero(finite & ~sound).tolist(), "degenerate box"),
        **dict.fromkeys(np.flatnonzero(sound & ~left).tolist(), "box outside"),
        **dict.fromkeys(np.flatnonzero(far).tolist(), "out-of-frame box"),
    }
    return clipped, kept, dict(sorted(faults.items()))


def box_problem(kind: str, file: str, name: str, box: np.ndarray, size: np.ndarray) -> Problem:
    """A fault that `clean_boxes` found, in words. name: of the annotation; size: height, width of the picture."""
    level, remedy = KINDS[kind]
    value = f"{name} {[float(f'{v:.6g}') for v in box.tolist()]} in {size[1]}x{size[0]}"
    return Problem(level, kind, file, value, remedy)


def duplicates(boxes: np.ndarray, labels: np.ndarray, pictures: np.ndarray) -> Iterator[tuple[int, int]]:
    """(row, the row that it repeats) of the boxes (n, 4) that a picture has twice with the same label."""
    if not len(boxes):
        return
    keys = np.concatenate([pictures[:, None], labels[:, None], boxes], 1)
    order = np.lexsort(keys.T[::-1])
    same = np.concatenate([[False], (keys[order][1:] == keys[order][:-1]).all(1)])
    first = 0
    for row, again in zip(order.tolist(), same.tolist()):
        if again:
            yield row, first
        else:
            first = row


def suspicions(where: str, boxes: np.ndarray, sizes: np.ndarray, classes: ClassMap) -> Iterator[Problem]:
    """Signs of off-by-one errors: in the frame of the boxes, and in the class ids."""
    for name, id in zip(classes.names, classes.ids):
        if name.strip().lower() in BACKGROUND:
            value = f"class {name!r} (id {id}) is no object, and shifts the indices of those after it"
            yield Problem("warning", "background class", where, value, "remove it from the list of classes")
    if not len(boxes):
        return
    end = np.tile(np.asarray(sizes, np.float64)[:, ::-1], 2)
    for side, short, border in (("last", end - 1, end), ("first", np.ones_like(end), np.zeros_like(end))):
        columns = slice(2, 4) if side == "last" else slice(0, 2)
        near = int((boxes == short)[:, columns].sum())
        at = int((boxes[:, columns] == border[:, columns]).sum())
        if near >= SYSTEMATIC and at == 0:
            what = "x2 = width - 1 or y2 = height - 1" if side == "last" else "x1 = 1 or y1 = 1"
            value = f"{near} sides of boxes have {what}, none reaches the border: pixel numbers, not edges?"
            remedy = "x1 y1 x2 y2 are edges, a picture of width w spans 0 to w"
            yield Problem("warning", "off by one?", where, value, remedy)
