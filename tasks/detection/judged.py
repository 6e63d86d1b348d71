"""Boxes beside their truth, over a whole set of pictures in flat arrays: what the metrics around AP read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from retinue.datasets.targets import DataError


class PictureBoxes(NamedTuple):
    """One picture's truth and detections, boxes x1 y1 x2 y2 in the file's pixels."""

    truth_boxes: np.ndarray
    """(t, 4) float."""
    truth_labels: np.ndarray
    """(t,) int64, class index from 0."""
    truth_crowd: np.ndarray
    """(t,) bool: COCO's crowds, VOC's difficult objects; neither asked for nor held against a detection."""
    boxes: np.ndarray
    """(n, 4) float."""
    scores: np.ndarray
    """(n,) float."""
    labels: np.ndarray
    """(n,) int64."""


@dataclass(frozen=True)
class JudgedBoxes:
    """Truth and detections of a set of pictures: `PictureBoxes` one after the other, in the order of `picture_ids`.

    `truth_picture` (t,) and `picture` (n,) int64 say to which picture a row belongs, as an index into `picture_ids`;
    both never descend. Boxes and scores are float64, labels int64. Detections without a truth and pictures without
    either are part of the set. DataError names a picture with a box or a score that is not finite, or a label below 0.
    """

    truth_boxes: np.ndarray
    truth_labels: np.ndarray
    truth_crowd: np.ndarray
    truth_picture: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    picture: np.ndarray
    picture_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        for picture, columns in (
            (self.truth_picture, {"truth box": self.truth_boxes, "truth label": self.truth_labels}),
            (self.picture, {"box": self.boxes, "score": self.scores, "label": self.labels}),
        ):
            if (picture[1:] < picture[:-1]).any():
                raise ValueError("the rows of a picture stand together, in the order of picture_ids")
            for name, values in columns.items():
                if len(values) != len(picture):
                    raise ValueError(f"{len(values)} rows of {name} for {len(picture)} of picture")
                wrong = ~np.isfinite(values) if values.dtype.kind == "f" else values < 0
                if wrong.any():
                    row = int(np.argwhere(wrong)[0, 0])
                    raise DataError(
                        f"{self.picture_ids[picture[row]]}: a {name} is {values[row]}: correct or leave out that object"
                    )

    @classmethod
    def from_pictures(cls, pictures: Mapping[str, PictureBoxes]) -> "JudgedBoxes":
        """Join pictures by id, in the order of the ids: figures do not depend on who evaluated what."""
        ids = tuple(sorted(pictures))
        rows = [pictures[id] for id in ids]

        def column(field: int, dtype: type, *shape: int) -> np.ndarray:
            parts: list[np.ndarray] = [np.asarray(row[field], dtype).reshape(-1, *shape) for row in rows]
            return np.concatenate([np.empty((0, *shape), dtype), *parts])

        def owner(field: int) -> np.ndarray:
            return np.repeat(np.arange(len(rows)), [len(row[field]) for row in rows])

        return cls(
            truth_boxes=column(0, np.float64, 4),
            truth_labels=column(1, np.int64),
            truth_crowd=column(2, np.bool_),
            truth_picture=owner(1),
            boxes=column(3, np.float64, 4),
            scores=column(4, np.float64),
            labels=column(5, np.int64),
            picture=owner(5),
            picture_ids=ids,
        )

    @cached_property
    def order(self) -> np.ndarray:
        """(n,) int64, the rows of detections by descending score; of equal scores the earlier row comes first."""
        return np.argsort(-self.scores, kind="stable")

    def top(self, count: int) -> "JudgedBoxes":
        """At most `count` detections a picture and class, the best ones: COCO's maxDets (100)."""
        order = self.order
        order = order[np.lexsort((self.labels[order], self.picture[order]))]
        group = self.picture[order], self.labels[order]
        starts = np.ones(len(order), np.bool_)
        starts[1:] = (group[0][1:] != group[0][:-1]) | (group[1][1:] != group[1][:-1])
        place = np.arange(len(order)) - np.flatnonzero(starts)[np.cumsum(starts) - 1]
        return self.only(np.sort(order[place < count]))

    def only(self, rows: np.ndarray) -> "JudgedBoxes":
        """The same truth with some of the detections, by ascending row or by mask."""
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            picture=self.picture[rows],
        )

    def truths(self, classes: int) -> np.ndarray:
        """(classes,) int64, the objects a class that are to be found; DataError where a label is none of them."""
        for labels in (self.truth_labels, self.labels):
            if len(labels) and labels.max() >= classes:
                raise DataError(
                    f"label {labels.max()} is none of the {classes} classes: evaluate with the classes of the truth"
                )
        return np.bincount(self.truth_labels[~self.truth_crowd], minlength=classes)
