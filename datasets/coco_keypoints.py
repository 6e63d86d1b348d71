"""Keypoints as COCO writes them: names, pairs that a flip exchanges, skeleton, and the sigmas of OKS."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from retinue.datasets.targets import PERSON_KEYPOINTS, DataError

SIGMA = 0.07
"""What other points get: the mean of COCO's."""


def keypoint_classes(file: Path, categories: list[dict[str, Any]]) -> dict[str, Any]:
    """What `ClassMap.keypoints` says of these categories; {} where none has keypoints.

    "names": K names; "pairs": [[a, b], ...], the left and right ones that a horizontal flip exchanges; "sigmas": K
    numbers; "skeleton": [[a, b], ...], lines to draw; all indices from 0 (COCO's skeleton counts from 1).
    Raises DataError: names that are no texts, or categories with different ones.
    """
    lists = [(c["name"], c["keypoints"], c.get("skeleton")) for c in categories if c.get("keypoints")]
    if not lists:
        return {}
    for name, points, _ in lists:
        if not isinstance(points, list) or not all(isinstance(point, str) for point in points):
            raise DataError(f"{file}: keypoints of category {name!r} are no list of names; correct them")
        if points != lists[0][1]:
            raise DataError(
                f"{file}: categories {lists[0][0]!r} and {name!r} have different keypoints; put them into two files"
            )
    _, names, skeleton = lists[0]
    if len(set(names)) < len(names) or len(names) > 1000:
        raise DataError(f"{file}: keypoint names {names[:20]} are given twice; rename them")
    return {
        "names": names,
        "pairs": flip_pairs(names),
        "sigmas": list(PERSON_KEYPOINTS["sigmas"])
        if names == PERSON_KEYPOINTS["names"]
        else [SIGMA] * len(names),
        "skeleton": _skeleton(file, skeleton, len(names)),
    }


def flip_pairs(names: list[str]) -> list[list[int]]:
    """[[a, b], ...], a < b: the points whose names differ in left and right only."""

    def other(name: str) -> str:
        swap = {"left": "right", "right": "left", "l": "r", "r": "l"}
        return re.sub(r"left|right|(?<![a-z])[lr](?![a-z])", lambda m: swap[m[0]], name)

    low = [name.lower() for name in names]
    found = [(a, low.index(other(name))) for a, name in enumerate(low) if other(name) in low]
    return [[a, b] for a, b in found if a < b]


def _skeleton(file: Path, value: Any, count: int) -> list[list[int]]:
    if value is None:
        return []
    pairs = value if isinstance(value, list) else [value]
    for pair in pairs:
        sound = isinstance(pair, list) and len(pair) == 2
        if not sound or not all(type(end) is int and 1 <= end <= count for end in pair):
            raise DataError(
                f"{file}: skeleton {str(pair)[:60]} is not a pair of keypoints, counted from 1; correct it"
            )
    return [[a - 1, b - 1] for a, b in pairs]


def read_keypoints(value: Any, count: int) -> np.ndarray | None:
    """COCO's list of x, y, visibility -> (count, 3) float64; zeros where an object has none, None where it is wrong."""
    if not value and (value is None or value == []):
        return np.zeros((count, 3))
    if (
        not isinstance(value, list)
        or len(value) != 3 * count
        or not all(type(v) in (int, float) for v in value)
    ):
        return None
    if not all(abs(v) < 1e9 for v in value) or not all(v in (0, 1, 2) for v in value[2::3]):
        return None
    return np.array(value, np.float64).reshape(count, 3)
