"""Mean intersection over union and what surrounds it, counted pixel by pixel."""

import math
from collections.abc import Iterable, Sequence
from typing import Self

import cv2
import numpy as np

from retinue.datasets.targets import IGNORE, ClassMap, DataError, Target
from retinue.tasks.segmentation.boundary import boundary_width, near_boundary
from retinue.tasks.segmentation.results import Segmentation

EXACT = 2**24
"""Up to so many, OpenCV's float32 histograms hold every count exactly."""
TRUTH, PREDICTION = 1, 2
"""Bits of the last axis of `SegmentationMetric.counts`: near the boundary of the true class, of the predicted one."""


class SegmentationMetric:
    """Figures of label maps, exact in any order and any split over processes: only integers are kept.

    boundary: also judge boundaries, in about three times the time.

    `counts`: (k, k, 4) int64, pixels by true class, predicted class, and whether they are near the boundary of the one
    (1), the other (2), both (3) or none (0); (k, k, 1) without boundaries. Pixels of 255 in the truth are not counted.
    """

    def __init__(self, classes: ClassMap, boundary: bool = True) -> None:
        self.classes, self.boundary = classes, boundary
        k = len(classes)
        self.counts = np.zeros((k, k, 4 if boundary else 1), np.int64)
        self.ids: set[str] = set()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def confusion(self) -> np.ndarray:
        """(k, k) int64 numbers of pixels; the row is the true class, the column the predicted one."""
        return self.counts.sum(-1)

    def update(self, ids: Sequence[str], results: Sequence[Segmentation], targets: Sequence[Target]) -> None:
        """Take in a batch. targets: `semantic` (h, w) in the file's own pixels, as the results are.

        Raises ValueError for an id taken in twice, DataError naming the picture where truth and prediction differ in
        size or have values outside the classes. What is predicted at ignored pixels does not matter.
        """
        for id, result, target in zip(ids, results, targets, strict=True):
            if id in self.ids:
                raise ValueError(f"picture {id!r} was evaluated before")
            self.counts += self._count(id, np.asarray(target["semantic"]), result.labels)
            self.ids.add(id)

    def _count(self, id: str, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """The `counts` of one picture."""
        if truth.shape != predicted.shape:
            raise DataError(
                f"{id}: the truth is {_size(truth)} pixels (width x height), the prediction {_size(predicted)}: "
                "bring both to the picture's own size; classes are never interpolated"
            )
        truth, predicted = self._as_bytes(id, "truth", truth), self._as_bytes(id, "prediction", predicted)
        known = truth != IGNORE
        maps = [truth, predicted]
        if self.boundary:
            width = boundary_width(*truth.shape)
            near_true, near_found = (near_boundary(labels, known, width) for labels in maps)
            maps.append(near_true * np.uint8(TRUTH) + near_found * np.uint8(PREDICTION))
        counts = histogram(maps, self.counts.shape[: len(maps)]).reshape(self.counts.shape)
        if counts.sum() != np.count_nonzero(known):
            beyond = [side[known & (side >= len(self.classes))] for side in (truth, predicted)]
            side = "truth" if len(beyond[0]) else "prediction"
            self._refuse(id, side, np.unique(beyond[0] if len(beyond[0]) else beyond[1]))
        return counts

    def _as_bytes(self, id: str, side: str, labels: np.ndarray) -> np.ndarray:
        # All bits of all values: beyond a byte's if any value is, negative if any is.
        if labels.dtype != np.uint8 and not 0 <= np.bitwise_or.reduce(labels, axis=None) <= IGNORE:
            self._refuse(id, side, np.unique(labels[(labels < 0) | (labels > IGNORE)]))
        return np.ascontiguousarray(labels, np.uint8)

    def _refuse(self, id: str, side: str, values: np.ndarray) -> None:
        raise DataError(
            f"{id}: the {side} has values {values.tolist()[:10]}, which are none of the {len(self.classes)} classes "
            f"{list(self.classes.names[:5])} ... ({IGNORE} in the truth is ignored): evaluate on data with the "
            "classes of the training"
        )

    def merge(self, other: Self) -> None:
        """Take in all that another process collected; ValueError if both saw the same picture."""
        if twice := self.ids & other.ids:
            raise ValueError(f"pictures were evaluated twice: {sorted(twice)[:5]}")
        self.ids |= other.ids
        self.counts += other.counts

    def compute(self) -> dict[str, float]:
        """`miou`, `pixel_accuracy`, `class_accuracy`, `fwiou`, `boundary_iou`, then `miou/NAME` ... of every class.

        All are in [0, 1], of the pixels of all pictures together.
        `miou`: intersection over union of true and predicted pixels of a class, mean over the classes that occur in
        truth or prediction. A class in neither has no value, NaN, and is left out: 0 would blame the model and 1 praise
        it for what was not asked. A class that is only predicted has 0, since its false pixels are errors.
        `pixel_accuracy`: share of the pixels that are right. `class_accuracy`: share of a class's true pixels that
        are, mean over the classes with true pixels. `fwiou`: the mean of the IoU weighted by the classes' true pixels
        (Long et al. 2015, arXiv:1411.4038, section 5, has these four).
        `boundary_iou`: IoU of the pixels near the boundary of their class in truth and in prediction, mean over the
        classes that have any (Cheng et al. 2021, arXiv:2103.16562; the pixels of all pictures are summed before
        dividing, as for `miou`).
        What there is no pixel for is NaN.
        """
        of_class = self.per_class()
        truth, iou = self.confusion.sum(1), of_class["miou"]
        pixels = int(truth.sum())
        right = int(self.confusion.trace())
        weighted = math.fsum(n * v for n, v in zip(truth.tolist(), iou.tolist()) if n)
        values = {
            "miou": mean(iou),
            "pixel_accuracy": right / pixels if pixels else math.nan,
            "class_accuracy": mean(of_class["class_accuracy"]),
            "fwiou": weighted / pixels if pixels else math.nan,
        }
        if self.boundary:
            values["boundary_iou"] = mean(of_class["boundary_iou"])
        for figure, shares in of_class.items():
            values |= {f"{figure}/{name}": value for name, value in zip(self.classes.names, shares.tolist())}
        return values

    def per_class(self) -> dict[str, np.ndarray]:
        """The figures that are a mean over classes -> the classes' own (k,) float64, NaN where there is none."""
        confusion, right = self.confusion, self.confusion.diagonal()
        truth, predicted = confusion.sum(1), confusion.sum(0)
        figures = {"miou": _shares(right, truth + predicted - right), "class_accuracy": _shares(right, truth)}
        if self.boundary:
            both = self.counts[..., TRUTH | PREDICTION]
            true = (self.counts[..., TRUTH] + both).sum(1)
            found = (self.counts[..., PREDICTION] + both).sum(0)
            shared = both.diagonal()
            figures["boundary_iou"] = _shares(shared, true + found - shared)
        return figures

    def notes(self) -> list[str]:
        """Sentences about the figures that are NaN: which classes there are no pixels of."""
        confusion = self.confusion
        truth, predicted = confusion.sum(1) > 0, confusion.sum(0) > 0
        if not truth.any():
            return ["n/a: no pixel has a true class."]
        sentences = []
        if absent := self._named(~truth & ~predicted):
            sentences.append(f"n/a and left out of the means: no pixel, true or predicted, of {absent}.")
        if untrue := self._named(~truth & predicted):
            sentences.append(
                f"Predicted without a true pixel: {untrue}; class_accuracy is n/a, the IoU 0 and in the mean."
            )
        if self.boundary:
            borderless = np.isnan(self.per_class()["boundary_iou"]) & (truth | predicted)
            if enclosed := self._named(borderless):
                sentences.append(f"boundary_iou is n/a: only ignored pixels around all of {enclosed}.")
        return sentences

    def _named(self, which: np.ndarray) -> str:
        """The classes of a mask (k,), at most ten by name; empty for none."""
        names = [self.classes.names[i] for i in np.flatnonzero(which)]
        return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def histogram(maps: Sequence[np.ndarray], bins: Sequence[int]) -> np.ndarray:
    """How often the values of two or three maps (h, w) uint8 occur together: (bins[0], bins[1], ...) int64.

    Pixels with a value that is beyond the bins in any map are not counted.
    """
    flat = [each.reshape(-1) for each in maps]
    ranges = [edge for count in bins for edge in (0, count)]
    counts = np.zeros(bins, np.int64)
    for start in range(0, flat[0].size, EXACT):
        part = [each[start : start + EXACT] for each in flat]
        counts += cv2.calcHist(part, range(len(bins)), None, bins, ranges).astype(np.int64).reshape(bins)
    return counts


def mean(values: Iterable[float]) -> float:
    """The mean of the values that are not NaN, NaN if there is none; the same in any order, to the last bit."""
    known = [float(value) for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _size(labels: np.ndarray) -> str:
    return "x".join(str(side) for side in labels.shape[::-1])
