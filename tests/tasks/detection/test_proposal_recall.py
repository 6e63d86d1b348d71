"""Recall of proposals: small cases by hand, and COCO's own average recall without categories."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinue.tasks.detection.proposal_recall import ProposalRecall


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def recall(*pictures: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    counted = ProposalRecall()
    counted.update([found for found, _ in pictures], [{"boxes": torch.from_numpy(t)} for _, t in pictures])
    return counted.compute()


def test_by_hand() -> None:
    truth = boxes((0, 0, 10, 10), (20, 20, 30, 30))
    assert recall((truth, truth)) == {"proposals/AR100": 1.0, "proposals/AR1000": 1.0}
    # One at an IoU of 0.72, found at 0.5, 0.55, ... 0.7: 5 of 10; none for the other.
    assert recall((boxes((0, 0, 10, 7.2)), truth))["proposals/AR100"] == pytest.approx(0.25)
    # The same object is not found twice, nor two objects by one proposal.
    assert recall((boxes(*[(0, 0, 10, 10)] * 3), truth))["proposals/AR100"] == pytest.approx(0.5)
    assert recall((boxes((0, 0, 10, 10)), boxes(*[(0, 0, 10, 10)] * 2)))["proposals/AR100"] == pytest.approx(
        0.5
    )


def test_the_hundred_and_first_counts_for_a_thousand_only() -> None:
    found = np.concatenate([np.tile(boxes((50, 50, 60, 60)), (100, 1)), boxes((0, 0, 10, 10))])
    assert recall((found, boxes((0, 0, 10, 10)))) == {"proposals/AR100": 0.0, "proposals/AR1000": 1.0}
    assert recall((found[1:], boxes((0, 0, 10, 10)))) == {"proposals/AR100": 1.0, "proposals/AR1000": 1.0}


def test_without_objects_it_is_not_a_number() -> None:
    none = recall((boxes((0, 0, 1, 1)), boxes()))
    assert all(math.isnan(value) for value in none.values()) and len(none) == 2
    assert recall((boxes(), boxes((0, 0, 1, 1))))["proposals/AR1000"] == 0
    counted = ProposalRecall()
    crowd = torch.tensor([True, False])
    counted.update(
        [boxes((0, 0, 9, 9))], [{"boxes": torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]]), "crowd": crowd}]
    )
    assert counted.objects == 1 and counted.compute()["proposals/AR100"] == 0


@pytest.mark.parametrize("seed", range(8))
def test_it_is_cocos_average_recall_without_categories(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counted = ProposalRecall()
    images, annotations, results = [], [], []
    for image in range(6):
        corners = rng.integers(0, 60, (rng.integers(0, 9), 2)).astype(np.float64)
        truth = np.concatenate([corners, corners + rng.integers(8, 40, corners.shape)], 1)
        crowd = rng.random(len(truth)) < 0.2
        near = np.repeat(truth, 40, 0) + rng.normal(0, 3, (40 * len(truth), 4))
        found = np.concatenate([near, np.tile(boxes((70, 70, 90, 90)), (3, 1))])
        found = found[(found[:, 2:] > found[:, :2]).all(1)]
        found = rng.permutation(found).astype(np.float32)
        target = {"boxes": torch.from_numpy(truth), "crowd": torch.from_numpy(crowd)}
        counted.update([found], [target])  # type: ignore[list-item]
        images.append({"id": image, "width": 100, "height": 100})
        for box, one in zip(truth, crowd):
            xywh = [*box[:2], *(box[2:] - box[:2])]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(rng.integers(1, 4)), "bbox": xywh,
                 "area": xywh[2] * xywh[3], "iscrowd": int(one)}
            )  # fmt: skip
        for k, box in enumerate(found.astype(np.float64)):
            results.append(
                {
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "score": 1 - k / 1000,
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": k} for k in (1, 2, 3)],
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.params.useCats, judge.params.maxDets = 0, [100, 1000]
        judge.evaluate()
        judge.accumulate()
    expected = [judge.eval["recall"][:, 0, 0, k].mean() for k in (0, 1)]
    assert list(counted.compute().values()) == pytest.approx(expected, abs=1e-12)
    assert expected[0] < expected[1]
