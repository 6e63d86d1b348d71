"""What AP is lost to: the six kinds of error of TIDE (Bolya et al. 2020, arXiv:2008.08115, sections 2.2 and 2.3)."""

from dataclasses import dataclass

import numpy as np

from retinue.tasks.detection.curves import MOST, ap_101, mean, split_by_class
from retinue.tasks.detection.judged import JudgedBoxes
from retinue.tasks.detection.overlaps import best_truth, match, overlapping

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
"""The kinds of error: wrong class in the right place, right class in a poor place, both, found again, nothing there,
and truths that no detection is even near."""


@dataclass(frozen=True)
class Assigned:
    """The verdict on every detection (n,) and truth (t,) of `judged`.

    right: (n,) bool. ignored: (n,) bool. kind: (n,) int64, index into `KINDS` of what is wrong with a detection, -1
    for nothing. target: (n,) int64, the truth that a detection finds (if right), or the one that a wrong class or
    a poor place is to be corrected to; -1 for none. found, missed: (t,) bool, never of a crowd; a truth that is
    neither is near some detection with a wrong class or place.
    """

    judged: JudgedBoxes
    right: np.ndarray
    ignored: np.ndarray
    kind: np.ndarray
    target: np.ndarray
    found: np.ndarray
    missed: np.ndarray


@dataclass(frozen=True)
class Errors:
    """AP at the least overlap (COCO's, over classes with a truth), and what correcting an error would add to it.

    gains and counts: by kind of `KINDS`, dAP and the number of such errors. false_positives, false_negatives: dAP of
    removing every wrong detection, and of asking only for the truths that are found. The gains do not add up to
    what is missing from 1: each is corrected alone. All are NaN without a truth.
    """

    ap: float
    gains: dict[str, float]
    counts: dict[str, int]
    false_positives: float
    false_negatives: float


def assign(judged: JudgedBoxes, classes: int, least: float = 0.5, near: float = 0.1) -> Assigned:
    """Say of every wrong detection what is wrong with it: `least` is the paper's t_f, `near` its t_b.

    Where two kinds fit, the earlier of localisation, classification, duplicate, both, background is taken, as in the
    authors' program. Of more than 100 detections a picture and class, the best are kept (see `Assigned.judged`).
    """
    judged.truths(classes)
    judged = judged.top(MOST)
    n = len(judged.labels)
    pairs = overlapping(judged, near)
    matched, ignored = match(judged, pairs, least)
    pairs = pairs.where(~judged.truth_crowd[pairs.truth])
    same = judged.labels[pairs.detection] == judged.truth_labels[pairs.truth]
    own, own_iou = best_truth(pairs.where(same), n)
    other, other_iou = best_truth(pairs.where(~same), n)
    wrong = (matched < 0) & ~ignored
    poor = wrong & (own >= 0) & (own_iou < least)
    confused = wrong & ~poor & (other_iou >= least)
    again = wrong & ~poor & ~confused & (own_iou >= least)
    rest = wrong & ~poor & ~confused & ~again
    kind = np.full(n, -1)
    for name, rows in (
        ("localisation", poor),
        ("classification", confused),
        ("duplicate", again),
        ("both", rest & (other >= 0)),
        ("background", rest & (other < 0)),
    ):
        kind[rows] = KINDS.index(name)
    target = np.where(poor, own, np.where(confused, other, matched))
    found, missed = np.zeros(len(judged.truth_labels), np.bool_), ~judged.truth_crowd
    found[matched[matched >= 0]] = True
    missed[target[target >= 0]] = False
    return Assigned(judged, matched >= 0, ignored, kind, target, found, missed)


def tide(judged: JudgedBoxes, classes: int, least: float = 0.5, near: float = 0.1) -> Errors:
    """The kinds of error and what each costs in AP at the overlap `least`; detections below `near` see nothing.

    Corrected are: a class or a place, by that of the truth, but only the best scored detection a truth and none of a
    truth that is found already, the others being removed; both, duplicate and background, by removing
    the detection; missed, by asking for fewer truths. A class that is left without a truth and without a detection
    has AP 1 then: nothing is left to be wrong.
    """
    verdict = assign(judged, classes, least, near)
    judged, truths = verdict.judged, judged.truths(classes)
    missed = np.bincount(judged.truth_labels[verdict.missed], minlength=classes)
    found = np.bincount(judged.truth_labels[verdict.found], minlength=classes)
    counted = ~verdict.ignored

    def ap(
        right: np.ndarray, kept: np.ndarray, labels: np.ndarray = judged.labels, asked: np.ndarray = truths
    ) -> float:
        curves = split_by_class(labels, judged.scores, right, asked, kept)
        values = [ap_101(c) if c.truths else float(not len(c.scores)) for c in curves]
        return mean(np.array(values)[truths > 0])

    def corrected(kind: int) -> float:
        rows = verdict.kind == kind
        if KINDS[kind] == "missed":
            return ap(verdict.right, counted, asked=truths - missed)
        if KINDS[kind] not in ("classification", "localisation"):
            return ap(verdict.right, counted & ~rows)
        mended = _best_of_each_truth(verdict, rows)
        labels = judged.labels.copy()
        labels[mended] = judged.truth_labels[verdict.target[mended]]
        return ap(verdict.right | mended, counted & (~rows | mended), labels)

    before = ap(verdict.right, counted)
    counts = np.bincount(verdict.kind[verdict.kind >= 0], minlength=len(KINDS))
    counts[KINDS.index("missed")] = missed.sum()
    return Errors(
        ap=before,
        gains={name: corrected(kind) - before for kind, name in enumerate(KINDS)},
        counts=dict(zip(KINDS, counts.tolist())),
        false_positives=ap(verdict.right, verdict.right) - before,
        false_negatives=ap(verdict.right, counted, asked=found) - before,
    )


def _best_of_each_truth(verdict: Assigned, rows: np.ndarray) -> np.ndarray:
    """(n,) bool, of the wrong detections `rows` (n,) the best scored one for each truth that is not found."""
    order = verdict.judged.order
    order = order[rows[order]]
    order = order[~verdict.found[verdict.target[order]]]
    _, first = np.unique(verdict.target[order], return_index=True)
    best = np.zeros(len(rows), np.bool_)
    best[order[first]] = True
    return best
