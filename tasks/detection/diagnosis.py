"""What a low AP may come from, in words: boxes in another form or scale, labels shifted, nothing predicted at all."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from retinue.tasks.detection.average_precision import average_precision
from retinue.tasks.detection.coco_engines import Counts, Found, Truth

LOW = 0.5
"""AP50 below this is looked into: labels that are shifted by one need not give 0."""
PICTURES = 300
"""So many pictures with truth are looked at."""

Reading = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(boxes (n, 4) x y width height as they were understood, picture widths and heights (n, 4)) -> as they were meant."""


def _corners_as_sizes(b: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1)


def _sizes_as_corners(b: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.concatenate([b[:, :2], b[:, 2:] + b[:, :2]], 1)


def _centred(b: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, 2:]], 1)


FORMS: dict[str, Reading] = {
    "": lambda b, _: b,
    "are x y width height where x1 y1 x2 y2 is expected": _sizes_as_corners,
    "are x1 y1 x2 y2 where x y width height is expected": _corners_as_sizes,
    "begin with their centres, not their corners": _centred,
    "are centre x, centre y, width, height where x1 y1 x2 y2 is expected": lambda b, s: _centred(
        _sizes_as_corners(b, s), s
    ),
    "have x and y swapped": lambda b, _: b[:, [1, 0, 3, 2]],
}
SCALES: dict[str, Reading] = {
    "": lambda b, _: b,
    "are parts of the picture's width and height, not pixels": lambda b, s: b * s,
    "were multiplied by the picture's width and height though they are pixels": lambda b, s: (
        b / s.clip(min=1)
    ),
    "are of a picture of half the size": lambda b, _: b * 2,
    "are of a picture of twice the size": lambda b, _: b / 2,
}
"""What predicted boxes may be instead of what is expected -> how they are then read; each form in each scale."""


def diagnose(
    truth: Truth, found: Found, counts: Counts, names: Sequence[str], sizes: np.ndarray | None = None
) -> list[str]:
    """Sentences on what a low AP50 of boxes comes from; none where it is not low or nothing simple explains it.

    names: of the classes. sizes: (pictures, 2) heights and widths in pixels, 0 where unknown.
    """
    if truth.crowd.all():
        return ["There is no truth to find: the data have no objects (crowds do not count)."]
    if not len(found):
        return [
            "There are no predictions at all: the score threshold is too high, or the model found nothing."
        ]
    here, there = np.unique(found.pictures), np.unique(truth.pictures[~truth.crowd])
    if not len(np.intersect1d(here, there)):
        return [
            f"No picture has both: {len(here)} have predictions only, {len(there)} truth only; "
            f"are these predictions of other pictures?"
        ]
    truth, found = _some(truth, found, there)
    before = _ap50(truth, found, counts)
    if not before < LOW:
        return []
    found, sentences = _reread(truth, found, counts, sizes)
    sentences += _labels(truth, found, counts, names)
    if not sentences and before == 0:
        sentences = [
            "No prediction has the place and class of an object, and no simple mistake explains it: draw a few."
        ]
    return sentences


def _some(truth: Truth, found: Found, pictures: np.ndarray) -> tuple[Truth, Found]:
    """At most `PICTURES` pictures that have truth, and boxes only."""
    t, f = (np.isin(side.pictures, pictures[:PICTURES]) for side in (truth, found))
    return (
        Truth(truth.pictures[t], truth.labels[t], truth.xywh[t], truth.crowd[t], truth.area[t]),
        Found(found.pictures[f], found.labels[f], found.xywh[f], found.scores[f]),
    )


def _ap50(truth: Truth, found: Found, counts: Counts) -> float:
    return average_precision(truth, found, counts).figures()["AP50"]


def _without_classes(truth: Truth, found: Found, counts: Counts) -> float:
    """AP50 with all objects of one class."""
    one_truth = replace(truth, labels=np.zeros_like(truth.labels))
    one_found = replace(found, labels=np.zeros_like(found.labels))
    return _ap50(one_truth, one_found, counts._replace(classes=1))


def _reread(truth: Truth, found: Found, counts: Counts, sizes: np.ndarray | None) -> tuple[Found, list[str]]:
    """The detections as they were probably meant, and the sentence that says so."""
    frame = np.zeros((len(found), 4)) if sizes is None else np.tile(sizes[found.pictures][:, ::-1], 2)
    as_is = _without_classes(truth, found, counts)
    best, meant, what = as_is, found, ""
    for (form, read), (scale, rescale) in itertools.product(FORMS.items(), SCALES.items()):
        other = replace(found, xywh=rescale(read(found.xywh, frame), frame))
        if (value := _without_classes(truth, other, counts)) > best:
            best, meant, what = value, other, " and ".join(filter(None, (form, scale)))
    if not _clearly(best, as_is):
        return found, []
    return meant, [
        f"The predicted boxes probably {what}: without regard to classes AP50 would be {best:.2f}, not {as_is:.2f}."
    ]


def _labels(truth: Truth, found: Found, counts: Counts, names: Sequence[str]) -> list[str]:
    predicted, true = set(found.labels.tolist()), set(truth.labels[~truth.crowd].tolist())
    sentences = []
    if not predicted & true:
        sentences.append(
            f"No class is in both: predicted are {_listed(predicted, names)}, true are {_listed(true, names)}."
        )
    as_is, whatever = _ap50(truth, found, counts), _without_classes(truth, found, counts)
    if not _clearly(whatever, as_is):
        return sentences
    for shift, words in ((1, "one too low (counted from 0, the truth from 1)"), (-1, "one too high")):
        labels = found.labels + shift
        kept = (labels >= 0) & (labels < counts.classes)
        other = Found(found.pictures[kept], labels[kept], found.xywh[kept], found.scores[kept])
        value = _ap50(truth, other, counts)
        if _clearly(value, as_is) and value > 0.75 * whatever:
            sentences.append(
                f"The predicted labels are probably {words}: moved by {shift:+d}, AP50 would be {value:.2f}, "
                f"not {as_is:.2f}."
            )
            return sentences
    sentences.append(
        f"The boxes are right and the classes wrong: without regard to classes AP50 would be {whatever:.2f}, "
        f"not {as_is:.2f}; compare the class lists of model and data."
    )
    return sentences


def _clearly(value: float, other: float) -> bool:
    return value >= other + 0.1 and value >= 2 * other


def _listed(labels: set[int], names: Sequence[str]) -> str:
    words = [names[label] for label in sorted(labels)]
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def missing(values: Mapping[str, float]) -> list[str]:
    """Sentences on the figures that are NaN."""
    absent = [key for key, value in values.items() if value != value]
    sizes = [key for key in absent if key.count("/") == 1 and key[-1] in "sml"]
    classes = [key.split("/", 2)[2] for key in absent if key.count("/") > 1]
    classes = list(dict.fromkeys(classes))
    if absent and len(sizes) < len([key for key in absent if key.count("/") == 1]):
        return ["n/a: there is no ground truth."]
    sentences = [f"n/a: no ground truth of this size: {', '.join(sizes)}."] if sizes else []
    if classes:
        more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
        sentences.append(f"n/a: no ground truth of the classes {', '.join(classes[:10])}{more}.")
    return sentences
