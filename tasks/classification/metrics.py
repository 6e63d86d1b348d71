"""Accuracy and what surrounds it: top-k, per class, confusion, log loss, calibration."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from retinue.datasets.targets import ClassMap, DataError, Target
from retinue.tasks.classification.results import Classification

LISTED = 20
"""Up to so many classes have a figure each among the values."""


class Judged(NamedTuple):
    """What is kept of one picture: a few numbers, whatever the number of classes."""

    label: int
    predicted: int
    rank: int
    """How many classes come before the true one; 0 is right."""
    probability: float
    """What the true class was given."""
    confidence: float
    """What the predicted class was given."""


class Accuracy:
    """Accuracy over a set of pictures, exact in any order and any split over processes."""

    def __init__(self, classes: ClassMap) -> None:
        self.classes = classes
        self.pictures: dict[str, Judged] = {}

    def __len__(self) -> int:
        return len(self.pictures)

    def update(
        self, ids: Sequence[str], results: Sequence[Classification], targets: Sequence[Target]
    ) -> None:
        """Take in a batch. An id taken in twice raises ValueError, a label outside the classes DataError."""
        for id, result, target in zip(ids, results, targets, strict=True):
            if id in self.pictures:
                raise ValueError(f"picture {id!r} was evaluated before")
            self.pictures[id] = self._judge(id, result.probabilities, int(target["label"]))

    def _judge(self, id: str, probabilities: np.ndarray, label: int) -> Judged:
        k = len(self.classes)
        if not 0 <= label < k or len(probabilities) != k:
            raise DataError(
                f"{id}: label {label} and {len(probabilities)} probabilities do not fit the {k} classes "
                f"{list(self.classes.names[:5])} ...: evaluate on data with the classes of the training"
            )
        truth = probabilities[label]
        # Of equal probabilities the lower index comes first, as in argmax.
        rank = int((probabilities > truth).sum() + (probabilities[:label] == truth).sum())
        return Judged(label, int(probabilities.argmax()), rank, float(truth), float(probabilities.max()))

    def merge(self, other: Self) -> None:
        """Take in all that another process collected; ValueError if both saw the same picture."""
        if twice := self.pictures.keys() & other.pictures.keys():
            raise ValueError(f"pictures were evaluated twice: {sorted(twice)[:5]}")
        self.pictures |= other.pictures

    def compute(self) -> dict[str, float]:
        """`top1`, `top5` (only of more than 5 classes), `mean_class_accuracy`, `loss`, `ece`, `top1/NAME`.

        Accuracies are in [0, 1]. `mean_class_accuracy` is the mean over the classes that occur. `loss` is the
        mean negative log probability of the true class, in nats, with probabilities clipped to the least normal
        float32. `ece` is the expected calibration error in [0, 1]. Up to 20 classes have an accuracy each.
        What there is no picture for is NaN.
        """
        table = self._table()
        values = {"top1": _mean(table["rank"] < 1)}
        if len(self.classes) > 5:
            values["top5"] = _mean(table["rank"] < 5)
        per_class = self.per_class()
        recalls = np.array(list(per_class.values()))
        values["mean_class_accuracy"] = _mean(recalls[~np.isnan(recalls)])
        values["loss"] = _mean(-np.log(table["probability"].clip(np.finfo(np.float32).tiny)))
        values["ece"] = calibration_error(table["confidence"], table["rank"] < 1)
        if len(self.classes) <= LISTED:
            values |= {f"top1/{name}": value for name, value in per_class.items()}
        return values

    def confusion(self) -> np.ndarray:
        """(k, k) int64 counts; the row is the true class, the column the predicted one."""
        table, k = self._table(), len(self.classes)
        codes = table["label"].astype(np.int64) * k + table["predicted"].astype(np.int64)
        return np.bincount(codes, minlength=k * k).reshape(k, k)

    def per_class(self) -> dict[str, float]:
        """Class name -> the share of its pictures that were recognised; NaN for a class without a picture."""
        confusion = self.confusion()
        pictures = confusion.sum(1)
        recalls = np.divide(
            confusion.diagonal(), pictures, out=np.full(len(self.classes), np.nan), where=pictures > 0
        )
        return dict(zip(self.classes.names, recalls.tolist()))

    def _table(self) -> dict[str, np.ndarray]:
        """Columns by name, in the order of the ids: sums do not depend on who evaluated what."""
        rows = np.array([self.pictures[id] for id in sorted(self.pictures)], dtype=np.float64)
        return dict(zip(Judged._fields, rows.reshape(-1, len(Judged._fields)).T))


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3); NaN without a picture.

    confidence: (n,) in [0, 1]. right: (n,) bool. The mean gap between confidence and accuracy over `bins`
    equal intervals, each open below and closed above, weighted by their pictures.
    """
    if not len(confidence):
        return float("nan")
    place = np.ceil(confidence * bins).clip(1, bins).astype(np.int64) - 1
    gaps = np.bincount(place, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
