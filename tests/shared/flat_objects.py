"""Truth and detections of a few boxes, in the flat arrays that figures are computed from."""

from typing import Any

import numpy as np

from retinue.tasks.detection.coco_engines import Found, Truth


def objects(boxes: Any, labels: Any = None, pictures: Any = None) -> dict[str, np.ndarray]:
    """The columns that truth and detections share."""
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    labels = np.zeros(len(xywh), np.int64) if labels is None else np.array(labels)
    pictures = np.zeros(len(xywh), np.int64) if pictures is None else np.array(pictures)
    return {"pictures": pictures, "labels": labels, "xywh": xywh}


def truth_of(boxes: Any, labels: Any = None, pictures: Any = None, crowd: Any = None) -> Truth:
    columns = objects(boxes, labels, pictures)
    crowd = np.zeros(len(columns["labels"]), bool) if crowd is None else np.array(crowd, bool)
    return Truth(**columns, crowd=crowd, area=columns["xywh"][:, 2:].prod(1))


def found_of(boxes: Any, scores: Any, labels: Any = None, pictures: Any = None) -> Found:
    return Found(**objects(boxes, labels, pictures), scores=np.array(scores, np.float64))
