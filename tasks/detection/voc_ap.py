"""Average precision as Pascal VOC takes it (Everingham et al. 2010, IJCV 88, section 4.2; 2015, IJCV 111)."""

from typing import Literal

import numpy as np

from retinue.tasks.detection.curves import Curve, split_by_class
from retinue.tasks.detection.judged import JudgedBoxes
from retinue.tasks.detection.overlaps import best_truth, overlapping

Points = Literal["area", "11"]


def voc_ap(
    judged: JudgedBoxes, classes: int, least: float = 0.5, points: Points = "area", inclusive: bool = False
) -> np.ndarray:
    """(classes,) float64 in [0, 1], the AP of every class; NaN for one without a truth. Their mean is VOC's mAP.

    points: "area" under the interpolated curve, VOC's since 2010, or the mean at "11" recalls, until 2009.
    inclusive: coordinates are indices of pixels, areas count the last one too, as the devkit has it; without it
    boxes are continuous. `truth_crowd` marks what VOC calls difficult.
    """
    take = {"area": ap_area, "11": ap_11}[points]
    return np.array([take(curve) for curve in voc_curves(judged, classes, least, inclusive)])


def voc_curves(judged: JudgedBoxes, classes: int, least: float = 0.5, inclusive: bool = False) -> list[Curve]:
    """The curve of every class under the devkit's matching.

    A detection stands for the truth of its class that it overlaps most, and by at least `least`. The best scored one
    that stands for a truth is right, every further one wrong: it does not fall back on its second best truth,
    as COCO's does. One that stands for a difficult truth is not counted.
    """
    truths = judged.truths(classes)
    pairs = overlapping(judged, least, regions=False, inclusive=inclusive)
    pairs = pairs.where(judged.labels[pairs.detection] == judged.truth_labels[pairs.truth])
    truth, _ = best_truth(pairs, len(judged.labels))
    order = judged.order[truth[judged.order] >= 0]
    _, first = np.unique(truth[order], return_index=True)
    right = np.zeros(len(truth), np.bool_)
    right[order[first]] = True
    difficult = np.append(judged.truth_crowd, False)[truth]  # -1, none, is the last one
    return split_by_class(judged.labels, judged.scores, right, truths, ~difficult)


def ap_area(curve: Curve) -> float:
    """The area under the interpolated curve, whose precision at a recall is the best at that or a higher one."""
    return float(curve.envelope[curve.right].sum() / curve.truths) if curve.truths else float("nan")


def ap_11(curve: Curve) -> float:
    """The mean of the interpolated precision at the recalls 0, 0.1, ..., 1."""
    if not curve.truths:
        return float("nan")
    needed = -(
        -np.arange(11) * curve.truths // 10
    )  # truths to be found for a recall: in integers 3 of 10 is 0.3
    places = np.searchsorted(curve.found, needed, "left")
    return float(np.append(curve.envelope, 0.0)[places].mean())
