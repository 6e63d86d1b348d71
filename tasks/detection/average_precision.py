"""COCO's average precision and recall of boxes, masks and keypoints: from flat arrays to curves and to flat figures.

Lin et al. 2014 (arXiv:1405.0312), https://cocodataset.org/#detection-eval, with pycocotools' numbers. What there is
no truth for is NaN, "n/a" when printed, never -1; without predictions the figures are 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retinue.datasets.targets import PERSON_KEYPOINTS, DataError
from retinue.tasks.detection.coco_engines import Counts, Engine, Found, Truth, trusted_engine

IOUS = np.linspace(0.5, 0.95, 10)
"""The IoU (for keypoints OKS) thresholds that AP and AR average over."""
RECALLS = np.linspace(0, 1, 101)
"""The recalls at which precision is read."""
COCO_SIGMAS = np.array(PERSON_KEYPOINTS["sigmas"])
"""OKS sigmas of COCO's 17 keypoints of a person."""

DIGITS = 15
"""Figures are rounded so: pycocotools adds 2e-16 to a denominator, by which perfect is a little less than 1."""

FIGURES: dict[str, tuple[bool, float | None, int, int]] = {
    "AP": (True, None, 0, -1),
    "AP50": (True, 0.5, 0, -1),
    "AP75": (True, 0.75, 0, -1),
    "APs": (True, None, 1, -1),
    "APm": (True, None, 2, -1),
    "APl": (True, None, 3, -1),
    "AR1": (False, None, 0, 0),
    "AR10": (False, None, 0, 1),
    "AR100": (False, None, 0, 2),
    "ARs": (False, None, 1, -1),
    "ARm": (False, None, 2, -1),
    "ARl": (False, None, 3, -1),
}
"""The 12 figures of boxes and masks in COCO's order: is it a precision, at which IoU, area, most detections."""
KEYPOINT_FIGURES: dict[str, tuple[bool, float | None, int, int]] = {
    "AP": (True, None, 0, 0),
    "AP50": (True, 0.5, 0, 0),
    "AP75": (True, 0.75, 0, 0),
    "APm": (True, None, 1, 0),
    "APl": (True, None, 2, 0),
    "AR": (False, None, 0, 0),
    "AR50": (False, 0.5, 0, 0),
    "AR75": (False, 0.75, 0, 0),
    "ARm": (False, None, 1, 0),
    "ARl": (False, None, 2, 0),
}
"""The 10 figures of keypoints."""


@dataclass(frozen=True)
class Curves:
    """Precision and recall of every class, NaN where there is no truth.

    precision, scores: (10, 101, classes, areas, limits) float64, over `IOUS` and `RECALLS`: the interpolated
    precision, and the score at which that recall is reached. recall: (10, classes, areas, limits), the highest.
    Areas are all, small (up to 32^2), medium (up to 96^2), large; limits are the 1, 10 and 100 best detections of a
    picture and class. For keypoints areas are all, medium, large, and the one limit is 20.
    """

    kind: str
    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray

    def figures(self) -> dict[str, float]:
        """COCO's 12 figures, for keypoints 10, in [0, 1], in its order; NaN where there is no truth."""
        table = KEYPOINT_FIGURES if self.kind == "keypoints" else FIGURES
        return {name: self._mean(*choice) for name, choice in table.items()}

    def _mean(self, is_precision: bool, iou: float | None, area: int, limit: int) -> float:
        values = (self.precision if is_precision else self.recall)[..., area, limit]
        if iou is not None:
            values = values[np.isclose(IOUS, iou)]
        values = values[~np.isnan(values)]
        return round(float(values.mean()), DIGITS) if values.size else float("nan")

    def per_class(self, iou: float | None = None) -> np.ndarray:
        """(classes,) float64: AP of each class over all IoUs or at one of them; NaN without truth."""
        values = self.precision[..., 0, -1]
        if iou is not None:
            values = values[np.isclose(IOUS, iou)]
        return values.mean((0, 1)).round(DIGITS)


def average_precision(
    truth: Truth,
    found: Found,
    counts: Counts,
    kind: str = "box",
    sigmas: Sequence[float] | np.ndarray | None = None,
    engine: Engine | None = None,
) -> Curves:
    """Judge detections of boxes, masks or keypoints.

    sigmas: (K,) OKS sigmas of the keypoints, by default COCO's 17. engine: by default hotcoco, once it has given
    pycocotools' numbers. Raises DataError for scores and places that are not finite, and for keypoints without sigmas.
    """
    for name in ("xywh", "scores", "keypoints"):
        refuse_non_finite(getattr(found, name), name, found.pictures)
    spread = oks_sigmas(sigmas, truth.keypoints, found.keypoints) if kind == "keypoints" else None
    arrays = (engine or trusted_engine(kind))(truth, found, counts, kind, spread)
    return Curves(kind, *(np.where(values < 0, np.nan, values) for values in arrays))


LISTED = 100
"""Up to so many classes have a figure each among the values."""


def flat_figures(curves: Mapping[str, Curves], names: Sequence[str]) -> dict[str, float]:
    """`box/AP`, `box/AP50`, ... of every kind in order, then `box/AP/NAME` of up to 100 classes; NaN without truth."""
    values = {
        f"{kind}/{name}": value for kind, one in curves.items() for name, value in one.figures().items()
    }
    if len(names) <= LISTED:
        for kind, one in curves.items():
            values |= {f"{kind}/AP/{name}": value for name, value in zip(names, one.per_class().tolist())}
    return values


def refuse_non_finite(values: np.ndarray | None, what: str, names: Sequence[Any] | np.ndarray) -> None:
    """DataError for the first row with NaN or infinity; names: what each row's picture is called.

    (pycocotools would give AP 1 where all scores are NaN.)
    """
    if values is None or not len(values):
        return
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"picture {names[row]}: a detection's {what} {np.asarray(values[row]).tolist()} is not finite "
            f"({int(bad.sum())} of {len(values)} detections); the model diverged or the file is broken"
        )


def oks_sigmas(sigmas: Sequence[float] | np.ndarray | None, *keypoints: np.ndarray | None) -> np.ndarray:
    """(K,) float64 sigmas for the keypoints given; DataError where none are known or their number is another."""
    points = {array.shape[1] for array in keypoints if array is not None and len(array)}
    if sigmas is None or not len(sigmas):
        if points - {len(COCO_SIGMAS)}:
            raise DataError(
                f"{points.pop()} keypoints without OKS sigmas: only COCO's 17 have known ones; "
                f'give the classes\' keypoints "sigmas", one a point (0.05 for all is a start)'
            )
        return COCO_SIGMAS
    if points - {len(sigmas)}:
        raise DataError(f"{points.pop()} keypoints but {len(sigmas)} OKS sigmas; give one a point")
    return np.asarray(sigmas, np.float64)
