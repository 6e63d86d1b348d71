"""Precision, recall and F1 of each class along its detections, and COCO's AP under them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retinue.tasks.detection.average_precision import RECALLS
from retinue.tasks.detection.judged import JudgedBoxes
from retinue.tasks.detection.overlaps import match, overlapping

MOST = 100
"""So many detections a picture and class are counted, COCO's maxDets."""


@dataclass(frozen=True)
class Curve:
    """One class: what is counted of its detections, by descending score.

    scores: (n,) float64. right: (n,) bool, found a truth. truths: how many there are to be found.
    """

    scores: np.ndarray
    right: np.ndarray
    truths: int

    @property
    def found(self) -> np.ndarray:
        """(n,) int64, the truths found by the first 1, 2, ... n detections."""
        return np.cumsum(self.right)

    @property
    def precision(self) -> np.ndarray:
        """(n,) float64, the share of the first 1, 2, ... n detections that is right."""
        return self.found / np.arange(1, len(self.right) + 1)

    @property
    def recall(self) -> np.ndarray:
        """(n,) float64, the share of the truths that is found; NaN where there are none."""
        return self.found / self.truths if self.truths else np.full(len(self.right), np.nan)

    @property
    def envelope(self) -> np.ndarray:
        """(n,) float64, the best precision at this recall or a higher one."""
        return np.maximum.accumulate(self.precision[::-1])[::-1]

    def at(self, confidences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and F1 of the detections with at least these confidences, each like `confidences`.

        Precision is NaN where there is no detection, recall and F1 where there is no truth.
        """
        kept = np.searchsorted(-self.scores, -np.asarray(confidences), "right")
        found = np.concatenate([[0], self.found])[kept]
        with np.errstate(invalid="ignore"):
            precision, recall = found / kept, found / np.float64(self.truths)
            f1 = 2 * found / (kept + np.float64(self.truths))
        return precision, recall, f1 if self.truths else np.full_like(f1, np.nan)

    def best_confidence(self) -> float:
        """The highest confidence at which F1 is greatest; NaN where nothing is found."""
        if not self.right.any():
            return float("nan")
        f1 = self.at(self.scores)[2]
        return float(self.scores[f1.argmax()])


def class_curves(judged: JudgedBoxes, classes: int, least: float = 0.5) -> list[Curve]:
    """The curve of every class under COCO's matching (`match`) at one least overlap."""
    return curves_at(judged, classes, (least,))[0]


def curves_at(
    judged: JudgedBoxes, classes: int, thresholds: Sequence[float] | np.ndarray
) -> list[list[Curve]]:
    """The curves of every class at each of several least overlaps, `[threshold][class]`."""
    truths = judged.truths(classes)
    judged = judged.top(MOST)
    pairs = overlapping(judged, min(thresholds))
    curves = []
    for least in thresholds:
        matched, ignored = match(judged, pairs, least)
        curves.append(split_by_class(judged.labels, judged.scores, matched >= 0, truths, ~ignored))
    return curves


def split_by_class(
    labels: np.ndarray, scores: np.ndarray, right: np.ndarray, truths: np.ndarray, counted: np.ndarray
) -> list[Curve]:
    """One curve a class of detections (n,) with labels, scores, `right` and `counted`, and truths (k,) a class."""
    rows = np.flatnonzero(counted)
    rows = rows[np.lexsort((-scores[rows], labels[rows]))]
    stops = np.searchsorted(labels[rows], np.arange(len(truths)), "right")
    parts = np.split(rows, stops)[: len(truths)]
    return [Curve(scores[part], right[part], int(count)) for part, count in zip(parts, truths)]


def ap_101(curve: Curve) -> float:
    """AP of one class as COCO takes it: the mean of the envelope at recalls 0, 0.01, ..., 1; NaN without a truth."""
    if not curve.truths:
        return float("nan")
    places = np.searchsorted(curve.recall, RECALLS, "left")
    return float(np.append(curve.envelope, 0.0)[places].mean())


def mean(values: list[float] | np.ndarray) -> float:
    """The mean of those that are not NaN; NaN where there are none."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else float("nan")
