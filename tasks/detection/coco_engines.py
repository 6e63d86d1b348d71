"""COCO's matching and precision curves over flat arrays: hotcoco in daily use, pycocotools the judge and the fallback.

Both engines are given clean input by construction: pictures, classes and annotations are numbered from 1 here,
whatever their ids were (pycocotools takes an annotation with id 0 for unmatched), `area` is always there, and
having no predictions is no special case. Numbers are those of pycocotools, Lin et al. 2014 (arXiv:1405.0312) and
https://cocodataset.org/#detection-eval; the fast engine is compared with it once a process before it is trusted.
"""

import contextlib
import functools
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinue.datasets.rle import Rle

try:
    import hotcoco
except ImportError:  # no wheel for this platform: pycocotools gives the same numbers, slower
    hotcoco = None  # type: ignore[assignment]

IOU_TYPES = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}
"""What can be judged, with COCO's name of it."""


@dataclass(frozen=True)
class Truth:
    """The annotated objects of all pictures, flat; row by row.

    pictures: (n,) int64, index of the picture. labels: (n,) int64, class index. xywh: (n, 4) float64, COCO's boxes
    x y width height in pixels. crowd: (n,) bool, ignored, never a miss. area: (n,) float64, the annotation's own,
    by which objects are small, medium or large. masks: n RLEs. keypoints: (n, K, 3) float64 x, y, visibility.
    """

    pictures: np.ndarray
    labels: np.ndarray
    xywh: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    masks: Sequence[Rle] | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Found:
    """The detections of all pictures, flat; as `Truth`, with scores: (n,) float64, any scale, higher is surer.

    Of equal scores the earlier row comes first, within a picture and over pictures (in the order of their indices),
    as pycocotools' merge sort has it.
    """

    pictures: np.ndarray
    labels: np.ndarray
    xywh: np.ndarray
    scores: np.ndarray
    masks: Sequence[Rle] | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def area(self, kind: str) -> np.ndarray:
        """(n,) float64: the area of what is judged: of the box, of the mask, or of the keypoints' extent."""
        if kind == "mask":
            return mask_areas(self.masks or [])
        with np.errstate(over="ignore"):
            if kind == "keypoints" and self.keypoints is not None and self.keypoints.size:
                return np.ptp(self.keypoints[..., :2], axis=1).prod(1)
            return self.xywh[:, 2] * self.xywh[:, 3]


class Counts(NamedTuple):
    """How many pictures and classes there are, with objects or without."""

    pictures: int
    classes: int


class Arrays(NamedTuple):
    """What an engine gives; -1 where there is no truth.

    precision, scores: (IoU, recall, class, area, most detections). recall: (IoU, class, area, most detections).
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray


Engine = Callable[[Truth, Found, Counts, str, np.ndarray | None], Arrays]
"""(truth, found, counts, kind, OKS sigmas) -> arrays."""


def mask_areas(masks: Sequence[Rle]) -> np.ndarray:
    """(n,) float64: the number of pixels of each mask."""
    # One by one: pycocotools 2.0.11 with numpy 2 raises OverflowError for more than 255 at once.
    return np.array([coco_mask.area(mask) for mask in masks], np.float64)


def by_pycocotools(truth: Truth, found: Found, counts: Counts, kind: str, sigmas: Any = None) -> Arrays:
    """The judge."""
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (_truth_dicts(truth, kind), _found_dicts(found, kind)):
            side = COCO()
            side.dataset = {**_frame(counts), "annotations": annotations}
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, IOU_TYPES[kind])
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
    return Arrays(*(evaluation.eval[name] for name in Arrays._fields))


def by_hotcoco(truth: Truth, found: Found, counts: Counts, kind: str, sigmas: Any = None) -> Arrays:
    """The fast one: arrays go in without a dict an object, but for keypoints, for which it has no columns."""
    frame = _frame(counts)
    if kind == "keypoints":
        side = hotcoco.COCO({**frame, "annotations": _truth_dicts(truth, kind)})
        results = side.load_res(_found_dicts(found, kind))
    else:
        masks = kind == "mask"
        segments: list[Any] | None = list(truth.masks or []) if masks else None
        side = hotcoco.COCO.from_arrays(
            frame["images"], frame["categories"], truth.pictures + 1, truth.labels + 1, truth.xywh,
            area=truth.area, iscrowd=truth.crowd, segmentation=segments,
        )  # fmt: skip
        columns = (found.pictures + 1, found.xywh, found.scores, found.labels + 1)
        results = side.load_res(
            np.column_stack(columns).astype(np.float64),
            segmentation=list(found.masks or []) if masks else None,
        )
        if masks and len(found):
            results.update_anns(ids=np.arange(1, len(found) + 1), area=found.area(kind))
    evaluation = hotcoco.COCOeval(side, results, IOU_TYPES[kind])
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = [float(sigma) for sigma in sigmas]
    evaluation.evaluate()
    evaluation.accumulate()
    values: Any = evaluation.eval
    return Arrays(*(np.asarray(values[name]) for name in Arrays._fields))


def _frame(counts: Counts) -> dict[str, Any]:
    return {
        "info": {},
        "images": [{"id": i, "width": 0, "height": 0} for i in range(1, counts.pictures + 1)],
        "categories": [{"id": k, "name": str(k)} for k in range(1, counts.classes + 1)],
    }


def _dicts(objects: Truth | Found, kind: str, area: np.ndarray) -> list[dict[str, Any]]:
    """What both sides' annotations have."""
    columns = (objects.pictures + 1, objects.labels + 1, objects.xywh, area)
    rows = zip(*(column.tolist() for column in columns))
    dicts = [
        {"id": i, "image_id": picture, "category_id": label, "bbox": box, "area": size, "iscrowd": 0}
        for i, (picture, label, box, size) in enumerate(rows, 1)
    ]
    if kind == "mask":
        for annotation, mask in zip(dicts, objects.masks or []):
            annotation["segmentation"] = mask
    if kind == "keypoints" and objects.keypoints is not None:
        for annotation, points in zip(dicts, map(np.ravel, objects.keypoints)):
            annotation["keypoints"] = points.tolist()
    return dicts


