"""COCO's figures of detections, collected picture by picture."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np

from retinue.datasets.rle import Rle
from retinue.datasets.targets import ClassMap, DataError, Target
from retinue.tasks.detection.average_precision import (
    Curves,
    average_precision,
    flat_figures,
    oks_sigmas,
    refuse_non_finite,
)
from retinue.tasks.detection.coco_engines import IOU_TYPES, Counts, Found, Truth, mask_areas
from retinue.tasks.detection.diagnosis import diagnose, missing
from retinue.tasks.detection.judged import JudgedBoxes, PictureBoxes
from retinue.tasks.detection.masks import encode
from retinue.tasks.detection.results import Detections


class Seen(NamedTuple):
    """What is kept of one picture: flat arrays, masks only as run-length codes. Boxes are x1 y1 x2 y2."""

    size: tuple[int, int]
    truth_boxes: np.ndarray
    truth_labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    truth_masks: list[Rle] | None
    outlined: np.ndarray
    """(n,) bool, which true objects have a mask: the others' is their box here, and ignored where masks are judged."""
    truth_keypoints: np.ndarray | None
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list[Rle] | None
    keypoints: np.ndarray | None


class DetectionMetric:
    """COCO's AP and AR over a set of pictures, exact in any order and any split over processes.

    kinds: what is judged, the headline first: "box", "mask", "keypoints". `diagnose` says in words what a low AP may
    come from; `judged` gives the boxes to the curves and tables around it. Raises DataError where `classes.keypoints`
    has no OKS sigmas for keypoints other than COCO's 17.
    """

    def __init__(self, classes: ClassMap, kinds: Sequence[str] = ("box",)) -> None:
        if not kinds or set(kinds) - set(IOU_TYPES):
            raise ValueError(f"kinds {tuple(kinds)}: choose from {tuple(IOU_TYPES)}")
        self.classes, self.kinds = classes, tuple(kinds)
        self.sigmas: np.ndarray | None = None
        if "keypoints" in kinds:
            given = classes.keypoints
            points = np.zeros((1, len(given["names"]), 3)) if given.get("names") else None
            self.sigmas = oks_sigmas(given.get("sigmas"), points)
        self.pictures: dict[str, Seen] = {}
        self._curves: dict[str, Curves] = {}

    def __len__(self) -> int:
        return len(self.pictures)

    def update(self, ids: Sequence[str], results: Sequence[Detections], targets: Sequence[Target]) -> None:
        """Take in a batch, in the file's pixels.

        targets: boxes (n, 4), box_labels (n,); crowd (n,) and area (n,) where there are any (the area is else that
        of the mask, or of the box); masks (n, h, w) bool and keypoints (n, K, 3) where these are judged.
        Raises ValueError for an id taken in twice, DataError naming the picture for labels outside the classes,
        scores and places that are not finite, and masks or keypoints that are missing.
        """
        self._curves.clear()
        for id, result, target in zip(ids, results, targets, strict=True):
            if id in self.pictures:
                raise ValueError(f"picture {id!r} was evaluated before")
            self.pictures[id] = self._see(id, result, {k: np.asarray(v) for k, v in target.items()})

    def _see(self, id: str, result: Detections, target: dict[str, np.ndarray]) -> Seen:
        boxes, labels = target["boxes"].reshape(-1, 4), target["box_labels"]
        for side, values in (("truth", labels), ("detection", result.labels)):
            if len(values) and not 0 <= values.min() <= values.max() < len(self.classes):
                raise DataError(
                    f"{id}: {side} labels {sorted(set(values.tolist()))[:10]} do not fit the {len(self.classes)} "
                    f"classes {list(self.classes.names[:5])} ...: evaluate on data with the classes of the training"
                )
        for what in ("boxes", "scores", "keypoints"):
            refuse_non_finite(getattr(result, what), what, [id] * len(result))
        truth_masks, outlined, masks = self._masks(id, result, target)
        truth_keypoints, keypoints = self._keypoints(id, result, target)
        area = target.get("area")
        if area is None:
            sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
            area = sides.prod(1) if truth_masks is None else mask_areas(truth_masks)
        return Seen(
            size=result.size,
            truth_boxes=boxes,
            truth_labels=labels,
            crowd=target.get("crowd", np.zeros(len(boxes), bool)).astype(bool),
            area=area,
            truth_masks=truth_masks,
            outlined=outlined,
            truth_keypoints=truth_keypoints,
            boxes=result.boxes,
            scores=result.scores,
            labels=result.labels,
            masks=masks,
            keypoints=keypoints,
        )

    def _masks(
        self, id: str, result: Detections, target: dict[str, np.ndarray]
    ) -> tuple[list[Rle] | None, np.ndarray, list[Rle] | None]:
        if "mask" not in self.kinds:
            return None, np.ones(len(target["box_labels"]), bool), None
        if "masks" not in target or (len(result) and result.masks is None):
            side = "truth" if "masks" not in target else "result"
            raise DataError(
                f"{id}: masks are judged, but the {side} has none; use data and a model with masks"
            )
        outlined = np.logical_or.reduce(target["masks"], axis=(1, 2))
        truth = [
            encode(mask if seen else filled(box, mask.shape))
            for mask, box, seen in zip(target["masks"], target["boxes"].reshape(-1, 4), outlined)
        ]
        return truth, outlined, result.masks.rles() if result.masks else []

    def _keypoints(
        self, id: str, result: Detections, target: dict[str, np.ndarray]
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        if self.sigmas is None:
            return None, None
        none = np.zeros((0, len(self.sigmas), 3), np.float32)
        truth = target.get("keypoints", none if not len(target["boxes"]) else None)
        found = result.keypoints if len(result) else none
        for side, points in (("truth", truth), ("result", found)):
            if points is None or points.shape[1:] != none.shape[1:]:
                shape = "none" if points is None else points.shape
                raise DataError(
                    f"{id}: {len(self.sigmas)} keypoints an object are judged, the {side} has {shape}; "
                    "use data and a model with the same keypoints"
                )
        return truth, found

    def merge(self, other: Self) -> None:
        """Take in all that another process collected; ValueError if both saw the same picture."""
        if twice := self.pictures.keys() & other.pictures.keys():
            raise ValueError(f"pictures were evaluated twice: {sorted(twice)[:5]}")
        self.pictures |= other.pictures
        self._curves.clear()

    def compute(self) -> dict[str, float]:
        """`box/AP`, `box/AP50`, ... the 12 figures of boxes and of masks, the 10 of keypoints; `box/AP/NAME`.

        All are in [0, 1]. What there is no truth for is NaN. Up to 100 classes have a figure each.
        """
        return flat_figures({kind: self.curves(kind) for kind in self.kinds}, self.classes.names)

    def per_class(self, kind: str | None = None) -> dict[str, float]:
        """Class name -> AP; NaN for a class without truth."""
        return dict(zip(self.classes.names, self.curves(kind or self.kinds[0]).per_class().tolist()))

    def curves(self, kind: str) -> Curves:
        """Precision and recall of every class; computed once until more comes in."""
        if kind not in self._curves:
            truth, found = self.flat()
            if kind == "mask":
                outlined = [self.pictures[id].outlined for id in sorted(self.pictures)]
                truth = replace(truth, crowd=truth.crowd | ~_joined(outlined, np.bool_))
            self._curves[kind] = average_precision(truth, found, self._counts(), kind, self.sigmas)
        return self._curves[kind]

    def diagnose(self) -> list[str]:
        """Sentences about what a low AP may come from; none where AP50 is not low or nothing simple explains it."""
        sizes = np.array([self.pictures[id].size for id in sorted(self.pictures)]).reshape(-1, 2)
        return diagnose(*self.flat(), self._counts(), self.classes.names, sizes)

    def notes(self) -> list[str]:
        """Sentences about the figures that are NaN: what there is no truth of."""
        return missing(self.compute())

    def judged(self) -> JudgedBoxes:
        """The boxes of all pictures beside their truth, for curves, confusion and kinds of errors."""
        return JudgedBoxes.from_pictures(
            {
                id: PictureBoxes(s.truth_boxes, s.truth_labels, s.crowd, s.boxes, s.scores, s.labels)
                for id, s in self.pictures.items()
            }
        )

    def _counts(self) -> Counts:
        return Counts(len(self.pictures), len(self.classes))

    def flat(self) -> tuple[Truth, Found]:
        """All pictures' truth and detections, in the order of the ids: figures do not depend on who saw what."""
        seen = [self.pictures[id] for id in sorted(self.pictures)]
        truths, founds = [len(s.truth_labels) for s in seen], [len(s.labels) for s in seen]
        truth = Truth(
            np.repeat(np.arange(len(seen)), truths),
            _joined([s.truth_labels for s in seen], np.int64),
            _xywh(_joined([s.truth_boxes for s in seen], np.float64, 4)),
            _joined([s.crowd for s in seen], np.bool_),
            _joined([s.area for s in seen], np.float64),
            [rle for s in seen for rle in s.truth_masks or []] if "mask" in self.kinds else None,
            self._points([s.truth_keypoints for s in seen]),
        )
        found = Found(
            np.repeat(np.arange(len(seen)), founds),
            _joined([s.labels for s in seen], np.int64),
            _xywh(_joined([s.boxes for s in seen], np.float64, 4)),
            _joined([s.scores for s in seen], np.float64),
            [rle for s in seen for rle in s.masks or []] if "mask" in self.kinds else None,
            self._points([s.keypoints for s in seen]),
        )
        return truth, found

    def _points(self, parts: list[Any]) -> np.ndarray | None:
        return None if self.sigmas is None else _joined(parts, np.float64, len(self.sigmas), 3)


def filled(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (h, w) bool of the pixels whose centres lie in the box x1 y1 x2 y2."""
    y, x = (np.arange(side) + 0.5 for side in size)
    return ((y >= box[1]) & (y <= box[3]))[:, None] & ((x >= box[0]) & (x <= box[2]))[None]


def _joined(parts: list[np.ndarray], dtype: type, *shape: int) -> np.ndarray:
    return np.concatenate([np.empty((0, *shape), dtype), *(np.asarray(part, dtype) for part in parts)])


def _xywh(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) float64 x1 y1 x2 y2 -> x y width height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
