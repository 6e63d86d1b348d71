"""Proposals as other programs write them: a json list in COCO's results format, categories left aside."""

from pathlib import Path
from typing import Any

import numpy as np

from retinue.datasets.json_values import load_json, numeric, shown
from retinue.datasets.targets import DataError

LARGEST = 1e30
"""Of the numbers: they are kept, and computed with, in float32."""


def read_boxes(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Picture -> boxes (r, 4) float64 x1 y1 x2 y2 and scores (r,), the best first.

    Entries are {"image_id" or "file_name", "bbox": [x, y, width, height], "score"}; the picture is that name or id as
    text. Raises DataError naming file, entry (counted from 0) and value.
    """
    found: dict[str, tuple[list[list[float]], list[float]]] = {}
    for position, entry in enumerate(_load(path)):
        try:
            name, box, score = _read(entry)
        except ValueError as error:
            raise DataError(f"{path}: entry {position}: {error}; correct the file") from None
        boxes, scores = found.setdefault(name, ([], []))
        boxes.append(box)
        scores.append(score)
    return {name: _best_first(*rows) for name, rows in found.items()}


def _load(path: Path) -> list[Any]:
    value = load_json(path, "proposals")
    if not isinstance(value, list):
        raise DataError(f"{path}: is a {type(value).__name__}; give a list as of COCO results")
    return value


def _read(entry: Any) -> tuple[str, list[float], float]:
    if not isinstance(entry, dict):
        raise ValueError(f"{shown(entry)} is no object")
    name = entry.get("file_name", entry.get("image_id"))
    if type(name) is int and abs(name) < 2**63:
        name = str(name)
    if not isinstance(name, str) or not 0 < len(name) <= 250 or not name.isprintable():
        raise ValueError(f"neither image_id nor file_name, but {shown(name)}")
    box: Any = entry.get("bbox")
    score: Any = entry.get("score")
    if not isinstance(box, list) or len(box) != 4 or not numeric(box, LARGEST) or min(box[2:]) < 0:
        raise ValueError(f"bbox {shown(box)} is not x, y, width, height")
    if not numeric([score], LARGEST):
        raise ValueError(f"score {shown(score)} is not a finite number")
    x, y, width, height = map(float, box)
    return name, [x, y, x + width, y + height], float(score)


def _best_first(boxes: list[list[float]], scores: list[float]) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array(scores)
    order = np.argsort(-rows, kind="stable")
    return np.array(boxes)[order], rows[order]
