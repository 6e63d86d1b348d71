"""Which class is taken for which, and the table of classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retinue.tasks.detection.average_precision import IOUS
from retinue.tasks.detection.curves import MOST, Curve, ap_101, curves_at, mean
from retinue.tasks.detection.judged import JudgedBoxes
from retinue.tasks.detection.overlaps import match, overlapping, take_in_turn


def confusion_matrix(judged: JudgedBoxes, classes: int, confidence: float, least: float = 0.5) -> np.ndarray:
    """(classes + 1, classes + 1) int64 counts of detections with at least this confidence.

    The row is the true class, the column the predicted one; the last row is background that was taken for an object,
    the last column objects that were not seen. Right pairs are made first, by COCO's matching, so that the
    diagonal is what AP counts at this confidence; then what is left over, of any class, by descending score and
    overlap. A detection in a crowd of its class is not counted.
    """
    judged.truths(classes)
    judged = judged.top(MOST)
    judged = judged.only(judged.scores >= confidence)
    pairs = overlapping(judged, least)
    matched, ignored = match(judged, pairs, least)
    free = ~judged.truth_crowd
    free[matched[matched >= 0]] = False
    open_ = (matched < 0) & ~ignored
    confused, _ = take_in_turn(judged, pairs.where(open_[pairs.detection] & free[pairs.truth]))
    matched = np.maximum(matched, confused)
    free[matched[matched >= 0]] = False
    true = np.append(judged.truth_labels, classes)[matched]  # -1, none, is the last one: background
    codes = np.concatenate(
        [
            (true * (classes + 1) + judged.labels)[~ignored],
            judged.truth_labels[free] * (classes + 1) + classes,
        ]
    )
    return np.bincount(codes, minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)


@dataclass(frozen=True)
class ClassRow:
    """One class: how many truths, COCO's AP and AP50, and where its F1 at an overlap of 0.5 is best.

    precision, recall and f1 are those of the detections with at least `confidence`. All are NaN where there is no
    truth, and the last four where nothing is found.
    """

    name: str
    truths: int
    ap: float
    ap50: float
    precision: float
    recall: float
    f1: float
    confidence: float


def class_table(judged: JudgedBoxes, names: Sequence[str]) -> list[ClassRow]:
    """A row a class, in the order of the classes."""
    by_threshold = curves_at(judged, len(names), IOUS)
    rows = []
    for i, name in enumerate(names):
        aps = [ap_101(curves[i]) for curves in by_threshold]
        curve = by_threshold[0][i]
        confidence = curve.best_confidence()
        best = curve.at(np.array(confidence))
        precision, recall, f1 = (float(v) if np.isfinite(confidence) else float("nan") for v in best)
        rows.append(ClassRow(name, curve.truths, mean(aps), aps[0], precision, recall, f1, confidence))
    return rows


def best_confidence(curves: Sequence[Curve]) -> tuple[float, float]:
    """The confidence at which the mean F1 over classes with a truth is best, and that F1; NaN if nothing is found."""
    curves = [curve for curve in curves if curve.truths]
    scores = np.unique(np.concatenate([np.empty(0), *(curve.scores[curve.right] for curve in curves)]))
    if not len(scores):
        return float("nan"), float("nan")
    f1 = np.mean([curve.at(scores)[2] for curve in curves], 0)
    return float(scores[f1.argmax()]), float(f1.max())
