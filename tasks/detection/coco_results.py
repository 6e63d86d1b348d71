"""Detections in other ecosystems' forms: COCO's results json, torchvision's dicts there and back, supervision."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.masks import EncodedMasks, encode
from retinue.tasks.detection.results import Detections

Record = dict[str, Any]
"""One detection in COCO's results json."""

ImageId = int | str

Labels = Literal["ids", "from 0", "from 1"]
"""What the numbers in `labels` are: original category ids (torchvision's published COCO models), class indices from 0,
or from 1 with 0 as background (torchvision's models of one's own). Never guessed: a wrong guess shifts every class."""


def image_id(id: str) -> ImageId:
    """A picture's id in COCO's json: its file name without suffix as a number where it is one, else its file name."""
    name = PurePath(id)
    return int(name.stem) if name.stem.isascii() and name.stem.isdigit() else name.name


def coco_results(detections: Detections, image_id: ImageId) -> list[Record]:
    """One record a detection: bbox as x, y, width, height, category_id from `classes.ids`, masks as run-length codes.

    Numbers are written as they are, so that reading them gives equal arrays. `keypoint_scores` is no key of COCO's;
    its evaluation leaves it aside.
    """
    x1, y1, x2, y2 = detections.boxes.astype(np.float64).T
    boxes = np.stack([x1, y1, x2 - x1, y2 - y1], 1)
    ids = detections.classes.ids
    records: list[Record] = [
        {"image_id": image_id, "category_id": ids[label], "bbox": box, "score": score}
        for label, box, score in zip(detections.labels, boxes.tolist(), detections.scores.tolist())
    ]
    more: dict[str, Sequence[Any] | None] = {
        "segmentation": detections.masks.rles() if detections.masks is not None else None,
        "keypoints": [points.ravel().tolist() for points in detections.keypoints]
        if detections.keypoints is not None
        else None,
        "keypoint_scores": detections.keypoint_scores.tolist()
        if detections.keypoint_scores is not None
        else None,
    }
    for key, values in more.items():
        for record, value in zip(records, values or ()):
            record[key] = value
    return records


def to_torchvision(detections: Detections, *, labels: Labels) -> dict[str, Tensor]:
    """The dict of torchvision's detectors; `masks` (n, 1, h, w) float32 are painted in full, which takes memory."""
    indices = torch.from_numpy(detections.labels)
    if labels == "ids":
        indices = torch.tensor([detections.classes.ids[i] for i in detections.labels], dtype=torch.int64)
    result = {
        "boxes": torch.from_numpy(detections.boxes),
        "labels": indices + 1 if labels == "from 1" else indices,
        "scores": torch.from_numpy(detections.scores),
    }
    if (masks := detections.masks) is not None:
        result["masks"] = torch.zeros(len(detections), 1, *detections.size)
        for i in range(len(detections)):
            y, x, part = masks.probabilities_of(i)
            result["masks"][i, 0, y : y + part.shape[0], x : x + part.shape[1]] = torch.from_numpy(part)
    if detections.keypoints is not None:
        result["keypoints"] = torch.from_numpy(detections.keypoints)
    if detections.keypoint_scores is not None:
        result["keypoints_scores"] = torch.from_numpy(detections.keypoint_scores)
    return result


def from_torchvision(
    result: Mapping[str, Tensor], id: str, classes: ClassMap, size: tuple[int, int], *, labels: Labels
) -> Detections:
    """Detections from the dict that torchvision's detectors give, in a picture of `size` (height, width).

    Masks (n, 1, h, w) become run-length codes at probability 0.5. Raises DataError for labels outside the classes.
    """
    given = {key: value.detach().cpu().numpy() for key, value in result.items()}
    numbers = given["labels"].astype(np.int64)
    if labels == "ids":
        indices = np.array([classes.index(int(number)) for number in numbers], np.int64)
    else:
        indices = numbers - (labels == "from 1")
    if len(indices) and not (indices.min() >= 0 and indices.max() < len(classes)):
        raise DataError(f"{id}: labels {sorted(set(numbers.tolist()))} {labels} of {len(classes)} classes")
    order = np.argsort(-given["scores"], kind="stable")
    masks = None
    if "masks" in given:
        masks = EncodedMasks(tuple(encode(given["masks"][i, 0] > 0.5) for i in order), size)
    points, point_scores = (given.get(key) for key in ("keypoints", "keypoints_scores"))
    return Detections(
        id,
        given["boxes"][order].astype(np.float32),
        given["scores"][order].astype(np.float32),
        indices[order],
        classes,
        size,
        masks,
        points[order].astype(np.float32) if points is not None else None,
        point_scores[order].astype(np.float32) if point_scores is not None else None,
    )


def to_supervision(detections: Detections) -> Any:
    """`supervision.Detections`, class names under "class_name"; its masks (n, h, w) are painted in full."""
    try:
        import supervision
    except ImportError as error:
        raise DataError(f"supervision cannot be imported ({error}); try `pip install supervision`") from None
    masks = None
    if detections.masks is not None:
        masks = np.zeros((len(detections), *detections.size), bool)
        for i in range(len(detections)):
            y, x, part = detections.masks.one(i)
            masks[i, y : y + part.shape[0], x : x + part.shape[1]] = part
    return supervision.Detections(
        xyxy=detections.boxes,
        mask=masks,
        confidence=detections.scores,
        class_id=detections.labels.astype(int),
        data={"class_name": np.array(detections.names, dtype=str)},
    )
