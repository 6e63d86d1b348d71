"""Masks -> polygons that draw the same pixels: traced along pixel edges, rings joined where a format holds only one."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from retinue.datasets.segments import Segments, Written

Ring = np.ndarray
"""(points, 2) float64, x y."""


def trace(mask: np.ndarray) -> list[Ring]:
    """The rings along the edges between the pixels of a mask (h, w) bool and the rest: outer ones and holes.

    Corners are whole numbers, x in [0, w] and y in [0, h]. Every edge has the mask on its right hand (y down), so that
    outer rings run clockwise as they are seen and holes the other way; pixels that touch at a corner only are apart.
    """
    padded = np.pad(np.asarray(mask, bool), 1)
    inside, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    # Directed edges from corner to corner, as x y dx dy: along the top of a pixel to the right, down its right side ...
    groups = [
        (inside & ~above, (0, 0), (1, 0)),
        (~inside & above, (1, 0), (-1, 0)),
        (inside & ~left, (0, 1), (0, -1)),
        (~inside & left, (0, 0), (0, 1)),
    ]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for edges, (x, y), step in groups:
        for row, column in zip(*(part.tolist() for part in np.nonzero(edges))):
            following.setdefault((column + x, row + y), []).append(step)
    rings = []
    while following:
        corner = next(iter(following))
        rings.append(_follow(corner, following))
    return rings


def _follow(start: tuple[int, int], following: dict[tuple[int, int], list[tuple[int, int]]]) -> Ring:
    """One ring from a corner on, without the corners at which it goes straight on; its edges are taken out."""
    corners: list[tuple[int, int]] = []
    place, before = start, (0, 0)
    while steps := following.get(place):
        right = (-before[1], before[0])
        step = right if right in steps and len(steps) > 1 else steps[0]
        steps.remove(step)
        if not steps:
            del following[place]
        if step != before:
            corners.append(place)
        place, before = (place[0] + step[0], place[1] + step[1]), step
    return np.array(corners, np.float64)


def joined(rings: list[Ring]) -> Ring:
    """One ring that encloses what an odd number of the given ones do: bridges of no width lead from one to the next.

    A bridge is walked there and back, and adds nothing to what is filled by parity, as pycocotools and OpenCV fill.
    """
    whole, *others = rings
    for ring in others:
        here = int(np.argmin(((whole - ring[0]) ** 2).sum(1)))
        there = int(np.argmin(((ring - whole[here]) ** 2).sum(1)))
        ring = np.roll(ring, -there, 0)
        whole = np.concatenate([whole[: here + 1], ring, ring[:1], whole[here:]])
    return whole


def cut(ring: Ring, height: float, width: float) -> Ring:
    """The part of a ring inside [0, width] x [0, height]; no points where nothing is (Sutherland and Hodgman 1974).

    Parts that the border divides stay one ring, joined along the border, where nothing is filled between them.
    """
    for axis, bound, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        inside = sign * (ring[:, axis] - bound) >= 0
        kept: list[np.ndarray] = []
        for i in range(len(ring)):
            if inside[i] != inside[i - 1]:
                before, after = ring[i - 1], ring[i]
                crossing = before + (after - before) * (bound - before[axis]) / (after[axis] - before[axis])
                crossing[axis] = bound
                kept.append(crossing)
            if inside[i]:
                kept.append(ring[i])
        ring = np.array(kept, np.float64).reshape(-1, 2)
    return ring


def as_polygons(written: Written, height: int, width: int, single: bool) -> tuple[list[list[float]], float]:
    """An outline as polygons [x, y, x, y, ...], and the IoU of what they draw with what it drew.

    Run-length codes are traced; where there are holes all rings become one, since COCO's polygons of one object are
    a union. Polygons stay as they are. single: one polygon at most; several are joined, and traced if they overlap.
    """
    if isinstance(written, list) and (not single or len(written) == 1):
        return written, 1.0
    truth = Segments.of([written]).rle(0, height, width)
    if isinstance(written, list):
        own = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in written]
        found = _compared([joined(own)], truth)
        if found[1] == 1:
            return found
    rings = trace(coco_mask.decode(truth).astype(bool))
    hole = any(_doubled_area(ring) < 0 for ring in rings)
    return _compared([joined(rings)] if rings and (single or hole) else rings, truth)


def _compared(rings: list[Ring], truth: dict[str, Any]) -> tuple[list[list[float]], float]:
    if not rings:
        return [], 1.0
    flat = [ring.ravel().tolist() for ring in rings]
    drawn = Segments.of([flat]).rle(0, *truth["size"])
    return flat, float(coco_mask.iou([truth], [drawn], [0])[0, 0])


def _doubled_area(ring: Ring) -> float:
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
