"""How many of the objects the proposals find, whatever their class: COCO's average recall of one class."""

from collections.abc import Sequence

import numpy as np

from retinue.datasets.targets import Target
from retinue.tasks.detection.average_precision import IOUS
from retinue.tasks.detection.judged import JudgedBoxes, PictureBoxes
from retinue.tasks.detection.overlaps import match, overlapping

COUNTS = (100, 1000)
"""Figures are given for so many proposals a picture."""


class ProposalRecall:
    """COCO's average recall of proposals: over IoUs from 0.5 to 0.95, of one class, counted picture by picture.

    In order, each proposal finds the free object that it overlaps most; crowds are not asked for.
    """

    def __init__(self) -> None:
        self.found = np.zeros((len(COUNTS), len(IOUS)), np.int64)
        self.objects = 0

    def update(self, proposals: Sequence[np.ndarray], targets: Sequence[Target]) -> None:
        """Take in pictures: proposals (r, 4), the best first; targets with boxes (n, 4), and crowd (n,) if any."""
        pictures = {}
        for i, (boxes, target) in enumerate(zip(proposals, targets, strict=True)):
            truth = np.asarray(target["boxes"]).reshape(-1, 4)
            crowd = np.asarray(target.get("crowd", np.zeros(len(truth), bool)))
            rank = np.arange(len(boxes))
            labels = np.zeros(len(truth), np.int64), np.zeros(len(boxes), np.int64)
            pictures[f"{i:09d}"] = PictureBoxes(truth, labels[0], crowd, boxes, -rank, labels[1])
            self.objects += int((~crowd).sum())
        judged = JudgedBoxes.from_pictures(pictures)
        pairs = overlapping(judged, IOUS[0])
        for k, least in enumerate(IOUS):
            right = match(judged, pairs, least)[0] >= 0
            for row, count in zip(self.found, COUNTS):
                row[k] += int((right & (-judged.scores < count)).sum())

    def compute(self) -> dict[str, float]:
        """`proposals/AR100` and `proposals/AR1000` in [0, 1], of at most so many a picture; NaN without objects."""
        return {
            f"proposals/AR{count}": float((row / self.objects).mean()) if self.objects else float("nan")
            for row, count in zip(self.found, COUNTS)
        }
