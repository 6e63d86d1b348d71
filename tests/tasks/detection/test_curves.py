import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinue.datasets.targets import ClassMap
from retinue.tasks.detection.average_precision import IOUS
from retinue.tasks.detection.confusion import class_table
from retinue.tasks.detection.curves import Curve, ap_101, class_curves, curves_at, mean
from retinue.tasks.detection.errors import tide
from retinue.tasks.detection.metrics import DetectionMetric
from retinue.tasks.detection.results import Detections

HALF = Curve(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]), 4)
EMPTY = Curve(np.empty(0), np.empty(0, bool), 4)


def test_precision_recall_and_f1_by_hand():
    assert HALF.precision.tolist() == [1, 1 / 2, 2 / 3, 2 / 4]
    assert HALF.recall.tolist() == [0.25, 0.25, 0.5, 0.5]
    assert HALF.envelope.tolist() == [1, 2 / 3, 2 / 3, 2 / 4]
    precision, recall, f1 = HALF.at(np.array([0.95, 0.9, 0.65, 0.0]))
    assert np.isnan(precision[0]) and precision[1:].tolist() == [1, 2 / 3, 2 / 4]
    assert recall.tolist() == [0, 0.25, 0.5, 0.5] and f1.tolist() == pytest.approx([0, 2 / 5, 4 / 7, 4 / 8])
    assert HALF.best_confidence() == 0.7


def test_ap_by_hand():
    # Recall 0 to 0.25 are 26 of the 101 points, 0.26 to 0.50 are 25.
    assert ap_101(HALF) == pytest.approx((26 * 1 + 25 * 2 / 3) / 101, abs=1e-12)
    assert ap_101(EMPTY) == 0


def test_without_truth_there_is_no_number():
    nothing = Curve(np.array([0.5]), np.array([False]), 0)
    assert np.isnan(
        [ap_101(nothing), nothing.best_confidence(), EMPTY.best_confidence(), mean([]), mean([np.nan])]
    ).all()
    assert np.isnan(nothing.recall).all() and np.isnan(nothing.at(np.array([0.1]))[2]).all()
    assert mean([np.nan, 0.5]) == 0.5


def pycocotools_ap(judged, classes):
    """(10, classes) AP by least overlap and class, -1 without a truth."""

    def rows(boxes, labels, pictures, **columns):
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
        base = zip(xywh, labels.tolist(), pictures.tolist(), *(c.tolist() for c in columns.values()))
        return [
            {"bbox": box, "category_id": label, "image_id": picture, **dict(zip(columns, rest))}
            for box, label, picture, *rest in base
        ]

    truth = rows(
        judged.truth_boxes, judged.truth_labels, judged.truth_picture, iscrowd=judged.truth_crowd.astype(int)
    )
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(len(judged.picture_ids))],
        "categories": [{"id": i} for i in range(classes)],
        "annotations": [{**row, "id": i + 1, "area": 1.0} for i, row in enumerate(truth)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        found = coco.loadRes(rows(judged.boxes, judged.labels, judged.picture, score=judged.scores))
        judge = COCOeval(coco, found, "bbox")
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, 2]
    return precision.mean(1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_pycocotools_gives_the_same_ap(scattered, seed):
    judged = scattered(seed, pictures=5, classes=3)
    if not len(judged.scores):
        return
    ours = np.array([[ap_101(curve) for curve in curves] for curves in curves_at(judged, 3, IOUS)])
    assert np.abs(np.nan_to_num(ours, nan=-1) - pycocotools_ap(judged, 3)).max() <= 1e-12


def test_a_hundred_detections_a_picture_and_class_count(judge):
    box = (0, 0, 10, 10)
    wrong = [((20, 20, 30, 30), 0, 0.9)] * 100
    assert ap_101(class_curves(judge(([(box, 0)], [*wrong, (box, 0, 0.1)])), 1)[0]) == 0
    assert ap_101(class_curves(judge(([(box, 0)], [*wrong[1:], (box, 0, 0.1)])), 1)[0]) == pytest.approx(0.01)


def test_the_metric_of_training_gives_the_same(scattered):
    source, classes = scattered(5, pictures=20, classes=3), ClassMap(("a", "b", "c"))
    metric = DetectionMetric(classes)
    for i, id in enumerate(source.picture_ids):
        rows, truths = source.order[source.picture[source.order] == i], source.truth_picture == i
        boxes, scores = source.boxes[rows].astype(np.float32), source.scores[rows].astype(np.float32)
        result = Detections(id, boxes, scores, source.labels[rows], classes, (40, 40))
        target = {"boxes": source.truth_boxes, "box_labels": source.truth_labels, "crowd": source.truth_crowd}
        metric.update(
            [id], [result], [{key: torch.from_numpy(value[truths]) for key, value in target.items()}]
        )
    figures, judged = metric.compute(), metric.judged()
    assert tide(judged, 3).ap == pytest.approx(figures["box/AP50"], abs=1e-12) and figures["box/AP50"] > 0.02
    for row in class_table(judged, classes.names):
        assert row.ap == pytest.approx(figures[f"box/AP/{row.name}"], abs=1e-12)