def _truth_dicts(truth: Truth, kind: str) -> list[dict[str, Any]]:
    dicts = _dicts(truth, kind, truth.area)
    for annotation, crowd in zip(dicts, truth.crowd.tolist()):
        annotation["iscrowd"] = int(crowd)
    if kind == "keypoints" and truth.keypoints is not None:
        for annotation, count in zip(dicts, (truth.keypoints[..., 2] > 0).sum(1).tolist()):
            annotation["num_keypoints"] = count  # an object without any is ignored
    return dicts


def _found_dicts(found: Found, kind: str) -> list[dict[str, Any]]:
    dicts = _dicts(found, kind, found.area(kind))
    for annotation, score in zip(dicts, found.scores.tolist()):
        annotation["score"] = score
        if kind == "keypoints":
            del annotation["bbox"]  # hotcoco would take its area instead of the one given
    return dicts


@functools.cache
def trusted_engine(kind: str) -> Engine:
    """hotcoco where it gives pycocotools' arrays on `check_case`, else pycocotools, said in one log line."""
    if hotcoco is None:
        reason = "hotcoco is not installed"
    else:
        case = check_case(kind)
        expected = by_pycocotools(*case)
        try:
            arrays = by_hotcoco(*case)
            same = all(
                a.shape == b.shape and np.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(arrays, expected)
            )
            reason = "" if same else f"hotcoco {hotcoco.__version__} differs from pycocotools"
        except Exception as error:  # whatever another version does: the judge is still there
            reason = f"hotcoco {hotcoco.__version__} fails ({error})"
    if not reason:
        return by_hotcoco
    logging.getLogger("retinue").warning("%s: %s AP is computed by pycocotools, slower", reason, kind)
    return by_pycocotools


def check_case(kind: str, seed: int = 0) -> tuple[Truth, Found, Counts, str, np.ndarray | None]:
    """A small case with what engines may differ in: crowd, tied scores, area borders, nothing true or nothing found."""
    rng = np.random.default_rng(seed)
    counts, n, m = Counts(5, 3), 14, 40
    truth_xywh = np.column_stack([rng.integers(0, 60, (n, 2)), rng.integers(5, 120, (n, 2))]).astype(float)
    origin = rng.integers(0, n, m)
    jitter = rng.integers(-4, 5, (m, 4)) * rng.integers(0, 3, (m, 1))
    found_xywh = (truth_xywh[origin] + jitter).clip(0) + np.array([0, 0, 1, 1])
    truth = Truth(
        rng.integers(0, counts.pictures - 1, n),
        rng.integers(0, counts.classes - 1, n),
        truth_xywh,
        rng.random(n) < 0.2,
        rng.choice([1000.0, 32**2, 5000.0, 96**2, 20000.0], n),
    )
    labels = np.where(rng.random(m) < 0.8, truth.labels[origin], rng.integers(0, counts.classes, m))
    found = Found(truth.pictures[origin], labels, found_xywh, rng.integers(1, 9, m) / 8)
    if kind == "mask":
        truth = replace(truth, masks=box_rles(truth_xywh, (200, 220)))
        found = replace(found, masks=box_rles(found_xywh, (200, 220)))
    if kind != "keypoints":
        return truth, found, counts, kind, None
    points = rng.random((n, 4, 2)) * truth_xywh[:, None, 2:] + truth_xywh[:, None, :2]
    seen = rng.integers(0, 3, (n, 4, 1)) * (rng.random((n, 1, 1)) < 0.8)
    guess = points[origin] + rng.normal(0, 3, (m, 4, 2)) * rng.integers(0, 3, (m, 1, 1))
    truth = replace(truth, keypoints=np.concatenate([points, seen], 2))
    found = replace(found, keypoints=np.concatenate([guess, np.ones((m, 4, 1))], 2))
    return truth, found, counts, kind, np.array([0.03, 0.05, 0.08, 0.1])


def box_rles(xywh: np.ndarray, size: tuple[int, int]) -> list[Rle]:
    """Filled boxes as masks of pictures of `size` (height, width)."""
    x, y, w, h = xywh.T
    polygons = np.stack([x, y, x + w, y, x + w, y + h, x, y + h], 1)
    return [coco_mask.frPyObjects([p], *size)[0] for p in polygons.tolist()]
