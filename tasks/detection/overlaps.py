"""Which detections overlap which truths, and COCO's rule for who finds whom."""

from typing import NamedTuple

import numpy as np

from retinue.tasks.detection.judged import JudgedBoxes

CHUNK = 1 << 20
"""So many pairs of boxes are held at once: 8 MB a column."""


class Pairs(NamedTuple):
    """Detections and truths of one picture that overlap: (p,) rows of both, and their overlap."""

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray

    def where(self, keep: np.ndarray) -> "Pairs":
        """Some of the pairs, by mask."""
        return Pairs(*(column[keep] for column in self))


def overlapping(judged: JudgedBoxes, least: float, regions: bool = True, inclusive: bool = False) -> Pairs:
    """Every detection with every truth of its picture that it overlaps by at least `least` > 0, of any class.

    The overlap is intersection over union. With `regions`, that with a crowd is the share of the detection inside
    it, as in COCO. With `inclusive`, coordinates are indices of pixels and the last one belongs to the box: a
    width is x2 - x1 + 1, as in Pascal VOC's devkit.
    """
    pictures = len(judged.picture_ids)
    truths = np.bincount(judged.truth_picture, minlength=pictures)
    first = np.cumsum(truths) - truths
    stops = np.cumsum(truths[judged.picture])
    found = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    start = 0
    while start < len(stops):
        done = stops[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(stops, done + CHUNK, "right")))
        picture = judged.picture[start:stop]
        detection = np.repeat(np.arange(start, stop), truths[picture])
        truth = np.arange(done, stops[stop - 1]) + np.repeat(
            first[picture] - (stops[start:stop] - truths[picture]), truths[picture]
        )
        iou = _overlap(judged, detection, truth, regions, 1.0 if inclusive else 0.0)
        found.append(Pairs(detection, truth, iou).where(iou >= least))
        start = stop
    return Pairs(*(np.concatenate(column) for column in zip(*found)))


def _overlap(
    judged: JudgedBoxes, detection: np.ndarray, truth: np.ndarray, regions: bool, pixel: float
) -> np.ndarray:
    """(p,) float64, the overlap of pairs; 0 where it is 0 of 0."""
    area, truth_area = (
        np.prod(boxes[:, 2:] - boxes[:, :2] + pixel, 1) for boxes in (judged.boxes, judged.truth_boxes)
    )
    a, b = judged.boxes.T, judged.truth_boxes.T
    width = np.minimum(a[2][detection], b[2][truth]) - np.maximum(a[0][detection], b[0][truth]) + pixel
    height = np.minimum(a[3][detection], b[3][truth]) - np.maximum(a[1][detection], b[1][truth]) + pixel
    shared = width.clip(0) * height.clip(0)
    whole = area[detection] + truth_area[truth] - shared
    if regions:
        whole = np.where(judged.truth_crowd[truth], area[detection], whole)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def match(judged: JudgedBoxes, pairs: Pairs, least: float) -> tuple[np.ndarray, np.ndarray]:
    """COCO's matching within classes: (n,) int64, the truth that each detection finds or -1, and (n,) bool, ignored.

    By descending score, a detection finds the free truth of its class that it overlaps most, and by at least
    `least`; of equal overlaps the later truth. One that finds none but lies in a crowd of its class is ignored.
    """
    pairs = pairs.where(
        (pairs.iou >= least) & (judged.labels[pairs.detection] == judged.truth_labels[pairs.truth])
    )
    crowd = judged.truth_crowd[pairs.truth]
    matched, _ = take_in_turn(judged, pairs.where(~crowd))
    ignored = np.zeros(len(matched), np.bool_)
    ignored[pairs.detection[crowd]] = True
    return matched, ignored & (matched < 0)


def take_in_turn(judged: JudgedBoxes, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int64, the truth that each detection takes or -1, and (t,) the detection by which each is taken or -1.

    By descending score, a detection takes of its truths in `pairs` the free one that it overlaps most.
    """
    rank = np.empty(len(judged.scores), np.int64)
    rank[judged.order] = np.arange(len(rank))
    turn = np.lexsort((-pairs.truth, -pairs.iou, rank[pairs.detection]))
    matched, taken = [-1] * len(rank), [-1] * len(judged.truth_labels)
    for detection, truth in zip(pairs.detection[turn].tolist(), pairs.truth[turn].tolist()):
        if matched[detection] < 0 and taken[truth] < 0:
            matched[detection], taken[truth] = truth, detection
    return np.array(matched, np.int64), np.array(taken, np.int64)


def best_truth(pairs: Pairs, detections: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int64, the truth that each detection overlaps most or -1, of equal ones the first; and (n,) how much."""
    turn = np.lexsort((-pairs.truth, pairs.iou))
    truth, iou = np.full(detections, -1), np.zeros(detections)
    truth[pairs.detection[turn]] = pairs.truth[turn]  # the last one written stays
    iou[pairs.detection[turn]] = pairs.iou[turn]
    return truth, iou
