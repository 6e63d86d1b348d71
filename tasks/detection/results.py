"""What a detector says of one picture."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.draw import count_names, draw_objects, predicted
from retinue.tasks.detection.masks import EncodedMasks, InstanceMasks, Masks

__all__ = ["Detections", "EncodedMasks", "InstanceMasks", "Masks"]


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one picture, the surest first: all that the model gives, see `above`.

    id: the picture's id. boxes: (n, 4) float32, x1 y1 x2 y2 in the file's pixels. scores: (n,) float32, descending.
    labels: (n,) int64, indices of `classes`. size: (height, width) of the file's picture. masks: one an object,
    small until drawn or encoded. keypoints: (n, k, 3) float32, x and y in the file's pixels, then 1.
    keypoint_scores: (n, k) float32. Raises ValueError for arrays that do not fit each other, DataError for numbers
    that are not finite.
    """

    id: str
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: ClassMap
    size: tuple[int, int]
    masks: InstanceMasks | None = None
    keypoints: np.ndarray | None = None
    keypoint_scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        k = self.keypoints.shape[1:2] if self.keypoints is not None else ()
        for name, array, shape in (
            ("boxes", self.boxes, (n, 4)),
            ("scores", self.scores, (n,)),
            ("labels", self.labels, (n,)),
            ("keypoints", self.keypoints, (n, *k, 3)),
            ("keypoint_scores", self.keypoint_scores, (n, *k)),
        ):
            if array is None:
                continue
            if array.shape != shape:
                raise ValueError(f"{self.id}: {name} of shape {array.shape}, where {shape} is expected")
            if not np.isfinite(array).all():
                raise DataError(
                    f"{self.id}: the {name} are not finite ({array[~np.isfinite(array)][:3]}): "
                    f"look for non-finite weights, or predict in float32"
                )
        if self.masks is not None and (len(self.masks) != n or tuple(self.masks.size) != tuple(self.size)):
            raise ValueError(
                f"{self.id}: {len(self.masks)} masks of a picture of {self.masks.size} "
                f"for {n} boxes in one of {self.size}"
            )
        if n and (self.labels.min() < 0 or self.labels.max() >= len(self.classes)):
            raise ValueError(f"{self.id}: labels {set(self.labels.tolist())} of {len(self.classes)} classes")
        if (np.diff(self.scores) > 0).any():
            raise ValueError(f"{self.id}: the scores do not descend")

    @classmethod
    def none(cls, id: str, classes: ClassMap, size: tuple[int, int]) -> "Detections":
        """Of a picture in which nothing was found."""
        empty = np.zeros(0, np.float32)
        return cls(id, empty.reshape(0, 4), empty, np.zeros(0, np.int64), classes, size)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, which: np.ndarray) -> "Detections":
        """Some of the objects, by ascending indices or by a bool array (n,)."""
        return replace(
            self,
            boxes=self.boxes[which],
            scores=self.scores[which],
            labels=self.labels[which],
            masks=self.masks[which] if self.masks is not None else None,
            keypoints=self.keypoints[which] if self.keypoints is not None else None,
            keypoint_scores=self.keypoint_scores[which] if self.keypoint_scores is not None else None,
        )

    def above(self, score: float) -> "Detections":
        """The objects with at least this score: what is shown, where all is judged."""
        return self[self.scores >= score]

    @property
    def names(self) -> list[str]:
        """The class name of every object."""
        return [self.classes.names[label] for label in self.labels]

    def __str__(self) -> str:
        return count_names(self.names)

    def to_json(self) -> dict[str, Any]:
        """Plain values, one entry an object: `labels` are class names and `label_ids` the original ids.

        Coordinates are to 0.01 pixel and scores to four digits; `coco_results` has all digits.
        """
        values: dict[str, Any] = {
            "id": self.id,
            "size": [int(side) for side in self.size],
            "boxes": _rounded(self.boxes, 2),
            "scores": _rounded(self.scores, 4),
            "labels": self.names,
            "label_ids": [self.classes.ids[label] for label in self.labels],
        }
        if self.masks is not None:
            values["masks"] = self.masks.rles()
        if self.keypoints is not None:
            values["keypoints"] = _rounded(self.keypoints, 2)
        if self.keypoint_scores is not None:
            values["keypoint_scores"] = _rounded(self.keypoint_scores, 4)
        return values

    def draw(self, picture: np.ndarray) -> np.ndarray:
        """A copy of the picture (h, w, 3) uint8 RGB with boxes, names, scores, masks and keypoints; all there are."""
        return draw_objects(picture, predicted(self), self.classes)


def _rounded(values: np.ndarray, digits: int) -> list[Any]:
    return np.round(values.astype(np.float64), digits).tolist()
